//! Tables that were not replicated here and are now. What the cluster has of them, this database has passed over. So it joins in
//! them, as a database joins a cluster: they are compared with the state at its own position, made of a snapshot and the streams.
//! What differs becomes as the cluster has it, and what only this database has is published or removed.

use crate::db::apply::{Applied, Applier};
use crate::db::capture::log_all_rows;
use crate::db::error::Error;
use crate::db::restore::encoding::match_encoding;
use crate::db::restore::reconcile::{Comparison, Extra, begin, schema_mismatch};
use crate::db::schema::Schema;
use crate::db::{state, table::Table};
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;

/// The cluster's rows of some tables beside this database's.
#[derive(Debug, Default)]
pub struct Included {
    /// How they differ; `None`: the cluster has none of them.
    comparison: Option<Comparison>,
    /// Those of which the cluster has nothing.
    unknown: Vec<String>,
    /// Those that neither has.
    nowhere: Vec<String>,
    /// Those that have other columns in the cluster.
    apart: Vec<String>,
    /// Those that only the cluster has.
    lacking: Vec<String>,
}

impl Included {
    /// The cluster has none of these tables.
    pub fn alone(tables: &Noted) -> Included {
        Included { unknown: tables.here.clone(), nowhere: tables.absent.clone(), ..Included::default() }
    }

    /// Compares tables with what a file holds of them, which stands at the database's position.
    pub fn compare(database: &Path, agreed: &Path, tables: &Noted) -> Result<Included, Error> {
        match_encoding(agreed, database)?;
        let (connection, schema) = begin(database, agreed)?;
        let theirs = Schema::read(&Connection::open(agreed)?)?;
        let (mut found, mut with) = (Comparison::new(agreed, &schema), Included::default());
        for table in tables.here.iter().filter_map(|name| schema.tables.get(&**name)) {
            match theirs.find(&table.name) {
                Some(other) if fits(other, table) => found.note_common(&connection, table, other)?,
                Some(_) => with.apart.push(table.name.to_string()),
                None => with.unknown.push(table.name.to_string()),
            }
        }
        let (lacking, nowhere) = tables.absent.iter().cloned().partition(|name| theirs.find(name).is_some());
        (with.lacking, with.nowhere) = (lacking, nowhere);
        Ok(Included { comparison: Some(found), ..with })
    }

    /// What keeps some of the tables from being joined in, for people; `None`: nothing.
    pub fn waits(&self) -> Option<String> {
        let all = [("other columns here", &self.apart), ("not here", &self.lacking)];
        let some = all.iter().filter(|(_, names)| !names.is_empty());
        let why: Vec<String> = some.map(|(what, names)| format!("{what}: {}", names.join(", "))).collect();
        (!why.is_empty()).then(|| format!("{}; run the same migrations on all nodes", why.join("; ")))
    }

    /// The names of all others.
    pub fn joined<'a>(&'a self, tables: &'a Noted) -> impl Iterator<Item = &'a String> {
        tables.here.iter().filter(|name| !self.apart.contains(name)).chain(&self.nowhere)
    }

    /// Whether values of this database would be lost.
    pub fn loses(&self, extra: Extra) -> bool {
        let found = self.comparison.as_ref();
        found.is_some_and(|found| {
            found.changed > 0 || found.may_collide || (extra != Extra::Publish && found.extra > 0)
        })
    }

    /// What differs, for people.
    pub fn told(&self) -> String {
        self.comparison.as_ref().map_or_else(String::new, |found| {
            format!(
                "{} rows came, {} had other values, {} were only here",
                found.missing, found.changed, found.extra
            )
        })
    }
}

/// Whether rows of the cluster's table can be written into this one: it has the same key, and all of its columns.
fn fits(theirs: &Table, ours: &Table) -> bool {
    let names = |table: &Table| table.key.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    theirs.image.iter().all(|name| ours.image.contains(name)) && names(theirs) == names(ours)
}

/// The tables that are replicated here since a short time, and whose rows are not yet those of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    pub here: Vec<String>,
    /// Those that this database does not have.
    pub absent: Vec<String>,
}

