//! Kills, outages, restarts: nothing lost, nothing doubled, equal at the end.

use crate::support::*;
use rusqlite::params;
use std::sync::atomic::{AtomicBool, Ordering};

const SCHEMA: &str =
    "CREATE TABLE shared(id INTEGER PRIMARY KEY, v); CREATE TABLE own(k TEXT PRIMARY KEY, v)";

/// Writes on a node until told to stop: rows of its own, and keys that both nodes write. Returns the number of own rows.
fn application(node: &Node, me: usize, stop: &AtomicBool) -> usize {
    let c = node.open();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        c.execute_batch("BEGIN IMMEDIATE").unwrap();
        for _ in 0..20 {
            c.execute("INSERT INTO own VALUES(?1, ?2)", params![format!("{me}-{count}"), count as i64])
                .unwrap();
            c.execute(
                "INSERT OR REPLACE INTO shared VALUES(?1, ?2)",
                params![(count * 7 % 50) as i64, format!("{me}-{count}")],
            )
            .unwrap();
            count += 1;
        }
        c.execute_batch("COMMIT").unwrap();
        pause(5);
    }
    count
}

#[test]
fn killed_ten_times_on_each_side() {
    let dir = Dir::new("kill9");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = (
        Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA),
        Node::with_schema(&dir, 2, &nats.url(), "", SCHEMA),
    );
    one.start_ready();
    two.start_ready();
    let (app_one, app_two) = (Node::new(&dir, 1, &nats.url(), ""), Node::new(&dir, 2, &nats.url(), ""));
    let stop = AtomicBool::new(false);
    let (rows_one, rows_two) = std::thread::scope(|scope| {
        let first = scope.spawn(|| application(&app_one, 1, &stop));
        let second = scope.spawn(|| application(&app_two, 2, &stop));
        for round in 0..10 {
            pause(60 + round * 17);
            one.kill9();
            pause(40);
            one.start();
            pause(90 + round * 11);
            two.kill9();
            pause(30);
            two.start();
        }
        pause(300);
        stop.store(true, Ordering::Relaxed);
        (first.join().unwrap(), second.join().unwrap())
    });
    let text = wait_equal(&mut [&mut one, &mut two], 60);
    assert!(
        text.contains(&format!("== own ({} rows)", rows_one + rows_two)),
        "own rows are missing or doubled"
    );
}

#[test]
fn the_broker_goes_away_and_comes_back() {
    let dir = Dir::new("outage");
    for binary in nats_binaries() {
        let mut nats = Nats::with(&dir, &binary, "");
        let id = |n: u64| if binary.starts_with("/usr") { n + 10 } else { n };
        let mut one = Node::with_schema(&dir, id(1), &nats.url(), "", SCHEMA);
        let mut two = Node::with_schema(&dir, id(2), &nats.url(), "", SCHEMA);
        one.start_ready();
        two.start_ready();
        for round in 0..3 {
            one.sql(&format!("INSERT INTO own VALUES('before {round}', 1)"));
            nats.kill();
            one.sql(&format!("INSERT INTO own VALUES('one {round}', 1); INSERT OR REPLACE INTO shared VALUES(1, 'one {round}')"));
            two.sql(&format!("INSERT INTO own VALUES('two {round}', 1); INSERT OR REPLACE INTO shared VALUES(1, 'two {round}')"));
            pause(300);
            nats.restart();
            wait_equal(&mut [&mut one, &mut two], 30);
        }
        assert_eq!(value(&two, "SELECT count(*) FROM own"), "Integer(9)");
        nats.kill();
        nats.wipe();
    }
}

#[test]
fn a_broker_that_is_not_there_yet() {
    let dir = Dir::new("late");
    let mut nats = Nats::start(&dir);
    nats.kill();
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    let mut two = Node::with_schema(&dir, 2, &nats.url(), "", SCHEMA);
    one.start();
    two.start();
    // Their databases are not touched yet; what is written to one meanwhile comes to the other all the same.
    wait_for("it tries to connect", 10, || (one.count("trying for ever") > 0).then_some(()));
    one.sql("INSERT INTO own VALUES('early', 1)");
    let cpu = cpu_ticks(one.pid());
    pause(1_500);
    assert!(cpu_ticks(one.pid()) - cpu <= 5, "a node without a broker burns the processor");
    assert_eq!(one.count("trying for ever"), 1, "{}", one.log());
    nats.restart();
    for node in [&one, &two] {
        wait_for("it follows", 30, || (node.count("caught up with") > 0).then_some(()));
    }
    wait_equal(&mut [&mut one, &mut two], 30);
    assert_eq!(value(&two, "SELECT k FROM own"), "Text([101, 97, 114, 108, 121])");
}

