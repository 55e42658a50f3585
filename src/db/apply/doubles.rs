//! Rows that break a UNIQUE rule which another node has made: they were written where nobody had it yet. Where the rule holds already,
//! one of them has lost its place to the other.
//!
//! What was written after the rule in the order is still on its way here, and wins: the other row is given up, and kept as a lost
//! write. What was there before it the node that made the rule has seen with its rule in place. It says which row has gone, right
//! after the change, so this node waits; if it says nothing, the last row by the key stays. What is decided here is published as any
//! write is: so all nodes come to the same, whichever they had kept.

use crate::base::{clock, limits};
use crate::db::apply::bring_back::remove_row;
use crate::db::apply::conflicts::Kind;
use crate::db::apply::lost;
use crate::db::apply::rows;
use crate::db::apply::session::Session;
use crate::db::apply::subject::{Place, Source, Subject};
use crate::db::error::Error;
use crate::db::migrate;
use crate::db::table::Table;
use crate::model::change::Change;
use crate::model::value::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// What came of rows that keep a change of the schema from being carried out.
#[derive(Debug, Default)]
pub struct Doubles {
    /// So many were removed.
    pub given_up: usize,
    /// The node that made the change may still say which ones are gone.
    pub waits: bool,
}

impl Session {
    /// Removes rows that keep a change of the schema from being carried out.
    pub fn give_up_doubles(&mut self, change: &Change) -> Result<Doubles, Error> {
        let mut found = Doubles::default();
        if self.touched.is_none() {
            return Ok(found); // What it removed would stay elsewhere.
        }
        let since = *self.travel.doubles_since.get_or_insert_with(Instant::now);
        let is_patient = since.elapsed() < limits::DOUBLES_PATIENCE;
        for rule in migrate::brought(&self.connection, change)? {
            let Some(table) = self.schema.find(&rule.table).cloned() else { continue };
            let doubles = rule.doubles(&self.connection, &table, limits::DOUBLES + 1)?;
            if doubles.len() > limits::DOUBLES {
                let why = format!("more than {} rows of it break a UNIQUE rule", limits::DOUBLES);
                return Err(Error::Mismatch(format!("{}: {why}", table.name)));
            }
            let mut groups: BTreeMap<Vec<u8>, Vec<Vec<Value>>> = BTreeMap::new();
            for (row, last) in doubles {
                groups.entry(table.row_key(&last)).or_insert_with(|| vec![last]).push(row);
            }
            for mut same in groups.into_values() {
                let mut winner = None;
                for (at, row) in same.iter().enumerate() {
                    if winner.is_none() && self.is_touched(&table.row_key(row))? {
                        winner = Some(at);
                    }
                }
                found.waits |= winner.is_none() && is_patient;
                let stays = same.swap_remove(winner.unwrap_or(0));
                for lost in &same {
                    self.give_up(&table, lost)?;
                    found.given_up += 1;
                }
                self.touch(&table, &stays, &table.row_key(&stays))?;
            }
        }
        self.find_orphans()?;
        Ok(found)
    }

    fn give_up(&mut self, table: &Arc<Table>, key_values: &[Value]) -> Result<(), Error> {
        let key = table.row_key(key_values);
        let nowhere = Place { stream: 0, seq: 0, time_ms: clock::unix_ms() };
        let (node, place) = match self.is_touched(&key)? {
            true => (self.node(), nowhere),
            // Who wrote it may have been forgotten.
            false => self.recent.of(&key).unwrap_or((0, nowhere)),
        };
        let Some(event) = rows::event_of(&self.connection, table, key_values, node)? else { return Ok(()) };
        if let Some(row) = Subject::new(table, &event, Source::default()) {
            let (won_by, stream) = ((self.node(), None), self.streams[place.stream].clone());
            lost::keep(self, &row, Kind::Unique, won_by, (&stream, place.seq, place.time_ms))?;
        }
        self.orphans.give_up(table, &event, place, true);
        remove_row(self, table, key_values)?;
        self.touch(table, key_values, &key)
    }
}
