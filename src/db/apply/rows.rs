//! Single rows, written exactly as an event has them, and deleted.

use crate::db::apply::subject::Subject;
use crate::db::{
    error::Error,
    table::{Keyed, ROWID, Table},
};
use crate::model::value::Value;
use rusqlite::{Connection, params_from_iter};

/// Why a row could not be written, told apart by whose fault it is.
#[derive(Debug)]
pub enum Failure {
    /// Another row has the same value in a UNIQUE index.
    Collides,
    /// The table lacks a column of the event.
    Missing(String),
    /// SQLite does not take the event: it can neither prepare nor execute its statement, for a reason that another event need not
    /// have.
    Refused(String),
    /// The database, its disk or the machine: every event would fail.
    Database(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        const UNIQUE: [i32; 3] = [2067, 1555, 2579]; // SQLITE_CONSTRAINT_UNIQUE, _PRIMARYKEY, _ROWID
        let code = error.sqlite_error().map(|e| e.extended_code);
        if code.is_some_and(|code| UNIQUE.contains(&code)) {
            return Failure::Collides;
        }
        match Error::from(error) {
            Error::Mismatch(why) | Error::Other(why) => Failure::Refused(why),
            other => Failure::Database(other),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Database(error)
    }
}

/// Inserts or updates the row with exactly the event's columns; returns the number of rows written.
pub fn write(connection: &Connection, subject: &Subject<'_>) -> Result<usize, Failure> {
    if !subject.is_whole {
        return write_partly(connection, subject);
    }
    let sql = &subject.table.sql;
    let values = || subject.event.row.iter().map(|(_, value)| value);
    let run = |sql: &str| connection.prepare_cached(sql)?.execute(params_from_iter(values()));
    if !subject.has_null_key() {
        return Ok(run(&sql.upsert)?);
    }
    refuse_null(subject)?;
    // NULL in a key conflicts with nothing, so the row is looked for first.
    match run(&sql.update_null_key)? {
        0 => Ok(run(&sql.insert)?),
        updated => Ok(updated),
    }
}

/// For NULL as a rowid SQLite would choose one, on each node another.
fn refuse_null(subject: &Subject<'_>) -> Result<(), Failure> {
    if subject.table.keyed != Keyed::Index {
        return Err(Failure::Refused("NULL in a key that cannot be NULL".to_owned()));
    }
    Ok(())
}

/// The same for an event whose columns are not those of the table, as during a change of the schema.
fn write_partly(connection: &Connection, subject: &Subject<'_>) -> Result<usize, Failure> {
    let table = &subject.table;
    let (mut columns, mut values) = (vec![], vec![]);
    for (name, value) in &subject.event.row {
        let known = match table.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)) {
            Some(column) if column.generated => continue,
            Some(column) => &*column.name,
            None if table.keyed == Keyed::Rowid && name.eq_ignore_ascii_case(ROWID) => ROWID,
            None => return Err(Failure::Missing(name.to_string())),
        };
        columns.push(known);
        values.push(value);
    }
    let run = |sql: &str| connection.prepare_cached(sql)?.execute(params_from_iter(values.iter().copied()));
    if !subject.has_null_key() {
        return Ok(run(&table.upsert(&columns))?);
    }
    refuse_null(subject)?;
    match run(&table.update_null_key(&columns))? {
        0 => Ok(run(&table.insert(&columns))?),
        updated => Ok(updated),
    }
}

/// Deletes the row with this key; returns the number of rows deleted.
pub fn delete<'a>(
    connection: &Connection,
    table: &Table,
    key: impl IntoIterator<Item = &'a Value>,
) -> Result<usize, Failure> {
    Ok(connection.prepare_cached(&table.sql.delete)?.execute(params_from_iter(key))?)
}

/// Whether there is a row with this key.
pub fn is_there(connection: &Connection, table: &Table, key: &[Value]) -> Result<bool, Error> {
    Ok(connection.prepare_cached(&table.sql.exists)?.exists(params_from_iter(key))?)
}
