//! The nats-server that a daemon runs itself when the configuration names none.

use crate::support::*;
use std::process::Command;

#[test]
fn our_own_nats_server() {
    let dir = Dir::new("own");
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    for (number, binary) in nats_binaries().iter().enumerate() {
        let base = number as u64 * 10;
        let port = free_port();
        let extra = format!(
            "nats.server_binary = {binary:?}\nnats.user_name = \"app\"\nnats.user_password = \"s3cret pass\\u0001\\b\\\"\"",
        );
        let mut one = Node::with_schema(&dir, base + 1, "", &extra, schema);
        let text = std::fs::read_to_string(&one.config)
            .unwrap()
            .replace("127.0.0.1:-1", &format!("127.0.0.1:{port}"));
        std::fs::write(&one.config, text).unwrap();
        one.start_ready();
        let url = format!("nats://app:s3cret%20pass%01%08%22@127.0.0.1:{port}");
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
        // The daemon is killed: its server ends too.
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
fn settings_that_the_server_does_not_take_are_named_and_no_older_error() {
    for binary in nats_binaries() {
        let dir = Dir::new("wrong-settings");
        let settings = dir.0.join("settings.conf");
        std::fs::write(&settings, "port: 1\nno_such_setting: 3\n").unwrap();
        let extra = format!("nats.server_binary = {binary:?}\nnats.server_config = {settings:?}");
        let node = Node::with_schema(&dir, 1, "", &extra, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
        let home = node.dir.join("nats/harmonylite-node-1");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(home.join("nats-server.log"), "[1] 2026/01/01 10:00:00.000000 [ERR] of last year\n")
            .unwrap();
        for _ in 0..2 {
            let output = node.command(&[]);
            let told = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(1), "{told}");
            assert!(told.contains("no_such_setting") && !told.contains("of last year"), "{told}");
        }
    }
}

/// A stranger to whom our own server is open fills what the streams may take, and not the disk: the application, and rows of all
/// nodes, go on.
#[test]
fn whoever_may_publish_fills_half_of_the_free_disk_at_most() {
    for binary in nats_binaries() {
        let dir = Dir::new("full-streams");
        let Some(small) = Small::mount(dir.0.join("node-1"), "100m") else {
            return skip("no file system can be mounted");
        };
        let free = || {
            let out = Command::new("df").args(["--output=avail", "-k"]).arg(&small.0).output().unwrap();
            String::from_utf8(out.stdout).unwrap().lines().last().unwrap().trim().parse::<u64>().unwrap()
        };
        let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
        let port = free_port();
        let config = format!("nats.server_binary = {binary:?}\nsnapshot.enabled = false");
        let mut one = Node::with_schema(&dir, 1, "", &config, schema);
        let text = std::fs::read_to_string(&one.config).unwrap();
        std::fs::write(&one.config, text.replace("127.0.0.1:-1", &format!("127.0.0.1:{port}"))).unwrap();
        one.start_ready();
        let url = format!("nats://127.0.0.1:{port}");
        let mut two = Node::with_schema(&dir, 2, &url, "snapshot.enabled = false", schema);
        two.start_ready();
        let client = nats::jetstream::new(nats::connect(&url).unwrap());
        let junk = || nats::jetstream::StreamConfig {
            name: "junk".to_owned(),
            subjects: vec!["junk".to_owned()],
            ..Default::default()
        };
        client.add_stream(junk()).unwrap();
        let before = free();
        let mut refused = String::new();
        for number in 0..200_u32 {
            if let Err(error) = client.publish("junk", number.to_be_bytes().repeat(250_000)) {
                refused = error.to_string();
                break;
            }
        }
        assert!(!refused.is_empty(), "200 MB fitted into 100 MB");
        let after = free();
        eprintln!("{}: {before} KiB free before, {after} after: {refused}", binary.display());
        assert!(after > before / 3 && after < before * 3 / 4, "{before} KiB, then {after}");
        // The application has room for what it writes. What the streams have no room for waits in the log.
        one.sql(
            "INSERT INTO t(v) SELECT randomblob(1000000) FROM (VALUES(1), (2), (3), (4), (5), (6), (7), (8))",
        );
        two.sql("INSERT INTO t VALUES(100, 'y')");
        one.assert_alive();
        client.delete_stream("junk").unwrap();
        wait_equal(&mut [&mut one, &mut two], 40);
        assert_eq!((two.stop(), one.stop()), (0, 0));
    }
}
