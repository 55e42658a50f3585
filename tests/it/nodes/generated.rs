//! A publisher that makes up everything: rows and sets with wrong names, types, counts and claims, in the names of the nodes
//! themselves, in parts that do not fit together; leases, presence, descriptions and chunks of snapshots. Whatever the seed makes of
//! it, no node ends, no table stops, no application waits, and later rows cross, also after a restart.

use super::hostile::{SUBJECT, event_of, text};
use crate::support::*;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE own(k TEXT PRIMARY KEY, v); CREATE TABLE free(k INTEGER PRIMARY KEY, v);
    CREATE TABLE \"select\"(\"from\" TEXT, \"a \"\"b\" INT, PRIMARY KEY(\"from\", \"a \"\"b\")) WITHOUT ROWID;
    CREATE TABLE [a.b'c;--](k PRIMARY KEY, \"x'y\", \"\u{fc}\u{2603}\" TEXT COLLATE NOCASE);
    CREATE TABLE strict_t(id INTEGER PRIMARY KEY, i INT, r REAL, x TEXT, b BLOB, a ANY) STRICT;
    CREATE TABLE made(id INTEGER PRIMARY KEY, a INT, b AS (a * 2) STORED UNIQUE, c AS (abs(a)), d TEXT DEFAULT 'x' NOT NULL);
    CREATE TABLE uq(id INTEGER PRIMARY KEY, a UNIQUE, b TEXT COLLATE NOCASE UNIQUE, c);
    CREATE TABLE nokey(a, b); CREATE TABLE au(id INTEGER PRIMARY KEY AUTOINCREMENT, v);
    CREATE TABLE js(id INTEGER PRIMARY KEY, j); CREATE INDEX js_i ON js(json_extract(j, '$.a'));
    CREATE TABLE timed(d date PRIMARY KEY, b boolean, ts timestamp); CREATE TABLE nocase(k TEXT COLLATE NOCASE PRIMARY KEY, v);
    CREATE TABLE audited(id INTEGER PRIMARY KEY, v); CREATE TABLE audit(rowid, what UNIQUE);
    CREATE TRIGGER a1 AFTER INSERT ON audited BEGIN SELECT RAISE(ROLLBACK, 'no') WHERE new.v = 'bad'; INSERT INTO audit(what) VALUES(new.v); END;
    CREATE TRIGGER a2 BEFORE UPDATE ON audited BEGIN SELECT json_extract(new.v, '$'); END;
    CREATE TABLE doc(id INTEGER PRIMARY KEY, body); CREATE VIRTUAL TABLE words USING fts5(body, content=doc, content_rowid=id);
    CREATE TRIGGER d1 AFTER INSERT ON doc BEGIN INSERT INTO words(rowid, body) VALUES(new.id, new.body); END;
    CREATE TRIGGER d2 AFTER DELETE ON doc BEGIN INSERT INTO words(words, rowid, body) VALUES('delete', old.id, old.body); END;";

/// The tables, and names that are none of the application's.
const TABLES: [(&str, &[&str]); 26] = [
    ("t", &["id", "v"]),
    ("own", &["k", "v"]),
    ("select", &["from", "a \"b"]),
    ("a.b'c;--", &["k", "x'y", "\u{fc}\u{2603}"]),
    ("strict_t", &["id", "i", "r", "x", "b", "a"]),
    ("made", &["id", "a", "b", "c", "d"]),
    ("uq", &["id", "a", "b", "c"]),
    ("nokey", &["rowid", "a", "b"]),
    ("au", &["id", "v"]),
    ("js", &["id", "j"]),
    ("timed", &["d", "b", "ts"]),
    ("nocase", &["k", "v"]),
    ("audited", &["id", "v"]),
    ("doc", &["id", "body"]),
    ("audit", &["rowid", "what"]),
    ("words", &["rowid", "body"]),
    ("words_data", &["id", "block"]),
    ("sqlite_sequence", &["name", "seq"]),
    ("sqlite_schema", &["sql"]),
    ("__harmonylite__log", &["id", "t", "k1"]),
    ("__harmonylite__state", &["kind", "name", "value"]),
    ("T", &["id", "v"]),
    ("main.t", &["id", "v"]),
    ("t\0", &["id"]),
    (" t", &["id", "v"]),
    ("gone", &["id", "v"]),
];
const OWN: usize = 14;

/// What makes everything up.
struct Maker {
    state: u64,
    /// The names under which the nodes publish.
    names: Vec<String>,
}

impl Maker {
    fn below(&mut self, bound: usize) -> usize {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % bound as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }

    fn head(&mut self, major: u8, number: u64) -> Vec<u8> {
        let wide = [&[major << 5 | 27][..], &number.to_be_bytes()].concat();
        if number < 24 && !self.one_in(30) { vec![major << 5 | number as u8] } else { wide }
    }

    fn number(&mut self) -> Vec<u8> {
        let small = self.below(40) as u64;
        let number =
            [0, 1, 2, small, small, small, 1 << 40, i64::MAX as u64, 1 << 63, u64::MAX][self.below(10)];
        let major = u8::from(self.one_in(5));
        self.head(major, number)
    }

    fn words(&mut self) -> Vec<u8> {
        let long = "y".repeat(self.below(3_000));
        let text = self
            .of(&["", "a", "A", "a\0b", "1", "1.0", "{\"a\":1}", "{", "bad", "\u{202e}", long.as_str()])
            .as_bytes()
            .to_vec();
        [self.head(3, text.len() as u64), text].concat()
    }

    fn value(&mut self) -> Vec<u8> {
        let odd = |bytes: &[u8]| bytes.to_vec();
        match self.below(18) {
            0..=4 => self.number(),
            5..=7 => self.words(),
            8 => [
                &[0xfb][..],
                &[0.0, -0.0, 1.0, 1.5, f64::INFINITY, f64::NAN, 9.1e18][self.below(7)].to_be_bytes(),
            ]
            .concat(),
            9 => {
                let blob = self.bytes(9);
                [odd(&[0x49]), blob].concat()
            }
            10 => odd(&[0xf6]),
            11 => odd(self.of(&[&[0xf4], &[0xf5], &[0xf7], &[0xff], &[0xfc], &[0x1f], &[0xe0]])),
            12 => [odd(&[0xd9, 0x48, 0x4c]), self.value()].concat(),
            13 => [odd(&[0xd8, 0x20, 0xa1, 1]), self.value()].concat(),
            14 => {
                let (major, length) = (self.below(8) as u8, [1 << 20, 1 << 32, 1 << 63][self.below(3)]);
                self.head(major, length)
            }
            15 => [odd(self.of(&[&[0x5f], &[0x7f], &[0x9f], &[0xbf]])), self.value()].concat(),
            16 => [
                self.of(&[&[0x81][..], &[0xa1, 1], &[0xc1], &[0xd8, 0x20]])
                    .repeat([3, 40, 3_000][self.below(3)]),
                vec![1],
            ]
            .concat(),
            _ => [odd(self.of(&[&[0xf9], &[0xfa, 0], &[0xc2, 0x41], &[0xc3, 0x40]])), self.bytes(2)].concat(),
        }
    }

    fn table(&mut self) -> (&'static str, Vec<String>) {
        let at = if self.one_in(4) { self.below(TABLES.len()) } else { self.below(OWN) };
        let (name, columns) = TABLES[at];
        let mut columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        match self.below(24) {
            0 => drop(columns.pop()),
            1 => columns.push(
                self.of(&["new", "rowid", "_rowid_", "", "v\0", "\"v\"", "V", "ID", "\u{202e}v"]).to_owned(),
            ),
            2 => columns.push(columns[0].clone()),
            3 => columns.iter_mut().for_each(|name| *name = name.to_uppercase()),
            4 => columns = (0..[1_999, 2_001, 5_000][self.below(3)]).map(|n| format!("c{n}")).collect(),
            5 => columns.push("x".repeat(1_001)),
            _ => {}
        }
        (name, columns)
    }

    fn row(&mut self) -> Vec<u8> {
        let (table, columns) = self.table();
        let columns: Vec<_> = columns.into_iter().map(|name| (name, self.value())).collect();
        event_of(table, columns.into_iter())
    }

    fn set(&mut self) -> Vec<u8> {
        let groups = [1, 1, 2, 5][self.below(4)];
        let mut out = [vec![0x83, 1, 0x40], self.head(4, groups)].concat();
        for _ in 0..groups {
            let (table, columns) = self.table();
            let rows = [0, 1, 1, 2, 20][self.below(5)];
            let claimed = rows * columns.len() as u64 + u64::from(self.one_in(12));
            out.push(0x85);
            text(&mut out, table);
            out.push([0, 0, 0, 1, 1, 2][self.below(6)]);
            out.extend(self.head(4, columns.len() as u64));
            columns.iter().for_each(|name| text(&mut out, name));
            out.extend(self.head(4, rows));
            for _ in 0..rows {
                let id = if self.one_in(6) { self.number() } else { vec![self.below(3) as u8] };
                out.extend(id);
            }
            let values = if self.one_in(30) { 1 << 40 } else { claimed };
            out.extend(self.head(4, values));
            let is_long = claimed > 200;
            for _ in 0..claimed {
                let value = if is_long || self.one_in(2) { vec![1] } else { self.value() };
                out.extend(value);
            }
        }
        out
    }

    fn message(&mut self) -> Vec<u8> {
        let mut bytes = if self.one_in(2) { self.row() } else { self.set() };
        match self.below(20) {
            0 | 1 => {
                let at = self.below(bytes.len());
                bytes[at] ^= 1 << self.below(8);
            }
            2 => bytes.truncate(self.below(bytes.len())),
            3 => bytes = bytes.repeat(2),
            4 => bytes = self.bytes(30),
            _ => {}
        }
        match self.below(12) {
            0..=3 => zstd::bulk::compress(&bytes, 1).unwrap(),
            4 => {
                let packed = zstd::bulk::compress(&vec![0; 30 << 20], 1).unwrap();
                if self.one_in(3) { packed } else { packed[..self.below(packed.len())].to_vec() }
            }
            // Claims of a size that nobody has.
            5 => [
                &[0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x58][..],
                &(u64::MAX >> self.below(40)).to_le_bytes(),
                &bytes,
            ]
            .concat(),
            _ => bytes,
        }
    }

    fn headers(&mut self) -> String {
        let mut out = "NATS/1.0\r\n".to_owned();
        let names = self.names.clone();
        let name = if self.one_in(2) {
            names[self.below(names.len())].clone()
        } else {
            format!("{}-{:016x}", [1, 2, 3, 77, u64::MAX][self.below(5)], [0, 1, u64::MAX][self.below(3)])
        };
        let near = self.below(300).to_string();
        let id = self.of(&[
            near.as_str(),
            near.as_str(),
            "9223372036854775807",
            "4611686018427387904",
            "9223372036854775808",
            "-1",
            "0",
            "",
        ]);
        match self.below(12) {
            0 => {}
            1 => out.push_str("Nats-Msg-Id: -1-1\r\nNats-Msg-Id: 9-000000000000000b-1\r\n"),
            2..=4 => out.push_str(&format!("Nats-Msg-Id: {name}-{id}-{}\r\n", self.below(3))),
            _ => out.push_str(&format!("Nats-Msg-Id: {name}-{id}\r\n")),
        }
        if self.one_in(2) {
            let part = self.of(&[
                "1+",
                "1+",
                "2+",
                "2",
                "3",
                "0",
                "+",
                "-1",
                "18446744073709551615+",
                "1++",
                "\u{663}",
            ]);
            out.push_str(&format!("Hl-Set: {part}\r\n"));
        }
        out + "\r\n"
    }

    /// A subject that nodes listen to beside the stream, and what they find there.
    fn aside(&mut self) -> (String, Vec<u8>) {
        let keys = ["snapshot-leader", "snapshot", "founder", "snapshot-wanted", "snapshot-proven"];
        let subject = match self.below(4) {
            0 | 1 => format!("$KV.e-harmonylite.{}", self.of(&keys)),
            2 => format!("harmonylite-changes.{}", self.of(&["node.1", "node.2", "node.3", "shards"])),
            _ => format!("$O.harmonylite-changes-snapshot-store.{}", self.of(&["M.c25hcHNob3QuZGI=", "C.x"])),
        };
        let numbers = [u64::MAX, 1 << 63, 1, 2, 0];
        let (one, two) = (numbers[self.below(5)], numbers[self.below(5)]);
        let payload = match self.below(4) {
            0 => self.message(),
            1 => b"[".repeat(20_000),
            2 => [vec![0xa2], b"fNodeID\x1b".to_vec(), one.to_be_bytes().to_vec(), b"iTimestamp\x1b".to_vec(), two.to_be_bytes().to_vec()].concat(),
            _ => format!(
                "{{\"node_id\":{one},\"shards\":{two},\"id\":{one},\"host\":\"\\u001b[2J\",\"positions\":{{\"harmonylite-changes-c-1\":{two}}},\
                 \"name\":\"snapshot.db\",\"size\":{one},\"chunks\":{two},\"digest\":\"SHA-256=\",\"nuid\":\"x\",\"bucket\":\"..\"}}"
            )
            .into_bytes(),
        };
        (subject, payload)
    }
}

/// A connection on which anything can be said.
struct Line(BufReader<TcpStream>);

impl Line {
    fn to(nats: &Nats) -> Line {
        let mut stream = TcpStream::connect(("127.0.0.1", nats.port)).unwrap();
        stream.write_all(b"CONNECT {\"verbose\":false,\"headers\":true,\"echo\":false}\r\n").unwrap();
        Line(BufReader::new(stream))
    }

    fn publish(&mut self, subject: &str, headers: &str, payload: &[u8]) {
        let (head, all) = (headers.len(), headers.len() + payload.len());
        let line = format!("HPUB {subject} {head} {all}\r\n{headers}");
        self.0.get_mut().write_all(&[line.as_bytes(), payload, b"\r\n"].concat()).unwrap();
    }

    /// Waits until the server has taken all.
    fn flush(&mut self) {
        self.0.get_mut().write_all(b"PING\r\n").unwrap();
        let mut line = String::new();
        while line != "PONG\r\n" {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the server hung up");
        }
    }
}

fn name_of(node: &Node, id: u64) -> String {
    let sql = "SELECT value FROM __harmonylite__state WHERE kind = 'meta' AND name = 'incarnation'";
    format!("{id}-{}", node.open().query_row(sql, [], |row| row.get::<_, String>(0)).unwrap())
}

/// Rows of both nodes arrive.
fn rows_cross(nodes: &mut [Node; 2], id: i64) {
    for (from, to) in [(0, 1), (1, 0)] {
        nodes[from].sql(&format!("INSERT OR REPLACE INTO t VALUES({}, 'later')", id + from as i64));
        let there = format!("SELECT count(*) FROM t WHERE id = {} AND v = 'later'", id + from as i64);
        wait_for("a later row crosses", 30, || {
            nodes.iter_mut().for_each(Node::assert_alive);
            (value(&nodes[to], &there) == "Integer(1)").then_some(())
        });
    }
}

/// An application that writes all the time; how long it waited at most.
fn slowest_write(application: &rusqlite::Connection, stop: &AtomicBool) -> Duration {
    let (mut slowest, mut count) = (Duration::ZERO, 0);
    while !stop.load(SeqCst) {
        count += 1;
        let begun = Instant::now();
        application.execute("INSERT INTO free(k, v) VALUES(random(), ?1)", [count]).unwrap();
        slowest = slowest.max(begun.elapsed());
        pause(10);
    }
    slowest
}

#[test]
fn whatever_a_publisher_makes_up() {
    let (seed, count) = (
        number_from_environment("HARMONYLITE_SEED").unwrap_or(10),
        number_from_environment("HARMONYLITE_MADE_UP").unwrap_or(500),
    );
    eprintln!("HARMONYLITE_SEED={seed} HARMONYLITE_MADE_UP={count}");
    let dir = Dir::new("generated");
    let nats = Nats::start(&dir);
    let config = |id: u64| if id == 1 { "" } else { "logging.verbose = true" };
    let mut nodes = [1, 2].map(|id| Node::with_schema(&dir, id, &nats.url(), config(id), SCHEMA));
    nodes.iter_mut().for_each(Node::start_ready);
    let mut line = Line::to(&nats);
    let (stop, applications) = (Arc::new(AtomicBool::new(false)), nodes.each_ref().map(|node| node.open()));
    let applications = applications.map(|application| {
        let stop = stop.clone();
        std::thread::spawn(move || slowest_write(&application, &stop))
    });
    let mut maker = Maker { state: seed, names: vec![] };
    for round in 0..2 {
        // Who reads the stream knows the names, also the new ones.
        maker.names.extend((1..).zip(&nodes).map(|(id, node)| name_of(node, id)));
        for number in 0..count {
            let (headers, payload) = (maker.headers(), maker.message());
            line.publish(SUBJECT, &headers, &payload[..payload.len().min(900_000)]);
            if number % 20 == 0 {
                let (subject, payload) = maker.aside();
                line.publish(&subject, "NATS/1.0\r\n\r\n", &payload[..payload.len().min(900_000)]);
            }
        }
        line.flush();
        rows_cross(&mut nodes, 1_000_000 + 10 * round);
        for node in &mut nodes {
            assert!(node.memory().1 < 200 << 10, "{} KiB", node.memory().1);
            assert_eq!(node.stop(), 0);
            node.start_ready();
        }
        rows_cross(&mut nodes, 2_000_000 + 10 * round);
    }
    stop.store(true, SeqCst);
    for application in applications {
        let slowest = application.join().unwrap();
        eprintln!("the slowest write took {slowest:?}");
        assert!(slowest < Duration::from_secs(1), "a write took {slowest:?}");
    }
    for node in &nodes {
        wait_for("the log is empty", 30, || (node.unsettled() == 0).then_some(()));
        let found: String = node.open().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(found, "ok");
        assert!(!node.log().contains(|c: char| c.is_control() && c != '\n'));
    }
    let [one, two] = &mut nodes;
    wait_equal(&mut [one, two], 20);
}
