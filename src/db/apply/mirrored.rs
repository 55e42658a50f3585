//! Triggers of the application that write only into tables that are not replicated. They must run for replicated rows too. The
//! application's triggers are off on our connections, but TEMP triggers are not, so those that write ordinary tables are copied
//! as TEMP triggers. Those that write a virtual table, for example a full-text index, are left to the application (see
//! [`crate::db::apply::feed`]).

use crate::db::apply::feed;
use crate::db::apply::feed_sql::Fed;
use crate::db::apply::rows::Failure;
use crate::db::apply::savepoint;
use crate::db::apply::trigger::{Change, Trigger};
use crate::db::{error::Error, indexes, schema::Schema, sql::quote, table::Table};
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, OptionalExtension};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// What the name of a copy begins with.
const COPY: &str = "app_";

/// What a trigger does, as SQLite compiles it.
#[derive(Clone, Debug, Default)]
struct Uses {
    /// Tables that it writes.
    writes: BTreeSet<String>,
    /// Those of them in which it updates or deletes rows.
    changes: BTreeSet<String>,
    /// Tables and columns that it reads.
    reads: BTreeSet<(String, String)>,
}

/// What is found out about all triggers.
#[derive(Debug, Default)]
struct Examined {
    uses: BTreeMap<String, Uses>,
    /// Tables whose statements do not compile, and why.
    broken: BTreeMap<String, String>,
}

/// A virtual table.
struct Virtual {
    name: String,
    module: String,
    /// The table or view whose rows it indexes without keeping them.
    content: Option<String>,
    /// A query of all columns works: the content has them.
    readable: bool,
}

impl Virtual {
    /// Whether it is a full-text index that does not keep its rows, but reads them elsewhere.
    fn reads_elsewhere(&self) -> bool {
        self.content.is_some() && matches!(self.module.as_str(), "fts4" | "fts5")
    }

    /// Whether it can be built anew from a table whatever its rows hold. A view or a generated column may compute something that fails
    /// for a row of another node.
    fn is_rebuildable_from(&self, table: &Table) -> bool {
        let reads_it =
            self.content.as_deref().is_some_and(|content| content.eq_ignore_ascii_case(&table.name));
        self.reads_elsewhere()
            && self.readable
            && reads_it
            && table.columns.iter().all(|column| !column.generated)
    }
}

/// The copies on the applying connection.
#[derive(Debug, Default)]
pub struct Mirrored {
    /// Names and statements of the copies, by table.
    copies: HashMap<String, Vec<(String, String)>>,
    /// What was said once.
    said: RefCell<HashSet<String>>,
}

impl Mirrored {
    /// Replaces the copies by those that the schema asks for; returns the tables whose triggers the application must run.
    pub fn refresh(&mut self, connection: &mut Connection, schema: &Schema) -> Result<Vec<Fed>, Error> {
        self.copies.clear();
        for name in copies_on(connection)? {
            connection.execute_batch(&format!("DROP TRIGGER temp.{}", quote(&name)))?;
        }
        let triggers = self.triggers(connection, schema)?;
        if triggers.is_empty() {
            return Ok(vec![]);
        }
        let examined = examine(connection, schema, &triggers)?;
        for (table, why) in &examined.broken {
            self.say_once(&format!("triggers of table {table} do not run for replicated rows: {why}"));
        }
        let virtuals = virtual_tables(connection)?;
        let rolling_back = rolling_back(connection)?;
        let mut fed: BTreeMap<&str, Vec<&Trigger>> = BTreeMap::new();
        for trigger in &triggers {
            if examined.broken.contains_key(&trigger.table) {
                continue;
            }
            let Some(uses) = examined.uses.get(&trigger.name) else { continue };
            if !self.concerns_only_others(schema, trigger, uses) {
                continue;
            }
            if uses.writes.iter().any(|target| virtuals.contains_key(&target.to_lowercase())) {
                fed.entry(&trigger.table).or_default().push(trigger);
            } else if let Some(target) =
                uses.writes.iter().find(|name| rolling_back.contains(&name.to_lowercase()))
            {
                self.say_once(&format!(
                    "trigger {} does not run for replicated rows: table {target} has a constraint with ON CONFLICT ROLLBACK, which \
                     would take back rows of other nodes; make it ON CONFLICT ABORT",
                    trigger.name
                ));
            } else if let Some(table) = schema.tables.get(trigger.table.as_str()) {
                self.copy(connection, table, trigger)?;
            }
        }
        let tables = fed.into_iter().filter_map(|(table, triggers)| {
            Some(plan(schema.tables.get(table)?, &triggers, &examined.uses, &virtuals))
        });
        Ok(tables.collect())
    }

