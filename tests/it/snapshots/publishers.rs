//! Several publishers, one leader: kills, stops longer than the lease, clocks an hour apart. What stands in the store only
//! ever goes forward, and a new leader is there in time.

use crate::support::*;
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Instant;

const TTL_MS: u64 = 1_500;

fn with_clock(node: &mut Node, offset: &str) {
    let library = faketime();
    node.variables = vec![
        ("LD_PRELOAD".into(), library.display().to_string()),
        ("FAKETIME".into(), offset.into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
    ];
}

/// The newest label in the store's description: position and time of making.
fn described(root: &Path) -> Option<(u64, i64)> {
    let text = std::fs::read(root.join("snapshot.db.json")).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let label = &value["snapshots"][0];
    let position = label["position"].as_str().unwrap_or("=0").rsplit('=').next().unwrap().parse().unwrap();
    Some((position, label["time"].as_str().unwrap().parse().unwrap()))
}

/// Rows in the stored snapshot; it must be whole at any moment.
fn rows(root: &Path, scratch: &Path) -> Option<u64> {
    let copied = std::fs::copy(root.join("snapshot.db"), scratch);
    copied.ok()?;
    let connection = Connection::open(scratch).unwrap();
    let verdict: String = connection.query_row("PRAGMA quick_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    let rows: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    Some(u64::try_from(rows).unwrap())
}

/// Looks at the store all the time: the stored position and number of rows must never go back.
fn watcher(
    dir: &Dir,
    root: &Path,
    over: &Arc<AtomicBool>,
    looks: &Arc<AtomicU64>,
) -> std::thread::JoinHandle<()> {
    let (root, over, looks, scratch) =
        (root.to_owned(), over.clone(), looks.clone(), dir.0.join("scratch.db"));
    std::thread::spawn(move || {
        let (mut position, mut most) = (0, 0);
        while !over.load(SeqCst) {
            if let Some((now, _)) = described(&root) {
                assert!(now >= position, "the stored position went back from {position} to {now}");
                position = now;
            }
            if let Some(now) = rows(&root, &scratch) {
                assert!(now >= most, "the stored snapshot went back from {most} to {now} rows");
                most = now;
                looks.fetch_add(1, SeqCst);
            }
            pause(15);
        }
    })
}

fn leaders(nodes: &[Node]) -> Vec<usize> {
    let leads = |node: &Node| {
        let log = node.log();
        let last = |text: &str| log.rfind(text).map_or(-1, |at| i64::try_from(at).unwrap());
        let lost =
            last("no longer the leader").max(last("released the leader")).max(last("INFO  harmonylite "));
        last("this node is the leader") > lost
    };
    (0..nodes.len()).filter(|at| leads(&nodes[*at])).collect()
}

#[test]
fn two_publishers() {
    nobody_undoes_another_ones_upload(2, 4);
}

#[test]
fn three_publishers() {
    nobody_undoes_another_ones_upload(3, 8);
}

fn nobody_undoes_another_ones_upload(count: u64, rounds: usize) {
    let dir = Dir::new("publishers");
    let nats = Nats::start(&dir);
    let root = dir.0.join("backups");
    let config = format!(
        "[snapshot]\nstore = \"file\"\nfile.path = {root:?}\nleader_ttl = {TTL_MS}\ninterval = 700\n"
    );
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v, pad)";
    let mut nodes: Vec<Node> =
        (1..=count).map(|id| Node::with_schema(&dir, id, &nats.url(), &config, schema)).collect();
    for (node, offset) in nodes[1..].iter_mut().zip(["+1h", "-1h"]) {
        with_clock(node, offset);
    }
    nodes.iter_mut().for_each(Node::start_ready);
    let (over, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let watching = watcher(&dir, &root, &over, &looks);
    let writing = {
        let (path, over) = (nodes[0].database.clone(), over.clone());
        std::thread::spawn(move || {
            let connection = Connection::open(path).unwrap();
            connection.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
            while !over.load(SeqCst) {
                connection.execute("INSERT INTO t(v, pad) VALUES('x', zeroblob(3000))", []).unwrap();
                pause(3);
            }
        })
    };
    let lead = |nodes: &[Node]| {
        wait_for("one leader", 20, || {
            let found = leaders(nodes);
            (found.len() == 1).then(|| found[0])
        })
    };
    wait_for("a first snapshot", 30, || described(&root));
    for round in 0..rounds {
        let leader = lead(&nodes);
        let before = count_leaders(&nodes);
        let begun = Instant::now();
        if round % 2 == 0 {
            nodes[leader].signal("STOP");
        } else {
            nodes[leader].kill9();
        }
        wait_for("another leader", 20, || (count_leaders(&nodes) > before).then_some(()));
        let took = begun.elapsed().as_millis();
        // At most the lease's life, one heartbeat, and what a busy machine adds.
        assert!(took <= u128::from(TTL_MS + TTL_MS / 3 + 1_500), "a new leader after {took} ms");
        pause(1_000);
        if round % 2 == 0 {
            nodes[leader].signal("CONT");
            wait_for("it notices", 10, || (!leaders(&nodes).contains(&leader)).then_some(()));
        } else {
            nodes[leader].start();
        }
        pause(500);
    }
    // The nodes go on making snapshots, however busy the machine is.
    let made = wait_for("five snapshots", 60, || {
        let made: usize = nodes.iter().map(|node| node.count("stored snapshot")).sum();
        (made >= 5).then_some(made)
    });
    over.store(true, SeqCst);
    writing.join().unwrap();
    watching.join().unwrap();
    assert!(looks.load(SeqCst) > 50);
    let mut all: Vec<&mut Node> = nodes.iter_mut().collect();
    wait_equal(&mut all, 60);
    eprintln!("{made} snapshots, looked {} times", looks.load(SeqCst));
}

fn count_leaders(nodes: &[Node]) -> usize {
    nodes.iter().map(|node| node.count("this node is the leader")).sum()
}

/// A node whose clock is an hour off stores in S3 all the same, for it signs with the server's time.
#[test]
fn a_wrong_clock_does_not_stop_s3() {
    let dir = Dir::new("clock");
    let nats = Nats::start(&dir);
    let (server, id, secret) = crate::support::servers::moto(&dir);
    let rclone = crate::support::servers::rclone(&dir, "s3", &["--auth-key", "AKHARMONYLITE,sEcReTsEcReT"]);
    for (number, port, keys) in [
        (1, server.port, (id.as_str(), secret.as_str())),
        (2, rclone.port, ("AKHARMONYLITE", "sEcReTsEcReT")),
    ] {
        for (at, offset) in ["+1h", "-1h"].into_iter().enumerate() {
            let config = crate::support::stores::s3_config(
                &format!("127.0.0.1:{port}"),
                keys,
                "backups",
                &format!("{at}"),
            );
            let id = number * 10 + at as u64;
            let mut node =
                Node::with_schema(&dir, id, &nats.url(), &config, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
            with_clock(&mut node, offset);
            let output = node.command(&["-save-snapshot"]);
            let text = printed(&output);
            assert!(output.status.success(), "{offset}: {text}");
        }
    }
}
