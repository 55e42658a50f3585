//! AUTOINCREMENT tables into which every node inserts at once, without knowing of each other.

use crate::support::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT UNIQUE); \
     CREATE TABLE children(id INTEGER PRIMARY KEY AUTOINCREMENT, note INTEGER REFERENCES notes(id), v TEXT)";

/// Notes by their text: the key that the application was told.
type Told = BTreeMap<String, i64>;

/// Inserts notes with a child each until the time is up.
fn insert(node: &Node, id: u64, until: Instant, pause_ms: u64) -> Told {
    let mut connection = node.open();
    let mut told = Told::new();
    for n in 0.. {
        if Instant::now() > until {
            break;
        }
        let text = format!("{id}-{n}");
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
        transaction.execute("INSERT INTO notes(v) VALUES(?1)", [&text]).unwrap();
        let key = transaction.last_insert_rowid();
        transaction.execute("INSERT INTO children(note, v) VALUES(?1, ?2)", (key, &text)).unwrap();
        transaction.commit().unwrap();
        told.insert(text, key);
        pause(pause_ms);
    }
    told
}

fn insert_on_all(nodes: &[(u64, &Node)], seconds: u64, pause_ms: u64) -> Told {
    let until = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        let writers: Vec<_> =
            nodes.iter().map(|(id, node)| scope.spawn(move || insert(node, *id, until, pause_ms))).collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    })
}

