//! What can be said of a database before a daemon works on it, or beside one: read alone.

use crate::db::{apply, capture::log_table, error::Error, migrate, open, ours, schema::Schema, state};
use std::path::Path;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examined {
    /// `wal`, `delete`, ...
    pub journal_mode: String,
    /// Tables that are replicated.
    pub tables: usize,
    /// Tables that are not, and why.
    pub left_out: Vec<(String, String)>,
    /// Warnings about tables in which two nodes give the same keys.
    pub same_keys: Vec<String>,
    /// Whether a daemon has worked on it.
    pub known: bool,
}

/// Examines the database at `path`.
pub fn examine(path: &Path) -> Result<Examined, Error> {
    let connection = open::open_checked(path)?;
    let schema = Schema::read(&connection)?;
    let known = ours::has_own_table(&connection)?;
    let of_state = known && state::exists(&connection)?;
    Ok(Examined {
        journal_mode: connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?,
        tables: schema.tables.len(),
        same_keys: if of_state { apply::same_keys(&connection, schema.tables.values())? } else { vec![] },
        left_out: schema.refused.into_iter().collect(),
        known,
    })
}

/// What of ours in a database may be nowhere else in the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnlyHere {
    /// Changes that have not come back from their stream.
    pub changes: bool,
    /// Events that the database could not use, or not yet.
    pub aside: usize,
    /// Writes that lost to ours.
    pub lost: usize,
    /// Tables and columns that were dropped, and are kept.
    pub dropped: usize,
}

/// Looks for it.
pub fn only_here(path: &Path) -> Result<OnlyHere, Error> {
    let connection = open::open_checked(path)?;
    if !ours::has_own_table(&connection)? || !state::exists(&connection)? {
        return Ok(OnlyHere::default());
    }
    let logged = log_table::exists(&connection)? && log_table::any_unsettled(&connection, i64::MAX, &[])?;
    let rebuilt = !state::rebuilt(&connection)?.is_empty();
    drop(connection);
    Ok(OnlyHere {
        changes: logged || rebuilt,
        aside: apply::aside::list(path)?.len(),
        lost: apply::conflicts::list(path)?.len(),
        dropped: migrate::kept_of(path)?.len(),
    })
}

/// Whether somebody has dropped tables of ours from the database that a daemon works on. `captures`: it has a change log.
pub fn is_stripped(path: &Path, captures: bool) -> Result<bool, Error> {
    let connection = open::open_checked(path)?;
    let has_log = log_table::has_both_or_none(&connection)? && log_table::exists(&connection)?;
    Ok(!apply::has_all_tables(&connection)?
        || (captures && !has_log)
        || state::meta(&connection, state::MENDED)?.is_some())
}

/// The highest id in the change log of the database at `path`; 0: nothing is captured.
pub fn newest_captured(path: &Path) -> Result<i64, Error> {
    let connection = open::open_checked(path)?;
    if log_table::exists(&connection)? { log_table::highest(&connection) } else { Ok(0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;
    use rusqlite::Connection;

    #[test]
    fn a_database_that_no_daemon_has_seen() {
        let scratch = Scratch::new("examine");
        let path = scratch.path("app.db");
        let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY); CREATE TABLE u(rowid, x)";
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let before = std::fs::read(&path).unwrap();
        let found = examine(&path).unwrap();
        assert_eq!((found.journal_mode.as_str(), found.tables, found.known), ("delete", 1, false));
        assert_eq!(found.left_out[0].0, "u");
        assert_eq!(std::fs::read(&path).unwrap(), before, "nothing was changed");
        assert_eq!(scratch.names(), ["app.db"]);
    }
}
