//! Putting a prepared database into one that has no table yet. An application opened its path and left an empty file; it may
//! hold that file open, so the file stays and gets the content.

use crate::base::stop::Stop;
use crate::db::error::Error;
use crate::db::look::holds_tables;
use crate::db::open::{self, JournalMode};
use crate::db::restore::replace::{LastLook, replace_database};
use std::path::Path;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    Yes,
    /// The application made a table first, so nothing was changed.
    HasTables,
    /// It was stopped, and nothing was changed.
    Stopped,
}

/// Fills the database at `path` with the content of `prepared`, in one transaction. [`Error::Busy`] also when the application
/// has just set another journal mode.
pub fn fill_database(path: &Path, prepared: &Path, mode: JournalMode, stop: &Stop) -> Result<Filled, Error> {
    // In WAL mode another connection can read while the content is written under a lock. Only there can be seen, at a
    // moment when the application cannot write any more, that it has made no table.
    open::prepare(path, mode)?;
    fill_in_wal_mode(path, prepared, stop)
}

fn fill_in_wal_mode(path: &Path, prepared: &Path, stop: &Stop) -> Result<Filled, Error> {
    let mut has_tables = false;
    let mut look = || {
        has_tables = holds_tables(path)?;
        if has_tables { Err(Error::Other("the application has made a table".to_owned())) } else { Ok(()) }
    };
    match replace_database(path, prepared, stop, LastLook::Needed(&mut look)) {
        _ if has_tables => Ok(Filled::HasTables),
        Ok(true) => Ok(Filled::Yes),
        Ok(false) => Ok(Filled::Stopped),
        Err(Error::Mismatch(why)) => {
            Err(Error::Mismatch(format!("{why}; or remove the file, which holds no table")))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;
    use crate::base::{files, stop};
    use rusqlite::Connection;

    fn prepared(scratch: &Scratch) -> std::path::PathBuf {
        let path = scratch.path("prepared.db");
        if path.exists() {
            return path;
        }
        let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(7, 'from the snapshot')";
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        path
    }

    fn fill(path: &Path, prepared: &Path, stop: &Stop) -> Result<Filled, Error> {
        fill_database(path, prepared, JournalMode::Switch, stop)
    }

    /// The application's connection, which it opened before, sees the content; the file is the same one.
    #[test]
    fn an_open_empty_database_gets_the_content() {
        let settings = [
            "",
            "PRAGMA journal_mode=WAL",
            "PRAGMA user_version=3",
            "PRAGMA page_size=512; PRAGMA user_version=1",
        ];
        for (number, first) in settings.into_iter().enumerate() {
            let (_source, stop) = stop::pair();
            let scratch = Scratch::new(&format!("fill-{number}"));
            let path = scratch.path("app.db");
            let application = Connection::open(&path).unwrap();
            application.execute_batch(first).unwrap();
            let identity = files::identity(&path);
            assert!(identity.is_some(), "{first}");
            let filled = fill(&path, &prepared(&scratch), &stop).unwrap();
            assert_eq!(filled, Filled::Yes, "{first}");
            let v: String =
                application.query_row("SELECT v FROM t WHERE id = 7", [], |row| row.get(0)).unwrap();
            assert_eq!(v, "from the snapshot", "{first}");
            application.execute_batch("INSERT INTO t VALUES(8, 'from the application')").unwrap();
            assert_eq!(files::identity(&path), identity, "{first}");
            let verdict: String =
                application.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(verdict, "ok", "{first}");
        }
    }

    #[test]
    fn a_table_of_the_application_is_never_replaced() {
        let (_source, stop) = stop::pair();
        let scratch = Scratch::new("fill-tables");
        let path = scratch.path("app.db");
        let application = Connection::open(&path).unwrap();
        application.execute_batch("CREATE TABLE mine(a); INSERT INTO mine VALUES(1)").unwrap();
        assert_eq!(fill(&path, &prepared(&scratch), &stop).unwrap(), Filled::HasTables);
        let tables: i64 =
            application.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 1);
    }

    #[test]
    fn the_applications_lock_is_respected() {
        let (_source, stop) = stop::pair();
        let scratch = Scratch::new("fill-lock");
        let path = scratch.path("app.db");
        let application = Connection::open(&path).unwrap();
        application.execute_batch("PRAGMA journal_mode=WAL; BEGIN IMMEDIATE; CREATE TABLE mine(a)").unwrap();
        assert!(matches!(fill(&path, &prepared(&scratch), &stop), Err(Error::Busy)));
        application.execute_batch("COMMIT").unwrap();
        assert_eq!(fill(&path, &prepared(&scratch), &stop).unwrap(), Filled::HasTables);
    }

    /// An application may set another mode at any time, and then make a table that nobody can see at the last moment.
    #[test]
    fn a_database_that_has_left_wal_mode_is_not_filled() {
        let (_source, stop) = stop::pair();
        let scratch = Scratch::new("fill-mode");
        let path = scratch.path("app.db");
        let application = Connection::open(&path).unwrap();
        open::prepare(&path, JournalMode::Switch).unwrap();
        application
            .execute_batch("PRAGMA journal_mode=DELETE; CREATE TABLE mine(a); INSERT INTO mine VALUES(1)")
            .unwrap();
        let filled = fill_in_wal_mode(&path, &prepared(&scratch), &stop);
        assert!(matches!(filled, Err(Error::Busy)), "{filled:?}");
        let mine: i64 = application.query_row("SELECT a FROM mine", [], |row| row.get(0)).unwrap();
        assert_eq!(mine, 1);
        assert_eq!(fill(&path, &prepared(&scratch), &stop).unwrap(), Filled::HasTables);
    }

    #[test]
    fn a_mode_that_must_not_be_switched_is_not() {
        let (_source, stop) = stop::pair();
        let scratch = Scratch::new("fill-refuse");
        let path = scratch.path("app.db");
        std::fs::write(&path, b"").unwrap();
        let error = fill_database(&path, &prepared(&scratch), JournalMode::Refuse, &stop).unwrap_err();
        assert!(error.to_string().contains("PRAGMA journal_mode=WAL"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    /// To give it another encoding, SQLite would have to make the index anew.
    #[test]
    fn an_empty_file_that_cannot_take_the_content_is_to_be_removed() {
        let (_source, stop) = stop::pair();
        for first in ["PRAGMA encoding='UTF-16le'", "PRAGMA page_size=1024"] {
            let scratch = Scratch::new("fill-unfit");
            let (path, unfit) = (scratch.path("app.db"), scratch.path("prepared.db"));
            let sql = format!(
                "{first}; CREATE TABLE t(v); CREATE INDEX i ON t(v COLLATE RTRIM); PRAGMA writable_schema=ON; \
                 UPDATE sqlite_schema SET sql = replace(sql, 'RTRIM', 'mine'); PRAGMA writable_schema=RESET"
            );
            Connection::open(&unfit).unwrap().execute_batch(&sql).unwrap();
            std::fs::write(&path, b"").unwrap();
            let error = fill(&path, &unfit, &stop).unwrap_err();
            assert!(
                matches!(&error, Error::Mismatch(why) if why.contains("remove the file")),
                "{first}: {error:?}"
            );
        }
    }
}
