//! What lies on the disk beside a private database: nobody else may read it at any moment, nothing is left of what was killed,
//! and one daemon works on one file, whatever it is called.

use crate::recovery::damage::{aside, recovered};
use crate::support::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v, pad); CREATE TABLE own(k TEXT PRIMARY KEY, v)";

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Looks without pause for files that others than their owner may use.
struct Watch {
    stop: Arc<AtomicBool>,
    found: Arc<Mutex<Vec<String>>>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Watch {
    /// The test's own files (configuration, log, broker) are not looked at.
    fn start(dirs: Vec<PathBuf>) -> Watch {
        let (stop, found) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(vec![])));
        let (told, seen) = (stop.clone(), found.clone());
        let thread = std::thread::spawn(move || {
            let mut looks = 0;
            while !told.load(Ordering::Relaxed) {
                dirs.iter().for_each(|dir| look(dir, &seen));
                looks += 1;
                std::thread::sleep(std::time::Duration::from_micros(500));
            }
            looks
        });
        Watch { stop, found, thread: Some(thread) }
    }

    fn end(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let looks = self.thread.take().unwrap().join().unwrap();
        assert!(looks > 100, "only {looks} looks");
        self.found.lock().unwrap().clone()
    }
}

fn look(dir: &Path, found: &Mutex<Vec<String>>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            look(&path, found);
        } else if meta.is_file() && meta.mode() & 0o077 != 0 && name != "config.toml" && name != "log" {
            let line = format!("{:o} {}", meta.mode() & 0o777, path.display());
            let mut found = found.lock().unwrap();
            if !found.contains(&line) {
                found.push(line);
            }
        }
    }
}

/// A whole life with umask 022: snapshots, a restore, damage, a join, proofs, every command that writes a file.
#[test]
fn nobody_else_can_read_what_is_made_of_a_private_database() {
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    let dir = Dir::new("private");
    let made = |name: &str| {
        let path = dir.0.join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (temp, store, to) = (made("temp"), made("store"), made("to"));
    let config = format!(
        "[snapshot]\nleader_ttl = 1000\nverify_interval = 1000\nkeep = 2\ncompression = \"zstd\"\ntemp_dir = {temp:?}\n\
         store = \"file\"\nfile.path = {store:?}\n"
    );
    // The first node runs the broker.
    let mut one = Node::with_schema(&dir, 1, "", &config, SCHEMA);
    one.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) \
         INSERT INTO t SELECT i, 'v' || i, randomblob(500) FROM n",
    );
    set_mode(&one.database, 0o600);
    one.start_ready();
    let address = one.dir.join("nats/harmonylite-node-1/address");
    let url = wait_for("the broker's address", 10, || std::fs::read_to_string(&address).ok());
    let mut two = Node::new(&dir, 2, &url, &config);
    let mut three = Node::with_schema(&dir, 3, &url, &config, SCHEMA);
    three.sql("INSERT INTO t VALUES(1, 'another value', NULL)");
    set_mode(&three.database, 0o600);
    let watched = vec![one.dir.clone(), two.dir.clone(), three.dir.clone(), temp, store, to.clone()];
    let watch = Watch::start(watched);
    wait_for("a proven restore", 30, || (one.count("proved that a restore works") > 0).then_some(()));
    two.start_ready();
    three.start_ready();
    wait_equal(&mut [&mut one, &mut two, &mut three], 30);
    assert_eq!(std::fs::metadata(&two.database).unwrap().mode() & 0o777, 0o600);
    assert_eq!(aside(&three, "before-join").len(), 1);
    one.sql("UPDATE t SET v = 'changed' WHERE id < 50");
    wait_equal(&mut [&mut one, &mut two, &mut three], 30);
    let target = |name: &str| to.join(name).display().to_string();
    for arguments in [
        vec!["-save-snapshot"],
        vec!["-verify-snapshot"],
        vec!["-restore-snapshot", "snapshot.db", "-to", &target("snapshot.db")],
        vec!["-restore-at", "1000000", "-to", &target("at.db")],
    ] {
        let output = one.command(&arguments);
        assert!(output.status.success() || arguments[0] == "-restore-at", "{}", printed(&output));
    }
    two.stop();
    two.checkpoint();
    spoil(&two.database, 0, 100);
    two.start();
    recovered(&mut two, &mut one, 1);
    assert_eq!(std::fs::metadata(&two.database).unwrap().mode() & 0o777, 0o600);
    assert_eq!((three.stop(), two.stop(), one.stop()), (0, 0, 0));
    let found = watch.end();
    assert!(found.is_empty(), "others can read {found:#?}");
    let left: Vec<_> = std::fs::read_dir(dir.0.join("temp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A daemon that runs as root restores for an application that does not.
#[test]
fn what_root_restores_belongs_to_whom_the_directory_belongs() {
    if !is_root() {
        return skip("only root can give files away");
    }
    let dir = Dir::new("private-owner");
    let nats = Nats::start(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "snapshot.leader_ttl = 1000\n", SCHEMA);
    one.start_ready();
    wait_for("a snapshot", 30, || (one.count("stored snapshot") > 0).then_some(()));
    for (mode, expected) in [(0o755, 0o600), (0o2770, 0o660)] {
        let mut two = Node::new(&dir, 2, &nats.url(), "");
        std::os::unix::fs::chown(&two.dir, Some(65_534), Some(65_533)).unwrap();
        set_mode(&two.dir, mode);
        two.start_ready();
        let meta = std::fs::metadata(&two.database).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (65_534, 65_533, expected));
        two.stop();
        // A database that is lost leaves its rights behind with its WAL.
        let wal = two.dir.join("app.db-wal");
        std::fs::write(&wal, b"x").unwrap();
        std::os::unix::fs::chown(&wal, Some(1234), Some(2345)).unwrap();
        set_mode(&wal, 0o640);
        std::fs::remove_file(&two.database).unwrap();
        two.start_ready();
        let meta = std::fs::metadata(&two.database).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (1234, 2345, 0o640));
        two.stop();
        std::fs::remove_dir_all(&two.dir).unwrap();
    }
}

