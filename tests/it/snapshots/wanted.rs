//! Requests for a snapshot, by anybody who may write the key.

use crate::support::*;
use serde_json::json;

fn ask(nats: &Nats, node: u64, position: u64, minute: usize) {
    let request = json!({
        "node_id": node, "positions": { "harmonylite-changes-c-1": position, "elsewhere": 5 }, "instead_of": "", "minute": minute,
    });
    let bucket = nats.client().key_value("e-harmonylite").unwrap();
    bucket.put("snapshot-wanted", request.to_string()).unwrap();
}

#[test]
fn a_request_that_no_snapshot_can_serve_makes_none() {
    let dir = Dir::new("wanted");
    let nats = Nats::start(&dir);
    let (_, config) = stores::file_store(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    let mut node = Node::with_schema(&dir, 1, &nats.url(), &config, schema);
    node.start_ready();
    wait_for("the first snapshot", 20, || (node.count("stored snapshot") == 1).then_some(()));
    for minute in 0..16 {
        ask(&nats, minute as u64, 1 << 63, minute);
        pause(1_000);
    }
    assert_eq!(node.count("stored snapshot"), 1, "uploads that serve nobody");
    // One that can be served still is.
    node.sql("INSERT INTO t VALUES(1, 'x')");
    wait_for("the row is published", 10, || (node.unsettled() == 0).then_some(()));
    ask(&nats, 9, 1, 99);
    wait_for("the snapshot that was asked for", 20, || {
        (node.count("stored snapshot snapshot.db (node 9 asked for one)") == 1).then_some(())
    });
    assert_eq!(node.stop(), 0);
}
