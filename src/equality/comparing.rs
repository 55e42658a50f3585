//! A comparison under way: what it knows about the nodes, and the rows that are not judged yet.

use super::ask::{Caller, Peer};
use super::report::{Difference, Report};
use crate::base::progress;
use crate::db::equality::{Key, Seed, Seen};
use crate::model::agree::Sight;

/// What is compared.
#[derive(Clone, Debug)]
pub struct Scope {
    /// This table alone.
    pub table: Option<String>,
    /// Rows that are named at most.
    pub rows: usize,
}

/// A comparison under way.
pub struct Comparing<'a> {
    pub caller: Caller<'a>,
    pub peers: Vec<Peer>,
    pub seed: Seed,
    pub scope: &'a Scope,
    pub report: Report,
    pub waiting: Vec<Candidate>,
    /// Definitions of the tables, in the order of the report.
    pub definitions: Vec<u64>,
    /// Tables that were compared anew.
    pub changes: usize,
    /// How far it has come, for a person who waits.
    pub shown: progress::Line,
}

/// A row that may differ.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Place of its table in the report.
    pub table: usize,
    pub key: Key,
    /// As it was last seen, by peer.
    pub seen: Vec<Seen>,
}

impl Candidate {
    pub fn sights(&self) -> impl Iterator<Item = &Sight> + Clone {
        self.seen.iter().map(|seen| &seen.sight)
    }
}

impl Comparing<'_> {
    /// Puts a row on the report.
    pub fn differs(&mut self, candidate: Candidate) {
        let sights =
            self.peers.iter().map(|peer| peer.node).zip(candidate.seen.into_iter().map(|seen| seen.sight));
        let named: usize = self.report.tables.iter().map(|table| table.differences.len()).sum();
        let table = &mut self.report.tables[candidate.table];
        if named < self.scope.rows {
            table.differences.push(Difference { key: candidate.key, sights: sights.collect() });
        } else {
            table.more = true;
        }
    }
}
