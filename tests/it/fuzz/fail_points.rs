//! The daemon dies at each of its fail points, between every two steps from the change log into the database of another node, while
//! both nodes write; nothing is lost, and the nodes become equal.

use crate::support::*;
use harmonylite::testing::FAIL_POINTS;
use rusqlite::params;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

const SCHEMA: &str = "CREATE TABLE own(k TEXT PRIMARY KEY, v);
    CREATE TABLE shared(id INTEGER PRIMARY KEY, u UNIQUE, v);
    CREATE TABLE notes(id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT)";

/// Rows that a node's application has committed.
#[derive(Default)]
struct Written(AtomicI64);

/// Writes until it is told to stop: rows of its own, rows with keys by SQLite, and rows that the other node writes, too.
fn application(database: &std::path::Path, me: usize, written: &Written, stop: &AtomicBool) {
    let connection = rusqlite::Connection::open(database).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
    connection.execute_batch("PRAGMA synchronous=NORMAL").unwrap();
    while !stop.load(Relaxed) {
        let number = written.0.load(Relaxed);
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        for row in 0..10 {
            connection
                .execute("INSERT INTO own VALUES(?1, ?2)", params![format!("{me}-{number}-{row}"), number])
                .unwrap();
        }
        // No more than the block of keys of a node without a daemon holds.
        connection.execute("INSERT INTO notes(v) VALUES(?1)", [format!("{me}-{number}")]).unwrap();
        let (id, u) = (number * 7 % 11, number * 5 % 13);
        connection
            .execute("INSERT OR REPLACE INTO shared VALUES(?1, ?2, ?3)", params![id, u, me as i64])
            .unwrap();
        connection.execute_batch("COMMIT").unwrap();
        written.0.store(number + 1, Relaxed);
        pause(4);
    }
}

/// Both nodes write, and one of them dies at this point, in one of its first passes; then it is started again.
fn die_at(point: &str, number: usize, nodes: &mut [Node; 2], written: &[Written; 2]) {
    let victim = number % 2;
    nodes[victim].stop();
    // Some are rare.
    let pass = if ["keys taken", "sequence map written"].contains(&point) { 1 } else { 1 + number % 3 };
    nodes[victim].variables = vec![("HARMONYLITE_FAIL_POINT".to_owned(), format!("{point}:{pass}"))];
    let databases = nodes.each_ref().map(|node| node.database.clone());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        struct Stopping<'a>(&'a AtomicBool);
        impl Drop for Stopping<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }
        let _stopping = Stopping(&stop);
        for (me, database) in databases.iter().enumerate() {
            let (stop, written) = (&stop, &written[me]);
            scope.spawn(move || application(database, me, written, stop));
        }
        nodes[victim].start();
        assert_eq!(nodes[victim].wait_exit(30), -1, "{point}: a signal ends it");
        nodes[victim].variables.clear();
        pause(50);
        nodes[victim].start();
        pause(100);
    });
}

#[test]
fn a_death_between_any_two_steps_loses_nothing() {
    let dir = Dir::new("fail-points");
    let nats = Nats::start(&dir);
    let mut nodes = [1, 2].map(|id| Node::with_schema(&dir, id, &nats.url(), "", SCHEMA));
    nodes.iter_mut().for_each(Node::start_ready);
    let written = [Written::default(), Written::default()];
    for (number, point) in FAIL_POINTS.iter().enumerate() {
        eprintln!("{point}");
        die_at(point, number, &mut nodes, &written);
        let [one, two] = &mut nodes;
        wait_equal(&mut [one, two], 30);
        let transactions: i64 = written.iter().map(|written| written.0.load(Relaxed)).sum();
        for (sql, rows) in [("SELECT count(*) FROM own", 10), ("SELECT count(DISTINCT v) FROM notes", 1)] {
            assert_eq!(value(&nodes[0], sql), format!("Integer({})", rows * transactions), "{point}: {sql}");
        }
    }
}
