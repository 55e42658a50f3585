//! Full-text indexes in trouble: rows that the triggers refuse, schemas that change while something waits, and triggers that cannot
//! be run later.

use super::tests::{CHECK, NOTES, Peer, text};
use super::*;
use crate::model::event::Kind;
use crate::model::value::Value;

const JSON: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title, body, seen); CREATE VIRTUAL TABLE f USING fts5(body); \
     CREATE TRIGGER ai AFTER INSERT ON notes BEGIN INSERT INTO f(rowid, body) VALUES(new.id, json_extract(new.body, '$')); END; \
     CREATE TRIGGER ad AFTER DELETE ON notes BEGIN DELETE FROM f WHERE rowid = old.id; END; \
     CREATE TRIGGER au AFTER UPDATE OF title ON notes BEGIN DELETE FROM f WHERE rowid = old.id; \
     INSERT INTO f(rowid, body) VALUES(new.id, json_extract(new.body, '$')); END;";

#[test]
fn an_entry_whose_row_changes_is_tried_again() {
    let mut peer = Peer::new("feed-later", JSON);
    peer.note(1, "[1]");
    peer.note(1, "no json");
    peer.app("INSERT INTO notes VALUES(2, 't', '[2]', 0); DELETE FROM notes WHERE id = 1");
    assert_eq!((peer.queued(), peer.matches("2")), ("0".into(), "'2'".into()));
}

#[test]
fn an_index_over_a_view_is_not_built_anew() {
    let view = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title, body, seen); \
         CREATE VIEW v AS SELECT id, json_extract(body, '$') AS b FROM notes; \
         CREATE VIRTUAL TABLE f USING fts5(b, content='v', content_rowid='id'); \
         CREATE TRIGGER ai AFTER INSERT ON notes BEGIN INSERT INTO f(rowid, b) VALUES(new.id, json_extract(new.body, '$')); END; \
         CREATE TRIGGER ad AFTER DELETE ON notes BEGIN INSERT INTO f(f, rowid, b) VALUES('delete', old.id, json_extract(old.body, '$')); END;";
    let mut peer = Peer::new("feed-view", view);
    peer.note(1, "no json");
    peer.note(2, "[2]");
    peer.note(3, "no json either");
    peer.app("INSERT INTO notes VALUES(4, 't', '[2]', 0)");
    assert_eq!((peer.queued(), peer.matches("2")), ("0".into(), "'2,4'".into()));
}

/// Each of them cannot be built anew as the triggers make it, and its triggers need rows that are gone.
#[test]
fn a_table_whose_triggers_cannot_be_run_later_is_not_fed() {
    let reads = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title, body, seen, made AS (body)); \
         CREATE VIRTUAL TABLE f USING fts5(body, content=notes, content_rowid='id'); CREATE VIRTUAL TABLE r USING rtree(id, x, y); \
         CREATE TRIGGER bd BEFORE DELETE ON notes BEGIN DELETE FROM f WHERE rowid = old.id; END; \
         CREATE TRIGGER ai AFTER INSERT ON notes WHEN new.seen BEGIN INSERT INTO f(rowid, body) VALUES(new.id, new.body); END;";
    let generated = reads.replace(" WHEN new.seen", "");
    let when = reads.replace(", made AS (body)", "");
    let other = when.replace(" WHEN new.seen BEGIN", " BEGIN INSERT INTO r VALUES(new.id, 1, 1);");
    let select = when
        .replace(" WHEN new.seen", "")
        .replace("VALUES(new.id, new.body)", "SELECT new.id, new.body WHERE new.seen");
    for (name, sql) in [("generated", &generated), ("when", &when), ("other", &other), ("select", &select)] {
        let mut peer = Peer::new(&format!("feed-not-{name}"), sql);
        peer.note(1, "remote");
        assert_eq!(
            peer.value("SELECT count(*) FROM sqlite_schema WHERE name GLOB '__harmonylite__feed*'"),
            "0",
            "{name}"
        );
        peer.app("INSERT INTO notes(id, body, seen) VALUES(2, 'mine', 1)");
        assert_eq!(peer.matches("mine"), "'2'", "{name}");
    }
}

#[test]
fn an_index_that_is_dropped_while_something_waits_blocks_the_application_for_a_look() {
    let mut peer = Peer::new("feed-dropped", NOTES);
    peer.note(1, "remote");
    peer.app("DROP TRIGGER ai; DROP TRIGGER ad; DROP TRIGGER au; DROP TABLE f");
    peer.look();
    // A query: with a statement that does not compile, SQLite does not find out that the schema has changed.
    assert_eq!(peer.hooks(), "0");
    peer.app("INSERT INTO notes VALUES(2, 't', 'mine', 0)");
    peer.app("ALTER TABLE notes RENAME COLUMN body TO text");
}

