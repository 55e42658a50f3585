//! A table's `INTEGER PRIMARY KEY` made AUTOINCREMENT, and back: the word in the statement that made the table, and the highest key in
//! `sqlite_sequence`, which is what SQLite's documentation names for such a change
//! (<https://www.sqlite.org/lang_altertable.html>: a change that does not touch what is on the disk). No row is written.

use crate::db::indexes;
use crate::db::schema::Schema;
use crate::db::{
    error::Error,
    open, schema_rows,
    sql::{literal, quote},
    table::{Keyed, Table},
};
use rusqlite::{Connection, TransactionBehavior, params};
use std::path::Path;

const STATEMENT: &str = "SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?1";
const SET_STATEMENT: &str = "UPDATE main.sqlite_schema SET sql = ?2 WHERE type = 'table' AND name = ?1";
const HAS_SEQUENCE: &str = "SELECT EXISTS(SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence')";
/// SQLite makes `sqlite_sequence` with the first such table, and keeps it.
const MAKE_SEQUENCE: &str = "CREATE TABLE __harmonylite__made(id INTEGER PRIMARY KEY AUTOINCREMENT); \
     DROP TABLE __harmonylite__made";

/// Makes the key of a table AUTOINCREMENT, or a plain one again. False: it is so already.
pub fn set_autoincrement(path: &Path, name: &str, on: bool) -> Result<bool, Error> {
    let mut connection = open::open(path)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = Schema::read_numbered(&transaction)?;
    let table = before.find(name).cloned().ok_or_else(|| {
        let why = before.refused.get(name).map_or("there is no such table", |why| why);
        Error::Mismatch(format!("table {name}: {why}"))
    })?;
    if table.autoincrement == on {
        return Ok(false);
    }
    if on && !transaction.query_row(HAS_SEQUENCE, [], |row| row.get(0))? {
        transaction.execute_batch(MAKE_SEQUENCE)?;
    }
    let sql: String = transaction.query_row(STATEMENT, [&*table.name], |row| row.get(0))?;
    let changed = changed(&sql, &table, on)?;
    schema_rows::write(&transaction, || {
        transaction.execute(SET_STATEMENT, params![&*table.name, changed])?;
        Ok(())
    })?;
    check(&transaction, &before, &table, on)?;
    let place = quote(&table.name);
    transaction.execute("DELETE FROM main.sqlite_sequence WHERE name = ?1", [&*table.name])?;
    if on {
        let key = quote(&table.key[0].name);
        let sql = format!(
            "INSERT INTO main.sqlite_sequence(name, seq) SELECT {}, coalesce(max({key}), 0) FROM main.{place}",
            literal(&table.name)
        );
        transaction.execute(&sql, [])?;
    }
    transaction.commit()?;
    Ok(true)
}

