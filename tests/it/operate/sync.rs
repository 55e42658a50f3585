//! `-sync`, and the ping after a snapshot.

use super::status::SCHEMA;
use crate::support::*;
use std::io::{Read, Write};
use std::net::TcpListener;

#[test]
fn it_waits_until_all_is_in_the_stream_and_on_every_node() {
    let dir = Dir::new("sync");
    let mut nats = Nats::start(&dir);
    let mut nodes = [1, 2].map(|id| Node::with_schema(&dir, id, &nats.url(), "", SCHEMA));
    nodes.iter_mut().for_each(Node::start_ready);
    let [one, two] = &mut nodes;
    one.sql("INSERT INTO t VALUES(1, 'x')");
    let output = one.command(&["-sync"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert_eq!(one.unsettled(), 0);
    wait_for("node 2 is known", 20, || {
        let document = json(&one.command(&["-status", "-json"]));
        (document["nodes"][0]["presence"] == "alive").then_some(())
    });
    one.sql("INSERT INTO t SELECT value, 'y' FROM json_each('[2,3,4,5,6,7,8,9]')");
    let output = one.command(&["-sync", "-everywhere", "-json"]);
    assert_eq!(json(&output)["nodes"], serde_json::json!([1, 2]), "{}", printed(&output));
    assert_eq!(value(two, "SELECT count(*) FROM t"), "Integer(9)", "it is there when the command ends");
    nats.kill();
    one.sql("INSERT INTO t VALUES(10, 'z')");
    let output = one.command(&["-sync", "-timeout", "1"]);
    let text = printed(&output);
    assert!(output.status.code() == Some(75) && text.contains("the broker is away"), "{text}");
    nats.restart();
    let output = one.command(&["-sync", "-everywhere"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert_eq!(value(two, "SELECT count(*) FROM t"), "Integer(10)");
    assert_eq!(one.stop(), 0);
    assert_eq!(one.command(&["-sync"]).status.code(), Some(75), "no daemon runs");
}

/// The first line of each request that comes.
fn listen(listener: TcpListener, status: &'static str) -> std::sync::mpsc::Receiver<String> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(8);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut buffer = [0; 4_096];
            let count = stream.read(&mut buffer).unwrap_or(0);
            let text =
                String::from_utf8_lossy(&buffer[..count]).lines().next().unwrap_or_default().to_owned();
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    receiver
}

#[test]
fn a_stored_snapshot_is_told_to_whoever_counts_them() {
    for (id, status, warns) in [(1, "200 OK", false), (2, "500 No", true)] {
        let dir = Dir::new("ping");
        let nats = Nats::start(&dir);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let extra =
            format!("[snapshot]\nping_url = \"http://{}/secret-token\"", listener.local_addr().unwrap());
        let pings = listen(listener, status);
        let mut node = Node::with_schema(&dir, id, &nats.url(), &extra, SCHEMA);
        node.start_ready();
        // The first snapshot of a cluster is made at once.
        let line = pings.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
        assert_eq!(line, "GET /secret-token HTTP/1.1");
        node.sql("INSERT INTO t VALUES(1, 'x')");
        let output = node.command(&["-save-snapshot"]);
        assert_eq!(output.status.code(), Some(0), "a snapshot is stored, whatever becomes of the ping");
        assert!(pings.recv_timeout(std::time::Duration::from_secs(10)).is_ok());
        let text = printed(&output) + &node.log();
        assert_eq!(text.contains("snapshot.ping_url: http 500"), warns, "{text}");
        assert!(!text.contains("secret-token"), "{text}");
        assert_eq!(node.stop(), 0);
    }
}
