//! The application's schema as replication needs it: tables, columns, keys, UNIQUE indexes, and the schema hash.

use crate::base::limits;
use crate::db::indexes::{self, UniqueIndex};
use crate::db::{error::Error, sql::quote};
use crate::model::shard;
use crate::model::value::{Collation, Value};
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its declared type, verbatim.
    pub declared_type: String,
    /// Computed: never written, never published.
    pub generated: bool,
    /// NOT NULL, for the schema hash.
    pub not_null: bool,
    /// Position in the primary key, from 1; 0: not in it.
    pub key_position: usize,
}

/// A replicated table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Our number for it in the change log; 0 until capture has given one.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// All columns, generated ones too.
    pub columns: Vec<Column>,
    /// The key in order: column names and how they compare. `rowid` for a table without a primary key.
    pub key: Vec<(String, Collation)>,
    /// Keyed by the rowid, which travels as the pseudo column `rowid`.
    pub by_rowid: bool,
    /// Has no rowid.
    pub without_rowid: bool,
    /// The key is an alias of the rowid: `INTEGER PRIMARY KEY`.
    pub integer_key: bool,
    /// UNIQUE indexes besides the primary key.
    pub unique: Vec<UniqueIndex>,
}

/// The whole.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// `PRAGMA schema_version` when it was read.
    pub version: i64,
    /// Replicated tables by name.
    pub tables: HashMap<String, Arc<Table>>,
    /// Names of tables that are there and not replicated: virtual tables, their shadows, views.
    pub others: HashSet<String>,
    /// Hash of the replicated tables, as the Go program computes it (compat.md 1h).
    pub hash: String,
}

impl Table {
    /// Columns that are written and published.
    pub fn stored(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| !column.generated)
    }

    /// SQL that finds a row by its key, whose values are the parameters from 1 on.
    pub fn key_filter(&self) -> String {
        let terms =
            self.key.iter().enumerate().map(|(at, (name, _))| format!("{} IS ?{}", quote(name), at + 1));
        terms.collect::<Vec<_>>().join(" AND ")
    }

    /// All rows share one shard, because two of them can collide or compare equal with different bytes.
    pub fn one_shard(&self) -> bool {
        !self.unique.is_empty() || self.key.iter().any(|(_, collation)| *collation != Collation::Binary)
    }

    /// The hash that picks a row's shard.
    pub fn shard_hash(&self, key: &[Value]) -> u64 {
        if self.one_shard() {
            return shard::hash(&self.name, &[]);
        }
        let columns: Vec<shard::KeyColumn> = self
            .key
            .iter()
            .zip(key)
            .map(|((name, _), value)| {
                let column = self.columns.iter().find(|column| column.name == *name);
                (name.as_str(), column.map_or("", |column| column.declared_type.as_str()), value)
            })
            .collect();
        shard::hash(&self.name, &columns)
    }
}

/// `PRAGMA schema_version`: changes with every CREATE, ALTER and DROP.
pub fn version(connection: &Connection) -> Result<i64, Error> {
    Ok(connection.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0))?)
}

impl Schema {
    /// Reads the schema. Tables that cannot be replicated are named in a warning.
    pub fn read(connection: &Connection) -> Result<Schema, Error> {
        let mut schema = Schema { version: version(connection)?, ..Schema::default() };
        let mut list = connection
            .prepare("SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")?;
        let mut rows = list.query([])?;
        while let Some(row) = rows.next()? {
            let (name, kind, without_rowid): (String, String, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if name.starts_with(limits::PREFIX) {
                continue;
            }
            if kind != "table" {
                schema.others.insert(name);
                continue;
            }
            match read_table(connection, &name, without_rowid)? {
                Ok(table) => {
                    schema.tables.insert(name, Arc::new(table));
                }
                Err(why) => {
                    log::warn!("table {name} is not replicated: {why}");
                    schema.others.insert(name);
                }
            }
        }
        schema.hash = schema.compute_hash();
        Ok(schema)
    }

    fn compute_hash(&self) -> String {
        let mut names: Vec<&Table> = self.tables.values().map(Arc::as_ref).collect();
        names.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        let mut text = String::new();
        for table in names {
            text.push_str(&table.name);
            let mut columns: Vec<&Column> = table.columns.iter().collect();
            columns.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
            for column in columns {
                let kind = if column.declared_type.is_empty() {
                    "*schema.BinaryType"
                } else {
                    &column.declared_type
                };
                let _ =
                    write!(text, "|{}:{kind}:{}:{}", column.name, column.not_null, column.key_position > 0);
            }
            text.push('\n');
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        data_encoding::HEXLOWER.encode(digest.as_ref())
    }
}

/// The outer result is the database's, the inner one says why the table is left out.
fn read_table(
    connection: &Connection,
    name: &str,
    without_rowid: bool,
) -> Result<Result<Table, String>, Error> {
    let mut statement = connection
        .prepare_cached("SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?1)")?;
    let columns: Vec<Column> = statement
        .query_map([name], |row| {
            Ok(Column {
                name: row.get(0)?,
                declared_type: row.get(1)?,
                not_null: row.get(2)?,
                key_position: usize::from(row.get::<_, u8>(3)?),
                generated: row.get::<_, i64>(4)? >= 2,
            })
        })?
        .collect::<Result<_, _>>()?;
    let mut key_columns: Vec<&Column> = columns.iter().filter(|column| column.key_position > 0).collect();
    key_columns.sort_by_key(|column| column.key_position);
    let by_rowid = key_columns.is_empty();
    let index_list = indexes::list(connection, name)?;
    let key_index = index_list.iter().find(|index| index.of_primary_key);
    let integer_key = key_columns.len() == 1 && !without_rowid && key_index.is_none();
    let mut key = vec![];
    if by_rowid {
        if columns.iter().any(|column| column.name.eq_ignore_ascii_case("rowid")) {
            return Ok(Err(
                "it has no primary key, and a column of its own named rowid: declare a primary key"
                    .to_owned(),
            ));
        }
        key.push(("rowid".to_owned(), Collation::Binary));
    }
    for column in key_columns {
        let collation = key_index.and_then(|index| index.collation_of(&column.name)).unwrap_or("BINARY");
        match known_collation(collation) {
            Some(collation) => key.push((column.name.clone(), collation)),
            None => {
                return Ok(Err(format!("its key compares by the application's own collation {collation}")));
            }
        }
    }
    let unique: Vec<UniqueIndex> = index_list.into_iter().filter(|index| !index.of_primary_key).collect();
    let unknown =
        unique.iter().flat_map(|index| &index.columns).find(|c| known_collation(&c.collation).is_none());
    if let Some(column) = unknown {
        return Ok(Err(format!(
            "a UNIQUE index compares by the application's own collation {}",
            column.collation
        )));
    }
    Ok(Ok(Table { id: 0, name: name.to_owned(), columns, key, by_rowid, without_rowid, integer_key, unique }))
}

fn known_collation(name: &str) -> Option<Collation> {
    match name.to_ascii_uppercase().as_str() {
        "BINARY" => Some(Collation::Binary),
        "NOCASE" => Some(Collation::NoCase),
        "RTRIM" => Some(Collation::RTrim),
        _ => None,
    }
}
