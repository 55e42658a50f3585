//! A whole database copied into a new file, in one consistent read.

use crate::db::{error::Error, open, writable};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use std::path::Path;

/// How a copy came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// By VACUUM INTO: without free pages.
    Compact,
    /// Page by page. VACUUM INTO makes all tables and indexes anew, and one of them needs a function or a collation that only
    /// the application has.
    Pages,
}

/// Copies the database at `path` as it is.
pub fn copy_database(path: &Path, target: &Path) -> Result<(), Error> {
    copy(&open::open(path)?, target).map(drop)
}

/// Copies a database into a file that does not exist yet, or is empty.
pub fn copy(source: &Connection, target: &Path) -> Result<Copied, Error> {
    let text =
        target.to_str().ok_or_else(|| Error::Other(format!("{target:?}: SQLite needs a path in UTF-8")))?;
    let is_new = std::fs::metadata(target).map_or(0, |meta| meta.len()) == 0;
    match source.execute("VACUUM INTO ?1", [text]) {
        Ok(_) => Ok(Copied::Compact),
        Err(error) if is_new && writable::is_of_statement(&error) => {
            // What VACUUM has begun.
            let _ = std::fs::remove_file(target);
            copy_pages(source, target)?;
            Ok(Copied::Pages)
        }
        Err(error) => Err(error.into()),
    }
}

fn copy_pages(source: &Connection, target: &Path) -> Result<(), Error> {
    let mut copy = Connection::open(target)?;
    // All pages in one step, which is one read transaction.
    match Backup::new(source, &mut copy)?.step(-1)? {
        StepResult::Done => {}
        _ => return Err(Error::Busy),
    }
    rollback_mode(&copy)
}

/// Lets a file that nobody else uses stand alone, without a WAL beside it.
pub fn rollback_mode(connection: &Connection) -> Result<(), Error> {
    let mode: String = connection.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get(0))?;
    if mode.eq_ignore_ascii_case("delete") {
        Ok(())
    } else {
        Err(Error::Other(format!("snapshot: journal mode stays {mode}")))
    }
}
