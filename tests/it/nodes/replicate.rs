//! Two and three nodes: every kind of row, every kind of table, concurrent writers, an application that notices nothing.

use crate::support::*;
use rusqlite::params;

const SCHEMA: &str = "
    CREATE TABLE plain(id INTEGER PRIMARY KEY, v);
    CREATE TABLE \"odd \"\"name\"\" ü\"(\"the key\" TEXT PRIMARY KEY, \"group\" BLOB, \"select\");
    CREATE TABLE pair(a, b, v, PRIMARY KEY(a, b));
    CREATE TABLE wr(k BLOB PRIMARY KEY, v) WITHOUT ROWID;
    CREATE TABLE strict(id INTEGER PRIMARY KEY, t TEXT, x ANY) STRICT;
    CREATE TABLE nopk(a, b);
    CREATE TABLE gen(id INTEGER PRIMARY KEY, a INTEGER, b AS (a * 2), c INTEGER AS (a + 1) STORED);
    CREATE TABLE nocase(k TEXT COLLATE NOCASE PRIMARY KEY, v);
    CREATE TABLE parent(id INTEGER PRIMARY KEY);
    CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE users(id INTEGER PRIMARY KEY, email TEXT UNIQUE, low TEXT, active);
    CREATE UNIQUE INDEX low_email ON users(lower(low)) WHERE active;
    CREATE TABLE dated(d DATE PRIMARY KEY, ts TIMESTAMP, bo BOOLEAN);
";

fn two(dir: &Dir, nats: &Nats, extra: &str, schema: &str) -> (Node, Node) {
    let mut one = Node::with_schema(dir, 1, &nats.url(), extra, schema);
    let mut two = Node::with_schema(dir, 2, &nats.url(), extra, schema);
    one.start_ready();
    two.start_ready();
    (one, two)
}

fn write_everything(node: &Node) {
    let c = node.open();
    c.execute_batch("PRAGMA foreign_keys=ON").unwrap();
    let values: Vec<rusqlite::types::Value> = vec![
        rusqlite::types::Value::Null,
        i64::MAX.into(),
        i64::MIN.into(),
        0i64.into(),
        1.5f64.into(),
        f64::INFINITY.into(),
        f64::MIN_POSITIVE.into(),
        (-0.0f64).into(),
        String::new().into(),
        "text with 'quotes' \u{0} and ünïcödé".to_owned().into(),
        Vec::<u8>::new().into(),
        vec![0u8, 255, 1].into(),
        vec![7u8; 100_000].into(),
    ];
    for value in &values {
        c.execute("INSERT INTO plain(v) VALUES(?1)", [value]).unwrap();
        c.execute("INSERT INTO wr VALUES(?1, ?2)", params![format!("{value:?}").as_bytes(), value]).unwrap();
        // 0.0 and 0 are one key.
        c.execute("INSERT OR IGNORE INTO pair VALUES(?1, ?2, 'pair')", params![value, 1]).unwrap();
    }
    c.execute_batch(
        "INSERT INTO plain(v) VALUES(CAST(x'fffe41' AS TEXT));
         INSERT INTO \"odd \"\"name\"\" ü\" VALUES('k', x'00', 1), ('', NULL, 2.5), ('ü', 3, 'x');
         INSERT INTO strict VALUES(1, '007', '007'), (2, NULL, 7), (3, 'x', x'aa');
         INSERT INTO nopk VALUES(1, 'one'), (2, 'two'), (NULL, NULL);
         DELETE FROM nopk WHERE a = 1;
         INSERT INTO gen(id, a) VALUES(1, 21), (2, NULL);
         INSERT INTO nocase VALUES('Key', 1), ('other', 2);
         UPDATE nocase SET k = 'KEY', v = 3 WHERE k = 'key';
         INSERT INTO parent VALUES(1), (2), (3);
         INSERT INTO child VALUES(1, 1), (2, 1), (3, 2);
         DELETE FROM parent WHERE id = 1;
         UPDATE parent SET id = 20 WHERE id = 2;
         INSERT INTO users VALUES(1, 'a@x', 'Low', 1), (2, 'b@x', 'Other', 1), (3, 'c@x', 'LOW', 0);
         INSERT OR REPLACE INTO users VALUES(4, 'a@x', 'new', 1);
         INSERT INTO users VALUES(2, 'b2@x', 'o', 0) ON CONFLICT DO UPDATE SET email = excluded.email;
         INSERT OR REPLACE INTO users VALUES(5, 'd@x', 'NEW', 1);
         UPDATE plain SET id = 1000 WHERE id = 1;
         UPDATE pair SET a = 'moved' WHERE a IS 1.5;
         INSERT INTO dated VALUES('2024-01-02', 1700000000, 2), ('Jan 5 2024', '2025-03-01 12:00:00.123+02:00', -1);
         BEGIN; INSERT INTO plain VALUES(2000, 'rolled back'); ROLLBACK;
         BEGIN; INSERT INTO plain VALUES(2001, 'kept'); SAVEPOINT s; INSERT INTO plain VALUES(2002, 'gone');
         ROLLBACK TO s; RELEASE s; COMMIT;",
    )
    .unwrap();
}

