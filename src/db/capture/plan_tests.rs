//! First installations that are killed, and plans that touch only what has changed.

use super::*;
use crate::db::capture::install::install;
use crate::db::scratch::Scratch;
use rusqlite::{Connection, TransactionBehavior};

const SCHEMA: &str = "CREATE TABLE a(x); CREATE TABLE b(k PRIMARY KEY, v UNIQUE); CREATE TABLE c(k, l, PRIMARY KEY(k, l)) WITHOUT ROWID; \
     CREATE TABLE d(k INTEGER PRIMARY KEY, v); CREATE UNIQUE INDEX e ON d(lower(v)) WHERE v > 'b'; CREATE VIEW w AS SELECT 1; \
     INSERT INTO a VALUES(1), (2); INSERT INTO b VALUES(1, 1); INSERT INTO c VALUES(1, 1); INSERT INTO d VALUES(1, 'x')";
const ONE: Room = Room { time: Duration::MAX, tables: 1 };

/// One transaction of a first installation by a process that is killed then.
fn slice(connection: &mut Connection, plan: &mut Plan) {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    plan.slice(&transaction, ONE).unwrap();
    transaction.commit().unwrap();
}

fn planned(connection: &Connection) -> Plan {
    Plan::make(connection, &Schema::default()).unwrap()
}

/// The triggers of a table, without its number.
fn triggers_of(scratch: &Scratch, table: &str) -> String {
    let number = format!("(SELECT id FROM __harmonylite__table WHERE name = '{table}')");
    let mut sql = "sql".to_owned();
    let inserted = format!("((1 << 24) + {number})");
    for (before, number, after) in [
        ("__harmonylite__", &number, "_"),
        ("VALUES(", &number, ","),
        ("VALUES(", &inserted, ","),
        ("SELECT ", &number, ","),
        ("SELECT -", &number, ","),
    ] {
        sql = format!("replace({sql}, '{before}' || {number} || '{after}', '{before}N{after}')");
    }
    scratch.value(&format!(
        "SELECT group_concat({sql}, '; ') FROM \
         (SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = '{table}' ORDER BY name)"
    ))
}

fn incarnation(scratch: &Scratch) -> String {
    scratch.value("SELECT value FROM __harmonylite__state WHERE kind = 'meta' AND name = 'incarnation'")
}

fn logged(scratch: &Scratch) -> String {
    scratch.value(
        "SELECT group_concat(name || k1, ' ') FROM (SELECT n.name, k1 FROM __harmonylite__log l \
         JOIN __harmonylite__table n ON n.id = abs(l.t) % (1 << 24) ORDER BY l.id)",
    )
}

#[test]
fn a_first_installation_that_is_killed_ends_as_one_that_is_not() {
    let whole = Scratch::new("plan-whole", SCHEMA);
    install(&mut crate::db::open::open(&whole.path).unwrap()).unwrap();
    assert_eq!(logged(&whole), "NULL");
    for slices in 1..=5 {
        let scratch = Scratch::new("plan-killed", SCHEMA);
        let mut ours = crate::db::open::open(&scratch.path).unwrap();
        let mut plan = planned(&ours);
        assert!(plan.first);
        // The index that keeps the rowids of table a.
        slice(&mut ours, &mut plan);
        (0..slices).for_each(|_| slice(&mut ours, &mut plan));
        assert_eq!(plan.finished, slices >= 4, "{slices} tables of 4");
        drop((ours, plan));
        let before = incarnation(&scratch);
        // Meanwhile the application goes on: only what is captured is logged, and a table that comes now is a new one.
        scratch.app.execute_batch("CREATE TABLE f(k INTEGER PRIMARY KEY); INSERT INTO f VALUES(7)").unwrap();
        let (schema, done) = install(&mut crate::db::open::open(&scratch.path).unwrap()).unwrap();
        assert_eq!(done.new_tables, [("f".to_owned(), 1)], "{slices}");
        assert_eq!(logged(&scratch), "'f7'");
        assert_eq!(incarnation(&scratch), before);
        assert_eq!(schema.by_number.len(), 5);
        for table in ["a", "b", "c", "d"] {
            assert_eq!(triggers_of(&scratch, table), triggers_of(&whole, table), "{slices}");
        }
        assert_eq!(scratch.value("SELECT count(*) FROM __harmonylite__state WHERE name = 'installing'"), "0");
        scratch.app.execute_batch("CREATE TABLE g(k INTEGER PRIMARY KEY); INSERT INTO g VALUES(8)").unwrap();
        let (_, done) = install(&mut crate::db::open::open(&scratch.path).unwrap()).unwrap();
        assert_eq!(done.new_tables, [("g".to_owned(), 1)], "the first installation is over");
    }
}

