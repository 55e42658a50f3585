//! Tables that somebody has built anew (a new table, the rows copied, the old one dropped, the new one renamed), as frameworks
//! change a table: our triggers went with the old one, and what was written until the new one had some is in no log. To publish
//! all rows would overwrite what others have committed meanwhile; to publish none would lose what was written. So the table is
//! compared with what this node had agreed on with the others: the state at its own position, made of a snapshot and the streams.

use crate::db::apply::Applier;
use crate::db::capture::log_all_rows;
use crate::db::error::Error;
use crate::db::restore::reconcile::{Comparison, compare_tables};
use crate::db::{state, table::Table};
use std::path::Path;

/// What was found in tables that were built anew.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    pub tables: Vec<String>,
    /// Rows that were written without triggers, and are published now.
    pub rows: usize,
}

impl Rebuilt {
    /// Says it. `compared`: with what was agreed on.
    pub fn tell(&self, compared: bool) {
        let (tables, rows) = (self.tables.join(", "), self.rows);
        match compared {
            true => log::info!(
                "table {tables} was built anew: {rows} rows were written before it was captured again, and are published"
            ),
            false => log::warn!(
                "table {tables} was built anew, and no snapshot tells what was written meanwhile: all its {rows} rows are published"
            ),
        }
    }
}

impl Applier {
    /// The tables whose rows may have changes that are in no log.
    pub fn rebuilt(&self) -> Result<Vec<String>, Error> {
        Ok(state::rebuilt(&self.session.connection)?.into_iter().map(|(name, _)| name).collect())
    }

    /// Logs what differs from the agreed state, a file that holds it at this database's position; without one, all rows.
    pub fn log_rebuilt(&mut self, database: &Path, agreed: Option<&Path>) -> Result<Rebuilt, Error> {
        let noted = state::rebuilt(&self.session.connection)?;
        let tables: Vec<String> = noted.iter().map(|(name, _)| name.clone()).collect();
        let (comparison, unknown) = match agreed {
            Some(agreed) => {
                let (comparison, unknown) = compare_tables(database, agreed, &tables)?;
                (Some(comparison), unknown)
            }
            None => (None, tables.clone()),
        };
        let mut rows = 0;
        self.in_transaction(|applier| {
            if state::rebuilt(&applier.session.connection)? != noted {
                return Err(Error::SchemaChanged); // Once more.
            }
            for (name, id) in &noted {
                let Some(table) = applier.session.schema.tables.get(&**name).cloned() else { continue };
                rows += match &comparison {
                    Some(comparison) if !unknown.contains(name) => {
                        applier.log_different(comparison, &table, *id)?
                    }
                    _ => log_all_rows(&applier.session.connection, &table)?,
                };
            }
            state::forget_rebuilt(&applier.session.connection)
        })?;
        Ok(Rebuilt { tables, rows })
    }

    /// `id`: later entries are of what was written since the table is captured again. Earlier ones may have been published with
    /// the row as it was before.
    fn log_different(&mut self, comparison: &Comparison, table: &Table, id: i64) -> Result<usize, Error> {
        let mut rows = 0;
        comparison.each_key(table, "0, 1, 2", |key| {
            let session = &mut self.session;
            let row_key = table.row_key(&key);
            let Some(touched) = &mut session.touched else { return Ok(()) };
            if touched.ids(&session.connection, &row_key)?.iter().any(|known| *known > id) {
                return Ok(());
            }
            session.touch(table, &key, &row_key)?;
            rows += 1;
            Ok(())
        })?;
        Ok(rows)
    }
}

#[cfg(test)]
#[path = "rebuilt_tests.rs"]
mod tests;
