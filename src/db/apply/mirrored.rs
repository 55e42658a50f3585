//! Triggers of the application that write only into tables that are not replicated, for example into a full-text index. They
//! must run for replicated rows too. The application's triggers are off on our connections, but TEMP triggers are not, so
//! these triggers are copied as TEMP triggers.

use crate::db::{error::Error, indexes, schema::Schema, sql::quote};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Trigger to the tables that it writes.
type Writes = BTreeMap<String, BTreeSet<String>>;

/// Replaces the copies on `connection` by those that the schema asks for.
pub fn refresh(connection: &Connection, path: &Path, schema: &Schema) -> Result<(), Error> {
    let mut list = connection
        .prepare("SELECT name FROM temp.sqlite_schema WHERE type = 'trigger' AND name GLOB 'app_*'")?;
    let old: Vec<String> = list.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for name in old {
        connection.execute_batch(&format!("DROP TRIGGER temp.{}", quote(&name)))?;
    }
    let sql = "SELECT name, tbl_name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND name NOT GLOB '__harmonylite__*'";
    let mut list = connection.prepare(sql)?;
    let triggers: Vec<(String, String, String)> =
        list.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<Result<_, _>>()?;
    let triggers: Vec<_> =
        triggers.into_iter().filter(|(_, table, _)| schema.tables.contains_key(table.as_str())).collect();
    if triggers.is_empty() {
        return Ok(());
    }
    let tables: BTreeSet<&str> = triggers.iter().map(|(_, table, _)| table.as_str()).collect();
    let writes = writes_of_triggers(path, schema, &tables)?;
    for (name, _, sql) in &triggers {
        let Some(targets) = writes.get(name) else { continue };
        if let Some(refused) = targets.iter().find(|target| schema.refused.contains_key(*target)) {
            log::debug!(
                "trigger {name} does not run for replicated rows: table {refused} cannot be written here"
            );
            continue;
        }
        let replicated = targets.iter().filter(|target| schema.tables.contains_key(target.as_str())).count();
        if replicated == targets.len() {
            continue;
        }
        if replicated > 0 {
            log::warn!(
                "trigger {name} writes into replicated tables and others ({}): for replicated rows the others are not \
                 written; split it in two",
                targets.iter().cloned().collect::<Vec<_>>().join(", ")
            );
            continue;
        }
        if let Err(error) = connection.execute_batch(&as_temporary(name, sql)) {
            log::warn!("trigger {name} cannot run for replicated rows: {error}");
        }
    }
    Ok(())
}

/// Which tables each trigger writes, found by letting SQLite compile statements that fire them.
fn writes_of_triggers(path: &Path, schema: &Schema, tables: &BTreeSet<&str>) -> Result<Writes, Error> {
    let mut scratch = crate::db::open::open(path)?;
    scratch.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    let seen = Arc::new(Mutex::new(Writes::new()));
    let noted = seen.clone();
    scratch.authorizer(Some(move |context: AuthContext<'_>| {
        let table = match context.action {
            AuthAction::Insert { table_name } | AuthAction::Delete { table_name } => Some(table_name),
            AuthAction::Update { table_name, .. } => Some(table_name),
            _ => None,
        };
        if let (Some(table), Some(trigger)) = (table, context.accessor)
            && let Ok(mut noted) = noted.lock()
        {
            noted.entry(trigger.to_owned()).or_default().insert(table.to_owned());
        }
        Authorization::Allow
    }))?;
    for name in tables {
        let Some(table) = schema.tables.get(*name) else { continue };
        let all: Vec<String> =
            table.stored().map(|column| format!("{0} = {0}", quote(&column.name))).collect();
        let quoted = quote(name);
        for sql in [
            format!("INSERT INTO {quoted} DEFAULT VALUES"),
            format!("UPDATE {quoted} SET {}", all.join(", ")),
            format!("DELETE FROM {quoted}"),
        ] {
            if let Err(error) = scratch.prepare(&sql) {
                log::warn!(
                    "triggers of table {name} cannot be examined, and do not run for replicated rows: {error}"
                );
            }
        }
    }
    drop(scratch);
    Ok(seen.lock().map(|writes| writes.clone()).unwrap_or_default())
}

/// `CREATE TRIGGER name rest` as `CREATE TEMP TRIGGER "app_name" rest`. SQLite stores the statement from the name on.
fn as_temporary(name: &str, sql: &str) -> String {
    let tokens = indexes::tokens(sql);
    // The first three tokens are CREATE, TRIGGER and the name. What follows is kept.
    let rest = tokens.get(2).map_or("", |token| &sql[token.1..]);
    format!("CREATE TEMP TRIGGER {} {rest}", quote(&format!("app_{name}")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn statements_become_temporary() {
        let sql = "CREATE TRIGGER [my trigger] AFTER INSERT ON t BEGIN SELECT 1; END";
        let expected = "CREATE TEMP TRIGGER \"app_my trigger\"  AFTER INSERT ON t BEGIN SELECT 1; END";
        assert_eq!(super::as_temporary("my trigger", sql), expected);
    }
}
