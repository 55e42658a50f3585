//! Restores under an application that reads and writes all the time through the system's own SQLite: kill -9 at any moment
//! leaves the old state or the new one, and the application gets no error but "busy".

use crate::support::servers::tool;
use crate::support::*;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Rows of the table that is restored. In every state that a reader may see, all of them are of one generation.
const ROWS: u64 = 4_000;

const WRITER: &str = r#"
import json, os, sqlite3, sys, time
path, stop, prefix = sys.argv[1:4]
db = sqlite3.connect(path, timeout=10, isolation_level=None)
count, busy, errors = 0, 0, []
parent = os.getppid()
while not os.path.exists(stop) and os.getppid() == parent:
    try:
        db.execute("INSERT INTO own VALUES(?, ?)", (f"{prefix}-{count}", count))
        count += 1
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            busy += 1
        else:
            errors.append(str(error))
    except Exception as error:
        errors.append(repr(error))
    time.sleep(0.004)
print(json.dumps({"count": count, "busy": busy, "errors": errors[:5]}))
"#;

const READER: &str = r#"
import json, os, sqlite3, sys, time
path, stop, rows, setting = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
db = sqlite3.connect(path, timeout=10, isolation_level=None)
db.execute(setting)
count, busy, bad, seen = 0, 0, [], set()
parent = os.getppid()
while not os.path.exists(stop) and os.getppid() == parent:
    try:
        db.execute("BEGIN")
        number, least, most = db.execute("SELECT count(*), min(g), max(g) FROM t").fetchone()
        if number != rows or least != most:
            bad.append(f"{number} rows of generations {least} to {most}")
        if db.execute("SELECT count(*) FROM t INDEXED BY tg").fetchone()[0] != rows:
            bad.append("the index differs")
        seen.add(least)
        db.execute("COMMIT")
        count += 1
        if count % 25 == 0:
            verdict = db.execute("PRAGMA integrity_check").fetchone()[0]
            if verdict != "ok":
                bad.append(verdict)
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            busy += 1
        else:
            bad.append(str(error))
        if db.in_transaction:
            db.execute("ROLLBACK")
    except Exception as error:
        bad.append(repr(error))
    time.sleep(0.002)
print(json.dumps({"count": count, "busy": busy, "errors": bad[:5], "seen": len(seen)}))
"#;

struct Application {
    stop: PathBuf,
    children: Vec<Process>,
}

impl Application {
    fn start(node: &Node, setting: &str) -> Application {
        let stop = node.dir.join("stop");
        let run = |script: &str, more: [&str; 2]| {
            let mut command = Command::new(tool("python"));
            command.args(["-c", script]).arg(&node.database).arg(&stop).args(more);
            Process::start(command.stdout(Stdio::piped()))
        };
        let children = vec![
            run(WRITER, ["app", ""]),
            run(READER, [&ROWS.to_string(), setting]),
            run(READER, [&ROWS.to_string(), "PRAGMA cache_size = 20"]),
        ];
        Application { stop, children }
    }

    fn end(self) -> Vec<serde_json::Value> {
        std::fs::write(&self.stop, "").unwrap();
        self.children.into_iter().map(|child| json(&child.output())).collect()
    }
}

fn generation(node: &Node) -> i64 {
    node.open().query_row("SELECT max(g) FROM t", [], |row| row.get(0)).unwrap()
}

#[test]
fn killed_under_a_live_application() {
    let dir = Dir::new("live-restore");
    let nats = Nats::start(&dir);
    // Different page sizes on the two nodes.
    let node = |id: u64, page_size: u64| {
        let node = Node::new(&dir, id, &nats.url(), "snapshot.leader_ttl = 1000\n");
        node.keep_messages(500);
        let schema = format!(
            "PRAGMA page_size={page_size}; CREATE TABLE t(id INTEGER PRIMARY KEY, g, pad); CREATE INDEX tg ON t(g, id);
             CREATE TABLE own(k TEXT PRIMARY KEY, v);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) INSERT INTO t SELECT i, 0, hex(zeroblob(150)) FROM n"
        );
        rusqlite::Connection::open(&node.database).unwrap().execute_batch(&schema).unwrap();
        node
    };
    let (mut one, mut two) = (node(1, 4096), node(2, 1024));
    one.start_ready();
    two.start_ready();
    wait_equal(&mut [&mut one, &mut two], 30);
    two.kill9();
    let application = Application::start(&two, "PRAGMA mmap_size = 268435456");
    let (mut killed, mut before, mut generations, mut random) = (0, 0, 0, 12_345_u64);
    while killed < number_from_environment("HARMONYLITE_KILLS").unwrap_or(30) {
        generations += 1;
        one.sql(&format!("UPDATE t SET g = {generations}"));
        wait_for("all is published", 30, || (one.unsettled() == 0).then_some(()));
        assert!(one.command(&["-save-snapshot", "-quiet"]).status.success());
        // Until one of the starts lived long enough to restore.
        for _ in 0..12 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let restored = two.count("brought the database to the state of");
            two.start();
            let until =
                std::time::Instant::now() + std::time::Duration::from_millis(40 + (random >> 33) % 120);
            while std::time::Instant::now() < until {
                pause(1);
            }
            two.kill9();
            killed += 1;
            let now = generation(&two);
            assert!(now == generations || now == generations - 1, "{now} of {generations}");
            if now == generations {
                break;
            }
            before += 1;
            assert_eq!(two.count("brought the database to the state of"), restored, "{}", two.log());
        }
        if generation(&two) != generations {
            two.start();
            wait_for("it restores", 30, || (generation(&two) == generations).then_some(()));
            two.kill9();
        }
    }
    let results = application.end();
    for result in &results {
        assert_eq!(result["errors"].as_array().unwrap().len(), 0, "{result}");
        assert!(result["count"].as_u64().unwrap() > killed, "{result}");
    }
    assert!(results[1]["seen"].as_u64().unwrap() as i64 >= generations, "the reader slept: {results:?}");
    two.start();
    wait_equal(&mut [&mut one, &mut two], 60);
    let written = format!("Integer({})", results[0]["count"]);
    assert_eq!(value(&one, "SELECT count(*) FROM own"), written, "rows of the application are missing");
    eprintln!("{killed} kills ({before} of them before the new state), {generations} restores, {results:?}");
}

