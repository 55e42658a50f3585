//! What a node says about its rows when nodes are compared: digests of ranges of keys, lists of rows, single rows with what is known
//! about them, and which rows the messages of a stream speak of. Each answer comes out of one short read transaction.
//!
//! A range begins after a key and ends with one, in the order of the table's key, which is the same on all nodes; so ranges that
//! follow each other cover each row once, however large the table is.

mod print;
mod ranges;
mod sights;
mod watch;

pub use print::{BUCKETS, Seed};
pub use ranges::{Listed, Listing, Range, Span};
pub use sights::{Seen, Sights, Wanted};
pub use watch::Watch;

use crate::db::schema::{self, Schema};
use crate::db::table::{Keyed, Table};
use crate::db::{error::Error, open, state};
use crate::model::shard::fnv1;
use crate::model::value::Value;
use rusqlite::Connection;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

/// Characters of a definition that are shown.
const SHOWN: usize = 500;

/// The values of a key, in the order of the table's key.
pub type Key = Vec<Value>;

/// A database whose rows are asked for.
pub struct Examiner {
    connection: Connection,
    schema: Arc<Schema>,
    encoding: String,
}

/// A replicated table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub name: String,
    /// The columns in the order of their names, with types and places in the key; of a very long one the beginning.
    pub definition: String,
    /// The hash of all of it: tables with equal ones can be compared.
    pub print: u64,
    /// Events of it that are set aside.
    pub aside: u64,
}

impl Examiner {
    pub fn open(path: &Path) -> Result<Examiner, Error> {
        let mut connection = open::open_checked(path)?;
        open::insist(&mut connection)?;
        let schema = Arc::new(Schema::read_numbered(&connection)?);
        let encoding = connection.query_row("PRAGMA encoding", [], |row| row.get(0))?;
        Ok(Examiner { connection, schema, encoding })
    }

    /// The schema as it is now.
    fn refresh(&mut self) -> Result<(), Error> {
        if schema::version(&self.connection)? != self.schema.version {
            self.schema = Arc::new(Schema::read_numbered(&self.connection)?);
        }
        Ok(())
    }

    /// The replicated tables in the order of their names.
    pub fn tables(&mut self) -> Result<Vec<Described>, Error> {
        self.refresh()?;
        let aside = crate::db::apply::aside::summary_if_any(&self.connection)?;
        let events = |name: &str| {
            let of = aside.tables.iter().filter(|of| of.table.eq_ignore_ascii_case(name));
            of.map(|of| of.events).sum()
        };
        let mut all: Vec<Described> = self
            .schema
            .tables
            .values()
            .map(|table| {
                let definition = definition(table, &self.encoding);
                let print = fnv1(definition.as_bytes());
                let (name, aside) = (table.name.to_string(), events(&table.name));
                Described { name, definition: definition.chars().take(SHOWN).collect(), print, aside }
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Nodes whose events this database has applied.
    pub fn known_nodes(&self) -> Result<Vec<u64>, Error> {
        Ok(state::known_nodes(&self.connection)?.into_iter().collect())
    }

    /// The streams that the positions count in.
    pub fn generation(&self) -> Result<String, Error> {
        state::generation(&self.connection)
    }

    /// When the stream was made that this database follows; `None`: it follows none of this name.
    pub fn created(&self, stream: &str) -> Result<Option<String>, Error> {
        Ok(state::position(&self.connection, stream)?.map(|position| position.created))
    }

    /// The table of a name if it still has that definition; [`Error::SchemaChanged`] otherwise.
    fn table(&mut self, name: &str, definition: u64) -> Result<Arc<Table>, Error> {
        self.refresh()?;
        let print = |table: &Table| fnv1(self::definition(table, &self.encoding).as_bytes());
        let table = self.schema.find(name).filter(|table| print(table) == definition);
        table.cloned().ok_or(Error::SchemaChanged)
    }

    /// Inside a transaction: the schema is the one that the statements were made for.
    fn check_schema(&self) -> Result<(), Error> {
        if schema::version(&self.connection)? == self.schema.version {
            Ok(())
        } else {
            Err(Error::SchemaChanged)
        }
    }
}

/// See [`Described::definition`].
fn definition(table: &Table, encoding: &str) -> String {
    let mut columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            let mut text = format!("{} {}", column.name.to_lowercase(), column.declared_type.to_uppercase());
            if column.generated {
                text.push_str(" generated");
            }
            let key = table.key.iter().position(|key| key.name == column.name);
            if let Some(place) = key {
                let _ = write!(text, " key {} {}", place + 1, table.key[place].collation.name());
            }
            text
        })
        .collect();
    columns.sort();
    // Texts in another encoding have another order.
    if matches!(table.keyed, Keyed::Index | Keyed::WithoutRowid) && encoding != "UTF-8" {
        columns.push(format!("encoding {encoding}"));
    }
    columns.join(", ")
}

#[cfg(test)]
#[path = "equality_tests.rs"]
mod tests;
