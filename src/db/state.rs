//! Our small state table: this database's incarnation, the checkpoint of each stream, and the highest id folded from each
//! origin. It is written in the transaction that applies, and travels inside snapshots.

use crate::db::error::Error;
use crate::model::origin::{Origin, parse_incarnation};
use crate::model::positions::{Position, SeqMap};
use rusqlite::{Connection, OptionalExtension, params};

/// Name of the table.
pub const TABLE: &str = "__harmonylite__state";

/// The text that a database has which came from a snapshot: the cluster's rows are in it, and it has none of its own.
pub const RESTORED: &str = "restored";

/// Creates the table.
pub fn create(connection: &Connection) -> Result<(), Error> {
    Ok(connection.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {TABLE}(kind TEXT NOT NULL, name TEXT NOT NULL, value, PRIMARY KEY(kind, name)) WITHOUT ROWID"
    ))?)
}

/// Whether the table is there.
pub fn exists(connection: &Connection) -> Result<bool, Error> {
    has_table(connection, TABLE)
}

/// Whether a table is there.
pub fn has_table(connection: &Connection, name: &str) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1";
    Ok(connection.prepare_cached(sql)?.query_row([name], |_| Ok(())).optional()?.is_some())
}

fn get<T: rusqlite::types::FromSql>(
    connection: &Connection,
    kind: &str,
    name: &str,
) -> Result<Option<T>, Error> {
    let sql = format!("SELECT value FROM {TABLE} WHERE kind = ?1 AND name = ?2");
    Ok(connection.prepare_cached(&sql)?.query_row([kind, name], |row| row.get(0)).optional()?)
}

/// Writes one value.
pub fn set(
    connection: &Connection,
    kind: &str,
    name: &str,
    value: impl rusqlite::ToSql,
) -> Result<(), Error> {
    let sql = format!("INSERT OR REPLACE INTO {TABLE}(kind, name, value) VALUES(?1, ?2, ?3)");
    connection.prepare_cached(&sql)?.execute(params![kind, name, value])?;
    Ok(())
}

/// One text about the database or snapshot as a whole.
pub fn meta(connection: &Connection, name: &str) -> Result<Option<String>, Error> {
    get(connection, "meta", name)
}

/// Writes such a text.
pub fn set_meta(connection: &Connection, name: &str, value: &str) -> Result<(), Error> {
    set(connection, "meta", name, value)
}

/// A fresh incarnation: ids of the change log begin anew.
pub fn new_incarnation(connection: &Connection) -> Result<(), Error> {
    set_meta(connection, "incarnation", &format!("{:016x}", crate::base::retry::random_u64()))
}

/// Who we are as a publisher.
pub fn origin(connection: &Connection, node: u64) -> Result<Origin, Error> {
    let incarnation = meta(connection, "incarnation")?.as_deref().and_then(parse_incarnation);
    let missing = || Error::Other(format!("{TABLE} has no incarnation; run -cleanup and start again"));
    Ok(Origin { node, incarnation: incarnation.ok_or_else(missing)? })
}

/// The position in a stream; `None` when the database never followed it.
pub fn position(connection: &Connection, stream: &str) -> Result<Option<Position>, Error> {
    let Some(seq) = get::<i64>(connection, "seq", stream)? else { return Ok(None) };
    let created = get::<String>(connection, "created", stream)?.unwrap_or_default();
    Ok(Some(Position { seq: u64::try_from(seq).unwrap_or(0), created }))
}

/// Writes the position in a stream.
pub fn set_position(connection: &Connection, stream: &str, position: &Position) -> Result<(), Error> {
    set(connection, "created", stream, &position.created)?;
    set_seq(connection, stream, position.seq)
}

/// Writes the sequence alone.
pub fn set_seq(connection: &Connection, stream: &str, seq: u64) -> Result<(), Error> {
    set(connection, "seq", stream, i64::try_from(seq).unwrap_or(i64::MAX))
}

/// All positions, as the sequence map shows them.
pub fn positions(connection: &Connection) -> Result<SeqMap, Error> {
    let sql = format!("SELECT name, value FROM {TABLE} WHERE kind = 'seq'");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))?;
    rows.map(|row| row.map(|(name, seq)| (name, u64::try_from(seq).unwrap_or(0))).map_err(Error::from))
        .collect()
}

/// The highest id folded from an origin in a stream; 0: none.
pub fn folded(connection: &Connection, stream: &str, origin: Origin) -> Result<i64, Error> {
    Ok(get(connection, "folded", &format!("{stream} {origin}"))?.unwrap_or(0))
}

/// Writes it.
pub fn set_folded(connection: &Connection, stream: &str, origin: Origin, id: i64) -> Result<(), Error> {
    set(connection, "folded", &format!("{stream} {origin}"), id)
}

/// Forgets what was folded from a stream that does not exist any more.
pub fn forget_folded(connection: &Connection, stream: &str) -> Result<(), Error> {
    let sql =
        format!("DELETE FROM {TABLE} WHERE kind = 'folded' AND substr(name, 1, length(?1) + 1) = ?1 || ' '");
    connection.execute(&sql, [stream])?;
    Ok(())
}

/// Names the streams that the positions count in: changes when one of them is created anew. Empty: not known.
pub fn generation(connection: &Connection) -> Result<String, Error> {
    let sql = format!(
        "SELECT name || '=' || value FROM {TABLE} WHERE kind = 'created' AND value <> '' ORDER BY name"
    );
    let mut statement = connection.prepare(&sql)?;
    let lines: Vec<String> =
        statement.query_map([], |row| row.get(0))?.collect::<Result<_, rusqlite::Error>>()?;
    if lines.is_empty() {
        return Ok(String::new());
    }
    let hash = ring::digest::digest(&ring::digest::SHA256, lines.join("\n").as_bytes());
    Ok(data_encoding::HEXLOWER.encode(&hash.as_ref()[..4]))
}
