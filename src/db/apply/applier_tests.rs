//! Events applied to real databases: facts, plans carried out, positions, rollback.

use super::*;
use crate::db::apply::facts::Gathered;
use crate::db::capture::ChangeLog;
use crate::db::scratch::Scratch;
use crate::db::state::Why as WhyAnew;
use crate::model::epoch::Epoch;
use crate::model::event::Kind;

const OTHER: Origin = Origin { node: 9, incarnation: 1 };
const SCHEMA: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, u UNIQUE, v)";

/// A node with capture and an applier for two streams.
struct Peer {
    scratch: Scratch,
    applier: Applier,
    log: ChangeLog,
}

impl Peer {
    fn new(name: &str, sql: &str) -> Peer {
        let scratch = Scratch::new(name, sql);
        let log = ChangeLog::open(&scratch.path, 7).unwrap().0;
        let applier = open(&scratch);
        Peer { scratch, applier, log }
    }

    fn write(&self, sql: &str) {
        self.scratch.app.execute_batch(sql).unwrap();
    }

    /// Applies all of them, in more than one transaction if this machine is slow.
    fn apply(&mut self, batch: &[Incoming]) -> Applied {
        let mut all = self.applier.apply(batch).unwrap();
        while all.events < batch.len() {
            let more = self.applier.apply(&batch[all.events..]).unwrap();
            all.events += more.events;
            all.changes += more.changes;
            all.rows += more.rows;
            all.settled += more.settled;
            all.lost += more.lost;
            all.touched += more.touched;
            all.noticed |= more.noticed;
            all.new_incarnation |= more.new_incarnation;
        }
        all
    }

    fn gather(&mut self, event: &Event, source: Source) -> Gathered {
        let mut gathered = None;
        self.applier
            .in_transaction(|applier| {
                let table = applier.session.schema.tables["t"].clone();
                let subject = Subject::new(&table, event, source).unwrap();
                gathered = gather(&applier.session, &subject, Look::Indexes).ok();
                Ok(())
            })
            .unwrap();
        gathered.unwrap()
    }

    fn rows(&self) -> String {
        self.scratch.value("SELECT group_concat(k || u || v, ' ') FROM (SELECT * FROM t ORDER BY k)")
    }
}

fn open(scratch: &Scratch) -> Applier {
    Applier::open(&scratch.path, 7, &["s-1".to_owned(), "s-2".to_owned()]).unwrap()
}

fn image(id: i64, k: i64, u: &str, v: &str) -> Event {
    let row =
        vec![("k".into(), Value::Integer(k)), ("u".into(), Value::text(u)), ("v".into(), Value::text(v))];
    Event { node: 9, id, kind: Kind::Insert, table: "t".into(), row, schema_hash: None }
}

fn tombstone(id: i64, k: i64) -> Event {
    let row = vec![("k".into(), Value::Integer(k))];
    Event { kind: Kind::Delete, row, ..image(id, k, "", "") }
}

fn incoming(seq: u64, event: &Event) -> Incoming {
    Incoming {
        stream: 0,
        seq,
        origin: Some((OTHER, event.id)),
        time_ms: 0,
        payload: event.encode(),
        ends: Some(Ends::at(seq)),
    }
}

#[test]
fn images_and_tombstones_of_others_are_written_and_the_position_moves() {
    let mut peer = Peer::new("images", SCHEMA);
    let batch = [
        incoming(5, &image(1, 1, "a", "x")),
        incoming(6, &image(2, 2, "b", "x")),
        incoming(9, &tombstone(3, 1)),
    ];
    let applied = peer.apply(&batch);
    assert_eq!((applied.events, applied.rows, applied.touched), (3, 3, 0));
    assert_eq!(peer.rows(), "'2bx'");
    assert_eq!(peer.applier.position(0).unwrap().unwrap().seq, 9);
    assert_eq!(peer.applier.position(1).unwrap(), None);
    assert_eq!(peer.scratch.value("SELECT count(*) FROM __harmonylite__log"), "0");
}

