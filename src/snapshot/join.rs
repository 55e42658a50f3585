//! The first join: a database that never followed the streams, with rows of its own, comes into a cluster.
//!
//! One node founds the cluster: it was the first to write the key `founder` in the leases' bucket, and its rows are the
//! cluster's first state, told by the first snapshot. Every other database is brought to the state of a snapshot when it joins,
//! and what it holds beyond that is treated by rule: `join = "merge"` publishes it, `"replace"` takes it out. In both cases
//! a copy of the database is kept before any value is lost.

use super::replay::{Until, replay};
use super::restore::patiently;
use super::search::{Found, Missing, Places, Search};
use super::{room, show_positions};
use crate::base::{clock, files, limits, stop::Stop};
use crate::cluster::lease;
use crate::config::{Config, Join};
use crate::db;
use crate::nats::{Entry, Error, JetStream, Kv};
use crate::storage::Store;
use crate::streams::{self, Judgement};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The key.
const FOUNDER: &str = "founder";

/// What came of a try to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The database follows the streams from a snapshot's position.
    Snapshot,
    /// The database goes on as it is.
    AsItIs,
}

/// A node that joins.
pub struct Joining {
    begun: Instant,
    search: Search,
}

impl Default for Joining {
    fn default() -> Self {
        Joining { begun: Instant::now(), search: Search::default() }
    }
}

impl Joining {
    /// One try. The error says what is missing.
    pub fn try_join(
        &mut self,
        config: &Config,
        js: &JetStream,
        store: Result<Store, String>,
        database: &mut db::Applier,
        stop: &Stop,
    ) -> Result<Joined, String> {
        let begun = Instant::now();
        let schema = db::schema_hash(&config.db_path).map_err(|error| error.to_string())?;
        let found = match &store {
            Ok(store) => self.search.find(Places { config, js, store, schema: Some(&schema) }),
            Err(why) => Err(Missing::Unreachable(why.clone())),
        };
        let found = match found {
            Ok(Some(found)) => found,
            Ok(None) => return self.without(config, js, "there is no snapshot", limits::FIRST_SNAPSHOT),
            // Too old, damaged, or without its key: another one will come, if there is a cluster. Or a disk that is full.
            Err(Missing::Waiting(why) | Missing::Failed(why)) => {
                return self.without(config, js, &why, Duration::MAX);
            }
            // A store that cannot be reached stops nobody for long.
            Err(Missing::Unreachable(why)) => return self.without(config, js, &why, limits::STORE_ABSENT),
        };
        match join_with(config, js, &found, database, stop) {
            Ok(told) => {
                log::info!(
                    "joined with {} (join = \"{}\") in {:.1} s: {told}",
                    found.name,
                    config.join.name(),
                    begun.elapsed().as_secs_f64()
                );
                Ok(Joined::Snapshot)
            }
            Err(why) => {
                self.search.failed(&found, &why);
                Err(why)
            }
        }
    }

    /// No snapshot can be had: the founder goes on, others wait for its first one, but not for ever.
    fn without(
        &self,
        config: &Config,
        js: &JetStream,
        why: &str,
        patience: Duration,
    ) -> Result<Joined, String> {
        // Who publishes nothing makes no snapshot, and has nothing that others would miss.
        let founder = if config.publish { claim(config, js)? } else { founder(config, js)? };
        match founder {
            Some(node) if node != config.node_id && self.begun.elapsed() < patience => {
                Err(format!("{why}; this node waits for one from the cluster that node {node} began"))
            }
            // Without a snapshot nobody can bridge that.
            _ if !whole(config, js)? => Err(format!("{why}; the streams no longer hold their first message")),
            Some(node) if node != config.node_id => {
                log::warn!(
                    "{why}: going on without. Rows that only this node or only the others had before stay where they are \
                     until they are written again"
                );
                Ok(Joined::AsItIs)
            }
            _ => Ok(Joined::AsItIs),
        }
    }
}

