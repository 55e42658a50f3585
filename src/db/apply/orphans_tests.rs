//! Orphans, as a node finds them that has written one side.

use super::*;
use crate::db::apply::conflicts::{self, Conflict};
use crate::db::apply::{Ends, Incoming};
use crate::db::capture::ChangeLog;
use crate::db::scratch::Scratch;
use crate::model::origin::Origin;

const SCHEMA: &str = "CREATE TABLE p(id INTEGER PRIMARY KEY, u UNIQUE);
     CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE, q REFERENCES p(u) ON DELETE SET NULL);
     CREATE TABLE g(id INTEGER PRIMARY KEY, c REFERENCES c ON DELETE CASCADE); CREATE INDEX gc ON g(c);
     INSERT INTO p VALUES(1, 'one'), (2, 'two'); INSERT INTO c VALUES(1, 1, NULL)";

/// Table, key, and the values of the rest, if it is not deleted.
type Row<'a> = (&'a str, i64, Option<&'a [(&'a str, Value)]>);

struct Node {
    scratch: Scratch,
    log: ChangeLog,
    applier: Applier,
    seq: u64,
}

/// Node 1, whose rows are agreed on.
fn node(name: &str) -> Node {
    node_with(name, SCHEMA)
}

fn node_with(name: &str, sql: &str) -> Node {
    let scratch = Scratch::new(name, sql);
    let log = ChangeLog::open(&scratch.path, 1).unwrap().0;
    let applier = Applier::open(&scratch.path, 1, &["s".to_owned()]).unwrap();
    Node { scratch, log, applier, seq: 0 }
}

