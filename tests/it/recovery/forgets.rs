//! A broker that forgets: its data is wiped, its newest messages are lost, its streams are purged or deleted, under nodes of which each
//! had read up to another point. All become equal without a person, and no committed row is missing.

use crate::support::*;
use std::time::Instant;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, pad); CREATE TABLE u(id INTEGER PRIMARY KEY, name UNIQUE)";
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
fn three_at_three_points(dir: &Dir, nats: &mut Nats, extra: &str) -> Vec<Node> {
    let mut nodes: Vec<Node> =
        (1..=3).map(|id| Node::with_schema(dir, id, &nats.url(), extra, SCHEMA)).collect();
    nodes.iter_mut().for_each(Node::start_ready);
    insert(&nodes[0], 1, 100);
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    nats.kill();
    nats.keep();
    nats.restart();
    nodes[0].sql("UPDATE t SET v = 'crosses' WHERE id = 100");
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    nodes[1].signal("STOP");
    insert(&nodes[0], 101, 100);
    nodes[0].sql("DELETE FROM t WHERE id <= 10; UPDATE t SET v = 'first' WHERE id BETWEEN 11 AND 20");
    nodes[2].sql("INSERT INTO u VALUES(1, 'of the third'); DELETE FROM t WHERE id BETWEEN 41 AND 50");
    wait_for("the third one has it", 30, || (count(&nodes[2], "1") == 180).then_some(()));
    settled(&nodes[0]);
    settled(&nodes[2]);
    nodes[2].signal("STOP");
    insert(&nodes[0], 201, 100);
    nodes[0].sql("DELETE FROM t WHERE id BETWEEN 21 AND 30; UPDATE t SET v = 'second' WHERE id BETWEEN 15 AND 35");
    settled(&nodes[0]);
    nodes
}

/// What all of them must hold in the end, whatever else they wrote under ids from 1,000 on.
fn assert_nothing_is_missing(node: &Node) {
    let log = || node.log();
    assert_eq!(count(node, "id <= 10 OR id BETWEEN 21 AND 30 OR id BETWEEN 41 AND 50"), 0, "deleted: {}", log());
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
    let mut nodes = three_at_three_points(&dir, &mut nats, "");
    insert(&nodes[1], 1_001, 10);
    under_writers(&mut nodes, |nodes| {
        lose(&mut nats, how);
        nodes[1].signal("CONT");
        nodes[2].signal("CONT");
        wait_for("what was lost is everywhere", BOUND, || {
            let all = nodes.iter().all(|node| count(node, "id BETWEEN 1 AND 300") == 270);
            all.then_some(())
        });
    });
    nodes.iter().for_each(assert_nothing_is_missing);
    assert_eq!(count(&nodes[0], "id BETWEEN 1001 AND 1010"), 10);
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
    let mut nodes = three_at_three_points(&dir, &mut nats, "");
    nodes[0].kill9();
    lose(&mut nats, how);
    nodes[1].signal("CONT");
    nodes[2].signal("CONT");
    wait_for("the two are equal", BOUND, || {
        let equal = contents(&nodes[1].database) == contents(&nodes[2].database);
        (equal && count(&nodes[1], "1") == 180 && nodes[1].unsettled() + nodes[2].unsettled() == 0).then_some(())
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
