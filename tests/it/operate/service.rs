//! Service files, and what a daemon tells the service manager that started it.

use super::status::SCHEMA;
use crate::support::*;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn printed_service(node: &Node, kind: &str) -> String {
    let output = node.command(&["-print-service", kind]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a checker on a text; what it says must be empty.
fn check(dir: &Dir, name: &str, text: &str, command: &mut Command) {
    let path = dir.0.join(name);
    std::fs::write(&path, text).unwrap();
    let output = command.arg(&path).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}\n{text}", printed(&output));
}

#[test]
fn a_unit_that_systemd_understands() {
    let dir = Dir::new("service");
    let node = Node::with_schema(&dir, 1, "", "", SCHEMA);
    let unit = printed_service(&node, "systemd");
    assert!(unit.contains(&format!("\" -config \"{}\"", node.config.display())), "{unit}");
    assert!(unit.contains("KillMode=mixed"), "its nats-server is stopped by the daemon");
    if !Path::new("/usr/bin/systemd-analyze").is_file() {
        return skip("no systemd-analyze: run `make setup`");
    }
    check(&dir, "harmonylite.service", &unit, Command::new("systemd-analyze").arg("verify"));
}

#[test]
fn an_init_script_for_openwrt_and_a_table_for_cron() {
    let dir = Dir::new("service-others");
    let node = Node::with_schema(&dir, 1, "nats://h", "", SCHEMA);
    let script = printed_service(&node, "procd");
    check(&dir, "init", &script, Command::new("sh").arg("-n"));
    // What procd would be told, by the script itself.
    let harness = "procd_open_instance() { :; }; procd_close_instance() { :; }; config_load() { :; }\n\
        config_get() { eval \"$1=\\$4\"; }; config_get_bool() { eval \"$1=\\$4\"; }\n\
        procd_set_param() { echo \"$*\"; }; . \"$1\"; start_service";
    let output = Command::new("sh").args(["-c", harness, "sh"]).arg(dir.0.join("init")).output().unwrap();
    let told = printed(&output);
    assert!(told.contains(&format!("command {PROGRAM} -config {}", node.config.display())), "{told}");
    assert!(told.contains("respawn 3600 5 0"), "{told}");
    let table = printed_service(&node, "cron");
    assert!(table.contains(" root \"") && table.contains("-save-snapshot -quiet\n"), "{table}");
}

/// What a service manager hears until it hears `last`.
fn heard(socket: &UnixDatagram, last: &str) -> Vec<String> {
    let mut all: Vec<String> = vec![];
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < until, "waited in vain for {last}: {all:?}");
        let mut buffer = [0; 4_096];
        let count = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{last}: {error} after {all:?}"));
        all.push(String::from_utf8(buffer[..count].to_vec()).unwrap());
        if all.last().unwrap().contains(last) {
            return all;
        }
    }
}

#[test]
fn a_service_manager_is_told() {
    let dir = Dir::new("service-notify");
    let mut nats = Nats::start(&dir);
    let socket = UnixDatagram::bind(dir.0.join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut node = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    node.variables = vec![
        ("NOTIFY_SOCKET".into(), dir.0.join("notify").display().to_string()),
        ("WATCHDOG_USEC".into(), "2000000".into()),
    ];
    node.start_ready();
    assert!(heard(&socket, "READY=1")[0].starts_with("READY=1\nSTATUS="));
    heard(&socket, "STATUS=healthy");
    heard(&socket, "WATCHDOG=1");
    nats.kill();
    heard(&socket, ": not connected to NATS");
    nats.restart();
    heard(&socket, "STATUS=healthy");
    // A daemon that hangs says nothing, and is started anew by the service manager.
    node.signal("STOP");
    pause(200);
    socket.set_nonblocking(true).unwrap();
    while socket.recv(&mut [0; 4_096]).is_ok() {}
    pause(2_500);
    assert!(socket.recv(&mut [0; 4_096]).is_err(), "it is stopped in its tracks");
    socket.set_nonblocking(false).unwrap();
    node.signal("CONT");
    heard(&socket, "WATCHDOG=1");
    node.signal("TERM");
    heard(&socket, "STOPPING=1\nSTATUS=stopping");
    assert_eq!(node.wait_exit(10), 0);
}

/// A service manager, or Ctrl-C in a terminal, asks all processes to stop at once.
#[test]
fn a_daemon_with_its_own_server_stops_in_silence() {
    let dir = Dir::new("service-silence");
    let mut node = Node::with_schema(&dir, 1, "", &own_server(), SCHEMA);
    node.start_ready();
    let server = Command::new("pgrep").args(["-P", &node.pid().to_string()]).output().unwrap();
    let server: u32 = String::from_utf8(server.stdout).unwrap().trim().parse().unwrap();
    let before = node.log().len();
    node.signal("TERM");
    signal(server, "TERM");
    assert_eq!(node.wait_exit(10), 0);
    let log = node.log()[before..].to_owned();
    for line in ["ERROR", "lost the connection to NATS", "connect to NATS at", "ended by itself"] {
        assert!(!log.contains(line), "{line} in {log}");
    }
}

/// Our own nats-server, wherever it is.
fn own_server() -> String {
    format!("nats.server_binary = {:?}", nats_binaries()[0])
}

#[test]
fn flags_and_keys_of_the_go_program_are_taken() {
    let dir = Dir::new("service-go");
    let nats = Nats::start(&dir);
    let mut node = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    node.start_with(&["-pprof", "127.0.0.1:6060"]);
    wait_for("the daemon works", 20, || (node.count("caught up with") > 0).then_some(()));
    assert!(node.log().contains("-pprof has no effect here"), "{}", node.log());
    let extra = "nats.tls_ca_file = \"/no/such.pem\"";
    let output = Node::with_schema(&dir, 2, &nats.url(), extra, SCHEMA).command(&[]);
    let text = printed(&output);
    assert!(output.status.code() == Some(2) && text.contains("/no/such.pem"), "{text}");
}
