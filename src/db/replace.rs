//! Putting a prepared database in the place of one that applications may have open: through SQLite's backup interface, in
//! one transaction. Whoever reads sees the old database or the new one; a crash leaves one of the two.

use super::apply::Applier;
use super::changelog::ChangeLog;
use super::{Error, capture, open};
use crate::limits;
use crate::stop::Stop;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// Pages copied between two looks at `stop`; the write lock is held from the first to the last.
const PAGES: std::os::raw::c_int = 2048;

/// What could be saved from a damaged database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Changes that were not published yet, now in the new database.
    pub changes: usize,
    /// Log entries that could not be read, or whose rows could not, or do not fit.
    pub unreadable: usize,
}

/// How closely to look for damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Whether every page can be read.
    Pages,
    /// Whether indexes agree with their tables, too: takes several times as long.
    Everything,
}

/// Whether the database is damaged: why. Reads all of it, unless stopped (`None` then).
pub fn damage(path: &Path, look: Look, stop: &Stop) -> Result<Option<String>, Error> {
    let verdict = open::check_file(path).and_then(|()| {
        let mut connection = open::open(path)?;
        let stop = stop.clone();
        connection.progress_handler(10_000, Some(move || stop.requested()))?;
        let check = match look {
            Look::Pages => "quick_check",
            Look::Everything => "integrity_check",
        };
        Ok(connection.query_row(&format!("PRAGMA {check}(1)"), [], |row| row.get::<_, String>(0))?)
    });
    match verdict {
        Ok(verdict) if verdict == "ok" => Ok(None),
        Ok(why) | Err(Error::Corrupt(why)) => Ok(Some(why.replace('\n', " "))),
        Err(_) if stop.requested() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Carries the changes that a damaged database holds and nobody has seen into the prepared one, as far as they can be read:
/// they are in its log afterwards, and published from there.
pub fn salvage(damaged: &Path, prepared: &Path, node: u64) -> Result<Salvaged, Error> {
    let mut found = Salvaged::default();
    capture::install(&mut open::open(prepared)?)?;
    let mut log = match ChangeLog::open_damaged(damaged, node) {
        Ok(Some(log)) => log,
        Ok(None) => return Ok(found),
        Err(error) => {
            log::warn!("{}: what was not published cannot be read: {error}", damaged.display());
            return Ok(found);
        }
    };
    let mut applier = Applier::open(prepared, node)?;
    loop {
        match log.read(1) {
            Ok(batch) if batch.changes.is_empty() && !batch.more => return Ok(found),
            Ok(batch) => {
                for change in batch.changes {
                    match applier.adopt(&change.event) {
                        Ok(_) => found.changes += 1,
                        Err(Error::Mismatch(why)) => {
                            log::warn!("{}: a change does not fit the snapshot: {why}", damaged.display());
                            found.unreadable += 1;
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => {
                log::debug!("{}: log entry behind {}: {error}", damaged.display(), log.cursor());
                found.unreadable += 1;
                if !log.skip() {
                    return Ok(found);
                }
            }
        }
    }
}

/// Replaces the database at `path` by the one at `prepared`, which nobody else uses. While the application holds a lock,
/// again and again; false when stopped before it was done: nothing has changed then.
pub fn replace(path: &Path, prepared: &Path, stop: &Stop) -> Result<bool, Error> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut target = Connection::open_with_flags(path, flags)?;
    target.busy_timeout(limits::BUSY_TIMEOUT)?;
    match page_size(&target) {
        // WAL cannot change the page size, so the new database takes that of the old one.
        Ok(size) => set_page_size(prepared, size)?,
        // Not even a header: SQLite is told to take the file for an empty one until the new content is there.
        Err(Error::Corrupt(_)) => {
            target.set_db_config(DbConfig::SQLITE_DBCONFIG_RESET_DATABASE, true).map(drop)?
        }
        Err(error) => return Err(error),
    }
    // Settings that read the header come after that.
    target
        .execute_batch(&format!("PRAGMA cache_size=-{}; PRAGMA wal_autocheckpoint=0", limits::PAGE_CACHE_KIB))
        .or_else(corrupt_is_known)?;
    let source = Connection::open_with_flags(
        prepared,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    source.execute_batch(&format!("PRAGMA cache_size=-{}", limits::PAGE_CACHE_KIB))?;
    let backup = Backup::new(&source, &mut target)?;
    loop {
        match backup.step(PAGES)? {
            StepResult::Done => break,
            StepResult::More if !stop.requested() => {}
            StepResult::Busy | StepResult::Locked if !stop.wait(Duration::from_millis(5)) => {}
            _ => return Ok(false),
        }
    }
    drop(backup);
    // Otherwise the next one to open it would find a long WAL; who reads right now keeps it for a while.
    let _ = target.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    Ok(true)
}

fn corrupt_is_known(error: rusqlite::Error) -> Result<(), rusqlite::Error> {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => Ok(()),
        _ => Err(error),
    }
}

fn page_size(connection: &Connection) -> Result<i64, Error> {
    // Reads the header, which the pragmas alone may not.
    connection.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
    Ok(connection.query_row("PRAGMA page_size", [], |row| row.get(0))?)
}

fn set_page_size(prepared: &Path, size: i64) -> Result<(), Error> {
    let connection = Connection::open(prepared)?;
    let mode: String = connection.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get(0))?;
    if !mode.eq_ignore_ascii_case("delete") {
        return Err(Error::Other(format!("{}: journal mode stays {mode}", prepared.display())));
    }
    let present: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    if present != size {
        connection.execute_batch(&format!("PRAGMA synchronous=OFF; PRAGMA page_size={size}; VACUUM"))?;
    }
    Ok(())
}
