//! A cluster with a key, and somebody who can write to its store.

use crate::support::servers;
use crate::support::stores::{file_store, s3_config};
use crate::support::*;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";

fn key_file(dir: &Dir) -> PathBuf {
    let key = dir.0.join("key");
    std::fs::write(&key, "5a".repeat(32) + "\n").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    key
}

fn written(node: &mut Node, sql: &str) {
    node.sql(sql);
    wait_for("what was written came back", 20, || (node.unsettled() == 0).then_some(()));
}

/// Puts a database of the attacker's into the store, as one that a Go node might have stored.
fn forge(dir: &Dir, root: &Path) {
    let forged = dir.0.join("forged.db");
    let _ = std::fs::remove_file(&forged);
    let database = rusqlite::Connection::open(&forged).unwrap();
    database.execute_batch(&format!("{SCHEMA}; INSERT INTO t VALUES(1, 'forged')")).unwrap();
    drop(database);
    let _ = std::fs::remove_file(root.join("snapshot.db.json"));
    std::fs::rename(&forged, root.join("snapshot.db")).unwrap();
}

#[test]
fn with_a_key_a_plain_snapshot_is_not_taken_and_the_leader_replaces_it() {
    let dir = Dir::new("sealed-plain");
    let nats = Nats::start(&dir);
    let key = key_file(&dir);
    let (root, plain) = file_store(&dir);
    let config = format!("{plain}key_file = {key:?}\n");
    let mut one = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    one.start_ready();
    written(&mut one, "INSERT INTO t VALUES(1, 'true')");
    assert!(one.command(&["-save-snapshot", "-quiet"]).status.success());
    assert!(std::fs::read_to_string(root.join("snapshot.db.json")).unwrap().contains("\"seal\""));
    one.stop();
    forge(&dir, &root);
    let mut two = Node::new(&dir, 2, &nats.url(), &config);
    two.start();
    let refused = "it is not encrypted, and this node has a key (snapshot.key_file): it is not taken, unless snapshot.accept_plain = true";
    wait_for("it says why it waits", 20, || (two.count(refused) > 0).then_some(()));
    pause(3_000);
    assert_eq!(two.count(refused), 1, "said once: {}", two.log());
    assert!(!two.database.exists());
    // A person is told the same.
    let target = dir.0.join("restored.db").display().to_string();
    for command in [&["-verify-snapshot"][..], &["-restore-snapshot", "snapshot.db", "-to", &target]] {
        let output = two.command(command);
        assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
        assert!(printed(&output).contains(refused), "{}", printed(&output));
    }
    assert_eq!(json(&two.command(&["-list-snapshots", "-json"]))["snapshots"][0]["refused"], refused);
    // Whoever says so gets it.
    let accepting = Node::new(&dir, 3, &nats.url(), &format!("{config}accept_plain = true\n"));
    let output = accepting.command(&["-restore-snapshot", "snapshot.db", "-to", &target]);
    assert!(output.status.success(), "{}", printed(&output));
    // The leader puts a snapshot of its own there, and the other node gets it.
    one.start_ready();
    wait_for("the leader replaces it", 30, || {
        (one.count("the stored one was not authenticated") > 0).then_some(())
    });
    wait_for("the other one is whole", 30, || (two.count("caught up with") > 0).then_some(()));
    wait_equal(&mut [&mut one, &mut two], 20);
    assert_eq!(value(&two, "SELECT v = 'true' FROM t"), "Integer(1)");
    // One that comes while the leader believes in its snapshot: a node that needs it asks.
    forge(&dir, &root);
    let mut four = Node::new(&dir, 4, &nats.url(), &config);
    four.start_ready();
    wait_equal(&mut [&mut one, &mut four], 30);
    // If it is as large as the first one, the request is that of the other node, a moment ago.
    assert!(one.count("asked for one)") > 0, "{}", one.log());
    assert!(four.count(refused) > 0, "{}", four.log());
}

/// The README's way to give a running cluster a key.
#[test]
fn a_cluster_gets_a_key() {
    let dir = Dir::new("sealed-change-over");
    let nats = Nats::start(&dir);
    let key = key_file(&dir);
    let (root, plain) = file_store(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), &plain, SCHEMA);
    one.start_ready();
    written(&mut one, "INSERT INTO t VALUES(1, 'x')");
    assert!(one.command(&["-save-snapshot", "-quiet"]).status.success());
    one.stop();
    assert!(std::fs::read(root.join("snapshot.db")).unwrap().starts_with(b"SQLite format 3\0"));
    let accepting = format!("{plain}key_file = {key:?}\naccept_plain = true\n");
    let mut two = Node::new(&dir, 2, &nats.url(), &accepting);
    two.start_ready();
    assert_eq!(value(&two, "SELECT v = 'x' FROM t"), "Integer(1)");
    wait_for("the snapshot is encrypted now", 30, || {
        let stored = std::fs::read(root.join("snapshot.db")).unwrap();
        stored.starts_with(b"harmonylite-encrypted-1\n").then_some(())
    });
    let mut three = Node::new(&dir, 3, &nats.url(), &format!("{plain}key_file = {key:?}\n"));
    three.start_ready();
    wait_equal(&mut [&mut two, &mut three], 20);
    // The same key in another cluster is another cluster's.
    let other = format!("nats.stream_prefix = \"other\"\n{plain}key_file = {key:?}\n");
    let stranger = Node::new(&dir, 4, &nats.url(), &other);
    let listed = printed(&stranger.command(&["-list-snapshots"]));
    assert!(listed.contains("another nats.stream_prefix, or its label"), "{listed}");
    let output = three.command(&["-list-snapshots"]);
    assert!(!printed(&output).contains("refused"), "{}", printed(&output));
}

