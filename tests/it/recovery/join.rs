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

/// One table of a database whose schema is not the cluster's, and how it becomes the same.
struct Differs {
    name: &'static str,
    here: &'static str,
    there: &'static str,
    /// Run on the joining node.
    migration: &'static str,
    rows: &'static str,
}

const DIFFERS: [Differs; 7] = [
    Differs {
        name: "more_here",
        here: "CREATE TABLE more_here(id INTEGER PRIMARY KEY, v, extra)",
        there: "CREATE TABLE more_here(id INTEGER PRIMARY KEY, v)",
        migration: "SELECT 1",
        rows: "INSERT INTO more_here(id, v) VALUES",
    },
    Differs {
        name: "more_there",
        here: "CREATE TABLE more_there(id INTEGER PRIMARY KEY, v)",
        there: "CREATE TABLE more_there(id INTEGER PRIMARY KEY, v, extra)",
        migration: "ALTER TABLE more_there ADD COLUMN extra",
        rows: "INSERT INTO more_there(id, v) VALUES",
    },
    Differs {
        name: "only_there",
        here: "",
        there: "CREATE TABLE only_there(id INTEGER PRIMARY KEY, v)",
        migration: "CREATE TABLE only_there(id INTEGER PRIMARY KEY, v)",
        rows: "INSERT INTO only_there(id, v) VALUES",
    },
    Differs {
        name: "renamed",
        here: "CREATE TABLE renamed(id INTEGER PRIMARY KEY, value)",
        there: "CREATE TABLE renamed(id INTEGER PRIMARY KEY, v)",
        migration: "ALTER TABLE renamed RENAME COLUMN value TO v",
        rows: "INSERT INTO renamed VALUES",
    },
    Differs {
        name: "other_key",
        here: "CREATE TABLE other_key(id INTEGER, v PRIMARY KEY)",
        there: "CREATE TABLE other_key(id INTEGER PRIMARY KEY, v)",
        migration: "ALTER TABLE other_key RENAME TO old; CREATE TABLE other_key(id INTEGER PRIMARY KEY, v); \
            INSERT INTO other_key SELECT id, v FROM old; DROP TABLE old",
        rows: "INSERT INTO other_key(id, v) VALUES",
    },
    Differs {
        name: "other_order",
        here: "CREATE TABLE other_order(v, id INTEGER PRIMARY KEY)",
        there: "CREATE TABLE other_order(id INTEGER PRIMARY KEY, v)",
        migration: "SELECT 1",
        rows: "INSERT INTO other_order(id, v) VALUES",
    },
    Differs {
        name: "other_type",
        here: "CREATE TABLE other_type(id TEXT PRIMARY KEY, v)",
        there: "CREATE TABLE other_type(id INTEGER PRIMARY KEY, v)",
        migration: "SELECT 1",
        rows: "INSERT INTO other_type(id, v) VALUES",
    },
];

const ONLY_HERE: &str = "CREATE TABLE only_here(id INTEGER PRIMARY KEY, v)";
const SAME: &str = "CREATE TABLE same(id INTEGER PRIMARY KEY, v)";

/// A pair, the second of which has another schema. Both have rows of their own in all tables.
fn pair_that_differs(dir: &Dir, nats: &Nats, config: &str, differs: &[&Differs]) -> (Node, Node, u16) {
    let port = free_port();
    let health = format!("health_check.enable = true\nhealth_check.bind = \"127.0.0.1:{port}\"\n");
    let schema = |id: u64| {
        let mut text = format!("{SAME}; INSERT INTO same VALUES({id}, 'of {id}'), (100, 'both {id}')");
        if id == 2 {
            text += &format!("; {ONLY_HERE}; INSERT INTO only_here VALUES(2, 'of 2')");
        }
        for table in differs {
            let definition = if id == 1 { table.there } else { table.here };
            if !definition.is_empty() {
                text += &format!("; {definition}; {}({id}, 'of {id}')", table.rows);
            }
        }
        text
    };
    let mut one = node_of(dir, 1, nats, config, &schema(1));
    let two = node_of(dir, 2, nats, &format!("{config}{health}"), &schema(2));
    one.start_ready();
    (one, two, port)
}

fn node_of(dir: &Dir, id: u64, nats: &Nats, config: &str, schema: &str) -> Node {
    Node::with_schema(dir, id, &nats.url(), &format!("snapshot.leader_ttl = 1000\n{config}"), schema)
}

