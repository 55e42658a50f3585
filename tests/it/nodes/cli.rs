//! The program from outside: exit codes, messages, logs.

use crate::support::servers::{KEY, SECRET};
use crate::support::stores::s3_config;
use crate::support::*;
use std::process::Command;

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(PROGRAM).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn usage_and_configuration_errors_exit_with_2_and_one_line() {
    let (code, text) = run(&["-config", "/no/such.toml"]);
    assert_eq!(
        (code, text.as_str()),
        (Some(2), "harmonylite: /no/such.toml: No such file or directory (os error 2)\n")
    );
    let (code, text) = run(&["-nonsense"]);
    assert_eq!(
        (code, text.as_str()),
        (Some(2), "harmonylite: invalid option '--nonsense'; -h shows the flags\n")
    );
    let (code, text) = run(&[]);
    assert_eq!(code, Some(2));
    assert!(text.contains("defaults: db_path = (not set)"), "{text}");
    let dir = Dir::new("usage");
    let node = Node::new(
        &dir,
        1,
        "nats://user:hunter2@h",
        "publish = 3\nscan_max_changes = -1\nnats.user_password = 7",
    );
    let output = node.command(&[]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), text.lines().count()), (Some(2), 3), "{text}");
    assert!(!text.contains("hunter2"));
    let node = Node::new(&dir, 2, "nats://h", "");
    let output = node.command(&["-cluster-addr", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn help_and_version() {
    for flag in ["-h", "-help", "--help"] {
        let (code, text) = run(&[flag]);
        assert!(code == Some(0) && text.contains("-save-snapshot"), "{text}");
    }
    for flag in ["-version", "--version"] {
        let (code, text) = run(&[flag]);
        assert!(
            code == Some(0) && text.starts_with(&format!("harmonylite {}", env!("CARGO_PKG_VERSION"))),
            "{text}"
        );
    }
}

#[test]
fn json_logs_are_objects_and_hold_no_secret() {
    let dir = Dir::new("json");
    let nats = Nats::start(&dir);
    let url = nats.url().replace("nats://", "nats://somebody:hunter2@");
    let mut node = Node::with_schema(
        &dir,
        42,
        &url,
        "logging.format = \"json\"\nlogging.verbose = true",
        "CREATE TABLE t(id INTEGER PRIMARY KEY)",
    );
    node.start_ready();
    node.sql("INSERT INTO t VALUES(1)");
    assert_eq!(node.stop(), 0);
    let log = node.log();
    assert!(log.lines().count() > 5 && !log.contains("hunter2"));
    for line in log.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(object["node_id"], 42);
        assert!(
            object["time"].as_str().unwrap().ends_with('Z')
                && object["level"].is_string()
                && object["message"].is_string()
        );
    }
}

/// EX_TEMPFAIL of sysexits.h: not now, try again later.
const TRY_AGAIN_LATER: Option<i32> = Some(75);

#[test]
fn an_unreachable_broker_or_store_is_a_reason_to_try_again_later() {
    let dir = Dir::new("unreachable");
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY)";
    let url = format!("nats://u:hunter2@127.0.0.1:{}", free_port());
    let node = Node::with_schema(&dir, 1, &url, "", schema);
    let output = node.command(&["-save-snapshot"]);
    let text = printed(&output);
    assert_eq!(output.status.code(), TRY_AGAIN_LATER, "the broker is unreachable: {text}");
    assert!(output.stdout.is_empty(), "{text}");
    assert!(text.contains("Connection refused") && !text.contains("hunter2"), "{text}");
    let store = s3_config(&format!("127.0.0.1:{}", free_port()), (KEY, SECRET), "backups", "x");
    let node = Node::with_schema(&dir, 2, &url, &store, schema);
    let output = node.command(&["-list-snapshots"]);
    let text = printed(&output);
    assert_eq!(output.status.code(), TRY_AGAIN_LATER, "the store is unreachable: {text}");
    assert!(text.contains("Connection refused") && !text.contains(SECRET), "{text}");
}

#[test]
fn a_daemon_at_work_is_a_reason_to_try_again_later() {
    let dir = Dir::new("at-work");
    let nats = Nats::start(&dir);
    let mut node = Node::with_schema(&dir, 1, &nats.url(), "", "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    node.start_ready();
    let output = node.command(&["-cleanup"]);
    assert_eq!(output.status.code(), TRY_AGAIN_LATER, "{}", printed(&output));
    assert_eq!(node.stop(), 0);
    let output = node.command(&["-cleanup"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
}

/// What a script must not try again: the configuration is wrong (2), or the thing that is asked for is not there (1).
#[test]
fn exit_codes_of_what_does_not_go_away_by_waiting() {
    let dir = Dir::new("exit-codes");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY)";
    let node = Node::with_schema(&dir, 2, &nats.url(), "", schema);
    let output = node.command(&["-verify-snapshot", "snapshot-20000101T000000Z.db"]);
    assert_eq!(output.status.code(), Some(1), "there is no snapshot of that name: {}", printed(&output));
    assert!(printed(&output).contains("there is no snapshot"), "{}", printed(&output));

    std::fs::write(&node.config, "node_id = [1\n").unwrap();
    let output = node.command(&["-save-snapshot"]);
    assert_eq!(output.status.code(), Some(2), "the configuration is not TOML: {}", printed(&output));

    let node = Node::with_schema(&dir, 3, &nats.url(), "snapshot.enabled = false", schema);
    let output = node.command(&["-save-snapshot"]);
    assert_eq!(output.status.code(), Some(2), "the configuration forbids snapshots: {}", printed(&output));
    assert!(printed(&output).contains("snapshot.enabled = false"), "{}", printed(&output));
}
