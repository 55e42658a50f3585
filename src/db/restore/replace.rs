//! Putting a prepared database in the place of one that applications may have open, through SQLite's backup interface and in
//! one transaction. An application that reads sees the old database or the new one, and a crash leaves one of the two.

use crate::base::{limits, stop::Stop};
use crate::db::apply::Applier;
use crate::db::capture::{ChangeLog, install_capture};
use crate::db::restore::check::{Findings, Look, check};
use crate::db::restore::encoding::match_encoding;
use crate::db::restore::header::{Rebuilt, keep_wal_mode};
use crate::db::{error::Error, open, schema_rows, writable};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Number of pages copied between two looks at `stop`. The write lock is held from the first to the last.
const PAGES: std::os::raw::c_int = 2048;

/// How long one attempt waits for the application's lock.
const BUSY_MAX: Duration = Duration::from_secs(2);

/// What could be saved from a damaged database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Changes that were not published yet, and are in the new database now.
    pub changes: usize,
    /// Log entries that are lost: they or their rows cannot be read, or do not fit the new database. 1 when the log as a whole
    /// cannot be read.
    pub unreadable: usize,
}

/// What SQLite's check says about the database at `path`: nothing when the search, which reads all of it, was stopped.
pub fn find_damage(path: &Path, look: Look, stop: &Stop) -> Result<Findings, Error> {
    let found = open::open_checked(path).and_then(|mut connection| {
        let token = stop.clone();
        connection.progress_handler(10_000, Some(move || token.requested()))?;
        let found = check(&connection, look)?;
        let large_schema = found.damage.is_empty() && schema_rows::is_large(schema_rows::count(&connection)?);
        Ok(Findings { large_schema, ..found })
    });
    match found {
        Err(Error::Corrupt(why)) => Ok(Findings { damage: vec![why], ..Findings::default() }),
        _ if stop.requested() => Ok(Findings::default()),
        found => found,
    }
}

/// Carries the changes that were not published yet from a damaged database into the prepared one, as far as they can be read.
/// They are in the log of the prepared one afterwards, and are published from there.
pub struct Salvage {
    damaged: PathBuf,
    log: Option<ChangeLog>,
    /// What the log is read from when it is not the damaged file.
    rebuilt: Option<Rebuilt>,
    applier: Applier,
    found: Salvaged,
}

impl Salvage {
    pub fn open(damaged: &Path, prepared: &Path, node: u64) -> Result<Salvage, Error> {
        take_encoding(damaged, prepared)?;
        install_capture(prepared)?;
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
        let applier = Applier::open(prepared, node, &[])?;
        Ok(Salvage { damaged: damaged.to_path_buf(), log, rebuilt, applier, found })
    }

    /// Carries over what was logged since the last call; returns what all calls came to. [`Error::Busy`] when the application has
    /// written since [`Salvage::open`], in a way that only another [`Salvage::open`] can read.
    pub fn run(&mut self) -> Result<Salvaged, Error> {
        if self.rebuilt.as_ref().is_some_and(|rebuilt| !rebuilt.is_up_to_date(&self.damaged)) {
            return Err(Error::Busy);
        }
        let (Some(log), damaged) = (&mut self.log, self.damaged.display()) else { return Ok(self.found) };
        // An application that goes on writing must not keep us here: what it logs from now on, the next call carries over.
        let end = log.highest().unwrap_or(i64::MAX);
        while log.cursor() < end {
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
                Err(Error::SchemaChanged) => return Err(Error::Busy),
                Err(error) => {
                    log::debug!("{damaged}: log entry after {}: {error}", log.cursor());
                    self.found.unreadable += 1;
                    if !log.skip() {
                        return Ok(self.found);
                    }
                }
            }
        }
        Ok(self.found)
    }
}

