//! Finding orphans (see [`crate::db::apply::orphans`]), keeping them, and settling them.

use crate::db::apply::applier::Applier;
use crate::db::apply::bring_back::own_write;
use crate::db::apply::claims;
use crate::db::apply::conflicts::{Found, Kind};
use crate::db::apply::orphans::{GivenUp, Kept, Seen};
use crate::db::apply::rows;
use crate::db::apply::session::Session;
use crate::db::apply::subject::Place;
use crate::db::capture::log_table;
use crate::db::foreign_keys::{Action, ForeignKey};
use crate::db::{error::Error, table::Table};
use crate::model::event::{self, Event};
use crate::model::value::{Collation, Value, row_key};
use std::collections::{HashMap, HashSet};
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
    /// The row that it refers to, if it refers to a key.
    parent: Option<Vec<u8>>,
    /// That is gone in the stream by an event of ours.
    is_removed: bool,
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
                let mut orphans = self.orphans_of_ours(key, &pending)?;
                orphans.extend(self.orphans_of_others(key, &pending)?);
                let of_key: Vec<&GivenUp> = given_up.iter().filter(|row| row.is_of(number)).collect();
                orphans.extend(self.orphans_of_given_up(key, &of_key)?);
                for orphan in orphans {
                    self.keep_orphan(&orphan, (number, key))?;
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

    /// Rows of ours on their way that refer to what others have removed.
    fn orphans_of_ours(&self, key: &ForeignKey, pending: &HashSet<i64>) -> Result<Vec<Orphan>, Error> {
        let Some((child, parent)) = self.tables_of(key) else { return Ok(vec![]) };
        let mut found = vec![];
        let all = || self.orphans.seen.iter().filter(|seen| seen.table == parent.name && seen.gone);
        if !pending.contains(&child.id) || all().next().is_none() {
            return Ok(found);
        }
        for (row, refers) in key.pending_orphans(&self.connection, &child)? {
            // One that came back in this transaction is in the log until its end.
            if !self.is_touched(&child.row_key(&row))? {
                continue;
            }
            let by_key = key.key_of(&parent, &refers);
            let mut gone = all().filter(|seen| by_key.as_ref().is_none_or(|key| *key == seen.key));
            if let Some(Seen { place, node, .. }) = gone.next_back() {
                let (table, place, won_by) = (child.clone(), *place, *node);
                let parent = by_key.map(|key| parent.row_key(&key));
                found.push(Orphan {
                    table,
                    key: row,
                    lost_by: self.node(),
                    won_by,
                    place,
                    parent,
                    is_removed: false,
                });
            }
        }
        Ok(found)
    }

    /// Rows of others that refer to what we have removed.
    fn orphans_of_others(&self, key: &ForeignKey, pending: &HashSet<i64>) -> Result<Vec<Orphan>, Error> {
        let Some((child, parent)) = self.tables_of(key) else { return Ok(vec![]) };
        let mut found = vec![];
        let is_pending = pending.contains(&parent.id);
        let all = self.orphans.seen.iter().filter(|seen| seen.table == child.name && !seen.gone);
        for seen in all.filter(|seen| is_pending || seen.late) {
            let Some(refers) = key.orphan_refers(&self.connection, &child, &seen.key)? else { continue };
            let parent_key = key.key_of(&parent, &refers).map(|key| parent.row_key(&key));
            let ours = match (&parent_key, seen.late) {
                (Some(key), false) => self.is_touched(key)?,
                // The parent may wait, too.
                (Some(key), true) => !self.aside.waits(&self.connection, (&parent.name, key), i64::MAX)?,
                (None, _) => true,
            };
            if ours {
                let (table, key, place) = (child.clone(), seen.key.clone(), seen.place);
                let (lost_by, won_by) = (seen.node, self.node());
                found.push(Orphan {
                    table,
                    key,
                    lost_by,
                    won_by,
                    place,
                    parent: parent_key,
                    is_removed: false,
                });
            }
        }
        Ok(found)
    }

    /// The child and the parent.
    fn tables_of(&self, key: &ForeignKey) -> Option<(Arc<Table>, Arc<Table>)> {
        let tables = &self.schema.tables;
        Some((tables.get(&key.child)?.clone(), tables.get(&key.parent)?.clone()))
    }

    /// Rows that refer to those which were given up.
    fn orphans_of_given_up(&self, key: &ForeignKey, rows: &[&GivenUp]) -> Result<Vec<Orphan>, Error> {
        let (Some((child, parent)), Some(last)) = (self.tables_of(key), rows.last()) else {
            return Ok(vec![]);
        };
        let all: Vec<&[Value]> = rows.iter().map(|row| row.refers.as_slice()).collect();
        let form = |values: &[Value]| row_key(0, values.iter().map(|value| (value, Collation::Binary)));
        let of_values: HashMap<Vec<u8>, &GivenUp> =
            rows.iter().map(|row| (form(&row.refers), *row)).collect();
        let orphan = |(key_values, refers): (Vec<Value>, Vec<Value>)| {
            // Columns of different types may hold equal values in different forms.
            let row = of_values.get(&form(&refers)).unwrap_or(last);
            Orphan {
                table: child.clone(),
                key: key_values,
                lost_by: row.node,
                won_by: self.node(),
                place: row.place,
                parent: key.key_of(&parent, &refers).map(|key| parent.row_key(&key)),
                is_removed: row.is_removed,
            }
        };
        Ok(key.orphans_of(&self.connection, &child, &all)?.into_iter().map(orphan).collect())
    }

    fn image_of(&self, orphan: &Orphan) -> Result<Option<Event>, Error> {
        rows::event_of(&self.connection, &orphan.table, &orphan.key, orphan.lost_by)
    }

    fn keep_orphan(&mut self, orphan: &Orphan, key: (usize, &ForeignKey)) -> Result<(), Error> {
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
        self.note_kept(orphan, key, &image)
    }

    /// Until the write of ours comes back by which it is an orphan, this may change.
    fn note_kept(
        &mut self,
        orphan: &Orphan,
        (foreign, key): (usize, &ForeignKey),
        image: &Event,
    ) -> Result<(), Error> {
        let (row, parent) = (orphan.table.row_key(&orphan.key), orphan.parent.clone());
        let is_of_ours = self.is_touched(&row)?;
        let mut kept = Kept {
            table: orphan.table.name.clone(),
            key: orphan.key.clone(),
            row,
            foreign,
            refers: claims::refers(key, image),
            is_theirs: false,
            is_ours: false,
            parent,
            place: orphan.place,
        };
        if is_of_ours {
            kept.is_ours = orphan.is_removed && self.beneath.refers(&kept) == kept.refers;
            self.orphans.kept_of.insert(kept.row.clone(), kept);
            return Ok(());
        }
        self.keep_until_gone(kept)
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
