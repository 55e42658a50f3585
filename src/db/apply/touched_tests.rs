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
    let mut statement =
        connection.prepare("SELECT id, t % (1 << 24) FROM __harmonylite__log ORDER BY id").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

/// Entries of rows that were in the way of a row that was not written, or was.
#[test]
fn a_row_that_was_only_in_the_way_is_not_touched() {
    let (c, _) = captured();
    c.execute_batch("CREATE UNIQUE INDEX u ON t(v); INSERT INTO t VALUES('a', 1), ('b', 2), ('c', 3)")
        .unwrap();
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    let mut c = c;
    let (schema, _) = crate::db::capture::install::install(&mut c).unwrap();
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).unwrap();
    let mut touched = Touched::new(&c).unwrap();
    touched.catch_up(&c, &schema).unwrap();
    touched.settle_all(&c, 9, &[]).unwrap();
    touched.write_back(&c).unwrap();
    let held = |touched: &Touched, name: &str| !touched.ids(&c, &key(&schema, name)).unwrap().is_empty();

    c.execute_batch("INSERT OR IGNORE INTO t VALUES('x', 1)").unwrap();
    assert_eq!(log(&c).len(), 2, "and the placeholder");
    touched.catch_up(&c, &schema).unwrap();
    assert!(!held(&touched, "a"));
    touched.write_back(&c).unwrap();
    assert_eq!(log(&c), [(4, 0)]);

    c.execute_batch("REPLACE INTO t VALUES('y', 2)").unwrap();
    touched.catch_up(&c, &schema).unwrap();
    assert!(held(&touched, "b") && held(&touched, "y"));
    // A mirror that is made anew when the row is there again sees that it was written.
    c.execute_batch("INSERT INTO t VALUES('b', 7)").unwrap();
    let mut touched = Touched::new(&c).unwrap();
    touched.catch_up(&c, &schema).unwrap();
    assert_eq!(touched.ids(&c, &key(&schema, "b")).unwrap().len(), 2);

    // In the way twice.
    c.execute_batch("INSERT OR IGNORE INTO t VALUES('p', 3), ('q', 3)").unwrap();
    touched.catch_up(&c, &schema).unwrap();
    assert!(!held(&touched, "c"));

    // Written before, and in the way then: what was written stays.
    c.execute_batch("UPDATE t SET v = 4 WHERE k = 'c'; INSERT OR IGNORE INTO t VALUES('z', 4)").unwrap();
    touched.catch_up(&c, &schema).unwrap();
    assert_eq!(touched.ids(&c, &key(&schema, "c")).unwrap().len(), 1);
}

/// Whether the log holds a key with an id up to `limit`.
fn holds(touched: &Touched, connection: &Connection, key: &[u8], limit: i64) -> bool {
    touched.ids(connection, key).unwrap().iter().any(|id| *id <= limit)
}

/// Number of entries mirrored.
fn held(touched: &Touched) -> usize {
    touched.near.values().map(|ids| ids.as_slice().len()).sum::<usize>() + touched.far
}

/// Settles the entries of a key up to `limit`; returns their number.
fn settle(touched: &mut Touched, connection: &Connection, key: &[u8], limit: i64) -> usize {
    let mut ids = touched.ids(connection, key).unwrap();
    ids.retain(|id| *id <= limit);
    touched.settle(connection, key, &ids).unwrap();
    touched.write_back(connection).unwrap();
    ids.len()
}

#[test]
fn what_the_application_logs_is_seen_when_caught_up() {
    let (c, schema) = captured();
    let mut touched = Touched::new(&c).unwrap();
    c.execute_batch("INSERT INTO t VALUES('a', 1)").unwrap();
    assert!(!holds(&touched, &c, &key(&schema, "a"), i64::MAX));
    touched.catch_up(&c, &schema).unwrap();
    assert!(holds(&touched, &c, &key(&schema, "A"), 1));
    assert!(!holds(&touched, &c, &key(&schema, "a"), 0));
    assert!(!holds(&touched, &c, &key(&schema, "b"), i64::MAX));
    assert_eq!(touched.highest(), 1);
}

#[test]
fn settling_removes_entries_up_to_a_limit() {
    let (c, schema) = captured();
    let mut touched = Touched::new(&c).unwrap();
    c.execute_batch("INSERT INTO t VALUES('a', 1); UPDATE t SET v = 2; INSERT INTO t VALUES('b', 1)")
        .unwrap();
    touched.catch_up(&c, &schema).unwrap();
    assert_eq!(settle(&mut touched, &c, &key(&schema, "a"), 1), 1);
    assert!(holds(&touched, &c, &key(&schema, "a"), i64::MAX), "its second entry");
    assert_eq!(settle(&mut touched, &c, &key(&schema, "a"), 9), 1);
    assert!(!holds(&touched, &c, &key(&schema, "a"), i64::MAX));
    assert_eq!(log(&c), [(3, 1)]);
}

