//! Opening the database: every connection of ours with the same settings, and the file made fit for replication.

use crate::base::{files, limits, memory};
use crate::db::error::Error;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What to do with a database that is not in WAL mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalMode {
    /// Switch the database to WAL.
    Switch,
    /// Refuse to start.
    Refuse,
}

/// A connection of ours to a database that exists, for what needs no schema. SQLite reads that at the first statement that names a
/// table, and at some PRAGMAs; of a database with thousands of tables, it takes a second and dozens of megabytes.
pub fn open_without_schema(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(limits::BUSY_TIMEOUT)?;
    connection.execute_batch("PRAGMA wal_autocheckpoint=0; PRAGMA mmap_size=0")?;
    Ok(connection)
}

/// A connection of ours to a database that exists. Triggers are off on it: neither our own nor the application's fire for what
/// we write.
pub fn open(path: &Path) -> Result<Connection, Error> {
    let connection = open_without_schema(path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    connection.set_prepared_statement_cache_capacity(limits::STATEMENTS);
    // Where temporary tables go comes first: SQLite forgets the schema then, which some of the others make it read.
    connection.execute_batch(&format!(
        "PRAGMA temp_store=FILE; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-{0}; PRAGMA temp.cache_size=-{0}; \
         PRAGMA ignore_check_constraints=ON; PRAGMA recursive_triggers=OFF;",
        limits::PAGE_CACHE_KIB
    ))?;
    Ok(connection)
}

/// `PRAGMA data_version`, which changes with each commit of another connection.
pub fn data_version(connection: &Connection) -> Result<i64, Error> {
    Ok(connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?)
}

/// Gives back the schema that a connection has read, which takes dozens of megabytes with thousands of tables, the statements that
/// were made for it, and cached pages. The next statement reads the schema again.
pub fn give_back(connection: &Connection) -> Result<(), Error> {
    connection.flush_prepared_statement_cache();
    connection.execute_batch("PRAGMA writable_schema=RESET; PRAGMA shrink_memory")?;
    memory::give_back();
    Ok(())
}

/// Polls for the write lock every 0.4 ms. SQLite's own pauses grow to 100 ms and lose nearly every race against an application
/// that writes without pause: it would keep us out until the streams no longer hold what we have not read.
pub fn insist(connection: &mut Connection) -> Result<(), Error> {
    connection.busy_handler(Some(|tries: i32| {
        std::thread::park_timeout(limits::BUSY_STEP);
        limits::BUSY_STEP * tries.unsigned_abs() < limits::BUSY_TIMEOUT
    }))?;
    Ok(())
}

/// Opens a database whose header and schema SQLite can read.
pub fn open_checked(path: &Path) -> Result<Connection, Error> {
    let connection = open(path)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// Makes sure that the database is in WAL mode, as `mode` says.
pub fn prepare(path: &Path, mode: JournalMode) -> Result<(), Error> {
    switch(&open(path)?, path, mode)
}

/// The same on a connection that is open.
pub fn switch(connection: &Connection, path: &Path, mode: JournalMode) -> Result<(), Error> {
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

/// Bytes of the WAL file; 0 without one. Asks the file system and opens nothing.
pub fn wal_size(path: &Path) -> u64 {
    std::fs::metadata(files::beside(path, "-wal")).map_or(0, |meta| meta.len())
}

/// Size of the pages in the WAL beside a database, in bytes; `None` without a WAL that says so. A WAL takes no pages of another
/// size until it begins anew. Layout: <https://www.sqlite.org/fileformat2.html#walformat>.
pub fn wal_page_size(path: &Path) -> Option<i64> {
    let mut header = [0; 12];
    File::open(files::beside(path, "-wal")).and_then(|wal| wal.read_exact_at(&mut header, 0)).ok()?;
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    // The last bit of the magic number is the byte order of the checksums.
    let (magic, size) = (word(0) & !1, word(8));
    (magic == 0x377f_0682 && size.is_power_of_two() && (512..=65_536).contains(&size))
        .then_some(i64::from(size))
}

/// Version of the SQLite that is built in.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("harmonylite-open-{name}-{}.db", std::process::id()))
    }

    #[test]
    fn another_journal_mode_is_switched_or_refused() {
        let path = scratch("mode");
        Connection::open(&path)
            .unwrap()
            .execute_batch("PRAGMA journal_mode=DELETE; CREATE TABLE t(a)")
            .unwrap();
        let refused = prepare(&path, JournalMode::Refuse).unwrap_err().to_string();
        assert!(
            refused.contains("journal mode is delete") && refused.contains("PRAGMA journal_mode=WAL"),
            "{refused}"
        );
        prepare(&path, JournalMode::Switch).unwrap();
        prepare(&path, JournalMode::Refuse).unwrap();
        open_checked(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_not_there_and_what_is_no_database_are_told_apart() {
        let path = scratch("none");
        assert!(matches!(open_checked(&path), Err(Error::Disk(_))));
        std::fs::write(
            &path,
            "no database, but long enough for a header, one hundred bytes of it, or so they say".repeat(3),
        )
        .unwrap();
        assert!(matches!(open_checked(&path), Err(Error::Corrupt(_))));
        std::fs::remove_file(&path).unwrap();
    }
}
