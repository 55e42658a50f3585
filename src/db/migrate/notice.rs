//! Noticing what the application has changed of its schema, as steps that other nodes can carry out.

use crate::base::{clock, limits};
use crate::db::capture::{log_all_rows, log_table};
use crate::db::migrate::definitions::{self, Definition, Difference, Present};
use crate::db::migrate::history::{self, State};
use crate::db::migrate::matching::match_columns;
use crate::db::migrate::shape::renames;
use crate::db::migrate::statement::bare;
use crate::db::migrate::unsettled;
use crate::db::{error::Error, indexes, schema::Schema, sql::quote, state, table::Table};
use crate::model::change::{Change, Column, Step, Thing};
use crate::model::value::Value;
use rusqlite::{Connection, TransactionBehavior};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};

/// Bytes of a literal that fills a new column.
const FILL_BYTES: usize = 4_096;

/// Who looks.
#[derive(Clone, Copy, Debug)]
pub struct Looker {
    pub node: u64,
    /// What is found is for others, too.
    pub travels: bool,
}

/// Compares the schema with what it was, and notes what became of it, in a transaction of its own unless one is open. The first
/// time nothing is noted. Returns the change.
pub fn look(connection: &Connection, schema: &Schema, looker: Looker) -> Result<Option<Change>, Error> {
    let is_first = !definitions::exist(connection)?;
    let difference = if is_first { Difference::default() } else { definitions::difference(connection)? };
    if !is_first && difference.is_empty() {
        return Ok(None);
    }
    let found = Steps::new(connection, schema, &difference)?;
    let steps = found.all()?;
    let change = Change::new(looker.node, clock::unix_ms(), ("", &schema.hash), steps);
    let transaction = match connection.is_autocommit() {
        true => Some(rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?),
        false => None,
    };
    if crate::db::schema_rows::version(connection)? != schema.version {
        return Err(Error::SchemaChanged);
    }
    let noted = note(connection, change, &difference, (is_first, looker.travels))?;
    let unsure = found.unsure.take();
    for table in
        unsure.iter().filter_map(|name| schema.tables.get(name.as_str())).filter(|table| table.id != 0)
    {
        let rows = log_all_rows(connection, table)?;
        log::info!(
            "table {}: which column is which cannot be told: all its {rows} rows are published",
            table.name
        );
    }
    if log_table::exists(connection)? {
        for table in found.again.take() {
            log_table::log_table_again(connection, table)?;
        }
    }
    transaction.map_or(Ok(()), rusqlite::Transaction::commit)?;
    if let Some(change) = &noted {
        let what =
            if looker.travels { "every node follows" } else { "schema = \"own\": other nodes do not follow" };
        log::info!("the application has changed its schema ({}): {what}", change.summary());
    }
    Ok(noted)
}

/// The steps that lead from one schema to the other.
pub fn steps(connection: &Connection, schema: &Schema, difference: &Difference) -> Result<Vec<Step>, Error> {
    Steps::new(connection, schema, difference)?.all()
}

fn note(
    connection: &Connection,
    mut change: Change,
    difference: &Difference,
    (is_first, travels): (bool, bool),
) -> Result<Option<Change>, Error> {
    history::create(connection)?;
    let hash = change.after.clone();
    change.before = last_hash(connection)?.unwrap_or_default();
    set_last_hash(connection, &hash)?;
    if is_first {
        definitions::remember_all(connection)?;
        return Ok(None);
    }
    definitions::remember(connection, difference)?;
    if change.steps.is_empty() {
        return Ok(None);
    }
    let state = if travels { State::Waiting } else { State::Own };
    if travels {
        change.seen = Some(history::last_done(connection)?.unwrap_or_default());
        unsettled::note(connection, &change.id, difference)?;
    }
    history::put(connection, &change, state, (change.time_ms, ""))?;
    Ok(Some(change))
}

/// The hash of the schema that the definitions are of.
fn last_hash(connection: &Connection) -> Result<Option<String>, Error> {
    state::meta(connection, "noticed")
}

pub fn set_last_hash(connection: &Connection, hash: &str) -> Result<(), Error> {
    state::set_meta(connection, "noticed", hash)
}

