//! Lost writes: which are kept, how many, and how they come back. Several nodes with real databases fold one stream.

use super::*;
use crate::base::{limits, stop};
use crate::db::apply::{Applier, Ends, Incoming, Restored};
use crate::db::capture::ChangeLog;
use crate::db::scratch::Scratch;
use crate::model::event::Event;
use crate::model::origin::Origin;
use crate::model::value::Value;

struct Node {
    id: u64,
    scratch: Scratch,
    log: ChangeLog,
    applier: Applier,
    read: usize,
}

type Stream = Vec<(Origin, i64, Event)>;

impl Node {
    fn new(name: &str, id: u64, sql: &str) -> Node {
        let scratch = Scratch::new(&format!("{name}-{id}"), sql);
        let log = ChangeLog::open(&scratch.path, id).unwrap().0;
        let applier = Applier::open(&scratch.path, id, &["s-1".to_owned()]).unwrap();
        Node { id, scratch, log, applier, read: 0 }
    }

    fn write(&self, sql: &str) {
        self.scratch.app.execute_batch(sql).unwrap();
    }

    fn publish(&mut self, stream: &mut Stream) {
        let origin = self.log.origin().unwrap();
        for change in self.log.read(1_000).unwrap().changes {
            stream.push((origin, change.event.id, change.event));
        }
    }

    fn follow(&mut self, stream: &Stream) {
        let batch: Vec<Incoming> = (1..)
            .zip(stream)
            .skip(self.read)
            .map(|(seq, (origin, id, event))| Incoming {
                stream: 0,
                seq,
                origin: Some((*origin, *id)),
                time_ms: 1_000 * i64::try_from(seq).unwrap(),
                payload: event.encode(),
                ends: Some(Ends::at(seq)),
            })
            .collect();
        let mut rest = &batch[..];
        while !rest.is_empty() {
            let applied = self.applier.apply(rest).unwrap();
            rest = &rest[applied.events..];
        }
        self.read = stream.len();
    }

    fn found(&self) -> Vec<(String, Kind, u64, u64)> {
        let all = list(&self.scratch.path).unwrap();
        all.into_iter().map(|c| (key(&c), c.kind, c.lost_by, c.won_by)).collect()
    }

    fn restore(&mut self, at: usize) -> Result<Restored, Error> {
        let conflict = list(&self.scratch.path).unwrap().remove(at);
        self.applier.bring_back(&conflict, &Event::decode(&conflict.payload).unwrap())
    }

    fn rows(&self) -> String {
        let rows = self.scratch.value("SELECT group_concat(k || coalesce(u, '-') || coalesce(v, '-'), ' ') FROM (SELECT * FROM t ORDER BY k)");
        rows.trim_matches('\'').to_owned()
    }
}

fn key(conflict: &Conflict) -> String {
    let event = Event::decode(&conflict.payload).unwrap();
    let of_key = event.row.iter().filter(|(name, _)| conflict.key_columns.iter().any(|c| **c == **name));
    of_key.map(|(_, value)| format!("{value:?}")).collect()
}

fn one(key: i64) -> String {
    format!("{:?}", Value::Integer(key))
}

/// Both nodes write before they hear of each other; `a` publishes first.
fn both(name: &str, before: &str, a: &str, b: &str) -> (Node, Node, Stream) {
    let sql = "CREATE TABLE t(k INTEGER PRIMARY KEY AUTOINCREMENT, u UNIQUE, v)";
    let (mut one, mut two, mut stream) = (Node::new(name, 1, sql), Node::new(name, 2, sql), vec![]);
    one.write(before);
    one.publish(&mut stream);
    one.follow(&stream);
    two.follow(&stream);
    one.write(a);
    two.write(b);
    one.publish(&mut stream);
    two.publish(&mut stream);
    let settle = |one: &mut Node, two: &mut Node, stream: &mut Stream| {
        for _ in 0..3 {
            one.follow(stream);
            two.follow(stream);
            one.publish(stream);
            two.publish(stream);
        }
    };
    settle(&mut one, &mut two, &mut stream);
    assert_eq!(one.rows(), two.rows(), "{name}");
    (one, two, stream)
}

