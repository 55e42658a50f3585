//! Writes that lose to others: kept by one node, shown, brought back. And statements that write nothing, which must win over nothing.

use crate::support::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

fn conflicts(node: &Node) -> Vec<Value> {
    let output = node.command(&["-conflicts", "-json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn three(dir: &Dir, nats: &Nats, ports: [u16; 3], schema: &str) -> [Node; 3] {
    [(1, ports[0]), (2, ports[1]), (3, ports[2])].map(|(id, port)| {
        let extra = format!(
            "snapshot.leader_ttl = 1000\nhealth_check.enable = true\nhealth_check.bind = \"127.0.0.1:{port}\"\n"
        );
        let mut node = Node::with_schema(dir, id, &nats.url(), &extra, schema);
        node.start_ready();
        node
    })
}

fn text(node: &Node, sql: &str) -> String {
    node.open().query_row(sql, [], |row| row.get(0)).unwrap()
}

/// Ids of `t` by the unique text that was inserted under them.
fn ids(node: &Node) -> BTreeMap<String, i64> {
    let connection = node.open();
    let mut statement = connection.prepare("SELECT v, id FROM t").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

fn rest(nodes: &mut [Node; 3]) {
    let [one, two, three] = nodes;
    wait_equal(&mut [one, two, three], 60);
    wait_for("all logs are empty", 30, || nodes.iter().all(|node| node.unsettled() == 0).then_some(()));
}

/// Inserts on all nodes for three seconds; returns the texts and the keys that the applications were told.
fn insert_on_all(nodes: &[Node; 3]) -> Vec<(String, i64)> {
    let until = Instant::now() + Duration::from_secs(3);
    std::thread::scope(|scope| {
        let numbered = [(1, &nodes[0]), (2, &nodes[1]), (3, &nodes[2])];
        let writers = numbered.map(|(id, node)| {
            let connection = node.open();
            scope.spawn(move || {
                let mut told = vec![];
                for n in 0.. {
                    if Instant::now() > until {
                        break;
                    }
                    let text = format!("{id}-{n}");
                    connection.execute("INSERT INTO t(v) VALUES(?1)", [&text]).unwrap();
                    told.push((text, connection.last_insert_rowid()));
                    pause(5);
                }
                told
            })
        });
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    })
}

#[test]
fn every_row_that_loses_its_key_is_on_the_list_of_one_node_and_comes_back() {
    let dir = Dir::new("lost-keys");
    let nats = Nats::start(&dir);
    let ports = [(); 3].map(|()| free_port());
    let mut nodes = three(&dir, &nats, ports, "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)");
    let told = insert_on_all(&nodes);
    rest(&mut nodes);
    let here = ids(&nodes[0]);
    let lost: Vec<(String, i64)> =
        told.iter().filter(|(text, _)| !here.contains_key(text)).cloned().collect();
    assert!(lost.len() > 50, "{} of {} rows lost", lost.len(), told.len());
    let mut listed = vec![];
    for (id, node) in (1..).zip(&nodes) {
        for conflict in conflicts(node) {
            assert_eq!(conflict["kind"], "insert", "{conflict}");
            assert_eq!(conflict["table"], "t");
            assert_eq!(conflict["won_by"], id);
            let text = conflict["row"]["v"].as_str().unwrap().to_owned();
            assert!(text.starts_with(&format!("{}-", conflict["lost_by"])), "{conflict}");
            assert_eq!(conflict["key"]["id"], conflict["row"]["id"]);
            assert!(conflict["sequence"].as_u64().unwrap() > 0 && conflict["time"].is_string());
            listed.push((text, conflict["row"]["id"].as_i64().unwrap()));
        }
    }
    let (listed_once, lost_once) = (BTreeSet::from_iter(listed.clone()), BTreeSet::from_iter(lost.clone()));
    assert_eq!(listed_once, lost_once);
    assert_eq!(listed.len(), lost.len(), "each on the list of one node");
    // The daemon tells of them.
    for (port, node) in ports.into_iter().zip(&nodes) {
        let count = conflicts(node).len() as u64;
        wait_for("health counts them", 10, || {
            (health(port).1["conflicts"]["insert"].as_u64().unwrap_or(0) == count).then_some(())
        });
    }
    assert!(nodes.iter().any(|node| node.count("writes of other nodes lost to later ones of this node") > 0));
    for node in &nodes {
        if !conflicts(node).is_empty() {
            let output = node.command(&["-conflict-restore", "t"]);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
        }
        assert_eq!(conflicts(node).len(), 0);
    }
    rest(&mut nodes);
    // Rows that came back on two nodes at once may collide again, and are on a list again.
    for _ in 0..20 {
        if nodes.iter().all(|node| conflicts(node).is_empty()) {
            break;
        }
        for node in &nodes {
            if !conflicts(node).is_empty() {
                node.command(&["-conflict-restore", "t"]);
                wait_for("its log is empty", 30, || (node.unsettled() == 0).then_some(()));
            }
        }
        rest(&mut nodes);
    }
    let here = ids(&nodes[1]);
    for (text, _) in &told {
        assert!(here.contains_key(text), "{text} is gone");
    }
    assert_eq!(here.len(), told.len());
}

#[test]
fn writes_that_follow_each_other_are_no_conflicts_and_those_of_a_cut_are() {
    let dir = Dir::new("lost-writes");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, u UNIQUE); \
                  CREATE TABLE users(name TEXT PRIMARY KEY, mail TEXT)";
    let ports = [(); 3].map(|()| free_port());
    let mut nodes = three(&dir, &nats, ports, schema);
    nodes[0].sql(
        "INSERT INTO t VALUES(1, 'first', 1), (2, 'first', 2); INSERT INTO users VALUES('admin', 'old')",
    );
    rest(&mut nodes);
    for round in 0..6 {
        nodes[round % 3].sql(&format!("UPDATE t SET v = 'round {round}'"));
        rest(&mut nodes);
    }
    for node in &nodes {
        assert_eq!(conflicts(node), Vec::<Value>::new());
    }
    // Node 3 is cut off, and its application does what applications do when they start.
    nodes[2].stop();
    nodes[0].sql(
        "UPDATE users SET mail = 'new'; UPDATE t SET v = 'theirs' WHERE id = 1; DELETE FROM t WHERE id = 2",
    );
    nodes[2].sql(
        "INSERT OR IGNORE INTO users VALUES('admin', 'default'); INSERT INTO users VALUES('admin', 'x') ON CONFLICT DO NOTHING; \
         INSERT OR IGNORE INTO t(v, u) VALUES('x', 1); UPDATE t SET v = 'ours' WHERE id < 3",
    );
    wait_for("node 1 is done", 20, || (nodes[0].unsettled() == 0).then_some(()));
    nodes[2].start_ready();
    rest(&mut nodes);
    assert_eq!(text(&nodes[0], "SELECT mail FROM users"), "new");
    assert_eq!(text(&nodes[0], "SELECT group_concat(v) FROM t"), "ours,ours");
    let found = conflicts(&nodes[2]);
    let kinds: Vec<&str> = found.iter().map(|conflict| conflict["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["update", "delete"]);
    assert_eq!((&found[0]["row"]["v"], &found[0]["lost_by"]), (&"theirs".into(), &1.into()));
    assert!(conflicts(&nodes[0]).is_empty() && conflicts(&nodes[1]).is_empty());
    // One is brought back, the other is looked at and dropped.
    let id = |at: usize| found[at]["id"].to_string();
    let output = nodes[2].command(&["-conflict-restore", &id(0)]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    rest(&mut nodes);
    assert_eq!(text(&nodes[1], "SELECT v FROM t WHERE id = 1"), "theirs");
    let shown = nodes[2].command(&["-conflicts", "show", &id(1)]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("\"kind\": \"delete\""), "{shown:?}");
    assert_eq!(nodes[2].command(&["-conflicts", "drop", &id(1)]).status.code(), Some(0));
    assert!(conflicts(&nodes[2]).is_empty());
    for (arguments, told) in [
        (&["-conflict-restore", "77"][..], "there is no conflict 77; -conflicts lists the numbers"),
        (&["-conflicts", "drop", "nothing"], "there is no conflict of a table nothing"),
        (&["-conflicts", "hide"], "accepted is list, show ID, drop ID, drop TABLE or drop all"),
        (&["-conflicts", "-since", "noon"], "-since noon: accepted is a time such as 2026-11-24T15:00:00Z"),
    ] {
        let output = nodes[2].command(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(told), "{text}");
    }
    // What a cut-off node only looked at is settled, too: nothing waits.
    wait_for("no entry is left", 40, || {
        (text(&nodes[2], "SELECT count(*) || '' FROM __harmonylite__log WHERE t <> 0") == "0").then_some(())
    });
}