#[test]
fn two_streams_have_two_positions_and_marks_of_their_own() {
    let mut peer = Peer::new("streams", SCHEMA);
    let second = Incoming { stream: 1, ..incoming(3, &image(5, 2, "b", "y")) };
    peer.apply(&[incoming(7, &image(5, 1, "a", "x")), second]);
    assert_eq!(
        peer.applier.positions().unwrap(),
        SeqMap::from([("s-1".to_owned(), 7), ("s-2".to_owned(), 3)])
    );
    assert_eq!(peer.rows(), "'1ax 2by'");
}

#[test]
fn a_duplicate_is_left_out_even_by_another_session() {
    let mut peer = Peer::new("duplicate", SCHEMA);
    peer.apply(&[incoming(1, &image(5, 1, "a", "x"))]);
    peer.applier = open(&peer.scratch);
    let applied = peer.apply(&[incoming(2, &image(5, 1, "a", "y")), incoming(3, &image(4, 1, "a", "z"))]);
    assert_eq!((applied.events, applied.rows), (2, 0));
    assert_eq!(peer.rows(), "'1ax'");
}

#[test]
fn what_is_counted_in_a_stream_is_not_counted_on_in_another_one() {
    let mut peer = Peer::new("anew", SCHEMA);
    peer.write("INSERT INTO t VALUES(9, 'mine', 'x')");
    peer.apply(&[Incoming { time_ms: 80, ..incoming(8, &image(5, 1, "a", "x")) }]);
    peer.apply(&[Incoming { time_ms: 90, ..incoming(9, &image(6, 2, "b", "x")) }]);
    let first = Position { seq: 9, created: "first".to_owned() };
    peer.applier.set_position(0, &first).unwrap();
    peer.applier.session.set_nameless(0, 12).unwrap();
    let (name, generation) = (peer.log.origin().unwrap(), peer.applier.generation().unwrap());
    // The same stream has lost its tail: what came before stays known.
    let cut = Position { seq: 8, ..first };
    peer.applier.begin_anew(&[(0, cut.clone())], WhyAnew::Lost).unwrap();
    assert_eq!(peer.applier.position(0).unwrap(), Some(cut));
    assert_eq!(peer.applier.moments(0).unwrap().pairs(), [(8, 80)]);
    assert_eq!(peer.applier.session.nameless(0).unwrap(), 0);
    assert_ne!(peer.log.origin().unwrap(), name, "others may have folded more under the old name");
    // It is another stream.
    let other = Position { seq: 0, created: "second".to_owned() };
    peer.applier.begin_anew(&[(0, other.clone())], WhyAnew::Lost).unwrap();
    assert_eq!(peer.applier.position(0).unwrap(), Some(other));
    assert_eq!(peer.applier.moments(0).unwrap().pairs(), []);
    let heard = "SELECT count(*) FROM __harmonylite__state WHERE kind = 'heard'";
    let count: i64 = peer.applier.session.connection.query_row(heard, [], |row| row.get(0)).unwrap();
    assert_eq!(count, 0, "where an origin was heard of last");
    // The database remembers how far it had come, over a restart, until it is in the new epoch.
    peer.applier = open(&peer.scratch);
    let (epoch, standing) = peer.applier.epoch().unwrap();
    assert!(epoch == Epoch::default() && standing.unwrap().starts_with("17 "));
    let next = epoch.after(epoch);
    let expected = peer.applier.generation_in(next).unwrap();
    peer.applier.adopt_epoch(next).unwrap();
    assert_eq!(peer.applier.epoch().unwrap(), (next, None));
    assert!(expected == peer.applier.generation().unwrap() && expected != generation);
    // What was folded stays folded: a broken connection may send it once more. The log is as it was.
    assert_eq!(peer.apply(&[incoming(1, &image(5, 1, "a", "y"))]).rows, 0);
    assert_eq!(peer.log.unsettled().unwrap().1, 1);
}

