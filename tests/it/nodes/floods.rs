//! Publishers that want more of a node than it has room for: rows of tables that nobody has, origins that nobody is.

use super::hostile::{SCHEMA, SUBJECT, assert_quick_until_applied, event_of, text};
use crate::support::*;
use nats::jetstream::PublishOptions;
use std::time::{Duration, Instant};

/// A message with a value of this many bytes for a table.
fn large(table: &str, id: u8, bytes: usize) -> Vec<u8> {
    let mut value = vec![];
    text(&mut value, &"x".repeat(bytes));
    event_of(table, vec![("id".to_owned(), vec![0x18, id]), ("v".to_owned(), value)].into_iter())
}

fn number(node: &Node, sql: &str) -> i64 {
    node.open().query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn floods_of_a_hostile_publisher_take_bounded_room() {
    let dir = Dir::new("floods");
    let nats = Nats::start(&dir);
    let port = free_port();
    let config = format!("[health_check]\nenable = true\nbind = \"127.0.0.1:{port}\"\n");
    let (mut one, mut two) = (
        Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA),
        Node::with_schema(&dir, 2, &nats.url(), &config, SCHEMA),
    );
    one.start_ready();
    two.start_ready();
    let client = nats.client();
    // 90 MB of rows: of tables that a migration may bring, and of those that none brings.
    for n in 0..100 {
        let table = ["gone", "another", "sqlite_sequence", "__harmonylite__state"][n % 4];
        client.publish(SUBJECT, large(table, n as u8, 900_000)).unwrap();
    }
    assert_quick_until_applied(&one, &two, &client);
    // More origins than are remembered, each with a row.
    for origin in 0..4_600 {
        let options =
            PublishOptions { id: Some(format!("{}-{:016x}-1", 100 + origin, 77)), ..Default::default() };
        let event = event_of("t", vec![("id".to_owned(), vec![0x18, 50])].into_iter());
        client.publish_with_options(SUBJECT, event, &options).unwrap();
    }
    assert_quick_until_applied(&one, &two, &client);
    for round in 0..2 {
        one.sql(&format!("INSERT INTO t VALUES({round}, 'of one')"));
        two.sql(&format!("INSERT INTO t VALUES(1{round}, 'of two')"));
        wait_equal(&mut [&mut one, &mut two], 30);
        for node in [&mut one, &mut two] {
            let held = number(node, "SELECT sum(length(payload)) FROM __harmonylite__set_aside");
            assert!((50_000_000..=2 * (32 << 20)).contains(&held), "{held} bytes are set aside");
            let origins = number(node, "SELECT count(*) FROM __harmonylite__state WHERE kind = 'folded'");
            assert!((4_000..=4_610).contains(&origins), "{origins} origins are remembered");
            node.assert_alive();
            let (_, peak) = node.memory();
            assert!(peak < 200 << 10, "{peak} KiB");
        }
        let (status, body) = health(port);
        assert_eq!(status, 200, "{body}");
        assert!(body["problems"].to_string().contains("were dropped"), "{body}");
        for node in [&mut one, &mut two] {
            assert_eq!(node.stop(), 0);
            node.start_ready();
        }
    }
    // A person who does not want them gets the room back.
    for node in [&one, &two] {
        assert_eq!(node.command(&["-set-aside", "drop", "all"]).status.code(), Some(0));
    }
    wait_for("health", 10, || (health(port).1["status"] == "healthy").then_some(()));
}

/// A database of very many tables, each with a unique value: the first start installs thousands of triggers, and the application
/// writes all the while.
#[test]
fn the_first_start_on_very_many_tables_keeps_no_application_waiting() {
    let dir = Dir::new("many-tables");
    let nats = Nats::start(&dir);
    let tables: String =
        (0..1_000).map(|n| format!("CREATE TABLE t{n}(id INTEGER PRIMARY KEY, v UNIQUE, w);")).collect();
    let mut node = Node::with_schema(
        &dir,
        1,
        &nats.url(),
        "snapshot.enabled = false",
        &format!("BEGIN; CREATE TABLE own(k TEXT PRIMARY KEY, v); {tables} COMMIT"),
    );
    let app = node.open();
    node.start();
    let (begun, mut slowest, mut count) = (Instant::now(), Duration::ZERO, 0);
    while node.count("caught up with") == 0 {
        count += 1;
        let each = Instant::now();
        app.execute("INSERT INTO own VALUES(?1, 1)", [count]).unwrap();
        slowest = slowest.max(each.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(25), "{}", node.log());
        pause(5);
    }
    assert!(slowest < Duration::from_secs(1), "a write took {slowest:?}");
    assert_eq!(node.count("capturing 1001 tables"), 1, "{}", node.log());
    node.assert_alive();
}
