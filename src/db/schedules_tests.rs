//! The convergence property again, on real databases: capture, change log and applier of several nodes, random statements
//! of their applications, change sets in one message or several, as rows or together, any delivery, restarts. `HARMONYLITE_SEED` and `HARMONYLITE_DB_SCHEDULES` repeat a run.

use super::*;
use crate::model::gate::{Arrival, Gate, Part};
use crate::model::origin::Origin;
use crate::model::payload::Codec;
use rusqlite::{Connection, params};
use std::path::PathBuf;

const SCHEMA: &str = "
    CREATE TABLE t(k INTEGER PRIMARY KEY, u UNIQUE, v);
    CREATE TABLE n(k TEXT COLLATE NOCASE PRIMARY KEY, a, b);
    CREATE UNIQUE INDEX n_ab ON n(lower(a), b) WHERE b > 0;
    CREATE TABLE w(k1, k2, v, PRIMARY KEY(k1, k2)) WITHOUT ROWID;
    CREATE TABLE r(a, b);";

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What lies in the stream.
#[derive(Clone)]
struct Message {
    id: String,
    payload: Vec<u8>,
    part: Part,
}

struct Peer {
    id: u64,
    path: PathBuf,
    app: Connection,
    log: ChangeLog,
    applier: Applier,
    /// Messages read, and what of them is not applied yet.
    at: usize,
    gate: Gate<Incoming>,
    ready: Vec<Incoming>,
    outbox: Vec<Message>,
    catch_up: usize,
}

impl Peer {
    fn new(dir: &std::path::Path, id: u64) -> Peer {
        let path = dir.join(format!("{id}.db"));
        let app = Connection::open(&path).unwrap();
        // The disk is not what is tested here.
        app.execute_batch("PRAGMA synchronous=OFF").unwrap();
        app.execute_batch(SCHEMA).unwrap();
        crate::db::open::prepare(&path, JournalMode::Switch).unwrap();
        let (log, applier) = Peer::open(&path, id);
        let (gate, ready, outbox) = (Gate::default(), vec![], vec![]);
        Peer { id, path, app, log, applier, at: 0, gate, ready, outbox, catch_up: 0 }
    }

    fn open(path: &std::path::Path, id: u64) -> (ChangeLog, Applier) {
        crate::db::apply::ensure_state(path).unwrap();
        (ChangeLog::open(path, id).unwrap().0, Applier::open(path, id, &["s-1".to_owned()]).unwrap())
    }

    /// The daemon is killed and started again; what it had sent may still arrive.
    fn restart(&mut self, stream_length: usize) -> Vec<Message> {
        (self.log, self.applier) = Peer::open(&self.path, self.id);
        self.at = usize::try_from(self.applier.position(0).unwrap().unwrap_or_default().seq).unwrap();
        self.gate.clear();
        self.ready.clear();
        self.catch_up = stream_length;
        std::mem::take(&mut self.outbox)
    }

    /// One statement of the application.
    fn write(&self, random: &mut Random) {
        let (k, u, v) = (random.below(6), random.below(4), random.below(1000));
        let letter = ["a", "A", "b", "B", "c"][random.below(5) as usize];
        let or = ["OR REPLACE", "OR IGNORE", "OR REPLACE"][random.below(3) as usize];
        let sql = match random.below(11) {
            0..3 => format!("INSERT {or} INTO t VALUES({k}, {u}, {v})"),
            3 => format!("UPDATE {or} t SET u = {u}, v = {v} WHERE k = {k}"),
            4 => format!("UPDATE {or} t SET k = {u} WHERE k = {k}"),
            5 => format!("DELETE FROM t WHERE k = {k}"),
            6 => format!("INSERT {or} INTO n VALUES('{letter}', '{letter}{u}', {})", random.below(2)),
            7 => format!("UPDATE {or} n SET k = '{letter}', a = 'B{u}' WHERE b = {}", random.below(2)),
            8 => {
                format!("INSERT INTO w VALUES({k}, '{letter}', {v}) ON CONFLICT DO UPDATE SET v = excluded.v")
            }
            9 => format!("DELETE FROM w WHERE k1 = {k}"),
            _ => format!("INSERT OR REPLACE INTO r(rowid, a, b) VALUES({k}, {v}, '{letter}')"),
        };
        self.app.execute_batch(&sql).unwrap();
    }

