//! The Object Store, streamed: chunks of 128 KiB, four in flight, the description last, so that a name always stands for
//! a whole object. Readable by every NATS client.

use super::consume::{Consumer, Step};
use super::jetstream::JetStream;
use super::publish::Pipeline;
use super::{Error, nuid};
use crate::base::limits;
use crossbeam_channel::bounded;
use data_encoding::BASE64URL;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// One bucket: the stream `OBJ_<bucket>`.
#[derive(Clone)]
pub struct Objects {
    js: JetStream,
    bucket: String,
    replicas: u64,
}

/// An object's description, the JSON that all NATS clients share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectInfo {
    /// Its name.
    pub name: String,
    /// Headers that the writer added.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Vec<String>>,
    /// Options, of which one matters: `max_chunk_size`.
    #[serde(default)]
    pub options: serde_json::Value,
    /// Its bucket.
    #[serde(default)]
    pub bucket: String,
    /// Names its chunks.
    #[serde(default)]
    pub nuid: String,
    /// Bytes.
    #[serde(default)]
    pub size: u64,
    /// Always zero in the description; a reader takes the message's time.
    #[serde(default)]
    pub mtime: String,
    /// Number of chunks.
    #[serde(default)]
    pub chunks: u64,
    /// `SHA-256=` and url-safe base64.
    #[serde(default)]
    pub digest: String,
    /// The object was deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

impl Objects {
    /// A bucket; nothing is asked of the server yet.
    pub fn new(js: &JetStream, bucket: &str, replicas: u64) -> Objects {
        Objects { js: js.clone(), bucket: bucket.to_owned(), replicas }
    }

    fn stream(&self) -> String {
        format!("OBJ_{}", self.bucket)
    }

    fn meta_subject(&self, name: &str) -> String {
        format!("$O.{}.M.{}", self.bucket, BASE64URL.encode(name.as_bytes()))
    }

    fn chunk_subject(&self, nuid: &str) -> String {
        format!("$O.{}.C.{nuid}", self.bucket)
    }

    /// Creates the bucket if it is missing (compat.md 1f).
    pub fn ensure(&self) -> Result<(), Error> {
        let config = json!({
            "name": self.stream(), "description": "Bucket to store snapshot",
            "subjects": [format!("$O.{}.C.>", self.bucket), format!("$O.{}.M.>", self.bucket)],
            "retention": "limits", "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_msg_size": -1,
            "max_age": 0, "discard": "new", "storage": "file", "num_replicas": self.replicas.max(1),
            "duplicate_window": 120_000_000_000u64, "allow_rollup_hdrs": true, "allow_direct": true,
        });
        self.js.ensure_stream(&config).map(drop)
    }

    /// An object's description; `None` when it is missing or deleted.
    pub fn info(&self, name: &str) -> Result<Option<ObjectInfo>, Error> {
        Ok(self.described(name)?.0)
    }

    /// An object's description, and the sequence of the message that wrote or deleted it (0: none did).
    fn described(&self, name: &str) -> Result<(Option<ObjectInfo>, u64), Error> {
        let Some(stored) = self.js.last_message(&self.stream(), &self.meta_subject(name))? else {
            return Ok((None, 0));
        };
        let info: ObjectInfo = serde_json::from_slice(&stored.data()?)
            .map_err(|error| Error::Permanent(format!("object {name}: unreadable description: {error}")))?;
        Ok((if info.deleted { None } else { Some(info) }, stored.seq))
    }

    /// The last tokens of the bucket's subjects of one kind: `C` (chunks: nuids), `M` (descriptions: encoded names).
    fn tokens(&self, kind: &str) -> Result<Vec<String>, Error> {
        #[derive(Deserialize, Default)]
        struct State {
            #[serde(default)]
            subjects: BTreeMap<String, u64>,
        }
        #[derive(Deserialize)]
        struct Info {
            state: State,
        }
        let filter = format!("$O.{}.{kind}.>", self.bucket);
        let info: Info = match self
            .js
            .api(&format!("STREAM.INFO.{}", self.stream()), &json!({ "subjects_filter": filter }))
        {
            Ok(info) => info,
            Err(Error::NotFound(_)) => return Ok(vec![]),
            Err(error) => return Err(error),
        };
        let prefix = filter.len() - 1;
        Ok(info
            .state
            .subjects
            .keys()
            .filter_map(|subject| subject.get(prefix..))
            .map(str::to_owned)
            .collect())
    }