#[test]
fn the_winner_alone_keeps_what_lost_to_it() {
    let before = "INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0)";
    for (name, a, b, expected) in [
        (
            "update",
            "UPDATE t SET v = 1 WHERE k = 1",
            "UPDATE t SET v = 2 WHERE k = 1",
            vec![(one(1), Kind::Update, 1, 2)],
        ),
        (
            "insert",
            "INSERT INTO t VALUES(3, 'c', 1)",
            "INSERT INTO t VALUES(3, 'd', 2)",
            vec![(one(3), Kind::Insert, 1, 2)],
        ),
        (
            "delete",
            "DELETE FROM t WHERE k = 1",
            "UPDATE t SET v = 2 WHERE k = 1",
            vec![(one(1), Kind::Delete, 1, 2)],
        ),
        (
            "deleted",
            "UPDATE t SET v = 1 WHERE k = 1",
            "DELETE FROM t WHERE k = 1",
            vec![(one(1), Kind::Update, 1, 2)],
        ),
        (
            "unique",
            "INSERT INTO t VALUES(3, 'x', 1)",
            "INSERT INTO t VALUES(4, 'x', 2)",
            vec![(one(3), Kind::Unique, 1, 2)],
        ),
        ("equal", "UPDATE t SET v = 1 WHERE k = 1", "UPDATE t SET v = 1 WHERE k = 1", vec![]),
        ("gone", "DELETE FROM t WHERE k = 1", "DELETE FROM t WHERE k = 1", vec![]),
        ("others", "UPDATE t SET v = 1 WHERE k = 1", "UPDATE t SET v = 2 WHERE k = 2", vec![]),
        ("ignored", "UPDATE t SET v = 1 WHERE k = 1", "INSERT OR IGNORE INTO t(u, v) VALUES('a', 2)", vec![]),
    ] {
        let (one, two, _) = both(&format!("lost-{name}"), before, a, b);
        assert_eq!(two.found(), expected, "{name}");
        assert_eq!(one.found(), [], "{name}");
    }
}

#[test]
fn several_writes_of_a_node_that_lose_to_one_are_one_loss() {
    let (mut one, mut two, mut stream) = both("lost-several", "INSERT INTO t VALUES(1, 'a', 0)", "", "");
    two.write("UPDATE t SET v = 'two'");
    for v in 1..=3 {
        one.write(&format!("UPDATE t SET v = {v}"));
        one.publish(&mut stream);
        one.follow(&stream);
    }
    two.follow(&stream);
    let found = list(&two.scratch.path).unwrap();
    assert_eq!(found.len(), 1);
    let event = Event::decode(&found[0].payload).unwrap();
    assert_eq!(event.row[2].1, Value::Integer(3), "the last of them");
    assert_eq!((found[0].seq, found[0].time_ms, found[0].stream.as_str()), (4, 4_000, "s-1"));
    assert_eq!(two.applier.session.conflicts.entries, 1);
}

#[test]
fn a_lost_write_comes_back_as_a_write_of_the_winner() {
    let before = "INSERT INTO t VALUES(1, 'a', 0)";
    let (mut one, mut two, mut stream) =
        both("back-update", before, "UPDATE t SET v = 1", "UPDATE t SET v = 2");
    assert_eq!(two.rows(), "1a2");
    assert_eq!(two.restore(0).unwrap(), Restored::AsItWas);
    assert_eq!((two.rows().as_str(), two.found().len()), ("1a1", 0));
    two.publish(&mut stream);
    one.follow(&stream);
    assert_eq!(one.rows(), "1a1");
    assert_eq!(one.found(), []);

    let (mut one, mut two, mut stream) = both("back-delete", before, "DELETE FROM t", "UPDATE t SET v = 2");
    assert_eq!(two.restore(0).unwrap(), Restored::AsItWas);
    two.publish(&mut stream);
    one.follow(&stream);
    assert_eq!(one.scratch.value("SELECT count(*) FROM t"), "0");
}

