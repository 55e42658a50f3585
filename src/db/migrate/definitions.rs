//! The application's schema as it was when it was looked at last: what has changed since is found by comparing. It is written in the
//! same transaction as the change of the schema that it led to.

use crate::db::migrate::statement::is_literal;
use crate::db::{error::Error, ours};
use crate::model::change::Thing;
use rusqlite::{Connection, Row, params};
use serde_json::Value as Json;
use std::collections::HashMap;

const TABLE: &str = "__harmonylite__definition";
/// `tbl`: empty for a table that has got another name since. `columns`: the names and declared types of a table, in a JSON list. `number`: the one that capture has given to a table.
const CREATE: &str = "CREATE TABLE IF NOT EXISTS __harmonylite__definition(type TEXT NOT NULL, name TEXT NOT NULL, tbl TEXT NOT NULL, \
     sql TEXT NOT NULL, columns TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY(type, name)) WITHOUT ROWID";
/// The condition of what the application has made.
macro_rules! of_application {
    () => {
        "s.sql IS NOT NULL AND substr(s.name, 1, 15) <> '__harmonylite__' AND substr(s.name, 1, 7) <> 'sqlite_'"
    };
}
macro_rules! columns_of {
    () => {
        "CASE s.type WHEN 'table' THEN (SELECT json_group_array(json_array(x.name, x.type)) FROM pragma_table_xinfo(s.name) x \
         WHERE x.hidden = 0) ELSE '[]' END"
    };
}
const NOW: &str = concat!(
    "SELECT s.type, s.name, s.tbl_name, s.sql, ",
    columns_of!(),
    " FROM main.sqlite_schema s LEFT JOIN __harmonylite__definition d ON d.type = s.type AND d.name = s.name \
     WHERE (d.sql IS NOT s.sql OR d.tbl = '') AND ",
    of_application!()
);
const OF_APPLICATION: &str = concat!(
    "SELECT s.type, s.name, s.tbl_name, s.sql, '[]' FROM main.sqlite_schema s WHERE ",
    of_application!(),
    " ORDER BY s.rowid"
);
const BEFORE: &str = "SELECT type, name, tbl, sql, columns, number FROM __harmonylite__definition \
     WHERE tbl = '' OR (type, name, sql) NOT IN (SELECT type, name, sql FROM main.sqlite_schema WHERE sql IS NOT NULL)";
/// Without the columns: of thousands of tables they would take a second under the lock.
const ALL: &str = concat!(
    "INSERT INTO __harmonylite__definition(type, name, tbl, sql, columns, number) SELECT s.type, s.name, s.tbl_name, s.sql, '[]', 0 \
     FROM main.sqlite_schema s WHERE ",
    of_application!()
);
const NUMBER_ALL: &str = "UPDATE __harmonylite__definition SET number = n.id FROM __harmonylite__table n \
     WHERE n.name = __harmonylite__definition.name AND type = 'table' AND number <> n.id";
const FORGET: &str = "DELETE FROM __harmonylite__definition WHERE type = ?1 AND name = ?2";
const PUT: &str = "INSERT OR REPLACE INTO __harmonylite__definition(type, name, tbl, sql, columns, number) \
     VALUES(?1, ?2, ?3, ?4, ?5, 0)";

/// A column as it was declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    pub name: String,
    pub declared_type: String,
}

/// Something of the application's schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    pub kind: Thing,
    pub name: String,
    pub table: String,
    pub sql: String,
    /// Of a table, without those that are computed.
    pub columns: Vec<Declared>,
    /// Of a table that was captured.
    pub number: i64,
}

impl Definition {
    fn read(row: &Row<'_>, number: i64) -> rusqlite::Result<Definition> {
        let columns: String = row.get(4)?;
        Ok(Definition {
            kind: Thing::of(&row.get::<_, String>(0)?).unwrap_or(Thing::View),
            name: row.get(1)?,
            table: row.get(2)?,
            sql: row.get(3)?,
            columns: parse(&columns),
            number,
        })
    }

