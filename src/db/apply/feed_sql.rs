//! The SQL by which the application feeds its virtual tables with rows that came from other nodes.
//!
//! For each table with such triggers there is a *queue* in the database: one entry for each row that the index does not know in
//! its present form. `has` says what the index holds of it: 0 nothing, 1 the row as the entry's columns have it. The entry with
//! the id 0 speaks of the whole index: `has` 2 asks for it to be built anew, 3 says that it is not fed any more. Deleting an
//! entry runs it: a trigger on the queue changes a view that has the columns of the application's table, and copies of the
//! application's triggers on that view do to the index what they would have done for the row. Without a trigger for UPDATE, a
//! row that changed is one that was deleted and inserted. Triggers on the application's table, the *hooks*, delete entries before
//! the application changes a row.

use crate::base::limits;
use crate::db::apply::trigger::{Change, Trigger};
use crate::db::sql::{literal, quote};
use crate::db::table::{Keyed, Table};
use std::sync::Arc;

/// What the names of all queues begin with.
pub const QUEUE: &str = "__harmonylite__feed_";
/// The entries that a transaction of ours has made, or whose rows it has changed since: all of them are to be tried.
pub const CREATE_CHANGED: &str = "CREATE TEMP TABLE IF NOT EXISTS __harmonylite__changed(queue TEXT, id INTEGER); \
     DELETE FROM temp.__harmonylite__changed;";

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
    /// All targets, if each of them can be built anew from the table and is then as the triggers would have made it; otherwise none.
    pub rebuildable: Vec<String>,
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

    pub fn can_rebuild(&self) -> bool {
        !self.rebuildable.is_empty()
    }

    fn on(&self) -> String {
        quote(&self.table.name)
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
            .map(|(at, column)| format!(", k{} COLLATE {}", at + 1, column.collation.name()))
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
        let bodies = Change::ALL.iter().map(|change| (change, self.enqueue(*change) + &self.note(*change)));
        bodies
            .filter(|(_, body)| !body.is_empty())
            .map(|(change, body)| {
                let name = format!("__harmonylite__queue_{}_{}", change.word(), self.table.name);
                let sql = format!(
                    "CREATE TEMP TRIGGER {} AFTER {} ON main.{} BEGIN {body}END",
                    quote(&name),
                    change.word(),
                    self.on(),
                );
                (name, sql)
            })
            .collect()
    }

    /// No OR IGNORE here: what the statement says that fires the trigger would count instead.
    fn enqueue(&self, change: Change) -> String {
        let queue = quote(&self.queue());
        let Some(when) = self.when_changed(change) else { return String::new() };
        let unless_rebuilt = format!("WHERE ({when}) AND NOT EXISTS (SELECT 1 FROM {queue} WHERE id = 0)");
        if self.must_rebuild {
            return format!("INSERT INTO {queue}(id, has) SELECT 0, 2 {unless_rebuilt}; ");
        }
        let keys = self.key_columns().join(", ");
        let list = |row: &str, names: Vec<&str>| -> String {
            names.into_iter().map(|name| format!(", {row}.{}", quote(name))).collect()
        };
        let key_of = |row: &str| list(row, self.table.key.iter().map(|column| &*column.name).collect());
        let unless_there = |row: &str| {
            format!("{unless_rebuilt} AND NOT EXISTS (SELECT 1 FROM {queue} WHERE {}); ", self.entry_of(row))
        };
        let new =
            format!("INSERT INTO {queue}(has, {keys}) SELECT 0{} {}", key_of("NEW"), unless_there("NEW"));
        let images: String = self.image_columns().map(|name| format!(", {name}")).collect();
        let old = format!(
            "INSERT INTO {queue}(has, rid, {keys}{images}) SELECT 1, {}{}{} {}",
            self.table.rowid_names().next().map_or("NULL".to_owned(), |name| format!("OLD.{name}")),
            key_of("OLD"),
            list("OLD", self.columns.iter().map(AsRef::as_ref).collect()),
            unless_there("OLD")
        );
        match change {
            Change::Insert => new,
            Change::Update => old + &new,
            Change::Delete => old,
        }
    }

    /// Notes the entry of a row that changes, be it new or not: what it comes to depends on the row as it is now.
    fn note(&self, change: Change) -> String {
        if self.must_rebuild {
            return String::new();
        }
        let queue = self.queue();
        let of = |row: &&str| {
            format!(
                "INSERT INTO __harmonylite__changed(queue, id) SELECT {}, id FROM {} WHERE id > 0 AND {}; ",
                literal(&queue),
                quote(&queue),
                self.entry_of(row)
            )
        };
        rows_of(change).iter().map(of).collect()
    }

    /// Adds to the entries that are to be tried those of other rows that had the rowid of one of their rows: an index can hold only
    /// one of the two. `None` where no rowid is given to another row. Parameter: the queue's name.
    pub fn note_former_rows(&self) -> Option<String> {
        let rowid = self.table.rowid_names().next().filter(|_| !self.key_is_rowid())?;
        Some(format!(
            "INSERT INTO temp.__harmonylite__changed(queue, id) SELECT ?1, id FROM main.{queue} WHERE id > 0 AND rid IN \
             (SELECT t.{rowid} FROM temp.__harmonylite__changed AS c CROSS JOIN main.{queue} AS e ON e.id = c.id \
             CROSS JOIN main.{on} AS t ON {row} WHERE c.queue = ?1) \
             AND id NOT IN (SELECT id FROM temp.__harmonylite__changed WHERE queue = ?1)",
            queue = quote(&self.queue()),
            on = self.on(),
            row = self.row_of("t", "e.k")
        ))
    }

    /// True of the table's row, by the name `row`, whose key has the values `key` with the numbers from 1 on.
    fn row_of(&self, row: &str, key: &str) -> String {
        let terms = self.table.key.iter().enumerate();
        let operand = |column| self.table.key_operand(&format!("{row}."), column);
        let terms = terms.map(|(at, column)| format!("{} IS {key}{}", operand(column), at + 1));
        terms.collect::<Vec<_>>().join(" AND ")
    }

    /// A condition that the triggers of one kind run for a changed row: for updates, that a column changed that they wait for. `None`:
    /// none runs.
    fn when_changed(&self, change: Change) -> Option<String> {
        let of = self.of(change)?;
        if of.is_empty() {
            return Some("true".to_owned());
        }
        let terms =
            of.iter().map(|name| differs(&format!("OLD.{}", quote(name)), &format!("NEW.{}", quote(name))));
        Some(terms.collect::<Vec<_>>().join(" OR "))
    }

    fn has_trigger(&self, change: Change) -> bool {
        self.triggers.iter().any(|trigger| trigger.change == change)
    }

    /// `None`: no trigger runs for a change of this kind. The columns whose change matters; empty: any.
    fn of(&self, change: Change) -> Option<Vec<String>> {
        let triggers: Vec<&Trigger> = self.triggers.iter().filter(|t| t.change == change).collect();
        if triggers.is_empty() {
            // The application may have deleted and inserted the row, and sent its last state alone.
            let replaced = change == Change::Update
                && self.has_trigger(Change::Insert)
                && self.has_trigger(Change::Delete);
            return replaced.then(Vec::new);
        }
        if triggers.iter().any(|trigger| trigger.of.is_empty()) {
            return Some(vec![]);
        }
        let named = |column: &&Arc<str>| {
            triggers.iter().flat_map(|trigger| &trigger.of).any(|name| name.eq_ignore_ascii_case(column))
        };
        Some(self.columns.iter().filter(named).map(ToString::to_string).collect())
    }

    /// The hooks: triggers that run entries before the application changes a row, first those of the row itself. Older entries come
    /// first, for a rowid is given to another row after it was given up.
    pub fn hooks(&self) -> Vec<Object> {
        let queue = quote(&self.queue());
        Change::ALL
            .iter()
            .map(|change| {
                let name = format!("{}hook_{}_{}", limits::FEED, change.word(), self.table.name);
                let sql = format!(
                    "CREATE TRIGGER {} BEFORE {} ON {} WHEN EXISTS (SELECT 1 FROM {queue}) BEGIN \
                     DELETE FROM {queue} WHERE id IN (SELECT id FROM {queue} WHERE {}); \
                     DELETE FROM {queue} WHERE id IN (SELECT id FROM {queue} ORDER BY id LIMIT {}); END",
                    quote(&name),
                    change.word(),
                    self.on(),
                    self.concerns(*change),
                    limits::FEED_ROWS
                );
                (name, sql)
            })
            .collect()
    }

    /// True of the entries that must be run before a row is changed: its own, and those under a rowid that it has or gets.
    fn concerns(&self, change: Change) -> String {
        let rows = rows_of(change);
        // A BEFORE trigger does not know the rowid that SQLite will choose: it is the next one.
        let next = |name: &str| format!("(SELECT ifnull(max({name}), 0) + 1 FROM {})", self.on());
        if self.key_is_rowid() {
            let name = quote(&self.table.key[0].name);
            let mut values: Vec<String> = rows.iter().map(|row| format!("+{row}.{name}")).collect();
            if change == Change::Insert {
                values.push(next(&name));
            }
            return format!("k1 IN ({})", values.join(", "));
        }
        let mut terms: Vec<String> = rows.iter().map(|row| format!("({})", self.entry_of(row))).collect();
        if let Some(name) = self.table.rowid_names().next() {
            let mut values: Vec<String> = rows.iter().map(|row| format!("+{row}.{name}")).collect();
            if change == Change::Insert {
                values.push(next(name));
            }
            if change != Change::Delete {
                // The row that has the key already: REPLACE and upserts meet it.
                values.push(format!("(SELECT {name} FROM {} AS t WHERE {})", self.on(), self.row_of_new()));
            }
            terms.push(format!("rid IN ({})", values.join(", ")));
        }
        terms.join(" OR ")
    }

    /// True of the row `t` of the table with the key of NEW.
    fn row_of_new(&self) -> String {
        let terms = self.table.key.iter();
        let terms = terms
            .map(|column| format!("{} IS NEW.{}", self.table.key_operand("t.", column), quote(&column.name)));
        terms.collect::<Vec<_>>().join(" AND ")
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
        let (mut objects, mut fired) = (vec![], vec![]);
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
                fired.push((trigger.change == Change::Insert, self.fire(trigger, &view)));
            }
        }
        // Of a row that is deleted and inserted in one, the old words go first.
        fired.sort_by_key(|(inserts, _)| *inserts);
        let mut body: String = fired.into_iter().map(|(_, sql)| sql).collect();
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
        let names: Vec<&str> = self.table.rowid_names().collect();
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
        let row = format!("FROM {on} WHERE {}", self.row_of(&on, "OLD.k"));
        // Of several rows with the same NULL key the newest stands for all.
        let newest = if self.table.keyed == Keyed::Index {
            format!("ORDER BY {} DESC LIMIT 1", self.table.rowid_names().next().unwrap_or("1"))
        } else {
            String::new()
        };
        let this = "WHERE __harmonylite__id = OLD.id AND OLD.has = 1";
        let updates = self.has_trigger(Change::Update);
        match trigger.change {
            Change::Insert => {
                let has = if updates { "= 0" } else { "< 2" };
                format!("INSERT INTO {view}({names}) SELECT {values} {row} AND OLD.has {has} {newest}; ")
            }
            Change::Delete if !updates => format!("DELETE FROM {view} {this}; "),
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

/// The names by which a trigger of one kind knows its row.
fn rows_of(change: Change) -> &'static [&'static str] {
    match change {
        Change::Insert => &["NEW"],
        Change::Update => &["OLD", "NEW"],
        Change::Delete => &["OLD"],
    }
}

/// True of two values that are not the same in value and type.
fn differs(one: &str, other: &str) -> String {
    format!("{one} IS NOT {other} COLLATE BINARY OR typeof({one}) IS NOT typeof({other})")
}