#[test]
fn databases_that_stand_where_others_stood_are_known_by_it() {
    let stand = |name: &str, events: &[Incoming], later: &[Incoming], why| {
        let mut peer = Peer::new(name, SCHEMA);
        peer.apply(events);
        let lost = [(0, Position { seq: 0, created: "b".to_owned() })];
        let at: &[_] = if why == WhyAnew::Others { &[] } else { &lost };
        peer.applier.begin_anew(at, why).unwrap();
        if !later.is_empty() {
            peer.apply(later);
            peer.applier.begin_anew(at, why).unwrap();
        }
        peer.applier.epoch().unwrap().1.unwrap()
    };
    let events = || vec![incoming(1, &image(5, 1, "a", "x")), incoming(2, &image(6, 2, "b", "x"))];
    let later = || vec![incoming(1, &image(8, 3, "c", "x"))];
    let first = stand("stood-1", &events(), &[], WhyAnew::Lost);
    assert_eq!(first, stand("stood-2", &events(), &[], WhyAnew::Lost));
    assert_ne!(first, stand("stood-3", &events()[..1], &[], WhyAnew::Lost));
    assert_ne!(first, stand("stood-4", &events(), &[], WhyAnew::Gap), "what it lacks is not known");
    let unhurt = stand("stood-5", &events(), &[], WhyAnew::Others);
    assert!(first.starts_with("2 ") && unhurt.starts_with("0 "));
    assert_eq!(unhurt, stand("stood-6", &events(), &later(), WhyAnew::Others));
    // What was read between two losses counts as well.
    let twice = stand("stood-7", &events(), &later(), WhyAnew::Lost);
    assert!(twice.starts_with("3 ") && twice[2..] != first[2..]);
}

#[test]
fn a_touched_row_is_kept_and_its_echo_settles_it() {
    let mut peer = Peer::new("echo", SCHEMA);
    peer.write("INSERT INTO t VALUES(1, 'a', 'mine')");
    let applied = peer.apply(&[incoming(1, &image(1, 1, "a", "theirs"))]);
    assert_eq!((applied.rows, applied.settled), (0, 0));
    assert_eq!(peer.rows(), "'1amine'");
    let ours = (peer.log.origin().unwrap(), 1);
    let event = peer.log.read(9).unwrap().changes.remove(0).event;
    let echo = Incoming { origin: Some(ours), ..incoming(2, &event) };
    assert!(peer.applier.is_own(&echo));
    let applied = peer.apply(&[echo]);
    assert_eq!((applied.rows, applied.settled, applied.new_incarnation), (0, 1, false));
    assert_eq!(peer.log.unsettled().unwrap(), (0, 0));
}

#[test]
fn a_touched_row_blocks_an_image_that_collides_with_it() {
    let mut peer = Peer::new("blocked", SCHEMA);
    peer.apply(&[incoming(1, &image(1, 1, "a", "x"))]);
    peer.write("INSERT INTO t VALUES(2, 'b', 'mine')");
    let applied = peer.apply(&[incoming(2, &image(2, 1, "b", "x"))]);
    assert_eq!((applied.rows, applied.touched), (1, 1));
    assert_eq!(peer.rows(), "'2bmine'");
    // That its row is gone is published after what the application wrote.
    let batch = peer.log.read(9).unwrap();
    let last = &batch.changes.last().unwrap().event;
    assert_eq!((last.kind, &last.row[0].1), (Kind::Delete, &Value::Integer(1)));
}

#[test]
fn untouched_rows_are_displaced() {
    let mut peer = Peer::new("displaced", SCHEMA);
    peer.apply(&[incoming(1, &image(1, 1, "a", "x")), incoming(2, &image(2, 2, "b", "x"))]);
    assert_eq!(peer.apply(&[incoming(3, &image(3, 2, "a", "y"))]).rows, 2);
    assert_eq!(peer.rows(), "'2ay'");
}

