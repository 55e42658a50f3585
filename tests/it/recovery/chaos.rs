//! Whatever may happen to a small cluster, in random order: kills, stops, damaged and lost databases, lost and rotten
//! snapshots, a broker that goes away. In the end all nodes are equal, and nothing is missing that an application had written.

use crate::support::*;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn pick(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).unwrap()
    }
}

struct Cluster {
    nodes: Vec<Node>,
    nats: Nats,
    store: PathBuf,
    random: Random,
    /// Keys of rows that were committed and never deleted.
    written: Vec<String>,
    log: Vec<String>,
    begun: Instant,
}

impl Cluster {
    fn new(dir: &Dir, seed: u64) -> Cluster {
        let nats = Nats::start(dir);
        let store = dir.0.join("backups");
        let config = format!(
            "[snapshot]\nstore = \"file\"\nfile.path = {store:?}\nleader_ttl = 1000\ninterval = 2000\nkeep = 2\n"
        );
        let nodes = (1..=3).map(|id| {
            let node = Node::new(dir, id, &nats.url(), &config);
            node.keep_messages(300);
            node.sql(
                "CREATE TABLE own(k TEXT PRIMARY KEY, v, pad); CREATE INDEX ov ON own(v);
                 CREATE TABLE shared(id INTEGER PRIMARY KEY, u UNIQUE, v)",
            );
            node
        });
        let mut nodes: Vec<Node> = nodes.collect();
        nodes.iter_mut().for_each(Node::start_ready);
        Cluster {
            nodes,
            nats,
            store,
            random: Random(seed | 1),
            written: vec![],
            log: vec![],
            begun: Instant::now(),
        }
    }

    fn write(&mut self, at: usize, count: u64) {
        let connection = self.nodes[at].open();
        for _ in 0..count {
            let key = format!("{at}-{}", self.written.len());
            let sql = "INSERT INTO own VALUES(?1, ?2, zeroblob(200))";
            connection.execute(sql, (&key, self.random.below(100).cast_signed())).unwrap();
            self.written.push(key);
            let (id, u) = (self.random.below(40).cast_signed(), self.random.below(60).cast_signed());
            match self.random.below(4) {
                0 => connection.execute("DELETE FROM shared WHERE id = ?1", [id]),
                1 => connection.execute("UPDATE OR REPLACE shared SET u = ?1 WHERE id = ?2", [u, id]),
                _ => connection.execute("INSERT OR REPLACE INTO shared VALUES(?1, ?2, ?1)", [id, u]),
            }
            .unwrap();
        }
    }

    /// The other nodes write more than the streams keep, with pauses: a stream that keeps three hundred messages takes no more
    /// at once.
    fn run_away(&mut self, from: usize) {
        for _ in 0..6 {
            for at in (0..3).filter(|at| *at != from) {
                self.write(at, 50);
            }
            pause(40);
        }
    }

    fn position(&self, at: usize) -> i64 {
        let sql = "SELECT value FROM __harmonylite__state WHERE kind = 'seq'";
        self.nodes[at].open().query_row(sql, [], |row| row.get(0)).unwrap_or(0)
    }

    /// Waits until a node may be lost: all that it wrote came back, and another one has it too.
    fn settled(&mut self, at: usize) {
        // A node that falls behind in the middle of a transaction in pieces holds the others up for a minute (`-help promises`).
        wait_for("what it has is elsewhere too", 120, || {
            self.nodes.iter_mut().for_each(Node::assert_alive);
            let elsewhere = (0..3).any(|other| other != at && self.position(other) >= self.position(at));
            (self.nodes[at].unsettled() == 0 && elsewhere).then_some(())
        });
    }

