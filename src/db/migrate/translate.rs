//! What an event of an older schema is in the schema of now: columns that were renamed go under the new name, those that were dropped
//! are left out, and those that are new keep what the row has here, or get what all rows got.

use crate::db::migrate::history::{self, State};
use crate::db::migrate::{definitions, statement};
use crate::db::{error::Error, schema::Schema, table::Table};
use crate::model::change::{Step, Thing};
use crate::model::event::Event;
use crate::model::value::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// The changes that this database has seen, as far as events of older schemas need them.
#[derive(Debug, Default)]
pub struct Translation {
    /// In their order.
    changes: Vec<Past>,
    /// By table and column, in lower case: what a new column was filled with, as SQL; `None`: with no one value.
    fills: HashMap<(String, String), Option<String>>,
}

#[derive(Debug)]
struct Past {
    id: String,
    node: u64,
    before: String,
    after: String,
    /// The first change that its maker had not seen.
    unseen: usize,
    /// What it made of names in the eyes of its maker.
    made: Names,
    /// The same at its place in the order, if that is something else.
    placed: Option<Names>,
}

/// What became of names.
#[derive(Debug, Default)]
struct Names {
    /// As it was, and as it is.
    tables: Vec<(String, String)>,
    columns: Vec<OfTable>,
    /// Columns that are new: their tables, and their names.
    added: Vec<(String, String)>,
}

/// What became of a table's columns.
#[derive(Debug)]
struct OfTable {
    table: String,
    renamed: Vec<(String, String)>,
    dropped: Vec<String>,
}

impl Translation {
    pub fn read(connection: &Connection) -> Result<Translation, Error> {
        let mut found = Translation::default();
        for past in history::all(connection)? {
            if past.state == State::Failed {
                continue;
            }
            let change = past.change;
            for step in change.placed() {
                let Step::AlterTable { table, columns, .. } = step else { continue };
                for column in columns.iter().filter(|column| column.from.is_none()) {
                    let key = (table.to_lowercase(), column.name.to_lowercase());
                    found.fills.insert(key, column.fill.clone());
                }
            }
            let unseen = change.unseen_from(found.changes.iter().map(|past| past.id.as_str()));
            found.changes.push(Past {
                made: Names::of(&change.steps),
                placed: change.comes_to.as_deref().map(Names::of),
                id: change.id,
                node: change.node,
                before: change.before,
                after: change.after,
                unseen,
            });
        }
        Ok(found)
    }

    /// The event as it would be had it been made now; itself if nothing of it has changed.
    pub fn translate<'a>(&self, event: &'a Event, schema: &Schema) -> Cow<'a, Event> {
        if self.changes.is_empty() {
            return Cow::Borrowed(event);
        }
        let is_of = |hash: &str| match event.schema_hash.as_deref() {
            Some(print) if !print.is_empty() => hash.starts_with(print),
            _ => false,
        };
        if is_of(&schema.hash) {
            return Cow::Borrowed(event);
        }
        let mut event = Cow::Borrowed(event);
        let (mut from, mut lost) = (0, vec![]);
        let before = self.changes.iter().rposition(|past| is_of(&past.before));
        let after = self.changes.iter().rposition(|past| is_of(&past.after)).map(|at| at + 1);
        // What comes next after it, by its maker.
        let known = before.max(after);
        if let Some(known) = known {
            let maker = if before == Some(known) { known } else { known - 1 };
            from = self.changes[maker].unseen.min(known);
            let is_own = |at: &usize| self.changes[*at].node == self.changes[maker].node;
            if (from..known).all(|at| is_own(&at)) {
                from = known;
            }
            // Others have changed it meanwhile, before its maker did.
            for at in (from..known).rev().filter(is_own) {
                lost.extend(self.changes[at].lost(&event.table));
                self.changes[at].made.take_back(&mut event);
            }
        }
        for past in &self.changes[from..] {
            // Of an unknown schema only names are taken for others that nothing here has.
            let names = past.placed.as_ref().unwrap_or(&past.made);
            names.follow(&mut event, |table, column| known.is_none() && has(schema, table, column));
        }
        // A column that lost against another change is nowhere but on its maker, where it is kept.
        let is_nowhere = |event: &Event, name: &str| {
            lost.iter().any(|lost| lost.eq_ignore_ascii_case(name)) && !has(schema, &event.table, Some(name))
        };
        if event.row.iter().any(|(name, _)| is_nowhere(&event, name)) {
            let row = event.row.iter().filter(|(name, _)| !is_nowhere(&event, name)).cloned().collect();
            event.to_mut().row = row;
        }
        event
    }

    /// Gives an event the columns that it lacks: what its row has here, or what all rows got when the column was added.
    pub fn complete<'a>(
        &self,
        connection: &Connection,
        table: &Table,
        mut event: Cow<'a, Event>,
    ) -> Result<Cow<'a, Event>, Error> {
        if event.is_tombstone() || event.row.len() >= table.image.len() {
            return Ok(event);
        }
        let find =
            |event: &Event, name: &str| event.row.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let lacking: Vec<usize> =
            (0..table.image.len()).filter(|at| !find(&event, &table.image[*at])).collect();
        let value =
            |name: &str| event.row.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, v)| v);
        let Some(key) = table.key.iter().map(|column| value(&column.name)).collect::<Option<Vec<_>>>() else {
            return Ok(event);
        };
        let mut image = connection.prepare_cached(&table.sql().image)?;
        let local: Option<Vec<Value>> = image
            .query_row(params_from_iter(key), |row| lacking.iter().map(|at| row.get(*at)).collect())
            .optional()?;
        let mut more: Vec<(Arc<str>, Value)> = vec![];
        for (nth, at) in lacking.into_iter().enumerate() {
            let name = &table.image[at];
            let value = match &local {
                Some(local) => Some(local[nth].clone()),
                None => self.initial(connection, table, name)?,
            };
            more.extend(value.map(|value| (name.clone(), value)));
        }
        if !more.is_empty() {
            event.to_mut().row.extend(more);
        }
        Ok(event)
    }

    /// The value that a row gets in a column that its event lacks; `None`: the column's default.
    fn initial(&self, connection: &Connection, table: &Table, name: &str) -> Result<Option<Value>, Error> {
        let Some(fill) = self.fills.get(&(table.name.to_lowercase(), name.to_lowercase())) else {
            return Ok(None);
        };
        if let Some(fill) = fill {
            return Ok(Some(connection.query_row(&format!("SELECT {fill}"), [], |row| row.get(0))?));
        }
        let columns = definitions::columns_of(connection, &table.name)?;
        let column = columns.iter().find(|column| column.name.eq_ignore_ascii_case(name));
        let Some(nothing) = column.and_then(definitions::Present::nothing) else { return Ok(None) };
        Ok(Some(connection.query_row(&format!("SELECT {nothing}"), [], |row| row.get(0))?))
    }
}

