//! All rows of a table, logged: nobody has captured them.

use crate::db::capture::log_table;
use crate::db::{error::Error, sql::quote, table::Table};
use rusqlite::Connection;

/// Logs the rows that a table held before it had triggers; returns their number.
pub fn log_all_rows(connection: &Connection, table: &Table) -> Result<usize, Error> {
    let keys: String = table.key.iter().map(|column| format!(", {}", quote(&column.name))).collect();
    let log = log_table::insert(table.key.len());
    let number = log_table::Touch::Changed.number(table.id);
    Ok(connection.execute(&format!("{log} SELECT {number}{keys} FROM {}", quote(&table.name)), [])?)
}