#[test]
fn a_table_is_captured_from_the_transaction_on_that_makes_its_triggers() {
    let scratch = Scratch::new(
        "plan-between",
        "CREATE TABLE a(k INTEGER PRIMARY KEY); CREATE TABLE b(k INTEGER PRIMARY KEY)",
    );
    let mut ours = crate::db::open::open(&scratch.path).unwrap();
    let mut plan = planned(&ours);
    let last = plan.tables[0].clone();
    let first = plan.tables[1].clone();
    slice(&mut ours, &mut plan);
    let write = |key: i64| {
        scratch
            .app
            .execute_batch(&format!("INSERT INTO a VALUES({key}); INSERT INTO b VALUES({key})"))
            .unwrap();
    };
    write(1);
    assert_eq!(logged(&scratch), format!("'{first}1'"));
    slice(&mut ours, &mut plan);
    write(2);
    assert!(
        logged(&scratch).contains(&format!("{last}2")) && !logged(&scratch).contains(&format!("{last}1"))
    );
    assert!(plan.finished && planned(&ours).finished);
}

#[test]
fn a_change_of_one_table_touches_only_its_triggers() {
    let tables: String =
        (0..60).map(|n| format!("CREATE TABLE t{n}(k INTEGER PRIMARY KEY, v UNIQUE);")).collect();
    let scratch = Scratch::new("plan-one", &tables);
    let mut ours = crate::db::open::open(&scratch.path).unwrap();
    install(&mut ours).unwrap();
    let rows =
        "SELECT group_concat(rowid || sql) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name <> 't7'";
    let before = scratch.value(rows);
    for change in ["CREATE UNIQUE INDEX i ON t7(v, k)", "DROP INDEX i", "ALTER TABLE t7 ADD COLUMN w"] {
        scratch.app.execute_batch(change).unwrap();
        let plan = planned(&ours);
        assert_eq!(plan.tables.len(), usize::from(!change.starts_with("ALTER")), "{change}");
        install(&mut ours).unwrap();
        assert_eq!(scratch.value(rows), before, "{change}");
        assert!(planned(&ours).finished, "{change}");
    }
}

#[test]
fn a_longer_key_widens_the_log_and_keeps_its_entries() {
    let scratch = Scratch::new("plan-wide", "CREATE TABLE a(k INTEGER PRIMARY KEY)");
    let mut ours = crate::db::open::open(&scratch.path).unwrap();
    install(&mut ours).unwrap();
    scratch.app.execute_batch("INSERT INTO a VALUES(1); CREATE TABLE b(k, l, m, PRIMARY KEY(k, l, m)); INSERT INTO b VALUES(2, 3, 4)").unwrap();
    let (_, done) = install(&mut ours).unwrap();
    assert_eq!(done.new_tables, [("b".to_owned(), 1)]);
    assert_eq!(
        scratch.value("SELECT group_concat(k1 || ifnull(k2, '') || ifnull(k3, '')) FROM __harmonylite__log"),
        "'1,234'"
    );
    scratch.app.execute_batch("INSERT INTO b VALUES(5, 6, 7)").unwrap();
    assert_eq!(scratch.value("SELECT k1 || k2 || k3 FROM __harmonylite__log WHERE id = 3"), "'567'");
    assert_eq!(scratch.value("SELECT * FROM pragma_integrity_check"), "'ok'");
}
