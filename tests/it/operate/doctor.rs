//! `-doctor`: each thing that is wrong is named, and the exit code tells how bad it is.

use super::status::SCHEMA;
use crate::support::*;
use serde_json::Value;

/// The exit code, and all findings of one level.
fn doctor(node: &Node) -> (Option<i32>, Value) {
    let output = node.command(&["-doctor", "-json"]);
    (output.status.code(), json(&output))
}

/// Whether something is said of a thing at a level.
fn says(report: &Value, level: &str, what: &str, text: &str) -> bool {
    report["findings"].as_array().unwrap().iter().any(|finding| {
        finding["level"] == level
            && finding["what"] == what
            && finding["text"].as_str().unwrap().contains(text)
    })
}

#[test]
fn all_is_well_with_and_without_a_daemon() {
    let dir = Dir::new("doctor");
    let nats = Nats::start(&dir);
    let mut node = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    node.sql("PRAGMA journal_mode=WAL");
    let before = std::fs::read(&node.database).unwrap();
    let (code, report) = doctor(&node);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(std::fs::read(&node.database).unwrap(), before, "it only looks");
    assert!(says(&report, "good", "store", "written, read, copied, removed; 0 snapshots"), "{report}");
    node.start_ready();
    let (code, report) = doctor(&node);
    assert_eq!(code, Some(0), "{report}");
    assert!(says(&report, "good", "daemon", "one runs on this database, and is healthy"), "{report}");
    // The store's file of the trial is gone, and the snapshot is what it was.
    let listed = node.command(&["-list-snapshots", "-json"]);
    assert!(json(&listed)["snapshots"].as_array().unwrap().len() <= 1, "{}", printed(&listed));
    let text = printed(&node.command(&["-doctor"]));
    assert!(text.contains("0 to look at, 0 broken"), "{text}");
    assert!(printed(&node.command(&["-doctor", "-quiet"])).is_empty());
}

#[test]
fn what_a_person_should_look_at_is_1() {
    let dir = Dir::new("doctor-look");
    let nats = Nats::start(&dir);
    let schema =
        "PRAGMA journal_mode=DELETE; CREATE TABLE t(id INTEGER PRIMARY KEY); CREATE TABLE u(rowid, x)";
    let node = Node::new(&dir, 1, &nats.url(), "");
    rusqlite::Connection::open(&node.database).unwrap().execute_batch(schema).unwrap();
    let (code, report) = doctor(&node);
    assert_eq!(code, Some(1), "{report}");
    assert!(says(&report, "look at this", "journal mode", "switches it to WAL"), "{report}");
    assert!(says(&report, "look at this", "tables", "u is not replicated"), "{report}");
}

#[test]
fn what_is_broken_is_2() {
    let dir = Dir::new("doctor-broken");
    let nats = Nats::with(&dir, &nats_binaries()[0], "");
    let with = |id: u64, url: &str, extra: &str| Node::with_schema(&dir, id, url, extra, SCHEMA);
    let away = with(1, &format!("nats://u:hunter2@127.0.0.1:{}", free_port()), "");
    let (code, report) = doctor(&away);
    assert!(code == Some(2) && says(&report, "broken", "broker", "refused"), "{report}");
    assert!(!report.to_string().contains("hunter2"));
    let store = format!("[snapshot]\nstore = \"file\"\nfile.path = {:?}", dir.0.join("node-1/app.db"));
    let (code, report) = doctor(&with(2, &nats.url(), &store));
    assert!(code == Some(2) && says(&report, "broken", "store", ""), "{report}");
    let text = with(3, &nats.url(), "");
    text.remove_database();
    std::fs::write(&text.database, "this is a text, and longer than a header").unwrap();
    let (code, report) = doctor(&text);
    assert!(code == Some(2) && says(&report, "broken", "database", "no SQLite database"), "{report}");
    let damaged = with(4, &nats.url(), "");
    let rows = "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 2000)";
    damaged.sql(&format!("{rows} INSERT INTO t SELECT i, hex(randomblob(100)) FROM i"));
    damaged.checkpoint();
    spoil(&damaged.database, 4096 * 5, 4096);
    let (code, report) = doctor(&damaged);
    assert!(code == Some(2) && says(&report, "broken", "integrity", ""), "{report}");
    let mistaken = with(5, &nats.url(), "publish = 3");
    let (code, report) = doctor(&mistaken);
    assert!(code == Some(2) && says(&report, "broken", "configuration", "publish = 3"), "{report}");
}

#[test]
fn a_broker_without_jetstream_is_broken() {
    let dir = Dir::new("doctor-jetstream");
    let port = free_port();
    let mut server = std::process::Command::new(&nats_binaries()[0]);
    let _server = Process::start(
        server.args(["-a", "127.0.0.1", "-p", &port.to_string()]).stderr(std::process::Stdio::null()),
    );
    let node = Node::with_schema(&dir, 1, &format!("nats://127.0.0.1:{port}"), "", SCHEMA);
    let (code, report) = doctor(&node);
    assert!(code == Some(2) && says(&report, "broken", "JetStream", "nobody answers"), "{report}");
}
