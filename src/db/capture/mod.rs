//! Capture: triggers that append the key of each touched row to one log table, and nothing more, so that the application
//! hardly feels them. Installed, kept in step with the schema, and removed here.

mod changelog;
mod takeover;
mod watch;

use crate::base::limits;
use crate::db::schema::{self, Schema, Table};
use crate::db::sql::{literal, quote};
use crate::db::{apply::parked, error::Error, open, state};
pub use changelog::{Batch, Change, ChangeLog};
pub use watch::watch;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior, params};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// The change log: `id`, the table's number `t`, key values `k1`, `k2`... without a type, which keeps each value's storage
/// class. Ids rise and are never reused, because the newest row is never deleted. No constraint on it: one NOT NULL makes
/// SQLite keep a statement journal for every statement of the application (1.77 times the time of an insert, not 1.34).
pub const LOG: &str = "__harmonylite__log";
/// Numbers of the tables in the log.
const TABLES: &str = "__harmonylite__table";

/// What an installation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// The log did not exist before.
    pub first: bool,
    /// Changes that a Go node had captured and not published.
    pub taken_over: usize,
    /// Tables that appeared since the last time, with the number of rows they held.
    pub new_tables: Vec<(String, usize)>,
}

/// Key columns of the log table.
pub fn log_width(connection: &Connection) -> Result<usize, Error> {
    let sql = "SELECT count(*) - 2 FROM pragma_table_info(?1)";
    Ok(connection
        .prepare_cached(sql)?
        .query_row([LOG], |row| row.get::<_, i64>(0))
        .map(|n| usize::try_from(n).unwrap_or(0))?)
}

/// Creates the tables that every node has, capturing or not.
pub fn ensure_state(connection: &mut Connection) -> Result<(), Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    state::create(&transaction)?;
    parked::create(&transaction)?;
    if state::meta(&transaction, "incarnation")?.is_none() {
        state::new_incarnation(&transaction)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Gives the database a new name to publish under, if it stands behind a position that it had reached before: it is an
/// older copy, whose log gives ids again that others have folded.
pub fn rename_older_copy(path: &Path, reached: &crate::model::positions::SeqMap) -> Result<bool, Error> {
    let mut connection = open::open(path)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let positions = state::positions(&transaction)?;
    let behind = |(stream, seq): (&String, &u64)| reached.get(stream).is_some_and(|reached| reached > seq);
    let older = positions.iter().any(behind);
    if older {
        state::new_incarnation(&transaction)?;
    }
    transaction.commit()?;
    Ok(older)
}

/// Installs capture, or brings it in step with the schema. One transaction: no write of the application falls between.
pub fn install(connection: &mut Connection) -> Result<(Schema, Capture), Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut schema = Schema::read(&transaction)?;
    let mut done = Capture { first: !state::has_table(&transaction, LOG)?, ..Capture::default() };
    transaction.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {LOG}(id INTEGER PRIMARY KEY, t, k1); \
         CREATE TABLE IF NOT EXISTS {TABLES}(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);"
    ))?;
    if done.first {
        // Ids begin anew, so must the name under which others know them.
        state::new_incarnation(&transaction)?;
    }
    follow_renames(&transaction)?;
    forget_dropped(&transaction, &schema)?;
    let known = numbers(&transaction)?;
    number_new(&transaction, &mut schema, &known)?;
    widen_log(&transaction, &schema)?;
    let existing = our_triggers(&transaction)?;
    let mut wanted_names = HashSet::new();
    for table in schema.tables.values() {
        let captured = existing.contains_key(&trigger_name(table.id, "insert"));
        for (name, sql) in triggers(table) {
            if existing.get(&name) != Some(&sql) {
                transaction.execute_batch(&format!("DROP TRIGGER IF EXISTS {}; {sql}", quote(&name)))?;
            }
            wanted_names.insert(name);
        }
        check_triggers(&transaction, table)?;
        if !captured && !done.first {
            let rows = log_all_rows(&transaction, table)?;
            done.new_tables.push((table.name.clone(), rows));
        }
    }
    for name in existing.keys().filter(|name| !wanted_names.contains(*name)) {
        transaction.execute_batch(&format!("DROP TRIGGER {}", quote(name)))?;
    }
    done.taken_over = takeover::take_over(&transaction, &schema)?;
    schema.version = schema::version(&transaction)?;
    transaction.commit()?;
    Ok((schema, done))
}

/// Reads the schema with the tables' numbers, as [`install`] left them.
pub fn read_numbered(connection: &Connection) -> Result<Schema, Error> {
    let mut schema = Schema::read(connection)?;
    if state::has_table(connection, TABLES)? {
        let known = numbers(connection)?;
        for table in schema.tables.values_mut() {
            Arc::make_mut(table).id = known.get(&table.name).copied().unwrap_or(0);
        }
    }
    Ok(schema)
}