#[test]
fn an_older_copy_gets_a_new_incarnation() {
    let mut peer = Peer::new("older", SCHEMA);
    let before = peer.log.origin().unwrap();
    peer.apply(&[]);
    // It published this before the copy was put back; the log knows nothing of it.
    let event = Event { node: 7, ..image(50, 1, "a", "x") };
    let applied = peer.apply(&[Incoming { origin: Some((before, 50)), ..incoming(1, &event) }]);
    assert!(applied.new_incarnation);
    assert_eq!(peer.rows(), "'1ax'");
    assert_ne!(peer.log.origin().unwrap(), before);
    assert!(!peer.applier.is_own(&Incoming { origin: Some((before, 51)), ..incoming(2, &event) }));
}

/// Whoever takes one name after the other publishes all of its log each time.
#[test]
fn a_second_new_incarnation_does_not_follow_at_once() {
    let mut peer = Peer::new("older-twice", SCHEMA);
    let unknown = |peer: &Peer, seq: u64, id: i64| {
        let event = Event { node: 7, ..image(id, id, &format!("u{id}"), "x") };
        Incoming { origin: Some((peer.log.origin().unwrap(), id)), ..incoming(seq, &event) }
    };
    let batch = [unknown(&peer, 1, 50)];
    assert!(peer.apply(&batch).new_incarnation);
    let name = peer.log.origin().unwrap();
    let batch = [unknown(&peer, 2, 51)];
    let applied = peer.apply(&batch);
    // The row comes all the same: the state of the stream has it.
    assert_eq!((applied.new_incarnation, applied.rows), (false, 1));
    assert_eq!(peer.rows(), "'50u50x 51u51x'");
    assert_eq!(peer.log.origin().unwrap(), name);
    // A daemon that starts again may find an older copy.
    peer.applier = open(&peer.scratch);
    let batch = [unknown(&peer, 3, 52)];
    assert!(peer.apply(&batch).new_incarnation);
}

/// Somebody publishes in our name under an id that we are far from: an event that nobody can use, so nothing is known of its row.
/// What we publish from then on under this name comes too late for everybody, and too late again.
#[test]
fn a_name_that_somebody_has_spent_is_given_up() {
    for table in ["gone", "t"] {
        let mut peer = Peer::new("spent", SCHEMA);
        let before = peer.log.origin().unwrap();
        // Without its key, or of a table that nobody has.
        let row = vec![("v".into(), Value::text("forged"))];
        let forged = Event { node: 7, table: table.into(), row, ..image(i64::MAX, 1, "", "") };
        let forged = |seq: u64, origin: Origin, id: i64| Incoming {
            origin: Some((origin, id)),
            ..incoming(seq, &forged)
        };
        assert!(!peer.apply(&[forged(1, before, i64::MAX)]).new_incarnation);
        peer.write("INSERT INTO t VALUES(1, 'a', 'mine')");
        let own = |seq: u64, id: i64, origin: Origin| {
            let event = Event { node: 7, ..image(id, 1, "a", "mine") };
            Incoming { origin: Some((origin, id)), ..incoming(seq, &event) }
        };
        let applied = peer.apply(&[own(2, 1, before)]);
        assert_eq!((applied.new_incarnation, applied.touched, applied.settled), (true, 0, 0), "{table}");
        let name = peer.log.origin().unwrap();
        assert_ne!(name, before);
        // Again, before another new name may be taken: nothing is logged anew for it, and nothing counts as published.
        peer.apply(&[forged(3, name, 1 << 62)]);
        for seq in 4..9 {
            let applied = peer.apply(&[own(seq, 1, name)]);
            assert_eq!((applied.new_incarnation, applied.touched, applied.settled), (false, 0, 0), "{table}");
        }
        assert_eq!(peer.scratch.value("SELECT count(*) FROM __harmonylite__log WHERE t <> 0"), "1");
        peer.applier = open(&peer.scratch);
        assert!(peer.apply(&[own(9, 1, name)]).new_incarnation);
        let settled = peer.apply(&[own(10, 1, peer.log.origin().unwrap())]).settled;
        assert_eq!((settled, peer.rows().as_str()), (1, "'1amine'"), "{table}");
    }
}

