//! Hostile publishers and askers: whatever comes out of the stream or into the health port, the nodes go on, also after a
//! restart, and the application never waits for more than a second.

use crate::support::*;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE own(k TEXT PRIMARY KEY, v)";
const SUBJECT: &str = "harmonylite-change-log-1";

fn head(out: &mut Vec<u8>, major: u8, number: usize) {
    out.push(major << 5 | 26);
    out.extend_from_slice(&u32::try_from(number).unwrap().to_be_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    head(out, 3, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// An insert into `t` as the Go program encodes it, with these columns: names and encoded values.
fn event(columns: impl ExactSizeIterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let mut out = vec![];
    head(&mut out, 5, 2);
    text(&mut out, "FromNodeId");
    out.push(9);
    text(&mut out, "Payload");
    head(&mut out, 5, 4);
    text(&mut out, "Id");
    out.push(1);
    text(&mut out, "Type");
    text(&mut out, "insert");
    text(&mut out, "TableName");
    text(&mut out, "t");
    text(&mut out, "Row");
    head(&mut out, 5, columns.len());
    for (name, value) in columns {
        text(&mut out, &name);
        out.extend_from_slice(&value);
    }
    out
}

/// Times inside times, a million deep; as many columns as fit into a message; one column again and again; one column in
/// thousands of spellings; no event at all.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let nested = [[0xd8, 0x20, 0xa1, 0x01].repeat(1_000_000), vec![5]].concat();
    let one = || vec![1];
    let spelling = |n: usize| -> String {
        let letter = |at: usize| if n >> at & 1 == 1 { 'V' } else { 'v' };
        (0..15).map(letter).collect()
    };
    let nested = event(vec![("v".to_owned(), nested)].into_iter());
    vec![
        ("nested times", zstd::bulk::compress(&nested, 1).unwrap()),
        ("70,000 columns", event((0..70_000).map(|n| (n.to_string(), one())))),
        ("one column 100,000 times", event((0..100_000).map(|_| ("v".to_owned(), one())))),
        ("one column in 33,000 spellings", event((0..33_000).map(|n| (spelling(n), one())))),
        ("garbage", b"garbage".to_vec()),
        ("nothing", vec![]),
    ]
}

/// Writes one row after the other until `done`; returns how long the slowest took.
fn slowest_write(node: &Node, mut done: impl FnMut() -> bool) -> Duration {
    let app = node.open();
    let (mut slowest, mut count) = (Duration::ZERO, 0);
    while !done() {
        count += 1;
        let begun = Instant::now();
        app.execute("INSERT INTO own VALUES(?1, 1)", [format!("{} {count}", node.database.display())])
            .unwrap();
        slowest = slowest.max(begun.elapsed());
        pause(5);
    }
    slowest
}

#[test]
fn no_message_of_a_hostile_publisher_stops_a_node_or_its_application() {
    let dir = Dir::new("hostile-publisher");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = (
        Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA),
        Node::with_schema(&dir, 2, &nats.url(), "", SCHEMA),
    );
    one.start_ready();
    two.start_ready();
    let client = nats.client();
    for (name, message) in messages() {
        client.publish(SUBJECT, message).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let all = last_sequence(&client);
    let position = || {
        let map = std::fs::read(two.dir.join("seq-map.cbor")).unwrap_or_default();
        map.last().copied().map(u64::from)
    };
    let until = Instant::now() + Duration::from_secs(20);
    let slowest = slowest_write(&one, || position().is_some_and(|seq| seq >= all) || Instant::now() > until);
    assert!(slowest < Duration::from_secs(1), "a write took {slowest:?}");
    for round in 0..2 {
        one.sql(&format!("INSERT INTO t VALUES({round}, 'of one')"));
        two.sql(&format!("INSERT INTO t VALUES(1{round}, 'of two')"));
        wait_equal(&mut [&mut one, &mut two], 30);
        assert_eq!(
            value(&one, "SELECT count(*) FROM t WHERE v LIKE 'of%'"),
            format!("Integer({})", 2 * (round + 1))
        );
        for node in [&mut one, &mut two] {
            node.assert_alive();
            let (_, peak) = node.memory();
            assert!(peak < 200 << 10, "{peak} KiB");
            assert_eq!(node.stop(), 0);
            node.start_ready();
        }
    }
}

/// The last sequence of the stream.
fn last_sequence(client: &::nats::jetstream::JetStream) -> u64 {
    client.stream_info("harmonylite-changes-c-1").unwrap().state.last_seq
}

#[test]
fn silent_and_slow_askers_keep_nobody_from_the_health_check() {
    let dir = Dir::new("slow-askers");
    let nats = Nats::start(&dir);
    let port = free_port();
    let config = format!("[health_check]\nenable = true\nbind = \"127.0.0.1:{port}\"\n");
    let mut node = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    node.start_ready();
    let mut silent: Vec<TcpStream> = vec![];
    for _ in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _ = stream.write_all(b"GET /hea");
        silent.push(stream);
    }
    let begun = Instant::now();
    assert_eq!(health(port).0, 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // One byte now and then prolongs nothing.
    let mut slow = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let begun = Instant::now();
    while slow.write_all(b"G").is_ok() && begun.elapsed() < Duration::from_secs(10) {
        pause(200);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "a slow asker was served for {:?}", begun.elapsed());
    node.assert_alive();
}
