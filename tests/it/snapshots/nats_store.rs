//! Snapshots in the NATS store, and nodes that start from nothing.

use crate::support::*;
use harmonylite::testing::nats::{Auth, JetStream};
use harmonylite::testing::{Bucket, config, lease, open_store, snapshot, stop};
use std::io::Read;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE nopk(a, b)";
const BUCKET: &str = "harmonylite-changes-snapshot-store";

fn stored(nats: &Nats) -> Vec<u8> {
    let store = nats.client().object_store(BUCKET).unwrap();
    let mut bytes = vec![];
    store.get("snapshot.db").unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_third_node_starts_from_nothing() {
    for binary in nats_binaries() {
        let dir = Dir::new("third");
        let nats = Nats::with(&dir, &binary, "");
        let mut one = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
        // Rowids with holes, which a plain VACUUM would close.
        one.sql("INSERT INTO t VALUES(1, 'before'); INSERT INTO nopk VALUES(1,1),(2,2),(3,3),(4,4); DELETE FROM nopk WHERE a = 2");
        one.start_ready();
        one.sql("INSERT INTO t VALUES(2, 'captured')");
        let output = one.command(&["--save-snapshot"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        assert!(
            text.contains(" snapshot.db in NATS bucket")
                && text.contains("position harmonylite-changes-c-1="),
            "{text}"
        );
        one.sql("INSERT INTO t VALUES(3, 'after'); DELETE FROM t WHERE id = 1; UPDATE nopk SET b = 'x' WHERE a = 4");
        let mut three = Node::new(&dir, 3, &nats.url(), "");
        three.start_ready();
        let text = wait_equal(&mut [&mut one, &mut three], 20);
        assert!(text.contains("== t (2 rows)"), "{text}");
        assert_eq!(
            value(&three, "SELECT group_concat(rowid) FROM nopk"),
            value(&one, "SELECT group_concat(rowid) FROM nopk")
        );
        three.sql("INSERT INTO t VALUES(4, 'from the new node'); UPDATE nopk SET b = 'y' WHERE a = 3");
        wait_equal(&mut [&mut one, &mut three], 20);
        assert_ne!(incarnation(&one), incarnation(&three));
    }
}

fn incarnation(node: &Node) -> String {
    value(node, "SELECT value FROM __harmonylite__state WHERE kind = 'meta' AND name = 'incarnation'")
}

#[test]
fn the_stored_file_is_clean_and_readable_by_another_client() {
    let dir = Dir::new("clean");
    let nats = Nats::start(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "snapshot.enabled = true", SCHEMA);
    one.start_ready();
    one.sql("INSERT INTO t VALUES(1, 'x'), (2, zeroblob(300000))");
    assert!(one.command(&["-save-snapshot"]).status.success());
    let copy = dir.0.join("copy.db");
    std::fs::write(&copy, stored(&nats)).unwrap();
    assert_eq!(contents(&copy), contents(&one.database));
    let c = rusqlite::Connection::open(&copy).unwrap();
    let ours =
        "SELECT group_concat(name) FROM sqlite_schema WHERE name GLOB '__harmonylite__*' AND type <> 'index'";
    let ours: String = c.query_row(ours, [], |row| row.get(0)).unwrap();
    assert_eq!(ours, "__harmonylite__state");
    let mode: String = c.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
    // A second snapshot replaces the first with all of its chunks, and nothing stays on the disk.
    assert!(one.command(&["-save-snapshot"]).status.success());
    let info = nats.client().stream_info(format!("OBJ_{BUCKET}")).unwrap();
    assert_eq!(info.state.messages, 1 + stored(&nats).len().div_ceil(131_072) as u64);
    let left: Vec<_> = std::fs::read_dir(&one.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(
        !left.iter().any(|name| !name.to_string_lossy().contains("harmonylite-snapshot.")
            && name.to_string_lossy().contains("harmonylite-snapshot")
            && !name.to_string_lossy().ends_with("lock")),
        "{left:?}"
    );
}

#[test]
fn the_leader_makes_them_by_time_and_by_the_streams_advance() {
    let dir = Dir::new("triggers");
    let nats = Nats::start(&dir);
    let extra = "snapshot.leader_ttl = 1000\nsnapshot.interval = 1500";
    let mut nodes: Vec<Node> = (1..=2)
        .map(|id| {
            let node = Node::with_schema(&dir, id, &nats.url(), extra, SCHEMA);
            node.keep_messages(200);
            node
        })
        .collect();
    nodes.iter_mut().for_each(Node::start_ready);
    let made = |reason: &str, nodes: &[Node]| nodes.iter().map(|node| node.count(reason)).sum::<usize>();
    wait_for("the first snapshot", 20, || (made("(there was none)", &nodes) == 1).then_some(()));
    assert_eq!(made("this node is the leader", &nodes), 1);
    nodes[0].sql("INSERT INTO t(v) VALUES('one')");
    wait_for("a snapshot by time", 20, || (made("(interval)", &nodes) >= 1).then_some(()));
    let by_time = made("(interval)", &nodes);
    pause(3_500);
    assert_eq!(made("(interval)", &nodes), by_time, "an unchanged database is not stored again");
    // The leader notices changes of every node.
    for node in &nodes {
        for _ in 0..150 {
            node.sql("INSERT INTO t(v) VALUES('many')");
        }
    }
    wait_for("a snapshot by the stream's advance", 20, || {
        (made("(the stream advanced)", &nodes) >= 1).then_some(())
    });
    // The leader is stopped: it releases the lease, and the other node takes over.
    let leader = usize::from(nodes[0].count("this node is the leader") == 0);
    assert_eq!(nodes[leader].stop(), 0);
    assert_eq!(nodes[leader].count("released the leader lease"), 1);
    wait_for("a new leader", 10, || (nodes[1 - leader].count("this node is the leader") == 1).then_some(()));
}

#[test]
fn nothing_there_at_all_is_said() {
    let dir = Dir::new("nothing");
    let nats = Nats::start(&dir);
    let mut node = Node::new(&dir, 1, &nats.url(), "");
    node.start();
    wait_for("it says what it waits for", 10, || {
        (node.count("no such file; waiting for a snapshot") == 1).then_some(())
    });
    // The application creates the database after all.
    node.sql("CREATE TABLE t(id INTEGER PRIMARY KEY)");
    wait_for("it goes on", 10, || (node.count("caught up") == 1).then_some(()));
    let output = Node::new(&dir, 2, &nats.url(), "").command(&["-save-snapshot"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("app.db: no such file"));
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let dir = Dir::new("damaged");
    let nats = Nats::start(&dir);
    let client = nats.client();
    let config = nats::object_store::Config { bucket: BUCKET.into(), ..Default::default() };
    let store = client.create_object_store(&config).unwrap();
    store.put("snapshot.db", &mut &b"SQLite format 3\0 and then garbage"[..]).unwrap();
    let mut node = Node::new(&dir, 1, &nats.url(), "");
    node.start();
    wait_for("it refuses", 10, || (node.count("is damaged") > 0).then_some(()));
    pause(300);
    assert!(!node.database.exists());
    // A good snapshot is restored as soon as there is one.
    let mut one = Node::with_schema(
        &dir,
        2,
        &nats.url(),
        "",
        "CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES(5)",
    );
    one.start_ready();
    assert!(one.command(&["-save-snapshot"]).status.success());
    wait_for("it restores", 30, || (node.count("restored") == 1).then_some(()));
    wait_for("it is whole", 10, || (node.database.exists() && node.count("caught up") == 1).then_some(()));
    assert_eq!(value(&node, "SELECT id FROM t"), "Integer(5)");
}

#[test]
fn sleep_timeout_ends_an_idle_node() {
    let dir = Dir::new("sleep");
    let nats = Nats::start(&dir);
    let mut node =
        Node::with_schema(&dir, 1, &nats.url(), "sleep_timeout = 1500\nsnapshot.leader_ttl = 1000", SCHEMA);
    node.start_ready();
    node.sql("INSERT INTO t VALUES(1, 'x')");
    assert_eq!(node.wait_exit(20), 0);
    assert_eq!(node.count("sleep_timeout"), 2, "{}", node.log());
    assert!(stored(&nats).len() > 4096);
}

#[test]
fn a_stopped_node_leaves_nothing_to_wait_for() {
    let dir = Dir::new("stopped");
    let mut nats = Nats::start(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    one.start_ready();
    one.sql("INSERT INTO t VALUES(1, 'x'), (2, 'y')");
    assert_eq!(one.stop(), 0);
    assert_eq!(one.unsettled(), 0, "what was published has not come back before the end");
    assert!(one.command(&["-save-snapshot"]).status.success());
    // Changes that are not published must not get into a snapshot.
    one.start_ready();
    nats.kill();
    one.sql("INSERT INTO t VALUES(3, 'z')");
    one.stop();
    nats.restart();
    let output = one.command(&["-save-snapshot"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("changes that are not published, and no daemon runs"), "{text}");
}

/// A leader that fell behind the streams gives up the lease in the middle of a snapshot whose changes cannot come back: it
/// must not keep its successor from the store until it would have given up by itself.
#[test]
fn who_lost_the_lease_does_not_wait_for_its_changes() {
    let dir = Dir::new("lost-lease");
    let nats = Nats::start(&dir);
    let mut node = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    node.start_ready();
    wait_for("its own is made", 20, || (node.count("stored snapshot") > 0).then_some(()));
    pause(300);
    node.signal("STOP");
    node.sql("INSERT INTO t VALUES(1, 'not published')");
    let config = config::load(Some(&node.config), None).unwrap().0;
    let connection = connect_with(&nats.url(), Auth::default());
    connection.wait_up(std::time::Duration::from_secs(10)).unwrap();
    let (_source, token) = stop::pair();
    let store = open_store(&config, Some(&connection), &token).unwrap();
    // The lease that allows uploads is free.
    let lost = lease::Lease::default();
    let terms =
        snapshot::Terms { patience: std::time::Duration::from_secs(20), leader: Some(&lost), anew: true };
    let begun = std::time::Instant::now();
    let bucket = Bucket::new(&JetStream::new(connection), 1);
    let this = snapshot::Node { config: &config, bucket: &bucket, stop: &token };
    let refused = snapshot::save(this, &store, terms).map(|saved| saved.unchanged);
    assert_eq!(refused.unwrap_err().to_string(), "the leader lease was lost");
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
    node.signal("CONT");
    wait_for("the upload lease is free", 20, || {
        node.command(&["-save-snapshot"]).status.success().then_some(())
    });
}