/// A forged event of ours writes a row that the application has just written: what the application wrote is still to be published.
#[test]
fn a_forged_event_settles_nothing() {
    let mut peer = Peer::new("forged-echo", SCHEMA);
    for seq in [1, 2] {
        peer.write(&format!("INSERT INTO t VALUES({seq}, 'u{seq}', 'mine')"));
        let event = Event { node: 7, ..image(1 << 40, seq, "z", "forged") };
        let origin = Some((peer.log.origin().unwrap(), 1 << 40));
        let applied = peer.apply(&[Incoming { origin, ..incoming(seq as u64, &event) }]);
        // The second one comes before another new name may be taken.
        assert_eq!((applied.new_incarnation, applied.settled), (seq == 1, 0));
    }
    assert_eq!(peer.scratch.value("SELECT count(*) FROM __harmonylite__log WHERE t <> 0"), "2");
    assert_eq!(peer.rows(), "'1u1mine 2u2mine'");
}

#[test]
fn a_failed_transaction_leaves_neither_rows_nor_memory() {
    let mut peer = Peer::new("failed", SCHEMA);
    peer.write("INSERT INTO t VALUES(1, 'a', 'mine')");
    let failed = peer.applier.in_transaction(|applier| {
        applier.consume(&incoming(1, &image(1, 2, "b", "x")), Ok(Payload::Row(image(1, 2, "b", "x"))))?;
        Err(Error::Other("on purpose".to_owned()))
    });
    assert!(failed.is_err());
    assert_eq!(peer.rows(), "'1amine'");
    let applied =
        peer.apply(&[incoming(1, &image(1, 2, "b", "x")), incoming(2, &image(2, 1, "a", "theirs"))]);
    assert_eq!(applied.rows, 1, "the mark was rolled back, and the log is mirrored again");
    assert_eq!(peer.rows(), "'1amine 2bx'");
}

#[test]
fn what_another_copy_had_logged_is_adopted_once() {
    let mut peer = Peer::new("adopt", SCHEMA);
    let event = image(40, 1, "a", "x");
    assert_eq!(peer.applier.adopt(&event).unwrap().touched, 1);
    assert_eq!(peer.applier.adopt(&event).unwrap().touched, 0);
    assert_eq!(peer.rows(), "'1ax'");
    assert_eq!(peer.log.read(9).unwrap().changes.len(), 1);
    let unknown = Event { table: "nothing".into(), ..event };
    assert!(matches!(peer.applier.adopt(&unknown), Err(Error::Mismatch(_))));
}

#[test]
fn facts_are_gathered_whole() {
    let mut peer = Peer::new("facts", SCHEMA);
    peer.apply(&[incoming(1, &image(1, 1, "a", "x"))]);
    peer.write("INSERT INTO t VALUES(2, 'b', 'mine')");
    let source = Source { order: Some(Order { id: 9, folded: 1 }), own: false, late: false };
    let gathered = peer.gather(&image(9, 3, "b", "y"), source);
    assert_eq!((gathered.facts.touched, gathered.facts.collisions), (false, vec![true]));
    assert_eq!(gathered.colliding, [[Value::Integer(2)]]);
    let gathered = peer.gather(&image(9, 2, "a", "y"), source);
    assert_eq!((gathered.facts.touched, gathered.facts.collisions), (true, vec![false]));
    // Duplicates and tombstones need no look for collisions.
    let passed = Source { order: Some(Order { id: 1, folded: 1 }), own: false, late: false };
    assert!(peer.gather(&image(1, 3, "b", "y"), passed).facts.collisions.is_empty());
    let gathered = peer.gather(&tombstone(9, 2), source);
    assert!(gathered.facts.tombstone && gathered.facts.touched && gathered.facts.collisions.is_empty());
}

