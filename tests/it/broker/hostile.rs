//! A broker that misbehaves: what it does, our client ends within its time limits, without a panic and without spinning.

use crate::support::*;
use harmonylite::testing::nats::Auth;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

pub const INFO: &[u8] =
    b"INFO {\"server_id\":\"X\",\"version\":\"2.10.0\",\"max_payload\":1048576,\"headers\":true}\r\n";

/// A server that hands each connection, with its number, to `treat`; returns its URL.
pub fn server(treat: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let treat = std::sync::Arc::new(treat);
        for (number, stream) in listener.incoming().enumerate() {
            let treat = treat.clone();
            std::thread::spawn(move || treat(number, stream.unwrap()));
        }
    });
    url
}

/// Logs a client in: greeting, then an answer to its PING.
fn log_in(stream: &mut TcpStream) {
    stream.write_all(INFO).unwrap();
    let mut seen = vec![];
    let mut buffer = [0; 1024];
    while !seen.windows(6).any(|w| w == b"PING\r\n") {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            return;
        }
        seen.extend_from_slice(&buffer[..count]);
    }
    stream.write_all(b"PONG\r\n").unwrap();
}

fn drain(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
}

#[test]
fn garbage_and_closed_connections_lead_to_another_try() {
    let url = server(|number, mut stream| match number {
        0 => drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        1 => drop(stream.write_all(&[0xff; 100_000])),
        2 => drop(stream),
        3 => drop(stream.write_all(b"INFO not json\r\n")),
        4 => drop(stream.write_all(b"-ERR 'go away'\r\n")),
        5 => {
            log_in(&mut stream);
            let _ = stream.write_all(b"MSG x 1 99999999999\r\n");
        }
        _ => {
            log_in(&mut stream);
            drain(stream);
        }
    });
    let connection = connect_with(&url, Auth::default());
    wait_for("the seventh connection holds", 30, || {
        (connection.is_up() && connection.epoch() == 2).then_some(())
    });
}

#[test]
fn a_server_that_lets_us_in_and_cuts_is_asked_ever_more_rarely() {
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = count.clone();
    let url = server(move |_, mut stream| {
        seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        log_in(&mut stream);
    });
    let _connection = connect_with(&url, Auth::default());
    pause(5_000);
    // Pauses of 50 ms at least, doubling: the seventh connection comes after 3 s at the earliest.
    let count = count.load(std::sync::atomic::Ordering::Relaxed);
    assert!((2..=7).contains(&count), "{count} connections in 5 s");
}

#[test]
fn control_lines_in_pieces() {
    let url = server(|_, mut stream| {
        for byte in INFO {
            stream.write_all(&[*byte]).unwrap();
            stream.flush().unwrap();
        }
        let mut buffer = [0; 1024];
        let _ = stream.read(&mut buffer);
        for piece in [&b"PO"[..], b"NG\r", b"\nPI", b"NG\r\n"] {
            stream.write_all(piece).unwrap();
            pause(10);
        }
        drain(stream);
    });
    connect_with(&url, Auth::default()).wait_up(Duration::from_secs(5)).unwrap();
}

#[test]
fn silence_before_and_after_the_greeting_ends_in_time() {
    for greeting in [&b""[..], INFO] {
        let url = server(move |number, mut stream| {
            if number == 0 {
                let _ = stream.write_all(greeting);
                drain(stream);
            } else {
                log_in(&mut stream);
                drain(stream);
            }
        });
        let connection = connect_with(&url, Auth::default());
        let begun = Instant::now();
        connection.wait_up(Duration::from_secs(20)).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(9), "took {:?}", begun.elapsed());
    }
}

#[test]
fn slow_tls_ends_in_time() {
    let info = b"INFO {\"version\":\"2.10.0\",\"tls_required\":true,\"max_payload\":1048576}\r\n";
    let url = server(move |_, mut stream| {
        stream.write_all(info).unwrap();
        // One byte of a handshake record now and then: the connection is alive, and the handshake never ends.
        for _ in 0..200 {
            if stream.write_all(&[22]).is_err() {
                return;
            }
            pause(300);
        }
    });
    let connection = connect_with(&url, Auth::default());
    let begun = Instant::now();
    let error =
        wait_for("the handshake is given up", 12, || Some(connection.last_error()).filter(|e| !e.is_empty()));
    assert!(error.contains("TLS"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(9));
}

#[test]
fn a_half_open_connection_is_found_dead_and_calls_end() {
    let url = server(|number, mut stream| {
        log_in(&mut stream);
        if number == 0 {
            // The server reads nothing and sends nothing from here on.
            pause(120_000);
        }
        drain(stream);
    });
    let connection = connect_with(&url, Auth::default());
    connection.wait_up(Duration::from_secs(5)).unwrap();
    let begun = Instant::now();
    let error = connection.request("x", &[], b"", Duration::from_millis(700)).unwrap_err();
    assert!(error.to_string().contains("no answer within 700 ms"), "{error}");
    // A caller that fills every buffer on the way is not blocked for long either.
    let big = vec![0; 900_000];
    while connection.publish("x", &[], &big).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
    wait_for("the dead connection is replaced", 50, || (connection.epoch() >= 2).then_some(()));
}

#[test]
fn odd_messages_harm_themselves_alone() {
    let url = server(|_, mut stream| {
        log_in(&mut stream);
        let mut buffer = [0; 4096];
        let mut text = String::new();
        while !text.contains("SUB odd") {
            let count = stream.read(&mut buffer).unwrap();
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        let sid = text.split("SUB odd ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        let header: &[u8] = b"NATS/1.0 \xff\xfe\r\n\xff:\xfe\r\n\r\n";
        stream
            .write_all(format!("HMSG odd {sid} {} {}\r\n", header.len(), header.len() + 1).as_bytes())
            .unwrap();
        stream.write_all(header).unwrap();
        stream.write_all(b"1\r\n").unwrap();
        stream
            .write_all(b"MSG unknown 99999 1\r\nx\r\n-ERR 'Permissions Violation for Publish'\r\n")
            .unwrap();
        stream.write_all(format!("MSG odd {sid} 1\r\n2\r\n").as_bytes()).unwrap();
        drain(stream);
    });
    let connection = connect_with(&url, Auth::default());
    connection.wait_up(Duration::from_secs(5)).unwrap();
    let (sender, receiver) = crossbeam_channel::bounded(8);
    let _subscription = connection.subscribe("odd", sender);
    let bodies: Vec<_> =
        (0..2).map(|_| receiver.recv_timeout(Duration::from_secs(5)).unwrap().payload).collect();
    assert_eq!(bodies, [b"1", b"2"]);
    assert_eq!(connection.epoch(), 1);
}

#[test]
fn a_flood_of_pings_takes_no_memory() {
    let url = server(|_, mut stream| {
        log_in(&mut stream);
        // Nothing is read from here on, so no answer can be sent.
        let pings = b"PING\r\n".repeat(10_000);
        while stream.write_all(&pings).is_ok() {}
    });
    let dir = Dir::new("pings");
    let mut node = Node::with_schema(&dir, 1, &url, "", "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    node.start();
    wait_for("the node is connected", 20, || (node.count("connected to NATS at") > 0).then_some(()));
    pause(6_000);
    let (_, peak) = node.memory();
    assert!(peak < 60_000, "{peak} KiB");
}
