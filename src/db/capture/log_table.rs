//! The change log: the table to which triggers append the key of each row that the application touches, and the table that
//! numbers the tables in it. All SQL on the two stands here.
//!
//! A log entry has an id, a number `t` that stands for the row's table and for what happened (see [`Touch`]), and the values `k1`, `k2`... of its key, in columns without a
//! type, which keep each value's storage class. Ids rise and are never used twice, because the newest entry is never
//! deleted: when it is settled, it is only emptied (`t` is 0). There is no constraint on the table: a single NOT NULL makes
//! SQLite keep a statement journal for every statement of the application (1.77 times the time of an insert instead of 1.34).

use crate::db::{error::Error, ours};
use crate::model::value::Value;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{HashMap, HashSet};

pub const NAME: &str = "__harmonylite__log";
/// The table that numbers the tables.
pub const NUMBERS: &str = "__harmonylite__table";

const CREATE_NUMBERS: &str = "CREATE TABLE IF NOT EXISTS __harmonylite__table(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)";
const SET_STATEMENT: &str =
    "UPDATE main.sqlite_schema SET sql = ?1 WHERE type = 'table' AND name = '__harmonylite__log'";
const DROP: &str = "DROP TABLE IF EXISTS __harmonylite__log; DROP TABLE IF EXISTS __harmonylite__table;";
const WIDTH: &str = "SELECT count(*) - 2 FROM pragma_table_info('__harmonylite__log')";
const EMPTY: &str = "UPDATE __harmonylite__log SET t = 0, k1 = NULL WHERE id = ?1";
const REMOVE: &str = "DELETE FROM __harmonylite__log WHERE id BETWEEN ?1 AND ?2";
const REMOVE_EMPTIED: &str = "DELETE FROM __harmonylite__log WHERE id = ?1 AND t = 0";
const NUMBER: &str = "SELECT t FROM __harmonylite__log WHERE id = ?1";
const ANY_AFTER: &str = "SELECT 1 FROM __harmonylite__log WHERE id > ?1 LIMIT 1";
const NEXT_AFTER: &str = "SELECT min(id) FROM __harmonylite__log WHERE id > ?1";
/// A row that may have been replaced does not count: it shares its statement with one that was written.
const UNSETTLED: &str = "SELECT count(*) FILTER (WHERE id <= ?1), count(*) FILTER (WHERE id > ?1) \
     FROM __harmonylite__log WHERE t > 0";
const HIGHEST_UNSETTLED: &str = "SELECT max(id) FROM __harmonylite__log WHERE t <> 0";
const HIGHEST: &str = "SELECT max(id) FROM __harmonylite__log";
const ANY_UNSETTLED: &str = "SELECT 1 FROM __harmonylite__log WHERE t <> 0 AND id <= ?1 AND id NOT IN (SELECT value FROM json_each(?2)) LIMIT 1";
const SETTLE_OLDER: &str =
    "DELETE FROM __harmonylite__log WHERE id <= ?1 AND id < (SELECT max(id) FROM __harmonylite__log)";
const SETTLE_NEWEST: &str = "UPDATE __harmonylite__log SET t = 0 WHERE id <= ?1 AND t <> 0";
const FORGET_NEWEST: &str = "UPDATE __harmonylite__log SET t = 0 WHERE t IN (?1, ?2, ?3) AND id = (SELECT max(id) FROM __harmonylite__log)";
const TABLES_WITH_ENTRIES: &str = "SELECT DISTINCT t FROM __harmonylite__log WHERE t <> 0";
const COUNT_OF: &str = "SELECT count(*) FROM __harmonylite__log WHERE t IN (?1, ?2, ?3)";
const FORGET: &str = "DELETE FROM __harmonylite__log WHERE t IN (?1, ?2, ?3)";
/// What is remembered of the schema (`migrate/definitions.rs`): a table of no table has another name by now.
const NOTE_RENAMED: &str =
    "UPDATE __harmonylite__definition SET tbl = '', number = ?1 WHERE type = 'table' AND name = ?2";
const ALL_NUMBERS: &str = "SELECT name, id FROM __harmonylite__table";
const ADD_NUMBER: &str = "INSERT INTO __harmonylite__table(name) VALUES(?1)";
const FREE_NAME: &str = "DELETE FROM __harmonylite__table WHERE name = ?1";
const RENAME: &str = "UPDATE __harmonylite__table SET name = ?1 WHERE id = ?2";
const FREE_NUMBER: &str = "DELETE FROM __harmonylite__table WHERE id = ?1";

/// What a log entry says about its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// It was inserted.
    Inserted,
    /// It was overwritten or deleted.
    Changed,
    /// It was in the way of a row that was about to be written. If it is gone, it was replaced; if it is still there, it was not,
    /// and nobody has written it.
    InTheWay,
}