#[test]
fn of_two_rows_under_one_key_the_lost_one_gets_a_key_of_its_own() {
    let (mut one, mut two, mut stream) = both(
        "back-insert",
        "INSERT INTO t VALUES(1, 'a', 0)",
        "INSERT INTO t VALUES(2, 'one', 1)",
        "INSERT INTO t VALUES(2, 'two', 2)",
    );
    assert_eq!(two.restore(0).unwrap(), Restored::UnderKey(Value::Integer(3)));
    two.publish(&mut stream);
    one.follow(&stream);
    assert_eq!(one.rows(), "1a0 2two2 3one1");
    assert_eq!(one.rows(), two.rows());
}

#[test]
fn a_row_whose_unique_value_is_taken_stays_on_the_list() {
    let (_, mut two, _) = both(
        "back-unique",
        "INSERT INTO t VALUES(1, 'a', 0)",
        "INSERT INTO t VALUES(2, 'x', 1)",
        "INSERT INTO t VALUES(3, 'x', 2)",
    );
    let before = two.rows();
    let error = two.restore(0).unwrap_err().to_string();
    assert!(error.contains("UNIQUE"), "{error}");
    assert_eq!((two.rows(), two.found().len()), (before, 1));
    two.write("UPDATE t SET u = 'y' WHERE k = 3");
    assert_eq!(two.restore(0).unwrap(), Restored::AsItWas);
    assert_eq!(two.rows(), "1a0 2x1 3y2");
    assert!(two.scratch.value("SELECT count(*) FROM __harmonylite__log WHERE t > 0") != "0");
}

#[test]
fn the_oldest_go_when_there_is_no_room() {
    let connection = Connection::open_in_memory().unwrap();
    state::create(&connection).unwrap();
    create(&connection).unwrap();
    let mut conflicts = Conflicts::default();
    let found = |won_id: i64, bytes: usize| Found {
        table: "t",
        key: b"k",
        kind: Kind::Update,
        lost_by: 1,
        won_by: u64::MAX,
        won_id,
        stream: "s",
        seq: 1,
        time_ms: 0,
        key_columns: vec!["k"],
        payload: vec![0; bytes],
    };
    let large = usize::try_from(limits::CONFLICT_BYTES).unwrap() / 3;
    for id in 1..=3 {
        conflicts.put(&connection, &found(id, large)).unwrap();
    }
    let ids: Vec<i64> = read_all(&connection).unwrap().iter().map(|c| c.id).collect();
    assert_eq!(ids, [2, 3]);
    assert_eq!(read_all(&connection).unwrap()[0].won_by, u64::MAX);
    let (entries, bytes) = (conflicts.entries, conflicts.bytes);
    conflicts.load(&connection).unwrap();
    assert_eq!((conflicts.entries, conflicts.bytes), (entries, bytes), "as counted anew");
    assert_eq!(kept(&connection).unwrap(), [(Kind::Update, 2)]);
    conflicts.put(&connection, &found(4, large * 4)).unwrap();
    assert_eq!(conflicts.entries, 1, "one that is larger than all the room is kept alone");
    assert_eq!(state::number(&connection, DROPPED).unwrap(), 3);
}

#[test]
fn the_list_of_a_damaged_database_is_carried_over() {
    let before = "INSERT INTO t VALUES(1, 'a', 0)";
    let (_, two, _) = both("carried", before, "UPDATE t SET v = 1", "UPDATE t SET v = 2");
    let told = |path: &Path| format!("{:?}", list(path).unwrap());
    let prepared = Scratch::new("carried-to", "CREATE TABLE t(k INTEGER PRIMARY KEY)");
    for times in [1, 0] {
        assert_eq!(carry(&two.scratch.path, &prepared.path).unwrap(), times);
        assert_eq!(told(&prepared.path), told(&two.scratch.path));
    }
    assert!(told(&prepared.path).contains("Update"));
    // An entry of the new log may have the number of an old one, and another write of the same row may lose to it.
    let carried = list(&prepared.path).unwrap().remove(0);
    let key: Vec<u8> =
        prepared.app.query_row("SELECT key FROM __harmonylite__conflict", [], |row| row.get(0)).unwrap();
    let mut conflicts = Conflicts::default();
    conflicts.load(&prepared.app).unwrap();
    let old = |sql: &str| two.scratch.app.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let won_id = old("SELECT won_id FROM __harmonylite__conflict");
    let found = Found {
        table: "t",
        key: &key,
        kind: Kind::Update,
        lost_by: 3,
        won_by: 2,
        won_id,
        stream: "s",
        seq: 9,
        time_ms: 0,
        key_columns: vec!["k"],
        payload: carried.payload.clone(),
    };
    conflicts.put(&prepared.app, &found).unwrap();
    let losers: Vec<u64> = list(&prepared.path).unwrap().iter().map(|c| c.lost_by).collect();
    assert_eq!(losers, [1, 3]);
    let text = two.scratch.path.with_extension("text");
    std::fs::write(&text, "no database ".repeat(1000)).unwrap();
    assert_eq!(carry(&text, &prepared.path).unwrap(), 0, "what cannot be read keeps nobody");
    std::fs::remove_file(text).unwrap();
}

