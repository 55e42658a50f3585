//! What snapshots cost beside the changes, and how far the streams reach back, when nobody has said anything about either.

use crate::support::proxy::Slow;
use crate::support::*;
use harmonylite::testing::nats::{Auth, JetStream};
use std::time::Duration;

const STREAM: &str = "harmonylite-changes-c-1";
const MIB: u64 = 1 << 20;

fn settle(node: &Node) {
    wait_for("all came back", 60, || (node.unsettled() == 0).then_some(()));
}

/// Bytes of the snapshots that the node has stored for a reason.
fn stored_bytes(node: &Node, reason: &str) -> u64 {
    let log = node.log();
    let stored =
        log.lines().filter(|line| line.contains(&format!("stored snapshot snapshot.db ({reason}): ")));
    stored
        .map(|line| line.split("): ").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// First sequence, messages and bytes of the stream, and how many bytes it may hold.
fn stream(nats: &Nats) -> (u64, u64, u64, u64) {
    let connection = connect_with(&nats.url(), Auth::default());
    connection.wait_up(Duration::from_secs(10)).unwrap();
    let info = JetStream::new(connection).stream(STREAM).unwrap().unwrap();
    let most = info.config["max_bytes"].as_u64().unwrap();
    (info.state.first_seq, info.state.messages, info.state.bytes, most)
}

#[test]
fn snapshots_for_the_streams_advance_send_no_more_than_the_changes() {
    let dir = Dir::new("cost");
    let nats = Nats::start(&dir);
    let schema =
        "CREATE TABLE large(id INTEGER PRIMARY KEY, v); CREATE TABLE small(id INTEGER PRIMARY KEY, v)";
    let mut node = Node::with_schema(&dir, 1, &nats.url(), "snapshot.leader_ttl = 1000\n", schema);
    let rows = "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 80)";
    node.sql(&format!("{rows} INSERT INTO large SELECT i, randomblob(100000) FROM i"));
    node.start_ready();
    wait_for("the first snapshot", 30, || (node.count("(there was none)") == 1).then_some(()));
    let app = node.open();
    for id in 0..2_000 {
        app.execute(
            "INSERT INTO small VALUES(?1, 'a row as applications write them, one in a transaction')",
            [id],
        )
        .unwrap();
    }
    settle(&node);
    pause(1_500);
    assert_eq!(node.count("(the stream advanced)"), 0, "{}", node.log());
    // 32 MiB, half of what the stream keeps, are passed once.
    for _ in 0..5 {
        node.sql("UPDATE large SET v = randomblob(100000)");
        settle(&node);
    }
    wait_for("a snapshot", 30, || (node.count("(the stream advanced)") == 1).then_some(()));
    pause(1_500);
    let (first, _, bytes, most) = stream(&nats);
    assert_eq!((first, most), (1, 64 * MIB));
    let sent = stored_bytes(&node, "the stream advanced");
    assert!(sent > 8_000_000 && sent < bytes, "{sent} bytes of snapshots, {bytes} of changes");

    // A transaction larger than what the stream kept, and its end: everything is still there.
    node.sql(&format!("{rows} INSERT INTO large SELECT 1000 + i, randomblob(700000) FROM i"));
    node.sql("DELETE FROM large");
    settle(&node);
    node.sql(&format!("{rows} INSERT INTO large SELECT 1000 + i, randomblob(700000) FROM i"));
    settle(&node);
    let (first, messages, bytes, most) = stream(&nats);
    assert!(most >= 2 * std::fs::metadata(&node.database).unwrap().len(), "{most}");
    assert!(first == 1 && bytes > 64 * MIB, "{first}, {messages} messages, {bytes} bytes, {most} at most");
    assert!(node.count("are kept from now on") >= 1, "{}", node.log());
}

/// A server with little room gets a short stream, and says so.
#[test]
fn a_server_without_room_for_it_gets_a_shorter_stream() {
    let dir = Dir::new("cost-room");
    let extra = format!("jetstream {{ store_dir: \"{}/js\", max_file_store: 40MB }}", dir.0.display());
    let small = Nats::with(&dir, &nats_binaries()[0], &extra);
    let mut node =
        Node::with_schema(&dir, 1, &small.url(), "snapshot.enabled = false\n", "CREATE TABLE t(a)");
    node.start_ready();
    assert_eq!(node.count("no room for 64 MiB"), 1, "{}", node.log());
    assert_eq!(stream(&small).3, 32 * MIB);
}

/// A line of 40 kB/s: a chunk of the snapshot takes three seconds, and what waits before it more.
#[test]
fn a_thin_uplink_brings_a_snapshot_once() {
    let dir = Dir::new("cost-thin");
    let nats = Nats::start(&dir);
    let thin = Slow::before(nats.port, 40_000);
    let url = format!("nats://127.0.0.1:{}", thin.port());
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    let mut node = Node::with_schema(&dir, 1, &url, "snapshot.leader_ttl = 12000\n", schema);
    node.sql("WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 60) INSERT INTO t SELECT i, randomblob(10000) FROM i");
    node.start();
    wait_for("a snapshot", 100, || (node.count("(there was none)") == 1).then_some(()));
    assert_eq!(node.count("this node is the leader"), 1, "{}", node.log());
    assert_eq!(node.count("WARN"), 0, "{}", node.log());
    let store = JetStream::new(connect_with(&nats.url(), Auth::default()));
    store.connection().wait_up(Duration::from_secs(10)).unwrap();
    let bucket = store.stream("OBJ_harmonylite-changes-snapshot-store").unwrap().unwrap();
    assert!(bucket.state.bytes < 800_000, "{} bytes were kept of 600,000", bucket.state.bytes);
}
