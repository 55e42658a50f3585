//! Capture installed in a database, kept in step with the application's schema, and removed.

use crate::db::capture::{log_table, takeover, triggers};
use crate::db::schema::{self, Schema};
use crate::db::{error::Error, open, sql::quote, state, table::Table};
use rusqlite::{Connection, TransactionBehavior};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// What an installation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// The change log did not exist before.
    pub first: bool,
    /// Number of changes that the Go program had captured and not published.
    pub taken_over: usize,
    /// Tables that have appeared since the last time, with the number of rows they held.
    pub new_tables: Vec<(String, usize)>,
}

/// Installs capture, or brings it in step with the schema. All is one transaction, so no write of the application falls
/// between the old triggers and the new ones.
pub fn install(connection: &mut Connection) -> Result<(Schema, Capture), Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut schema = Schema::read(&transaction)?;
    let mut done = Capture { first: !log_table::exists(&transaction)?, ..Capture::default() };
    log_table::create(&transaction)?;
    if done.first {
        // Ids begin anew, so others must know them under another incarnation.
        state::new_incarnation(&transaction)?;
    }
    follow_renames(&transaction)?;
    forget_dropped(&transaction, &schema)?;
    schema.number(&number_all(&transaction, &schema)?);
    log_table::widen(&transaction, schema.key_width())?;
    install_triggers(&transaction, &schema, &mut done)?;
    done.taken_over = takeover::take_over(&transaction, &schema)?;
    schema.version = schema::version(&transaction)?;
    transaction.commit()?;
    Ok((schema, done))
}

fn install_triggers(connection: &Connection, schema: &Schema, done: &mut Capture) -> Result<(), Error> {
    let existing = triggers::present(connection)?;
    let mut wanted_names = HashSet::new();
    for table in schema.tables.values() {
        let captured = existing.contains_key(&triggers::name(table.id, "insert"));
        for (name, sql) in triggers::wanted(table) {
            if existing.get(&name) != Some(&sql) {
                connection.execute_batch(&format!("DROP TRIGGER IF EXISTS {}; {sql}", quote(&name)))?;
            }
            wanted_names.insert(name);
        }
        triggers::check(connection, table)?;
        if !captured && !done.first {
            let rows = log_all_rows(connection, table)?;
            done.new_tables.push((table.name.to_string(), rows));
        }
    }
    for name in existing.keys().filter(|name| !wanted_names.contains(*name)) {
        connection.execute_batch(&format!("DROP TRIGGER {}", quote(name)))?;
    }
    Ok(())
}

/// The numbers of all tables; those that had none get one.
fn number_all(connection: &Connection, schema: &Schema) -> Result<HashMap<String, i64>, Error> {
    let mut numbers = log_table::numbers(connection)?;
    for name in schema.tables.keys() {
        if !numbers.contains_key(&**name) {
            numbers.insert(name.to_string(), log_table::add_number(connection, name)?);
        }
    }
    Ok(numbers)
}

/// A renamed table keeps its triggers, whose names hold the table's number. So they tell the new name.
fn follow_renames(connection: &Connection) -> Result<(), Error> {
    for (name, id) in log_table::numbers(connection)? {
        let sql = "SELECT tbl_name FROM main.sqlite_schema WHERE type = 'trigger' AND name = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([triggers::name(id, "insert")])?;
        let Some(row) = rows.next()? else { continue };
        let now: String = row.get(0)?;
        if now != name {
            log::info!("table {name} is now called {now}");
            log_table::rename(connection, id, &now)?;
        }
    }
    Ok(())
}

fn forget_dropped(connection: &Connection, schema: &Schema) -> Result<(), Error> {
    for (name, id) in log_table::numbers(connection)? {
        if !schema.tables.contains_key(name.as_str()) {
            let entries = log_table::forget(connection, id)?;
            let what = if schema.refused.contains_key(&name) { "not replicated any more" } else { "gone" };
            log::info!("table {name} is {what}; {entries} unpublished changes of it are not published");
        }
    }
    Ok(())
}

