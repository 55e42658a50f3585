//! Nodes that were away, or fell behind while running, longer than the streams remember, with unpublished changes of their own.

use crate::support::*;

const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v, u UNIQUE); CREATE TABLE own(k TEXT PRIMARY KEY, v);
    CREATE VIRTUAL TABLE search USING fts5(v);
    CREATE TRIGGER ai AFTER INSERT ON t BEGIN INSERT INTO search(rowid, v) VALUES(NEW.id, NEW.v); END;
    CREATE TRIGGER ad AFTER DELETE ON t BEGIN DELETE FROM search WHERE rowid = OLD.id; END;";

fn nodes(dir: &Dir, nats: &Nats) -> (Node, Node) {
    nodes_with(dir, nats, "")
}

fn nodes_with(dir: &Dir, nats: &Nats, extra: &str) -> (Node, Node) {
    let make = |id: u64| {
        let config = format!("{extra}\nsnapshot.leader_ttl = 1000\n");
        let node = Node::with_schema(dir, id, &nats.url(), &config, SCHEMA);
        node.keep_messages(200);
        node
    };
    let (mut one, mut two) = (make(1), make(2));
    one.start_ready();
    two.start_ready();
    one.sql(&format!("INSERT INTO t SELECT value, 'old', value FROM {}", series(50)));
    wait_equal(&mut [&mut one, &mut two], 20);
    (one, two)
}

fn series(count: usize) -> String {
    format!(
        "(WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {count}) SELECT value FROM n)"
    )
}

/// Writes ten times what the stream keeps.
fn run_away(node: &Node) {
    for round in 0..20 {
        node.sql(&format!("INSERT INTO t(v, u) SELECT 'new', 'r{round}-' || value FROM {}", series(100)));
        pause(20);
    }
    node.sql("DELETE FROM t WHERE id <= 20; UPDATE t SET v = 'changed' WHERE id BETWEEN 21 AND 30");
    wait_for("everything is published", 20, || (node.unsettled() == 0).then_some(()));
}

/// The second node was restored from a snapshot and says so, and both are equal.
fn check(mut one: Node, mut two: Node) {
    wait_equal(&mut [&mut one, &mut two], 60);
    assert!(two.count("brought the database to the state of snapshot") >= 1, "{}", two.log());
    check_rows(one, two);
}

/// Both are equal, with all that they should hold: which the stream alone could not have brought.
fn check_rows(mut one: Node, mut two: Node) {
    let text = wait_equal(&mut [&mut one, &mut two], 60);
    assert!(text.contains("== own (500 rows)"), "rows that only one node had written are missing");
    assert_eq!(
        value(&one, "SELECT v FROM t WHERE id = 25"),
        "Text([109, 105, 110, 101])",
        "the later write wins"
    );
    assert_eq!(value(&two, "SELECT count(*) FROM t WHERE id <= 20"), "Integer(0)");
    for node in [&one, &two] {
        node.sql("DELETE FROM __harmonylite__feed_t");
        assert_eq!(value(node, "SELECT count(*) FROM search"), value(node, "SELECT count(*) FROM t"));
    }
    one.sql("INSERT INTO own(k, v) VALUES('after', 1)");
    two.sql("INSERT INTO own(k, v) VALUES('after 2', 1)");
    wait_equal(&mut [&mut one, &mut two], 20);
}

fn own_writes(node: &Node) {
    node.sql(&format!("INSERT INTO own SELECT 'own ' || value, value FROM {}", series(500)));
    node.sql("UPDATE t SET v = 'mine' WHERE id = 25; DELETE FROM t WHERE id = 50");
}

fn away(extra: &str) {
    let dir = Dir::new("away");
    let nats = Nats::start(&dir);
    let (one, mut two) = nodes_with(&dir, &nats, extra);
    two.stop();
    own_writes(&two);
    run_away(&one);
    two.start();
    check(one, two);
}

#[test]
fn away_for_ten_times_what_the_stream_keeps() {
    away("");
}

/// Only some of the streams no longer hold what the node needs; the snapshot holds the state of all.
#[test]
fn away_with_several_streams() {
    away("replication_log.shards = 4");
}

#[test]
fn falling_behind_while_running() {
    let dir = Dir::new("behind");
    let nats = Nats::start(&dir);
    let (one, two) = nodes(&dir, &nats);
    two.signal("STOP");
    own_writes(&two);
    run_away(&one);
    two.signal("CONT");
    check(one, two);
}