    /// Publishes all that the log holds as one change set, read in slices.
    fn scan(&mut self, random: &mut Random, limit: u64) {
        if self.at < self.catch_up {
            return;
        }
        let origin = self.log.origin().unwrap();
        let mut codec = Codec::new(false).unwrap();
        let mut events = vec![];
        loop {
            let batch = self.log.read(limit).unwrap();
            events.extend(batch.changes.into_iter().map(|change| change.event));
            if !batch.more {
                break;
            }
        }
        let (as_sets, mut number) = (random.below(2) == 0, 0);
        // Parts have ids of their own, as other messages have when they are sent again.
        let attempt = random.below(1 << 30) + 1;
        while !events.is_empty() {
            let count = if as_sets { 1 + random.below(5) as usize } else { 1 };
            let rest = events.split_off(count.min(events.len()));
            let rows = std::mem::replace(&mut events, rest);
            number += 1;
            let payload = if as_sets { codec.pack_set(&rows) } else { codec.pack(&rows[0]) }.unwrap();
            // Now and then it is too large for one message.
            let most = if random.below(4) == 0 { payload.len().div_ceil(3) } else { payload.len() };
            let mut pieces = payload.chunks(most).peekable();
            while let Some(piece) = pieces.next() {
                let cut = pieces.peek().is_some();
                let part = Part { number, more: cut || !events.is_empty(), cut };
                let attempt = if part == Part::WHOLE { 0 } else { attempt + (number << 40) };
                let id = origin.message_id(rows[rows.len() - 1].id, attempt);
                self.outbox.push(Message { id, payload: piece.to_vec(), part });
                number += u64::from(cut);
            }
        }
    }

    /// What was published and took no effect is published again.
    fn rewind(&mut self) {
        if self.outbox.is_empty() {
            self.log.rewind();
        }
    }

    /// Reads the next messages.
    fn read(&mut self, stream: &[Message], count: usize) {
        for message in stream[self.at..].iter().take(count) {
            self.at += 1;
            let (seq, part) = (self.at as u64, message.part);
            let (origin, payload) = (Origin::parse_message_id(&message.id), message.payload.clone());
            let publisher = origin.map(|(origin, _)| origin);
            let message = Incoming { stream: 0, seq, origin, time_ms: 0, payload, ends: None };
            self.ready.extend(self.gate.pass(Arrival {
                message,
                seq,
                bytes: 1,
                time_ms: 0,
                origin: publisher,
                part,
            }));
            if let Some(last) = self.ready.last_mut() {
                last.ends = Some(Ends { read: seq, checkpoint: self.gate.checkpoint() });
            }
        }
    }

    /// Reads and applies the next messages, and checks that no row that the log holds was changed by it.
    fn consume(&mut self, stream: &[Message], count: usize) {
        self.read(stream, count);
        if self.ready.is_empty() {
            return;
        }
        // Within a longer batch a row may come back first and be overwritten then, rightly.
        let before = if self.ready.len() == 1 { self.touched_rows() } else { vec![] };
        let applied = self.applier.apply(&self.ready).unwrap();
        self.ready.drain(..applied.events);
        for (table, filter, row) in before {
            assert_eq!(
                self.row(&table, &filter),
                row,
                "a row that its application wrote was changed: {table} {filter}"
            );
        }
    }

    fn has_read_all(&self, stream: &[Message]) -> bool {
        self.at == stream.len() && self.ready.is_empty()
    }

    /// Table, filter and contents of each row of `t` and `w` that the log holds.
    fn touched_rows(&self) -> Vec<(String, String, String)> {
        let sql = "SELECT n.name, quote(l.k1), quote(l.k2) FROM __harmonylite__log l JOIN __harmonylite__table n ON n.id = l.t
                   WHERE n.name IN ('t', 'w')";
        let mut statement = self.app.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        let found: Vec<(String, String, String)> = rows.map(Result::unwrap).collect();
        found
            .into_iter()
            .map(|(table, k1, k2)| {
                let filter =
                    if table == "t" { format!("k = {k1}") } else { format!("k1 = {k1} AND k2 = {k2}") };
                let row = self.row(&table, &filter);
                (table, filter, row)
            })
            .collect()
    }

    fn row(&self, table: &str, filter: &str) -> String {
        let columns = if table == "t" { "quote(u) || quote(v)" } else { "quote(v)" };
        let sql = format!("SELECT group_concat({columns}) FROM {table} WHERE {filter}");
        self.app.query_row(&sql, [], |row| row.get::<_, Option<String>>(0)).unwrap().unwrap_or_default()
    }

    fn contents(&self) -> String {
        let sql = "SELECT group_concat(x, char(10)) FROM (
            SELECT 't ' || quote(k) || quote(u) || quote(v) AS x FROM t UNION ALL
            SELECT 'n ' || quote(k) || quote(a) || quote(b) FROM n UNION ALL
            SELECT 'w ' || quote(k1) || quote(k2) || quote(v) FROM w UNION ALL
            SELECT 'r ' || rowid || quote(a) || quote(b) FROM r ORDER BY 1)";
        self.app.query_row(sql, [], |row| row.get::<_, Option<String>>(0)).unwrap().unwrap_or_default()
    }

    fn unsettled(&self) -> i64 {
        self.app
            .query_row("SELECT count(*) FROM __harmonylite__log WHERE t <> 0", [], |row| row.get(0))
            .unwrap()
    }
}

