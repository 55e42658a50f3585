//! What the stream has of rows that a write of ours hides. A write of ours on its way is later in the order than what comes, so what others
//! wrote is not in the database: only here it is known that it would stand in the way of another row, or that it is gone.

use crate::base::limits;
use std::collections::HashMap;
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
        self.is_read = false;
    }

    /// Whether rows of a table are hidden.
    pub fn has(&self, table: &str) -> bool {
        self.tables.contains_key(table)
    }

    pub fn of(&self, table: &str, key: &[u8]) -> Option<&Under> {
        self.tables.get(table)?.get(key)
    }

    /// Whether a hidden row is gone in the stream.
    pub fn is_gone(&self, table: &str, key: &[u8]) -> bool {
        self.of(table, key).is_some_and(|under| under.claims.is_none())
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
}
