//! The NATS client: small, blocking, ours. Core protocol, JetStream, key-value buckets and the Object Store over one socket
//! that one thread owns.
//!
//! Why not a ready one: no maintained synchronous client exists, and the old one (crate `nats`) reports rejected publishes as
//! done and goes silent after an outage. It serves the tests as the independent peer.

mod chunks;
mod connection;
mod consume;
mod dial;
mod error;
mod jetstream;
mod keeper;
mod kv;
mod login;
mod objects;
mod publish;
mod queued;
mod shared;
mod url;
mod wire;

pub use connection::{Connection, Subscription};
pub use consume::{Consumer, Pull, Step};
pub use dial::cryptography;
pub use error::{Error, NO_ROOM};
#[cfg(test)]
pub use jetstream::StreamState;
pub use jetstream::{JetStream, StreamInfo};
pub use keeper::Options;
pub use kv::Kv;
pub use login::Auth;
pub use objects::{ObjectInfo, Objects};
pub use publish::{Acked, Pipeline};
pub use shared::Traffic;
pub use url::{Url, is_loopback, percent_encode};
pub use wire::Message;

/// A name that no other client makes: 22 random letters and digits, as NATS clients use for inboxes and objects.
pub fn nuid() -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let random: [u8; 22] = crate::base::random::random_bytes();
    random.iter().map(|byte| char::from(DIGITS[usize::from(*byte) % 62])).collect()
}

#[cfg(test)]
#[path = "mutants_tests.rs"]
mod mutants_tests;
