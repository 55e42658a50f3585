//! Tables and triggers with our prefix: which there are, which of them the Go program made, and removing them.

use crate::base::limits;
use crate::db::{
    error::Error,
    open,
    sql::{literal, quote},
};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use std::path::Path;

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

/// Drops the triggers and tables that have our prefix and whose names satisfy `which`. Returns the names.
pub fn drop_prefixed(connection: &Connection, which: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
    let prefix = limits::PREFIX;
    // Views and triggers before tables, which would take their triggers with them, as views do.
    let sql = format!(
        "SELECT type, name FROM main.sqlite_schema WHERE type IN ('trigger', 'table', 'view') \
         AND substr(name, 1, {}) = {} ORDER BY type DESC",
        prefix.len(),
        literal(prefix)
    );
    let mut statement = connection.prepare(&sql)?;
    let found: Vec<(String, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut removed = vec![];
    for (kind, name) in found.into_iter().filter(|(_, name)| which(name)) {
        connection.execute_batch(&format!("DROP {kind} IF EXISTS {}", quote(&name)))?;
        removed.push(name);
    }
    Ok(removed)
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
