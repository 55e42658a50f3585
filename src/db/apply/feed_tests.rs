//! Full-text indexes under rows of other nodes: never written by us, and right after the application's next write.

use super::*;
use crate::db::apply::{Applier, Ends, Incoming};
use crate::db::restore::{Stamp, make_ready, make_snapshot};
use crate::db::scratch::Scratch;
use crate::model::event::{Event, Kind};
use crate::model::origin::Origin;
use crate::model::value::Value;

pub const NOTES: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title, body, seen); \
     CREATE VIRTUAL TABLE f USING fts5(title, body, content='notes', content_rowid='id', prefix='2 3'); \
     CREATE TRIGGER ai AFTER INSERT ON Notes BEGIN INSERT INTO f(rowid, title, body) VALUES(new.id, new.title, new.body); END; \
     CREATE TRIGGER ad AFTER DELETE ON [NOTES] BEGIN INSERT INTO f(f, rowid, title, body) VALUES('delete', old.rowid, old.title, old.body); END; \
     CREATE TRIGGER au AFTER UPDATE OF title, body ON \"notes\" WHEN new.id > 0 BEGIN \
     INSERT INTO f(f, rowid, title, body) VALUES('delete', old.id, old.title, old.body); \
     INSERT INTO f(rowid, title, body) VALUES(new.id, new.title, new.body); END;";
/// The same index with triggers that another rule chooses rows for is not as building it anew would make it.
const WHEN: &str = " WHEN new.id > 0";
pub const CHECK: &str = "INSERT INTO f(f, rank) VALUES('integrity-check', 1)";

pub struct Peer {
    pub scratch: Scratch,
    pub applier: Applier,
    seq: u64,
}

impl Peer {
    pub fn new(name: &str, sql: &str) -> Peer {
        let scratch = Scratch::new(name, sql);
        let applier = Applier::open(&scratch.path, 7, &["s".to_owned()]).unwrap();
        Peer { scratch, applier, seq: 0 }
    }

    pub fn app(&self, sql: &str) {
        self.scratch.app.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub fn apply(&mut self, kind: Kind, table: &str, row: &[(&str, Value)]) {
        self.seq += 1;
        let row = row.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
        let id = i64::try_from(self.seq).unwrap();
        let event = Event { node: 9, id, kind, table: table.into(), row, schema_hash: None };
        let origin = Some((Origin { node: 9, incarnation: 1 }, id));
        let incoming = Incoming {
            stream: 0,
            seq: self.seq,
            origin,
            time_ms: 0,
            payload: event.encode(),
            ends: Some(Ends::at(self.seq)),
        };
        self.applier.apply(&[incoming]).unwrap();
    }

    pub fn note(&mut self, id: i64, body: &str) {
        let row = [
            ("id", Value::Integer(id)),
            ("title", Value::text("t")),
            ("body", Value::text(body)),
            ("seen", Value::Null),
        ];
        self.apply(Kind::Insert, "notes", &row);
    }

    pub fn remove(&mut self, id: i64) {
        self.apply(Kind::Delete, "notes", &[("id", Value::Integer(id))]);
    }

    pub fn value(&self, sql: &str) -> String {
        self.scratch.value(sql)
    }

    pub fn matches(&self, word: &str) -> String {
        self.value(&format!("SELECT group_concat(rowid) FROM f WHERE f MATCH '{word}'"))
    }

    pub fn queued(&self) -> String {
        self.value("SELECT count(*) FROM __harmonylite__feed_notes")
    }

    /// What a follower does each second.
    pub fn look(&mut self) {
        self.applier.look().unwrap();
        while self.applier.has_more() {
            self.applier.apply(&[]).unwrap();
        }
    }

    pub fn hooks(&self) -> String {
        self.value("SELECT count(*) FROM sqlite_schema WHERE name GLOB '__harmonylite__feedhook*'")
    }
}

pub fn text(value: &str) -> Value {
    Value::text(value)
}

#[test]
fn our_connection_never_writes_the_index_and_the_applications_next_write_does() {
    let mut peer = Peer::new("feed", NOTES);
    peer.app("INSERT INTO notes VALUES(1, 'a', 'first', 0), (2, 'b', 'second', 0), (3, 'c', 'third', 0)");
    let before = peer.value("SELECT group_concat(hex(block)) FROM f_data");
    peer.note(1, "changed");
    peer.note(1, "changed again");
    peer.note(4, "new");
    peer.remove(2);
    peer.remove(3);
    peer.note(3, "back");
    peer.note(5, "short");
    peer.remove(5);
    assert_eq!(peer.value("SELECT group_concat(hex(block)) FROM f_data"), before);
    peer.app("INSERT INTO notes(title, body) VALUES('mine', 'own words')");
    assert_eq!(peer.queued(), "0");
    peer.app(CHECK);
    for (word, rows) in [
        ("again", "'1'"),
        ("new", "'4'"),
        ("back", "'3'"),
        ("own", "'5'"),
        ("second", "NULL"),
        ("short", "NULL"),
    ] {
        assert_eq!(peer.matches(word), rows, "{word}");
    }
}

#[test]
fn an_index_that_keeps_its_rows_takes_the_next_rowid_after_a_remote_delete() {
    let sql = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title, body, seen); CREATE VIRTUAL TABLE f USING fts5(body); \
         CREATE TRIGGER ai AFTER INSERT ON notes BEGIN INSERT INTO f(rowid, body) VALUES(new.id, new.body); END; \
         CREATE TRIGGER ad AFTER DELETE ON notes BEGIN DELETE FROM f WHERE rowid = old.id; END;";
    let mut peer = Peer::new("feed-next", sql);
    for id in 1..=100 {
        peer.note(id, "word");
    }
    peer.app("DELETE FROM __harmonylite__feed_notes");
    for id in 1..=100 {
        peer.remove(id);
    }
    // More rows wait than one write runs: the one whose rowid comes next is among them.
    for _ in 0..4 {
        peer.app("INSERT INTO notes(body) VALUES('mine')");
    }
    assert_eq!(
        (peer.queued(), peer.matches("mine"), peer.matches("word")),
        ("0".into(), "'1,2,3,4'".into(), "NULL".into())
    );
    peer.app(CHECK);
}

