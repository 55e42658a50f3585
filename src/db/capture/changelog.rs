//! The publisher's view of the database: the next entries of the change log, each key once, with the image that its row has now.

use crate::base::{limits, memory};
use crate::db::capture::entries::{self, Entries, Logged};
use crate::db::capture::install::{self, Capture};
use crate::db::capture::log_table;
use crate::db::migrate::history::{self, State};
use crate::db::migrate::{self, Looker};
use crate::db::schema::{self, Known, Schema};
use crate::db::steering::Steering;
use crate::db::{error::Error, open, schema_rows, state, table::Table};
use crate::model::change;
use crate::model::event::{Event, Kind};
use crate::model::origin::Origin;
use crate::model::value::Value;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params_from_iter};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What is said when the log, or the table of its numbers, is not there any more.
const DROPPED: &str = "somebody has dropped tables of harmonylite from the database";

/// One row to publish.
#[derive(Debug)]
pub struct Change {
    /// The event; its id is that of the row's highest log entry in this batch.
    pub event: Event,
    /// Picks the shard; 0 where there is one alone.
    pub shard_hash: u64,
}

/// What one reading of the change log found.
#[derive(Debug, Default)]
pub struct Batch {
    /// Rows in the order of their ids.
    pub changes: Vec<Change>,
    /// The log may hold more.
    pub more: bool,
    /// There are entries of rows that nobody has written, after all. Nothing is published for them.
    pub passed: bool,
}

/// The change log, read from a cursor on.
pub struct ChangeLog {
    connection: Connection,
    node: u64,
    schema: Arc<Schema>,
    known: Known,
    /// The query for the next entries; its text depends on the width of the log.
    entries: String,
    /// The highest log id that was read.
    cursor: i64,
    steering: Steering,
    /// All rows go to one stream.
    one_stream: bool,
    /// Number of rows that the schema has.
    rows: i64,
    /// What was known when the connection gave back its schema; `None` since it was used.
    resting: Option<Resting>,
    /// Who notes what the application changes of its schema; `None`: nobody.
    looker: Option<Looker>,
    /// The version of the schema when that was looked for.
    looked: i64,
}

/// The database as a connection has seen it before it gave back its schema.
struct Resting {
    /// `PRAGMA data_version`
    version: i64,
    /// What [`ChangeLog::unsettled`] counted.
    unsettled: (i64, i64),
    origin: Origin,
}

impl ChangeLog {
    /// Opens the database and installs capture.
    #[cfg(test)]
    pub fn open(path: &Path, node: u64) -> Result<(ChangeLog, Capture), Error> {
        ChangeLog::open_on(open::open(path)?, node)
    }

    /// Installs capture in an opened database.
    pub fn open_on(mut connection: Connection, node: u64) -> Result<(ChangeLog, Capture), Error> {
        if install::mend(&mut connection)? {
            log::error!("{DROPPED}: they are made anew, and what was written meanwhile is found out");
        }
        if state::exists(&connection)? && state::meta(&connection, state::MENDED)?.is_some() {
            state::remove_meta(&connection, state::MENDED)?;
        }
        let known = Known::default();
        let (schema, done) = install::install_after(&mut connection, &known)?;
        schema.tell_refused(&Schema::default());
        let mut log = ChangeLog::new(connection, node, schema, known)?;
        if log.may_rest() {
            // Before the next connection reads the schema, and until there is something to publish.
            log.rest()?;
        }
        Ok((log, done))
    }

    /// Opens the log of a damaged database as far as it can be read, and changes nothing. `None` without a log.
    pub fn open_damaged(path: &Path, node: u64) -> Result<Option<ChangeLog>, Error> {
        let connection = open::open(path)?;
        if !log_table::exists(&connection)? {
            return Ok(None);
        }
        let schema = Schema::read_numbered(&connection)?;
        Ok(Some(ChangeLog::new(connection, node, Arc::new(schema), Known::default())?))
    }

