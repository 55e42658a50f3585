//! Streams that are lost while nodes live: the nodes go on publishing into the new ones, without a restart.

use crate::support::*;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE own(k TEXT PRIMARY KEY, v)";

/// Messages that the streams keep. A node may publish a sixteenth of them ahead of what it has read back.
const KEPT: u64 = 512;

/// Rows that each node publishes before the loss: several times what it may publish ahead.
const BEFORE: u64 = KEPT / 16 * 5;

/// Two nodes that have each published more than they may publish ahead, and have read everything back.
fn two_that_published_much(dir: &Dir, nats: &Nats) -> (Node, Node) {
    let make = |id: u64| {
        let node = Node::with_schema(dir, id, &nats.url(), "", SCHEMA);
        node.keep_messages(KEPT);
        node
    };
    let (mut one, mut two) = (make(1), make(2));
    one.start_ready();
    two.start_ready();
    for (node, first) in [(&one, 1), (&two, 10_001)] {
        let last = first + BEFORE - 1;
        node.sql(&format!(
            "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last}) \
             INSERT INTO t SELECT i, 'before' FROM n"
        ));
    }
    let text = wait_equal(&mut [&mut one, &mut two], 30);
    assert!(
        text.contains(&format!("== t ({} rows)", 2 * BEFORE)),
        "not all rows arrived before the loss: {text}"
    );
    (one, two)
}

/// Both nodes notice that the stream is another one, and write; the rows of each arrive on the other.
fn both_still_publish(one: &mut Node, two: &mut Node) {
    for node in [&mut *one, &mut *two] {
        // Only from here on is the allowance counted in the new stream.
        wait_for("the node notices that the stream was created anew", 40, || {
            node.assert_alive();
            (node.count("was created anew") > 0).then_some(())
        });
    }
    one.sql("INSERT INTO own VALUES('of the first node, after the loss', 1)");
    two.sql("INSERT INTO own VALUES('of the second node, after the loss', 2)");
    for node in [&mut *one, &mut *two] {
        wait_for("the rows of both nodes are on both after the loss", 30, || {
            node.assert_alive();
            (value(node, "SELECT count(*) FROM own") == "Integer(2)").then_some(())
        });
    }
    // More rows than a node may publish ahead.
    one.sql("UPDATE t SET v = 'after' WHERE id < 10000");
    wait_equal(&mut [one, two], 30);
}

/// The broker's disk is lost: it comes back on the same port and knows nothing.
#[test]
fn nodes_publish_on_after_the_broker_lost_its_data() {
    let dir = Dir::new("broker-lost");
    let mut nats = Nats::start(&dir);
    let (mut one, mut two) = two_that_published_much(&dir, &nats);
    nats.kill();
    nats.wipe();
    nats.restart();
    both_still_publish(&mut one, &mut two);
}

/// A person deletes the stream while the nodes are connected; one of them makes it anew.
#[test]
fn nodes_publish_on_after_their_stream_was_deleted() {
    let dir = Dir::new("stream-deleted");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = two_that_published_much(&dir, &nats);
    assert!(nats.client().delete_stream("harmonylite-changes-c-1").unwrap(), "the stream was not deleted");
    both_still_publish(&mut one, &mut two);
}
