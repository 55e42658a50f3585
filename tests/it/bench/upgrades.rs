//! Figures of changes of the schema on three nodes that write: how soon the others follow, how soon all are equal again, how long an
//! application waits.

use crate::nodes::travel::{CHANGES, Writer, only_schema, shape, three, write};
use crate::support::*;
use std::time::{Duration, Instant};

/// Pause of each of three writers, which run two statements between: 500 statements a second in all.
const PAUSE_MS: u64 = 11;

/// `round`: their keys are no earlier round's.
fn writers(nodes: &[Node], round: usize) -> Vec<Writer> {
    let name = |at: usize| format!("{at}-{round}");
    let all = nodes.iter().zip(1..).map(|(node, at)| write(node, &name(at), PAUSE_MS)).collect();
    pause(500);
    all
}

/// The beginning of a change, for a line.
fn named(change: &str) -> &str {
    &change[..change.len().min(50)]
}

#[test]
fn each_node_is_upgraded_after_the_other() {
    let dir = Dir::new("upgrades-own");
    let nats = Nats::start(&dir);
    let mut nodes = three(&dir, &nats, "schema = \"own\"\n");
    let mut longest = Duration::ZERO;
    for (round, change) in CHANGES.into_iter().enumerate() {
        let writers = writers(&nodes, round);
        nodes[0].sql(change);
        pause(700);
        nodes[1].sql(&only_schema(change));
        pause(700);
        let last = Instant::now();
        nodes[2].sql(&only_schema(change));
        pause(300);
        // None of their statements failed.
        let _: u64 = writers.into_iter().map(Writer::end).sum();
        wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
        let took = last.elapsed();
        println!("{}...: equal {} ms after the last node's upgrade", named(change), took.as_millis());
        longest = longest.max(took);
    }
    assert!(longest < Duration::from_secs(10), "{longest:?}");
}

#[test]
fn all_nodes_follow_one() {
    let dir = Dir::new("upgrades-travel");
    let nats = Nats::start(&dir);
    let mut nodes = three(&dir, &nats, "");
    let writers = writers(&nodes, 0);
    let mut longest = Duration::ZERO;
    let mut follow = |what: &str, nodes: &[Node], change: &dyn Fn()| {
        let begun = Instant::now();
        change();
        let own = begun.elapsed();
        let wanted = shape(&nodes[0]);
        let has = |node: &Node| shape(node) == wanted;
        wait_for("the others follow", 15, || nodes[1..].iter().all(has).then_some(()));
        let took = begun.elapsed();
        println!("{what}...: {} ms here, {} ms until both others follow", own.as_millis(), took.as_millis());
        longest = longest.max(took);
        pause(300);
    };
    for change in CHANGES {
        follow(named(change), &nodes, &|| nodes[0].sql(change));
    }
    let script = dir.0.join("script.sql");
    std::fs::write(&script, "ALTER TABLE t ADD COLUMN s; CREATE TABLE more(id INTEGER PRIMARY KEY); UPDATE t SET s = n WHERE n < 9").unwrap();
    follow("-migrate", &nodes, &|| {
        let output = nodes[0].command(&["-migrate", script.to_str().unwrap()]);
        assert!(
            output.status.success() && printed(&output).matches(": done").count() == 3,
            "{}",
            printed(&output)
        );
    });
    let _: u64 = writers.into_iter().map(Writer::end).sum();
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    assert!(longest < Duration::from_secs(if is_measured() { 2 } else { 6 }), "{longest:?}");
}

/// A person measures, and nothing else runs.
fn is_measured() -> bool {
    number_from_environment("HARMONYLITE_BENCH_MB").is_some()
}

#[test]
fn a_large_table_is_changed() {
    let rows = if is_measured() { 1_000_000 } else { 50_000 };
    let dir = Dir::new("upgrades-large");
    let nats = Nats::start(&dir);
    let mut nodes = three(&dir, &nats, "");
    nodes[0].sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO t SELECT 'r' || i, hex(randomblob(20)), i FROM n"
    ));
    wait_for("all rows are there", 120, || {
        let count = format!("Integer({rows})");
        nodes.iter().all(|node| value(node, "SELECT count(*) FROM t") == count).then_some(())
    });
    let writers = writers(&nodes, 0);
    let rebuild = "BEGIN IMMEDIATE; CREATE TABLE x(id TEXT PRIMARY KEY, a TEXT, n INTEGER, e TEXT NOT NULL DEFAULT 'e'); \
                   INSERT INTO x(id, a, n) SELECT id, a, n FROM t; DROP TABLE t; ALTER TABLE x RENAME TO t; COMMIT";
    for change in [
        "ALTER TABLE t ADD COLUMN b TEXT",
        "CREATE UNIQUE INDEX tn ON t(id, n)",
        "ALTER TABLE t DROP COLUMN b",
        rebuild,
    ] {
        let begun = Instant::now();
        nodes[0].sql(change);
        let own = begun.elapsed();
        wait_for("the others follow", 120, || {
            let wanted = shape(&nodes[0]);
            nodes[1..].iter().all(|node| shape(node) == wanted).then_some(())
        });
        let took = begun.elapsed();
        println!(
            "{rows} rows, {}...: {} ms here, {} ms until both others follow",
            named(change),
            own.as_millis(),
            took.as_millis()
        );
    }
    // None of their statements failed, but for a lock that SQLite's busy timeout of 20 s does not outwait.
    let _: u64 = writers.into_iter().map(Writer::end).sum();
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 120);
}
