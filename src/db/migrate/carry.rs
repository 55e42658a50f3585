//! Carrying out a change of the schema that another node made, inside of a transaction. Each step is done where it still fits: what
//! is as it says is left alone, and what this node or another one has made of the same thing since stays as the order says.

use crate::db::migrate::definitions::{self, Present, sql_of};
use crate::db::migrate::rebuild::{Target, rebuild};
use crate::db::migrate::statement::{self, is_literal, makes, same, same_but_name};
use crate::db::migrate::{kept, script};
use crate::db::{error::Error, sql::quote};
use crate::model::change::{Change, Column, Step, Thing};
use rusqlite::Connection;
use std::collections::BTreeSet;

/// What a change came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Something of the schema is other than before.
    pub changed: bool,
    /// What is as another change before it says.
    pub lost: Vec<String>,
    /// Tables that were built anew.
    pub rebuilt: BTreeSet<String>,
    /// A step does not fit the schema as it is: it was not carried out, nor what comes after it.
    pub misfit: bool,
}

/// What becomes of steps that do not fit the schema as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fit {
    /// They come together with what is there.
    #[default]
    Merge,
    /// There are none: the steps lead from this very schema to another one.
    Exact,
    /// Nothing is done from there on.
    Strict,
}

/// How changes are carried out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// What is dropped is kept.
    pub keeps: bool,
    pub fit: Fit,
}

/// Carries it out whole, or fails.
pub fn carry_out(connection: &Connection, change: &Change, terms: &Terms) -> Result<Carried, Error> {
    let mut carrier = Carrier { connection, terms, steps: &change.steps, done: Carried::default() };
    connection.flush_prepared_statement_cache();
    if let Some(script) = &change.script {
        script::run(connection, script)?;
        carrier.done.changed = true;
        return Ok(carrier.done);
    }
    for step in &change.steps {
        if terms.fit == Fit::Strict && !fits(connection, step)? {
            carrier.done.misfit = true;
            break;
        }
        carrier.step(step).map_err(|error| about(step, error))?;
    }
    connection.flush_prepared_statement_cache();
    Ok(carrier.done)
}

/// Carries out one step of several.
pub fn carry_out_step(
    connection: &Connection,
    steps: &[Step],
    step: &Step,
    terms: &Terms,
) -> Result<Carried, Error> {
    let mut carrier = Carrier { connection, terms, steps, done: Carried::default() };
    connection.flush_prepared_statement_cache();
    carrier.step(step)?;
    connection.flush_prepared_statement_cache();
    Ok(carrier.done)
}

/// Whether a step finds what it says, or all done.
pub fn fits(connection: &Connection, step: &Step) -> Result<bool, Error> {
    let table = |name: &str| sql_of(connection, Thing::Table, name);
    Ok(match step {
        Step::Drop { .. } => true,
        Step::RenameTable { from, to } => table(from)?.is_some() && table(to)?.is_none(),
        Step::AlterTable { table: name, was, sql, .. } => {
            table(name)?.is_some_and(|present| same(&present, sql) || same_but_name(&present, was))
        }
        Step::DropTable { table: name } => table(name)?.is_some(),
        Step::Create { kind, name, sql } => {
            sql_of(connection, *kind, name)?.is_none_or(|present| same(&present, sql))
        }
    })
}

fn about(step: &Step, error: Error) -> Error {
    match error {
        Error::Other(why) | Error::Mismatch(why) => Error::Mismatch(format!("{}: {why}", step.subject())),
        other => other,
    }
}

struct Carrier<'a> {
    connection: &'a Connection,
    terms: &'a Terms,
    steps: &'a [Step],
    done: Carried,
}

/// A table that is to be altered.
struct Alter<'a> {
    table: &'a str,
    was: &'a str,
    sql: &'a str,
    columns: &'a [Column],
    dropped: &'a [String],
}

