//! An application with thousands of tables: what its writes wait for at the daemon's first start, at a restart, and when a table comes,
//! and what the daemon takes of memory.

use crate::support::*;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Statements that make tables with a row each, half of them with a UNIQUE column.
pub fn schema(tables: usize) -> String {
    let mut sql = "BEGIN;".to_owned();
    for n in 0..tables {
        let unique = if n % 2 == 0 { " UNIQUE" } else { "" };
        let _ = write!(
            sql,
            "CREATE TABLE \"table {n}\"(id INTEGER PRIMARY KEY, name TEXT{unique}, amount INTEGER, note TEXT); \
             INSERT INTO \"table {n}\" VALUES(1, 'x', 1, 'y');"
        );
    }
    sql + "COMMIT; CREATE TABLE main_table(id INTEGER PRIMARY KEY, v)"
}

/// The longest wait of an application's writes, while `body` runs.
pub fn longest_wait<T>(node: &mut Node, body: impl FnOnce(&mut Node) -> T) -> (T, Duration) {
    let (stop, longest) = (AtomicBool::new(false), AtomicU64::new(0));
    let app = node.open();
    let done = std::thread::scope(|scope| {
        let (stop, longest) = (&stop, &longest);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                app.execute("INSERT INTO main_table(v) VALUES('a row')", []).unwrap();
                longest.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
                pause(3);
            }
        });
        // What comes before is not its business: it has read the schema.
        pause(500);
        longest.store(0, Ordering::Relaxed);
        let done = body(node);
        stop.store(true, Ordering::Relaxed);
        done
    });
    (done, Duration::from_micros(longest.load(Ordering::Relaxed)))
}

/// What an application with many tables feels of a daemon.
pub struct Felt {
    pub first: Duration,
    pub restart: Duration,
    pub table: Duration,
    /// Resident memory after the start, in KiB.
    pub resident: u64,
}

pub fn feel(node: &mut Node) -> Felt {
    let (_, first) = longest_wait(node, Node::start_ready);
    assert_eq!(node.stop(), 0);
    let (_, restart) = longest_wait(node, Node::start_ready);
    let (_, table) = longest_wait(node, |node| {
        node.sql("CREATE TABLE new(id INTEGER PRIMARY KEY, v UNIQUE); INSERT INTO new VALUES(1, 'a')");
        wait_for("the new table is captured", 30, || {
            node.log().contains("table new is captured from now on; its 1 rows are published").then_some(())
        });
        pause(1_000);
    });
    let resident = node.memory().0;
    Felt { first, restart, table, resident }
}

#[test]
fn thousands_of_tables_do_not_hold_up_the_application() {
    let dir = Dir::new("tables");
    let nats = Nats::start(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "snapshot.enabled = false", &schema(2_000));
    let felt = feel(&mut one);
    println!(
        "2,000 tables: longest wait {:?} at the first start, {:?} at a restart, {:?} when a table came; {} KiB resident",
        felt.first, felt.restart, felt.table, felt.resident
    );
    assert!(felt.first < Duration::from_millis(1_000), "{:?}", felt.first);
    assert!(felt.restart < Duration::from_millis(300), "{:?}", felt.restart);
    // All connections read the schema anew then, the application's own first of all, and each needs a processor for it.
    assert!(felt.table < Duration::from_millis(2_000), "{:?}", felt.table);
    assert!(felt.resident < 120 << 10, "{} KiB", felt.resident);
    wait_for("all is settled", 30, || (one.unsettled() == 0).then_some(()));
    let triggers =
        "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND name GLOB '__harmonylite__[0-9]*'";
    assert_eq!(value(&one, triggers), format!("Integer({})", 2_002 * 3 + 1_001 * 2));
    let check: String = one.open().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

/// The first installation is many transactions; wherever it is killed, the next start goes on with it.
#[test]
fn a_first_start_that_is_killed_goes_on_at_the_next() {
    let dir = Dir::new("tables-killed");
    let nats = Nats::start(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "snapshot.enabled = false", &schema(1_000));
    for after in [100, 200, 300, 400] {
        one.start();
        pause(after);
        one.kill9();
    }
    one.start_ready();
    let triggers =
        "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND name GLOB '__harmonylite__[0-9]*'";
    assert_eq!(value(&one, triggers), format!("Integer({})", 1_001 * 3 + 500 * 2));
    assert_eq!(value(&one, "SELECT count(*) FROM __harmonylite__log"), "Integer(0)", "no row was logged");
    assert_eq!(
        value(&one, "SELECT count(*) FROM __harmonylite__state WHERE name = 'installing'"),
        "Integer(0)"
    );
    one.sql("INSERT INTO \"table 7\"(name) VALUES('new')");
    wait_for("it is published", 10, || (one.unsettled() == 0).then_some(()));
    assert_eq!(value(&one, "SELECT max(id) FROM __harmonylite__log"), "Integer(1)");
}