fn has(schema: &Schema, table: &str, column: Option<&str>) -> bool {
    schema.find(table).is_some_and(|table| {
        column.is_none_or(|name| table.columns.iter().any(|known| known.name.eq_ignore_ascii_case(name)))
    })
}

impl Past {
    /// Columns of a table that it made and that are not there at its place in the order.
    fn lost(&self, table: &str) -> Vec<String> {
        let Some(placed) = &self.placed else { return vec![] };
        let made = self.made.added.iter().filter(|(of, _)| of.eq_ignore_ascii_case(table));
        made.filter(|made| !placed.added.contains(made)).map(|(_, name)| name.clone()).collect()
    }
}

impl Names {
    fn of(steps: &[Step]) -> Names {
        let mut found = Names::default();
        for step in steps {
            match step {
                Step::RenameTable { from, to } => found.tables.push((from.clone(), to.clone())),
                Step::Create { kind: Thing::Table, name: table, sql } => {
                    let columns = statement::columns(sql).into_iter();
                    found.added.extend(columns.map(|(name, _)| (table.clone(), name)));
                }
                Step::AlterTable { table, columns, dropped, .. } => {
                    let added = columns.iter().filter(|column| column.from.is_none());
                    found.added.extend(added.map(|column| (table.clone(), column.name.clone())));
                    let renamed = columns
                        .iter()
                        .filter_map(|column| Some((column.renamed_from()?.to_owned(), column.name.clone())));
                    let renamed: Vec<(String, String)> = renamed.collect();
                    if !renamed.is_empty() || !dropped.is_empty() {
                        let (table, dropped) = (table.clone(), dropped.clone());
                        found.columns.push(OfTable { table, renamed, dropped });
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Gives an event the names before.
    fn take_back(&self, event: &mut Cow<'_, Event>) {
        let of_table = self.columns.iter().find(|of| of.table.eq_ignore_ascii_case(&event.table));
        for (before, now) in of_table.iter().flat_map(|of| &of.renamed) {
            if let Some(at) = event.row.iter().position(|(name, _)| name.eq_ignore_ascii_case(now)) {
                event.to_mut().row[at].0 = before.as_str().into();
            }
        }
        for (before, now) in self.tables.iter().rev() {
            if now.eq_ignore_ascii_case(&event.table) {
                event.to_mut().table = before.as_str().into();
            }
        }
    }

    /// Takes an event over this change, leaving alone what `stays`.
    fn follow(&self, event: &mut Cow<'_, Event>, stays: impl Fn(&str, Option<&str>) -> bool) {
        let is_kept = stays(&event.table, None);
        for (before, now) in self.tables.iter().filter(|_| !is_kept) {
            if before.eq_ignore_ascii_case(&event.table) {
                event.to_mut().table = now.as_str().into();
            }
        }
        let Some(of_table) = self.columns.iter().find(|of| of.table.eq_ignore_ascii_case(&event.table))
        else {
            return;
        };
        let table = event.table.clone();
        let is_gone = |name: &str| {
            of_table.dropped.iter().any(|gone| gone.eq_ignore_ascii_case(name)) && !stays(&table, Some(name))
        };
        let renamed = |name: &str| {
            let found = of_table.renamed.iter().find(|(before, _)| before.eq_ignore_ascii_case(name));
            found.filter(|_| !stays(&table, Some(name))).map(|(_, now)| now)
        };
        if !event.row.iter().any(|(name, _)| is_gone(name) || renamed(name).is_some()) {
            return;
        }
        let event = event.to_mut();
        event.row.retain(|(name, _)| !is_gone(name));
        for (name, _) in &mut event.row {
            if let Some(now) = renamed(name) {
                *name = now.as_str().into();
            }
        }
    }
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
