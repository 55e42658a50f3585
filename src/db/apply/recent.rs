//! Which node has written rows while writes of ours were on their way.

use crate::base::limits;
use crate::db::apply::subject::Place;
use std::collections::HashMap;

/// Nodes and events by the rows' keys.
#[derive(Debug, Default)]
pub struct Recent(HashMap<Vec<u8>, (u64, Place)>);

impl Recent {
    /// A row of another node was written.
    pub fn note(&mut self, key: Vec<u8>, node: u64, place: Place) {
        if self.0.len() >= limits::RECENT_ROWS {
            self.0.clear();
        }
        self.0.insert(key, (node, place));
    }

    /// Nothing of ours is on its way.
    pub fn clear(&mut self) {
        if !self.0.is_empty() {
            self.0 = HashMap::new();
        }
    }

    /// Who has written a row; `None`: it is not known any more.
    pub fn of(&self, key: &[u8]) -> Option<(u64, Place)> {
        self.0.get(key).copied()
    }
}