    /// Starts a node, and waits until it is whole again: nothing worse may happen to the others before.
    fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let before = node.count("caught up with");
        node.start();
        wait_for("it is whole", 90, || {
            node.assert_alive();
            (node.count("caught up with") > before).then_some(())
        });
    }

    /// Waits until a damaged database was found and replaced: an application cannot write to it before.
    fn sound(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        wait_for("its database is sound", 60, || {
            node.assert_alive();
            let verdict = rusqlite::Connection::open(&node.database)
                .and_then(|c| c.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)));
            (verdict.is_ok_and(|text| text == "ok")).then_some(())
        });
    }

    /// Stops a node's process, but not in the middle of a transaction, which would keep the application out.
    fn freeze(&self, at: usize) {
        wait_for("it is stopped between two transactions", 60, || {
            self.nodes[at].signal("STOP");
            // All threads of the process must have stopped.
            pause(30);
            let connection = rusqlite::Connection::open(&self.nodes[at].database).unwrap();
            connection.busy_timeout(Duration::from_millis(300)).unwrap();
            let free = connection.execute_batch("BEGIN IMMEDIATE; COMMIT").is_ok();
            if !free {
                self.nodes[at].signal("CONT");
            }
            free.then_some(())
        });
    }

    fn remove_database(&self, at: usize) {
        self.nodes[at].remove_database();
    }

    fn act(&mut self) {
        const NAMES: [&str; 13] = [
            "write",
            "kill",
            "away",
            "behind",
            "no map",
            "older copy",
            "spoil",
            "lose",
            "live spoil",
            "header",
            "no snapshot",
            "rotten",
            "broker",
        ];
        let (at, what) = (self.random.pick(3), self.random.pick(NAMES.len()));
        self.log.push(format!("{} {}", NAMES[what], at + 1));
        eprintln!("{:6.1} {}", self.begun.elapsed().as_secs_f64(), self.log.last().unwrap());
        match what {
            0 => self.write(at, 40),
            1..=5 => self.process(at, what),
            6..=9 => self.database(at, what),
            _ => self.elsewhere(at, what),
        }
    }

    /// What happens to a node's process.
    fn process(&mut self, at: usize, what: usize) {
        match what {
            1 => {
                self.nodes[at].kill9();
                self.write(at, 20);
                self.start(at);
            }
            2 => {
                self.nodes[at].stop();
                self.write(at, 30);
                self.run_away(at);
                self.start(at);
            }
            3 => {
                self.freeze(at);
                self.write(at, 30);
                self.run_away(at);
                self.nodes[at].signal("CONT");
            }
            4 => {
                self.nodes[at].stop();
                let _ = std::fs::remove_file(self.nodes[at].dir.join("seq-map.cbor"));
                self.write(at, 10);
                self.start(at);
            }
            _ => self.older_copy(at),
        }
    }

    /// What happens to a database.
    fn database(&mut self, at: usize, what: usize) {
        self.settled(at);
        if what == 8 {
            return self.spoil_live(at);
        }
        self.nodes[at].stop();
        match what {
            6 => {
                self.nodes[at].checkpoint();
                self.spoil(at);
            }
            // A damaged header alone loses nothing, not even what waits to be published.
            9 => {
                self.write(at, 20);
                self.nodes[at].checkpoint();
                spoil(&self.nodes[at].database, 0, 100);
            }
            _ => {
                self.remove_database(at);
                if self.random.below(2) == 0 {
                    let _ = std::fs::remove_file(self.nodes[at].dir.join("seq-map.cbor"));
                }
            }
        }
        self.start(at);
        self.sound(at);
    }

    fn spoil_live(&mut self, at: usize) {
        self.nodes[at].checkpoint();
        let before = self.nodes[at].count("were carried over");
        self.spoil(at);
        self.write((at + 1) % 3, 20);
        // The damage may be in a page that is not read: the check after a start finds it.
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until && self.nodes[at].count("were carried over") == before {
            pause(20);
        }
        if self.nodes[at].count("were carried over") == before {
            self.nodes[at].kill9();
            self.start(at);
        }
        self.sound(at);
    }

    /// What happens to the store and to the broker.
    fn elsewhere(&mut self, at: usize, what: usize) {
        match what {
            10 => {
                let _ = std::fs::remove_dir_all(&self.store);
            }
            11 => {
                if let Ok(file) = std::fs::OpenOptions::new().write(true).open(self.store.join("snapshot.db"))
                {
                    let length = file.metadata().unwrap().len().max(1);
                    file.write_all_at(&[0x5a; 64], self.random.below(length)).unwrap();
                }
            }
            _ => {
                self.nats.kill();
                self.write(at, 20);
                pause(300 + self.random.below(1_000));
                self.nats.restart();
            }
        }
    }

    /// Overwrites a page or two of a database with garbage.
    fn spoil(&mut self, at: usize) {
        let pages = std::fs::metadata(&self.nodes[at].database).unwrap().len() / 4096;
        let page = self.random.below(pages.max(1));
        spoil(&self.nodes[at].database, page * 4096, 5000);
    }

    fn older_copy(&mut self, at: usize) {
        self.settled(at);
        self.nodes[at].stop();
        self.nodes[at].checkpoint();
        let copy = self.nodes[at].dir.join("copy");
        std::fs::copy(&self.nodes[at].database, &copy).unwrap();
        self.start(at);
        self.write(at, 10);
        self.settled(at);
        self.nodes[at].stop();
        self.remove_database(at);
        std::fs::rename(&copy, &self.nodes[at].database).unwrap();
        self.write(at, 10);
        self.start(at);
    }
}

#[test]
fn whatever_happens() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number_from_environment("HARMONYLITE_CHAOS_SEED").unwrap_or(u64::from(now.subsec_nanos()) | 1);
    let seconds = number_from_environment("HARMONYLITE_CHAOS").unwrap_or(20);
    eprintln!("HARMONYLITE_CHAOS_SEED={seed}");
    let dir = Dir::new("chaos");
    let mut cluster = Cluster::new(&dir, seed);
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        cluster.act();
    }
    let mut all: Vec<&mut Node> = cluster.nodes.iter_mut().collect();
    wait_equal(&mut all, 120);
    eprintln!("{:6.1} all are equal", cluster.begun.elapsed().as_secs_f64());
    let connection = cluster.nodes[0].open();
    let mut statement = connection.prepare("SELECT count(*) FROM own WHERE k = ?1").unwrap();
    let mut is_there = |key: &String| statement.query_row([key], |row| row.get::<_, i64>(0)).unwrap() == 1;
    let missing: Vec<&String> = cluster.written.iter().filter(|key| !is_there(key)).collect();
    assert!(
        missing.is_empty(),
        "{} rows of {} are missing: {missing:?}",
        missing.len(),
        cluster.written.len()
    );
    eprintln!("{} rows, {} events: {}", cluster.written.len(), cluster.log.len(), cluster.log.join(", "));
}
