//! A broker that forgets, on real databases: nodes write and read in any order, the stream loses its newest messages or all of them,
//! nodes notice it at any time and go on, and compare themselves with one of them. In the end all hold what each application last
//! wrote. `HARMONYLITE_SEED` and `HARMONYLITE_LOSSES` repeat a run.

use super::*;
use crate::model::epoch::Epoch;
use crate::model::moments::Moments;
use crate::model::origin::Origin;
use crate::model::payload::Codec;
use crate::model::positions::Position;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[derive(Clone)]
struct Message {
    id: String,
    payload: Vec<u8>,
    time_ms: i64,
}

/// The broker's stream.
struct Stream {
    created: u64,
    messages: Vec<Message>,
    clock: i64,
}

impl Stream {
    fn store(&mut self, id: String, payload: Vec<u8>) {
        self.clock += 1;
        self.messages.push(Message { id, payload, time_ms: self.clock });
    }
}

struct Peer {
    id: u64,
    path: PathBuf,
    app: Connection,
    log: ChangeLog,
    applier: Applier,
    /// What its application last wrote, which writes rows of its own alone.
    wrote: BTreeMap<i64, i64>,
    /// Read, but not stored by the stream yet.
    sent: Vec<(String, Vec<u8>)>,
}

fn open(path: &Path, id: u64) -> Applier {
    Applier::open(path, id, &["s-1".to_owned()]).unwrap()
}

impl Peer {
    fn new(dir: &Path, id: u64) -> Peer {
        let path = dir.join(format!("{id}.db"));
        let app = Connection::open(&path).unwrap();
        app.execute_batch("PRAGMA synchronous=OFF; CREATE TABLE t(k INTEGER PRIMARY KEY, v)").unwrap();
        crate::db::open::prepare(&path, JournalMode::Switch).unwrap();
        crate::db::apply::ensure_state(&path).unwrap();
        let log = ChangeLog::open(&path, id).unwrap().0;
        let mut applier = open(&path, id);
        applier.set_position(0, &Position { seq: 0, created: "0".into() }).unwrap();
        Peer { id, path, app, log, applier, wrote: BTreeMap::new(), sent: vec![] }
    }

    fn write(&mut self, random: &mut Random) {
        let key = i64::try_from(random.below(8) * 10 + self.id).unwrap();
        if random.below(4) == 0 {
            self.app.execute("DELETE FROM t WHERE k = ?1", [key]).unwrap();
            self.wrote.remove(&key);
        } else {
            let value = i64::try_from(random.below(1_000_000)).unwrap();
            self.app.execute("INSERT OR REPLACE INTO t VALUES(?1, ?2)", [key, value]).unwrap();
            self.wrote.insert(key, value);
        }
    }

    /// Reads the log, and hands the events to the connection.
    fn publish(&mut self) {
        let mut codec = Codec::new(true).unwrap();
        let origin = self.log.origin().unwrap();
        for change in self.log.read(20).unwrap().changes {
            self.sent.push((origin.message_id(change.event.id, 0), codec.pack(&change.event).unwrap()));
        }
    }

    fn position(&self) -> Position {
        self.applier.position(0).unwrap().unwrap()
    }

    /// Looks at the stream as a reader does when it connects. True: it is not what it was.
    fn connect(&mut self, stream: &Stream) -> bool {
        let (position, created) = (self.position(), stream.created.to_string());
        let is_another = position.created != created;
        let lost = if is_another { Some(0) } else { lost_after(&self.applier.moments(0).unwrap(), stream) };
        let Some(seq) = lost else { return false };
        let position = Position { seq: seq.min(position.seq), created };
        self.applier.begin_anew(&[(0, position)], WhyAnew::Lost).unwrap();
        self.log.rewind();
        true
    }

    fn consume(&mut self, stream: &Stream, count: usize) {
        consume(&mut self.applier, stream, count);
    }

