//! What can go wrong in the database.

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
