//! A database that the Go program has worked on: what it captured and did not publish is logged in our way, then its triggers
//! and tables are removed (formats, section "Tables and triggers of the Go program").

//!
//! Its log tables are as the application's tables were when they were made, and its triggers as at its last start. The application may
//! have changed the schema since.

use crate::base::limits;
use crate::db::capture::{all_rows::log_all_rows, log_table};
use crate::db::{error::Error, ours, schema::Schema, sql::quote, state, table::Table};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension};

/// What was taken over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// Number of changes that were not published.
    pub pending: usize,
    /// Tables that it never captured, with the number of their rows, which are logged.
    pub new_tables: Vec<(String, usize)>,
    /// Tables that it captured once and not at last: what was written in them is found out later.
    pub rebuilt: Vec<String>,
}

const TABLE_OF: &str =
    "SELECT tbl_name FROM main.sqlite_schema WHERE type = 'trigger' AND name = ?1 || '_on_insert'";
const TRIGGERS_OF: &str = "SELECT rowid FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE \
     AND instr(name, '_change_log_on_') > 0 AND substr(name, 1, 15) = '__harmonylite__'";
const LOGGED: &str =
    "SELECT name FROM pragma_table_info(?1) WHERE name LIKE 'val\\_%' ESCAPE '\\' ORDER BY cid";

/// Takes over.
pub fn take_over(connection: &Connection, schema: &Schema) -> Result<TakenOver, Error> {
    let (mut done, mut captured) = (TakenOver::default(), vec![]);
    for theirs in ours::tables_of_go_program(connection)? {
        let name = theirs.strip_prefix(limits::PREFIX).and_then(|rest| rest.strip_suffix("_change_log"));
        let Some(name) = name else { continue };
        // Triggers follow a table that gets another name, and the log table does not.
        let now: Option<String> = connection.query_row(TABLE_OF, [&theirs], |row| row.get(0)).optional()?;
        let has_triggers = now.is_some();
        let Some(table) = schema.find(now.as_deref().unwrap_or(name)) else { continue };
        captured.push(table.name.clone());
        let key = logged_key(connection, &theirs, table)?;
        if let Some(key) = &key {
            done.pending += log_pending(connection, &theirs, (table, key))?;
        }
        if !has_triggers || key.is_none() {
            state::note_rebuilt(connection, &table.name, log_table::highest(connection)?)?;
            done.rebuilt.push(table.name.to_string());
        }
    }
    // Only if it has captured anything: else what is here of it are leftovers.
    for table in
        schema.tables.values().filter(|table| !captured.is_empty() && !captured.contains(&table.name))
    {
        done.new_tables.push((table.name.to_string(), log_all_rows(connection, table)?));
    }
    done.new_tables.sort();
    ours::drop_prefixed(connection, ours::is_go_programs)?;
    state::set_meta(connection, state::TAKEN_OVER, "1")?;
    Ok(done)
}

/// The columns of a log table that hold a table's key; `None` when it does not hold it. A column that got another name since is found
/// by its place: the application's later columns come last.
fn logged_key(connection: &Connection, theirs: &str, table: &Table) -> Result<Option<Vec<String>>, Error> {
    let mut statement = connection.prepare(LOGGED)?;
    let logged: Vec<String> = statement.query_map([theirs], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let of = |column: &str| {
        let name = format!("val_{column}");
        logged.iter().find(|known| known.eq_ignore_ascii_case(&name))
    };
    let key = table.key.iter().map(|key| {
        let by_place = || {
            let place = table.columns.iter().position(|column| column.name == key.name)?;
            let is_free =
                |known: &&String| table.columns.iter().all(|column| of(&column.name) != Some(known));
            logged.get(place).filter(|_| logged.len() <= table.columns.len()).filter(is_free)
        };
        of(&key.name).or_else(by_place).cloned()
    });
    Ok(key.collect())
}

/// Logs what was not published; returns how many changes.
fn log_pending(
    connection: &Connection,
    theirs: &str,
    (table, key): (&Table, &[String]),
) -> Result<usize, Error> {
    let values: String = key.iter().map(|column| format!(", {}", quote(column))).collect();
    // Only the key counts: what is published is the state that the row has then.
    let sql = format!(
        "{} SELECT {}{values} FROM {} WHERE state = 0 ORDER BY id",
        log_table::insert(table.key.len()),
        table.id,
        quote(theirs)
    );
    Ok(connection.execute(&sql, [])?)
}

/// Rows of triggers of the Go program that make the application's statements fail: its log tables lack a column, or a table one that
/// they name.
pub fn broken(connection: &Connection, schema: &Schema) -> Result<Vec<i64>, Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    let found = find_broken(connection, schema);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    found
}

