//! Events that the database cannot use, or not yet: only their rows are concerned, whatever they are.

use super::*;
use crate::db::apply::{Applied, Applier, Ends, Incoming};
use crate::db::capture::ChangeLog;
use crate::db::restore::{Stamp, make_ready, make_snapshot};
use crate::db::scratch::Scratch;
use crate::model::event::{Event, Kind};
use crate::model::origin::Origin;
use crate::model::value::Value;

#[path = "aside_room_tests.rs"]
mod room;

const OTHER: Origin = Origin { node: 9, incarnation: 1 };

struct Peer {
    scratch: Scratch,
    applier: Applier,
    log: ChangeLog,
    seq: u64,
}

impl Peer {
    fn new(name: &str, sql: &str) -> Peer {
        let scratch = Scratch::new(&format!("aside-{name}"), sql);
        let log = ChangeLog::open(&scratch.path, 7).unwrap().0;
        let applier = Applier::open(&scratch.path, 7, &["s-1".to_owned()]).unwrap();
        Peer { scratch, applier, log, seq: 0 }
    }

    fn write(&self, sql: &str) {
        self.scratch.app.execute_batch(sql).unwrap();
    }

    fn apply(&mut self, origin: Origin, event: &Event) -> Applied {
        self.seq += 1;
        let incoming = Incoming {
            stream: 0,
            seq: self.seq,
            origin: Some((origin, event.id)),
            time_ms: 0,
            payload: event.encode(),
            ends: Some(Ends::at(self.seq)),
        };
        let applied = self.applier.apply(&[incoming]).unwrap();
        assert_eq!(applied.events, 1);
        applied
    }

    /// An event of another node.
    fn take(&mut self, row: &[(&str, Value)]) {
        let id = i64::try_from(self.seq).unwrap() + 1;
        self.apply(OTHER, &image("t", id, row));
    }

    /// What a follower does when nothing comes.
    fn look(&mut self) {
        self.applier.look().unwrap();
        while self.applier.has_more() {
            self.applier.apply(&[]).unwrap();
        }
    }

    /// Our own change comes back.
    fn echo(&mut self) -> Applied {
        let origin = self.log.origin().unwrap();
        let event = self.log.read(9).unwrap().changes.pop().unwrap().event;
        self.apply(origin, &event)
    }

    fn held(&self) -> Vec<Held> {
        list(&self.scratch.path).unwrap()
    }

    fn states(&self) -> Vec<State> {
        self.held().iter().map(|held| held.state).collect()
    }

    fn rows(&self) -> String {
        self.scratch
            .value("SELECT group_concat(k || coalesce(v, '-'), ' ') FROM (SELECT * FROM t ORDER BY k)")
    }
}

fn image(table: &str, id: i64, row: &[(&str, Value)]) -> Event {
    let row = row.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
    Event { node: 9, id, kind: Kind::Insert, table: table.into(), row, schema_hash: None }
}

fn text(text: &str) -> Value {
    Value::text(text)
}

const ONE: Value = Value::Integer(1);
const TWO: Value = Value::Integer(2);

