//! Stores that keep a client waiting, or talk to it in another way than before: nobody waits longer than the store is worth.

use crate::broker::hostile::server;
use crate::support::servers::{self, KEY, PASSWORD, SECRET, USER};
use crate::support::stores::{s3_config, webdav_config};
use crate::support::*;
use harmonylite::testing::http::{Body, Client, Request};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";

fn port_of(url: &str) -> u16 {
    url.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// Takes all that comes, and says nothing.
fn take_in(mut stream: TcpStream) {
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

/// A new node goes on without a store that takes its requests and stays silent, or sends a blank now and then.
#[test]
fn a_new_node_does_not_wait_long_for_a_store_that_keeps_it_waiting() {
    let dir = Dir::new("silent-stores");
    let nats = Nats::start(&dir);
    let silent = port_of(&server(|_, stream| take_in(stream)));
    let stuck = port_of(&server(|_, mut stream| {
        let mut first = [0; 1024];
        let _ = stream.read(&mut first);
        let _ = stream.write_all(b"HTTP/1.1 207 So\r\nContent-Length: 1000\r\n\r\n<");
        take_in(stream);
    }));
    let root = |port: u16| format!("http://127.0.0.1:{port}");
    let (_, config) = stores::file_store(&dir);
    let mut founder = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    founder.start_ready();
    wait_for("a snapshot", 20, || (founder.count("stored snapshot") > 0).then_some(()));
    founder.sql("INSERT INTO t VALUES(1, 'of the founder')");
    let mut new = [
        (s3_config(&root(silent), (KEY, SECRET), "backups", "x"), 28),
        (webdav_config(&root(silent), "/d"), 28),
        // The answer has begun: it may be a thin line that brings it.
        (webdav_config(&root(stuck), "/d"), 38),
    ];
    let begun = Instant::now();
    let mut nodes: Vec<(Node, u64)> = (2..)
        .zip(&mut new)
        .map(|(id, (config, limit))| {
            let mut node = Node::with_schema(&dir, id, &nats.url(), config, SCHEMA);
            node.start();
            (node, *limit)
        })
        .collect();
    let worked = std::thread::spawn(work_takes_its_time);
    for (node, limit) in &mut nodes {
        let left = (Duration::from_secs(*limit)).saturating_sub(begun.elapsed()).as_secs();
        wait_for("it goes on without", left, || {
            node.assert_alive();
            (node.count("going on without") > 0).then_some(())
        });
        node.sql("INSERT INTO t(v) VALUES('of a new one')");
        wait_equal(&mut [node, &mut founder], 20);
        assert_eq!(node.count("going on without"), 1, "{}", node.log());
        // Two nodes write the table, and a row may have lost: that is not about the store.
        let of_keys = node.count("writes of other nodes lost") + node.count("written on more than one node");
        let told = node.count(" WARN ") + node.count(" ERROR ") - of_keys;
        assert_eq!(told, 1, "{}", node.log());
        assert_eq!(node.stop(), 0);
    }
    assert_eq!(founder.stop(), 0);
    worked.join().unwrap();
}

/// What gives a server work may be answered after half a minute of silence, what only reads may not.
fn work_takes_its_time() {
    let url = server(|_, mut stream| {
        let mut first = [0; 1024];
        let _ = stream.read(&mut first);
        pause(33_000);
        let _ = stream.write_all(b"HTTP/1.1 201 Done\r\nContent-Length: 0\r\n\r\n");
    })
    .replace("nats://", "http://");
    let client = Client::new(&url, None).unwrap();
    std::thread::scope(|scope| {
        for (method, is_work) in
            [("PUT", true), ("POST", true), ("MOVE", true), ("GET", false), ("HEAD", false)]
        {
            let (client, url) = (&client, &url);
            scope.spawn(move || {
                let body = if is_work { Body::Bytes(b"x") } else { Body::Empty };
                let begun = Instant::now();
                let answer = client.send(Request { method, url, headers: vec![], body });
                let took = begun.elapsed().as_secs();
                match answer {
                    Ok(answer) => assert!(is_work && answer.status == 201, "{method}"),
                    Err(error) => {
                        assert!(!is_work && (18..25).contains(&took), "{method}: {error} after {took} s")
                    }
                }
            });
        }
    });
}

/// Forwards connections to a port that can be changed, and keeps what clients say about who they are.
struct Switch {
    url: String,
    target: Arc<AtomicU16>,
    logins: Arc<Mutex<Vec<String>>>,
}

impl Switch {
    fn to(port: u16) -> Switch {
        let (target, logins) = (Arc::new(AtomicU16::new(port)), Arc::<Mutex<Vec<String>>>::default());
        let (to, seen) = (target.clone(), logins.clone());
        let url = server(move |_, client| {
            let mut server = TcpStream::connect(("127.0.0.1", to.load(SeqCst))).unwrap();
            let (mut back, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut to_client));
            let (mut client, mut piece, mut line) = (client, [0; 65_536], vec![]);
            while let Ok(count @ 1..) = client.read(&mut piece) {
                for byte in &piece[..count] {
                    line.push(*byte);
                    if *byte != b'\n' {
                        continue;
                    }
                    let text = String::from_utf8_lossy(&line).to_lowercase();
                    if let Some(login) = text.strip_prefix("authorization: ") {
                        seen.lock().unwrap().push(login.split(' ').next().unwrap().to_owned());
                    }
                    line.clear();
                }
                if server.write_all(&piece[..count]).is_err() {
                    return;
                }
            }
        });
        Switch { url: url.replace("nats://", "http://"), target, logins }
    }

    fn logins(&self, kind: &str) -> usize {
        self.logins.lock().unwrap().iter().filter(|login| *login == kind).count()
    }
}

/// A server that asked for Digest asks for Basic from now on, over http: a running daemon keeps its password, says so once, and
/// makes snapshots again when Digest is back.
#[test]
fn a_daemon_keeps_its_password_from_a_server_that_steps_down() {
    let dir = Dir::new("steps-down");
    let nats = Nats::start(&dir);
    let apache = servers::apache(&dir);
    let switch = Switch::to(apache.digest);
    let port = free_port();
    let health_config = format!("health_check.enable = true\nhealth_check.bind = \"127.0.0.1:{port}\"\n");
    let config = webdav_config(&switch.url, "/d").replace("[snapshot]\n", "[snapshot]\ninterval = 1000\n");
    let mut one = Node::with_schema(&dir, 1, &nats.url(), &(health_config + &config), SCHEMA);
    let mut two = Node::with_schema(&dir, 2, &nats.url(), "snapshot.enabled = false", SCHEMA);
    one.start_ready();
    two.start_ready();
    wait_for("a snapshot", 20, || (one.count("stored snapshot") > 0).then_some(()));
    assert!(switch.logins("digest") > 0);
    switch.target.store(apache.basic, SeqCst);
    one.sql("INSERT INTO t VALUES(1, 'x')");
    two.sql("INSERT INTO t VALUES(2, 'y')");
    wait_for("it says so", 30, || (one.count("asks for Basic now") > 0).then_some(()));
    wait_equal(&mut [&mut one, &mut two], 10);
    wait_for("health says so", 10, || {
        health(port).1.to_string().contains("asks for Basic now").then_some(())
    });
    assert_eq!(switch.logins("basic"), 0);
    switch.target.store(apache.digest, SeqCst);
    let before = one.count("stored snapshot");
    wait_for("a snapshot again", 60, || (one.count("stored snapshot") > before).then_some(()));
    assert_eq!((switch.logins("basic"), one.count(PASSWORD)), (0, 0));
    assert_eq!(one.count("asks for Basic now"), 1, "{}", one.log());
    assert_eq!((one.stop(), two.stop()), (0, 0));
}

/// Whatever comes in place of an SSH banner: a node joins without the store, at rest, and a command ends.
#[test]
fn what_is_no_ssh_banner_holds_nobody() {
    let dir = Dir::new("no-banner");
    let nats = Nats::start(&dir);
    let endless = |bytes: &'static [u8], pause_ms: u64| {
        port_of(&server(move |_, mut stream| {
            let bytes = if pause_ms > 0 { bytes.to_vec() } else { bytes.repeat(1_000) };
            while stream.write_all(&bytes).is_ok() {
                if pause_ms > 0 {
                    pause(pause_ms);
                }
            }
        }))
    };
    let servers = [
        (endless(b"xxxxxxxxxxxxxxxx", 0), "the server does not speak SSH"),
        (endless(b"220 mail\r\n", 0), "the server does not speak SSH"),
        (endless(b"\0", 50), "no SSH banner within 5 s"),
        (port_of(&server(|_, stream| take_in(stream))), "no SSH banner within 5 s"),
        (port_of(&server(|_, stream| drop(stream))), "hung up before its SSH banner"),
    ];
    let (_, config) = stores::file_store(&dir);
    let mut founder = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    founder.start_ready();
    wait_for("a snapshot", 20, || (founder.count("stored snapshot") > 0).then_some(()));
    founder.sql("INSERT INTO t VALUES(1, 'of the founder')");
    let mut nodes: Vec<Node> = (2..)
        .zip(servers)
        .map(|(id, (port, _))| {
            let config = format!(
                "[snapshot]\nstore = \"sftp\"\ninterval = 1000\nsftp.url = \"sftp://{USER}:{PASSWORD}@127.0.0.1:{port}/d\"\n"
            );
            let mut node = Node::with_schema(&dir, id, &nats.url(), &config, SCHEMA);
            node.start();
            node
        })
        .collect();
    for (node, (_, why)) in nodes.iter_mut().zip(servers) {
        wait_for("it goes on without", 40, || {
            node.assert_alive();
            (node.count("going on without") > 0).then_some(())
        });
        assert!(node.count(why) > 0, "{why}: {}", node.log());
        node.sql("INSERT INTO t(v) VALUES('of a new one')");
        wait_equal(&mut [node, &mut founder], 20);
    }
    let before: Vec<u64> = nodes.iter().map(|node| cpu_ticks(node.pid())).collect();
    pause(2_000);
    for ((node, before), (_, why)) in nodes.iter_mut().zip(before).zip(servers) {
        let used = cpu_ticks(node.pid()) - before;
        assert!(used < 60, "{why}: {used} hundredths of a second of two seconds");
        assert!(node.memory().1 < 100 << 10, "{why}: {} KiB", node.memory().1);
        let begun = Instant::now();
        let listed = node.command(&["-list-snapshots", "-quiet"]);
        assert!(begun.elapsed() < Duration::from_secs(40), "{why}: {:?}", begun.elapsed());
        assert!(!listed.status.success() && printed(&listed).contains(why), "{}", printed(&listed));
        assert_eq!((node.stop(), node.count(PASSWORD)), (0, 0));
    }
}
