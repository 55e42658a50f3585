//! A change of the application's schema as it travels: a row of the table [`TABLE`], which no database has, in a change set of the
//! first stream. Its columns are `id` and `body`, a JSON text: [`Change`].
//!
//! Each step says what became of one thing, and is carried out where it still fits: a node that has made the same change by itself
//! has nothing left to do.

use crate::base::limits;
use crate::model::event::{Event, Kind, Malformed, malformed};
use crate::model::value::Value;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The table whose rows are changes of the schema. To versions that know none it is a table that is not replicated.
pub const TABLE: &str = "__harmonylite__schema";
/// The events of a set are sorted by their ids: those of changes come before all rows, the first one made first.
const FIRST_ID: i64 = -(1 << 40);
/// The first version of the body that another program must know to understand it.
const VERSION: u32 = 1;

/// One change of a schema: all that a node noticed at once, or what a person published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub version: u32,
    /// 16 hex digits, random.
    pub id: String,
    /// The node that made it.
    pub node: u64,
    /// When, Unix milliseconds of that node.
    pub time_ms: i64,
    /// Schema hash of that node before the change, and after it.
    pub before: String,
    pub after: String,
    /// The id of the last change in the order that was carried out on that node; empty: none was. Versions that do not say so mean all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    pub steps: Vec<Step>,
    /// What it comes to in one database at its place in the order, if that is not as it was made. It does not travel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comes_to: Option<Vec<Step>>,
    /// The file of a migration that a person published: its name, and its statements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Script>,
}

/// Statements that every node runs itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    pub name: String,
    pub sql: String,
}

/// What became of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// An index, a trigger or a view is gone.
    Drop {
        kind: Thing,
        name: String,
    },
    RenameTable {
        from: String,
        to: String,
    },
    /// A table has other columns, or other constraints.
    AlterTable {
        table: String,
        /// The statement that made it before, and the one that makes it now.
        was: String,
        sql: String,
        columns: Vec<Column>,
        dropped: Vec<String>,
    },
    DropTable {
        table: String,
    },
    /// Something new, by the statement that makes it.
    Create {
        kind: Thing,
        name: String,
        sql: String,
    },
}

/// A column of an altered table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// What it was called before; `None`: it is new.
    pub from: Option<String>,
    /// The value that all rows have in a new column, as an SQL literal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<String>,
}

impl Column {
    /// What it was called before, if that was something else.
    pub fn renamed_from(&self) -> Option<&str> {
        self.from.as_deref().filter(|from| *from != self.name)
    }
}

/// What a schema consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Thing {
    Table,
    Index,
    View,
    Trigger,
}

impl Thing {
    /// The word of `sqlite_schema`, and of CREATE and DROP.
    pub fn word(self) -> &'static str {
        match self {
            Thing::Table => "table",
            Thing::Index => "index",
            Thing::View => "view",
            Thing::Trigger => "trigger",
        }
    }

    pub fn of(word: &str) -> Option<Thing> {
        [Thing::Table, Thing::Index, Thing::View, Thing::Trigger]
            .into_iter()
            .find(|thing| thing.word() == word)
    }
}

impl Step {
    /// The table, view, index or trigger that it is about.
    pub fn subject(&self) -> &str {
        match self {
            Step::Drop { name, .. } | Step::Create { name, .. } => name,
            Step::RenameTable { from, .. } => from,
            Step::AlterTable { table, .. } | Step::DropTable { table } => table,
        }
    }
}

impl Change {
    /// A change that was made now, with a new id.
    pub fn new(node: u64, time_ms: i64, (before, after): (&str, &str), steps: Vec<Step>) -> Change {
        let id = format!("{:016x}", crate::base::random::random_u64());
        let (before, after) = (before.to_owned(), after.to_owned());
        Change {
            version: VERSION,
            id,
            node,
            time_ms,
            before,
            after,
            seen: None,
            steps,
            comes_to: None,
            script: None,
        }
    }

    /// The body of its event.
    pub fn body(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    fn as_made(&self) -> Change {
        Change { comes_to: None, ..self.clone() }
    }

    /// Its steps at its place in the order.
    pub fn placed(&self) -> &[Step] {
        self.comes_to.as_ref().unwrap_or(&self.steps)
    }

    /// Of changes with these ids, in their order, the place of the first one that its maker had not seen.
    pub fn unseen_from<'a>(
        &self,
        ids: impl DoubleEndedIterator<Item = &'a str> + ExactSizeIterator,
    ) -> usize {
        let count = ids.len();
        match self.seen.as_deref() {
            None => count,
            Some("") => 0,
            Some(seen) => {
                let after = ids.rev().position(|id| id == seen);
                after.map_or(count, |after| count - after)
            }
        }
    }

