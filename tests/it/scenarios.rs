//! The rows of the recovery table that an application can live through, one after the other on the same nodes, under one that
//! reads and writes all the time through the system's own SQLite.

use super::servers::tool;
use super::support::*;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, pad); CREATE INDEX tv ON t(v);
    CREATE TABLE own(k TEXT PRIMARY KEY, v)";

/// Inserts a row, looks whether all of its rows are there, and now and then whether every page is right. `damage`: what damage
/// and its repair bring is no error, and rows may be away until the node has caught up.
const APPLICATION: &str = r#"
import json, os, sqlite3, sys, time
path, stop, prefix, damage = sys.argv[1:5]
db, written, busy, errors, damaged = None, 0, 0, [], 0
parent = os.getppid()
while not os.path.exists(stop) and os.getppid() == parent:
    try:
        if db is None:
            db = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=10, isolation_level=None)
        db.execute("INSERT INTO own VALUES(?, ?)", (f"{prefix}-{written}", written))
        written += 1
        there = db.execute("SELECT count(*) FROM own WHERE k GLOB ?", (prefix + "-*",)).fetchone()[0]
        if there != written and not damage:
            errors.append(f"{there} rows are there of {written}")
        if written % 20 == 0 and not damage:
            verdict = db.execute("PRAGMA quick_check").fetchone()[0]
            if verdict != "ok":
                errors.append(verdict)
    except sqlite3.DatabaseError as error:
        if "locked" in str(error) or "busy" in str(error):
            busy += 1
        elif damage and any(word in str(error) for word in ("malformed", "not a database", "no such table")):
            damaged += 1
        elif db is None and "unable to open" in str(error):
            pass
        else:
            errors.append(str(error))
    time.sleep(0.005)
print(json.dumps({"written": written, "busy": busy, "errors": errors[:5], "damaged": damaged}))
"#;

const RECOVERED: &str = "unpublished changes of the damaged one were carried over";

struct Application {
    child: Child,
    stop: PathBuf,
    prefix: String,
}

impl Application {
    fn start(node: &Node, prefix: &str, damage: bool) -> Application {
        let stop = node.dir.join(format!("stop-{prefix}"));
        let mut command = Command::new(tool("python"));
        command.args(["-c", APPLICATION]).arg(&node.database).arg(&stop).arg(prefix);
        let child = command.arg(if damage { "yes" } else { "" }).stdout(Stdio::piped()).spawn().unwrap();
        Application { child, stop, prefix: prefix.to_owned() }
    }

    fn signal(&self, signal: &str) {
        super::support::signal(self.child.id(), signal);
    }

    /// Ends it; nothing went wrong, and all that it wrote is on all nodes.
    fn end(self, nodes: &mut [&mut Node]) {
        std::fs::write(&self.stop, "").unwrap();
        let output = self.child.wait_with_output().unwrap();
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["errors"].as_array().unwrap().len(), 0, "{}: {result}", self.prefix);
        let written = result["written"].as_u64().unwrap();
        assert!(written > 20, "{}: {result}", self.prefix);
        wait_equal(nodes, 60);
        for node in nodes {
            let there = value(node, &format!("SELECT count(*) FROM own WHERE k GLOB '{}-*'", self.prefix));
            assert_eq!(there, format!("Integer({written})"), "{}: {result}", self.prefix);
        }
        eprintln!("{}: {result}", self.prefix);
    }
}

fn write(node: &Node, count: u64, what: &str) {
    node.sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
         INSERT INTO t(v, pad) SELECT '{what}' || i, zeroblob(300) FROM n"
    ));
}

/// Far more than the stream keeps.
fn run_away(node: &Node, what: &str) {
    for round in 0..20 {
        write(node, 100, &format!("{what} {round} "));
        pause(20);
    }
    wait_for("all is published", 20, || (node.unsettled() == 0).then_some(()));
}

/// Runs one scenario under an application on `two`, until that has caught up once more.
fn under(
    one: &mut Node,
    two: &mut Node,
    name: &str,
    damage: bool,
    told: &str,
    step: impl FnOnce(&mut Node, &mut Node),
) {
    let before = two.count(told);
    let application = Application::start(two, name, damage);
    pause(300);
    step(one, two);
    wait_for(&format!("{name}: {told}"), 60, || {
        two.assert_alive();
        (two.count(told) > before).then_some(())
    });
    pause(500);
    application.end(&mut [one, two]);
}

