//! Lists of tables: what is excluded stays with its node, and a list may change between two starts.

use crate::support::*;
use rusqlite::Connection;

const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE logs(id INTEGER PRIMARY KEY, v)";
const WITHOUT: &str = "tables.exclude = [\"LOG*\"]\nsnapshot.leader_ttl = 1000\nhealth_check.enable = true\n";

/// What the configuration says about tables from now on; the node does not run.
fn configure(node: &Node, from: &str, to: &str) {
    let text = std::fs::read_to_string(&node.config).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&node.config, text.replace(from, to)).unwrap();
}

fn include(node: &mut Node) {
    node.stop();
    configure(node, "tables.exclude = [\"LOG*\"]", "tables.exclude = []");
}

fn node(dir: &Dir, nats: &Nats, id: u64, more: &str) -> Node {
    let port = free_port();
    let config = format!("{WITHOUT}health_check.bind = \"127.0.0.1:{port}\"\n{more}");
    Node::with_schema(dir, id, &nats.url(), &config, SCHEMA)
}

fn wait_value(node: &Node, sql: &str, expected: &str) {
    wait_for(&format!("{sql}: {expected}"), 60, || (value(node, sql) == expected).then_some(()));
}

fn settled(nodes: &[&Node]) {
    wait_for("all is published", 30, || nodes.iter().all(|node| node.unsettled() == 0).then_some(()));
}

