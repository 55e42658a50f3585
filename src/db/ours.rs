//! Tables and triggers with our prefix: which there are, which of them the Go program made, and removing them.

use crate::base::limits;
use crate::db::{
    error::Error,
    open, schema_rows,
    sql::{literal, quote},
};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use std::path::Path;

/// The indexes that keep rowids (see [`crate::db::rowids`]), in SQL.
pub const KEEPS_ROWIDS: &str = "(type = 'index' AND name GLOB '__harmonylite__rowids_[0-9]*')";

/// Whether the database has a table of this name.
pub fn has_table(connection: &Connection, name: &str) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1";
    Ok(connection.prepare_cached(sql)?.query_row([name], |_| Ok(())).optional()?.is_some())
}

/// Whether the database has a table with our prefix.
pub fn has_own_table(connection: &Connection) -> Result<bool, Error> {
    any_table(connection, "=")
}

/// Whether the database has a table that is neither ours nor SQLite's.
pub fn has_foreign_table(connection: &Connection) -> Result<bool, Error> {
    any_table(connection, "<>")
}

/// Whether the beginning of any table's name compares so with our prefix.
fn any_table(connection: &Connection, comparison: &str) -> Result<bool, Error> {
    let prefix = limits::PREFIX;
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
         AND substr(name, 1, {}) {comparison} {})",
        prefix.len(),
        literal(prefix)
    );
    Ok(connection.query_row(&sql, [], |row| row.get(0))?)
}

/// Whether a table or trigger with our prefix was made by the Go program (formats, section "Tables and triggers of the Go
/// program"): its change logs and their triggers hold `_change_log` in their names, and there is one schema table.
pub fn is_go_programs(name: &str) -> bool {
    name.contains("_change_log") || name.ends_with("__schema_version")
}

/// Names of the tables that the Go program has made.
pub fn tables_of_go_program(connection: &Connection) -> Result<Vec<String>, Error> {
    let found = prefixed(connection, OF_GO_PROGRAM)?.into_iter();
    Ok(found.filter(|(kind, _, _)| kind == "table").map(|(_, name, _)| name).collect())
}

/// Whether the database has anything that the Go program has made.
pub fn any_of_go_program(connection: &Connection) -> Result<bool, Error> {
    Ok(!prefixed(connection, OF_GO_PROGRAM)?.is_empty())
}

/// Type, name and row of the tables, views and triggers with our prefix, and of the indexes that keep rowids.
fn prefixed(connection: &Connection, which: &str) -> Result<Vec<(String, String, i64)>, Error> {
    let prefix = limits::PREFIX;
    // Views and triggers before tables, which would take their triggers with them, as views do.
    let sql = format!(
        "SELECT type, name, rowid FROM main.sqlite_schema WHERE (type IN ('trigger', 'table', 'view') OR {}) \
         AND substr(name, 1, {}) = {} AND {which} ORDER BY type DESC",
        KEEPS_ROWIDS,
        prefix.len(),
        literal(prefix)
    );
    let mut statement = connection.prepare(&sql)?;
    let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// The same as [`is_go_programs`], in SQL.
const OF_GO_PROGRAM: &str = "(instr(name, '_change_log') > 0 OR name GLOB '*__schema_version')";

/// Drops what has our prefix and whose names satisfy `which`. Returns the names.
pub fn drop_prefixed(connection: &Connection, which: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
    let found = prefixed(connection, "true")?.into_iter().filter(|(_, name, _)| which(name));
    let (triggers, others): (Vec<_>, Vec<_>) = found.partition(|(kind, _, _)| kind == "trigger");
    if !triggers.is_empty() {
        // One DROP TRIGGER for each of thousands of tables' would take minutes.
        let own = if connection.is_autocommit() { Some(connection.unchecked_transaction()?) } else { None };
        schema_rows::write(connection, || {
            triggers.iter().try_for_each(|(_, _, rowid)| schema_rows::remove(connection, *rowid))
        })?;
        own.map_or(Ok(()), rusqlite::Transaction::commit)?;
    }
    for (kind, name, _) in &others {
        connection.execute_batch(&format!("DROP {kind} IF EXISTS {}", quote(name)))?;
    }
    Ok(triggers.into_iter().chain(others).map(|(_, name, _)| name).collect())
}

/// Removes everything that this program or the Go program has put into the database at `path`. Returns the names.
pub fn cleanup(path: &Path) -> Result<Vec<String>, Error> {
    let mut connection = open::open(path)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let removed = drop_prefixed(&transaction, |_| true)?;
    transaction.commit()?;
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_the_prefix_goes_and_the_rest_stays() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE t(a); CREATE TABLE __harmonylite__log(id); CREATE TABLE __harmonylite__t_change_log(id); \
                 CREATE TABLE __harmonylitex(a); CREATE TRIGGER __harmonylite__1_insert AFTER INSERT ON t BEGIN SELECT 1; END; \
                 CREATE TRIGGER mine AFTER INSERT ON t BEGIN SELECT 1; END;",
            )
            .unwrap();
        assert_eq!(drop_prefixed(&connection, is_go_programs).unwrap(), ["__harmonylite__t_change_log"]);
        let removed = drop_prefixed(&connection, |_| true).unwrap();
        assert_eq!(removed, ["__harmonylite__1_insert", "__harmonylite__log"]);
        assert!(has_table(&connection, "t").unwrap() && has_table(&connection, "__harmonylitex").unwrap());
        assert!(!has_table(&connection, "mine").unwrap());
    }
}
