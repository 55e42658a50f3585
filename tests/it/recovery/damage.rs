//! A database that is damaged: the daemon recovers it by itself, at its start and while it runs.

use crate::support::stores::file_store;
use crate::support::*;
use std::path::PathBuf;

const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v, pad); CREATE TABLE own(k TEXT PRIMARY KEY, v)";

/// Two nodes with a few hundred rows, all published, and a snapshot of them.
pub fn two(dir: &Dir, nats: &Nats) -> (Node, Node) {
    let config = "snapshot.leader_ttl = 1000\n";
    let mut one = Node::with_schema(dir, 1, &nats.url(), config, SCHEMA);
    let mut two = Node::with_schema(dir, 2, &nats.url(), config, SCHEMA);
    one.start_ready();
    two.start_ready();
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 800) \
                INSERT INTO t SELECT i, 'v' || i, zeroblob(500) FROM n";
    one.sql(rows);
    wait_equal(&mut [&mut one, &mut two], 20);
    assert!(one.command(&["-save-snapshot"]).status.success());
    one.sql("INSERT INTO own VALUES('behind the snapshot', 1)");
    wait_equal(&mut [&mut one, &mut two], 20);
    (one, two)
}

pub fn aside(node: &Node, what: &str) -> Vec<PathBuf> {
    let prefix = format!("app.db.{what}-");
    let entries = std::fs::read_dir(&node.dir).unwrap().map(|entry| entry.unwrap().path());
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(&prefix) && !name.ends_with("-wal") && !name.ends_with("-shm")
    };
    entries.filter(ours).collect()
}

pub fn recovered(one: &mut Node, two: &mut Node, aside_expected: usize) {
    wait_for("it is recovered", 30, || {
        one.assert_alive();
        (one.count("unpublished changes of the damaged one were carried over") > 0).then_some(())
    });
    wait_equal(&mut [one, two], 30);
    one.sql("INSERT INTO own VALUES('after', 1)");
    two.sql("INSERT INTO own VALUES('after, too', 1)");
    wait_equal(&mut [one, two], 20);
    assert_eq!(value(one, "PRAGMA integrity_check"), "Text([111, 107])");
    assert_eq!(aside(one, "damaged").len(), aside_expected, "{}", one.log());
}

#[test]
fn found_at_start() {
    type Spoil = fn(&Node);
    let cases: [(&str, Spoil); 5] = [
        ("header", |node| spoil(&node.database, 0, 100)),
        ("all of page 1", |node| spoil(&node.database, 0, 4096)),
        ("half of it is missing", |node| {
            let file = std::fs::OpenOptions::new().write(true).open(&node.database).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2 / 4096 * 4096 + 100).unwrap();
        }),
        ("text", |node| std::fs::write(&node.database, "this is no database\n".repeat(1000)).unwrap()),
        ("the schema", |node| spoil(&node.database, 100, 3000)),
    ];
    let dir = Dir::new("damage");
    for (what, spoil) in cases {
        let nats = Nats::start(&dir);
        let (mut one, mut two) = two(&dir, &nats);
        one.stop();
        one.checkpoint();
        let kept = one.dir.join("before");
        spoil(&one);
        std::fs::copy(&one.database, &kept).unwrap();
        one.start();
        recovered(&mut one, &mut two, 1);
        assert!(
            std::fs::read(&aside(&one, "damaged")[0]).unwrap() == std::fs::read(&kept).unwrap(),
            "{what}"
        );
        drop((one, two, nats));
        for entry in std::fs::read_dir(&dir.0).unwrap() {
            std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
    }
}

