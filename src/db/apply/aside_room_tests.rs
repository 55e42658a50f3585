//! The room that is taken by what is set aside, and what is kept of an event to save some.

use super::*;

/// How large the parts of an event are, and how many of them come.
struct Sizes {
    events: u64,
    payload: usize,
    table: usize,
    key: usize,
    why: usize,
    /// How many columns are missing, and the length of a name.
    missing: (usize, usize),
}

/// Whatever of an event is large, and however little of it travels: the file grows by no more than the README says.
#[test]
fn what_is_set_aside_takes_bounded_room_in_the_file() {
    const BASE: Sizes = Sizes { events: 4_000, payload: 100, table: 5, key: 20, why: 40, missing: (0, 0) };
    let all = [
        Sizes { events: 900, payload: 50_000, ..BASE },
        Sizes { events: 40_000, payload: 1_100, ..BASE },
        Sizes { events: 20_000, payload: 2_100, ..BASE },
        Sizes { events: 60, missing: (1_990, 995), ..BASE },
        Sizes { events: 4, key: 20_000_000, ..BASE },
        Sizes { events: 20_000, table: 1_000, key: 64, ..BASE },
        Sizes { events: 2_000, why: 20_000, ..BASE },
    ];
    for (number, sizes) in all.iter().enumerate() {
        let connection = Connection::open_in_memory().unwrap();
        state::create(&connection).unwrap();
        create(&connection).unwrap();
        let mut aside = Aside::default();
        for seq in 1..=sizes.events {
            let cause = Cause {
                table: "t".repeat(sizes.table),
                key: vec![1; sizes.key],
                missing: vec!["c".repeat(sizes.missing.1); sizes.missing.0],
                refused: false,
                why: "w".repeat(sizes.why),
            };
            aside.put(&connection, ("s-1", seq, 0), &cause, &vec![0; sizes.payload]).unwrap();
        }
        let pragma = |name: &str| -> i64 {
            connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).unwrap()
        };
        let file = pragma("page_count") * pragma("page_size");
        assert!(file <= 3 * limits::ASIDE_BYTES, "{number}: {file} bytes in the file");
        let mut fresh = Aside::default();
        fresh.load(&connection).unwrap();
        assert!(fresh.waiting.bytes <= limits::ASIDE_BYTES, "{number}: {} bytes", fresh.waiting.bytes);
        assert_eq!((fresh.waiting.bytes, fresh.waiting.events), (aside.waiting.bytes, aside.waiting.events));
    }
}

/// A value of many megabytes is a few kilobytes on its way.
#[test]
fn long_keys_are_kept_as_digests_and_found_by_them() {
    let long = "a".repeat(1_000_000);
    let mut peer = Peer::new("long", "CREATE TABLE t(k TEXT PRIMARY KEY, v NOT NULL)");
    peer.take(&[("k", text(&long)), ("v", Value::Null)]);
    peer.take(&[("k", text(&format!("{long}b"))), ("v", Value::Null)]);
    assert_eq!(peer.states(), [State::Refused; 2]);
    assert!(peer.held().iter().all(|held| held.key.len() == KEY_BYTES));
    peer.take(&[("k", text(&long)), ("v", ONE)]);
    assert_eq!(peer.held()[0].seq, 2, "the later event of the row has settled the first");
    // A row that waits for a column holds back its later events, and those alone.
    peer.take(&[("k", text(&long)), ("v", TWO), ("w", ONE)]);
    peer.take(&[("k", text(&long)), ("v", text("last"))]);
    peer.take(&[("k", text("short")), ("v", ONE)]);
    assert_eq!(peer.scratch.value("SELECT group_concat(v) FROM t"), "'1,1'");
    peer.write("ALTER TABLE t ADD COLUMN w");
    peer.look();
    assert_eq!(peer.scratch.value("SELECT group_concat(v) FROM t WHERE length(k) > 9"), "'last'");
}

#[test]
fn a_long_key_of_an_earlier_version_is_found() {
    let long = text(&"a".repeat(1_000));
    let mut peer = Peer::new("long-before", "CREATE TABLE t(k TEXT PRIMARY KEY, v NOT NULL)");
    peer.take(&[("k", long.clone()), ("v", Value::Null)]);
    let number = peer.scratch.value("SELECT id FROM __harmonylite__table WHERE name = 't'");
    let id: i64 = number.parse().unwrap();
    let binary = crate::model::value::Collation::Binary;
    let key = crate::model::value::row_key(id, [(&long, binary)]);
    peer.scratch.app.execute(&format!("UPDATE {TABLE} SET key = ?1"), [&key]).unwrap();
    crate::db::apply::ensure_state(&peer.scratch.path).unwrap();
    peer.applier = Applier::open(&peer.scratch.path, 7, &["s-1".to_owned()]).unwrap();
    peer.take(&[("k", long), ("v", ONE)]);
    assert!(peer.held().is_empty());
}

/// More columns are missing than are listed.
#[test]
fn every_new_column_of_a_row_that_the_application_wrote_is_written_later() {
    let names: Vec<String> = (0..limits::ASIDE_COLUMNS * 2).map(|n| format!("w{n}")).collect();
    let mut peer = Peer::new("wide", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
    let mut row = vec![("k", ONE), ("v", text("theirs"))];
    row.extend(names.iter().map(|name| (name.as_str(), ONE)));
    peer.take(&row);
    assert_eq!(peer.held()[0].missing.len(), limits::ASIDE_COLUMNS);
    peer.write("INSERT INTO t VALUES(1, 'ours')");
    peer.echo();
    for name in &names {
        peer.write(&format!("ALTER TABLE t ADD COLUMN {name}"));
    }
    peer.look();
    assert_eq!(peer.rows(), "'1ours'");
    assert_eq!(peer.scratch.value(&format!("SELECT {} FROM t", names.join(" + "))), names.len().to_string());
    assert!(peer.held().is_empty());
}

#[test]
fn what_is_known_of_an_event_later_counts_too() {
    let mut peer = Peer::new("amended", "CREATE TABLE other(k INTEGER PRIMARY KEY)");
    for _ in 0..3 {
        peer.take(&[("k", ONE), ("v", text("a")), ("a column", ONE), ("another column", ONE)]);
    }
    peer.write("CREATE TABLE t(k INTEGER PRIMARY KEY)");
    peer.log.follow_schema().unwrap();
    peer.look();
    assert_eq!(peer.held()[0].missing, ["v", "a column", "another column"]);
    let mut fresh = Aside::default();
    fresh.load(&peer.applier.session.connection).unwrap();
    let known = &peer.applier.session.aside;
    assert_eq!((fresh.waiting.bytes, fresh.waiting.events), (known.waiting.bytes, known.waiting.events));
    peer.write("DROP TABLE t; CREATE TABLE t(k INTEGER PRIMARY KEY, v, \"a column\", \"another column\")");
    peer.look();
    let known = &peer.applier.session.aside;
    assert_eq!((known.waiting.bytes, known.waiting.events), (0, 0));
}
