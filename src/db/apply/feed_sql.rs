//! The SQL by which the application feeds its virtual tables with rows that came from other nodes.
//!
//! For each table with such triggers there is a *queue* in the database: one entry for each row that the index does not know in
//! its present form. `has` says what the index holds of it: 0 nothing, 1 the row as the entry's columns have it. The entry with
//! the id 0 speaks of the whole index: `has` 2 asks for it to be built anew, 3 says that it is not fed any more. Deleting an
//! entry runs it: a trigger on the queue changes a view that has the columns of the application's table, and copies of the
//! application's triggers on that view do to the index what they would have done for the row. Triggers on the
//! application's table, the *hooks*, delete entries before the application changes a row.

use crate::base::limits;
use crate::db::apply::trigger::{Change, Trigger};
use crate::db::sql::quote;
use crate::db::table::{Keyed, Table};
use crate::model::value::Collation;
use std::sync::Arc;

/// What the names of all queues begin with.
pub const QUEUE: &str = "__harmonylite__feed_";

/// A table whose triggers write virtual tables.
#[derive(Clone, Debug)]
pub struct Fed {
    pub table: Arc<Table>,
    /// The triggers in the order in which SQLite runs them.
    pub triggers: Vec<Trigger>,
    /// The columns that the triggers look at, and those of the key.
    pub columns: Vec<Arc<str>>,
    /// The virtual tables that the triggers write.
    pub indexes: Vec<String>,
    /// The indexes among the targets that can be built anew from the table.
    pub rebuildable: Vec<String>,
    /// All targets are such indexes.
    pub can_rebuild: bool,
    /// The triggers make the index read the table's old row, which is gone when the application comes to run them.
    pub must_rebuild: bool,
}

/// An object of the database: its name, and the statement that makes it.
pub type Object = (String, String);

impl Fed {
    pub fn queue(&self) -> String {
        format!("{QUEUE}{}", self.table.name)
    }

    /// The names of the virtual tables, for people.
    pub fn targets(&self) -> String {
        self.indexes.join(", ")
    }

    fn on(&self) -> String {
        quote(&self.table.name)
    }

