//! Tests of the lists of tables: what changes when they change.

use super::*;
use crate::db::capture::install::install;
use crate::db::restore::{Stamp, make_ready, make_snapshot};
use crate::db::schema::Schema;
use crate::db::scratch::Scratch;

fn lists(exclude: &[&str]) -> Lists {
    Lists { exclude: exclude.iter().map(|name| (*name).to_owned()).collect(), ..Lists::default() }
}

fn opened(name: &str, sql: &str, wanted: &Lists) -> (Scratch, Connection) {
    let scratch = Scratch::new(name, sql);
    let mut connection = open::open(&scratch.path).unwrap();
    crate::db::apply::ensure_state_of(&mut connection).unwrap();
    set(&mut connection, wanted).unwrap();
    (scratch, connection)
}

const SQL: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY); CREATE TABLE logs(id INTEGER PRIMARY KEY, v); INSERT INTO logs VALUES(1, 'a')";

#[test]
fn an_excluded_table_is_not_in_the_schema_nor_in_its_hash_and_not_captured() {
    let (scratch, mut connection) = opened("lists-out", SQL, &lists(&["LOG*"]));
    let schema = Schema::read(&connection).unwrap();
    assert_eq!(schema.excluded.iter().collect::<Vec<_>>(), ["logs"]);
    let other = Scratch::new("lists-hash", "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    assert_eq!(schema.hash, Schema::read(&other.app).unwrap().hash);
    install(&mut connection).unwrap();
    scratch.app.execute_batch("INSERT INTO logs VALUES(2, 'b'); INSERT INTO t VALUES(1)").unwrap();
    assert_eq!(scratch.value("SELECT count(*) FROM __harmonylite__log"), "1");
}

#[test]
fn a_table_that_is_excluded_later_gives_up_what_it_has_not_published_and_one_that_is_included_is_noted() {
    let (scratch, mut connection) = opened("lists-change", SQL, &lists(&[]));
    install(&mut connection).unwrap();
    scratch.app.execute_batch("INSERT INTO logs VALUES(2, 'b'), (3, 'c')").unwrap();
    set(&mut connection, &lists(&["logs"])).unwrap();
    assert!(state::included(&connection).unwrap().is_empty());
    install(&mut connection).unwrap();
    assert_eq!(scratch.value("SELECT count(*) FROM __harmonylite__log WHERE t <> 0"), "0");
    set(&mut connection, &lists(&[])).unwrap();
    assert_eq!(state::included(&connection).unwrap(), ["logs"]);
    let (_, done) = install(&mut connection).unwrap();
    assert_eq!((done.included, done.new_tables.len()), (vec!["logs".to_owned()], 0));
    scratch.app.execute_batch("UPDATE logs SET v = 'd' WHERE id = 2").unwrap();
    assert_eq!(
        scratch.value("SELECT count(*) FROM __harmonylite__log WHERE t <> 0"),
        "1",
        "only what is written since"
    );
    set(&mut connection, &lists(&["logs"])).unwrap();
    assert!(state::included(&connection).unwrap().is_empty(), "it is excluded again");
}

#[test]
fn lists_that_are_the_same_take_no_lock() {
    let (scratch, mut connection) = opened("lists-lock", SQL, &lists(&["logs"]));
    scratch.app.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection.busy_timeout(std::time::Duration::ZERO).unwrap();
    set(&mut connection, &lists(&["logs"])).unwrap();
    assert!(matches!(set(&mut connection, &lists(&[])), Err(Error::Busy)));
}

/// A table of which an event came while it was not replicated counts as included when it is made later.
#[test]
fn what_was_passed_over_is_noted_even_without_a_table() {
    let (_scratch, mut connection) = opened("lists-passed", SQL, &lists(&["later"]));
    state::note_passed(&connection, "later").unwrap();
    set(&mut connection, &lists(&[])).unwrap();
    assert_eq!(state::included(&connection).unwrap(), ["later"]);
    connection
        .execute_batch("CREATE TABLE later(id INTEGER PRIMARY KEY); INSERT INTO later VALUES(1)")
        .unwrap();
    assert_eq!(install(&mut connection).unwrap().1.new_tables.len(), 0);
}

#[test]
fn a_snapshot_tells_what_its_maker_did_not_replicate() {
    for in_snapshots in [true, false] {
        let wanted = Lists { in_snapshots, ..lists(&["logs"]) };
        let (scratch, _connection) = opened(&format!("lists-snapshot-{in_snapshots}"), SQL, &wanted);
        scratch
            .app
            .execute_batch("CREATE TRIGGER no BEFORE DELETE ON logs BEGIN SELECT RAISE(ABORT, 'no'); END")
            .unwrap();
        let dir = crate::base::files::parent(&scratch.path);
        let made = make_snapshot(&scratch.path, &dir, &Stamp::default()).unwrap();
        let path = made.file.path();
        let rows = Connection::open(path)
            .unwrap()
            .query_row("SELECT count(*) FROM logs", [], |row| row.get::<_, i64>(0));
        assert_eq!(rows.unwrap(), i64::from(in_snapshots));
        let same = make_ready(path, &wanted).unwrap();
        assert_eq!((included_in(path).unwrap().len(), &same.schema), (0, &made.schema));
        let all = make_ready(path, &lists(&[])).unwrap();
        assert_eq!(included_in(path).unwrap(), ["logs"]);
        assert_eq!(all.schema, made.schema, "the hash is of what is the cluster's");
        assert_ne!(*all.schema, *Schema::read(&Connection::open(path).unwrap()).unwrap().hash);
    }
}

#[test]
fn what_is_set_aside_of_an_excluded_table_goes() {
    let (_scratch, mut connection) = opened("lists-aside", SQL, &lists(&[]));
    let put = "INSERT INTO __harmonylite__set_aside(stream, seq, tbl, key, state, overtaken, missing, why, since, payload) \
               VALUES('s', 1, 'logs', x'', 0, 0, '[]', '', 0, x''), ('s', 2, 't', x'', 0, 0, '[]', '', 0, x'')";
    connection.execute_batch(put).unwrap();
    set(&mut connection, &lists(&["logs"])).unwrap();
    let left: String = connection
        .query_row("SELECT group_concat(tbl) FROM __harmonylite__set_aside", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, "t");
}