/// Our write went out, and was changed here again, before another node's row with the same UNIQUE value came: nobody but us can tell that
/// it is lost when ours comes back.
#[test]
fn what_an_echo_displaces_is_kept() {
    let sql =
        "CREATE TABLE t(k INTEGER PRIMARY KEY, u UNIQUE, v); INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0)";
    let (mut one, mut two) = (Node::new("echo", 1, sql), Node::new("echo", 2, sql));
    let (mut stream, mut late) = (vec![], vec![]);
    one.write("UPDATE t SET u = 'x' WHERE k = 1");
    one.publish(&mut late);
    one.write("UPDATE t SET u = 'y' WHERE k = 1");
    two.write("UPDATE t SET u = 'x' WHERE k = 2");
    two.publish(&mut stream);
    one.follow(&stream);
    assert_eq!(one.rows(), "1y0 2x0");
    stream.append(&mut late);
    for _ in 0..2 {
        one.follow(&stream);
        two.follow(&stream);
        one.publish(&mut stream);
    }
    assert_eq!((one.rows(), two.rows()), ("1y0".to_owned(), "1y0".to_owned()));
    assert_eq!(one.found(), [(super::tests::one(2), Kind::Unique, 2, 1)]);
    assert!(two.found().is_empty());
    assert!(one.restore(0).is_ok());
}

const ADD_COLUMN: &str = "ALTER TABLE t ADD COLUMN w DEFAULT 'none'";

/// Node 1 has a column that node 2 gets later, and what it writes waits there.
fn lagging(name: &str) -> (Node, Node, Stream) {
    let sql =
        "CREATE TABLE t(k INTEGER PRIMARY KEY, u UNIQUE, v); INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0)";
    let ahead = format!("{sql}; {ADD_COLUMN}");
    (Node::new(name, 1, &ahead), Node::new(name, 2, sql), vec![])
}

/// Node 2 gets the column, and what waited is applied.
fn caught_up(one: &mut Node, two: &mut Node, stream: &mut Stream) -> [String; 2] {
    two.write(ADD_COLUMN);
    two.log = ChangeLog::open(&two.scratch.path, two.id).unwrap().0;
    go_on(one, two, stream)
}

/// Both read all, until nothing is published any more; the rows of both.
fn go_on(one: &mut Node, two: &mut Node, stream: &mut Stream) -> [String; 2] {
    for _ in 0..3 {
        let (_source, token) = stop::pair();
        token.wait(limits::ASIDE_LOOK_AGAIN);
        two.applier.look().unwrap();
        while two.applier.has_more() {
            two.applier.apply(&[]).unwrap();
        }
        two.publish(stream);
        two.follow(stream);
        one.follow(stream);
    }
    let rows = "SELECT group_concat(k || coalesce(u, '-') || v || w, ' ') FROM (SELECT * FROM t ORDER BY k)";
    [&*one, &*two].map(|node| node.scratch.value(rows).trim_matches('\'').to_owned())
}

