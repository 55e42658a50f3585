//! The Object Store, streamed: chunks of 128 KiB, four in flight, the description last, so that a name always stands for
//! a whole object. Every NATS client can read the objects (formats, section "Object store").

use super::chunks::{Line, Order, Sent, one_ack, stalled};
use super::consume::{Consumer, Pull, Step};
use super::error::Error;
use super::jetstream::JetStream;
use super::nuid;
use super::publish::Pipeline;
use crate::base::digest::{self, Hashing};
use crate::base::limits;
use crossbeam_channel::bounded;
use data_encoding::BASE64URL;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::time::Instant;

/// Chunks that a reader asks for at once.
const READ_BATCH: usize = 16;

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
    pub name: String,
    /// Headers that the writer added.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Vec<String>>,
    /// `{"max_chunk_size": bytes}`; readers take the chunks as they are.
    #[serde(default)]
    pub(super) options: Value,
    #[serde(default)]
    bucket: String,
    /// The last token of the chunks' subject, made anew with each upload: it tells one object of a name from the next.
    #[serde(default)]
    pub nuid: String,
    /// Bytes of the whole object.
    #[serde(default)]
    pub size: u64,
    /// Always the zero of the Go language: readers take the time of the description's message.
    #[serde(default)]
    mtime: String,
    /// Number of chunks.
    #[serde(default)]
    pub chunks: u64,
    /// `SHA-256=` and url-safe base64.
    #[serde(default)]
    pub digest: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    /// The stored description cannot be read: nothing but the name is known.
    #[serde(skip)]
    pub is_unreadable: bool,
}

impl ObjectInfo {
    fn to_json(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self)
            .map_err(|error| Error::Permanent(format!("description of {}: {error}", self.name)))
    }

    /// The mark of a deleted object.
    fn tombstone(self) -> ObjectInfo {
        ObjectInfo { deleted: true, size: 0, chunks: 0, digest: String::new(), ..self }
    }
}

impl Objects {
    /// A bucket. The server is asked for nothing yet.
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

    /// Creates the bucket if it is missing.
    pub fn ensure(&self) -> Result<(), Error> {
        self.js.ensure_stream(&bucket_config(&self.bucket, self.replicas)).map(drop)
    }

    /// An object's description; `None` when it is missing or deleted.
    pub fn info(&self, name: &str) -> Result<Option<ObjectInfo>, Error> {
        Ok(self.described(name)?.0)
    }

