//! Texts and values that a holder of the NATS login writes where the nodes read names and leases.

use super::hostile::{SCHEMA, SUBJECT, event_of, text};
use crate::support::*;

/// What a terminal or a reader of the log would take for something else.
const FORGED: &str = "x\u{1b}[2J\u{9b}2J\r\n2026-11-27 00:00:00 ERROR forged\u{7}\u{0}";

fn assert_plain(shown: &str) {
    let control = |c: char| c.is_control() && c != '\n';
    assert!(!shown.contains(control), "{shown:?}");
    assert!(!shown.lines().any(|line| line.starts_with("2026-11-27 00:00:00 ERROR forged")), "{shown}");
}

#[test]
fn no_name_of_a_publisher_moves_a_cursor_or_forges_a_line() {
    let dir = Dir::new("forged-names");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = (
        Node::with_schema(&dir, 1, &nats.url(), "logging.verbose = true", SCHEMA),
        Node::with_schema(&dir, 2, &nats.url(), "logging.verbose = true\nlogging.format = \"json\"", SCHEMA),
    );
    one.start_ready();
    two.start_ready();
    let client = nats.client();
    let column = |name: &str, value: Vec<u8>| (name.to_owned(), value);
    let mut words = vec![];
    text(&mut words, FORGED);
    for message in [
        event_of(FORGED, vec![column("id", vec![1])].into_iter()),
        event_of("t", vec![column("id", vec![2]), column(FORGED, vec![1])].into_iter()),
        event_of("t", vec![column("id", words.clone()), column("v", vec![1])].into_iter()),
        event_of("gone", vec![column("id", vec![3]), column("v", words)].into_iter()),
    ] {
        client.publish(SUBJECT, message).unwrap();
    }
    let plain = ::nats::connect(nats.url()).unwrap();
    for node in [1, 2, 77] {
        for hello in
            [FORGED.to_owned(), format!("{{\"host\":{FORGED:?},\"pid\":1}}"), format!("7 {FORGED} 1 2 3")]
        {
            plain.publish(&format!("harmonylite-changes.node.{node}"), &hello).unwrap();
        }
    }
    plain.flush().unwrap();
    for node in [&mut one, &mut two] {
        let held = wait_for("all is set aside", 20, || {
            let held = json(&node.command(&["-set-aside", "-json"]));
            (held.as_array().unwrap().len() == 4).then_some(held)
        });
        assert_plain(&printed(&node.command(&["-set-aside"])));
        for event in held.as_array().unwrap() {
            let id = event["id"].to_string();
            for arguments in [&["-set-aside", "show", &id][..], &["-set-aside", "show", &id, "-json"]] {
                let shown = node.command(arguments);
                assert!(shown.status.success(), "{shown:?}");
                assert_plain(&printed(&shown));
            }
        }
        assert_plain(&node.log());
        assert!(node.log().contains("\\u{1b}[2J"), "nothing was said of it: {}", node.log());
        node.assert_alive();
    }
    for line in two.log().lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(object["message"].is_string(), "{line}");
    }
}

/// Garbage and extremes in every key of the cluster's bucket: rows cross, and a leader is there again.
#[test]
fn forged_leases_and_keys_leave_the_cluster_a_leader() {
    let dir = Dir::new("forged-leases");
    let nats = Nats::start(&dir);
    let (_, config) = stores::file_store(&dir);
    let (mut one, mut two) = (
        Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA),
        Node::with_schema(&dir, 2, &nats.url(), &config, SCHEMA),
    );
    one.start_ready();
    wait_for("a snapshot", 20, || (one.count("stored snapshot") > 0).then_some(()));
    two.start_ready();
    let bucket = nats.client().key_value("e-harmonylite").unwrap();
    let claim = |node: u64, timestamp: i64| {
        let map = [("NodeID", ciborium::Value::from(node)), ("Timestamp", timestamp.into())];
        let map = map.map(|(key, value)| (ciborium::Value::from(key), value));
        let mut bytes = vec![];
        ciborium::into_writer(&ciborium::Value::Map(map.to_vec()), &mut bytes).unwrap();
        bytes
    };
    let values = [
        b"garbage".to_vec(),
        vec![],
        vec![0xff; 60_000],
        b"{\"node_id\":-1,\"positions\":{\"x\":-5},\"time\":\"99999-01-01T00:00:00Z\",\"digest\":7}".to_vec(),
        claim(u64::MAX, i64::MAX),
        claim(1, i64::MIN),
    ];
    let mut keys: Vec<String> = bucket.keys().unwrap().collect();
    assert!(keys.len() >= 2, "{keys:?}");
    keys.extend(["snapshot-wanted", "snapshot-proven", "snapshot", "stranger"].map(str::to_owned));
    for (round, value) in values.iter().enumerate() {
        for key in &keys {
            bucket.put(key, value).unwrap();
        }
        one.sql(&format!("INSERT INTO t VALUES({round}, 'of one')"));
        two.sql(&format!("INSERT INTO t VALUES(10{round}, 'of two')"));
        wait_equal(&mut [&mut one, &mut two], 20);
    }
    // Both begin anew with what stands there.
    for node in [&mut one, &mut two] {
        assert_eq!(node.stop(), 0);
        node.start_ready();
    }
    let leads = |node: &Node| node.count("this node is the leader");
    let before = leads(&one) + leads(&two);
    wait_for("a leader", 20, || (leads(&one) + leads(&two) >= before.max(1)).then_some(()));
    one.sql("INSERT INTO t VALUES(1000, 'after all of it')");
    wait_equal(&mut [&mut one, &mut two], 20);
    let saved = one.command(&["-save-snapshot"]);
    assert!(saved.status.success(), "{}", printed(&saved));
    assert!(one.memory().1 < 200 << 10 && two.memory().1 < 200 << 10);
}