    /// The application's triggers on replicated tables, oldest first.
    fn triggers(&self, connection: &Connection, schema: &Schema) -> Result<Vec<Trigger>, Error> {
        let sql = "SELECT name, tbl_name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND name NOT GLOB '__harmonylite__*' \
                   ORDER BY rowid";
        let mut list = connection.prepare(sql)?;
        let rows: Vec<(String, String, String)> = list
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        let mut triggers = vec![];
        for (name, written, sql) in rows {
            // The statement may write the table's name in another case than the table's own statement.
            let Some(table) = schema.find(&written).map(|table| &table.name) else { continue };
            match Trigger::parse(&name, table, &sql) {
                Some(trigger) => triggers.push(trigger),
                None => self.say_once(&format!("trigger {name} cannot run for replicated rows: {sql}")),
            }
        }
        Ok(triggers)
    }

    /// Whether a trigger writes tables, and only such as are not replicated.
    fn concerns_only_others(&self, schema: &Schema, trigger: &Trigger, uses: &Uses) -> bool {
        let replicated =
            uses.writes.iter().filter(|target| schema.tables.contains_key(target.as_str())).count();
        if replicated > 0 && replicated < uses.writes.len() {
            self.say_once(&format!(
                "trigger {} writes into replicated tables and others ({}): for replicated rows the others are not written; split \
                 it in two",
                trigger.name,
                uses.writes.iter().cloned().collect::<Vec<_>>().join(", ")
            ));
        }
        replicated == 0 && !uses.writes.is_empty()
    }

    /// A copy that does not compile would make every change of its table fail.
    fn copy(&mut self, connection: &Connection, table: &Table, trigger: &Trigger) -> Result<(), Error> {
        let name = format!("{COPY}{}", trigger.name);
        let sql = trigger.temporary(&name);
        let [insert, update, delete] = table.samples();
        let fires = match trigger.change {
            Change::Insert => insert,
            Change::Update => update,
            Change::Delete => delete,
        };
        match create(connection, &sql).and_then(|()| connection.prepare(&fires).map(drop)) {
            Ok(()) => self.copies.entry(trigger.table.clone()).or_default().push((name, sql)),
            Err(why) => {
                connection.execute_batch(&format!("DROP TRIGGER IF EXISTS temp.{}", quote(&name)))?;
                self.say_once(&format!("trigger {} cannot run for replicated rows: {why}", trigger.name));
            }
        }
        Ok(())
    }

    /// Whether triggers run for the rows of a table that are written here.
    pub fn has_copies(&self, table: &str) -> bool {
        self.copies.contains_key(table)
    }

    /// Writes a row of a table with `write`. If that fails and succeeds without the copies of the triggers, it was one of them: the
    /// row counts, and the triggers do not run for it.
    pub fn guard<T>(
        &self,
        connection: &Connection,
        table: &str,
        write: impl Fn() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Some(copies) = self.copies.get(table) else { return write() };
        let failure = match savepoint::all_or_nothing(connection, "mirrored", &write) {
            Err(failure) if !is_of_machine(&failure) => failure,
            other => return other,
        };
        // The triggers come back with the savepoint if this fails, too.
        let written = savepoint::all_or_nothing(connection, "bare", || {
            for (name, _) in copies {
                connection.execute_batch(&format!("DROP TRIGGER temp.{}", quote(name)))?;
            }
            let written = write()?;
            copies.iter().try_for_each(|(_, sql)| create(connection, sql))?;
            Ok(written)
        });
        if written.is_ok() {
            let names: Vec<&str> =
                copies.iter().map(|(name, _)| name.strip_prefix(COPY).unwrap_or(name)).collect();
            self.say_once(&format!(
                "table {table}: a row of another node was written without the triggers {}, one of which fails: {}",
                names.join(", "),
                told(&failure)
            ));
        }
        written
    }

