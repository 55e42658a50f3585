//! `-schema-status`: the schema of this database, and what waits because of it. `-schema-status-cluster`: the schemas of all nodes.

use super::Show;
use super::shown::{age, columns, printable};
use super::snapshots::with_broker;
use crate::base::clock;
use crate::base::error::{Context, Error, Kind};
use crate::base::stop::Stop;
use crate::cluster::registry::{Known, Registry, TableTold, Told};
use crate::cluster::{Bucket, teller};
use crate::config::Config;
use crate::db::{self, AsideState, Described, Held};
use crate::nats::JetStream;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Characters of a hash that are shown in a table.
const HASH: usize = 12;
/// Differences that are shown of a node.
const DIFFERENCES: usize = 20;

/// Events of a table that wait for a table or column.
#[derive(Default)]
struct Waiting {
    events: usize,
    since_ms: i64,
    columns: BTreeSet<String>,
}

fn waiting(held: &[Held]) -> BTreeMap<&str, Waiting> {
    let mut tables: BTreeMap<&str, Waiting> = BTreeMap::new();
    for held in held.iter().filter(|held| held.state != AsideState::Refused) {
        let of = tables.entry(&held.table).or_default();
        of.events += 1;
        if of.since_ms == 0 || (held.since_ms > 0 && held.since_ms < of.since_ms) {
            of.since_ms = held.since_ms;
        }
        of.columns.extend(held.missing.iter().cloned());
    }
    tables
}

fn short(hash: &str) -> String {
    if hash.is_empty() { "-".to_owned() } else { printable(&hash.chars().take(HASH).collect::<String>()) }
}

/// `-schema-status`, beside a running daemon or without one.
pub fn status(config: &Config, show: Show) -> Result<(), Error> {
    let path = &config.db_path;
    if !path.exists() {
        return Err(Error::new(Kind::Missing, format!("{}: no such file", path.display())));
    }
    let schema = db::describe(path).context(path.display())?;
    let held = db::list_aside(path).context(path.display())?;
    let waiting = waiting(&held);
    show.print(|| status_text(&schema, &waiting), || status_json(config, &schema, &waiting));
    Ok(())
}

/// What is not replicated, and why.
fn left_out(schema: &Described) -> Vec<(&str, &str)> {
    let excluded = schema.excluded.iter().map(|name| (name.as_str(), "as the lists of tables say"));
    let refused = schema.refused.iter().map(|(name, why)| (name.as_str(), why.as_str()));
    let virtuals = schema.virtuals.iter().map(|name| (name.as_str(), "a virtual table"));
    excluded.chain(refused).chain(virtuals).collect()
}

fn status_text(schema: &Described, waiting: &BTreeMap<&str, Waiting>) -> String {
    let before =
        if schema.previous.is_empty() { String::new() } else { format!(", before {}", schema.previous) };
    let mut lines = vec![format!("schema {}{before}", schema.hash)];
    let mut rows = vec![["TABLE", "HASH", "COLUMNS", "STATE"].map(str::to_owned).to_vec()];
    rows.extend(schema.tables.iter().map(|(name, hash, columns)| {
        let joins = schema.included.iter().any(|included| included.eq_ignore_ascii_case(name));
        let state =
            if joins { "replicated from now on; not yet as the cluster has it" } else { "replicated" };
        vec![printable(name), short(hash), columns.len().to_string(), state.to_owned()]
    }));
    rows.extend(left_out(schema).into_iter().map(|(name, why)| {
        vec![printable(name), "-".to_owned(), "-".to_owned(), format!("not replicated: {}", printable(why))]
    }));
    lines.push(columns(&rows));
    lines.extend(waiting.iter().map(|(table, of)| {
        let since =
            if of.since_ms > 0 { format!(", the oldest for {}", age(of.since_ms)) } else { String::new() };
        let lacks = match of.columns.is_empty() {
            true => "for the table".to_owned(),
            false => format!("for {}", printable(&of.columns.iter().cloned().collect::<Vec<_>>().join(", "))),
        };
        format!("table {}: {} events wait {lacks}{since}", printable(table), of.events)
    }));
    lines.join("\n")
}

fn status_json(config: &Config, schema: &Described, waiting: &BTreeMap<&str, Waiting>) -> Value {
    let tables: Vec<Value> = schema
        .tables
        .iter()
        .map(|(name, hash, columns)| {
            let columns: Vec<Value> =
                columns.iter().map(|(name, kind)| json!({ "name": name, "type": kind })).collect();
            json!({ "name": name, "hash": hash, "columns": columns })
        })
        .collect();
    let out: Vec<Value> =
        left_out(schema).into_iter().map(|(name, why)| json!({ "name": name, "why": why })).collect();
    let waiting: Vec<Value> = waiting
        .iter()
        .map(|(table, of)| {
            let since = (of.since_ms > 0).then(|| clock::rfc3339(of.since_ms));
            json!({ "table": table, "events": of.events, "since": since, "columns": of.columns })
        })
        .collect();
    json!({
        "node_id": config.node_id,
        "schema_hash": schema.hash,
        "previous_hash": if schema.previous.is_empty() { None } else { Some(&schema.previous) },
        "tables": tables,
        "not_replicated": out,
        "joining": schema.included,
        "waiting": waiting,
    })
}