/// Reads the schema as it is now. What is wrong with it, nobody else has seen yet.
fn check(connection: &Connection, before: &Schema, table: &Table, on: bool) -> Result<(), Error> {
    connection.execute_batch("PRAGMA writable_schema=RESET")?;
    let after = Schema::read_numbered(connection)?;
    let unexpected =
        |why: String| Error::Mismatch(format!("table {}: {why}: nothing is changed", table.name));
    if after.hash != before.hash {
        return Err(unexpected("Go nodes would see another schema".to_owned()));
    }
    let now = after.tables.get(&table.name).map(|now| (now.autoincrement, now.keyed));
    if now != Some((on, Keyed::RowidAlias)) {
        return Err(unexpected("its statement cannot be changed so".to_owned()));
    }
    let sql = format!("PRAGMA main.integrity_check({})", quote(&table.name));
    let found: String = connection.query_row(&sql, [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(unexpected(found)) }
}

/// The statement with or without the word.
fn changed(sql: &str, table: &Table, on: bool) -> Result<String, Error> {
    if table.keyed != Keyed::RowidAlias {
        let why = "only INTEGER PRIMARY KEY can be AUTOINCREMENT";
        return Err(Error::Mismatch(format!("table {}: {why}", table.name)));
    }
    let tokens = indexes::tokens(sql);
    let word = |at: usize| tokens.get(at).map_or("", |token| &sql[token.0..token.1]);
    let is = |at: usize, wanted: &str| word(at).eq_ignore_ascii_case(wanted);
    if !on {
        let at = (0..tokens.len()).find(|at| is(*at, "autoincrement"));
        let Some(at) = at else { return Ok(sql.to_owned()) };
        return Ok(format!("{}{}", sql[..tokens[at].0].trim_end(), &sql[tokens[at].1..]));
    }
    let (mut depth, mut key) = (0, None);
    for at in 0..tokens.len() {
        match word(at) {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ if depth == 1 && is(at, "primary") && is(at + 1, "key") => key = Some(at + 1),
            _ => {}
        }
    }
    let misplaced = || {
        let why = "its key is declared apart from its column: only in the column's own definition it can be AUTOINCREMENT";
        Error::Mismatch(format!("table {}: {why}", table.name))
    };
    let mut last = key.filter(|key| word(key + 1) != "(").ok_or_else(misplaced)?;
    if is(last + 1, "asc") {
        last += 1;
    }
    if is(last + 1, "on") && is(last + 2, "conflict") {
        last += 3;
    }
    let end = tokens.get(last).ok_or_else(misplaced)?.1;
    Ok(format!("{} AUTOINCREMENT{}", &sql[..end], &sql[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::scratch::Scratch;

    fn statement(scratch: &Scratch) -> String {
        scratch.value("SELECT sql FROM sqlite_schema WHERE name LIKE 't%' AND type = 'table'")
    }

    #[test]
    fn a_key_becomes_autoincrement_and_plain_again() {
        for (at, sql) in [
            "CREATE TABLE t(id INTEGER PRIMARY KEY, v)",
            "create table \"t\"(v DEFAULT 'primary key', \"i d\" integer not null primary key asc on conflict abort /* x */ check (v <> 'a'), w)",
            "CREATE TABLE t (\n  v INT CHECK (v IN (1, 2)), -- PRIMARY KEY\n  id INTEGER CONSTRAINT pk PRIMARY KEY NOT NULL\n) STRICT",
        ]
        .into_iter()
        .enumerate()
        {
            let scratch = Scratch::new(&format!("autoincrement-{at}"), sql);
            scratch.app.execute_batch("INSERT INTO t(rowid, v) VALUES(7, 1), (3, 2)").unwrap();
            let (before, rows) = (statement(&scratch), scratch.value("SELECT count(*) FROM t"));
            assert!(set_autoincrement(&scratch.path, "T", true).unwrap());
            assert!(!set_autoincrement(&scratch.path, "t", true).unwrap());
            assert_eq!(scratch.value("SELECT seq FROM sqlite_sequence WHERE name = 't'"), "7");
            scratch.app.execute_batch("DELETE FROM t WHERE rowid = 7; INSERT INTO t(v) VALUES(1)").unwrap();
            assert_eq!(scratch.value("SELECT max(rowid) FROM t"), "8");
            assert!(set_autoincrement(&scratch.path, "t", false).unwrap());
            assert_eq!(statement(&scratch), before);
            scratch.app.execute_batch("DELETE FROM t WHERE rowid = 8; INSERT INTO t(v) VALUES(1)").unwrap();
            assert_eq!(scratch.value("SELECT max(rowid) FROM t"), "4");
            assert_eq!(scratch.value("SELECT count(*) FROM t"), rows);
            assert_eq!(scratch.value("SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"), "0");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        for (at, (sql, why)) in [
            ("CREATE TABLE t(id INTEGER, v, PRIMARY KEY(id))", "declared apart from its column"),
            ("CREATE TABLE t(id TEXT PRIMARY KEY, v)", "only INTEGER PRIMARY KEY"),
            ("CREATE TABLE t(id INTEGER PRIMARY KEY, v) WITHOUT ROWID", "only INTEGER PRIMARY KEY"),
            ("CREATE TABLE t(v)", "only INTEGER PRIMARY KEY"),
            ("CREATE TABLE tt(v)", "there is no such table"),
        ]
        .into_iter()
        .enumerate()
        {
            let scratch = Scratch::new(&format!("no-autoincrement-{at}"), sql);
            let before = statement(&scratch);
            let error = set_autoincrement(&scratch.path, "t", true).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert_eq!(statement(&scratch), before);
        }
    }
}
