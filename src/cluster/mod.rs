//! What the nodes of a cluster tell each other beside the rows: leases, requests, proofs, who is there.
//!
//! All but presence and the registry of schemas lies in one bucket of NATS, the one in which the Go program keeps its leases (formats, section
//! "Key-value buckets"). Each key has a type; the bucket is opened here and nowhere else.

pub mod blocks;
pub mod epoch;
pub mod founder;
pub mod lease;
pub mod migration;
pub mod presence;
pub mod proven;
pub mod registry;
mod shards;
mod states;
pub mod teller;
pub mod wanted;
mod watch;

use crate::base::limits;
use crate::nats::{Error, JetStream, Kv};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use watch::Watch;

/// The bucket's name, fixed in the Go program.
const BUCKET: &str = "e-harmonylite";

/// Bytes of the longest message by which a daemon says that it is there. Anybody may publish one, and JSON that was read takes a
/// hundred times its size.
const HELLO_BYTES: usize = 4 << 10;
/// Bytes of the longest value that is read from the bucket, for the same reason.
const VALUE_BYTES: usize = 64 << 10;

/// A key of the bucket, and how its values are written.
pub struct Key<'a, T> {
    name: &'a str,
    encode: fn(&T) -> Vec<u8>,
    /// `None`: not a value of this key.
    decode: fn(&[u8]) -> Option<T>,
}

impl<T> Key<'_, T> {
    /// `None`: not a value of this key.
    fn read(&self, bytes: &[u8]) -> Option<T> {
        if bytes.len() > VALUE_BYTES { None } else { (self.decode)(bytes) }
    }
}

/// When something that others bring about was last logged: whoever invents nodes must not fill the log.
#[derive(Debug, Default)]
struct Told(Option<Instant>);

impl Told {
    /// Whether it may be logged now; it is, then.
    fn may(&mut self, now: Instant) -> bool {
        let may = self.0.is_none_or(|at| now.saturating_duration_since(at) >= limits::PRESENCE_INTERVAL);
        if may {
            self.0 = Some(now);
        }
        may
    }
}

#[derive(Clone, Copy)]
enum BucketKind {
    /// The cluster's own, with so many copies.
    Cluster(u64),
    /// The registry of schemas.
    Registry,
}

/// What a key held when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// For a later compare-and-set; 0: the key was never written.
    pub revision: u64,
    /// `None`: never written, deleted, or not readable.
    pub value: Option<T>,
}

/// The bucket; created if it is missing. Clones share what was opened.
#[derive(Clone)]
pub struct Bucket {
    js: JetStream,
    kind: BucketKind,
    opened: Arc<Mutex<Option<Kv>>>,
    /// What is heard of it; begun by the first who looks.
    watch: Arc<Mutex<Option<Watch>>>,
}

impl Bucket {
    /// The bucket of this cluster, not opened yet. `replicas`: copies in a NATS cluster, if it has to be created.
    pub fn new(js: &JetStream, replicas: u64) -> Bucket {
        Bucket {
            js: js.clone(),
            kind: BucketKind::Cluster(replicas),
            opened: Arc::default(),
            watch: Arc::default(),
        }
    }

    /// The registry of schemas (see [`registry`]), not opened yet.
    pub fn registry(js: &JetStream) -> Bucket {
        Bucket { js: js.clone(), kind: BucketKind::Registry, opened: Arc::default(), watch: Arc::default() }
    }

    /// The stream's connection.
    pub fn js(&self) -> &JetStream {
        &self.js
    }

    /// Runs one request. After a failure the bucket is opened anew the next time: the broker may have lost it.
    fn with<R>(&self, step: impl FnOnce(&Kv) -> Result<R, Error>) -> Result<R, Error> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let kv = match opened {
            Some(kv) => kv,
            None => {
                let kv = match self.kind {
                    BucketKind::Cluster(replicas) => Kv::open(&self.js, BUCKET, replicas)?,
                    BucketKind::Registry => {
                        Kv::open_aging(&self.js, registry::BUCKET, limits::REGISTRY_TTL, registry::WHAT)?
                    }
                };
                *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(kv.clone());
                kv
            }
        };
        let result = step(&kv);
        if matches!(result, Err(Error::NotFound(_) | Error::Transient(_))) {
            *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        result
    }

