//! Putting a prepared database in the place of one that applications may have open: through SQLite's backup interface, in
//! one transaction. Whoever reads sees the old database or the new one; a crash leaves one of the two.

use crate::base::{limits, stop::Stop};
use crate::db::restore::header::{Rebuilt, keep_wal_mode};
use crate::db::{apply::Applier, capture::ChangeLog, error::Error, open};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Pages copied between two looks at `stop`; the write lock is held from the first to the last.
const PAGES: std::os::raw::c_int = 2048;

/// How long the application may keep its lock in one try.
const BUSY_MAX: Duration = Duration::from_secs(2);

/// What could be saved from a damaged database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Changes that were not published yet, now in the new database.
    pub changes: usize,
    /// Log entries that could not be read, or whose rows could not, or do not fit; 1 when there is no reading the log at all.
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
pub struct Salvage {
    damaged: PathBuf,
    log: Option<ChangeLog>,
    /// What the log is read from, if not the damaged file.
    rebuilt: Option<Rebuilt>,
    applier: Applier,
    found: Salvaged,
}

impl Salvage {
    /// Opens both.
    pub fn open(damaged: &Path, prepared: &Path, node: u64) -> Result<Salvage, Error> {
        crate::db::install_capture(prepared)?;
        let mut found = Salvaged::default();
        let mut rebuilt = None;
        let mut log = ChangeLog::open_damaged(damaged, node);
        if matches!(log, Err(Error::Corrupt(_))) {
            rebuilt = Rebuilt::make(damaged, prepared)?;
            if let Some(rebuilt) = &rebuilt {
                log = ChangeLog::open_damaged(rebuilt.path(), node);
            }
        }
        let log = log.unwrap_or_else(|error| {
            log::debug!("{}: what was not published cannot be read: {error}", damaged.display());
            found.unreadable = 1;
            None
        });
        let applier = Applier::open(prepared, node)?;
        Ok(Salvage { damaged: damaged.to_path_buf(), log, rebuilt, applier, found })
    }

    /// Carries over what was logged since the last time; returns what it came to in all. [`Error::Busy`]: to be opened anew
    /// for that.
    pub fn run(&mut self) -> Result<Salvaged, Error> {
        if self.rebuilt.as_ref().is_some_and(|rebuilt| !rebuilt.is_up_to_date(&self.damaged)) {
            return Err(Error::Busy);
        }
        let (Some(log), damaged) = (&mut self.log, self.damaged.display()) else { return Ok(self.found) };
        loop {
            match log.read(1) {
                Ok(batch) if batch.changes.is_empty() && !batch.more => return Ok(self.found),
                Ok(batch) => {
                    for change in batch.changes {
                        match self.applier.adopt(&change.event) {
                            Ok(_) => self.found.changes += 1,
                            Err(Error::Mismatch(why)) => {
                                log::warn!("{damaged}: a change does not fit the snapshot: {why}");
                                self.found.unreadable += 1;
                            }
                            Err(error) => return Err(error),
                        }
                    }
                }
                Err(error) => {
                    log::debug!("{damaged}: log entry behind {}: {error}", log.cursor());
                    self.found.unreadable += 1;
                    if !log.skip() {
                        return Ok(self.found);
                    }
                }
            }
        }
    }
}

/// Replaces the database at `path` by the one at `prepared`, which nobody else uses; false when stopped before it was done:
/// nothing has changed then. `locked` is called when the application cannot write any more and can still be read, so that
/// the last of what it wrote can be carried over. [`Error::Busy`]: the application kept its lock; it may have written what
/// makes the file readable again.
pub fn replace(
    path: &Path,
    prepared: &Path,
    stop: &Stop,
    locked: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<bool, Error> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut target = Connection::open_with_flags(path, flags)?;
    target.busy_timeout(BUSY_MAX)?;
    match page_size(&target) {
        // WAL cannot change the page size, so the new database takes that of the old one.
        Ok(size) => set_page_size(prepared, size)?,
        // Not even a header: SQLite is told to take the file for an empty one until the new content is there.
        Err(Error::Corrupt(_)) => {
            keep_wal_mode(path)?;
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
    // In any other mode nobody else reads what is about to be written.
    let readable = target
        .query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0))
        .is_ok_and(|mode| mode.eq_ignore_ascii_case("wal"));
    let backup = Backup::new(&source, &mut target)?;
    let begun = Instant::now();
    // No page yet: the write lock alone.
    let mut pages = 0;
    loop {
        match backup.step(pages)? {
            StepResult::Done => break,
            StepResult::More if !stop.requested() => {
                if pages == 0 && readable {
                    locked()?;
                }
                pages = PAGES;
            }
            StepResult::Busy | StepResult::Locked if begun.elapsed() > BUSY_MAX => return Err(Error::Busy),
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
