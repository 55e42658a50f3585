//! A large database to and from every store: memory stays small, the same database comes back.

use crate::support::servers::{self, KEY, SECRET};
use crate::support::stores::{s3_config, sftp_config, webdav_config};
use crate::support::*;
use std::process::Command;
use std::time::{Duration, Instant};

/// Resident memory that no process may exceed, in KiB: 32 MB.
const PEAK_MAX: u64 = 31_250;

/// Size of the database: small in CI, `make bench` asks for more.
fn megabytes() -> u64 {
    number_from_environment("HARMONYLITE_BENCH_MB").unwrap_or(100)
}

/// Runs the program with arguments and watches its memory. Returns what it printed, its peak in KiB, and the time.
fn watched(node: &Node, arguments: &[&str]) -> (String, u64, Duration) {
    let begun = Instant::now();
    let script = "\"$@\" & pid=$!; peak=0; while kill -0 $pid 2>/dev/null; do \
                  now=$(sed -n 's/VmHWM:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$pid/status 2>/dev/null); \
                  [ -n \"$now\" ] && peak=$now; sleep 0.02; done; wait $pid; code=$?; echo peak $peak; exit $code";
    let output = Command::new("bash")
        .args(["-c", script, "-", PROGRAM, "-config"])
        .arg(&node.config)
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let peak = text.split("peak ").nth(1).unwrap().trim().parse().unwrap();
    (text, peak, begun.elapsed())
}

/// Saves a large database, verifies the snapshot, and restores it on a node without a database.
fn there_and_back(name: &str, dir: &Dir, nats: &Nats, config: &str) {
    let (megabytes, other) = (megabytes(), Dir::new("large-too"));
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)";
    let one = Node::with_schema(dir, 1, &nats.url(), config, schema);
    one.sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
         INSERT INTO t SELECT i, randomblob(3900) FROM n",
        megabytes * 256
    ));
    one.checkpoint();
    let (text, peak, took) = watched(&one, &["-save-snapshot", "-json"]);
    let saved: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let speed = megabytes as f64 * 1.048_576 / took.as_secs_f64();
    println!("{name}: saving {megabytes} MiB: {speed:.0} MB/s, {peak} KiB resident at the peak");
    assert!(peak < PEAK_MAX, "{name}: {peak} KiB");
    let (text, peak, _) = watched(&one, &["-verify-snapshot", "-json"]);
    let verified: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&verified["ok"], &verified["digest"]), (&true.into(), &saved["digest"]));
    assert!(peak < PEAK_MAX, "{name}: verifying: {peak} KiB");
    // Time that the machine needs to copy the file twice, as a measure: to the store and back.
    let begun = Instant::now();
    let copies = [other.0.join("copy"), other.0.join("copy-too")];
    for copy in &copies {
        let done = Command::new("cp").arg(&one.database).arg(copy).status().unwrap().success();
        assert!(done && Command::new("sync").arg(copy).status().unwrap().success());
    }
    let copied_twice = begun.elapsed().as_secs_f64();
    copies.iter().for_each(|copy| std::fs::remove_file(copy).unwrap());
    let mut two = Node::new(&other, 2, &nats.url(), config);
    let begun = Instant::now();
    two.start();
    wait_for("it is restored", 300, || {
        two.assert_alive();
        (two.count("caught up with") > 0).then_some(())
    });
    let peak = two.memory().1;
    let took = begun.elapsed().as_secs_f64();
    let (speed, ratio) = (megabytes as f64 * 1.048_576 / took, took / copied_twice);
    println!(
        "{name}: a node from nothing is whole in {took:.1} s, {ratio:.2} times two copies of the file: {speed:.0} MB/s, {peak} KiB resident at the peak"
    );
    assert!(peak < PEAK_MAX, "{name}: restoring: {peak} KiB");
    let sum = "SELECT count(*) || '-' || sum(length(v)) || '-' || hex(max(v)) || hex(min(v)) FROM t";
    assert_eq!(value(&one, sum), value(&two, sum), "{name}");
}

#[test]
fn nats() {
    let dir = Dir::new("large-nats");
    let nats = Nats::start(&dir);
    there_and_back("nats", &dir, &nats, "");
}

