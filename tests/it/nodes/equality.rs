//! `-verify` and `-repair` on running nodes whose applications write.

use crate::support::*;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, n INTEGER); \
     CREATE TABLE words(w TEXT PRIMARY KEY, u INTEGER UNIQUE); CREATE TABLE pair(a, b, v, PRIMARY KEY(a, b)) WITHOUT ROWID";

/// Changes rows as nobody should: no trigger notes it.
fn behind_our_back(node: &Node, sql: &str) {
    let connection = node.open();
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    connection.execute_batch(sql).unwrap();
}

fn verify(node: &Node, more: &[&str]) -> (i32, Value) {
    let output = node.command(&[&["-verify", "-json"], more].concat());
    (output.status.code().unwrap(), json(&output))
}

fn repair(node: &Node, more: &[&str]) -> (i32, Value) {
    let output = node.command(&[&["-repair", "-json"], more].concat());
    (output.status.code().unwrap(), json(&output))
}

fn nodes<const N: usize>(dir: &Dir, nats: &Nats, extra: &str, schema: &str) -> [Node; N] {
    let mut id = 0;
    [(); N].map(|()| {
        id += 1;
        let extra = format!("snapshot.leader_ttl = 1000\n{extra}");
        let mut node = Node::with_schema(dir, id, &nats.url(), &extra, schema);
        node.start_ready();
        node
    })
}

/// Waits until all nodes hold the same.
fn rest<const N: usize>(nodes: &mut [Node; N]) {
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 60);
}

fn fill(node: &Node, rows: u32) {
    node.sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
         INSERT INTO t SELECT i, 'value ' || i, i % 7 FROM n; \
         INSERT INTO words SELECT 'steady' || id, 10000 + id FROM t WHERE id <= 500; INSERT INTO pair SELECT n, id, v FROM t WHERE id <= 500;"
    ));
}

/// The differences of a report: table, key, and the nodes by what they show.
fn differences(report: &Value) -> Vec<Value> {
    let tables = report["tables"].as_array().unwrap().iter();
    let rows = tables.flat_map(|table| {
        let rows = table["differences"].as_array().unwrap().iter();
        rows.map(|row| json!([table["name"], row["key"], row["states"]]))
    });
    rows.collect()
}

