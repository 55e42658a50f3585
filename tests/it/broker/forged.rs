//! Deliveries that no stream sent, forged by somebody between the broker and a node.

use super::hostile::server;
use crate::support::*;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

/// What a node's connection shows to whoever forwards it: where its last pull wants the messages.
#[derive(Default)]
struct Seen {
    /// To the node.
    client: Option<TcpStream>,
    /// The consumer's inbox with the number of its subscription.
    inbox: Option<(String, String)>,
    /// Stream and consumer, as they stand in a delivery.
    from: String,
    subscriptions: Vec<(String, String)>,
}

/// Forwards a connection and notes pulls.
fn forward(client: TcpStream, port: u16, seen: &Mutex<Seen>) {
    let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (mut back, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut back, &mut to_client));
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut line = vec![];
    while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut seen = seen.lock().unwrap();
        match words.as_slice() {
            ["SUB", subject, sid] => seen.subscriptions.push(((*subject).to_owned(), (*sid).to_owned())),
            ["PUB", subject, inbox, _] if subject.starts_with("$JS.API.CONSUMER.MSG.NEXT.harmonylite-") => {
                seen.client = client.try_clone().ok();
                seen.inbox = seen.subscriptions.iter().find(|(known, _)| known == inbox).cloned();
                seen.from = subject.replacen("$JS.API.CONSUMER.MSG.NEXT.", "", 1);
            }
            _ => {}
        }
        drop(seen);
        if server.write_all(&line).is_err() {
            return;
        }
        line.clear();
    }
}

#[test]
fn a_delivery_beyond_the_end_of_its_stream_is_refused() {
    let dir = Dir::new("forged");
    let nats = Nats::start(&dir);
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let url = {
        let (seen, port) = (seen.clone(), nats.port);
        server(move |_, stream| forward(stream, port, &seen))
    };
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    let mut honest = Node::with_schema(&dir, 1, &nats.url(), "snapshot.enabled = false", schema);
    let mut node = Node::with_schema(&dir, 2, &url, "snapshot.enabled = false", schema);
    honest.start_ready();
    node.start_ready();
    honest.sql("INSERT INTO t VALUES(1, 'one')");
    wait_equal(&mut [&mut honest, &mut node], 20);
    // The connection is silent now: whole messages can be put into it.
    pause(1_000);
    {
        let seen = seen.lock().unwrap();
        let (inbox, sid) = seen.inbox.as_ref().unwrap();
        let reply = format!("$JS.ACK.{}.1.9000000000000000000.2.1700000000000000000.0", seen.from);
        let forged = format!("MSG {inbox} {sid} {reply} 7\r\ngarbage\r\n");
        seen.client.as_ref().unwrap().write_all(forged.as_bytes()).unwrap();
    }
    pause(1_000);
    honest.sql("INSERT INTO t VALUES(2, 'two')");
    wait_equal(&mut [&mut honest, &mut node], 20);
    pause(500);
    assert_eq!(node.count("this node had applied up to"), 0, "{}", node.log());
    assert_eq!((node.stop(), honest.stop()), (0, 0));
}