#[test]
fn every_kind_of_row_and_table_both_ways() {
    for (compress, shards) in [(true, 1), (false, 4)] {
        let dir = Dir::new("kinds");
        let nats = Nats::start(&dir);
        let extra = format!("replication_log.compress = {compress}\nreplication_log.shards = {shards}");
        let (mut one, mut two) = two(&dir, &nats, &extra, SCHEMA);
        write_everything(&one);
        let before = contents(&one.database);
        let after = wait_equal(&mut [&mut one, &mut two], 20);
        assert_eq!(after, before, "the origin was changed by its own echoes");
        assert_eq!(
            value(&two, "SELECT group_concat(id) FROM plain WHERE id >= 2000"),
            "Text([50, 48, 48, 49])"
        );
        // The other way: updates and deletes of what came from the first node.
        two.sql(
            "UPDATE plain SET v = 'two' WHERE id % 2 = 0; DELETE FROM plain WHERE id % 3 = 0; DELETE FROM wr;
             UPDATE gen SET a = a + 1; DELETE FROM pair WHERE a IS NULL; UPDATE users SET email = email || '2';
             DELETE FROM \"odd \"\"name\"\" ü\" WHERE \"the key\" = ''; UPDATE strict SET x = t; DELETE FROM dated;
             UPDATE nopk SET b = 'zwei' WHERE a = 2; DELETE FROM nocase WHERE k = 'other';",
        );
        let before = contents(&two.database);
        assert_eq!(wait_equal(&mut [&mut one, &mut two], 20), before);
        assert_eq!((one.stop(), two.stop()), (0, 0));
    }
}

#[test]
fn a_large_transaction_arrives_whole() {
    let dir = Dir::new("large");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = two(&dir, &nats, "", "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    one.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
         INSERT INTO t SELECT i, 'row ' || i FROM n",
    );
    wait_equal(&mut [&mut one, &mut two], 30);
    assert_eq!(value(&two, "SELECT count(*) FROM t"), "Integer(10000)");
}