#[test]
fn an_index_that_the_application_built_anew_meanwhile_blocks_it_for_a_look() {
    let mut peer = Peer::new("feed-own-rebuild", &JSON.replace("json_extract(new.body, '$')", "new.body"));
    for id in 1..=40 {
        peer.note(id, "remote");
    }
    peer.app("INSERT INTO f(rowid, body) SELECT id, body FROM notes");
    peer.look();
    peer.app("INSERT INTO notes VALUES(50, 't', 'mine', 0)");
    peer.app("DELETE FROM notes WHERE id = 39");
    assert_eq!((peer.queued(), peer.matches("mine")), ("0".into(), "'50'".into()));
}

#[test]
fn triggers_that_are_gone_for_a_while_find_what_waits() {
    for (name, sql) in
        [("feed-gap", NOTES.to_owned()), ("feed-gap-plain", NOTES.replace(" WHEN new.id > 0", ""))]
    {
        let mut peer = Peer::new(name, &sql);
        peer.app("INSERT INTO notes VALUES(1, 't', 'old', 0), (2, 't', 'gone', 0)");
        peer.note(1, "remote");
        peer.remove(2);
        let triggers: Vec<&str> = sql.split("; CREATE TRIGGER ").skip(1).collect();
        peer.app("DROP TRIGGER ai; DROP TRIGGER ad; DROP TRIGGER au");
        peer.look();
        assert_eq!(peer.hooks(), "0");
        let again: String = triggers.iter().map(|sql| format!("CREATE TRIGGER {sql};")).collect();
        peer.app(&again);
        peer.look();
        peer.app("INSERT INTO notes VALUES(3, 't', 'mine', 0)");
        assert_eq!((peer.queued(), peer.matches("old OR gone")), ("0".into(), "NULL".into()), "{name}");
        assert_eq!((peer.matches("remote"), peer.matches("mine")), ("'1'".into(), "'3'".into()), "{name}");
        peer.app(CHECK);
    }
}

#[test]
fn a_new_table_under_the_name_of_a_renamed_one_gets_a_queue_of_its_own() {
    let mut peer = Peer::new("feed-taken", NOTES);
    peer.app("INSERT INTO notes VALUES(1, 't', 'old', 0)");
    peer.note(1, "remote");
    peer.app("ALTER TABLE notes RENAME TO pages; CREATE TABLE notes(id INTEGER PRIMARY KEY, title, body, seen); \
              CREATE VIRTUAL TABLE g USING fts5(body); \
              CREATE TRIGGER g1 AFTER INSERT ON notes BEGIN INSERT INTO g(rowid, body) VALUES(new.id, new.body); END;");
    peer.note(5, "new");
    assert_eq!(peer.value("SELECT count(*) FROM __harmonylite__feed_pages"), "1");
    assert_eq!(peer.queued(), "1");
    peer.app("INSERT INTO notes VALUES(6, 't', 'mine', 0); INSERT INTO pages VALUES(2, 't', 'mine', 0)");
    assert_eq!(peer.value("SELECT group_concat(rowid) FROM g"), "'5,6'");
    assert_eq!((peer.matches("old"), peer.matches("remote")), ("NULL".into(), "'1'".into()));
}

#[test]
fn a_table_with_many_columns_is_fed_or_is_not_and_the_node_goes_on() {
    for (columns, more) in [(1200, 2), (1990, 8)] {
        let list =
            |stem: &str, n: usize| (0..n).map(|at| format!("{stem}{at}")).collect::<Vec<_>>().join(", ");
        let (names, others) = (list("c", columns), list("d", more));
        let (new, other) = (list("new.c", columns), list("new.d", more));
        let sql = format!(
            "CREATE TABLE wide(id INTEGER PRIMARY KEY, {names}, {others}); CREATE VIRTUAL TABLE f USING fts5({names}); \
             CREATE TRIGGER w1 AFTER INSERT ON wide BEGIN INSERT INTO f(rowid, {names}) VALUES(new.id, {new}); \
             DELETE FROM f WHERE rowid = -1 AND rowid IN ({other}); END;"
        );
        let mut peer = Peer::new(&format!("feed-wide-{columns}"), &sql);
        peer.apply(Kind::Insert, "wide", &[("id", Value::Integer(1)), ("c7", text("seven"))]);
        peer.app("INSERT INTO wide(id, c8) VALUES(2, 'eight')");
        assert_eq!(peer.value("SELECT count(*) FROM wide"), "2");
        assert_eq!(
            (peer.matches("seven"), peer.matches("eight")),
            (if columns == 1200 { "'1'" } else { "NULL" }.into(), "'2'".into())
        );
    }
}

#[test]
fn what_is_appended_to_a_triggers_text_is_not_run() {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch("CREATE TABLE t(a)").unwrap();
    let trigger = "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END";
    let object = |sql: String| [("x".to_owned(), sql)];
    let appended = object(format!("{trigger}; CREATE TABLE appended(a)"));
    assert!(create_objects(&connection, &appended).is_err());
    create_objects(&connection, &object(trigger.to_owned())).unwrap();
    assert!(!ours::has_table(&connection, "appended").unwrap());
}
