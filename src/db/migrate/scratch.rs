//! The application's schema in memory, without rows: changes are replayed there in their order, and come to the same on every node.

use crate::db::migrate::carry::{Terms, carry_out_step, fits};
use crate::db::migrate::definitions::{self, Definition};
use crate::db::migrate::order::{Order, Rename};
use crate::db::migrate::origins::Origins;
use crate::db::migrate::script;
use crate::db::migrate::shape::{MEANWHILE, Shape, lead};
use crate::db::migrate::unsettled::{self, Before};
use crate::db::{error::Error, sql::quote};
use crate::model::change::{Change, Step, Thing};
use rusqlite::Connection;
use std::collections::BTreeSet;

/// What only the application's own connections have.
const MISSING: [&str; 3] = ["no such function", "no such collation sequence", "no such module"];

/// A schema, and how it came to be.
pub struct Scratch {
    connection: Connection,
    /// Names of what cannot be made here. No change that can be carried out is about them.
    pub left_out: BTreeSet<String>,
    origins: Origins,
    order: Order,
}

/// What a change came to at its place in the order.
#[derive(Debug, Default)]
pub struct Replayed {
    pub steps: Vec<Step>,
    /// What is as another change before it says.
    pub lost: Vec<String>,
    /// What things were before it.
    pub before: Vec<Before>,
}

/// A name that was given back for a moment.
struct GivenBack {
    rename: Rename,
    /// What the table is called meanwhile.
    table: String,
    /// Which table or column it is.
    id: Option<String>,
}

impl Scratch {
    /// A schema after the changes of an order. Fails if it has a table that only the application can make.
    pub fn new(definitions: &[Definition], order: Order) -> Result<Scratch, Error> {
        let connection = Connection::open_in_memory()?;
        connection.execute_batch("PRAGMA foreign_keys=OFF; BEGIN")?;
        let is_virtual = |definition: &Definition| {
            definition.sql.get(..14).is_some_and(|start| start.eq_ignore_ascii_case("create virtual"))
        };
        // A virtual table brings the tables that it is made of.
        let rank = |definition: &&Definition| match definition.kind {
            Thing::Table if is_virtual(definition) => 0,
            kind => 1 + kind as usize,
        };
        let mut all: Vec<&Definition> = definitions.iter().collect();
        all.sort_by_key(rank);
        let mut left_out = BTreeSet::new();
        for definition in all {
            if let Err(error) = connection.execute_batch(&definition.sql) {
                let is_there = || {
                    definitions::sql_of(&connection, definition.kind, &definition.name)
                        .map(|sql| sql.is_some())
                };
                if definition.kind == Thing::Table && !is_virtual(definition) && !is_there()? {
                    return Err(error.into());
                }
                left_out.insert(definition.name.clone());
            }
        }
        let origins = Origins::read(&connection, &definitions::tables(&connection)?)?;
        Ok(Scratch { connection, left_out, origins, order })
    }

    /// What `body` makes of the schema, after which it is as before.
    pub fn try_out<T>(&mut self, body: impl FnOnce(&mut Scratch) -> Result<T, Error>) -> Result<T, Error> {
        let (origins, order) = (self.origins.clone(), self.order.clone());
        self.connection.execute_batch("SAVEPOINT trial")?;
        let done = body(self);
        self.connection.execute_batch("ROLLBACK TO trial; RELEASE trial")?;
        self.connection.flush_prepared_statement_cache();
        (self.origins, self.order) = (origins, order);
        done
    }

    pub fn shape(&self) -> Result<Shape, Error> {
        Ok(Shape { things: definitions::of_application(&self.connection)?, origins: self.origins.clone() })
    }

    /// Replays the change that comes next in the order.
    pub fn replay(&mut self, change: &Change) -> Result<Replayed, Error> {
        let before = self.shape()?;
        let mut lost = vec![];
        if change.script.is_some() {
            self.run_script(change)?;
        }
        let steps = if change.script.is_some() { &[] } else { change.steps.as_slice() };
        for step in steps {
            match self.try_step(change, step) {
                Ok(more) => lost.extend(more),
                Err(Error::Mismatch(why)) if MISSING.iter().any(|missing| why.contains(missing)) => {
                    return Err(Error::Mismatch(format!("{}: {why}", step.subject())));
                }
                Err(Error::Mismatch(why)) => lost.push(format!("{}: {why}", step.subject())),
                Err(error) => return Err(error),
            }
        }
        let now = self.shape()?;
        let steps = lead(&before, &now).steps;
        self.order.add(change, &steps);
        Ok(Replayed { steps, lost, before: unsettled::between(&change.id, &before.things, &now.things) })
    }

    fn run_script(&mut self, change: &Change) -> Result<(), Error> {
        let Some(wanted) = &change.script else { return Ok(()) };
        self.connection.execute_batch("SAVEPOINT script")?;
        let end = match script::run(&self.connection, wanted) {
            Ok(()) => "RELEASE script",
            Err(_) => "ROLLBACK TO script; RELEASE script",
        };
        self.connection.execute_batch(end)?;
        self.origins.follow_script(&self.connection, &change.id, &definitions::tables(&self.connection)?)
    }