#[test]
fn three_nodes_write_the_same_keys_at_once() {
    let dir = Dir::new("three");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE shared(id INTEGER PRIMARY KEY, v, email TEXT UNIQUE); CREATE TABLE own(k TEXT PRIMARY KEY, v)";
    let mut nodes: Vec<Node> =
        (1..=3).map(|id| Node::with_schema(&dir, id, &nats.url(), "", schema)).collect();
    nodes.iter_mut().for_each(Node::start_ready);
    std::thread::scope(|scope| {
        for (me, node) in nodes.iter().enumerate() {
            scope.spawn(move || {
                let c = node.open();
                let mut seed = me as u64 + 1;
                let mut random = |n: u64| {
                    seed =
                        seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 33) % n
                };
                for round in 0..200 {
                    c.execute("INSERT INTO own VALUES(?1, ?2)", params![format!("{me}-{round}"), round])
                        .unwrap();
                    for _ in 0..5 {
                        let (id, email) = (random(300) as i64, format!("mail{}", random(100)));
                        let sql = match random(4) {
                            0 => "DELETE FROM shared WHERE id = ?1 AND ?2 <> '' AND ?3 IS NOT NULL",
                            1 => "INSERT OR REPLACE INTO shared VALUES(?1, ?3, ?2)",
                            2 => "INSERT OR IGNORE INTO shared VALUES(?1, ?3, ?2)",
                            _ => "UPDATE OR IGNORE shared SET v = ?3, email = ?2 WHERE id = ?1",
                        };
                        c.execute(sql, params![id, email, format!("{me}-{round}")]).unwrap();
                    }
                    if round % 10 == 0 {
                        pause(10);
                    }
                }
            });
        }
    });
    let mut all: Vec<&mut Node> = nodes.iter_mut().collect();
    let text = wait_equal(&mut all, 20);
    assert!(text.contains("== own (600 rows)"), "rows of one node alone are missing:\n{}", &text[..200]);
}

#[test]
fn the_application_notices_nothing() {
    let dir = Dir::new("unnoticed");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE audit(id INTEGER PRIMARY KEY, what);
        CREATE TABLE counter(id INTEGER PRIMARY KEY, n); INSERT INTO counter VALUES(1, 0);
        CREATE VIRTUAL TABLE search USING fts5(v, content='t', content_rowid='id');
        CREATE TRIGGER t_audit AFTER INSERT ON t BEGIN INSERT INTO audit(what) VALUES('insert ' || NEW.id); END;
        CREATE TRIGGER t_count AFTER UPDATE ON t BEGIN UPDATE counter SET n = n + 1; END;
        CREATE TRIGGER t_ai AFTER INSERT ON t BEGIN INSERT INTO search(rowid, v) VALUES(NEW.id, NEW.v); END;
        CREATE TRIGGER t_ad AFTER DELETE ON t BEGIN INSERT INTO search(search, rowid, v) VALUES('delete', OLD.id, OLD.v); END;
        CREATE TRIGGER t_au AFTER UPDATE ON t BEGIN INSERT INTO search(search, rowid, v) VALUES('delete', OLD.id, OLD.v);
            INSERT INTO search(rowid, v) VALUES(NEW.id, NEW.v); END;";
    let (mut one, mut two) = two(&dir, &nats, "", schema);
    let c = one.open();
    c.execute_batch("PRAGMA trusted_schema=OFF").unwrap();
    assert_eq!(c.execute("INSERT INTO t VALUES(77, 'hello world')", []).unwrap(), 1);
    assert_eq!(c.last_insert_rowid(), 77);
    assert_eq!(c.execute("INSERT INTO t VALUES(78, 'second')", []).unwrap(), 1);
    assert_eq!(c.execute("UPDATE t SET v = v || ' again'", []).unwrap(), 2);
    assert_eq!(c.query_row("SELECT changes()", [], |row| row.get::<_, i64>(0)).unwrap(), 2);
    assert_eq!(c.execute("DELETE FROM t WHERE id = 78", []).unwrap(), 1);
    wait_equal(&mut [&mut one, &mut two], 20);
    for node in [&one, &two] {
        assert_eq!(value(node, "SELECT n FROM counter"), "Integer(2)");
        assert_eq!(value(node, "SELECT count(*) FROM audit"), "Integer(2)");
        // The full-text index is not replicated; the application's next write runs what other nodes changed, and so does this.
        node.sql("DELETE FROM __harmonylite__feed_t");
        assert_eq!(
            value(node, "SELECT group_concat(rowid) FROM search WHERE search MATCH 'again'"),
            "Text([55, 55])"
        );
        node.sql("INSERT INTO search(search) VALUES('integrity-check')");
    }
}

