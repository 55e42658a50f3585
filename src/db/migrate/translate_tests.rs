//! Events of schemas that were.

use super::*;
use crate::db::capture::install::install;
use crate::db::migrate::{Looker, look};
use crate::db::state;
use crate::model::event::Kind;

fn noticed(connection: &mut Connection, sql: &str) -> Schema {
    connection.execute_batch(sql).unwrap();
    let (schema, _) = install(connection).unwrap();
    look(connection, &schema, Looker { node: 1, travels: true }).unwrap();
    (*schema).clone()
}

fn event(schema: &Schema, row: &[(&str, i64)]) -> Event {
    let row = row.iter().map(|(name, value)| ((*name).into(), Value::Integer(*value))).collect();
    // Sets carry a part of the hash.
    let hash = schema.hash[..16].into();
    Event { node: 2, id: 1, kind: Kind::Insert, table: "t".into(), row, schema_hash: Some(hash) }
}

fn shown(event: &Event) -> String {
    let columns: Vec<String> = event.row.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{}: {}", event.table, columns.join(" ")).replace("Integer(", "").replace(')', "")
}

/// A database, and the events of each schema that it had.
fn grown(steps: &[&str]) -> (Connection, Vec<Schema>) {
    let mut connection = Connection::open_in_memory().unwrap();
    state::create(&connection).unwrap();
    let schemas = steps.iter().map(|sql| noticed(&mut connection, sql)).collect();
    (connection, schemas)
}

#[test]
fn an_event_of_any_schema_before_is_one_of_now() {
    let (connection, schemas) = grown(&[
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b INTEGER); INSERT INTO t VALUES(1, 2, 3)",
        "DELETE FROM __harmonylite__log; ALTER TABLE t RENAME COLUMN a TO x",
        "ALTER TABLE t DROP COLUMN b; ALTER TABLE t ADD COLUMN b TEXT",
        "DELETE FROM __harmonylite__log; ALTER TABLE t RENAME TO s",
    ]);
    let translation = Translation::read(&connection).unwrap();
    let now = schemas.last().unwrap();
    let told = |at: usize, row: &[(&str, i64)]| shown(&translation.translate(&event(&schemas[at], row), now));
    assert_eq!(told(0, &[("id", 1), ("a", 2), ("b", 3)]), "s: id=1 x=2");
    // A column of this name that came later is another one.
    assert_eq!(told(1, &[("id", 1), ("x", 2), ("b", 3)]), "s: id=1 x=2");
    assert_eq!(told(2, &[("id", 1), ("x", 2), ("b", 3)]), "s: id=1 x=2 b=3");
    let own = Event { table: "s".into(), ..event(now, &[("id", 1), ("x", 2)]) };
    assert_eq!(shown(&translation.translate(&own, now)), "s: id=1 x=2");
    // Of a schema that nobody here had, only what has no place here goes under another name.
    let unknown = Event {
        schema_hash: Some("0123456789abcdef".into()),
        table: "s".into(),
        ..event(now, &[("id", 1), ("a", 2), ("b", 3)])
    };
    assert_eq!(shown(&translation.translate(&unknown, now)), "s: id=1 a=2 b=3");
}

#[test]
fn what_an_event_lacks_is_what_the_row_has_or_what_all_rows_got() {
    let (connection, schemas) = grown(&[
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES(1, 2)",
        "CREATE TABLE n(id INTEGER PRIMARY KEY, a, must TEXT NOT NULL, num INTEGER NOT NULL DEFAULT 9); \
         INSERT INTO n SELECT id, a, 'all', 5 FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t",
    ]);
    let translation = Translation::read(&connection).unwrap();
    let table = &schemas[1].tables["t"];
    let complete = |row: &[(&str, i64)]| {
        let event = event(&schemas[0], row);
        shown(&translation.complete(&connection, table, Cow::Borrowed(&event)).unwrap())
    };
    connection.execute_batch("UPDATE t SET must = 'mine'").unwrap();
    assert_eq!(complete(&[("id", 1), ("a", 7)]), "t: id=1 a=7 must=Text([109, 105, 110, 101] num=5");
    assert_eq!(complete(&[("id", 2), ("a", 7)]), "t: id=2 a=7 must=Text([97, 108, 108] num=5");
}
