//! `-conflicts` and `-conflict-restore`: writes of other nodes that lost to those of this one.

use super::Show;
use super::shown::{age, columns, printable, value_json};
use crate::base::clock;
use crate::base::error::{Context, Error, Kind};
use crate::config::Config;
use crate::db::{self, Applier, Conflict, Restored, WhichConflicts as Which};
use crate::model::event::Event;
use serde_json::{Map, Value, json};

/// What `-conflicts` is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verb {
    /// Show a table of all.
    #[default]
    List,
    /// Show one whole.
    Show(i64),
    /// Drop some for good.
    Drop(Which),
}

/// Which of them are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this table alone.
    pub table: Option<String>,
    /// Not older, Unix milliseconds.
    pub since_ms: Option<i64>,
}

impl Verb {
    pub const ACCEPTED: &'static str = "accepted is list, show ID, drop ID, drop TABLE or drop all";

    /// Reads the words after the flag.
    pub fn parse(word: &str, which: Option<&str>) -> Option<Verb> {
        match (word, which) {
            ("list", None) => Some(Verb::List),
            ("show", Some(id)) => id.parse().ok().map(Verb::Show),
            ("drop", Some(which)) => Some(Verb::Drop(parse_which(which))),
            _ => None,
        }
    }
}

/// A number, `all`, or the name of a table.
pub fn parse_which(word: &str) -> Which {
    match (word, word.parse()) {
        ("all", _) => Which::All,
        (_, Ok(id)) => Which::One(id),
        (table, Err(_)) => Which::OfTable(table.to_owned()),
    }
}

/// Runs one of the verbs on the database, beside a running daemon or without one.
pub fn conflicts(config: &Config, show: Show, verb: &Verb, filter: &Filter) -> Result<(), Error> {
    match verb {
        Verb::List => {
            let mut found = all(config)?;
            found.retain(|conflict| filter.is_meant(conflict));
            show.print(|| table(&found), || found.iter().map(describe).collect());
            let path = &config.db_path;
            let dropped = db::dropped_conflicts(path).context(path.display())?;
            if dropped > 0 {
                log::warn!("{dropped} older ones were dropped: there was no room for them");
            }
        }
        Verb::Show(id) => {
            let found = meant(config, &Which::One(*id))?.remove(0);
            let text = || serde_json::to_string_pretty(&describe(&found)).unwrap_or_default();
            show.print(text, || describe(&found));
        }
        Verb::Drop(which) => {
            if *which != Which::All {
                meant(config, which)?;
            }
            let path = &config.db_path;
            let dropped = db::discard_conflicts(path, which).context(path.display())?;
            show.print(|| format!("dropped {dropped}"), || json!({ "dropped": dropped }));
        }
    }
    Ok(())
}

impl Filter {
    fn is_meant(&self, conflict: &Conflict) -> bool {
        let of_table = |table: &String| Which::OfTable(table.clone()).is_meant(conflict);
        self.table.as_ref().is_none_or(of_table)
            && self.since_ms.is_none_or(|since| conflict.time_ms >= since)
    }
}

fn all(config: &Config) -> Result<Vec<Conflict>, Error> {
    let path = &config.db_path;
    if !path.exists() {
        return Err(Error::new(Kind::Missing, format!("{}: no such file", path.display())));
    }
    db::list_conflicts(path).context(path.display())
}

fn meant(config: &Config, which: &Which) -> Result<Vec<Conflict>, Error> {
    let mut found = all(config)?;
    found.retain(|conflict| which.is_meant(conflict));
    match (found.is_empty(), which) {
        (false, _) => Ok(found),
        (true, Which::One(id)) => {
            Err(Error::new(Kind::Missing, format!("there is no conflict {id}; -conflicts lists the numbers")))
        }
        (true, Which::OfTable(table)) => Err(Error::new(
            Kind::Missing,
            format!("there is no conflict of a table {table}; -conflicts lists them"),
        )),
        (true, Which::All) => Err(Error::new(Kind::Missing, "there is no conflict")),
    }
}