impl Carrier<'_> {
    fn step(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Drop { kind, name } => self.drop(*kind, name),
            Step::RenameTable { from, to } => self.rename(from, to),
            Step::DropTable { table } => self.drop_table(table),
            Step::Create { kind, name, sql } => self.create(*kind, name, sql),
            Step::AlterTable { table, was, sql, columns, dropped } => {
                self.alter(&Alter { table, was, sql, columns, dropped })
            }
        }
    }

    fn run(&mut self, sql: &str) -> Result<(), Error> {
        self.connection.execute_batch(sql)?;
        self.done.changed = true;
        Ok(())
    }

    fn lose(&mut self, what: String) {
        self.done.lost.push(what);
    }

    fn drop(&mut self, kind: Thing, name: &str) -> Result<(), Error> {
        let Some(present) = sql_of(self.connection, kind, name)? else { return Ok(()) };
        let is_made = |step: &Step| match step {
            Step::Create { kind: made, name: known, sql } => {
                *made == kind && known == name && same(sql, &present)
            }
            _ => false,
        };
        if kind == Thing::Table || self.steps.iter().any(is_made) {
            return Ok(());
        }
        self.run(&format!("DROP {} main.{}", kind.word(), quote(name)))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), Error> {
        let is_taken = sql_of(self.connection, Thing::Table, to)?.is_some();
        if sql_of(self.connection, Thing::Table, from)?.is_none() {
            if !is_taken {
                self.lose(format!("table {from} cannot be called {to}: it was dropped before"));
            }
            return Ok(());
        }
        if is_taken {
            self.lose(format!("table {from} cannot be called {to}: there is one of this name"));
            return Ok(());
        }
        let sql = format!("ALTER TABLE main.{} RENAME TO {}", quote(from), quote(to));
        self.run(&sql).or_else(|_| {
            // Something of the schema does not compile here; what names the table is rewritten by other steps.
            self.in_legacy_mode(|carrier| carrier.run(&sql))
        })
    }

    fn in_legacy_mode(&mut self, body: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        self.connection.execute_batch("PRAGMA legacy_alter_table=ON")?;
        let done = body(self);
        self.connection.execute_batch("PRAGMA legacy_alter_table=OFF")?;
        done
    }

    fn drop_table(&mut self, table: &str) -> Result<(), Error> {
        if sql_of(self.connection, Thing::Table, table)?.is_none() {
            return Ok(());
        }
        self.done.changed = true;
        if self.terms.keeps {
            return self.in_legacy_mode(|carrier| kept::keep_table(carrier.connection, table));
        }
        self.run(&format!("DROP TABLE main.{}", quote(table)))
    }

    fn create(&mut self, kind: Thing, name: &str, sql: &str) -> Result<(), Error> {
        if !makes(sql, kind, name) {
            return Err(Error::Mismatch(format!(
                "its statement does not make the {} and nothing else",
                kind.word()
            )));
        }
        let Some(present) = sql_of(self.connection, kind, name)? else { return self.run(sql) };
        if same(&present, sql) {
            return Ok(());
        }
        if kind != Thing::Table {
            self.run(&format!("DROP {} main.{}", kind.word(), quote(name)))?;
            return self.run(sql);
        }
        let columns = self.columns(name)?;
        let wanted = statement::columns(sql);
        let is_there = |name: &str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        if columns.len() != wanted.len() || !wanted.iter().all(|(name, _)| is_there(name)) {
            self.lose(format!("table {name}: it was made otherwise before"));
        }
        Ok(())
    }

    fn columns(&self, table: &str) -> Result<Vec<Present>, Error> {
        definitions::columns_of(self.connection, table)
    }

    fn alter(&mut self, alter: &Alter<'_>) -> Result<(), Error> {
        if !makes(alter.sql, Thing::Table, alter.table) {
            return Err(Error::Mismatch("its statement does not make the table and nothing else".to_owned()));
        }
        if let Some(fill) =
            alter.columns.iter().filter_map(|column| column.fill.as_ref()).find(|fill| !is_literal(fill))
        {
            return Err(Error::Mismatch(format!("{fill} is no literal")));
        }
        let Some(present) = sql_of(self.connection, Thing::Table, alter.table)? else {
            self.lose(format!("table {}: it was dropped before", alter.table));
            return Ok(());
        };
        if same(&present, alter.sql) {
            return Ok(());
        }
        self.done.changed = true;
        self.keep_columns(alter, &present)?;
        let is_exact = self.terms.fit == Fit::Exact || same_but_name(&present, alter.was);
        self.connection.execute_batch("SAVEPOINT altering")?;
        let altered = self.by_alter(alter).and_then(|()| {
            let now = sql_of(self.connection, Thing::Table, alter.table)?.unwrap_or_default();
            if is_exact { Ok(same(&now, alter.sql)) } else { self.has_all(alter) }
        });
        match altered {
            Ok(true) => self.connection.execute_batch("RELEASE altering")?,
            Ok(false) | Err(Error::Other(_) | Error::Mismatch(_)) => {
                self.connection.execute_batch("ROLLBACK TO altering; RELEASE altering")?;
                self.connection.flush_prepared_statement_cache();
                if is_exact {
                    return self.anew(alter, &present);
                }
                self.merged(alter, &present)?;
            }
            Err(error) => return Err(error),
        }
        if is_exact { Ok(()) } else { self.say_lost_columns(alter, &present) }
    }

    /// A column that was added here and there under one name is as the first one in the order says; one that is gone gets no other name.
    fn say_lost_columns(&mut self, alter: &Alter<'_>, before: &str) -> Result<(), Error> {
        let present = sql_of(self.connection, Thing::Table, alter.table)?.unwrap_or_default();
        let find = |list: &[(String, String)], name: &str| {
            list.iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map(|(_, declared)| declared.clone())
        };
        let (before, ours) = (statement::columns(before), statement::columns(&present));
        let theirs = statement::columns(alter.sql);
        for Column { name, from, .. } in alter.columns {
            match from {
                None => {
                    if let (Some(ours), Some(theirs)) = (find(&ours, name), find(&theirs, name))
                        && !same(&ours, &theirs)
                    {
                        let table = alter.table;
                        self.lose(format!("table {table}, column {name}: it was added otherwise before"));
                    }
                }
                Some(from) if from != name && find(&ours, name).is_none() => {
                    let why = if find(&before, from).is_none() { "dropped" } else { "changed" };
                    let table = alter.table;
                    self.lose(format!(
                        "table {table}, column {from} cannot be called {name}: it was {why} before"
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Builds a table anew under another statement; `renamed`: columns as they were and as they are, `values`: what new ones hold.
    fn rebuild_as(
        &mut self,
        table: &str,
        sql: &str,
        renamed: &[(String, String)],
        mut values: Vec<(String, String)>,
    ) -> Result<(), Error> {
        let columns = self.columns(table)?;
        let now = |name: &str| {
            let found = renamed.iter().find(|(before, _)| before.eq_ignore_ascii_case(name));
            found.map_or_else(|| name.to_owned(), |(_, now)| now.clone())
        };
        let stored = columns.iter().filter(|column| !column.generated);
        values.extend(stored.map(|column| (now(&column.name), quote(&column.name))));
        let lets_go = self.terms.fit == Fit::Merge;
        rebuild(
            self.connection,
            &Target { table, sql, more: vec![], values, later: made_later(self.steps), lets_go },
        )?;
        self.done.rebuilt.insert(table.to_owned());
        Ok(())
    }

    /// The table that is there with what the change makes of its columns: others have changed it since.
    fn merged(&mut self, alter: &Alter<'_>, present: &str) -> Result<(), Error> {
        let theirs = statement::columns(alter.sql);
        let columns = self.columns(alter.table)?;
        let is_there = |name: &str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        let renamed: Vec<(String, String)> = alter
            .columns
            .iter()
            .filter_map(|column| Some((column.from.clone()?, column.name.clone())))
            .filter(|(from, name)| from != name && is_there(from) && !is_there(name))
            .collect();
        let sql = statement::with_columns(present, |texts| {
            let mut now: Vec<String> = texts
                .into_iter()
                .filter(|(name, _)| !is_named(alter.dropped, name))
                .map(|(name, text)| {
                    let other = renamed.iter().find(|(before, _)| before.eq_ignore_ascii_case(&name));
                    let text_of = |wanted: &str| {
                        theirs.iter().find(|(known, _)| known == wanted).map(|(_, text)| text.clone())
                    };
                    other.and_then(|(_, wanted)| text_of(wanted)).unwrap_or(text)
                })
                .collect();
            let added =
                alter.columns.iter().filter(|column| column.from.is_none() && !is_there(&column.name));
            now.extend(added.filter_map(|column| {
                theirs.iter().find(|(name, _)| *name == column.name).map(|(_, text)| text.clone())
            }));
            now
        });
        let added = alter.columns.iter().filter(|column| column.from.is_none() && !is_there(&column.name));
        let fills = added.filter_map(|column| Some((column.name.clone(), column.fill.clone()?))).collect();
        self.rebuild_as(alter.table, &sql, &renamed, fills)
    }

    fn has_all(&self, alter: &Alter<'_>) -> Result<bool, Error> {
        let present = self.columns(alter.table)?;
        let is_there = |name: &str| present.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        Ok(alter
            .columns
            .iter()
            .filter(|column| column.from.as_ref() != Some(&column.name))
            .all(|column| is_there(&column.name)))
    }

    fn keep_columns(&self, alter: &Alter<'_>, present: &str) -> Result<(), Error> {
        if !self.terms.keeps {
            return Ok(());
        }
        let (columns, texts) = (self.columns(alter.table)?, statement::columns(present));
        for column in columns.iter().filter(|column| !column.generated && column.key_position == 0) {
            let text = texts.iter().find(|(name, _)| name.eq_ignore_ascii_case(&column.name));
            if let (true, Some((_, declared))) = (is_named(alter.dropped, &column.name), text) {
                kept::keep_column(self.connection, alter.table, column, declared)?;
            }
        }
        Ok(())
    }

    /// By ALTER TABLE: it touches no row but those of a dropped column.
    fn by_alter(&mut self, alter: &Alter<'_>) -> Result<(), Error> {
        let table = format!("main.{}", quote(alter.table));
        let present = self.columns(alter.table)?;
        let is_there = |name: &str| present.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        for Column { name, from, .. } in alter.columns {
            if let Some(from) = from.as_deref().filter(|from| *from != name)
                && is_there(from)
                && !is_there(name)
            {
                self.run(&format!("ALTER TABLE {table} RENAME COLUMN {} TO {}", quote(from), quote(name)))?;
            }
        }
        for name in alter.dropped.iter().filter(|name| is_there(name)) {
            self.run(&format!("ALTER TABLE {table} DROP COLUMN {}", quote(name)))?;
        }
        // What was there before may have another name by now.
        let was_there =
            |name: &str| alter.columns.iter().any(|column| column.name == name && column.from.is_some());
        let texts = statement::columns(alter.sql);
        for (name, declared) in texts.iter().filter(|(name, _)| !was_there(name)) {
            if self.columns(alter.table)?.iter().any(|column| column.name.eq_ignore_ascii_case(name)) {
                continue;
            }
            self.run(&format!("ALTER TABLE {table} ADD COLUMN {declared}"))?;
            let column = alter.columns.iter().find(|column| column.name == *name);
            if let Some(fill) = column.and_then(|column| column.fill.as_deref()) {
                let name = quote(name);
                self.run(&format!("UPDATE {table} SET {name} = {fill} WHERE {name} IS NOT {fill}"))?;
            }
        }
        Ok(())
    }

    /// By building the table anew. Columns that others have added meanwhile stay.
    fn anew(&mut self, alter: &Alter<'_>, present: &str) -> Result<(), Error> {
        let (columns, texts) = (self.columns(alter.table)?, statement::columns(present));
        let find = |name: &str| columns.iter().find(|column| column.name.eq_ignore_ascii_case(name));
        let (mut values, mut used) = (vec![], BTreeSet::new());
        for column in alter.columns {
            let is_same =
                |old: &&Present| self.terms.fit != Fit::Exact && !is_named(alter.dropped, &old.name);
            let by_name = || find(&column.name).filter(is_same);
            let old = column.from.as_deref().and_then(find).or_else(by_name);
            match (old, &column.fill) {
                (Some(old), fill) if !old.generated => {
                    used.insert(old.name.to_lowercase());
                    let value = quote(&old.name);
                    let value =
                        fill.as_ref().map_or(value.clone(), |fill| format!("coalesce({value}, {fill})"));
                    values.push((column.name.clone(), value));
                }
                (_, Some(fill)) => values.push((column.name.clone(), fill.clone())),
                _ => {}
            }
        }
        let wanted = statement::columns(alter.sql);
        let is_new = |name: &str| !wanted.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let is_extra = |name: &str| {
            is_new(name) && !used.contains(&name.to_lowercase()) && !is_named(alter.dropped, name)
        };
        let more: Vec<(String, String)> = texts.into_iter().filter(|(name, _)| is_extra(name)).collect();
        values.extend(
            more.iter()
                .filter(|(name, _)| find(name).is_some_and(|c| !c.generated))
                .map(|(name, _)| (name.clone(), quote(name))),
        );
        let (later, lets_go) = (made_later(self.steps), self.terms.fit == Fit::Merge);
        rebuild(
            self.connection,
            &Target { table: alter.table, sql: alter.sql, more, values, later, lets_go },
        )?;
        self.done.rebuilt.insert(alter.table.to_owned());
        Ok(())
    }
}

/// Names of what a change makes anew after its tables.
fn made_later(steps: &[Step]) -> Vec<&str> {
    let made = |step: &'_ Step| matches!(step, Step::Create { .. });
    steps.iter().filter(|step| made(step)).map(Step::subject).collect()
}

fn is_named(names: &[String], name: &str) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
#[path = "carry_tests.rs"]
mod tests;
