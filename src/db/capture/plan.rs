//! What an installation of capture has to do, found out without a lock, and done in slices: each is one transaction that is short
//! however many tables there are.

use crate::base::limits;
use crate::db::capture::triggers::{self, Form, Present};
use crate::db::capture::{all_rows::log_all_rows, log_table, takeover};
use crate::db::schema::{self, Schema};
use crate::db::{error::Error, ours, rowids, schema_rows, sql::quote, state, table::Table};
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Name of the text that a database has while its first installation goes on: the tables that have numbers and no triggers yet were
/// there before it, so their rows are not logged.
const INSTALLING: &str = "installing";

/// How much one transaction does.
#[derive(Clone, Copy)]
pub struct Room {
    pub time: Duration,
    pub tables: usize,
}

impl Room {
    pub const USUAL: Room = Room { time: limits::INSTALL_TIME, tables: usize::MAX };
}

pub struct Plan {
    /// The schema as it was when the plan was made, with the numbers that were given before.
    pub schema: Schema,
    numbers: HashMap<String, i64>,
    /// There is no change log yet.
    pub first: bool,
    /// The first installation goes on, and the database says so.
    unfinished: bool,
    /// The number of key columns of the log.
    width: usize,
    renamed: Vec<Renamed>,
    gone: Vec<(String, i64)>,
    present: BTreeMap<String, Present>,
    /// Rows of triggers that no table needs.
    stray: Vec<i64>,
    /// Tables whose rowids nothing keeps yet.
    loose: Vec<Arc<str>>,
    /// Tables whose triggers are to be made, the next one last.
    tables: Vec<Arc<str>>,
    /// There is something of the Go program.
    takes_over: bool,
    /// The triggers that tables get.
    form: Form,
    /// Number of rows that the schema has.
    pub rows: i64,
    /// All but the tables is done.
    begun: bool,
    pub finished: bool,
}

/// How a table is found.
enum Found {
    Known,
    /// So many rows are logged.
    New(usize),
    /// It was not to be replicated before: its rows are compared with the cluster's.
    Included,
    Rebuilt,
}

/// A table that has another name than before.
#[derive(Debug, PartialEq, Eq)]
struct Renamed {
    id: i64,
    before: String,
    now: String,
    /// The number of the table that had the name, and is gone.
    replaces: Option<i64>,
}

/// What a slice did that people are told.
#[derive(Default)]
pub struct Slice {
    pub taken_over: usize,
    pub new_tables: Vec<(String, usize)>,
    pub rebuilt: Vec<String>,
    pub included: Vec<String>,
}

impl Plan {
    /// Finds out what there is to do. In a transaction; `before` is a schema that was read earlier.
    pub fn make(connection: &Connection, before: &Schema) -> Result<Plan, Error> {
        let mut schema = Schema::read_after(connection, before, |_, _| Ok(()))?;
        let first = !log_table::exists(connection)?;
        let unfinished =
            !first && state::exists(connection)? && state::meta(connection, INSTALLING)?.is_some();
        let (numbers, width) = match first {
            true => (HashMap::new(), schema.key_width()),
            false => (log_table::numbers(connection)?, log_table::width(connection)?),
        };
        let present = triggers::present(connection)?;
        let (numbers, renamed) = follow_renames(numbers, &present);
        let gone = numbers.iter().filter(|(name, _)| !schema.tables.contains_key(name.as_str()));
        let gone = gone.map(|(name, id)| (name.clone(), *id)).collect();
        schema.number(&numbers);
        let (tables, mut stray) = compare(&schema, &present);
        let loose = rowids::lacking(connection, &schema)?;
        let takes_over = ours::any_of_go_program(connection)?;
        if takes_over {
            stray.extend(takeover::broken(connection, &schema)?);
        }
        let (begun, finished) = (false, false);
        let form = Form::for_tables(schema.tables.len());
        let mut plan = Plan {
            schema,
            numbers,
            first,
            unfinished,
            width,
            renamed,
            gone,
            present,
            stray,
            loose,
            tables,
            takes_over,
            form,
            rows: schema_rows::count(connection)?,
            begun,
            finished,
        };
        plan.finished = !first
            && !unfinished
            && !takes_over
            && plan.tables.is_empty()
            && plan.stray.is_empty()
            && plan.loose.is_empty()
            && plan.renamed.is_empty()
            && plan.gone.is_empty()
            && width >= plan.schema.key_width();
        Ok(plan)
    }

