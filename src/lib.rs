//! harmonylite replicates an application's SQLite database between nodes through NATS JetStream. Every node may write.
//!
//! It takes over the name, the command line, the configuration and the formats of an existing program, written in Go
//! ([`formats`]); comments call that one *the Go program*, and a node that runs it *a Go node*.
//!
//! How to use it is in the [`manual`].
//!
//! # Bird's eye
//!
//! The application keeps reading and writing its own database file. Triggers note the *key* of each row that it touches
//! in one log table. A row's way from there to another node:
//!
//! 1. `db::capture::watch` sees that something was committed (a file event, then `data_version`) and wakes the publisher.
//! 2. `replicator::Publisher` reads the next log entries and the rows' images in one read transaction (`db::ChangeLog`), and
//!    publishes one event a row (`model::event`) into the stream of the row's shard (`model::shard`), many in flight.
//! 3. JetStream orders them. Every node, the origin included, reads each stream from its own checkpoint on
//!    (`streams::Reader`).
//! 4. `replicator::Follower` hands batches to `db::Applier`, which gathers the facts about each event, asks `model::fold` what to
//!    do, carries that plan out, and writes rows and checkpoint in one transaction. An event of our own that comes back settles
//!    its log entries.
//!
//! A change of the application's schema takes the same road (`db::migrate`): the publisher notices what has changed since it looked last, and sends it
//! before the rows that were written after it; every other node carries it out before it applies what follows.
//!
//! Beside that road: `cluster` elects the leader and lets one node upload at a time, `snapshot` makes snapshots and gives a
//! node without a database one, `storage` is where they are kept (one contract, `storage::Backend`; the rules common to all
//! stores, `storage::Store`), `nats` speaks to the broker, `broker` connects to it or runs it, `operate` shows what goes on,
//! `daemon` starts and stops everything.
//!
//! Five roads lead back to a whole database, all from a snapshot that was found and checked first (`snapshot::Search`). A
//! database that is not there gets a snapshot renamed into its place. One that is damaged is set aside, then replaced through
//! SQLite's backup interface (`snapshot::Recovery`, `db::replace_database`). One that fell out of the streams' reach, and one that joins
//! with rows of its own (`snapshot::Joining`), are compared with the snapshot without a lock (`db::compare`); the differences
//! are folded in one transaction. So are those of nodes under which the broker has lost messages (`replicator::healing`, `snapshot::Healing`).
//!
//! # The rooms, from the ground up
//!
//! A file uses what stands below it, never above, and no file of a room on its own floor; `tests/house` keeps that true.
//!
//! | room | what it is |
//! |---|---|
//! | `base` | what knows no word of the domain: limits, clock, stop, threads, retries, errors, files |
//! | `model` | what all nodes must agree on: values, events, the rules that fold them, shards, positions; no I/O |
//! | `nats` | the NATS client: core protocol, JetStream, key-value, object store |
//! | `db` | the only room that speaks SQL: capture, apply, restore |
//! | `storage` | where snapshots are kept: NATS, S3, WebDAV, SFTP, a directory; packing |
//! | `config` | the configuration file, read and checked once |
//! | `streams` | the change streams: made, judged against a position, read in order |
//! | `broker` | the connection, and our own nats-server if we run it |
//! | `operate` | the board and the fleet (what is shown), signals (what controls), health, metrics, status and page |
//! | `cluster` | what nodes tell each other: leases, founder, requests, proofs, presence |
//! | `equality` | nodes compared with each other, and repaired |
//! | `replicator` | publisher and follower |
//! | `snapshot` | made, scheduled, searched, restored, joined with, proven |
//! | `daemon` | sessions of workers on one database, watched over |
//! | `commands`, `cli` | what a person or cron calls |
//!
//! # Reading order
//!
//! `model/fold.rs` (the rules), `db/capture/triggers.rs`, `db/capture/changelog.rs`, `db/apply/facts.rs`, `db/apply/carry.rs`,
//! `db/apply/applier.rs`, `replicator/`, `nats/keeper.rs`, `daemon/session.rs`; for snapshots `snapshot/save.rs`, `storage/mod.rs`, `storage/store.rs`, then a store; for recovery
//! `daemon/open.rs`, `snapshot/search.rs`, `snapshot/restore.rs`, `db/restore/reconcile.rs`.
//!
//! # Threads and channels
//!
//! ```text
//!             application ── writes ──> SQLite file <── one transaction a batch ──┐
//!                                         │ file event, data_version              │
//!                                       watch                                     │
//!                                         │ wake (1)                              │
//!                                         v         Start, Rewind (4), wake (1)   │
//!       check (reads all pages once)   publisher <──────────────────────────── follower
//!                                         │  ^                                    ^
//!                             bytes (1 MiB)  │ acknowledgements (2 x window)      │ messages (2 x pull batch, each stream)
//!                                         v  │                                    │
//!   nats-server <──── socket ─────────── nats ────────────────────────────────────┘
//!   (supervised, if ours)
//!
//!   claimer ── blocks of keys (shared, `db::Steering`) ──> follower (takes them) and publisher (tells what was given)
//!
//!   lease ── held? ──> snapshot ── with upload-lease, s3-part ──> store          presence, status, health, metrics, signals, streams
//! ```
//!
//! The numbers are places in the channels: each is bounded, and what happens when one is full stands at its making. `nats` owns
//! the socket and waits for nobody. `publisher`, `follower`, `claimer`, `watch`, `check`, `compare` (it answers when nodes are compared), `teller` (it tells the schema) and `snapshot` work on the database: together they
//! are a session (`daemon::session`); a replaced or damaged database ends it, and the next one begins. `lease`, `presence`, `status` (the socket), `notify` (systemd),
//! `health`, `metrics` and, with `replicate = false`, `streams` live as long as the daemon; `signals` as long as the process. Each
//! mutable thing has one owner thread. Whoever starts a thread joins it (`base::worker`). Stop is the disconnection of a channel
//! (`base::stop`). A worker that ends by itself, but for `check`, ends the daemon; a panic ends the process.
//!
//! # Glossary
//!
//! - **row key**: a table's name and the values of its primary key. **image**: the values of all stored columns of a row.
//! - **event**: one row key with its image, or with word that the row is gone (a **tombstone**), as one message of a stream.
//! - **shard**: one stream with its subject. A row key always hashes to the same shard, so a row's events have one order.
//! - **change log**: the table in which triggers note the key of each row that the application touches.
//! - **touched**: a row key that the change log holds: the application wrote the row, and its event has not come back.
//! - **echo**: an event of our own, read back from its stream.
//! - **settled**: a log entry whose event came back; it is removed, in the transaction that moves the checkpoint.
//! - **fold**: to apply an event by the rules of `model::fold`. S(n) is the state made by folding a stream's first n events.
//! - **checkpoint**, **position**: up to which sequence of a stream this database has folded. The **sequence map** is the file
//!   that shows it to the outside.
//! - **incarnation**: the random name under which one database publishes. Log ids count within it; a database that turns out
//!   to be an older copy takes a new one.
//! - **origin**: a node and an incarnation: who published an event.
//! - **straggler**: an event that reached its stream after a later one of its origin; nobody folds it.
//! - **set aside**: an event that this database cannot use, kept whole beside it. It **waits** for a table or column that the
//!   application has not created here yet, and later ones of its row wait after it; or it was **refused**: SQLite does not take it.
//! - **conflict**: a write of another node that our write overwrote without having seen it. The node that wrote the winner keeps it.
//! - **orphan**: a row that refers to one which another node deleted at the same time.
//! - **built anew**, **rebuilt**: a table that the application has replaced by a copy, as frameworks change tables; **agreed**: the state of
//!   a database at its own position, made of a snapshot and the streams.
//! - **piece**: a part of a change set that holds only some of the bytes of a row, which is larger than a message.
//! - **in the way**: a row that had the key or a UNIQUE value of one that was about to be written. Whether it was replaced, its absence tells.
//! - **block**: keys of an AUTOINCREMENT table that one node alone gives; a **spare** one is claimed ahead. **steering**: letting SQLite go on
//!   in them.
//! - **late**: an event that was set aside and is applied after events that follow it in its stream.
//! - **queue** (of a full-text index): rows that other nodes changed and that the application has not run its triggers for yet;
//!   its next write does, through **hooks**, which are triggers that exist only while a queue holds something.
//! - **excluded**: a table that the lists of tables leave out; events of it are **passed over**. **Included**: one that was excluded and is not any
//!   more, as long as its rows are not those of the cluster.
//! - **told**: what a node says of its schema in the registry. **read replica**: a node that publishes nothing.
//! - **whole**: a node is whole when its database holds all that the streams and snapshots brought. One that is not never leads.
//! - **gap**: messages that a stream no longer holds and that a node has not folded: only a snapshot helps.
//! - **leader**: the node that makes the snapshots. **founder**: the node whose rows were the cluster's first state.
//! - **generation**: the streams that positions count in; it changes when one of them is created anew. **making**: the same for
//!   one stream inside a running daemon.
//! - **epoch**: a life of the streams. When they have lost what nodes had read, another one begins, and all nodes compare their databases with
//!   the one that had read most (**standing**: how far that was). **moments**: when messages that were read had been stored, by which a lost tail shows.
//! - **session**: the workers on one database file, from its opening to its end.
//!
//! # Invariants
//!
//! - After a node has consumed a stream up to n, every row that its log does not hold equals S(n). So with empty logs and equal
//!   positions all nodes are equal.
//! - Rows and checkpoint change in one transaction. The database is the truth; the sequence-map file only shows it.
//! - A log entry goes when its event has come back, never before. Log ids are never used twice in one incarnation.
//! - Nothing is published before a started node has consumed what the streams held.
//! - A block of keys lies above all blocks that were claimed before, and is taken in the transaction that writes a higher key of another node.
//! - A lost write is noted in the transaction that passes over it.
//! - A sequence counts in one making of its stream, and is never compared with one of another.
//! - Marks of what was folded are never taken back: after streams were lost, what is published again has a new name.
//! - A snapshot holds no row whose event is not in the stream, and knows its position.
//! - The store holds a whole snapshot at every instant, and its position never goes back: uploads are exclusive, and a new
//!   uploader makes it impossible to finish what an earlier one began before it begins itself.
//!
//! # What is deliberately absent
//!
//! No async runtime. No unbounded queue. No mutable global but the logger and the panic hook. No `unsafe` but in
//! `base/child.rs`, `base/memory.rs` and `db/digits.rs`. No automatic checkpoint on our connections, no file of a live database opened but by SQLite. No decision
//! about a lease by comparing clocks of two machines. (The age of a snapshot and of a proof, by which intervals go on
//! over restarts, is read from their maker's clock: a wrong one makes the next one early or late, and nothing else.)

