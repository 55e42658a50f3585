//! Which rows the messages of a stream speak of: those that they name, and those that have a UNIQUE value of a row that they bring,
//! for these are removed without being named.

use super::print::canonical;
use super::{Examiner, Key};
use crate::db::{error::Error, table::Table};
use crate::model::event::Event;
use crate::model::payload::{Codec, Payload};
use crate::model::shard::fnv1;
use crate::model::value::{Collation, Value, row_key};
use std::collections::HashMap;
use std::sync::Arc;

/// Rows of one table, and whether they were spoken of.
pub struct Watch {
    table: Arc<Table>,
    keys: HashMap<Vec<u8>, usize>,
    unique: HashMap<u64, Vec<usize>>,
    /// A UNIQUE index cannot be compared by values: each row that a message brings to the table may remove any other.
    any: bool,
    codec: Codec,
    pub spoken_of: Vec<bool>,
}

impl Examiner {
    /// Watches rows with their numbers in UNIQUE indexes, as all nodes have seen them.
    pub fn watch(&mut self, name: &str, definition: u64, rows: &[(Key, Vec<u64>)]) -> Result<Watch, Error> {
        let table = self.table(name, definition)?;
        let mut unique: HashMap<u64, Vec<usize>> = HashMap::new();
        let mut keys = HashMap::new();
        for (place, (key, prints)) in rows.iter().enumerate() {
            if key.len() != table.key.len() {
                return Err(Error::Mismatch(format!("table {name}: a key of another length")));
            }
            keys.insert(canonical(&table, key), place);
            for print in prints {
                unique.entry(*print).or_default().push(place);
            }
        }
        let any = table.unique.iter().any(|index| !index.of_primary_key && columns(index).is_none());
        let codec = Codec::new(false).map_err(|error| Error::Other(error.to_string()))?;
        Ok(Watch { table, keys, unique, any, codec, spoken_of: vec![false; rows.len()] })
    }
}

impl Watch {
    /// Everything may have been spoken of.
    pub fn give_up(&mut self) {
        self.spoken_of.fill(true);
    }

    /// Takes the body of a message. Bytes that are no event change no row.
    pub fn hear(&mut self, payload: &[u8]) {
        match self.codec.read(payload) {
            Ok(Payload::Row(event)) => self.take(&event),
            Ok(Payload::Set(events)) => events.iter().for_each(|event| self.take(event)),
            Err(_) => {}
        }
    }

    fn take(&mut self, event: &Event) {
        if !event.table.eq_ignore_ascii_case(&self.table.name) {
            return;
        }
        let find = |name: &str| {
            event.row.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        let key: Option<Key> = self.table.key.iter().map(|column| find(&column.name).cloned()).collect();
        if let Some(place) = key.and_then(|key| self.keys.get(&canonical(&self.table, &key))) {
            self.spoken_of[*place] = true;
        }
        if event.is_tombstone() {
            return;
        }
        if self.any {
            self.give_up();
            return;
        }
        for print in unique_prints(&self.table, find) {
            for place in self.unique.get(&print).into_iter().flatten() {
                self.spoken_of[*place] = true;
            }
        }
    }
}

/// The columns of an index that can be compared by values.
fn columns(index: &crate::db::indexes::UniqueIndex) -> Option<Vec<(&str, Collation)>> {
    if index.condition.is_some() {
        return None;
    }
    index.columns.iter().map(|of| Some((of.name.as_deref()?, Collation::of(&of.collation)?))).collect()
}

/// Numbers of a row's values in UNIQUE indexes: rows with an equal one cannot both be there. NULL equals nothing.
pub fn unique_prints<'a>(table: &'a Table, find: impl Fn(&str) -> Option<&'a Value>) -> Vec<u64> {
    let print = |columns: Vec<(&str, Collation)>| {
        let values: Option<Vec<(&Value, Collation)>> = columns
            .iter()
            .map(|(name, collation)| Some((find(name).filter(|value| **value != Value::Null)?, *collation)))
            .collect();
        let mut names: Vec<String> = columns.iter().map(|(name, _)| name.to_lowercase()).collect();
        names.push(String::new());
        let mut bytes = names.join("\0").into_bytes();
        bytes.extend(row_key(0, values?));
        Some(fnv1(&bytes))
    };
    let indexes = table.unique.iter().filter(|index| !index.of_primary_key);
    indexes.filter_map(|index| columns(index).and_then(print)).collect()
}