    /// Whether it is a table that has got another name since.
    pub fn is_renamed(&self) -> bool {
        self.kind == Thing::Table && self.table.is_empty()
    }

    fn columns_text(&self) -> String {
        let pairs = self.columns.iter().map(|column| [column.name.as_str(), column.declared_type.as_str()]);
        serde_json::to_string(&pairs.collect::<Vec<_>>()).unwrap_or_default()
    }
}

fn parse(columns: &str) -> Vec<Declared> {
    let list: Vec<Json> = serde_json::from_str(columns).unwrap_or_default();
    let text = |json: &Json| json.as_str().unwrap_or_default().to_owned();
    list.iter().map(|pair| Declared { name: text(&pair[0]), declared_type: text(&pair[1]) }).collect()
}

/// What is not as it was.
#[derive(Debug, Default)]
pub struct Difference {
    /// What is new, or has another statement.
    pub now: Vec<Definition>,
    /// What is gone, or had another statement.
    pub before: Vec<Definition>,
}

impl Difference {
    pub fn is_empty(&self) -> bool {
        self.now.is_empty() && self.before.is_empty()
    }
}

/// Whether the schema was looked at before.
pub fn exist(connection: &Connection) -> Result<bool, Error> {
    ours::has_table(connection, TABLE)
}

/// Remembers the schema as it is; inside of a transaction.
pub fn remember_all(connection: &Connection) -> Result<(), Error> {
    connection.execute_batch(CREATE)?;
    connection.execute(&format!("DELETE FROM {TABLE}"), [])?;
    connection.execute(ALL, [])?;
    number_all(connection)
}

fn number_all(connection: &Connection) -> Result<(), Error> {
    if ours::has_table(connection, crate::db::capture::log_table::NUMBERS)? {
        connection.execute(NUMBER_ALL, [])?;
    }
    Ok(())
}

/// What has changed since.
pub fn difference(connection: &Connection) -> Result<Difference, Error> {
    let mut statement = connection.prepare(NOW)?;
    let now = statement.query_map([], |row| Definition::read(row, 0))?.collect::<Result<_, _>>()?;
    let mut statement = connection.prepare(BEFORE)?;
    let before = statement.query_map([], |row| Definition::read(row, row.get(5)?))?;
    let mut before: Vec<Definition> = before.collect::<Result<_, _>>()?;
    for table in before.iter_mut().filter(|before| before.kind == Thing::Table && before.columns.is_empty()) {
        table.columns = declared_by(&table.name, &table.sql);
    }
    Ok(Difference { now, before })
}

/// All that the application has made, without the columns of its tables.
pub fn of_application(connection: &Connection) -> Result<Vec<Definition>, Error> {
    let mut statement = connection.prepare(OF_APPLICATION)?;
    let all = statement.query_map([], |row| Definition::read(row, 0))?;
    Ok(all.collect::<Result<_, _>>()?)
}

/// The names of its tables.
pub fn tables(connection: &Connection) -> Result<Vec<String>, Error> {
    let all = of_application(connection)?.into_iter();
    Ok(all.filter(|thing| thing.kind == Thing::Table).map(|table| table.name).collect())
}

/// The columns that the statement of a table declares; none if it needs something that only the application has.
fn declared_by(table: &str, sql: &str) -> Vec<Declared> {
    let declared = || -> Result<Vec<Declared>, Error> {
        let scratch = Connection::open_in_memory()?;
        scratch.execute_batch(sql)?;
        let columns = columns_of(&scratch, table)?.into_iter().filter(|column| !column.generated);
        Ok(columns.map(|Present { name, declared_type, .. }| Declared { name, declared_type }).collect())
    };
    declared().unwrap_or_default()
}

/// Remembers what has changed; inside of a transaction.
pub fn remember(connection: &Connection, difference: &Difference) -> Result<(), Error> {
    for gone in &difference.before {
        connection.prepare_cached(FORGET)?.execute([gone.kind.word(), &gone.name])?;
    }
    for now in &difference.now {
        let Definition { kind, name, table, sql, .. } = now;
        connection.prepare_cached(PUT)?.execute(params![
            kind.word(),
            name,
            table,
            sql,
            now.columns_text()
        ])?;
    }
    number_all(connection)
}

