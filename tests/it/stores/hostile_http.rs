//! S3 and WebDAV servers that never come to an end: lists, bodies, headers, elements. A command ends in bounded time and memory
//! with one line, and two nodes replicate beside it.

use crate::broker::hostile::server;
use crate::support::servers::{KEY, SECRET};
use crate::support::stores::{s3_config, webdav_config};
use crate::support::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";

#[derive(Clone, Copy, Debug)]
enum Lie {
    /// Every page of a list says that there is another.
    Pages,
    Body,
    Headers,
    Nested,
    Entities,
    /// A redirect to itself.
    Redirects,
    Hang,
}

/// Reads one request with its body; false: there is none.
fn request(reader: &mut BufReader<TcpStream>) -> bool {
    let mut length = 0;
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(count) if count > 0 => {}
            _ => return false,
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            return std::io::copy(&mut reader.take(length), &mut std::io::sink()).is_ok();
        }
    }
}

fn answer(stream: &mut TcpStream, lie: Lie, number: usize) -> std::io::Result<()> {
    let xml = match lie {
        Lie::Pages => format!(
            "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>true</IsTruncated>\
             <NextContinuationToken>{number}</NextContinuationToken><Contents><Key>x/other-{number}</Key>\
             <Size>18446744073709551615</Size></Contents></ListBucketResult>"
        ),
        Lie::Nested => "<a>".repeat(300_000),
        Lie::Entities => {
            let entities: String = (1..12)
                .map(|n| format!("<!ENTITY e{n} \"{}\">", format!("&e{};", n - 1).repeat(10)))
                .collect();
            format!("<?xml version=\"1.0\"?><!DOCTYPE a [<!ENTITY e0 \"x\">{entities}]><a>&e11;</a>")
        }
        _ => String::new(),
    };
    match lie {
        Lie::Pages | Lie::Nested | Lie::Entities => {
            write!(
                stream,
                "HTTP/1.1 207 So\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{xml}",
                xml.len()
            )
        }
        Lie::Body => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n<a>")?;
            while stream.write_all(&[b'x'; 65_536]).is_ok() {}
            Ok(())
        }
        Lie::Headers => {
            write!(stream, "HTTP/1.1 200 OK\r\n")?;
            while stream.write_all("x-header: \u{1b}[2J\r\n".repeat(1_000).as_bytes()).is_ok() {}
            Ok(())
        }
        Lie::Redirects => {
            write!(stream, "HTTP/1.1 307 There\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n")
        }
        Lie::Hang => {
            while request(&mut BufReader::new(stream.try_clone()?)) {}
            Ok(())
        }
    }
}

/// The port of a server that lies so, and how often it was asked.
fn lying(lie: Lie) -> (u16, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let url = server(move |_, mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while request(&mut reader) {
            let number = count.fetch_add(1, SeqCst);
            if answer(&mut stream, lie, number).is_err() {
                return;
            }
        }
    });
    (url.rsplit_once(':').unwrap().1.parse().unwrap(), asked)
}

/// Runs a command; its text, whether it succeeded, and its peak of memory in KiB.
fn run(node: &Node, argument: &str) -> (String, bool, u64) {
    let path = node.dir.join("printed");
    let out = std::fs::File::create(&path).unwrap();
    let mut command = std::process::Command::new(PROGRAM);
    command.arg("-config").arg(&node.config).args([argument, "-quiet"]).stdin(std::process::Stdio::null());
    let mut process = Process::start(command.stdout(out.try_clone().unwrap()).stderr(out));
    let mut most = 0;
    let ended = wait_for("the command ends", 25, || {
        most = most.max(process.peak_memory());
        process.ended()
    });
    (String::from_utf8(std::fs::read(path).unwrap()).unwrap(), ended.success(), most)
}

#[test]
fn answers_without_end_end() {
    let dir = Dir::new("http-endless");
    for (id, lie) in
        (1..).zip([Lie::Pages, Lie::Body, Lie::Headers, Lie::Nested, Lie::Entities, Lie::Redirects])
    {
        let (port, asked) = lying(lie);
        let configs = [
            s3_config(&format!("http://127.0.0.1:{port}"), (KEY, SECRET), "backups", "x"),
            webdav_config(&format!("http://127.0.0.1:{port}"), "/d"),
        ];
        for (at, config) in configs.iter().enumerate() {
            let node = Node::with_schema(&dir, 10 * id + at as u64, "", config, SCHEMA);
            let before = asked.load(SeqCst);
            let (told, is_good, peak) = run(&node, "-list-snapshots");
            let asked = asked.load(SeqCst) - before;
            let what = format!("{lie:?} {at}: {asked} requests, {peak} KiB: {told}");
            eprintln!("{what}");
            assert!(peak < 100 << 10 && asked <= 110, "{what}");
            assert!(told.lines().count() <= 2 && told.len() < 1_000 && !told.contains('\u{1b}'), "{what:?}");
            assert!(!told.contains(SECRET), "{what}");
            assert!(!is_good || matches!(lie, Lie::Nested | Lie::Pages), "{what}");
        }
    }
}

/// A store that takes requests and never answers: rows cross meanwhile, and every daemon stops in time, also one that waits
/// there for its database.
#[test]
fn a_store_without_answers_keeps_no_row_and_no_signal_waiting() {
    let dir = Dir::new("http-hangs");
    let nats = Nats::start(&dir);
    let (port, asked) = lying(Lie::Hang);
    let config = webdav_config(&format!("http://127.0.0.1:{port}"), "/d");
    // It is in line before its store goes silent.
    let without = "snapshot.enabled = false";
    let mut one = Node::with_schema(&dir, 1, &nats.url(), without, SCHEMA);
    one.start_ready();
    assert_eq!(one.stop(), 0);
    let text = std::fs::read_to_string(&one.config).unwrap();
    std::fs::write(&one.config, text.replace(without, &config)).unwrap();
    one.start_ready();
    let mut two = Node::with_schema(&dir, 2, &nats.url(), without, SCHEMA);
    two.start_ready();
    let mut three = Node::new(&dir, 3, &nats.url(), &config);
    let before = asked.load(SeqCst);
    three.start();
    wait_for("it asks the store", 10, || (asked.load(SeqCst) > before).then_some(()));
    let begun = Instant::now();
    one.sql("INSERT INTO t VALUES(1, 'x')");
    two.sql("INSERT INTO t VALUES(2, 'y')");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    wait_equal(&mut [&mut one, &mut two], 10);
    for node in [&mut three, &mut two, &mut one] {
        assert_eq!(node.stop(), 0, "{}", node.log());
    }
}