/// Tables have numbers below it.
const TABLES: i64 = 1 << 24;

impl Touch {
    /// How a log entry of this kind gives the number of a table.
    pub fn number(self, table: i64) -> i64 {
        match self {
            Touch::Changed => table,
            Touch::Inserted => table + TABLES,
            Touch::InTheWay => -table,
        }
    }

    /// Whether the row decides if it was written at all. Several rows can have the same key with a NULL, so there one that is there
    /// says nothing.
    pub fn is_unsure(self, key: &[Value]) -> bool {
        self == Touch::InTheWay && !key.contains(&Value::Null)
    }

    /// The number of the table, and the kind; the number 0 is that of a settled entry.
    pub fn of(number: i64) -> (i64, Touch) {
        match number {
            ..0 => (-number, Touch::InTheWay),
            0..TABLES => (number, Touch::Changed),
            _ => (number - TABLES, Touch::Inserted),
        }
    }
}

pub fn exists(connection: &Connection) -> Result<bool, Error> {
    ours::has_table(connection, NAME)
}

/// Whether both tables are there, or none of them: of one alone somebody has dropped the other.
pub fn has_both_or_none(connection: &Connection) -> Result<bool, Error> {
    Ok(exists(connection)? == ours::has_table(connection, NUMBERS)?)
}

/// Creates both tables, the log with `width` key columns.
pub fn create(connection: &Connection, width: usize) -> Result<(), Error> {
    Ok(connection.execute_batch(&format!("{}; {CREATE_NUMBERS}", statement(width)))?)
}

/// The statement that makes the log.
fn statement(width: usize) -> String {
    format!("CREATE TABLE {NAME}(id INTEGER PRIMARY KEY, t{})", key_columns(width))
}

/// Drops both tables, as far as they are there.
pub fn drop_tables(connection: &Connection) -> Result<(), Error> {
    Ok(connection.execute_batch(DROP)?)
}

/// Number of key columns.
pub fn width(connection: &Connection) -> Result<usize, Error> {
    let width: i64 = connection.prepare_cached(WIDTH)?.query_row([], |row| row.get(0))?;
    Ok(usize::try_from(width).unwrap_or(0))
}

/// Adds key columns up to `wanted`; inside of [`crate::db::schema_rows::write`]. ALTER TABLE would read all of the schema under the lock,
/// and changes nothing but the statement either: entries that lack a column have NULL there.
pub fn widen(connection: &Connection, wanted: usize) -> Result<(), Error> {
    connection.execute(SET_STATEMENT, [statement(wanted)])?;
    Ok(())
}

fn key_columns(width: usize) -> String {
    (1..=width).map(|n| format!(", k{n}")).collect()
}

/// The beginning of a statement that appends an entry with a key of `width` columns; values or a query follow.
pub fn insert(width: usize) -> String {
    format!("INSERT INTO {NAME}(t{})", key_columns(width))
}

/// A query for entries: id, number (see [`Touch::of`]), key values. Parameters: the id after which they begin, and their number at most.
pub fn entries(width: usize) -> String {
    format!("SELECT id, t{} FROM {NAME} WHERE id > ?1 ORDER BY id LIMIT ?2", key_columns(width))
}

/// What an entry says about its row.
pub fn touch_of(connection: &Connection, id: i64) -> Result<Touch, Error> {
    let number = connection.prepare_cached(NUMBER)?.query_row([id], |row| row.get(0)).optional()?;
    Ok(Touch::of(number.unwrap_or(0)).1)
}

/// Settles the newest entry, which stays.
pub fn empty(connection: &Connection, id: i64) -> Result<(), Error> {
    connection.prepare_cached(EMPTY)?.execute([id])?;
    Ok(())
}

/// Settles entries other than the newest one.
pub fn remove(connection: &Connection, first: i64, last: i64) -> Result<(), Error> {
    connection.prepare_cached(REMOVE)?.execute([first, last])?;
    Ok(())
}

/// Removes an entry that was emptied.
pub fn remove_emptied(connection: &Connection, id: i64) -> Result<(), Error> {
    connection.prepare_cached(REMOVE_EMPTIED)?.execute([id])?;
    Ok(())
}

/// Settles all entries up to `id`.
pub fn settle_up_to(connection: &Connection, id: i64) -> Result<(), Error> {
    connection.prepare_cached(SETTLE_OLDER)?.execute([id])?;
    connection.prepare_cached(SETTLE_NEWEST)?.execute([id])?;
    Ok(())
}

