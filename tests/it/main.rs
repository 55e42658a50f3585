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

mod chaos;
mod cli;
mod crash;
mod damage;
mod disasters;
mod golden;
mod hostile;
mod join;
mod large;
mod nats_client;
mod proof;
mod proxy;
mod publishers;
mod real_data;
mod recovery;
mod replicate;
mod restore_live;
mod scenarios;
mod servers;
mod signatures;
mod snapshot_commands;
mod snapshots;
mod speed;
mod stores;
mod stores_hostile;
mod stores_killed;
mod stores_refused;
mod support;
