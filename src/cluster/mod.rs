//! What the nodes of a cluster tell each other beside the rows: leases, requests, proofs, who is there.
//!
//! All but presence lies in one bucket of NATS, the one in which the Go program keeps its leases (formats, section
//! "Key-value buckets"). Each key has a type; the bucket is opened here and nowhere else.

pub mod founder;
pub mod lease;
pub mod presence;
pub mod proven;
mod shards;
pub mod wanted;

use crate::nats::{Error, JetStream, Kv};
use std::sync::{Arc, Mutex, PoisonError};

/// The bucket's name, fixed in the Go program.
const BUCKET: &str = "e-harmonylite";

/// A key of the bucket, and how its values are written.
pub struct Key<T> {
    name: &'static str,
    encode: fn(&T) -> Vec<u8>,
    /// `None`: not a value of this key.
    decode: fn(&[u8]) -> Option<T>,
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
    replicas: u64,
    opened: Arc<Mutex<Option<Kv>>>,
}

impl Bucket {
    /// The bucket of this cluster, not opened yet. `replicas`: copies in a NATS cluster, if it has to be created.
    pub fn new(js: &JetStream, replicas: u64) -> Bucket {
        Bucket { js: js.clone(), replicas, opened: Arc::default() }
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
                let kv = Kv::open(&self.js, BUCKET, self.replicas)?;
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
    pub fn get<T>(&self, key: &Key<T>) -> Result<Entry<T>, Error> {
        let found =
            self.with(|kv| kv.get(key.name)).map_err(|error| error.at(format!("key {}", key.name)))?;
        let Some(found) = found else { return Ok(Entry { revision: 0, value: None }) };
        let value = found.value.as_deref().and_then(key.decode);
        Ok(Entry { revision: found.revision, value })
    }

    /// Writes a key if its revision is still `revision`; returns the new one. [`Error::Conflict`]: somebody else wrote it.
    pub fn update<T>(&self, key: &Key<T>, value: &T, revision: u64) -> Result<u64, Error> {
        self.with(|kv| kv.update(key.name, &(key.encode)(value), revision))
            .map_err(|error| error.at(format!("key {}", key.name)))
    }

    /// Changes a key to what `change` makes of its present value, however often somebody else changes it in between. `None`:
    /// it stays as it is, and so does its revision.
    pub fn change<T>(&self, key: &Key<T>, change: impl Fn(Option<T>) -> Option<T>) -> Result<bool, Error> {
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
