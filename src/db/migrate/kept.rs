//! What a change of the schema took away, kept for a while: a dropped table whole, a dropped column with its rows' keys. The
//! application's own node has nothing to keep, for there the change is done when we see it; every other node has.

use crate::base::clock;
use crate::db::capture::log_table;
use crate::db::migrate::definitions::{self, Present};
use crate::db::migrate::statement;
use crate::db::{error::Error, ours, schema_rows, sql::quote};
use crate::model::change::Thing;
use rusqlite::{Connection, Row, params};

pub const TABLE: &str = "__harmonylite__kept";
const CREATE: &str = "CREATE TABLE IF NOT EXISTS __harmonylite__kept(id INTEGER PRIMARY KEY AUTOINCREMENT, tbl TEXT NOT NULL, \
     col TEXT NOT NULL, sql TEXT NOT NULL, time INTEGER NOT NULL)";
const PUT: &str = "INSERT INTO __harmonylite__kept(tbl, col, sql, time) VALUES(?1, ?2, ?3, ?4)";
const ALL: &str = "SELECT id, tbl, col, sql, time FROM __harmonylite__kept ORDER BY id";
const LOOSEN: &str =
    "UPDATE main.sqlite_schema SET sql = ?1 WHERE type = 'table' AND name = ?2 COLLATE NOCASE";
const REMOVE: &str = "DELETE FROM __harmonylite__kept WHERE id = ?1";

/// A table or a column that another node has dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub id: i64,
    pub table: String,
    /// Empty: the whole table.
    pub column: String,
    /// The statements that make a table with its indexes and triggers, or the text that declares a column.
    pub sql: Vec<String>,
    /// Unix milliseconds.
    pub time_ms: i64,
}

impl Kept {
    fn read(row: &Row<'_>) -> rusqlite::Result<Kept> {
        let sql: String = row.get(3)?;
        let sql = serde_json::from_str(&sql).unwrap_or_default();
        Ok(Kept { id: row.get(0)?, table: row.get(1)?, column: row.get(2)?, sql, time_ms: row.get(4)? })
    }

    /// Name of the table that holds the rows.
    pub fn place(&self) -> String {
        place(self.id)
    }
}

fn place(id: i64) -> String {
    format!("{TABLE}_{id}")
}

/// All that is kept.
pub fn all(connection: &Connection) -> Result<Vec<Kept>, Error> {
    if !ours::has_table(connection, TABLE)? {
        return Ok(vec![]);
    }
    let mut statement = connection.prepare(ALL)?;
    let all = statement.query_map([], Kept::read)?;
    Ok(all.collect::<Result<_, _>>()?)
}

fn put(connection: &Connection, (table, column): (&str, &str), sql: &[String]) -> Result<i64, Error> {
    connection.execute_batch(CREATE)?;
    let sql = serde_json::to_string(sql).unwrap_or_default();
    connection.execute(PUT, params![table, column, sql, clock::unix_ms()])?;
    Ok(connection.last_insert_rowid())
}

