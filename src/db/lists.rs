//! The lists of tables that are replicated. They are written into the database when it is opened, so that whoever reads its schema
//! sees them: the workers, the commands beside a running daemon, and whoever takes a snapshot of it.

use crate::db::apply::aside;
use crate::db::{error::Error, open, ours, state};
use crate::model::lists::Lists;
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;

const TABLES: &str =
    "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
const ASIDE_TABLES: &str = "SELECT DISTINCT tbl FROM __harmonylite__set_aside WHERE tbl <> ''";
const DROP_ASIDE: &str = "DELETE FROM __harmonylite__set_aside WHERE tbl = ?1";

/// Writes the lists into the database, if they are others than before. A table that is replicated again is noted: what the cluster has
/// of it, this database has not followed.
pub fn set(connection: &mut Connection, wanted: &Lists) -> Result<(), Error> {
    if state::lists(connection)?.unwrap_or_default() == *wanted {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    change(&transaction, wanted)?;
    transaction.commit()?;
    Ok(())
}

fn change(connection: &Connection, wanted: &Lists) -> Result<(), Error> {
    let before = state::lists(connection)?.unwrap_or_default();
    let present: Vec<String> = connection
        .prepare(TABLES)?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, rusqlite::Error>>()?;
    let passed = state::passed(connection)?;
    for name in present.iter().chain(&passed) {
        match (before.exclude(name), wanted.exclude(name)) {
            (true, false) => state::note_included(connection, name)?,
            (_, true) => state::forget_included(connection, name)?,
            (false, false) => {}
        }
    }
    state::set_lists(connection, wanted)?;
    drop_aside(connection)
}

/// What is set aside of tables that are not replicated goes.
pub fn drop_aside(connection: &Connection) -> Result<(), Error> {
    let lists = state::lists(connection)?.unwrap_or_default();
    if lists.name_nothing() || !ours::has_table(connection, aside::TABLE)? {
        return Ok(());
    }
    let tables: Vec<String> = connection
        .prepare(ASIDE_TABLES)?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, rusqlite::Error>>()?;
    for table in tables.iter().filter(|table| lists.exclude(table)) {
        let dropped = connection.execute(DROP_ASIDE, [table])?;
        log::info!(
            "table {table} is not replicated: {dropped} events of it that were set aside are passed over"
        );
    }
    Ok(())
}

/// The tables in the file at `path`, which nobody else uses, whose rows are not the cluster's.
pub fn included_in(path: &Path) -> Result<Vec<String>, Error> {
    let connection = open::open(path)?;
    if state::exists(&connection)? { state::included(&connection) } else { Ok(vec![]) }
}

#[cfg(test)]
#[path = "lists_tests.rs"]
mod tests;
