//! `-set-aside`: what the database could not use, or not yet.

use super::shown::{age, columns, printable, value_json};
use super::{Show, escaped};
use crate::base::error::{Context, Error, Kind};
use crate::base::{clock, files};
use crate::config::Config;
use crate::db::{self, Held, Which};
use crate::model::event::Event;
use crate::model::payload::Codec;
use serde_json::json;
use std::time::{Duration, Instant};

/// What to do with what is set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verb {
    /// Show a table of all.
    #[default]
    List,
    /// Show one event whole.
    Show(i64),
    /// Try events again.
    Retry(Which),
    /// Drop events for good.
    Drop(Which),
}

impl Verb {
    pub const ACCEPTED: &'static str = "accepted is list, show ID, retry ID, retry all, drop ID or drop all";

    /// Reads the words after the flag.
    pub fn parse(word: &str, number: Option<&str>) -> Option<Verb> {
        let id = number.and_then(|number| number.parse().ok());
        let which = if number == Some("all") { Some(Which::All) } else { id.map(Which::One) };
        match (word, id, which) {
            ("list", None, None) if number.is_none() => Some(Verb::List),
            ("show", Some(id), _) => Some(Verb::Show(id)),
            ("retry", _, Some(which)) => Some(Verb::Retry(which)),
            ("drop", _, Some(which)) => Some(Verb::Drop(which)),
            _ => None,
        }
    }
}

/// How long a running daemon has to try events again before the command ends without knowing what came of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs one of the verbs on the database, beside a running daemon or without one.
pub fn set_aside(config: &Config, show: Show, verb: Verb) -> Result<(), Error> {
    let path = &config.db_path;
    let shown = path.display();
    if !path.exists() {
        return Err(Error::new(Kind::Missing, format!("{shown}: no such file")));
    }
    match verb {
        Verb::List => {
            let held = db::list_aside(path).context(shown)?;
            show.print(|| table(&held), || held.iter().map(describe).collect());
            Ok(())
        }
        Verb::Show(id) => {
            let held = db::list_aside(path).context(shown)?.into_iter().find(|held| held.id == id);
            let held = held.ok_or_else(|| unknown(id))?;
            show.print(|| whole(&held), || describe(&held));
            Ok(())
        }
        Verb::Retry(which) => retry(config, show, which),
        Verb::Drop(which) => {
            let dropped = db::discard(path, which).context(shown)?;
            known(which, dropped)?;
            show.print(|| format!("dropped {dropped}"), || json!({ "dropped": dropped }));
            Ok(())
        }
    }
}

fn unknown(id: i64) -> Error {
    Error::new(Kind::Missing, format!("-set-aside: there is no {id}; -set-aside lists the numbers"))
}

fn known(which: Which, found: usize) -> Result<(), Error> {
    match which {
        Which::One(id) if found == 0 => Err(unknown(id)),
        _ => Ok(()),
    }
}

fn retry(config: &Config, show: Show, which: Which) -> Result<(), Error> {
    let path = &config.db_path;
    let marked = db::try_again(path, which).context(path.display())?;
    known(which, marked)?;
    let runs = matches!(files::Lock::try_take(&config.lock_path()), Ok(None));
    if marked == 0 || !runs {
        show.print(
            || format!("{marked} to be tried again when the daemon starts"),
            || json!({ "marked": marked, "applied": null, "left": null }),
        );
        return Ok(());
    }
    let until = Instant::now() + PATIENCE;
    let left = loop {
        let held = db::list_aside(path).context(path.display())?;
        let wanted = |held: &&Held| matches!(which, Which::All) || which == Which::One(held.id);
        let left: Vec<Held> = held.iter().filter(wanted).cloned().collect();
        if left.iter().all(|held| held.state != db::AsideState::Again) {
            break left;
        }
        if Instant::now() > until {
            return Err(Error::waiting(
                "the daemon has not tried them again yet; -set-aside shows what comes of it",
            ));
        }
        std::thread::park_timeout(Duration::from_millis(100));
    };
    let applied = marked.saturating_sub(left.len());
    show.print(
        || {
            let rest = if left.is_empty() { String::new() } else { format!("\n{}", table(&left)) };
            format!("applied {applied}, {} still set aside{rest}", left.len())
        },
        || json!({ "marked": marked, "applied": applied, "left": left.iter().map(describe).collect::<Vec<_>>() }),
    );
    Ok(())
}

fn decode(held: &Held) -> Option<Event> {
    Codec::new(false).ok()?.unpack(&held.payload).ok()
}

/// An event that is set aside, as JSON; what is not known is null.
fn describe(held: &Held) -> serde_json::Value {
    let event = decode(held);
    let row = event.as_ref().map(|event| {
        event
            .row
            .iter()
            .map(|(name, value)| (name.to_string(), value_json(value)))
            .collect::<serde_json::Map<_, _>>()
    });
    json!({
        "id": held.id,
        "table": if held.table.is_empty() { None } else { Some(&held.table) },
        "state": held.state.word(),
        "why": if held.why.is_empty() { "an earlier event of its row waits" } else { &held.why },
        "missing": held.missing,
        "since": (held.since_ms > 0).then(|| clock::rfc3339(held.since_ms)),
        "stream": held.stream,
        "sequence": held.seq,
        "bytes": held.payload.len(),
        "node": event.as_ref().map(|event| event.node),
        "delete": event.as_ref().map(Event::is_tombstone),
        "row": row,
    })
}

fn table(held: &[Held]) -> String {
    if held.is_empty() {
        return "nothing is set aside".to_owned();
    }
    let mut rows = vec![["ID", "TABLE", "STATE", "SINCE", "BYTES", "WHY"].map(str::to_owned).to_vec()];
    rows.extend(held.iter().map(|held| {
        let since = if held.since_ms > 0 { age(held.since_ms) } else { "-".to_owned() };
        let why = if held.why.is_empty() { "an earlier event of its row waits" } else { &held.why };
        let table = if held.table.is_empty() { "-" } else { &held.table };
        let bytes = held.payload.len().to_string();
        vec![
            held.id.to_string(),
            printable(table),
            held.state.word().to_owned(),
            since,
            bytes,
            printable(why),
        ]
    }));
    columns(&rows)
}

fn whole(held: &Held) -> String {
    let text = serde_json::to_string_pretty(&describe(held)).unwrap_or_default();
    escaped(&text)
}
