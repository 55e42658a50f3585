//! Publishers that want more of a node than it has room for: rows of tables that nobody has, origins that nobody is.

use super::hostile::{SCHEMA, SUBJECT, assert_quick_until_applied, event_of, text};
use crate::support::*;
use nats::jetstream::PublishOptions;

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
