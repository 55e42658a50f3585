//! A database that the Go program has worked on: what it captured and did not publish is logged in our way, then its triggers
//! and tables are removed (formats, section "Tables and triggers of the Go program").

use crate::base::limits;
use crate::db::capture::log_table;
use crate::db::{error::Error, ours, schema::Schema, sql::quote, state};
use rusqlite::Connection;

/// Takes over; returns the number of changes that were not published.
pub fn take_over(connection: &Connection, schema: &Schema) -> Result<usize, Error> {
    let mut pending = 0;
    for theirs in ours::tables_of_go_program(connection)? {
        let name = theirs.strip_prefix(limits::PREFIX).and_then(|rest| rest.strip_suffix("_change_log"));
        let Some(table) = name.and_then(|name| schema.tables.get(name)) else { continue };
        let values: String =
            table.key.iter().map(|column| format!(", {}", quote(&format!("val_{}", column.name)))).collect();
        // Only the key counts: what is published is the state that the row has then.
        let sql = format!(
            "{} SELECT {}{values} FROM {} WHERE state = 0 ORDER BY id",
            log_table::insert(table.key.len()),
            table.id,
            quote(&theirs)
        );
        pending += connection.execute(&sql, [])?;
    }
    ours::drop_prefixed(connection, ours::is_go_programs)?;
    state::set_meta(connection, state::TAKEN_OVER, "1")?;
    Ok(pending)
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
        let keys: String = connection
            .query_row("SELECT group_concat(k1) FROM __harmonylite__log", [], |row| row.get(0))
            .unwrap();
        assert_eq!(keys, "6,5");
        let left = "SELECT count(*) FROM sqlite_schema WHERE name GLOB '*_change_log*' OR name GLOB '*schema_version'";
        assert_eq!(connection.query_row(left, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    }
}
