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

/// Recovery by hand does not lose the last copy of anything by one wrong command.
#[test]
fn what_may_be_nowhere_else_is_not_cleaned_up() {
    let dir = Dir::new("cleanup-refused");
    let mut nats = Nats::start(&dir);
    let mut node = Node::with_schema(&dir, 1, &nats.url(), "", "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    node.start_ready();
    nats.kill();
    node.sql("INSERT INTO t VALUES(1, 'nobody else has it')");
    assert_eq!(node.stop(), 0);
    let output = node.command(&["-cleanup"]);
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("nothing was removed") && text.contains("not come back from the stream"), "{text}");
    nats.restart();
    node.start_ready();
    assert!(node.command(&["-sync"]).status.success());
    assert_eq!(node.stop(), 0);
    let output = node.command(&["-cleanup"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    // By force.
    node.start_ready();
    nats.kill();
    node.sql("INSERT INTO t VALUES(2, 'nobody else has it')");
    assert_eq!(node.stop(), 0);
    assert_eq!(node.command(&["-cleanup"]).status.code(), Some(1));
    let output = node.command(&["-cleanup", "-force"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
}

/// A cron job on a node that was off for long does not put its old state in the place of the cluster's newest.
#[test]
fn a_snapshot_that_holds_more_stays() {
    let dir = Dir::new("older-snapshot");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "", schema);
    let mut two = Node::with_schema(&dir, 2, &nats.url(), "", schema);
    let stranger = Node::with_schema(&dir, 3, &nats.url(), "", schema);
    one.start_ready();
    two.start_ready();
    one.sql("INSERT INTO t VALUES(1, 'x')");
    wait_equal(&mut [&mut one, &mut two], 20);
    assert_eq!(two.stop(), 0);
    one.sql("INSERT INTO t VALUES(2, 'y')");
    assert!(one.command(&["-sync"]).status.success());
    let saved = |node: &Node| {
        let output = node.command(&["-save-snapshot"]);
        (output.status.code(), printed(&output))
    };
    assert_eq!(saved(&one).0, Some(0));
    for (node, why) in [(&two, "has not read so far"), (&stranger, "has never followed the streams")] {
        let (code, text) = saved(node);
        assert!(code == TRY_AGAIN_LATER && text.contains(why), "{text}");
    }
    two.start_ready();
    wait_equal(&mut [&mut one, &mut two], 20);
    assert_eq!(saved(&two).0, Some(0));
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

/// A secret in the wrong place, or with characters that end a part of a URL: the message shows no piece of it.
#[test]
fn a_wrong_configuration_shows_no_secret() {
    let dir = Dir::new("shown-secrets");
    let database = dir.0.join("app.db");
    let run = |text: &str| {
        let path = dir.0.join("config.toml");
        std::fs::write(&path, format!("db_path = {database:?}\nnode_id = 1\n{text}\n")).unwrap();
        let mut command = Command::new(PROGRAM);
        // An address that nobody has: with a right configuration the command ends as well.
        printed(&command.args(["-list-snapshots", "-config"]).arg(&path).output().unwrap())
    };
    let mut texts: Vec<String> = ["/", "#", "?", ",", "@", ":", " ", "%", "\\\\"]
        .iter()
        .flat_map(|odd| {
            let url = |scheme: &str| format!("{scheme}app:hun{odd}ter2@broker.invalid:99999");
            [
                format!("nats.urls = [\"{}\"]", url("nats://")),
                format!("nats.urls = [\"{}\"]", url("")),
                format!("nats.urls = \"{}\"", url("nats://")),
                format!("nats = \"{}\"", url("nats://")),
                format!("nats.leaf_servers = [\"{}\"]", url("nats://")),
                format!("[snapshot]\nstore = \"sftp\"\nsftp = \"{}/d\"", url("sftp://")),
                format!("[snapshot]\nstore = \"sftp\"\n[snapshot.sftp]\nurl = \"{}/d\"", url("sftp://")),
                format!("[snapshot]\nstore = \"file\"\nfile.path = \"{}\"", url("sftp://")),
                format!("[snapshot]\nstore = \"webdav\"\n[snapshot.webdav]\nurl = \"{}/d\"", url("https://")),
                format!(
                    "[snapshot]\nstore = \"s3\"\n[snapshot.s3]\nendpoint = \"{}\"\nbucket = \"b\"",
                    url("https://")
                ),
            ]
        })
        .collect();
    for key in [
        "nats.user_password",
        "nats.token",
        "snapshot.s3.secret",
        "snapshot.key_file",
        "snapshot.sftp.key_passphrase",
    ] {
        texts.push(format!("{key} = [\"hunter2\"]"));
        texts.push(format!("{key} = \"hunter2"));
        texts.push(format!("{key} = \"hunter2\"\nsnapshot.store = \"nowhere\""));
    }
    for text in texts {
        let told = run(&text);
        assert!(!told.is_empty() && !told.contains("hun") && !told.contains("ter2"), "{text}\n-> {told}");
    }
}

/// What travels in the clear is said once at the start, and with TLS, on this machine or with a key it is not.
#[test]
fn what_travels_in_the_clear_is_said_once() {
    let dir = Dir::new("clear");
    let nats = "nats.urls = [\"nats://app:hunter2@broker.invalid:4222\"]";
    let s3 = "[snapshot]\nstore = \"s3\"\n[snapshot.s3]\nendpoint = \"s3.invalid:9000\"\nbucket = \"b\"\naccess_key = \"k\"\nsecret = \"hunter2\"";
    let webdav = "[snapshot]\nstore = \"webdav\"\n[snapshot.webdav]\nurl = \"http://dav.invalid/d?dir=/d&login=app&secret=hunter2\"";
    let tls = nats.replace("nats://", "tls://");
    for (id, config, expected) in [
        (1, nats.to_owned(), vec!["nats.urls: password or token, and all rows, go in the clear"]),
        (2, nats.replace("app:hunter2@", ""), vec!["nats.urls: all rows go in the clear"]),
        (3, tls.clone(), vec![]),
        (4, nats.replace("broker.invalid", "127.0.0.1"), vec![]),
        (5, format!("{tls}\n{s3}"), vec!["snapshot.s3.endpoint: without TLS snapshots travel in the clear"]),
        (6, format!("{tls}\n{s3}\nuse_ssl = true"), vec![]),
        (
            7,
            format!("{tls}\n{webdav}"),
            vec!["snapshot.webdav.url: over http snapshots travel in the clear, and the password"],
        ),
        (8, format!("{tls}\n{}", webdav.replace("http://", "https://")), vec![]),
    ] {
        let mut node = Node::with_schema(&dir, id, "", "", "CREATE TABLE t(id INTEGER PRIMARY KEY)");
        let text = std::fs::read_to_string(&node.config).unwrap().replace("nats.urls = []\n", "");
        std::fs::write(&node.config, text + &config).unwrap();
        node.start();
        wait_for("it tries to connect", 10, || {
            (node.count("invalid:4222") + node.count("127.0.0.1:4222") > 0).then_some(())
        });
        assert_eq!(node.stop(), 0);
        for line in &expected {
            assert_eq!(node.count(line), 1, "{config}: {}", node.log());
        }
        assert_eq!(node.count("in the clear"), expected.len(), "{config}: {}", node.log());
        assert_eq!(node.count("hunter2"), 0, "{}", node.log());
    }
}
