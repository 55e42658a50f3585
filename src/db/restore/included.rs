//! Tables that were not replicated here and are now. What the cluster has of them, this database has passed over. So it joins in
//! them, as a database joins a cluster: they are compared with the state at its own position, made of a snapshot and the streams.
//! What differs becomes as the cluster has it, and what only this database has is published or removed.

use crate::db::apply::{Applied, Applier};
use crate::db::capture::log_all_rows;
use crate::db::error::Error;
use crate::db::restore::encoding::match_encoding;
use crate::db::restore::reconcile::{Comparison, Extra, Values, begin};
use crate::db::schema::Schema;
use crate::db::{state, table::Table};
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;

/// The cluster's rows of some tables beside this database's.
#[derive(Debug)]
pub struct Included {
    /// How they differ; `None`: the cluster has none of them.
    comparison: Option<Comparison>,
    /// Those of which the cluster has nothing.
    unknown: Vec<String>,
}

impl Included {
    /// The cluster has none of these tables.
    pub fn alone(tables: &[String]) -> Included {
        Included { comparison: None, unknown: tables.to_vec() }
    }

    /// Compares tables with what a file holds of them, which stands at the database's position.
    pub fn compare(database: &Path, agreed: &Path, tables: &[String]) -> Result<Included, Error> {
        match_encoding(agreed, database)?;
        let (connection, schema) = begin(database, agreed)?;
        let theirs = Schema::read(&Connection::open(agreed)?)?;
        let (mut found, mut unknown) = (Comparison::new(agreed), vec![]);
        for table in tables.iter().filter_map(|name| schema.tables.get(&**name)) {
            match theirs.find(&table.name) {
                Some(other) if shape(other) == shape(table) => {
                    found.note(&connection, table, &Values::all(table))?;
                }
                Some(_) => {
                    return Err(Error::Mismatch(format!(
                        "table {} has other columns in the cluster: run the same migrations on all nodes",
                        table.name
                    )));
                }
                None => unknown.push(table.name.to_string()),
            }
        }
        Ok(Included { comparison: Some(found), unknown })
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

/// Names of the stored columns, and of those of the key in their order.
fn shape(table: &Table) -> (Vec<&str>, Vec<&str>) {
    let mut columns: Vec<&str> = table.image.iter().map(AsRef::as_ref).collect();
    columns.sort_unstable();
    (columns, table.key.iter().map(|column| &*column.name).collect())
}

impl Applier {
    /// The tables that are replicated here since a short time, and whose rows are not yet those of the cluster.
    pub fn included(&mut self) -> Result<Vec<String>, Error> {
        let noted = state::included(&self.session.connection)?;
        if noted.is_empty() {
            return Ok(noted);
        }
        self.catch_up_before()?;
        let schema = &self.session.schema;
        Ok(noted.into_iter().filter_map(|name| Some(schema.find(&name)?.name.to_string())).collect())
    }

    /// Whether events of one of the tables were passed over: then the cluster has rows of it.
    pub fn has_passed(&self, tables: &[String]) -> Result<bool, Error> {
        let passed = state::passed(&self.session.connection)?;
        Ok(passed.iter().any(|name| tables.iter().any(|table| table.eq_ignore_ascii_case(name))))
    }

    /// Joins in the tables, in one transaction. Rows that the application has written since they are captured stay as they are.
    pub fn join_tables(
        &mut self,
        with: &Included,
        tables: &[String],
        extra: Extra,
    ) -> Result<Applied, Error> {
        for table in tables {
            self.session.prepare_probe(table)?;
        }
        self.in_transaction(|applier| {
            let of = |applier: &Applier, name: &String| applier.session.schema.find(name).cloned();
            let all: Vec<Arc<Table>> = tables.iter().filter_map(|name| of(applier, name)).collect();
            for table in &all {
                if with.unknown.iter().any(|name| **name == *table.name) && applier.session.touched.is_some()
                {
                    applier.session.applied.touched += log_all_rows(&applier.session.connection, table)?;
                }
            }
            if let Some(comparison) = &with.comparison {
                applier.join_in(comparison, &all, extra)?;
            }
            for table in &all {
                state::forget_included(&applier.session.connection, &table.name)?;
                state::forget_passed(&applier.session.connection, &table.name)?;
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
            with.each_image(table, |values| {
                refused.extend(self.fold_values(table, values)?);
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
