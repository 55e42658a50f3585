//! Snapshots in the NATS Object Store, readable by Go nodes (compat.md 1f).

use super::{Error, Store, Stored};
use crate::nats::{self, JetStream, ObjectInfo, Objects};
use crate::seqmap::SeqMap;
use std::collections::BTreeMap;
use std::io::{Read, Write};

/// Header of our objects: `<stream>=<sequence>` for each stream.
const POSITION_HEADER: &str = "harmonylite-position";

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

    fn info(&self, name: &str) -> Result<Option<ObjectInfo>, Error> {
        Ok(self.objects.info(name)?)
    }
}

impl From<nats::Error> for Error {
    fn from(error: nats::Error) -> Error {
        match error {
            nats::Error::NotFound(_) => Error::NotFound,
            nats::Error::Conflict(why) | nats::Error::Permanent(why) => Error::Permanent(why),
            nats::Error::Transient(why) => Error::Transient(why),
        }
    }
}

fn stored(info: &ObjectInfo) -> Stored {
    let lines = info.headers.get(POSITION_HEADER).into_iter().flatten();
    let positions = lines
        .filter_map(|line| line.rsplit_once('='))
        .filter_map(|(s, n)| Some((s.to_owned(), n.parse().ok()?)))
        .collect();
    Stored {
        name: info.name.clone(),
        size: info.size,
        digest: info.digest.clone(),
        positions,
        version: info.nuid.clone(),
    }
}

impl Store for NatsStore {
    fn describe(&self) -> String {
        format!("NATS bucket {}", self.bucket)
    }

    fn stat(&self, name: &str) -> Result<Option<Stored>, Error> {
        Ok(self.info(name)?.as_ref().map(stored))
    }

    fn put(
        &self,
        name: &str,
        positions: &SeqMap,
        source: &mut dyn Read,
        progress: &mut dyn FnMut(u64),
        may_switch: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Stored, Error> {
        let lines: Vec<String> = positions.iter().map(|(stream, seq)| format!("{stream}={seq}")).collect();
        let headers = if lines.is_empty() {
            BTreeMap::new()
        } else {
            BTreeMap::from([(POSITION_HEADER.to_owned(), lines)])
        };
        let info = self.objects.put(name, headers, source, progress, may_switch)?;
        Ok(stored(&info))
    }

    fn get(&self, wanted: &Stored, sink: &mut dyn Write, progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
        let info = self.info(&wanted.name)?.ok_or(Error::NotFound)?;
        if info.nuid != wanted.version {
            return Err(Error::Transient("the snapshot was replaced meanwhile".to_owned()));
        }
        Ok(self.objects.get(&info, sink, progress)?)
    }
}
