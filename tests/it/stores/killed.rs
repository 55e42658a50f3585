//! kill -9 at every step of an upload, on every store: afterwards a whole, verified snapshot is there, and leftovers go away.

use crate::support::proxy::Killer;
use crate::support::servers::{self, KEY, PASSWORD, SECRET, USER};
use crate::support::stores::{s3_config, webdav_config};
use crate::support::*;
use std::path::Path;
use std::process::{Command, Stdio};

/// Number of places of an upload at which the process is killed, spread over the bytes that an undisturbed upload sends.
const STEPS: u64 = 24;

/// A node whose store is reached through the proxy.
fn node(dir: &Dir, nats: &Nats, config: &str, size: usize) -> Node {
    let node = Node::new(dir, 1, &nats.url(), &format!("{config}\n"));
    node.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)");
    // The row is captured when the daemon starts, so that each later change moves the position.
    node.sql(&format!("INSERT INTO t VALUES(0, randomblob({size}))"));
    node
}

fn changed(node: &mut Node, number: u64) {
    node.sql(&format!("INSERT INTO t VALUES({number}, 'x')"));
    wait_for("the change came back", 20, || (node.unsettled() == 0).then_some(()));
}

/// Runs `-save-snapshot`, which the proxy kills after `limit` bytes. True when the command lived to its end.
fn save(node: &Node, killer: &Killer, limit: u64) -> bool {
    killer.reset();
    let log = std::fs::File::create(node.dir.join("save.log")).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["-save-snapshot", "-config"]).arg(&node.config).stdout(Stdio::null()).stderr(log);
    let mut child = Process::start(&mut command);
    killer.arm(child.id(), limit);
    let status = wait_for("the command ends", 60, || child.ended());
    killer.reset();
    assert!(
        status.success() || status.code().is_none(),
        "{}",
        std::fs::read_to_string(node.dir.join("save.log")).unwrap()
    );
    status.success()
}