fn root_page(path: &Path, name: &str) -> u64 {
    let connection = rusqlite::Connection::open(path).unwrap();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    connection.query_row(sql, [name], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs()
}

/// Away for long, and the snapshot is gone, or rotten.
fn without_a_good_snapshot(one: &mut Node, two: &mut Node, store: &Path, restored: &str) {
    under(one, two, "no-snapshot", false, restored, |one, two| {
        two.stop();
        run_away(one, "no snapshot");
        std::fs::remove_dir_all(store).unwrap();
        two.start();
    });
    under(one, two, "rotten", false, restored, |one, two| {
        two.stop();
        run_away(one, "rotten");
        assert!(one.command(&["-save-snapshot", "-quiet"]).status.success());
        spoil(&store.join("snapshot.db"), 50_000, 64);
        two.start();
    });
}

#[test]
fn under_a_live_application() {
    let dir = Dir::new("scenarios");
    let nats = Nats::start(&dir);
    let store = dir.0.join("backups");
    let config = format!("[snapshot]\nstore = \"file\"\nfile.path = {store:?}\nleader_ttl = 1000\n");
    let make = |id: u64| {
        let node = Node::new(&dir, id, &nats.url(), &config);
        let text = std::fs::read_to_string(&node.config).unwrap().replace("1000000", "200");
        std::fs::write(&node.config, text).unwrap();
        node
    };
    let (mut one, mut two) = (make(1), make(2));
    one.sql(SCHEMA);
    one.start_ready();
    write(&one, 300, "first ");
    let caught_up = "caught up with";
    // No database at all: the application tries until there is one.
    under(&mut one, &mut two, "new", false, caught_up, |_, two| two.start());
    let restored = "brought the database to the state of snapshot";

    under(&mut one, &mut two, "brief", false, caught_up, |one, two| {
        two.stop();
        write(one, 100, "brief ");
        two.start();
    });
    assert_eq!(two.count(restored), 0, "the stream had everything");
    under(&mut one, &mut two, "long", false, restored, |one, two| {
        two.stop();
        run_away(one, "long");
        two.start();
    });
    under(&mut one, &mut two, "behind", false, restored, |one, two| {
        two.signal("STOP");
        run_away(one, "behind");
        two.signal("CONT");
    });
    without_a_good_snapshot(&mut one, &mut two, &store, restored);
    under(&mut one, &mut two, "killed", false, caught_up, |one, two| {
        for _ in 0..5 {
            two.kill9();
            write(one, 20, "killed ");
            two.start();
            pause(150);
        }
        two.kill9();
        two.start();
    });
    under(&mut one, &mut two, "no-map", false, caught_up, |_, two| {
        two.stop();
        std::fs::remove_file(two.dir.join("seq-map.cbor")).unwrap();
        two.start();
    });
    // A page of the index, which the application's own statements do not need.
    let pid = two.pid();
    under(&mut one, &mut two, "damaged", true, RECOVERED, |one, two| {
        let page = root_page(&two.database, "tv");
        wait_for("it lies in the file itself", 20, || {
            two.sql("PRAGMA wal_checkpoint(TRUNCATE)");
            (std::fs::metadata(&two.database).unwrap().len() > page * 4096).then_some(())
        });
        spoil(&two.database, (page - 1) * 4096, 4096);
        write(one, 10, "damaged ");
    });
    assert_eq!(two.pid(), pid, "no restart");
    // By hand, with the application stopped, as documented.
    two.stop();
    std::fs::remove_file(two.dir.join("seq-map.cbor")).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", two.database.display()));
    }
    under(&mut one, &mut two, "by-hand", false, caught_up, |_, two| two.start());
}

/// Stops the application where it holds no lock and the WAL is empty; unless it is to run, the daemon too, with nothing left
/// to publish: nobody can read that without a header. False: not this time.
fn held_still(application: &Application, node: &mut Node, running: bool) -> bool {
    application.signal("STOP");
    if !running {
        let until = Instant::now() + Duration::from_secs(2);
        while node.unsettled() > 0 && Instant::now() < until {
            pause(5);
        }
        if node.unsettled() > 0 {
            return false;
        }
        node.stop();
    }
    let connection = node.open();
    connection.busy_timeout(Duration::from_millis(50)).unwrap();
    let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    drop(connection);
    let wal = PathBuf::from(format!("{}-wal", node.database.display()));
    let empty = std::fs::metadata(wal).unwrap().len() == 0;
    if !empty && !running {
        node.start_ready();
    }
    empty
}

/// Page 1 is garbage, there is no copy of it in a WAL, and the application, which keeps its connection, can neither read nor
/// write: nothing that happens by itself makes the file readable again. The snapshot's pages are of another size, too.
#[test]
fn the_header_under_a_live_application() {
    let dir = Dir::new("scenario-header");
    let nats = Nats::start(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "snapshot.leader_ttl = 1000\n", SCHEMA);
    one.start_ready();
    write(&one, 300, "first ");
    for (id, page_size, running) in [(2, 4096, true), (3, 4096, false), (4, 1024, true), (5, 16384, false)] {
        let mut two = Node::with_schema(&dir, id, &nats.url(), "snapshot.leader_ttl = 1000\n", SCHEMA);
        two.sql(&format!("PRAGMA journal_mode=DELETE; PRAGMA page_size={page_size}; VACUUM"));
        two.start_ready();
        assert_eq!(value(&two, "PRAGMA page_size"), format!("Integer({page_size})"));
        assert!(one.command(&["-save-snapshot", "-quiet"]).status.success());
        let application = Application::start(&two, &format!("header-{id}"), true);
        pause(300);
        wait_for("the WAL is empty, and the application waits", 60, || {
            let done = held_still(&application, &mut two, running);
            if !done {
                application.signal("CONT");
                pause(7);
            }
            done.then_some(())
        });
        spoil(&two.database, 0, 1024);
        application.signal("CONT");
        pause(300);
        write(&one, 10, "header ");
        if !running {
            two.start();
        }
        wait_for(RECOVERED, 60, || {
            two.assert_alive();
            (two.count(RECOVERED) > 0).then_some(())
        });
        pause(500);
        application.end(&mut [&mut one, &mut two]);
        two.stop();
        two.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        assert_eq!(value(&two, "PRAGMA integrity_check"), "Text([111, 107])");
    }
}
