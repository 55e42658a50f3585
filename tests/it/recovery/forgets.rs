//! A broker that forgets: its data is wiped, its newest messages are lost, its streams are purged or deleted, under nodes of which each
//! had read up to another point. All become equal without a person, and no committed row is missing.

use crate::support::proxy::Line;
use crate::support::*;
use std::time::Instant;

const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v, pad); CREATE TABLE u(id INTEGER PRIMARY KEY, name UNIQUE)";
const STREAM: &str = "harmonylite-changes-c-1";
/// All that a loss may take, in seconds.
const BOUND: u64 = 20;

/// How the broker forgets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Wiped,
    Tail,
    Purged,
    Deleted,
}

fn insert(node: &Node, from: u64, count: u64) {
    node.sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {}) INSERT INTO t SELECT i, 'v' || i, hex(zeroblob(50)) FROM n",
        from + count - 1
    ));
}

fn settled(node: &Node) {
    wait_for("all came back", 30, || (node.unsettled() == 0).then_some(()));
}

/// The daemon stands still, but not inside a transaction of its own: its application could not write.
fn stand_still(node: &Node) {
    let application = node.open();
    application.busy_timeout(std::time::Duration::from_millis(100)).unwrap();
    wait_for("it stands still outside of a transaction", 20, || {
        node.signal("STOP");
        let free = application.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok();
        if !free {
            node.signal("CONT");
        }
        free.then_some(())
    });
}

fn count(node: &Node, filter: &str) -> i64 {
    node.open().query_row(&format!("SELECT count(*) FROM t WHERE {filter}"), [], |row| row.get(0)).unwrap()
}

/// The broker forgets, and is there again. A lost tail is what came since [`Nats::keep`].
fn lose(nats: &mut Nats, how: Loss) {
    match how {
        Loss::Wiped => {
            nats.kill();
            nats.wipe();
            nats.restart();
        }
        Loss::Tail => {
            nats.kill();
            nats.put_back();
            nats.restart();
        }
        Loss::Purged => {
            nats.client().purge_stream(STREAM).unwrap();
        }
        Loss::Deleted => {
            nats.client().delete_stream(STREAM).unwrap();
        }
    }
}

/// Three nodes: the first one has read all that it has written, the third one less, the second one still less. Rows were inserted,
/// changed and deleted in between, by the first and by the third.
/// The two live and are cut off; with `away` they are ended, too. The lines are in the order of the nodes.
fn three_at_three_points(dir: &Dir, nats: &mut Nats, extra: &str, away: bool) -> (Vec<Node>, Vec<Line>) {
    let lines: Vec<Line> = (0..3).map(|_| Line::before(nats.port)).collect();
    let mut nodes: Vec<Node> =
        (1..).zip(&lines).map(|(id, line)| Node::with_schema(dir, id, &line.url(), extra, SCHEMA)).collect();
    nodes.iter_mut().for_each(Node::start_ready);
    insert(&nodes[0], 1, 100);
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    nats.kill();
    nats.keep();
    nats.restart();
    nodes[0].sql("UPDATE t SET v = 'crosses' WHERE id = 100");
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    if away {
        assert_eq!(nodes[1].stop(), 0);
    }
    lines[1].cut();
    insert(&nodes[0], 101, 100);
    nodes[0].sql("DELETE FROM t WHERE id <= 10; UPDATE t SET v = 'first' WHERE id BETWEEN 11 AND 20");
    nodes[2].sql("INSERT INTO u VALUES(1, 'of the third'); DELETE FROM t WHERE id BETWEEN 41 AND 50");
    wait_for("the third one has it", 30, || (count(&nodes[2], "1") == 180).then_some(()));
    settled(&nodes[0]);
    settled(&nodes[2]);
    if away {
        assert_eq!(nodes[2].stop(), 0);
    }
    lines[2].cut();
    insert(&nodes[0], 201, 100);
    nodes[0].sql(
        "DELETE FROM t WHERE id BETWEEN 21 AND 30; UPDATE t SET v = 'second' WHERE id BETWEEN 15 AND 35",
    );
    settled(&nodes[0]);
    (nodes, lines)
}

