//! SQLite's own check of a database. Newer versions of SQLite ask virtual tables too: what these say about their own indexes is
//! told, and is no damage of the database. Neither is a function or a collation that only the application has.

use crate::db::{digits, error::Error, sql::literal, sql::quote, writable};
use rusqlite::Connection;

/// How thoroughly SQLite looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Can every page be read?
    Pages,
    /// Do indexes agree with their tables, too? Takes several times as long.
    Everything,
}

/// What the check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What is wrong with pages, tables, indexes and the list of free pages.
    pub damage: Vec<String>,
    /// What virtual tables say about themselves.
    pub warnings: Vec<String>,
    /// The check has read a large schema, which takes memory and time.
    pub large_schema: bool,
}

/// SQLite stops after this many lines, besides one for each virtual table.
const LINES: usize = 100;

const VIRTUAL: &str = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual'";
const ORDINARY: &str =
    "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow')";

/// Lets SQLite check a database. An error that is not damage (the check was interrupted, say) is an error.
pub fn check(connection: &Connection, look: Look) -> Result<Findings, Error> {
    match look {
        Look::Pages => find(connection, look),
        Look::Everything => {
            let is_good = |found: &Findings| found.damage.is_empty();
            digits::with_either(connection, is_good, || find(connection, look))
        }
    }
}

fn find(connection: &Connection, look: Look) -> Result<Findings, Error> {
    let pragma = match look {
        Look::Pages => "quick_check",
        Look::Everything => "integrity_check",
    };
    let virtual_tables = names(connection, VIRTUAL)?;
    let whole = lines(connection, pragma, &(LINES + virtual_tables.len()).to_string());
    if let Ok(lines) = &whole
        && (virtual_tables.is_empty() || lines.is_empty())
    {
        return Ok(Findings { damage: lines.clone(), ..Findings::default() });
    }
    let mut warnings = vec![];
    for name in &virtual_tables {
        match lines(connection, pragma, &literal(name)).map_err(Error::from) {
            Ok(lines) => warnings.extend(lines),
            Err(error @ (Error::Busy | Error::Disk(_))) => return Err(error),
            Err(error) => warnings.push(format!("virtual table {name}: {error}")),
        }
    }
    let damage = match whole {
        Ok(lines) => lines.into_iter().filter(|line| !warnings.contains(line)).collect(),
        Err(error) => one_by_one(connection, pragma, error, &warnings)?,
    };
    Ok(Findings { damage, warnings, large_schema: false })
}

/// A virtual table that cannot even be asked, or an index that only the application can compute, ends the whole check with an
/// error. So each ordinary table is checked by its name.
fn one_by_one(
    connection: &Connection,
    pragma: &str,
    error: rusqlite::Error,
    warnings: &[String],
) -> Result<Vec<String>, Error> {
    let explained = !warnings.is_empty() || writable::is_of_statement(&error);
    let error = match Error::from(error) {
        error @ (Error::Busy | Error::Disk(_)) => return Err(error),
        error => error,
    };
    let damage = check_ordinary(connection, pragma)?;
    match error {
        _ if explained || !damage.is_empty() => Ok(damage),
        Error::Corrupt(why) => Ok(vec![why]),
        error => Err(error),
    }
}

fn check_ordinary(connection: &Connection, pragma: &str) -> Result<Vec<String>, Error> {
    let mut damage = vec![];
    for name in names(connection, ORDINARY)? {
        let found = match lines(connection, pragma, &literal(&name)) {
            Err(error) if writable::is_of_statement(&error) => read_all(connection, &name).map(|()| vec![]),
            other => other.map_err(Error::from),
        };
        match found {
            Ok(lines) => damage.extend(lines),
            Err(Error::Corrupt(why)) => damage.push(format!("table {name}: {why}")),
            Err(error) => return Err(error),
        }
    }
    Ok(damage)
}

/// Of a table that cannot be checked, all rows are read; its indexes are not checked.
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

