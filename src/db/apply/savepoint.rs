//! Savepoints that do not hide why a statement failed. When the disk or the memory is full, SQLite may roll back the whole
//! transaction by itself: then no savepoint is left, and whatever is written next would be committed alone.

use crate::db::apply::rows::Failure;
use crate::db::error::Error;
use rusqlite::Connection;

/// Fails if SQLite has rolled back the transaction by itself.
pub fn insist_on_transaction(connection: &Connection) -> Result<(), Error> {
    if connection.is_autocommit() {
        return Err(Error::Disk("SQLite has rolled back the transaction by itself".to_owned()));
    }
    Ok(())
}

/// Takes back what was changed since a savepoint began, and ends it.
pub fn take_back(connection: &Connection, name: &str) -> Result<(), Error> {
    insist_on_transaction(connection)?;
    Ok(connection.execute_batch(&format!("ROLLBACK TO {name}; RELEASE {name}"))?)
}

/// Runs `body` inside a savepoint. If it fails, nothing has changed, unless the failure is [`Failure::Database`], after which
/// the transaction must end.
pub fn all_or_nothing<T>(
    connection: &Connection,
    name: &str,
    body: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    connection.execute_batch(&format!("SAVEPOINT {name}"))?;
    let failure = match body() {
        Ok(done) => {
            connection.execute_batch(&format!("RELEASE {name}"))?;
            return Ok(done);
        }
        Err(failure) => failure,
    };
    match (failure, take_back(connection, name)) {
        // Why the statement failed says more than what became of its savepoint.
        (failure, Ok(())) | (failure @ Failure::Database(_), Err(_)) => Err(failure),
        (_, Err(error)) => Err(error.into()),
    }
}
