//! What capture logs of random statements on random tables: every row that a statement changed, and none that it did not write.
//! `HARMONYLITE_SEED` repeats a run.

use super::*;
use crate::db::scratch::Scratch;
use crate::model::event::Kind;
use rusqlite::Connection;
use std::collections::BTreeMap;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % n as u64).unwrap()
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

/// A table `t` with a key `k` and columns `a`, `b`, `c`, and something generated.
fn table(random: &mut Random) -> String {
    let key = random.of(&[
        "k INTEGER PRIMARY KEY",
        "k INTEGER PRIMARY KEY AUTOINCREMENT",
        "k TEXT PRIMARY KEY NOT NULL",
        "k NOT NULL PRIMARY KEY",
    ]);
    let a =
        random.of(&["a UNIQUE", "a NOT NULL DEFAULT 3 UNIQUE", "a TEXT NOT NULL DEFAULT '2' UNIQUE", "a"]);
    let b = random.of(&["b", "b UNIQUE", "b NOT NULL DEFAULT (1 + 1)", "b COLLATE NOCASE"]);
    // What a generated column becomes by a default that REPLACE writes for NULL, no trigger can see.
    let generated = match b.contains("DEFAULT") {
        true => random.of(&["", ", g AS (c % 3) STORED"]),
        false => random.of(&["", ", g AS (b % 3)", ", g AS (c % 3) STORED", ", g AS (b % 4) UNIQUE"]),
    };
    let index = random.of(&[
        "",
        "CREATE UNIQUE INDEX i ON t(b, c)",
        "CREATE UNIQUE INDEX i ON t(b) WHERE c > 2",
        "CREATE UNIQUE INDEX i ON t(abs(b) % 5)",
        "CREATE UNIQUE INDEX i ON t(c, k)",
    ]);
    let generated_index = match generated {
        "" => "",
        _ => random.of(&["", "CREATE UNIQUE INDEX j ON t(g)", "CREATE UNIQUE INDEX j ON t(g, c)"]),
    };
    format!("CREATE TABLE t({key}, {a}, {b}, c{generated}); {index}; {generated_index};")
}

/// A statement, and whether it writes only what it changes.
fn statement(random: &mut Random, key: &str) -> (String, bool) {
    let value =
        |random: &mut Random| random.of(&["NULL", "0", "1", "2", "3", "4", "5", "'x'", "'X'"]).to_owned();
    let set = random.of(&["k", "a", "b", "c", key]).to_owned();
    let (k, a, b, c) = (random.below(6), value(random), value(random), value(random));
    let (from, to, now) = (random.below(6), random.below(6), value(random));
    let conflict = random.of(&["", " OR REPLACE", " OR IGNORE", " OR FAIL", " OR ROLLBACK"]);
    let values = format!("INTO t(k, a, b, c) VALUES({k}, {a}, {b}, {c}), ({from}, {b}, {c}, {a})");
    match random.below(8) {
        0 => (format!("INSERT{conflict} {values}"), conflict == " OR IGNORE"),
        1 => (format!("REPLACE {values}"), false),
        2 => (format!("INSERT {values} ON CONFLICT DO NOTHING"), true),
        3 => (format!("INSERT {values} ON CONFLICT(k) DO UPDATE SET {set} = {now}"), false),
        4 => (format!("UPDATE{conflict} t SET {set} = {now} WHERE k = {to}"), false),
        5 => (format!("UPDATE{conflict} t SET {set} = {to}, c = {from} WHERE k > {k}"), false),
        6 => (format!("DELETE FROM t WHERE k = {from}"), true),
        _ => (format!("INSERT{conflict} INTO t(a, b) VALUES({a}, {b})"), conflict == " OR IGNORE"),
    }
}