/// A look at what the application wrote last: at the moment when it cannot write any more and can still be read. A database
/// in any other mode than WAL has no such moment, for no other connection can read while one holds the lock.
pub enum LastLook<'a> {
    /// A database without such a moment is replaced all the same.
    IfPossible(&'a mut dyn FnMut() -> Result<(), Error>),
    /// A database without such a moment is not replaced: [`Error::Busy`].
    Needed(&'a mut dyn FnMut() -> Result<(), Error>),
}

/// Replaces the database at `path` by the one at `prepared`, which nobody else uses. False when it was stopped before that was
/// done: then nothing has changed. [`Error::Busy`] when the application kept its lock: it may have written what makes the file
/// readable again.
pub fn replace_database(
    path: &Path,
    prepared: &Path,
    stop: &Stop,
    last: LastLook<'_>,
) -> Result<bool, Error> {
    take_encoding(path, prepared)?;
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut target = Connection::open_with_flags(path, flags)?;
    target.busy_timeout(BUSY_MAX)?;
    match page_size(&target) {
        // The page size of a database in WAL mode cannot change, so the new one takes that of the old one.
        Ok(size) => set_page_size(prepared, size)?,
        // Not even the header can be read. SQLite is told to take the file for an empty one until the new content is there.
        Err(Error::Corrupt(_)) => {
            // What an application that knows the first page has written since stands in the WAL, in pages of one size.
            if let Some(size) = open::wal_page_size(path) {
                set_page_size(prepared, size)?;
            }
            keep_wal_mode(path)?;
            target.set_db_config(DbConfig::SQLITE_DBCONFIG_RESET_DATABASE, true).map(drop)?
        }
        Err(error) => return Err(error),
    }
    // These settings read the header, so they come after that.
    target
        .execute_batch(&format!("PRAGMA cache_size=-{}; PRAGMA wal_autocheckpoint=0", limits::PAGE_CACHE_KIB))
        .or_else(corrupt_is_known)?;
    let source = Connection::open_with_flags(
        prepared,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    source.execute_batch(&format!("PRAGMA cache_size=-{}", limits::PAGE_CACHE_KIB))?;
    let has_moment = target
        .query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0))
        .is_ok_and(|mode| mode.eq_ignore_ascii_case("wal"));
    let mut last = match last {
        LastLook::Needed(_) if !has_moment => return Err(Error::Busy),
        LastLook::Needed(look) => Some(look),
        LastLook::IfPossible(look) => has_moment.then_some(look),
    };
    let backup = Backup::new(&source, &mut target)?;
    let begun = Instant::now();
    // The first step copies no page and only takes the write lock.
    let mut pages = 0;
    loop {
        match backup.step(pages)? {
            StepResult::Done => break,
            StepResult::More if !stop.requested() => {
                if let Some(look) = last.take() {
                    look()?;
                }
                pages = PAGES;
            }
            StepResult::Busy | StepResult::Locked if begun.elapsed() > BUSY_MAX => return Err(Error::Busy),
            StepResult::Busy | StepResult::Locked if !stop.wait(Duration::from_millis(5)) => {}
            _ => return Ok(false),
        }
    }
    drop(backup);
    // Otherwise the next connection would find a long WAL. An application that reads right now prevents this, which does no harm.
    let _ = target.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    Ok(true)
}

