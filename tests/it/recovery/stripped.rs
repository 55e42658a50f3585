//! Somebody drops tables of ours: a tool that makes the schema what its own file says, or a person who tidies up.

use crate::support::*;
use rusqlite::Connection;
use std::time::{Duration, Instant};

const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT UNIQUE); CREATE TABLE u(a, b, PRIMARY KEY(a, b))";
const TABLES: [&[&str]; 6] = [
    &["log"],
    &["table"],
    &["log", "table"],
    &["state"],
    &["set_aside", "conflict"],
    &["log", "table", "state", "set_aside", "conflict"],
];

fn drop_tables(app: &Connection, names: &[&str]) {
    let sql: Vec<String> = names.iter().map(|name| format!("DROP TABLE __harmonylite__{name}")).collect();
    app.execute_batch(&format!("BEGIN IMMEDIATE; {}; COMMIT", sql.join("; "))).unwrap();
}

/// An application that tries its statement until it is taken; returns for how long it was not. As every application does, it reads, too:
/// SQLite does not read the schema anew for a trigger that it cannot compile.
fn insist(app: &Connection, sql: &str) -> Duration {
    let begun = Instant::now();
    while let Err(error) = app.execute_batch(sql) {
        assert!(begun.elapsed() < Duration::from_secs(8), "{sql}: {error}");
        pause(5);
        app.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
    }
    begun.elapsed()
}

fn rows(node: &Node) -> String {
    let sql = "SELECT group_concat(v, ' ') FROM (SELECT v FROM t ORDER BY id)";
    node.open().query_row(sql, [], |row| row.get(0)).unwrap()
}

fn pair(dir: &Dir, nats: &Nats) -> [Node; 2] {
    let mut nodes = [1, 2].map(|id| Node::with_schema(dir, id, &nats.url(), "", SCHEMA));
    nodes[0].sql("INSERT INTO t VALUES(1, 'one'), (2, 'two'), (3, 'three'); INSERT INTO u VALUES(1, 1)");
    nodes.iter_mut().for_each(Node::start_ready);
    let [one, two] = &mut nodes;
    wait_equal(&mut [one, two], 20);
    nodes
}

#[test]
fn tables_that_somebody_drops_are_made_anew() {
    for names in TABLES {
        let dir = Dir::new("stripped");
        let nats = Nats::start(&dir);
        let [mut one, mut two] = pair(&dir, &nats);
        let app = one.open();
        app.busy_timeout(Duration::from_secs(5)).unwrap();
        drop_tables(&app, names);
        let failed = insist(&app, "INSERT INTO t VALUES(4, 'four'); DELETE FROM t WHERE id = 1");
        insist(&app, "UPDATE t SET v = 'zwei' WHERE id = 2; INSERT INTO u VALUES(2, 2)");
        two.sql("INSERT INTO t VALUES(10, 'ten')");
        println!("{names:?}: the application failed for {} ms", failed.as_millis());
        wait_equal(&mut [&mut one, &mut two], 60);
        // With all of them gone the database joins as one that nobody knows: the cluster's rows win.
        let expected = if names.len() < 5 { "zwei three four ten" } else { "one two three four ten" };
        assert_eq!(rows(&two), expected, "{names:?}");
        // And it goes on.
        one.sql("INSERT INTO t VALUES(5, 'five')");
        two.sql("DELETE FROM t WHERE id = 3");
        wait_equal(&mut [&mut one, &mut two], 30);
        assert_eq!(rows(&one), expected.replace(" three", "").replace("four", "four five"), "{names:?}");
    }
}

/// The same while no daemon runs, and with changes that nobody has published.
#[test]
fn tables_that_were_dropped_meanwhile_are_made_anew() {
    for names in TABLES {
        let dir = Dir::new("stripped-down");
        let nats = Nats::start(&dir);
        let [mut one, mut two] = pair(&dir, &nats);
        assert_eq!(one.stop(), 0);
        one.sql("INSERT INTO t VALUES(4, 'four')");
        let app = one.open();
        drop_tables(&app, names);
        drop(app);
        one.start_ready();
        wait_equal(&mut [&mut one, &mut two], 60);
        assert_eq!(rows(&two), "one two three four", "{names:?}");
    }
}