#[test]
fn s3() {
    let dir = Dir::new("large-s3");
    let nats = Nats::start(&dir);
    let server = servers::rclone(&dir, "s3", &["--auth-key", &format!("{KEY},{SECRET}")]);
    let config = s3_config(&format!("127.0.0.1:{}", server.port), (KEY, SECRET), "backups", "x");
    there_and_back("s3 (rclone)", &dir, &nats, &config);
}

#[test]
fn webdav() {
    let dir = Dir::new("large-webdav");
    let nats = Nats::start(&dir);
    let dav = servers::apache(&dir);
    let config = webdav_config(&format!("http://127.0.0.1:{}", dav.digest), "/d");
    there_and_back("webdav (Apache, digest)", &dir, &nats, &config);
}

#[test]
fn sftp() {
    let dir = Dir::new("large-sftp");
    let nats = Nats::start(&dir);
    let ssh = servers::openssh(&dir);
    let config = sftp_config(&ssh, &ssh.user, &format!("{}/d", ssh.root.display()));
    there_and_back("sftp (OpenSSH)", &dir, &nats, &(config + &format!("key_file = {:?}\n", ssh.key)));
}

#[test]
fn packed_file() {
    let dir = Dir::new("large-file");
    let nats = Nats::start(&dir);
    let key = dir.0.join("key");
    std::fs::write(&key, "17".repeat(32)).unwrap();
    let config = format!(
        "[snapshot]\nstore = \"file\"\nfile.path = {:?}\ncompression = \"zstd\"\nkey_file = {key:?}\n",
        dir.0.join("backups")
    );
    there_and_back("file (zstd, encrypted)", &dir, &nats, &config);
}

/// An application with the system's own SQLite, writing all the time: the longest commit, in milliseconds, and the largest WAL.
const WRITER: &str = r#"
import os, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
db.execute("PRAGMA journal_mode=WAL"); db.execute("PRAGMA synchronous=NORMAL")
stop, worst, largest, count = sys.argv[2], 0, 0, 0
while not os.path.exists(stop):
    begun = time.monotonic()
    db.execute("INSERT INTO t(v) VALUES(randomblob(1000))")
    worst = max(worst, time.monotonic() - begun)
    largest = max(largest, os.path.getsize(sys.argv[1] + "-wal"))
    count += 1
    time.sleep(0.005)
print(count, worst * 1000, largest)
"#;

/// No writer waits for a snapshot, and the WAL grows only by what is written meanwhile.
#[test]
fn writers_do_not_wait() {
    let dir = Dir::new("large-writers");
    let nats = Nats::start(&dir);
    let mut node =
        Node::with_schema(&dir, 1, &nats.url(), "", "CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)");
    node.sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
         INSERT INTO t SELECT i, randomblob(3900) FROM n",
        megabytes() * 256
    ));
    node.checkpoint();
    node.start_ready();
    wait_for("the first snapshot", 120, || (node.count("stored snapshot") > 0).then_some(()));
    let write = |during: &dyn Fn()| {
        let stop = dir.0.join("stop");
        let _ = std::fs::remove_file(&stop);
        let mut writer = Command::new(servers::tool("python"));
        writer.args(["-c", WRITER]).arg(&node.database).arg(&stop).stdout(std::process::Stdio::piped());
        let writer = Process::start(&mut writer);
        pause(300);
        during();
        std::fs::write(&stop, "").unwrap();
        let output = writer.output();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().map(|number| number.parse().unwrap()).collect::<Vec<f64>>()
    };
    let alone = write(&|| pause(1_500));
    let begun = Instant::now();
    let beside = write(&|| {
        for _ in 0..2 {
            let output = node.command(&["-save-snapshot"]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "two snapshots of {} MiB in {seconds:.1} s beside a writer: its longest commit {:.0} ms ({:.0} ms alone), WAL up to {:.1} MB ({:.1} MB alone)",
        megabytes(),
        beside[1],
        alone[1],
        beside[2] / 1e6,
        alone[2] / 1e6
    );
    assert!(beside[0] > 50.0 && beside[1] < 2_000.0, "{beside:?}");
    // Each row changes pages of its table, of the log and of the position, three times: written, read back, settled.
    assert!(beside[2] < alone[2].max(8e6) + beside[0] * 60_000.0, "{beside:?}");
}
