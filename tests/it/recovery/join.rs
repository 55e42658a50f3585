//! Databases with rows of their own that come into a cluster for the first time.

use crate::support::*;

const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE own(k TEXT PRIMARY KEY COLLATE NOCASE, v);
    CREATE TABLE plain(a, b)";

fn node(dir: &Dir, id: u64, nats: &Nats, extra: &str, rows: &str) -> Node {
    Node::with_schema(
        dir,
        id,
        &nats.url(),
        &format!("snapshot.leader_ttl = 1000\n{extra}"),
        &format!("{SCHEMA};{rows}"),
    )
}

fn kept(node: &Node) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(&node.dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().contains("app.db.before-join-")).collect()
}

/// Three nodes start at once, each with rows of its own, some under the same keys: all rows are on all nodes in the end, and
/// where values differ the same one wins everywhere.
#[test]
fn three_databases_become_one() {
    let dir = Dir::new("join-three");
    let nats = Nats::start(&dir);
    let mut nodes: Vec<Node> = (1..=3)
        .map(|id| {
            let rows = format!(
                "INSERT INTO t VALUES({id}, 'only here'), (100, 'the same'), (200, 'of {id}');
                 INSERT INTO own VALUES('Key {id}', x'00{id:02}'), ('shared', {id}), ('{}', 1);
                 INSERT INTO plain(rowid, a, b) VALUES({id}0, {id}, NULL)",
                if id == 2 { "CASE" } else { "case" }
            );
            node(&dir, id, &nats, "", &rows)
        })
        .collect();
    nodes.iter_mut().for_each(Node::start);
    for node in &nodes {
        wait_for("it follows", 30, || (node.count("caught up with") > 0).then_some(()));
    }
    let mut all: Vec<&mut Node> = nodes.iter_mut().collect();
    let text = wait_equal(&mut all, 30);
    assert!(text.contains("== t (5 rows)") && text.contains("== own (5 rows)"), "{text}");
    assert!(text.contains("== plain (3 rows)"), "{text}");
    let joined: usize = nodes.iter().map(|node| node.count("joined with snapshot")).sum();
    assert_eq!(joined, 2, "one of them founded the cluster");
    // A node whose value lost keeps it in a copy.
    for node in &nodes {
        let lost = node.count("joined with snapshot") == 1;
        assert_eq!(kept(node).len(), usize::from(lost), "{}", node.log());
    }
    for (at, node) in nodes.iter().enumerate() {
        for copy in kept(node) {
            let copy = rusqlite::Connection::open(copy).unwrap();
            let v: String = copy.query_row("SELECT v FROM t WHERE id = 200", [], |row| row.get(0)).unwrap();
            assert_eq!(v, format!("of {}", at + 1));
        }
    }
    nodes[2].sql("INSERT INTO t VALUES(300, 'later'); DELETE FROM own WHERE k = 'KEY 1'");
    let mut all: Vec<&mut Node> = nodes.iter_mut().collect();
    let text = wait_equal(&mut all, 20);
    assert!(text.contains("== own (4 rows)"), "{text}");
    // A restart is no join.
    nodes[1].stop();
    nodes[1].start_ready();
    assert!(nodes[1].count("joined with") <= 1);
}

