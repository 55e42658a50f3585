//! harmonylite replicates an application's SQLite database between nodes through NATS JetStream. Every node may write.
//!
//! # Bird's eye
//!
//! The application keeps reading and writing its own database file. Triggers note the *key* of each row that it touches
//! in one log table. A row's way from there to another node:
//!
//! 1. [`db::watch`] sees that something was committed (file event, then `data_version`) and wakes the publisher.
//! 2. [`replicator::Publisher`] reads the next log entries and the rows' images in one read transaction
//!    ([`db::ChangeLog`]), and publishes one [`event`] a row into the stream of the row's [`shard`], many in flight.
//! 3. JetStream orders them. Every node, the origin included, reads the stream from its own checkpoint on.
//! 4. [`replicator::Applier`] hands batches to [`db::Applier`], which asks [`fold`] what to do with each event and writes
//!    rows and checkpoint in one transaction. An event of our own that comes back settles its log entries.
//!
//! Beside that road: [`lease`] elects the leader and lets one node upload at a time, [`snapshot`] makes snapshots and gives a
//! node without a database one, [`storage`] is where they are kept (one contract, [`storage::Backend`]; the rules common to
//! all stores, [`storage::Store`]; NATS, S3 on [`http`], and what looks like a directory: WebDAV, SFTP, a disk), [`pack`]
//! compresses and encrypts them, [`nats`] speaks to the broker (or runs it), [`daemon`] starts and stops everything.
//!
//! Back to a whole database lead four roads, all from a snapshot that was found and checked first ([`snapshot::Search`]): none
//! there ([`snapshot::Recovery`] renames one into place), a damaged one (set aside, then replaced through SQLite's backup
//! interface, [`db::replace`]), one that fell behind the streams and one that joins with rows of its own
//! ([`snapshot::Joining`]; both are compared without a lock, [`db::compare`], and folded in one transaction,
//! [`db::Applier::reconcile`]).
//!
//! # Reading order
//!
//! `fold.rs` (the rules), `db/capture.rs`, `db/changelog.rs`, `db/apply.rs`, `replicator/`, `nats/connection.rs`,
//! `daemon/mod.rs`; for snapshots `snapshot/mod.rs`, `storage/mod.rs`, `storage/store.rs`, then a store; for recovery
//! `daemon/open.rs`, `snapshot/search.rs`, `snapshot/restore.rs`, `db/reconcile.rs`.
//!
//! # Threads
//!
//! `nats` (owns the socket), `publisher`, `applier`, `watch`, `check` (reads all pages once), `lease`, `snapshot` (with
//! `upload-lease` and, for S3, `s3-part` during an upload), `presence`, `health`, `metrics`, `signals`, and `nats-server` when we
//! supervise our own. Those that work on the database are one session; a replaced or damaged database ends it, and the next
//! one begins. Each mutable thing has one owner. Channels are bounded; wake-ups are level-triggered. Stop is the
//! disconnection of a channel ([`stop`]). A worker that ends, ends the daemon; a panic ends the process.
//!
//! # Invariants
//!
//! - After a node has consumed a stream up to n, every row that its log does not hold equals S(n), the fold of the stream's
//!   first n events. So with empty logs and equal positions all nodes are equal.
//! - Rows and checkpoint change in one transaction. The database is the truth; the sequence-map file only shows it.
//! - A log entry goes when its event has come back, never before. Log ids are never used twice under
//!   one name: a database that turns out to be an older copy publishes under a new one.
//! - Nothing is published before a started node has consumed what the streams held.
//! - A snapshot holds no row whose event is not in the stream, and knows its position.
//! - The store holds a whole snapshot at every instant, and its position never goes back: uploads are exclusive, and a new
//!   uploader makes it impossible to finish what an earlier one began before it begins itself.
//!
//! # What is deliberately absent
//!
//! No async runtime. No unbounded queue. No global state. No `unsafe` but in `child.rs`. No automatic checkpoint on our
//! connections, no file of a live database opened but by SQLite. No clock of one machine compared with another's. A test
//! (`tests/it/tidy.rs`) keeps the layers apart.

mod base;
mod broker;
mod cli;
mod cluster;
mod commands;
mod config;
mod daemon;
mod db;
mod model;
mod nats;
mod operate;
mod replicator;
mod snapshot;
mod storage;
mod streams;

pub use cli::run;

/// What the tests of this repository look at, and nobody else should: no part of it is promised.
#[doc(hidden)]
pub mod testing {
    pub use crate::base::secret::Secret;
    pub use crate::base::{clock, digest, stop};
    pub use crate::broker::open_store;
    pub use crate::cluster::lease;
    pub use crate::db::schema_hash;
    pub use crate::model::{event, positions, value};
    pub use crate::storage::http;

    pub mod snapshot {
        pub use crate::snapshot::{Terms, save};
    }
    pub mod config {
        pub use crate::config::{Config, load};
    }
    pub mod nats {
        pub use crate::nats::{
            Acked, Auth, Connection, Consumer, Error, JetStream, Kv, Objects, Options, Pipeline, Step, Url,
        };
    }
    pub mod storage {
        pub use crate::storage::{
            Backend, Error, Keys, Label, Patience, Signable, Store, Stored, Upload, canonical_request, sign,
            string_to_sign,
        };
    }
}
