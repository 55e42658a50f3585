//! The state of a moment ago, after a mistake: put in the place of one node's database, or brought to the whole cluster.

use crate::support::*;

const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v, u UNIQUE); CREATE TABLE own(k TEXT PRIMARY KEY, v)";

/// Two nodes that have agreed on forty rows, a position to go back to, and a mistake after it.
fn after_a_mistake(dir: &Dir, nats: &Nats) -> (Node, Node, String) {
    let node = |id| {
        Node::with_schema(dir, id, &nats.url(), "snapshot.keep = 5\nsnapshot.leader_ttl = 1000\n", SCHEMA)
    };
    let (mut one, mut two) = (node(1), node(2));
    one.start_ready();
    two.start_ready();
    for id in 1..=40 {
        one.sql(&format!("INSERT INTO t VALUES({id}, 'good', 'u{id}')"));
    }
    wait_equal(&mut [&mut one, &mut two], 30);
    let position = value(&two, "SELECT value FROM __harmonylite__state WHERE kind = 'seq'");
    let position = position.trim_start_matches("Integer(").trim_end_matches(')').to_owned();
    one.sql("DELETE FROM t WHERE id > 10; UPDATE t SET v = 'bad', u = 'u' || (id + 10) WHERE id <= 10");
    wait_equal(&mut [&mut one, &mut two], 30);
    two.sql("INSERT INTO t VALUES(100, 'later', 'u1'); INSERT INTO own VALUES('later', 1)");
    wait_equal(&mut [&mut one, &mut two], 30);
    (one, two, position)
}

#[test]
fn the_whole_cluster() {
    let dir = Dir::new("everywhere");
    let nats = Nats::start(&dir);
    let (mut one, mut two, position) = after_a_mistake(&dir, &nats);
    let done = json(&one.command(&["-restore-at", &position, "-everywhere", "-json"]));
    assert_eq!((done["deleted"].as_u64(), done["written"].as_u64()), (Some(2), Some(40)), "{done}");
    wait_equal(&mut [&mut one, &mut two], 30);
    assert_eq!(value(&two, "SELECT count(*) FROM t WHERE v = 'good' AND u = 'u' || id"), "Integer(40)");
    assert_eq!(value(&two, "SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM own)"), "Integer(40)");
    // Life goes on, and once more there is nothing to do.
    two.sql("INSERT INTO own VALUES('after', 1)");
    wait_equal(&mut [&mut one, &mut two], 30);
    two.stop();
    let late = two.command(&["-restore-at", &position, "-everywhere"]);
    assert!(printed(&late).contains("1 rows deleted, 0 written"), "{}", printed(&late));
    two.start();
    wait_equal(&mut [&mut one, &mut two], 30);
    assert_eq!(value(&one, "SELECT count(*) FROM own"), "Integer(0)");
}

/// The cluster's state wins, and what only the file has is kept.
#[test]
fn a_file_in_the_place_of_one_nodes_database() {
    let dir = Dir::new("put-back");
    let nats = Nats::start(&dir);
    let (mut one, mut two, position) = after_a_mistake(&dir, &nats);
    let file = dir.0.join("as-it-was.db");
    let written = one.command(&["-restore-at", &position, "-to", file.to_str().unwrap()]);
    assert!(written.status.success(), "{}", printed(&written));
    one.stop();
    one.remove_database();
    std::fs::copy(&file, &one.database).unwrap();
    one.start_ready();
    one.sql("INSERT INTO own VALUES('after', 1)");
    wait_equal(&mut [&mut one, &mut two], 30);
    assert_eq!(one.count("taking over"), 0, "the old sequence map is not this database's");
    assert_eq!(one.count("joined with snapshot"), 1, "{}", one.log());
    assert_eq!(value(&two, "SELECT count(*) FROM t WHERE id <= 10 AND v = 'bad'"), "Integer(10)");
    assert_eq!(
        value(&two, "SELECT count(*) FROM t WHERE id BETWEEN 21 AND 40 AND v = 'good'"),
        "Integer(20)"
    );
    assert_eq!(value(&two, "SELECT count(*) FROM own"), "Integer(2)");
}
