//! `-migrate`, `-migrate-status` and `-schema-undo`: changes of the schema by hand, and what became of them.

use super::Show;
use super::shown::{age, printable};
use super::snapshots::with_broker;
use crate::base::error::{Context, Error, Kind};
use crate::base::temporary::Temporary;
use crate::base::{clock, limits, random::random_u64, stop::Stop};
use crate::broker::Broker;
use crate::cluster::{Bucket, migration, registry::Registry};
use crate::config::Config;
use crate::db::{self, ChangeState};
use crate::model::change::{Change, Script};
use crate::model::payload::Codec;
use crate::model::{origin::Origin, set::Format};
use crate::nats::JetStream;
use crate::streams;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Tries a file of statements on a copy of the database and, unless `dry_run`, lets every node run it at the same place among the
/// changes of rows. [`Kind::Refused`]: another migration is under way, or a node could not run it.
pub fn migrate(
    config: &Config,
    stop: &Stop,
    show: Show,
    (file, dry_run): (&Path, bool),
) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::usage(format!("{}: {error}", file.display()));
    let sql = std::fs::read_to_string(file).map_err(failed)?;
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    let script = Script { name, sql };
    let tried = try_it(config, &script)?;
    let schema = if tried.schema.is_empty() { "nothing" } else { &tried.schema };
    let [before, after] = [tried.bytes.0, tried.bytes.1].map(|bytes| bytes.div_ceil(1_000));
    let seconds = tried.took.as_secs_f64();
    let copy = format!("on a copy: {seconds:.2} s, {before} KB before, {after} KB after; schema: {schema}");
    if dry_run {
        let value =
            json!({ "file": script.name, "dry_run": true, "seconds": seconds, "schema": tried.schema });
        show.print(|| format!("{copy}\nnothing was published (-dry-run)"), || value);
        return Ok(());
    }
    let mut change = Change::new(config.node_id, clock::unix_ms(), ("", ""), vec![]);
    change.script = Some(script);
    let broker = with_broker(config, stop)?;
    let states = publish(config, stop, &broker, &change);
    broker.stop();
    let states = states?;
    let bad = states.values().filter(|why| !why.is_empty()).count();
    let lines = || {
        let lines = states.iter().map(|(node, why)| format!("node {node}: {}", state_word(why)));
        std::iter::once(copy.clone()).chain(lines).map(|line| printable(&line)).collect::<Vec<_>>().join("\n")
    };
    show.print(lines, || {
        json!({ "file": change.summary(), "id": change.id, "dry_run": false, "seconds": seconds, "schema": tried.schema,
            "nodes": states_json(&states) })
    });
    match (states.is_empty(), bad) {
        (true, _) => Err(Error::waiting(
            "it is published, and no node has said yet what became of it: -migrate-status",
        )),
        (_, 0) => Ok(()),
        _ => Err(Error::new(
            Kind::Refused,
            format!("{bad} nodes could not run it and try again: -migrate-status"),
        )),
    }
}

fn state_word(why: &str) -> String {
    if why.is_empty() { "done".to_owned() } else { format!("failed: {why}") }
}

fn states_json(states: &migration::States) -> Value {
    states.iter().map(|(node, why)| json!({ "node": node, "done": why.is_empty(), "why": why })).collect()
}

fn try_it(config: &Config, script: &Script) -> Result<db::ScriptTried, Error> {
    let path = &config.db_path;
    let copy = Temporary::new(&config.temp_dir(), path, "migration")
        .map_err(|error| Error::local(format!("{}: {error}", config.temp_dir().display())))?;
    db::copy_database(path, copy.path()).context(path.display())?;
    let tried = db::try_script(copy.path(), script);
    tried.map_err(|error| Error::new(Kind::Refused, format!("{error} (on a copy; nothing was changed)")))
}

fn publish(
    config: &Config,
    stop: &Stop,
    broker: &Broker,
    change: &Change,
) -> Result<migration::States, Error> {
    let js = JetStream::new(broker.connection.clone());
    let stream = config.stream(1);
    let info = js.stream(&stream).context(format!("stream {stream}"))?;
    let info =
        info.ok_or_else(|| Error::waiting(format!("stream {stream} is not there: start a daemon first")))?;
    if !config.schema_travels {
        return Err(Error::usage("schema = \"own\": each node is migrated by itself"));
    }
    if streams::format_of(&info)? != Format::Sets {
        return Err(Error::new(
            Kind::Refused,
            format!(
                "stream {stream} holds rows, which Go nodes read, and no migrations: -stream-format sets"
            ),
        ));
    }
    let bucket = Bucket::new(&js, config.log.replicas);
    let name = change.summary();
    let lock = migration::Lock { id: change.id.clone(), name, node: config.node_id, time_ms: change.time_ms };
    let revision = match migration::begin(&bucket, &lock)? {
        Ok(revision) => revision,
        Err(held) => {
            let since = age(held.time_ms);
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "{} was begun on node {} {since} ago and is not through: try again",
                    held.name, held.node
                ),
            ));
        }
    };
    let sent = send(config, &js, change).and_then(|()| watch(&bucket, stop, change));
    migration::end(&bucket, revision)?;
    sent
}