/// Statements of a table, its indexes and its triggers; without ours.
fn statements(connection: &Connection, table: &str) -> Result<Vec<(String, String, String)>, Error> {
    let sql = "SELECT type, name, sql FROM main.sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE AND sql IS NOT NULL \
               AND type IN ('table', 'index', 'trigger') ORDER BY type = 'table' DESC, rowid";
    let mut statement = connection.prepare(sql)?;
    let found = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Indexes and triggers of a table, ours too: kind, name, statement.
pub fn belongings(connection: &Connection, table: &str) -> Result<Vec<(String, String, String)>, Error> {
    Ok(statements(connection, table)?.into_iter().filter(|(kind, _, _)| kind != "table").collect())
}

/// Takes a table away from the application and keeps its rows. Old names must not be rewritten meanwhile.
pub fn keep_table(connection: &Connection, table: &str) -> Result<(), Error> {
    let all = statements(connection, table)?;
    let is_ours = |name: &str| name.starts_with(crate::base::limits::PREFIX);
    let sql: Vec<String> =
        all.iter().filter(|(_, name, _)| !is_ours(name)).map(|(_, _, sql)| sql.clone()).collect();
    for (kind, name, _) in all.iter().filter(|(kind, _, _)| kind != "table") {
        connection.execute_batch(&format!("DROP {kind} IF EXISTS main.{}", quote(name)))?;
    }
    let place = quote(&place(put(connection, (table, ""), &sql)?));
    let old = quote(table);
    if !has_foreign_keys(connection, table)? || loosen(connection, table)? {
        return Ok(connection.execute_batch(&format!("ALTER TABLE main.{old} RENAME TO {place}"))?);
    }
    Ok(connection.execute_batch(&format!(
        "CREATE TABLE main.{place} AS SELECT * FROM main.{old}; DROP TABLE main.{old}"
    ))?)
}

/// Whether a table refers to another one.
fn has_foreign_keys(connection: &Connection, table: &str) -> Result<bool, Error> {
    Ok(connection.prepare("SELECT 1 FROM pragma_foreign_key_list(?1)")?.exists([table])?)
}

/// Takes the foreign keys out of a table: what it refers to the application deletes as it likes, and does not know of these rows.
/// False: the statement would not be understood, and is as it was.
fn loosen(connection: &Connection, table: &str) -> Result<bool, Error> {
    let Some(sql) = definitions::sql_of(connection, Thing::Table, table)? else { return Ok(false) };
    let loose = statement::without_foreign_keys(&sql);
    let trial = Connection::open_in_memory()?;
    if trial.execute_batch(&loose).is_err()
        || has_foreign_keys(&trial, table)?
        || definitions::columns_of(&trial, table)? != definitions::columns_of(connection, table)?
        || !same_indexes(&trial, connection, table)?
    {
        return Ok(false);
    }
    schema_rows::write(connection, || Ok(connection.execute(LOOSEN, params![loose, table]).map(drop)?))?;
    Ok(true)
}

/// Whether SQLite itself makes the same indexes for a table here and there.
fn same_indexes(one: &Connection, other: &Connection, table: &str) -> Result<bool, Error> {
    let count = |connection: &Connection| -> Result<i64, Error> {
        let sql = "SELECT count(*) FROM pragma_index_list(?1) WHERE origin <> 'c'";
        Ok(connection.query_row(sql, [table], |row| row.get(0))?)
    };
    Ok(count(one)? == count(other)?)
}

/// Keeps the values of a column, beside the keys of their rows.
pub fn keep_column(
    connection: &Connection,
    table: &str,
    column: &Present,
    declared: &str,
) -> Result<(), Error> {
    let id = put(connection, (table, &column.name), &[declared.to_owned()])?;
    let key = key_columns(connection, table)?;
    let keys: Vec<String> = key.iter().enumerate().map(|(at, name)| format!("{name} AS k{at}")).collect();
    let sql = format!(
        "CREATE TABLE main.{} AS SELECT {}, {} AS v FROM main.{} WHERE v IS NOT NULL",
        quote(&place(id)),
        keys.join(", "),
        quote(&column.name),
        quote(table)
    );
    Ok(connection.execute_batch(&sql)?)
}

/// The columns of a table's key, quoted.
fn key_columns(connection: &Connection, table: &str) -> Result<Vec<String>, Error> {
    let mut key: Vec<Present> = definitions::columns_of(connection, table)?;
    key.retain(|column| column.key_position > 0);
    key.sort_by_key(|column| column.key_position);
    let names: Vec<String> = key.iter().map(|column| quote(&column.name)).collect();
    Ok(if names.is_empty() { vec!["rowid".to_owned()] } else { names })
}

/// Brings back what is kept, on a connection on which capture notices it. Returns the number of rows.
pub fn bring_back(connection: &Connection, kept: &Kept) -> Result<usize, Error> {
    let place = quote(&kept.place());
    let is_there = definitions::sql_of(connection, Thing::Table, &kept.table)?.is_some();
    let rows = if kept.column.is_empty() {
        if is_there {
            return Err(Error::Mismatch(format!("table {}: there is one of this name again", kept.table)));
        }
        let (first, others) =
            kept.sql.split_first().ok_or_else(|| Error::Other("nothing is kept".to_owned()))?;
        connection.execute_batch(first)?;
        let columns = definitions::columns_of(connection, &kept.table)?;
        let names: Vec<String> = columns.iter().filter(|c| !c.generated).map(|c| quote(&c.name)).collect();
        let mut names = names.join(", ");
        if columns.iter().all(|column| column.key_position == 0) {
            names = format!("rowid, {names}");
        }
        let table = quote(&kept.table);
        let rows = connection
            .execute(&format!("INSERT INTO main.{table}({names}) SELECT {names} FROM {place}"), [])?;
        others.iter().try_for_each(|sql| connection.execute_batch(sql))?;
        rows
    } else {
        let columns = definitions::columns_of(connection, &kept.table)?;
        if !is_there || columns.iter().any(|column| column.name.eq_ignore_ascii_case(&kept.column)) {
            let why = if is_there { "has such a column again" } else { "is not there" };
            return Err(Error::Mismatch(format!(
                "table {}, column {}: the table {why}",
                kept.table, kept.column
            )));
        }
        let (table, column) = (quote(&kept.table), quote(&kept.column));
        let declared = kept.sql.first().map_or(column.as_str(), String::as_str);
        connection.execute_batch(&format!("ALTER TABLE main.{table} ADD COLUMN {declared}"))?;
        let key = key_columns(connection, &kept.table)?;
        let same: Vec<String> =
            key.iter().enumerate().map(|(at, name)| format!("{table}.{name} IS k.k{at}")).collect();
        let sql =
            format!("UPDATE main.{table} SET {column} = k.v FROM {place} k WHERE {}", same.join(" AND "));
        let rows = connection.execute(&sql, [])?;
        log_rows(connection, kept, key.len())?;
        rows
    };
    forget(connection, kept)?;
    Ok(rows)
}

/// Logs the rows whose column came back: no trigger fires for what we write.
fn log_rows(connection: &Connection, kept: &Kept, width: usize) -> Result<(), Error> {
    if !log_table::exists(connection)? {
        return Ok(());
    }
    let Some(number) = log_table::numbers(connection)?.get(&kept.table).copied() else { return Ok(()) };
    let keys: String = (0..width).map(|at| format!(", k{at}")).collect();
    let (log, number) = (log_table::insert(width), log_table::Touch::Changed.number(number));
    connection.execute(&format!("{log} SELECT {number}{keys} FROM main.{}", quote(&kept.place())), [])?;
    Ok(())
}

/// Drops what is kept.
pub fn forget(connection: &Connection, kept: &Kept) -> Result<(), Error> {
    connection.execute_batch(&format!("DROP TABLE IF EXISTS main.{}", quote(&kept.place())))?;
    connection.execute(REMOVE, [kept.id])?;
    Ok(())
}

/// Drops what was kept before a moment; returns how many.
pub fn forget_older(connection: &Connection, than_ms: i64) -> Result<usize, Error> {
    let old: Vec<Kept> = all(connection)?.into_iter().filter(|kept| kept.time_ms < than_ms).collect();
    old.iter().try_for_each(|kept| forget(connection, kept))?;
    Ok(old.len())
}