fn directory(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("harmonylite-db-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn schedule(seed: u64) {
    let dir = directory(&format!("schedule-{seed}"));
    let mut random = Random(seed);
    let mut peers: Vec<Peer> = (1..=2 + random.below(2)).map(|id| Peer::new(&dir, id)).collect();
    let (mut stream, mut late): (Vec<Message>, Vec<Message>) = (vec![], vec![]);
    for _ in 0..120 {
        let which = random.below(peers.len() as u64) as usize;
        let peer = &mut peers[which];
        match random.below(100) {
            0..45 => peer.write(&mut random),
            45..59 => {
                let limit = 1 + random.below(6);
                peer.scan(&mut random, limit);
            }
            59 if peer.at >= peer.catch_up => peer.rewind(),
            60..75 if !peer.outbox.is_empty() => {
                let message = peer.outbox.remove(0);
                if random.below(10) == 0 {
                    peer.outbox.insert(0, message.clone());
                } else if random.below(10) == 0 && !peer.outbox.is_empty() {
                    // Refused while the next one passes.
                    stream.push(peer.outbox.remove(0));
                }
                stream.push(message);
            }
            75..93 => peer.consume(&stream, 1 + random.below(5) as usize),
            93..96 => late.extend(peer.restart(stream.len())),
            _ if !late.is_empty() => stream.push(late.remove(0)),
            _ => {}
        }
    }
    for round in 0.. {
        assert!(round < 300, "does not come to rest");
        for peer in &mut peers {
            while !peer.has_read_all(&stream) {
                peer.consume(&stream, 50);
            }
            peer.applier.tidy().unwrap();
            if peer.unsettled() > 0 {
                peer.rewind();
            }
            peer.scan(&mut random, 100);
            stream.append(&mut peer.outbox);
        }
        if !late.is_empty() {
            stream.push(late.remove(0));
        } else if peers.iter().all(|peer| peer.has_read_all(&stream) && peer.unsettled() == 0) {
            break;
        }
    }
    let mut fresh = Peer::new(&dir, 99);
    while !fresh.has_read_all(&stream) {
        fresh.consume(&stream, stream.len());
    }
    for peer in &peers {
        assert_eq!(peer.contents(), fresh.contents(), "node {} differs from the stream", peer.id);
    }
    drop((peers, fresh));
    std::fs::remove_dir_all(dir).unwrap();
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn databases_converge_under_any_schedule() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let first = setting("HARMONYLITE_SEED", now);
    let count = setting("HARMONYLITE_DB_SCHEDULES", 150);
    println!("{count} schedules from HARMONYLITE_SEED={first}");
    for seed in first..first + count {
        println!("HARMONYLITE_DB_SCHEDULES=1 HARMONYLITE_SEED={seed}");
        schedule(seed);
    }
}

#[test]
fn log_ids_are_never_used_twice() {
    let dir = directory("ids");
    let mut peer = Peer::new(&dir, 1);
    let mut stream = vec![];
    let mut last = 0;
    for round in 0..20_i64 {
        peer.app.execute("INSERT OR REPLACE INTO t VALUES(?1, NULL, 1)", params![round % 3]).unwrap();
        peer.scan(&mut Random(round.unsigned_abs()), 10);
        stream.append(&mut peer.outbox);
        peer.consume(&stream, 10);
        assert_eq!(peer.unsettled(), 0);
        let (_, id) = Origin::parse_message_id(&stream[stream.len() - 1].id).unwrap();
        assert!(id > last, "id {id} after {last}");
        last = id;
        if round % 4 == 0 {
            peer.restart(stream.len());
        }
    }
    let rows: i64 =
        peer.app.query_row("SELECT count(*) FROM __harmonylite__log", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1, "the log keeps its newest row and no other");
    drop(peer);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_file_that_is_no_database_is_replaced() {
    let dir = std::env::temp_dir().join(format!("harmonylite-replace-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (path, with) = (dir.join("a.db"), dir.join("b.db"));
    for size in [0, 1, 511, 512, 4096, 100_000] {
        for page_size in [512, 4096, 65536] {
            let _ = std::fs::remove_file(&with);
            std::fs::write(&path, "x".repeat(size)).unwrap();
            let source = Connection::open(&with).unwrap();
            source
                .execute_batch(&format!(
                    "PRAGMA synchronous=OFF; PRAGMA page_size={page_size}; CREATE TABLE t(a); INSERT INTO t VALUES(1)"
                ))
                .unwrap();
            drop(source);
            let (_source, stop) = crate::base::stop::pair();
            assert!(
                replace_database(&path, &with, &stop, LastLook::IfPossible(&mut || Ok(())))
                    .unwrap_or_else(|error| panic!("{size} {page_size}: {error}"))
            );
            let found: String = Connection::open(&path)
                .unwrap()
                .query_row(
                    "SELECT a || (SELECT integrity_check FROM pragma_integrity_check) FROM t",
                    [],
                    |row| row.get(0),
                )
                .unwrap();
            assert_eq!(found, "1ok");
        }
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