    /// Carries out a step among the names that its maker knew, or, where they are taken, among those of now. If it fails, nothing has
    /// changed. Returns what is as another change before it says.
    fn try_step(&mut self, change: &Change, step: &Step) -> Result<Vec<String>, Error> {
        let unseen = if matches!(step, Step::Drop { .. }) { vec![] } else { self.order.unseen(change) };
        let names: &[&[Rename]] = if unseen.is_empty() { &[&[]] } else { &[&unseen, &[]] };
        let mut failed = Error::Mismatch(String::new());
        for unseen in names {
            let origins = self.origins.clone();
            self.connection.execute_batch("SAVEPOINT step")?;
            match self.step(change, step, unseen) {
                Ok(lost) => {
                    self.connection.execute_batch("RELEASE step")?;
                    return Ok(lost);
                }
                Err(Error::Mismatch(why) | Error::Other(why)) => failed = Error::Mismatch(why),
                Err(error) => return Err(error),
            }
            self.connection.execute_batch("ROLLBACK TO step; RELEASE step")?;
            self.connection.flush_prepared_statement_cache();
            self.origins = origins;
        }
        Err(failed)
    }

    fn step(&mut self, change: &Change, step: &Step, unseen: &[Rename]) -> Result<Vec<String>, Error> {
        let given_back = self.give_back(unseen)?;
        let exact = fits(&self.connection, step)?;
        let done = carry_out_step(&self.connection, &change.steps, step, &Terms::default())?;
        self.origins.follow(&self.connection, &change.id, step, exact)?;
        self.take_again(given_back, step)?;
        Ok(done.lost)
    }

    /// Gives tables and columns back the names that they had before these renames.
    fn give_back(&mut self, renames: &[Rename]) -> Result<Vec<GivenBack>, Error> {
        let mut given_back: Vec<GivenBack> = vec![];
        for (at, rename) in renames.iter().enumerate().rev() {
            // What the table of a column is called now.
            let mut table = rename.table.clone();
            for later in renames[at..].iter().filter(|later| later.column.is_none()) {
                let is_back = given_back.iter().any(|back| back.rename == *later);
                if rename.column.is_some() && !is_back && later.table.eq_ignore_ascii_case(&table) {
                    table.clone_from(&later.to);
                }
            }
            if self.id_of(rename, &table, true).is_none() {
                continue;
            }
            // What has the old name by now was not there when the change was made.
            let away = rename.away(&format!("{MEANWHILE}{at}"));
            for rename in [&away, rename] {
                if self.rename(rename, &table, true)? {
                    let id = self.id_of(rename, &table, false);
                    given_back.push(GivenBack { rename: rename.clone(), table: table.clone(), id });
                }
            }
        }
        Ok(given_back)
    }

    fn take_again(&mut self, given_back: Vec<GivenBack>, step: &Step) -> Result<(), Error> {
        for GivenBack { rename, mut table, id } in given_back.into_iter().rev() {
            if let Step::RenameTable { from, to } = step
                && from.eq_ignore_ascii_case(&table)
                && rename.column.is_some()
            {
                table.clone_from(to);
            }
            if id == self.id_of(&rename, &table, false) && !self.rename(&rename, &table, false)? {
                return Err(Error::Mismatch(format!("the name {} was given before", rename.to)));
            }
        }
        Ok(())
    }

    /// Which table or column has the one name of the two.
    fn id_of(&self, rename: &Rename, table: &str, now: bool) -> Option<String> {
        let Some(column) = &rename.column else {
            return self.origins.find(if now { &rename.to } else { &rename.table }).map(|t| t.id.clone());
        };
        let name = if now { &rename.to } else { column };
        let columns = &self.origins.find(table)?.columns;
        columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)).map(|column| column.id.clone())
    }

    /// Gives a name, or the one before it back; nothing is done where that is not possible. Whether it was.
    fn rename(&mut self, rename: &Rename, table: &str, back: bool) -> Result<bool, Error> {
        if self.id_of(rename, table, back).is_none() || self.id_of(rename, table, !back).is_some() {
            return Ok(false);
        }
        let before = rename.column.as_ref().unwrap_or(&rename.table);
        let (from, to) = if back { (&rename.to, before) } else { (before, &rename.to) };
        let sql = match rename.column {
            None => format!("ALTER TABLE main.{} RENAME TO {}", quote(from), quote(to)),
            Some(_) => {
                format!("ALTER TABLE main.{} RENAME COLUMN {} TO {}", quote(table), quote(from), quote(to))
            }
        };
        self.connection.flush_prepared_statement_cache();
        if self.connection.execute_batch(&sql).is_err() {
            // Something of the schema does not compile.
            let sql = format!("PRAGMA legacy_alter_table=ON; {sql}");
            let done = self.connection.execute_batch(&sql);
            self.connection.execute_batch("PRAGMA legacy_alter_table=OFF")?;
            if done.is_err() {
                return Ok(false);
            }
        }
        match rename.column {
            None => self.origins.rename_table(from, to),
            Some(_) => self.origins.rename_column(table, from, to),
        }
        Ok(true)
    }
}
