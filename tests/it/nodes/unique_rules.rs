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

/// How it comes that node 2 writes what breaks the rule.
#[derive(Clone, Copy, PartialEq)]
enum Why {
    /// Its daemon is halted: what it writes comes after the rule.
    Halted,
    /// Its daemon is off.
    Off,
    /// That of node 1 is halted: what node 2 writes comes before the rule, and node 1 has the rule already.
    OtherHalted,
}

fn halt(node: &Node) {
    node.signal("STOP");
    let status = format!("/proc/{}/status", node.pid());
    wait_for("it is halted", 10, || {
        std::fs::read_to_string(&status).unwrap().contains("State:\tT").then_some(())
    });
}

fn text(node: &Node, sql: &str) -> String {
    node.open().query_row(sql, [], |row| row.get(0)).unwrap()
}

fn try_rule(name: &str, rule: &str, why: Why) {
    let dir = Dir::new(name);
    let nats = Nats::start(&dir);
    let mut nodes: Vec<Node> =
        (1..=3).map(|id| Node::with_schema(&dir, id, &nats.url(), "", SCHEMA)).collect();
    nodes.iter_mut().for_each(Node::start_ready);
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    let make_rule = |node: &Node| node.sql(&format!("INSERT INTO t(id, a) VALUES('a2', 'new'); {rule}"));
    let rules = "SELECT count(*) FROM pragma_index_list('t') WHERE \"unique\"";
    let has_rule = |node: &Node| {
        wait_for("it has the rule", 20, || (value(node, rules) == "Integer(2)").then_some(()));
    };
    match why {
        Why::Halted => halt(&nodes[1]),
        Why::Off => nodes[1].kill9(),
        Why::OtherHalted => {
            halt(&nodes[0]);
            make_rule(&nodes[0]);
        }
    }
    nodes[1].sql(
        "INSERT INTO t(id, a) VALUES('z1', 'one'), ('z2', 'new'), ('z4', 'only'), ('z5', 'three'); UPDATE t SET a = 'two' WHERE id = 'k3'",
    );
    if why == Why::OtherHalted {
        wait_for("node 3 has the rows", 20, || {
            (value(&nodes[2], "SELECT count(*) FROM t WHERE id = 'z4'") == "Integer(1)").then_some(())
        });
        nodes[0].signal("CONT");
    } else {
        make_rule(&nodes[0]);
        has_rule(&nodes[2]);
        if why == Why::Off { nodes[1].start_ready() } else { nodes[1].signal("CONT") }
    }
    nodes.iter().for_each(has_rule);
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    judge(&mut nodes, rule, why);
}

fn judge(nodes: &mut [Node], rule: &str, why: Why) {
    let lost: Vec<Vec<(String, String)>> = nodes.iter().map(conflicts).collect();
    let of_rows: Vec<String> =
        lost.iter().flatten().filter(|(kind, _)| kind == "unique").map(|(_, id)| id.clone()).collect();
    assert_eq!(of_rows.len(), 3, "{rule}: {lost:?}");
    let left = text(&nodes[0], "SELECT group_concat(id) FROM t");
    let all: BTreeSet<&str> = left.split(',').chain(of_rows.iter().map(String::as_str)).collect();
    assert_eq!(
        all,
        BTreeSet::from(["a2", "k1", "k2", "k3", "z1", "z2", "z4", "z5"]),
        "{rule}: {left}, {lost:?}"
    );
    assert!(lost.iter().flatten().any(|(kind, _)| kind == "orphan"), "{rule}: {lost:?}");
    assert_eq!(
        text(&nodes[0], "SELECT a FROM t WHERE id = 'z4'".replace(" a ", column(rule)).as_str()),
        "only"
    );
    // Its value has gone to another row, and it got another one.
    assert!(left.contains("k3") && left.contains("z5"), "{rule}: {left}");
    // What came later stays: that of node 2, where node 1 was not the later one.
    assert_eq!(left.contains("z2"), why != Why::OtherHalted, "{rule}: {left}");
    for node in nodes.iter() {
        assert_eq!(node.count("cannot follow"), 0, "{}", node.log());
        assert_eq!(value(node, "PRAGMA integrity_check"), "Text([111, 107])");
    }
    // With another value it comes back, everywhere.
    let has = |list: &Vec<(String, String)>| list.iter().any(|(kind, id)| kind == "unique" && id == "k1");
    let keeper = lost.iter().position(has).unwrap();
    nodes[keeper].sql(&format!("UPDATE t SET {} = 'other' WHERE id = 'z1'", column(rule)));
    let restored = nodes[keeper].command(&["-conflict-restore", "t"]);
    let back = value(&nodes[keeper], "SELECT count(*) FROM t WHERE id = 'k1'");
    assert_eq!(back, "Integer(1)", "{restored:?}");
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
}

/// What the rule calls the column.
fn column(rule: &str) -> &'static str {
    if rule.contains("RENAME COLUMN") { " b " } else { " a " }
}

fn try_all(name: &str, why: Why) {
    for (at, rule) in RULES.iter().enumerate() {
        try_rule(&format!("{name}-{at}"), rule, why);
    }
}

#[test]
fn rows_that_come_after_it_win_and_the_others_are_kept_as_lost() {
    try_all("unique-rule-halted", Why::Halted);
}

#[test]
fn so_do_those_of_a_node_that_was_off() {
    try_all("unique-rule-off", Why::Off);
}

#[test]
fn of_rows_that_were_there_before_it_the_node_that_made_it_says_which_are_gone() {
    try_all("unique-rule-window", Why::OtherHalted);
}