/// Kills while a damaged database is replaced: at every moment the file is the damaged database or the new one.
#[test]
fn killed_while_it_replaces_a_damaged_one() {
    let dir = Dir::new("live-replace");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, pad); CREATE TABLE own(k, v)";
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "snapshot.leader_ttl = 1000\n", schema);
    one.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO t SELECT i, 'v', hex(zeroblob(300)) FROM n");
    one.start_ready();
    wait_for("a snapshot", 30, || (one.count("stored snapshot") > 0).then_some(()));
    let mut two = Node::new(&dir, 2, &nats.url(), "snapshot.leader_ttl = 1000\n");
    two.start_ready();
    wait_equal(&mut [&mut one, &mut two], 20);
    two.stop();
    let good = two.dir.join("good");
    std::fs::copy(&two.database, &good).unwrap();
    let (mut killed, mut finished) = (0, 0);
    for round in 0..12_u64 {
        for suffix in ["-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", two.database.display()));
        }
        let mut bytes = std::fs::read(&good).unwrap();
        // The damage is in the header, or in a page in the middle, which only the check of all pages finds.
        let (at, found_after) = if round % 4 == 1 { (4096 * 700, 2_000) } else { (0, 0) };
        bytes[at..at + 4096].fill(0x77);
        std::fs::write(&two.database, &bytes).unwrap();
        for step in 0..3 {
            two.start();
            pause(found_after + 30 + (round * 37 + step * 61) % 400);
            two.kill9();
            killed += 1;
        }
        let before = two.count("caught up with");
        two.start();
        wait_for("it is whole", 30, || {
            two.assert_alive();
            let verdict = rusqlite::Connection::open(&two.database)
                .and_then(|c| c.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)));
            (verdict.is_ok_and(|text| text == "ok") && two.count("caught up with") > before).then_some(())
        });
        finished += 1;
        wait_equal(&mut [&mut one, &mut two], 30);
        assert_eq!(value(&two, "PRAGMA integrity_check"), "Text([111, 107])");
        two.stop();
    }
    let entries = std::fs::read_dir(&two.dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let kept: Vec<String> =
        entries.filter(|name| name.contains(".damaged-") && name.ends_with('Z')).collect();
    assert!(kept.len() <= 2, "one copy of each kind of damage: {kept:?}");
    eprintln!("{killed} kills, {finished} recoveries, {} copies kept", kept.len());
}

/// Kills while a node without a database restores: afterwards there is no database or the whole one.
#[test]
fn killed_while_it_restores_a_missing_one() {
    let dir = Dir::new("live-missing");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, pad)";
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "snapshot.leader_ttl = 1000\n", schema);
    one.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) INSERT INTO t SELECT i, 'v', hex(zeroblob(300)) FROM n");
    one.start_ready();
    wait_for("a snapshot", 30, || (one.count("stored snapshot") > 0).then_some(()));
    let mut two = Node::new(&dir, 2, &nats.url(), "snapshot.leader_ttl = 1000\n");
    let begun = std::time::Instant::now();
    two.start();
    wait_for("it is restored", 30, || two.database.exists().then_some(()));
    let took = begun.elapsed();
    two.stop();
    let (mut whole, mut none, mut wait) = (0, 0, took / 8);
    for _ in 0..30 {
        two.remove_database();
        two.start();
        std::thread::sleep(wait);
        two.kill9();
        // The next kill comes earlier or later, so that the kills surround the moment at which the file gets its name.
        if two.database.exists() {
            assert_eq!(value(&two, "PRAGMA integrity_check"), "Text([111, 107])");
            assert_eq!(value(&two, "SELECT count(*) FROM t"), "Integer(60000)");
            whole += 1;
            wait = wait.saturating_sub(took / 4);
        } else {
            none += 1;
            wait += took / 9;
        }
    }
    assert!(none > 0 && whole > 0, "{none} without, {whole} whole");
    two.start_ready();
    wait_equal(&mut [&mut one, &mut two], 30);
    let entries = std::fs::read_dir(&two.dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = entries.filter(|name| name.contains(".harmonylite-download")).collect();
    assert!(left.is_empty(), "{left:?}");
    eprintln!("30 kills: {none} times there was no database, {whole} times the whole one");
}
