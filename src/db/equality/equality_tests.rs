//! Ranges of tables of every kind, single rows, and what messages speak of.

use super::*;
use crate::db::capture::ChangeLog;
use crate::db::scratch::Scratch;
use crate::model::event::Event;
use crate::model::payload::Codec;

const SEED: Seed = [3; 16];

/// Tables with every kind of key, with values that are hard to order.
const TABLES: &[(&str, &str)] = &[
    ("t(id INTEGER PRIMARY KEY, v)", "(-3, 'a'), (0, 1), (7, 1.5), (9223372036854775807, NULL)"),
    ("t(v)", "('a'), ('a'), (NULL), (x'00')"),
    ("t(k TEXT PRIMARY KEY, v)", "('a', 1), ('B', 2), ('', 3), (NULL, 4), (NULL, 5), ('z', 6)"),
    ("t(k TEXT COLLATE NOCASE PRIMARY KEY, v)", "('a', 1), ('B', 2), ('c', 3), (NULL, 4)"),
    ("t(k PRIMARY KEY, v)", "(1, 1), (1.5, 2), ('x', 3), (x'01', 4), (NULL, 5), ('', 6)"),
    (
        "t(a, b, v, PRIMARY KEY(a, b))",
        "(1, 1, 1), (1, 2, 2), (2, 1, 3), (NULL, 1, 4), (2, NULL, 5), (3, 'x', 6)",
    ),
    (
        "t(a TEXT, b, v, PRIMARY KEY(a COLLATE RTRIM, b)) WITHOUT ROWID",
        "('a', 1, 1), ('a', 2, 2), ('b ', 1, 3), ('c', 0, 4)",
    ),
    ("t(a, b, v, PRIMARY KEY(a DESC, b)) WITHOUT ROWID", "(1, 1, 1), (1, 2, 2), (2, 1, 3), (3, 9, 4)"),
];

fn examined(table: &str, rows: &str) -> (Scratch, Examiner, Span) {
    // Tests run side by side.
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let scratch = Scratch::new(&format!("equality-{number}"), &format!("CREATE TABLE {table}"));
    scratch.app.execute_batch(&format!("INSERT INTO t VALUES {rows}")).unwrap();
    let mut examiner = Examiner::open(&scratch.path).unwrap();
    let definition = examiner.tables().unwrap()[0].print;
    let span = Span { table: "t".into(), definition, seed: SEED, after: None, until: None };
    (scratch, examiner, span)
}

fn whole(examiner: &mut Examiner, span: &Span) -> Range {
    let range = examiner.range(span).unwrap();
    assert_eq!(range.stopped, None);
    range
}

fn wanted(span: &Span, keys: &[Key]) -> Wanted {
    Wanted { table: "t".into(), definition: span.definition, seed: SEED, keys: keys.to_vec() }
}

#[test]
fn ranges_that_follow_each_other_hold_each_row_once() {
    for (table, rows) in TABLES {
        let (_scratch, mut examiner, span) = examined(table, rows);
        let all: Vec<u16> = (0..BUCKETS).collect();
        let listed = examiner.list(&span, &all, 1 << 20).unwrap().rows;
        let range = whole(&mut examiner, &span);
        assert_eq!(range.rows, listed.len() as u64, "{table}");
        // With room for one row each transaction ends with the first row at which it can.
        let (mut slices, mut rest) = (vec![], span.clone());
        loop {
            let slice = examiner.list(&rest, &all, 0).unwrap();
            slices.extend(slice.rows);
            let Some(stopped) = slice.stopped else { break };
            rest.after = Some(stopped);
        }
        assert_eq!(slices, listed, "{table}");
        for bound in listed.iter().filter(|row| !row.key.contains(&Value::Null)) {
            let before = Span { until: Some(bound.key.clone()), ..span.clone() };
            let after = Span { after: Some(bound.key.clone()), ..span.clone() };
            let (before, after) = (whole(&mut examiner, &before), whole(&mut examiner, &after));
            assert_eq!(before.rows + after.rows, range.rows, "{table}: at {:?}", bound.key);
            let sum = |range: &Range| range.buckets.iter().fold(0, |sum: u128, of| sum.wrapping_add(of.1));
            assert_eq!(sum(&before).wrapping_add(sum(&after)), sum(&range), "{table}");
        }
    }
}

