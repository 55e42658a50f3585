//! Changes of the schema that an application makes on one node, while all nodes write.

use crate::support::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

pub const SCHEMA: &str =
    "CREATE TABLE t(id TEXT PRIMARY KEY, a TEXT, n INTEGER); CREATE TABLE other(id INTEGER PRIMARY KEY, v)";

/// An application that inserts rows of its own and changes some, with columns that every schema here has.
pub struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: JoinHandle<Vec<String>>,
}

pub fn write(node: &Node, prefix: &str, pause_ms: u64) -> Writer {
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stopped, count) = (stop.clone(), written.clone());
    let (connection, prefix) = (node.open(), prefix.to_owned());
    let thread = std::thread::spawn(move || {
        let mut errors = vec![];
        while !stopped.load(Ordering::Relaxed) {
            let n = count.load(Ordering::Relaxed);
            let insert = connection
                .execute("INSERT INTO t(id, n) VALUES(?1, ?2)", (format!("{prefix}-{n}"), n as i64));
            let update =
                connection.execute("UPDATE t SET n = n + 1 WHERE id = ?1", [format!("{prefix}-{}", n / 2)]);
            errors
                .extend([insert, update].into_iter().filter_map(Result::err).map(|error| error.to_string()));
            count.fetch_add(1, Ordering::Relaxed);
            pause(pause_ms);
        }
        errors
    });
    Writer { stop, written, thread }
}

impl Writer {
    /// The number of rows that it has written; none of its statements failed.
    pub fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        assert_eq!(self.thread.join().unwrap(), Vec::<String>::new());
        self.written.load(Ordering::Relaxed)
    }
}

/// Names and kinds of all that an application has made, and the columns of its tables.
pub fn shape(node: &Node) -> String {
    let sql = "SELECT group_concat(type || ' ' || name || ' ' || (SELECT coalesce(group_concat(name || ' ' || type || ' ' || \"notnull\", ','), '') \
               FROM (SELECT * FROM pragma_table_info(s.name) ORDER BY name)), char(10)) FROM (SELECT * FROM sqlite_schema ORDER BY type, name) s \
               WHERE s.name NOT LIKE '\\_\\_harmonylite%' ESCAPE '\\' AND s.name NOT LIKE 'sqlite%'";
    node.open().query_row(sql, [], |row| row.get(0)).unwrap()
}

fn wait_shape(nodes: &[&Node]) {
    wait_for("the schemas are equal", 15, || {
        let first = shape(nodes[0]);
        nodes[1..].iter().all(|node| shape(node) == first).then_some(())
    });
}

pub fn three(dir: &Dir, nats: &Nats, extra: &str) -> Vec<Node> {
    let mut nodes: Vec<Node> =
        (1..=3).map(|id| Node::with_schema(dir, id, &nats.url(), extra, SCHEMA)).collect();
    nodes.iter_mut().for_each(Node::start_ready);
    nodes
}

/// With what each of them is rolled out, in the order of a product's life.
pub const CHANGES: [&str; 9] = [
    "ALTER TABLE t ADD COLUMN b TEXT NOT NULL DEFAULT 'd'; UPDATE t SET b = 'first' WHERE n % 2 = 0",
    "ALTER TABLE t RENAME COLUMN b TO c",
    "CREATE TABLE u(id INTEGER PRIMARY KEY, t TEXT REFERENCES t); CREATE INDEX ut ON u(t); INSERT INTO u VALUES(1, '1-1')",
    "CREATE UNIQUE INDEX tn ON t(id, n)",
    "BEGIN; CREATE TABLE x(id TEXT PRIMARY KEY, a TEXT, n INTEGER, c TEXT NOT NULL DEFAULT 'd', e TEXT NOT NULL DEFAULT 'e'); \
     INSERT INTO x SELECT id, a, n, c, 'all' FROM t; DROP TABLE t; ALTER TABLE x RENAME TO t; COMMIT",
    "ALTER TABLE t DROP COLUMN c",
    "CREATE VIEW v AS SELECT id, n FROM t; CREATE TRIGGER tr AFTER UPDATE ON other BEGIN UPDATE t SET a = NEW.v WHERE id = 'none'; END",
    "DROP TRIGGER tr; DROP VIEW v; DROP TABLE u",
    "ALTER TABLE other RENAME TO others; INSERT INTO others VALUES(5, 'renamed')",
];

