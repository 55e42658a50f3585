//! The triggers that capture: they append the key of each touched row to the change log, and do nothing more, so that the
//! application hardly feels them.

use crate::base::limits;
use crate::db::capture::log_table::{self, Touch};
use crate::db::{
    error::Error,
    indexes::UniqueIndex,
    ours,
    sql::quote,
    table::{Column, Keyed, Table},
};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Name of a trigger of the table with this number.
pub fn name(table: i64, what: &str) -> String {
    format!("{}{table}_{what}", limits::PREFIX)
}

/// A capturing trigger that the database has.
pub struct Present {
    /// Its row of the schema, which stays the same as long as the schema does.
    pub rowid: i64,
    pub table: String,
    /// See [`print`].
    pub print: u64,
}

/// Stands for a statement: the texts of thousands of tables' triggers take megabytes.
pub fn print(sql: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    sql.hash(&mut hasher);
    hasher.finish()
}

/// The capturing triggers that the database has, by name.
pub fn present(connection: &Connection) -> Result<BTreeMap<String, Present>, Error> {
    let sql = "SELECT name, rowid, tbl_name, sql FROM main.sqlite_schema \
               WHERE type = 'trigger' AND name GLOB '__harmonylite__[0-9]*'";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        let print = print(row.get_ref(3)?.as_str()?);
        Ok((row.get::<_, String>(0)?, Present { rowid: row.get(1)?, table: row.get(2)?, print }))
    })?;
    let all: BTreeMap<String, Present> = rows.collect::<Result<_, _>>()?;
    // The triggers of a Go node's table whose name begins with a digit match the pattern too.
    Ok(all.into_iter().filter(|(name, _)| !ours::is_go_programs(name)).collect())
}

/// Whether nothing goes into the triggers of a table but names, in quotes: no text of an index.
pub fn is_plain(table: &Table) -> bool {
    let plain =
        |index: &UniqueIndex| index.condition.is_none() && index.columns.iter().all(|c| c.name.is_some());
    table.unique.iter().all(plain)
}

/// How many triggers a table gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One more, so that updates of other columns than the key's cost less.
    Fast,
    /// SQLite's time to read a schema grows with the square of the number of triggers: for a database of very many tables.
    Few,
}

impl Form {
    /// The form that the triggers of a new table get in a database of so many.
    pub fn for_tables(count: usize) -> Form {
        if count > limits::MANY_TABLES { Form::Few } else { Form::Fast }
    }

    pub fn other(self) -> Form {
        match self {
            Form::Fast => Form::Few,
            Form::Few => Form::Fast,
        }
    }
}

/// Names and statements of the triggers that a table needs.
pub fn wanted(table: &Table, form: Form) -> Vec<(String, String)> {
    let on = quote(&table.name);
    let values = |row: &str| -> String {
        table.key.iter().map(|column| format!(", {row}.{}", quote(&column.name))).collect()
    };
    let log = log_table::insert(table.key.len());
    let append =
        |touch: Touch, row: &str| format!("{log} VALUES({}{});", touch.number(table.id), values(row));
    let (new, old) = (append(Touch::Changed, "NEW"), append(Touch::Changed, "OLD"));
    let same = table.same_key("OLD", "NEW");
    let mut found = vec![
        ("insert".to_owned(), format!("AFTER INSERT ON {on} BEGIN {} END", append(Touch::Inserted, "NEW"))),
        ("delete".to_owned(), format!("AFTER DELETE ON {on} BEGIN {old} END")),
    ];
    match form {
        Form::Fast => {
            let of = of(table, table.key.iter().map(|column| &*column.name));
            found.push(("update".to_owned(), format!("AFTER UPDATE ON {on} BEGIN {new} END")));
            let rekey = format!("AFTER UPDATE{of} ON {on} WHEN NOT ({same}) BEGIN {old} END");
            found.push(("rekey".to_owned(), rekey));
        }
        Form::Few => {
            let rekey = format!("{log} SELECT {}{} WHERE NOT ({same});", table.id, values("OLD"));
            found.push(("update".to_owned(), format!("AFTER UPDATE ON {on} BEGIN {new} {rekey} END")));
        }
    }
    // A statement with REPLACE deletes the rows that collide in a UNIQUE index without firing delete triggers. Whether it will is not
    // known before: with IGNORE it writes nothing.
    let in_the_way = format!("{log} SELECT {}{}", Touch::InTheWay.number(table.id), values("k"));
    for (at, index) in table.unique.iter().enumerate() {
        let body = |only: &str| format!("{in_the_way} FROM {};", collides_with_new(index, table, only));
        // An update of other columns collides with nothing.
        let plain: Option<Vec<&str>> = index.columns.iter().map(|column| column.name.as_deref()).collect();
        let of = match (plain, &index.condition) {
            (Some(names), None) => of(table, names.into_iter()),
            _ => String::new(),
        };
        let other = format!(" AND NOT ({})", table.same_key("o", "OLD"));
        let (insert, update) = (body(""), body(&other));
        found.push((format!("before_insert_{at}"), format!("BEFORE INSERT ON {on} BEGIN {insert} END")));
        found.push((format!("before_update_{at}"), format!("BEFORE UPDATE{of} ON {on} BEGIN {update} END")));
    }
    let statement = |(what, rest): (String, String)| {
        let name = name(table.id, &what);
        let sql = format!("CREATE TRIGGER {} {rest}", quote(&name));
        (name, sql)
    };
    found.into_iter().map(statement).collect()
}

