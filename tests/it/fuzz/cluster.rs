//! Three nodes with their applications and their broker, in rounds: all write while things go wrong, then all must be equal.

use super::application::{Application, State};
use super::history::{Change, Conflict, History};
use super::random::Random;
use super::statements::Writer;
use super::stream;
use super::tables::{self, Migration, Table};
use super::tally::Tally;
use crate::support::proxy::Line;
use crate::support::*;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Seconds until all nodes are equal after the last fault of a round.
const EQUAL_WITHIN: u64 = 90;

/// KiB of resident memory that no daemon needs.
const MEMORY: u64 = 64 << 10;

/// What works on a node's database, besides the daemon.
pub struct Desk {
    pub node: u64,
    pub application: Application,
    pub writer: Writer,
    pub tables: Vec<Table>,
    history: Vec<Change>,
    pub tally: Tally,
}

impl Desk {
    /// One transaction.
    fn write(&mut self) {
        let transaction = self.writer.transaction(&self.tables);
        let statements: Vec<&str> = transaction.statements.iter().map(|(_, sql)| sql.as_str()).collect();
        let done = self.application.transaction(&statements, transaction.commit);
        self.tally.count("transactions");
        if !transaction.commit {
            self.tally.count("ROLLBACK");
        }
        for ((what, sql), result) in transaction.statements.iter().zip(done.done) {
            // A savepoint changes no row.
            let has_effect =
                result.as_i64().is_some_and(|rows| rows > 0 || !sql.contains("INTO") && rows == -1);
            match what {
                Some(what) if has_effect => self.tally.count(what),
                Some(_) if result.is_string() => self.tally.count("refused"),
                _ => {}
            }
        }
        self.tally.add("rows", done.changes.len() as u64);
        self.history.extend(done.changes);
    }
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    pub lines: Vec<Line>,
    pub nats: Nats,
    pub desks: Arc<Vec<Mutex<Desk>>>,
    pub random: Random,
    pub migrations: Vec<Migration>,
    /// A node whose daemon lives as long as the schedule.
    pub lasting: Option<usize>,
    /// How often each node was given a new database.
    pub lives: [u64; 3],
    pub tally: Tally,
    pids: Vec<u32>,
    conflicts: Vec<Conflict>,
    /// Entries of the lists that were read before: node, life of its database, number.
    listed: BTreeSet<(usize, u64, i64)>,
    /// As all left it at the end of the last round.
    before: State,
    /// The README: between tables of different streams there is no order, so an orphan may go unsaid.
    tells_orphans: bool,
    /// A change of the schema is made on one node, and the others follow. Otherwise each node is migrated by itself, so that they lag
    /// behind each other.
    pub travels: bool,
    begun: Instant,
    dir: PathBuf,
}

/// Tells the writers to stop, also when a fault panics.
struct Running<'a>(&'a AtomicBool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl Cluster {
    pub fn start(dir: &Dir, seed: u64) -> Cluster {
        let (mut random, mut tally) = (Random::new(seed), Tally::default());
        let nats = Nats::start(dir);
        let first = tables::first(&mut random, &mut tally);
        let shards = random.of(&[1, 1, 1, 3]);
        let travels = random.one_in(2);
        let config = configuration(dir, shards, travels, &mut random);
        let lines: Vec<Line> = (0..3).map(|_| Line::before(nats.port)).collect();
        let mut nodes: Vec<Node> = (1..)
            .zip(&lines)
            .map(|(id, line)| Node::with_schema(dir, id, &line.url(), &config, &first.statements.join(";\n")))
            .collect();
        nodes.iter_mut().for_each(Node::start_ready);
        let desks = (1..).zip(&nodes).map(|(node, site)| {
            Mutex::new(Desk {
                node,
                application: Application::start(site),
                writer: Writer::new(node, random.fork()),
                tables: first.tables.clone(),
                history: vec![],
                tally: Tally::default(),
            })
        });
        let desks = Arc::new(desks.collect());
        let lasting = random.one_in(2).then(|| random.place(3));
        let pids = nodes.iter().map(Node::pid).collect();
        tally.count("schedules");
        tally.count(if travels { "schedules with schema = travel" } else { "schedules with schema = own" });
        let mut cluster = Cluster {
            nodes,
            lines,
            nats,
            desks,
            random,
            migrations: vec![first],
            lasting,
            lives: [0; 3],
            tally,
            pids,
            conflicts: vec![],
            listed: BTreeSet::new(),
            before: State::default(),
            tells_orphans: shards == 1,
            travels,
            begun: Instant::now(),
            dir: dir.0.clone(),
        };
        cluster.before = cluster.state();
        cluster
    }

