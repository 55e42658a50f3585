//! An SFTP server that attacks its clients: they end in bounded time, memory and disk, say in one line what is wrong, and the
//! nodes replicate all the while.

use crate::support::servers::{self, PASSWORD, USER};
use crate::support::stores::sftp_config;
use crate::support::*;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
const UNASKED: &str = "the server sent more than 8 MiB that nobody had asked for";
/// KiB.
const MEMORY: u64 = 200 << 10;

/// Runs a command beside the daemon. It fails in time, with one line that says `why`; with nothing: it succeeds.
fn told(node: &Node, arguments: &[&str], why: &str) {
    let path = node.dir.join("printed");
    let out = std::fs::File::create(&path).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("-config").arg(&node.config).args(arguments).arg("-quiet").stdin(Stdio::null());
    let mut process = Process::start(command.stdout(out.try_clone().unwrap()).stderr(out));
    let mut most = 0;
    let ended = wait_for("the command ends", 25, || {
        most = most.max(process.peak_memory());
        process.ended()
    });
    let text = String::from_utf8(std::fs::read(path).unwrap()).unwrap();
    assert_eq!(ended.success(), why.is_empty(), "{arguments:?}: {text}");
    assert!(most < MEMORY, "{arguments:?}: {most} KiB");
    assert!(text.contains(why) && text.len() < 500, "{arguments:?}: expected {why}: {text}");
    assert!(why.is_empty() || text.lines().count() == 1, "{arguments:?}: {text}");
    assert!(!text.contains(['\x1b', '\r']) && !text.contains(PASSWORD), "{text:?}");
}

/// Names and sizes of what lies in a directory.
fn files(dir: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let mut found: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
        .collect();
    found.sort();
    found
}

/// A server, and a node that has stored a snapshot there.
fn stored(name: &str) -> (Dir, Nats, servers::HostileSftp, Node) {
    let dir = Dir::new(name);
    let nats = Nats::start(&dir);
    let hostile = servers::hostile_sftp(&dir);
    let config = sftp_config(&hostile.ssh, &format!("{USER}:{PASSWORD}"), "/d");
    let mut node = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    node.sql("INSERT INTO t VALUES(1, randomblob(3000000))");
    node.start_ready();
    wait_for("a snapshot", 20, || (node.count("stored snapshot") > 0).then_some(()));
    (dir, nats, hostile, node)
}

#[test]
fn lists_sizes_names_and_contents_that_lie() {
    let (_dir, _nats, hostile, mut node) = stored("sftp-lies");
    let before = files(&node.dir);
    for (mode, command, why) in [
        ("endless-list", "-list-snapshots", "the directory holds more than 100000 files"),
        ("many-snapshots", "-list-snapshots", "the directory holds more than 4000 snapshots"),
        ("odd-names", "-list-snapshots", ""),
        ("absurd-size", "-verify-snapshot", "the snapshot needs 9223372036854775808 bytes, "),
        ("says-more", "-verify-snapshot", "bytes came of "),
        ("says-less", "-verify-snapshot", "more than the "),
        (
            "endless-content",
            "-verify-snapshot",
            "its description is damaged (snapshot.db.json): it is not taken",
        ),
        ("error-in-the-middle", "-verify-snapshot", "look at SFTP 127.0.0.1:"),
    ] {
        hostile.does(mode);
        told(&node, &[command], why);
    }
    hostile.does("honest");
    told(&node, &["-verify-snapshot"], "");
    let left: Vec<_> = files(&node.dir).into_iter().map(|(name, _)| name).collect();
    assert!(left.len() <= before.len() + 2, "{before:?}, and now {left:?}");
    node.assert_alive();
}

#[test]
fn writes_and_renames_that_do_not_happen() {
    let (_dir, _nats, hostile, mut node) = stored("sftp-writes");
    for (mode, why) in [
        ("writes-nothing", "the store holds 0 bytes of "),
        ("renames-nothing", "the store says it renamed to snapshot.db.json, and did not"),
    ] {
        hostile.does(mode);
        node.sql("INSERT INTO t(v) VALUES('x')");
        told(&node, &["-save-snapshot"], why);
    }
    hostile.does("honest");
    told(&node, &["-verify-snapshot"], "");
    told(&node, &["-save-snapshot"], "");
    let names: Vec<_> = files(&hostile.ssh.root.join("d")).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["snapshot.db", "snapshot.db.json"]);
    node.assert_alive();
}

