//! Rows that refer to a row which is gone: one node deleted a row while another one wrote a row that refers to it. Each was right
//! where it was written, and no node can refuse either. The one whose own write comes later in the stream meets the other one while
//! its change log still holds its own, so one node keeps it in its list of conflicts, and can settle it as the foreign key says. Where
//! several could, it is the one by whose event the row becomes an orphan in the stream. Only rows that were written in the transaction
//! are looked at.

use crate::base::limits;
use crate::db::apply::subject::Place;
use crate::db::capture::log_table;
use crate::db::foreign_keys::ForeignKey;
use crate::db::schema::Schema;
use crate::db::{error::Error, sql::quote, table::Table};
use crate::model::event::Event;
use crate::model::value::Value;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What the applying connection knows of foreign keys.
#[derive(Debug, Default)]
pub struct Orphans {
    pub keys: Arc<[ForeignKey]>,
    /// Tables that refer to others, and those that are referred to.
    tables: HashSet<Arc<str>>,
    /// Those that are referred to.
    parents: HashSet<Arc<str>>,
    /// Rows that the running transaction has written for others.
    pub seen: Vec<Seen>,
    /// Rows of others that it has given up for a UNIQUE value: whatever refers to them is an orphan.
    pub given_up: Vec<GivenUp>,
    /// Orphans that are kept because we have deleted what they refer to, while that is on its way: by the key of the row that is gone.
    pub kept_for: HashMap<Vec<u8>, Vec<Kept>>,
    /// Rows of ours on their way that are kept as orphans, by their keys.
    pub kept_of: HashMap<Vec<u8>, Kept>,
    /// Orphans are settled as their foreign key says.
    pub settles: bool,
}

/// The key of a row, and what it refers to.
type Referring = (Vec<Value>, Vec<Value>);

/// A row that was written or deleted.
#[derive(Debug)]
pub struct Seen {
    pub table: Arc<str>,
    pub key: Vec<Value>,
    pub place: Place,
    pub node: u64,
    pub gone: bool,
    /// It waited.
    pub late: bool,
}

/// An orphan on the list that may still turn out to be none, or another node's to keep.
#[derive(Debug)]
pub struct Kept {
    pub table: Arc<str>,
    pub key: Vec<Value>,
    pub row: Vec<u8>,
    /// Number of the foreign key, and what the row refers to by it (see [`crate::db::apply::claims::refers`]).
    pub foreign: usize,
    pub refers: Option<u64>,
    /// The row that it refers to, if it refers to a key.
    pub parent: Option<Vec<u8>>,
    /// Where it is kept from.
    pub place: Place,
    /// What it refers to is gone in the stream before our deletion comes there: it is an orphan by another node.
    pub is_theirs: bool,
    /// The row referred to it in the stream when an event of ours removed that: it is an orphan by us, whatever is written of it later.
    pub is_ours: bool,
}

/// A row that lost its place to a row of ours.
#[derive(Debug)]
pub struct GivenUp {
    /// Number of the foreign key, and the values by which rows refer to the row.
    pub key: usize,
    pub refers: Vec<Value>,
    pub place: Place,
    pub node: u64,
    /// It is gone in the stream by an event of ours. Otherwise it is there until our deletion comes.
    pub is_removed: bool,
}

impl GivenUp {
    /// Whether rows can refer to it by this foreign key. Nothing is equal to NULL.
    pub fn is_of(&self, key: usize) -> bool {
        self.key == key && !self.refers.contains(&Value::Null)
    }
}

impl Orphans {
    pub fn settle(&mut self) {
        self.settles = true;
    }

    /// Nothing of ours is on its way, or nobody knows it any more: what is kept stays.
    pub fn agreed(&mut self) {
        self.kept_for.clear();
        self.kept_of.clear();
    }

