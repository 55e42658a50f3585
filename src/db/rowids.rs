//! Rowids that stay as they are. A table without a primary key is replicated by its rowids, and VACUUM gives new ones to the rows of
//! such a table if it has no index: nobody logs that, and the next writes would meet other rows elsewhere. SQLite keeps the rowids of
//! a table that has an index, be it one that never holds an entry and costs no write anything. So each of these tables gets one.

use crate::base::limits;
use crate::db::schema::Schema;
use crate::db::table::Keyed;
use crate::db::{error::Error, ours::KEEPS_ROWIDS, schema_rows, sql::quote};
use rusqlite::{Connection, params};
use std::collections::HashSet;
use std::sync::Arc;

/// What the names of these indexes begin with, after our prefix. A number follows.
const NAME: &str = "rowids_";
/// The table on which the indexes are made, because it is empty: on the table itself SQLite would read all rows under the lock.
const NURSERY: &str = "__harmonylite__nursery";
const MOVE: &str = "UPDATE main.sqlite_schema SET tbl_name = ?1, sql = ?2 WHERE type = 'index' AND name = ?3";

/// Names of the tables that lack their index.
pub fn lacking(connection: &Connection, schema: &Schema) -> Result<Vec<Arc<str>>, Error> {
    let by_rowid = schema.tables.values().filter(|table| table.keyed == Keyed::Rowid);
    let mut found: Vec<Arc<str>> = by_rowid.map(|table| table.name.clone()).collect();
    if !found.is_empty() {
        let sql = format!("SELECT lower(tbl_name) FROM main.sqlite_schema WHERE {KEEPS_ROWIDS}");
        let mut statement = connection.prepare(&sql)?;
        let have: HashSet<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        found.retain(|name| !have.contains(&name.to_ascii_lowercase()));
        found.sort();
    }
    Ok(found)
}

/// Gives tables their indexes, in the caller's transaction. The schema is another one then.
pub fn keep(connection: &Connection, tables: &[Arc<str>]) -> Result<(), Error> {
    if tables.is_empty() {
        return Ok(());
    }
    let prefix = format!("{}{NAME}", limits::PREFIX);
    let highest = format!(
        "SELECT coalesce(max(CAST(substr(name, {}) AS INTEGER)), 0) FROM main.sqlite_schema WHERE {KEEPS_ROWIDS}",
        prefix.len() + 1
    );
    let highest: i64 = connection.query_row(&highest, [], |row| row.get(0))?;
    // No column's name goes in: an application could not drop the column then.
    let statement =
        |name: &str, table: &str| format!("CREATE INDEX {} ON {}(0) WHERE 0", quote(name), quote(table));
    let named: Vec<(String, &Arc<str>)> =
        (highest + 1..).map(|number| format!("{prefix}{number}")).zip(tables).collect();
    connection.execute_batch(&format!("CREATE TABLE main.{NURSERY}(x)"))?;
    for (name, _) in &named {
        connection.execute_batch(&statement(name, NURSERY))?;
    }
    schema_rows::write(connection, || {
        for (name, table) in &named {
            connection.execute(MOVE, params![table, statement(name, table), name])?;
        }
        Ok(())
    })?;
    // Only then does this connection know that they are not the nursery's any more, which takes what it has along.
    connection.execute_batch(&format!("PRAGMA writable_schema=RESET; DROP TABLE main.{NURSERY}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::scratch::Scratch;

    const SQL: &str = "CREATE TABLE t(a, b); CREATE TABLE \"o \"\"x\"(a); CREATE TABLE k(k INTEGER PRIMARY KEY); \
         CREATE TABLE i(a UNIQUE); INSERT INTO t(rowid, a) VALUES(5, 'x'), (9, 'y'); INSERT INTO \"o \"\"x\"(rowid) VALUES(7)";

    fn kept(connection: &Connection) -> Vec<Arc<str>> {
        let transaction = connection.unchecked_transaction().unwrap();
        let names = lacking(&transaction, &Schema::read(&transaction).unwrap()).unwrap();
        keep(&transaction, &names).unwrap();
        transaction.commit().unwrap();
        names
    }

    #[test]
    fn a_vacuum_leaves_the_rowids_alone() {
        let scratch = Scratch::new("rowids", SQL);
        let ours = crate::db::open::open(&scratch.path).unwrap();
        let rowids = || scratch.value("SELECT group_concat(rowid) FROM t");
        assert_eq!(rowids(), "'5,9'");
        let names: Vec<String> = kept(&ours).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["i", "o \"x", "t"]);
        assert!(kept(&ours).is_empty(), "the second time there is nothing to do");
        for write in ["", "ALTER TABLE t DROP COLUMN b; ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME TO t"]
        {
            scratch.app.execute_batch(&format!("{write}; VACUUM")).unwrap();
            assert_eq!(rowids(), "'5,9'");
            assert_eq!(scratch.value("SELECT rowid FROM \"o \"\"x\""), "7");
        }
        assert!(kept(&ours).is_empty());
        assert_eq!(scratch.value("SELECT integrity_check FROM pragma_integrity_check"), "'ok'");
        scratch.app.execute_batch("DROP TABLE t; CREATE TABLE t(c)").unwrap();
        assert_eq!(kept(&ours).len(), 1);
        let left = format!("SELECT count(*) FROM sqlite_schema WHERE {KEEPS_ROWIDS}");
        assert_eq!(scratch.value(&left), "3");
        crate::db::cleanup(&scratch.path).unwrap();
        assert_eq!(scratch.value(&left), "0");
    }
}
