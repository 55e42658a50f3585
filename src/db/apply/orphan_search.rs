//! Finding orphans (see [`crate::db::apply::orphans`]), keeping them, and settling them.

use crate::db::apply::applier::Applier;
use crate::db::apply::bring_back::own_write;
use crate::db::apply::conflicts::{Found, Kind};
use crate::db::apply::orphans::{GivenUp, Seen};
use crate::db::apply::rows;
use crate::db::apply::session::Session;
use crate::db::apply::subject::Place;
use crate::db::capture::log_table;
use crate::db::foreign_keys::{Action, ForeignKey};
use crate::db::{error::Error, table::Table};
use crate::model::event::{self, Event};
use crate::model::value::Value;
use std::collections::HashSet;
use std::sync::Arc;

/// Rows whose settling made other orphans are looked at again, so many times.
const DEPTH: usize = 16;

/// A row that refers to nothing.
struct Orphan {
    table: Arc<Table>,
    key: Vec<Value>,
    lost_by: u64,
    won_by: u64,
    place: Place,
}

impl Applier {
    /// Settles rows that refer to one which is gone as their foreign key says, from now on.
    pub fn settle_orphans(&mut self) {
        self.session.orphans.settle();
    }
}

impl Session {
    /// Notes that a row of another node was written, if it can make an orphan: if something of our own is on its way, or if it had waited,
    /// and what it refers to may have been deleted meanwhile.
    pub fn see_row(&mut self, event: &Event, place: Place, late: bool) {
        if !self.orphans.keys.is_empty()
            && self.touched.as_ref().is_some_and(|touched| late || !touched.is_empty())
            && let Some(table) = self.schema.find(&event.table).cloned()
        {
            self.orphans.see(&table, event, place, late);
        }
    }

    /// Finds what has become an orphan in this transaction so far. An echo settles what tells that the rows before it were written
    /// at the same time, so this comes before it.
    pub fn find_orphans(&mut self) -> Result<(), Error> {
        for _ in 0..DEPTH {
            if self.orphans.seen.is_empty() && self.orphans.given_up.is_empty() {
                return Ok(());
            }
            let given_up = std::mem::take(&mut self.orphans.given_up);
            let pending = log_table::tables_with_entries(&self.connection)?;
            let keys = self.orphans.keys.clone();
            let mut next = vec![];
            for (number, key) in keys.iter().enumerate() {
                let mut orphans = self.orphans_of(key, &pending)?;
                for row in given_up.iter().filter(|row| row.key == number) {
                    orphans.extend(self.orphans_of_given_up(key, row)?);
                }
                for orphan in orphans {
                    self.keep_orphan(&orphan)?;
                    if self.orphans.settles && self.settle_orphan(&orphan, key)? {
                        let Orphan { table, key, place, .. } = orphan;
                        next.push(Seen {
                            table: table.name.clone(),
                            key,
                            place,
                            node: self.node(),
                            gone: true,
                            late: false,
                        });
                    }
                }
            }
            if next.is_empty() {
                self.orphans.seen.clear();
            }
            self.orphans.seen.extend(next);
        }
        self.orphans.seen.clear();
        Ok(())
    }

