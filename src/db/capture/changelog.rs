//! The publisher's view of the database: the next entries of the change log, each key once, with the row's image now.

use crate::base::limits;
use crate::db::capture::{self, Capture, LOG};
use crate::db::schema::{self, Schema, Table};
use crate::db::{error::Error, open, sql::quote, state};
use crate::model::event::{Event, Kind};
use crate::model::origin::Origin;
use crate::model::value::{Value, row_key};
use rusqlite::{Connection, OptionalExtension, params_from_iter};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// One row to publish.
#[derive(Debug)]
pub struct Change {
    /// The event, its id the highest log entry of the row in this batch.
    pub event: Event,
    /// Picks the shard.
    pub shard_hash: u64,
}

/// What one pass found.
#[derive(Debug, Default)]
pub struct Batch {
    /// Rows in the order of their ids.
    pub changes: Vec<Change>,
    /// The log holds more.
    pub more: bool,
}

/// The log, read from a cursor on.
pub struct ChangeLog {
    connection: Connection,
    node: u64,
    schema: Schema,
    tables: HashMap<i64, Arc<Table>>,
    cursor: i64,
}

impl ChangeLog {
    /// Opens the database and installs capture.
    pub fn open(path: &Path, node: u64) -> Result<(ChangeLog, Capture), Error> {
        let mut connection = open::open(path)?;
        let (schema, done) = capture::install(&mut connection)?;
        let mut log =
            ChangeLog { connection, node, schema: Schema::default(), tables: HashMap::new(), cursor: 0 };
        log.take_schema(schema);
        Ok((log, done))
    }

    /// Opens the log of a damaged database as far as it can be read, and changes nothing; `None`: there is no log.
    pub fn open_damaged(path: &Path, node: u64) -> Result<Option<ChangeLog>, Error> {
        let connection = open::open(path)?;
        if !state::has_table(&connection, LOG)? {
            return Ok(None);
        }
        let schema = capture::read_numbered(&connection)?;
        let mut log =
            ChangeLog { connection, node, schema: Schema::default(), tables: HashMap::new(), cursor: 0 };
        log.take_schema(schema);
        Ok(Some(log))
    }

    /// Leaves out the next entry; false when it cannot be told which that is.
    pub fn skip(&mut self) -> bool {
        let sql = format!("SELECT min(id) FROM {LOG} WHERE id > ?1");
        let next = self.connection.query_row(&sql, [self.cursor], |row| row.get::<_, Option<i64>>(0));
        match next {
            Ok(Some(id)) => {
                self.cursor = id;
                true
            }
            _ => false,
        }
    }

    fn take_schema(&mut self, schema: Schema) {
        self.tables = schema.tables.values().map(|table| (table.id, table.clone())).collect();
        self.schema = schema;
    }

    /// Names of the tables that are captured.
    pub fn table_names(&self) -> Vec<&str> {
        self.schema.tables.keys().map(String::as_str).collect()
    }

    /// The hash of the schema that events carry.
    pub fn schema_hash(&self) -> &str {
        &self.schema.hash
    }

    /// Publishes under this name.
    pub fn origin(&self) -> Result<Origin, Error> {
        state::origin(&self.connection, self.node)
    }

    /// Brings capture in step with a schema that the application changed; `None` when it did not.
    pub fn follow_schema(&mut self) -> Result<Option<Capture>, Error> {
        if schema::version(&self.connection)? == self.schema.version {
            return Ok(None);
        }
        let (schema, done) = capture::install(&mut self.connection)?;
        self.take_schema(schema);
        Ok(Some(done))
    }

    /// Reads everything again: what was published and not settled is to be published once more.
    pub fn rewind(&mut self) {
        self.cursor = 0;
    }

    /// Highest log id read.
    pub fn cursor(&self) -> i64 {
        self.cursor
    }

