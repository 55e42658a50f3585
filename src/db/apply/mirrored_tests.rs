//! Copies of the application's triggers on our connection, and what becomes of those that fail.

use super::*;
use crate::db::apply::Applier;
use crate::db::scratch::Scratch;
use crate::model::event::{Event, Kind};
use crate::model::value::Value;

fn write(applier: &mut Applier, id: i64, v: &str) {
    let row = vec![("id".into(), Value::Integer(id)), ("v".into(), Value::text(v))];
    let event = Event { node: 9, id, kind: Kind::Insert, table: "t".into(), row, schema_hash: None };
    applier.in_transaction(|applier| applier.fold_image(&event).map(drop)).unwrap();
}

fn delete(applier: &mut Applier, id: i64) {
    let row = vec![("id".into(), Value::Integer(id))];
    let event = Event { node: 9, id, kind: Kind::Delete, table: "t".into(), row, schema_hash: None };
    applier.in_transaction(|applier| applier.fold_image(&event).map(drop)).unwrap();
}

#[test]
fn a_copy_runs_whatever_case_its_table_is_written_in() {
    let scratch = Scratch::new(
        "copy-case",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE audit(what); \
         CREATE TRIGGER a AFTER INSERT ON T BEGIN INSERT INTO AUDIT VALUES(new.v); END; \
         CREATE VIRTUAL TABLE audit_is_no_table USING fts5(x);",
    );
    scratch.app.execute_batch("DROP TABLE audit; CREATE TABLE audit(rowid, what)").unwrap();
    let mut applier = Applier::open(&scratch.path, 7, &[]).unwrap();
    scratch.app.execute_batch("DROP TRIGGER a; CREATE TRIGGER a AFTER INSERT ON T BEGIN INSERT INTO AUDIT(what) VALUES(new.v); END").unwrap();
    write(&mut applier, 1, "x");
    assert_eq!(scratch.value("SELECT group_concat(what) FROM audit"), "'x'");
}

/// What is temporary on the connection is read again, as the schema is.
#[test]
fn copies_and_the_probe_outlive_a_rest() {
    let scratch = Scratch::new(
        "copy-rest",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE UNIQUE INDEX u ON t(lower(v)); CREATE TABLE audit(rowid, what); \
         CREATE TRIGGER a AFTER INSERT ON t BEGIN INSERT INTO audit(what) VALUES(new.v); END;",
    );
    let mut applier = Applier::open(&scratch.path, 7, &[]).unwrap();
    for (id, v) in [(1, "x"), (2, "X"), (3, "y"), (4, "Y")] {
        write(&mut applier, id, v);
        crate::db::open::give_back(&applier.session.connection).unwrap();
    }
    scratch.app.execute_batch("INSERT INTO t VALUES(5, 'z')").unwrap();
    crate::db::open::give_back(&applier.session.connection).unwrap();
    delete(&mut applier, 4);
    assert_eq!(scratch.value("SELECT group_concat(id || v) FROM t"), "'2X,5z'");
    assert_eq!(scratch.value("SELECT group_concat(what) FROM audit"), "'x,X,y,Y,z'");
}

#[test]
fn a_row_is_written_without_a_copy_that_fails_and_later_rows_with_it() {
    // A table with a column named rowid and no key is not replicated.
    let scratch = Scratch::new(
        "copy-fails",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE audit(rowid, what UNIQUE); \
         CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT RAISE(ROLLBACK, 'no') WHERE new.v = 'bad'; \
         INSERT INTO audit(what) VALUES(new.v); END;",
    );
    let mut applier = Applier::open(&scratch.path, 7, &[]).unwrap();
    for (id, v) in [(1, "bad"), (2, "x"), (3, "x"), (4, "y")] {
        write(&mut applier, id, v);
    }
    assert_eq!(scratch.value("SELECT group_concat(v) FROM t"), "'bad,x,x,y'");
    assert_eq!(scratch.value("SELECT group_concat(what) FROM audit"), "'x,y'");
}

#[test]
fn a_copy_that_fails_hides_no_collision() {
    // Only SQLite can tell which rows are equal here: it is asked by writing, with the copies.
    let scratch = Scratch::new(
        "copy-probe",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE UNIQUE INDEX u ON t(lower(v)); \
         CREATE TABLE audit(rowid, what); \
         CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT RAISE(ABORT, 'no'); INSERT INTO audit(what) VALUES(new.v); END;",
    );
    let mut applier = Applier::open(&scratch.path, 7, &[]).unwrap();
    write(&mut applier, 1, "x");
    write(&mut applier, 2, "X");
    assert_eq!(scratch.value("SELECT group_concat(id || v) FROM t"), "'2X'");
}

#[test]
fn a_table_whose_statements_do_not_compile_copies_none_of_its_triggers() {
    let scratch = Scratch::new(
        "copy-broken",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE audit(rowid, what); \
         CREATE TRIGGER a AFTER INSERT ON t BEGIN INSERT INTO audit(what) VALUES(new.v); END; \
         CREATE TRIGGER b AFTER INSERT ON t BEGIN INSERT INTO audit(what) VALUES(own_function(new.v)); END;",
    );
    let mut applier = Applier::open(&scratch.path, 7, &[]).unwrap();
    write(&mut applier, 1, "x");
    assert_eq!(scratch.value("SELECT v FROM t"), "'x'");
    assert_eq!(scratch.value("SELECT count(*) FROM audit"), "0");
}