#[test]
fn what_is_excluded_stays_and_what_is_included_later_joins() {
    let dir = Dir::new("lists");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = (node(&dir, &nats, 1, ""), node(&dir, &nats, 2, ""));
    one.start_ready();
    two.start_ready();
    for (node, name) in [(&one, "one"), (&two, "two")] {
        let id = if name == "one" { 1 } else { 2 };
        node.sql(&format!(
            "INSERT INTO t VALUES({id}, '{name}'); INSERT INTO logs VALUES(1, 'first of {name}'), ({}, 'only {name}')",
            10 * id
        ));
    }
    wait_value(&one, "SELECT count(*) FROM t", "Integer(2)");
    wait_value(&two, "SELECT count(*) FROM t", "Integer(2)");
    settled(&[&one, &two]);
    assert_eq!(value(&one, "SELECT count(*) FROM logs"), "Integer(2)");
    assert_eq!(value(&one, "SELECT count(*) FROM __harmonylite__log WHERE k1 = 10"), "Integer(0)");
    let verified = one.command(&["-verify"]);
    assert!(verified.status.success() && !printed(&verified).contains("logs"), "{}", printed(&verified));

    // The first node that replicates it has its first state. The other one passes it over, and sets nothing aside.
    include(&mut one);
    one.start_ready();
    wait_for("it is first", 60, || {
        (one.count("no other node has it, and its 2 rows are published") == 1).then_some(())
    });
    one.sql("INSERT INTO logs VALUES(30, 'later'); INSERT INTO t VALUES(3, 'later')");
    wait_value(&two, "SELECT count(*) FROM t", "Integer(3)");
    settled(&[&one]);
    assert_eq!(value(&two, "SELECT count(*) FROM logs"), "Integer(2)");
    assert_eq!(value(&two, "SELECT count(*) FROM __harmonylite__set_aside"), "Integer(0)");

    // The second one joins in it: what only it has arrives, and where both have a row, it is as the cluster has it, after a copy.
    include(&mut two);
    two.start_ready();
    two.sql("INSERT INTO logs VALUES(40, 'written while it joins')");
    wait_for("it joins", 120, || {
        (two.count("table logs is replicated from now on: 2 rows came") == 1).then_some(())
    });
    wait_equal(&mut [&mut one, &mut two], 30);
    assert_eq!(value(&one, "SELECT count(*) FROM logs"), "Integer(5)");
    assert_eq!(
        value(&one, "SELECT count(*) FROM logs WHERE v IN ('first of one', 'only two')"),
        "Integer(2)"
    );
    let mut copies = std::fs::read_dir(&two.dir).unwrap().map(|entry| entry.unwrap().path());
    let copy = copies.find(|path| path.to_string_lossy().contains(".before-join-")).expect("a copy");
    let kept: i64 = Connection::open(copy)
        .unwrap()
        .query_row("SELECT count(*) FROM logs WHERE v = 'first of two'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 1);
    assert!(one.command(&["-verify"]).status.success());
}

#[test]
fn what_was_passed_over_comes_with_a_snapshot() {
    let dir = Dir::new("lists-late");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = (node(&dir, &nats, 1, ""), node(&dir, &nats, 2, "publish = false\n"));
    configure(&one, "tables.exclude = [\"LOG*\"]", "tables.exclude = []");
    let rows = "INSERT INTO logs VALUES(1, 'a'), (2, 'b'), (3, 'c')";
    one.start_ready();
    one.sql(rows);
    settled(&[&one]);
    two.start_ready();
    assert_eq!(two.count("a read replica"), 1, "{}", two.log());
    one.sql("UPDATE logs SET v = 'changed' WHERE id = 1; DELETE FROM logs WHERE id = 2; INSERT INTO t VALUES(1, 'x')");
    wait_value(&two, "SELECT count(*) FROM t", "Integer(1)");
    assert_eq!(value(&two, "SELECT count(*) FROM logs"), "Integer(0)");
    include(&mut two);
    two.start_ready();
    wait_value(
        &two,
        "SELECT group_concat(id || v) FROM logs",
        &value(&one, "SELECT group_concat(id || v) FROM logs"),
    );
    one.sql("INSERT INTO logs VALUES(9, 'live')");
    wait_value(&two, "SELECT count(*) FROM logs", "Integer(3)");
    assert_eq!(
        value(&two, "SELECT count(*) FROM __harmonylite__state WHERE kind IN ('included', 'passed')"),
        "Integer(0)"
    );
}

#[test]
fn a_table_that_is_excluded_says_what_it_has_not_published() {
    let dir = Dir::new("lists-unpublished");
    let mut nats = Nats::start(&dir);
    let mut one = node(&dir, &nats, 1, "");
    configure(&one, "tables.exclude = [\"LOG*\"]", "tables.exclude = []");
    one.start_ready();
    nats.kill();
    one.sql("INSERT INTO logs VALUES(1, 'a'), (2, 'b'); INSERT INTO t VALUES(1, 'x')");
    one.kill9();
    configure(&one, "tables.exclude = []", "sharding.ignore_tables = [\"logs\"]");
    nats.restart();
    one.start_ready();
    assert_eq!(
        one.count("as the lists of tables say; 2 unpublished changes of it are not published"),
        1,
        "{}",
        one.log()
    );
    settled(&[&one]);
    // Its rows are still there, and the cluster has none: they are published.
    one.stop();
    configure(&one, "sharding.ignore_tables = [\"logs\"]", "tables.include = [\"*\"]");
    one.start_ready();
    wait_for("they are published", 60, || {
        (one.count("2 were only here, 2 are published") == 1).then_some(())
    });
}

#[test]
fn a_damaged_database_keeps_its_excluded_rows_and_snapshots_lack_them() {
    let dir = Dir::new("lists-damaged");
    let nats = Nats::start(&dir);
    let more = "tables.in_snapshots = false\n";
    let (mut one, mut two) = (node(&dir, &nats, 1, more), node(&dir, &nats, 2, more));
    one.start_ready();
    two.start_ready();
    one.sql("INSERT INTO logs VALUES(1, 'of one'); CREATE TABLE logs2(a); INSERT INTO logs2 VALUES('x')");
    two.sql("CREATE TABLE logs2(a)");
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 800) \
                INSERT INTO t SELECT i, zeroblob(500) FROM n";
    two.sql(rows);
    two.sql("INSERT INTO logs VALUES(2, 'of two')");
    wait_value(&one, "SELECT count(*) FROM t", "Integer(800)");
    settled(&[&two]);
    assert!(two.command(&["-save-snapshot"]).status.success());
    let file = dir.0.join("plain.db");
    assert!(
        two.command(&["-restore-snapshot", "snapshot.db", "-to", file.to_str().unwrap()]).status.success()
    );
    let count: i64 =
        Connection::open(file).unwrap().query_row("SELECT count(*) FROM logs", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 0, "the table is there, and empty");
    one.stop();
    one.checkpoint();
    spoil(&one.database, (root_page(&one, "t") - 1) * 4096, 4096);
    one.start();
    wait_for("it is recovered", 60, || {
        (one.count("unpublished changes of the damaged one") == 1).then_some(())
    });
    wait_value(&one, "SELECT count(*) FROM t", "Integer(800)");
    assert_eq!(value(&one, "SELECT group_concat(v) FROM logs"), value(&one, "SELECT 'of one'"));
    assert_eq!(value(&one, "SELECT group_concat(a) FROM logs2"), value(&one, "SELECT 'x'"));
    two.sql("INSERT INTO t VALUES(1000, 'after')");
    wait_value(&one, "SELECT count(*) FROM t", "Integer(801)");
}
