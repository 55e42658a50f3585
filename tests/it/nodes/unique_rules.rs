//! A UNIQUE rule that one node makes while others write rows that break it, because they have not heard of it.

use crate::support::*;
use std::collections::BTreeSet;

const SCHEMA: &str = "CREATE TABLE t(id TEXT PRIMARY KEY, a TEXT, n INTEGER NOT NULL DEFAULT 1);
     CREATE TABLE child(id INTEGER PRIMARY KEY, t TEXT REFERENCES t);
     INSERT INTO t(id, a) VALUES('k1', 'one'), ('k2', 'two'), ('k3', 'three'); INSERT INTO child VALUES(1, 'k1')";

/// The ways in which applications make such a rule.
const RULES: [&str; 4] = [
    "CREATE UNIQUE INDEX i ON t(a)",
    "CREATE UNIQUE INDEX i ON t(lower(a), n) WHERE a IS NOT NULL",
    "BEGIN; CREATE TABLE x(id TEXT PRIMARY KEY, a TEXT UNIQUE, n INTEGER NOT NULL DEFAULT 1); INSERT INTO x SELECT * FROM t; \
     DROP TABLE t; ALTER TABLE x RENAME TO t; COMMIT",
    "ALTER TABLE t RENAME COLUMN a TO b; CREATE UNIQUE INDEX i ON t(b)",
];

fn conflicts(node: &Node) -> Vec<(String, String)> {
    let all = json(&node.command(&["-conflicts", "-json"]));
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let row = |entry: &serde_json::Value| (text(&entry["kind"]), text(&entry["row"]["id"]));
    all.as_array().unwrap().iter().map(row).collect()
}

/// What node 2 does not know of the rule while it writes: it is halted, or it is off.
fn try_rule(name: &str, rule: &str, is_off: bool) {
    let dir = Dir::new(name);
    let nats = Nats::start(&dir);
    let mut nodes: Vec<Node> =
        (1..=3).map(|id| Node::with_schema(&dir, id, &nats.url(), "", SCHEMA)).collect();
    nodes.iter_mut().for_each(Node::start_ready);
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    if is_off {
        nodes[1].kill9()
    } else {
        nodes[1].signal("STOP")
    }
    nodes[1].sql(
        "INSERT INTO t(id, a) VALUES('z1', 'one'), ('z2', 'new'), ('z4', 'only'); UPDATE t SET a = 'two' WHERE id = 'k3'",
    );
    nodes[0].sql(&format!("INSERT INTO t(id, a) VALUES('a2', 'new'); {rule}"));
    let rules = "SELECT count(*) FROM pragma_index_list('t') WHERE \"unique\"";
    wait_for("node 3 has the rule", 20, || (value(&nodes[2], rules) == "Integer(2)").then_some(()));
    if is_off {
        nodes[1].start_ready()
    } else {
        nodes[1].signal("CONT")
    }
    wait_for("node 2 has the rule", 20, || (value(&nodes[1], rules) == "Integer(2)").then_some(()));
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    let left = "SELECT group_concat(id) FROM (SELECT id FROM t ORDER BY id)";
    let text =
        |node: &Node, sql: &str| node.open().query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(text(&nodes[0], left), "k3,z1,z2,z4", "{rule}");
    let all: Vec<(String, String)> = nodes.iter().flat_map(conflicts).collect();
    let lost = ["k1", "k2", "a2"].map(|id| ("unique".to_owned(), id.to_owned()));
    let of_rows: Vec<&(String, String)> = all.iter().filter(|(kind, _)| kind == "unique").collect();
    assert_eq!(of_rows.len(), 3, "{rule}: {all:?}");
    assert_eq!(of_rows.into_iter().cloned().collect::<BTreeSet<_>>(), BTreeSet::from(lost), "{rule}");
    assert!(all.iter().any(|(kind, _)| kind == "orphan"), "{rule}: {all:?}");
    for node in &nodes {
        assert_eq!(node.count("cannot follow"), 0, "{}", node.log());
        assert_eq!(value(node, "PRAGMA integrity_check"), "Text([111, 107])");
    }
    // With another value it comes back, everywhere.
    let columns = if rule.contains("RENAME COLUMN") { "b" } else { "a" };
    nodes[1].sql(&format!("UPDATE t SET {columns} = 'other' WHERE id = 'z1'"));
    let restored = nodes[1].command(&["-conflict-restore", "t"]);
    assert_eq!(value(&nodes[1], "SELECT count(*) FROM t WHERE id = 'k1'"), "Integer(1)", "{restored:?}");
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
}

#[test]
fn rows_that_break_it_are_kept_as_lost_and_all_nodes_are_equal() {
    for (at, rule) in RULES.iter().enumerate() {
        try_rule(&format!("unique-rule-{at}"), rule, at % 2 == 1);
    }
}
