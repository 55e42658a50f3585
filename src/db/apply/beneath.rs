//! What the stream has of rows that a write of ours hides. A write of ours on its way is later in the order than what comes, so what others
//! wrote is not in the database: only here it is known that it would stand in the way of another row, or that it is gone. A row that
//! was gone before our first write of it has no such entry, and neither the database nor the change log tells that it was gone: a log
//! entry of an insertion may be one of a REPLACE. So the rows that the stream has removed last are remembered, too.

use crate::base::limits;
use crate::db::apply::orphans::Kept;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What of a row others can lack or take, as digests.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// By the table's UNIQUE indexes; `None` where it is equal to nothing.
    pub unique: Vec<Option<u64>>,
    /// What it refers to, by the numbers of the foreign keys.
    pub refers: Vec<(usize, u64)>,
}

impl Claims {
    fn collides(&self, other: &Claims) -> bool {
        self.unique.iter().zip(&other.unique).any(|(one, other)| one.is_some() && one == other)
    }

    /// What it refers to by a foreign key.
    pub fn refers(&self, key: usize) -> Option<u64> {
        self.refers.iter().find(|(number, _)| *number == key).map(|(_, refers)| *refers)
    }
}

/// A row in the stream that a write of ours hides.
#[derive(Debug)]
pub struct Under {
    /// The log entry of our write that it lost to; `None`: it is ours, too.
    pub won_id: Option<i64>,
    /// `None`: it is gone.
    pub claims: Option<Claims>,
}

/// The hidden rows by tables and keys.
#[derive(Debug, Default)]
pub struct Beneath {
    tables: HashMap<Arc<str>, HashMap<Vec<u8>, Under>>,
    /// Keys of rows that foreign keys refer to, and that the last event which counts for them has removed.
    removed: HashSet<Vec<u8>>,
    /// The list of lost writes was looked through for what an earlier process has left.
    pub is_read: bool,
}

impl Beneath {
    /// Nothing of ours is on its way.
    pub fn clear(&mut self) {
        if !self.tables.is_empty() {
            self.tables = HashMap::new();
        }
    }

    /// The database has gone back to where it was, or its schema has changed.
    pub fn forget(&mut self) {
        self.clear();
        self.removed = HashSet::new();
        self.is_read = false;
    }

    /// Whether rows of a table are hidden.
    pub fn has(&self, table: &str) -> bool {
        self.tables.contains_key(table)
    }

    pub fn of(&self, table: &str, key: &[u8]) -> Option<&Under> {
        self.tables.get(table)?.get(key)
    }

    /// What a hidden row that is kept as an orphan refers to in the stream.
    pub fn refers(&self, kept: &Kept) -> Option<u64> {
        self.of(&kept.table, &kept.row)?.claims.as_ref()?.refers(kept.foreign)
    }

    /// Whether a row is known to be gone in the stream.
    pub fn is_gone(&self, table: &str, key: &[u8]) -> bool {
        match self.of(table, key) {
            Some(under) => under.claims.is_none(),
            None => self.removed.contains(key),
        }
    }

    /// An event has removed a row that foreign keys refer to. When there is no room, all are forgotten: then a row counts as there, and
    /// two nodes may keep an orphan, but never none.
    pub fn note_removed(&mut self, key: Vec<u8>) {
        if self.removed.len() >= limits::REMOVED_ROWS {
            self.removed.clear();
        }
        self.removed.insert(key);
    }

    /// An event has written a row.
    pub fn note_written(&mut self, key: &[u8]) {
        self.removed.remove(key);
    }

    /// As many rows are kept as lost writes are.
    pub fn set(&mut self, table: &Arc<str>, key: &[u8], under: Under) {
        let rows = self.tables.entry(table.clone()).or_default();
        if rows.len() as i64 >= limits::CONFLICTS {
            rows.clear();
        }
        rows.insert(key.to_vec(), under);
    }

    pub fn remove(&mut self, table: &str, key: &[u8]) {
        let Some(rows) = self.tables.get_mut(table) else { return };
        rows.remove(key);
        if rows.is_empty() {
            self.tables.remove(table);
        }
    }

    /// Keys of the hidden rows that a row with these claims removes.
    pub fn in_the_way(&self, table: &str, key: &[u8], claims: &Claims) -> Vec<Vec<u8>> {
        let rows = self.tables.get(table).into_iter().flatten();
        let is_in_the_way = |under: &Under| under.claims.as_ref().is_some_and(|known| known.collides(claims));
        rows.filter(|(known, under)| known.as_slice() != key && is_in_the_way(under))
            .map(|(known, _)| known.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn under(unique: Option<u64>) -> Under {
        Under { won_id: Some(1), claims: Some(Claims { unique: vec![unique, None], refers: vec![] }) }
    }

    #[test]
    fn hidden_rows_stand_in_the_way_of_equal_values_alone() {
        let (table, mut beneath) = (Arc::from("t"), Beneath::default());
        beneath.set(&table, b"1", under(Some(7)));
        beneath.set(&table, b"2", under(None));
        beneath.set(&table, b"3", Under { won_id: None, claims: None });
        let of = |value| Claims { unique: vec![value, None], refers: vec![] };
        assert_eq!(beneath.in_the_way("t", b"9", &of(Some(7))), [b"1"]);
        assert!(beneath.in_the_way("t", b"1", &of(Some(7))).is_empty(), "it is the row itself");
        assert!(beneath.in_the_way("t", b"9", &of(None)).is_empty());
        assert!(beneath.is_gone("t", b"3") && !beneath.is_gone("t", b"1") && !beneath.is_gone("t", b"9"));
        for key in [b"1", b"2", b"3"] {
            beneath.remove("t", key);
        }
        assert!(!beneath.has("t"));
    }

    #[test]
    fn a_removed_row_is_gone_until_an_event_writes_it_or_nobody_knows() {
        let (table, mut beneath) = (Arc::from("t"), Beneath::default());
        beneath.note_removed(b"1".to_vec());
        beneath.note_removed(b"2".to_vec());
        beneath.clear();
        assert!(beneath.is_gone("t", b"1"), "it is gone whether writes of ours are on their way or not");
        beneath.set(&table, b"1", under(None));
        assert!(!beneath.is_gone("t", b"1"), "what is hidden now counts");
        beneath.note_written(b"2");
        assert!(!beneath.is_gone("t", b"2"));
        beneath.forget();
        assert!(!beneath.is_gone("t", b"1"));
        for key in 0..=limits::REMOVED_ROWS {
            beneath.note_removed(key.to_be_bytes().to_vec());
        }
        assert_eq!(beneath.removed.len(), 1, "there is no room for more");
    }
}
