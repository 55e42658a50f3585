//! Snapshots in the NATS Object Store, readable by Go nodes (compat.md 1f).

use super::{Backend, Error, Label, Stored, Upload, is_snapshot};
use crate::nats::{self, JetStream, ObjectInfo, Objects};
use std::collections::BTreeMap;
use std::io::Write;

/// Headers of our objects: this and the key of a label's pair.
const PREFIX: &str = "harmonylite-";

/// The store in one bucket.
pub struct NatsStore {
    objects: Objects,
    bucket: String,
}

impl NatsStore {
    /// A store in a bucket, created at the first upload.
    pub fn new(js: &JetStream, bucket: &str, replicas: u64) -> NatsStore {
        NatsStore { objects: Objects::new(js, bucket, replicas), bucket: bucket.to_owned() }
    }

    /// The object that `stat` described, if it is still the same.
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
            nats::Error::Permanent(why) => Error::Permanent(why),
            nats::Error::Conflict(why) | nats::Error::Transient(why) => Error::Transient(why),
        }
    }
}

fn stored(info: &ObjectInfo) -> Stored {
    let lines = info.headers.iter().filter_map(|(name, lines)| Some((name.strip_prefix(PREFIX)?, lines)));
    let pairs = lines.flat_map(|(key, lines)| lines.iter().map(move |line| (key, line.as_str())));
    let label = Label { size: info.size, digest: info.digest.clone(), ..Label::from_pairs(pairs) };
    Stored {
        name: info.name.clone(),
        size: info.size,
        version: info.nuid.clone(),
        label,
        other_labels: vec![],
    }
}

impl Backend for NatsStore {
    fn describe(&self) -> String {
        format!("NATS bucket {}", self.bucket)
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
        // Every chunk is acknowledged, and the description carries the digest.
        let label = Label { verified: true, ..upload.label.clone() };
        let headers: BTreeMap<String, Vec<String>> = label
            .pairs()
            .into_iter()
            .filter(|(key, _)| !matches!(*key, "digest" | "size"))
            .map(|(key, value)| (format!("{PREFIX}{key}"), vec![value]))
            .collect();
        let mut source = upload.piece(0, upload.label.size)?;
        let mut may_switch = || (upload.may_switch)();
        match self.objects.put(upload.name, headers, &mut source, &mut |_| {}, &mut may_switch) {
            Ok(_) => Ok(()),
            // Asked again, it would say the same.
            Err(nats::Error::Conflict(why)) if (upload.may_switch)().is_err() => Err(Error::Permanent(why)),
            Err(error) => Err(error.into()),
        }
    }

    fn get(&self, stored: &Stored, sink: &mut dyn Write) -> Result<(), Error> {
        Ok(self.objects.get(&self.same(stored)?, sink, &mut |_| {})?)
    }

    fn copy(&self, stored: &Stored, name: &str) -> Result<(), Error> {
        Ok(self.objects.link(&self.same(stored)?, name)?)
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        Ok(self.objects.delete(name)?)
    }

    fn sweep(&self) -> Result<usize, Error> {
        Ok(self.objects.sweep()?)
    }
}