#[test]
fn facts_about_own_events_come_from_the_log() {
    let mut peer = Peer::new("own", SCHEMA);
    peer.write("INSERT INTO t VALUES(1, 'a', 'x'), (2, 'b', 'x')");
    let source = |id: i64| Source { order: Some(Order { id, folded: 0 }), own: true, late: false };
    let facts = peer.gather(&image(1, 1, "a", "x"), source(1)).facts;
    assert!(facts.touched && facts.unsettled && !facts.unlogged);
    let facts = peer.gather(&image(1, 2, "b", "x"), source(1)).facts;
    assert!(facts.touched && !facts.unsettled && facts.unlogged, "key 2 was logged under 2");
    let facts = peer.gather(&image(3, 1, "a", "x"), source(3)).facts;
    assert!(facts.unsettled && facts.unlogged, "the log has not reached 3");
}

#[test]
fn a_table_without_a_key_is_written_by_rowid() {
    let mut peer = Peer::new("rowid", "CREATE TABLE r(a); CREATE TABLE t(k INTEGER PRIMARY KEY)");
    let row = vec![("rowid".into(), Value::Integer(40)), ("a".into(), Value::text("x"))];
    let event = Event { table: "r".into(), row, ..image(1, 0, "", "") };
    peer.apply(&[incoming(1, &event)]);
    assert_eq!(peer.scratch.value("SELECT rowid || a FROM r"), "'40x'");
}

#[test]
fn without_capture_everything_of_others_is_written_and_nothing_logged() {
    let scratch = Scratch::new("silent", SCHEMA);
    let mut applier = open(&scratch);
    scratch.app.execute_batch("INSERT INTO t VALUES(2, 'b', 'mine')").unwrap();
    let applied = applier.apply(&[incoming(1, &image(1, 1, "b", "x"))]).unwrap();
    assert_eq!((applied.rows, applied.touched), (2, 0));
    assert_eq!(scratch.value("SELECT k || u || v FROM t"), "'1bx'");
}

