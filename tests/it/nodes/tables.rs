//! An application with thousands of tables: what its writes wait for at the daemon's first start, at a restart, and when a table comes,
//! and what the daemon takes of memory.

use crate::support::*;
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Statements that make tables with a row each, half of them with a UNIQUE column.
pub fn schema(tables: usize) -> String {
    let mut sql = "BEGIN;".to_owned();
    for n in 0..tables {
        let unique = if n % 2 == 0 { " UNIQUE" } else { "" };
        let _ = write!(
            sql,
            "CREATE TABLE \"table {n}\"(id INTEGER PRIMARY KEY, name TEXT{unique}, amount INTEGER, note TEXT); \
             INSERT INTO \"table {n}\" VALUES(1, 'x', 1, 'y');"
        );
    }
    sql + "COMMIT; CREATE TABLE main_table(id INTEGER PRIMARY KEY, v)"
}

/// An application with the system's SQLite: it writes until a file is there, then prints its longest wait, and the time in which it reads
/// the schema by itself, in milliseconds.
const WRITER: &str = r#"
import os, sqlite3, sys, time
path, ready, stop = sys.argv[1:]
def connected():
    db = sqlite3.connect(path, timeout=20, isolation_level=None)
    db.execute("PRAGMA synchronous=NORMAL")
    return db
def write():
    begun = time.monotonic()
    app.execute("INSERT INTO main_table(v) VALUES('a row')")
    return time.monotonic() - begun
app = connected()
write()
open(ready, "w").close()
longest = 0
while not os.path.exists(stop):
    longest = max(longest, write())
    time.sleep(0.003)
reads = []
for _ in range(3):
    begun = time.monotonic()
    connected().execute("SELECT 1 FROM main_table LIMIT 1")
    reads.append(time.monotonic() - begun)
print(longest * 1000, max(reads) * 1000)
"#;

/// The longest wait of the application's writes while `body` runs, and how long it takes to read the schema afterwards.
fn longest_wait(node: &mut Node, body: impl FnOnce(&mut Node)) -> (Duration, Duration) {
    let [ready, stop] = ["ready", "stop"].map(|name| node.dir.join(name));
    for file in [&ready, &stop] {
        let _ = std::fs::remove_file(file);
    }
    let mut writer = Command::new(servers::tool("python"));
    writer.args(["-c", WRITER]).arg(&node.database).args([&ready, &stop]).stdout(Stdio::piped());
    let writer = Process::start(&mut writer);
    // What comes before is not its business: it has read the schema.
    wait_for("the application writes", 30, || ready.exists().then_some(()));
    body(node);
    std::fs::write(&stop, "").unwrap();
    let text = String::from_utf8(writer.output().stdout).unwrap();
    let times: Vec<f64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
    (Duration::from_secs_f64(times[0] / 1e3), Duration::from_secs_f64(times[1] / 1e3))
}

/// What an application with many tables feels of a daemon.
pub struct Felt {
    pub first: Duration,
    pub restart: Duration,
    pub table: Duration,
    /// How long the application's SQLite takes to read the schema with all triggers: nobody can shorten that for it.
    pub reading: Duration,
    /// Resident memory when nothing was written for some seconds, in KiB.
    pub resident: u64,
    /// The same at its peak.
    pub peak: u64,
}

impl Felt {
    /// What it waited for the daemon, beside a reading of the schema, which takes twice as long where others use the machine.
    pub fn beside_reading(&self, wait: Duration) -> Duration {
        wait.saturating_sub(self.reading * 2)
    }
}

pub fn feel(node: &mut Node) -> Felt {
    let (first, _) = longest_wait(node, Node::start_ready);
    assert_eq!(node.stop(), 0);
    let (restart, _) = longest_wait(node, Node::start_ready);
    let (table, reading) = longest_wait(node, |node| {
        node.sql("CREATE TABLE new(id INTEGER PRIMARY KEY, v UNIQUE); INSERT INTO new VALUES(1, 'a')");
        wait_for("the new table is captured", 60, || {
            node.log().contains("table new is captured from now on; its 1 rows are published").then_some(())
        });
        pause(2_000);
    });
    wait_for("all is settled", 60, || (node.unsettled() == 0).then_some(()));
    pause(8_000);
    let (resident, peak) = node.memory();
    Felt { first, restart, table, reading, resident, peak }
}

#[test]
fn thousands_of_tables_do_not_hold_up_the_application() {
    let dir = Dir::new("tables");
    let nats = Nats::start(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "snapshot.enabled = false", &schema(2_000));
    let felt = feel(&mut one);
    println!(
        "2,000 tables: longest wait {:?} at the first start, {:?} at a restart, {:?} when a table came; the application reads the \
         schema in {:?}; {} KiB resident, {} KiB at the peak",
        felt.first, felt.restart, felt.table, felt.reading, felt.resident, felt.peak
    );
    assert!(felt.first < Duration::from_millis(1_000), "{:?}", felt.first);
    assert!(felt.restart < Duration::from_millis(300), "{:?}", felt.restart);
    let waited = felt.beside_reading(felt.table);
    assert!(waited < Duration::from_millis(300), "{:?} of {:?}", waited, felt.table);
    assert!(felt.resident < 32_000, "{} KiB", felt.resident);
    assert!(felt.peak < 80_000, "{} KiB", felt.peak);
    let triggers =
        "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND name GLOB '__harmonylite__[0-9]*'";
    assert_eq!(value(&one, triggers), format!("Integer({})", 2_002 * 3 + 1_001 * 2));
    let check: String = one.open().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    // What the daemon gave back it reads again.
    one.sql("INSERT INTO \"table 7\"(name) VALUES('after a rest')");
    wait_for("it is published", 20, || (one.unsettled() == 0).then_some(()));
    assert_eq!(one.count("WARN"), 0, "{}", one.log());
}

/// The first installation is many transactions; wherever it is killed, the next start goes on with it.
#[test]
fn a_first_start_that_is_killed_goes_on_at_the_next() {
    let dir = Dir::new("tables-killed");
    let nats = Nats::start(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "snapshot.enabled = false", &schema(1_000));
    for after in [100, 200, 300, 400] {
        one.start();
        pause(after);
        one.kill9();
    }
    one.start_ready();
    let triggers =
        "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND name GLOB '__harmonylite__[0-9]*'";
    assert_eq!(value(&one, triggers), format!("Integer({})", 1_001 * 3 + 500 * 2));
    assert_eq!(value(&one, "SELECT count(*) FROM __harmonylite__log"), "Integer(0)", "no row was logged");
    assert_eq!(
        value(&one, "SELECT count(*) FROM __harmonylite__state WHERE name = 'installing'"),
        "Integer(0)"
    );
    one.sql("INSERT INTO \"table 7\"(name) VALUES('new')");
    wait_for("it is published", 10, || (one.unsettled() == 0).then_some(()));
    assert_eq!(value(&one, "SELECT max(id) FROM __harmonylite__log"), "Integer(1)");
}
