//! The touched rows: the keys that the change log holds, mirrored by the applying connection. The log itself has no index, because
//! the application would pay for it. Beyond a number of keys, the mirror goes on in a temporary table: on disk, not in memory.
//! When a transaction is rolled back, the mirror is made anew.

use crate::base::limits;
use crate::db::apply::rows;
use crate::db::capture::log_table::{self, Touch};
use crate::db::{error::Error, schema::Schema, table::Table};
use crate::model::value::Value;
use rusqlite::{Connection, ToSql, params, params_from_iter};
use std::collections::HashMap;
use std::sync::Arc;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS temp.__harmonylite__touched(key BLOB, id INTEGER, PRIMARY KEY(key, id)) WITHOUT ROWID; \
     DELETE FROM temp.__harmonylite__touched;";
const ADD: &str = "INSERT INTO temp.__harmonylite__touched(key, id) VALUES(?1, ?2)";
const REMOVE: &str = "DELETE FROM temp.__harmonylite__touched WHERE key = ?1 AND id = ?2";
const OF_KEY: &str = "SELECT id FROM temp.__harmonylite__touched WHERE key = ?1";
const UP_TO: &str = "SELECT key, id FROM temp.__harmonylite__touched WHERE id <= ?1";

/// The ids of a key: nearly always one.
#[derive(Debug)]
enum Ids {
    One(i64),
    More(Vec<i64>),
}

impl Ids {
    fn push(&mut self, id: i64) {
        match self {
            Ids::One(first) => *self = Ids::More(vec![*first, id]),
            Ids::More(ids) => ids.push(id),
        }
    }

    fn as_slice(&self) -> &[i64] {
        match self {
            Ids::One(id) => std::slice::from_ref(id),
            Ids::More(ids) => ids,
        }
    }

    /// `None`: none is left.
    fn without(&self, gone: &[i64]) -> Option<Ids> {
        if let Ids::One(id) = self {
            return (!gone.contains(id)).then_some(Ids::One(*id));
        }
        let left: Vec<i64> = self.as_slice().iter().filter(|id| !gone.contains(id)).copied().collect();
        match left.as_slice() {
            [] => None,
            [id] => Some(Ids::One(*id)),
            _ => Some(Ids::More(left)),
        }
    }
}

/// Bytes that a key takes in memory.
fn weight(key: &[u8]) -> usize {
    key.len() + limits::TOUCHED_WEIGHT
}

/// The change log as the applying connection sees it.
#[derive(Debug)]
pub struct Touched {
    /// The query for the log's entries; its text depends on the width of the log.
    entries: String,
    /// The highest log id that was mirrored.
    highest: i64,
    /// The newest entry when it was settled: it was only emptied, so that its id is not used again.
    placeholder: Option<i64>,
    /// Ids by key, of the entries that came first.
    near: HashMap<Box<[u8]>, Ids>,
    /// Bytes that they take.
    near_bytes: usize,
    /// Bytes that they may take.
    room: usize,
    /// Number of entries in the temporary table.
    far: usize,
    /// Ranges of ids that are settled, and still in the log: [`Touched::write_back`] removes them.
    settled: Vec<(i64, i64)>,
}

impl Touched {
    /// Creates the mirror, or empties it for a changed schema: tables may have other numbers, and the log more columns.
    /// [`Touched::catch_up`] fills it.
    pub fn new(connection: &Connection) -> Result<Touched, Error> {
        connection.execute_batch(CREATE)?;
        let entries = log_table::entries(log_table::width(connection)?);
        Ok(Touched {
            entries,
            highest: 0,
            placeholder: None,
            near: HashMap::new(),
            near_bytes: 0,
            room: limits::TOUCHED_NEAR,
            far: 0,
            settled: vec![],
        })
    }

    /// Mirrors what the application has logged since. To be called inside the transaction that uses the mirror: then the
    /// application cannot log anything more before it ends. Returns whether it has logged something.
    pub fn catch_up(&mut self, connection: &Connection, schema: &Schema) -> Result<bool, Error> {
        let before = self.highest;
        let mut statement = connection.prepare_cached(&self.entries)?;
        let mut rows = statement.query([self.highest, i64::MAX])?;
        let mut in_the_way: Vec<(Arc<Table>, Vec<Value>, i64)> = vec![];
        while let Some(row) = rows.next()? {
            let (id, number): (i64, i64) = (row.get(0)?, row.get(1)?);
            self.highest = id;
            if number == 0 {
                self.placeholder = Some(id);
                continue;
            }
            let (number, touch) = Touch::of(number);
            let Some(table) = schema.by_number.get(&number) else { continue };
            let key: Vec<Value> = (0..table.key.len()).map(|at| row.get(at + 2)).collect::<Result<_, _>>()?;
            self.add(connection, table.row_key(&key), id)?;
            if touch.is_unsure(&key) {
                in_the_way.push((table.clone(), key, id));
            }
        }
        drop(rows);
        drop(statement);
        // The last one first: what is left says that the row was written.
        for (table, key, id) in in_the_way.into_iter().rev() {
            self.settle_unwritten(connection, (&table, &key), id)?;
        }
        Ok(self.highest > before)
    }