#[test]
fn a_stream_that_was_wiped_is_noticed_and_followed() {
    let dir = Dir::new("wiped");
    let mut nats = Nats::start(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    let mut two = Node::with_schema(&dir, 2, &nats.url(), "", SCHEMA);
    one.start_ready();
    two.start_ready();
    one.sql("INSERT INTO own VALUES('a', 1), ('b', 2), ('c', 3)");
    wait_equal(&mut [&mut one, &mut two], 20);
    nats.kill();
    nats.wipe();
    one.sql("INSERT INTO own VALUES('while away', 4)");
    nats.restart();
    two.sql("INSERT INTO own VALUES('after', 5)");
    let text = wait_equal(&mut [&mut one, &mut two], 30);
    assert!(text.contains("== own (5 rows)"), "{text}");
    assert!(one.count("following it as it is now") + two.count("following it as it is now") >= 1);
}

#[test]
fn signals() {
    let dir = Dir::new("signals");
    let nats = Nats::start(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "snapshot.enabled = false", SCHEMA);
    one.start_ready();
    one.sql("INSERT INTO own VALUES('a', 1)");
    let begun = std::time::Instant::now();
    assert_eq!(one.stop(), 0);
    assert!(begun.elapsed().as_secs() < 10);
    // The row that was captured right before the stop was published.
    let info = nats.client().stream_info("harmonylite-changes-c-1").unwrap();
    assert_eq!(info.state.messages, 1);
    one.start_ready();
    one.signal("INT");
    assert_eq!(one.wait_exit(10), 0);
    // A signal also ends the wait for a database.
    let mut none = Node::new(&dir, 3, &nats.url(), "");
    none.start();
    wait_for("it says what it waits for", 10, || (none.count("waiting for a snapshot") > 0).then_some(()));
    assert_eq!(none.stop(), 0);
}

#[test]
fn a_second_signal_stops_at_once() {
    let dir = Dir::new("twice");
    let nats = Nats::start(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "snapshot.enabled = false", SCHEMA);
    one.start_ready();
    // The broker hangs, so draining takes its time.
    nats.signal("STOP");
    one.sql("INSERT INTO own VALUES('a', 1)");
    pause(100);
    one.signal("TERM");
    wait_for("the first signal is heard", 5, || (one.count("a second one stops at once") == 1).then_some(()));
    let begun = std::time::Instant::now();
    one.signal("TERM");
    assert_eq!(one.wait_exit(5), 1);
    assert!(begun.elapsed().as_millis() < 1_000);
    nats.signal("CONT");
}

#[test]
fn a_second_daemon_on_one_database_is_refused() {
    let dir = Dir::new("second");
    let nats = Nats::start(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    one.start_ready();
    let output = one.command(&[]);
    assert_eq!(output.status.code(), Some(75));
    assert!(String::from_utf8_lossy(&output.stdout).contains("another harmonylite runs on"));
}

#[test]
fn rows_that_are_larger_than_a_message_travel_in_pieces() {
    let dir = Dir::new("large");
    let mut nats = Nats::start(&dir);
    nats.extra = "max_payload: 64KB".to_owned();
    nats.restart();
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    let mut two = Node::with_schema(&dir, 2, &nats.url(), "", SCHEMA);
    one.start_ready();
    two.start_ready();
    one.sql(
        "BEGIN; INSERT INTO own VALUES('before', 1), ('a', randomblob(200000)), ('between', 2), ('b', randomblob(3000000)), \
         ('c', randomblob(62000)), ('after', 3); COMMIT",
    );
    two.sql("INSERT INTO own VALUES('other', randomblob(500000))");
    wait_equal(&mut [&mut one, &mut two], 30);
    assert_eq!(value(&two, "SELECT count(*) FROM own"), "Integer(7)");
    assert_eq!(one.count("in pieces") + two.count("in pieces"), 0, "the transaction is whole: {}", one.log());
    // The largest one that a message of a default server takes, and one with ten of them, under kills and outages.
    for round in 0..4 {
        one.sql(&format!(
            "INSERT OR REPLACE INTO own VALUES('big', randomblob({})), ('n', {round})",
            3 << 20
        ));
        match [&mut one, &mut two].into_iter().nth(round) {
            Some(node) => {
                node.kill9();
                node.start();
            }
            None if round == 2 => nats.restart(),
            None => {}
        }
        wait_equal(&mut [&mut one, &mut two], 60);
        assert_eq!(value(&two, "SELECT length(v) FROM own WHERE k = 'big'"), format!("Integer({})", 3 << 20));
    }
    // A server that takes less than before cuts them anew.
    one.sql("UPDATE own SET v = randomblob(300000) WHERE k = 'a'");
    nats.extra = "max_payload: 16KB".to_owned();
    nats.restart();
    wait_equal(&mut [&mut one, &mut two], 60);
}

#[test]
fn a_row_that_no_message_carries_holds_up_nothing_and_is_said() {
    let dir = Dir::new("toolarge");
    let nats = Nats::start(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    let mut two = Node::with_schema(&dir, 2, &nats.url(), "", SCHEMA);
    one.start_ready();
    two.start_ready();
    one.sql("INSERT INTO own VALUES('large', zeroblob(70000000)), ('small', 1)");
    wait_for("the small row", 30, || (value(&two, "SELECT count(*) FROM own") == "Integer(1)").then_some(()));
    assert_eq!(one.count("a row of table own is not published: it has more than 60 MiB"), 1, "{}", one.log());
    one.sql("UPDATE own SET v = randomblob(30000000) WHERE k = 'large'");
    wait_equal(&mut [&mut one, &mut two], 60);
}

#[test]
fn in_a_stream_of_rows_a_row_too_large_for_the_broker_holds_up_nothing_and_goes_out_when_it_fits() {
    let dir = Dir::new("toolarge-rows");
    let mut nats = Nats::start(&dir);
    let rows = "replication_log.compress = false\nreplication_log.format = \"rows\"";
    let mut one = Node::with_schema(&dir, 1, &nats.url(), rows, SCHEMA);
    let mut two = Node::with_schema(&dir, 2, &nats.url(), rows, SCHEMA);
    one.start_ready();
    two.start_ready();
    one.sql("INSERT INTO own VALUES('large', zeroblob(1500000)), ('small', 1)");
    wait_for("the small row", 10, || (value(&two, "SELECT count(*) FROM own") == "Integer(1)").then_some(()));
    assert_eq!(one.count("a row of table own is not published"), 1, "{}", one.log());
    nats.extra = "max_payload: 8MB".to_owned();
    nats.restart();
    wait_equal(&mut [&mut one, &mut two], 30);
    assert_eq!(value(&two, "SELECT count(*) FROM own"), "Integer(2)");
}

#[test]
fn a_row_that_its_stream_refuses_is_not_sent_for_ever() {
    let dir = Dir::new("refused");
    let nats = Nats::start(&dir);
    let config = nats::jetstream::StreamConfig {
        name: "harmonylite-changes-c-1".into(),
        subjects: vec!["harmonylite-change-log-1".into()],
        max_msg_size: 1000,
        ..Default::default()
    };
    nats.client().add_stream(config).unwrap();
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    one.start_ready();
    one.sql("INSERT INTO own VALUES('large', randomblob(5000)), ('small', 1)");
    wait_for("it is said", 10, || (one.count("is refused by its stream") > 0).then_some(()));
    wait_for("the small one passes", 10, || (one.unsettled() == 1).then_some(()));
    pause(22_000);
    assert!(one.count("is refused by its stream") <= 2, "{}", one.log());
}

#[test]
fn namesakes_are_told() {
    let dir = Dir::new("namesakes");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    let other = Dir::new("namesakes-too");
    let mut one = Node::with_schema(&dir, 7, &nats.url(), "", schema);
    one.start_ready();
    let mut two = Node::with_schema(&other, 7, &nats.url(), "", schema);
    two.start_ready();
    for node in [&one, &two] {
        wait_for("it is told", 20, || (node.count("another daemon runs with node_id 7") == 1).then_some(()));
    }
    // A node that is started again does not take itself for another one.
    two.stop();
    let before = one.count("another daemon runs");
    one.stop();
    one.start_ready();
    pause(1_500);
    assert_eq!(one.count("another daemon runs"), before);
}