    /// A row that we have deleted is there or gone in the stream, by another node.
    pub fn is_theirs(&mut self, row: &[u8], gone: bool) {
        for kept in self.kept_for.get_mut(row).into_iter().flatten() {
            kept.is_theirs = gone;
        }
    }

    /// Whether a row of ours on its way is kept as an orphan.
    pub fn keeps(&self, row: &[u8]) -> bool {
        self.kept_of.contains_key(row)
    }

    /// The schema has changed.
    pub fn read(&mut self, connection: &Connection, schema: &Schema) -> Result<(), Error> {
        self.agreed();
        self.keys = ForeignKey::all(connection, schema)?.into();
        self.tables = self.keys.iter().flat_map(|key| [key.child.clone(), key.parent.clone()]).collect();
        self.parents = self.keys.iter().map(|key| key.parent.clone()).collect();
        Ok(())
    }

    /// Another transaction begins.
    pub fn begin(&mut self) {
        self.seen.clear();
        self.given_up.clear();
    }

    /// Whether a table refers to another one, or is referred to.
    pub fn is_of_keys(&self, table: &Table) -> bool {
        self.tables.contains(&table.name)
    }

    /// Whether a table is referred to.
    pub fn is_referred_to(&self, table: &Table) -> bool {
        self.parents.contains(&table.name)
    }

    /// A row of another node loses its place to one of ours.
    pub fn give_up(&mut self, table: &Table, event: &Event, place: Place, is_removed: bool) {
        for (number, key) in self.keys.iter().enumerate().filter(|(_, key)| key.parent == table.name) {
            let values = key.columns.iter().map(|(_, parent)| event.value_of(parent).cloned());
            let refers: Option<Vec<Value>> = values.collect();
            if let Some(refers) = refers {
                self.given_up.push(GivenUp { key: number, refers, place, node: event.node, is_removed });
            }
        }
    }

    /// A row of another node was written or deleted.
    pub fn see(&mut self, table: &Table, event: &Event, place: Place, late: bool) {
        if !self.tables.contains(&table.name) {
            return;
        }
        let key: Option<Vec<Value>> = table
            .key
            .iter()
            .map(|column| {
                event.row.iter().find(|(name, _)| *name == column.name).map(|(_, value)| value.clone())
            })
            .collect();
        let Some(key) = key else { return };
        let (table, node, gone) = (table.name.clone(), event.node, event.is_tombstone());
        self.seen.push(Seen { table, key, place, node, gone, late });
    }
}

/// Reads a key of so many columns, and after it as many values that are referred to.
fn referring(row: &Row<'_>, key: usize, refers: usize) -> rusqlite::Result<Referring> {
    let values = |range: std::ops::Range<usize>| -> rusqlite::Result<Vec<Value>> {
        range.map(|at| row.get(at)).collect()
    };
    Ok((values(0..key)?, values(key..key + refers)?))
}