    /// A name by which the rowid can be asked for; `None` without a rowid.
    fn rowid(&self) -> Option<&'static str> {
        self.rowid_names().first().copied()
    }

    /// The names of the rowid that no column has.
    fn rowid_names(&self) -> Vec<&'static str> {
        let mut names = vec!["rowid", "_rowid_", "oid"];
        let taken =
            |name: &str| self.table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        names.retain(|name| !taken(name));
        if self.table.keyed == Keyed::WithoutRowid { vec![] } else { names }
    }

    /// The key is the rowid under one name or another.
    fn key_is_rowid(&self) -> bool {
        matches!(self.table.keyed, Keyed::Rowid | Keyed::RowidAlias)
    }

    fn image_columns(&self) -> impl Iterator<Item = String> {
        self.columns.iter().map(|name| quote(&format!("c_{name}")))
    }

    fn key_columns(&self) -> Vec<String> {
        (1..=self.table.key.len()).map(|n| format!("k{n}")).collect()
    }

    /// The names of the queue's columns, as SQL.
    pub fn queue_columns(&self) -> Vec<String> {
        let fixed = ["id", "has", "rid"].map(str::to_owned);
        fixed.into_iter().chain(self.key_columns()).chain(self.image_columns()).collect()
    }

    /// Creates the queue.
    pub fn create_queue(&self) -> String {
        let queue = quote(&self.queue());
        let keys: String = self
            .table
            .key
            .iter()
            .enumerate()
            .map(|(at, column)| format!(", k{} COLLATE {}", at + 1, collation(column.collation)))
            .collect();
        let images: String = self.image_columns().map(|name| format!(", {name}")).collect();
        let index = |what: &str, columns: &str| {
            let name = quote(&format!("{}{what}_{}", limits::FEED, self.table.name));
            format!("CREATE INDEX {name} ON {queue}({columns});")
        };
        let by_rowid = if self.key_is_rowid() { String::new() } else { index("row", "rid") };
        format!(
            "CREATE TABLE {queue}(id INTEGER PRIMARY KEY, has, rid{keys}{images}); {} {by_rowid}",
            index("key", &self.key_columns().join(", "))
        )
    }

    /// True of the queue's entry for the row `row` (OLD or NEW).
    fn entry_of(&self, row: &str) -> String {
        // The plus takes the column's affinity away, with which the queue's index could not be used.
        let terms = self.table.key.iter().enumerate();
        let terms = terms.map(|(at, column)| format!("k{} IS +{row}.{}", at + 1, quote(&column.name)));
        terms.collect::<Vec<_>>().join(" AND ")
    }

    /// Triggers of the applying connection that put what it changes into the queue.
    pub fn queueing(&self) -> Vec<Object> {
        let changes = Change::ALL.iter().filter(|change| self.of(**change).is_some());
        changes
            .map(|change| {
                let name = format!("__harmonylite__queue_{}_{}", change.word(), self.table.name);
                let sql = format!(
                    "CREATE TEMP TRIGGER {} AFTER {} ON main.{} {} BEGIN {} END",
                    quote(&name),
                    change.word(),
                    self.on(),
                    self.when_changed(*change),
                    self.enqueue(*change)
                );
                (name, sql)
            })
            .collect()
    }

    fn enqueue(&self, change: Change) -> String {
        let queue = quote(&self.queue());
        if self.must_rebuild {
            return format!("INSERT OR IGNORE INTO {queue}(id, has) VALUES(0, 2);");
        }
        let keys = self.key_columns().join(", ");
        let list = |row: &str, names: Vec<&str>| -> String {
            names.into_iter().map(|name| format!(", {row}.{}", quote(name))).collect()
        };
        let key_of = |row: &str| list(row, self.table.key.iter().map(|column| &*column.name).collect());
        let unless_there = |row: &str| {
            format!(
                "WHERE NOT EXISTS (SELECT 1 FROM {queue} WHERE id = 0) AND NOT EXISTS (SELECT 1 FROM {queue} WHERE {});",
                self.entry_of(row)
            )
        };
        let new =
            format!("INSERT INTO {queue}(has, {keys}) SELECT 0{} {}", key_of("NEW"), unless_there("NEW"));
        let images: String = self.image_columns().map(|name| format!(", {name}")).collect();
        let old = format!(
            "INSERT INTO {queue}(has, rid, {keys}{images}) SELECT 1, {}{}{} {}",
            self.rowid().map_or("NULL".to_owned(), |name| format!("OLD.{name}")),
            key_of("OLD"),
            list("OLD", self.columns.iter().map(AsRef::as_ref).collect()),
            unless_there("OLD")
        );
        match change {
            Change::Insert => new,
            Change::Update => format!("{old} {new}"),
            Change::Delete => old,
        }
    }

    /// For updates: a condition that a column changed that the triggers wait for.
    fn when_changed(&self, change: Change) -> String {
        let of = self.of(change).unwrap_or_default();
        if of.is_empty() {
            return String::new();
        }
        let terms: Vec<String> = of
            .iter()
            .map(|name| differs(&format!("OLD.{}", quote(name)), &format!("NEW.{}", quote(name))))
            .collect();
        format!("WHEN {}", terms.join(" OR "))
    }

    /// `None`: no trigger runs for a change of this kind. The columns whose change matters; empty: any.
    fn of(&self, change: Change) -> Option<Vec<String>> {
        let triggers: Vec<&Trigger> = self.triggers.iter().filter(|t| t.change == change).collect();
        if triggers.is_empty() {
            return None;
        }
        if triggers.iter().any(|trigger| trigger.of.is_empty()) {
            return Some(vec![]);
        }
        let named = |column: &&Arc<str>| {
            triggers.iter().flat_map(|trigger| &trigger.of).any(|name| name.eq_ignore_ascii_case(column))
        };
        Some(self.columns.iter().filter(named).map(ToString::to_string).collect())
    }

    /// The hooks: triggers that run entries before the application changes a row, first those of the row itself.
    pub fn hooks(&self) -> Vec<Object> {
        let queue = quote(&self.queue());
        let changes = Change::ALL.iter().filter_map(|change| Some((*change, self.of(*change)?)));
        changes
            .map(|(change, of)| {
                let name = format!("{}hook_{}_{}", limits::FEED, change.word(), self.table.name);
                let of: Vec<String> = of.iter().map(|column| quote(column)).collect();
                let of = if of.is_empty() { String::new() } else { format!(" OF {}", of.join(", ")) };
                let sql = format!(
                    "CREATE TRIGGER {} BEFORE {}{of} ON {} WHEN EXISTS (SELECT 1 FROM {queue}) BEGIN \
                     DELETE FROM {queue} WHERE {}; \
                     DELETE FROM {queue} WHERE id IN (SELECT id FROM {queue} ORDER BY id LIMIT {}); END",
                    quote(&name),
                    change.word(),
                    self.on(),
                    self.concerns(change),
                    limits::FEED_ROWS
                );
                (name, sql)
            })
            .collect()
    }

    /// True of the entries that must be run before a row is changed: its own, and those under a rowid that it gets.
    fn concerns(&self, change: Change) -> String {
        let rows: &[&str] = match change {
            Change::Insert => &["NEW"],
            Change::Update => &["OLD", "NEW"],
            Change::Delete => &["OLD"],
        };
        // A BEFORE trigger does not know the rowid that SQLite will choose: it is the next one.
        let next = |name: &str| format!("(SELECT ifnull(max({name}), 0) + 1 FROM {})", self.on());
        let with_next = |mut values: Vec<String>, name: &str| {
            if change == Change::Insert {
                values.push(next(name));
            }
            values.join(", ")
        };
        if self.key_is_rowid() {
            let name = quote(&self.table.key[0].name);
            let values = rows.iter().map(|row| format!("+{row}.{name}")).collect();
            return format!("k1 IN ({})", with_next(values, &name));
        }
        let mut terms: Vec<String> = rows.iter().map(|row| format!("({})", self.entry_of(row))).collect();
        if let Some(name) = self.rowid() {
            let values = rows.iter().map(|row| format!("+{row}.{name}")).collect();
            terms.push(format!("rid IN ({})", with_next(values, name)));
        }
        terms.join(" OR ")
    }

    /// The views with the copies of the triggers, and the trigger on the queue that runs an entry: those that the application
    /// uses.
    pub fn runners(&self) -> Vec<Object> {
        self.runners_named("CREATE", limits::FEED)
    }

    /// The same for our connection alone, to try an entry.
    pub fn trial_runners(&self) -> Vec<Object> {
        self.runners_named("CREATE TEMP", limits::TRIAL)
    }

    fn runners_named(&self, create: &str, stem: &str) -> Vec<Object> {
        let (mut objects, mut body) = (vec![], String::new());
        for (at, trigger) in self.triggers.iter().enumerate() {
            let view = format!("{stem}view{at}_{}", self.table.name);
            let copy = format!("{stem}copy{at}_{}", self.table.name);
            let columns: Vec<String> =
                self.view_columns().into_iter().map(|(name, from, _)| format!("{from} AS {name}")).collect();
            objects.push((
                view.clone(),
                format!(
                    "{create} VIEW {} AS SELECT id AS __harmonylite__id, {} FROM {}",
                    quote(&view),
                    columns.join(", "),
                    quote(&self.queue())
                ),
            ));
            let sql = format!("{create} TRIGGER {} {}", quote(&copy), trigger.on_view(&view));
            objects.push((copy, sql));
            if !self.must_rebuild {
                body.push_str(&self.fire(trigger, &view));
            }
        }
        for index in &self.rebuildable {
            body.push_str(&format!(
                "INSERT INTO {0}({0}) SELECT 'rebuild' WHERE OLD.has = 2; ",
                quote(index)
            ));
        }
        let run = format!("{stem}run_{}", self.table.name);
        let place = if create == "CREATE" { String::new() } else { "main.".to_owned() };
        let sql = format!(
            "{create} TRIGGER {} BEFORE DELETE ON {place}{} BEGIN {body}END",
            quote(&run),
            quote(&self.queue())
        );
        objects.push((run, sql));
        objects
    }

    /// Columns of a view: name, the queue's column, and what the table has there.
    fn view_columns(&self) -> Vec<(String, String, String)> {
        let names = self.rowid_names();
        let rowids = names.iter().map(|name| ((*name).to_owned(), "rid".to_owned(), names[0].to_owned()));
        let images = self.columns.iter().map(|name| (quote(name), quote(&format!("c_{name}")), quote(name)));
        rowids.chain(images).collect()
    }

    /// The statement that makes a view's trigger run for the entry OLD of the queue.
    fn fire(&self, trigger: &Trigger, view: &str) -> String {
        let (view, on) = (quote(view), self.on());
        let columns = self.view_columns();
        let list = |at: fn(&(String, String, String)) -> &String| -> String {
            columns.iter().map(|column| at(column).clone()).collect::<Vec<_>>().join(", ")
        };
        let (names, values) = (list(|column| &column.0), list(|column| &column.2));
        let terms = self.table.key.iter().enumerate();
        let terms = terms.map(|(at, column)| format!("{on}.{} IS OLD.k{}", quote(&column.name), at + 1));
        let row = format!("FROM {on} WHERE {}", terms.collect::<Vec<_>>().join(" AND "));
        // Of several rows with the same NULL key the newest stands for all.
        let newest = if self.table.keyed == Keyed::Index {
            format!("ORDER BY {} DESC LIMIT 1", self.rowid().unwrap_or("1"))
        } else {
            String::new()
        };
        let this = "WHERE __harmonylite__id = OLD.id AND OLD.has = 1";
        match trigger.change {
            Change::Insert => {
                format!("INSERT INTO {view}({names}) SELECT {values} {row} AND OLD.has = 0 {newest}; ")
            }
            Change::Delete => format!("DELETE FROM {view} {this} AND NOT EXISTS (SELECT 1 {row}); "),
            Change::Update => format!(
                "UPDATE {view} SET ({names}) = (SELECT {values} {row} {newest}) {this} AND EXISTS (SELECT 1 {row}{}); ",
                self.changed_for(trigger)
            ),
        }
    }

    /// UPDATE OF: the trigger runs when one of its columns changed.
    fn changed_for(&self, trigger: &Trigger) -> String {
        let named = |column: &&Arc<str>| trigger.of.iter().any(|name| name.eq_ignore_ascii_case(column));
        let terms: Vec<String> = self
            .columns
            .iter()
            .filter(named)
            .map(|name| {
                differs(
                    &format!("{}.{}", self.on(), quote(name)),
                    &format!("OLD.{}", quote(&format!("c_{name}"))),
                )
            })
            .collect();
        if terms.is_empty() { String::new() } else { format!(" AND ({})", terms.join(" OR ")) }
    }
}

/// True of two values that are not the same in value and type.
fn differs(one: &str, other: &str) -> String {
    format!("{one} IS NOT {other} COLLATE BINARY OR typeof({one}) IS NOT typeof({other})")
}

fn collation(collation: Collation) -> &'static str {
    match collation {
        Collation::Binary => "BINARY",
        Collation::NoCase => "NOCASE",
        Collation::RTrim => "RTRIM",
    }
}
