//! The rows that [`crate::db::apply::ousting`] is about, in memory.

use crate::base::limits;
use crate::db::apply::subject::Place;
use crate::model::event::Event;
use crate::model::value::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows by tables and keys.
#[derive(Debug, Default)]
pub struct Ousted(BTreeMap<(Arc<str>, Vec<u8>), Row>);

#[derive(Debug)]
pub struct Row {
    pub key: Vec<Value>,
    /// The row as it was; `None`: it is on the list of lost writes already.
    pub image: Option<Event>,
    pub place: Place,
    pub won_by: u64,
}

impl Ousted {
    pub fn put(&mut self, table: &Arc<str>, row_key: Vec<u8>, row: Row) {
        if self.0.len() >= limits::DOUBLES {
            self.0.clear();
        }
        self.0.insert((table.clone(), row_key), row);
    }

    /// What a change that never came back has left is no business of a later one.
    pub fn forget(&mut self, table: &str) {
        self.0.retain(|(name, _), _| **name != *table);
    }

    /// All of them with the tables' names.
    pub fn take(&mut self) -> Vec<(Arc<str>, Row)> {
        std::mem::take(&mut self.0).into_iter().map(|((table, _), row)| (table, row)).collect()
    }
}