/// The statement that makes something, whatever the case of its name; `None`: it is not there.
pub fn sql_of(connection: &Connection, kind: Thing, name: &str) -> Result<Option<String>, Error> {
    use rusqlite::OptionalExtension;
    let sql = "SELECT sql FROM main.sqlite_schema WHERE type = ?1 AND name = ?2 COLLATE NOCASE";
    Ok(connection.prepare_cached(sql)?.query_row([kind.word(), name], |row| row.get(0)).optional()?)
}

/// A column of a table that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    pub name: String,
    pub declared_type: String,
    pub not_null: bool,
    /// Its default, as SQL.
    pub default: Option<String>,
    pub key_position: i64,
    pub generated: bool,
}

impl Present {
    /// What may stand for a NULL that is not allowed: its default, or nothing.
    pub fn instead_of_null(&self) -> Option<String> {
        let default = self.default.clone().filter(|default| self.not_null && is_literal(default));
        default.or_else(|| self.nothing().map(str::to_owned))
    }

    /// What stands, as an SQL literal, where nothing else can: with NULL a row would be refused. `None`: NULL or the default can.
    pub fn nothing(&self) -> Option<&'static str> {
        if !self.not_null || self.default.is_some() || self.key_position > 0 || self.generated {
            return None;
        }
        let declared = self.declared_type.to_uppercase();
        Some(match declared.as_str() {
            text if ["CHAR", "CLOB", "TEXT"].iter().any(|word| text.contains(word)) => "''",
            blob if blob.is_empty() || blob.contains("BLOB") => "X''",
            _ => "0",
        })
    }
}

/// The columns of a table, computed ones too.
pub fn columns_of(connection: &Connection, table: &str) -> Result<Vec<Present>, Error> {
    let sql = "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1)";
    let mut statement = connection.prepare(sql)?;
    let columns = statement.query_map([table], |row| {
        Ok(Present {
            name: row.get(0)?,
            declared_type: row.get(1)?,
            not_null: row.get(2)?,
            default: row.get(3)?,
            key_position: row.get(4)?,
            generated: row.get::<_, i64>(5)? >= 2,
        })
    })?;
    Ok(columns.collect::<Result<_, _>>()?)
}

/// The tables' names by the numbers that capture has given.
pub fn names_by_number(connection: &Connection) -> Result<HashMap<i64, String>, Error> {
    use crate::db::capture::log_table;
    if !ours::has_table(connection, log_table::NUMBERS)? {
        return Ok(HashMap::new());
    }
    Ok(log_table::numbers(connection)?.into_iter().map(|(name, number)| (number, name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(definitions: &[Definition]) -> Vec<&str> {
        definitions.iter().map(|definition| definition.name.as_str()).collect()
    }

    #[test]
    fn what_has_changed_since_is_found() {
        let connection = Connection::open_in_memory().unwrap();
        let sql = "CREATE TABLE a(x INTEGER PRIMARY KEY, y TEXT AS (x || 'z')); CREATE TABLE b(x); CREATE INDEX i ON a(x); \
                   CREATE TABLE __harmonylite__state(a); CREATE TABLE s(x INTEGER PRIMARY KEY AUTOINCREMENT)";
        connection.execute_batch(sql).unwrap();
        assert!(!exist(&connection).unwrap());
        remember_all(&connection).unwrap();
        assert!(exist(&connection).unwrap() && difference(&connection).unwrap().is_empty());
        connection
            .execute_batch("ALTER TABLE a ADD COLUMN n TEXT; DROP TABLE b; CREATE VIEW v AS SELECT 1")
            .unwrap();
        let found = difference(&connection).unwrap();
        assert_eq!((names(&found.now), names(&found.before)), (vec!["a", "v"], vec!["a", "b"]));
        let columns: Vec<&str> = found.now[0].columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!((columns, found.before[0].columns.len()), (vec!["x", "n"], 1));
        remember(&connection, &found).unwrap();
        assert!(difference(&connection).unwrap().is_empty());
    }
}
