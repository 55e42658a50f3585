//! Rows that break a UNIQUE rule which another node has made: they were written where nobody had it yet. Where the rule holds already,
//! one of them has lost its place to the other. Here one is given up, as by a write of this node, and the other one is written again:
//! so all nodes come to the same, whichever they had kept.

use crate::base::{clock, limits};
use crate::db::apply::carry;
use crate::db::apply::conflicts::Kind;
use crate::db::apply::lost;
use crate::db::apply::rows::{self, Failure};
use crate::db::apply::session::Session;
use crate::db::apply::subject::{Place, Source, Subject};
use crate::db::error::Error;
use crate::db::migrate;
use crate::db::table::Table;
use crate::model::change::Change;
use crate::model::value::Value;

impl Session {
    /// Removes rows that keep a change of the schema from being carried out; they are kept as lost writes. Returns how many.
    pub fn give_up_doubles(&mut self, change: &Change) -> Result<usize, Error> {
        if self.touched.is_none() {
            return Ok(0); // What it removed would stay elsewhere.
        }
        let mut count = 0;
        for rule in migrate::brought(&self.connection, change)? {
            let Some(table) = self.schema.find(&rule.table).cloned() else { continue };
            let doubles = rule.doubles(&self.connection, &table, limits::DOUBLES + 1)?;
            if doubles.len() > limits::DOUBLES {
                let why = format!("more than {} rows of it break a UNIQUE rule", limits::DOUBLES);
                return Err(Error::Mismatch(format!("{}: {why}", table.name)));
            }
            for (lost, stays) in doubles {
                self.give_up(&table, &lost)?;
                self.touch(&table, &stays, &table.row_key(&stays))?;
                count += 1;
            }
        }
        self.find_orphans()?;
        Ok(count)
    }

    fn give_up(&mut self, table: &std::sync::Arc<Table>, key_values: &[Value]) -> Result<(), Error> {
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
        let removed = carry::delete(self, table, key_values);
        removed.map_err(|failure| match failure {
            Failure::Database(error) => error,
            Failure::Refused(why) | Failure::Missing(why) => {
                Error::Mismatch(format!("{}: {why}", table.name))
            }
            Failure::Collides => Error::Mismatch(format!("{}: a row cannot be removed", table.name)),
        })?;
        self.touch(table, key_values, &key)
    }
}