/// What all of them must hold in the end, whatever else they wrote under ids from 1,000 on.
fn assert_nothing_is_missing(node: &Node) {
    let log = || node.log();
    assert_eq!(
        count(node, "id <= 10 OR id BETWEEN 21 AND 30 OR id BETWEEN 41 AND 50"),
        0,
        "deleted: {}",
        log()
    );
    assert_eq!(count(node, "id BETWEEN 1 AND 300"), 270, "{}", log());
    assert_eq!(count(node, "id BETWEEN 11 AND 14 AND v = 'first'"), 4, "{}", log());
    assert_eq!(count(node, "id BETWEEN 15 AND 35 AND v = 'second'"), 11, "{}", log());
    assert_eq!(value(node, "SELECT count(*) FROM u WHERE name = 'of the third'"), "Integer(1)");
}

fn all_equal(nodes: &mut [Node], what: &str) {
    let begun = Instant::now();
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 60);
    let took = begun.elapsed();
    eprintln!("{what}: equal after {:.1} s", took.as_secs_f64());
    assert!(took.as_secs() < BOUND, "{what}: {took:?}");
}

/// Applications write all the while, and no write waits for a second.
fn under_writers(nodes: &mut [Node], body: impl FnOnce(&mut [Node])) {
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (1..)
        .zip(nodes.iter())
        .map(|(number, node)| {
            let (application, stop) = (node.open(), stop.clone());
            std::thread::spawn(move || {
                let (mut id, mut slowest) = (1_000_000 * number, std::time::Duration::ZERO);
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    id += 1;
                    let begun = Instant::now();
                    application.execute("INSERT INTO t VALUES(?1, 'live', 1)", [id]).unwrap();
                    slowest = slowest.max(begun.elapsed());
                    pause(10);
                }
                (id - 1_000_000 * number, slowest)
            })
        })
        .collect();
    body(nodes);
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let written: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    all_equal(nodes, "after the writers");
    for (number, (rows, slowest)) in (1..).zip(written) {
        let filter = format!("id > {} AND id < {}", 1_000_000 * number, 1_000_000 * (number + 1));
        assert_eq!(count(&nodes[0], &filter), rows, "rows of node {number}");
        eprintln!("node {number}: {rows} rows, the slowest took {slowest:?}");
        assert!(slowest.as_millis() < 1_000, "{slowest:?}");
    }
}

fn three_nodes(how: Loss) {
    let dir = Dir::new(&format!("forgets-{how:?}"));
    let mut nats = Nats::start(&dir);
    let (mut nodes, lines) = three_at_three_points(&dir, &mut nats, "", false);
    insert(&nodes[1], 1_001, 10);
    under_writers(&mut nodes, |nodes| {
        lose(&mut nats, how);
        lines.iter().for_each(Line::mend);
        wait_for("what was lost is everywhere", BOUND, || {
            let all = nodes.iter().all(|node| count(node, "id BETWEEN 1 AND 300") == 270);
            all.then_some(())
        });
    });
    nodes.iter().for_each(assert_nothing_is_missing);
    assert_eq!(count(&nodes[0], "id BETWEEN 1001 AND 1010"), 10);
}

/// Two nodes whose applications write all the while; the second one has not read the last second of the first one's rows.
#[test]
fn wiped_under_two_live_writing_nodes() {
    let dir = Dir::new("forgets-two");
    let mut nats = Nats::start(&dir);
    let line = Line::before(nats.port);
    let mut nodes = vec![
        Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA),
        Node::with_schema(&dir, 2, &line.url(), "", SCHEMA),
    ];
    nodes.iter_mut().for_each(Node::start_ready);
    insert(&nodes[0], 1, 100);
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    under_writers(&mut nodes, |nodes| {
        line.cut();
        insert(&nodes[0], 101, 50);
        nodes[0].sql("DELETE FROM t WHERE id <= 10");
        let last = || -> i64 {
            let sql = "SELECT min(id) FROM __harmonylite__log WHERE t <> 0";
            nodes[0]
                .open()
                .query_row(sql, [], |row| row.get::<_, Option<i64>>(0))
                .unwrap()
                .unwrap_or(i64::MAX)
        };
        let before: i64 = nodes[0]
            .open()
            .query_row("SELECT max(id) FROM __harmonylite__log", [], |row| row.get(0))
            .unwrap();
        wait_for("the first one has its own rows back", 20, || (last() > before).then_some(()));
        assert_eq!(count(&nodes[1], "id BETWEEN 1 AND 150"), 100, "the second one has read them");
        lose(&mut nats, Loss::Wiped);
        line.mend();
        wait_for("what was lost is everywhere", BOUND, || {
            nodes.iter().all(|node| count(node, "id BETWEEN 1 AND 150") == 140).then_some(())
        });
    });
}

