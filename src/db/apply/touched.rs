//! The touched rows: the change log, mirrored with an index into a temporary table of the applying connection. The log
//! itself has no index, for the application would pay for it; the mirror is on disk when it is long, and rolls back with
//! the transaction.

use crate::db::{capture, error::Error, schema::Table};
use crate::model::value::{Value, row_key};
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};
use std::collections::HashMap;
use std::sync::Arc;

const MIRROR: &str = "temp.__harmonylite__touched";

/// The log as the applying connection sees it.
#[derive(Debug)]
pub struct Touched {
    /// Highest log id mirrored.
    mirrored: i64,
    /// The settled newest entry that is kept so that its id is not used again.
    placeholder: Option<i64>,
    /// Key columns of the log table.
    width: usize,
}

impl Touched {
    /// Creates the mirror; it is filled by [`Touched::catch_up`].
    pub fn new(connection: &Connection) -> Result<Touched, Error> {
        connection.execute_batch(&format!(
            "CREATE TABLE {MIRROR}(id INTEGER PRIMARY KEY, key BLOB NOT NULL); \
             CREATE INDEX temp.__harmonylite__touched_key ON __harmonylite__touched(key);"
        ))?;
        Ok(Touched { mirrored: 0, placeholder: None, width: 0 })
    }

    /// Mirrors what the application has logged. Inside the transaction that uses it; returns what to keep after a commit.
    pub fn catch_up(
        &mut self,
        connection: &Connection,
        tables: &HashMap<i64, Arc<Table>>,
    ) -> Result<(), Error> {
        self.width = capture::log_width(connection)?;
        let columns: String = (1..=self.width).map(|n| format!(", k{n}")).collect();
        let sql = format!("SELECT id, t{columns} FROM {} WHERE id > ?1 ORDER BY id", capture::LOG);
        let mut statement = connection.prepare_cached(&sql)?;
        let mut insert =
            connection.prepare_cached(&format!("INSERT INTO {MIRROR}(id, key) VALUES(?1, ?2)"))?;
        let mut rows = statement.query([self.mirrored])?;
        while let Some(row) = rows.next()? {
            let (id, table): (i64, i64) = (row.get(0)?, row.get(1)?);
            self.mirrored = id;
            if table == 0 {
                self.placeholder = Some(id);
                continue;
            }
            let Some(table) = tables.get(&table) else { continue };
            let mut key = Vec::with_capacity(table.key.len());
            for (at, (_, collation)) in table.key.iter().enumerate() {
                key.push((row.get::<_, Value>(at + 2)?, *collation));
            }
            insert.execute(params![id, row_key(table.id, &key)])?;
        }
        Ok(())
    }

    /// The highest id that the log has held.
    pub fn highest(&self) -> i64 {
        self.mirrored
    }

    /// Whether nothing at all is touched: saves the look-ups.
    pub fn is_empty(&self, connection: &Connection) -> Result<bool, Error> {
        let sql = format!("SELECT 1 FROM {MIRROR} LIMIT 1");
        Ok(connection.prepare_cached(&sql)?.query_row([], |_| Ok(())).optional()?.is_none())
    }

    /// Whether the log holds a key with an id up to `limit`.
    pub fn holds(&self, connection: &Connection, key: &[u8], limit: i64) -> Result<bool, Error> {
        let sql = format!("SELECT 1 FROM {MIRROR} WHERE key = ?1 AND id <= ?2 LIMIT 1");
        Ok(connection.prepare_cached(&sql)?.query_row(params![key, limit], |_| Ok(())).optional()?.is_some())
    }

    /// Logs a key as touched.
    pub fn touch(
        &mut self,
        connection: &Connection,
        table: &Table,
        values: &[Value],
        key: &[u8],
    ) -> Result<(), Error> {
        let columns: String = (1..=values.len()).map(|n| format!(", k{n}")).collect();
        let places: String = (1..=values.len()).map(|n| format!(", ?{}", n + 1)).collect();
        let sql = format!("INSERT INTO {}(t{columns}) VALUES(?1{places})", capture::LOG);
        let number = Value::Integer(table.id);
        connection.prepare_cached(&sql)?.execute(params_from_iter(std::iter::once(&number).chain(values)))?;
        self.mirrored = connection.last_insert_rowid();
        let sql = format!("INSERT INTO {MIRROR}(id, key) VALUES(?1, ?2)");
        connection.prepare_cached(&sql)?.execute(params![self.mirrored, key])?;
        Ok(())
    }

    /// Removes the entries of a key up to `limit`. The newest entry of the log is only emptied, so that its id, and with
    /// it the order of our events, is never used twice.
    pub fn settle(&mut self, connection: &Connection, key: &[u8], limit: i64) -> Result<usize, Error> {
        let sql = format!("SELECT id FROM {MIRROR} WHERE key = ?1 AND id <= ?2");
        let mut statement = connection.prepare_cached(&sql)?;
        let ids: Vec<i64> =
            statement.query_map(params![key, limit], |row| row.get(0))?.collect::<Result<_, _>>()?;
        self.remove(connection, &ids)
    }

    /// The same for all keys.
    pub fn settle_all(&mut self, connection: &Connection, limit: i64) -> Result<usize, Error> {
        let mut statement = connection.prepare_cached(&format!("SELECT id FROM {MIRROR} WHERE id <= ?1"))?;
        let ids: Vec<i64> = statement.query_map([limit], |row| row.get(0))?.collect::<Result<_, _>>()?;
        self.remove(connection, &ids)
    }

    fn remove(&mut self, connection: &Connection, ids: &[i64]) -> Result<usize, Error> {
        for id in ids {
            if *id == self.mirrored {
                let sql = format!("UPDATE {} SET t = 0, k1 = NULL WHERE id = ?1", capture::LOG);
                connection.prepare_cached(&sql)?.execute([id])?;
                self.drop_placeholder(connection)?;
                self.placeholder = Some(*id);
            } else {
                connection
                    .prepare_cached(&format!("DELETE FROM {} WHERE id = ?1", capture::LOG))?
                    .execute([id])?;
            }
            connection.prepare_cached(&format!("DELETE FROM {MIRROR} WHERE id = ?1"))?.execute([id])?;
        }
        Ok(ids.len())
    }

    /// Removes a placeholder that is not the newest entry any more.
    pub fn drop_placeholder(&mut self, connection: &Connection) -> Result<(), Error> {
        if let Some(id) = self.placeholder.filter(|id| *id < self.mirrored) {
            connection
                .prepare_cached(&format!("DELETE FROM {} WHERE id = ?1 AND t = 0", capture::LOG))?
                .execute([id])?;
            self.placeholder = None;
        }
        Ok(())
    }

    /// What to go back to when the transaction is rolled back.
    pub fn savepoint(&self) -> (i64, Option<i64>) {
        (self.mirrored, self.placeholder)
    }

    /// Goes back.
    pub fn rolled_back(&mut self, to: (i64, Option<i64>)) {
        (self.mirrored, self.placeholder) = to;
    }

    /// Begins again with an empty mirror: the tables' numbers changed.
    pub fn reset(&mut self, connection: &Connection) -> Result<(), Error> {
        connection.execute(&format!("DELETE FROM {MIRROR}"), [])?;
        self.mirrored = 0;
        self.placeholder = None;
        Ok(())
    }
}