#[test]
fn rows_that_the_application_replaces_or_upserts_are_run_first() {
    let mut peer = Peer::new("feed-own", NOTES);
    for id in 1..=200 {
        peer.note(id, "old");
    }
    peer.app("PRAGMA recursive_triggers=ON; DELETE FROM __harmonylite__feed_notes");
    for id in 1..=200 {
        peer.note(id, "remote");
    }
    peer.app("INSERT OR REPLACE INTO notes VALUES(150, 'x', 'mine', 0)");
    peer.app("INSERT INTO notes VALUES(160, 'x', 'mine', 0) ON CONFLICT(id) DO UPDATE SET body = 'upserted'");
    peer.app("UPDATE notes SET id = 500, body = 'moved' WHERE id = 170; DELETE FROM notes WHERE id = 180; UPDATE notes SET body = 'many' WHERE id > 100");
    assert_eq!(peer.queued(), "0");
    peer.app(CHECK);
    assert_eq!(peer.matches("old"), "NULL");
}

#[test]
fn keys_of_text_and_tables_without_rowid() {
    let sql = "CREATE TABLE a(k TEXT COLLATE NOCASE PRIMARY KEY, v); CREATE TABLE b(k TEXT PRIMARY KEY, v) WITHOUT ROWID; \
         CREATE VIRTUAL TABLE f USING fts5(k UNINDEXED, v); \
         CREATE TRIGGER a1 AFTER INSERT ON a BEGIN INSERT INTO f(rowid, k, v) VALUES(new._rowid_, new.k, new.v); END; \
         CREATE TRIGGER a2 AFTER DELETE ON a BEGIN DELETE FROM f WHERE rowid = old.oid; END; \
         CREATE TRIGGER a3 AFTER UPDATE ON a BEGIN UPDATE f SET k = new.k, v = new.v WHERE rowid = old.rowid; END; \
         CREATE VIRTUAL TABLE g USING fts5(k UNINDEXED, v); \
         CREATE TRIGGER b1 AFTER INSERT ON b BEGIN INSERT INTO g(k, v) VALUES(new.k, new.v); END; \
         CREATE TRIGGER b2 AFTER DELETE ON b BEGIN DELETE FROM g WHERE k = old.k; END; \
         CREATE TRIGGER b3 BEFORE UPDATE ON b BEGIN UPDATE g SET v = new.v WHERE k = old.k; END;";
    let mut peer = Peer::new("feed-keys", sql);
    for table in ["a", "b"] {
        peer.apply(Kind::Insert, table, &[("k", text("one")), ("v", text("x"))]);
        peer.apply(Kind::Insert, table, &[("k", text("two")), ("v", text("y"))]);
        peer.app(&format!("INSERT INTO {table} VALUES('mine', 'z')"));
        // The rowid of a row that is gone is given to another one.
        peer.apply(Kind::Delete, table, &[("k", text("two"))]);
        peer.apply(Kind::Insert, table, &[("k", text("three")), ("v", text("w"))]);
        peer.apply(Kind::Insert, table, &[("k", text("one")), ("v", text("changed"))]);
        peer.app(&format!(
            "UPDATE {table} SET v = 'q' WHERE k = 'three'; DELETE FROM {table} WHERE k = 'none'"
        ));
        peer.app(&format!("DELETE FROM __harmonylite__feed_{table}"));
    }
    for index in ["f", "g"] {
        let rows =
            peer.value(&format!("SELECT group_concat(k || v, ' ') FROM (SELECT * FROM {index} ORDER BY k)"));
        assert_eq!(rows, "'minez onechanged threeq'", "{index}");
        peer.app(&format!("INSERT INTO {index}({index}) VALUES('integrity-check')"));
    }
}