// Some parts are used by one store alone; only a build with all stores can tell what is used by nobody.
#![cfg_attr(
    not(all(feature = "store-s3", feature = "store-webdav", feature = "store-sftp")),
    allow(dead_code, unused_imports)
)]

mod base;
mod broker;
mod cli;
mod cluster;
mod commands;
mod config;
mod daemon;
mod db;
mod equality;
pub mod formats;
pub mod manual;
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
    pub use crate::base::Error;
    #[cfg(feature = "failpoints")]
    pub use crate::base::fail::POINTS as FAIL_POINTS;
    pub use crate::base::retry::Retry;
    pub use crate::base::secret::Secret;
    pub use crate::base::worker::Workers;
    pub use crate::base::{clock, digest, stop};
    pub use crate::broker::open_store;
    pub use crate::cluster::{Bucket, lease};
    pub use crate::db::schema_hash;
    pub use crate::model::{event, payload, positions, value};
    #[cfg(feature = "http")]
    pub use crate::storage::http;
    pub use crate::storage::urls;

    pub mod snapshot {
        pub use crate::snapshot::{Node, Terms, save};
    }
    pub mod config {
        pub use crate::config::{Config, load};
    }
    pub mod nats {
        pub use crate::nats::{
            Acked, Auth, Connection, Consumer, Error, JetStream, Kv, Objects, Options, Pipeline, Pull, Step,
            Url,
        };
    }
    pub mod storage {
        pub use crate::storage::{Backend, Candidate, Error, Keys, Label, Store, Stored, Upload};
        #[cfg(feature = "store-s3")]
        pub use crate::storage::{Signable, canonical_request, sign, string_to_sign};
    }
}
