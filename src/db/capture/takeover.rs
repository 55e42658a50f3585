//! A database that a Go node has worked on: what it captured and did not publish is logged in our way, then its triggers
//! and tables are removed (compat.md 1c).

use crate::base::limits;
use crate::db::capture::{self, LOG};
use crate::db::{error::Error, schema::Schema, sql::quote, state};
use rusqlite::Connection;

/// Whether a table or trigger with the prefix is a Go node's: its names hold `_change_log`, or it is its schema table.
pub fn is_theirs(name: &str) -> bool {
    name.contains("_change_log") || name.ends_with("__schema_version")
}

/// Takes over; returns the number of pending changes found.
pub fn take_over(connection: &Connection, schema: &Schema) -> Result<usize, Error> {
    let mut pending = 0;
    for table in schema.tables.values() {
        let theirs = format!("{}{}_change_log", limits::PREFIX, table.name);
        if !state::has_table(connection, &theirs)? {
            continue;
        }
        let log_columns: String = (1..=table.key.len()).map(|n| format!(", k{n}")).collect();
        let values: String =
            table.key.iter().map(|(name, _)| format!(", {}", quote(&format!("val_{name}")))).collect();
        // Only the key counts: what is published is the state that the row has then.
        let sql = format!(
            "INSERT INTO {LOG}(t{log_columns}) SELECT {}{values} FROM {} WHERE state = 0 ORDER BY id",
            table.id,
            quote(&theirs)
        );
        pending += connection.execute(&sql, [])?;
    }
    capture::drop_all(connection, is_theirs)?;
    Ok(pending)
}