fn numbers(connection: &Connection) -> Result<HashMap<String, i64>, Error> {
    let mut statement = connection.prepare(&format!("SELECT name, id FROM {TABLES}"))?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn number_new(
    connection: &Connection,
    schema: &mut Schema,
    known: &HashMap<String, i64>,
) -> Result<(), Error> {
    for table in schema.tables.values_mut() {
        let id = match known.get(&table.name) {
            Some(id) => *id,
            None => {
                connection.execute(&format!("INSERT INTO {TABLES}(name) VALUES(?1)"), [&table.name])?;
                connection.last_insert_rowid()
            }
        };
        Arc::make_mut(table).id = id;
    }
    Ok(())
}

/// A renamed table carries its triggers along: the one with the number tells the new name.
fn follow_renames(connection: &Connection) -> Result<(), Error> {
    for (name, id) in numbers(connection)? {
        let sql = "SELECT tbl_name FROM main.sqlite_schema WHERE type = 'trigger' AND name = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([trigger_name(id, "insert")])?;
        let Some(row) = rows.next()? else { continue };
        let now: String = row.get(0)?;
        if now != name {
            log::info!("table {name} is now called {now}");
            connection.execute(&format!("DELETE FROM {TABLES} WHERE name = ?1"), [&now])?;
            connection.execute(&format!("UPDATE {TABLES} SET name = ?1 WHERE id = ?2"), params![now, id])?;
        }
    }
    Ok(())
}

/// What is logged of a table that is gone cannot be published any more.
fn forget_dropped(connection: &Connection, schema: &Schema) -> Result<(), Error> {
    for (name, id) in numbers(connection)? {
        if !schema.tables.contains_key(&name) {
            let newest = format!("(SELECT max(id) FROM {LOG})");
            connection.execute(&format!("UPDATE {LOG} SET t = 0 WHERE t = ?1 AND id = {newest}"), [id])?;
            let entries = connection.execute(&format!("DELETE FROM {LOG} WHERE t = ?1"), [id])?;
            connection.execute(&format!("DELETE FROM {TABLES} WHERE id = ?1"), [id])?;
            log::info!("table {name} is gone; {entries} unpublished changes of it with it");
        }
    }
    Ok(())
}

fn widen_log(connection: &Connection, schema: &Schema) -> Result<(), Error> {
    let wanted = schema.tables.values().map(|table| table.key.len()).max().unwrap_or(1);
    for number in log_width(connection)? + 1..=wanted {
        connection.execute_batch(&format!("ALTER TABLE {LOG} ADD COLUMN k{number}"))?;
    }
    Ok(())
}

fn our_triggers(connection: &Connection) -> Result<BTreeMap<String, String>, Error> {
    let sql = "SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND name GLOB '__harmonylite__[0-9]*'";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
    let all: BTreeMap<String, String> = rows.collect::<Result<_, _>>()?;
    Ok(all.into_iter().filter(|(name, _)| !takeover::is_theirs(name)).collect())
}

fn trigger_name(table: i64, what: &str) -> String {
    format!("{}{table}_{what}", limits::PREFIX)
}

/// Names and statements of a table's triggers.
fn triggers(table: &Table) -> Vec<(String, String)> {
    let on = quote(&table.name);
    let log_columns: String = (1..=table.key.len()).map(|n| format!(", k{n}")).collect();
    let values = |row: &str| -> String {
        table.key.iter().map(|(name, _)| format!(", {row}.{}", quote(name))).collect()
    };
    let log = format!("INSERT INTO {LOG}(t{log_columns})");
    let changed: Vec<String> =
        table.key.iter().map(|(name, _)| format!("OLD.{0} IS NOT NEW.{0}", quote(name))).collect();
    let id = table.id;
    let mut found = vec![
        ("insert".to_owned(), format!("AFTER INSERT ON {on} BEGIN {log} VALUES({id}{}); END", values("NEW"))),
        ("update".to_owned(), format!("AFTER UPDATE ON {on} BEGIN {log} VALUES({id}{}); END", values("NEW"))),
        (
            "rekey".to_owned(),
            format!(
                "AFTER UPDATE ON {on} WHEN {} BEGIN {log} VALUES({id}{}); END",
                changed.join(" OR "),
                values("OLD")
            ),
        ),
        ("delete".to_owned(), format!("AFTER DELETE ON {on} BEGIN {log} VALUES({id}{}); END", values("OLD"))),
    ];
    // REPLACE deletes rows that collide in a UNIQUE index without firing delete triggers.
    let columns: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
    for (at, index) in table.unique.iter().enumerate() {
        let collide = index.collides_with_new(&columns);
        let body = format!("{log} SELECT {id}{} FROM {on} AS o WHERE {collide}", values("o"));
        let plain: Option<Vec<String>> = index.columns.iter().map(|c| c.name.as_deref().map(quote)).collect();
        let of = match (plain, &index.condition) {
            (Some(names), None) => format!(" OF {}", names.join(", ")),
            _ => String::new(),
        };
        let other: Vec<String> =
            table.key.iter().map(|(name, _)| format!("o.{0} IS NOT OLD.{0}", quote(name))).collect();
        found.push((format!("before_insert_{at}"), format!("BEFORE INSERT ON {on} BEGIN {body}; END")));
        found.push((
            format!("before_update_{at}"),
            format!("BEFORE UPDATE{of} ON {on} BEGIN {body} AND ({}); END", other.join(" OR ")),
        ));
    }
    found
        .into_iter()
        .map(|(what, rest)| {
            let name = trigger_name(id, &what);
            let sql = format!("CREATE TRIGGER {} {rest}", quote(&name));
            (name, sql)
        })
        .collect()
}

/// Lets SQLite compile the triggers of a table with UNIQUE indexes, whose texts go into them: a text that we took apart
/// wrongly must not make the application's statements fail. Functions of the application's own are missing only here.
fn check_triggers(connection: &Connection, table: &Table) -> Result<(), Error> {
    if table.unique.is_empty() {
        return Ok(());
    }
    let set: Vec<String> = table.stored().map(|column| format!("{0} = {0}", quote(&column.name))).collect();
    let name = quote(&table.name);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    let checked =
        [format!("INSERT INTO {name} DEFAULT VALUES"), format!("UPDATE {name} SET {}", set.join(", "))]
            .iter()
            .try_for_each(|sql| connection.prepare(sql).map(drop));
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    let Err(error) = checked else { return Ok(()) };
    if error.to_string().contains("no such function") {
        return Ok(());
    }
    log::warn!(
        "table {}: a REPLACE that deletes rows by a UNIQUE index is not captured: {error}",
        table.name
    );
    for (trigger, _) in triggers(table).into_iter().filter(|(trigger, _)| trigger.contains("_before_")) {
        connection.execute_batch(&format!("DROP TRIGGER IF EXISTS {}", quote(&trigger)))?;
    }
    Ok(())
}

/// Rows that were in a table before its triggers: all are logged.
fn log_all_rows(connection: &Connection, table: &Table) -> Result<usize, Error> {
    let log_columns: String = (1..=table.key.len()).map(|n| format!(", k{n}")).collect();
    let keys: String = table.key.iter().map(|(name, _)| format!(", {}", quote(name))).collect();
    let sql =
        format!("INSERT INTO {LOG}(t{log_columns}) SELECT {}{keys} FROM {}", table.id, quote(&table.name));
    Ok(connection.execute(&sql, [])?)
}

/// Removes our triggers and the log, for `publish = false`. What was not published yet is named.
pub fn uninstall(connection: &mut Connection) -> Result<(), Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if state::has_table(&transaction, LOG)? {
        let sql = format!("SELECT count(*) FROM {LOG} WHERE t <> 0");
        let unpublished: i64 = transaction.query_row(&sql, [], |row| row.get(0))?;
        if unpublished > 0 {
            log::warn!(
                "publish = false: {unpublished} changes that were captured before are not published any more"
            );
        }
        for name in our_triggers(&transaction)?.keys() {
            transaction.execute_batch(&format!("DROP TRIGGER {}", quote(name)))?;
        }
        transaction.execute_batch(&format!("DROP TABLE {LOG}; DROP TABLE {TABLES};"))?;
    }
    transaction.commit()?;
    Ok(())
}

/// `-cleanup`: removes everything of ours, and of a Go node. Returns the names of what was removed.
pub fn cleanup(path: &Path) -> Result<Vec<String>, Error> {
    let mut connection = open::open(path)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let removed = drop_all(&transaction, |_| true)?;
    transaction.commit()?;
    Ok(removed)
}

/// Drops triggers and tables that have the prefix and satisfy `which`.
pub fn drop_all(connection: &Connection, which: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
    let pattern = limits::PREFIX;
    let sql = format!(
        "SELECT type, name FROM main.sqlite_schema WHERE type IN ('trigger', 'table') \
         AND substr(name, 1, {}) = {} ORDER BY type DESC",
        pattern.len(),
        literal(pattern)
    );
    let mut statement = connection.prepare(&sql)?;
    let found: Vec<(String, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut removed = vec![];
    for (kind, name) in found.into_iter().filter(|(_, name)| which(name)) {
        connection.execute_batch(&format!("DROP {kind} {}", quote(&name)))?;
        removed.push(name);
    }
    Ok(removed)
}