impl ForeignKey {
    /// The rows of the child that are on their way and refer to nothing, by their keys, and what they refer to.
    pub fn pending_orphans(&self, connection: &Connection, child: &Table) -> Result<Vec<Referring>, Error> {
        let key: Vec<String> = (1..)
            .zip(&child.key)
            .map(|(at, column)| format!("{} IS l.k{at}", child.key_operand("c.", column)))
            .collect();
        let sql = format!(
            "SELECT DISTINCT {}, {} FROM {} AS l CROSS JOIN main.{} AS c ON {} WHERE l.t IN ({}, {}) AND {}",
            child
                .key
                .iter()
                .map(|column| format!("c.{}", quote(&column.name)))
                .collect::<Vec<_>>()
                .join(", "),
            self.refers(),
            log_table::NAME,
            quote(&child.name),
            key.join(" AND "),
            log_table::Touch::Changed.number(child.id),
            log_table::Touch::Inserted.number(child.id),
            self.refers_to_nothing(),
        );
        let width = child.key.len();
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map([], |row| referring(row, width, self.columns.len()))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether something has the values that a row refers to.
    pub fn has_parent(&self, connection: &Connection, refers: &[Value]) -> Result<bool, Error> {
        let same: Vec<String> =
            (1..).zip(&self.columns).map(|(at, (_, parent))| format!("{} = ?{at}", quote(parent))).collect();
        let sql = format!("SELECT 1 FROM main.{} WHERE {}", quote(&self.parent), same.join(" AND "));
        Ok(connection.prepare_cached(&sql)?.exists(params_from_iter(refers))?)
    }

    /// What a row refers to, if that is not there.
    pub fn orphan_refers(
        &self,
        connection: &Connection,
        child: &Table,
        key: &[Value],
    ) -> Result<Option<Vec<Value>>, Error> {
        let same: Vec<String> = (1..)
            .zip(&child.key)
            .map(|(at, column)| format!("{} IS ?{at}", child.key_operand("c.", column)))
            .collect();
        let sql = format!(
            "SELECT {} FROM main.{} AS c WHERE {} AND {}",
            self.refers(),
            quote(&child.name),
            same.join(" AND "),
            self.refers_to_nothing()
        );
        let refers = connection.prepare_cached(&sql)?.query_row(params_from_iter(key), |row| {
            (0..self.columns.len()).map(|at| row.get(at)).collect::<Result<Vec<Value>, _>>()
        });
        Ok(refers.optional()?)
    }

    /// The rows of the child that refer to one of these lists of values, if nothing has them, by their keys, and what they refer to.
    /// Without an index on the child's columns each query reads all of the child, so one query takes as many lists as it can.
    pub fn orphans_of(
        &self,
        connection: &Connection,
        child: &Table,
        all: &[&[Value]],
    ) -> Result<Vec<Referring>, Error> {
        let key: Vec<String> = child.key.iter().map(|column| format!("c.{}", quote(&column.name))).collect();
        let width = child.key.len();
        let mut found = vec![];
        for some in all.chunks(limits::SQL_PARAMETERS / self.columns.len().max(1)) {
            let sql = format!(
                "SELECT {}, {} FROM main.{} AS c WHERE ({}) IN (VALUES {}) AND {}",
                key.join(", "),
                self.refers(),
                quote(&child.name),
                self.refers(),
                vec![format!("({})", vec!["?"; self.columns.len()].join(", ")); some.len()].join(", "),
                self.refers_to_nothing()
            );
            let mut statement = connection.prepare(&sql)?;
            let rows = statement.query_map(params_from_iter(some.iter().copied().flatten()), |row| {
                referring(row, width, self.columns.len())
            })?;
            found.extend(rows.collect::<Result<Vec<_>, _>>()?);
        }
        Ok(found)
    }

    fn refers(&self) -> String {
        self.columns.iter().map(|(child, _)| format!("c.{}", quote(child))).collect::<Vec<_>>().join(", ")
    }

    fn refers_to_nothing(&self) -> String {
        let set = self.columns.iter().map(|(child, _)| format!("c.{} IS NOT NULL", quote(child)));
        let same =
            self.columns.iter().map(|(child, parent)| format!("p.{} = c.{}", quote(parent), quote(child)));
        format!(
            "{} AND NOT EXISTS (SELECT 1 FROM main.{} AS p WHERE {})",
            set.collect::<Vec<_>>().join(" AND "),
            quote(&self.parent),
            same.collect::<Vec<_>>().join(" AND ")
        )
    }

    /// The key of the row that these values refer to, if they refer to a key.
    pub fn key_of(&self, parent: &Table, refers: &[Value]) -> Option<Vec<Value>> {
        if parent.key.len() != self.columns.len() {
            return None;
        }
        let of = |column: &str| {
            let at = self.columns.iter().position(|(_, referred)| referred.eq_ignore_ascii_case(column))?;
            Some(refers[at].clone())
        };
        parent.key.iter().map(|column| of(&column.name)).collect()
    }
}