/// Gives the prepared database the encoding of the damaged one, if that can be read: an application that has it open knows no
/// other.
fn take_encoding(damaged: &Path, prepared: &Path) -> Result<(), Error> {
    match match_encoding(prepared, damaged) {
        Err(Error::Corrupt(_)) => Ok(()),
        other => other,
    }
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
        let sql = format!("PRAGMA synchronous=OFF; PRAGMA page_size={size}; VACUUM");
        connection.execute_batch(&sql).map_err(|error| match writable::is_of_statement(&error) {
            true => Error::Mismatch(format!(
                "its pages have {present} bytes and those of this database {size}, and it cannot be written anew without a function \
                 or collation of the application's own ({error}): give all nodes one page_size, by an empty db_path on this one"
            )),
            false => error.into(),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::stop;
    use crate::db::scratch::Scratch;
    use std::os::unix::fs::FileExt;

    /// A header that is gone while an application, which knows the first page, has just written other pages: they stand in
    /// the WAL, in pages of their own size, and the first page does not.
    #[test]
    fn a_destroyed_header_and_a_wal_without_the_first_page() {
        for (name, ours, theirs) in [("smaller", 1024, 4096), ("equal", 4096, 4096), ("larger", 16_384, 512)]
        {
            let (_source, stop) = stop::pair();
            let scratch = Scratch::new(&format!("header-{name}"), "");
            let sql = format!(
                "PRAGMA journal_mode=DELETE; PRAGMA page_size={ours}; VACUUM; PRAGMA journal_mode=WAL; \
                 PRAGMA wal_autocheckpoint=0; CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'old'); \
                 PRAGMA wal_checkpoint(TRUNCATE); UPDATE t SET v = 'in the wal'"
            );
            scratch.app.execute_batch(&sql).unwrap();
            let file = std::fs::File::options().write(true).open(&scratch.path).unwrap();
            file.write_all_at(&[0xa5; 100], 0).unwrap();
            // Closing it would drop the locks that SQLite holds in this process.
            std::mem::forget(file);
            let prepared = Scratch::new(&format!("prepared-{name}"), "");
            let sql = format!(
                "PRAGMA journal_mode=DELETE; PRAGMA page_size={theirs}; VACUUM; CREATE TABLE t(id INTEGER PRIMARY KEY, v); \
                 INSERT INTO t VALUES(1, 'new')"
            );
            prepared.app.execute_batch(&sql).unwrap();
            let replaced =
                replace_database(&scratch.path, &prepared.path, &stop, LastLook::IfPossible(&mut || Ok(())));
            assert!(replaced.unwrap(), "{name}");
            assert_eq!(scratch.value("SELECT v FROM t"), "'new'", "{name}");
        }
    }

    /// An application that has its database open could not read one of another encoding.
    #[test]
    fn a_database_keeps_its_encoding() {
        let (_source, stop) = stop::pair();
        let scratch = Scratch::with_first("encoding-old", "PRAGMA encoding='UTF-8'; CREATE TABLE t(v)");
        let prepared = Scratch::with_first(
            "encoding-new",
            "PRAGMA encoding='UTF-16le'; CREATE TABLE t(v); INSERT INTO t VALUES('größe')",
        );
        prepared.app.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=DELETE").unwrap();
        assert!(
            replace_database(&scratch.path, &prepared.path, &stop, LastLook::IfPossible(&mut || Ok(())))
                .unwrap()
        );
        assert_eq!(scratch.value("SELECT v FROM t"), "'größe'");
        assert_eq!(scratch.value("SELECT encoding FROM pragma_encoding"), "'UTF-8'");
    }

    /// To give it pages of another size, SQLite would have to make the index anew.
    #[test]
    fn an_index_that_only_the_application_can_make_keeps_its_page_size() {
        let (_source, stop) = stop::pair();
        let scratch = Scratch::with_first("pages-old", "PRAGMA page_size=1024; CREATE TABLE t(v)");
        let prepared = Scratch::with_first(
            "pages-new",
            "PRAGMA page_size=4096; CREATE TABLE t(v); CREATE INDEX i ON t(v COLLATE RTRIM); PRAGMA writable_schema=ON;
             UPDATE sqlite_schema SET sql = replace(sql, 'RTRIM', 'mine'); PRAGMA writable_schema=RESET",
        );
        prepared.app.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=DELETE").unwrap();
        let error =
            replace_database(&scratch.path, &prepared.path, &stop, LastLook::IfPossible(&mut || Ok(())))
                .unwrap_err();
        assert!(
            matches!(&error, Error::Mismatch(why) if why.contains("4096 bytes") && why.contains("mine")),
            "{error}"
        );
        assert_eq!(scratch.value("SELECT count(*) FROM t"), "0");
    }
}