/// A damaged page that is not read at the start: the check of all pages finds it. What was written and not published is carried
/// over.
#[test]
fn found_by_the_check() {
    let dir = Dir::new("damaged-page");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = two(&dir, &nats);
    one.stop();
    one.sql(
        "INSERT INTO own VALUES('not published', 1), ('nor this', 2); UPDATE t SET v = 'mine' WHERE id = 1",
    );
    one.checkpoint();
    // A leaf in the middle of the table, not the first one.
    let pages = "SELECT min(pageno) FROM (SELECT pageno FROM dbstat WHERE name = 't' AND pagetype = 'leaf' ORDER BY path LIMIT 10 OFFSET 30)";
    let page: u64 = match rusqlite::Connection::open(&one.database)
        .unwrap()
        .query_row(pages, [], |row| row.get::<_, i64>(0))
    {
        Ok(page) => page.unsigned_abs(),
        Err(_) => root_page(&one, "t") + 40,
    };
    spoil(&one.database, (page - 1) * 4096, 4096);
    one.start();
    recovered(&mut one, &mut two, 1);
    assert_eq!(
        value(&two, "SELECT count(*) FROM own WHERE k LIKE '%publish%' OR k LIKE 'nor%'"),
        "Integer(2)"
    );
    assert_eq!(value(&two, "SELECT v FROM t WHERE id = 1"), "Text([109, 105, 110, 101])");
}

/// Only the header is damaged: whatever the page size is, unpublished changes are carried over.
#[test]
fn unpublished_under_a_damaged_header() {
    let dir = Dir::new("damaged-unpublished");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = two(&dir, &nats);
    for (page_size, auto_vacuum) in [(4096, 0), (512, 1), (65536, 0)] {
        one.stop();
        one.sql(&format!(
            "PRAGMA journal_mode=DELETE; PRAGMA page_size={page_size}; PRAGMA auto_vacuum={auto_vacuum}; VACUUM; \
             PRAGMA journal_mode=WAL"
        ));
        one.sql(&format!("INSERT INTO own VALUES('of {page_size}', 1); DELETE FROM t WHERE id % 3 = 0"));
        one.checkpoint();
        spoil(&one.database, 0, 100);
        let before = one.log().len();
        one.start();
        let told = wait_for("it is recovered", 30, || {
            one.assert_alive();
            let log = one.log()[before..].to_owned();
            log.contains("were carried over").then_some(log)
        });
        assert!(told.contains(" unpublished changes of the damaged one were carried over\n"), "{told}");
        wait_equal(&mut [&mut one, &mut two], 30);
        let sql = format!("SELECT count(*) FROM own WHERE k = 'of {page_size}'");
        assert_eq!(value(&two, &sql), "Integer(1)");
        assert_eq!(value(&two, "SELECT count(*) FROM t WHERE id % 3 = 0"), "Integer(0)");
        assert_eq!(value(&one, "PRAGMA integrity_check"), "Text([111, 107])");
        // Rows for the next round to delete.
        two.sql("INSERT INTO t SELECT id + 2, 'again', zeroblob(500) FROM t WHERE id % 3 = 1");
        wait_equal(&mut [&mut one, &mut two], 30);
    }
    let left = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().to_string_lossy().contains("rebuilt")
    };
    assert!(!std::fs::read_dir(&one.dir).unwrap().any(left));
}

/// Damage under a running daemon and an application: the daemon is not restarted, and the application goes on with its
/// connection.
#[test]
fn found_while_running() {
    let dir = Dir::new("damaged-live");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = two(&dir, &nats);
    let pid = one.pid();
    let application = one.open();
    let page = root_page(&one, "own");
    one.checkpoint();
    spoil(&one.database, (page - 1) * 4096, 4096);
    // The next event for that table cannot be applied.
    two.sql("INSERT INTO own VALUES('from the other', 1)");
    recovered(&mut one, &mut two, 1);
    assert_eq!(one.pid(), pid);
    application.execute("INSERT INTO own VALUES('same connection', 1)", []).unwrap();
    wait_equal(&mut [&mut one, &mut two], 20);
    // Damaged again at once: the daemon pauses before it recovers.
    one.checkpoint();
    spoil(&one.database, (root_page(&one, "own") - 1) * 4096, 4096);
    two.sql("INSERT INTO own VALUES('once more', 1)");
    wait_for("it pauses", 20, || (one.count("damaged again") == 1).then_some(()));
    let begun = std::time::Instant::now();
    wait_for("it is recovered again", 30, || {
        one.assert_alive();
        (one.count("unpublished changes of the damaged one were carried over") == 2).then_some(())
    });
    assert!(begun.elapsed().as_secs() >= 4);
    wait_equal(&mut [&mut one, &mut two], 30);
    assert_eq!((one.pid(), aside(&one, "damaged").len()), (pid, 2));
}