#[test]
fn new_tables_and_columns_are_picked_up_while_running() {
    let dir = Dir::new("schema");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = two(
        &dir,
        &nats,
        "schema = \"own\"\n",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES(1, 'old')",
    );
    one.sql("CREATE TABLE later(id INTEGER PRIMARY KEY, v); INSERT INTO later VALUES(1, 'before'), (2, 'the triggers')");
    one.sql(
        "ALTER TABLE t ADD COLUMN b; INSERT INTO t VALUES(2, 'new', 'b'); UPDATE t SET b = 'B' WHERE id = 1",
    );
    wait_for("the events wait for the schema", 10, || {
        (two.count("wait until the application changes its schema") >= 2).then_some(())
    });
    // Other events are not held up.
    one.sql("CREATE TABLE IF NOT EXISTS later(id INTEGER PRIMARY KEY, v)");
    two.sql("ALTER TABLE t ADD COLUMN b; CREATE TABLE later(id INTEGER PRIMARY KEY, v)");
    one.sql("INSERT INTO later VALUES(3, 'after')");
    wait_equal(&mut [&mut one, &mut two], 20);
    assert_eq!(
        value(&two, "SELECT group_concat(v) FROM later"),
        value(&one, "SELECT group_concat(v) FROM later")
    );
    assert_eq!(value(&two, "SELECT b FROM t WHERE id = 1"), "Text([66])");
    one.sql("ALTER TABLE later RENAME TO renamed; INSERT INTO renamed VALUES(4, 'renamed')");
    two.sql("ALTER TABLE later RENAME TO renamed");
    wait_equal(&mut [&mut one, &mut two], 20);
    one.sql("DROP TABLE renamed; ALTER TABLE t DROP COLUMN a");
    two.sql("DROP TABLE renamed; ALTER TABLE t DROP COLUMN a; INSERT INTO t VALUES(9, 'x')");
    wait_equal(&mut [&mut one, &mut two], 20);
}

#[test]
fn one_way_nodes() {
    let dir = Dir::new("oneway");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    let mut sender = Node::with_schema(&dir, 1, &nats.url(), "replicate = false", schema);
    let mut reader = Node::with_schema(&dir, 2, &nats.url(), "publish = false", schema);
    sender.start();
    reader.start_ready();
    sender.sql("INSERT INTO t VALUES(1, 'one'), (2, 'two')");
    reader.sql("INSERT INTO t VALUES(5, 'local')");
    wait_for("the rows arrive", 10, || {
        (value(&reader, "SELECT count(*) FROM t") == "Integer(3)").then_some(())
    });
    wait_for("the log is settled by the acknowledgement", 10, || (sender.unsettled() == 0).then_some(()));
    assert_eq!(value(&sender, "SELECT count(*) FROM t"), "Integer(2)");
    assert_eq!(value(&reader, "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"), "Integer(0)");
    // A node that does not replicate lacks what others wrote: no snapshot is made of its database.
    let refused = sender.command(&["-save-snapshot"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("on a node that replicates"));
    let made = reader.command(&["-save-snapshot"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(sender.count("this node is the leader"), 0);
    assert_eq!((sender.stop(), reader.stop()), (0, 0));
}

#[test]
fn a_journal_mode_other_than_wal_is_switched_or_refused() {
    let dir = Dir::new("journal");
    let nats = Nats::start(&dir);
    let mut node = Node::new(&dir, 1, &nats.url(), "");
    let c = rusqlite::Connection::open(&node.database).unwrap();
    c.execute_batch("PRAGMA journal_mode=DELETE; CREATE TABLE t(id INTEGER PRIMARY KEY)").unwrap();
    drop(c);
    node.start_ready();
    assert_eq!(node.count("switched the journal mode from delete to wal"), 1);
    node.stop();
    let mut other = Node::new(&dir, 2, &nats.url(), "journal_mode = \"refuse\"");
    rusqlite::Connection::open(&other.database)
        .unwrap()
        .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        .unwrap();
    other.start();
    assert_eq!(other.wait_exit(10), 1);
    assert!(other.log().contains("journal mode is delete and journal_mode = \"refuse\""), "{}", other.log());
}