/// Kills while a snapshot is being made: the next start removes what they left, wherever temporary files lie.
#[test]
fn a_killed_snapshot_leaves_nothing_behind_for_long() {
    let dir = Dir::new("private-killed");
    let nats = Nats::start(&dir);
    let temp = dir.0.join("temp");
    std::fs::create_dir(&temp).unwrap();
    set_mode(&temp, 0o1777);
    let config = format!("snapshot.leader_ttl = 1000\nsnapshot.temp_dir = {temp:?}\n");
    let mut one = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    one.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) \
         INSERT INTO t SELECT i, 'v' || i, zeroblob(500) FROM n",
    );
    let entries = || -> Vec<String> {
        let entries = std::fs::read_dir(&temp).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    // Somebody else's, with a name like ours.
    let strangers = temp.join("app.db.harmonylite-snapshot-0123456789abcdef");
    let stranger = is_root();
    if stranger {
        std::fs::create_dir(&strangers).unwrap();
        std::os::unix::fs::chown(&strangers, Some(65_534), None).unwrap();
    }
    let others = usize::from(stranger);
    one.start();
    wait_for("a snapshot is being made", 30, || (entries().len() > others).then_some(()));
    one.kill9();
    assert_eq!(entries().len(), others + 1, "the kill came while it was being made");
    one.start_ready();
    assert_eq!(one.count("which an interrupted run had left"), 1, "{}", one.log());
    wait_for("the snapshot", 30, || (one.count("stored snapshot") > 0).then_some(()));
    wait_for("nothing is left", 10, || (entries().len() == others).then_some(()));
    assert_eq!(strangers.exists(), stranger);
}

