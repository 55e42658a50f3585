//! What a comparison found.

use crate::db::equality::Key;
use crate::model::agree::{Print, Sight};
use serde_json::{Value, json};
use std::time::Duration;

/// Bytes of the longest word about a comparison that a daemon takes.
const RESULT_BYTES: usize = 4 << 10;
/// Characters of its text.
const SHOWN: usize = 500;

/// The outcome.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Nodes that were compared.
    pub nodes: Vec<u64>,
    /// Nodes that are there and were not compared, and why.
    pub left_out: Vec<(u64, String)>,
    /// Nodes that have published something and do not answer.
    pub silent: Vec<u64>,
    pub tables: Vec<OfTable>,
    /// Rows that were on their way whenever they were looked at, and why.
    pub unsettled: Vec<Left>,
    /// More of them than are named.
    pub more_unsettled: u64,
    pub took: Duration,
    /// Bytes of questions and answers.
    pub bytes: u64,
}

/// A table.
#[derive(Clone, Debug, Default)]
pub struct OfTable {
    pub name: String,
    /// On the node with the most.
    pub rows: u64,
    /// Nodes by what they say the table is, if they do not agree; then its rows were not compared.
    pub definitions: Vec<(String, Vec<u64>)>,
    /// Events that are set aside, by node.
    pub aside: Vec<(u64, u64)>,
    pub differences: Vec<Difference>,
    /// There may be more than are named.
    pub more: bool,
}

/// A row that is not the same everywhere.
#[derive(Clone, Debug)]
pub struct Difference {
    pub key: Key,
    /// By node.
    pub sights: Vec<(u64, Sight)>,
}

/// A row that could not be judged.
#[derive(Clone, Debug)]
pub struct Left {
    pub table: String,
    pub key: Key,
    pub why: String,
}

/// What became of a row that was to be repaired.
#[derive(Clone, Debug)]
pub struct Repaired {
    pub table: String,
    pub key: Key,
    /// The node whose row was published; `None`: none was.
    pub by: Option<u64>,
    /// Why it was not repaired; empty: it is the same everywhere now.
    pub why_not: String,
}

impl Difference {
    /// The nodes by what they show, the largest group first.
    pub fn groups(&self) -> Vec<(Option<Print>, Vec<u64>)> {
        let mut groups: Vec<(Option<Print>, Vec<u64>)> = vec![];
        for (node, sight) in &self.sights {
            match groups.iter_mut().find(|(row, _)| *row == sight.row) {
                Some((_, nodes)) => nodes.push(*node),
                None => groups.push((sight.row, vec![*node])),
            }
        }
        groups.sort_by_key(|(_, nodes)| std::cmp::Reverse(nodes.len()));
        groups
    }

    /// Nodes where events of the row wait or were refused.
    pub fn waits_on(&self) -> Vec<u64> {
        self.sights.iter().filter(|(_, sight)| sight.waits).map(|(node, _)| *node).collect()
    }
}

impl Report {
    pub fn is_equal(&self) -> bool {
        self.differences() == 0
    }

    /// Rows and tables that differ.
    pub fn differences(&self) -> u64 {
        let of = |table: &OfTable| table.differences.len() + usize::from(!table.definitions.is_empty());
        self.tables.iter().map(|table| of(table) as u64).sum()
    }

    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// One line.
    pub fn summary(&self) -> String {
        let tables = self.tables.iter().filter(|table| !table.definitions.is_empty()).count();
        let rows: usize = self.tables.iter().map(|table| table.differences.len()).sum();
        let more = if self.tables.iter().any(|table| table.more) { "at least " } else { "" };
        let nodes: Vec<String> = self.nodes.iter().map(u64::to_string).collect();
        let nodes = nodes.join(", ");
        match (rows, tables) {
            (0, 0) => format!("nodes {nodes} are equal"),
            (rows, 0) => format!("nodes {nodes}: {more}{rows} rows differ"),
            (0, tables) => format!("nodes {nodes}: {tables} tables have different columns"),
            (rows, tables) => {
                format!("nodes {nodes}: {more}{rows} rows differ, and {tables} tables have different columns")
            }
        }
    }
}

/// What daemons are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Result {
    pub differences: u64,
    pub text: String,
}

impl Result {
    pub fn encode(&self) -> Vec<u8> {
        json!({ "differences": self.differences, "text": self.text }).to_string().into_bytes()
    }

    /// `None`: it is no such word.
    pub fn decode(bytes: &[u8]) -> Option<Result> {
        if bytes.len() > RESULT_BYTES {
            return None;
        }
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let text = value["text"].as_str()?.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        Some(Result { differences: value["differences"].as_u64()?, text })
    }
}