/// What `-verify-snapshot` and an application see of the stored snapshot: the number of rows.
fn stored_rows(node: &Node) -> u64 {
    let output = node.command(&["-verify-snapshot", "-json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["ok"], true);
    let file = node.dir.join("restored.db");
    let output = node.command(&["-restore-snapshot", "snapshot.db", "-to", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let connection = rusqlite::Connection::open(&file).unwrap();
    let rows: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    drop(connection);
    std::fs::remove_file(file).unwrap();
    u64::try_from(rows).unwrap()
}

/// Kills an upload at every step; `leftovers` counts files in the store that a finished upload must not leave.
fn killed_everywhere(dir: &Dir, nats: &Nats, config: &str, killer: &Killer, leftovers: &dyn Fn() -> usize) {
    let mut node = node(dir, nats, config, 2_000_000);
    node.start_ready();
    let mut rows = 1;
    let mut next = |node: &mut Node| {
        changed(node, rows);
        rows += 1;
        rows
    };
    next(&mut node);
    wait_for("the leader's first snapshot", 30, || (node.count("stored snapshot") > 0).then_some(()));
    assert!(save(&node, killer, u64::MAX));
    next(&mut node);
    killer.reset();
    assert!(save(&node, killer, u64::MAX));
    // Bytes that an undisturbed upload sends.
    let mut now = next(&mut node);
    let total = {
        killer.reset();
        let before = killer.sent();
        let output = node.command(&["-save-snapshot"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        killer.sent() - before
    };
    assert!(total > 2_000_000, "{total}");
    let mut stored = stored_rows(&node);
    assert_eq!(stored, now);
    let mut killed = 0;
    for step in 0..=STEPS {
        now = next(&mut node);
        // The small requests are sent at the beginning and at the end: half of the kills happen there.
        let limit = match step {
            0..6 => 1 + step * 700,
            6..18 => total * (step - 5) / 13,
            _ => total - (STEPS - step) * 700,
        };
        let lived = save(&node, killer, limit);
        killed += u64::from(!lived);
        let found = stored_rows(&node);
        assert!(found == now || (found == stored && !lived), "{found} rows, {stored} before, {now} now");
        stored = found;
    }
    assert!(killed >= STEPS * 3 / 4, "only {killed} kills");
    now = next(&mut node);
    assert!(save(&node, killer, u64::MAX));
    assert_eq!(stored_rows(&node), now);
    assert_eq!(leftovers(), 0, "something was left");
    let temporary = |name: &str| name.contains(".harmonylite-snapshot") && !name.ends_with(".lock");
    assert_eq!(files_in(&node.dir, &temporary), 0, "temporary files beside the database");
    eprintln!("killed {killed} times at up to {total} bytes: whole each time");
}

fn files_in(dir: &Path, which: &dyn Fn(&str) -> bool) -> usize {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.filter(|entry| which(&entry.as_ref().unwrap().file_name().to_string_lossy())).count()
}

/// Files in a store's directory that are neither a snapshot nor its description.
fn strays(dir: &Path) -> usize {
    files_in(dir, &|name| !matches!(name, "snapshot.db" | "snapshot.db.json"))
}

#[test]
fn nats() {
    let dir = Dir::new("killed-nats");
    let nats = Nats::start(&dir);
    let killer = Killer::before(nats.port);
    // The command reaches NATS through the proxy, the daemon directly.
    let mut proxied = Node::new(&dir, 1, &nats.url(), "snapshot.leader_ttl = 2000");
    let text = std::fs::read_to_string(&proxied.config).unwrap();
    proxied
        .sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB); INSERT INTO t VALUES(0, randomblob(2000000))");
    proxied.start_ready();
    let through = text.replace(&nats.url(), &format!("nats://127.0.0.1:{}", killer.port()));
    let command = proxied.dir.join("command.toml");
    std::fs::write(&command, through).unwrap();
    let daemon = std::mem::replace(&mut proxied.config, command);
    changed(&mut proxied, 1);
    wait_for("the leader's first snapshot", 30, || (proxied.count("stored snapshot") > 0).then_some(()));
    killer.reset();
    assert!(save(&proxied, &killer, u64::MAX));
    changed(&mut proxied, 2);
    killer.reset();
    let before = killer.sent();
    assert!(proxied.command(&["-save-snapshot"]).status.success());
    let total = killer.sent() - before;
    assert!(total > 2_000_000, "{total}");
    let (mut rows, mut stored, mut killed) = (3, stored_rows(&proxied), 0);
    for step in 0..=STEPS {
        changed(&mut proxied, rows);
        rows += 1;
        let limit = match step {
            0..6 => 300 + step * 300,
            6..18 => total * (step - 5) / 13,
            _ => total - (STEPS - step) * 300,
        };
        let lived = save(&proxied, &killer, limit);
        killed += u64::from(!lived);
        let found = stored_rows(&proxied);
        assert!(found == rows || (found == stored && !lived), "{found} rows, {stored} before, {rows} now");
        stored = found;
    }
    assert!(killed >= STEPS * 3 / 4, "only {killed} kills");
    changed(&mut proxied, rows);
    assert!(save(&proxied, &killer, u64::MAX));
    assert_eq!(stored_rows(&proxied), rows + 1);
    // No chunks but those of the one object.
    let state = nats.client().stream_info("OBJ_harmonylite-changes-snapshot-store").unwrap().state;
    let size = std::fs::metadata(&proxied.database).unwrap().len();
    assert!(state.messages <= 2 + size / 131_072 + 1, "{} messages", state.messages);
    proxied.config = daemon;
    eprintln!("killed {killed} times at up to {total} bytes: whole each time");
}

/// A configuration with which the daemon becomes the leader at once, makes the first snapshot, and then no other.
fn calm(config: &str) -> String {
    config.replace("[snapshot]\n", "[snapshot]\nleader_ttl = 2000\n")
}

#[test]
fn s3() {
    let dir = Dir::new("killed-s3");
    let nats = Nats::start(&dir);
    let server = servers::rclone(&dir, "s3", &["--auth-key", &format!("{KEY},{SECRET}")]);
    let killer = Killer::before(server.port);
    let config = s3_config(&format!("127.0.0.1:{}", killer.port()), (KEY, SECRET), "backups", "x");
    let root = dir.0.join("rclone/backups/x");
    killed_everywhere(&dir, &nats, &calm(&config), &killer, &|| strays(&root));
}

#[test]
fn webdav() {
    for careless in [false, true] {
        let dir = Dir::new("killed-webdav");
        let nats = Nats::start(&dir);
        let _apache;
        let _rclone;
        let (port, root) = if careless {
            let server = servers::rclone(&dir, "webdav", &["--user", USER, "--pass", PASSWORD]);
            let port = server.port;
            _rclone = server;
            (port, dir.0.join("rclone/d"))
        } else {
            let dav = servers::apache(&dir);
            let port = dav.basic;
            _apache = dav;
            (port, dir.0.join("apache/www/d"))
        };
        let killer = Killer::before(port);
        let config = webdav_config(&format!("http://127.0.0.1:{}", killer.port()), "/d");
        // mod_dav keeps properties in a directory of its own.
        let strays = || files_in(&root, &|name| !matches!(name, "snapshot.db" | "snapshot.db.json" | ".DAV"));
        killed_everywhere(&dir, &nats, &calm(&config), &killer, &strays);
    }
}

#[test]
fn sftp() {
    let dir = Dir::new("killed-sftp");
    let nats = Nats::start(&dir);
    let ssh = servers::openssh(&dir);
    let killer = Killer::before(ssh.server.port);
    let root = ssh.root.join("d");
    let config = format!(
        "[snapshot]\nstore = \"sftp\"\n[snapshot.sftp]\nurl = \"sftp://{}@127.0.0.1:{}{}\"\nkey_file = {:?}\n",
        ssh.user,
        killer.port(),
        root.display(),
        ssh.key
    );
    killed_everywhere(&dir, &nats, &calm(&config), &killer, &|| strays(&root));
}

#[test]
fn directory() {
    let dir = Dir::new("killed-file");
    let nats = Nats::start(&dir);
    let root = dir.0.join("backups");
    let config = calm(&format!("[snapshot]\nstore = \"file\"\nfile.path = {root:?}\n"));
    let mut node = node(&dir, &nats, &config, 20_000_000);
    node.start_ready();
    changed(&mut node, 1);
    wait_for("the leader's first snapshot", 30, || (node.count("stored snapshot") > 0).then_some(()));
    assert!(node.command(&["-save-snapshot"]).status.success());
    let (mut rows, mut stored, mut killed) = (2, stored_rows(&node), 0);
    // No proxy can count bytes here: the kills are spread over the time that an upload takes.
    changed(&mut node, rows);
    rows += 1;
    let begun = std::time::Instant::now();
    assert!(node.command(&["-save-snapshot"]).status.success());
    let took = begun.elapsed();
    stored = stored.max(stored_rows(&node));
    for step in 1..=STEPS {
        changed(&mut node, rows);
        rows += 1;
        let mut command = Command::new(PROGRAM);
        command.args(["-save-snapshot", "-quiet", "-config"]).arg(&node.config).stderr(Stdio::null());
        let child = Process::start(&mut command);
        let until = std::time::Instant::now() + took.mul_f64(step as f64 / STEPS as f64);
        while std::time::Instant::now() < until {
            pause(1);
        }
        let lived = child.kill().success();
        killed += u64::from(!lived);
        let found = stored_rows(&node);
        assert!(found == rows || (found == stored && !lived), "{found} rows, {stored} before, {rows} now");
        stored = found;
    }
    assert!(killed >= STEPS / 2, "only {killed} kills");
    assert!(node.command(&["-save-snapshot"]).status.success());
    assert_eq!((stored_rows(&node), strays(&root)), (rows, 0));
}
