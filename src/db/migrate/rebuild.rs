//! Building a table anew under another definition, where ALTER TABLE does not reach: the old one gets another name, the new one is
//! made and filled, the old one goes; its indexes and triggers are made again. In a transaction, with foreign keys and triggers off.

use crate::base::limits;
use crate::db::migrate::{definitions, kept};
use crate::db::{error::Error, ours, sql::quote};
use rusqlite::{Connection, OptionalExtension, params};

const OLD: &str = "__harmonylite__old";

/// What a table is to be.
pub struct Target<'a> {
    pub table: &'a str,
    /// The statement that makes it.
    pub sql: &'a str,
    /// Columns that it has besides, and the texts that declare them.
    pub more: Vec<(String, String)>,
    /// For a column the SQL of its value, in terms of the old columns.
    pub values: Vec<(String, String)>,
    /// Names of indexes and triggers that are made anew afterwards, if they do not fit any more.
    pub later: Vec<&'a str>,
    /// Whatever does not fit any more goes.
    pub lets_go: bool,
}

/// Makes the table. What belongs to it and does not fit any more is an error.
pub fn rebuild(connection: &Connection, target: &Target<'_>) -> Result<(), Error> {
    connection.execute_batch("PRAGMA legacy_alter_table=ON")?;
    let done = in_legacy_mode(connection, target);
    connection.execute_batch("PRAGMA legacy_alter_table=OFF")?;
    done
}

fn in_legacy_mode(connection: &Connection, target: &Target<'_>) -> Result<(), Error> {
    let table = quote(target.table);
    let belongings = kept::belongings(connection, target.table)?;
    let sequence = sequence(connection, target.table)?;
    let keyless = |columns: &[definitions::Present]| columns.iter().all(|column| column.key_position == 0);
    let was_keyless = keyless(&definitions::columns_of(connection, target.table)?);
    for (kind, name, _) in &belongings {
        connection.execute_batch(&format!("DROP {kind} main.{}", quote(name)))?;
    }
    connection.execute_batch(&format!("ALTER TABLE main.{table} RENAME TO {OLD}"))?;
    connection.execute_batch(target.sql)?;
    for (_, declared) in &target.more {
        connection.execute_batch(&format!("ALTER TABLE main.{table} ADD COLUMN {declared}"))?;
    }
    let columns = definitions::columns_of(connection, target.table)?;
    let stored = |name: &str| columns.iter().any(|c| !c.generated && c.name.eq_ignore_ascii_case(name));
    let pairs = target.values.iter().filter(|(name, _)| stored(name));
    let (mut names, mut values): (Vec<String>, Vec<String>) =
        pairs.map(|(name, value)| (quote(name), value.clone())).unzip();
    if was_keyless && keyless(&columns) {
        names.push("rowid".to_owned());
        values.push("rowid".to_owned());
    }
    // Rows whose keys nobody can tell are published by the node that has them.
    let is_told = |key: &definitions::Present| {
        let of_key = |(name, value): &&(String, String)| {
            name.eq_ignore_ascii_case(&key.name) && (value.starts_with('"') || value.starts_with("coalesce("))
        };
        target.values.iter().any(|pair| of_key(&pair))
    };
    let are_told = columns.iter().filter(|column| column.key_position > 0).all(is_told);
    if !names.is_empty() && are_told {
        let (names, values) = (names.join(", "), values.join(", "));
        connection
            .execute(&format!("INSERT INTO main.{table}({names}) SELECT {values} FROM main.{OLD}"), [])?;
    }
    connection.execute_batch(&format!("DROP TABLE main.{OLD}"))?;
    if let Some(sequence) = sequence {
        set_sequence(connection, target.table, sequence)?;
    }
    for (_, name, sql) in &belongings {
        let made = connection.execute_batch(sql);
        // Capture makes its own again.
        if !target.lets_go && !name.starts_with(limits::PREFIX) && !target.later.contains(&name.as_str()) {
            made?;
        }
    }
    Ok(())
}

/// The highest key that an AUTOINCREMENT table has given.
fn sequence(connection: &Connection, table: &str) -> Result<Option<i64>, Error> {
    if !ours::has_table(connection, "sqlite_sequence")? {
        return Ok(None);
    }
    let sql = "SELECT seq FROM main.sqlite_sequence WHERE name = ?1 COLLATE NOCASE";
    Ok(connection.query_row(sql, [table], |row| row.get(0)).optional()?)
}

fn set_sequence(connection: &Connection, table: &str, sequence: i64) -> Result<(), Error> {
    if !ours::has_table(connection, "sqlite_sequence")? {
        return Ok(());
    }
    connection.execute("DELETE FROM main.sqlite_sequence WHERE name IN (?1, ?2)", [table, OLD])?;
    let sql = "INSERT INTO main.sqlite_sequence(name, seq) VALUES(?1, ?2)";
    connection.execute(sql, params![table, sequence])?;
    Ok(())
}
