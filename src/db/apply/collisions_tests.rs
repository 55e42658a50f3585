//! Collisions, found by queries and by the probe: both must find the same rows.

use super::*;
use crate::db::apply::subject::Source;
use crate::model::event::{Event, Kind};

const OF_ONE: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, u UNIQUE, v)";

/// A connection as the session has it, with the given tables and rows.
fn database(sql: &str) -> (Connection, Schema) {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch("PRAGMA recursive_triggers=ON").unwrap();
    connection.execute_batch(sql).unwrap();
    let schema = Schema::read(&connection).unwrap();
    prepare(&connection, &schema).unwrap();
    (connection, schema)
}

fn event(row: &[(&str, Value)]) -> Event {
    let row = row.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
    Event { node: 1, id: 1, kind: Kind::Insert, table: "t".into(), row, schema_hash: None }
}

/// The first key values of the rows that the image collides with, from queries and from the probe.
fn collisions(sql: &str, row: &[(&str, Value)]) -> Vec<Value> {
    let (connection, schema) = database(sql);
    let (event, mirrored) = (event(row), Mirrored::default());
    let subject = Subject::new(&schema.tables["t"], &event, Source::default()).unwrap();
    let first =
        |found: Vec<Vec<Value>>| -> Vec<Value> { found.into_iter().map(|mut key| key.remove(0)).collect() };
    let mut found = first(find(&connection, &mirrored, &subject).unwrap());
    let mut probed = first(probe(&connection, &mirrored, &subject).unwrap());
    let text = |value: &Value| format!("{value:?}");
    found.sort_by_key(text);
    probed.sort_by_key(text);
    assert_eq!(found, probed, "{sql}");
    let after: i64 = connection.query_row("SELECT total(1) FROM t", [], |row| row.get(0)).unwrap_or(0);
    let (before, _) = database(sql);
    let expected: i64 = before.query_row("SELECT total(1) FROM t", [], |row| row.get(0)).unwrap_or(0);
    assert_eq!(after, expected, "the probe leaves something behind");
    found
}

fn int(number: i64) -> Value {
    Value::Integer(number)
}

#[test]
fn a_row_with_the_same_value_and_another_key_collides() {
    let sql = format!("{OF_ONE}; INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0)");
    let row = |k: i64, u: Value| [("k", int(k)), ("u", u), ("v", Value::Null)];
    assert_eq!(collisions(&sql, &row(3, Value::text("a"))), [int(1)]);
    assert_eq!(collisions(&sql, &row(1, Value::text("b"))), [int(2)]);
    assert_eq!(collisions(&sql, &row(1, Value::text("a"))), [], "the event's own row");
    assert_eq!(collisions(&sql, &row(3, Value::text("c"))), []);
    assert_eq!(collisions(&sql, &row(3, Value::Blob(b"a".to_vec()))), []);
}

#[test]
fn nulls_never_collide() {
    let sql = format!("{OF_ONE}; INSERT INTO t VALUES(1, NULL, 0), (2, NULL, 0)");
    assert_eq!(collisions(&sql, &[("k", int(3)), ("u", Value::Null), ("v", Value::Null)]), []);
    let sql = "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b, UNIQUE(a, b)); INSERT INTO t VALUES(1, 5, NULL)";
    assert_eq!(collisions(sql, &[("k", int(3)), ("a", int(5)), ("b", Value::Null)]), []);
}

#[test]
fn values_are_compared_as_the_column_stores_them() {
    for (kind, stored, value) in [
        ("INTEGER", "7", Value::text("7")),
        ("TEXT", "'7'", int(7)),
        ("NUMERIC", "7.5", Value::text("7.5")),
        ("", "7", Value::Real(7.0)),
        ("REAL", "9007199254740993", int(9_007_199_254_740_993)),
    ] {
        let sql = format!(
            "CREATE TABLE t(k INTEGER PRIMARY KEY, u {kind} UNIQUE); INSERT INTO t VALUES(1, {stored})"
        );
        assert_eq!(collisions(&sql, &[("k", int(2)), ("u", value)]), [int(1)], "{kind}");
    }
    let sql = "CREATE TABLE t(k INTEGER PRIMARY KEY, u BLOB UNIQUE); INSERT INTO t VALUES(1, '7')";
    assert_eq!(collisions(sql, &[("k", int(2)), ("u", int(7))]), []);
    let sql = "CREATE TABLE t(k INTEGER PRIMARY KEY, u ANY UNIQUE) STRICT; INSERT INTO t VALUES(1, '7')";
    assert_eq!(collisions(sql, &[("k", int(2)), ("u", int(7))]), []);
}

#[test]
fn the_collation_of_the_index_counts() {
    let nocase =
        "CREATE TABLE t(k INTEGER PRIMARY KEY, u COLLATE NOCASE UNIQUE); INSERT INTO t VALUES(1, 'a')";
    assert_eq!(collisions(nocase, &[("k", int(2)), ("u", Value::text("A"))]), [int(1)]);
    let binary = "CREATE TABLE t(k INTEGER PRIMARY KEY, u COLLATE NOCASE); CREATE UNIQUE INDEX i ON t(u COLLATE BINARY); \
        INSERT INTO t VALUES(1, 'a')";
    assert_eq!(collisions(binary, &[("k", int(2)), ("u", Value::text("A"))]), []);
    let rtrim = "CREATE TABLE t(k INTEGER PRIMARY KEY, u); CREATE UNIQUE INDEX i ON t(u COLLATE RTRIM); INSERT INTO t VALUES(1, 'a')";
    assert_eq!(collisions(rtrim, &[("k", int(2)), ("u", Value::text("a  "))]), [int(1)]);
}

