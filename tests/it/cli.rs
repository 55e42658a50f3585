//! The program from outside: exit codes, messages, logs, our own nats-server.

use super::support::*;
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

#[test]
fn our_own_nats_server() {
    let dir = Dir::new("own");
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    for (number, binary) in nats_binaries().iter().enumerate() {
        let base = number as u64 * 10;
        let port = free_port();
        let extra = format!(
            "nats.server_binary = {binary:?}\nnats.user_name = \"app\"\nnats.user_password = \"s3cret pass\"",
        );
        let mut one = Node::with_schema(&dir, base + 1, "", &extra, schema);
        let text = std::fs::read_to_string(&one.config)
            .unwrap()
            .replace("127.0.0.1:-1", &format!("127.0.0.1:{port}"));
        std::fs::write(&one.config, text).unwrap();
        one.start_ready();
        let url = format!("nats://app:s3cret%20pass@127.0.0.1:{port}");
        let mut two = Node::with_schema(&dir, base + 2, &url, "", schema);
        two.start_ready();
        one.sql("INSERT INTO t VALUES(1, 'one')");
        two.sql("INSERT INTO t VALUES(2, 'two')");
        wait_equal(&mut [&mut one, &mut two], 20);
        assert!(nats::connect(format!("nats://127.0.0.1:{port}")).is_err(), "the server lets anybody in");
        // A command beside the daemon uses its server.
        let output = one.command(&["-save-snapshot"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        // The server dies: it is started again, on the same port, and nothing is lost.
        let server = child_of(one.pid());
        Command::new("kill").args(["-KILL", &server.to_string()]).status().unwrap();
        one.sql("INSERT INTO t VALUES(3, 'meanwhile')");
        wait_for("the server is back", 20, || (one.count("nats-server ended by itself") == 1).then_some(()));
        wait_equal(&mut [&mut one, &mut two], 30);
        // The daemon is killed: the server goes with it.
        let server = child_of(one.pid());
        one.kill9();
        wait_for("the server is gone", 10, || {
            let stat = std::fs::read_to_string(format!("/proc/{server}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
        one.start_ready();
        wait_equal(&mut [&mut one, &mut two], 30);
        assert_eq!((two.stop(), one.stop()), (0, 0));
    }
}

fn child_of(pid: u32) -> u32 {
    let output = Command::new("pgrep").args(["-P", &pid.to_string()]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn no_nats_server_anywhere_is_explained() {
    let dir = Dir::new("nowhere");
    let node = Node::with_schema(
        &dir,
        1,
        "",
        "nats.server_binary = \"/no/such/nats-server\"",
        "CREATE TABLE t(id INTEGER PRIMARY KEY)",
    );
    let output = node.command(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stdout)
            .contains("nats.server_binary = \"/no/such/nats-server\": no such file")
    );
}

#[test]
fn an_unreachable_broker_fails_a_command_and_says_why() {
    let dir = Dir::new("unreachable");
    let url = format!("nats://u:hunter2@127.0.0.1:{}", free_port());
    let node = Node::with_schema(&dir, 1, &url, "", "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let output = node.command(&["-save-snapshot"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        output.stdout.is_empty() && text.contains("Connection refused") && !text.contains("hunter2"),
        "{text}"
    );
}