    fn unsettled(&self) -> i64 {
        let sql = "SELECT count(*) FROM __harmonylite__log WHERE t <> 0";
        self.app.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn rows(&self) -> BTreeMap<i64, i64> {
        let mut statement = self.app.prepare("SELECT k, v FROM t").unwrap();
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    }
}

fn lost_after(moments: &Moments, stream: &Stream) -> Option<u64> {
    let stored = |seq: u64| {
        let at = usize::try_from(seq - 1).unwrap();
        Ok::<_, ()>(stream.messages.get(at).map(|message| message.time_ms))
    };
    moments.lost_after((1, stream.messages.len() as u64), stored).unwrap()
}

fn consume(applier: &mut Applier, stream: &Stream, count: usize) {
    let at = usize::try_from(applier.position(0).unwrap().unwrap().seq).unwrap();
    let batch: Vec<Incoming> = (at..stream.messages.len())
        .take(count)
        .map(|at| {
            let (message, seq) = (&stream.messages[at], at as u64 + 1);
            let origin = Origin::parse_message_id(&message.id);
            let ends = Some(Ends { read: seq, checkpoint: seq });
            let (payload, time_ms) = (message.payload.clone(), message.time_ms);
            Incoming { stream: 0, seq, origin, time_ms, payload, ends }
        })
        .collect();
    let mut batch = &batch[..];
    while !batch.is_empty() {
        batch = &batch[applier.apply(batch).unwrap().events..];
    }
}

/// What the leader's snapshot does: the peer compares itself with it at its own position.
fn compare_with(peer: &mut Peer, snapshot: &Path, stream: &Stream, epoch: Epoch) {
    let copy = peer.path.with_extension("copy");
    std::fs::copy(snapshot, &copy).unwrap();
    make_ready(&copy, &Default::default()).unwrap();
    let (ours, mut theirs) = (peer.position().seq, open(&copy, peer.id));
    let at = theirs.position(0).unwrap().unwrap().seq;
    if at > ours {
        peer.consume(stream, usize::try_from(at - ours).unwrap());
    }
    let ours = peer.position().seq;
    consume(&mut theirs, stream, usize::try_from(ours - at.min(ours)).unwrap());
    drop(theirs);
    let comparison = compare(&peer.path, &copy).unwrap();
    peer.applier.reconcile(&comparison, Extra::OfWhoReadMore).unwrap();
    assert_eq!(peer.applier.epoch().unwrap(), (epoch, None));
    peer.log.rewind();
    std::fs::remove_file(copy).unwrap();
}

/// All nodes compare themselves with the one that had come farthest.
fn heal(peers: &mut [Peer], random: &mut Random, stream: &mut Stream, epoch: Epoch) {
    let next = epoch.after(epoch);
    for peer in peers.iter_mut() {
        if !peer.connect(stream) {
            // It hears of the loss from others.
            peer.applier.begin_anew(&[], WhyAnew::Others).unwrap();
            peer.log.rewind();
        }
    }
    let come = |peer: &mut Peer| {
        let standing = peer.applier.epoch().unwrap().1.unwrap();
        standing.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let come: Vec<u64> = peers.iter_mut().map(come).collect();
    let leader = (0..peers.len()).max_by_key(|at| come[*at]).unwrap();
    peers[leader].applier.adopt_epoch(next).unwrap();
    // A snapshot is stored when all that it holds has come back.
    while peers[leader].unsettled() > 0 {
        flush(&mut peers[leader], stream);
    }
    let dir = peers[leader].path.parent().unwrap().to_owned();
    let made = make_snapshot(&peers[leader].path, &dir, &Stamp::default()).unwrap();
    for (at, peer) in peers.iter_mut().enumerate().filter(|(at, _)| *at != leader) {
        if at % 2 == 0 && random.below(2) == 0 {
            flush(peer, stream);
        }
        compare_with(peer, made.file.path(), stream, next);
    }
}

fn flush(peer: &mut Peer, stream: &mut Stream) {
    peer.publish();
    for (id, payload) in std::mem::take(&mut peer.sent) {
        stream.store(id, payload);
    }
    peer.consume(stream, usize::MAX);
    if peer.unsettled() > 0 {
        peer.log.rewind();
    }
}

fn schedule(seed: u64) {
    let dir = std::env::temp_dir().join(format!("harmonylite-db-losses-{seed}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let mut random = Random(seed);
    let mut peers: Vec<Peer> = (1..=3).map(|id| Peer::new(&dir, id)).collect();
    let mut stream = Stream { created: 0, messages: vec![], clock: 0 };
    for _ in 0..3 {
        for _ in 0..60 {
            let which = usize::try_from(random.below(3)).unwrap();
            let peer = &mut peers[which];
            match random.below(10) {
                0..4 => peer.write(&mut random),
                4..6 => peer.publish(),
                6..8 if !peer.sent.is_empty() => {
                    let (id, payload) = peer.sent.remove(0);
                    stream.store(id, payload);
                }
                _ => peer.consume(&stream, usize::try_from(1 + random.below(6)).unwrap()),
            }
        }
        // The broker forgets. A connection may send on before its node has noticed, and one that has nothing to notice goes on.
        let kept = match random.below(3) {
            0 => {
                stream.created += 1;
                0
            }
            _ => {
                stream.messages.len()
                    - usize::try_from(random.below(1 + stream.messages.len() as u64)).unwrap()
            }
        };
        stream.messages.truncate(kept);
        for _ in 0..random.below(12) {
            let which = usize::try_from(random.below(3)).unwrap();
            let peer = &mut peers[which];
            match random.below(3) {
                0 => peer.write(&mut random),
                1 if !peer.sent.is_empty() => {
                    let (id, payload) = peer.sent.remove(0);
                    stream.store(id, payload);
                }
                _ => {
                    peer.connect(&stream);
                    flush(peer, &mut stream);
                }
            }
        }
        peers.iter_mut().for_each(|peer| peer.sent.clear());
        let epoch = peers[0].applier.epoch().unwrap().0;
        heal(&mut peers, &mut random, &mut stream, epoch);
    }
    for _ in 0..6 {
        peers.iter_mut().for_each(|peer| flush(peer, &mut stream));
    }
    let mut wrote = BTreeMap::new();
    peers.iter().for_each(|peer| wrote.extend(peer.wrote.clone()));
    for peer in &peers {
        assert_eq!(peer.unsettled(), 0);
        assert_eq!(peer.rows(), wrote, "node {} (seed {seed})", peer.id);
    }
    drop(peers);
    std::fs::remove_dir_all(dir).unwrap();
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn whatever_the_broker_forgets() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (first, count) = (setting("HARMONYLITE_SEED", now), setting("HARMONYLITE_LOSSES", 10));
    println!("{count} schedules from HARMONYLITE_SEED={first}");
    for seed in first..first + count {
        println!("HARMONYLITE_LOSSES=1 HARMONYLITE_SEED={seed}");
        schedule(seed);
    }
}