impl Node {
    /// Node 2 has written rows, in one transaction: table, key, and the values of the rest; without these it was deleted.
    fn others(&mut self, rows: &[Row<'_>]) {
        let mut batch = vec![];
        for (table, key, rest) in rows {
            self.seq += 1;
            let kind = if rest.is_some() { event::Kind::Insert } else { event::Kind::Delete };
            let mut row: Vec<(Arc<str>, Value)> = vec![("id".into(), Value::Integer(*key))];
            row.extend(rest.unwrap_or_default().iter().map(|(name, value)| ((*name).into(), value.clone())));
            let event = Event { node: 2, id: 0, kind, table: (*table).into(), row, schema_hash: None };
            let origin = Some((Origin { node: 2, incarnation: 9 }, self.seq.cast_signed()));
            let (seq, payload) = (self.seq, event.encode());
            batch.push(Incoming { stream: 0, seq, origin, time_ms: 7, payload, ends: None });
        }
        if let Some(last) = batch.last_mut() {
            last.ends = Some(Ends::at(self.seq));
        }
        let mut done = 0;
        while done < batch.len() {
            done += self.applier.apply(&batch[done..]).unwrap().events;
        }
    }

    /// What this node has written comes back.
    fn echo(&mut self) {
        let ours = self.publish();
        self.back(ours);
    }

    fn publish(&mut self) -> Vec<Event> {
        self.log.read(100).unwrap().changes.into_iter().map(|change| change.event).collect()
    }

    fn back(&mut self, ours: Vec<Event>) {
        let origin = self.log.origin().unwrap();
        for event in ours {
            self.seq += 1;
            let (seq, payload, origin) = (self.seq, event.encode(), Some((origin, event.id)));
            let ends = Some(Ends::at(seq));
            let ours = [Incoming { stream: 0, seq, origin, time_ms: 7, payload, ends }];
            assert_eq!(self.applier.apply(&ours).unwrap().events, 1);
        }
    }

    fn orphans(&self) -> Vec<(String, u64, u64)> {
        let all = conflicts::list(&self.scratch.path).unwrap();
        let told = |conflict: &Conflict| {
            let row = Event::decode(&conflict.payload).unwrap().row;
            let of = |name: &str| match row.iter().find(|(known, _)| &**known == name) {
                Some((_, Value::Integer(value))) => value.to_string(),
                other => format!("{other:?}"),
            };
            (format!("{} {}", conflict.table, of("id")), conflict.lost_by, conflict.won_by)
        };
        all.iter().filter(|conflict| conflict.kind == Kind::Orphan).map(told).collect()
    }

    fn logged(&self) -> String {
        self.scratch.value("SELECT coalesce(group_concat(k1), '') FROM __harmonylite__log WHERE t <> 0")
    }
}

fn child_of(parent: i64) -> [(&'static str, Value); 2] {
    [("p", Value::Integer(parent)), ("q", Value::Null)]
}

fn text(value: &str) -> Value {
    Value::Text(value.as_bytes().to_vec())
}

#[test]
fn a_row_of_ours_whose_parent_another_node_has_deleted() {
    let mut node = node("orphan-child");
    node.scratch.app.execute_batch("INSERT INTO c VALUES(5, 1, NULL), (6, 2, NULL)").unwrap();
    node.others(&[("c", 1, None), ("p", 1, None)]);
    assert_eq!(node.orphans(), [("c 5".to_owned(), 1, 2)]);
}

#[test]
fn a_row_of_another_node_whose_parent_we_have_deleted() {
    let mut node = node("orphan-parent");
    node.scratch.app.execute_batch("DELETE FROM c; DELETE FROM p WHERE id = 1").unwrap();
    node.others(&[("c", 5, Some(&child_of(1))), ("c", 6, Some(&child_of(2))), ("c", 7, Some(&child_of(77)))]);
    // What refers to a row that never was is nobody's conflict.
    assert_eq!(node.orphans(), [("c 5".to_owned(), 2, 1)]);
}

#[test]
fn a_parent_that_is_referred_to_by_a_unique_value() {
    let mut node = node("orphan-unique");
    node.scratch.app.execute_batch("INSERT INTO c VALUES(5, NULL, 'one'), (6, NULL, 'two')").unwrap();
    node.others(&[("p", 1, None)]);
    assert_eq!(node.orphans(), [("c 5".to_owned(), 1, 2)]);
}

#[test]
fn who_has_written_neither_and_what_is_agreed_on_tell_nothing() {
    let mut node = node("orphan-third");
    node.others(&[("p", 1, None), ("c", 5, Some(&child_of(1)))]);
    assert!(node.orphans().is_empty(), "another node keeps it");
    node.scratch.app.execute_batch("INSERT INTO c VALUES(9, 2, NULL)").unwrap();
    node.log.settle_up_to(i64::MAX).unwrap();
    node.others(&[("p", 2, None)]);
    assert!(node.orphans().is_empty(), "our write came first");
}

/// The deletion and the echo of our row are applied in one transaction.
fn with_an_echo(name: &str, echo_first: bool) -> Node {
    let mut node = node(name);
    node.scratch.app.execute_batch("INSERT INTO c VALUES(5, 1, NULL)").unwrap();
    let batch = node.log.read(10).unwrap();
    let ours = &batch.changes[0].event;
    let gone = Event {
        node: 2,
        id: 0,
        kind: event::Kind::Delete,
        table: "p".into(),
        row: vec![("id".into(), Value::Integer(1))],
        schema_hash: None,
    };
    let mut both = [
        ((Origin { node: 2, incarnation: 9 }, 1), gone.encode()),
        ((node.log.origin().unwrap(), ours.id), ours.encode()),
    ];
    if echo_first {
        both.reverse();
    }
    let of = |(seq, (origin, payload))| Incoming {
        stream: 0,
        seq,
        origin: Some(origin),
        time_ms: 7,
        payload,
        ends: (seq == 2).then(|| Ends::at(2)),
    };
    let both: Vec<Incoming> = (1..).zip(both).map(of).collect();
    assert_eq!(node.applier.apply(&both).unwrap().events, 2);
    node
}

#[test]
fn an_echo_that_comes_with_the_deletion() {
    let node = with_an_echo("orphan-echo", false);
    assert_eq!((node.logged().as_str(), node.orphans()), ("''", vec![("c 5".to_owned(), 1, 2)]));
}

#[test]
fn an_echo_that_comes_before_the_deletion() {
    let node = with_an_echo("orphan-echo-first", true);
    assert_eq!((node.logged().as_str(), node.orphans()), ("''", vec![]), "the other node keeps it");
}

/// Two nodes have deleted what a third one refers to: the one whose deletion comes first keeps the orphan.
#[test]
fn a_parent_that_another_node_has_deleted_before_our_deletion_comes() {
    let mut node = node("orphan-two-deletions");
    node.scratch.app.execute_batch("DELETE FROM c; DELETE FROM p WHERE id = 1").unwrap();
    node.others(&[("c", 5, Some(&child_of(1)))]);
    assert_eq!(node.orphans(), [("c 5".to_owned(), 2, 1)]);
    node.others(&[("p", 1, None)]);
    node.echo();
    assert!(node.orphans().is_empty());
}

#[test]
fn a_parent_that_is_there_again_at_the_end_of_the_set() {
    let mut node = node("orphan-again");
    node.scratch.app.execute_batch("INSERT INTO c VALUES(5, 1, NULL)").unwrap();
    node.others(&[("p", 1, None), ("p", 1, Some(&[("u", Value::Null)]))]);
    assert!(node.orphans().is_empty());
}

#[test]
fn settled_as_the_foreign_key_says_down_to_grandchildren() {
    let mut node = node("orphan-settle");
    node.applier.settle_orphans();
    node.scratch
        .app
        .execute_batch("INSERT INTO c VALUES(5, 1, NULL), (6, 2, 'one'); INSERT INTO g VALUES(8, 5), (9, 6)")
        .unwrap();
    node.log.read(100).unwrap();
    node.others(&[("c", 1, None), ("p", 1, None)]);
    let mut found = node.orphans();
    found.sort();
    assert_eq!(found, [("c 5".to_owned(), 1, 2), ("c 6".to_owned(), 1, 2), ("g 8".to_owned(), 1, 1)]);
    assert_eq!(node.scratch.value("SELECT group_concat(id || coalesce(q, '-')) FROM c"), "'6-'");
    assert_eq!(node.scratch.value("SELECT group_concat(id) FROM g"), "'9'");
    assert_eq!(node.scratch.value("SELECT count(*) FROM pragma_foreign_key_check"), "0");
    assert!(
        ["5", "6", "8"].iter().all(|key| node.logged().contains(key)),
        "others get it: {}",
        node.logged()
    );
}

/// The parent is gone on every node because our row has its UNIQUE value: whatever refers to it has no parent any more.
#[test]
fn what_refers_to_a_row_that_lost_a_unique_value() {
    let mut node = node("orphan-displaced");
    node.others(&[
        ("p", 3, Some(&[("u", text("three"))])),
        ("c", 7, Some(&child_of(3))),
        ("c", 8, Some(&child_of(2))),
    ]);
    node.scratch.app.execute_batch("INSERT INTO p VALUES(5, 'x')").unwrap();
    node.others(&[("p", 3, Some(&[("u", text("x"))])), ("c", 9, Some(&child_of(3)))]);
    let mut found = node.orphans();
    found.sort();
    assert_eq!(found, [("c 7".to_owned(), 2, 1), ("c 9".to_owned(), 2, 1)]);
    assert_eq!(node.scratch.value("SELECT group_concat(id) FROM p"), "'1,2,5'");
}

/// Another node's row displaces the parent of a row of ours that is on its way.
#[test]
fn a_row_of_ours_whose_parent_is_displaced() {
    let mut node = node("orphan-third-displaces");
    node.scratch.app.execute_batch("INSERT INTO c VALUES(5, 1, NULL), (6, 2, NULL)").unwrap();
    node.others(&[("p", 4, Some(&[("u", text("one"))]))]);
    assert_eq!(node.orphans(), [("c 5".to_owned(), 1, 2)]);
}

/// A child of a row that another node had read before we deleted it the first time: it was written as an orphan.
#[test]
fn a_parent_that_was_gone_in_the_stream_before_we_wrote_and_deleted_it_again() {
    for again in ["INSERT INTO p VALUES(1, 'new')", "UPDATE p SET id = 1 WHERE id = 2"] {
        let mut node = node("orphan-gone-before");
        node.scratch.app.execute_batch("DELETE FROM c; DELETE FROM p WHERE id = 1").unwrap();
        node.echo();
        node.scratch.app.execute_batch(&format!("{again}; DELETE FROM p WHERE id = 1")).unwrap();
        node.others(&[("c", 5, Some(&child_of(1)))]);
        node.echo();
        assert!(node.orphans().is_empty(), "{again}: the other node keeps it");
    }
}

/// The same where another node's row has taken the UNIQUE value of the parent.
#[test]
fn a_parent_that_was_displaced_in_the_stream_before_we_wrote_and_deleted_it_again() {
    let mut node = node("orphan-displaced-before");
    node.scratch.app.execute_batch("DELETE FROM c").unwrap();
    node.echo();
    node.others(&[("p", 4, Some(&[("u", text("one"))]))]);
    node.scratch.app.execute_batch("INSERT INTO p VALUES(1, 'new'); DELETE FROM p WHERE id = 1").unwrap();
    node.others(&[("c", 5, Some(&child_of(1)))]);
    node.echo();
    assert!(node.orphans().is_empty(), "the other node keeps it");
}

/// The log has an insertion of the row, and yet it was there: our deletion makes the orphan.
#[test]
fn a_parent_that_was_replaced_and_deleted() {
    for before in [None, Some("x")] {
        let mut node = node("orphan-replaced");
        if let Some(value) = before {
            // It was gone, and another node has written it again.
            node.scratch.app.execute_batch("DELETE FROM p WHERE id = 2").unwrap();
            node.echo();
            node.others(&[("p", 2, Some(&[("u", text(value))]))]);
        }
        let again = "INSERT OR REPLACE INTO p VALUES(2, 'new'); DELETE FROM p WHERE id = 2";
        node.scratch.app.execute_batch(again).unwrap();
        node.others(&[("c", 5, Some(&child_of(2)))]);
        node.echo();
        assert_eq!(node.orphans(), [("c 5".to_owned(), 2, 1)], "{before:?}");
    }
}

/// Our row comes back as an insertion before we delete it: it was there, and our deletion makes the orphan.
#[test]
fn a_parent_that_was_written_again_in_the_stream_before_our_deletion_comes() {
    let mut node = node("orphan-there-again");
    node.scratch.app.execute_batch("DELETE FROM c; DELETE FROM p WHERE id = 1").unwrap();
    node.echo();
    node.scratch.app.execute_batch("INSERT INTO p VALUES(1, 'new')").unwrap();
    node.echo();
    node.scratch.app.execute_batch("DELETE FROM p WHERE id = 1").unwrap();
    node.others(&[("c", 5, Some(&child_of(1)))]);
    node.echo();
    assert_eq!(node.orphans(), [("c 5".to_owned(), 2, 1)]);
}

/// Our rewrite of a row is on its way when an event of ours removes in the stream what it refers to: nobody else keeps it.
#[test]
fn a_row_that_we_write_again_while_we_remove_what_it_refers_to() {
    for deletes in [false, true] {
        let mut node = node("orphan-written-again");
        node.scratch.app.execute_batch("INSERT INTO c VALUES(5, 2, NULL)").unwrap();
        let child = node.publish();
        let again = "UPDATE c SET q = NULL WHERE id = 5";
        node.scratch.app.execute_batch(&format!("UPDATE p SET u = 'x' WHERE id = 1; {again}")).unwrap();
        node.back(child);
        node.others(&[("p", 2, Some(&[("u", text("x"))]))]);
        if deletes {
            // Then it is not our row with the UNIQUE value that removes the parent, but our deletion.
            node.scratch.app.execute_batch(&format!("UPDATE p SET u = 'y' WHERE id = 1; {again}")).unwrap();
        }
        node.echo();
        assert_eq!(node.orphans(), [("c 5".to_owned(), 2, 1)], "deletes: {deletes}");
    }
}

/// An event of ours that comes back removes a row that was written before it by another node, and our rewrite of its child is on its way.
#[test]
fn a_row_that_we_write_again_while_an_event_of_ours_displaces_what_it_refers_to() {
    let mut node = node("orphan-written-again-displaced");
    node.scratch.app.execute_batch("INSERT INTO c VALUES(5, 2, NULL)").unwrap();
    let child = node.publish();
    node.scratch.app.execute_batch("UPDATE p SET u = 'x' WHERE id = 1").unwrap();
    let displacing = node.publish();
    let again = "UPDATE p SET u = 'y' WHERE id = 1; UPDATE c SET q = NULL WHERE id = 5";
    node.scratch.app.execute_batch(again).unwrap();
    node.back(child);
    node.others(&[("p", 2, Some(&[("u", text("x"))]))]);
    assert!(node.orphans().is_empty());
    node.back(displacing);
    node.echo();
    assert_eq!(node.orphans(), [("c 5".to_owned(), 2, 1)]);
}

#[test]
fn what_refers_to_several_rows_that_lost_unique_values() {
    let mut node = node("orphan-several-displaced");
    node.others(&[
        ("p", 3, Some(&[("u", text("three"))])),
        ("p", 4, Some(&[("u", text("four"))])),
        ("c", 7, Some(&child_of(3))),
        ("c", 8, Some(&child_of(4))),
        ("c", 9, Some(&child_of(2))),
    ]);
    node.scratch.app.execute_batch("INSERT INTO p VALUES(5, 'x'), (6, 'y')").unwrap();
    node.others(&[("p", 3, Some(&[("u", text("x"))])), ("p", 4, Some(&[("u", text("y"))]))]);
    let mut found = node.orphans();
    found.sort();
    assert_eq!(found, [("c 7".to_owned(), 2, 1), ("c 8".to_owned(), 2, 1)]);
    node.echo();
    assert_eq!(node.orphans().len(), 2, "our deletions make them orphans");
}

/// One query compares as SQLite does, whatever the types and the number of the columns.
#[test]
fn rows_that_refer_to_lists_of_values() {
    let sql = "PRAGMA foreign_keys = OFF; CREATE TABLE p(a INTEGER, b, PRIMARY KEY(a, b)); INSERT INTO p VALUES(7, 2);
         CREATE TABLE c(id INTEGER PRIMARY KEY, a TEXT, b REAL, FOREIGN KEY(a, b) REFERENCES p(a, b));
         INSERT INTO c VALUES(1, '1', 2), (2, '1', 3), (3, NULL, 2), (4, '7', 2), (5, '8', 2)";
    let mut node = node_with("orphan-lists", sql);
    node.applier.tidy().unwrap();
    let session = &node.applier.session;
    let (key, child) = (&session.orphans.keys[0], &session.schema.tables["c"]);
    let values = [[1, 2], [1, 9], [7, 2], [8, 2]].map(|of| of.map(Value::Integer));
    let all: Vec<&[Value]> = values.iter().map(|of| &of[..]).collect();
    let found = key.orphans_of(&session.connection, child, &all).unwrap();
    let keys: Vec<Vec<Value>> = found.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [[Value::Integer(1)], [Value::Integer(5)]]);
}