/// Logs the rows that a table held before it had triggers; returns their number.
fn log_all_rows(connection: &Connection, table: &Table) -> Result<usize, Error> {
    let keys: String = table.key.iter().map(|column| format!(", {}", quote(&column.name))).collect();
    let log = log_table::insert(table.key.len());
    Ok(connection.execute(&format!("{log} SELECT {}{keys} FROM {}", table.id, quote(&table.name)), [])?)
}

/// Installs capture in a file that is about to become the database: an application may write as soon as it has its name.
pub fn install_capture(path: &Path) -> Result<(), Error> {
    install(&mut open::open(path)?).map(drop)
}

/// Removes the triggers and the change log, for a node that does not publish. A warning names what was not published yet.
pub fn remove_capture(path: &Path) -> Result<(), Error> {
    let mut connection = open::open(path)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if log_table::exists(&transaction)? {
        let (unpublished, _) = log_table::count_unsettled(&transaction, i64::MAX)?;
        if unpublished > 0 {
            log::warn!(
                "publish = false: {unpublished} changes that were captured before are not published any more"
            );
        }
        for name in triggers::present(&transaction)?.keys() {
            transaction.execute_batch(&format!("DROP TRIGGER {}", quote(name)))?;
        }
        log_table::drop_tables(&transaction)?;
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(sql: &str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        state::create(&connection).unwrap();
        connection.execute_batch(sql).unwrap();
        connection
    }

    #[test]
    fn the_second_time_nothing_is_done() {
        let mut connection = database("CREATE TABLE t(a UNIQUE)");
        let (first, done) = install(&mut connection).unwrap();
        assert!(done.first && done.new_tables.is_empty());
        let incarnation = state::meta(&connection, "incarnation").unwrap();
        let (second, done) = install(&mut connection).unwrap();
        assert_eq!(done, Capture::default());
        assert_eq!(first.version, second.version);
        assert_eq!(state::meta(&connection, "incarnation").unwrap(), incarnation);
    }

    #[test]
    fn a_table_that_appears_later_is_logged_whole() {
        let mut connection = database("CREATE TABLE t(a)");
        install(&mut connection).unwrap();
        connection
            .execute_batch("CREATE TABLE u(a, b, PRIMARY KEY(a, b)); INSERT INTO u VALUES(1, 2), (3, 4)")
            .unwrap();
        let (schema, done) = install(&mut connection).unwrap();
        assert_eq!(done.new_tables, [("u".to_owned(), 2)]);
        assert_eq!(log_table::count_unsettled(&connection, 0).unwrap(), (0, 2));
        assert_eq!(log_table::width(&connection).unwrap(), schema.key_width());
    }

    #[test]
    fn a_renamed_table_keeps_its_number() {
        let mut connection = database("CREATE TABLE a(x); CREATE TABLE b(x)");
        let (before, _) = install(&mut connection).unwrap();
        connection.execute_batch("DROP TABLE b; ALTER TABLE a RENAME TO b").unwrap();
        let (after, done) = install(&mut connection).unwrap();
        assert_eq!(after.tables["b"].id, before.tables["a"].id);
        assert!(done.new_tables.is_empty());
    }

    #[test]
    fn a_column_that_becomes_unique_changes_the_triggers() {
        let mut connection = database("CREATE TABLE t(a, b)");
        install(&mut connection).unwrap();
        assert_eq!(triggers::present(&connection).unwrap().len(), 4);
        connection.execute_batch("CREATE UNIQUE INDEX i ON t(b)").unwrap();
        install(&mut connection).unwrap();
        assert_eq!(triggers::present(&connection).unwrap().len(), 6);
        connection.execute_batch("DROP INDEX i").unwrap();
        install(&mut connection).unwrap();
        assert_eq!(triggers::present(&connection).unwrap().len(), 4);
    }
}