    fn say_once(&self, text: &str) {
        if self.said.borrow_mut().insert(text.to_owned()) {
            log::warn!("{text}");
        }
    }
}

/// Makes a trigger, and unlike `execute_batch` nothing else: parts of the text are not ours.
fn create(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.execute(sql, []).map(drop)
}

/// Whether a failure has nothing to do with triggers.
fn is_of_machine(failure: &Failure) -> bool {
    matches!(failure, Failure::Database(Error::Busy | Error::Disk(_) | Error::SchemaChanged))
}

fn told(failure: &Failure) -> String {
    match failure {
        Failure::Collides => "a value that must be UNIQUE is there".to_owned(),
        Failure::Refused(why) | Failure::Missing(why) => why.clone(),
        Failure::Database(error) => error.to_string(),
    }
}

fn copies_on(connection: &Connection) -> Result<Vec<String>, Error> {
    let mut list = connection
        .prepare("SELECT name FROM temp.sqlite_schema WHERE type = 'trigger' AND name GLOB 'app_*'")?;
    Ok(list.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// The tables, in lower case, with a constraint that rolls back the whole transaction. For a trigger that a DELETE fires, only
/// the constraint decides that.
fn rolling_back(connection: &Connection) -> Result<HashSet<String>, Error> {
    let sql = "SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND sql LIKE '%rollback%'";
    let mut list = connection.prepare(sql)?;
    let tables = list.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let tables: Vec<(String, String)> = tables.collect::<Result<_, _>>()?;
    let rolls_back = |sql: &str| indexes::conflict_clauses(sql).iter().any(|word| word == "rollback");
    Ok(tables.into_iter().filter(|(_, sql)| rolls_back(sql)).map(|(name, _)| name.to_lowercase()).collect())
}

/// Finds out what each trigger does, by letting SQLite compile statements that fire them. The hooks that run the queues are
/// taken away meanwhile: what they name may be gone.
fn examine(connection: &mut Connection, schema: &Schema, triggers: &[Trigger]) -> Result<Examined, Error> {
    if !feed::any_armed(connection)? {
        // To take back a savepoint, SQLite reads all of the schema again.
        return with_triggers(connection, schema, triggers);
    }
    connection.execute_batch("SAVEPOINT examine")?;
    let examined = feed::disarm_all(connection).and_then(|()| with_triggers(connection, schema, triggers));
    let taken_back = savepoint::take_back(connection, "examine");
    let examined = examined?;
    taken_back?;
    Ok(examined)
}

fn with_triggers(
    connection: &mut Connection,
    schema: &Schema,
    triggers: &[Trigger],
) -> Result<Examined, Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    let examined = compile(connection, schema, triggers);
    connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    examined
}

fn compile(connection: &mut Connection, schema: &Schema, triggers: &[Trigger]) -> Result<Examined, Error> {
    let seen = Arc::new(Mutex::new(BTreeMap::<String, Uses>::new()));
    let noted = seen.clone();
    connection.authorizer(Some(move |context: AuthContext<'_>| {
        if let (Some(trigger), Ok(mut noted)) = (context.accessor, noted.lock()) {
            note(noted.entry(trigger.to_owned()).or_default(), &context.action);
        }
        Authorization::Allow
    }))?;
    let mut broken = BTreeMap::new();
    let tables: BTreeSet<&str> = triggers.iter().map(|trigger| trigger.table.as_str()).collect();
    for name in tables {
        let Some(table) = schema.tables.get(name) else { continue };
        if let Err(why) = table.samples().iter().try_for_each(|sql| connection.prepare(sql).map(drop)) {
            broken.insert(name.to_owned(), why.to_string());
        }
    }
    let uses = seen.lock().map(|uses| uses.clone()).unwrap_or_default();
    Ok(Examined { uses, broken })
}

fn note(uses: &mut Uses, action: &AuthAction<'_>) {
    match action {
        AuthAction::Insert { table_name } => {
            uses.writes.insert((*table_name).to_owned());
        }
        AuthAction::Delete { table_name } | AuthAction::Update { table_name, .. } => {
            uses.writes.insert((*table_name).to_owned());
            uses.changes.insert((*table_name).to_owned());
        }
        AuthAction::Read { table_name, column_name } => {
            uses.reads.insert(((*table_name).to_owned(), (*column_name).to_owned()));
        }
        _ => {}
    }
}