fn has(node: &Node, table: &str, count: i64) -> Option<()> {
    (value(node, &format!("SELECT count(*) FROM {table}")) == format!("Integer({count})")).then_some(())
}

/// Tables that both have are joined at once; each of the others when it has become the same.
fn joins_table_by_table(config: &str, differs: &[&Differs]) {
    let dir = Dir::new("join-differs");
    let nats = Nats::start(&dir);
    let (one, mut two, port) = pair_that_differs(&dir, &nats, config, differs);
    for after in [100, 250, 400] {
        two.start();
        pause(after);
        two.kill9();
    }
    two.start();
    for node in [&one, &two] {
        wait_for("the table that is the same is whole", 30, || has(node, "same", 3));
    }
    one.sql("INSERT INTO same VALUES(11, 'later')");
    two.sql("INSERT INTO same VALUES(12, 'later')");
    for node in [&one, &two] {
        wait_for("rows cross", 20, || has(node, "same", 5));
    }
    // All of the cluster's columns are here; the other way round rows wait.
    assert_eq!(has(&two, "more_here", 2), Some(()), "{}", two.log());
    assert_eq!(has(&one, "more_here", 1), Some(()), "{}", one.log());
    one.sql("ALTER TABLE more_here ADD COLUMN extra");
    let waits: Vec<&&Differs> =
        differs.iter().filter(|table| !table.migration.starts_with("SELECT")).collect();
    for table in &waits {
        let is_said = || {
            let text = health(port).1["problems"].to_string();
            text.contains(table.name) && text.contains("run the same migrations on all nodes")
        };
        wait_for("it is said", 10, || is_said().then_some(()));
        // Its snapshot would take the place of one that has the rows.
        let saved = two.command(&["-save-snapshot"]);
        assert_eq!(saved.status.code(), Some(75), "{}", printed(&saved));
        assert!(printed(&saved).contains("is not yet as the cluster has it"), "{}", printed(&saved));
        two.sql(table.migration);
        if config.is_empty() {
            // In the middle of it, or before.
            two.kill9();
            two.start();
        }
        wait_for("it joins", 60, || has(&two, table.name, if table.here.is_empty() { 1 } else { 2 }));
        wait_for("it is no longer said", 60, || (!is_said()).then_some(()));
        if !config.is_empty() {
            two.stop();
            two.start();
        }
    }
    one.sql("INSERT INTO same VALUES(13, 'last')");
    wait_for("the last row", 20, || has(&two, "same", 6));
    for table in differs {
        let rows = if table.here.is_empty() { 1 } else { 2 };
        let rows_of =
            format!("SELECT group_concat(id || v) FROM (SELECT id, v FROM {} ORDER BY id)", table.name);
        wait_for("both are equal", 30, || (value(&one, &rows_of) == value(&two, &rows_of)).then_some(()));
        assert_eq!(has(&one, table.name, rows), Some(()), "{} {}", table.name, two.log());
    }
    let waits = || health(port).1["problems"].to_string().contains("is not yet as the cluster has it");
    wait_for("nothing waits", 30, || (!waits()).then_some(()));
    // What only the joining node has waits on the other one.
    one.sql(ONLY_HERE);
    wait_for("its rows arrive", 30, || has(&one, "only_here", 1));
}

/// A database that has nothing in common with the cluster's may be another application's.
#[test]
fn a_database_of_another_application_stays_outside() {
    let dir = Dir::new("join-stranger");
    let nats = Nats::start(&dir);
    let mut one = node_of(&dir, 1, &nats, "", "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    one.start_ready();
    let rows = "CREATE TABLE u(id INTEGER PRIMARY KEY, v); INSERT INTO u VALUES(1, 'mine')";
    let mut two = node_of(&dir, 2, &nats, "", rows);
    two.start();
    wait_for("it says why", 20, || (two.count("is not this database's") == 1).then_some(()));
    pause(2_000);
    assert_eq!(two.unsettled(), 0, "its rows are its own");
    assert_eq!(one.count("there is no table u"), 0, "{}", one.log());
    two.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(2, 'ours')");
    wait_for("it joins", 60, || has(&one, "t", 1));
}

#[test]
fn a_database_of_another_schema_joins_table_by_table() {
    for config in ["schema = \"own\"\n", ""] {
        joins_table_by_table(config, &DIFFERS.iter().collect::<Vec<_>>());
    }
}
