//! Sessions of the daemon: what is written in the moment in which one begins, and a database that is replaced by another file
//! while the daemon runs.

use crate::support::*;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";

/// Renames a new, empty database over the node's, as a person does who puts another one in its place.
fn replace(node: &Node) {
    // Nothing is left in the WAL that could be taken for the new file's.
    node.checkpoint();
    let fresh = node.dir.join("fresh.db");
    let connection = rusqlite::Connection::open(&fresh).unwrap();
    connection.execute_batch(&format!("PRAGMA journal_mode=DELETE; {SCHEMA}")).unwrap();
    drop(connection);
    std::fs::rename(&fresh, &node.database).unwrap();
}

/// Replaces the database and waits until the next session has opened the new one.
fn replace_and_wait(node: &mut Node) {
    let sessions = node.count("capturing 1 tables");
    replace(node);
    wait_for("a new session opens the new database", 15, || {
        node.assert_alive();
        (node.count("capturing 1 tables") > sessions).then_some(())
    });
}

/// A session waits for all of its workers. With `replicate = false` one of them looks after the streams; it asks the broker when
/// its session begins. While the broker is stopped, that question takes five seconds, longer than the second session lasts
/// here; its late end must not be taken for the end of a worker of the third session.
#[test]
fn a_worker_that_waits_for_the_broker_does_not_end_the_next_session() {
    let dir = Dir::new("late-worker");
    let nats = Nats::start(&dir);
    let config = "replicate = false\nsnapshot.enabled = false";
    let mut sender = Node::with_schema(&dir, 1, &nats.url(), config, SCHEMA);
    let mut reader = Node::with_schema(&dir, 2, &nats.url(), "snapshot.enabled = false", SCHEMA);
    sender.start();
    reader.start_ready();
    sender.sql("INSERT INTO t VALUES(1, 'in the first database')");
    wait_equal(&mut [&mut sender, &mut reader], 20);
    nats.signal("STOP");
    replace_and_wait(&mut sender);
    // The second session has asked the broker by now.
    pause(300);
    replace_and_wait(&mut sender);
    // The question of the second session ends within five seconds, without an answer.
    for _ in 0..60 {
        sender.assert_alive();
        pause(100);
    }
    nats.signal("CONT");
    sender.sql("INSERT INTO t VALUES(3, 'in the third database')");
    wait_for("a row of the third database arrives on the other node", 30, || {
        sender.assert_alive();
        (value(&reader, "SELECT count(*) FROM t WHERE id = 3") == "Integer(1)").then_some(())
    });
    assert_eq!(sender.count("is another file now"), 2, "{}", sender.log());
    assert_eq!(sender.stop(), 0, "the daemon did not end in order: {}", sender.log());
}

/// The same with a broker that answers: no worker of an earlier session is taken for one of the next, however often the
/// database is replaced.
#[test]
fn a_database_that_is_replaced_again_and_again() {
    let dir = Dir::new("replaced-often");
    let nats = Nats::start(&dir);
    let mut sender =
        Node::with_schema(&dir, 1, &nats.url(), "replicate = false\nsnapshot.enabled = false", SCHEMA);
    let mut reader = Node::with_schema(&dir, 2, &nats.url(), "snapshot.enabled = false", SCHEMA);
    sender.start();
    reader.start_ready();
    for round in 1..=4 {
        sender.sql(&format!("INSERT INTO t VALUES({round}, 'of database {round}')"));
        wait_for("a row of the present database arrives on the other node", 20, || {
            sender.assert_alive();
            let sql = format!("SELECT count(*) FROM t WHERE id = {round}");
            (value(&reader, &sql) == "Integer(1)").then_some(())
        });
        replace_and_wait(&mut sender);
    }
    assert_eq!(sender.stop(), 0, "the daemon did not end in order: {}", sender.log());
}

/// The application commits once while the workers of a session start, and then never again: the publisher and the thread that
/// watches for commits must not leave a gap between their first looks.
#[test]
fn a_commit_while_a_session_begins_is_published() {
    let dir = Dir::new("commit-at-start");
    let nats = Nats::start(&dir);
    let mut node =
        Node::with_schema(&dir, 1, &nats.url(), "replicate = false\nsnapshot.enabled = false", SCHEMA);
    let application = node.open();
    for round in 0..16_u32 {
        let before = node.count("capturing 1 tables");
        node.start();
        while node.count("capturing 1 tables") == before {
            node.assert_alive();
        }
        // At another moment of the start in each round.
        std::thread::sleep(std::time::Duration::from_micros(u64::from(round) * 250));
        application.execute("INSERT INTO t(v) VALUES(?1)", [round]).unwrap();
        wait_for("a row that was written while the daemon started is published", 10, || {
            node.assert_alive();
            (node.unsettled() == 0).then_some(())
        });
        assert_eq!(node.stop(), 0);
    }
}