#[test]
fn one_value_of_another_class_makes_another_digest() {
    for (table, rows) in TABLES {
        let (scratch, mut examiner, span) = examined(table, rows);
        let before = whole(&mut examiner, &span);
        assert_eq!(whole(&mut examiner, &span), before);
        scratch.app.execute_batch("UPDATE t SET v = v || '' WHERE v = 1 OR v = 'a'").unwrap();
        let changed = whole(&mut examiner, &span);
        assert_eq!(changed.rows, before.rows);
        if *table != TABLES[1].0 {
            assert_ne!(changed.buckets, before.buckets, "{table}");
        }
        scratch.app.execute_batch("DELETE FROM t WHERE v IS NULL OR v = 3 OR v = '3'").unwrap();
        assert_ne!(whole(&mut examiner, &span).buckets, changed.buckets, "{table}");
    }
}

#[test]
fn the_order_of_rows_and_columns_does_not_count_and_the_seed_does() {
    let (_one, mut one, span) = examined("t(id INTEGER PRIMARY KEY, a TEXT, B)", "(1, 'x', 2), (2, 'y', 3)");
    let (_two, mut two, other) = examined("t(b, id INTEGER PRIMARY KEY, a TEXT)", "(3, 2, 'y'), (2, 1, 'x')");
    assert_eq!(span.definition, other.definition);
    let range = whole(&mut one, &span);
    assert_eq!(whole(&mut two, &span), range);
    assert_ne!(whole(&mut two, &Span { seed: [4; 16], ..span }).buckets, range.buckets);
}

#[test]
fn a_range_is_read_by_the_key_s_index() {
    for (table, rows) in TABLES {
        let (_scratch, mut examiner, span) = examined(table, rows);
        let key =
            examiner.list(&span, &(0..BUCKETS).collect::<Vec<_>>(), 1 << 20).unwrap().rows.pop().unwrap().key;
        if table.contains("DESC") {
            continue; // Two directions: SQLite sorts.
        }
        let of = examiner.table("t", span.definition).unwrap();
        for span in [span.clone(), Span { after: Some(key), ..span }] {
            for (sql, values) in super::ranges::statements(&of, &span) {
                let mut plan = examiner.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
                let lines = plan.query_map(rusqlite::params_from_iter(values), |row| row.get::<_, String>(3));
                let lines: Vec<String> = lines.unwrap().map(Result::unwrap).collect();
                assert!(!lines.join("\n").contains("TEMP B-TREE"), "{table}: {sql}: {lines:?}");
            }
        }
    }
}

#[test]
fn a_table_that_changed_is_not_read() {
    let (scratch, mut examiner, span) = examined(TABLES[0].0, TABLES[0].1);
    scratch.app.execute_batch("ALTER TABLE t ADD COLUMN w").unwrap();
    assert!(matches!(examiner.range(&span), Err(Error::SchemaChanged)));
    let definition = examiner.tables().unwrap()[0].print;
    assert_ne!(definition, span.definition);
    assert_eq!(whole(&mut examiner, &Span { definition, ..span.clone() }).rows, 4);
    let bad = Span { definition, after: Some(vec![]), ..span };
    assert!(matches!(examiner.range(&bad), Err(Error::Mismatch(_))));
}