/// `-schema-status-cluster`.
pub fn status_of_cluster(config: &Config, stop: &Stop, show: Show) -> Result<(), Error> {
    let ours = match config.db_path.exists() {
        true => {
            let schema = db::describe(&config.db_path).context(config.db_path.display())?;
            let held = db::list_aside(&config.db_path).context(config.db_path.display())?;
            let events = waiting(&held).values().map(|of| of.events).sum::<usize>();
            Some(teller::told(config, &schema, events as u64))
        }
        false => None,
    };
    let broker = with_broker(config, stop)?;
    let bucket = Bucket::new(&JetStream::new(broker.connection.clone()), config.log.replicas);
    let forget = i64::try_from(config.forget_nodes_after.as_millis()).unwrap_or(i64::MAX);
    let known = Registry::new(&bucket).all(forget);
    broker.stop();
    let mut known = known?;
    if let Some(ours) = ours {
        // What this database has now; whether a daemon runs, the registry knows.
        match known.iter_mut().find(|known| known.told.node == config.node_id) {
            Some(known) => known.told = Told { updated_ms: known.told.updated_ms, ..ours },
            None => known.push(Known { told: ours, runs: false }),
        }
    }
    let right = right_one(&known, config.node_id);
    show.print(|| cluster_text(&known, right), || cluster_json(&known, right));
    Ok(())
}

/// The node that the others are compared with: one whose schema most of the running ones have; among equals this one.
fn right_one(known: &[Known], me: u64) -> Option<&Told> {
    let count = |hash: &str| known.iter().filter(|other| other.runs && other.told.hash == hash).count();
    known
        .iter()
        .max_by_key(|one| (count(&one.told.hash), one.told.tables.is_some(), one.told.node == me))
        .map(|known| &known.told)
}

fn cluster_text(known: &[Known], right: Option<&Told>) -> String {
    let Some(right) = right else { return "no node has told its schema yet".to_owned() };
    let mut rows =
        vec![["NODE", "SCHEMA", "BEFORE", "VERSION", "TOLD", "WAITING", "STATE"].map(str::to_owned).to_vec()];
    rows.extend(known.iter().map(|Known { told, runs }| {
        let equal = if told.hash == right.hash { "equal" } else { "differs" };
        let role = if told.read_replica { ", read replica" } else { "" };
        let runs = if *runs { "" } else { ", does not run" };
        vec![
            told.node.to_string(),
            short(&told.hash),
            short(&told.previous),
            printable(&told.version),
            if told.updated_ms > 0 { format!("{} ago", age(told.updated_ms)) } else { "-".to_owned() },
            told.waiting.to_string(),
            format!("{equal}{role}{runs}"),
        ]
    }));
    let mut lines = vec![columns(&rows)];
    for Known { told, .. } in known.iter().filter(|known| known.told.hash != right.hash) {
        let found = differences(right, told);
        let more = found.len().saturating_sub(DIFFERENCES);
        lines.push(format!("node {} {}, beside node {}:", told.node, verdict(right, told), right.node));
        lines.extend(found.iter().take(DIFFERENCES).map(|line| format!("  {}", printable(line))));
        if more > 0 {
            lines.push(format!("  and {more} more"));
        }
        lines.push(format!(
            "  what to do: bring node {} to the same schema (the same migrations) and lists of tables",
            told.node
        ));
    }
    lines.join("\n")
}

/// Which of two schemas is the older one, if that can be told.
fn verdict(right: &Told, other: &Told) -> &'static str {
    if other.hash == right.previous {
        "lags: it has the schema of before"
    } else if right.hash == other.previous {
        "is ahead: it has had the schema of the others before"
    } else {
        "has another schema"
    }
}

fn cluster_json(known: &[Known], right: Option<&Told>) -> Value {
    let nodes: Vec<Value> = known
        .iter()
        .map(|Known { told, runs }| {
            let equal = right.is_some_and(|right| right.hash == told.hash);
            let found = right.filter(|_| !equal).map(|right| differences(right, told)).unwrap_or_default();
            json!({
                "node_id": told.node,
                "schema_hash": told.hash,
                "previous_hash": if told.previous.is_empty() { None } else { Some(&told.previous) },
                "version": told.version,
                "updated_at": (told.updated_ms > 0).then(|| clock::rfc3339(told.updated_ms)),
                "runs": runs,
                "read_replica": told.read_replica,
                "equal": equal,
                "waiting": told.waiting,
                "joining": told.included,
                "verdict": right.filter(|_| !equal).map(|right| verdict(right, told)),
                "differences": found,
            })
        })
        .collect();
    let equal =
        known.iter().filter(|known| known.runs).all(|known| Some(&known.told.hash) == right.map(|r| &r.hash));
    json!({ "equal": equal, "compared_with": right.map(|right| right.node), "nodes": nodes })
}