    /// Number of entries whose events have not come back, up to the cursor and beyond it.
    pub fn unsettled(&self) -> Result<(i64, i64), Error> {
        let sql = format!(
            "SELECT count(*) FILTER (WHERE id <= ?1), count(*) FILTER (WHERE id > ?1) FROM {LOG} WHERE t <> 0"
        );
        Ok(self
            .connection
            .prepare_cached(&sql)?
            .query_row([self.cursor], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }

    /// The next batch, in one read transaction: entries and images belong together.
    pub fn read(&mut self, limit: u64) -> Result<Batch, Error> {
        let sql = format!("SELECT 1 FROM {LOG} WHERE id > ?1 LIMIT 1");
        let any = self.connection.prepare_cached(&sql)?.query_row([self.cursor], |_| Ok(())).optional()?;
        if any.is_none() {
            return Ok(Batch::default());
        }
        let transaction = self.connection.unchecked_transaction()?;
        let (top, last, full) = self.entries(limit)?;
        let mut batch = Batch { changes: Vec::with_capacity(top.len()), more: full };
        let mut bytes = 0;
        let mut cursor = last;
        for (id, (table, key)) in top {
            if bytes > limits::SCAN_MAX_BYTES {
                // The rest next time: entries of its keys that were passed have later ones behind the cursor.
                batch.more = true;
                break;
            }
            cursor = id;
            let Some(table) = self.tables.get(&table) else { continue };
            let image = self.image(table, &key)?;
            let shard_hash = table.shard_hash(&key);
            let event = self.event(id, table, key, image);
            bytes += event.row.iter().map(|(_, value)| value.size()).sum::<usize>();
            batch.changes.push(Change { event, shard_hash });
        }
        transaction.finish()?;
        self.cursor = if batch.more && cursor < last { cursor } else { last };
        Ok(batch)
    }

    /// Entries behind the cursor: each key under its highest id; the last id read; whether there may be more.
    #[allow(clippy::type_complexity, reason = "one caller, right above")]
    fn entries(&self, limit: u64) -> Result<(BTreeMap<i64, (i64, Vec<Value>)>, i64, bool), Error> {
        let width = capture::log_width(&self.connection)?;
        let columns: String = (1..=width).map(|n| format!(", k{n}")).collect();
        let sql = format!("SELECT id, t{columns} FROM {LOG} WHERE id > ?1 ORDER BY id LIMIT ?2");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([self.cursor, i64::try_from(limit).unwrap_or(i64::MAX)])?;
        let mut highest: HashMap<Vec<u8>, i64> = HashMap::new();
        let mut top = BTreeMap::new();
        let (mut last, mut count) = (self.cursor, 0);
        while let Some(row) = rows.next()? {
            let (id, number): (i64, i64) = (row.get(0)?, row.get(1)?);
            last = id;
            count += 1;
            let Some(table) = self.tables.get(&number) else { continue };
            let values: Vec<Value> =
                (0..table.key.len()).map(|at| row.get(at + 2)).collect::<Result<_, _>>()?;
            let with_collation: Vec<_> =
                values.iter().cloned().zip(table.key.iter().map(|(_, collation)| *collation)).collect();
            if let Some(earlier) = highest.insert(row_key(number, &with_collation), id) {
                top.remove(&earlier);
            }
            top.insert(id, (number, values));
        }
        Ok((top, last, count == limit))
    }

    /// All stored columns of the row, the pseudo column `rowid` first where it is the key; `None`: the row is gone.
    fn image(&self, table: &Table, key: &[Value]) -> Result<Option<Vec<Value>>, Error> {
        let mut columns: Vec<String> = table.stored().map(|column| quote(&column.name)).collect();
        if table.by_rowid {
            columns.insert(0, "rowid".to_owned());
        }
        // Several rows can have the same NULL key; the newest stands for them.
        let order = if table.without_rowid || table.by_rowid || table.integer_key {
            ""
        } else {
            " ORDER BY rowid DESC LIMIT 1"
        };
        let sql = format!(
            "SELECT {} FROM main.{} WHERE {}{order}",
            columns.join(", "),
            quote(&table.name),
            table.key_filter()
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let count = columns.len();
        let image = statement
            .query_row(params_from_iter(key), |row| {
                (0..count).map(|at| row.get(at)).collect::<Result<Vec<Value>, _>>()
            })
            .optional()?;
        Ok(image)
    }

    fn event(&self, id: i64, table: &Table, key: Vec<Value>, image: Option<Vec<Value>>) -> Event {
        let (kind, row) = match image {
            Some(values) => {
                let pseudo = table.by_rowid.then(|| "rowid".to_owned());
                let names = pseudo.into_iter().chain(table.stored().map(|column| column.name.clone()));
                (Kind::Insert, names.zip(values).collect())
            }
            None => (Kind::Delete, table.key.iter().map(|(name, _)| name.clone()).zip(key).collect()),
        };
        let schema_hash = Some(self.schema.hash.clone());
        Event { node: self.node, id, kind, table: table.name.clone(), row, schema_hash }
    }

    /// `replicate = false`: nothing comes back, so an acknowledged event settles its row's entries. Deletes the entries up
    /// to `id`, all of which are acknowledged, but for the newest.
    pub fn settle_up_to(&self, id: i64) -> Result<(), Error> {
        let newest = format!("(SELECT max(id) FROM {LOG})");
        let sql = format!("DELETE FROM {LOG} WHERE id <= ?1 AND id < {newest}");
        self.connection.prepare_cached(&sql)?.execute([id])?;
        let sql = format!("UPDATE {LOG} SET t = 0 WHERE id <= ?1 AND t <> 0");
        self.connection.prepare_cached(&sql)?.execute([id])?;
        Ok(())
    }
}
