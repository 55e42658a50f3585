//! Changes of the schema carried out, and two databases that come to the same.

use super::*;
use crate::base::mutants::each_seed;
use crate::db::capture::install::install;
use crate::db::migrate::random_changes::Random;
use crate::db::migrate::{self, Looker};
use crate::db::state;
use crate::model::value::Value;

fn database(sql: &str) -> Connection {
    let mut connection = Connection::open_in_memory().unwrap();
    connection.execute_batch("PRAGMA foreign_keys=OFF").unwrap();
    state::create(&connection).unwrap();
    connection.execute_batch(sql).unwrap();
    look(&mut connection);
    connection
}

fn look(connection: &mut Connection) -> Option<Change> {
    let (schema, _) = install(connection).unwrap();
    migrate::look(connection, &schema, Looker { node: 1, travels: true }).unwrap()
}

/// Carries out a change as a node does that captures.
fn follow(connection: &mut Connection, change: &Change, terms: &Terms) -> Carried {
    let triggers = rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
    connection.set_db_config(triggers, false).unwrap();
    let carried = carry_out(connection, change, terms).unwrap_or_else(|error| panic!("{change:?}: {error}"));
    connection.set_db_config(triggers, true).unwrap();
    install(connection).unwrap();
    let difference = migrate::difference(connection).unwrap();
    migrate::remember(connection, &difference).unwrap();
    carried
}

/// What the application has: statements, laid out in one way, and rows with the classes of their values.
fn content(connection: &Connection) -> Vec<String> {
    let mut found = vec![];
    let mut list = connection
        .prepare(
            "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE '\\_\\_harmonylite%' ESCAPE '\\' \
             AND name NOT LIKE 'sqlite%' ORDER BY 1, 2",
        )
        .unwrap();
    let all = list.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    for (kind, name, sql) in all.collect::<Result<Vec<(String, String, String)>, _>>().unwrap() {
        let tokens = crate::db::indexes::tokens(&sql);
        let words: Vec<String> = tokens.iter().map(|t| statement::bare(&sql[t.0..t.1])).collect();
        found.push(words.join(" "));
        if kind == "table" {
            let mut rows = connection.prepare(&format!("SELECT * FROM {} ORDER BY 1", quote(&name))).unwrap();
            let width = rows.column_count();
            let rows = rows
                .query_map([], |row| {
                    (0..width).map(|at| row.get::<_, Value>(at)).collect::<Result<Vec<_>, _>>()
                })
                .unwrap();
            found.extend(rows.map(|row| format!("{name}: {:?}", row.unwrap())));
        }
    }
    found
}

#[test]
fn what_one_node_did_another_one_does() {
    let start = "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT, b); CREATE INDEX i ON t(a); \
                 CREATE TABLE log(x); CREATE TRIGGER tr AFTER UPDATE ON t BEGIN INSERT INTO log VALUES(NEW.a); END; \
                 INSERT INTO t(a, b) VALUES('x', 1), ('y', 2); DELETE FROM t WHERE id = 2";
    for sql in [
        "ALTER TABLE t ADD COLUMN n TEXT NOT NULL DEFAULT 'd'",
        "ALTER TABLE t DROP COLUMN b",
        "ALTER TABLE t RENAME COLUMN a TO z",
        "ALTER TABLE t RENAME TO s",
        "ALTER TABLE t RENAME TO s; ALTER TABLE s RENAME COLUMN b TO q; ALTER TABLE s ADD COLUMN w",
        "ALTER TABLE t RENAME TO s; CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT, b)",
        "ALTER TABLE t RENAME TO s; ALTER TABLE log RENAME TO t; CREATE TABLE log(y)",
        "ALTER TABLE t RENAME TO s; ALTER TABLE log RENAME TO t; ALTER TABLE s RENAME TO log",
        "CREATE TABLE k(x PRIMARY KEY) WITHOUT ROWID; CREATE UNIQUE INDEX ki ON k(x); CREATE VIEW v AS SELECT * FROM k",
        "DROP TRIGGER tr; DROP TABLE log",
        "DROP INDEX i; CREATE UNIQUE INDEX i ON t(a, b)",
        "DROP TRIGGER tr; CREATE TRIGGER tr AFTER DELETE ON t BEGIN INSERT INTO log VALUES(OLD.a); END",
        "CREATE TABLE n(id INTEGER PRIMARY KEY AUTOINCREMENT, b INTEGER CHECK(b > 0), c TEXT NOT NULL); \
         INSERT INTO n SELECT id, b, 'c' FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t; CREATE INDEX i ON t(c)",
    ] {
        let (mut one, mut two) = (database(start), database(start));
        one.execute_batch(sql).unwrap();
        let change = look(&mut one).unwrap();
        let carried = follow(&mut two, &change, &Terms::default());
        assert_eq!(content(&one), content(&two), "{sql}\n{change:?}");
        assert!(carried.lost.is_empty() && carried.changed, "{sql}");
        // Once more: nothing is left to do, unless names were exchanged.
        assert!(
            sql.contains("RENAME TO log") || !follow(&mut two, &change, &Terms::default()).changed,
            "{sql}"
        );
        assert!(look(&mut two).is_none(), "{sql}");
        let high = |of: &Connection| {
            of.query_row("SELECT max(seq) FROM sqlite_sequence", [], |row| row.get::<_, i64>(0))
        };
        assert_eq!(high(&one).unwrap(), high(&two).unwrap(), "{sql}");
    }
}

