//! Files that are torn, missing, or left by another program: the WAL, a rollback journal, the database, the sequence map.

use super::damage::{aside, recovered, two};
use crate::support::servers::tool;
use crate::support::*;
use std::io::Write;
use std::process::{Command, Stdio};

/// Wrong frames in the WAL: SQLite ignores the WAL from there on, and what it held after that point comes back from the stream.
#[test]
fn a_torn_wal() {
    let dir = Dir::new("torn-wal");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = two(&dir, &nats);
    for round in 0..3_u64 {
        // A reader keeps the WAL from being reset, and the application from removing it at the end.
        let reader = one.open();
        reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
        for number in 0..30 {
            one.sql(&format!("INSERT INTO own VALUES('wal {round} {number}', zeroblob(2000))"));
        }
        wait_equal(&mut [&mut one, &mut two], 20);
        one.kill9();
        std::mem::forget(reader);
        let wal = one.dir.join("app.db-wal");
        let copy = one.dir.join("copy.db-wal");
        std::fs::copy(&wal, &copy).unwrap();
        std::fs::copy(&one.database, one.dir.join("copy.db")).unwrap();
        let length = std::fs::metadata(&copy).unwrap().len();
        assert!(length > 60_000, "{length}");
        spoil(&copy, length * (round + 1) / 4, 5000);
        // As after a power cut: no process has the database open.
        one.remove_database();
        std::fs::rename(one.dir.join("copy.db"), &one.database).unwrap();
        std::fs::rename(&copy, &wal).unwrap();
        one.start_ready();
        one.sql(&format!("INSERT INTO own VALUES('after {round}', 1)"));
        wait_equal(&mut [&mut one, &mut two], 30);
        assert_eq!(
            value(&one, &format!("SELECT count(*) FROM own WHERE k LIKE 'wal {round} %'")),
            "Integer(30)"
        );
    }
}

/// The database is removed and its WAL stays, as the documented procedure may leave it; the sequence map alone is gone; the
/// database is gone while the daemon runs.
#[test]
fn files_that_are_missing() {
    let dir = Dir::new("missing");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = two(&dir, &nats);
    let map = one.dir.join("seq-map.cbor");
    // A WAL of the old database, not empty, as a killed application leaves it.
    one.kill9();
    let reader = one.open();
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    one.sql("UPDATE t SET v = 'lost'");
    std::mem::forget(reader);
    let (wal, copy) = (one.dir.join("app.db-wal"), one.dir.join("wal"));
    std::fs::copy(&wal, &copy).unwrap();
    std::fs::remove_file(&one.database).unwrap();
    let _ = std::fs::remove_file(one.dir.join("app.db-shm"));
    std::fs::rename(&copy, &wal).unwrap();
    one.start_ready();
    wait_equal(&mut [&mut one, &mut two], 20);
    assert_eq!(value(&one, "SELECT count(*) FROM t WHERE v = 'lost'"), "Integer(0)");
    assert_eq!(one.count("belongs to a database that is gone"), 1);

    one.stop();
    std::fs::remove_file(&map).unwrap();
    one.start_ready();
    two.sql("INSERT INTO own VALUES('without a map', 1)");
    wait_equal(&mut [&mut one, &mut two], 20);
    assert!(map.exists());

    one.stop();
    std::fs::remove_file(&one.database).unwrap();
    std::fs::remove_file(&map).unwrap();
    one.start_ready();
    wait_equal(&mut [&mut one, &mut two], 20);

    let before = one.count("caught up with");
    one.remove_database();
    wait_for("it begins anew", 30, || {
        one.assert_alive();
        (one.count("caught up with") > before).then_some(())
    });
    wait_equal(&mut [&mut one, &mut two], 20);
    one.sql("INSERT INTO own VALUES('anew', 1)");
    wait_equal(&mut [&mut one, &mut two], 20);
}

/// An application with a rollback journal and its own SQLite, which goes on trying.
const ROLLBACK_APPLICATION: &str = r#"
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
assert db.execute("PRAGMA journal_mode=DELETE").fetchone()[0] == "delete"
open(sys.argv[2], "w").close()
sys.stdin.readline()
until, damaged = time.time() + 30, 0
while time.time() < until:
    try:
        db.execute("INSERT INTO own VALUES('rollback application', 1)")
        print("wrote after", damaged, db.execute("PRAGMA journal_mode").fetchone()[0])
        sys.exit(0)
    except sqlite3.DatabaseError as error:
        assert any(word in str(error) for word in ("not a database", "malformed", "locked", "no such table")), error
        damaged += 1
        time.sleep(0.02)
sys.exit("never")
"#;

/// Rollback journals. One that a killed application left is rolled back. A damaged database that an application holds open in
/// rollback mode is replaced under it, and is in WAL mode afterwards.
#[test]
fn rollback_journals() {
    let dir = Dir::new("rollback-journal");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = two(&dir, &nats);
    one.stop();
    let journal = one.dir.join("app.db-journal");
    let copies = [one.dir.join("copy.db"), one.dir.join("copy.journal")];
    {
        let connection = rusqlite::Connection::open(&one.database).unwrap();
        connection.execute_batch("PRAGMA journal_mode=DELETE; PRAGMA cache_size=5; BEGIN").unwrap();
        connection.execute("UPDATE t SET v = 'never committed', pad = zeroblob(700)", []).unwrap();
        assert!(std::fs::metadata(&journal).unwrap().len() > 100_000);
        std::fs::copy(&one.database, &copies[0]).unwrap();
        std::fs::copy(&journal, &copies[1]).unwrap();
    }
    std::fs::rename(&copies[0], &one.database).unwrap();
    std::fs::rename(&copies[1], &journal).unwrap();
    one.start_ready();
    one.sql("INSERT INTO own VALUES('after the hot journal', 1)");
    let text = wait_equal(&mut [&mut one, &mut two], 20);
    assert!(!text.contains("never committed"));
    assert_eq!(aside(&one, "damaged").len(), 0);

    one.stop();
    let mut command = Command::new(tool("python"));
    command.args(["-c", ROLLBACK_APPLICATION]).arg(&one.database).arg(one.dir.join("open"));
    let mut application = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    wait_for("the application has switched", 20, || one.dir.join("open").exists().then_some(()));
    spoil(&one.database, 0, 4096);
    application.stdin().write_all(b"go\n").unwrap();
    pause(200);
    one.start();
    let output = application.output();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    recovered(&mut one, &mut two, 1);
    assert_eq!(value(&two, "SELECT count(*) FROM own WHERE k LIKE 'rollback%'"), "Integer(1)");
    assert_eq!(value(&one, "PRAGMA journal_mode"), "Text([119, 97, 108])");
}
