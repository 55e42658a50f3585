//! Tables into which this program cannot write, because an index or a column of theirs needs a function or a collation that
//! only the application's connections have. SQLite itself is asked. Nothing takes the place of what is missing: entries of an
//! index that were made with another function or order would be wrong for the application.

use crate::db::{error::Error, indexes, table::Table};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::collections::HashSet;

/// Settings of a connection under which a statement needs of a table only what writing into it needs: the application's
/// triggers, CHECKs and foreign keys aside. The settings that the connection had come back when this is dropped.
pub struct Bare<'a> {
    connection: &'a Connection,
    triggers: bool,
    foreign_keys: bool,
    ignore_checks: bool,
}

impl Bare<'_> {
    pub fn new(connection: &Connection) -> Result<Bare<'_>, Error> {
        let bare = Bare {
            connection,
            triggers: connection.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER)?,
            foreign_keys: connection.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY)?,
            ignore_checks: connection.query_row("PRAGMA ignore_check_constraints", [], |row| row.get(0))?,
        };
        set(connection, false, false, true)?;
        Ok(bare)
    }
}

impl Drop for Bare<'_> {
    fn drop(&mut self) {
        // Setting a flag of an open connection does not fail.
        let _ = set(self.connection, self.triggers, self.foreign_keys, self.ignore_checks);
    }
}

fn set(
    connection: &Connection,
    triggers: bool,
    foreign_keys: bool,
    ignore_checks: bool,
) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, triggers)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, foreign_keys)?;
    connection.execute_batch(&format!("PRAGMA ignore_check_constraints={ignore_checks}"))
}

/// Why rows cannot be written into a table, and what can be done; `None` when they can. The connection has the settings
/// of [`Bare`].
pub fn obstacle(connection: &Connection, table: &Table) -> Result<Option<String>, Error> {
    for sql in table.samples() {
        match connection.prepare(&sql) {
            Ok(_) => {}
            Err(error) if is_of_statement(&error) => {
                return Ok(Some(match foreign_index(connection, &table.name)? {
                    Some(why) => why,
                    None => format!(
                        "it cannot be written without a function or collation of the application's own ({}): make its generated \
                         columns and indexes without it",
                        bare_message(&error)
                    ),
                }));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Whether SQLite could not make sense of a statement, as when a name in it stands for nothing that the connection knows.
pub fn is_of_statement(error: &rusqlite::Error) -> bool {
    let (rusqlite::Error::SqliteFailure(code, _) | rusqlite::Error::SqlInputError { error: code, .. }) =
        error
    else {
        return false;
    };
    code.extended_code & 0xff == rusqlite::ffi::SQLITE_ERROR
}

fn bare_message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

/// The index of a table that needs what only the application has, with what that is.
fn foreign_index(connection: &Connection, table: &str) -> Result<Option<String>, Error> {
    let collations = names(connection, "SELECT lower(name) FROM pragma_collation_list")?;
    let functions = names(connection, "SELECT lower(name) FROM pragma_function_list")?;
    let mut statement = connection.prepare(
        "SELECT l.name, s.sql FROM pragma_index_list(?1) AS l \
         LEFT JOIN sqlite_schema AS s ON s.type = 'index' AND s.name = l.name ORDER BY l.seq DESC",
    )?;
    let found: Vec<(String, Option<String>)> =
        statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (index, sql) in found {
        let mut used = connection.prepare("SELECT coll FROM pragma_index_xinfo(?1) WHERE key")?;
        let used: Vec<Option<String>> =
            used.query_map([&index], |row| row.get(0))?.collect::<Result<_, _>>()?;
        if let Some(collation) = used.into_iter().flatten().find(|c| !collations.contains(&c.to_lowercase()))
        {
            return Ok(Some(format!(
                "index {index} compares by the application's own collation {collation}: drop the index, or make it with BINARY, \
                 NOCASE or RTRIM"
            )));
        }
        let called = sql.as_deref().map(indexes::functions_of_index).unwrap_or_default();
        if let Some(function) = called.into_iter().find(|function| !functions.contains(function)) {
            return Ok(Some(format!(
                "index {index} calls the application's own function {function}: drop the index, or make it without the function"
            )));
        }
    }
    Ok(None)
}

fn names(connection: &Connection, sql: &str) -> Result<HashSet<String>, Error> {
    let mut statement = connection.prepare(sql)?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}