#[test]
fn wiped_under_three_nodes() {
    three_nodes(Loss::Wiped);
}

#[test]
fn a_tail_is_lost_under_three_nodes() {
    three_nodes(Loss::Tail);
}

#[test]
fn purged_under_three_nodes() {
    three_nodes(Loss::Purged);
}

#[test]
fn deleted_under_three_nodes() {
    three_nodes(Loss::Deleted);
}

/// The node that had read most is killed before the loss and comes back much later: its rows are still published, and what was
/// deleted meanwhile does not come back.
fn the_farthest_comes_back_late(how: Loss) {
    let dir = Dir::new(&format!("forgets-late-{how:?}"));
    let mut nats = Nats::start(&dir);
    let (mut nodes, lines) = three_at_three_points(&dir, &mut nats, "", true);
    nodes[0].kill9();
    lose(&mut nats, how);
    lines.iter().for_each(Line::mend);
    nodes[1].start();
    nodes[2].start();
    wait_for("the two are equal", BOUND, || {
        let equal = contents(&nodes[1].database) == contents(&nodes[2].database);
        (equal
            && count(&nodes[1], "id BETWEEN 1 AND 300") == 180
            && nodes[1].unsettled() + nodes[2].unsettled() == 0)
            .then_some(())
    });
    nodes[1].sql("DELETE FROM t WHERE id BETWEEN 101 AND 110");
    nodes[2].sql("UPDATE t SET v = 'later' WHERE id BETWEEN 111 AND 120");
    insert(&nodes[2], 2_001, 20);
    settled(&nodes[1]);
    settled(&nodes[2]);
    nodes[0].start();
    all_equal(&mut nodes, &format!("{how:?}, the farthest comes back late"));
    let node = &nodes[1];
    assert_eq!(count(node, "id BETWEEN 101 AND 110"), 0, "{}", nodes[0].log());
    assert_eq!(count(node, "id BETWEEN 111 AND 120 AND v = 'later'"), 10);
    assert_eq!(count(node, "id BETWEEN 201 AND 300"), 100, "{}", nodes[0].log());
    assert_eq!(count(node, "id BETWEEN 21 AND 30"), 0);
    assert_eq!(count(node, "id BETWEEN 15 AND 35 AND v = 'second'"), 11);
}

#[test]
fn wiped_and_the_farthest_comes_back_late() {
    the_farthest_comes_back_late(Loss::Wiped);
}

#[test]
fn a_tail_is_lost_and_the_farthest_comes_back_late() {
    the_farthest_comes_back_late(Loss::Tail);
}

/// Snapshots are disabled: each node publishes what had not come back, says that it cannot be compared, and goes on.
#[test]
fn without_snapshots_own_rows_are_published_and_it_is_said() {
    let dir = Dir::new("forgets-disabled");
    let mut nats = Nats::start(&dir);
    let (nodes, lines) = three_at_three_points(&dir, &mut nats, "snapshot.enabled = false", false);
    insert(&nodes[1], 1_001, 10);
    lose(&mut nats, Loss::Wiped);
    lines.iter().for_each(Line::mend);
    insert(&nodes[0], 1_101, 10);
    wait_for("own rows are everywhere", BOUND, || {
        nodes.iter().all(|node| count(node, "id > 1000") == 20).then_some(())
    });
    wait_for("it is said", BOUND, || {
        nodes
            .iter()
            .all(|node| node.count("snapshots are disabled: rows that only other nodes") == 1)
            .then_some(())
    });
}

/// All nodes were away while the stream dropped what none of them had read: they go on without a person.
#[test]
fn no_node_has_read_what_was_purged() {
    let dir = Dir::new("forgets-all-away");
    let mut nats = Nats::start(&dir);
    let (mut nodes, lines) = three_at_three_points(&dir, &mut nats, "snapshot.leader_ttl = 3000", true);
    assert_eq!(nodes[0].stop(), 0);
    for _ in 0..3 {
        nats.client().publish("harmonylite-change-log-1", "somebody's").unwrap();
    }
    lose(&mut nats, Loss::Purged);
    insert(&nodes[1], 1_001, 10);
    lines.iter().for_each(Line::mend);
    nodes.iter_mut().for_each(Node::start);
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 60);
    nodes.iter().for_each(assert_nothing_is_missing);
    assert_eq!(count(&nodes[0], "id BETWEEN 1001 AND 1010"), 10);
}

