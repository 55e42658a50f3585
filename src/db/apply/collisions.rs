//! Which rows an image collides with in UNIQUE indexes: rows with the same value and another key.
//!
//! Where all indexes consist of plain columns, a query on each one finds them. Where they do not (an expression, a condition,
//! a column that the event does not have), SQLite itself is asked: a REPLACE inside a savepoint, which is rolled back, with a
//! temporary trigger that notes what the REPLACE deletes. That needs `recursive_triggers` on the connection.

use crate::db::apply::{mirrored::Mirrored, rows::Failure, savepoint, subject::Subject};
use crate::db::table::{Collisions, Lookup, Table};
use crate::db::{error::Error, schema::Schema, sql::quote};
use crate::model::value::Value;
use rusqlite::{Connection, Statement, params_from_iter};
use std::collections::HashSet;

/// Makes the temporary tables of the probe, anew for a changed schema.
pub fn prepare(connection: &Connection, schema: &Schema) -> Result<(), Error> {
    let mut sql = format!(
        "CREATE TABLE IF NOT EXISTS temp.__harmonylite__probe(armed INTEGER); \
         DELETE FROM temp.__harmonylite__probe; INSERT INTO temp.__harmonylite__probe VALUES(0); \
         DROP TABLE IF EXISTS temp.__harmonylite__collision; \
         CREATE TABLE temp.__harmonylite__collision({}); ",
        key_names(schema.key_width())
    );
    let mut old = connection.prepare(
        "SELECT name FROM temp.sqlite_schema WHERE type = 'trigger' AND name GLOB '__harmonylite__probe*'",
    )?;
    for name in old.query_map([], |row| row.get::<_, String>(0))? {
        sql += &format!("DROP TRIGGER temp.{}; ", quote(&name?));
    }
    connection.execute_batch(&sql)?;
    Ok(())
}

/// Makes the temporary trigger of a table whose collisions only a probe finds. Best outside of a transaction: one in which it is made makes
/// SQLite read all of the schema after each probe.
pub fn prepare_probe(connection: &Connection, table: &Table) -> Result<(), Error> {
    let probes = !table.unique.is_empty() && matches!(table.sql().collisions, Collisions::Probe);
    if probes { note_deleted(connection, table) } else { Ok(()) }
}

/// Makes the temporary trigger for a table, when the first of its rows is probed: most of thousands of tables never are.
fn note_deleted(connection: &Connection, table: &Table) -> Result<(), Error> {
    let old: Vec<String> = table.key.iter().map(|column| format!("OLD.{}", quote(&column.name))).collect();
    let sql = format!(
        "CREATE TEMP TRIGGER IF NOT EXISTS {} AFTER DELETE ON main.{} \
         WHEN (SELECT armed FROM __harmonylite__probe) BEGIN \
         INSERT INTO __harmonylite__collision({}) VALUES({}); END",
        quote(&format!("__harmonylite__probe_{}", table.name)),
        quote(&table.name),
        key_names(table.key.len()),
        old.join(", ")
    );
    connection.execute(&sql, [])?;
    Ok(())
}

fn key_names(width: usize) -> String {
    (1..=width).map(|n| format!("k{n}")).collect::<Vec<_>>().join(", ")
}

/// Keys of the rows that the image collides with, each once.
pub fn find(
    connection: &Connection,
    mirrored: &Mirrored,
    subject: &Subject<'_>,
) -> Result<Vec<Vec<Value>>, Failure> {
    let Collisions::Select(lookups) = &subject.table.sql().collisions else {
        return probe(connection, mirrored, subject);
    };
    let mut found = vec![];
    for lookup in lookups {
        match look_up(connection, subject, lookup)? {
            Some(keys) => found.extend(keys),
            None => return probe(connection, mirrored, subject),
        }
    }
    Ok(others(subject, found))
}

/// `None` when the event does not have all columns of the index.
fn look_up(
    connection: &Connection,
    subject: &Subject<'_>,
    lookup: &Lookup,
) -> Result<Option<Vec<Vec<Value>>>, Failure> {
    let values: Option<Vec<&Value>> = lookup.places.iter().map(|place| subject.image_value(*place)).collect();
    let Some(values) = values else { return Ok(None) };
    if values.contains(&&Value::Null) {
        // NULL is equal to nothing.
        return Ok(Some(vec![]));
    }
    let mut statement = connection.prepare_cached(&lookup.sql)?;
    keys(&mut statement, &values, subject.table.key.len()).map(Some)
}

/// Keys of the rows that writing the image would have to delete, each once.
pub fn probe(
    connection: &Connection,
    mirrored: &Mirrored,
    subject: &Subject<'_>,
) -> Result<Vec<Vec<Value>>, Failure> {
    note_deleted(connection, &subject.table)?;
    connection.execute_batch("SAVEPOINT probe; UPDATE temp.__harmonylite__probe SET armed = 1;")?;
    // As the row will be written: without the copies of triggers if one of them fails.
    let replaced = mirrored.guard(connection, &subject.table.name, || Ok(replace(connection, subject)?));
    let found = match replaced {
        Ok(_) => noted(connection, subject.table.key.len()),
        Err(Failure::Database(error)) => Err(Failure::Database(error)),
        // A row that the schema does not take at all collides with nothing. Writing it will say why.
        Err(_) => Ok(vec![]),
    };
    let taken_back = savepoint::take_back(connection, "probe");
    let found = found?;
    taken_back?;
    Ok(others(subject, found))
}

/// Writes the image, and deletes what it collides with.
pub fn replace(connection: &Connection, subject: &Subject<'_>) -> rusqlite::Result<usize> {
    let (table, row) = (&subject.table, &subject.event.row);
    if subject.is_whole {
        let values = row.iter().map(|(_, value)| value);
        return connection.prepare_cached(&table.sql().replace)?.execute(params_from_iter(values));
    }
    let known = |name: &str| table.image.iter().find(|column| column.eq_ignore_ascii_case(name));
    let (columns, values): (Vec<&str>, Vec<&Value>) =
        row.iter().filter_map(|(name, value)| Some((&**known(name)?, value))).unzip();
    connection.prepare_cached(&table.replace(&columns))?.execute(params_from_iter(values))
}

fn noted(connection: &Connection, width: usize) -> Result<Vec<Vec<Value>>, Failure> {
    let sql = format!("SELECT {} FROM temp.__harmonylite__collision", key_names(width));
    let mut statement = connection.prepare_cached(&sql)?;
    keys(&mut statement, &[], width)
}

fn keys(statement: &mut Statement<'_>, values: &[&Value], width: usize) -> Result<Vec<Vec<Value>>, Failure> {
    let rows = statement.query_map(params_from_iter(values.iter().copied()), |row| {
        (0..width).map(|at| row.get(at)).collect::<Result<Vec<Value>, _>>()
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The keys that are not the event's own, each once: a row can collide in several indexes.
fn others(subject: &Subject<'_>, mut found: Vec<Vec<Value>>) -> Vec<Vec<Value>> {
    if found.is_empty() {
        return found;
    }
    let mut seen = HashSet::from([subject.key.clone()]);
    found.retain(|key| seen.insert(subject.table.row_key(key)));
    found
}

#[cfg(test)]
#[path = "collisions_tests.rs"]
mod tests;