#[test]
fn large_events_are_applied_a_few_at_a_time() {
    let mut peer = Peer::new("large", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
    let large = |seq: u64| {
        let k = i64::try_from(seq).unwrap();
        let row = vec![("k".into(), Value::Integer(k)), ("v".into(), Value::Blob(vec![1; 3 << 20]))];
        incoming(seq, &Event { row, ..image(k, k, "", "") })
    };
    let batch: Vec<Incoming> = (1..=6).map(large).collect();
    peer.applier.decode(&batch);
    assert_eq!(peer.applier.decoded.len(), 3, "the third one is over the bound");
    let mut done = 0;
    while done < batch.len() {
        done += peer.apply(&batch[done..]).events;
    }
    assert_eq!(peer.scratch.value("SELECT count(*) FROM t"), "6");
}

/// When the disk is full, SQLite may roll back the whole transaction by itself. Whatever was written after that would be committed
/// alone: the position past events whose rows are gone.
#[test]
fn a_full_disk_ends_the_transaction_and_loses_no_event() {
    let triggers = format!(
        "{SCHEMA}; CREATE TABLE audit(rowid, what); \
         CREATE TRIGGER a AFTER INSERT ON t BEGIN INSERT INTO audit(what) VALUES(new.k); END"
    );
    let probed = "CREATE TABLE t(k INTEGER PRIMARY KEY, u, v); CREATE UNIQUE INDEX i ON t(lower(u))";
    for (name, sql, u) in
        [("full-displaces", SCHEMA, "a"), ("full-probed", probed, "c"), ("full-triggers", &triggers, "c")]
    {
        let mut peer = Peer::new(name, sql);
        peer.apply(&[incoming(1, &image(1, 1, "a", "x"))]);
        let pages = |peer: &Peer, most: i64| {
            peer.applier.session.connection.pragma_update(None, "max_page_count", most).unwrap();
        };
        pages(&peer, 1);
        // One set: it is not cut where this machine is slow.
        let mut batch = [
            incoming(2, &image(2, 2, "b", "x")),
            incoming(3, &image(3, 3, u, &"y".repeat(100_000))),
            incoming(4, &image(4, 4, "d", "x")),
        ];
        (batch[0].ends, batch[1].ends) = (None, None);
        let failed = peer.applier.apply(&batch);
        assert!(matches!(failed, Err(Error::Disk(_))), "{name}: {failed:?}");
        assert_eq!(peer.rows(), "'1ax'", "{name}");
        assert_eq!(peer.applier.position(0).unwrap().unwrap().seq, 1, "{name}");
        assert_eq!(peer.scratch.value("SELECT count(*) FROM __harmonylite__set_aside"), "0");
        pages(&peer, 1_000_000);
        let mut done = 0;
        while done < batch.len() {
            done += peer.apply(&batch[done..]).events;
        }
        assert_eq!(peer.scratch.value("SELECT count(*) FROM t WHERE k > 1"), "3", "{name}");
    }
}

/// The same whatever it was that rolled back.
#[test]
fn nothing_is_written_after_a_transaction_that_sqlite_has_ended() {
    let mut peer = Peer::new("ended", SCHEMA);
    peer.apply(&[incoming(1, &image(1, 1, "a", "x"))]);
    let connection = &peer.applier.session.connection;
    connection
        .execute_batch(
            "CREATE TEMP TRIGGER ends AFTER DELETE ON main.t BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
        )
        .unwrap();
    let batch = [
        incoming(2, &image(2, 2, "b", "x")),
        incoming(3, &tombstone(3, 1)),
        incoming(4, &image(4, 4, "d", "x")),
    ];
    let failed = peer.applier.apply(&batch);
    assert!(matches!(failed, Err(Error::Disk(_))), "{failed:?}");
    assert_eq!(peer.rows(), "'1ax'");
    assert_eq!(peer.applier.position(0).unwrap().unwrap().seq, 1);
    // The schema is read anew after a failure, and what was temporary goes.
    assert_eq!(peer.apply(&batch).events, 3);
    assert_eq!(peer.rows(), "'2bx 4dx'");
}

/// As wide as a key may be: every statement that compares it compiles.
#[test]
fn the_widest_key_is_captured_and_applied() {
    let names: Vec<String> = (1..=limits::KEY_COLUMNS).map(|n| format!("k{n}")).collect();
    let names = names.join(", ");
    let mut peer = Peer::new("widest", &format!("CREATE TABLE t({names}, u UNIQUE, PRIMARY KEY({names}))"));
    let ones = vec!["1"; limits::KEY_COLUMNS].join(", ");
    peer.write(&format!(
        "INSERT INTO t VALUES({ones}, 'a'); UPDATE t SET k500 = 2; REPLACE INTO t VALUES({ones}, 'a')"
    ));
    let changes = peer.log.read(9).unwrap().changes;
    assert_eq!(changes.len(), 2);
    for (seq, change) in (1..).zip(changes) {
        let mut event = change.event;
        event.row[0].1 = Value::Integer(7);
        peer.apply(&[incoming(seq, &event)]);
    }
    assert_eq!(peer.scratch.value("SELECT count(*) FROM t"), "1");
    assert_eq!(peer.scratch.value("SELECT count(*) FROM __harmonylite__set_aside"), "0");
}

/// A message with many rows; `ends` as its gate says.
fn set(seq: u64, events: &[Event], ends: Option<Ends>) -> Incoming {
    let mut codec = Codec::new(true).unwrap();
    let highest = events.iter().map(|event| event.id).max().unwrap();
    let payload = codec.pack_set(events).unwrap();
    Incoming { stream: 0, seq, origin: Some((OTHER, highest)), time_ms: 0, payload, ends }
}

#[test]
fn rows_of_a_set_have_ids_of_their_own_and_come_in_their_order() {
    let mut peer = Peer::new("set", SCHEMA);
    // The value moves from one row to the other.
    let events = [image(1, 1, "a", "x"), tombstone(3, 1), image(4, 2, "a", "y"), image(6, 3, "c", "z")];
    let applied = peer.apply(&[set(5, &events, Some(Ends::at(5)))]);
    assert_eq!((applied.events, applied.rows), (1, 4));
    assert_eq!(peer.rows(), "'2ay 3cz'");
    // Cut in another way and sent again: what was folded is passed over, what follows is not.
    let again = [image(4, 2, "a", "old"), image(6, 3, "c", "old"), image(7, 4, "d", "new")];
    assert_eq!(peer.apply(&[set(6, &again, Some(Ends::at(6)))]).rows, 1);
    assert_eq!(peer.rows(), "'2ay 3cz 4dnew'");
}

#[test]
fn a_row_of_a_set_is_set_aside_alone() {
    let mut peer = Peer::new("set-aside", SCHEMA);
    let mut refused = image(2, 0, "b", "x");
    refused.row[0].1 = Value::text("no number");
    peer.apply(&[set(
        1,
        &[image(1, 1, "a", "x"), refused.clone(), image(3, 3, "c", "x")],
        Some(Ends::at(1)),
    )]);
    assert_eq!(peer.rows(), "'1ax 3cx'");
    let held = crate::db::list_aside(&peer.scratch.path).unwrap();
    assert_eq!(held.len(), 1);
    let kept = Codec::new(false).unwrap().unpack(&held[0].payload).unwrap();
    assert_eq!(kept, Event { node: OTHER.node, ..refused }, "the row alone, with its publisher");
}

#[test]
fn the_checkpoint_is_the_gates_and_what_was_folded_after_it_is_passed_over() {
    let mut peer = Peer::new("set-checkpoint", SCHEMA);
    let before = Some(Ends { read: 7, checkpoint: 4 });
    let mut nameless = incoming(6, &image(1, 1, "a", "x"));
    (nameless.origin, nameless.ends) = (None, None);
    let named = Incoming { ends: before, ..incoming(7, &image(5, 2, "b", "x")) };
    peer.apply(&[nameless, named]);
    assert_eq!(peer.applier.position(0).unwrap().unwrap().seq, 4);
    peer.write("UPDATE t SET v = 'later'; DELETE FROM __harmonylite__log");
    // Read again from the checkpoint on, by another session.
    peer.applier = open(&peer.scratch);
    let mut nameless = incoming(6, &image(1, 1, "a", "x"));
    nameless.origin = None;
    let applied =
        peer.apply(&[nameless, incoming(7, &image(5, 2, "b", "x")), incoming(8, &image(6, 3, "c", "x"))]);
    assert_eq!((applied.events, applied.rows), (3, 1));
    assert_eq!(peer.rows(), "'1alater 2blater 3cx'");
    assert_eq!(peer.applier.position(0).unwrap().unwrap().seq, 8);
}

#[test]
fn a_set_is_not_torn_by_the_time_or_the_bytes_of_a_transaction() {
    let mut peer = Peer::new("set-whole", "CREATE TABLE t(k INTEGER PRIMARY KEY, u, v)");
    let part = |n: i64, ends| {
        let rows: Vec<Event> =
            (1..=1_000).map(|k| image(n * 1_000 + k, n * 1_000 + k, "u", &"v".repeat(2_000))).collect();
        set(n.unsigned_abs() + 1, &rows, ends)
    };
    // Each part is two megabytes.
    let batch: Vec<Incoming> = (0..8).map(|n| part(n, (n == 7).then(|| Ends::at(8)))).collect();
    assert_eq!(peer.applier.apply(&batch).unwrap().events, 8, "all parts in one transaction");
    let batch: Vec<Incoming> = (8..16).map(|n| part(n, Some(Ends::at(n.unsigned_abs() + 1)))).collect();
    assert!(peer.applier.apply(&batch).unwrap().events < 8, "sets of their own have no need of one");
}