#[test]
fn every_node_follows_under_writes() {
    let dir = Dir::new("travel");
    let nats = Nats::start(&dir);
    let mut nodes = three(&dir, &nats, "");
    let writers: Vec<Writer> =
        nodes.iter().zip(["1", "2", "3"]).map(|(node, id)| write(node, id, 8)).collect();
    pause(300);
    for (at, change) in CHANGES.iter().enumerate() {
        // Not always the same one changes it.
        nodes[at % 2].sql(change);
        wait_shape(&nodes.iter().collect::<Vec<_>>());
        pause(200);
    }
    let written: u64 = writers.into_iter().map(Writer::end).sum();
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    assert_eq!(value(&nodes[2], "SELECT count(*) FROM t"), format!("Integer({written})"));
    assert_eq!(value(&nodes[2], "SELECT count(*) FROM others"), "Integer(1)");
    for node in &nodes {
        assert_eq!(value(node, "PRAGMA integrity_check"), "Text([111, 107])");
        assert_eq!(node.count("cannot follow"), 0, "{}", node.log());
    }
    // What is dropped is kept elsewhere, and comes back.
    let listed = nodes[2].command(&["-schema-undo", "-json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let of = |table: &str, column: &str| {
        let all = listed.as_array().unwrap();
        let found = all.iter().find(|kept| kept["table"] == table && kept["column"] == column);
        found.unwrap_or_else(|| panic!("{listed}"))["id"].to_string()
    };
    for id in [of("t", "c"), of("u", "")] {
        let output = nodes[2].command(&["-schema-undo", &id]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    wait_shape(&nodes.iter().collect::<Vec<_>>());
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    assert_eq!(value(&nodes[0], "SELECT count(*) FROM u"), "Integer(1)");
    assert_ne!(value(&nodes[0], "SELECT count(*) FROM t WHERE c = 'first'"), "Integer(0)");
}

#[test]
fn each_node_by_itself_in_any_order_with_kills_between() {
    let dir = Dir::new("travel-own");
    let nats = Nats::start(&dir);
    let mut nodes = three(&dir, &nats, "schema = \"own\"\n");
    let writers: Vec<Writer> =
        nodes.iter().zip(["1", "2", "3"]).map(|(node, id)| write(node, id, 8)).collect();
    pause(300);
    for (at, change) in CHANGES.iter().enumerate() {
        for step in 0..3 {
            let node = &mut nodes[(at + step * 2) % 3];
            if at % 3 == 1 && step == 1 {
                node.kill9();
            }
            let change = if step == 0 { (*change).to_owned() } else { only_schema(change) };
            node.sql(&change);
            if at % 3 == 1 && step == 1 {
                node.start();
            }
            pause(150);
        }
    }
    let written: u64 = writers.into_iter().map(Writer::end).sum();
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    assert_eq!(value(&nodes[2], "SELECT count(*) FROM t"), format!("Integer({written})"));
}

/// The rows of a migration arrive from the node that ran it first.
pub fn only_schema(change: &str) -> String {
    let keep = |part: &&str| !part.trim().starts_with("UPDATE") && !part.trim().starts_with("INSERT INTO u");
    let keep_too = |part: &&str| !part.trim().starts_with("INSERT INTO others");
    if change.contains("TRIGGER tr AFTER") {
        return change.to_owned();
    }
    change.split(';').filter(keep).filter(keep_too).collect::<Vec<_>>().join(";")
}

#[test]
fn different_changes_at_the_same_time() {
    let dir = Dir::new("travel-both");
    let mut nats = Nats::start(&dir);
    let mut nodes = three(&dir, &nats, "");
    nodes[0].sql("INSERT INTO t VALUES('x', 'a', 1)");
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    nats.kill();
    nodes[0].sql("ALTER TABLE t ADD COLUMN one TEXT; UPDATE t SET one = 'one'; CREATE TABLE both(id INTEGER PRIMARY KEY, one); \
         INSERT INTO both VALUES(1, 'one')");
    nodes[1].sql("ALTER TABLE t ADD COLUMN two TEXT; CREATE TABLE both(id INTEGER PRIMARY KEY, two TEXT); ALTER TABLE t RENAME COLUMN a TO z; \
         INSERT INTO both VALUES(2, 'two')");
    nodes[2].sql("ALTER TABLE t ADD COLUMN one TEXT");
    pause(500);
    nats.restart();
    wait_shape(&nodes.iter().collect::<Vec<_>>());
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    let columns = "SELECT group_concat(name) FROM (SELECT name FROM pragma_table_info('t') ORDER BY 1)";
    assert_eq!(value(&nodes[1], columns), value(&nodes[1], "SELECT 'id,n,one,two,z'"));
    let row = "SELECT coalesce(one, '') || z || n FROM t";
    assert_eq!(value(&nodes[1], row), value(&nodes[1], "SELECT 'onea1'"));
    assert_eq!(value(&nodes[2], "SELECT count(*) FROM both"), "Integer(2)");
    // One of the two tables is as its node made it; the other node has its own on its list.
    let lost: usize = nodes
        .iter()
        .map(|node| {
            let output = node.command(&["-conflicts", "-json"]);
            let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            all.as_array().unwrap().iter().filter(|conflict| conflict["kind"] == "schema").count()
        })
        .sum();
    assert_eq!(lost, 1);
}

#[test]
fn a_node_that_was_away_for_long_and_a_new_one() {
    let dir = Dir::new("travel-away");
    let nats = Nats::start(&dir);
    let extra = "replication_log.max_entries = 60\nsnapshot.leader_ttl = 1000\n";
    let mut nodes = three(&dir, &nats, extra);
    nodes[0].sql("INSERT INTO t VALUES('x', 'a', 1)");
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    nodes[2].stop();
    nodes[2].sql("INSERT INTO t VALUES('mine', 'b', 2)");
    nodes[0].sql("ALTER TABLE t ADD COLUMN b TEXT; ALTER TABLE t RENAME COLUMN a TO z; CREATE TABLE later(id INTEGER PRIMARY KEY)");
    for n in 0..200 {
        nodes[0].sql(&format!("INSERT INTO t(id, z, n, b) VALUES('{n}', 'z', {n}, 'b')"));
    }
    wait_for("all is published", 20, || (nodes[0].unsettled() == 0).then_some(()));
    assert!(nodes[0].command(&["-save-snapshot", "-quiet"]).status.success());
    nodes[2].start();
    wait_shape(&nodes.iter().collect::<Vec<_>>());
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 60);
    assert_eq!(value(&nodes[0], "SELECT z FROM t WHERE id = 'mine'"), "Text([98])");
    let mut new = Node::new(&dir, 4, &nats.url(), extra);
    new.start_ready();
    wait_equal(&mut [&mut nodes[0], &mut new], 30);
    new.sql("ALTER TABLE t DROP COLUMN b");
    wait_shape(&[&nodes[0], &nodes[1], &nodes[2], &new]);
}

#[test]
fn a_script_is_run_once_on_every_node() {
    let dir = Dir::new("travel-script");
    let nats = Nats::start(&dir);
    let mut nodes = three(&dir, &nats, "");
    nodes[0].sql("INSERT INTO t VALUES('x', 'a', 1), ('y', 'b', 2)");
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    let file = |name: &str, sql: &str| {
        let path = dir.0.join(name);
        std::fs::write(&path, sql).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = file(
        "good.sql",
        "ALTER TABLE t ADD COLUMN s TEXT; CREATE TABLE more(id INTEGER PRIMARY KEY); UPDATE t SET s = a || n, n = n + 10",
    );
    let output = nodes[1].command(&["-migrate", &good, "-dry-run"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("create table more"));
    assert_eq!(value(&nodes[1], "SELECT sum(n) FROM t"), "Integer(3)");
    let output = nodes[1].command(&["-migrate", &good]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && told.matches(": done").count() == 3, "{told}");
    wait_shape(&nodes.iter().collect::<Vec<_>>());
    assert_eq!(wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 10).matches("Integer(1").count(), 2);
    assert_eq!(value(&nodes[0], "SELECT group_concat(s) FROM t"), "Text([97, 49, 44, 98, 50])");
    // On one node it cannot be run; it goes on, and tries again.
    nodes[2].sql("PRAGMA user_version = 5");
    let bad = nodes[0].command(&["-migrate", &file("bad.sql", "UPDATE t SET n = random()")]);
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    let status = nodes[2].command(&["-migrate-status"]);
    assert!(
        status.status.success() && String::from_utf8_lossy(&status.stdout).contains("script good.sql"),
        "{status:?}"
    );
    for node in &mut nodes {
        node.kill9();
        node.start_ready();
    }
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 10);
    assert_eq!(value(&nodes[0], "SELECT sum(n) FROM t"), "Integer(23)", "once");
    // A database that has what the script did, and no record of it, joins.
    assert!(nodes[0].command(&["-save-snapshot"]).status.success());
    assert_eq!(nodes[2].stop(), 0);
    assert!(nodes[2].command(&["-cleanup"]).status.success());
    nodes[2].sql("INSERT INTO t VALUES('z', 'c', 0, 'new')");
    nodes[2].start_ready();
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    assert_eq!(value(&nodes[2], "SELECT sum(n) FROM t"), "Integer(23)");
    assert_eq!(value(&nodes[2], "SELECT count(*) FROM t"), "Integer(3)");
    let status = nodes[2].command(&["-migrate-status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("script good.sql"), "{status:?}");
}

#[test]
fn a_node_that_cannot_follow_tries_again_and_of_two_scripts_at_once_one_is_refused() {
    let dir = Dir::new("travel-fails");
    let nats = Nats::start(&dir);
    let mut nodes = three(&dir, &nats, "");
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    let file = |name: &str, sql: &str| {
        let path = dir.0.join(name);
        std::fs::write(&path, sql).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // Virtual tables do not travel: only this node has one of the name.
    nodes[2].sql("CREATE VIRTUAL TABLE vt USING fts5(x)");
    pause(500);
    let failed = nodes[0].command(&["-migrate", &file("a.sql", "CREATE TABLE vt(id INTEGER PRIMARY KEY)")]);
    let told = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{told}");
    assert!(told.contains("node 3: failed") && told.matches(": done").count() == 2, "{told}");
    assert_eq!(nodes[2].command(&["-migrate-status"]).status.code(), Some(1));
    let status = nodes[2].command(&["-status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("see -migrate-status"), "{status:?}");
    // All else goes on.
    nodes[2].sql("INSERT INTO t VALUES('on', 'a', 1)");
    let arrived = || (value(&nodes[0], "SELECT count(*) FROM t") == "Integer(1)").then_some(());
    wait_for("rows cross", 10, arrived);
    nodes[2].sql("DROP TABLE vt");
    // It tries again every 15 s.
    wait_for("it has followed", 30, || (shape(&nodes[2]) == shape(&nodes[0])).then_some(()));
    wait_for("it has followed", 30, || nodes[2].command(&["-migrate-status"]).status.success().then_some(()));
    assert_eq!(nodes[2].count("cannot follow"), 1, "said once: {}", nodes[2].log());
    // On a busy machine the first may be through before the other begins.
    let at_once = (0..10).map(|n| {
        let b = file("b.sql", &format!("CREATE TABLE b{n}(id)"));
        let c = file("c.sql", &format!("CREATE TABLE c{n}(id)"));
        std::thread::scope(|scope| {
            let one = scope.spawn(|| nodes[0].command(&["-migrate", &b]));
            let two = scope.spawn(|| nodes[1].command(&["-migrate", &c]));
            (one.join().unwrap(), two.join().unwrap())
        })
    });
    let mut met = at_once.filter(|(one, two)| !(one.status.success() && two.status.success()));
    let (one, two) = met.next().expect("they meet");
    let (good, bad) = if one.status.success() { (one, two) } else { (two, one) };
    assert_eq!((good.status.code(), bad.status.code()), (Some(0), Some(1)), "{good:?} {bad:?}");
    let why = format!("{}{}", String::from_utf8_lossy(&bad.stdout), String::from_utf8_lossy(&bad.stderr));
    assert!(why.contains("is not through: try again"), "{why}");
}
