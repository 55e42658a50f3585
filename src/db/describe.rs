//! The schema as people and other nodes are told it: the replicated tables with their columns, what is not replicated and why, and
//! which schema there was before.

use crate::base::{limits, memory};
use crate::db::schema::{self, Schema};
use crate::db::{error::Error, open, state, table::Table};
use rusqlite::{Connection, TransactionBehavior};
use std::fmt::Write as _;
use std::path::Path;

/// A table: its name, a short hash of its columns, and the columns with their types.
pub type TableDescribed = (String, String, Vec<(String, String)>);

/// A schema.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    pub hash: String,
    /// The hash before; empty: there was none.
    pub previous: String,
    /// The replicated tables in the order of their names.
    pub tables: Vec<TableDescribed>,
    /// Tables that are not replicated as the lists of tables say.
    pub excluded: Vec<String>,
    /// Tables that cannot be replicated, and why.
    pub refused: Vec<(String, String)>,
    pub virtuals: Vec<String>,
    /// Tables whose rows are not yet those of the cluster.
    pub included: Vec<String>,
}

impl Described {
    fn read(connection: &Connection) -> Result<Described, Error> {
        let schema = Schema::read(connection)?;
        let (hash, known) = (schema.hash.to_string(), state::exists(connection)?);
        let (included, seen) = match known {
            true => (
                state::included(connection)?,
                state::meta(connection, state::SCHEMA_SEEN)?.unwrap_or_default(),
            ),
            false => (vec![], String::new()),
        };
        let mut tables: Vec<_> = schema.tables.values().map(|table| described(table)).collect();
        tables.sort();
        Ok(Described {
            previous: previous(&seen, &hash),
            hash,
            tables,
            excluded: schema.excluded.into_iter().collect(),
            refused: schema.refused.into_iter().collect(),
            virtuals: schema.virtuals.into_iter().collect(),
            included,
        })
    }
}

/// The hash before this one. `seen`: the last one that was seen, and the one before.
fn previous(seen: &str, hash: &str) -> String {
    let (last, before) = seen.split_once(' ').unwrap_or((seen, ""));
    if last == hash { before.to_owned() } else { last.to_owned() }
}

fn described(table: &Table) -> TableDescribed {
    let mut columns: Vec<(String, String)> = table
        .columns
        .iter()
        .map(|column| {
            let mut text = column.declared_type.to_string();
            for (is_so, word) in [(column.not_null, " NOT NULL"), (column.key_position > 0, " PRIMARY KEY")] {
                text.push_str(if is_so { word } else { "" });
            }
            (column.name.to_string(), text.trim_start().to_owned())
        })
        .collect();
    columns.sort();
    let mut all = String::new();
    for (name, text) in &columns {
        let _ = writeln!(all, "{name} {text}");
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, all.as_bytes());
    (table.name.to_string(), data_encoding::HEXLOWER.encode(&digest.as_ref()[..8]), columns)
}

/// The schema of the database at `path`.
pub fn describe(path: &Path) -> Result<Described, Error> {
    Described::read(&open::open(path)?)
}

/// Tells when the schema of a database has changed, and holds nothing of it in memory.
pub struct SchemaWatch {
    connection: Connection,
    /// `PRAGMA schema_version` and what was noted about tables, as they were seen last.
    seen: Option<(i64, Vec<String>)>,
    /// There are so many tables that a reader more, right after a change, would be felt by the application.
    large: bool,
    /// The version that waits to be read, and how many looks have found it.
    waits: (i64, u32),
}

impl SchemaWatch {
    pub fn open(path: &Path) -> Result<SchemaWatch, Error> {
        Ok(SchemaWatch {
            connection: open::open_without_schema(path)?,
            seen: None,
            large: false,
            waits: (0, 0),
        })
    }

    /// Whether a change is too fresh to be read.
    fn is_to_wait(&mut self, version: i64) -> bool {
        let (waiting, looks) = self.waits;
        self.waits = (version, if waiting == version { looks + 1 } else { 0 });
        self.large && self.waits.1 < limits::LARGE_TELLING_LOOKS
    }

    /// The schema, if it has changed since the last call. Which one there was before is noted in the database.
    pub fn look(&mut self, path: &Path) -> Result<Option<Described>, Error> {
        let version = schema::version(&self.connection)?;
        let is_same = |(seen, included): &(i64, Vec<String>)| *seen == version && included.is_empty();
        if self.seen.as_ref().is_some_and(is_same) {
            return Ok(None);
        }
        if self.is_to_wait(version) {
            return Ok(None);
        }
        let mut connection = open::open(path)?;
        let mut described = Described::read(&connection)?;
        note(&mut connection, &described)?;
        drop(connection);
        self.large = described.tables.len() >= limits::LARGE_TELLING;
        if described.tables.len() > limits::MANY_TABLES {
            // They have no room where they would be told, and take megabytes here: the hash says whether nodes are equal.
            described.tables = Vec::new();
            memory::give_back();
        }
        if self.large {
            memory::give_back();
        }
        self.seen = Some((version, described.included.clone()));
        Ok(Some(described))
    }
}

fn note(connection: &mut Connection, described: &Described) -> Result<(), Error> {
    let text = format!("{} {}", described.hash, described.previous);
    let is_noted = |connection: &Connection| -> Result<bool, Error> {
        Ok(!state::exists(connection)?
            || state::meta(connection, state::SCHEMA_SEEN)?.as_deref() == Some(&text))
    };
    if is_noted(connection)? {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    state::set_meta(&transaction, state::SCHEMA_SEEN, &text)?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::scratch::Scratch;

    #[test]
    fn the_schema_before_is_remembered() {
        let scratch = Scratch::new(
            "describe",
            "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT NOT NULL); CREATE VIRTUAL TABLE f USING fts5(x)",
        );
        state::create(&scratch.app).unwrap();
        let mut watch = SchemaWatch::open(&scratch.path).unwrap();
        let first = watch.look(&scratch.path).unwrap().unwrap();
        assert_eq!((first.previous.as_str(), first.virtuals.as_slice()), ("", &["f".to_owned()][..]));
        let columns = &first.tables[0].2;
        assert_eq!(columns[0], ("a".to_owned(), "INTEGER PRIMARY KEY".to_owned()));
        assert_eq!(columns[1], ("b".to_owned(), "TEXT NOT NULL".to_owned()));
        assert_eq!(watch.look(&scratch.path).unwrap(), None);
        scratch.app.execute_batch("ALTER TABLE t ADD COLUMN c").unwrap();
        let second = describe(&scratch.path).unwrap();
        assert_eq!(second.previous, first.hash, "before anybody has noted it");
        assert_eq!(watch.look(&scratch.path).unwrap().unwrap(), second);
        assert_eq!(describe(&scratch.path).unwrap().previous, first.hash);
        scratch.app.execute_batch("CREATE INDEX i ON t(c)").unwrap();
        assert_eq!(
            watch.look(&scratch.path).unwrap().unwrap().previous,
            first.hash,
            "an index is not in the hash"
        );
    }

    #[test]
    fn no_lock_is_taken_for_a_schema_that_is_known() {
        let scratch = Scratch::new("describe-lock", "CREATE TABLE t(a)");
        state::create(&scratch.app).unwrap();
        SchemaWatch::open(&scratch.path).unwrap().look(&scratch.path).unwrap();
        scratch.app.execute_batch("BEGIN IMMEDIATE").unwrap();
        let again = SchemaWatch::open(&scratch.path).unwrap().look(&scratch.path).unwrap();
        assert!(again.is_some());
    }
}