#[test]
fn the_newest_entry_stays_as_a_placeholder_until_there_is_a_newer_one() {
    let (c, schema) = captured();
    let mut touched = Touched::new(&c).unwrap();
    c.execute_batch("INSERT INTO t VALUES('a', 1)").unwrap();
    touched.catch_up(&c, &schema).unwrap();
    settle(&mut touched, &c, &key(&schema, "a"), 1);
    touched.write_back(&c).unwrap();
    assert_eq!(log(&c), [(1, 0)]);
    c.execute_batch("INSERT INTO t VALUES('b', 1)").unwrap();
    touched.catch_up(&c, &schema).unwrap();
    touched.write_back(&c).unwrap();
    assert_eq!(log(&c), [(2, 1)]);
    assert_eq!(touched.settle_all(&c, 2, &[]).unwrap(), 1);
    touched.write_back(&c).unwrap();
    assert_eq!(log(&c), [(2, 0)]);
}

#[test]
fn a_placeholder_is_found_again_by_a_fresh_mirror() {
    let (c, schema) = captured();
    let mut touched = Touched::new(&c).unwrap();
    c.execute_batch("INSERT INTO t VALUES('a', 1)").unwrap();
    touched.catch_up(&c, &schema).unwrap();
    touched.settle_all(&c, 1, &[]).unwrap();
    let mut touched = Touched::new(&c).unwrap();
    touched.catch_up(&c, &schema).unwrap();
    assert_eq!((touched.highest(), held(&touched)), (1, 0));
    c.execute_batch("INSERT INTO t VALUES('b', 1)").unwrap();
    touched.catch_up(&c, &schema).unwrap();
    touched.write_back(&c).unwrap();
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
    assert!(holds(&touched, &c, &key(&schema, "z"), 2));
    assert!(!holds(&touched, &c, &key(&schema, "z"), 1));
    // A mirror that reads the log anew sees the same.
    let mut fresh = Touched::new(&c).unwrap();
    fresh.catch_up(&c, &schema).unwrap();
    assert!(holds(&fresh, &c, &key(&schema, "z"), 2));
    assert_eq!(held(&fresh), held(&touched));
}

/// More keys than memory takes, some of them several times, settled in an order of chance.
#[test]
fn a_long_log_is_mirrored_on_disk() {
    let (c, schema) = captured();
    let mut touched = Touched::new(&c).unwrap();
    touched.room = 1 << 20;
    let count = 20_007;
    let rows = "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < ?1)";
    c.execute(&format!("{rows} INSERT INTO t SELECT i, 1 FROM i"), [count as i64]).unwrap();
    c.execute("UPDATE t SET v = 2 WHERE k % 1000 = 0", []).unwrap();
    touched.catch_up(&c, &schema).unwrap();
    let again = count / 1_000;
    assert_eq!(held(&touched), count + again);
    assert!(touched.far > 1_000 && touched.near.len() > 1_000, "{}", touched.far);
    assert!(touched.near_bytes.abs_diff(touched.room) <= limits::TOUCHED_WEIGHT * 2);
    let key_of = |number: usize| key(&schema, &number.to_string());
    let ids = |touched: &Touched, number: usize| touched.ids(&c, &key_of(number)).unwrap();
    assert_eq!((ids(&touched, 7), ids(&touched, count)), (vec![7], vec![count as i64]));
    for number in [1_000, count / 1_000 * 1_000] {
        let held = ids(&touched, number);
        assert!(held.len() == 2 && held[0] == number as i64, "{number}: {held:?}");
    }
    let mut seed = 7_usize;
    for _ in 0..count {
        seed = (seed + 7_919) % count;
        settle(&mut touched, &c, &key_of(seed + 1), i64::MAX);
    }
    assert_eq!((held(&touched), touched.far, touched.near.len(), touched.near_bytes), (0, 0, 0, 0));
    touched.write_back(&c).unwrap();
    assert_eq!(log(&c), [((count + again) as i64, 0)]);
}

#[test]
fn all_up_to_a_limit_are_settled_wherever_they_are_mirrored() {
    let (c, schema) = captured();
    let mut touched = Touched::new(&c).unwrap();
    touched.room = 1 << 20;
    let count = 20_000;
    let rows = "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < ?1)";
    c.execute(&format!("{rows} INSERT INTO t SELECT i, 1 FROM i"), [count]).unwrap();
    touched.catch_up(&c, &schema).unwrap();
    assert_eq!(touched.settle_all(&c, count - 10, &[]).unwrap() as i64, count - 10);
    touched.write_back(&c).unwrap();
    assert_eq!((held(&touched), log(&c).len()), (10, 10));
}