#[test]
fn a_row_is_seen_with_its_log_entries_and_published_again_as_it_is() {
    let scratch = Scratch::new("sights", "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    let (mut log, _) = ChangeLog::open(&scratch.path, 1).unwrap();
    scratch.app.execute_batch("INSERT INTO t VALUES(1, 'a'), (2, 'b')").unwrap();
    log.settle_up_to(2).unwrap();
    scratch.app.execute_batch("UPDATE t SET v = 'c' WHERE id = 2").unwrap();
    let mut examiner = Examiner::open(&scratch.path).unwrap();
    let definition = examiner.tables().unwrap()[0].print;
    let keys: Vec<Key> = [1, 2, 3].map(|id| vec![Value::Integer(id)]).to_vec();
    let wanted = Wanted { table: "t".into(), definition, seed: SEED, keys };
    let seen = examiner.sights(&wanted).unwrap().rows;
    assert_eq!([0, 1, 2].map(|row| seen[row].sight.touched), [false, true, false]);
    assert_eq!([0, 1, 2].map(|row| seen[row].sight.row.is_some()), [true, true, false]);
    let expected = [seen[0].sight.row, seen[0].sight.row, None];
    let done = examiner.publish_again(&wanted, &expected).unwrap();
    assert_eq!(done, [Ok(()), Err("it was written meanwhile"), Ok(())]);
    log.read(100).unwrap();
    log.rewind();
    let changes = log.read(100).unwrap().changes;
    let gone: Vec<bool> = changes.iter().map(|change| change.event.is_tombstone()).collect();
    assert_eq!(gone, [false, false, true], "{changes:?}");
}

#[test]
fn keys_with_null_stand_for_all_their_rows_and_are_not_published_again() {
    let (scratch, mut examiner, span) = examined(TABLES[2].0, TABLES[2].1);
    let wanted = wanted(&span, &[vec![Value::Null]]);
    let row = |examiner: &mut Examiner| examiner.sights(&wanted).unwrap().rows[0].sight.row;
    let both = row(&mut examiner);
    scratch.app.execute_batch("DELETE FROM t WHERE v = 5").unwrap();
    assert!(both.is_some() && row(&mut examiner).is_some() && row(&mut examiner) != both);
    assert_eq!(examiner.publish_again(&wanted, &[both]).unwrap(), [Err("this node does not publish")]);
}

#[test]
fn messages_speak_of_rows_by_their_keys_and_by_what_is_unique() {
    let (_scratch, mut examiner, span) =
        examined("t(id INTEGER PRIMARY KEY, u TEXT UNIQUE COLLATE NOCASE)", "(1, 'a'), (2, 'b'), (3, NULL)");
    let keys: Vec<Key> = [1, 2, 3].map(|id| vec![Value::Integer(id)]).to_vec();
    let seen = examiner.sights(&wanted(&span, &keys)).unwrap().rows;
    let rows: Vec<(Key, Vec<u64>)> = keys.into_iter().zip(seen.into_iter().map(|seen| seen.unique)).collect();
    let mut packer = Codec::new(true).unwrap();
    let mut spoken = |id: i64, u: Option<&str>, table: &str| {
        let mut watch = examiner.watch("t", span.definition, &rows).unwrap();
        let mut row = vec![("id".into(), Value::Integer(id))];
        row.extend(u.map(|u| ("u".into(), Value::text(u))));
        let kind =
            if u.is_some() { crate::model::event::Kind::Insert } else { crate::model::event::Kind::Delete };
        let event = Event { node: 1, id: 1, kind, table: table.into(), row, schema_hash: None };
        watch.hear(&packer.pack(&event).unwrap());
        let alone = std::mem::replace(&mut watch.spoken_of, vec![false; 3]);
        watch.hear(&packer.pack_set([&event]).unwrap());
        assert_eq!(watch.spoken_of, alone);
        watch.hear(b"no event");
        alone
    };
    assert_eq!(spoken(1, Some("x"), "t"), [true, false, false]);
    assert_eq!(spoken(2, None, "T"), [false, true, false]);
    assert_eq!(spoken(9, Some("B"), "t"), [false, true, false], "the value is another row's");
    assert_eq!(spoken(9, None, "t"), [false; 3]);
    assert_eq!(spoken(1, Some("a"), "other"), [false; 3]);
}

#[test]
fn an_index_that_no_value_tells_makes_each_row_count() {
    let (scratch, mut examiner, _) = examined("t(id INTEGER PRIMARY KEY, u)", "(1, 'a')");
    scratch.app.execute_batch("CREATE UNIQUE INDEX i ON t(lower(u))").unwrap();
    let definition = examiner.tables().unwrap()[0].print;
    let mut watch = examiner.watch("t", definition, &[(vec![Value::Integer(1)], vec![])]).unwrap();
    let row = vec![("id".into(), Value::Integer(9)), ("u".into(), Value::text("b"))];
    let event = Event {
        node: 1,
        id: 1,
        kind: crate::model::event::Kind::Insert,
        table: "t".into(),
        row,
        schema_hash: None,
    };
    watch.hear(&Codec::new(false).unwrap().pack(&event).unwrap());
    assert_eq!(watch.spoken_of, [true]);
}
