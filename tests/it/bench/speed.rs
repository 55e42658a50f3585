//! Figures: speed, memory, what the application feels. `make bench` runs them; in CI the bars with room to spare.

use crate::nodes::tables::{feel, schema};
use crate::support::*;
use rusqlite::params;
use std::time::{Duration, Instant};

fn bulk(c: &rusqlite::Connection, rows: usize, per_transaction: usize) -> Duration {
    let text = "x".repeat(120);
    let begun = Instant::now();
    for _ in 0..rows / per_transaction {
        if per_transaction > 1 {
            c.execute_batch("BEGIN IMMEDIATE").unwrap();
        }
        let mut insert = c.prepare_cached("INSERT INTO t(v) VALUES(?1)").unwrap();
        for _ in 0..per_transaction {
            insert.execute([&text]).unwrap();
        }
        if per_transaction > 1 {
            c.execute_batch("COMMIT").unwrap();
        }
    }
    begun.elapsed()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Time of inserts with our triggers divided by the time without, measured in pairs; the daemon is stopped.
#[test]
fn inserts_with_our_triggers() {
    let dir = Dir::new("inserts");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)";
    let mut with = Node::with_schema(&dir, 1, &nats.url(), "", schema);
    with.start_ready();
    with.stop();
    let without = Node::with_schema(&dir, 2, &nats.url(), "", schema);
    let (a, b) = (without.open(), with.open());
    for (what, rows, per_transaction) in
        [("in transactions of 1,000", 40_000, 1_000), ("one by one", 4_000, 1)]
    {
        let ratios: Vec<f64> = (0..11)
            .map(|_| {
                let base = bulk(&a, rows, per_transaction);
                bulk(&b, rows, per_transaction).as_secs_f64() / base.as_secs_f64()
            })
            .collect();
        let ratio = median(ratios);
        println!("inserts {what}: {ratio:.2} times the time without triggers");
        assert!(ratio < 2.0, "inserts {what}: {ratio:.2}");
    }
}

#[test]
fn replication_speed_latency_and_rest() {
    let dir = Dir::new("speed");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE TABLE l(k INTEGER PRIMARY KEY)";
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "", schema);
    let mut two = Node::with_schema(&dir, 2, &nats.url(), "", schema);
    one.start_ready();
    two.start_ready();
    let (a, b) = (one.open(), two.open());
    let begun = Instant::now();
    bulk(&a, 20_000, 100);
    let mut count = b.prepare("SELECT count(*) FROM t").unwrap();
    wait_for("20,000 rows", 60, || {
        (count.query_row([], |r| r.get::<_, i64>(0)).unwrap() == 20_000).then_some(())
    });
    let rate = 20_000.0 / begun.elapsed().as_secs_f64();
    println!("20,000 rows in transactions of 100: {rate:.0} rows/s");
    assert!(rate > 3_000.0);
    let mut latencies = vec![];
    let mut look = b.prepare("SELECT 1 FROM l WHERE k = ?1").unwrap();
    for key in 0..300i64 {
        a.execute("INSERT INTO l VALUES(?1)", params![key]).unwrap();
        let committed = Instant::now();
        while !look.exists([key]).unwrap() {
            assert!(committed.elapsed() < Duration::from_secs(5), "a row did not arrive");
            // A reader that spins would take a processor away from those it waits for.
            std::thread::sleep(Duration::from_micros(100));
        }
        latencies.push(committed.elapsed().as_secs_f64() * 1e3);
        pause(7);
    }
    latencies.sort_by(f64::total_cmp);
    println!(
        "commit to visible on the other node: p50 {:.2} ms, p99 {:.2} ms",
        latencies[150], latencies[297]
    );
    assert!(latencies[150] < 15.0);
    pause(2_000);
    let (ticks, begun) = (cpu_ticks(one.pid()), Instant::now());
    pause(5_000);
    let used = (cpu_ticks(one.pid()) - ticks) as f64 / begun.elapsed().as_secs_f64();
    println!("at rest: {used:.2} % of one core, {} KiB resident (after the load)", one.memory().0);
    assert!(used < 2.0);
    wait_equal(&mut [&mut one, &mut two], 30);
}

#[test]
fn many_tables() {
    let dir = Dir::new("many-tables");
    let nats = Nats::start(&dir);
    let mut node = Node::with_schema(&dir, 1, &nats.url(), "snapshot.enabled = false", &schema(5_000));
    let felt = feel(&mut node);
    println!(
        "many tables (5,000): longest wait of a write {} ms at the first start, {} ms at a restart, {} ms when a table came (the application \
         reads the schema in {} ms); {} MiB resident, {} MiB at the peak",
        felt.first.as_millis(),
        felt.restart.as_millis(),
        felt.table.as_millis(),
        felt.reading.as_millis(),
        felt.resident >> 10,
        felt.peak >> 10
    );
    assert!(felt.beside_reading(felt.first).as_secs() < 1 && felt.beside_reading(felt.table).as_secs() < 1);
    assert!(felt.restart < Duration::from_millis(500));
    assert!(felt.resident < 32_000, "{} KiB", felt.resident);
}
