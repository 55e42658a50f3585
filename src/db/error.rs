//! What can go wrong in the database.

use crate::base::error::{self as base, Kind};
use std::fmt;

/// What went wrong, told apart by what the caller can do.
#[derive(Debug)]
pub enum Error {
    /// The application holds the lock. To be tried again.
    Busy,
    /// The application changed the schema between two of our statements. To be tried again with the schema as it is now.
    SchemaChanged,
    /// The file is damaged or is no database.
    Corrupt(String),
    /// The disk or the memory is full, or the file cannot be read or written.
    Disk(String),
    /// Somebody has dropped tables of ours: the database must be opened anew, which makes them.
    Stripped(String),
    /// An event or a snapshot does not fit the local schema.
    Mismatch(String),
    Other(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Busy => f.write_str("database is locked by the application"),
            Error::SchemaChanged => f.write_str("the application has just changed the schema"),
            Error::Corrupt(why)
            | Error::Disk(why)
            | Error::Stripped(why)
            | Error::Mismatch(why)
            | Error::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode as Code;
        let text = error.to_string();
        match error.sqlite_error_code() {
            // What a virtual table says about its own index is no damage of the database.
            Some(Code::DatabaseCorrupt) if is_of_virtual_table(&error) => Error::Mismatch(text),
            Some(
                Code::DatabaseBusy
                | Code::DatabaseLocked
                | Code::FileLockingProtocolFailed
                | Code::OperationInterrupted,
            ) => Error::Busy,
            Some(Code::SchemaChanged) => Error::SchemaChanged,
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => Error::Corrupt(text),
            Some(
                Code::DiskFull
                | Code::SystemIoFailure
                | Code::CannotOpen
                | Code::ReadOnly
                | Code::OutOfMemory
                | Code::PermissionDenied,
            ) => Error::Disk(text),
            Some(Code::ConstraintViolation) => Error::Mismatch(text),
            _ => Error::Other(text),
        }
    }
}

fn is_of_virtual_table(error: &rusqlite::Error) -> bool {
    const CORRUPT_VTAB: i32 = 267;
    error.sqlite_error().is_some_and(|error| error.extended_code == CORRUPT_VTAB)
}

impl From<Error> for base::Error {
    fn from(error: Error) -> base::Error {
        let kind = match &error {
            Error::Busy | Error::SchemaChanged => Kind::Waiting,
            Error::Corrupt(_) => Kind::Damaged,
            Error::Stripped(_) => Kind::Stripped,
            Error::Disk(_) | Error::Other(_) => Kind::Local,
            Error::Mismatch(_) => Kind::Unusable,
        };
        base::Error::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    #[test]
    fn sqlites_codes_become_what_can_be_done() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES(1)").unwrap();
        let error = |sql: &str| Error::from(connection.execute_batch(sql).unwrap_err());
        assert!(matches!(error("INSERT INTO t VALUES(1)"), Error::Mismatch(_)));
        assert!(matches!(error("SELECT nothing"), Error::Other(_)));
        let missing =
            Connection::open_with_flags("/nowhere/x.db", rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
        assert!(matches!(Error::from(missing.unwrap_err()), Error::Disk(_)));
    }

    #[test]
    fn what_a_virtual_table_says_of_its_index_is_no_damage() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE VIRTUAL TABLE f USING fts5(v, content='')").unwrap();
        let unknown = "INSERT INTO f(f, rowid, v) VALUES('delete', 1, 'never inserted')";
        let error = connection.execute_batch(unknown).unwrap_err();
        assert_eq!(error.sqlite_error().unwrap().extended_code, 267);
        assert!(matches!(Error::from(error), Error::Mismatch(_)));
    }

    #[test]
    fn every_variant_has_its_kind_above() {
        for (error, kind) in [
            (Error::Busy, Kind::Waiting),
            (Error::SchemaChanged, Kind::Waiting),
            (Error::Corrupt("c".into()), Kind::Damaged),
            (Error::Disk("d".into()), Kind::Local),
            (Error::Mismatch("m".into()), Kind::Unusable),
            (Error::Other("o".into()), Kind::Local),
        ] {
            let text = error.to_string();
            let above = base::Error::from(error);
            assert_eq!((above.kind(), above.to_string()), (kind, text));
        }
    }
}