impl Noted {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.here.is_empty() && self.absent.is_empty()
    }

    /// For people.
    pub fn names(&self) -> String {
        self.here.iter().chain(&self.absent).map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// Compares the database with a snapshot, like [`compare`](super::compare), in the tables of both whose rows there can be written here.
/// The others are told apart. With no such table it may be the database of another application, which belongs into another cluster.
pub fn compare_what_fits(database: &Path, snapshot: &Path) -> Result<Comparison, Error> {
    match_encoding(snapshot, database)?;
    let (connection, schema) = begin(database, snapshot)?;
    let other = Connection::open(snapshot)?;
    let (theirs, lacking) = (Schema::read(&other)?, state::included(&other)?);
    let is_lacking = |name: &str| lacking.iter().any(|lacking| lacking.eq_ignore_ascii_case(name));
    let (mut found, mut any) = (Comparison::new(snapshot, &schema), false);
    for table in schema.tables.values() {
        match theirs.find(&table.name) {
            Some(other) if fits(other, table) && !is_lacking(&table.name) => {
                found.note_common(&connection, table, other)?;
                any = true;
            }
            _ => found.apart.push(table.name.to_string()),
        }
    }
    let only_there = theirs.tables.values().filter(|table| schema.find(&table.name).is_none());
    found.apart.extend(only_there.map(|table| table.name.to_string()));
    if !any {
        return Err(Error::Mismatch(schema_mismatch(&theirs.hash, &schema.hash)));
    }
    Ok(found)
}

impl Applier {
    /// The tables that are to be joined in.
    pub fn included(&mut self) -> Result<Noted, Error> {
        let noted = state::included(&self.session.connection)?;
        if noted.is_empty() {
            return Ok(Noted::default());
        }
        self.catch_up_before()?;
        let mut tables = Noted::default();
        for name in noted {
            match self.session.schema.find(&name) {
                Some(table) => tables.here.push(table.name.to_string()),
                None => tables.absent.push(name),
            }
        }
        Ok(tables)
    }

    /// Whether events of one of the tables were passed over: then the cluster has rows of it.
    pub fn has_passed(&self, tables: &Noted) -> Result<bool, Error> {
        let passed = state::passed(&self.session.connection)?;
        let mut all = tables.here.iter().chain(&tables.absent);
        Ok(all.any(|table| passed.iter().any(|name| table.eq_ignore_ascii_case(name))))
    }

    /// Joins in the tables that can be, in one transaction. Rows that the application has written since they are captured stay as they
    /// are.
    pub fn join_tables(&mut self, with: &Included, tables: &Noted, extra: Extra) -> Result<Applied, Error> {
        for table in with.joined(tables) {
            self.session.prepare_probe(table)?;
        }
        self.in_transaction(|applier| {
            let of = |applier: &Applier, name: &String| applier.session.schema.find(name).cloned();
            let all: Vec<Arc<Table>> = with.joined(tables).filter_map(|name| of(applier, name)).collect();
            let is_unknown = |table: &Arc<Table>| with.unknown.iter().any(|name| **name == *table.name);
            let (unknown, known): (Vec<_>, Vec<_>) = all.into_iter().partition(is_unknown);
            for table in unknown.iter().filter(|_| applier.session.touched.is_some()) {
                applier.session.applied.touched += log_all_rows(&applier.session.connection, table)?;
            }
            if let Some(comparison) = &with.comparison {
                applier.join_in(comparison, &known, extra)?;
            }
            for name in with.joined(tables) {
                state::forget_included(&applier.session.connection, name)?;
                state::forget_passed(&applier.session.connection, name)?;
            }
            applier.session.forget_cached_state()
        })
    }

    fn join_in(&mut self, with: &Comparison, tables: &[Arc<Table>], extra: Extra) -> Result<(), Error> {
        for table in tables.iter().filter(|_| extra != Extra::Publish) {
            with.each_key(table, "0", |key| self.remove_extra(table, &key, extra))?;
        }
        let mut refused = vec![];
        for table in tables {
            with.each_image(table, |row| {
                refused.extend(self.fold_row(table, row)?);
                Ok(())
            })?;
        }
        // Only now, because the cluster's rows have displaced those that collide with them in UNIQUE indexes.
        for table in tables.iter().filter(|_| extra == Extra::Publish) {
            with.each_key(table, "0", |key| self.publish_extra(table, &key))?;
        }
        (1..).zip(refused).try_for_each(|(number, (cause, payload))| {
            let session = &mut self.session;
            session.aside.put(&session.connection, ("included", number, 0), &cause, &payload)
        })
    }
}
