//! SQLite's own check of a database. Newer versions of SQLite ask virtual tables too: what these say about their own indexes is
//! told, and is no damage of the database.

use crate::db::{error::Error, sql::literal};
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
}

/// SQLite stops after this many lines, besides one for each virtual table.
const LINES: usize = 100;

const VIRTUAL: &str = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual'";
const ORDINARY: &str =
    "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow')";

/// Lets SQLite check a database. An error that is not damage (the check was interrupted, say) is an error.
pub fn check(connection: &Connection, look: Look) -> Result<Findings, Error> {
    let pragma = match look {
        Look::Pages => "quick_check",
        Look::Everything => "integrity_check",
    };
    let virtual_tables = names(connection, VIRTUAL)?;
    let whole = lines(connection, pragma, &(LINES + virtual_tables.len()).to_string());
    if virtual_tables.is_empty() || whole.as_ref().is_ok_and(Vec::is_empty) {
        return whole.map(|damage| Findings { damage, warnings: vec![] }).or_else(unless_corrupt);
    }
    let mut warnings = vec![];
    for name in &virtual_tables {
        // SQLite would take a number for the number of lines.
        if name.parse::<i64>().is_ok() {
            continue;
        }
        match lines(connection, pragma, &literal(name)) {
            Ok(lines) => warnings.extend(lines),
            Err(error @ (Error::Busy | Error::Disk(_))) => return Err(error),
            Err(error) => warnings.push(format!("virtual table {name}: {error}")),
        }
    }
    let damage = match whole {
        Ok(lines) => lines.into_iter().filter(|line| !warnings.contains(line)).collect(),
        Err(error @ (Error::Busy | Error::Disk(_))) => return Err(error),
        // A virtual table that cannot even be asked ends the whole check, so each of the others is checked by its name.
        Err(error) => match check_ordinary(connection, pragma)? {
            damage if damage.is_empty() && warnings.is_empty() => return Err(error),
            damage => damage,
        },
    };
    Ok(Findings { damage, warnings })
}

fn check_ordinary(connection: &Connection, pragma: &str) -> Result<Vec<String>, Error> {
    let mut damage = vec![];
    for name in names(connection, ORDINARY)? {
        match lines(connection, pragma, &literal(&name)) {
            Ok(lines) => damage.extend(lines),
            Err(Error::Corrupt(why)) => damage.push(format!("table {name}: {why}")),
            Err(error) => return Err(error),
        }
    }
    Ok(damage)
}

fn unless_corrupt(error: Error) -> Result<Findings, Error> {
    match error {
        Error::Corrupt(why) => Ok(Findings { damage: vec![why], warnings: vec![] }),
        error => Err(error),
    }
}

/// What a check says, in lines; empty when all is well.
fn lines(connection: &Connection, pragma: &str, of: &str) -> Result<Vec<String>, Error> {
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
}
