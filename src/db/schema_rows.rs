//! Triggers written as rows of `sqlite_schema`, as SQLite itself writes them. Each CREATE TRIGGER and each DROP TRIGGER reads all of
//! the schema: with thousands of tables, making their triggers by statements takes minutes under the write lock, and as rows
//! milliseconds.
//!
//! Only texts go in that this program made whole and that need no look at the table's indexes: SQLite reads them later, and one that it
//! did not understand would close the database to everybody.

use crate::base::limits;
use crate::db::error::Error;
use rusqlite::{Connection, params};

const ADD: &str =
    "INSERT INTO main.sqlite_schema(type, name, tbl_name, rootpage, sql) VALUES('trigger', ?1, ?2, 0, ?3)";
const REMOVE: &str = "DELETE FROM main.sqlite_schema WHERE rowid = ?1 AND type = 'trigger'";

/// `PRAGMA schema_version`, which changes with every CREATE, ALTER and DROP.
pub fn version(connection: &Connection) -> Result<i64, Error> {
    Ok(connection.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0))?)
}

/// Lets SQLite read the schema, if the one in memory is not up to date: better now than under the lock.
pub fn warm(connection: &Connection) -> Result<(), Error> {
    Ok(connection.query_row("SELECT EXISTS(SELECT 1 FROM main.sqlite_schema)", [], |_| Ok(()))?)
}

/// Number of rows that the schema has.
pub fn count(connection: &Connection) -> Result<i64, Error> {
    Ok(connection.query_row("SELECT count(*) FROM main.sqlite_schema", [], |row| row.get(0))?)
}

/// Whether a quiet connection should not keep a schema of so many rows in memory.
pub fn is_large(rows: i64) -> bool {
    rows >= limits::LARGE_SCHEMA
}

/// Waits while the application reads the schema of so many rows, after a change. If it changed again meanwhile, the application's write
/// would wait until it has read it twice; and if we read it now, too, both would take longer.
pub fn let_others_read(rows: i64) {
    let rows = u32::try_from(rows).unwrap_or(u32::MAX);
    std::thread::park_timeout(limits::READ_SCHEMA_ROW.saturating_mul(rows).min(limits::INSTALL_PAUSE));
}

/// Runs `write` while rows of `sqlite_schema` may be written, inside of a transaction. Then all connections, this one too, read the
/// schema anew: no other statement may come before the transaction's end that needs the schema.
pub fn write(connection: &Connection, write: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    connection.execute_batch("PRAGMA writable_schema=ON")?;
    let written = write();
    connection.execute_batch("PRAGMA writable_schema=OFF")?;
    written?;
    let next = version(connection)?.wrapping_add(1);
    Ok(connection.execute_batch(&format!("PRAGMA schema_version={next}"))?)
}

/// Adds a trigger; inside of [`write`].
pub fn add(connection: &Connection, table: &str, name: &str, sql: &str) -> Result<(), Error> {
    connection.prepare_cached(ADD)?.execute(params![name, table, sql])?;
    Ok(())
}

/// Removes a trigger by its row; inside of [`write`].
pub fn remove(connection: &Connection, rowid: i64) -> Result<(), Error> {
    connection.prepare_cached(REMOVE)?.execute([rowid])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_that_was_written_as_a_row_is_one_like_any_other() {
        let made = |as_row: bool| {
            let connection = Connection::open_in_memory().unwrap();
            connection.execute_batch("CREATE TABLE t(a); CREATE TABLE log(a)").unwrap();
            let sql = "CREATE TRIGGER \"x\" AFTER INSERT ON \"t\" BEGIN INSERT INTO log VALUES(NEW.a); END";
            if as_row {
                write(&connection, || add(&connection, "t", "x", sql)).unwrap();
            } else {
                connection.execute_batch(sql).unwrap();
            }
            let row =
                "SELECT type || name || tbl_name || rootpage || sql FROM sqlite_schema WHERE name = 'x'";
            let row: String = connection.query_row(row, [], |row| row.get(0)).unwrap();
            (connection, row)
        };
        let ((by_row, row), (_, statement)) = (made(true), made(false));
        assert_eq!(row, statement);
        let count = |sql: &str| -> i64 {
            by_row.execute_batch(sql).unwrap();
            by_row.query_row("SELECT count(*) FROM log", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(count("INSERT INTO t VALUES(1)"), 1);
        let rowid = "SELECT rowid FROM sqlite_schema WHERE name = 'x'";
        let rowid = by_row.query_row(rowid, [], |row| row.get(0)).unwrap();
        write(&by_row, || remove(&by_row, rowid)).unwrap();
        assert_eq!(count("INSERT INTO t VALUES(2)"), 1);
        let check: String = by_row.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        // Nobody may write there otherwise.
        assert!(by_row.execute_batch("DELETE FROM sqlite_schema").is_err());
    }

    #[test]
    fn other_connections_see_it_at_once() {
        let scratch = crate::db::scratch::Scratch::new("rows", "CREATE TABLE t(a); CREATE TABLE log(a)");
        let ours = crate::db::open::open(&scratch.path).unwrap();
        scratch.app.execute_batch("INSERT INTO t VALUES(1)").unwrap();
        let sql = "CREATE TRIGGER x AFTER INSERT ON t BEGIN INSERT INTO log VALUES(NEW.a); END";
        write(&ours, || add(&ours, "t", "x", sql)).unwrap();
        scratch.app.execute_batch("INSERT INTO t VALUES(2)").unwrap();
        assert_eq!(scratch.value("SELECT group_concat(a) FROM log"), "'2'");
    }
}