#[test]
fn a_second_daemon_is_refused_under_any_name_of_the_file() {
    let dir = Dir::new("private-names");
    let nats = Nats::start(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    one.start_ready();
    let mut symbolic = Node::new(&dir, 2, &nats.url(), "");
    std::os::unix::fs::symlink(&one.database, &symbolic.database).unwrap();
    symbolic.start();
    assert_eq!(symbolic.wait_exit(10), 75, "{}", symbolic.log());
    assert!(symbolic.log().contains("another harmonylite runs on"), "{}", symbolic.log());
    let mut hard = Node::new(&dir, 3, &nats.url(), "");
    std::fs::hard_link(&one.database, &hard.database).unwrap();
    wait_for("the first one notices the name", 10, || (one.count("a hard link") > 0).then_some(()));
    hard.start();
    assert_eq!(hard.wait_exit(10), 75, "{}", hard.log());
    assert!(hard.log().contains("under which another harmonylite works"), "{}", hard.log());
    one.assert_alive();
    one.sql("INSERT INTO own VALUES('still', 1)");
    wait_for("it is published", 10, || (one.unsettled() == 0).then_some(()));
}

/// What an earlier version, or another program, would use under these names.
const PREDICTABLE: [&str; 12] = [
    "aside",
    "download",
    "download-plain",
    "proof",
    "proof-live",
    "proof-plain",
    "snapshot",
    "snapshot-journal",
    "snapshot-wal",
    "snapshot-packed",
    "snapshot-stored",
    "verify",
];

/// Another user has put files and links with every name that could be guessed into the shared directory: nothing is written
/// into them, nothing of his is removed, and what his links lead to stays as it was.
#[test]
fn nothing_that_others_put_into_a_shared_directory_is_used() {
    if !is_root() {
        return skip("only root can make files of others");
    }
    let dir = Dir::new("private-shared");
    let nats = Nats::start(&dir);
    let (temp, victim) = (dir.0.join("temp"), dir.0.join("victim"));
    std::fs::create_dir(&temp).unwrap();
    set_mode(&temp, 0o1777);
    std::fs::write(&victim, b"victim").unwrap();
    let mut his = vec![];
    for (at, name) in PREDICTABLE.iter().enumerate() {
        let path = temp.join(format!("app.db.harmonylite-{name}"));
        if at % 3 == 2 {
            std::os::unix::fs::symlink(&victim, &path).unwrap();
        } else {
            std::fs::write(&path, b"his").unwrap();
            set_mode(&path, 0o666);
        }
        std::os::unix::fs::lchown(&path, Some(65_534), Some(65_534)).unwrap();
        his.push(path);
    }
    let directory = temp.join("app.db.harmonylite-snapshot-00112233445566ff");
    std::fs::create_dir(&directory).unwrap();
    std::os::unix::fs::symlink(&victim, directory.join("lock")).unwrap();
    std::os::unix::fs::chown(&directory, Some(65_534), None).unwrap();
    let config = format!(
        "[snapshot]\nleader_ttl = 1000\nverify_interval = 1000\ncompression = \"zstd\"\ntemp_dir = {temp:?}\n"
    );
    let mut one = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    one.sql("INSERT INTO own VALUES('secret', 'rows')");
    // The state that is written beside the database: a link with the name of the unfinished file.
    let unfinished = one.dir.join("seq-map.cbor.tmp");
    std::os::unix::fs::symlink(&victim, &unfinished).unwrap();
    one.start_ready();
    wait_for("a proven restore", 20, || (one.count("proved that a restore works") > 0).then_some(()));
    let mut two = Node::new(&dir, 2, &nats.url(), &config);
    two.start_ready();
    wait_equal(&mut [&mut one, &mut two], 20);
    assert!(one.command(&["-verify-snapshot"]).status.success());
    assert_eq!((two.stop(), one.stop()), (0, 0));
    assert!(one.dir.join("seq-map.cbor").exists(), "the sequence map was written");
    assert!(unfinished.is_symlink() && directory.join("lock").is_symlink());
    assert_eq!(std::fs::read(&victim).unwrap(), b"victim");
    for path in his {
        let meta = std::fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert_eq!(meta.uid(), 65_534, "{path:?}");
        assert!(meta.is_symlink() || std::fs::read(&path).unwrap() == b"his", "{path:?} was written");
    }
}