/// The header is damaged under a running daemon: whichever worker notices it first, the daemon does not end.
#[test]
fn the_header_while_running() {
    let dir = Dir::new("damaged-header");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = two(&dir, &nats);
    let pid = one.pid();
    one.checkpoint();
    spoil(&one.database, 0, 4096);
    two.sql("INSERT INTO own VALUES('from the other', 1)");
    // An application gets an error.
    let failed = rusqlite::Connection::open(&one.database)
        .and_then(|connection| connection.execute("INSERT INTO own VALUES('never', 1)", []));
    assert!(failed.is_err());
    recovered(&mut one, &mut two, 1);
    assert_eq!(one.pid(), pid);
    assert_eq!(value(&two, "SELECT count(*) FROM own WHERE k = 'never'"), "Integer(0)");
}

/// The database is damaged and there is no snapshot: each start says so once, one copy is kept however many starts there are,
/// and the node recovers when there is a snapshot.
#[test]
fn damaged_and_no_snapshot() {
    let dir = Dir::new("damaged-none");
    let nats = Nats::start(&dir);
    let (root, config) = file_store(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    let mut two = Node::with_schema(&dir, 2, &nats.url(), &config, SCHEMA);
    one.start_ready();
    two.start_ready();
    one.sql("INSERT INTO t VALUES(1, 'x', 'y')");
    wait_equal(&mut [&mut one, &mut two], 20);
    two.stop();
    one.stop();
    one.checkpoint();
    std::fs::remove_dir_all(&root).unwrap();
    spoil(&one.database, 0, 4096);
    for _ in 0..4 {
        one.start();
        pause(700);
        one.assert_alive();
        assert_eq!(one.stop(), 0);
    }
    assert_eq!(one.count("waiting for a snapshot in directory"), 4, "{}", one.log());
    assert_eq!(aside(&one, "damaged").len(), 1);
    one.start();
    two.start_ready();
    recovered(&mut one, &mut two, 1);
}

/// An index lacks a row of its table: every page can be read, but a statement fails. The check that looks at indexes too finds
/// out why.
#[test]
fn an_index_that_lost_rows() {
    let dir = Dir::new("damaged-index");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = two(&dir, &nats);
    for node in [&one, &two] {
        node.sql("CREATE INDEX tv ON t(v)");
    }
    let pid = one.pid();
    // As if the index had not been there while a row was changed.
    let tamper = |sql: &str| {
        let connection = one.open();
        let version: i64 = connection.query_row("PRAGMA schema_version", [], |row| row.get(0)).unwrap();
        let sql = format!(
            "PRAGMA writable_schema=ON; BEGIN IMMEDIATE; {sql}; PRAGMA schema_version={}; COMMIT",
            version + 1
        );
        connection.execute_batch(&sql).unwrap();
    };
    let entry =
        one.open().query_row("SELECT rootpage, sql FROM sqlite_schema WHERE name = 'tv'", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        });
    let (root, text) = entry.unwrap();
    tamper("DELETE FROM sqlite_schema WHERE name = 'tv'");
    one.sql("UPDATE t SET v = 'unknown to the index' WHERE id = 5");
    tamper(&format!("INSERT INTO sqlite_schema VALUES('index', 'tv', 't', {root}, '{text}')"));
    assert_eq!(value(&one, "PRAGMA quick_check"), "Text([111, 107])");
    wait_for("the change arrives", 20, || {
        (value(&two, "SELECT count(*) FROM t WHERE v = 'unknown to the index'") == "Integer(1)").then_some(())
    });
    two.sql("UPDATE t SET v = 'changed again' WHERE id = 5");
    recovered(&mut one, &mut two, 1);
    assert!(one.log().contains("missing from index tv"), "{}", one.log());
    assert_eq!(one.pid(), pid);
}
