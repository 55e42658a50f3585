//! Rows of tables that are not replicated, carried from a damaged database into the one that takes its place: no other node has them.

use crate::db::{error::Error, open, sql::quote};
use crate::model::lists::Lists;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use std::path::Path;

/// What was carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub tables: usize,
    pub rows: usize,
    /// Tables of which not all could be read.
    pub unreadable: usize,
}

const TABLES: &str = "SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' \
     AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT IN (SELECT name FROM pragma_table_list WHERE type = 'shadow')";
const BELONGS: &str = "SELECT sql FROM main.sqlite_schema WHERE tbl_name = ?1 AND type IN ('index', 'trigger') AND sql IS NOT NULL";

/// Replaces the rows of excluded tables in the file at `prepared`, which nobody else uses, by those of the database at `damaged`, as far
/// as they can be read. Tables that only the damaged database has are made.
pub fn keep_excluded(damaged: &Path, prepared: &Path, lists: &Lists) -> Result<Kept, Error> {
    let mut kept = Kept::default();
    if lists.name_nothing() {
        return Ok(kept);
    }
    let target = open::open(prepared)?;
    let read = open::open(damaged).and_then(|source| Ok((tables(&source)?, source)));
    let (tables, source) = match read {
        Ok(read) => read,
        Err(error) => {
            log::warn!("{}: tables that are not replicated cannot be read: {error}", damaged.display());
            return Ok(Kept { unreadable: 1, ..kept });
        }
    };
    for (name, sql) in tables.iter().filter(|(name, _)| lists.exclude(name)) {
        let transaction = target.unchecked_transaction()?;
        match keep(&source, &target, (name, sql)) {
            Ok((rows, whole)) => {
                transaction.commit()?;
                kept.tables += 1;
                kept.rows += rows;
                if let Some(why) = whole {
                    log::warn!(
                        "table {name}, which is not replicated: {rows} rows of it could be read, and then: {why}"
                    );
                    kept.unreadable += 1;
                }
            }
            Err(error) => {
                drop(transaction);
                log::warn!("table {name}, which is not replicated, does not fit the snapshot: {error}");
                kept.unreadable += 1;
            }
        }
    }
    Ok(kept)
}

fn tables(connection: &Connection) -> Result<Vec<(String, String)>, Error> {
    let mut statement = connection.prepare(TABLES)?;
    let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Returns the number of rows, and why there are no more if not all could be read.
fn keep(
    source: &Connection,
    target: &Connection,
    (name, sql): (&str, &str),
) -> Result<(usize, Option<String>), Error> {
    let table = quote(name);
    if target.prepare(&format!("SELECT 1 FROM main.{table}")).is_err() {
        target.execute_batch(sql)?;
        let mut belongs = source.prepare(BELONGS)?;
        let statements = belongs.query_map([name], |row| row.get::<_, String>(0))?;
        for statement in statements.filter_map(Result::ok).filter(|sql| !sql.contains("__harmonylite__")) {
            // What cannot be made here, only the application can make.
            if let Err(error) = target.execute_batch(&statement) {
                log::warn!("table {name}: {error}");
            }
        }
    }
    target.execute_batch(&format!("DELETE FROM main.{table}"))?;
    let columns = columns(source, name)?;
    let places: Vec<String> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
    let list = columns.join(", ");
    let mut insert = target
        .prepare(&format!("INSERT OR IGNORE INTO main.{table}({list}) VALUES({})", places.join(", ")))?;
    let mut select = source.prepare(&format!("SELECT {list} FROM main.{table}"))?;
    let (mut rows, mut count) = (select.query([])?, 0);
    loop {
        match rows.next() {
            Ok(Some(row)) => {
                let values: Vec<Value> =
                    (0..columns.len()).map(|at| row.get(at)).collect::<Result<_, _>>()?;
                count += insert.execute(params_from_iter(values))?;
            }
            Ok(None) => return Ok((count, None)),
            Err(error) => return Ok((count, Some(error.to_string()))),
        }
    }
}

/// Names of the columns that are stored, and of the rowid where it is not one of them, quoted.
fn columns(connection: &Connection, table: &str) -> Result<Vec<String>, Error> {
    let sql = "SELECT name, pk FROM pragma_table_xinfo(?1) WHERE hidden = 0";
    let mut statement = connection.prepare(sql)?;
    let found =
        statement.query_map([table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)? > 0)))?;
    let found: Vec<(String, bool)> = found.collect::<Result<_, _>>()?;
    let mut names: Vec<String> = found.iter().map(|(name, _)| quote(name)).collect();
    // Without a key, the rowid may be what others refer to.
    let has_rowid = found.iter().any(|(name, key)| *key || name.eq_ignore_ascii_case("rowid"));
    if !has_rowid {
        names.push("rowid".to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::scratch::Scratch;

    #[test]
    fn rows_of_excluded_tables_are_carried_with_tables_that_only_the_old_one_has() {
        let old = Scratch::new(
            "keep-old",
            "CREATE TABLE t(a); CREATE TABLE mine(a, b AS (a)); CREATE TABLE my_other(k TEXT PRIMARY KEY) WITHOUT ROWID;
             CREATE UNIQUE INDEX i ON mine(a); INSERT INTO t VALUES(1); INSERT INTO mine(rowid, a) VALUES(7, x'00ff'), (9, 1.5);
             INSERT INTO my_other VALUES('x')",
        );
        let new = Scratch::new(
            "keep-new",
            "CREATE TABLE t(a); CREATE TABLE my_other(k TEXT PRIMARY KEY) WITHOUT ROWID; INSERT INTO t VALUES(2); INSERT INTO my_other VALUES('theirs')",
        );
        let lists = Lists { exclude: vec!["m*".to_owned()], ..Lists::default() };
        let kept = keep_excluded(&old.path, &new.path, &lists).unwrap();
        assert_eq!(kept, Kept { tables: 2, rows: 3, unreadable: 0 });
        assert_eq!(new.value("SELECT group_concat(a) FROM t"), "'2'");
        assert_eq!(
            new.value("SELECT group_concat(r) FROM (SELECT rowid || quote(a) AS r FROM mine ORDER BY rowid)"),
            "'7X''00FF'',91.5'"
        );
        assert_eq!(new.value("SELECT group_concat(k) FROM my_other"), "'x'");
        assert_eq!(new.value("SELECT count(*) FROM sqlite_schema WHERE name = 'i'"), "1");
        // Once more, at the moment when the application cannot write any more.
        old.app.execute_batch("DELETE FROM mine WHERE rowid = 7").unwrap();
        keep_excluded(&old.path, &new.path, &lists).unwrap();
        assert_eq!(new.value("SELECT count(*) FROM mine"), "1");
    }
}