    fn new(connection: Connection, node: u64, schema: Arc<Schema>, known: Known) -> Result<ChangeLog, Error> {
        let entries = log_table::entries(log_table::width(&connection)?);
        let rows = schema_rows::count(&connection)?;
        let steering = Steering::off();
        Ok(ChangeLog {
            connection,
            node,
            schema,
            known,
            entries,
            cursor: 0,
            steering,
            one_stream: false,
            rows,
            resting: None,
            looker: None,
            looked: 0,
        })
    }

    /// Notes from now on what the application changes of its schema, and what it has changed since that was done last. `travels`: for
    /// other nodes, too.
    pub fn note_schema(&mut self, travels: bool) -> Result<(), Error> {
        self.looker = Some(Looker { node: self.node, travels });
        self.look_at_schema()?;
        // Until there is something to publish.
        if self.may_rest() { self.rest() } else { Ok(()) }
    }

    fn look_at_schema(&mut self) -> Result<(), Error> {
        let Some(looker) = self.looker else { return Ok(()) };
        if self.looked != self.schema.version {
            self.resting = None;
            let noted = migrate::look(&self.connection, &self.schema, looker)?.is_some();
            self.looked = self.schema.version;
            self.known.has_looked(self.looked, noted);
        }
        Ok(())
    }

    /// The changes of the schema that others have not got yet, with numbers above `number`.
    pub fn changes_after(&self, number: i64) -> Result<Vec<(i64, change::Change)>, Error> {
        let waiting = history::in_state(&self.connection, State::Waiting)?;
        Ok(waiting.into_iter().filter(|(known, _)| *known > number).collect())
    }

    /// Tells whoever steers the keys of AUTOINCREMENT tables which the application has given.
    pub fn steer(&mut self, steering: Steering) {
        self.steering = steering;
    }

    /// From now on, nothing has to tell to which stream a row goes.
    pub fn keep_together(&mut self) {
        self.one_stream = true;
    }

    /// The schema as this connection or another one has read it last, for others to the same database.
    pub fn known(&self) -> Known {
        self.known.clone()
    }

    /// Leaves out the next entry. False when it cannot be told which that is.
    pub fn skip(&mut self) -> bool {
        match log_table::next_after(&self.connection, self.cursor) {
            Ok(Some(id)) => {
                self.cursor = id;
                true
            }
            _ => false,
        }
    }

    /// Names of the tables that are captured.
    pub fn table_names(&self) -> Vec<&str> {
        self.schema.tables.keys().map(AsRef::as_ref).collect()
    }

    /// The hash of the schema that events carry.
    pub fn schema_hash(&self) -> &str {
        &self.schema.hash
    }

    /// Under which name the database publishes.
    pub fn origin(&self) -> Result<Origin, Error> {
        if let Some(resting) = self.unchanged()? {
            return Ok(resting.origin);
        }
        state::origin(&self.connection, self.node)
    }

    /// Brings capture in step with a schema that the application changed; `None` when it did not change.
    pub fn follow_schema(&mut self) -> Result<Option<Capture>, Error> {
        let before = schema::version(&self.connection)?;
        if before == self.schema.version {
            self.look_at_schema()?;
            return Ok(None);
        }
        let since = Instant::now();
        schema_rows::let_others_read(self.rows);
        self.resting = None;
        let begun = Instant::now();
        schema_rows::warm(&self.connection)?;
        // On a busy machine, the application may not be done yet: older versions of SQLite take several times as long.
        let rest = (begun.elapsed() * limits::SLOWER_READERS).saturating_sub(since.elapsed());
        std::thread::park_timeout(rest.min(limits::INSTALL_PAUSE));
        if install::mend(&mut self.connection)? {
            return Err(Error::Stripped(DROPPED.to_owned()));
        }
        let installed = install::install_after(&mut self.connection, &self.known);
        let (schema, done) = installed.map_err(|error| self.unless_schema_changed(error, before))?;
        self.entries = log_table::entries(log_table::width(&self.connection)?);
        self.rows = schema_rows::count(&self.connection)?;
        if self.may_rest() {
            // What the schema was before is free now.
            memory::give_back();
        }
        schema.tell_refused(&self.schema);
        self.schema = schema;
        if let Err(error) = self.look_at_schema() {
            // The next time.
            log::debug!("look at the schema: {error}");
        }
        Ok(Some(done))
    }

