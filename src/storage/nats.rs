//! Snapshots in the NATS Object Store, which Go nodes can read (formats, section "Object store").

use super::{Backend, Error, Label, Seal, Stored, Upload, is_snapshot};
use crate::base::retry::Tries;
use crate::nats::{self, JetStream, ObjectInfo, Objects};
use std::collections::BTreeMap;
use std::io::Write;

/// Names of an object's headers: this prefix, and the key of a label's pair.
const PREFIX: &str = "harmonylite-";

/// The store in one bucket.
pub struct NatsStore {
    objects: Objects,
    bucket: String,
}

impl NatsStore {
    /// A store in a bucket, which is created at the first upload.
    pub fn new(js: &JetStream, bucket: &str, replicas: u64) -> NatsStore {
        NatsStore { objects: Objects::new(js, bucket, replicas), bucket: bucket.to_owned() }
    }

    /// The object that `stat` described, unless another one was stored under its name since.
    fn same(&self, wanted: &Stored) -> Result<ObjectInfo, Error> {
        let info = self.objects.info(&wanted.name)?.ok_or(Error::NotFound)?;
        if info.nuid == wanted.version {
            Ok(info)
        } else {
            Err(Error::Transient("the snapshot was replaced meanwhile".to_owned()))
        }
    }
}

impl From<nats::Error> for Error {
    fn from(error: nats::Error) -> Error {
        match error {
            nats::Error::NotFound(_) => Error::NotFound,
            nats::Error::Permanent(why) | nats::Error::Overlap(why) => Error::Permanent(why),
            nats::Error::Local(why) => Error::Local(why),
            nats::Error::Conflict(why) | nats::Error::NoRoom(why) | nats::Error::Transient(why) => {
                Error::Transient(why)
            }
        }
    }
}

fn stored(info: &ObjectInfo) -> Stored {
    let lines = info.headers.iter().filter_map(|(name, lines)| Some((name.strip_prefix(PREFIX)?, lines)));
    let pairs = lines.flat_map(|(key, lines)| lines.iter().map(move |line| (key, line.as_str())));
    let label = Label { size: info.size, digest: info.digest.clone(), ..Label::from_pairs(pairs) };
    let seal = match info.is_unreadable {
        true => Seal::Refused("its description is damaged: it is not taken".to_owned()),
        false => Seal::Unasked,
    };
    Stored {
        name: info.name.clone(),
        size: info.size,
        version: info.nuid.clone(),
        label,
        seal,
        ..Stored::default()
    }
}

impl Backend for NatsStore {
    fn describe(&self) -> String {
        format!("NATS bucket {}", self.bucket)
    }

    /// The broker acknowledges every chunk, and the description carries the digest.
    fn compares(&self) -> bool {
        true
    }

    fn prepare(&self) -> Result<(), Error> {
        Ok(self.objects.ensure()?)
    }

    fn stat(&self, name: &str) -> Result<Option<Stored>, Error> {
        Ok(self.objects.info(name)?.as_ref().map(stored))
    }

    fn list(&self) -> Result<Vec<Stored>, Error> {
        Ok(self.objects.list()?.iter().filter(|info| is_snapshot(&info.name)).map(stored).collect())
    }

    fn put(&self, upload: &Upload<'_>) -> Result<(), Error> {
        let headers: BTreeMap<String, Vec<String>> = upload
            .label
            .pairs()
            .into_iter()
            .filter(|(key, _)| !matches!(*key, "digest" | "size"))
            .map(|(key, value)| (format!("{PREFIX}{key}"), vec![value]))
            .collect();
        let mut source = upload.piece(0, upload.label.size)?;
        let mut refusal = None;
        let mut may_switch = || {
            (upload.may_switch)().map_err(|error| {
                let text = error.to_string();
                refusal = Some(error);
                nats::Error::Conflict(text)
            })
        };
        let put = self.objects.put(upload.name, headers, &mut source, &mut may_switch);
        match (put, refusal) {
            (Err(_), Some(refusal)) => Err(refusal),
            (Err(error), None) => Err(error.into()),
            (Ok(_), _) => Ok(()),
        }
    }

    fn get(&self, stored: &Stored, sink: &mut dyn Write) -> Result<(), Error> {
        Ok(self.objects.get(&self.same(stored)?, sink)?)
    }

    fn copy(&self, stored: &Stored, name: &str, _tries: &Tries<'_>) -> Result<(), Error> {
        Ok(self.objects.link(&self.same(stored)?, name)?)
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        Ok(self.objects.delete(name)?)
    }

    fn sweep(&self) -> Result<usize, Error> {
        Ok(self.objects.sweep()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(headers: &BTreeMap<String, Vec<String>>) -> ObjectInfo {
        let description = serde_json::json!({
            "name": "snapshot.db", "nuid": "N", "size": 7, "digest": "SHA-256=x", "headers": headers,
        });
        serde_json::from_value(description).unwrap()
    }

    #[test]
    fn an_object_of_a_go_node_has_size_and_digest_alone() {
        let found = stored(&object(&BTreeMap::new()));
        let label = Label { size: 7, digest: "SHA-256=x".into(), ..Label::default() };
        assert_eq!((found.version.as_str(), found.size, found.label), ("N", 7, label));
    }

    #[test]
    fn a_label_comes_back_from_the_headers_of_its_object() {
        let label = Label {
            size: 7,
            digest: "SHA-256=x".into(),
            node: 3,
            time_ms: 5,
            verified: true,
            ..Label::default()
        };
        let pairs = label.pairs().into_iter();
        let mut headers: BTreeMap<_, _> =
            pairs.map(|(key, value)| (format!("{PREFIX}{key}"), vec![value])).collect();
        headers.insert("another-program".into(), vec!["9".into()]);
        assert_eq!(stored(&object(&headers)).label, label);
    }

    #[test]
    fn errors_of_nats_keep_their_meaning() {
        let why = || "why".to_owned();
        assert!(matches!(Error::from(nats::Error::NotFound(why())), Error::NotFound));
        assert!(matches!(Error::from(nats::Error::Permanent(why())), Error::Permanent(_)));
        assert!(matches!(Error::from(nats::Error::Conflict(why())), Error::Transient(_)));
        assert!(matches!(Error::from(nats::Error::Transient(why())), Error::Transient(_)));
    }
}
