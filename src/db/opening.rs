//! A database on its way to be followed: looked at and made fit on one connection, because each new one reads all of the schema first.

use crate::db::capture::{self, Capture, ChangeLog};
use crate::db::open::{self, JournalMode};
use crate::db::{apply, digits, error::Error, lists, ours, state};
use crate::model::lists::Lists;
use crate::model::positions::SeqMap;
use rusqlite::Connection;
use std::path::{Path, PathBuf};

/// A database that was opened. Each step takes the write lock only if there is something to write.
pub struct Opening {
    path: PathBuf,
    connection: Connection,
}

impl Opening {
    pub fn open(path: &Path) -> Result<Opening, Error> {
        Ok(Opening { path: path.to_path_buf(), connection: open::open(path)? })
    }

    /// Whether the application has made a table.
    pub fn holds_tables(&self) -> Result<bool, Error> {
        ours::has_foreign_table(&self.connection)
    }

    /// Makes sure that it is in WAL mode, as `mode` says, and has the tables that every node needs.
    pub fn prepare(&mut self, mode: JournalMode) -> Result<(), Error> {
        open::switch(&self.connection, &self.path, mode)?;
        apply::ensure_state_of(&mut self.connection)
    }

    /// Writes down which tables are replicated from now on.
    pub fn set_lists(&mut self, wanted: &Lists) -> Result<(), Error> {
        lists::set(&mut self.connection, wanted)
    }

    /// Notes which SQLite wrote the database's header last (see [`digits`]), and warns of what no version writes as another one does.
    pub fn note_writer(&self, version: u32) -> Result<(), Error> {
        digits::note_writer(&self.connection, version)?;
        digits::warn(&self.connection)
    }

    /// See [`apply::note_visit`].
    pub fn note_visit(&mut self, reached: &SeqMap) -> Result<bool, Error> {
        apply::note_visit(&mut self.connection, reached)
    }

    /// See [`state::new_incarnation_of_older_copy`].
    pub fn new_incarnation_of_older_copy(&mut self, reached: &SeqMap) -> Result<bool, Error> {
        state::new_incarnation_of_older_copy(&mut self.connection, reached)
    }

    /// Removes what captures: this node does not publish.
    pub fn without_capture(mut self) -> Result<(), Error> {
        capture::remove_capture(&mut self.connection)
    }

    /// Whether the Go program has worked on it: then the sequence map is this database's. Beside any other database that knows no
    /// positions lies the map of the one that was there before.
    pub fn is_of_go_program(&self) -> Result<bool, Error> {
        Ok(ours::any_of_go_program(&self.connection)?
            || state::meta(&self.connection, state::TAKEN_OVER)?.is_some())
    }

    /// Brings capture in step with the schema.
    pub fn with_capture(self, node: u64) -> Result<(ChangeLog, Capture), Error> {
        ChangeLog::open_on(self.connection, node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::scratch::Scratch;

    fn open(path: &Path) -> Result<Capture, Error> {
        let mut opening = Opening::open(path)?;
        assert!(opening.holds_tables()?);
        opening.prepare(JournalMode::Refuse)?;
        opening.new_incarnation_of_older_copy(&SeqMap::new())?;
        opening.with_capture(1).map(|(_, done)| done)
    }

    #[test]
    fn a_database_whose_capture_is_in_place_is_opened_under_the_lock_of_the_application() {
        let sql = "CREATE TABLE t(a UNIQUE); CREATE TABLE u(a, b, PRIMARY KEY(a, b)) WITHOUT ROWID; CREATE VIEW v AS SELECT 1";
        let scratch = Scratch::new("opening", sql);
        assert!(open(&scratch.path).unwrap().first);
        scratch.app.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES(1)").unwrap();
        assert_eq!(open(&scratch.path).unwrap(), Capture::default());
        scratch.app.execute_batch("COMMIT; CREATE TABLE w(a); BEGIN IMMEDIATE").unwrap();
        let opening = Opening::open(&scratch.path).unwrap();
        opening.connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        assert!(matches!(opening.with_capture(1), Err(Error::Busy)), "a table more takes the lock");
    }
}
