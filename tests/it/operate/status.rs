//! `-status`: this node and the others, with a daemon and without one.

use crate::support::*;
use serde_json::Value;

pub const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)";

/// The status document, and the exit code.
pub fn status(node: &Node) -> (Option<i32>, Value) {
    let output = node.command(&["-status", "-json"]);
    (output.status.code(), json(&output))
}

/// What a node says of the only other one.
fn other(node: &Node) -> Value {
    status(node).1["nodes"][0].clone()
}

fn pair(dir: &Dir, nats: &Nats, extra: &str) -> [Node; 2] {
    let mut nodes = [1, 2].map(|id| Node::with_schema(dir, id, &nats.url(), extra, SCHEMA));
    nodes.iter_mut().for_each(Node::start_ready);
    nodes
}

#[test]
fn nodes_are_alive_behind_silent_and_stopped() {
    let dir = Dir::new("status");
    let nats = Nats::start(&dir);
    let [mut one, mut two] = pair(&dir, &nats, "");
    one.sql("INSERT INTO t VALUES(1, 'x')");
    wait_for("node 2 is level", 20, || {
        let (code, document) = status(&one);
        let level = document["nodes"][0]["behind"]["messages"] == 0
            && document["streams"][0]["end"].as_u64() > Some(0);
        let confirmed = document["waiting"]["not_confirmed"] == 0;
        (code == Some(0) && level && confirmed && document["nodes"][0]["presence"] == "alive").then_some(())
    });
    let (_, document) = status(&one);
    assert_eq!(document["nodes"][0]["node_id"], 2);
    assert_eq!(document["nodes"][0]["version"], env!("CARGO_PKG_VERSION"));
    assert!(document["traffic"]["sent"].as_u64() > Some(100), "{document}");
    let text = printed(&one.command(&["-status"]));
    assert!(text.contains("healthy") && text.contains("alive"), "{text}");
    // A node that is stopped in its tracks is behind by what was written since, and does not answer.
    two.signal("STOP");
    one.sql("INSERT INTO t VALUES(2, 'y')");
    wait_for("node 2 is silent and behind", 10, || {
        let other = other(&one);
        (other["presence"] == "silent" && other["behind"]["messages"] == 1).then_some(())
    });
    two.signal("CONT");
    wait_for("node 2 is back and level", 10, || {
        let other = other(&one);
        (other["presence"] == "alive" && other["behind"]["messages"] == 0).then_some(())
    });
    assert_eq!(two.stop(), 0);
    assert_eq!(other(&one)["presence"], "stopped");
    two.start_ready();
    wait_for("node 2 is heard again", 10, || (other(&one)["presence"] == "alive").then_some(()));
    two.kill9();
    wait_for("node 2 is silent", 10, || (other(&one)["presence"] == "silent").then_some(()));
    assert_eq!(one.stop(), 0);
}

#[test]
fn without_a_daemon_the_files_tell() {
    let dir = Dir::new("status-files");
    let nats = Nats::start(&dir);
    let mut node = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    let (code, document) = status(&node);
    assert_eq!((code, document["node"]["joined"].as_bool()), (Some(75), Some(false)));
    node.start_ready();
    let socket = node.dir.join("seq-map.cbor.sock");
    assert!(socket.exists());
    node.sql("INSERT INTO t VALUES(1, 'x')");
    wait_equal(&mut [&mut node], 20);
    assert_eq!(node.stop(), 0);
    assert!(!socket.exists(), "the socket goes with the daemon");
    node.sql("INSERT INTO t VALUES(2, 'y')");
    let (code, document) = status(&node);
    assert_eq!((code, document["daemon"].as_bool()), (Some(75), Some(false)));
    assert!(document["positions"]["harmonylite-changes-c-1"].as_u64() > Some(0), "{document}");
    assert_eq!(document["waiting"]["not_confirmed"], true);
    // A killed daemon leaves its socket, which the next one replaces.
    node.start_ready();
    node.kill9();
    assert!(socket.exists());
    assert_eq!(status(&node).0, Some(75));
    node.start_ready();
    assert_eq!(status(&node).1["daemon"], true);
}

#[test]
fn what_is_wrong_is_named_within_two_seconds() {
    let dir = Dir::new("status-wrong");
    let mut nats = Nats::start(&dir);
    let [one, _two] = pair(&dir, &nats, "");
    wait_for("healthy", 10, || (status(&one).0 == Some(0)).then_some(()));
    nats.kill();
    wait_for("the broker is missed", 2, || {
        let (code, document) = status(&one);
        let named = document["node"]["problems"][0].as_str().is_some_and(|why| why.contains("not connected"));
        (code == Some(1) && named && document["nodes"][0]["presence"] == "unknown").then_some(())
    });
    nats.restart();
    wait_for("the broker is back", 15, || (status(&one).0 == Some(0)).then_some(()));
}
