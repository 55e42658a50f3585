//! The NATS client: small, blocking, ours. Core protocol, JetStream, KV and Object Store over one socket with one owner.
//!
//! Why not a ready one: no maintained synchronous client exists, and the old one reports rejected publishes as done and
//! goes silent after an outage. It serves the tests as the independent peer.

mod connection;
mod consume;
mod dial;
mod jetstream;
mod kv;
mod objects;
mod publish;
mod url;
mod wire;

pub use connection::{Connection, Options, Subscription};
pub use consume::{Consumer, Item, Step};
pub use dial::Auth;
pub use jetstream::{JetStream, StreamInfo, StreamState};
pub use kv::{Entry, Kv};
pub use objects::{ObjectInfo, Objects};
pub use publish::{Acked, Pipeline};
pub use url::Url;
pub use wire::{Headers, Message};

use std::fmt;

/// What went wrong, told apart by what the caller can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The stream, key or object is not there.
    NotFound(String),
    /// Somebody else was first: a condition on a revision did not hold.
    Conflict(String),
    /// Trying again will not help.
    Permanent(String),
    /// Trying again may help: no connection, no answer, a server busy with itself.
    Transient(String),
}

impl Error {
    /// The same error with what was tried in front.
    pub fn at(self, what: impl fmt::Display) -> Error {
        match self {
            Error::NotFound(why) => Error::NotFound(format!("{what}: {why}")),
            Error::Conflict(why) => Error::Conflict(format!("{what}: {why}")),
            Error::Permanent(why) => Error::Permanent(format!("{what}: {why}")),
            Error::Transient(why) => Error::Transient(format!("{what}: {why}")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotFound(why) | Error::Conflict(why) | Error::Permanent(why) | Error::Transient(why) => {
                f.write_str(why)
            }
        }
    }
}

impl std::error::Error for Error {}

/// A name that nobody else makes: 22 letters and digits, as NATS clients use for inboxes and objects.
pub fn nuid() -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let random: [u8; 22] = crate::base::retry::random_bytes();
    random.iter().map(|byte| char::from(DIGITS[usize::from(*byte) % 62])).collect()
}
