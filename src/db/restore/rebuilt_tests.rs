//! Tables that were built anew, against the state that was agreed on.

use super::*;
use crate::db::ChangeLog;
use crate::db::capture::log_table;
use crate::db::scratch::Scratch;
use rusqlite::Connection;
use std::path::PathBuf;

const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v, w INTEGER); CREATE TABLE other(k TEXT PRIMARY KEY, v)";
const ROWS: &str = "INSERT INTO t VALUES(1, 'one', 1), (2, 'two', 2), (3, 'three', 3), (4, 'four', 4)";

/// A database with capture, all of whose rows are agreed on, and the agreed state.
fn agreed(name: &str) -> (Scratch, PathBuf, ChangeLog) {
    let scratch = Scratch::new(name, &format!("{SCHEMA}; {ROWS}"));
    let log = ChangeLog::open(&scratch.path, 1).unwrap().0;
    let agreed = scratch.path.with_extension("agreed");
    Connection::open(&agreed).unwrap().execute_batch(&format!("{SCHEMA}; {ROWS}")).unwrap();
    (scratch, agreed, log)
}

/// The keys in the log after the settling, and the number that it tells.
fn settled(scratch: &Scratch, agreed: &Path, mut log: ChangeLog) -> (Vec<String>, usize) {
    let done = log.follow_schema().unwrap().unwrap();
    assert_eq!((done.rebuilt.as_slice(), done.new_tables.as_slice()), (&["t".to_owned()][..], &[][..]));
    let mut applier = Applier::open(&scratch.path, 1, &["s".to_owned()]).unwrap();
    assert_eq!(applier.rebuilt().unwrap(), ["t"]);
    let found = applier.log_rebuilt(&scratch.path, Some(agreed)).unwrap();
    assert!(applier.rebuilt().unwrap().is_empty(), "once is enough");
    let sql = "SELECT k1 FROM __harmonylite__log WHERE t <> 0 ORDER BY k1";
    let keys = scratch
        .app
        .prepare(sql)
        .unwrap()
        .query_map([], |row| row.get::<_, i64>(0))
        .unwrap()
        .map(|key| key.unwrap().to_string())
        .collect();
    (keys, found.rows)
}

/// The way of SQLite's manual, and of Django and Alembic.
const REBUILD: &str = "BEGIN; CREATE TABLE n(id INTEGER PRIMARY KEY, v, w INTEGER, x DEFAULT 7);
     INSERT INTO n(id, v, w) SELECT id, v, w FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t; COMMIT;";

#[test]
fn a_rebuild_alone_publishes_nothing() {
    for (name, rebuild) in [
        ("manual", REBUILD.to_owned()),
        // Rails: a copy, the table anew, and everything back.
        ("rails", "BEGIN; CREATE TEMPORARY TABLE a AS SELECT * FROM t; DROP TABLE t; CREATE TABLE t(id INTEGER PRIMARY KEY, v, w INTEGER, x);
          INSERT INTO t(id, v, w) SELECT * FROM a; DROP TABLE a; COMMIT".to_owned()),
        ("old way", "BEGIN; ALTER TABLE t RENAME TO o; CREATE TABLE t(id INTEGER PRIMARY KEY, v, w INTEGER);
          INSERT INTO t SELECT * FROM o; DROP TABLE o; COMMIT".to_owned()),
        // Values are stored in another type, and are the same.
        ("types", REBUILD.replace("w INTEGER", "w TEXT")),
        ("a column less", "BEGIN; CREATE TABLE n(id INTEGER PRIMARY KEY, v); INSERT INTO n SELECT id, v FROM t; DROP TABLE t;
          ALTER TABLE n RENAME TO t; COMMIT".to_owned()),
    ] {
        let (scratch, agreed, log) = agreed(&format!("rebuilt-{}", name.replace(' ', "-")));
        scratch.app.execute_batch(&rebuild).unwrap();
        assert_eq!(settled(&scratch, &agreed, log), (vec![], 0), "{name}");
    }
}

#[test]
fn what_was_written_before_it_is_captured_again_is_published_and_nothing_else() {
    let (scratch, agreed, log) = agreed("rebuilt-written");
    scratch.app.execute_batch(REBUILD).unwrap();
    scratch.app.execute_batch("DELETE FROM t WHERE id = 1; UPDATE t SET v = 'changed' WHERE id = 2; INSERT INTO t(id) VALUES(9)").unwrap();
    assert_eq!(settled(&scratch, &agreed, log), (["1", "2", "9"].map(str::to_owned).to_vec(), 3));
}

/// An entry of before may have been published with the row as it was then; one of after has not.
#[test]
fn what_was_logged_since_it_is_captured_again_is_not_logged_again() {
    let (scratch, agreed, mut log) = agreed("rebuilt-logged");
    scratch.app.execute_batch("UPDATE t SET v = 'before' WHERE id = 3").unwrap();
    scratch.app.execute_batch(REBUILD).unwrap();
    assert_eq!(log.follow_schema().unwrap().unwrap().rebuilt, ["t"]);
    scratch.app.execute_batch("UPDATE t SET v = 'after' WHERE id = 4").unwrap();
    let mut applier = Applier::open(&scratch.path, 1, &["s".to_owned()]).unwrap();
    assert_eq!(applier.log_rebuilt(&scratch.path, Some(&agreed)).unwrap().rows, 1);
    assert_eq!(log_table::count_unsettled(&scratch.app, 0).unwrap(), (0, 3));
}

/// The new table was noticed before it got the old one's name: its own triggers have logged every row.
#[test]
fn a_copy_that_was_captured_under_another_name_is_no_write() {
    let (scratch, agreed, mut log) = agreed("rebuilt-steps");
    scratch.app.execute_batch("CREATE TABLE n(id INTEGER PRIMARY KEY, v, w INTEGER)").unwrap();
    assert_eq!(log.follow_schema().unwrap().unwrap().new_tables, [("n".to_owned(), 0)]);
    scratch
        .app
        .execute_batch(
            "BEGIN; INSERT INTO n SELECT * FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t; COMMIT",
        )
        .unwrap();
    scratch.app.execute_batch("UPDATE t SET v = 'changed' WHERE id = 2; DELETE FROM t WHERE id = 4").unwrap();
    assert_eq!(settled(&scratch, &agreed, log), (["2", "4"].map(str::to_owned).to_vec(), 2));
}

#[test]
fn without_an_agreed_state_or_with_another_key_all_rows_are_published() {
    let (scratch, agreed, mut log) = agreed("rebuilt-key");
    scratch.app.execute_batch(REBUILD).unwrap();
    log.follow_schema().unwrap();
    let mut applier = Applier::open(&scratch.path, 1, &["s".to_owned()]).unwrap();
    assert_eq!(applier.log_rebuilt(&scratch.path, None).unwrap().rows, 4);
    let key = "BEGIN; CREATE TABLE n(id, v, w INTEGER, PRIMARY KEY(v)); INSERT INTO n SELECT id, v, w FROM t; DROP TABLE t;
               ALTER TABLE n RENAME TO t; COMMIT";
    scratch.app.execute_batch(key).unwrap();
    log.follow_schema().unwrap();
    assert_eq!(applier.log_rebuilt(&scratch.path, Some(&agreed)).unwrap().rows, 4);
}
