//! Integration tests: real nats-servers, real node processes, real databases.

#![allow(
    deprecated,
    reason = "the crate nats is deprecated, and still the only other blocking client: our independent peer"
)]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails; its servers are threads of its own"
)]
#![allow(missing_docs, reason = "tests explain themselves by their names")]

mod bench;
mod broker;
mod fuzz;
mod nodes;
mod operate;
mod recovery;
mod snapshots;
mod stores;
mod support;
