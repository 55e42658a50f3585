//! What the schema was before the changes whose place in the order is still open: those that this node's application has made and
//! that are on their way, and those that could not be carried out yet with all that came after them.

use crate::db::migrate::definitions::{self, Definition, Difference};
use crate::db::{error::Error, ours};
use crate::model::change::Thing;
use rusqlite::{Connection, params};
use std::collections::{HashMap, HashSet};

const TABLE: &str = "__harmonylite__unsettled";
const CREATE: &str = "CREATE TABLE IF NOT EXISTS __harmonylite__unsettled(n INTEGER PRIMARY KEY, change TEXT NOT NULL, \
     type TEXT NOT NULL, name TEXT NOT NULL, tbl TEXT NOT NULL, sql TEXT)";
const PUT: &str =
    "INSERT INTO __harmonylite__unsettled(change, type, name, tbl, sql) VALUES(?1, ?2, ?3, ?4, ?5)";
const ALL: &str = "SELECT type, name, tbl, sql FROM __harmonylite__unsettled ORDER BY n DESC";
const FORGET: &str = "DELETE FROM __harmonylite__unsettled WHERE change = ?1";

/// What one thing was before a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// The change's id.
    pub change: String,
    kind: Thing,
    name: String,
    table: String,
    /// `None`: it was not there.
    sql: Option<String>,
}

impl Before {
    fn was(change: &str, before: &Definition) -> Before {
        let Definition { kind, name, table, sql, .. } = before.clone();
        Before { change: change.to_owned(), kind, name, table, sql: Some(sql) }
    }

    fn was_not_there(change: &str, now: &Definition) -> Before {
        Before { sql: None, ..Before::was(change, now) }
    }
}

/// What a change made of things that were so and are so.
pub fn between(change: &str, before: &[Definition], now: &[Definition]) -> Vec<Before> {
    fn key(thing: &Definition) -> (Thing, &str) {
        (thing.kind, thing.name.as_str())
    }
    let were: HashSet<(Thing, &str)> = before.iter().map(key).collect();
    let are: HashMap<(Thing, &str), &str> = now.iter().map(|now| (key(now), now.sql.as_str())).collect();
    let was = before.iter().filter(|was| are.get(&key(was)) != Some(&was.sql.as_str()));
    let new = now.iter().filter(|now| !were.contains(&key(now)));
    was.map(|was| Before::was(change, was)).chain(new.map(|now| Before::was_not_there(change, now))).collect()
}

/// Notes what this node's application has changed.
pub fn note(connection: &Connection, change: &str, difference: &Difference) -> Result<(), Error> {
    put(connection, &between(change, &difference.before, &difference.now))
}

fn put(connection: &Connection, all: &[Before]) -> Result<(), Error> {
    connection.execute_batch(CREATE)?;
    let mut put = connection.prepare_cached(PUT)?;
    for Before { change, kind, name, table, sql } in all {
        put.execute(params![change, kind.word(), name, table, sql])?;
    }
    Ok(())
}

/// A change has its place, and nothing is open that comes before it.
pub fn forget(connection: &Connection, change: &str) -> Result<(), Error> {
    if ours::has_table(connection, TABLE)? {
        connection.execute(FORGET, [change])?;
    }
    Ok(())
}

/// What is open from now on.
pub fn replace(connection: &Connection, all: &[Before]) -> Result<(), Error> {
    connection.execute_batch(CREATE)?;
    connection.execute(&format!("DELETE FROM {TABLE}"), [])?;
    put(connection, all)
}

/// The application's schema without what is open.
pub fn settled(connection: &Connection) -> Result<Vec<Definition>, Error> {
    let mut all = definitions::of_application(connection)?;
    if !ours::has_table(connection, TABLE)? {
        return Ok(all);
    }
    let mut statement = connection.prepare(ALL)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let kind = Thing::of(&row.get::<_, String>(0)?).unwrap_or(Thing::View);
        let name: String = row.get(1)?;
        all.retain(|known| known.kind != kind || known.name != name);
        if let Some(sql) = row.get(3)? {
            all.push(Definition { kind, name, table: row.get(2)?, sql, columns: vec![], number: 0 });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_taken_away_again() {
        let connection = Connection::open_in_memory().unwrap();
        let start = "CREATE TABLE a(x); CREATE TABLE b(x); CREATE INDEX i ON b(x)";
        connection.execute_batch(start).unwrap();
        definitions::remember_all(&connection).unwrap();
        let before = definitions::of_application(&connection).unwrap();
        for (change, sql) in [
            ("one", "ALTER TABLE a RENAME TO c; DROP INDEX i"),
            ("two", "ALTER TABLE c ADD COLUMN y; CREATE VIEW v AS SELECT 1"),
        ] {
            connection.execute_batch(sql).unwrap();
            let difference = definitions::difference(&connection).unwrap();
            note(&connection, change, &difference).unwrap();
            definitions::remember(&connection, &difference).unwrap();
        }
        let statements = |mut all: Vec<Definition>| {
            all.sort_by(|one, other| one.name.cmp(&other.name));
            all.into_iter().map(|definition| definition.sql).collect::<Vec<_>>()
        };
        assert_eq!(statements(settled(&connection).unwrap()), statements(before));
        forget(&connection, "one").unwrap();
        let first = ["CREATE TABLE b(x)", "CREATE TABLE \"c\"(x)"];
        assert_eq!(statements(settled(&connection).unwrap()), first);
        replace(&connection, &[]).unwrap();
        assert_eq!(settled(&connection).unwrap().len(), 3);
    }
}