/// A node joins long after the streams lost their first message.
#[test]
fn late_with_rows_of_its_own() {
    for (rule, published) in [("merge", true), ("replace", false)] {
        let dir = Dir::new("join-late");
        let nats = Nats::start(&dir);
        let mut one = node(&dir, 1, &nats, "", "INSERT INTO t VALUES(1, 'first')");
        one.keep_messages(200);
        one.start_ready();
        for round in 0..10 {
            one.sql(&format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO t(v) SELECT 'r{round}' FROM n"));
            pause(30);
        }
        wait_for("all is published", 20, || (one.unsettled() == 0).then_some(()));
        let rows = "INSERT INTO own VALUES('local', 1), ('both', 'mine'); INSERT INTO t VALUES(5000, 'local'), (1, 'first')";
        one.sql("INSERT INTO own VALUES('BOTH', 'theirs')");
        let mut two = node(&dir, 2, &nats, &format!("join = \"{rule}\"\n"), rows);
        two.start();
        wait_for("it joins", 30, || (two.count("joined with snapshot") > 0).then_some(()));
        // Written while it joins, and after.
        two.sql("INSERT INTO own VALUES('written here', 1)");
        let text = wait_equal(&mut [&mut one, &mut two], 30);
        assert_eq!(text.contains("== own (3 rows)"), published, "{text}");
        assert_eq!(
            value(&one, "SELECT count(*) FROM t WHERE id = 5000"),
            format!("Integer({})", i32::from(published))
        );
        assert_eq!(value(&two, "SELECT v FROM own WHERE k = 'both'"), "Text([116, 104, 101, 105, 114, 115])");
        assert_eq!(kept(&two).len(), 1, "the value that lost is kept");
        assert!(two.log().contains(&format!("join = \"{rule}\"")));
    }
}

/// All nodes begin with the same database, as it is often rolled out: nothing is published, and no copy is kept.
#[test]
fn the_same_database_everywhere() {
    let dir = Dir::new("join-same");
    let nats = Nats::start(&dir);
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO t SELECT i, i * 1.5 FROM n";
    let mut one = node(&dir, 1, &nats, "", rows);
    let mut two = node(&dir, 2, &nats, "", rows);
    one.start_ready();
    two.start_ready();
    wait_equal(&mut [&mut one, &mut two], 20);
    assert_eq!(
        two.count("0 rows came, 0 had other values, 0 were only here (0 of them are published)"),
        1,
        "{}",
        two.log()
    );
    assert!(kept(&two).is_empty());
    let info = nats.client().stream_info("harmonylite-changes-c-1").unwrap();
    assert_eq!(info.state.messages, 0);
}

/// Where no node makes snapshots, a joining node does not wait for one.
#[test]
fn nobody_waits_for_what_cannot_come() {
    let dir = Dir::new("join-none");
    let nats = Nats::start(&dir);
    let mut one = node(&dir, 1, &nats, "snapshot.enabled = false\n", "");
    let mut two = node(&dir, 2, &nats, "snapshot.enabled = false\n", "");
    one.start_ready();
    two.start_ready();
    one.sql("INSERT INTO t VALUES(1, 1)");
    wait_equal(&mut [&mut one, &mut two], 20);
}

/// The joining node and the cluster gave one UNIQUE value to different rows: the cluster's row stays, the other one is kept in
/// the copy.
#[test]
fn unique_values_of_the_cluster_stay() {
    let dir = Dir::new("join-unique");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE u(id INTEGER PRIMARY KEY, name UNIQUE, v)";
    let make = |id: u64, rows: &str| {
        Node::with_schema(&dir, id, &nats.url(), "snapshot.leader_ttl = 1000\n", &format!("{schema};{rows}"))
    };
    let mut one = make(1, "INSERT INTO u VALUES(1, 'anna', 'cluster'), (2, 'berta', 'cluster')");
    one.start_ready();
    let mut two =
        make(2, "INSERT INTO u VALUES(7, 'anna', 'mine'), (8, 'carla', 'mine'), (2, 'dora', 'mine')");
    two.start_ready();
    let text = wait_equal(&mut [&mut one, &mut two], 20);
    assert!(text.contains("== u (3 rows)"), "{text}");
    let names = "SELECT group_concat(id || name || v) FROM (SELECT * FROM u ORDER BY id)";
    let found = one.open().query_row(names, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(found, "1annacluster,2bertacluster,8carlamine");
    let copy = rusqlite::Connection::open(&kept(&two)[0]).unwrap();
    assert_eq!(
        copy.query_row("SELECT v FROM u WHERE id = 7", [], |row| row.get::<_, String>(0)).unwrap(),
        "mine"
    );
}