#[test]
fn an_update_of_columns_that_no_trigger_waits_for_queues_nothing() {
    let mut peer = Peer::new("feed-of", NOTES);
    peer.app("INSERT INTO notes VALUES(1, 't', 'same', 0)");
    let row = [
        ("id", Value::Integer(1)),
        ("title", text("t")),
        ("body", text("same")),
        ("seen", Value::Integer(9)),
    ];
    peer.apply(Kind::Update, "notes", &row);
    assert_eq!((peer.value("SELECT seen FROM notes"), peer.queued()), ("9".into(), "0".into()));
}

#[test]
fn hooks_are_there_only_while_something_waits() {
    let mut peer = Peer::new("feed-hooks", NOTES);
    peer.note(1, "x");
    assert_eq!(peer.hooks(), "3");
    peer.app("INSERT INTO notes VALUES(2, 'x', 'mine', 0)");
    for _ in 0..limits::FEED_IDLE {
        peer.remove(999);
    }
    assert_eq!(peer.hooks(), "0");
    // A migration that drops the index meets nothing of ours.
    peer.app("DROP TRIGGER ai; DROP TRIGGER ad; DROP TRIGGER au; DROP TABLE f; INSERT INTO notes VALUES(3, 'x', 'y', 0); \
              ALTER TABLE notes DROP COLUMN title; ALTER TABLE notes RENAME TO pages");
    peer.remove(999);
    assert_eq!(peer.value("SELECT count(*) FROM sqlite_schema WHERE name GLOB '__harmonylite__feed*'"), "0");
}

#[test]
fn triggers_that_are_made_anew_still_run_after_the_queue() {
    let mut peer = Peer::new("feed-anew", NOTES);
    peer.app("INSERT INTO notes VALUES(1, 't', 'old', 0), (2, 't', 'old', 0)");
    peer.note(1, "remote");
    peer.app(
        "DROP TRIGGER ai; CREATE TRIGGER ai BEFORE INSERT ON notes BEGIN INSERT INTO f(rowid, title, body) VALUES(new.id, new.title, new.body); END",
    );
    peer.note(2, "remote");
    peer.remove(1);
    peer.app("INSERT INTO notes VALUES(1, 't', 'mine', 0)");
    assert_eq!(
        (peer.queued(), peer.matches("old"), peer.matches("mine")),
        ("0".into(), "NULL".into(), "'1'".into())
    );
    peer.app(CHECK);
}

#[test]
fn a_renamed_table_keeps_what_waits() {
    let mut peer = Peer::new("feed-renamed", NOTES);
    peer.app("INSERT INTO notes VALUES(1, 't', 'old', 0)");
    peer.note(1, "remote");
    peer.app("ALTER TABLE notes RENAME TO pages");
    peer.remove(999);
    assert_eq!(peer.value("SELECT count(*) FROM __harmonylite__feed_pages"), "1");
    assert_eq!(
        peer.value("SELECT count(*) FROM sqlite_schema WHERE name GLOB '__harmonylite__feed*notes'"),
        "0"
    );
}

/// An index that lacks a row: the trigger's 'delete' fails.
#[test]
fn an_entry_that_cannot_be_run_never_reaches_the_application() {
    let plain = NOTES.replace(WHEN, "");
    let stale =
        format!("{plain} INSERT INTO notes VALUES(1, 't', 'x', 0); INSERT INTO f(f) VALUES('delete-all');");
    let mut peer = Peer::new("feed-stale", &stale);
    peer.remove(1);
    peer.app("INSERT INTO notes VALUES(5, 't', 'mine', 0)");
    peer.app(CHECK);
    assert_eq!((peer.queued(), peer.matches("mine")), ("0".into(), "'5'".into()));
    // One that cannot be built anew lacks the row, and the others go on.
    let refusing = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title, body, seen); CREATE VIRTUAL TABLE f USING fts5(body); \
         CREATE TRIGGER ai AFTER INSERT ON notes BEGIN SELECT RAISE(ROLLBACK, 'no') WHERE new.body = 'bad'; \
         INSERT INTO f(rowid, body) VALUES(new.id, new.body); END;";
    let mut peer = Peer::new("feed-refusing", refusing);
    for (id, body) in [(1, "good"), (2, "bad"), (3, "good")] {
        peer.note(id, body);
    }
    peer.app("INSERT INTO notes VALUES(9, 't', 'mine', 0)");
    assert_eq!((peer.queued(), peer.matches("good OR bad OR mine")), ("0".into(), "'1,3,9'".into()));
}

