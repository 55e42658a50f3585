//! The rows of the recovery table that an application can live through, one after the other on the same nodes, under one that
//! reads and writes all the time through the system's own SQLite.

use crate::support::servers::tool;
use crate::support::stores::file_store;
use crate::support::*;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, pad); CREATE INDEX tv ON t(v);
    CREATE TABLE own(k TEXT PRIMARY KEY, v)";

/// Inserts a row, looks whether all of its rows are there, and now and then whether every page is right. With `damage`, errors of
/// a damaged database do not count, and rows may be missing until the node has caught up.
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

/// Which errors an application may see.
#[derive(PartialEq)]
enum Bears {
    /// None but "busy".
    Nothing,
    /// Those of a damaged database, until it is repaired.
    Damage,
}

struct Application {
    child: Process,
    stop: PathBuf,
    prefix: String,
}

impl Application {
    fn start(node: &Node, prefix: &str, bears: Bears) -> Application {
        let stop = node.dir.join(format!("stop-{prefix}"));
        let mut command = Command::new(tool("python"));
        command.args(["-c", APPLICATION]).arg(&node.database).arg(&stop).arg(prefix);
        let child = Process::start(
            command.arg(if bears == Bears::Damage { "yes" } else { "" }).stdout(Stdio::piped()),
        );
        Application { child, stop, prefix: prefix.to_owned() }
    }

    fn signal(&self, signal: &str) {
        crate::support::signal(self.child.id(), signal);
    }

    /// Ends the application; it must have seen no error, and all that it wrote must be on all nodes.
    fn end(self, nodes: &mut [&mut Node]) {
        std::fs::write(&self.stop, "").unwrap();
        let output = self.child.output();
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

/// Writes far more than the stream keeps.
fn run_away(node: &Node, what: &str) {
    for round in 0..20 {
        write(node, 100, &format!("{what} {round} "));
        pause(20);
    }
    wait_for("all is published", 20, || (node.unsettled() == 0).then_some(()));
}

/// What happens to the node `two` while an application works on its database.
struct Scenario {
    name: &'static str,
    /// The log line that ends it.
    told: &'static str,
    bears: Bears,
}

impl Scenario {
    fn new(name: &'static str, told: &'static str) -> Scenario {
        Scenario { name, told, bears: Bears::Nothing }
    }

    /// Takes the step under an application on `two`, and waits until `two` has said that it is over.
    fn run(self, one: &mut Node, two: &mut Node, step: impl FnOnce(&mut Node, &mut Node)) {
        let Scenario { name, told, bears } = self;
        let before = two.count(told);
        let application = Application::start(two, name, bears);
        pause(300);
        step(one, two);
        wait_for(&format!("{name}: {told}"), 60, || {
            two.assert_alive();
            (two.count(told) > before).then_some(())
        });
        pause(500);
        application.end(&mut [one, two]);
    }
}

/// The node was away longer than the stream remembers, and the snapshot is gone or damaged.
fn without_a_good_snapshot(one: &mut Node, two: &mut Node, store: &Path, restored: &'static str) {
    Scenario::new("no-snapshot", restored).run(one, two, |one, two| {
        two.stop();
        run_away(one, "no snapshot");
        // A snapshot may just be on its way into it.
        wait_for("the store is gone", 10, || std::fs::remove_dir_all(store).ok());
        two.start();
    });
    Scenario::new("rotten", restored).run(one, two, |one, two| {
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
    let (store, config) = file_store(&dir);
    let make = |id: u64| {
        let node = Node::new(&dir, id, &nats.url(), &config);
        node.keep_messages(200);
        node
    };
    let (mut one, mut two) = (make(1), make(2));
    one.sql(SCHEMA);
    one.start_ready();
    write(&one, 300, "first ");
    let caught_up = "caught up with";
    // No database at all: the application tries until there is one.
    Scenario::new("new", caught_up).run(&mut one, &mut two, |_, two| two.start());
    let restored = "brought the database to the state of snapshot";

    Scenario::new("brief", caught_up).run(&mut one, &mut two, |one, two| {
        two.stop();
        write(one, 100, "brief ");
        two.start();
    });
    assert_eq!(two.count(restored), 0, "the stream had everything");
    Scenario::new("long", restored).run(&mut one, &mut two, |one, two| {
        two.stop();
        run_away(one, "long");
        two.start();
    });
    Scenario::new("behind", restored).run(&mut one, &mut two, |one, two| {
        two.signal("STOP");
        run_away(one, "behind");
        two.signal("CONT");
    });
    without_a_good_snapshot(&mut one, &mut two, &store, restored);
    Scenario::new("killed", caught_up).run(&mut one, &mut two, |one, two| {
        for _ in 0..5 {
            two.kill9();
            write(one, 20, "killed ");
            two.start();
            pause(150);
        }
        two.kill9();
        two.start();
    });
    Scenario::new("no-map", caught_up).run(&mut one, &mut two, |_, two| {
        two.stop();
        std::fs::remove_file(two.dir.join("seq-map.cbor")).unwrap();
        two.start();
    });
    // A page of the index, which the application's own statements do not need.
    let pid = two.pid();
    let damaged = Scenario { bears: Bears::Damage, ..Scenario::new("damaged", RECOVERED) };
    damaged.run(&mut one, &mut two, |one, two| {
        let page = root_page(two, "tv");
        wait_for("it lies in the file itself", 20, || {
            two.checkpoint();
            (std::fs::metadata(&two.database).unwrap().len() > page * 4096).then_some(())
        });
        spoil(&two.database, (page - 1) * 4096, 4096);
        write(one, 10, "damaged ");
    });
    assert_eq!(two.pid(), pid, "no restart");
    // By hand, with the application stopped, as documented.
    two.stop();
    std::fs::remove_file(two.dir.join("seq-map.cbor")).unwrap();
    two.remove_database();
    Scenario::new("by-hand", caught_up).run(&mut one, &mut two, |_, two| two.start());
}

/// Stops the application at a moment when it holds no lock and the WAL is empty. Unless the daemon is to run, it is stopped too,
/// with nothing left to publish, for that could not be read without a header. False when the moment was a wrong one.
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
        // It may have been stopped in the middle of a transaction.
        application.signal("CONT");
        node.start_ready();
    }
    empty
}

/// Page 1 is garbage and no WAL holds a copy of it, so the application, which keeps its connection, can neither read nor write,
/// and only the daemon can repair the file. The snapshot has another page size, too.
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
        let application = Application::start(&two, &format!("header-{id}"), Bears::Damage);
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
        two.checkpoint();
        assert_eq!(value(&two, "PRAGMA integrity_check"), "Text([111, 107])");
    }
}