fn compares_generated(index: &UniqueIndex, table: &Table) -> bool {
    table.columns.iter().any(|column| column.generated && mentions(index, &column.name))
}

/// Whether a column may have to do with it.
fn mentions(index: &UniqueIndex, column: &str) -> bool {
    index.condition.is_some() || index.columns.iter().any(|c| c.name.as_deref().is_none_or(|n| n == column))
}

/// What follows FROM in a query inside a trigger that yields the row `k` that collides in this index with the row `NEW`. `only` is a
/// further condition on that row, under the name `o`.
///
/// No name of a column may tie the column to the table: the application drops the index, and then the column, before anybody can make
/// the trigger anew. So there is a row of NULLs under the name `NEW`. A name in a query is looked for in that query and then in those
/// around it, and in each of them the row `NEW` of the trigger is looked for, too: the column's as long as there is one, then NULL.
///
/// Names inside an expression or a condition of the index are those of the table's columns. In the outer query they mean
/// `o`, in the inner one the values of `NEW` under the same names.
fn collides_with_new(index: &UniqueIndex, table: &Table, only: &str) -> String {
    let on = quote(&table.name);
    let is_computed = compares_generated(index, table);
    let terms = terms(index, table);
    let nulls: Vec<String> = table
        .columns
        .iter()
        .filter(|column| is_computed || mentions(index, &column.name))
        .map(|column| format!("NULL AS {}", quote(&column.name)))
        .collect();
    let (found, same) = match table.rowid_names().next() {
        Some(rowid) => (format!("o.{}", quote(rowid)), format!("k.{}", quote(rowid))),
        None => {
            let key = |row: &str| -> Vec<String> {
                table.key.iter().map(|column| format!("{row}.{}", quote(&column.name))).collect()
            };
            (key("o").join(", "), format!("({})", key("k").join(", ")))
        }
    };
    format!(
        "(SELECT {}) AS NEW CROSS JOIN {on} AS k WHERE {same} = (SELECT {found} FROM {on} AS o WHERE {terms}{only})",
        nulls.join(", ")
    )
}