    /// The descriptions of all objects.
    pub fn list(&self) -> Result<Vec<ObjectInfo>, Error> {
        let mut found = vec![];
        for token in self.tokens("M")? {
            let name = BASE64URL.decode(token.as_bytes()).ok().and_then(|name| String::from_utf8(name).ok());
            if let Some(name) = name {
                found.extend(self.info(&name)?);
            }
        }
        Ok(found)
    }

    /// Gives an object a second name. Both share their chunks, which go with the last of them.
    pub fn link(&self, info: &ObjectInfo, name: &str) -> Result<(), Error> {
        let copy = ObjectInfo { name: name.to_owned(), ..info.clone() };
        let body = serde_json::to_vec(&copy).map_err(|error| Error::Permanent(error.to_string()))?;
        self.js.publish(&self.meta_subject(name), &[("Nats-Rollup", "sub")], &body).map(drop)
    }

    /// Deletes an object, leaving the mark by which other clients know; its chunks stay if another name has them too.
    pub fn delete(&self, name: &str) -> Result<(), Error> {
        let Some(info) = self.info(name)? else { return Ok(()) };
        let nuid = info.nuid.clone();
        let gone = ObjectInfo { deleted: true, size: 0, chunks: 0, digest: String::new(), ..info };
        let body = serde_json::to_vec(&gone).map_err(|error| Error::Permanent(error.to_string()))?;
        self.js.publish(&self.meta_subject(name), &[("Nats-Rollup", "sub")], &body)?;
        self.forget_chunks(&nuid)
    }

    /// Removes chunks that no object has. Returns of how many unfinished objects.
    pub fn sweep(&self) -> Result<usize, Error> {
        let mut chunks = self.tokens("C")?;
        if chunks.is_empty() {
            return Ok(0);
        }
        let used: Vec<String> = self.list()?.into_iter().map(|info| info.nuid).collect();
        chunks.retain(|nuid| !used.contains(nuid));
        for nuid in &chunks {
            self.js.purge(&self.stream(), &self.chunk_subject(nuid))?;
        }
        Ok(chunks.len())
    }

    fn forget_chunks(&self, nuid: &str) -> Result<(), Error> {
        if self.list()?.iter().any(|info| info.nuid == nuid) {
            return Ok(());
        }
        self.js.purge(&self.stream(), &self.chunk_subject(nuid))
    }

