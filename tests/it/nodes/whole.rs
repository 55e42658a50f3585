//! Whole transactions: what one node commits, the applications of the others see whole or not at all.

use crate::support::proxy::Line;
use crate::support::*;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const ACCOUNTS: i64 = 20_000;
const SUM: i64 = ACCOUNTS * 100;

/// Two ledgers, each for a writer of its own: money moves between accounts, and each transfer is booked with the number of its
/// entries.
fn schema() -> String {
    let one = |n: usize| {
        format!(
            "CREATE TABLE account{n}(id INTEGER PRIMARY KEY, money INTEGER NOT NULL);
             CREATE TABLE transfer{n}(id INTEGER PRIMARY KEY, entries INTEGER NOT NULL);
             CREATE TABLE entry{n}(id INTEGER PRIMARY KEY, transfer INTEGER NOT NULL REFERENCES transfer{n}(id));"
        )
    };
    one(1) + &one(2)
}

fn fill(n: usize) -> String {
    format!(
        "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < {ACCOUNTS}) \
         INSERT INTO account{n} SELECT i, 100 FROM i"
    )
}

fn open(database: &Path) -> Connection {
    let connection = Connection::open(database).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection
}

/// What is wrong with what a reader sees in one moment; `None`: nothing.
fn torn(reader: &Connection, n: usize) -> Option<String> {
    let sql = format!(
        "SELECT (SELECT sum(money) FROM account{n}), (SELECT total(entries) FROM transfer{n}), \
         (SELECT count(*) FROM entry{n}), (SELECT count(*) FROM entry{n} WHERE transfer NOT IN (SELECT id FROM transfer{n}))"
    );
    let (sum, entries, there, orphans): (Option<i64>, f64, i64, i64) =
        reader.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    let is_right = sum.is_none_or(|sum| sum == SUM) && entries as i64 == there && orphans == 0;
    (!is_right)
        .then(|| format!("ledger {n}: sum {sum:?} of {SUM}, {there} of {entries} entries, {orphans} orphans"))
}

/// Looks again and again until it is stopped, as soon as there is a database.
fn look(database: &Path, stop: &AtomicBool, looks: &AtomicUsize) -> Vec<String> {
    while !database.exists() {
        if stop.load(Relaxed) {
            return vec![];
        }
        pause(5);
    }
    let reader = open(database);
    let mut found = vec![];
    while !stop.load(Relaxed) {
        for n in [1, 2] {
            found.extend(torn(&reader, n));
            looks.fetch_add(1, Relaxed);
        }
        pause(1);
    }
    found
}

/// One transfer: many accounts give one each to as many others.
fn transfer(app: &mut Connection, n: usize, id: i64, size: i64) {
    let transaction = app.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let half = (size / 2).clamp(1, ACCOUNTS / 2);
    let from = 1 + id * 7 % (ACCOUNTS - 2 * half + 1);
    let change = |by: i64, from: i64| {
        let sql = format!("UPDATE account{n} SET money = money + ?1 WHERE id BETWEEN ?2 AND ?3");
        transaction.execute(&sql, [by, from, from + half - 1]).unwrap();
    };
    change(-1, from);
    change(1, from + half);
    transaction.execute(&format!("INSERT INTO transfer{n} VALUES(?1, ?2)"), [id, half]).unwrap();
    let sql = format!(
        "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < ?2) \
         INSERT INTO entry{n}(transfer) SELECT ?1 FROM i"
    );
    transaction.execute(&sql, [id, half]).unwrap();
    transaction.commit().unwrap();
}

/// Sizes of transactions: mostly small ones, now and then one that takes many messages.
const SIZES: [i64; 12] = [2, 10, 3, 500, 2, 40, 3_000, 7, 20_000, 2, 100, 5];

fn write(database: &Path, n: usize, stop: &AtomicBool) -> i64 {
    let mut app = open(database);
    let mut id = 0;
    while !stop.load(Relaxed) {
        id += 1;
        let size = SIZES[id as usize % SIZES.len()];
        transfer(&mut app, n, id, size);
        // As many rows as single messages carry, too.
        pause(10 + size.unsigned_abs() / 4);
    }
    id
}

/// Ends the threads of a test, also when it fails: it would wait for them for ever.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// What is done meanwhile, round by round.
type Trouble<'a> = &'a mut dyn FnMut(&mut Nats, &mut Vec<Node>, u64);

