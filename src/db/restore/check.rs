//! SQLite's own check of a whole database.

use crate::db::{error::Error, sql::literal, sql::quote, writable};
use rusqlite::Connection;

/// What SQLite's check, `quick_check` or `integrity_check`, says: "ok", or the first thing that is wrong.
pub fn verdict(connection: &Connection, check: &str) -> Result<String, Error> {
    match connection.query_row(&format!("PRAGMA {check}(1)"), [], |row| row.get(0)) {
        // An index or a column needs a function or a collation that only the application has. That is no damage.
        Err(error) if writable::is_of_statement(&error) => each_table(connection, check),
        other => Ok(other?),
    }
}

/// The check table by table. Of a table that it cannot be made on, all rows are read; its indexes are not checked.
fn each_table(connection: &Connection, check: &str) -> Result<String, Error> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow')";
    let mut list = connection.prepare(sql)?;
    let names: Vec<String> = list.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for name in names {
        let sql = format!("PRAGMA main.{check}({})", literal(&name));
        let verdict = match connection.query_row(&sql, [], |row| row.get::<_, String>(0)) {
            Err(error) if writable::is_of_statement(&error) => {
                read_all(connection, &name)?;
                continue;
            }
            other => other?,
        };
        if verdict != "ok" {
            return Ok(verdict);
        }
    }
    Ok("ok".to_owned())
}

fn read_all(connection: &Connection, table: &str) -> Result<(), Error> {
    // Without the columns that SQLite computes.
    let mut columns = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
    let columns: Vec<String> =
        columns.query_map([table], |row| row.get(0))?.collect::<Result<_, rusqlite::Error>>()?;
    let list: Vec<String> = columns.iter().map(|name| quote(name)).collect();
    let sql = format!("SELECT {} FROM main.{} NOT INDEXED", list.join(", "), quote(table));
    let mut statement = match connection.prepare(&sql) {
        // The rows themselves are ordered by what only the application has.
        Err(error) if writable::is_of_statement(&error) => return Ok(()),
        other => other?,
    };
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        for at in 0..columns.len() {
            row.get_ref(at)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::scratch::Scratch;
    use std::os::unix::fs::FileExt;

    /// A database with an index whose collation only its application knows.
    fn foreign(name: &str) -> Scratch {
        Scratch::new(
            name,
            "CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b COLLATE RTRIM); CREATE TABLE fine(a);
             CREATE TABLE w(k COLLATE RTRIM PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO w VALUES('x', 1);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
             INSERT INTO t SELECT i, printf('%0200d', i) FROM n; INSERT INTO fine SELECT b FROM t;
             PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql = replace(sql, 'RTRIM', 'mine');
             PRAGMA writable_schema=RESET; PRAGMA wal_checkpoint(TRUNCATE)",
        )
    }

    #[test]
    fn what_only_the_application_knows_is_no_damage() {
        let scratch = foreign("check-foreign");
        let connection = Connection::open(&scratch.path).unwrap();
        for check in ["quick_check", "integrity_check"] {
            assert!(connection.prepare(&format!("PRAGMA {check}")).is_err());
            assert_eq!(verdict(&connection, check).unwrap(), "ok");
        }
    }

    #[test]
    fn damage_beside_it_is_found() {
        for table in ["t", "fine"] {
            let scratch = foreign(&format!("check-damage-{table}"));
            let sql = "SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf' LIMIT 1 OFFSET 3";
            let page = scratch.app.query_row(sql, [table], |row| row.get::<_, i64>(0));
            let page = page.unwrap_or_else(|_| {
                // Without the table of pages: leaves stand after the root, which is the table's first page.
                let sql = "SELECT rootpage + 20 FROM sqlite_schema WHERE name = ?1";
                scratch.app.query_row(sql, [table], |row| row.get(0)).unwrap()
            });
            let file = std::fs::File::options().write(true).open(&scratch.path).unwrap();
            file.write_all_at(&[0xa5; 4096], (page.unsigned_abs() - 1) * 4096).unwrap();
            std::mem::forget(file);
            let connection = Connection::open(&scratch.path).unwrap();
            let found = verdict(&connection, "quick_check");
            assert!(!matches!(&found, Ok(verdict) if verdict == "ok"), "{table}: {found:?}");
            assert!(matches!(found, Ok(_) | Err(Error::Corrupt(_))), "{table}: {found:?}");
        }
    }
}