/// A seal lies in an object's headers in NATS, and in its metadata in S3: it comes back whole from both, for kept ones too.
#[test]
fn seals_in_nats_and_s3() {
    let dir = Dir::new("sealed-stores");
    let nats = Nats::start(&dir);
    let (server, id, secret) = servers::moto(&dir);
    let s3 = s3_config(&format!("http://127.0.0.1:{}", server.port), (&id, &secret), "backups", "x");
    let key = key_file(&dir);
    for (number, store) in [(1, "[snapshot]\nstore = \"nats\"\n".to_owned()), (2, s3)] {
        let config =
            store.replacen("[snapshot]\n", &format!("[snapshot]\nkey_file = {key:?}\nkeep = 2\n"), 1);
        let prefix = format!("nats.stream_prefix = \"c{number}\"\nnats.subject_prefix = \"s{number}\"\n");
        let mut node = Node::with_schema(&dir, number, &nats.url(), &format!("{prefix}{config}"), SCHEMA);
        node.start_ready();
        for row in 1..=2 {
            written(&mut node, &format!("INSERT INTO t VALUES({row}, 'x')"));
            // Kept ones are named by their second.
            pause(1_100);
            let saved = node.command(&["-save-snapshot"]);
            assert!(saved.status.success(), "{}", printed(&saved));
        }
        let listed = json(&node.command(&["-list-snapshots", "-json"]));
        let snapshots = listed["snapshots"].as_array().unwrap();
        assert_eq!(snapshots.len(), 2, "{listed}");
        for snapshot in snapshots {
            assert!(snapshot["refused"].is_null() && snapshot["position"].is_object(), "{listed}");
            let verified = node.command(&["-verify-snapshot", snapshot["name"].as_str().unwrap()]);
            assert!(verified.status.success(), "{}", printed(&verified));
        }
    }
}

/// The key file of a daemon that others can read.
#[test]
fn a_key_file_that_others_can_read_is_warned_about_once() {
    let dir = Dir::new("sealed-open-key");
    let nats = Nats::start(&dir);
    let key = key_file(&dir);
    let (_, plain) = file_store(&dir);
    let config = format!("{plain}key_file = {key:?}\n");
    let mut node = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    for (mode, warnings) in [(0o600, 0), (0o644, 1), (0o620, 2)] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        node.start_ready();
        wait_for("a snapshot", 20, || (node.count("stored snapshot") > 0).then_some(()));
        assert_eq!(node.stop(), 0);
        assert_eq!(
            node.count("others than its owner may read or write this file"),
            warnings,
            "{}",
            node.log()
        );
        assert_eq!(node.count("5a5a"), 0, "{}", node.log());
    }
}

/// Numbers beyond all bounds in a description that the store gives back, with the check that fits to them.
#[test]
fn absurd_descriptions_harm_nothing() {
    let dir = Dir::new("absurd");
    let nats = Nats::start(&dir);
    let (root, config) = file_store(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    one.start_ready();
    written(&mut one, "INSERT INTO t VALUES(1, 'x')");
    assert!(one.command(&["-save-snapshot", "-quiet"]).status.success());
    let path = root.join("snapshot.db.json");
    let good: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let keys: Vec<String> = good["snapshots"][0].as_object().unwrap().keys().cloned().collect();
    for absurd in
        ["18446744073709551615", "-9223372036854775808", "99999-12-31T23:59:59.999Z", "\u{1b}[2J\r\n"]
    {
        for key in &keys {
            let mut lie = good.clone();
            lie["snapshots"][0][key] = absurd.into();
            let check = harmonylite::testing::digest::hex_sha256(lie["snapshots"].to_string().as_bytes());
            lie["check"] = check.into();
            std::fs::write(&path, lie.to_string()).unwrap();
            for command in ["-list-snapshots", "-verify-snapshot"] {
                let output = one.command(&[command]);
                let told = printed(&output);
                assert!(matches!(output.status.code(), Some(0 | 1 | 75)), "{key} = {absurd:?}: {told}");
                assert!(!told.contains(['\u{1b}', '\r']), "{key} = {absurd:?}: {told:?}");
            }
        }
    }
    // A node that has only that, and a leader that begins with it.
    let mut two = Node::new(&dir, 2, &nats.url(), &config);
    two.start();
    assert_eq!(one.stop(), 0);
    one.start_ready();
    written(&mut one, "INSERT INTO t VALUES(2, 'y')");
    assert!(one.command(&["-save-snapshot", "-quiet"]).status.success());
    wait_for("the other one is whole", 20, || (two.count("caught up with") > 0).then_some(()));
    wait_equal(&mut [&mut one, &mut two], 20);
}
