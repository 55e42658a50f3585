//! The triggers that capture: they append the key of each touched row to the change log, and do nothing more, so that the
//! application hardly feels them.

use crate::base::limits;
use crate::db::capture::log_table;
use crate::db::{error::Error, indexes::UniqueIndex, ours, sql::quote, table::Table};
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

/// Names and statements of the triggers that a table needs.
pub fn wanted(table: &Table) -> Vec<(String, String)> {
    let on = quote(&table.name);
    let values = |row: &str| -> String {
        table.key.iter().map(|column| format!(", {row}.{}", quote(&column.name))).collect()
    };
    let id = table.id;
    let log = log_table::insert(table.key.len());
    let append = |row: &str| format!("BEGIN {log} VALUES({id}{}); END", values(row));
    let same = table.same_key("OLD", "NEW");
    // Few triggers: SQLite's time to read a schema grows with the square of their number.
    let update = format!(
        "BEGIN {log} VALUES({id}{}); {log} SELECT {id}{} WHERE NOT ({same}); END",
        values("NEW"),
        values("OLD")
    );
    let mut found = vec![
        ("insert".to_owned(), format!("AFTER INSERT ON {on} {}", append("NEW"))),
        ("update".to_owned(), format!("AFTER UPDATE ON {on} {update}")),
        ("delete".to_owned(), format!("AFTER DELETE ON {on} {}", append("OLD"))),
    ];
    // A statement with REPLACE deletes the rows that collide in a UNIQUE index without firing delete triggers.
    let columns: Vec<&str> = table.columns.iter().map(|column| &*column.name).collect();
    for (at, index) in table.unique.iter().enumerate() {
        let collide = index.collides_with_new(&columns);
        let body = format!("{log} SELECT {id}{} FROM {on} AS o WHERE {collide}", values("o"));
        // An update of other columns collides with nothing.
        let plain: Option<Vec<String>> = index.columns.iter().map(|c| c.name.as_deref().map(quote)).collect();
        let of = match (plain, &index.condition) {
            (Some(names), None) => format!(" OF {}", names.join(", ")),
            _ => String::new(),
        };
        let other = table.same_key("o", "OLD");
        found.push((format!("before_insert_{at}"), format!("BEFORE INSERT ON {on} BEGIN {body}; END")));
        found.push((
            format!("before_update_{at}"),
            format!("BEFORE UPDATE{of} ON {on} BEGIN {body} AND NOT ({other}); END"),
        ));
    }
    let statement = |(what, rest): (String, String)| {
        let name = name(id, &what);
        let sql = format!("CREATE TRIGGER {} {rest}", quote(&name));
        (name, sql)
    };
    found.into_iter().map(statement).collect()
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
    for (trigger, _) in wanted(table).into_iter().filter(|(trigger, _)| trigger.contains("_before_")) {
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
        assert_eq!(present(&app).unwrap().len(), 5);
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
        assert_eq!(present(&connection).unwrap().len(), 5);
        // As if the text had been taken apart wrongly.
        table.unique[0].columns[0].expression = "lower(nonsense".to_owned();
        let (name, _) = wanted(&table).pop().unwrap();
        let broken = format!(
            "DROP TRIGGER {0}; CREATE TRIGGER {0} BEFORE UPDATE ON t BEGIN SELECT lower(nonsense); END",
            quote(&name)
        );
        connection.execute_batch(&broken).unwrap();
        check(&connection, &table).unwrap();
        assert_eq!(present(&connection).unwrap().len(), 3);
    }
}