    /// Settles an entry that says [`Touch::InTheWay`] if its row is still there and no later entry says that it was written: it was
    /// there all the time, so nothing has been published for the entry, and nothing will be.
    fn settle_unwritten(
        &mut self,
        connection: &Connection,
        (table, key): (&Table, &[Value]),
        id: i64,
    ) -> Result<(), Error> {
        let row_key = table.row_key(key);
        let is_last = self.ids(connection, &row_key)?.iter().all(|known| *known <= id);
        if is_last && rows::is_there(connection, table, key)? {
            self.settle(connection, &row_key, &[id])?;
        }
        Ok(())
    }

    fn add(&mut self, connection: &Connection, key: Vec<u8>, id: i64) -> Result<(), Error> {
        if let Some(ids) = self.near.get_mut(&*key) {
            ids.push(id);
        } else if self.near_bytes < self.room {
            self.near_bytes += weight(&key);
            self.near.insert(key.into_boxed_slice(), Ids::One(id));
        } else {
            connection.prepare_cached(ADD)?.execute(params![key, id])?;
            self.far += 1;
        }
        Ok(())
    }

    /// The highest id that the log has held.
    pub fn highest(&self) -> i64 {
        self.highest
    }

    /// Whether the log holds nothing.
    pub fn is_empty(&self) -> bool {
        self.near.is_empty() && self.far == 0
    }

    /// The ids under which the log holds a key.
    pub fn ids(&self, connection: &Connection, key: &[u8]) -> Result<Vec<i64>, Error> {
        let mut ids = self.near.get(key).map_or(vec![], |ids| ids.as_slice().to_vec());
        // Most of the time no query is needed to know.
        if self.far > 0 {
            let mut statement = connection.prepare_cached(OF_KEY)?;
            for id in statement.query_map([key], |row| row.get(0))? {
                ids.push(id?);
            }
        }
        Ok(ids)
    }

    /// Logs a key as touched.
    pub fn touch<'a>(
        &mut self,
        connection: &Connection,
        table: &Table,
        values: impl IntoIterator<Item = &'a Value>,
        key: &[u8],
    ) -> Result<(), Error> {
        let parameters = std::iter::once(&table.id as &dyn ToSql)
            .chain(values.into_iter().map(|value| value as &dyn ToSql));
        connection.prepare_cached(&table.sql().touch)?.execute(params_from_iter(parameters))?;
        self.highest = connection.last_insert_rowid();
        self.add(connection, key.to_vec(), self.highest)
    }

    /// Settles entries of a key.
    pub fn settle(&mut self, connection: &Connection, key: &[u8], ids: &[i64]) -> Result<(), Error> {
        for id in ids {
            if *id == self.highest {
                log_table::empty(connection, *id)?;
                self.drop_placeholder(connection)?;
                self.placeholder = Some(*id);
            } else {
                self.note_settled(*id);
            }
        }
        if let Some(near) = self.near.get_mut(key) {
            match near.without(ids) {
                Some(rest) => *near = rest,
                None => {
                    self.near.remove(key);
                    self.near_bytes -= weight(key);
                }
            }
        }
        // Those of one key may be in both.
        if self.far > 0 {
            for id in ids {
                self.far -= connection.prepare_cached(REMOVE)?.execute(params![key, id])?;
            }
        }
        Ok(())
    }

    /// Settles the entries of all keys up to `limit`; returns their number.
    pub fn settle_all(&mut self, connection: &Connection, limit: i64, but: &[i64]) -> Result<usize, Error> {
        let mut statement = connection.prepare_cached(UP_TO)?;
        let entries = statement.query_map([limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut entries: Vec<(Vec<u8>, i64)> = entries.collect::<Result<_, _>>()?;
        let near =
            self.near.iter().flat_map(|(key, ids)| ids.as_slice().iter().map(|id| (key.to_vec(), *id)));
        entries.extend(near.filter(|(_, id)| *id <= limit));
        entries.retain(|(_, id)| !but.contains(id));
        entries.sort_unstable_by_key(|(_, id)| *id);
        for (key, id) in &entries {
            self.settle(connection, key, &[*id])?;
        }
        Ok(entries.len())
    }

    /// Most come in the order of their ids: whole ranges are removed by one statement.
    fn note_settled(&mut self, id: i64) {
        match self.settled.last_mut() {
            Some((_, last)) if *last + 1 == id => *last = id,
            _ => self.settled.push((id, id)),
        }
    }

    /// Removes from the log what was settled. To be called before the transaction ends.
    pub fn write_back(&mut self, connection: &Connection) -> Result<(), Error> {
        if self.near.is_empty() {
            self.near = HashMap::new();
        }
        for (first, last) in self.settled.drain(..) {
            log_table::remove(connection, first, last)?;
        }
        self.drop_placeholder(connection)
    }

    /// Removes the placeholder if it is not the newest entry any more.
    fn drop_placeholder(&mut self, connection: &Connection) -> Result<(), Error> {
        if let Some(id) = self.placeholder.filter(|id| *id < self.highest) {
            log_table::remove_emptied(connection, id)?;
            self.placeholder = None;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "touched_tests.rs"]
mod tests;
