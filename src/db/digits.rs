//! Texts of real numbers. SQLite before 3.53 writes 15 digits, later ones 17. Where a stored generated column or an expression of an
//! index makes a text of a real number, an entry of ours must be the one that the application's SQLite would have made: otherwise it
//! finds its index damaged, and its deletions leave entries there. So we write as many digits as the application does. A number that lies
//! exactly between two texts of 15 digits is still rounded up by ours, and down by versions that computed in `long double`.
#![allow(unsafe_code, reason = "rusqlite sets flags alone, and this setting is a number")]

use crate::db::{error::Error, indexes, ours, state};
use rusqlite::{Connection, ffi};
use std::os::raw::c_int;

/// The first version that writes 17 digits, as SQLite numbers itself.
const LONGER_SINCE: u32 = 3_053_000;
const BEFORE: c_int = 15;
const SINCE: c_int = 17;

/// Name of the text that says how many digits the application writes, as far as it is known.
const DIGITS: &str = "digits";

const STORED: &str = "SELECT EXISTS (SELECT 1 FROM pragma_table_xinfo(?1) WHERE hidden = 3)";

/// Functions that write a real number in a way of their own, which the setting does not change.
const OF_THEIR_OWN: [&str; 10] = [
    "quote",
    "json_array",
    "json_group_array",
    "json_group_object",
    "json_insert",
    "json_object",
    "json_patch",
    "json_quote",
    "json_replace",
    "json_set",
];

/// Sets how many digits a connection writes.
fn set(connection: &Connection, digits: c_int) {
    // SAFETY: the handle is that of an open connection, and the call reads one number and writes none.
    unsafe {
        ffi::sqlite3_db_config(
            connection.handle(),
            ffi::SQLITE_DBCONFIG_FP_DIGITS,
            digits,
            std::ptr::null_mut::<c_int>(),
        );
    }
}

/// Lets a connection write as many digits as the database's application does: 15, unless another number is known.
pub fn agree(connection: &Connection) -> Result<(), Error> {
    let known =
        if ours::has_table(connection, state::TABLE)? { state::meta(connection, DIGITS)? } else { None };
    set(connection, known.and_then(|digits| digits.parse().ok()).unwrap_or(BEFORE));
    Ok(())
}

/// Runs a check of SQLite's, which compares the entries of indexes: nobody knows here which digits made them. Of two results the better
/// one counts.
pub fn with_either<R>(
    connection: &Connection,
    is_good: impl Fn(&R) -> bool,
    check: impl Fn() -> Result<R, Error>,
) -> Result<R, Error> {
    set(connection, BEFORE);
    let first = check()?;
    if is_good(&first) {
        return Ok(first);
    }
    set(connection, SINCE);
    let second = check()?;
    Ok(if is_good(&second) { second } else { first })
}

/// Notes which SQLite wrote the database's header last, as SQLite numbers itself, unless that was ours, or is not known (0).
pub fn note_writer(connection: &Connection, version: u32) -> Result<(), Error> {
    let ours = rusqlite::version_number().unsigned_abs();
    if version == 0 || version == ours {
        return Ok(());
    }
    let digits = if version < LONGER_SINCE { BEFORE } else { SINCE }.to_string();
    if state::meta(connection, DIGITS)?.as_ref() != Some(&digits) {
        state::set_meta(connection, DIGITS, &digits)?;
    }
    Ok(())
}

/// What writes texts of real numbers in a way that differs between versions whatever we set: tables, each with the name of its index or
/// of its stored generated columns, as a warning says it. In one pass over the schema.
fn differing(connection: &Connection) -> Result<Vec<(String, String)>, Error> {
    let differs = |functions: Vec<String>| functions.into_iter().find(|f| OF_THEIR_OWN.contains(&f.as_str()));
    let mut list = connection.prepare(
        "SELECT tbl_name, name, sql FROM main.sqlite_schema WHERE type = 'index' AND sql IS NOT NULL \
         OR type = 'table' AND sql LIKE '%stored%' ORDER BY tbl_name, name",
    )?;
    let mut rows = list.query([])?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        let (table, name, sql): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let is_table = table == name;
        let called =
            if is_table { indexes::functions_called(&sql) } else { indexes::functions_of_index(&sql) };
        let Some(function) = differs(called) else { continue };
        if !is_table {
            found.push((table, format!("index {name} calls {function}")));
        } else if connection.prepare_cached(STORED)?.query_row([&table], |row| row.get(0))? {
            found.push((table, format!("a stored generated column may call {function}")));
        }
    }
    Ok(found)
}

/// Warns of the tables for which that is so.
pub fn warn(connection: &Connection) -> Result<(), Error> {
    for (table, what) in differing(connection)? {
        log::warn!(
            "table {table}: {what}, which writes some real numbers otherwise than the same function of another version of SQLite: with \
             such numbers, the application's integrity_check can fail on other nodes. Write them by CAST(... AS TEXT) there"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(connection: &Connection) -> String {
        connection.query_row("SELECT (0.1 + 0.2) || ''", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn as_many_digits_as_the_application_writes() {
        let connection = Connection::open_in_memory().unwrap();
        assert_eq!(text(&connection), "0.30000000000000004");
        agree(&connection).unwrap();
        assert_eq!(text(&connection), "0.3");
        state::create(&connection).unwrap();
        for (version, expected) in [
            (3_054_001, "0.3"),
            (3_053_000, "0.30000000000000004"),
            (0, "0.30000000000000004"),
            (3_040_001, "0.3"),
        ] {
            note_writer(&connection, version).unwrap();
            agree(&connection).unwrap();
            assert_eq!(text(&connection), expected, "{version}");
        }
    }

    #[test]
    fn what_no_setting_changes_is_named() {
        let named = |sql: &str| -> Option<String> {
            let connection = Connection::open_in_memory().unwrap();
            connection.execute_batch(sql).unwrap();
            differing(&connection).unwrap().pop().map(|(_, what)| what)
        };
        assert_eq!(named("CREATE TABLE t(k INTEGER PRIMARY KEY, a); CREATE INDEX i ON t(a || '')"), None);
        assert_eq!(
            named("CREATE TABLE t(k INTEGER PRIMARY KEY, a); CREATE INDEX i ON t(json_array(a))").unwrap(),
            "index i calls json_array"
        );
        let stored = "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b AS (quote(a)) STORED)";
        assert_eq!(named(stored).unwrap(), "a stored generated column may call quote");
        assert_eq!(named(&stored.replace("STORED", "VIRTUAL")), None);
    }
}
