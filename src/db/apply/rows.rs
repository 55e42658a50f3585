//! Single rows, written exactly as an event has them, and deleted.

use crate::db::apply::subject::Subject;
use crate::db::{
    error::Error,
    table::{Keyed, ROWID, Table},
};
use crate::model::event::{Event, Kind};
use crate::model::value::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

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
    if subject.has_null_key() {
        // NULL in a key conflicts with nothing, so an upsert would insert another row.
        return write_in_two(connection, subject);
    }
    if subject.is_whole {
        return run(connection, &subject.table.sql().upsert, image(subject));
    }
    let (columns, values) = known(subject)?;
    run(connection, &subject.table.upsert(&columns), values)
}

/// The same with an UPDATE and, if there is no such row, an INSERT. Where triggers run, the application's own statement looks
/// like this to them: an upsert fires those before an INSERT for an update, too, and makes every statement of an UPDATE
/// trigger OR ABORT.
pub fn write_in_two(connection: &Connection, subject: &Subject<'_>) -> Result<usize, Failure> {
    let table = &subject.table;
    if subject.has_null_key() && table.keyed != Keyed::Index {
        // For NULL as a rowid SQLite would choose one, on each node another.
        return Err(Failure::Refused("NULL in a key that cannot be NULL".to_owned()));
    }
    let key = || subject.key_values.iter().copied();
    if subject.is_whole {
        return match run(connection, &table.sql().update, image(subject).chain(key()))? {
            0 => run(connection, &table.sql().insert, image(subject)),
            updated => Ok(updated),
        };
    }
    let (columns, values) = known(subject)?;
    match run(connection, &table.update(&columns), values.iter().copied().chain(key()))? {
        0 => run(connection, &table.insert(&columns), values),
        updated => Ok(updated),
    }
}

/// The values of an event that has all columns.
fn image<'a>(subject: &Subject<'a>) -> impl Iterator<Item = &'a Value> {
    subject.event.row.iter().map(|(_, value)| value)
}

fn run<'a>(
    connection: &Connection,
    sql: &str,
    values: impl IntoIterator<Item = &'a Value>,
) -> Result<usize, Failure> {
    Ok(connection.prepare_cached(sql)?.execute(params_from_iter(values))?)
}

/// Overwrites columns of the row with the event's key, if it is there; returns the number of rows written.
pub fn update_only(
    connection: &Connection,
    subject: &Subject<'_>,
    is_meant: impl Fn(&str) -> bool,
) -> Result<usize, Failure> {
    let (columns, values) = known(subject)?;
    let meant = columns.into_iter().zip(values).filter(|(name, _)| is_meant(name));
    let (columns, values): (Vec<&str>, Vec<&Value>) = meant.unzip();
    if columns.is_empty() {
        return Ok(0);
    }
    let key = subject.key_values.iter().copied();
    run(connection, &subject.table.update(&columns), values.into_iter().chain(key))
}

/// The event's columns as the table writes them, and their values. They are not those of the table during a change of the
/// schema.
fn known<'a>(subject: &'a Subject<'a>) -> Result<(Vec<&'a str>, Vec<&'a Value>), Failure> {
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
    Ok((columns, values))
}

/// Deletes the row with this key; returns the number of rows deleted.
pub fn delete<'a>(
    connection: &Connection,
    table: &Table,
    key: impl IntoIterator<Item = &'a Value>,
) -> Result<usize, Failure> {
    run(connection, &table.sql().delete, key)
}

/// The row with this key as an event of a node; `None`: it is not there.
pub fn event_of(
    connection: &Connection,
    table: &Table,
    key: &[Value],
    node: u64,
) -> Result<Option<Event>, Error> {
    let image = connection.prepare_cached(&table.sql().image)?.query_row(params_from_iter(key), |row| {
        let values = table.image.iter().enumerate();
        values.map(|(at, name)| Ok((name.clone(), row.get(at)?))).collect::<Result<Vec<_>, rusqlite::Error>>()
    });
    let of_row =
        |row| Event { node, id: 0, kind: Kind::Insert, table: table.name.clone(), row, schema_hash: None };
    Ok(image.optional()?.map(of_row))
}

/// Whether there is a row with this key.
pub fn is_there(connection: &Connection, table: &Table, key: &[Value]) -> Result<bool, Error> {
    Ok(connection.prepare_cached(&table.sql().exists)?.exists(params_from_iter(key))?)
}