    /// The error of a statement; [`Error::SchemaChanged`] if the application has changed the schema in the meantime, which
    /// explains it.
    fn unless_schema_changed(&self, error: Error, before: i64) -> Error {
        match (&error, schema::version(&self.connection)) {
            (Error::Other(_), Ok(now)) if now != before => Error::SchemaChanged,
            _ => error,
        }
    }

    /// Reads everything again from the beginning: what was published and is not settled is to be published once more.
    pub fn rewind(&mut self) {
        self.resting = None;
        self.cursor = 0;
    }

    /// The highest log id that was read.
    pub fn cursor(&self) -> i64 {
        self.cursor
    }

    /// Bytes of the database, whether they stand in its file or in the WAL.
    pub fn database_bytes(&self) -> Result<u64, Error> {
        let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        let bytes: i64 = self.connection.query_row(sql, [], |row| row.get(0))?;
        Ok(bytes.unsigned_abs())
    }

    /// The highest log id that there is now.
    pub fn highest(&self) -> Result<i64, Error> {
        log_table::highest(&self.connection)
    }

    /// Number of entries whose events have not come back: those that were read, and those after the cursor.
    pub fn unsettled(&self) -> Result<(i64, i64), Error> {
        // Each commit wakes the publisher, which reads.
        if let Some(resting) = &self.resting {
            return Ok(resting.unsettled);
        }
        log_table::count_unsettled(&self.connection, self.cursor)
    }

    /// Whether a quiet connection is to rest: its schema is large.
    pub fn may_rest(&self) -> bool {
        self.resting.is_none() && schema_rows::is_large(self.rows)
    }

    /// Gives back memory until something is to be read.
    pub fn rest(&mut self) -> Result<(), Error> {
        let version = open::data_version(&self.connection)?;
        let (unsettled, origin) = (self.unsettled()?, state::origin(&self.connection, self.node)?);
        open::give_back(&self.connection)?;
        self.resting = Some(Resting { version, unsettled, origin });
        Ok(())
    }

    /// What was known when the connection gave back its schema, if nothing was committed since.
    fn unchanged(&self) -> Result<Option<&Resting>, Error> {
        let Some(resting) = &self.resting else { return Ok(None) };
        Ok((open::data_version(&self.connection)? == resting.version).then_some(resting))
    }

    /// The next batch, of at most `limit` entries, in one read transaction: entries and images belong together.
    pub fn read(&mut self, limit: u64) -> Result<Batch, Error> {
        if self.unchanged()?.is_some_and(|resting| resting.unsettled.1 == 0) {
            return Ok(Batch::default());
        }
        let before = self.schema.version;
        self.resting = None;
        let read = self.read_bounded(limit, limits::SCAN_MAX_BYTES);
        read.map_err(|error| self.unless_schema_changed(error, before))
    }

