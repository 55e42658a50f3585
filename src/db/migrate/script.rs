//! The statements of a migration that every node runs itself: they must come to the same on each.

use crate::db::indexes::tokens;
use crate::db::{error::Error, migrate::statement::bare};
use crate::model::change::Script;
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{Batch, Connection};

/// What a statement may begin with.
const HEADS: [&str; 10] =
    ["create", "alter", "drop", "insert", "update", "delete", "replace", "with", "select", "reindex"];
/// What has another value on each node.
const RANDOM: [&str; 9] = [
    "random",
    "randomblob",
    "current_timestamp",
    "current_date",
    "current_time",
    "last_insert_rowid",
    "changes",
    "total_changes",
    "sqlite_version",
];

/// Runs them, inside of a transaction. Triggers do not fire.
pub fn run(connection: &Connection, script: &Script) -> Result<(), Error> {
    let mut batch = Batch::new(connection, &script.sql);
    let mut number = 0;
    loop {
        number += 1;
        let at = |error: Error| match error {
            Error::Other(why) | Error::Mismatch(why) => {
                Error::Mismatch(format!("{}, statement {number}: {why}", script.name))
            }
            other => other,
        };
        let Some(mut statement) = batch.next().map_err(|error| at(error.into()))? else { return Ok(()) };
        let text = statement.expanded_sql().unwrap_or_default();
        if let Some(why) = refused(&text) {
            return Err(at(Error::Mismatch(why)));
        }
        let mut rows = statement.query([]).map_err(|error| at(error.into()))?;
        while rows.next().map_err(|error| at(error.into()))?.is_some() {}
    }
}

/// Why a statement cannot be part of a migration; `None`: it can.
fn refused(sql: &str) -> Option<String> {
    let words: Vec<String> = tokens(sql).iter().map(|token| sql[token.0..token.1].to_lowercase()).collect();
    let head = words.first().map_or("", String::as_str);
    let second = words.get(1).map_or("", String::as_str);
    if !HEADS.contains(&head) {
        return Some(format!("{head}: accepted are {}", HEADS.join(", ")));
    }
    if matches!(second, "temp" | "temporary" | "virtual") {
        return Some(format!("{head} {second}: only what every node keeps can be made"));
    }
    if words.iter().any(|word| bare(word).starts_with(crate::base::limits::PREFIX)) {
        return Some("it names a table of this program".to_owned());
    }
    let writes = matches!(head, "insert" | "update" | "delete" | "replace" | "with");
    let other = words.iter().find(|word| RANDOM.contains(&word.as_str()) || *word == "'now'");
    other
        .filter(|_| writes)
        .map(|word| format!("{word} has another value on each node: write the value itself"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(sql: &str) -> Result<i64, String> {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 1); CREATE TABLE __harmonylite__log(t)")
            .unwrap();
        connection.execute_batch("BEGIN").unwrap();
        let script = Script { name: "m.sql".into(), sql: sql.into() };
        run(&connection, &script).map_err(|error| error.to_string())?;
        Ok(connection.query_row("SELECT sum(v) FROM t", [], |row| row.get(0)).unwrap())
    }

    #[test]
    fn statements_are_run_in_their_order() {
        let sql = "ALTER TABLE t ADD COLUMN w; -- a comment; with a semicolon\nCREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END;\n\
                   UPDATE t SET v = 5; SELECT * FROM t; CREATE TABLE u(a DEFAULT CURRENT_TIMESTAMP);";
        assert_eq!(ran(sql), Ok(5));
        assert_eq!(ran(""), Ok(1));
    }

    #[test]
    fn what_every_node_would_do_otherwise_is_refused() {
        for (sql, why) in [
            ("UPDATE t SET v = random()", "m.sql, statement 1: random has another value"),
            ("SELECT 1; INSERT INTO t(v) VALUES(datetime('now'))", "statement 2: 'now'"),
            ("PRAGMA user_version = 3", "pragma: accepted are create"),
            ("COMMIT", "commit: accepted"),
            ("CREATE TEMP TABLE x(a)", "create temp"),
            ("DELETE FROM __harmonylite__log", "a table of this program"),
            ("UPDATE nowhere SET a = 1", "no such table"),
        ] {
            let error = ran(sql).unwrap_err();
            assert!(error.contains(why), "{sql}: {error}");
        }
    }
}