    /// Does the next part, inside of a write transaction that sees the schema as the plan knows it.
    pub fn slice(&mut self, connection: &Connection, room: Room) -> Result<Slice, Error> {
        let begun = Instant::now();
        let mut done = Slice::default();
        if self.width < self.schema.key_width() {
            // Alone: what comes next needs the columns, and the schema is read without the lock.
            self.width = self.schema.key_width();
            schema_rows::write(connection, || log_table::widen(connection, self.width))?;
            self.schema.version = schema::version(connection)?;
            return Ok(done);
        }
        if !self.loose.is_empty() {
            // Alone, too: SQLite makes these, not a row of the schema.
            let some = self.loose.len().min(limits::INDEXES_AT_ONCE);
            rowids::keep(connection, &self.loose.split_off(self.loose.len() - some))?;
            self.schema.version = schema::version(connection)?;
            return Ok(done);
        }
        schema_rows::write(connection, || {
            if !std::mem::replace(&mut self.begun, true) {
                done.rebuilt = self.begin(connection)?;
            }
            let mut count = 0;
            while count < room.tables && begun.elapsed() < room.time {
                let Some(name) = self.tables.pop() else { break };
                count += 1;
                match self.capture(connection, &name)? {
                    Found::New(rows) => done.new_tables.push((name.to_string(), rows)),
                    Found::Rebuilt => done.rebuilt.push(name.to_string()),
                    Found::Included => done.included.push(name.to_string()),
                    Found::Known => {}
                }
            }
            self.finished = self.tables.is_empty();
            self.mark(connection)
        })?;
        if self.finished && self.takes_over {
            // Last: until now its triggers have captured what ours did not.
            self.schema.number(&self.numbers);
            let taken = takeover::take_over(connection, &self.schema)?;
            done.taken_over = taken.pending;
            done.new_tables.extend(taken.new_tables);
            done.rebuilt.extend(taken.rebuilt);
            self.schema.tables.values().try_for_each(|table| triggers::check(connection, table))?;
        }
        self.schema.version = schema::version(connection)?;
        Ok(done)
    }

    /// The part that is not of single tables. Returns those that were built anew under another name.
    fn begin(&mut self, connection: &Connection) -> Result<Vec<String>, Error> {
        let mut rebuilt = vec![];
        if self.first {
            log_table::create(connection, self.width)?;
            // Ids begin anew, so others must know them under another incarnation.
            state::new_incarnation(connection)?;
            // Which tables were there before is said once, also to the process that goes on if this one is killed.
            for name in self.schema.tables.keys() {
                self.numbers.insert(name.to_string(), log_table::add_number(connection, name)?);
            }
        }
        for row in std::mem::take(&mut self.stray) {
            schema_rows::remove(connection, row)?;
        }
        for Renamed { id, .. } in &self.renamed {
            // No table is called so: two may exchange their names.
            log_table::rename(connection, *id, &format!("\n{id}"))?;
        }
        for Renamed { id, before, now, replaces } in std::mem::take(&mut self.renamed) {
            log_table::rename(connection, id, &now)?;
            if let Some(replaced) = replaces
                && is_copy(connection, id, &now)?
            {
                // Neither entry says what was changed.
                log_table::settle_table(connection, id)?;
                log_table::forget(connection, replaced)?;
                state::note_rebuilt(connection, &now, log_table::highest(connection)?)?;
                rebuilt.push(now);
            } else {
                log_table::note_renamed(connection, id, &before)?;
                log::info!("table {before} is now called {now}");
            }
        }
        for (name, id) in std::mem::take(&mut self.gone) {
            let entries = log_table::forget(connection, id)?;
            self.numbers.remove(&name);
            let what = if self.schema.excluded.contains(&name) {
                "not replicated any more, as the lists of tables say"
            } else if self.schema.refused.contains_key(&name) {
                "not replicated any more"
            } else {
                "gone"
            };
            log::info!("table {name} is {what}; {entries} unpublished changes of it are not published");
        }
        Ok(rebuilt)
    }

    /// Whether a table was there before the first installation.
    fn is_initial(&self, name: &str) -> bool {
        self.first || self.schema.tables.get(name).is_some_and(|table| table.id != 0)
    }

    /// The table with its number, which it gets now if it has none.
    fn table(&self, name: &str) -> Result<Table, Error> {
        let missing = || Error::Other(format!("table {name} has no number"));
        let mut table = self.schema.tables.get(name).map(|table| (**table).clone()).ok_or_else(missing)?;
        table.id = *self.numbers.get(name).ok_or_else(missing)?;
        Ok(table)
    }