/// The virtual tables by their names in lower case.
fn virtual_tables(connection: &Connection) -> Result<HashMap<String, Virtual>, Error> {
    let sql = "SELECT l.name, s.sql FROM pragma_table_list AS l JOIN main.sqlite_schema AS s ON s.name = l.name \
               WHERE l.schema = 'main' AND l.type = 'virtual'";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let rows: Vec<(String, String)> = rows.collect::<Result<_, _>>()?;
    let found = rows.into_iter().map(|(name, sql)| {
        let query = format!("SELECT * FROM main.{} LIMIT 1", quote(&name));
        let mut found = described(name, &sql);
        found.readable =
            found.reads_elsewhere() && connection.query_row(&query, [], |_| Ok(())).optional().is_ok();
        (found.name.to_lowercase(), found)
    });
    Ok(found.collect())
}

fn described(name: String, sql: &str) -> Virtual {
    let words: Vec<String> =
        indexes::tokens(sql).iter().map(|token| sql[token.0..token.1].to_lowercase()).collect();
    let word = |at: usize| words.get(at).map_or("", |word| word.trim_matches(['"', '\'', '`', '[', ']']));
    let using = words.iter().position(|word| word == "using");
    let module = using.map_or(String::new(), |at| word(at + 1).to_owned());
    // A column can have the name of the option.
    let content =
        words.windows(2).position(|pair| pair == ["content", "="]).map(|at| word(at + 2).to_owned());
    Virtual { name, module, content: content.filter(|content| !content.is_empty()), readable: false }
}

/// How the triggers of one table are to be run by the application.
fn plan(
    table: &Arc<Table>,
    triggers: &[&Trigger],
    uses: &BTreeMap<String, Uses>,
    virtuals: &HashMap<String, Virtual>,
) -> Fed {
    let used = || triggers.iter().filter_map(|trigger| uses.get(&trigger.name));
    let targets: BTreeSet<String> =
        used().flat_map(|uses| &uses.writes).map(|name| name.to_lowercase()).collect();
    let written: Vec<&Virtual> = targets.iter().filter_map(|name| virtuals.get(name)).collect();
    let can_rebuild = written.len() == targets.len()
        && written.iter().all(|index| index.is_rebuildable_from(table))
        && triggers.iter().all(|trigger| trigger.is_plain());
    // A row that such an index is told to delete or change, it reads from the table.
    let reads_table = |index: &&Virtual| {
        let mut changed = used().flat_map(|uses| &uses.changes);
        index.reads_elsewhere() && changed.any(|name| name.eq_ignore_ascii_case(&index.name))
    };
    let indexes: Vec<String> = written.iter().map(|index| index.name.clone()).collect();
    let needs = |column: &str| {
        let read = used().flat_map(|uses| &uses.reads);
        let mut read = read.filter(|(from, _)| from.eq_ignore_ascii_case(&table.name));
        let of = |trigger: &&Trigger| trigger.of.iter().any(|name| name.eq_ignore_ascii_case(column));
        read.any(|(_, name)| name.eq_ignore_ascii_case(column))
            || triggers.iter().any(of)
            || table.key.iter().any(|key| key.name.eq_ignore_ascii_case(column))
    };
    let columns = table.columns.iter().map(|column| column.name.clone()).filter(|name| needs(name)).collect();
    // SQLite runs the newest trigger first, and those before the row is written before the others.
    let newest_first = || triggers.iter().rev().map(|trigger| (*trigger).clone());
    let (before, after): (Vec<Trigger>, Vec<Trigger>) = newest_first().partition(|trigger| trigger.before);
    Fed {
        table: table.clone(),
        triggers: before.into_iter().chain(after).collect(),
        columns,
        must_rebuild: written.iter().any(reads_table),
        rebuildable: if can_rebuild { indexes.clone() } else { vec![] },
        indexes,
    }
}

#[cfg(test)]
#[path = "mirrored_tests.rs"]
mod tests;