#[test]
fn what_a_change_takes_away_is_kept_and_comes_back() {
    let start = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b TEXT); CREATE INDEX i ON t(a); INSERT INTO t VALUES(1, 'x', 'y'); \
                 CREATE TABLE gone(a, b); CREATE INDEX gi ON gone(b); INSERT INTO gone(rowid, a, b) VALUES(7, 1, 2)";
    let (mut one, mut two) = (database(start), database(start));
    let before = content(&two);
    one.execute_batch("ALTER TABLE t DROP COLUMN b; DROP TABLE gone").unwrap();
    let change = look(&mut one).unwrap();
    follow(&mut two, &change, &Terms { keeps: true, ..Terms::default() });
    assert_eq!(content(&one), content(&two));
    let all = kept::all(&two).unwrap();
    assert_eq!(all.len(), 2);
    for kept in &all {
        assert_eq!(kept::bring_back(&two, kept).unwrap(), 1, "{kept:?}");
    }
    assert_eq!(content(&two), before);
    assert!(kept::all(&two).unwrap().is_empty());
}

/// What is kept of a dropped table does not hold the rows that it referred to: the application knows of no such table.
#[test]
fn what_is_kept_refers_to_nothing() {
    let parent = "CREATE TABLE p(id INTEGER PRIMARY KEY, x UNIQUE, y, UNIQUE(x, y)); INSERT INTO p VALUES(1, 'a', 'b')";
    let actions = ["", "ON DELETE CASCADE", "ON UPDATE SET NULL ON DELETE NO ACTION", "ON DELETE RESTRICT"];
    let deferred = ["", "DEFERRABLE INITIALLY DEFERRED", "MATCH SIMPLE NOT DEFERRABLE"];
    let forms = [
        "id INTEGER PRIMARY KEY, r CONSTRAINT named REFERENCES p $ NOT NULL, z UNIQUE, g AS (z + 1))",
        "id TEXT PRIMARY KEY, r REFERENCES p(id) $ DEFAULT 1, z CHECK (z <> 'references')) WITHOUT ROWID",
        "id, r, z, CONSTRAINT one FOREIGN KEY (id, z) REFERENCES p(x, y) $, CONSTRAINT two UNIQUE (id))",
        "id, r, z DEFAULT (1 + 1), FOREIGN KEY(r) REFERENCES \"p\" $ UNIQUE(z))",
    ];
    for at in 0..forms.len() * actions.len() * deferred.len() {
        let form = forms[at % forms.len()];
        let action = actions[at / forms.len() % actions.len()];
        let deferred = deferred[at / forms.len() / actions.len()];
        let table = form.replace('$', &format!("{action} {deferred}"));
        let start = format!("{parent}; CREATE TABLE c({table}; INSERT INTO c(id, r, z) VALUES('1', 1, 'b')");
        let (mut one, mut two) = (database(&start), database(&start));
        let before = content(&two);
        one.execute_batch("DROP TABLE c").unwrap();
        let change = look(&mut one).unwrap();
        follow(&mut two, &change, &Terms { keeps: true, ..Terms::default() });
        two.execute_batch("PRAGMA foreign_keys=ON; SAVEPOINT s; UPDATE p SET id = 2, x = 'c'; DELETE FROM p")
            .expect(&table);
        two.execute_batch("ROLLBACK TO s; RELEASE s; PRAGMA foreign_keys=OFF").unwrap();
        let check: String = two.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok", "{table}");
        let kept = kept::all(&two).unwrap().remove(0);
        assert_eq!(kept::bring_back(&two, &kept).unwrap(), 1, "{table}");
        assert_eq!(content(&two), before);
    }
}

