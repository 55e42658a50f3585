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
         INSERT INTO words SELECT 'w' || id, id FROM t WHERE id <= 500; INSERT INTO pair SELECT n, id, v FROM t WHERE id <= 500;"
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
             UPDATE words SET u = 450.5 WHERE w = 'w450'; UPDATE pair SET v = 'odd' WHERE b = 400",
        );
        let (code, report) = verify(one, &[]);
        assert_eq!((code, &report["equal"]), (1, &json!(false)), "{report}");
        let two_and_one = json!([{ "there": true, "nodes": [1, 2] }, { "there": true, "nodes": [3] }]);
        let expected = [
            json!(["pair", [400 % 7, 400], two_and_one]),
            json!(["t", [-5], [{ "there": false, "nodes": [1, 2] }, { "there": true, "nodes": [3] }]]),
            json!(["t", [15_000], two_and_one]),
            json!(["t", [15_001], [{ "there": true, "nodes": [1, 2] }, { "there": false, "nodes": [3] }]]),
            json!(["words", ["w450"], two_and_one]),
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