    fn orphans_of(&self, key: &ForeignKey, pending: &HashSet<i64>) -> Result<Vec<Orphan>, Error> {
        let tables = [&key.child, &key.parent].map(|name| self.schema.tables.get(name).cloned());
        let [Some(child), Some(parent)] = tables else { return Ok(vec![]) };
        let of = |table: &Table, gone: bool| {
            let name = table.name.clone();
            self.orphans.seen.iter().filter(move |seen| seen.table == name && seen.gone == gone)
        };
        let mut found = vec![];
        if pending.contains(&child.id) && of(&parent, true).next().is_some() {
            for (row, refers) in key.pending_orphans(&self.connection, &child)? {
                let by_key = key.key_of(&parent, &refers);
                let gone =
                    of(&parent, true).filter(|seen| by_key.as_ref().is_none_or(|key| *key == seen.key));
                if let Some(Seen { place, node, .. }) = gone.last() {
                    let (table, place, won_by) = (child.clone(), *place, *node);
                    found.push(Orphan { table, key: row, lost_by: self.node(), won_by, place });
                }
            }
        }
        let is_pending = pending.contains(&parent.id);
        if is_pending || of(&child, false).any(|seen| seen.late) {
            for seen in of(&child, false).filter(|seen| is_pending || seen.late) {
                let Some(refers) = key.orphan_refers(&self.connection, &child, &seen.key)? else { continue };
                let parent_key = key.key_of(&parent, &refers).map(|key| parent.row_key(&key));
                let ours = match (&parent_key, seen.late) {
                    (Some(key), false) => self.is_touched(key)?,
                    // The parent may wait, too.
                    (Some(key), true) => {
                        !self.aside.waits(&self.connection, (&parent.name, key), i64::MAX)?
                    }
                    (None, _) => true,
                };
                if ours {
                    let (table, key, place) = (child.clone(), seen.key.clone(), seen.place);
                    found.push(Orphan { table, key, lost_by: seen.node, won_by: self.node(), place });
                }
            }
        }
        Ok(found)
    }

    fn orphans_of_given_up(&self, key: &ForeignKey, row: &GivenUp) -> Result<Vec<Orphan>, Error> {
        let Some(child) = self.schema.tables.get(&key.child) else { return Ok(vec![]) };
        let keys = key.orphans_of(&self.connection, child, &row.refers)?;
        let orphan = |key| Orphan {
            table: child.clone(),
            key,
            lost_by: row.node,
            won_by: self.node(),
            place: row.place,
        };
        Ok(keys.into_iter().map(orphan).collect())
    }

    fn image_of(&self, orphan: &Orphan) -> Result<Option<Event>, Error> {
        rows::event_of(&self.connection, &orphan.table, &orphan.key, orphan.lost_by)
    }

    fn keep_orphan(&mut self, orphan: &Orphan) -> Result<(), Error> {
        let Some(image) = self.image_of(orphan)? else { return Ok(()) };
        let (table, Place { stream, seq, time_ms }) = (orphan.table.clone(), orphan.place);
        let found = Found {
            table: &table.name,
            key: &table.row_key(&orphan.key),
            kind: Kind::Orphan,
            lost_by: orphan.lost_by,
            won_by: orphan.won_by,
            // No entry of the log has it: what is found of a write of ours is told apart.
            won_id: -1,
            stream: &self.streams[stream],
            seq,
            time_ms,
            key_columns: table.key.iter().map(|column| &*column.name).collect(),
            payload: image.encode(),
        };
        self.conflicts.put(&self.connection, &found)?;
        self.applied.lost += 1;
        Ok(())
    }

    /// Writes what the foreign key says should happen to the row. True: it is deleted.
    fn settle_orphan(&mut self, orphan: &Orphan, key: &ForeignKey) -> Result<bool, Error> {
        let Some(mut image) = self.image_of(orphan)? else { return Ok(false) };
        match key.on_delete {
            Action::Cascade => image.kind = event::Kind::Delete,
            Action::SetNull => {
                let is_of_key =
                    |name: &str| key.columns.iter().any(|(child, _)| child.eq_ignore_ascii_case(name));
                let of_key = image.row.iter_mut().filter(|(name, _)| is_of_key(name));
                of_key.for_each(|(_, value)| *value = Value::Null);
            }
            Action::None => return Ok(false),
        }
        match own_write(self, &orphan.table, &image) {
            Ok(()) => Ok(key.on_delete == Action::Cascade),
            // A NOT NULL column, say: it stays, and stays on the list.
            Err(Error::Mismatch(why)) => {
                log::warn!("an orphan is not settled: {why}");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
#[path = "orphans_tests.rs"]
mod tests;