    fn read_bounded(&mut self, limit: u64, max_bytes: usize) -> Result<Batch, Error> {
        // The usual answer, for which no transaction is needed.
        if !log_table::any_after(&self.connection, self.cursor)? {
            return Ok(Batch::default());
        }
        let transaction = self.connection.unchecked_transaction()?;
        // SQLite reads the name of a column that is gone as a text, so an image of an old schema would be wrong and no error.
        if schema::version(&self.connection)? != self.schema.version {
            return Err(Error::SchemaChanged);
        }
        let after = (self.cursor, limit);
        let Entries { keys, last, full } =
            entries::read(&self.connection, &self.entries, after, &self.schema)?;
        let mut batch = Batch { changes: Vec::with_capacity(keys.len()), more: full, passed: false };
        let mut bytes = 0;
        let mut cursor = last;
        let mut given: Option<(Arc<str>, i64)> = None;
        // Rows of one table mostly follow each other.
        let mut images: Option<(i64, CachedStatement<'_>)> = None;
        for Logged { id, table, key, in_the_way } in keys {
            if bytes > max_bytes {
                // The rest is read next time. Entries between those that were passed here belong to keys whose highest
                // entry is still to come.
                batch.more = true;
                break;
            }
            cursor = id;
            let image = match &mut images {
                Some((of, statement)) if *of == table.id => image(statement, &table, &key)?,
                _ => {
                    let statement = self.connection.prepare_cached(&table.sql().image)?;
                    image(&mut images.insert((table.id, statement)).1, &table, &key)?
                }
            };
            if in_the_way && image.is_some() {
                batch.passed = true;
                continue;
            }
            if let (true, Some(_), Some(Value::Integer(key))) = (table.autoincrement, &image, key.first()) {
                given = Some(match given.take() {
                    Some((of, highest)) if of == table.name => (of, highest.max(*key)),
                    other => {
                        self.tell_given(other);
                        (table.name.clone(), *key)
                    }
                });
            }
            let shard_hash = if self.one_stream { 0 } else { table.shard_hash(&key) };
            let event = self.event(id, &table, key, image);
            bytes += event.row.iter().map(|(_, value)| value.size()).sum::<usize>();
            batch.changes.push(Change { event, shard_hash });
        }
        drop(images);
        self.tell_given(given);
        transaction.finish()?;
        self.cursor = if batch.more && cursor < last { cursor } else { last };
        Ok(batch)
    }

    fn tell_given(&self, given: Option<(Arc<str>, i64)>) {
        if let Some((table, key)) = given {
            self.steering.saw_own(&table, key);
        }
    }

    fn event(&self, id: i64, table: &Table, key: Vec<Value>, image: Option<Vec<Value>>) -> Event {
        let (kind, row) = match image {
            Some(values) => (Kind::Insert, table.image.iter().cloned().zip(values).collect()),
            None => (Kind::Delete, table.key.iter().map(|column| column.name.clone()).zip(key).collect()),
        };
        let (table, schema_hash) = (table.name.clone(), Some(self.schema.hash.clone()));
        Event { node: self.node, id, kind, table, row, schema_hash }
    }

    /// Logs all rows of the tables that were built anew, or that were not to be replicated before. For `replicate = false`, where nothing
    /// is known of the others.
    pub fn log_rebuilt(&mut self) -> Result<(), Error> {
        let included = state::included(&self.connection)?;
        let rebuilt = state::rebuilt(&self.connection)?.into_iter().map(|(name, _)| name);
        let names: Vec<String> = rebuilt.chain(included).collect();
        if !names.iter().any(|name| self.schema.tables.contains_key(&**name)) {
            return Ok(());
        }
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        for table in names.iter().filter_map(|name| self.schema.tables.get(&**name)) {
            super::log_all_rows(&transaction, table)?;
            state::forget_included(&transaction, &table.name)?;
        }
        state::forget_rebuilt(&transaction)?;
        Ok(transaction.commit()?)
    }

    /// Notes that the row of an entry cannot be published.
    pub fn note_refused(&self, id: i64) -> Result<(), Error> {
        state::note_refused(&self.connection, id)
    }

    /// Settles the entries up to `id`, all of which are acknowledged. For `replicate = false`, where no event comes back.
    pub fn settle_up_to(&self, id: i64) -> Result<(), Error> {
        log_table::settle_up_to(&self.connection, id)
    }
}

/// The row's image; `None` when the row is gone.
fn image(
    statement: &mut CachedStatement<'_>,
    table: &Table,
    key: &[Value],
) -> Result<Option<Vec<Value>>, Error> {
    let image = statement.query_row(params_from_iter(key), |row| {
        (0..table.image.len()).map(|at| row.get(at)).collect::<Result<Vec<Value>, _>>()
    });
    Ok(image.optional()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::scratch::Scratch;

    fn opened(name: &str, sql: &str) -> (Scratch, ChangeLog) {
        let scratch = Scratch::new(name, sql);
        let log = ChangeLog::open(&scratch.path, 7).unwrap().0;
        (scratch, log)
    }

    fn ids(batch: &Batch) -> Vec<i64> {
        batch.changes.iter().map(|change| change.event.id).collect()
    }

    #[test]
    fn several_touches_of_one_key_are_one_event_with_the_last_image() {
        let (scratch, mut log) = opened("touches", "CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, v)");
        scratch
            .app
            .execute_batch("INSERT INTO t VALUES('a', 1), ('b', 1); UPDATE t SET v = 2 WHERE k = 'A'")
            .unwrap();
        let batch = log.read(10).unwrap();
        assert_eq!((ids(&batch), batch.more), (vec![2, 3], false));
        let event = &batch.changes[1].event;
        assert_eq!((event.node, event.kind, &*event.table), (7, Kind::Insert, "t"));
        assert_eq!(event.row, vec![("k".into(), Value::text("a")), ("v".into(), Value::Integer(2))]);
        assert_eq!(event.schema_hash.as_deref(), Some(log.schema_hash()));
    }

    #[test]
    fn a_row_that_is_gone_is_a_tombstone_with_its_key() {
        let (scratch, mut log) = opened("gone", "CREATE TABLE t(a, b, c, PRIMARY KEY(b, a)) WITHOUT ROWID");
        scratch.app.execute_batch("INSERT INTO t VALUES(1, 2, 3); DELETE FROM t").unwrap();
        let batch = log.read(10).unwrap();
        assert_eq!(batch.changes.len(), 1);
        let event = &batch.changes[0].event;
        assert_eq!(event.kind, Kind::Delete);
        assert_eq!(event.row, vec![("b".into(), Value::Integer(2)), ("a".into(), Value::Integer(1))]);
    }

    #[test]
    fn a_limit_ends_a_batch_and_the_next_one_goes_on() {
        let (scratch, mut log) = opened("limit", "CREATE TABLE t(k INTEGER PRIMARY KEY)");
        scratch.app.execute_batch("INSERT INTO t VALUES(1), (2), (3)").unwrap();
        let batch = log.read(2).unwrap();
        assert_eq!((ids(&batch), batch.more, log.cursor()), (vec![1, 2], true, 2));
        assert_eq!(log.unsettled().unwrap(), (2, 1));
        let batch = log.read(2).unwrap();
        assert_eq!((ids(&batch), batch.more), (vec![3], false));
        assert!(log.read(2).unwrap().changes.is_empty());
        log.rewind();
        assert_eq!(log.read(9).unwrap().changes.len(), 3);
    }

    #[test]
    fn bytes_end_a_batch_and_no_key_is_lost() {
        let (scratch, mut log) = opened("bytes", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
        scratch
            .app
            .execute_batch(
                "INSERT INTO t VALUES(1, zeroblob(100)), (2, zeroblob(100)), (3, zeroblob(100)); UPDATE t SET v = zeroblob(90) WHERE k = 1",
            )
            .unwrap();
        // Key 1 was logged under 1 and 4, so the ids are 2, 3 and 4.
        let batch = log.read_bounded(10, 140).unwrap();
        assert_eq!((ids(&batch), batch.more, log.cursor()), (vec![2, 3], true, 3));
        let batch = log.read_bounded(10, 140).unwrap();
        assert_eq!((ids(&batch), batch.more), (vec![4], false));
    }

    #[test]
    fn one_huge_row_still_passes() {
        let (scratch, mut log) = opened("huge", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
        scratch.app.execute_batch("INSERT INTO t VALUES(1, zeroblob(5000)), (2, 0)").unwrap();
        assert_eq!(ids(&log.read_bounded(10, 0).unwrap()), [1]);
        assert_eq!(ids(&log.read_bounded(10, 0).unwrap()), [2]);
    }

    #[test]
    fn a_rest_hides_nothing() {
        let (scratch, mut log) = opened("rest", "CREATE TABLE t(k INTEGER PRIMARY KEY)");
        let origin = log.origin().unwrap();
        scratch.app.execute_batch("INSERT INTO t VALUES(1)").unwrap();
        log.rest().unwrap();
        assert_eq!((log.unsettled().unwrap(), log.origin().unwrap()), ((0, 1), origin));
        assert_eq!(ids(&log.read(10).unwrap()), [1], "it waited before the rest");
        log.rest().unwrap();
        assert!(log.read(10).unwrap().changes.is_empty());
        log.rewind();
        assert_eq!(ids(&log.read(10).unwrap()), [1], "all is read again");
        log.rest().unwrap();
        scratch.app.execute_batch("INSERT INTO t VALUES(2); CREATE TABLE u(a)").unwrap();
        assert!(log.follow_schema().unwrap().is_some());
        assert_eq!(ids(&log.read(10).unwrap()), [2]);
        log.rest().unwrap();
        state::new_incarnation(&scratch.app).unwrap();
        assert_ne!(log.origin().unwrap(), origin);
    }

    #[test]
    fn a_change_of_the_schema_is_followed() {
        let (scratch, mut log) = opened("schema", "CREATE TABLE t(k INTEGER PRIMARY KEY)");
        assert!(log.follow_schema().unwrap().is_none());
        scratch.app.execute_batch("ALTER TABLE t ADD COLUMN v; CREATE TABLE u(a, b, PRIMARY KEY(a, b)); INSERT INTO u VALUES(1, 2)").unwrap();
        let done = log.follow_schema().unwrap().unwrap();
        assert_eq!(done.new_tables, [("u".to_owned(), 1)]);
        let batch = log.read(10).unwrap();
        assert_eq!(batch.changes[0].event.row.len(), 2);
    }

    #[test]
    fn nothing_is_read_with_an_old_schema() {
        let (scratch, mut log) = opened("between", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
        scratch.app.execute_batch("INSERT INTO t VALUES(1, 2); ALTER TABLE t DROP COLUMN v").unwrap();
        assert!(matches!(log.read(10), Err(Error::SchemaChanged)));
        log.follow_schema().unwrap();
        assert_eq!(log.read(10).unwrap().changes.len(), 1);
    }

    #[test]
    fn acknowledged_entries_are_settled_but_their_ids_stay_used() {
        let (scratch, mut log) = opened("settle", "CREATE TABLE t(k INTEGER PRIMARY KEY)");
        scratch.app.execute_batch("INSERT INTO t VALUES(1), (2)").unwrap();
        log.read(10).unwrap();
        log.settle_up_to(2).unwrap();
        assert_eq!(log.unsettled().unwrap(), (0, 0));
        scratch.app.execute_batch("INSERT INTO t VALUES(3)").unwrap();
        assert_eq!(ids(&log.read(10).unwrap()), [3]);
    }

    #[test]
    fn an_entry_can_be_skipped_until_there_is_none() {
        let (scratch, mut log) = opened("skip", "CREATE TABLE t(k INTEGER PRIMARY KEY)");
        scratch.app.execute_batch("INSERT INTO t VALUES(1), (2)").unwrap();
        assert!(log.skip());
        assert_eq!(ids(&log.read(10).unwrap()), [2]);
        assert!(!log.skip());
    }
}

#[cfg(test)]
#[path = "statements_tests.rs"]
mod statements;