#[test]
fn beyond_its_bound_the_index_is_built_anew_or_not_fed_any_more() {
    let plain = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title, body, seen); CREATE VIRTUAL TABLE f USING fts5(body); \
         CREATE TRIGGER ai AFTER INSERT ON notes BEGIN INSERT INTO f(rowid, body) VALUES(new.id, new.body); END;";
    let anew = NOTES.replace(WHEN, "");
    for (name, sql, word) in [
        ("feed-bound", anew.as_str(), "'7,100000'"),
        ("feed-stopped", plain, "'100000'"),
        ("feed-stopped-when", NOTES, "'100000'"),
    ] {
        let mut peer = Peer::new(name, sql);
        peer.note(6, "first");
        peer.app(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
             INSERT INTO __harmonylite__feed_notes(has, k1) SELECT 0, -i FROM n",
            limits::FEED_MAX_ROWS + 100
        ));
        peer.applier = Applier::open(&peer.scratch.path, 7, &["s".to_owned()]).unwrap();
        peer.remove(999);
        assert_ne!(peer.queued(), "1", "{name}");
        peer.note(7, "word");
        assert_eq!(peer.queued(), "1", "{name}");
        peer.note(8, "other");
        assert_eq!(peer.queued(), "1", "{name}");
        peer.app("INSERT INTO notes VALUES(100000, 't', 'word', 0)");
        assert_eq!(peer.matches("word"), word, "{name}");
    }
}

/// FTS4, and FTS5 with DELETE, look the old words up in the table, which has lost them by then.
#[test]
fn an_index_that_reads_the_old_row_from_the_table_is_built_anew() {
    let sql = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title, body, seen); \
         CREATE VIRTUAL TABLE f USING fts5(body, content=notes, content_rowid='id'); \
         CREATE TRIGGER bd BEFORE DELETE ON notes BEGIN DELETE FROM f WHERE rowid = old.id; END; \
         CREATE TRIGGER bu BEFORE UPDATE ON notes BEGIN DELETE FROM f WHERE rowid = old.id; END; \
         CREATE TRIGGER ai AFTER INSERT ON notes BEGIN INSERT INTO f(rowid, body) VALUES(new.id, new.body); END; \
         CREATE TRIGGER au AFTER UPDATE ON notes BEGIN INSERT INTO f(rowid, body) VALUES(new.id, new.body); END;";
    let mut peer = Peer::new("feed-reads", sql);
    peer.app("INSERT INTO notes VALUES(1, 't', 'old', 0), (2, 't', 'gone', 0)");
    peer.note(1, "remote");
    peer.remove(2);
    peer.app("UPDATE notes SET body = 'mine' WHERE id = 1");
    assert_eq!((peer.queued(), peer.matches("mine")), ("0".into(), "'1'".into()));
    peer.app(CHECK);
}

#[test]
fn a_snapshot_brings_the_queue_that_its_index_needs() {
    let mut peer = Peer::new("feed-snapshot", NOTES);
    peer.app("INSERT INTO notes VALUES(1, 't', 'old', 0)");
    let dir = std::env::temp_dir();
    let without = make_snapshot(&peer.scratch.path, &dir, &Stamp::default()).unwrap();
    let ours = "SELECT count(*) FROM sqlite_schema WHERE name GLOB '__harmonylite__feed*'";
    let count = |path: &std::path::Path| {
        Connection::open(path).unwrap().query_row(ours, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(count(without.file.path()), 0);
    drop(without);
    peer.note(1, "remote");
    let made = make_snapshot(&peer.scratch.path, &dir, &Stamp::default()).unwrap();
    make_ready(made.file.path(), &Default::default()).unwrap();
    let restored = Connection::open(made.file.path()).unwrap();
    restored.execute_batch("UPDATE notes SET body = 'mine' WHERE id = 1").unwrap();
    restored.execute_batch(CHECK).unwrap();
    let found: i64 =
        restored.query_row("SELECT count(*) FROM f WHERE f MATCH 'mine'", [], |row| row.get(0)).unwrap();
    assert_eq!(found, 1);
    drop(restored);
    crate::db::ours::cleanup(&peer.scratch.path).unwrap();
    assert_eq!(peer.value("SELECT count(*) FROM sqlite_schema WHERE name GLOB '__harmonylite__*'"), "0");
}
