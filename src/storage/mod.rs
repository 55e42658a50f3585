//! Where snapshots are kept: one contract for every store.

mod nats;

pub use nats::NatsStore;

use crate::seqmap::SeqMap;
use std::fmt;
use std::io::{Read, Write};

/// What went wrong, told apart by what the caller can do.
#[derive(Debug)]
pub enum Error {
    /// There is no such snapshot.
    NotFound,
    /// Trying again will not help.
    Permanent(String),
    /// Trying again may help.
    Transient(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotFound => f.write_str("no such snapshot"),
            Error::Permanent(why) | Error::Transient(why) => f.write_str(why),
        }
    }
}

/// A snapshot as the store describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// `SHA-256=` and url-safe base64.
    pub digest: String,
    /// Position in each stream; empty when its maker (a Go node) did not say.
    pub positions: SeqMap,
    /// Identifies this very content: changes with every upload.
    pub version: String,
}

/// A store. At every moment there is a whole snapshot under its name, or none at all.
pub trait Store: Send {
    /// What it is, for messages; without secrets.
    fn describe(&self) -> String;

    /// The snapshot of a name; `None` when there is none.
    fn stat(&self, name: &str) -> Result<Option<Stored>, Error>;

    /// Stores a snapshot under a name. `may_switch` is asked at the last moment at which the old one can stay.
    fn put(
        &self,
        name: &str,
        positions: &SeqMap,
        source: &mut dyn Read,
        progress: &mut dyn FnMut(u64),
        may_switch: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Stored, Error>;

    /// Reads the snapshot that `stat` described; size and digest are checked.
    fn get(&self, stored: &Stored, sink: &mut dyn Write, progress: &mut dyn FnMut(u64)) -> Result<(), Error>;
}
