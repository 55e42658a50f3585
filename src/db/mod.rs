//! The application's database: everything that speaks SQL lives below here.
//!
//! Rules of this directory: no automatic checkpoints on our connections; nothing opens or closes the database's files by
//! other means than SQLite; a read transaction is never held while waiting.

mod apply;
mod capture;
mod changelog;
mod checkpoint;
mod collisions;
mod header;
mod indexes;
mod mirrored;
mod open;
mod parked;
mod reconcile;
mod replace;
mod schema;
mod snapshot;
mod state;
mod takeover;
mod touched;
mod watch;
mod write;

pub use apply::{Applied, Applier, Incoming};
pub use capture::{Capture, cleanup, rename_older_copy};
pub use changelog::{Batch, Change, ChangeLog};
pub use checkpoint::Checkpointer;
pub use open::{check_file, prepare};
pub use reconcile::{Comparison, Extra, compare, mismatch as schema_mismatch};
pub use replace::{Look, Salvage, Salvaged, damage, replace};
pub use schema::{Column, Schema, Table};
pub use snapshot::{
    Inside, Made, Ready, Stamp, copy, inspect, install_capture, make, make_ready, positions_of, schema_hash,
    set_positions, strip, unsettled,
};
pub use state::{Origin, Position};
pub use watch::watch;

use std::fmt;

/// What went wrong, told apart by what can be done.
#[derive(Debug)]
pub enum Error {
    /// The application holds the lock; try again.
    Busy,
    /// The file is damaged or is no database.
    Corrupt(String),
    /// The disk is full, or the file cannot be read or written.
    Disk(String),
    /// An event does not fit the local schema.
    Mismatch(String),
    /// Anything else.
    Other(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Busy => f.write_str("database is locked by the application"),
            Error::Corrupt(why) | Error::Disk(why) | Error::Mismatch(why) | Error::Other(why) => {
                f.write_str(why)
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode as Code;
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => Error::Busy,
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => Error::Corrupt(text),
            Some(
                Code::DiskFull
                | Code::SystemIoFailure
                | Code::CannotOpen
                | Code::ReadOnly
                | Code::PermissionDenied,
            ) => Error::Disk(text),
            Some(Code::ConstraintViolation) => Error::Mismatch(text),
            _ => Error::Other(text),
        }
    }
}

/// Version of the bundled SQLite.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// An identifier in quotes.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value as SQL text in quotes.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl rusqlite::ToSql for crate::value::Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use crate::value::Value;
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Real(real) => ValueRef::Real(*real),
            Value::Text(bytes) => ValueRef::Text(bytes),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl rusqlite::types::FromSql for crate::value::Value {
    fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
        use crate::value::Value;
        use rusqlite::types::ValueRef;
        Ok(match value {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Integer(number),
            ValueRef::Real(real) => Value::Real(real),
            ValueRef::Text(bytes) => Value::Text(bytes.to_vec()),
            ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
        })
    }
}

#[cfg(test)]
#[path = "../db_tests.rs"]
mod tests;