/// Brings the database to the state of a snapshot and of what the streams hold behind it; returns what that meant for its
/// rows.
fn join_with(
    config: &Config,
    js: &JetStream,
    found: &Found,
    database: &mut db::Applier,
    stop: &Stop,
) -> Result<String, String> {
    // What the streams hold behind the snapshot is the cluster's too: who was last to write a row wins there, not here.
    replay(config, js, found.path(), &Until::End, stop)?;
    let failed = |error: db::Error| error.to_string();
    let comparison = db::compare(&config.db_path, found.path()).map_err(failed)?;
    let (extra, loses) = match config.join {
        Join::Merge => (db::Extra::Publish, comparison.changed > 0 || comparison.may_collide),
        Join::Replace => (db::Extra::Remove, comparison.changed + comparison.extra > 0),
    };
    let kept = if loses { format!("; as it was: {}", keep_copy(config)?.display()) } else { String::new() };
    let applied = patiently(stop, || database.reconcile(&comparison, extra)).map_err(failed)?;
    let positions = database.positions().map_err(failed)?;
    Ok(format!(
        "{} rows came, {} had other values, {} were only here{}{kept}; position {}",
        comparison.missing,
        comparison.changed,
        comparison.extra,
        match config.join {
            Join::Merge => format!(" ({} of them are published)", applied.touched),
            Join::Replace => " and were removed".to_owned(),
        },
        show_positions(&positions)
    ))
}

/// Whether the streams hold all that was ever in them.
fn whole(config: &Config, js: &JetStream) -> Result<bool, String> {
    for shard in 1..=config.log.shards {
        let name = config.stream(shard);
        let info = js.stream(&name).map_err(|error| format!("stream {name}: {error}"))?;
        if info.is_some_and(|info| matches!(streams::judge(None, &info), Judgement::Gap(..))) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes sure that the cluster has a founder: a member of it is as good as the first one.
pub fn claim(config: &Config, js: &JetStream) -> Result<Option<u64>, String> {
    let (kv, entry) = look(config, js)?;
    if let Some(node) = entry.as_ref().and_then(node_of) {
        return Ok(Some(node));
    }
    let value = json!({ "node_id": config.node_id }).to_string();
    // Only what was looked at is overwritten.
    match kv.update(FOUNDER, value.as_bytes(), entry.map_or(0, |entry| entry.revision)) {
        Ok(_) => Ok(Some(config.node_id)),
        Err(Error::Conflict(_)) => founder(config, js),
        Err(error) => Err(failed(&error)),
    }
}

fn founder(config: &Config, js: &JetStream) -> Result<Option<u64>, String> {
    Ok(look(config, js)?.1.as_ref().and_then(node_of))
}

fn look(config: &Config, js: &JetStream) -> Result<(Kv, Option<Entry>), String> {
    let kv = Kv::open(js, lease::BUCKET, config.log.replicas).map_err(|error| failed(&error))?;
    let entry = kv.get(FOUNDER).map_err(|error| failed(&error))?;
    Ok((kv, entry))
}

fn failed(error: &Error) -> String {
    format!("key {FOUNDER}: {error}")
}

fn node_of(entry: &Entry) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(entry.value.as_ref()?).ok()?["node_id"].as_u64()
}

/// A copy of the database as it is now, under a dated name beside it.
fn keep_copy(config: &Config) -> Result<PathBuf, String> {
    let path = &config.db_path;
    let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
    room(&files::parent(path), size * 2)?;
    let copy = files::Temporary::new(files::beside(path, ".harmonylite-aside"));
    db::copy(path, copy.path()).map_err(|error| format!("copy {}: {error}", path.display()))?;
    let name = files::beside(path, &format!(".before-join-{}", clock::compact(clock::unix_ms())));
    files::publish_new(copy.path(), &name).map_err(|error| format!("{}: {error}", name.display()))?;
    Ok(name)
}
