//! Opening the database: every connection of ours with the same settings, and the file made fit for replication.

use crate::base::{files, limits};
use crate::db::error::Error;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

/// What to do with a database that is not in WAL mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalMode {
    /// Switch it to WAL.
    Switch,
    /// Refuse to start.
    Refuse,
}

/// A connection of ours to a database that exists. Triggers are off: neither our own nor the application's fire for
/// what we write.
pub fn open(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(limits::BUSY_TIMEOUT)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    connection.set_prepared_statement_cache_capacity(limits::STATEMENTS);
    connection.execute_batch(&format!(
        "PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-{0}; PRAGMA temp.cache_size=-{0}; \
         PRAGMA ignore_check_constraints=ON; PRAGMA recursive_triggers=OFF; PRAGMA temp_store=FILE; \
         PRAGMA mmap_size=0;",
        limits::PAGE_CACHE_KIB
    ))?;
    Ok(connection)
}

/// Asks for the lock again and again in short steps: SQLite's own pauses, up to a tenth of a second, would let an
/// application that writes without a break keep us out until the streams have run away.
pub fn insist(connection: &mut Connection) -> Result<(), Error> {
    connection.busy_handler(Some(|tries: i32| {
        std::thread::park_timeout(limits::BUSY_STEP);
        limits::BUSY_STEP * tries.unsigned_abs() < limits::BUSY_TIMEOUT
    }))?;
    Ok(())
}

/// Whether `path` holds a database that SQLite can read: its header and its schema.
pub fn check_file(path: &Path) -> Result<(), Error> {
    let connection = open(path)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(())
}

/// Makes the database fit: WAL mode, by switching or by refusing anything else. Temporary tables of ours go beside it.
pub fn prepare(path: &Path, mode: JournalMode) -> Result<(), Error> {
    let connection = open(path)?;
    let current: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if current.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    if mode == JournalMode::Refuse {
        return Err(Error::Other(format!(
            "{}: journal mode is {current} and journal_mode = \"refuse\": run PRAGMA journal_mode=WAL once, or set \
             journal_mode = \"switch\"",
            path.display()
        )));
    }
    let now: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    if !now.eq_ignore_ascii_case("wal") {
        return Err(Error::Other(format!("{}: journal mode stays {now}, and WAL is needed", path.display())));
    }
    log::info!("{}: switched the journal mode from {current} to wal", path.display());
    Ok(())
}

/// Size of the WAL file; 0 without one. Asks the file system only, opens nothing.
pub fn wal_size(path: &Path) -> u64 {
    std::fs::metadata(files::beside(path, "-wal")).map_or(0, |meta| meta.len())
}