/// Writes on all nodes until told to stop: updates, inserts, deletes, and rows that displace each other.
fn writing<R>(nodes: &[&Node], body: impl FnOnce() -> R) -> R {
    let on = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for (node, number) in nodes.iter().zip(1i64..) {
            let (connection, on) = (node.open(), &on);
            scope.spawn(move || {
                for n in 0i64.. {
                    if !on.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = 1 + n * 7919 % 1_000;
                    connection.execute("UPDATE t SET v = ?1, n = n + 1 WHERE id = ?2", (n, key)).unwrap();
                    connection
                        .execute("INSERT INTO t VALUES(?1, 'new', 0)", [1_000_000 * number + n])
                        .unwrap();
                    connection.execute("UPDATE t SET n = 1 - n WHERE id = 1", []).unwrap();
                    connection
                        .execute("INSERT OR REPLACE INTO words VALUES(?1, ?2)", (format!("w{key}"), n % 300))
                        .unwrap();
                    connection.execute("DELETE FROM pair WHERE b = ?1", [n % 300]).unwrap();
                    connection
                        .execute("INSERT OR IGNORE INTO pair VALUES(?1, ?2, ?3)", (number, n % 300, n))
                        .unwrap();
                    pause(4);
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        on.store(false, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn writing_nodes_are_equal_and_one_changed_row_is_named_and_repaired() {
    let dir = Dir::new("equality");
    let nats = Nats::start(&dir);
    let mut nodes = nodes::<3>(&dir, &nats, "", SCHEMA);
    fill(&nodes[0], 20_000);
    rest(&mut nodes);
    let [one, two, three] = &nodes;
    writing(&[one, two, three], || {
        for _ in 0..6 {
            let (code, report) = verify(two, &[]);
            assert_eq!(
                (code, &report["equal"], &report["nodes"]),
                (0, &json!(true), &json!([1, 2, 3])),
                "{report}"
            );
            assert!(report["tables"][1]["rows"].as_u64().unwrap() >= 20_000, "{report}");
        }
        // One row of another value, one of another class, one missing, one too many.
        behind_our_back(
            three,
            "UPDATE t SET v = 'odd' WHERE id = 15000; DELETE FROM t WHERE id = 15001; INSERT INTO t VALUES(-5, 'x', 0); \
             UPDATE words SET u = 10450.5 WHERE w = 'steady450'; UPDATE pair SET v = 'odd' WHERE b = 400",
        );
        let (code, report) = verify(one, &[]);
        assert_eq!((code, &report["equal"]), (1, &json!(false)), "{report}");
        let two_and_one = json!([{ "there": true, "nodes": [1, 2] }, { "there": true, "nodes": [3] }]);
        let expected = [
            json!(["pair", [400 % 7, 400], two_and_one]),
            json!(["t", [-5], [{ "there": false, "nodes": [1, 2] }, { "there": true, "nodes": [3] }]]),
            json!(["t", [15_000], two_and_one]),
            json!(["t", [15_001], [{ "there": true, "nodes": [1, 2] }, { "there": false, "nodes": [3] }]]),
            json!(["words", ["steady450"], two_and_one]),
        ];
        let mut found = differences(&report);
        found.sort_by_key(Value::to_string);
        let mut expected = expected.to_vec();
        expected.sort_by_key(Value::to_string);
        assert_eq!(found, expected);
        let (code, done) = repair(two, &["-from", "majority", "-dry-run"]);
        assert_eq!((code, done["rows"].as_array().unwrap().len()), (0, 5), "{done}");
        assert_eq!(differences(&verify(one, &["-table", "t"]).1).len(), 3, "nothing was changed");
        let (code, done) = repair(two, &["-from", "majority"]);
        let rows = done["rows"].as_array().unwrap();
        assert_eq!((code, rows.len()), (0, 5), "{done}");
        assert!(rows.iter().all(|row| row["repaired"] == true), "{done}");
        let (code, report) = verify(three, &[]);
        assert_eq!((code, &report["equal"]), (0, &json!(true)), "{report}");
    });
    rest(&mut nodes);
    assert_eq!(
        value(&nodes[2], "SELECT v FROM t WHERE id = 15000"),
        value(&nodes[0], "SELECT v FROM t WHERE id = 15000")
    );
    assert_eq!(value(&nodes[2], "SELECT count(*) FROM t WHERE id = -5"), "Integer(0)");
}

#[test]
fn columns_dead_nodes_and_nodes_that_cannot_be_compared_are_named() {
    let dir = Dir::new("equality-names");
    let nats = Nats::start(&dir);
    let mut nodes = nodes::<3>(
        &dir,
        &nats,
        "schema = \"own\"\n",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE TABLE o(id INTEGER PRIMARY KEY)",
    );
    nodes[2].sql("INSERT INTO t VALUES(1, 'a')");
    rest(&mut nodes);
    nodes[0].sql("ALTER TABLE t ADD COLUMN w");
    let (code, report) = verify(&nodes[0], &[]);
    let definitions = &report["tables"][1]["definitions"];
    assert_eq!((code, &report["tables"][0]["definitions"]), (1, &json!([])), "{report}");
    assert_eq!(
        (&definitions[0]["nodes"], &definitions[1]["nodes"]),
        (&json!([1]), &json!([2, 3])),
        "{report}"
    );
    assert_eq!(definitions[1]["definition"], "id INTEGER key 1 BINARY, v TEXT");
    nodes[1].sql("ALTER TABLE t ADD COLUMN w");
    nodes[2].kill9();
    let (code, report) = verify(&nodes[0], &[]);
    assert_eq!((code, &report["nodes"], &report["silent"]), (0, &json!([1, 2]), &json!([3])), "{report}");
    // It captures and does not follow, so it has none of the others' rows.
    let mut source = Node::with_schema(
        &dir,
        4,
        &nats.url(),
        "replicate = false\n",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, w)",
    );
    source.start();
    wait_for("node 4 answers", 30, || {
        let (code, report) = verify(&nodes[0], &[]);
        assert_eq!((code, &report["nodes"]), (0, &json!([1, 2])), "{report}");
        let out = &report["not_compared"][0];
        (out["node"] == 4 && out["why"].as_str().unwrap().contains("replicate = false")).then_some(())
    });
    let output = nodes[0].command(&["-verify", "-table", "none"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("no node replicates a table none"), "{}", printed(&output));
    source.kill9();
    nodes.iter_mut().for_each(Node::kill9);
    let output = nodes[0].command(&["-verify"]);
    assert_eq!(output.status.code(), Some(75), "{}", printed(&output));
    assert!(printed(&output).contains("no running daemon answers"), "{}", printed(&output));
}

/// A database that stood in rollback-journal mode, and a node that only reads.
#[test]
fn a_repair_takes_the_side_that_it_is_told() {
    let dir = Dir::new("equality-sides");
    let nats = Nats::start(&dir);
    let schema = "PRAGMA journal_mode=DELETE; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)";
    let mut replica = Node::with_schema(&dir, 3, &nats.url(), "publish = false\n", schema);
    let [mut one, mut two] = nodes::<2>(&dir, &nats, "", schema);
    replica.start_ready();
    one.sql("INSERT INTO t VALUES(1, 'a'), (2, 'b'), (3, 'c')");
    let held = |node: &Node| -> String {
        let sql = "SELECT group_concat(id || v, ',') FROM (SELECT id, v FROM t ORDER BY id)";
        node.open().query_row(sql, [], |row| row.get::<_, Option<String>>(0)).unwrap().unwrap_or_default()
    };
    let arrived = |nodes: [&Node; 3], wanted: &str| {
        wait_for(wanted, 30, || nodes.iter().all(|node| held(node) == wanted).then_some(()));
    };
    arrived([&one, &two, &replica], "1a,2b,3c");
    wait_for("a leader", 30, || (one.count("leader") + two.count("leader") > 0).then_some(()));
    // The replica alone is odd, in three ways.
    behind_our_back(
        &replica,
        "UPDATE t SET v = 'x' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES(9, 'z')",
    );
    assert_eq!(differences(&verify(&one, &[]).1).len(), 3);
    let (code, done) = repair(&one, &["-from", "leader"]);
    assert_eq!((code, done["rows"].as_array().unwrap().len()), (0, 3), "{done}");
    arrived([&one, &two, &replica], "1a,2b,3c");
    // The state of one node, which is in the minority.
    behind_our_back(&two, "UPDATE t SET v = 'y' WHERE id = 1; DELETE FROM t WHERE id = 3");
    let (code, done) = repair(&one, &["-from", "2", "-table", "t"]);
    assert_eq!((code, &done["rows"][0]["as_on_node"]), (0, &json!(2)), "{done}");
    arrived([&one, &two, &replica], "1y,2b");
    // One that cannot publish, and three that are all otherwise.
    behind_our_back(&replica, "UPDATE t SET v = 'r' WHERE id = 2");
    let (code, done) = repair(&one, &["-from", "3"]);
    assert_eq!(
        (code, &done["rows"][0]["why_not"]),
        (1, &json!("no node that publishes has it so")),
        "{done}"
    );
    behind_our_back(&two, "UPDATE t SET v = 's' WHERE id = 2");
    let (code, done) = repair(&one, &["-from", "majority"]);
    let why = &done["rows"][0]["why_not"];
    assert_eq!((code, why), (1, &json!("no more than half of the nodes have the same")), "{done}");
    let (code, done) = repair(&two, &["-from", "1"]);
    assert_eq!((code, &done["rows"][0]["repaired"]), (0, &json!(true)), "{done}");
    arrived([&one, &two, &replica], "1y,2b");
    let output = one.command(&["-repair"]);
    assert_eq!(output.status.code(), Some(2), "{}", printed(&output));
    [&mut one, &mut two, &mut replica].iter_mut().for_each(|node| node.assert_alive());
}

#[test]
fn a_comparison_that_is_due_feeds_health_and_metrics_of_all_nodes() {
    let dir = Dir::new("equality-due");
    let nats = Nats::start(&dir);
    let ports = [(); 4].map(|()| free_port());
    let mut nodes = [1, 2].map(|id: usize| {
        let extra = format!(
            "compare_interval = 500\nhealth_check.enable = true\nhealth_check.bind = \"127.0.0.1:{}\"\n\
             prometheus.enable = true\nprometheus.bind = \"127.0.0.1:{}\"\n",
            ports[id - 1],
            ports[id + 1]
        );
        let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)";
        let mut node = Node::with_schema(&dir, id as u64, &nats.url(), &extra, schema);
        node.start_ready();
        node
    });
    nodes[0].sql("INSERT INTO t VALUES(1, 'a')");
    rest(&mut nodes);
    let shows = |port: usize, differences: u64| {
        let (_, health) = health(ports[port]);
        let metrics = http_get(ports[port + 2], "/metrics").map(|(_, body)| body).unwrap_or_default();
        let problem = health["problems"].to_string().contains("not equal");
        let compared =
            health["last_compare_timestamp"].as_str().is_some_and(|time| !time.starts_with("0001"));
        compared
            && health["last_compare_differences"] == differences
            && problem == (differences > 0)
            && metrics.lines().any(|line| {
                line.starts_with("harmonylite_compare_differences{")
                    && line.ends_with(&format!(" {differences}"))
            })
    };
    let all_show = |differences| {
        wait_for("health and metrics", 30, || (shows(0, differences) && shows(1, differences)).then_some(()));
    };
    all_show(0);
    behind_our_back(&nodes[1], "UPDATE t SET v = 'x'");
    all_show(1);
    assert_eq!(repair(&nodes[1], &["-from", "1"]).0, 0);
    all_show(0);
    assert!(
        nodes[0].count("1 rows differ") > 0 && nodes[1].count("1 rows differ") == 0,
        "one of them compares"
    );
}

/// Whoever reaches the broker may say anything there.
#[test]
fn strangers_who_answer_or_ask_nonsense_do_no_harm() {
    let dir = Dir::new("equality-strangers");
    let nats = Nats::start(&dir);
    let mut nodes = nodes::<2>(&dir, &nats, "", "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)");
    nodes[0].sql("INSERT INTO t VALUES(1, 'a')");
    rest(&mut nodes);
    let stranger = ::nats::connect(nats.url()).unwrap();
    let all = "harmonylite-changes.compare.all";
    let asked = stranger.subscribe(all).unwrap();
    for question in [&b""[..], b"\x01", b"\x01\x00\x00", b"\x01\x02\xff\xff\xff\xff", &[1; 300_000]] {
        stranger.publish_request(all, "answers", question).unwrap();
    }
    // It answers as a node that then says nothing more.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let Ok(question) = asked.next_timeout(std::time::Duration::from_millis(50)) else { continue };
                if question.reply.as_deref().is_some_and(|reply| reply.starts_with("_INBOX")) {
                    let mut hello = vec![1, 0];
                    hello.extend(99u64.to_be_bytes());
                    hello.extend(b"\0\0\0\x07nowhere\x01\0\0\0\0\0\0\0\0\0");
                    question.respond(&hello).unwrap();
                    question.respond(vec![1; 200_000]).unwrap();
                }
            }
        });
        let (code, report) = verify(&nodes[0], &[]);
        stop.store(true, Ordering::Relaxed);
        assert_eq!((code, &report["nodes"]), (0, &json!([1, 2])), "{report}");
        assert_eq!(report["not_compared"][0]["node"], 99, "{report}");
    });
    nodes.iter_mut().for_each(Node::assert_alive);
}