/// Column names and values.
type Columns<'a> = &'a [(&'a str, Value)];

/// Each of these once ended the daemon, or stopped the table.
#[test]
fn a_row_that_sqlite_refuses_is_set_aside_alone() {
    let cases: [(&str, &str, Columns<'_>); 10] = [
        ("text for an integer key", "t(k INTEGER PRIMARY KEY, v)", &[("k", text("x")), ("v", ONE)]),
        (
            "a fraction for an integer key",
            "t(k INTEGER PRIMARY KEY, v)",
            &[("k", Value::Real(1.5)), ("v", ONE)],
        ),
        (
            "NULL for a key without rowid",
            "t(k PRIMARY KEY, v) WITHOUT ROWID",
            &[("k", Value::Null), ("v", ONE)],
        ),
        ("NULL where none may be", "t(k INTEGER PRIMARY KEY, v NOT NULL)", &[("k", TWO), ("v", Value::Null)]),
        (
            "NULL that the schema leaves out in silence",
            "t(k INTEGER PRIMARY KEY, v NOT NULL ON CONFLICT IGNORE)",
            &[("k", TWO), ("v", Value::Null)],
        ),
        ("a column less", "t(k INTEGER PRIMARY KEY, v NOT NULL)", &[("k", TWO)]),
        (
            "text in a strict table",
            "t(k INTEGER PRIMARY KEY, v INTEGER) STRICT",
            &[("k", TWO), ("v", text("x"))],
        ),
        ("no key", "t(k TEXT PRIMARY KEY, v)", &[("v", ONE)]),
        ("text for a rowid", "t(k, v)", &[("rowid", text("x")), ("k", TWO), ("v", ONE)]),
        (
            "a fraction that a function refuses",
            "t(k INTEGER PRIMARY KEY, v AS (json(w)) STORED, w)",
            &[("k", TWO), ("w", text("{"))],
        ),
    ];
    for (number, (name, table, row)) in cases.iter().enumerate() {
        let mut peer = Peer::new(&format!("refused-{number}"), &format!("CREATE TABLE {table}"));
        peer.take(row);
        let held = peer.held();
        assert_eq!(peer.states(), [State::Refused], "{name}");
        assert!(held[0].why.starts_with("table t: "), "{name}: {}", held[0].why);
        // The table goes on, in this session and in the next.
        for k in [5, 6] {
            let id = i64::try_from(peer.seq).unwrap() + 1;
            let mut row = vec![("k", Value::Integer(k))];
            if table.contains("k, v)") {
                row.push(("rowid", Value::Integer(k)));
            }
            let (column, value) = if table.contains("json") { ("w", text("1")) } else { ("v", ONE) };
            row.push((column, value));
            peer.apply(OTHER, &image("t", id, &row));
            peer.applier = Applier::open(&peer.scratch.path, 7, &["s-1".to_owned()]).unwrap();
        }
        assert_eq!(peer.rows(), "'51 61'", "{name}");
        assert_eq!(peer.held().len(), 1, "{name}");
    }
}

#[test]
fn only_the_rows_with_a_missing_column_wait_and_in_order() {
    let mut peer = Peer::new("column", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
    peer.take(&[("k", ONE), ("v", text("a")), ("w", text("x"))]);
    peer.take(&[("k", TWO), ("v", text("b"))]);
    peer.take(&[("k", ONE), ("v", text("c"))]);
    assert_eq!(peer.rows(), "'2b'");
    assert_eq!(peer.states(), [State::Waiting; 2]);
    assert_eq!(peer.held()[0].missing, ["w"]);
    peer.look();
    assert_eq!(peer.states(), [State::Waiting; 2], "nothing has changed");
    peer.write("ALTER TABLE t ADD COLUMN w");
    peer.look();
    assert_eq!(peer.rows(), "'1c 2b'");
    assert_eq!(peer.scratch.value("SELECT w FROM t WHERE k = 1"), "'x'", "the later event does not know it");
    assert!(peer.held().is_empty());
}

#[test]
fn events_of_a_table_that_is_not_here_wait_for_it() {
    let mut peer = Peer::new("table", "CREATE TABLE other(k INTEGER PRIMARY KEY)");
    peer.take(&[("k", ONE), ("v", text("a"))]);
    peer.take(&[("k", ONE), ("v", text("b"))]);
    assert_eq!(peer.states(), [State::Waiting; 2]);
    peer.write("CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
    // What comes before they are tried again waits after them.
    peer.take(&[("k", ONE), ("v", text("c"))]);
    peer.look();
    // All rows that capture finds in a new table are published: those of others must not be among them.
    assert_eq!(peer.states(), [State::Waiting; 3]);
    let capture = peer.log.follow_schema().unwrap().unwrap();
    assert_eq!(capture.new_tables, [("t".to_owned(), 0)]);
    peer.look();
    assert_eq!(peer.rows(), "'1c'");
    assert!(peer.held().is_empty());
    assert!(peer.log.read(9).unwrap().changes.is_empty());
}

#[test]
fn upper_and_lower_case_of_a_name_are_one_table() {
    let mut peer = Peer::new("case", "CREATE TABLE T(k INTEGER PRIMARY KEY, v)");
    peer.take(&[("k", ONE), ("v", text("a"))]);
    assert_eq!(peer.rows(), "'1a'");
}

#[test]
fn names_that_no_migration_can_bring_do_not_wait() {
    let mut peer =
        Peer::new("names", "CREATE TABLE t(k INTEGER PRIMARY KEY, v); CREATE VIEW W AS SELECT 1 AS k");
    for (id, table) in
        (1..).zip(["w", "sqlite_sequence", "SQLITE_x", "__harmonylite__log", "__HARMONYLITE__x"])
    {
        peer.apply(OTHER, &image(table, id, &[("k", ONE)]));
    }
    assert_eq!(peer.states(), [State::Refused; 5]);
}

#[test]
fn bytes_that_are_no_event_are_kept() {
    let mut peer = Peer::new("garbage", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
    let garbage = Incoming {
        stream: 0,
        seq: 1,
        origin: None,
        time_ms: 0,
        payload: b"garbage".to_vec(),
        ends: Some(Ends::at(1)),
    };
    peer.applier.apply(&[garbage]).unwrap();
    let held = peer.held().remove(0);
    assert_eq!(
        (held.table.as_str(), held.state, held.payload.as_slice()),
        ("", State::Refused, b"garbage".as_slice())
    );
    assert!(held.why.starts_with("not an event: "), "{}", held.why);
    // A duplicate of what is set aside is no second one, and a duplicate of what was folded is not set aside.
    peer.apply(OTHER, &image("t", 5, &[("k", ONE), ("v", text("a"))]));
    peer.apply(OTHER, &image("t", 4, &[("k", text("x"))]));
    assert_eq!(peer.held().len(), 1);
}

#[test]
fn a_later_event_of_the_row_settles_what_was_refused() {
    let mut peer = Peer::new("settled", "CREATE TABLE t(k TEXT PRIMARY KEY, v NOT NULL)");
    peer.take(&[("k", text("a")), ("v", Value::Null)]);
    peer.take(&[("k", text("b")), ("v", Value::Null)]);
    assert_eq!(peer.states(), [State::Refused; 2]);
    peer.take(&[("k", text("a")), ("v", ONE)]);
    let held = peer.held();
    assert_eq!((held.len(), held[0].seq), (1, 2));
}

#[test]
fn an_event_of_ours_is_settled_although_its_row_waits_and_only_the_new_column_is_written_later() {
    let mut peer = Peer::new("own", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
    peer.take(&[("k", ONE), ("v", text("theirs")), ("w", text("x"))]);
    peer.write("INSERT INTO t VALUES(1, 'ours')");
    assert_eq!(peer.echo().settled, 1);
    assert_eq!(peer.log.unsettled().unwrap(), (0, 0));
    assert_eq!(peer.states(), [State::Waiting]);
    peer.write("ALTER TABLE t ADD COLUMN w");
    peer.look();
    assert_eq!(peer.rows(), "'1ours'");
    assert_eq!(peer.scratch.value("SELECT w FROM t"), "'x'");
    assert!(peer.held().is_empty());
}

/// Only the new column is written, so no other one may be missed, and triggers that fail do not keep it out.
#[test]
fn a_new_column_is_written_into_a_row_with_columns_that_must_not_be_null() {
    let mut peer = Peer::new(
        "own-not-null",
        "CREATE TABLE t(k INTEGER PRIMARY KEY, v NOT NULL); CREATE TABLE audit(rowid, what); \
         CREATE TRIGGER a BEFORE UPDATE ON t BEGIN INSERT INTO audit(what) VALUES(abs(-9223372036854775807 - new.k)); END",
    );
    peer.take(&[("k", ONE), ("v", text("theirs")), ("w", text("x"))]);
    peer.write("INSERT INTO t VALUES(1, 'ours')");
    peer.echo();
    peer.write("ALTER TABLE t ADD COLUMN w NOT NULL DEFAULT ''");
    peer.look();
    assert_eq!(peer.rows(), "'1ours'");
    assert_eq!(peer.scratch.value("SELECT w FROM t"), "'x'");
    assert!(peer.held().is_empty());
}

#[test]
fn a_row_that_the_application_deleted_since_is_not_brought_back() {
    let mut peer =
        Peer::new("deleted", "CREATE TABLE t(k INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'old')");
    peer.take(&[("k", ONE), ("v", text("theirs")), ("w", text("x"))]);
    peer.write("DELETE FROM t");
    peer.echo();
    peer.write("ALTER TABLE t ADD COLUMN w");
    peer.look();
    assert_eq!(peer.rows(), "NULL");
    assert!(peer.held().is_empty());
}

#[test]
fn a_late_event_gives_in_to_a_row_that_may_be_later() {
    let mut peer = Peer::new("late", "CREATE TABLE t(k INTEGER PRIMARY KEY, v UNIQUE)");
    peer.take(&[("k", ONE), ("v", text("a")), ("w", text("x"))]);
    peer.take(&[("k", TWO), ("v", text("a"))]);
    assert_eq!(peer.rows(), "'2a'", "a table with UNIQUE columns goes on, too");
    peer.write("ALTER TABLE t ADD COLUMN w");
    peer.look();
    assert_eq!(peer.rows(), "'2a'");
    // Both are published: that one is gone, and what the other is.
    assert_eq!(peer.scratch.value("SELECT count(*) FROM __harmonylite__log WHERE t <> 0"), "2");
}

#[test]
fn what_was_refused_is_tried_again_when_a_person_asks() {
    let mut peer = Peer::new("again", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
    peer.write("CREATE UNIQUE INDEX broken ON t(v, abs(k / (v - 1)), json(v))");
    peer.take(&[("k", ONE), ("v", text("{"))]);
    assert_eq!(peer.states(), [State::Refused]);
    peer.look();
    assert_eq!(peer.states(), [State::Refused], "not by itself");
    assert_eq!(try_again(&peer.scratch.path, Which::One(1)).unwrap(), 1);
    peer.look();
    assert_eq!(peer.states(), [State::Refused], "it is refused again");
    peer.write("DROP INDEX broken");
    assert_eq!(try_again(&peer.scratch.path, Which::All).unwrap(), 1);
    peer.look();
    assert_eq!(peer.rows(), "'1{'");
    assert!(peer.held().is_empty());
    // The counts are right after that: a later event of a row still waits after one that waits.
    peer.take(&[("k", TWO), ("v", text("a")), ("w", ONE)]);
    peer.take(&[("k", TWO), ("v", text("b"))]);
    assert_eq!(peer.states(), [State::Waiting; 2]);
}

#[test]
fn what_a_person_drops_while_it_is_tried_again_is_not_applied() {
    let mut peer = Peer::new("dropped", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
    peer.take(&[("k", ONE), ("v", text("a")), ("w", ONE)]);
    peer.write("ALTER TABLE t ADD COLUMN w");
    peer.applier.look().unwrap();
    let again = peer.applier.decode_aside().unwrap();
    assert_eq!((again.len(), discard(&peer.scratch.path, Which::All).unwrap()), (1, 1));
    peer.applier
        .in_transaction(|applier| applier.try_again(Some(0), again, std::time::Instant::now()))
        .unwrap();
    assert_eq!(peer.rows(), "NULL");
}

#[test]
fn a_person_drops_what_is_set_aside() {
    let mut peer = Peer::new("drop", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
    for _ in 0..3 {
        peer.take(&[("k", text("x"))]);
    }
    assert_eq!(discard(&peer.scratch.path, Which::One(2)).unwrap(), 1);
    assert_eq!(discard(&peer.scratch.path, Which::One(2)).unwrap(), 0);
    assert_eq!(discard(&peer.scratch.path, Which::All).unwrap(), 2);
    assert_eq!(peer.applier.news().unwrap(), Some(SetAside::default()));
    // A number is not given again.
    peer.take(&[("k", text("x"))]);
    assert_eq!(peer.held()[0].id, 4);
}

#[test]
fn a_snapshot_carries_what_waits_on_its_maker() {
    let mut peer = Peer::new("carried", "CREATE TABLE other(k INTEGER PRIMARY KEY)");
    peer.take(&[("k", ONE), ("v", text("a"))]);
    peer.take(&[("v", ONE)]);
    let dir = crate::base::files::parent(&peer.scratch.path);
    let made = make_snapshot(&peer.scratch.path, &dir, &Stamp::default()).unwrap();
    make_ready(made.file.path(), &Default::default()).unwrap();
    assert_eq!(list(made.file.path()).unwrap().len(), 2);
    // Who starts from it migrates later.
    let path = made.file.path();
    rusqlite::Connection::open(path)
        .unwrap()
        .execute_batch("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
        .unwrap();
    let mut applier = Applier::open(path, 8, &["s-1".to_owned()]).unwrap();
    applier.apply(&[]).unwrap();
    while applier.has_more() {
        applier.apply(&[]).unwrap();
    }
    let sql = "SELECT group_concat(k || coalesce(v, '-'), ' ') FROM t";
    let rows: String =
        rusqlite::Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(rows, "1a");
    let left = list(path).unwrap();
    assert_eq!((left.len(), left[0].state), (1, State::Refused), "it has no key");
}

#[test]
fn events_that_an_earlier_version_had_parked_are_taken_over() {
    let scratch = Scratch::new("aside-parked", "");
    let event = image("t", 1, &[("k", ONE), ("v", text("a"))]);
    scratch
        .app
        .execute_batch(&format!(
            "CREATE TABLE {PARKED}(stream TEXT NOT NULL, seq INTEGER NOT NULL, tbl TEXT NOT NULL, payload BLOB NOT NULL, \
             PRIMARY KEY(stream, seq)) WITHOUT ROWID"
        ))
        .unwrap();
    let sql = format!("INSERT INTO {PARKED} VALUES('s-1', 3, 't', ?1)");
    scratch.app.execute(&sql, [event.encode()]).unwrap();
    crate::db::apply::ensure_state(&scratch.path).unwrap();
    crate::db::apply::ensure_state(&scratch.path).unwrap();
    let held = list(&scratch.path).unwrap();
    assert_eq!((held.len(), held[0].seq, held[0].state), (1, 3, State::Waiting));
}

#[test]
fn the_oldest_go_when_there_are_too_many_and_are_counted() {
    let scratch = Scratch::new("aside-bounds", "");
    let mut aside = Aside::default();
    let connection = open::open(&scratch.path).unwrap();
    aside.load(&connection).unwrap();
    let cause =
        |refused| Cause { table: "t".into(), key: vec![1], missing: vec![], refused, why: "so".into() };
    let third = vec![0; usize::try_from(limits::ASIDE_BYTES / 3).unwrap() - 100];
    for seq in 1..=5 {
        aside.put(&connection, ("s-1", seq, 0), &cause(true), &third).unwrap();
    }
    aside.put(&connection, ("s-1", 6, 0), &cause(false), b"waits").unwrap();
    let too_large = vec![0; third.len() * 4];
    aside.put(&connection, ("s-1", 7, 0), &cause(true), &too_large).unwrap();
    let kept: Vec<i64> = list(&scratch.path).unwrap().iter().map(|held| held.seq).collect();
    assert_eq!(kept, [3, 4, 5, 6]);
    let shown = summary(&connection).unwrap();
    assert_eq!((shown.lost_refused, shown.lost_waiting), (3, 0));
    let of = |refused, events| OfTable { table: "t".into(), refused, events };
    assert_eq!(shown.tables, [of(false, 1), of(true, 3)]);
    let mut fresh = Aside::default();
    fresh.load(&connection).unwrap();
    assert_eq!((fresh.refused.bytes, fresh.refused.events), (aside.refused.bytes, aside.refused.events));
}

#[test]
fn origins_that_somebody_invents_are_forgotten_again() {
    let mut peer = Peer::new("origins", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
    let own = peer.log.origin().unwrap();
    peer.write("INSERT INTO t VALUES(1, 'ours')");
    peer.echo();
    let count = limits::ORIGINS as u64 + 500;
    let batch: Vec<Incoming> = (1..=count)
        .map(|n| {
            let origin = Origin { node: n, incarnation: 77 };
            let event = image("t", 1, &[("k", TWO), ("v", Value::Integer(n.cast_signed()))]);
            Incoming {
                stream: 0,
                seq: 1 + n * 2_000,
                origin: Some((origin, 1)),
                time_ms: 0,
                payload: event.encode(),
                ends: Some(Ends::at(1 + n * 2_000)),
            }
        })
        .collect();
    let mut done = 0;
    while done < batch.len() {
        done += peer.applier.apply(&batch[done..]).unwrap().events;
    }
    let marks = |kind: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM {} WHERE kind = '{kind}'", state::TABLE);
        peer.scratch.app.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    assert!(marks("folded") <= limits::ORIGINS as i64 + 513, "{}", marks("folded"));
    assert_eq!(marks("heard"), marks("folded"));
    let connection = open::open(&peer.scratch.path).unwrap();
    assert_eq!(state::folded(&connection, "s-1", own).unwrap(), 1, "our own mark stays");
    let last = Origin { node: count, incarnation: 77 };
    assert_eq!(state::folded(&connection, "s-1", last).unwrap(), 1);
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    fn value(&mut self) -> Value {
        match self.below(10) {
            0 => Value::Null,
            1..4 => Value::Integer(i64::try_from(self.below(4)).unwrap()),
            4 => Value::Integer(i64::MIN),
            5 => Value::Real(1.5),
            6 => Value::text(self.of(&["a", "A", "1", "a\0b", ""])),
            7 => Value::Text(vec![0xff, 0xfe]),
            8 => Value::Blob(vec![1]),
            _ => Value::Integer(i64::MAX),
        }
    }

    /// A table `t` with columns `k`, `l`, `v`, `w`, as SQLite takes it.
    fn schema(&mut self) -> String {
        const TYPES: &[&str] = &["", "INTEGER", "TEXT", "REAL", "BLOB"];
        let strict = self.below(4) == 0;
        let types: &[&str] = if strict { &["INTEGER", "TEXT", "REAL", "BLOB", "ANY"] } else { TYPES };
        let column = |name: &str, random: &mut Random| {
            let kind = random.of(types);
            let rest = random.of(&[
                "",
                "",
                "NOT NULL",
                "NOT NULL DEFAULT 7",
                "UNIQUE",
                "COLLATE NOCASE",
                "CHECK(false)",
            ]);
            format!("{name} {kind} {rest}")
        };
        let columns = ["k", "l", "v", "w"].map(|name| column(name, self)).join(", ");
        let key = self.of(&["", "", ", PRIMARY KEY(k)", ", PRIMARY KEY(l, k)", ", PRIMARY KEY(k)"]);
        let generated = self.of(&["", ", g AS (json(v))", ", g AS (abs(w)) STORED"]);
        let generated = if strict && !generated.is_empty() {
            generated.replacen(" AS", " ANY AS", 1)
        } else {
            generated.to_owned()
        };
        let mut options = vec![];
        if strict {
            options.push("STRICT");
        }
        if !key.is_empty() && self.below(3) == 0 {
            options.push("WITHOUT ROWID");
        }
        let index = self.of(&["", "; CREATE UNIQUE INDEX i ON t(json(w))", "; CREATE INDEX i ON t(abs(v))"]);
        format!("CREATE TABLE t({columns}{generated}{key}) {}{index}", options.join(", "))
    }
}

/// Random tables, random events: none ends the session, and a row of another table always arrives. Whatever was not applied is
/// set aside, or was overtaken.
#[test]
fn no_event_stops_a_random_table() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("HARMONYLITE_SEED").unwrap_or_else(crate::base::random::random_u64);
    for seed in (0..number("HARMONYLITE_TABLES").unwrap_or(60)).map(|n| first.wrapping_add(n)) {
        let mut random = Random(seed);
        let schema = random.schema();
        println!("HARMONYLITE_SEED={seed}: {schema}");
        let mut peer = Peer::new("random", &format!("{schema}; CREATE TABLE fine(k INTEGER PRIMARY KEY, v)"));
        for id in 1..40 {
            let mut row = vec![];
            for name in ["rowid", "k", "l", "v", "w", "x"] {
                if random.below(if name == "x" || name == "rowid" { 8 } else { 5 }) > 0 {
                    row.push((name, random.value()));
                }
            }
            if random.below(3) > 0 {
                row.retain(|(name, _)| *name != "x");
            }
            let mut event = image(random.of(&["t", "t", "t", "T", "gone"]), id * 2, &row);
            if random.below(4) == 0 {
                event.kind = Kind::Delete;
            }
            peer.apply(OTHER, &event);
            let fine = image("fine", id * 2 + 1, &[("k", Value::Integer(id)), ("v", ONE)]);
            assert_eq!(peer.apply(OTHER, &fine).rows, 1);
        }
        peer.write("CREATE TABLE gone(k, l, v, w, x); DROP TABLE t; CREATE TABLE t(k, l, v, w, x)");
        peer.log.follow_schema().unwrap();
        peer.look();
        let waits = peer.held().iter().filter(|held| held.state != State::Refused).count();
        assert_eq!(waits, 0, "both tables have all columns now");
        assert_eq!(peer.scratch.value("SELECT count(*) FROM fine"), "39");
        assert_eq!(
            peer.scratch.value("SELECT group_concat(integrity_check) FROM pragma_integrity_check"),
            "'ok'"
        );
    }
}