/// Brings lost writes back, in the order in which they were lost.
pub fn restore(config: &Config, show: Show, which: &Which) -> Result<(), Error> {
    let found = meant(config, which)?;
    let path = &config.db_path;
    let mut applier = Applier::open(path, config.node_id, &config.streams()).context(path.display())?;
    let (mut lines, mut values, mut failed) = (vec![], vec![], 0);
    for conflict in &found {
        let event = event_of(conflict).ok_or_else(|| {
            Error::new(Kind::Damaged, format!("conflict {}: what is kept of it cannot be read", conflict.id))
        })?;
        let (id, key) = (conflict.id, printable(&key_text(conflict)));
        match applier.bring_back(conflict, &event) {
            Ok(restored) => {
                let new_key = match &restored {
                    Restored::AsItWas => None,
                    Restored::UnderKey(key) => Some(value_json(key)),
                };
                let under = new_key.as_ref().map_or(String::new(), |key| format!(" under the new key {key}"));
                lines.push(format!("{id}: table {}, {key}: restored{under}", printable(&conflict.table)));
                values.push(json!({ "id": id, "restored": true, "new_key": new_key, "why": null }));
            }
            // The others are tried; this one stays on the list.
            Err(error @ db::Error::Mismatch(_)) => {
                failed += 1;
                lines.push(format!("{id}: {key}: not restored: {}", printable(&error.to_string())));
                values
                    .push(json!({ "id": id, "restored": false, "new_key": null, "why": error.to_string() }));
            }
            Err(error) => return Err(Error::from(error).at(format!("conflict {id}"))),
        }
    }
    show.print(|| lines.join("\n"), || values.into());
    match failed {
        0 => Ok(()),
        some => Err(Error::new(
            Kind::Refused,
            format!("{some} of {} are not restored and stay on the list", found.len()),
        )),
    }
}

fn event_of(conflict: &Conflict) -> Option<Event> {
    Event::decode(&conflict.payload).ok()
}

fn row(conflict: &Conflict) -> Map<String, Value> {
    let event = event_of(conflict);
    let row = event.iter().flat_map(|event| &event.row);
    row.map(|(name, value)| (name.to_string(), value_json(value))).collect()
}

fn key(conflict: &Conflict) -> Map<String, Value> {
    let of_key = |name: &str| conflict.key_columns.iter().any(|column| column.eq_ignore_ascii_case(name));
    row(conflict).into_iter().filter(|(name, _)| of_key(name)).collect()
}

fn key_text(conflict: &Conflict) -> String {
    let parts: Vec<String> =
        key(conflict).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    parts.join(", ")
}

/// A conflict as JSON.
fn describe(conflict: &Conflict) -> Value {
    json!({
        "id": conflict.id,
        "table": conflict.table,
        "kind": conflict.kind.word(),
        "key": key(conflict),
        "row": row(conflict),
        "lost_by": conflict.lost_by,
        "won_by": conflict.won_by,
        "stream": conflict.stream,
        "sequence": conflict.seq,
        "time": (conflict.time_ms > 0).then(|| clock::rfc3339(conflict.time_ms)),
    })
}

fn table(found: &[Conflict]) -> String {
    if found.is_empty() {
        return "no conflicts".to_owned();
    }
    let mut rows = vec![["ID", "TABLE", "KIND", "KEY", "LOST BY", "AGE", "ROW"].map(str::to_owned).to_vec()];
    rows.extend(found.iter().map(|conflict| {
        let rest = Value::from(row(conflict)).to_string();
        vec![
            conflict.id.to_string(),
            printable(&conflict.table),
            conflict.kind.word().to_owned(),
            printable(&key_text(conflict)),
            format!("node {}", conflict.lost_by),
            if conflict.time_ms > 0 { age(conflict.time_ms) } else { "-".to_owned() },
            printable(&rest),
        ]
    }));
    columns(&rows)
}