fn notes(connection: &rusqlite::Connection) -> Told {
    let mut statement = connection.prepare("SELECT v, id FROM notes").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

fn assert_whole(node: &Node, told: &Told) {
    let connection = node.open();
    let here = notes(&connection);
    assert_eq!(here.len(), told.len(), "rows of {}", node.dir.display());
    assert_eq!(&here, told);
    let wrong: i64 = connection
        .query_row(
            "SELECT count(*) FROM children c LEFT JOIN notes n ON n.id = c.note WHERE n.v IS NOT c.v",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(wrong, 0, "children of the wrong note");
    let children: i64 = connection.query_row("SELECT count(*) FROM children", [], |row| row.get(0)).unwrap();
    assert_eq!(children, told.len() as i64);
}

fn highest(node: &Node) -> i64 {
    node.open().query_row("SELECT max(id) FROM notes", [], |row| row.get(0)).unwrap()
}

/// Whether a node has a block of keys for each table.
fn wait_for_blocks(node: &Node) {
    wait_for("blocks of keys", 20, || {
        let count = "SELECT count(*) FROM __harmonylite__block";
        let count: i64 = node.open().query_row(count, [], |row| row.get(0)).ok()?;
        (count == 2).then_some(())
    });
}

/// Three nodes into which all insert at once; every note and child is whole on all of them.
fn insert_everywhere(dir: &Dir, nats: &Nats, seconds: u64, pause_ms: u64) -> ([Node; 3], Told) {
    let mut nodes = [1, 2, 3].map(|id| {
        let mut node = Node::with_schema(dir, id, &nats.url(), "snapshot.leader_ttl = 1000\n", SCHEMA);
        node.start_ready();
        wait_for_blocks(&node);
        node
    });
    let numbered: Vec<(u64, &Node)> = (1..).zip(&nodes).collect();
    let told = insert_on_all(&numbered, seconds, pause_ms);
    let [one, two, three] = &mut nodes;
    wait_equal(&mut [one, two, three], 60);
    for node in &nodes {
        assert_whole(node, &told);
    }
    let (rows, keys) = (told.len() as i64, highest(&nodes[0]));
    println!("{rows} rows took {keys} keys");
    assert!(keys <= rows * 64, "{rows} rows took {keys} keys");
    (nodes, told)
}

#[test]
fn nodes_that_insert_as_fast_as_they_can_give_no_key_twice() {
    let dir = Dir::new("fast-keys");
    let nats = Nats::start(&dir);
    insert_everywhere(&dir, &nats, 4, 0);
}

/// Inserts many notes in one transaction.
fn insert_many(node: &Node, name: &str) -> Told {
    let mut connection = node.open();
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let mut told = Told::new();
    for n in 0..10_000 {
        let text = format!("{name}-{n}");
        transaction.execute("INSERT INTO notes(v) VALUES(?1)", [&text]).unwrap();
        told.insert(text, transaction.last_insert_rowid());
    }
    transaction.commit().unwrap();
    told
}

/// Whoever has inserted many rows in one transaction can do so again while others do.
#[test]
fn nodes_that_insert_many_rows_in_one_transaction_each_give_no_key_twice() {
    let dir = Dir::new("many-keys");
    let nats = Nats::start(&dir);
    let mut nodes = [1, 2, 3].map(|id| {
        let mut node = Node::with_schema(&dir, id, &nats.url(), "snapshot.leader_ttl = 1000\n", SCHEMA);
        node.start_ready();
        wait_for_blocks(&node);
        node
    });
    let mut told = Told::new();
    for round in 0..3 {
        let name = |at: usize| format!("{at}-{round}");
        if round == 0 {
            for at in 0..3 {
                told.extend(insert_many(&nodes[at], &name(at)));
                let [one, two, three] = &mut nodes;
                wait_equal(&mut [one, two, three], 60);
            }
        } else {
            told.extend(std::thread::scope(|scope| {
                let numbered = nodes.iter().enumerate();
                let writers: Vec<_> =
                    numbered.map(|(at, node)| scope.spawn(move || insert_many(node, &name(at)))).collect();
                writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Told>()
            }));
        }
        let [one, two, three] = &mut nodes;
        wait_equal(&mut [one, two, three], 60);
    }
    for node in &nodes {
        let here = notes(&node.open());
        assert!(here == told, "{} rows of {} on {}", here.len(), told.len(), node.dir.display());
    }
}

#[test]
fn nodes_that_insert_at_once_give_no_key_twice() {
    let dir = Dir::new("automatic-keys");
    let nats = Nats::start(&dir);
    let (mut nodes, mut told) = insert_everywhere(&dir, &nats, 4, 20);
    // A node that comes later has keys of its own before its application can insert.
    let mut late = Node::new(&dir, 4, &nats.url(), "snapshot.leader_ttl = 1000\n");
    let saved = nodes[0].command(&["-save-snapshot"]);
    assert_eq!(saved.status.code(), Some(0), "{saved:?}");
    late.start();
    wait_for("the database is there", 30, || late.database.exists().then_some(()));
    let numbered = [(7, &nodes[0]), (4, &late)];
    let new = insert_on_all(&numbered, 3, 5);
    told.extend(new);
    let [one, two, three] = &mut nodes;
    wait_equal(&mut [one, two, three, &mut late], 60);
    assert_whole(&late, &told);
    // Away from the broker, the block serves on.
    late.kill9();
    let alone = insert(&late, 5, Instant::now() + Duration::from_millis(100), 20);
    let others = insert_on_all(&[(6, &nodes[1])], 1, 5);
    told.extend(alone);
    told.extend(others);
    late.start_ready();
    let [one, two, three] = &mut nodes;
    wait_equal(&mut [one, two, three, &mut late], 60);
    assert_whole(&late, &told);
    for node in [&nodes[0], &nodes[1], &nodes[2], &late] {
        assert_eq!(String::from_utf8_lossy(&node.command(&["-conflicts", "-json"]).stdout).trim(), "[]");
    }
}

#[test]
fn a_setting_leaves_keys_as_sqlite_gives_them() {
    let dir = Dir::new("plain-keys");
    let nats = Nats::start(&dir);
    let extra = "automatic_keys = false\nsnapshot.leader_ttl = 1000\n";
    let mut node = Node::with_schema(&dir, 1, &nats.url(), extra, SCHEMA);
    node.start_ready();
    node.sql("INSERT INTO notes(v) VALUES('a'), ('b')");
    pause(1_000);
    node.sql("INSERT INTO notes(v) VALUES('c')");
    assert_eq!(highest(&node), 3);
}

#[test]
fn a_plain_key_becomes_one_that_every_node_may_give_under_running_daemons() {
    let dir = Dir::new("plain-to-automatic");
    let nats = Nats::start(&dir);
    let schema = SCHEMA.replace(" AUTOINCREMENT", "");
    let mut nodes = [1, 2].map(|id| {
        let mut node = Node::with_schema(&dir, id, &nats.url(), "snapshot.leader_ttl = 1000\n", &schema);
        node.start_ready();
        node
    });
    for (at, node) in nodes.iter().enumerate() {
        node.sql(&format!("INSERT INTO notes(v) VALUES('first {at}')"));
        pause(500);
    }
    let warning = "table notes is written on more than one node, and its key is a plain INTEGER PRIMARY KEY";
    wait_for("both say so", 20, || nodes.iter().all(|node| node.count(warning) == 1).then_some(()));
    let [one, two] = &mut nodes;
    wait_equal(&mut [one, two], 30);
    one.stop();
    one.start_ready();
    assert_eq!(one.count(warning), 2, "and at each start");
    for table in ["notes", "children"] {
        for node in [&*one, &*two] {
            let output = node.command(&["-autoincrement", table]);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
        }
    }
    wait_for_blocks(one);
    wait_for_blocks(two);
    one.sql("DELETE FROM notes");
    wait_equal(&mut [one, two], 30);
    let told = insert_on_all(&[(1, &*one), (2, &*two)], 2, 2);
    wait_equal(&mut [one, two], 60);
    assert_whole(one, &told);
    assert_eq!(String::from_utf8_lossy(&one.command(&["-conflicts"]).stdout).trim(), "no conflicts");
    let output = two.command(&["-no-autoincrement", "children", "-json"]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["changed"], true);
    let output = two.command(&["-autoincrement", "nothing"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("table nothing: there is no such table"));
    assert_eq!((one.stop(), two.stop()), (0, 0));
}