    /// Reads a key.
    pub fn get<T>(&self, key: &Key<'_, T>) -> Result<Entry<T>, Error> {
        let found =
            self.with(|kv| kv.get(key.name)).map_err(|error| error.at(format!("key {}", key.name)))?;
        let Some(found) = found else { return Ok(Entry { revision: 0, value: None }) };
        let value = found.value.as_deref().and_then(|bytes| key.read(bytes));
        Ok(Entry { revision: found.revision, value })
    }

    /// Reads a key that was read before, unless nobody was heard to write it since: then `None`, but for a look now and then.
    pub fn look<T>(&self, key: &Key<'_, T>) -> Result<Option<Entry<T>>, Error> {
        if !self.watched(|watch, now| watch.may_have_changed(key.name, now)) {
            return Ok(None);
        }
        let begun = Instant::now();
        let entry = self.get(key)?;
        self.watched(|watch, _| watch.was_read(key.name, entry.revision, begun));
        Ok(Some(entry))
    }

    fn watched<R>(&self, step: impl FnOnce(&mut Watch, Instant) -> R) -> R {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = watch.get_or_insert_with(|| Watch::new(self.js.connection(), BUCKET));
        step(watch, Instant::now())
    }

    /// Writes a key if its revision is still `revision`; returns the new one. [`Error::Conflict`]: somebody else wrote it.
    pub fn update<T>(&self, key: &Key<'_, T>, value: &T, revision: u64) -> Result<u64, Error> {
        self.with(|kv| kv.update(key.name, &(key.encode)(value), revision))
            .map_err(|error| error.at(format!("key {}", key.name)))
    }

    /// Writes a key, whatever it held.
    pub fn put<T>(&self, key: &Key<'_, T>, value: &T) -> Result<(), Error> {
        self.with(|kv| kv.put(key.name, &(key.encode)(value)))
            .map_err(|error| error.at(format!("key {}", key.name)))
    }

    /// The keys that begin with a prefix.
    fn names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        self.with(|kv| kv.keys(prefix))
    }

    /// Deletes a key if its revision is still `revision`.
    fn delete(&self, name: &str, revision: u64) -> Result<(), Error> {
        self.with(|kv| kv.delete(name, revision))
    }

    /// Changes a key to what `change` makes of its present value, however often somebody else changes it in between. `None`:
    /// it stays as it is, and so does its revision.
    pub fn change<T>(
        &self,
        key: &Key<'_, T>,
        change: impl Fn(Option<T>) -> Option<T>,
    ) -> Result<bool, Error> {
        /// Nodes that write one key at the same moment.
        const RIVALS: usize = 5;
        let mut tries = 0;
        loop {
            let Entry { revision, value } = self.get(key)?;
            let Some(new) = change(value) else { return Ok(false) };
            tries += 1;
            match self.update(key, &new, revision) {
                Ok(_) => return Ok(true),
                Err(Error::Conflict(_)) if tries < RIVALS => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_value_that_is_too_long_is_not_read() {
        let key = Key::<u64> {
            name: "k",
            encode: |_| vec![],
            decode: |bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok()?.as_u64(),
        };
        let padded = |bytes: usize| format!("{}7", " ".repeat(bytes - 1)).into_bytes();
        assert_eq!(key.read(&padded(VALUE_BYTES)), Some(7));
        assert_eq!(key.read(&padded(VALUE_BYTES + 1)), None);
    }

    #[test]
    fn invented_nodes_do_not_fill_the_log() {
        let (mut told, start) = (Told::default(), Instant::now());
        let count = (0..3_000).filter(|n| told.may(start + Duration::from_millis(10) * *n)).count();
        assert_eq!(count, 1);
        assert!(told.may(start + limits::PRESENCE_INTERVAL));
    }
}