/// Transfers on two of three nodes while `trouble` is made, which may add a fourth. `url`: where the second node finds the broker.
/// Returns the number of looks.
fn transfers(
    dir: &Dir,
    nats: &mut Nats,
    (config, url): (&str, &str),
    seconds: u64,
    trouble: Trouble<'_>,
) -> usize {
    let url_of = |id: u64| if id == 2 { url.to_owned() } else { nats.url() };
    let mut nodes: Vec<Node> =
        (1..=3).map(|id| Node::with_schema(dir, id, &url_of(id), config, &schema())).collect();
    nodes.iter_mut().for_each(Node::start_ready);
    nodes[0].sql(&fill(1));
    nodes[1].sql(&fill(2));
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 60);
    let mut databases: Vec<PathBuf> = nodes.iter().map(|node| node.database.clone()).collect();
    databases.push(dir.0.join("node-4/app.db"));
    let (stop, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    let found: Vec<String> = std::thread::scope(|scope| {
        let readers: Vec<_> =
            databases.iter().map(|database| scope.spawn(|| look(database, &stop, &looks))).collect();
        let writers = [(0, 1), (1, 2)].map(|(at, n)| {
            let (database, stop) = (&databases[at], &stop);
            scope.spawn(move || write(database, n, stop))
        });
        let ending = Ending(&stop);
        let until = Instant::now() + Duration::from_secs(seconds);
        for round in 0.. {
            if Instant::now() > until {
                break;
            }
            trouble(nats, &mut nodes, round);
        }
        drop(ending);
        println!("{:?} transfers", writers.map(|writer| writer.join().unwrap()));
        readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
    });
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 120);
    let looks = looks.load(Relaxed);
    assert!(found.is_empty(), "{} of {looks} looks are torn: {}", found.len(), found[0]);
    looks
}

#[test]
fn sums_and_foreign_keys_hold_at_every_moment_on_every_node() {
    for format in ["sets", "rows"] {
        let dir = Dir::new("whole");
        let mut nats = Nats::start(&dir);
        let config = format!("replication_log.format = \"{format}\"\nsnapshot.enabled = false\n");
        let url = nats.url();
        let looks = transfers(&dir, &mut nats, (&config, &url), 8, &mut |_, _, _| pause(100));
        println!("{format}: {looks} looks");
        assert!(looks > 500, "{looks}");
    }
}

/// Every process is killed, connections are cut, snapshots are made, and a node begins from nothing.
#[test]
fn no_kill_and_no_outage_tears_a_transaction() {
    let dir = Dir::new("whole-kills");
    let mut nats = Nats::start(&dir);
    let line = Line::before(nats.port);
    let config = "snapshot.leader_ttl = 1000\n";
    let looks = transfers(&dir, &mut nats, (config, &line.url()), 26, &mut |nats, nodes, round| {
        pause(700);
        match round % 7 {
            4 => nats.restart(),
            5 => {
                line.cut();
                pause(400);
                line.mend();
            }
            6 => {
                // A broker that is just back may be a reason to try again later.
                let output = nodes[round as usize / 7 % nodes.len()].command(&["-save-snapshot"]);
                assert!(matches!(output.status.code(), Some(0 | 75)), "{}", printed(&output));
                if nodes.len() == 3 {
                    let mut fresh = Node::new(&dir, 4, &nats.url(), config);
                    fresh.start();
                    nodes.push(fresh);
                }
            }
            which => {
                let count = nodes.len();
                let node = &mut nodes[which as usize % count];
                node.kill9();
                pause(300);
                node.start();
            }
        }
    });
    println!("torn looks: 0 of {looks}, with kills and outages");
    assert!(looks > 1_000, "{looks}");
    let begun = std::fs::read_to_string(dir.0.join("node-4/log")).unwrap();
    assert!(begun.contains("restored"), "{begun}");
}

#[test]
fn the_form_of_a_stream_is_changed_and_changed_back_under_writes_and_kills() {
    let dir = Dir::new("whole-form");
    let mut nats = Nats::start(&dir);
    let config = "replication_log.format = \"rows\"\nsnapshot.leader_ttl = 1000\n";
    let url = nats.url();
    transfers(&dir, &mut nats, (config, &url), 16, &mut |nats, nodes, round| {
        pause(500);
        if let Some(format) = [(3, "sets"), (12, "rows")].iter().find(|(at, _)| *at == round) {
            let done = nodes[2].command(&["-stream-format", format.1, "-json"]);
            assert_eq!(json(&done)["changed"][0], "harmonylite-changes-c-1", "{done:?}");
            let again = nodes[2].command(&["-stream-format", format.1]);
            assert!(printed(&again).contains("already"), "{again:?}");
        }
        match round % 3 {
            2 => nats.restart(),
            which => {
                nodes[which as usize].kill9();
                nodes[which as usize].start();
            }
        }
    });
    // Those that ran on learned of it when they were connected again.
    let said = |form: &str| {
        let log = |n: usize| std::fs::read_to_string(dir.0.join(format!("node-{n}/log"))).unwrap();
        (1..=3).any(|n| log(n).contains(&format!("changes are published as {form} from now on")))
    };
    assert!(said("sets") && said("rows"));
}
