//! How a node starts where there is no database yet: an empty file, a link to nothing, a file that is something else, a
//! broker that does not let it in.

use crate::support::*;
use rusqlite::Connection;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
const CONFIG: &str = "snapshot.leader_ttl = 1000\n";

fn full(dir: &Dir, id: u64, nats: &Nats) -> Node {
    let rows = format!("{SCHEMA}; INSERT INTO t VALUES(1, 'one'), (2, 'two')");
    Node::with_schema(dir, id, &nats.url(), CONFIG, &rows)
}

/// The connection of an application that opened its path and left a file without a table.
fn open_empty(node: &Node, sql: &str) -> Connection {
    let application = Connection::open(&node.database).unwrap();
    application.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
    application.execute_batch(sql).unwrap();
    let tables: i64 =
        application.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 0);
    application
}

fn count(application: &Connection) -> i64 {
    application.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

/// Neither founder nor leader, and no snapshot, while there is no table.
fn does_nothing(node: &mut Node) {
    wait_for("it says what it waits for", 20, || {
        (node.count("a database without any table; waiting for a snapshot") == 1).then_some(())
    });
    pause(3000);
    node.assert_alive();
    assert_eq!(node.count("this node is the leader") + node.count("stored snapshot"), 0, "{}", node.log());
}

#[test]
fn an_empty_database_that_came_first_gets_the_data() {
    for settings in ["", "PRAGMA journal_mode=WAL"] {
        let dir = Dir::new("empty-first");
        let nats = Nats::start(&dir);
        let mut one = Node::new(&dir, 1, &nats.url(), CONFIG);
        let application = open_empty(&one, settings);
        one.start();
        does_nothing(&mut one);
        let saved = one.command(&["-save-snapshot"]);
        assert!(!saved.status.success(), "{}", printed(&saved));
        assert!(printed(&saved).contains("no table"), "{}", printed(&saved));
        let mut two = full(&dir, 2, &nats);
        two.start_ready();
        wait_for("the first one is restored", 30, || (one.count("restored") > 0).then_some(()));
        wait_for("it follows", 20, || (one.count("caught up with") > 0).then_some(()));
        wait_equal(&mut [&mut one, &mut two], 20);
        assert_eq!(count(&application), 2, "the connection that was open before sees the rows");
        application.execute_batch("INSERT INTO t VALUES(3, 'by the application')").unwrap();
        two.sql("INSERT INTO t VALUES(4, 'elsewhere')");
        wait_equal(&mut [&mut one, &mut two], 20);
        assert_eq!(
            (count(&application), two.count("joined with")),
            (4, 0),
            "the second one founded the cluster"
        );
    }
}

#[test]
fn an_empty_database_that_comes_later_gets_the_data() {
    let dir = Dir::new("empty-later");
    let nats = Nats::start(&dir);
    let mut one = full(&dir, 1, &nats);
    one.start_ready();
    wait_for("a snapshot", 30, || (one.count("stored snapshot") > 0).then_some(()));
    let mut two = Node::new(&dir, 2, &nats.url(), CONFIG);
    std::fs::write(&two.database, b"").unwrap();
    let application = open_empty(&two, "");
    two.start_ready();
    wait_equal(&mut [&mut one, &mut two], 20);
    assert_eq!(count(&application), 2);
    application.execute_batch("DELETE FROM t WHERE id = 1").unwrap();
    wait_equal(&mut [&mut one, &mut two], 20);
}

/// A new cluster whose application makes its tables when the daemon runs already.
#[test]
fn the_first_table_founds_a_new_cluster() {
    let dir = Dir::new("empty-new");
    let nats = Nats::start(&dir);
    let mut one = Node::new(&dir, 1, &nats.url(), CONFIG);
    let application = open_empty(&one, "");
    one.start();
    does_nothing(&mut one);
    application.execute_batch(SCHEMA).unwrap();
    application.execute_batch("INSERT INTO t VALUES(1, 'first')").unwrap();
    wait_for("it leads and stores a snapshot", 20, || (one.count("stored snapshot") > 0).then_some(()));
    let mut two = Node::new(&dir, 2, &nats.url(), CONFIG);
    two.start_ready();
    let text = wait_equal(&mut [&mut one, &mut two], 20);
    assert!(text.contains("== t (1 rows)"), "{text}");
    application.execute_batch("INSERT INTO t VALUES(2, 'second')").unwrap();
    wait_equal(&mut [&mut one, &mut two], 20);
}

/// A link to a disk that is not mounted: one line, no download; and to a file that is not there yet: restored there.
#[test]
fn a_link_to_nothing() {
    let dir = Dir::new("link-nothing");
    let nats = Nats::start(&dir);
    let mut one = full(&dir, 1, &nats);
    one.start_ready();
    wait_for("a snapshot", 30, || (one.count("stored snapshot") > 0).then_some(()));
    let mut two = Node::new(&dir, 2, &nats.url(), CONFIG);
    let disk = dir.0.join("disk");
    std::os::unix::fs::symlink(disk.join("app.db"), &two.database).unwrap();
    two.start();
    wait_for("it says what is missing", 10, || {
        (two.count("no such directory (a disk that is not mounted?)") == 1).then_some(())
    });
    pause(2500);
    two.assert_alive();
    assert_eq!(two.log().lines().count(), 2, "{}", two.log());
    std::fs::create_dir(&disk).unwrap();
    wait_for("it follows", 20, || (two.count("caught up with") > 0).then_some(()));
    wait_equal(&mut [&mut one, &mut two], 20);
    assert!(std::fs::symlink_metadata(&two.database).unwrap().is_symlink());
    assert!(std::fs::symlink_metadata(disk.join("app.db")).unwrap().is_file());
    // What is committed through the link is seen at once, for the WAL lies beside the file.
    two.sql("INSERT INTO t VALUES(3, 'through the link')");
    wait_equal(&mut [&mut one, &mut two], 20);
    // The disk goes away while the daemon runs.
    let away = dir.0.join("away");
    std::fs::rename(&disk, &away).unwrap();
    wait_for("it says that the disk is gone", 20, || {
        two.assert_alive();
        (two.count("no such directory (a disk that is not mounted?)") == 2).then_some(())
    });
    pause(2500);
    assert_eq!(two.count("restored"), 1, "{}", two.log());
    std::fs::rename(&away, &disk).unwrap();
    two.sql("INSERT INTO t VALUES(4, 'after the disk is back')");
    wait_equal(&mut [&mut one, &mut two], 30);
}

#[test]
fn a_file_that_is_no_database_is_left_alone() {
    let dir = Dir::new("no-database");
    let nats = Nats::start(&dir);
    let mut one = full(&dir, 1, &nats);
    one.start_ready();
    wait_for("a snapshot", 30, || (one.count("stored snapshot") > 0).then_some(()));
    let mut two = Node::new(&dir, 2, &nats.url(), CONFIG);
    let text = "shopping list, and nothing that SQLite could read\n".repeat(100);
    std::fs::write(&two.database, &text).unwrap();
    for _ in 0..2 {
        two.start();
        assert_eq!(two.wait_exit(10), 1, "{}", two.log());
    }
    assert_eq!(two.count("db_path names something that is no SQLite database"), 2, "{}", two.log());
    assert_eq!(std::fs::read_to_string(&two.database).unwrap(), text);
    let mut names: Vec<_> =
        std::fs::read_dir(&two.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["app.db", "config.toml", "log"]);
}

/// With a wrong password, the file of the application stays byte for byte as it was.
#[test]
fn nothing_is_touched_before_the_broker_lets_the_node_in() {
    let dir = Dir::new("not-let-in");
    let login = "authorization { user: app, password: right }";
    let nats = Nats::with(&dir, &nats_binaries()[0], login);
    let config = "nats.user_name = \"app\"\nnats.user_password = \"wrong\"\n";
    let mut node = Node::new(&dir, 1, &nats.url(), config);
    let application = Connection::open(&node.database).unwrap();
    application.execute_batch(&format!("PRAGMA journal_mode=DELETE; {SCHEMA}")).unwrap();
    drop(application);
    let before = std::fs::read(&node.database).unwrap();
    node.start();
    wait_for("it is refused", 20, || node.log().to_lowercase().contains("authorization").then_some(()));
    pause(2500);
    node.assert_alive();
    assert!(std::fs::read(&node.database).unwrap() == before, "the file was changed");
    assert!(!node.dir.join("app.db-wal").exists());
    assert_eq!(node.stop(), 0, "{}", node.log());
    assert!(std::fs::read(&node.database).unwrap() == before, "the file was changed");
    let text = std::fs::read_to_string(&node.config).unwrap().replace("wrong", "right");
    std::fs::write(&node.config, text).unwrap();
    node.start_ready();
    assert_eq!(value(&node, "PRAGMA journal_mode"), "Text([119, 97, 108])");
    // From now on it is known, and a broker that is away keeps nobody from opening it.
    node.stop();
    let sessions = node.count("capturing 1 tables");
    drop(nats);
    node.start();
    wait_for("it is opened", 10, || (node.count("capturing 1 tables") > sessions).then_some(()));
}