#[test]
fn what_waits_and_is_overtaken_by_a_write_of_ours_is_kept() {
    for (write, expected) in [
        ("UPDATE t SET v = 2 WHERE k = 1", "1a2new 2b0none"),
        // What was deleted took the new column's value with it.
        ("DELETE FROM t WHERE k = 1; INSERT INTO t(k, u, v) VALUES(3, 'c', 3)", "2b0none 3c3none"),
    ] {
        let (mut one, mut two, mut stream) = lagging("overtaken");
        one.write("UPDATE t SET v = 1, w = 'new' WHERE k = 1");
        one.publish(&mut stream);
        two.follow(&stream);
        assert!(two.found().is_empty());
        two.write(write);
        two.publish(&mut stream);
        two.follow(&stream);
        let lost = vec![(super::tests::one(1), Kind::Update, 1, 2)];
        assert_eq!(two.found(), lost, "{write}");
        assert_eq!(caught_up(&mut one, &mut two, &mut stream), [expected, expected], "{write}");
        assert_eq!((one.found(), two.found()), (vec![], lost), "{write}");
    }
}

/// The column comes here, too, and a write of ours sets it: what waits is older than that, whether ours has come back by then or not.
#[test]
fn what_waits_for_a_column_does_not_overwrite_a_later_write_of_ours() {
    for (overtaken, back, set, expected) in [
        (true, true, true, "1a2own 2b0none"),
        (true, false, true, "1a2own 2b0none"),
        (false, true, true, "1a0own 2b0none"),
        (false, false, true, "1a0own 2b0none"),
        // Ours was published before the column came: it says nothing of it.
        (true, false, false, "1a2new 2b0none"),
    ] {
        let (mut one, mut two, mut stream) = lagging("later");
        one.write("UPDATE t SET w = 'new' WHERE k = 1");
        one.publish(&mut stream);
        two.follow(&stream);
        if overtaken {
            two.write("UPDATE t SET v = 2 WHERE k = 1");
            two.publish(&mut stream);
            if set {
                two.follow(&stream);
            }
        }
        two.write(ADD_COLUMN);
        two.log = ChangeLog::open(&two.scratch.path, two.id).unwrap().0;
        if set {
            two.write("UPDATE t SET w = 'own' WHERE k = 1");
        }
        two.publish(&mut stream);
        if back {
            two.follow(&stream);
        }
        let found = go_on(&mut one, &mut two, &mut stream);
        assert_eq!(found, [expected, expected], "{overtaken} {back} {set}");
        assert_eq!(two.scratch.value("SELECT count(*) FROM __harmonylite__set_aside"), "0");
    }
}

#[test]
fn a_row_that_is_there_again_does_not_get_what_waited_for_the_one_before() {
    let (mut one, mut two, mut stream) = lagging("again");
    one.write("UPDATE t SET w = 'new' WHERE k = 1");
    one.publish(&mut stream);
    two.follow(&stream);
    for write in ["DELETE FROM t WHERE k = 1", "INSERT INTO t(k, u, v) VALUES(1, 'a', 5)"] {
        two.write(write);
        two.publish(&mut stream);
        two.follow(&stream);
    }
    assert_eq!(caught_up(&mut one, &mut two, &mut stream), ["1a5none 2b0none", "1a5none 2b0none"]);
}

/// A swap of UNIQUE values that waits: the row that is in the way is about to be written again.
#[test]
fn values_that_were_swapped_do_not_go_back_after_waiting() {
    let (mut one, mut two, mut stream) = lagging("swapped");
    one.write(
        "BEGIN; UPDATE t SET u = 'held' WHERE k = 1; UPDATE t SET u = 'a' WHERE k = 2; UPDATE t SET u = 'b' WHERE k = 1; COMMIT",
    );
    one.publish(&mut stream);
    two.follow(&stream);
    let before = stream.len();
    assert_eq!(caught_up(&mut one, &mut two, &mut stream), ["1b0none 2a0none", "1b0none 2a0none"]);
    assert_eq!(stream.len(), before, "nothing is published again");
    assert_eq!((one.found(), two.found()), (vec![], vec![]));
}