#[test]
fn what_is_no_change_of_a_schema_is_refused() {
    let connection = database("CREATE TABLE t(a)");
    for step in [
        Step::Create { kind: Thing::Table, name: "u".into(), sql: "CREATE TABLE u(a); DROP TABLE t".into() },
        Step::Create { kind: Thing::View, name: "u".into(), sql: "DELETE FROM t".into() },
        Step::AlterTable {
            table: "t".into(),
            was: "CREATE TABLE t(a)".into(),
            sql: "CREATE TABLE t(a, b)".into(),
            columns: vec![Column { name: "b".into(), from: None, fill: Some("(SELECT 1)".into()) }],
            dropped: vec![],
        },
    ] {
        let change = Change::new(1, 0, ("", ""), vec![step.clone()]);
        assert!(carry_out(&connection, &change, &Terms::default()).is_err(), "{step:?}");
    }
    assert!(sql_of(&connection, Thing::Table, "t").unwrap().is_some());
}

/// All rows of a new table are published, and of one whose columns cannot be told.
fn publish_new(one: &Connection, two: &Connection, change: &Change) {
    for step in &change.steps {
        let table = match step {
            Step::Create { kind: Thing::Table, name, .. } => name,
            Step::AlterTable { table, .. } => table,
            _ => continue,
        };
        let rows: i64 =
            one.query_row(&format!("SELECT count(*) FROM {}", quote(table)), [], |row| row.get(0)).unwrap();
        let numbers = crate::db::capture::log_table::numbers(one).unwrap();
        let logged = crate::db::capture::log_table::count_of(one, numbers[table]).unwrap();
        let compared = state::rebuilt(one).unwrap().iter().any(|(rebuilt, _)| rebuilt == table);
        if !compared && (rows == 0 || logged < rows) {
            continue;
        }
        two.execute(&format!("DELETE FROM {}", quote(table)), []).unwrap();
        let mut all = one.prepare(&format!("SELECT * FROM {}", quote(table))).unwrap();
        let width = all.column_count();
        let places = vec!["?"; width].join(", ");
        let mut all = all.query([]).unwrap();
        while let Some(row) = all.next().unwrap() {
            let values: Vec<Value> = (0..width).map(|at| row.get(at).unwrap()).collect();
            let sql = format!("INSERT INTO {} VALUES({places})", quote(table));
            two.execute(&sql, rusqlite::params_from_iter(values)).unwrap();
        }
    }
    two.execute_batch("DELETE FROM __harmonylite__log").unwrap();
}

/// Whatever the application makes of its schema, in one look or in several, another database with the same rows follows.
#[test]
fn mutants_of_a_schema_are_followed() {
    let (mut changes, mut steps) = (0, 0);
    each_seed("schemas", |dice| {
        // Each one takes as long as hundreds of other mutants.
        if dice.below(20) != 0 {
            return;
        }
        let mut random = Random::new(dice);
        let start: Vec<String> = (0..2).map(|_| random.table()).collect();
        let (mut one, mut two) = (database(&start.join("; ")), database(&start.join("; ")));
        for _ in 0..3 {
            let mut done = vec![];
            for _ in 0..1 + random.dice.below(3) {
                let sql = random.statement(&one);
                one.execute_batch("SAVEPOINT s").unwrap();
                let worked = one.execute_batch(&sql).is_ok();
                one.execute_batch(if worked { "RELEASE s" } else { "ROLLBACK TO s; RELEASE s" }).unwrap();
                if worked {
                    done.push(sql);
                }
            }
            if let Some(change) = look(&mut one) {
                (changes, steps) = (changes + 1, steps + change.steps.len());
                let carried = follow(&mut two, &change, &Terms::default());
                assert!(carried.lost.is_empty(), "{done:#?}\n{:?}", carried.lost);
                publish_new(&one, &two, &change);
            }
            one.execute_batch("DELETE FROM __harmonylite__log").unwrap();
            assert_eq!(content(&one), content(&two), "{done:#?}");
            assert!(look(&mut two).is_none());
        }
    });
    assert!(changes > 50 && steps > changes, "{changes} {steps}");
}
