//! The touched rows: the keys that the change log holds, mirrored with an index into a temporary table of the applying
//! connection. The log itself has no index, because the application would pay for it. A long mirror is on disk, not in memory,
//! and it rolls back with the transaction.

use crate::db::capture::log_table;
use crate::db::{error::Error, schema::Schema, table::Table};
use crate::model::value::Value;
use rusqlite::{Connection, ToSql, params, params_from_iter};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS temp.__harmonylite__touched(id INTEGER PRIMARY KEY, key BLOB NOT NULL); \
     CREATE INDEX IF NOT EXISTS temp.__harmonylite__touched_key ON __harmonylite__touched(key); \
     DELETE FROM temp.__harmonylite__touched;";
const ADD: &str = "INSERT INTO temp.__harmonylite__touched(id, key) VALUES(?1, ?2)";
const REMOVE: &str = "DELETE FROM temp.__harmonylite__touched WHERE id = ?1";
const HOLDS: &str = "SELECT 1 FROM temp.__harmonylite__touched WHERE key = ?1 AND id <= ?2 LIMIT 1";
const OF_KEY: &str = "SELECT id FROM temp.__harmonylite__touched WHERE key = ?1 AND id <= ?2";
const UP_TO: &str = "SELECT id FROM temp.__harmonylite__touched WHERE id <= ?1";

/// The change log as the applying connection sees it.
#[derive(Debug)]
pub struct Touched {
    /// The query for the log's entries; its text depends on the width of the log.
    entries: String,
    /// The highest log id that was mirrored.
    highest: i64,
    /// The newest entry when it was settled: it was only emptied, so that its id is not used again.
    placeholder: Option<i64>,
    /// Number of entries mirrored.
    count: usize,
}

impl Touched {
    /// Creates the mirror, or empties it for a changed schema: tables may have other numbers, and the log more columns.
    /// [`Touched::catch_up`] fills it.
    pub fn new(connection: &Connection) -> Result<Touched, Error> {
        connection.execute_batch(CREATE)?;
        let entries = log_table::entries(log_table::width(connection)?);
        Ok(Touched { entries, highest: 0, placeholder: None, count: 0 })
    }

    /// Mirrors what the application has logged since. To be called inside the transaction that uses the mirror: then the
    /// application cannot log anything more before it ends. Returns whether it has logged something.
    pub fn catch_up(&mut self, connection: &Connection, schema: &Schema) -> Result<bool, Error> {
        let before = self.highest;
        let mut statement = connection.prepare_cached(&self.entries)?;
        let mut insert = connection.prepare_cached(ADD)?;
        let mut rows = statement.query([self.highest, i64::MAX])?;
        while let Some(row) = rows.next()? {
            let (id, number): (i64, i64) = (row.get(0)?, row.get(1)?);
            self.highest = id;
            if number == 0 {
                self.placeholder = Some(id);
                continue;
            }
            let Some(table) = schema.by_number.get(&number) else { continue };
            let key: Vec<Value> = (0..table.key.len()).map(|at| row.get(at + 2)).collect::<Result<_, _>>()?;
            insert.execute(params![id, table.row_key(&key)])?;
            self.count += 1;
        }
        Ok(self.highest > before)
    }

    /// The highest id that the log has held.
    pub fn highest(&self) -> i64 {
        self.highest
    }

    /// Whether the log holds a key with an id up to `limit`.
    pub fn holds(&self, connection: &Connection, key: &[u8], limit: i64) -> Result<bool, Error> {
        // Most of the time nothing is touched, and no query is needed to know.
        Ok(self.count > 0 && connection.prepare_cached(HOLDS)?.exists(params![key, limit])?)
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
        connection.prepare_cached(ADD)?.execute(params![self.highest, key])?;
        self.count += 1;
        Ok(())
    }

    /// Settles the entries of a key up to `limit`; returns their number.
    pub fn settle(&mut self, connection: &Connection, key: &[u8], limit: i64) -> Result<usize, Error> {
        if self.count == 0 {
            return Ok(0);
        }
        let mut statement = connection.prepare_cached(OF_KEY)?;
        let ids: Vec<i64> =
            statement.query_map(params![key, limit], |row| row.get(0))?.collect::<Result<_, _>>()?;
        self.remove(connection, &ids)
    }

    /// Settles the entries of all keys up to `limit`; returns their number.
    pub fn settle_all(&mut self, connection: &Connection, limit: i64) -> Result<usize, Error> {
        let mut statement = connection.prepare_cached(UP_TO)?;
        let ids: Vec<i64> = statement.query_map([limit], |row| row.get(0))?.collect::<Result<_, _>>()?;
        self.remove(connection, &ids)
    }

    fn remove(&mut self, connection: &Connection, ids: &[i64]) -> Result<usize, Error> {
        for id in ids {
            let newest = *id == self.highest;
            log_table::settle(connection, *id, newest)?;
            if newest {
                self.drop_placeholder(connection)?;
                self.placeholder = Some(*id);
            }
            self.count -= connection.prepare_cached(REMOVE)?.execute([id])?;
        }
        Ok(ids.len())
    }

    /// Removes the placeholder if it is not the newest entry any more.
    pub fn drop_placeholder(&mut self, connection: &Connection) -> Result<(), Error> {
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
