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