/// Random writes of three nodes to few rows; a node reads some of the stream now and then. What each node had read of a row when it
/// wrote it says which writes were concurrent.
#[test]
fn each_lost_write_is_found_once_and_no_other() {
    let mut total = 0;
    for seed in 0..40 {
        let sql = "CREATE TABLE t(k INTEGER PRIMARY KEY AUTOINCREMENT, u UNIQUE, v); \
                   INSERT INTO t VALUES(1, NULL, 0), (2, NULL, 0), (3, NULL, 0)";
        let mut nodes: Vec<Node> = (1..=3).map(|id| Node::new(&format!("pairs-{seed}"), id, sql)).collect();
        let mut random = seed * 7 + 1_u64;
        let mut below = move |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        let mut stream: Stream = vec![];
        // Of each write: its node, row, value, and how far its node had read.
        let mut writes: Vec<(usize, u64, u64, usize)> = vec![];
        for value in 1..60 {
            let at = usize::try_from(below(3)).unwrap();
            let node = &mut nodes[at];
            match below(3) {
                0 => node.follow(&stream),
                _ => {
                    // One write to a row at a time, so that each write is an event.
                    node.publish(&mut stream);
                    let row = 1 + below(3);
                    node.write(&format!("UPDATE t SET v = {value} WHERE k = {row}"));
                    writes.push((at, row, value, node.read));
                    node.publish(&mut stream);
                }
            }
        }
        for node in &mut nodes {
            node.follow(&stream);
        }
        let value_of = |event: &Event, place: usize| match event.row[place].1 {
            Value::Integer(number) => number.cast_unsigned(),
            _ => 0,
        };
        // A write overwrites what stands before it; that is lost if another node wrote it and the writer had not read so far.
        let mut lost: Vec<(usize, u64, u64)> = vec![];
        for (at, (_, _, event)) in stream.iter().enumerate() {
            let (row, value) = (value_of(event, 0), value_of(event, 2));
            let (winner, _, _, read) = writes.iter().find(|write| write.2 == value).unwrap();
            let before = (0..at).rev().find(|before| value_of(&stream[*before].2, 0) == row);
            let Some(before) = before else { continue };
            let overwritten = value_of(&stream[before].2, 2);
            let loser = writes.iter().find(|write| write.2 == overwritten).unwrap().0;
            if loser != *winner && before >= *read {
                lost.push((*winner, row, overwritten));
            }
        }
        let mut found: Vec<(usize, u64, u64)> = vec![];
        for (at, node) in nodes.iter().enumerate() {
            for conflict in list(&node.scratch.path).unwrap() {
                let event = Event::decode(&conflict.payload).unwrap();
                found.push((at, value_of(&event, 0), value_of(&event, 2)));
                assert_eq!(conflict.won_by, node.id);
            }
        }
        lost.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, lost, "seed {seed}: {writes:?}");
        total += found.len();
    }
    assert!(total > 200, "{total} conflicts");
}

/// A row of another node loses its UNIQUE value to a row of ours while a later write of ours hides it. Who writes it again after that has
/// not overwritten it.
#[test]
fn a_hidden_row_that_loses_a_unique_value() {
    let sql =
        "CREATE TABLE t(k INTEGER PRIMARY KEY, u UNIQUE, v); INSERT INTO t VALUES(3, 'c', 0), (4, 'd', 0)";
    let mut nodes = [1, 2, 3].map(|id| Node::new("hidden", id, sql));
    let mut stream = vec![];
    nodes[1].write("UPDATE t SET u = 'n' WHERE k = 3");
    nodes[1].publish(&mut stream);
    nodes[2].write("UPDATE t SET u = 'n' WHERE k = 4");
    nodes[2].publish(&mut stream);
    nodes[2].write("UPDATE t SET v = 9 WHERE k = 3; UPDATE t SET u = 'o' WHERE k = 4");
    nodes[0].follow(&stream);
    nodes[0].write("INSERT INTO t VALUES(3, 'x', 1)");
    for _ in 0..3 {
        for node in &mut nodes {
            node.publish(&mut stream);
            node.follow(&stream);
        }
    }
    assert_eq!(nodes[2].found(), [(one(3), Kind::Unique, 2, 3), (one(3), Kind::Update, 1, 3)]);
    assert!(nodes[0].found().is_empty() && nodes[1].found().is_empty());
    assert!(nodes.iter().all(|node| node.rows() == "3c9 4o0"), "{}", nodes[0].rows());
}

#[path = "conflicts_random_tests.rs"]
mod random;
