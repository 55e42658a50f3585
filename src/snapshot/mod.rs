//! Snapshots: how one is made and stored ([`save`]), when one is due ([`Scheduler`]), how a node gets its database back
//! when it is missing or damaged ([`Recovery`]) or lacks what the streams no longer hold ([`restore_live`]), how a database
//! with rows of its own joins a cluster ([`Joining`]), and what a person can do with snapshots ([`list_proven`],
//! [`verify`], [`restore_to`], [`restore_at`]).

mod at;
mod begin;
mod due;
mod heal;
mod included;
mod inherit;
mod inspect;
mod join;
mod ping;
mod proof;
mod replay;
mod restore;
mod save;
mod scheduler;
mod scratch;
mod search;
mod transfer;
mod tried;

pub use at::{parse_when, restore_at, restore_everywhere, settle_rebuilt};
pub use heal::Healing;
pub use included::Including;
pub use inherit::{end_visit, inherit};
pub use inspect::{restore_to, verify};
pub use join::Joining;
pub use ping::ping;
pub use proof::list_proven;
pub use restore::{Recovery, restore_live};
pub use save::{Terms, save};
pub use scheduler::Scheduler;
pub use scratch::remove_leftovers;
pub use search::Search;

use crate::base::stop::Stop;
use crate::cluster::Bucket;
use crate::config::Config;
use crate::model::positions::SeqMap;
use crate::nats::JetStream;

/// This node, as everything about snapshots needs it.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    /// The node's configuration.
    pub config: &'a Config,
    /// The cluster's bucket, and through it the broker.
    pub bucket: &'a Bucket,
    /// Ends every wait.
    pub stop: &'a Stop,
}

impl<'a> Node<'a> {
    fn js(self) -> &'a JetStream {
        self.bucket.js()
    }
}

/// `stream=sequence` for each stream, for messages.
pub fn show_positions(positions: &SeqMap) -> String {
    let shown: Vec<String> = positions.iter().map(|(name, seq)| format!("{name}={seq}")).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_shown_stream_by_stream() {
        assert_eq!(show_positions(&SeqMap::new()), "none");
        assert_eq!(show_positions(&[("b".into(), 2), ("a".into(), 10)].into()), "a=10 b=2");
    }
}