#[test]
fn floods_and_cuts() {
    let (_dir, _nats, hostile, mut node) = stored("sftp-floods");
    for (mode, why) in [
        ("flood-of-nothing", UNASKED),
        ("flood-of-what-nobody-reads", UNASKED),
        ("flood-of-answers", UNASKED),
        ("flood-before-login", UNASKED),
        ("giant-answer", "look at SFTP 127.0.0.1:"),
        ("cut", "look at SFTP 127.0.0.1:"),
    ] {
        hostile.does(mode);
        told(&node, &["-verify-snapshot"], why);
    }
    hostile.does("honest");
    told(&node, &["-save-snapshot"], "");
    node.assert_alive();
}

/// A row of each node is on the other one soon, and neither application waits for a second.
fn rows_cross(one: &mut Node, two: &mut Node, id: i64) {
    for (node, other, id) in [(&*one, &*two, id), (&*two, &*one, id + 1)] {
        let begun = Instant::now();
        node.sql(&format!("INSERT INTO t VALUES({id}, 'x')"));
        assert!(begun.elapsed() < Duration::from_secs(1), "a write took {:?}", begun.elapsed());
        let there = format!("SELECT count(*) FROM t WHERE id = {id}");
        wait_for("the row crosses", 10, || (value(other, &there) == "Integer(1)").then_some(()));
    }
    one.assert_alive();
    two.assert_alive();
}

#[test]
fn nodes_replicate_beside_a_hostile_store_and_use_it_when_it_is_good() {
    let (dir, nats, hostile, mut one) = stored("sftp-nodes");
    let config = sftp_config(&hostile.ssh, &format!("{USER}:{PASSWORD}"), "/d");
    let mut two = Node::with_schema(&dir, 2, &nats.url(), &config, SCHEMA);
    two.start_ready();
    let mut three = Node::new(&dir, 3, &nats.url(), &config);
    three.start_with(&[]);
    wait_for("the third one has the rows", 20, || (three.count("caught up with") > 0).then_some(()));
    assert_eq!(three.stop(), 0);
    three.remove_database();
    hostile.does("flood-of-answers");
    three.start();
    for (at, (mode, why)) in [
        ("flood-of-answers", UNASKED),
        ("endless-content", "its description is damaged"),
        ("absurd-size", "the snapshot needs 9223372036854775808 bytes"),
        ("says-less", "bytes came that are there"),
    ]
    .into_iter()
    .enumerate()
    {
        hostile.does(mode);
        let before = three.count(why);
        rows_cross(&mut one, &mut two, 100 + 10 * i64::try_from(at).unwrap());
        wait_for(why, 15, || (three.count(why) > before).then_some(()));
        assert!(!three.database.exists());
        for node in [&mut one, &mut two, &mut three] {
            node.assert_alive();
            assert!(node.memory().1 < MEMORY, "{} KiB", node.memory().1);
        }
    }
    hostile.does("honest");
    wait_for("the third one has the rows", 25, || (three.count("caught up with") > 1).then_some(()));
    wait_equal(&mut [&mut one, &mut two, &mut three], 20);
    told(&one, &["-save-snapshot"], "");
    assert_eq!(three.log().matches(['\x1b', '\r']).count() + three.count(PASSWORD), 0);
}

#[test]
fn a_store_that_hangs_keeps_no_row_and_no_signal_waiting() {
    let (dir, nats, hostile, mut one) = stored("sftp-hangs");
    let config = sftp_config(&hostile.ssh, &format!("{USER}:{PASSWORD}"), "/d");
    let mut two = Node::with_schema(&dir, 2, &nats.url(), &config, SCHEMA);
    two.start_ready();
    wait_equal(&mut [&mut one, &mut two], 20);
    hostile.does("hang");
    let mut three = Node::new(&dir, 3, &nats.url(), &config);
    three.start();
    wait_for("it has logged in", 10, || {
        let hosts = three.dir.join("sftp-known-hosts");
        hosts.exists().then_some(())
    });
    rows_cross(&mut one, &mut two, 100);
    pause(1_000);
    rows_cross(&mut one, &mut two, 110);
    for node in [&mut three, &mut two, &mut one] {
        assert_eq!(node.stop(), 0, "{}", node.log());
    }
}