/// The conditions, by names that mean one of the rows `o`: it collides in this index with the row `NEW`.
///
/// For NULL in a column that must not be NULL, REPLACE writes the column's default.
fn terms(index: &UniqueIndex, table: &Table) -> String {
    let new = |name: &str| match table.columns.iter().find(|column| *column.name == *name) {
        Some(Column { default_if_null: Some(default), .. }) => {
            format!("coalesce(NEW.{}, ({default}))", quote(name))
        }
        _ => format!("NEW.{}", quote(name)),
    };
    let new_row: Vec<String> =
        table.columns.iter().map(|c| format!("{} AS {}", new(&c.name), quote(&c.name))).collect();
    let mut terms: Vec<String> = index
        .columns
        .iter()
        .map(|column| {
            let collation = quote(&column.collation);
            match &column.name {
                Some(name) => format!("{} COLLATE {collation} = {}", quote(name), new(name)),
                None => format!(
                    "({0}) COLLATE {collation} = (SELECT {0} FROM (SELECT {1}))",
                    column.expression,
                    new_row.join(", ")
                ),
            }
        })
        .collect();
    if let Some(condition) = &index.condition {
        terms.push(format!("({condition})"));
    }
    if compares_generated(index, table) {
        // SQLite computes a generated column of NEW from those columns alone that the trigger mentions, and others are NULL.
        let all: Vec<String> = table.stored().map(|column| format!("NEW.{}", quote(&column.name))).collect();
        // A function takes 127 arguments at most.
        let some = all.chunks(100).map(|some| format!("coalesce(1, {})", some.join(", ")));
        terms.push(format!("(1 OR {})", some.collect::<Vec<_>>().join(" OR ")));
    }
    terms.join(" AND ")
}

/// The part of an UPDATE trigger that names columns, so that it fires for them alone; empty where they change under another name,
/// too: a generated column with others, the rowid under its names.
fn of<'a>(table: &Table, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let is_stored = |name: &&str| table.stored().any(|column| *column.name == **name);
    if !names.iter().all(is_stored) {
        return String::new();
    }
    let aliases = ["rowid", "oid", "_rowid_"];
    let is_alias = table.keyed == Keyed::RowidAlias && names.iter().any(|name| *name == &*table.key[0].name);
    let all = names.into_iter().chain(aliases.into_iter().filter(|_| is_alias));
    format!(" OF {}", all.map(quote).collect::<Vec<_>>().join(", "))
}

