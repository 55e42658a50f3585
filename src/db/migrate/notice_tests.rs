//! What is noticed of a changed schema.

use super::*;
use crate::db::capture::install::install;
use crate::db::state;

/// A captured database whose schema was noticed.
fn noticed(sql: &str) -> Connection {
    let mut connection = Connection::open_in_memory().unwrap();
    state::create(&connection).unwrap();
    connection.execute_batch(sql).unwrap();
    assert!(changed(&mut connection, "").is_none(), "the first look");
    connection
}

/// The change that some statements come to.
fn changed(connection: &mut Connection, sql: &str) -> Option<Change> {
    connection.execute_batch(sql).unwrap();
    let (schema, _) = install(connection).unwrap();
    look(connection, &schema, Looker { node: 1, travels: true }).unwrap()
}

fn summary(connection: &mut Connection, sql: &str) -> String {
    changed(connection, sql).map_or_else(String::new, |change| change.summary())
}

#[test]
fn each_change_is_noticed_once() {
    let mut connection = noticed("CREATE TABLE notes(id INTEGER PRIMARY KEY, a TEXT)");
    assert_eq!(
        summary(&mut connection, "ALTER TABLE notes ADD COLUMN n TEXT DEFAULT 'd'"),
        "alter table notes (+n)"
    );
    assert_eq!(summary(&mut connection, "INSERT INTO notes(a) VALUES(1)"), "");
    assert_eq!(
        summary(
            &mut connection,
            "CREATE TABLE t(k PRIMARY KEY); CREATE INDEX i ON t(k); CREATE VIEW v AS SELECT 1"
        ),
        "create table t, create index i, create view v"
    );
    assert_eq!(summary(&mut connection, "DROP VIEW v; DROP TABLE t"), "drop view v, drop table t");
    assert_eq!(history::in_state(&connection, State::Waiting).unwrap().len(), 3);
}

#[test]
fn a_renamed_column_is_told_from_a_dropped_and_a_new_one_by_its_values() {
    let mut connection = noticed("CREATE TABLE notes(id INTEGER PRIMARY KEY, a TEXT, b TEXT)");
    connection.execute_batch("INSERT INTO notes VALUES(1, 'x', 'y'), (2, 'z', NULL)").unwrap();
    connection.execute_batch("DELETE FROM __harmonylite__log").unwrap();
    assert_eq!(
        summary(&mut connection, "ALTER TABLE notes RENAME COLUMN b TO c"),
        "alter table notes (b is c)"
    );
    let dropped = "ALTER TABLE notes DROP COLUMN c; ALTER TABLE notes ADD COLUMN d TEXT";
    assert_eq!(summary(&mut connection, dropped), "alter table notes (+d, -c)");
    // What was written since says nothing about the column.
    let written = "ALTER TABLE notes DROP COLUMN d; ALTER TABLE notes ADD COLUMN e TEXT; UPDATE notes SET e = 'new' WHERE id = 1";
    assert_eq!(summary(&mut connection, written), "alter table notes (+e, -d)");
    // The row may be on its way as it was before: it is published once more.
    let entries = "SELECT count(*) FROM __harmonylite__log";
    assert_eq!(connection.query_row(entries, [], |row| row.get::<_, i64>(0)).unwrap(), 2);
}

#[test]
fn what_all_rows_have_in_a_new_column_goes_along() {
    let mut connection = noticed("CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
    connection.execute_batch("INSERT INTO t VALUES(1, 2), (2, 3)").unwrap();
    let rebuild = "CREATE TABLE new(id INTEGER PRIMARY KEY, a, n TEXT NOT NULL); INSERT INTO new SELECT id, a, 'it''s' FROM t; \
                   DROP TABLE t; ALTER TABLE new RENAME TO t";
    let change = changed(&mut connection, rebuild).unwrap();
    let Step::AlterTable { columns, .. } = &change.steps[0] else { panic!("{change:?}") };
    assert_eq!(columns[2].fill.as_deref(), Some("'it''s'"));
    assert_eq!(change.steps.len(), 1, "{change:?}");
}

#[test]
fn a_renamed_table_is_one_and_a_rebuilt_one_is_none() {
    let mut connection = noticed(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE INDEX i ON t(a); CREATE TABLE u(x REFERENCES t)",
    );
    connection.execute_batch("INSERT INTO t VALUES(1, 2)").unwrap();
    let renamed = summary(&mut connection, "ALTER TABLE t RENAME TO s");
    assert!(renamed.starts_with("rename table t to s, alter table u"), "{renamed}");
    let rebuilt = "CREATE TABLE n(id INTEGER PRIMARY KEY, a TEXT); INSERT INTO n SELECT * FROM s; DROP TABLE s; ALTER TABLE n RENAME TO s";
    assert_eq!(summary(&mut connection, rebuilt), "drop index i, alter table s");
}

/// Another node has no such table: its applications' statements would fail.
#[test]
fn what_has_to_do_with_virtual_tables_stays_here() {
    let mut connection = noticed("CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
    let sql = "CREATE VIRTUAL TABLE f USING fts5(a); CREATE VIEW v AS SELECT a FROM f; CREATE VIEW w AS SELECT a FROM t; \
               CREATE TRIGGER x AFTER INSERT ON t BEGIN INSERT INTO f VALUES(NEW.a); END";
    assert_eq!(summary(&mut connection, sql), "create view w");
}