/// In which tables and columns a node differs.
fn differences(right: &Told, other: &Told) -> Vec<String> {
    let (Some(ours), Some(theirs)) = (&right.tables, &other.tables) else {
        return vec!["it is a Go node, which tells no tables".to_owned()];
    };
    let mut found = vec![];
    for (name, table) in ours {
        let excludes = other.excluded.iter().any(|excluded| excluded.eq_ignore_ascii_case(name));
        match theirs.get(name) {
            Some(other) if other.hash != table.hash => found.extend(of_columns(name, table, other)),
            Some(_) => {}
            None if excludes => found.push(format!("table {name}: its lists of tables leave it out")),
            None if other.left_out > 0 => {}
            None => found.push(format!("table {name}: it has none, or cannot replicate it")),
        }
    }
    let is_more = |name: &&String| !ours.contains_key(*name) && right.left_out == 0;
    found.extend(theirs.keys().filter(is_more).map(|name| format!("table {name}: only it has that")));
    let untold = right.left_out.max(other.left_out);
    if untold > 0 {
        found.push(format!("up to {untold} tables are too many to be told"));
    }
    found
}

fn of_columns(table: &str, right: &TableTold, other: &TableTold) -> Vec<String> {
    if right.columns.is_empty() || other.columns.is_empty() {
        return vec![format!("table {table}: other columns")];
    }
    let mut found = vec![];
    for (name, kind) in &right.columns {
        match other.columns.get(name) {
            Some(theirs) if theirs != kind => {
                let or = |kind: &String| if kind.is_empty() { "no type".to_owned() } else { kind.clone() };
                found.push(format!("table {table}: column {name} is {}, not {}", or(theirs), or(kind)));
            }
            Some(_) => {}
            None => found.push(format!("table {table}: column {name} lacks")),
        }
    }
    let more = other.columns.keys().filter(|name| !right.columns.contains_key(*name));
    found.extend(more.map(|name| format!("table {table}: column {name} is only there")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(node: u64, hash: &str, tables: &[(&str, &[(&str, &str)])]) -> Told {
        let table = |(name, columns): &(&str, &[(&str, &str)])| {
            let columns: BTreeMap<String, String> =
                columns.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect();
            ((*name).to_owned(), TableTold { hash: format!("{columns:?}"), columns })
        };
        let tables = Some(tables.iter().map(table).collect());
        Told { node, hash: hash.to_owned(), tables, ..Told::default() }
    }

    #[test]
    fn differences_name_table_and_column() {
        let right = told(
            1,
            "b",
            &[
                ("t", &[("id", "INTEGER"), ("v", "TEXT"), ("w", "")]),
                ("gone", &[("a", "")]),
                ("out", &[("a", "")]),
            ],
        );
        let mut other =
            told(2, "a", &[("t", &[("id", "INTEGER"), ("v", "BLOB"), ("old", "")]), ("more", &[("a", "")])]);
        other.excluded = vec!["OUT".to_owned()];
        assert_eq!(
            differences(&right, &other),
            [
                "table gone: it has none, or cannot replicate it",
                "table out: its lists of tables leave it out",
                "table t: column v is BLOB, not TEXT",
                "table t: column w lacks",
                "table t: column old is only there",
                "table more: only it has that",
            ]
        );
        let go = Told { tables: None, ..other };
        assert_eq!(differences(&right, &go).len(), 1);
    }

    #[test]
    fn the_schema_that_most_running_nodes_have_is_right() {
        let known = |node, hash: &str, runs| Known { told: told(node, hash, &[]), runs };
        let all = [
            known(1, "a", true),
            known(2, "b", true),
            known(3, "b", true),
            known(4, "a", false),
            known(5, "a", false),
        ];
        assert_eq!(right_one(&all, 1).unwrap().hash, "b");
        assert_eq!(right_one(&all[..2], 1).unwrap().node, 1, "among equals this one");
        assert_eq!(right_one(&[], 1), None);
        let mut lags = told(2, "a", &[]);
        let right = Told { previous: "a".to_owned(), ..told(1, "b", &[]) };
        assert!(verdict(&right, &lags).starts_with("lags"));
        lags.hash = "c".to_owned();
        lags.previous = "b".to_owned();
        assert!(verdict(&right, &lags).starts_with("is ahead"));
    }
}
