//! Which rows an image collides with in a UNIQUE index, of whatever kind (several columns, an expression, a condition):
//! SQLite itself is asked, by a REPLACE inside a savepoint that is rolled back, with a temporary trigger that notes what
//! the REPLACE deletes. It needs `recursive_triggers` on the connection.

use crate::db::schema::{Schema, Table};
use crate::db::{error::Error, sql::quote};
use crate::model::{event::Event, value::Value};
use rusqlite::{Connection, params_from_iter};

/// Makes the temporary tables and triggers, anew for a changed schema.
pub fn prepare(connection: &Connection, schema: &Schema) -> Result<(), Error> {
    let width = schema.tables.values().map(|table| table.key.len()).max().unwrap_or(1);
    let mut sql = format!(
        "CREATE TABLE IF NOT EXISTS temp.__harmonylite__probe(armed INTEGER); \
         DELETE FROM temp.__harmonylite__probe; INSERT INTO temp.__harmonylite__probe VALUES(0); \
         DROP TABLE IF EXISTS temp.__harmonylite__collision; \
         CREATE TABLE temp.__harmonylite__collision({}); ",
        key_names(width)
    );
    let mut old = connection.prepare(
        "SELECT name FROM temp.sqlite_schema WHERE type = 'trigger' AND name GLOB '__harmonylite__probe*'",
    )?;
    for name in old.query_map([], |row| row.get::<_, String>(0))? {
        sql += &format!("DROP TRIGGER temp.{}; ", quote(&name?));
    }
    for (at, table) in schema.tables.values().filter(|table| !table.unique.is_empty()).enumerate() {
        let old: Vec<String> = table.key.iter().map(|(name, _)| format!("OLD.{}", quote(name))).collect();
        sql += &format!(
            "CREATE TEMP TRIGGER __harmonylite__probe_{at} AFTER DELETE ON main.{} \
             WHEN (SELECT armed FROM __harmonylite__probe) BEGIN \
             INSERT INTO __harmonylite__collision({}) VALUES({}); END; ",
            quote(&table.name),
            key_names(table.key.len()),
            old.join(", ")
        );
    }
    connection.execute_batch(&sql)?;
    Ok(())
}

fn key_names(width: usize) -> String {
    (1..=width).map(|n| format!("k{n}")).collect::<Vec<_>>().join(", ")
}

/// Keys of the rows that writing the event's image would have to delete, that of the event's own key among them.
pub fn find(connection: &Connection, table: &Table, event: &Event) -> Result<Vec<Vec<Value>>, Error> {
    let known = |name: &str| table.columns.iter().find(|c| !c.generated && c.name.eq_ignore_ascii_case(name));
    let row: Vec<(&str, &Value)> = event
        .row
        .iter()
        .filter_map(|(name, value)| match known(name) {
            Some(column) => Some((column.name.as_str(), value)),
            None => (table.by_rowid && name == "rowid").then_some(("rowid", value)),
        })
        .collect();
    let columns: Vec<String> = row.iter().map(|(name, _)| quote(name)).collect();
    let places: Vec<String> = (1..=row.len()).map(|n| format!("?{n}")).collect();
    let sql = format!(
        "INSERT OR REPLACE INTO main.{}({}) VALUES({})",
        quote(&table.name),
        columns.join(", "),
        places.join(", ")
    );
    connection.execute_batch("SAVEPOINT probe; UPDATE temp.__harmonylite__probe SET armed = 1;")?;
    let replaced = connection
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.execute(params_from_iter(row.iter().map(|(_, value)| *value))));
    // A row that the schema does not take at all collides with nothing; writing it says why.
    let found = if replaced.is_ok() { noted(connection, table.key.len()) } else { Ok(vec![]) };
    connection.execute_batch("ROLLBACK TO probe; RELEASE probe;")?;
    found
}

fn noted(connection: &Connection, width: usize) -> Result<Vec<Vec<Value>>, Error> {
    let sql = format!("SELECT {} FROM temp.__harmonylite__collision", key_names(width));
    let mut statement = connection.prepare_cached(&sql)?;
    let rows =
        statement.query_map([], |row| (0..width).map(|at| row.get(at)).collect::<Result<Vec<Value>, _>>())?;
    Ok(rows.collect::<Result<_, _>>()?)
}