/// Whether there is an entry after `id`, be it an emptied one.
pub fn any_after(connection: &Connection, id: i64) -> Result<bool, Error> {
    Ok(connection.prepare_cached(ANY_AFTER)?.exists([id])?)
}

/// The id of the next entry after `id`.
pub fn next_after(connection: &Connection, id: i64) -> Result<Option<i64>, Error> {
    Ok(connection.prepare_cached(NEXT_AFTER)?.query_row([id], |row| row.get(0))?)
}

/// Number of entries that are not settled, up to `id` and after it.
pub fn count_unsettled(connection: &Connection, id: i64) -> Result<(i64, i64), Error> {
    Ok(connection.prepare_cached(UNSETTLED)?.query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Logs all rows once more that have entries: what they are now is published, too.
pub fn log_again(connection: &Connection) -> Result<(), Error> {
    let keys = key_columns(width(connection)?);
    connection.execute(
        &format!("INSERT INTO {NAME}(t{keys}) SELECT t{keys} FROM {NAME} WHERE t <> 0 ORDER BY id"),
        [],
    )?;
    Ok(())
}

/// The same of one table.
pub fn log_table_again(connection: &Connection, table: i64) -> Result<usize, Error> {
    let keys = key_columns(width(connection)?);
    let again =
        format!("INSERT INTO {NAME}(t{keys}) SELECT t{keys} FROM {NAME} WHERE t IN (?1, ?2, ?3) ORDER BY id");
    Ok(connection.execute(&again, numbers_of(table))?)
}

/// The highest id; 0: there is no entry.
pub fn highest(connection: &Connection) -> Result<i64, Error> {
    let id = connection.query_row(HIGHEST, [], |row| row.get::<_, Option<i64>>(0))?;
    Ok(id.unwrap_or(0))
}

/// Id of the newest entry that is not settled; 0 without one.
pub fn highest_unsettled(connection: &Connection) -> Result<i64, Error> {
    let highest: Option<i64> = connection.query_row(HIGHEST_UNSETTLED, [], |row| row.get(0))?;
    Ok(highest.unwrap_or(0))
}

/// Whether an entry up to `id` is not settled. Those that could not be published do not count.
pub fn any_unsettled(connection: &Connection, id: i64, refused: &[i64]) -> Result<bool, Error> {
    let refused = format!("{refused:?}");
    Ok(connection.query_row(ANY_UNSETTLED, params![id, refused], |_| Ok(())).optional()?.is_some())
}

/// The numbers of the tables that have entries.
pub fn tables_with_entries(connection: &Connection) -> Result<HashSet<i64>, Error> {
    let mut statement = connection.prepare_cached(TABLES_WITH_ENTRIES)?;
    let tables = statement.query_map([], |row| Ok(Touch::of(row.get(0)?).0))?;
    Ok(tables.collect::<Result<_, _>>()?)
}

/// The tables' numbers by name.
pub fn numbers(connection: &Connection) -> Result<HashMap<String, i64>, Error> {
    let mut statement = connection.prepare(ALL_NUMBERS)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Gives a table a number that no table had before.
pub fn add_number(connection: &Connection, table: &str) -> Result<i64, Error> {
    connection.execute(ADD_NUMBER, [table])?;
    let number = connection.last_insert_rowid();
    match number < TABLES {
        true => Ok(number),
        false => Err(Error::Other(format!(
            "table {table}: the database has had {TABLES} tables: rebuild it (-cleanup)"
        ))),
    }
}

/// The table with this number has another name now.
pub fn rename(connection: &Connection, id: i64, name: &str) -> Result<(), Error> {
    connection.execute(FREE_NAME, [name])?;
    connection.execute(RENAME, params![name, id])?;
    Ok(())
}

/// Notes that the table with this number is the one which had this name, though another one may have it by now.
pub fn note_renamed(connection: &Connection, id: i64, before: &str) -> Result<(), Error> {
    if ours::has_table(connection, "__harmonylite__definition")? {
        connection.execute(NOTE_RENAMED, params![id, before])?;
    }
    Ok(())
}

/// Forgets a table that is gone, with its entries, none of which can be published any more. Returns their number.
pub fn forget(connection: &Connection, id: i64) -> Result<usize, Error> {
    let entries = settle_table(connection, id)?;
    connection.execute(FREE_NUMBER, [id])?;
    Ok(entries)
}

/// Settles all entries of a table; returns their number.
pub fn settle_table(connection: &Connection, id: i64) -> Result<usize, Error> {
    let numbers = numbers_of(id);
    let newest = connection.execute(FORGET_NEWEST, numbers)?;
    Ok(newest + connection.execute(FORGET, numbers)?)
}

/// The number of entries that say that a row of a table was written.
pub fn count_of(connection: &Connection, id: i64) -> Result<i64, Error> {
    Ok(connection.query_row(COUNT_OF, numbers_of(id), |row| row.get(0))?)
}

/// The keys, of `width` columns, of a table's rows that have entries.
pub fn keys_of(connection: &Connection, id: i64, width: usize) -> Result<Vec<Vec<Value>>, Error> {
    let keys: String = (1..=width).map(|n| format!(", k{n}")).collect();
    let mut statement =
        connection.prepare(&format!("SELECT id{keys} FROM {NAME} WHERE t IN (?1, ?2, ?3)"))?;
    let rows = statement.query_map(numbers_of(id), |row| (1..=width).map(|at| row.get(at)).collect())?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn numbers_of(table: i64) -> [i64; 3] {
    [Touch::Changed, Touch::Inserted, Touch::InTheWay].map(|touch| touch.number(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_entries(tables: &[i64]) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        create(&connection, 1).unwrap();
        for table in tables {
            connection.execute(&format!("{} VALUES(?1, 'k')", insert(1)), [table]).unwrap();
        }
        connection
    }

    fn ids(connection: &Connection) -> Vec<(i64, i64)> {
        let mut statement = connection.prepare("SELECT id, t FROM __harmonylite__log ORDER BY id").unwrap();
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn the_newest_entry_is_emptied_and_never_deleted() {
        let connection = with_entries(&[7, 7, 8]);
        settle_up_to(&connection, 2).unwrap();
        assert_eq!(ids(&connection), [(3, 8)]);
        settle_up_to(&connection, 3).unwrap();
        assert_eq!(ids(&connection), [(3, 0)]);
        assert!(any_after(&connection, 2).unwrap());
        assert_eq!(count_unsettled(&connection, 9).unwrap(), (0, 0));
    }

    #[test]
    fn a_table_that_is_gone_takes_its_entries_along_but_the_newest_id() {
        let connection = with_entries(&[7, 8, 7]);
        assert_eq!(forget(&connection, 7).unwrap(), 2);
        assert_eq!(ids(&connection), [(2, 8), (3, 0)]);
    }

    #[test]
    fn a_number_tells_the_table_and_what_happened() {
        for touch in [Touch::Inserted, Touch::Changed, Touch::InTheWay] {
            for table in [1, 77, TABLES - 1] {
                assert_eq!(Touch::of(touch.number(table)), (table, touch));
            }
        }
        assert_eq!(Touch::of(0).0, 0);
        let kinds = [Touch::Inserted, Touch::Changed, Touch::InTheWay];
        let connection = with_entries(&kinds.map(|touch| touch.number(7)));
        assert_eq!(count_unsettled(&connection, 0).unwrap(), (0, 2));
        assert_eq!((count_of(&connection, 7).unwrap(), forget(&connection, 7).unwrap()), (3, 3));
        assert_eq!(ids(&connection), [(3, 0)]);
    }

    #[test]
    fn what_is_unsettled_is_counted_from_a_cursor() {
        let connection = with_entries(&[7, 0, 8, 9]);
        assert_eq!(count_unsettled(&connection, 3).unwrap(), (2, 1));
        assert_eq!(highest_unsettled(&connection).unwrap(), 4);
        assert!(any_unsettled(&connection, 1, &[]).unwrap() && !any_unsettled(&connection, 0, &[]).unwrap());
        assert_eq!(next_after(&connection, 3).unwrap(), Some(4));
        assert_eq!(next_after(&connection, 4).unwrap(), None);
        assert_eq!(highest_unsettled(&with_entries(&[])).unwrap(), 0);
    }

    #[test]
    fn numbers_are_never_given_twice() {
        let connection = with_entries(&[]);
        assert_eq!((add_number(&connection, "a").unwrap(), add_number(&connection, "b").unwrap()), (1, 2));
        forget(&connection, 2).unwrap();
        assert_eq!(add_number(&connection, "b").unwrap(), 3);
        rename(&connection, 1, "b").unwrap();
        assert_eq!(numbers(&connection).unwrap(), HashMap::from([("b".to_owned(), 1)]));
    }

    #[test]
    fn the_log_grows_wider_and_never_narrower() {
        let connection = with_entries(&[]);
        connection.execute(&format!("{} VALUES(1, 'k')", insert(1)), []).unwrap();
        crate::db::schema_rows::write(&connection, || widen(&connection, 3)).unwrap();
        assert_eq!(width(&connection).unwrap(), 3);
        let third: Option<i64> =
            connection.query_row("SELECT k3 FROM __harmonylite__log", [], |row| row.get(0)).unwrap();
        assert_eq!(third, None);
        assert!(connection.prepare(&entries(3)).is_ok());
        assert!(connection.prepare(&entries(4)).is_err());
    }
}