    /// All applications write while these things happen; then all nodes must be equal, and nothing may be lost.
    pub fn round(&mut self, faults: &[&'static str]) {
        let (stop, desks) = (AtomicBool::new(false), self.desks.clone());
        std::thread::scope(|scope| {
            let _running = Running(&stop);
            for desk in desks.iter() {
                scope.spawn(|| work(desk, &stop));
            }
            pause(200 + self.random.below(400));
            for fault in faults {
                self.fault(fault);
                pause(self.random.below(500));
            }
        });
        self.become_equal();
        self.judge();
        self.tally.count("rounds");
    }

    /// A line of what happens, for whoever looks for the cause of a failure.
    pub fn say(&self, what: &str) {
        eprintln!("{:7.2} {what}", self.begun.elapsed().as_secs_f64());
    }

    /// A node's daemon is started, and expected to run from now on.
    pub fn start_daemon(&mut self, at: usize) {
        self.nodes[at].start();
        self.pids[at] = self.nodes[at].pid();
    }

    fn become_equal(&mut self) {
        let until = Instant::now() + Duration::from_secs(EQUAL_WITHIN);
        self.say("waiting until all are equal");
        loop {
            self.nodes.iter_mut().for_each(Node::assert_alive);
            let settled = self.nodes.iter().all(|node| node.unsettled() == 0);
            let texts: Vec<String> = self.nodes.iter().map(|node| contents(&node.database)).collect();
            if settled && texts.iter().all(|text| *text == texts[0]) {
                return self.say("all are equal");
            }
            if Instant::now() > until {
                let logs: Vec<i64> = self.nodes.iter().map(Node::unsettled).collect();
                panic!("not equal after {EQUAL_WITHIN} s; unsettled: {logs:?}\n{}", differences(&texts));
            }
            pause(50);
        }
    }

    /// What all nodes show their applications, which must be the same.
    fn state(&mut self) -> State {
        let mut states = self.desks.iter().map(|desk| desk.lock().unwrap().application.state());
        let first = states.next().unwrap();
        for state in states {
            assert!(state.rows == first.rows, "what applications see differs");
            assert_eq!(state.orphans, first.orphans);
        }
        first
    }

    fn judge(&mut self) {
        let now = self.state();
        let mut history = History::default();
        for desk in self.desks.iter() {
            let mut desk = desk.lock().unwrap();
            let node = desk.node;
            std::mem::take(&mut desk.history).into_iter().for_each(|change| history.add(node, change));
            self.tally.take_in(&mut desk.tally);
        }
        (0..3).for_each(|at| self.take_conflicts(at));
        let mut faults = history.faults(&self.before, &now, &self.conflicts);
        if self.tells_orphans {
            faults.extend(history.orphans(&self.before, &now, &self.conflicts));
        }
        if !faults.is_empty() {
            stream::write_down(&self.nats.url(), &self.dir.join("stream.txt"));
            std::fs::write(self.dir.join("history.txt"), history.text(&self.conflicts)).unwrap();
        }
        assert!(faults.is_empty(), "{} rows are not as they must be:\n{}", faults.len(), faults.join("\n"));
        for conflict in self.conflicts.drain(..) {
            self.tally.count(match conflict.kind.as_str() {
                "insert" => "conflicts of kind insert",
                "update" => "conflicts of kind update",
                "delete" => "conflicts of kind delete",
                "unique" => "conflicts of kind unique",
                "orphan" => "conflicts of kind orphan",
                _ => "other conflicts",
            });
        }
        self.before = now;
        for (node, pid) in self.nodes.iter().zip(&self.pids) {
            assert_eq!(node.pid(), *pid);
            assert_eq!(node.count("panicked"), 0, "{}", node.log());
            // What a change of the schema let go on may be applied a moment after all are equal.
            wait_for("nothing is set aside", 20, || {
                json(&node.command(&["-set-aside", "-json"])).as_array().unwrap().is_empty().then_some(())
            });
            let memory = node.memory().0;
            assert!(memory < MEMORY, "{memory} KiB of memory");
        }
    }

    /// Reads a node's list of conflicts, which is gone with its database.
    pub fn take_conflicts(&mut self, at: usize) {
        for entry in json(&self.nodes[at].command(&["-conflicts", "-json"])).as_array().unwrap() {
            if self.listed.insert((at, self.lives[at], entry["id"].as_i64().unwrap())) {
                self.conflicts.push(Conflict::read(entry));
            }
        }
    }

    /// KiB of resident memory of the daemon that lives as long as the schedule.
    pub fn lasting_memory(&self) -> Option<u64> {
        self.lasting.map(|at| self.nodes[at].memory().0)
    }
}

/// What all nodes of a schedule have in common.
fn configuration(dir: &Dir, shards: u64, travels: bool, random: &mut Random) -> String {
    let store = dir.0.join("backups");
    let format = random.of(&["sets", "sets", "sets", "rows"]);
    // A change of the schema does not travel in a stream of rows.
    let format = if travels { "sets" } else { format };
    let schema = if travels { "travel" } else { "own" };
    format!(
        "schema = {schema:?}\nreplication_log.shards = {shards}\nreplication_log.format = {format:?}\n\
         [snapshot]\nstore = \"file\"\nfile.path = {store:?}\nleader_ttl = 1000\nkeep = 2\n"
    )
}

/// An application's work until it is told to stop.
fn work(desk: &Mutex<Desk>, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        let rest = {
            let mut desk = desk.lock().unwrap();
            for _ in 0..desk.writer.random().of(&[1, 1, 1, 8]) {
                desk.write();
            }
            desk.writer.random().below(30)
        };
        pause(5 + rest);
    }
}

/// The lines that not all nodes have.
fn differences(texts: &[String]) -> String {
    let lines: Vec<BTreeSet<&str>> = texts.iter().map(|text| text.lines().collect()).collect();
    let mut told = vec![];
    for (at, own) in (1..).zip(&lines) {
        let odd = own.iter().filter(|line| !lines.iter().all(|other| other.contains(*line)));
        told.extend(
            odd.take(12).map(|line| format!("node {at}: {}", line.chars().take(300).collect::<String>())),
        );
    }
    told.join("\n")
}
