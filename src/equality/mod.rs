//! Are all nodes equal? Whoever asks compares the running daemons through NATS, while their applications write; rows that differ can
//! be made equal.
//!
//! The tables are gone through in ranges of keys, of which each node reads one in a transaction of some milliseconds. The nodes' digests
//! of a range are compared bucket by bucket; of buckets that differ the rows are listed; and each row that is not the same
//! everywhere is looked at singly, until the rule of [`crate::model::agree`] calls it the same or different, or until it is
//! given up as unsettled. The digests alone decide nothing but where to look: nodes read a range at different moments, so rows on their
//! way make digests differ. But a row that differs all the time makes them differ for certain, for in each node's reading it counts
//! once, as it is. So the answer is exact although no node ever stands still.
//!
//! Memory holds one range's buckets and a bounded number of rows that are looked at, however large the database is.

mod answer;
mod ask;
mod candidates;
mod compare;
mod comparing;
mod due;
mod repair;
mod report;
mod settle;
mod spoken;
mod wire;

pub use answer::{Setup, answer};
pub use compare::compare;
pub use comparing::Scope;
pub use due::compare_when_due;
pub use repair::{Side, repair};
pub use report::{Difference, Left, OfTable, Repaired, Report};

use crate::config::Config;

/// Where all daemons of a cluster are asked who they are.
fn subject_of_all(config: &Config) -> String {
    format!("{}.compare.all", config.nats.stream_prefix)
}

/// Where daemons hear what a comparison came to.
fn subject_of_results(config: &Config) -> String {
    format!("{}.compare.result", config.nats.stream_prefix)
}