#[test]
fn virtual_tables_are_described_by_their_statements() {
    let of = |sql: &str| {
        let found = described("f".to_owned(), sql);
        (found.module.clone(), found.content.clone(), found.reads_elsewhere())
    };
    let external = |module: &str| (module.to_owned(), Some("notes".to_owned()), true);
    assert_eq!(
        of("CREATE VIRTUAL TABLE f USING fts5(a, Content = \"Notes\", content_rowid=id)"),
        external("fts5")
    );
    assert_eq!(of("CREATE VIRTUAL TABLE f USING fts4(content='notes', a)"), external("fts4"));
    assert_eq!(of("CREATE VIRTUAL TABLE content USING fts5(content, a, content='notes')"), external("fts5"));
    assert_eq!(
        of("CREATE VIRTUAL TABLE f USING fts5(content, body, content='')"),
        ("fts5".to_owned(), None, false)
    );
    assert_eq!(of("CREATE VIRTUAL TABLE content USING rtree(id, x, y)"), ("rtree".to_owned(), None, false));
}

#[test]
fn a_copy_treats_conflicts_as_the_trigger_says() {
    let scratch = Scratch::new(
        "copy-conflicts",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE seen(rowid, what UNIQUE, id); \
         CREATE TRIGGER a AFTER INSERT ON t BEGIN INSERT OR IGNORE INTO seen VALUES(0, new.v, new.id); END; \
         CREATE TRIGGER b AFTER UPDATE ON t BEGIN INSERT OR REPLACE INTO seen VALUES(0, new.v, new.id); END; \
         CREATE TABLE audit(rowid, what); \
         CREATE TRIGGER c BEFORE INSERT ON t BEGIN INSERT INTO audit(what) VALUES('i' || new.id); END; \
         CREATE TRIGGER d BEFORE UPDATE ON t BEGIN INSERT INTO audit(what) VALUES('u' || new.id); END;",
    );
    let mut applier = Applier::open(&scratch.path, 7, &[]).unwrap();
    for (id, v) in [(1, "x"), (2, "x"), (3, "y")] {
        write(&mut applier, id, v);
    }
    assert_eq!(scratch.value("SELECT group_concat(what || id) FROM seen"), "'x1,y3'");
    write(&mut applier, 2, "y");
    assert_eq!(scratch.value("SELECT group_concat(what || id) FROM seen"), "'x1,y2'");
    assert_eq!(scratch.value("SELECT group_concat(what) FROM audit"), "'i1,i2,i3,u2'");
}

/// For a DELETE only the constraint says what becomes of the transaction.
#[test]
fn a_trigger_that_writes_what_rolls_back_is_not_copied() {
    let scratch = Scratch::new(
        "copy-rollback",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'x'), (2, 'x'); \
         CREATE TABLE Audit(rowid, what UNIQUE ON CONFLICT ROLLBACK); \
         CREATE TRIGGER a AFTER DELETE ON t BEGIN INSERT INTO audit(what) VALUES(old.v); END;",
    );
    let mut applier = Applier::open(&scratch.path, 7, &[]).unwrap();
    for id in [1, 2] {
        delete(&mut applier, id);
    }
    assert_eq!(scratch.value("SELECT count(*) FROM t"), "0");
    assert_eq!(scratch.value("SELECT count(*) FROM audit"), "0");
}

#[test]
fn a_copy_that_does_not_compile_does_not_keep_its_neighbours_from_running() {
    let scratch = Scratch::new(
        "copy-view",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE audit(rowid, what); CREATE VIEW shown AS SELECT what FROM audit; \
         CREATE TRIGGER shows INSTEAD OF INSERT ON shown BEGIN INSERT INTO audit(what) VALUES('seen ' || new.what); END; \
         CREATE TRIGGER a AFTER INSERT ON t BEGIN INSERT INTO audit(what) VALUES(new.v); END; \
         CREATE TRIGGER b AFTER INSERT ON t BEGIN INSERT INTO shown VALUES(new.v); END;",
    );
    let mut applier = Applier::open(&scratch.path, 7, &[]).unwrap();
    write(&mut applier, 1, "x");
    assert_eq!(scratch.value("SELECT group_concat(what) FROM audit"), "'x'");
}

#[test]
fn a_default_that_only_the_application_can_compute_keeps_no_trigger_from_running() {
    let scratch = Scratch::new(
        "copy-default",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v DEFAULT (abs(1))); CREATE TABLE audit(rowid, what); \
         CREATE TRIGGER a AFTER INSERT ON t BEGIN INSERT INTO audit(what) VALUES(new.v); END; PRAGMA writable_schema=ON; \
         UPDATE sqlite_schema SET sql = replace(sql, 'abs', 'own'); PRAGMA writable_schema=RESET",
    );
    let mut applier = Applier::open(&scratch.path, 7, &[]).unwrap();
    write(&mut applier, 1, "x");
    assert_eq!(scratch.value("SELECT group_concat(what) FROM audit"), "'x'");
}

/// So the text of a trigger, which goes into a statement of ours, brings no second one along.
#[test]
fn sqlite_takes_no_schema_with_a_statement_behind_another() {
    let connection = Connection::open_in_memory().unwrap();
    let forged = connection.execute_batch(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE audit(rowid, what); \
         CREATE TRIGGER a AFTER INSERT ON t BEGIN INSERT INTO audit(what) VALUES(new.v); END; PRAGMA writable_schema=ON; \
         UPDATE sqlite_schema SET sql = sql || '; CREATE TABLE forged(a)' WHERE name = 'a'; PRAGMA writable_schema=RESET; \
         INSERT INTO t VALUES(1, 1)",
    );
    assert!(matches!(forged.map_err(Error::from), Err(Error::Corrupt(_))));
}
