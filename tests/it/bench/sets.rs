//! Figures of the change sets: what a row costs in the stream and on both sides, how fast a backlog is caught up with, how much
//! the daemon is in the application's way. One line each; `make bench` takes more rows than CI.

use crate::support::*;
use harmonylite::testing::nats::{Auth, JetStream};
use rusqlite::{Connection, TransactionBehavior, params};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b TEXT, n INTEGER); CREATE TABLE u(id INTEGER PRIMARY KEY, v)";

/// Rows for CI, and for a person who measures.
fn rows(in_ci: i64, measured: i64) -> i64 {
    if number_from_environment("HARMONYLITE_BENCH_MB").is_some() { measured } else { in_ci }
}

/// Rows of 90 bytes that do not compress, `per` in a transaction.
fn insert(app: &mut Connection, first: i64, count: i64, per: i64) {
    for begin in (first..first + count).step_by(usize::try_from(per).unwrap()) {
        let transaction = app.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let mut statement = transaction
            .prepare_cached("INSERT INTO t VALUES(?1, hex(randomblob(22)), hex(randomblob(22)), ?1 * 7)")
            .unwrap();
        for id in begin..(begin + per).min(first + count) {
            statement.execute([id]).unwrap();
        }
        drop(statement);
        transaction.commit().unwrap();
    }
}

fn has(node: &Node, count: i64) -> Option<()> {
    let there: i64 = node.open().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    (there == count).then_some(())
}

fn stream_bytes(js: &JetStream) -> u64 {
    js.stream("harmonylite-changes-c-1").unwrap().unwrap().state.bytes
}

/// Two nodes that have caught up.
fn pair(dir: &Dir, nats: &Nats) -> [Node; 2] {
    [1, 2].map(|id| {
        let mut node = Node::with_schema(dir, id, &nats.url(), "snapshot.enabled = false\n", SCHEMA);
        node.start_ready();
        node
    })
}

/// What rows cost, from the first commit until all of them are on the other node and settled here.
struct Cost {
    rows_per_second: f64,
    bytes_per_row: f64,
    /// Seconds of a processor for 100,000 rows, at the origin and at the receiver.
    processor: [f64; 2],
}

fn cost(count: i64, per: i64, broker: &str) -> Cost {
    let dir = Dir::new("cost-of-rows");
    let extra = format!("jetstream {{ store_dir: \"{}/js\", {broker} }}", dir.0.display());
    let nats = Nats::with(&dir, &nats_binaries()[0], &extra);
    let [one, two] = pair(&dir, &nats);
    let connection = connect_with(&nats.url(), Auth::default());
    connection.wait_up(Duration::from_secs(10)).unwrap();
    let js = JetStream::new(connection);
    let before = stream_bytes(&js);
    let ticks = [one.pid(), two.pid()].map(cpu_ticks);
    let begun = Instant::now();
    insert(&mut one.open(), 1, count, per);
    wait_for("all rows are there", 300, || has(&two, count));
    let seconds = begun.elapsed().as_secs_f64();
    wait_for("all came back", 60, || (one.unsettled() == 0).then_some(()));
    let used = [one.pid(), two.pid()].map(cpu_ticks);
    let of_100_000 = |at: usize| (used[at] - ticks[at]) as f64 / 100.0 * 100_000.0 / count as f64;
    let cost = Cost {
        rows_per_second: count as f64 / seconds,
        bytes_per_row: (stream_bytes(&js) - before) as f64 / count as f64,
        processor: [of_100_000(0), of_100_000(1)],
    };
    println!(
        "{count} rows in transactions of {per}{}: {:.0} rows/s, {:.0} bytes of stream each, processor for 100,000: {:.2} s at \
         the origin, {:.2} s at the receiver",
        if broker.is_empty() { "" } else { ", sync always" },
        cost.rows_per_second,
        cost.bytes_per_row,
        cost.processor[0],
        cost.processor[1]
    );
    cost
}

#[test]
fn what_a_row_costs() {
    let many = cost(rows(50_000, 200_000), 1_000, "");
    assert!(many.bytes_per_row <= 65.0, "{}", many.bytes_per_row);
    // Machines differ; what is spent twice shows nevertheless.
    assert!(many.processor[0] < 3.0 && many.processor[1] < 2.0, "{:?}", many.processor);
    let single = cost(rows(2_000, 20_000), 1, "");
    assert!(single.bytes_per_row <= 200.0, "{}", single.bytes_per_row);
    cost(20_000, 100, "");
    cost(20_000, 100, "sync_interval: always");
}

#[test]
fn catching_up_with_a_backlog() {
    let dir = Dir::new("backlog");
    let nats = Nats::start(&dir);
    let [one, mut two] = pair(&dir, &nats);
    two.stop();
    let count = rows(50_000, 1_000_000);
    insert(&mut one.open(), 1, count, 1_000);
    wait_for("all came back", 300, || (one.unsettled() == 0).then_some(()));
    let begun = Instant::now();
    two.start();
    wait_for("all rows are there", 300, || has(&two, count));
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    println!("catch-up with {count} rows: {rate:.0} rows/s, {} KiB at the peak", two.memory().1);
    assert!(rate > 5_000.0, "{rate}");
}

/// What an application notices of the daemon: transactions of ours beside its own 50 a second, and how many of those that read and
/// then write fail because somebody committed in between.
#[test]
fn in_the_applications_way() {
    let dir = Dir::new("way");
    let nats = Nats::start(&dir);
    let [one, two] = pair(&dir, &nats);
    let app = one.open();
    let version = || app.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).unwrap();
    let (mut seen, mut ours, begun) = (version(), 0, Instant::now());
    let seconds = rows(6, 20);
    for id in 0..seconds * 50 {
        app.execute("INSERT INTO t(id) VALUES(?1)", [id]).unwrap();
        while begun.elapsed() < Duration::from_millis(u64::try_from(id + 1).unwrap() * 20) {
            let now = version();
            ours += i64::from(now != seen);
            seen = now;
            pause(2);
        }
    }
    let rate = ours as f64 / seconds as f64;
    println!("transactions of the daemon beside 50 a second of the application: {rate:.2} a second");
    assert!(rate < 2.0, "{rate}");
    for arriving in [0, 200] {
        let (failed, tries) = read_then_write(&one, &two, arriving, rows(300, 1_500));
        println!("read, 2 ms, write, with {arriving} rows/s arriving: {failed} of {tries} fail");
        assert!(failed * if arriving == 0 { 20 } else { 2 } < tries, "{failed} of {tries}");
    }
}

fn read_then_write(one: &Node, two: &Node, arriving: u64, tries: i64) -> (i64, i64) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if arriving > 0 {
            let (other, stop) = (two.open(), &stop);
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    other.execute("INSERT INTO u(v) VALUES('x')", []).unwrap();
                    pause(1_000 / arriving);
                }
            });
        }
        let app = one.open();
        let mut failed = 0;
        for number in 0..tries {
            app.execute_batch("BEGIN").unwrap();
            app.query_row("SELECT count(*) FROM t WHERE id = ?1", [number], |_| Ok(())).unwrap();
            pause(2);
            let written = app.execute("UPDATE t SET n = ?1 WHERE id = 1", params![number]);
            let done = written.and_then(|_| app.execute_batch("COMMIT"));
            if done.is_err() {
                failed += 1;
                app.execute_batch("ROLLBACK").unwrap();
            }
            pause(4);
        }
        stop.store(true, Relaxed);
        (failed, tries)
    })
}