#[test]
fn several_columns_collide_together() {
    let sql = "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b); CREATE UNIQUE INDEX i ON t(b, a); \
        INSERT INTO t VALUES(1, 1, 2), (2, 2, 1)";
    let row = |a: i64, b: i64| [("k", int(9)), ("a", int(a)), ("b", int(b))];
    assert_eq!(collisions(sql, &row(1, 2)), [int(1)]);
    assert_eq!(collisions(sql, &row(2, 1)), [int(2)]);
    assert_eq!(collisions(sql, &row(1, 1)), []);
}

#[test]
fn several_indexes_are_looked_at_and_each_row_counts_once() {
    let sql =
        "CREATE TABLE t(k INTEGER PRIMARY KEY, a UNIQUE, b UNIQUE); INSERT INTO t VALUES(1, 1, 1), (2, 2, 2)";
    let row = |a: i64, b: i64| [("k", int(9)), ("a", int(a)), ("b", int(b))];
    assert_eq!(collisions(sql, &row(1, 2)), [int(1), int(2)]);
    assert_eq!(collisions(sql, &row(1, 1)), [int(1)]);
}

#[test]
fn tables_without_rowid_and_without_keys() {
    let sql =
        "CREATE TABLE t(a, b, u UNIQUE, PRIMARY KEY(b, a)) WITHOUT ROWID; INSERT INTO t VALUES(1, 2, 'x')";
    let row = |a: i64, u: &str| [("a", int(a)), ("b", int(2)), ("u", Value::text(u))];
    assert_eq!(collisions(sql, &row(9, "x")), [int(2)]);
    assert_eq!(collisions(sql, &row(1, "x")), []);
    let sql = "CREATE TABLE t(u UNIQUE); INSERT INTO t(rowid, u) VALUES(5, 'x')";
    assert_eq!(collisions(sql, &[("rowid", int(6)), ("u", Value::text("x"))]), [int(5)]);
    assert_eq!(collisions(sql, &[("rowid", int(5)), ("u", Value::text("x"))]), []);
}

#[test]
fn expressions_conditions_and_generated_columns_are_probed() {
    let sql = "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b); CREATE UNIQUE INDEX i ON t(lower(a)) WHERE b > 0; \
        INSERT INTO t VALUES(1, 'x', 1), (2, 'y', 0)";
    let row = |a: &str, b: i64| [("k", int(9)), ("a", Value::text(a)), ("b", int(b))];
    assert_eq!(collisions(sql, &row("X", 1)), [int(1)]);
    assert_eq!(collisions(sql, &row("X", 0)), []);
    assert_eq!(collisions(sql, &row("Y", 1)), []);
    let sql = "CREATE TABLE t(k INTEGER PRIMARY KEY, a, g AS (a % 10) UNIQUE); INSERT INTO t VALUES(1, 13)";
    assert_eq!(collisions(sql, &[("k", int(9)), ("a", int(23))]), [int(1)]);
}

#[test]
fn an_event_that_lacks_a_column_is_probed() {
    let sql = "CREATE TABLE t(k INTEGER PRIMARY KEY, u DEFAULT 5 UNIQUE, v); INSERT INTO t VALUES(1, 5, 0)";
    assert_eq!(collisions(sql, &[("k", int(9)), ("v", int(0))]), [int(1)]);
    // Columns in another order, other case, and one that is unknown here.
    assert_eq!(collisions(sql, &[("V", int(0)), ("U", int(5)), ("new", int(1)), ("K", int(9))]), [int(1)]);
}

#[test]
fn rows_that_share_a_key_in_its_collation_are_the_same() {
    let sql = "CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, u UNIQUE); INSERT INTO t VALUES('a', 1)";
    assert_eq!(collisions(sql, &[("k", Value::text("A")), ("u", int(1))]), []);
    assert_eq!(collisions(sql, &[("k", Value::text("B")), ("u", int(1))]), [Value::text("a")]);
}

/// Made inside of the transaction, the trigger of the first probe would make SQLite read the schema again after each of the others.
#[test]
fn probes_do_not_read_the_schema_again() {
    use crate::db::apply::{Applier, Ends, Incoming};
    use crate::model::event::{Event, Kind};
    let columns: String = (1..1_900).map(|n| format!(", c{n}")).collect();
    let sql = format!(
        "CREATE TABLE wide(id INTEGER PRIMARY KEY{columns}); CREATE TABLE t(id INTEGER PRIMARY KEY, a); \
         CREATE UNIQUE INDEX i ON t(lower(a))"
    );
    let scratch = crate::db::scratch::Scratch::new("probes", &sql);
    let mut applier = Applier::open(&scratch.path, 1, &["s".to_owned()]).unwrap();
    let batch: Vec<Incoming> = (1..=300)
        .map(|id| {
            let row = vec![("id".into(), Value::Integer(id)), ("a".into(), Value::text(&format!("x{id}")))];
            let event = Event { node: 9, id, kind: Kind::Insert, table: "t".into(), row, schema_hash: None };
            let (seq, payload) = (id.unsigned_abs(), event.encode());
            let ends = if id == 300 { Some(Ends::at(seq)) } else { None };
            Incoming { stream: 0, seq, origin: None, time_ms: 0, payload, ends }
        })
        .collect();
    let begun = std::time::Instant::now();
    assert_eq!(applier.apply(&batch).unwrap().rows, 300);
    let reading = std::time::Instant::now();
    for _ in 0..10 {
        let fresh = Connection::open(&scratch.path).unwrap();
        fresh.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
    }
    // As long as to read the schema some dozen times, not hundreds of times.
    let allowed = reading.elapsed() * 10;
    assert!(reading - begun < allowed, "{:?}, allowed are {allowed:?}", reading - begun);
}