/// What they are made of.
struct Steps<'a> {
    connection: &'a Connection,
    schema: &'a Schema,
    difference: &'a Difference,
    /// Tables that have another name, as it was and as it is.
    renamed: Vec<(&'a Definition, &'a Definition)>,
    /// Tables with new columns whose values may be those of others before, which nobody can tell.
    unsure: RefCell<Vec<String>>,
    /// Numbers of tables with rows that may be on their way as they were before.
    again: RefCell<BTreeSet<i64>>,
}

impl<'a> Steps<'a> {
    fn new(
        connection: &'a Connection,
        schema: &'a Schema,
        difference: &'a Difference,
    ) -> Result<Steps<'a>, Error> {
        let names = definitions::names_by_number(connection)?;
        let tables = |list: &'a [Definition]| list.iter().filter(|known| known.kind == Thing::Table);
        let mut renamed: Vec<(&Definition, &Definition)> = tables(&difference.before)
            .filter_map(|before| {
                let now = names.get(&before.number).filter(|name| **name != before.name)?;
                let is_gone = || {
                    definitions::sql_of(connection, Thing::Table, &before.name).is_ok_and(|sql| sql.is_none())
                };
                let now = tables(&difference.now).find(|known| known.name == *now)?;
                (before.is_renamed() || is_gone()).then_some((before, now))
            })
            .collect();
        // One that has the name of another is that one, built anew, unless the other has got another name, too.
        loop {
            let keeps = |name: &str| {
                let is_renamed = renamed.iter().any(|(before, _)| before.name == name);
                !is_renamed && tables(&difference.before).any(|before| before.name == name)
            };
            let Some(at) = renamed.iter().position(|(_, now)| keeps(&now.name)) else { break };
            renamed.remove(at);
        }
        Ok(Steps {
            connection,
            schema,
            difference,
            renamed,
            unsure: RefCell::default(),
            again: RefCell::default(),
        })
    }

    /// In the order in which they can be carried out.
    fn all(&self) -> Result<Vec<Step>, Error> {
        let (mut steps, mut alters, mut dropped, mut created) = (vec![], vec![], vec![], vec![]);
        steps.extend(renames(self.renamed.iter().map(|(before, now)| (&*before.name, &*now.name)).collect()));
        for (before, now) in &self.renamed {
            if before.columns != now.columns {
                alters.push(self.alter(before, now)?);
            }
        }
        for now in self.of_kind(Thing::Table) {
            match self.before(now) {
                _ if self.renamed.iter().any(|(_, renamed)| *renamed == now) => {}
                Some(before) => alters.push(self.alter(before, now)?),
                None => created.push(create(now)),
            }
        }
        let tables =
            self.difference.before.iter().filter(|before| before.kind == Thing::Table && before.number > 0);
        for before in tables {
            let is_there = definitions::sql_of(self.connection, Thing::Table, &before.name)?.is_some();
            if !is_there && !self.renamed.iter().any(|(renamed, _)| *renamed == before) {
                dropped.push(Step::DropTable { table: before.name.clone() });
            }
        }
        for kind in [Thing::Index, Thing::View, Thing::Trigger] {
            created.extend(self.of_kind(kind).filter(|now| self.goes_along(now)).map(create));
        }
        let mut all = self.drops(&alters)?;
        all.extend(steps);
        all.extend(alters);
        all.extend(dropped);
        all.extend(created);
        all.truncate(limits::CHANGE_STEPS);
        Ok(all)
    }

    /// What is new or other of one kind; of tables those that are replicated.
    fn of_kind(&self, kind: Thing) -> impl Iterator<Item = &'a Definition> {
        let schema = self.schema;
        let is_meant = move |now: &&Definition| {
            now.kind == kind && (kind != Thing::Table || schema.tables.contains_key(now.name.as_str()))
        };
        self.difference.now.iter().filter(is_meant)
    }

    fn before(&self, now: &Definition) -> Option<&'a Definition> {
        let is_renamed = |before: &Definition| self.renamed.iter().any(|(renamed, _)| *renamed == before);
        let mut named = self.difference.before.iter().filter(|before| before.kind == now.kind);
        named.find(|before| before.name == now.name && !is_renamed(before))
    }

    /// Whether an index, a view or a trigger is for other nodes. What has to do with a virtual table is not: we write none of them, and
    /// a trigger that another node cannot run would make the application's statements fail there.
    fn goes_along(&self, definition: &Definition) -> bool {
        let schema = self.schema;
        let names_another = || {
            let tokens = indexes::tokens(&definition.sql);
            let mut words = tokens.iter().map(|token| bare(&definition.sql[token.0..token.1]));
            words.any(|word| self.is_left_out(&word))
        };
        match definition.kind {
            Thing::Index => schema.tables.contains_key(definition.table.as_str()),
            _ => !names_another(),
        }
    }

    /// A table that only this node may have. Views are none.
    fn is_left_out(&self, word: &str) -> bool {
        let is_view = || {
            self.difference
                .now
                .iter()
                .any(|now| now.kind == Thing::View && now.name.eq_ignore_ascii_case(word))
        };
        self.schema.leaves_out(word)
            && !is_view()
            && !matches!(definitions::sql_of(self.connection, Thing::View, word), Ok(Some(_)))
    }

    /// Indexes, views and triggers that are gone or other, the last made first.
    fn drops(&self, alters: &[Step]) -> Result<Vec<Step>, Error> {
        let rewritten: HashSet<&str> = alters
            .iter()
            .filter_map(|step| match step {
                Step::AlterTable { table, columns, .. } => {
                    let renames =
                        |column: &Column| column.from.as_ref().is_some_and(|from| *from != column.name);
                    columns.iter().any(renames).then_some(table.as_str())
                }
                _ => None,
            })
            .chain(self.renamed.iter().map(|(_, now)| now.name.as_str()))
            .collect();
        let mut drops = vec![];
        for kind in [Thing::Trigger, Thing::View, Thing::Index] {
            for before in self.difference.before.iter().filter(|before| before.kind == kind) {
                let now = self.difference.now.iter().find(|now| now.kind == kind && now.name == before.name);
                // SQLite writes its statement anew where a column or the table gets another name, and every node's does.
                let stays =
                    kind == Thing::Index && now.is_some_and(|now| rewritten.contains(now.table.as_str()));
                if !stays && self.goes_along_or_is_gone(before)? {
                    drops.push(Step::Drop { kind, name: before.name.clone() });
                }
            }
        }
        Ok(drops)
    }

    /// A table takes its indexes and triggers along when it goes, and keeps them under another name.
    fn goes_along_or_is_gone(&self, before: &Definition) -> Result<bool, Error> {
        let renamed = self.renamed.iter().find(|(table, _)| table.name == before.table);
        let table = renamed.map_or(&before.table, |(_, now)| &now.name);
        let exists = |kind| definitions::sql_of(self.connection, kind, table).map(|sql| sql.is_some());
        if before.kind == Thing::View {
            return Ok(true);
        }
        let now = Definition { table: table.clone(), ..before.clone() };
        Ok((exists(Thing::Table)? || exists(Thing::View)?) && self.goes_along(&now))
    }

    fn alter(&self, before: &Definition, now: &Definition) -> Result<Step, Error> {
        let rebuilt = self.is_rebuilt(&now.name)?;
        let matched = match_columns(&before.columns, &now.columns, rebuilt);
        if matched.unsure && !rebuilt {
            // Others cannot have the values.
            self.unsure.borrow_mut().push(now.name.clone());
        }
        let present = definitions::columns_of(self.connection, &now.name)?;
        let table = self.schema.tables.get(now.name.as_str());
        let is_empty = is_empty(self.connection, &now.name)?;
        let mut columns = vec![];
        for (column, old) in now.columns.iter().zip(matched.from) {
            let found = present.iter().find(|present| present.name == column.name);
            let old = old.map(|at| &before.columns[at].name);
            let renamed = old.is_some_and(|old| !old.eq_ignore_ascii_case(&column.name));
            let is_new = match (old, table, found) {
                (None, _, _) => true,
                (Some(_), Some(table), Some(found)) if renamed => !self.holds_old_values(table, found)?,
                _ => false,
            };
            if let (true, true, Some(table)) = (renamed, is_new, table) {
                self.again.borrow_mut().insert(table.id);
            }
            // What is taken for renamed in a table that was built anew may be another column, which must not be NULL.
            let constant = match is_new || renamed && rebuilt {
                true => self.constant(&now.name, &column.name)?,
                false => None,
            };
            // Rows that others have written meanwhile must not keep them from following.
            let instead = || found.filter(|_| rebuilt && is_empty).and_then(Present::instead_of_null);
            let fill = constant.or_else(instead);
            let from = old.filter(|_| !is_new).cloned();
            columns.push(Column { name: column.name.clone(), from, fill });
        }
        let is_kept = |old: &str| columns.iter().any(|column| column.from.as_deref() == Some(old));
        let dropped =
            before.columns.iter().filter(|old| !is_kept(&old.name)).map(|old| old.name.clone()).collect();
        Ok(Step::AlterTable {
            table: now.name.clone(),
            was: before.sql.clone(),
            sql: now.sql.clone(),
            columns,
            dropped,
        })
    }

    /// Whether a column that may be one before under another name holds values that nobody wrote since: then it is. If there are none,
    /// dropping the one and adding the other leads to the same rows.
    fn holds_old_values(&self, table: &Table, column: &Present) -> Result<bool, Error> {
        let place = format!("main.{}", quote(&table.name));
        let keys: Vec<String> = table.key.iter().map(|key| quote(&key.name)).collect();
        let constant =
            column.default.as_deref().filter(|default| indexes::functions_called(default).is_empty());
        let default = constant.unwrap_or("NULL");
        let sql = format!(
            "SELECT {} FROM {place} WHERE {} IS NOT ({default}) LIMIT {}",
            keys.join(", "),
            quote(&column.name),
            limits::RENAME_LOOK
        );
        let mut written: Option<HashSet<Vec<u8>>> = None;
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let key: Vec<Value> = (0..keys.len()).map(|at| row.get(at)).collect::<Result<_, _>>()?;
            let written = match &mut written {
                Some(written) => written,
                none => none.insert(written_rows(self.connection, table)?),
            };
            if !written.contains(&table.row_key(&key)) {
                return Ok(true);
            }
        }
        is_empty(self.connection, &table.name)
    }

    fn is_rebuilt(&self, table: &str) -> Result<bool, Error> {
        Ok(state::exists(self.connection)?
            && state::rebuilt(self.connection)?.iter().any(|(name, _)| name == table))
    }

    /// The value that all rows have in a column, as an SQL literal. Of a table that was built anew, the one that most have: its rows are
    /// compared with what others know.
    fn constant(&self, table: &str, column: &str) -> Result<Option<String>, Error> {
        let (place, column) = (format!("main.{}", quote(table)), quote(column));
        let rebuilt = self.is_rebuilt(table)?;
        let order = if rebuilt { format!("GROUP BY {column} ORDER BY count(*) DESC") } else { String::new() };
        let sql = format!("SELECT quote({column}) FROM {place} {order} LIMIT 1");
        let mut first = self.connection.prepare(&sql)?;
        let mut rows = first.query([])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let literal: String = row.get(0)?;
        if literal.len() > FILL_BYTES {
            return Ok(None);
        }
        let others = format!("SELECT 1 FROM {place} WHERE {column} IS NOT {literal} LIMIT 1");
        Ok((rebuilt || !self.connection.prepare(&others)?.exists([])?).then_some(literal))
    }
}

fn is_empty(connection: &Connection, table: &str) -> Result<bool, Error> {
    Ok(!connection.prepare(&format!("SELECT 1 FROM main.{} LIMIT 1", quote(table)))?.exists([])?)
}

/// The keys of rows that have entries in the change log (see [`Table::row_key`]).
fn written_rows(connection: &Connection, table: &Table) -> Result<HashSet<Vec<u8>>, Error> {
    if table.id == 0 || !log_table::exists(connection)? {
        return Ok(HashSet::new());
    }
    let keys = log_table::keys_of(connection, table.id, table.key.len())?;
    Ok(keys.iter().map(|key| table.row_key(key)).collect())
}

fn create(now: &Definition) -> Step {
    Step::Create { kind: now.kind, name: now.name.clone(), sql: now.sql.clone() }
}

#[cfg(test)]
#[path = "notice_tests.rs"]
mod tests;
