//! Events that do not fit the local schema yet (a table or column that the application has not created here): kept, in
//! order, and applied when it has. Nothing waits for them, nothing is lost.

use crate::db::error::Error;
use rusqlite::{Connection, params};
use std::collections::HashSet;

/// Name of the table.
pub const TABLE: &str = "__harmonylite__parked";

/// An event that was kept.
pub struct Parked {
    /// Its stream.
    pub stream: String,
    /// Its sequence there.
    pub seq: i64,
    /// The message's payload.
    pub payload: Vec<u8>,
}

/// Creates the table.
pub fn create(connection: &Connection) -> Result<(), Error> {
    Ok(connection.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {TABLE}(stream TEXT NOT NULL, seq INTEGER NOT NULL, tbl TEXT NOT NULL, \
         payload BLOB NOT NULL, PRIMARY KEY(stream, seq)) WITHOUT ROWID"
    ))?)
}

/// Names of the tables that have parked events.
pub fn tables(connection: &Connection) -> Result<HashSet<String>, Error> {
    let mut statement = connection.prepare(&format!("SELECT DISTINCT tbl FROM {TABLE}"))?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// Keeps an event.
pub fn park(
    connection: &Connection,
    stream: &str,
    seq: u64,
    table: &str,
    payload: &[u8],
) -> Result<(), Error> {
    let sql = format!("INSERT OR REPLACE INTO {TABLE}(stream, seq, tbl, payload) VALUES(?1, ?2, ?3, ?4)");
    let seq = i64::try_from(seq).unwrap_or(i64::MAX);
    connection.prepare_cached(&sql)?.execute(params![stream, seq, table, payload])?;
    Ok(())
}

/// The next parked event of a table behind a position, in the order of the stream.
pub fn next(connection: &Connection, table: &str, after: &(String, i64)) -> Result<Option<Parked>, Error> {
    let sql = format!(
        "SELECT stream, seq, payload FROM {TABLE} WHERE tbl = ?1 AND (stream, seq) > (?2, ?3) ORDER BY stream, seq LIMIT 1"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![table, after.0, after.1])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(Parked { stream: row.get(0)?, seq: row.get(1)?, payload: row.get(2)? }))
}

/// Removes an event that was applied.
pub fn remove(connection: &Connection, parked: &Parked) -> Result<(), Error> {
    let sql = format!("DELETE FROM {TABLE} WHERE stream = ?1 AND seq = ?2");
    connection.prepare_cached(&sql)?.execute(params![parked.stream, parked.seq])?;
    Ok(())
}