fn send(config: &Config, js: &JetStream, change: &Change) -> Result<(), Error> {
    let mut codec =
        Codec::new(config.log.compress).map_err(|error| Error::local(format!("zstd: {error}")))?;
    let event = change.event(1);
    let payload = codec.pack_set([&event]).map_err(|error| Error::local(format!("zstd: {error}")))?;
    let id = Origin { node: config.node_id, incarnation: random_u64() }.message_id(1, 0);
    let sent = js.publish(&config.subject(1), &[("Nats-Msg-Id", id.as_str())], &payload);
    sent.map(drop).map_err(Error::from)
}

/// Waits until all nodes that are there have told what became of it: those of the registry, or none of them for a while any more. One that
/// has just died is still in it.
fn watch(bucket: &Bucket, stop: &Stop, change: &Change) -> Result<migration::States, Error> {
    let (begun, mut last) = (Instant::now(), Instant::now());
    let nodes = Registry::new(bucket).running()?;
    let mut states = migration::States::new();
    loop {
        let now = migration::told(bucket, &change.id)?;
        if now != states {
            (states, last) = (now, Instant::now());
        }
        let quiet = !states.is_empty() && last.elapsed() > limits::MIGRATION_QUIET;
        let all = !nodes.is_empty() && nodes.iter().all(|told| states.contains_key(&told.node));
        if all || quiet || begun.elapsed() > limits::MIGRATION_WAIT {
            return Ok(states);
        }
        if stop.wait(Duration::from_millis(50)) {
            return Err(Error::stopped());
        }
    }
}

/// Shows the changes of the schema that this node has seen and, of those that a person published, what other nodes tell.
pub fn migrate_status(config: &Config, stop: &Stop, show: Show) -> Result<(), Error> {
    let path = &config.db_path;
    let all = db::changes(path).context(path.display())?;
    let mut told = vec![migration::States::new(); all.len()];
    if all.iter().any(|past| past.change.script.is_some()) {
        let broker = with_broker(config, stop)?;
        let bucket = Bucket::new(&JetStream::new(broker.connection.clone()), config.log.replicas);
        for (past, told) in all.iter().zip(&mut told).filter(|(past, _)| past.change.script.is_some()) {
            *told = migration::told(&bucket, &past.change.id)?;
        }
        broker.stop();
    }
    let lines = || {
        let line = |past: &db::PastChange, told: &migration::States| {
            let nodes: Vec<String> =
                told.iter().map(|(node, why)| format!("node {node} {}", state_word(why))).collect();
            let why = if past.why.is_empty() { String::new() } else { format!(": {}", past.why) };
            let nodes = if nodes.is_empty() { String::new() } else { format!("; {}", nodes.join(", ")) };
            let (made, state) = (clock::rfc3339(past.time_ms), past.state.word());
            printable(&format!(
                "{made}  node {}  {}  {state}{why}{nodes}",
                past.change.node,
                past.change.summary()
            ))
        };
        let lines: Vec<String> = all.iter().zip(&told).map(|(past, told)| line(past, told)).collect();
        if lines.is_empty() { "no change of the schema was seen here".to_owned() } else { lines.join("\n") }
    };
    show.print(lines, || {
        let value = |past: &db::PastChange, told: &migration::States| {
            json!({ "id": past.change.id, "node": past.change.node, "time": clock::rfc3339(past.time_ms),
                "what": past.change.summary(), "state": past.state.word(), "why": past.why, "nodes": states_json(told) })
        };
        all.iter().zip(&told).map(|(past, told)| value(past, told)).collect()
    });
    match all.iter().filter(|past| past.state == ChangeState::Failed).count() {
        0 => Ok(()),
        failed => Err(Error::new(
            Kind::Unusable,
            format!("{failed} changes of the schema could not be carried out here"),
        )),
    }
}

/// Without a number, lists what this node keeps of what others have dropped; with one, brings it back on all nodes.
pub fn schema_undo(config: &Config, show: Show, id: Option<i64>) -> Result<(), Error> {
    let path = &config.db_path;
    if let Some(id) = id {
        let rows = db::undo(path, id).context(path.display())?;
        let rows = rows.ok_or_else(|| {
            Error::new(Kind::Missing, format!("{id}: nothing is kept under this number (-schema-undo lists)"))
        })?;
        show.print(
            || format!("brought back, {rows} rows; a running daemon publishes it"),
            || json!({ "id": id, "rows": rows }),
        );
        return Ok(());
    }
    let all = db::kept_of(path).context(path.display())?;
    let what = |kept: &db::KeptThing| match kept.column.as_str() {
        "" => format!("table {}", kept.table),
        column => format!("table {}, column {column}", kept.table),
    };
    let lines = || match all.as_slice() {
        [] => "nothing is kept here; a node keeps what another one has dropped".to_owned(),
        all => {
            let line = |kept: &db::KeptThing| {
                printable(&format!("{}  {}  {}", kept.id, clock::rfc3339(kept.time_ms), what(kept)))
            };
            all.iter().map(line).collect::<Vec<_>>().join("\n")
        }
    };
    show.print(lines, || {
        let value = |kept: &db::KeptThing| {
            json!({ "id": kept.id, "table": kept.table, "column": kept.column, "time": clock::rfc3339(kept.time_ms) })
        };
        all.iter().map(value).collect()
    });
    Ok(())
}