/// What a check says, in lines; empty when all is well.
fn lines(connection: &Connection, pragma: &str, of: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA {pragma}({of})"))?;
    let found: Vec<String> =
        statement.query_map([], |row| row.get(0))?.collect::<Result<_, rusqlite::Error>>()?;
    let found = found.into_iter().map(|line| line.replace('\n', " "));
    Ok(found.filter(|line| line != "ok").collect())
}

fn names(connection: &Connection, sql: &str) -> Result<Vec<String>, Error> {
    let mut statement = connection.prepare(sql)?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::scratch::Scratch;
    use std::os::unix::fs::FileExt;

    /// An index that says of itself that it is malformed.
    const STALE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE VIRTUAL TABLE f USING fts5(v); \
         INSERT INTO f(rowid, v) VALUES(1, 'words'), (2, 'more words'); DELETE FROM f_docsize WHERE id = 1; \
         INSERT INTO t VALUES(1, 'x'); CREATE TABLE pad(a, b); CREATE INDEX i ON pad(a);";

    #[test]
    fn what_a_full_text_index_says_of_itself_is_a_warning() {
        let scratch = Scratch::new("stale-index", STALE);
        for look in [Look::Pages, Look::Everything] {
            let found = check(&scratch.app, look).unwrap();
            assert_eq!(found.damage, Vec::<String>::new(), "{look:?}");
        }
        let found = check(&scratch.app, Look::Everything).unwrap();
        assert!(found.warnings.iter().any(|line| line.contains("f")), "{found:?}");
    }

    #[test]
    fn real_damage_is_found_beside_a_malformed_full_text_index() {
        let scratch = Scratch::new("stale-and-damaged", STALE);
        scratch
            .app
            .execute_batch(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) \
                 INSERT INTO pad SELECT i, zeroblob(300) FROM n; PRAGMA wal_checkpoint(TRUNCATE)",
            )
            .unwrap();
        let page: i64 = scratch
            .app
            .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'i'", [], |row| row.get(0))
            .unwrap();
        let file = std::fs::File::options().write(true).open(&scratch.path).unwrap();
        file.write_all_at(&[0xa5; 4096], (page.unsigned_abs() - 1) * 4096).unwrap();
        // Closing it would drop the locks that SQLite holds in this process.
        std::mem::forget(file);
        let fresh = Connection::open(&scratch.path).unwrap();
        for look in [Look::Pages, Look::Everything] {
            assert!(!check(&fresh, look).unwrap().damage.is_empty(), "{look:?}");
        }
    }

    #[test]
    fn an_index_that_cannot_be_asked_hides_no_damage_and_is_none() {
        let scratch = Scratch::new("unreadable-index", STALE);
        // Its configuration is gone, so it cannot be opened.
        scratch.app.execute_batch("PRAGMA writable_schema=ON; DROP TABLE f_config; DROP TABLE f_data; PRAGMA writable_schema=OFF").unwrap();
        let fresh = Connection::open(&scratch.path).unwrap();
        let found = check(&fresh, Look::Everything);
        assert!(found.as_ref().is_ok_and(|found| found.damage.is_empty()), "{found:?}");
    }

    /// SQLite reads a bare number as the number of lines.
    #[test]
    fn an_index_is_asked_whatever_its_name_looks_like() {
        for name in ["7", "0x10", "-1", "7up", "it's"] {
            let scratch = Scratch::new("numbered-index", "CREATE TABLE t(a)");
            let quoted = quote(name);
            let sql = format!(
                "CREATE VIRTUAL TABLE {quoted} USING fts5(v); INSERT INTO {quoted}(rowid, v) VALUES(1, 'words'); \
                 DELETE FROM {} WHERE id = 1",
                quote(&format!("{name}_docsize"))
            );
            scratch.app.execute_batch(&sql).unwrap();
            let found = check(&scratch.app, Look::Everything).unwrap();
            assert_eq!(found.damage, Vec::<String>::new(), "{name}");
            assert!(!found.warnings.is_empty(), "{name}");
        }
    }

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
        for look in [Look::Pages, Look::Everything] {
            assert_eq!(check(&connection, look).unwrap(), Findings::default());
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
            assert!(!check(&connection, Look::Pages).unwrap().damage.is_empty(), "{table}");
        }
    }
}