fn find_broken(connection: &Connection, schema: &Schema) -> Result<Vec<i64>, Error> {
    let mut found = vec![];
    for table in schema.tables.values() {
        let mut rows: Vec<i64> = connection
            .prepare_cached(TRIGGERS_OF)?
            .query_map([&*table.name], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let fails = |sql: &String| connection.prepare(sql).is_err_and(|error| is_theirs(&error.to_string()));
        if !rows.is_empty() && table.samples().iter().any(fails) {
            log::warn!(
                "table {}: triggers of a Go node make the application's statements fail, and are removed",
                table.name
            );
            found.append(&mut rows);
        }
    }
    Ok(found)
}

fn is_theirs(error: &str) -> bool {
    [limits::PREFIX, "NEW.", "OLD."].iter().any(|part| error.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::capture::install::install;

    #[test]
    fn pending_changes_are_logged_and_the_rest_is_removed() {
        let mut connection = Connection::open_in_memory().unwrap();
        state::create(&connection).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE Books(id INTEGER PRIMARY KEY, name);
                 CREATE TABLE __harmonylite__Books_change_log(id INTEGER PRIMARY KEY, val_id, val_name, type, state);
                 INSERT INTO __harmonylite__Books_change_log VALUES(1, 5, 'a', 'insert', 1), (2, 6, 'b', 'insert', 0),
                     (3, 5, NULL, 'delete', 0);
                 CREATE TABLE __harmonylite___global_change_log(id INTEGER PRIMARY KEY);
                 CREATE TABLE __harmonylite__schema_version(id);
                 CREATE TRIGGER __harmonylite__Books_change_log_on_insert AFTER INSERT ON Books BEGIN SELECT 1; END;",
            )
            .unwrap();
        let (_, done) = install(&mut connection).unwrap();
        assert!(done.first);
        assert_eq!(done.taken_over, 2);
        assert!(done.new_tables.is_empty() && done.rebuilt.is_empty());
        let keys: String = connection
            .query_row("SELECT group_concat(k1) FROM __harmonylite__log", [], |row| row.get(0))
            .unwrap();
        assert_eq!(keys, "6,5");
        let left = "SELECT count(*) FROM sqlite_schema WHERE name GLOB '*_change_log*' OR name GLOB '*schema_version'";
        assert_eq!(connection.query_row(left, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    }

    /// Tables and triggers as the Go program makes them, in short.
    fn of_go(table: &str, columns: &[&str]) -> String {
        let log = format!("__harmonylite__{table}_change_log");
        let list = |prefix: &str| columns.iter().map(|name| format!("{prefix}{name}, ")).collect::<String>();
        let triggers: String = ["insert", "update", "delete"]
            .iter()
            .map(|on| {
                let row = if *on == "delete" { "OLD." } else { "NEW." };
                format!(
                    "CREATE TRIGGER {log}_on_{on} AFTER {on} ON {table} WHEN (SELECT count(*) FROM pragma_function_list \
                     WHERE name = 'harmonylite_version') < 1 BEGIN INSERT INTO {log}({}type, state) VALUES({}'{on}', 0); END;",
                    list("val_"),
                    list(row)
                )
            })
            .collect();
        format!(
            "CREATE TABLE IF NOT EXISTS {log}(id INTEGER PRIMARY KEY AUTOINCREMENT, {}type TEXT, state INTEGER); {triggers}",
            list("val_")
        )
    }

    fn database(sql: &str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        state::create(&connection).unwrap();
        connection.execute_batch(sql).unwrap();
        connection
    }

    fn keys(connection: &Connection) -> String {
        let sql = "SELECT coalesce(group_concat(name || ' ' || quote(k1), ', '), '') FROM (SELECT n.name, k1 FROM __harmonylite__log l \
             JOIN __harmonylite__table n ON n.id = l.t & 16777215 ORDER BY l.id)";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// The application has changed its schema since the Go program made its triggers.
    #[test]
    fn stale_triggers_lose_no_change() {
        let mut connection = database(&format!(
            "CREATE TABLE a(k TEXT PRIMARY KEY, v); CREATE TABLE b(id INTEGER PRIMARY KEY, v); CREATE TABLE c(id INTEGER PRIMARY KEY, v);
             CREATE TABLE gone(id INTEGER PRIMARY KEY); {} {} {} {}",
            of_go("a", &["k", "v"]),
            of_go("b", &["id", "v"]),
            of_go("c", &["id", "v"]),
            of_go("gone", &["id"]),
        ));
        connection
            .execute_batch(
                "INSERT INTO a VALUES('x', 1); INSERT INTO b VALUES(7, 1); INSERT INTO c VALUES(8, 1); INSERT INTO gone VALUES(9);
                 ALTER TABLE a RENAME COLUMN k TO name; ALTER TABLE a ADD COLUMN more; ALTER TABLE b RENAME TO other;
                 CREATE TABLE n(id INTEGER PRIMARY KEY, v); INSERT INTO n SELECT * FROM c; DROP TABLE c; ALTER TABLE n RENAME TO c;
                 DROP TABLE gone; CREATE TABLE fresh(id INTEGER PRIMARY KEY); INSERT INTO fresh VALUES(3);
                 INSERT INTO a(name) VALUES('y'); INSERT INTO other VALUES(10, 1); INSERT INTO c VALUES(11, 1)",
            )
            .unwrap();
        let (_, done) = install(&mut connection).unwrap();
        assert_eq!(done.taken_over, 5);
        assert_eq!((done.new_tables, done.rebuilt), (vec![("fresh".to_owned(), 1)], vec!["c".to_owned()]));
        let logged = keys(&connection);
        for key in ["a 'x'", "a 'y'", "other 7", "other 10", "c 8", "fresh 3"] {
            assert!(logged.contains(key), "{key}: {logged}");
        }
        assert_eq!(state::rebuilt(&connection).unwrap().len(), 1);
    }

    /// Its log tables are never altered: after a start on a changed schema, its triggers name columns that the log does not have.
    #[test]
    fn triggers_that_make_statements_fail_are_removed() {
        let mut connection = database(&format!(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE); {}",
            of_go("t", &["id", "u"])
        ));
        connection.execute_batch("INSERT INTO t VALUES(1, 'a'); ALTER TABLE t ADD COLUMN v").unwrap();
        for on in ["insert", "update", "delete"] {
            connection.execute_batch(&format!("DROP TRIGGER __harmonylite__t_change_log_on_{on}")).unwrap();
        }
        connection.execute_batch(&of_go("t", &["id", "u", "v"])).unwrap();
        assert!(connection.execute_batch("INSERT INTO t VALUES(2, 'b', 1)").is_err());
        let (schema, done) = install(&mut connection).unwrap();
        // Which of its statements failed, nobody can tell: what was written is found out as where there were no triggers.
        assert_eq!((done.taken_over, done.rebuilt), (1, vec!["t".to_owned()]));
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).unwrap();
        connection.execute_batch("INSERT INTO t VALUES(2, 'b', 1)").unwrap();
        assert_eq!(keys(&connection).matches("t ").count(), 2, "{}", keys(&connection));
        let present = crate::db::capture::triggers::present(&connection).unwrap();
        assert_eq!(
            present.len(),
            crate::db::capture::triggers::wanted(
                &schema.tables["t"],
                crate::db::capture::triggers::Form::for_tables(1)
            )
            .len()
        );
    }
}
