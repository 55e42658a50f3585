//! Tables that an application builds anew, as frameworks change a table: what others have committed stays, and what was written
//! while nothing captured it arrives.

use crate::support::*;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, w INTEGER); CREATE INDEX tw ON t(w)";

/// The ways of SQLite's manual (Django, Alembic, Prisma), of Rails, and one in several transactions. What reads first begins as Rails does
/// since version 8: SQLite does not wait in a transaction that has read before somebody committed.
const WAYS: [&str; 3] = [
    "BEGIN; CREATE TABLE n(id INTEGER PRIMARY KEY, v, w INTEGER); INSERT INTO n SELECT * FROM t; DROP TABLE t;
     ALTER TABLE n RENAME TO t; CREATE INDEX tw ON t(w); COMMIT",
    "BEGIN IMMEDIATE; CREATE TEMPORARY TABLE a AS SELECT * FROM t; DROP TABLE t; CREATE TABLE t(id INTEGER PRIMARY KEY, v, w INTEGER);
     INSERT INTO t SELECT * FROM a; DROP TABLE a; CREATE INDEX tw ON t(w); COMMIT",
    "CREATE TABLE n(id INTEGER PRIMARY KEY, v, w INTEGER);
     BEGIN; INSERT INTO n SELECT * FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t; COMMIT; CREATE INDEX tw ON t(w)",
];

fn nodes(dir: &Dir, nats: &Nats, config: &str) -> (Node, Node) {
    let node = |id| Node::with_schema(dir, id, &nats.url(), config, SCHEMA);
    let (mut one, mut two) = (node(1), node(2));
    one.start_ready();
    two.start_ready();
    let rows =
        "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) SELECT i FROM n)";
    one.sql(&format!("INSERT INTO t SELECT i, 'first', i FROM {rows}"));
    wait_equal(&mut [&mut one, &mut two], 30);
    (one, two)
}

#[test]
fn while_the_daemon_is_down() {
    for way in WAYS {
        let dir = Dir::new("rebuilt-down");
        let nats = Nats::start(&dir);
        let (mut one, mut two) = nodes(&dir, &nats, "snapshot.leader_ttl = 1000\n");
        two.stop();
        two.sql(way);
        two.sql("DELETE FROM t WHERE id = 1; UPDATE t SET v = 'mine' WHERE id = 2; INSERT INTO t VALUES(1001, 'mine', 0)");
        one.sql("UPDATE t SET v = 'theirs' WHERE id BETWEEN 100 AND 200; DELETE FROM t WHERE id = 300");
        two.start();
        wait_for("it is told", 60, || (two.count("was built anew: 3 rows were written") == 1).then_some(()));
        wait_equal(&mut [&mut one, &mut two], 30);
        assert_eq!(value(&one, "SELECT count(*) FROM t WHERE v = 'theirs'"), "Integer(101)");
        assert_eq!(value(&one, "SELECT count(*) FROM t WHERE id IN (1, 300)"), "Integer(0)");
        assert_eq!(value(&one, "SELECT count(*) FROM t WHERE v = 'mine'"), "Integer(2)");
    }
}

/// A node without its broker is migrated, and the application goes on at once.
#[test]
fn while_the_node_is_cut_off() {
    for way in WAYS {
        let dir = Dir::new("rebuilt-cut");
        let mut nats = Nats::start(&dir);
        let (mut one, mut two) = nodes(&dir, &nats, "snapshot.leader_ttl = 1000\n");
        one.sql("UPDATE t SET v = 'theirs' WHERE id BETWEEN 100 AND 200");
        wait_equal(&mut [&mut one, &mut two], 30);
        nats.kill();
        two.sql("UPDATE t SET v = 'before' WHERE id = 3");
        two.sql(way);
        two.sql("DELETE FROM t WHERE id = 1; UPDATE t SET v = 'mine' WHERE id = 2");
        one.sql("UPDATE t SET v = 'later' WHERE id BETWEEN 150 AND 160");
        pause(1_000);
        two.sql("UPDATE t SET v = 'mine' WHERE id = 5");
        nats.restart();
        wait_for("it is told", 60, || (two.count("was built anew: ") >= 1).then_some(()));
        wait_equal(&mut [&mut one, &mut two], 30);
        for (count, rows) in
            [(90, "v = 'theirs'"), (11, "v = 'later'"), (0, "id = 1"), (2, "v = 'mine'"), (1, "v = 'before'")]
        {
            let counted = value(&one, &format!("SELECT count(*) FROM t WHERE {rows}"));
            assert_eq!(counted, format!("Integer({count})"), "{rows}: {way}");
        }
    }
}

/// Both sites write all the time, and one is migrated again and again.
#[test]
fn under_writes() {
    let dir = Dir::new("rebuilt-writes");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = nodes(&dir, &nats, "snapshot.leader_ttl = 1000\n");
    for round in 0..9 {
        one.sql(&format!("UPDATE t SET v = 'one {round}' WHERE id % 3 = 0"));
        two.sql(&format!("UPDATE t SET v = 'two {round}' WHERE id % 3 = 1"));
        two.sql(WAYS[round % 3]);
        two.sql(&format!(
            "UPDATE t SET w = {round} WHERE id % 3 = 1; DELETE FROM t WHERE id = {}",
            2 + 3 * round
        ));
        one.sql(&format!("INSERT INTO t VALUES({}, 'new', {round})", 1_000 + round));
        pause(150);
    }
    wait_for("all is looked at", 60, || (two.count("was built anew: ") >= 1).then_some(()));
    wait_equal(&mut [&mut one, &mut two], 60);
    assert_eq!(value(&one, "SELECT count(*) FROM t WHERE id <= 300 AND v = 'one 8'"), "Integer(100)");
    assert_eq!(
        value(&one, "SELECT count(*) FROM t WHERE id <= 300 AND v = 'two 8' AND w = 8"),
        "Integer(100)"
    );
    assert_eq!(value(&one, "SELECT count(*) FROM t"), "Integer(300)");
}

#[test]
fn without_snapshots_all_rows_are_published_and_that_is_said() {
    let dir = Dir::new("rebuilt-alone");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = nodes(&dir, &nats, "snapshot.enabled = false\n");
    two.stop();
    two.sql(WAYS[0]);
    two.sql("UPDATE t SET v = 'mine' WHERE id = 2");
    two.start();
    wait_for("it is told", 30, || (two.count("all its 300 rows are published") == 1).then_some(()));
    wait_equal(&mut [&mut one, &mut two], 30);
    assert_eq!(value(&one, "SELECT v FROM t WHERE id = 2"), value(&two, "SELECT v FROM t WHERE id = 2"));
}
