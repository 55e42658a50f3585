//! The database of an application as `-demo` plays one: an ordinary connection, on which the triggers fire.

use crate::base::limits;
use crate::db::error::Error;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use std::path::Path;

fn connect(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(limits::BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Runs statements as an application would.
pub fn run_script(path: &Path, sql: &str) -> Result<(), Error> {
    Ok(connect(path)?.execute_batch(sql)?)
}

/// The rows of a query, each as one line of text.
pub fn lines_of(path: &Path, sql: &str) -> Result<Vec<String>, Error> {
    let connection = connect(path)?;
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut lines = vec![];
    while let Some(row) = rows.next()? {
        let cells: Result<Vec<String>, rusqlite::Error> = (0..columns)
            .map(|column| {
                Ok(match row.get_ref(column)? {
                    ValueRef::Null => String::new(),
                    ValueRef::Integer(number) => number.to_string(),
                    ValueRef::Real(real) => real.to_string(),
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                        String::from_utf8_lossy(bytes).into_owned()
                    }
                })
            })
            .collect();
        lines.push(cells?.join("  "));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;

    #[test]
    fn rows_are_lines() {
        let scratch = Scratch::new("sample");
        let path = scratch.path("app.db");
        run_script(&path, "CREATE TABLE t(a, b); INSERT INTO t VALUES(1, 'x'), (NULL, 2.5)").unwrap();
        assert_eq!(lines_of(&path, "SELECT a, b FROM t").unwrap(), ["1  x", "  2.5"]);
        assert!(lines_of(&path, "nonsense").is_err());
    }
}