#[test]
fn killed_again_and_again_while_it_restores() {
    let dir = Dir::new("killed");
    let nats = Nats::start(&dir);
    let (one, mut two) = nodes(&dir, &nats);
    two.stop();
    own_writes(&two);
    run_away(&one);
    for round in 0..15 {
        two.start();
        pause(10 + round * 6);
        two.kill9();
        let verdict = value(&two, "PRAGMA quick_check");
        assert_eq!(verdict, "Text([111, 107])");
        assert_eq!(value(&two, "SELECT count(*) FROM own"), "Integer(500)");
    }
    two.start();
    // A kill may fall between the commit and the line that tells of it.
    check_rows(one, two);
}

/// The database is an older copy: a person put it back, or a power cut took the last commits, as it may with
/// synchronous=NORMAL. Its change log then gives ids that were used before.
#[test]
fn an_older_copy_of_the_database() {
    let dir = Dir::new("older");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = nodes(&dir, &nats);
    let write = |node: &Node, what: &str| {
        for number in 0..20 {
            node.sql(&format!("INSERT INTO own VALUES('{what}-{number}', 1)"));
        }
    };
    for round in 0..2 {
        write(&one, &format!("before-{round}"));
        wait_equal(&mut [&mut one, &mut two], 20);
        one.stop();
        one.checkpoint();
        let copy = one.dir.join("copy.db");
        std::fs::copy(&one.database, &copy).unwrap();
        one.start_ready();
        write(&one, &format!("lost here-{round}"));
        wait_equal(&mut [&mut one, &mut two], 20);
        if round == 1 {
            one.kill9();
        } else {
            one.stop();
        }
        one.remove_database();
        std::fs::copy(&copy, &one.database).unwrap();
        if round == 0 {
            // Written before the daemon learns that the database is an older copy; some keys were written before, too.
            write(&one, &format!("early-{round}"));
            one.sql("UPDATE own SET v = 'early' WHERE k LIKE 'before-0-%'");
        } else {
            // Without the sequence map the daemon must find out from the stream.
            std::fs::remove_file(one.dir.join("seq-map.cbor")).unwrap();
        }
        one.start_ready();
        write(&one, &format!("after-{round}"));
        two.sql(&format!("INSERT INTO own VALUES('other-{round}', 1)"));
        wait_equal(&mut [&mut one, &mut two], 30);
        for what in ["before", "lost here", "after"] {
            let sql = format!("SELECT count(*) FROM own WHERE k LIKE '{what}-{round}-%'");
            assert_eq!(value(&two, &sql), "Integer(20)", "{what} {round}");
        }
    }
    assert_eq!(value(&two, "SELECT count(*) FROM own WHERE k LIKE 'early-0-%'"), "Integer(20)");
    assert_eq!(value(&two, "SELECT count(*) FROM own WHERE v = 'early'"), "Integer(20)");
    assert_eq!(one.count("older copy"), 2, "{}", one.log());
}

/// The stored snapshot has another schema: the node says so once, downloads nothing, and recovers by itself when the same
/// migration was run on it.
#[test]
fn a_migration_that_was_not_run_here() {
    let dir = Dir::new("migration");
    let nats = Nats::start(&dir);
    let (one, mut two) = nodes_with(&dir, &nats, "schema = \"own\"\n");
    two.stop();
    own_writes(&two);
    let migration = "ALTER TABLE own ADD COLUMN since";
    one.sql(migration);
    run_away(&one);
    assert!(one.command(&["-save-snapshot"]).status.success());
    let text = std::fs::read_to_string(&two.config).unwrap();
    std::fs::write(&two.config, format!("{text}[logging]\nverbose = true\n")).unwrap();
    two.start();
    wait_for("it says what is wrong", 20, || (two.count("is not this database's") > 0).then_some(()));
    pause(3_000);
    assert_eq!(two.count("is not this database's"), 1, "{}", two.log());
    assert_eq!(two.count("download: "), 0, "{}", two.log());
    two.sql(migration);
    check(one, two);
}

