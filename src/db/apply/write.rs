//! Writing one row, exactly as an event has it.

use crate::db::{apply::Applier, error::Error, schema::Table, sql::quote};
use crate::model::event::Event;
use crate::model::value::{Collation, Value};
use rusqlite::params_from_iter;

/// Why a row could not be written.
pub enum Failure {
    /// Another row has the same value in a UNIQUE index.
    Collides,
    /// The local schema does not take it.
    Misfit(String),
    /// The database itself.
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
            Error::Mismatch(why) => Failure::Misfit(why),
            other => Failure::Database(other),
        }
    }
}

impl Applier {
    /// Inserts or updates the row with exactly the event's columns.
    pub(in crate::db) fn write(&self, table: &Table, event: &Event) -> Result<usize, Failure> {
        let mut columns = Vec::with_capacity(event.row.len());
        let mut values = Vec::with_capacity(event.row.len());
        for (name, value) in &event.row {
            if table.by_rowid && name == "rowid" {
                columns.push(name.as_str());
                values.push(value);
                continue;
            }
            match table.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)) {
                None => return Err(Failure::Misfit(format!("table {} has no column {name}", table.name))),
                Some(column) if column.generated => {}
                Some(column) => {
                    columns.push(column.name.as_str());
                    values.push(value);
                }
            }
        }
        let null_key = event.row.iter().any(|(name, value)| {
            *value == Value::Null && table.key.iter().any(|(key, _)| key.eq_ignore_ascii_case(name))
        });
        if null_key && self.update_null_key(table, &columns, &values)? > 0 {
            return Ok(1);
        }
        let sql = upsert(table, &columns, null_key);
        let mut statement = self.connection.prepare_cached(&sql).map_err(Failure::from)?;
        statement.execute(params_from_iter(values)).map_err(Failure::from)
    }

    /// NULL in a key conflicts with nothing: the row is looked for, and the newest one with that key updated.
    fn update_null_key(&self, table: &Table, columns: &[&str], values: &[&Value]) -> Result<usize, Failure> {
        let place =
            |name: &str| columns.iter().position(|c| c.eq_ignore_ascii_case(name)).map_or(0, |at| at + 1);
        let filter: Vec<String> =
            table.key.iter().map(|(name, _)| format!("{} IS ?{}", quote(name), place(name))).collect();
        let set: Vec<String> =
            columns.iter().enumerate().map(|(at, c)| format!("{} = ?{}", quote(c), at + 1)).collect();
        let sql = format!(
            "UPDATE OR ABORT main.{0} SET {1} WHERE rowid = (SELECT max(rowid) FROM main.{0} WHERE {2})",
            quote(&table.name),
            set.join(", "),
            filter.join(" AND ")
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(Failure::from)?;
        statement.execute(params_from_iter(values)).map_err(Failure::from)
    }
}

fn upsert(table: &Table, columns: &[&str], null_key: bool) -> String {
    let quoted: Vec<String> = columns.iter().map(|column| quote(column)).collect();
    let places: Vec<String> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
    let insert = format!(
        "INSERT OR ABORT INTO main.{}({}) VALUES({})",
        quote(&table.name),
        quoted.join(", "),
        places.join(", ")
    );
    if null_key {
        return insert;
    }
    let key: Vec<String> = table.key.iter().map(|(name, _)| quote(name)).collect();
    // A key that is equal byte for byte needs no writing.
    let same = |column: &str| {
        table
            .key
            .iter()
            .any(|(name, collation)| name.eq_ignore_ascii_case(column) && *collation == Collation::Binary)
    };
    let set: Vec<String> =
        columns.iter().filter(|c| !same(c)).map(|c| format!("{0} = excluded.{0}", quote(c))).collect();
    let action = if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
    format!("{insert} ON CONFLICT({}) DO {action}", key.join(", "))
}
