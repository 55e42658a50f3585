//! What a comparison of a million rows costs.

use crate::support::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ROWS: u32 = 1_000_000;

/// Three nodes that write while they are compared: the answer, the time, the longest pause of a writer, the daemons' memory.
#[test]
fn a_million_rows_on_three_writing_nodes() {
    let dir = Dir::new("million");
    let nats = Nats::start(&dir);
    let schema = format!(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, n INTEGER, v REAL); \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) \
         INSERT INTO t SELECT i, 'a name of some length ' || i, i % 100, i / 7.0 FROM n;"
    );
    let mut one = Node::with_schema(&dir, 1, &nats.url(), "", &schema);
    one.checkpoint();
    let mut others = [2, 3].map(|id| {
        let node = Node::new(&dir, id, &nats.url(), "");
        std::fs::copy(&one.database, &node.database).unwrap();
        node
    });
    // All have the same rows before they know each other, and none of them is on its way.
    one.start_ready();
    others.iter_mut().for_each(Node::start_ready);
    let nodes = [&one, &others[0], &others[1]];
    let quiet = nodes.map(|node| node.memory().0);
    let (on, comparing) = (AtomicBool::new(true), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writers: Vec<_> = nodes
            .iter()
            .zip(1u32..)
            .map(|(node, number)| {
                let (connection, on, comparing) = (node.open(), &on, &comparing);
                scope.spawn(move || {
                    // While nothing is compared, and while something is.
                    let (mut longest, mut count) = ([Duration::ZERO; 2], 0u32);
                    while on.load(Ordering::Relaxed) {
                        let key = (count * 7919 + number * 31) % (ROWS / 2);
                        let begun = Instant::now();
                        connection.execute("UPDATE t SET n = n + 1 WHERE id = ?1", [key]).unwrap();
                        let longest = &mut longest[usize::from(comparing.load(Ordering::Relaxed))];
                        *longest = begun.elapsed().max(*longest);
                        count += 1;
                        pause(5);
                    }
                    (longest, count)
                })
            })
            .collect();
        pause(12_000);
        comparing.store(true, Ordering::Relaxed);
        let equal = json(&one.command(&["-verify", "-json"]));
        assert_eq!(equal["equal"], true, "{equal}");
        let connection = nodes[1].open();
        connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
        connection.execute("UPDATE t SET n = -1 WHERE id = 777777", []).unwrap();
        let odd = json(&one.command(&["-verify", "-json"]));
        on.store(false, Ordering::Relaxed);
        let rows = odd["tables"][0]["differences"].as_array().unwrap();
        assert_eq!((rows.len(), &rows[0]["key"]), (1, &serde_json::json!([777_777])), "{odd}");
        let writers: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        let memory = nodes.map(|node| node.memory());
        println!(
            "1,000,000 rows: {} ms and {} bytes when equal, {} ms and {} bytes with one row changed; on their way {}; \
             writers' longest pauses without and with, and writes {writers:?}; KiB before {quiet:?}, now and peak {memory:?}",
            equal["milliseconds"], equal["bytes"], odd["milliseconds"], odd["bytes"], equal["on_their_way"]
        );
    });
}