/// The row of an entry that no message carries is nowhere but here: neither a snapshot of others settles it, nor keeps it the node
/// from making its own.
#[test]
fn a_row_that_could_not_be_published_stays_and_keeps_no_snapshot_away() {
    let dir = Dir::new("unpublished");
    let nats = Nats::start(&dir);
    let config = "replication_log.compress = false";
    let (mut one, mut two) = nodes_with(&dir, &nats, config);
    two.sql("INSERT INTO own VALUES('large', zeroblob(1500000)); INSERT INTO own VALUES('small', 1)");
    wait_for("it is said", 20, || (two.count("a row of table own is not published") == 1).then_some(()));
    wait_for("the other one is there", 20, || {
        (value(&one, "SELECT count(*) FROM own") == "Integer(1)").then_some(())
    });
    wait_for("the small one came back", 20, || (two.unsettled() == 1).then_some(()));
    two.kill9();
    run_away(&one);
    two.start();
    wait_for("it is brought to the state of a snapshot", 60, || {
        (two.count("brought the database to the state of snapshot") == 1).then_some(())
    });
    wait_for("it is as the other one", 30, || {
        let rows = "SELECT count(*) FROM t";
        (value(&two, rows) == value(&one, rows)).then_some(())
    });
    assert_eq!(value(&two, "SELECT length(v) FROM own WHERE k = 'large'"), "Integer(1500000)");
    assert_eq!(two.unsettled(), 1, "it will be published when it can be");
    one.stop();
    wait_for("it makes snapshots, too", 60, || {
        two.sql("INSERT INTO own VALUES(random(), 1)");
        (two.count("stored snapshot") >= 1).then_some(())
    });
    // A shorter image of the row is published.
    one.start_ready();
    two.sql("UPDATE own SET v = 'short' WHERE k = 'large'");
    wait_equal(&mut [&mut one, &mut two], 30);
}

/// A read replica keeps rows of its own when it joins. When it falls behind, nothing tells them from rows that were deleted
/// elsewhere: they are set aside, said, and can be brought back.
#[test]
fn a_read_replica_loses_no_row_of_its_own_without_a_word() {
    let dir = Dir::new("away-replica");
    let nats = Nats::start(&dir);
    let make = |id: u64, extra: &str| {
        let node = Node::with_schema(
            &dir,
            id,
            &nats.url(),
            &format!("{extra}snapshot.leader_ttl = 1000\n"),
            "CREATE TABLE t(id INTEGER PRIMARY KEY, v, u UNIQUE); CREATE TABLE own(k TEXT PRIMARY KEY, v, d DATE)",
        );
        node.keep_messages(200);
        node
    };
    let (mut one, mut two) = (make(1, ""), make(2, "publish = false\n"));
    one.sql("INSERT INTO t VALUES(1, 'stays', 1), (2, 'is deleted', 2), (3, 'stays', 3)");
    two.sql("INSERT INTO own VALUES('mine', x'00ff', '2024-01-02')");
    one.start_ready();
    wait_for("a snapshot", 20, || (one.count("stored snapshot") > 0).then_some(()));
    two.start_ready();
    assert_eq!(text(&two, "SELECT count(*) FROM own"), "1", "it keeps its rows when it joins");
    wait_for("rows", 20, || (text(&two, "SELECT count(*) FROM t") == "3").then_some(()));
    two.stop();
    two.sql("INSERT INTO own VALUES('another', 1.0, NULL)");
    let own = contents_of(&two, "own");
    one.sql("DELETE FROM t WHERE id = 2");
    for round in 0..20 {
        one.sql(&format!("INSERT INTO t(v, u) SELECT 'new', 'r{round}-' || value FROM {}", series(100)));
        pause(20);
    }
    wait_for("everything is published", 20, || (one.unsettled() == 0).then_some(()));
    two.start_ready();
    assert!(two.count("brought the database to the state of snapshot") > 0, "{}", two.log());
    assert_eq!(contents_of(&two, "t"), contents_of(&one, "t"));
    assert_eq!(text(&two, "SELECT count(*) FROM own"), "0");
    assert_eq!(two.count("3 rows that the cluster does not have are gone from here"), 1, "{}", two.log());
    let listed = two.command(&["-conflicts"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.matches(" local ").count(), 3, "{listed}");
    let restored = two.command(&["-conflict-restore", "own"]);
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(contents_of(&two, "own"), own);
    // It goes on following, and what was brought back stays.
    one.sql("INSERT INTO t VALUES(100000, 'later', 'later')");
    wait_for("a later row", 20, || {
        (text(&two, "SELECT count(*) FROM t WHERE v = 'later'") == "1").then_some(())
    });
    assert_eq!(contents_of(&two, "own"), own);
    assert_eq!(text(&one, "SELECT count(*) FROM own"), "0");
    assert_eq!((one.stop(), two.stop()), (0, 0));
}

fn text(node: &Node, sql: &str) -> String {
    node.open().query_row(&format!("SELECT CAST(({sql}) AS TEXT)"), [], |row| row.get(0)).unwrap()
}

/// The part of [`contents`] that is of one table.
fn contents_of(node: &Node, table: &str) -> String {
    let all = contents(&node.database);
    let rest = all.split(&format!("== {table} (")).nth(1).unwrap();
    rest.split("\n== ").next().unwrap().to_owned()
}