    /// Makes the triggers of a table. If it was not there before, its rows are logged. If it was and has lost its triggers, what was
    /// written without them is found out later.
    fn capture(&mut self, connection: &Connection, name: &str) -> Result<Found, Error> {
        let is_initial = (self.first || self.unfinished) && self.is_initial(name);
        let is_known = self.numbers.contains_key(name);
        if !self.numbers.contains_key(name) {
            self.numbers.insert(name.to_owned(), log_table::add_number(connection, name)?);
        }
        let table = self.table(name)?;
        let captured = self.present.contains_key(&triggers::name(table.id, "insert"));
        for (trigger, sql) in triggers::wanted(&table, self.form) {
            let old = self.present.get(&trigger);
            if old.is_some_and(|old| old.print == triggers::print(&sql)) {
                continue;
            }
            if !triggers::is_plain(&table) {
                connection.execute_batch(&format!("DROP TRIGGER IF EXISTS {}; {sql}", quote(&trigger)))?;
                continue;
            }
            if let Some(old) = old {
                schema_rows::remove(connection, old.rowid)?;
            }
            schema_rows::add(connection, &table.name, &trigger, &sql)?;
            self.rows += 1;
        }
        if !self.takes_over {
            // Triggers of the Go program, which may not compile, are there to the end.
            triggers::check(connection, &table)?;
        }
        Ok(match (captured || is_initial, is_known) {
            (true, _) => Found::Known,
            // What differs from the cluster's rows was never agreed: nobody has written it meanwhile.
            (false, _)
                if state::included(connection)?.iter().any(|known| known.eq_ignore_ascii_case(name)) =>
            {
                Found::Included
            }
            (false, true) => {
                state::note_rebuilt(connection, name, log_table::highest(connection)?)?;
                Found::Rebuilt
            }
            (false, false) => Found::New(log_all_rows(connection, &table)?),
        })
    }

    /// Says in the database whether the first installation goes on.
    fn mark(&mut self, connection: &Connection) -> Result<(), Error> {
        let unfinished = (self.first || self.unfinished) && !self.finished;
        if unfinished && self.first {
            state::set_meta(connection, INSTALLING, "1")?;
        } else if self.unfinished && !unfinished {
            state::remove_meta(connection, INSTALLING)?;
        }
        if unfinished {
            // The next slice finds the numbers where another process would.
            self.schema.number(&self.numbers);
        }
        (self.first, self.unfinished) = (false, unfinished);
        Ok(())
    }

    /// The schema, when all is done.
    pub fn into_schema(mut self) -> Schema {
        self.schema.number(&self.numbers);
        self.schema
    }
}

/// A renamed table keeps its triggers, whose names hold the table's number. So they tell the new name.
fn follow_renames(
    mut numbers: HashMap<String, i64>,
    present: &BTreeMap<String, Present>,
) -> (HashMap<String, i64>, Vec<Renamed>) {
    let mut renamed = vec![];
    let known: Vec<(String, i64)> = numbers.iter().map(|(name, id)| (name.clone(), *id)).collect();
    for (name, id) in known {
        let Some(now) = present.get(&triggers::name(id, "insert")).map(|trigger| &trigger.table) else {
            continue;
        };
        if *now != name {
            numbers.remove(&name);
            renamed.push(Renamed { id, before: name, now: now.clone(), replaces: None });
        }
    }
    // Tables may have exchanged their names: only now each name is that of who is left.
    for Renamed { id, now, replaces, .. } in &mut renamed {
        *replaces = numbers.insert(now.clone(), *id);
    }
    (numbers, renamed)
}

/// Tables that lack a trigger or a number, and rows of triggers that no table needs.
fn compare(schema: &Schema, present: &BTreeMap<String, Present>) -> (Vec<Arc<str>>, Vec<i64>) {
    let form = Form::for_tables(schema.tables.len());
    let mut kept = HashSet::new();
    let mut tables = vec![];
    let is_there = |(trigger, sql): &(String, String)| {
        present.get(trigger).is_some_and(|old| old.print == triggers::print(sql))
    };
    for (name, table) in &schema.tables {
        // A database that has grown keeps what it has.
        let forms = [form, form.other()].into_iter().map(|form| triggers::wanted(table, form));
        let complete = forms.take_while(|_| table.id != 0).find(|wanted| wanted.iter().all(is_there));
        let wanted = complete.unwrap_or_else(|| {
            tables.push(name.clone());
            triggers::wanted(table, form)
        });
        kept.extend(wanted.into_iter().map(|(trigger, _)| trigger));
    }
    let stray = present.iter().filter(|(name, _)| !kept.contains(*name)).map(|(_, trigger)| trigger.rowid);
    (tables, stray.collect())
}

/// Whether the log holds every row of a table: it was filled a moment ago.
fn is_copy(connection: &Connection, id: i64, table: &str) -> Result<bool, Error> {
    let rows: i64 =
        connection.query_row(&format!("SELECT count(*) FROM {}", quote(table)), [], |row| row.get(0))?;
    Ok(log_table::count_of(connection, id)? >= rows)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