fn rows(app: &Connection) -> BTreeMap<String, String> {
    let mut statement =
        app.prepare("SELECT typeof(k) || quote(k), quote(a) || quote(b) || quote(c) FROM t").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

/// Key and image of what is published.
fn published(app: &Connection, log: &mut ChangeLog) -> BTreeMap<String, Option<String>> {
    let batch = log.read(10_000).unwrap();
    let quoted =
        |value: &Value| -> String { app.query_row("SELECT quote(?1)", [value], |row| row.get(0)).unwrap() };
    let changes = batch.changes.into_iter().map(|change| {
        let row = &change.event.row;
        let key: String = app.query_row("SELECT typeof(?1) || quote(?1)", [&row[0].1], |r| r.get(0)).unwrap();
        let image = (change.event.kind == Kind::Insert)
            .then(|| row[1..4].iter().map(|(_, value)| quoted(value)).collect::<String>());
        (key, image)
    });
    changes.collect()
}

fn try_statements(seed: u64) {
    let mut random = Random(seed);
    let sql = table(&mut random);
    let scratch = Scratch::new(&format!("statements{seed}"), &sql);
    let app = &scratch.app;
    app.execute_batch("PRAGMA synchronous=OFF").unwrap();
    let (mut log, _) = ChangeLog::open(&scratch.path, 7).unwrap();
    let alias = if sql.contains("INTEGER PRIMARY KEY") { "rowid" } else { "c" };
    for _ in 0..40 {
        let before = rows(app);
        let (statement, is_exact) = statement(&mut random, alias);
        let told = format!("seed {seed}: {sql} {statement}");
        if app.execute_batch(&statement).is_err() && !app.is_autocommit() {
            app.execute_batch("ROLLBACK").unwrap();
        }
        let after = rows(app);
        let told = format!("{told}\nbefore {before:?}\nafter {after:?}");
        let published = published(app, &mut log);
        for key in before.keys().chain(after.keys()) {
            if before.get(key) != after.get(key) {
                assert!(published.contains_key(key), "{told}: {key} is not published: {published:?}");
            } else if is_exact {
                assert!(!published.contains_key(key), "{told}: {key} is published");
            }
        }
        for (key, image) in &published {
            assert_eq!(image.as_ref(), after.get(key), "{told}: image of {key}");
            let is_key_of_nothing = !before.contains_key(key) && !after.contains_key(key);
            assert!(!(is_exact && is_key_of_nothing), "{told}: {key} is published and was never there");
        }
    }
}

#[test]
fn every_changed_row_is_published_and_none_that_a_statement_left_alone() {
    if let Some(seed) = std::env::var("HARMONYLITE_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return try_statements(seed);
    }
    for seed in 0..300 {
        try_statements(seed);
    }
}

/// A statement that changes the schema of the tables of [`table`] and [`OTHER`], or writes a row.
fn change_of_schema(random: &mut Random) -> String {
    let name = random.of(&["t", "u"]);
    let column = random.of(&["a", "b", "c", "g", "v", "w", "added"]);
    let value = random.of(&["1", "2", "'x'", "NULL"]);
    match random.below(10) {
        0 | 1 => format!("DROP INDEX {}", random.of(&["i", "j", "iu", "ju"])),
        2..=4 => format!("ALTER TABLE {name} DROP COLUMN {column}"),
        5 => format!("ALTER TABLE {name} RENAME COLUMN {column} TO renamed_{column}"),
        6 => format!("ALTER TABLE {name} ADD COLUMN added DEFAULT 7"),
        7 => format!("REPLACE INTO {name}(k) VALUES({value})"),
        8 => format!("UPDATE OR REPLACE {name} SET k = {value}"),
        _ => format!("DELETE FROM {name} WHERE k = {value}"),
    }
}

const OTHER: &str = "CREATE TABLE u(k TEXT, v, w, g AS (v || 1), PRIMARY KEY(k, v)) WITHOUT ROWID;
    CREATE UNIQUE INDEX iu ON u(w); CREATE UNIQUE INDEX ju ON u(lower(w)) WHERE w IS NOT NULL;
    INSERT INTO u VALUES('1', 1, 'x'), ('2', 1, 'y');";

/// What an application is told of each statement in one transaction, and what its tables hold then.
fn outcomes(app: &Connection, statements: &[String]) -> Vec<String> {
    let run = |sql: &String| match app.execute_batch(sql) {
        Ok(()) => format!("{sql}: done"),
        Err(error) => format!("{sql}: {error}"),
    };
    let mut told: Vec<String> = statements.iter().map(run).collect();
    for name in ["t", "u"] {
        let mut statement = app.prepare(&format!("SELECT * FROM {name} ORDER BY 1, 2")).unwrap();
        let width = statement.column_count();
        let row = |row: &rusqlite::Row| (0..width).map(|at| row.get::<_, Value>(at)).collect();
        let rows: Vec<Vec<Value>> = statement.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap();
        told.push(format!("{name}: {rows:?}"));
    }
    told
}

#[test]
fn a_change_of_the_schema_goes_as_without_capture_at_each_place_of_a_transaction() {
    let mut done = 0;
    for seed in 0..1_000 {
        let mut random = Random(seed);
        let sql = format!("{} {OTHER}", table(&mut random));
        let statements: Vec<String> = (0..12).map(|_| change_of_schema(&mut random)).collect();
        let (plain, captured) =
            (Connection::open_in_memory().unwrap(), Connection::open_in_memory().unwrap());
        plain.execute_batch(&sql).unwrap();
        captured.execute_batch(&sql).unwrap();
        let mut captured = captured;
        crate::db::state::create(&captured).unwrap();
        install::install(&mut captured).unwrap();
        captured.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).unwrap();
        for app in [&plain, &captured] {
            app.execute_batch("INSERT INTO t(k, a, b, c) VALUES(1, 1, 1, 1), (2, 2, 2, 2); BEGIN").unwrap();
        }
        let (expected, found) = (outcomes(&plain, &statements), outcomes(&captured, &statements));
        assert_eq!(expected, found, "seed {seed}: {sql}");
        done +=
            expected.iter().filter(|told| told.contains("DROP COLUMN") && told.ends_with(": done")).count();
        captured.execute_batch("COMMIT").unwrap();
    }
    assert!(done > 400, "{done} columns were dropped");
}