/// Lets SQLite compile the triggers of a table where texts of UNIQUE indexes went into them: a text that
/// we took apart wrongly must not make the application's statements fail. Triggers that do not compile are dropped.
pub fn check(connection: &Connection, table: &Table) -> Result<(), Error> {
    if is_plain(table) {
        return Ok(());
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    let checked = table.samples()[..2].iter().try_for_each(|sql| connection.prepare(sql).map(drop));
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    let Err(error) = checked else { return Ok(()) };
    log::warn!(
        "table {}: a REPLACE that deletes rows by a UNIQUE index is not captured: {error}",
        table.name
    );
    for (trigger, _) in
        wanted(table, Form::Fast).into_iter().filter(|(trigger, _)| trigger.contains("_before_"))
    {
        connection.execute_batch(&format!("DROP TRIGGER IF EXISTS {}", quote(&trigger)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::capture::install::install;
    use crate::db::schema::Schema;

    /// A database with capture, under an application that has its triggers on.
    fn captured(sql: &str) -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        crate::db::state::create(&connection).unwrap();
        install(&mut connection).unwrap();
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).unwrap();
        connection
    }

    /// The keys that a statement logs, with their storage classes.
    fn logged(connection: &Connection, sql: &str) -> Vec<String> {
        connection.execute_batch("DELETE FROM __harmonylite__log").unwrap();
        connection.execute_batch(sql).unwrap();
        let width = log_table::width(connection).unwrap();
        let keys: Vec<String> = (1..=width).map(|n| format!("quote(k{n})")).collect();
        let sql = format!("SELECT {} FROM __harmonylite__log ORDER BY id", keys.join(" || ' ' || "));
        let mut statement = connection.prepare(&sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn inserts_updates_and_deletes_log_keys_in_their_storage_classes() {
        let app = captured("CREATE TABLE t(k PRIMARY KEY, v)");
        assert_eq!(
            logged(&app, "INSERT INTO t VALUES(1, 0), ('1', 0), (x'31', 0), (1.5, 0)"),
            ["1", "'1'", "X'31'", "1.5"]
        );
        assert_eq!(logged(&app, "UPDATE t SET v = 1 WHERE k = '1'"), ["'1'"]);
        assert_eq!(logged(&app, "DELETE FROM t WHERE k = 1.5"), ["1.5"]);
    }

    #[test]
    fn a_changed_key_logs_the_old_one_too() {
        let app = captured("CREATE TABLE t(a, b, PRIMARY KEY(a, b)) WITHOUT ROWID");
        app.execute_batch("INSERT INTO t VALUES(1, 2)").unwrap();
        let mut keys = logged(&app, "UPDATE t SET b = 3");
        keys.sort();
        assert_eq!(keys, ["1 2", "1 3"]);
        assert_eq!(logged(&app, "UPDATE t SET b = 3"), ["1 3"]);
    }

    #[test]
    fn a_replace_logs_the_rows_that_it_deletes() {
        let app = captured(
            "CREATE TABLE t(k INTEGER PRIMARY KEY, a COLLATE NOCASE, b); CREATE UNIQUE INDEX i ON t(lower(a), b) WHERE b > 0",
        );
        app.execute_batch("INSERT INTO t VALUES(1, 'x', 1), (2, 'y', 1), (3, 'x', 0)").unwrap();
        assert_eq!(logged(&app, "INSERT OR REPLACE INTO t VALUES(4, 'X', 1)"), ["1", "4"]);
        assert_eq!(logged(&app, "UPDATE OR REPLACE t SET a = 'Y' WHERE k = 4"), ["2", "4"]);
        assert_eq!(logged(&app, "INSERT INTO t VALUES(5, 'x', 0)"), ["5"]);
    }

    #[test]
    fn odd_names_and_generated_columns_are_captured() {
        let app = captured(
            r#"CREATE TABLE "a ""b"("group" TEXT PRIMARY KEY, "x'y" UNIQUE, g AS ("x'y" + 1) UNIQUE);
               CREATE TABLE "select"("a.b");"#,
        );
        assert_eq!(logged(&app, r#"INSERT INTO "a ""b"("group", "x'y") VALUES('k', 1)"#), ["'k'"]);
        assert_eq!(
            logged(&app, r#"INSERT OR REPLACE INTO "a ""b"("group", "x'y") VALUES('l', 1)"#).first().unwrap(),
            "'k'"
        );
        assert_eq!(logged(&app, r#"INSERT INTO "select"(rowid, "a.b") VALUES(9, 1)"#), ["9"]);
    }

    #[test]
    fn a_default_that_only_the_application_can_compute_needs_no_trigger_less() {
        let app = captured(
            "CREATE TABLE t(k INTEGER PRIMARY KEY, a UNIQUE, b DEFAULT (abs(1))); PRAGMA writable_schema=ON; \
             UPDATE sqlite_schema SET sql = replace(sql, 'abs', 'mine'); PRAGMA writable_schema=RESET",
        );
        assert_eq!(present(&app).unwrap().len(), 6);
        assert_eq!(
            logged(&app, "INSERT INTO t VALUES(1, 'x', 1); REPLACE INTO t VALUES(2, 'x', 1)"),
            ["1", "1", "2"]
        );
    }

    #[test]
    fn null_keys_are_logged() {
        let app = captured("CREATE TABLE t(k TEXT PRIMARY KEY, v)");
        assert_eq!(logged(&app, "INSERT INTO t VALUES(NULL, 1)"), ["NULL"]);
    }

    #[test]
    fn a_trigger_that_does_not_compile_is_dropped() {
        let connection =
            captured("CREATE TABLE t(k INTEGER PRIMARY KEY, a); CREATE UNIQUE INDEX i ON t(lower(a))");
        let mut table = (*Schema::read_numbered(&connection).unwrap().tables["t"]).clone();
        assert_eq!(present(&connection).unwrap().len(), 6);
        // As if the text had been taken apart wrongly.
        table.unique[0].columns[0].expression = "lower(nonsense".to_owned();
        let (name, _) = wanted(&table, Form::Fast).pop().unwrap();
        let broken = format!(
            "DROP TRIGGER {0}; CREATE TRIGGER {0} BEFORE UPDATE ON t BEGIN SELECT lower(nonsense); END",
            quote(&name)
        );
        connection.execute_batch(&broken).unwrap();
        check(&connection, &table).unwrap();
        assert_eq!(present(&connection).unwrap().len(), 4);
    }
}