    /// Reads a body.
    pub fn parse(body: &str) -> Result<Change, Malformed> {
        let change: Change =
            serde_json::from_str(body).map_err(|error| Malformed::new(&error.to_string()))?;
        if change.version > VERSION {
            return malformed(format!(
                "version {} of a change of the schema; this program knows {VERSION}",
                change.version
            ));
        }
        if change.id.len() != 16 || !change.id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return malformed("its id is not 16 hex digits");
        }
        if change.steps.len() > limits::CHANGE_STEPS {
            return malformed(format!("more than {} steps", limits::CHANGE_STEPS));
        }
        Ok(change)
    }

    /// Its event, under an id that no row has.
    pub fn event(&self, number: i64) -> Event {
        let text = |text: &str| Value::Text(text.as_bytes().to_vec());
        let row: Vec<(Arc<str>, Value)> =
            vec![("id".into(), text(&self.id)), ("body".into(), text(&self.as_made().body()))];
        Event {
            node: self.node,
            id: FIRST_ID + number,
            kind: Kind::Insert,
            table: TABLE.into(),
            row,
            schema_hash: None,
        }
    }

    /// The change of an event; `None`: the event is of a row.
    pub fn of(event: &Event) -> Option<Result<Change, Malformed>> {
        if *event.table != *TABLE {
            return None;
        }
        let body = event.row.iter().find_map(|(name, value)| match value {
            Value::Text(bytes) if &**name == "body" => std::str::from_utf8(bytes).ok(),
            _ => None,
        });
        let parsed = body.map_or_else(|| malformed("it has no body"), Change::parse);
        Some(parsed.map(|change| change.as_made()))
    }

    /// In a few words, for people.
    pub fn summary(&self) -> String {
        if let Some(script) = &self.script {
            return format!("script {}", script.name);
        }
        let words: Vec<String> = self.steps.iter().take(4).map(Step::summary).collect();
        let more = self.steps.len().saturating_sub(words.len());
        if more == 0 { words.join(", ") } else { format!("{} and {more} more", words.join(", ")) }
    }
}

impl Step {
    fn summary(&self) -> String {
        match self {
            Step::Drop { kind, name } => format!("drop {} {name}", kind.word()),
            Step::Create { kind, name, .. } => format!("create {} {name}", kind.word()),
            Step::RenameTable { from, to } => format!("rename table {from} to {to}"),
            Step::DropTable { table } => format!("drop table {table}"),
            Step::AlterTable { table, columns, dropped, .. } => {
                let renamed = columns
                    .iter()
                    .filter_map(|column| Some(format!("{} is {}", column.renamed_from()?, column.name)));
                let added = columns
                    .iter()
                    .filter(|column| column.from.is_none())
                    .map(|column| format!("+{}", column.name));
                let gone = dropped.iter().map(|name| format!("-{name}"));
                let what: Vec<String> = renamed.chain(added).chain(gone).collect();
                format!(
                    "alter table {table}{}",
                    if what.is_empty() { String::new() } else { format!(" ({})", what.join(", ")) }
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Change {
        let columns = vec![
            Column { name: "a".into(), from: Some("a".into()), fill: None },
            Column { name: "n".into(), from: Some("o".into()), fill: None },
            Column { name: "x".into(), from: None, fill: Some("'it''s'".into()) },
        ];
        let alter = Step::AlterTable {
            table: "t".into(),
            was: "CREATE TABLE t(a, o, d)".into(),
            sql: "CREATE TABLE t(a, n, x)".into(),
            columns,
            dropped: vec!["d".into()],
        };
        let gone = Step::Drop { kind: Thing::Index, name: "i".into() };
        Change::new(7, 5, ("aa", "bb"), vec![gone, alter])
    }

    #[test]
    fn a_change_travels_as_an_event() {
        let change = change();
        let event = change.event(3);
        assert_eq!((event.id, &*event.table), (FIRST_ID + 3, TABLE));
        assert!(event.id < change.event(4).id && change.event(i64::from(u32::MAX)).id < 0);
        assert_eq!(Change::of(&event), Some(Ok(change)));
        let row = Event { table: "t".into(), ..event };
        assert_eq!(Change::of(&row), None);
    }

    #[test]
    fn what_is_no_change_is_said() {
        let refused = |body: &str| Change::parse(body).unwrap_err().to_string();
        assert!(refused("no json").contains("expected"));
        let body = change().body();
        assert!(refused(&body.replacen(r#""version":1"#, r#""version":2"#, 1)).contains("version 2"));
        let mut other = change();
        other.id = "short".into();
        assert!(refused(&other.body()).contains("16 hex digits"));
        other = change();
        other.steps = vec![Step::DropTable { table: "t".into() }; limits::CHANGE_STEPS + 1];
        assert!(refused(&other.body()).contains("steps"));
    }

    #[test]
    fn it_is_summed_up_in_a_few_words() {
        assert_eq!(change().summary(), "drop index i, alter table t (o is n, +x, -d)");
    }
}