    /// Stores an object under a name; the old one stays until the last moment. `may_switch` is asked right before. If
    /// somebody else stores under the name meanwhile, that one stays: a conflict.
    pub fn put(
        &self,
        name: &str,
        headers: BTreeMap<String, Vec<String>>,
        source: &mut dyn Read,
        progress: &mut dyn FnMut(u64),
        may_switch: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<ObjectInfo, Error> {
        self.ensure()?;
        let (old, old_seq) = self.described(name)?;
        let old_seq = old_seq.to_string();
        let nuid = nuid();
        let stored = self.put_chunks(&nuid, source, progress).and_then(|(size, chunks, digest)| {
            let info = ObjectInfo {
                name: name.to_owned(),
                headers,
                options: json!({ "max_chunk_size": limits::OBJECT_CHUNK }),
                bucket: self.bucket.clone(),
                nuid: nuid.clone(),
                size,
                mtime: "0001-01-01T00:00:00Z".to_owned(),
                chunks,
                digest,
                deleted: false,
            };
            may_switch().map_err(Error::Conflict)?;
            let body = serde_json::to_vec(&info).map_err(|e| Error::Permanent(e.to_string()))?;
            let headers = [("Nats-Rollup", "sub"), ("Nats-Expected-Last-Subject-Sequence", old_seq.as_str())];
            self.js.publish(&self.meta_subject(name), &headers, &body)?;
            Ok(info)
        });
        let leftover = match (&stored, &old) {
            (Ok(_), Some(old)) => Some(old.nuid.clone()),
            (Ok(_), None) => None,
            // Unless the description got there although its acknowledgement did not.
            (Err(_), _) => match self.info(name) {
                Ok(Some(info)) if info.nuid == nuid => None,
                _ => Some(nuid.clone()),
            },
        };
        if let Some(leftover) = leftover
            && let Err(error) = self.forget_chunks(&leftover)
        {
            log::warn!("remove chunks {leftover} of bucket {}: {error}", self.bucket);
        }
        stored.map_err(|error| error.at(format!("put {}/{name}", self.bucket)))
    }

    /// Writes the chunks; returns size, count and digest.
    fn put_chunks(
        &self,
        nuid: &str,
        source: &mut dyn Read,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(u64, u64, String), Error> {
        let subject = self.chunk_subject(nuid);
        let mut pipeline: Pipeline<u64> = Pipeline::new(self.js.connection(), limits::OBJECT_WINDOW);
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        let mut order = Order::default();
        let (mut size, mut chunks) = (0u64, 0u64);
        let mut chunk = vec![0; limits::OBJECT_CHUNK];
        loop {
            let length = read_full(source, &mut chunk).map_err(|e| Error::Permanent(format!("read: {e}")))?;
            if length == 0 {
                break;
            }
            digest.update(&chunk[..length]);
            while !pipeline.has_room() {
                order.one_ack(&mut pipeline)?;
            }
            let id = format!("{nuid}-{chunks}");
            pipeline.send(&subject, &[("Nats-Msg-Id", id.as_str())], &chunk[..length], chunks)?;
            size += length as u64;
            chunks += 1;
            progress(size);
        }
        while !pipeline.is_empty() {
            order.one_ack(&mut pipeline)?;
        }
        order.check()?;
        Ok((size, chunks, format!("SHA-256={}", BASE64URL.encode(digest.finish().as_ref()))))
    }

    /// Reads an object into `sink`, checking its size and digest at the end.
    pub fn get(
        &self,
        info: &ObjectInfo,
        sink: &mut dyn Write,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        let mut size = 0u64;
        if info.chunks > 0 {
            const BATCH: usize = 16;
            let (sender, receiver) = bounded(BATCH * 4);
            let subject = self.chunk_subject(&info.nuid);
            let mut consumer = Consumer::open(&self.js, &self.stream(), Some(&subject), 1, BATCH, sender)?;
            let mut chunks = 0;
            while chunks < info.chunks {
                let message = receiver.recv_timeout(limits::TRANSFER_STALL).map_err(|_| {
                    Error::Transient(format!("no chunk for {} s", limits::TRANSFER_STALL.as_secs()))
                })?;
                match consumer.on_message(message) {
                    Step::Item(item) => {
                        chunks += 1;
                        size += item.message.payload.len() as u64;
                        digest.update(&item.message.payload);
                        sink.write_all(&item.message.payload)
                            .map_err(|e| Error::Permanent(format!("write: {e}")))?;
                        progress(size);
                    }
                    Step::Nothing => {}
                    Step::Rebuild(why) => return Err(Error::Transient(why)),
                }
                if let Some(why) = consumer.trouble() {
                    return Err(Error::Transient(why));
                }
            }
        }
        let digest = format!("SHA-256={}", BASE64URL.encode(digest.finish().as_ref()));
        if size != info.size || digest.trim_end_matches('=') != info.digest.trim_end_matches('=') {
            return Err(Error::Transient(format!(
                "{}/{}: {size} bytes with {digest}, expected {} with {}",
                self.bucket, info.name, info.size, info.digest
            )));
        }
        Ok(())
    }
}

/// The sequences under which chunks were stored: they must rise, or the object would be read in another order.
#[derive(Default)]
struct Order(BTreeMap<u64, u64>);

impl Order {
    fn one_ack(&mut self, pipeline: &mut Pipeline<u64>) -> Result<(), Error> {
        let until = Instant::now() + limits::TRANSFER_STALL;
        loop {
            if let Ok(message) = pipeline.acks().recv_timeout(Duration::from_millis(250)) {
                if let Some(acked) = pipeline.on_ack(&message) {
                    self.0.insert(acked.tag, acked.result?.seq);
                    return self.check();
                }
            } else if Instant::now() > until {
                return Err(Error::Transient(format!(
                    "no chunk stored for {} s",
                    limits::TRANSFER_STALL.as_secs()
                )));
            }
            pipeline.tick();
        }
    }

    fn check(&mut self) -> Result<(), Error> {
        let rising = self.0.values().zip(self.0.values().skip(1)).all(|(a, b)| a < b);
        if !rising {
            return Err(Error::Transient("chunks were stored out of order".to_owned()));
        }
        // Those that are followed by as many acknowledged ones as fit the window cannot be overtaken any more.
        while self.0.len() > limits::OBJECT_WINDOW * 2 {
            self.0.pop_first();
        }
        Ok(())
    }
}

fn read_full(source: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match source.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
