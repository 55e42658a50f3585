//! The mirror of the change log.

use super::*;
use crate::db::schema::Schema;
use crate::db::state;
use rusqlite::config::DbConfig;

/// A captured table `t`, in memory.
fn captured() -> (Connection, std::sync::Arc<Schema>) {
    let mut connection = Connection::open_in_memory().unwrap();
    state::create(&connection).unwrap();
    connection.execute_batch("CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, v)").unwrap();
    let (schema, _) = crate::db::capture::install::install(&mut connection).unwrap();
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).unwrap();
    (connection, schema)
}

fn key(schema: &Schema, text: &str) -> Vec<u8> {
    schema.tables["t"].row_key([&Value::text(text)])
}

fn log(connection: &Connection) -> Vec<(i64, i64)> {
    let mut statement = connection.prepare("SELECT id, t FROM __harmonylite__log ORDER BY id").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

#[test]
fn what_the_application_logs_is_seen_when_caught_up() {
    let (c, schema) = captured();
    let mut touched = Touched::new(&c).unwrap();
    c.execute_batch("INSERT INTO t VALUES('a', 1)").unwrap();
    assert!(!touched.holds(&c, &key(&schema, "a"), i64::MAX).unwrap());
    touched.catch_up(&c, &schema).unwrap();
    assert!(touched.holds(&c, &key(&schema, "A"), 1).unwrap());
    assert!(!touched.holds(&c, &key(&schema, "a"), 0).unwrap());
    assert!(!touched.holds(&c, &key(&schema, "b"), i64::MAX).unwrap());
    assert_eq!(touched.highest(), 1);
}

#[test]
fn settling_removes_entries_up_to_a_limit() {
    let (c, schema) = captured();
    let mut touched = Touched::new(&c).unwrap();
    c.execute_batch("INSERT INTO t VALUES('a', 1); UPDATE t SET v = 2; INSERT INTO t VALUES('b', 1)")
        .unwrap();
    touched.catch_up(&c, &schema).unwrap();
    assert_eq!(touched.settle(&c, &key(&schema, "a"), 1).unwrap(), 1);
    assert!(touched.holds(&c, &key(&schema, "a"), i64::MAX).unwrap(), "its second entry");
    assert_eq!(touched.settle(&c, &key(&schema, "a"), 9).unwrap(), 1);
    assert!(!touched.holds(&c, &key(&schema, "a"), i64::MAX).unwrap());
    assert_eq!(log(&c), [(3, 1)]);
}

#[test]
fn the_newest_entry_stays_as_a_placeholder_until_there_is_a_newer_one() {
    let (c, schema) = captured();
    let mut touched = Touched::new(&c).unwrap();
    c.execute_batch("INSERT INTO t VALUES('a', 1)").unwrap();
    touched.catch_up(&c, &schema).unwrap();
    touched.settle(&c, &key(&schema, "a"), 1).unwrap();
    touched.drop_placeholder(&c).unwrap();
    assert_eq!(log(&c), [(1, 0)]);
    c.execute_batch("INSERT INTO t VALUES('b', 1)").unwrap();
    touched.catch_up(&c, &schema).unwrap();
    touched.drop_placeholder(&c).unwrap();
    assert_eq!(log(&c), [(2, 1)]);
    assert_eq!(touched.settle_all(&c, 2).unwrap(), 1);
    assert_eq!(log(&c), [(2, 0)]);
}

#[test]
fn a_placeholder_is_found_again_by_a_fresh_mirror() {
    let (c, schema) = captured();
    let mut touched = Touched::new(&c).unwrap();
    c.execute_batch("INSERT INTO t VALUES('a', 1)").unwrap();
    touched.catch_up(&c, &schema).unwrap();
    touched.settle_all(&c, 1).unwrap();
    let mut touched = Touched::new(&c).unwrap();
    touched.catch_up(&c, &schema).unwrap();
    assert_eq!((touched.highest(), touched.count), (1, 0));
    c.execute_batch("INSERT INTO t VALUES('b', 1)").unwrap();
    touched.catch_up(&c, &schema).unwrap();
    touched.drop_placeholder(&c).unwrap();
    assert_eq!(log(&c), [(2, 1)]);
}

#[test]
fn what_we_touch_is_logged_after_everything_else() {
    let (c, schema) = captured();
    let mut touched = Touched::new(&c).unwrap();
    c.execute_batch("INSERT INTO t VALUES('a', 1)").unwrap();
    touched.catch_up(&c, &schema).unwrap();
    let value = Value::text("z");
    touched.touch(&c, &schema.tables["t"], [&value], &key(&schema, "z")).unwrap();
    assert_eq!((log(&c), touched.highest()), (vec![(1, 1), (2, 1)], 2));
    assert!(touched.holds(&c, &key(&schema, "z"), 2).unwrap());
    assert!(!touched.holds(&c, &key(&schema, "z"), 1).unwrap());
    // A mirror that reads the log anew sees the same.
    let mut fresh = Touched::new(&c).unwrap();
    fresh.catch_up(&c, &schema).unwrap();
    assert!(fresh.holds(&c, &key(&schema, "z"), 2).unwrap());
    assert_eq!(fresh.count, touched.count);
}
