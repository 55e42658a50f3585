//! Parked events: those that do not fit the local schema yet, because the application has not created their table or column
//! here. They are kept in order and applied when it has. Other tables do not wait for them, and none of them is lost.

use crate::db::error::Error;
use rusqlite::{Connection, params};
use std::collections::HashSet;

pub const TABLE: &str = "__harmonylite__parked";

const CREATE: &str = "CREATE TABLE IF NOT EXISTS __harmonylite__parked(stream TEXT NOT NULL, seq INTEGER NOT NULL, \
     tbl TEXT NOT NULL, payload BLOB NOT NULL, PRIMARY KEY(stream, seq)) WITHOUT ROWID";
const TABLES: &str = "SELECT DISTINCT tbl FROM __harmonylite__parked";
const PARK: &str =
    "INSERT OR REPLACE INTO __harmonylite__parked(stream, seq, tbl, payload) VALUES(?1, ?2, ?3, ?4)";
const NEXT: &str = "SELECT stream, seq, payload FROM __harmonylite__parked WHERE tbl = ?1 AND (stream, seq) > (?2, ?3) \
     ORDER BY stream, seq LIMIT 1";
const REMOVE: &str = "DELETE FROM __harmonylite__parked WHERE stream = ?1 AND seq = ?2";

#[derive(Debug)]
pub struct Parked {
    pub stream: String,
    pub seq: i64,
    /// The message's body.
    pub payload: Vec<u8>,
}

pub fn create(connection: &Connection) -> Result<(), Error> {
    Ok(connection.execute_batch(CREATE)?)
}

/// Names of the tables that have parked events.
pub fn tables(connection: &Connection) -> Result<HashSet<String>, Error> {
    let mut statement = connection.prepare(TABLES)?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

pub fn park(
    connection: &Connection,
    stream: &str,
    seq: u64,
    table: &str,
    payload: &[u8],
) -> Result<(), Error> {
    let seq = i64::try_from(seq).unwrap_or(i64::MAX);
    connection.prepare_cached(PARK)?.execute(params![stream, seq, table, payload])?;
    Ok(())
}

/// The next parked event of a table after a stream and sequence, in that order.
pub fn next(connection: &Connection, table: &str, after: &(String, i64)) -> Result<Option<Parked>, Error> {
    let mut statement = connection.prepare_cached(NEXT)?;
    let mut rows = statement.query(params![table, after.0, after.1])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(Parked { stream: row.get(0)?, seq: row.get(1)?, payload: row.get(2)? }))
}

pub fn remove(connection: &Connection, parked: &Parked) -> Result<(), Error> {
    connection.prepare_cached(REMOVE)?.execute(params![parked.stream, parked.seq])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        create(&connection).unwrap();
        connection
    }

    #[test]
    fn events_of_a_table_come_in_the_order_of_their_streams() {
        let c = database();
        for (stream, seq) in [("s-2", 1), ("s-1", 10), ("s-1", 9)] {
            park(&c, stream, seq, "t", b"x").unwrap();
        }
        park(&c, "s-1", 1, "other", b"x").unwrap();
        let mut order = vec![];
        let mut after = (String::new(), 0);
        while let Some(event) = next(&c, "t", &after).unwrap() {
            after = (event.stream.clone(), event.seq);
            order.push(after.clone());
        }
        let expected = [("s-1", 9), ("s-1", 10), ("s-2", 1)];
        assert_eq!(order, expected.map(|(stream, seq)| (stream.to_owned(), seq)));
    }

    #[test]
    fn a_table_is_waited_for_as_long_as_it_has_events() {
        let c = database();
        assert!(tables(&c).unwrap().is_empty());
        // The same message again is one event.
        park(&c, "s", 1, "t", b"a").unwrap();
        park(&c, "s", 1, "t", b"b").unwrap();
        assert_eq!(tables(&c).unwrap(), HashSet::from(["t".to_owned()]));
        let event = next(&c, "t", &(String::new(), 0)).unwrap().unwrap();
        assert_eq!((event.seq, event.payload.as_slice()), (1, b"b".as_slice()));
        remove(&c, &event).unwrap();
        assert!(tables(&c).unwrap().is_empty());
        assert!(next(&c, "t", &(String::new(), 0)).unwrap().is_none());
    }
}