/// A stream in memory is named, once in the log and in health.
#[test]
fn a_broker_that_keeps_nothing_is_named() {
    let dir = Dir::new("forgets-memory");
    let nats = Nats::start(&dir);
    let config = nats::jetstream::StreamConfig {
        name: STREAM.to_owned(),
        subjects: vec!["harmonylite-change-log-1".to_owned()],
        storage: nats::jetstream::StorageType::Memory,
        ..Default::default()
    };
    nats.client().add_stream(&config).unwrap();
    let port = free_port();
    let extra = format!("health_check.enable = true\nhealth_check.bind = \"127.0.0.1:{port}\"");
    let mut node = Node::with_schema(&dir, 1, &nats.url(), &extra, SCHEMA);
    node.start_ready();
    wait_for("it is said", 10, || (node.count("in memory alone") == 1).then_some(()));
    wait_for("health says it", 10, || {
        health(port).1["problems"].to_string().contains("memory alone").then_some(())
    });
}

/// Whether the node has nothing to compare any more. A purge that took nothing from anybody is no loss.
fn is_in_step(node: &Node) -> bool {
    let sql = "SELECT count(*) FROM __harmonylite__state WHERE kind = 'epoch' AND name = 'standing'";
    value(node, sql) == "Integer(0)"
}

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Each application writes rows of its own alone, so that in the end each row must be as its application last wrote it.
fn write_own(node: &Node, id: i64, random: &mut Random, wrote: &mut std::collections::BTreeMap<i64, i64>) {
    let application = node.open();
    for _ in 0..random.below(30) {
        let (key, value) = (random.below(200).cast_signed() * 10 + id, random.below(1_000_000).cast_signed());
        if random.below(4) == 0 {
            application.execute("DELETE FROM t WHERE id = ?1", [key]).unwrap();
            wrote.remove(&key);
        } else {
            application.execute("INSERT OR REPLACE INTO t VALUES(?1, ?2, 'x')", [key, value]).unwrap();
            wrote.insert(key, value);
        }
    }
}

fn random_losses(seed: u64) {
    eprintln!("HARMONYLITE_SEED={seed}");
    let dir = Dir::new(&format!("forgets-random-{seed}"));
    let mut nats = Nats::start(&dir);
    let mut random = Random(seed);
    let mut nodes: Vec<Node> = (1..=3)
        .map(|id| Node::with_schema(&dir, id, &nats.url(), "snapshot.leader_ttl = 3000", SCHEMA))
        .collect();
    nodes.iter_mut().for_each(Node::start_ready);
    let mut wrote = std::collections::BTreeMap::new();
    for round in 0..2 {
        nats.kill();
        nats.keep();
        nats.restart();
        let mut still = [false; 3];
        for _ in 0..8 {
            let at = random.below(3) as usize;
            match random.below(8) {
                0 => {
                    if still[at] {
                        nodes[at].signal("CONT");
                    } else {
                        stand_still(&nodes[at]);
                    }
                    still[at] = !still[at];
                }
                1 if !still[at] => {
                    nodes[at].kill9();
                    nodes[at].start();
                }
                2 => nats.restart(),
                _ => write_own(&nodes[at], at as i64 + 1, &mut random, &mut wrote),
            }
            pause(random.below(300));
        }
        let how =
            [Loss::Wiped, Loss::Tail, Loss::Tail, Loss::Purged, Loss::Deleted][random.below(5) as usize];
        eprintln!("round {round}: {how:?}");
        lose(&mut nats, how);
        for (at, node) in nodes.iter().enumerate() {
            write_own(node, at as i64 + 1, &mut random, &mut wrote);
            if still[at] {
                node.signal("CONT");
            }
        }
        all_equal(&mut nodes, &format!("seed {seed}, {how:?}"));
        wait_for("all have compared themselves", BOUND, || nodes.iter().all(is_in_step).then_some(()));
        let mut statement = nodes[0].open();
        let transaction = statement.transaction().unwrap();
        let mut query = transaction.prepare("SELECT id, v FROM t").unwrap();
        let rows: std::collections::BTreeMap<i64, i64> =
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows, wrote, "seed {seed}, {how:?}");
    }
}

/// Whatever order of writes, kills, standstills and losses.
#[test]
fn whatever_order_of_losses() {
    let first = number_from_environment("HARMONYLITE_SEED").unwrap_or(1);
    let count = number_from_environment("HARMONYLITE_LOSSES").unwrap_or(3);
    (first..first + count).for_each(random_losses);
}