    /// An object's description, and the sequence of the message that wrote or deleted it (0: there is none).
    fn described(&self, name: &str) -> Result<(Option<ObjectInfo>, u64), Error> {
        let Some(stored) = self.js.last_message(&self.stream(), &self.meta_subject(name))? else {
            return Ok((None, 0));
        };
        let info = read_description(&stored.data()?, &self.bucket, name);
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
        let prefix = format!("$O.{}.{kind}.", self.bucket);
        let operation = format!("STREAM.INFO.{}", self.stream());
        let info: Info = match self.js.api(&operation, &json!({ "subjects_filter": format!("{prefix}>") })) {
            Ok(info) => info,
            Err(Error::NotFound(_)) => return Ok(vec![]),
            Err(error) => return Err(error),
        };
        let subjects = info.state.subjects.into_keys();
        Ok(subjects.filter_map(|subject| subject.strip_prefix(&prefix).map(str::to_owned)).collect())
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

    /// Gives an object a second name. Both share their chunks, which are removed with the last of them.
    pub fn link(&self, info: &ObjectInfo, name: &str) -> Result<(), Error> {
        self.describe(&ObjectInfo { name: name.to_owned(), ..info.clone() }, None)
    }

    /// Deletes an object, leaving the mark by which other clients know; its chunks stay if another name has them too.
    pub fn delete(&self, name: &str) -> Result<(), Error> {
        let Some(info) = self.info(name)? else { return Ok(()) };
        let nuid = info.nuid.clone();
        self.describe(&info.tombstone(), None)?;
        self.forget_chunks(&nuid)
    }

    /// Stores a description in place of the one before; with `after` only if that one has this sequence still.
    fn describe(&self, info: &ObjectInfo, after: Option<u64>) -> Result<(), Error> {
        let after = after.map(|seq| seq.to_string());
        let mut headers = vec![("Nats-Rollup", "sub")];
        headers.extend(after.iter().map(|seq| ("Nats-Expected-Last-Subject-Sequence", seq.as_str())));
        self.js.publish(&self.meta_subject(&info.name), &headers, &info.to_json()?).map(drop)
    }

    /// Removes chunks that no object has: uploads that ended before their description. Returns how many uploads.
    pub fn sweep(&self) -> Result<usize, Error> {
        let mut chunks = self.tokens("C")?;
        if chunks.is_empty() {
            return Ok(0);
        }
        let described = self.list()?;
        // Its chunks cannot be told from those that no object has.
        if let Some(info) = described.iter().find(|info| info.is_unreadable) {
            log::warn!(
                "bucket {}: the description of {} is damaged: nothing is removed while it stands there",
                self.bucket,
                info.name
            );
            return Ok(0);
        }
        chunks.retain(|nuid| !described.iter().any(|info| info.nuid == *nuid));
        for nuid in &chunks {
            self.js.purge(&self.stream(), &self.chunk_subject(nuid))?;
        }
        Ok(chunks.len())
    }

    /// Removes chunks, unless an object has them. An object whose description was damaged has none that are known: they go with
    /// the next sweep.
    fn forget_chunks(&self, nuid: &str) -> Result<(), Error> {
        if nuid.is_empty() || self.list()?.iter().any(|info| info.nuid == nuid) {
            return Ok(());
        }
        self.js.purge(&self.stream(), &self.chunk_subject(nuid))
    }

    /// Stores an object under a name; the old one stays until the last moment. `may_switch` is asked right before that. If
    /// another client stores under the name meanwhile, its object stays: a conflict.
    pub fn put(
        &self,
        name: &str,
        headers: BTreeMap<String, Vec<String>>,
        source: &mut dyn Read,
        may_switch: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<ObjectInfo, Error> {
        self.ensure()?;
        let (old, old_seq) = self.described(name)?;
        let nuid = nuid();
        let stored = self.put_chunks(&nuid, source).and_then(|chunks| {
            let info = chunks.described(&self.bucket, name, headers);
            may_switch()?;
            self.describe(&info, Some(old_seq))?;
            Ok(info)
        });
        let leftover = match (&stored, old) {
            (Ok(_), old) => old.map(|old| old.nuid),
            // The description may have arrived although its acknowledgement did not.
            (Err(_), _) => match self.info(name) {
                Ok(Some(info)) if info.nuid == nuid => None,
                _ => Some(nuid),
            },
        };
        if let Some(leftover) = leftover
            && let Err(error) = self.forget_chunks(&leftover)
        {
            log::warn!("remove chunks {leftover} of bucket {}: {error}", self.bucket);
        }
        stored.map_err(|error| error.at(format!("put {}/{name}", self.bucket)))
    }

    fn put_chunks(&self, nuid: &str, source: &mut dyn Read) -> Result<Chunks, Error> {
        let subject = self.chunk_subject(nuid);
        let mut pipeline: Pipeline<Sent> = Pipeline::new(self.js.connection(), limits::OBJECT_WINDOW);
        let mut line = Line::default();
        let mut hashing = Hashing::new(std::io::sink());
        let mut order = Order::default();
        let mut count = 0u64;
        let mut chunk = vec![0; limits::OBJECT_CHUNK];
        loop {
            let length = read_full(source, &mut chunk).map_err(|error| local("read", &error))?;
            if length == 0 {
                break;
            }
            let chunk = &chunk[..length];
            hashing.write_all(chunk).map_err(|error| local("digest", &error))?;
            while pipeline.in_flight() >= line.takes {
                line.took(one_ack(&mut pipeline, &mut order)?);
            }
            // The server drops a repetition of an id that it knows.
            let id = format!("{nuid}-{count}");
            let sent = Sent { number: count, at: Instant::now() };
            pipeline.send(&subject, &[("Nats-Msg-Id", id.as_str())], chunk, sent)?;
            count += 1;
        }
        while !pipeline.is_empty() {
            one_ack(&mut pipeline, &mut order)?;
        }
        Ok(Chunks { nuid: nuid.to_owned(), size: hashing.size, count, digest: hashing.digest() })
    }

    /// Reads an object into `sink`, checking its size and digest at the end.
    pub fn get(&self, info: &ObjectInfo, sink: &mut dyn Write) -> Result<(), Error> {
        let mut hashing = Hashing::new(sink);
        if info.chunks > 0 {
            self.get_chunks(info, &mut hashing)?;
        }
        check(info, hashing.size, &hashing.digest())
            .map_err(|error| error.at(format!("{}/{}", self.bucket, info.name)))
    }

    fn get_chunks(&self, info: &ObjectInfo, sink: &mut dyn Write) -> Result<(), Error> {
        let (queue, messages) = bounded(READ_BATCH * 4);
        let (stream, subject) = (self.stream(), self.chunk_subject(&info.nuid));
        let pull = Pull { stream: &stream, filter: Some(&subject), start: 1, batch: READ_BATCH };
        let mut consumer = Consumer::open(&self.js, &pull, queue)?;
        let mut coming = Coming { left: info.chunks, last: Instant::now() };
        while coming.left > 0 {
            let message = messages.recv_timeout(limits::TRANSFER_STALL).map_err(|_| stalled("came"))?;
            let now = Instant::now();
            match consumer.on_message(message, now) {
                Step::Item(item) => {
                    sink.write_all(&item.message.payload).map_err(|error| local("write", &error))?;
                    coming.chunk(item.pending, now)?;
                }
                Step::Nothing => coming.nothing(now)?,
                Step::Rebuild(why) => return Err(Error::Transient(why)),
            }
            if let Some(why) = consumer.trouble(now) {
                return Err(Error::Transient(why));
            }
        }
        Ok(())
    }
}

/// The stream of a bucket. Its description is the Go program's.
fn bucket_config(bucket: &str, replicas: u64) -> Value {
    json!({
        "name": format!("OBJ_{bucket}"), "description": "Bucket to store snapshot",
        "subjects": [format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
        "retention": "limits", "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_msg_size": -1,
        "max_age": 0, "discard": "new", "storage": "file", "num_replicas": replicas.max(1),
        "duplicate_window": 120_000_000_000u64, "allow_rollup_hdrs": true, "allow_direct": true,
    })
}

fn local(what: &str, error: &std::io::Error) -> Error {
    Error::Local(format!("{what}: {error}"))
}

/// Reads the description of an object. A damaged one is no error: it must keep nobody from the other objects, nor from replacing
/// this one.
fn read_description(bytes: &[u8], bucket: &str, name: &str) -> ObjectInfo {
    serde_json::from_slice(bytes).unwrap_or_else(|error| {
        log::debug!("bucket {bucket}: object {name}: unreadable description: {error}");
        let unknown = Chunks::default().described(bucket, name, BTreeMap::new());
        ObjectInfo { is_unreadable: true, ..unknown }
    })
}

/// The chunks of an object that are still to come.
struct Coming {
    left: u64,
    /// When one came last.
    last: Instant,
}

impl Coming {
    /// One came; `pending` were to follow it when the server sent it.
    fn chunk(&mut self, pending: u64, now: Instant) -> Result<(), Error> {
        (self.left, self.last) = (self.left - 1, now);
        if self.left > 0 && pending == 0 {
            return Err(Error::Transient(format!("chunks are missing: {}", self.left)));
        }
        Ok(())
    }

    /// Something else came: heartbeats show that the server lives, not that it has the chunk.
    fn nothing(&self, now: Instant) -> Result<(), Error> {
        if now.saturating_duration_since(self.last) > limits::TRANSFER_STALL {
            return Err(stalled("came"));
        }
        Ok(())
    }
}

/// Whether an object that was read is the one that was described.
fn check(info: &ObjectInfo, size: u64, digest: &str) -> Result<(), Error> {
    if size == info.size && digest::same_digest(digest, &info.digest) {
        return Ok(());
    }
    Err(Error::Transient(format!("{size} bytes with {digest}, expected {} with {}", info.size, info.digest)))
}

/// The chunks of an upload, all stored.
#[derive(Default)]
struct Chunks {
    nuid: String,
    /// Bytes of all chunks.
    size: u64,
    count: u64,
    digest: String,
}

impl Chunks {
    fn described(self, bucket: &str, name: &str, headers: BTreeMap<String, Vec<String>>) -> ObjectInfo {
        ObjectInfo {
            name: name.to_owned(),
            headers,
            options: json!({ "max_chunk_size": limits::OBJECT_CHUNK }),
            bucket: bucket.to_owned(),
            nuid: self.nuid,
            size: self.size,
            mtime: "0001-01-01T00:00:00Z".to_owned(),
            chunks: self.count,
            digest: self.digest,
            deleted: false,
            is_unreadable: false,
        }
    }
}

/// Fills the buffer; returns fewer bytes than it holds only at the end of the source.
fn read_full(source: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match source.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn info() -> ObjectInfo {
        let chunks = Chunks { nuid: "N".into(), size: 5, count: 1, digest: "SHA-256=abc=".into() };
        chunks.described("box", "snapshot.db", BTreeMap::new())
    }

    #[test]
    fn a_description_is_the_json_that_all_clients_share() {
        let text = String::from_utf8(info().to_json().unwrap()).unwrap();
        assert_eq!(
            text,
            r#"{"name":"snapshot.db","options":{"max_chunk_size":131072},"bucket":"box","nuid":"N","size":5,"#
                .to_owned()
                + r#""mtime":"0001-01-01T00:00:00Z","chunks":1,"digest":"SHA-256=abc="}"#
        );
        assert_eq!(serde_json::from_str::<ObjectInfo>(&text).unwrap(), info());
    }

    #[test]
    fn a_tombstone_keeps_the_name_and_the_nuid_alone() {
        let gone: Value = serde_json::from_slice(&info().tombstone().to_json().unwrap()).unwrap();
        assert_eq!((&gone["deleted"], &gone["size"], &gone["chunks"]), (&json!(true), &json!(0), &json!(0)));
        assert_eq!(
            (&gone["name"], &gone["nuid"], &gone["digest"]),
            (&json!("snapshot.db"), &json!("N"), &json!(""))
        );
    }

    #[test]
    fn a_description_of_another_client_is_read_with_what_it_has() {
        let info: ObjectInfo = serde_json::from_str(r#"{"name":"x","headers":{"a":["b"]},"new":1}"#).unwrap();
        assert_eq!((info.name.as_str(), info.size, info.deleted), ("x", 0, false));
        assert_eq!(info.headers["a"], ["b"]);
        assert!(serde_json::from_str::<ObjectInfo>("{}").is_err());
    }

    #[test]
    fn of_a_damaged_description_the_name_is_known_and_others_can_read_its_tombstone() {
        for text in ["", "{", "[]", "{}", r#"{"name":3}"#] {
            let info = read_description(text.as_bytes(), "box", "x");
            assert!(info.is_unreadable && info.name == "x" && info.nuid.is_empty(), "{text}");
            let gone: ObjectInfo = serde_json::from_slice(&info.tombstone().to_json().unwrap()).unwrap();
            assert_eq!(
                (gone.deleted, gone.mtime.as_str(), gone.bucket.as_str()),
                (true, "0001-01-01T00:00:00Z", "box")
            );
        }
        assert!(!read_description(br#"{"name":"x"}"#, "box", "x").is_unreadable);
    }

    #[test]
    fn heartbeats_are_no_chunks_and_what_is_missing_is_not_waited_for() {
        let begun = Instant::now();
        let late = begun + limits::TRANSFER_STALL + Duration::from_millis(1);
        let mut coming = Coming { left: 3, last: begun };
        assert_eq!(coming.nothing(begun + limits::TRANSFER_STALL), Ok(()));
        assert_eq!(coming.nothing(late), Err(stalled("came")));
        assert_eq!(coming.chunk(2, late), Ok(()));
        assert_eq!(coming.nothing(late), Ok(()), "the time counts from the last chunk");
        let missing = coming.chunk(0, late).unwrap_err();
        assert_eq!(missing, Error::Transient("chunks are missing: 1".into()));
        assert_eq!(coming.chunk(0, late), Ok(()), "it was the last one");
    }

    #[test]
    fn names_and_chunks_have_subjects_of_their_own() {
        let js = JetStream::new(crate::nats::Connection::offline());
        let objects = Objects::new(&js, "box", 1);
        assert_eq!(objects.stream(), "OBJ_box");
        assert_eq!(objects.chunk_subject("N"), "$O.box.C.N");
        // Any name is one token: dots, spaces and stars are encoded.
        assert_eq!(objects.meta_subject("a.b *>"), "$O.box.M.YS5iICo-");
    }

    #[test]
    fn a_bucket_holds_chunks_and_descriptions() {
        let config = bucket_config("box", 0);
        assert_eq!(config["subjects"], json!(["$O.box.C.>", "$O.box.M.>"]));
        assert_eq!((&config["name"], &config["num_replicas"]), (&json!("OBJ_box"), &json!(1)));
        assert_eq!(bucket_config("box", 3)["num_replicas"], json!(3));
    }

    #[test]
    fn an_object_is_what_its_description_says() {
        assert_eq!(check(&info(), 5, "SHA-256=abc="), Ok(()));
        assert_eq!(check(&info(), 5, "SHA-256=abc"), Ok(()), "some writers leave the padding away");
        for (size, digest) in [(4, "SHA-256=abc="), (5, "SHA-256=abd=")] {
            let Err(Error::Transient(why)) = check(&info(), size, digest) else { panic!() };
            assert_eq!(why, format!("{size} bytes with {digest}, expected 5 with SHA-256=abc="));
        }
    }

    /// Gives its bytes in pieces of three, with an interruption before each.
    struct Slow(Vec<u8>, bool);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(ErrorKind::Interrupted.into());
            }
            let count = buffer.len().min(3).min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    #[test]
    fn all_chunks_but_the_last_are_full() {
        let mut source = Slow((0..25).collect(), false);
        let mut buffer = [0; 10];
        let lengths: Vec<usize> = (0..4).map(|_| read_full(&mut source, &mut buffer).unwrap()).collect();
        assert_eq!(lengths, [10, 10, 5, 0]);
        assert_eq!(buffer[..5], [20, 21, 22, 23, 24]);
    }
}
