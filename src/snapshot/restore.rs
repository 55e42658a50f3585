//! Getting the database back from a snapshot: for a node that has none, and for one that fell behind the streams.

use super::inspect::{Fault, fetch};
use super::{store, wanted};
use crate::config::Config;
use crate::db;
use crate::files::{self, Temporary};
use crate::limits;
use crate::nats::{Connection, JetStream};
use crate::replicator;
use crate::retry::Backoff;
use crate::seqmap::SeqMap;
use crate::stop::Stop;
use crate::storage::{Store, Stored};
use std::time::Instant;

/// A snapshot that was found to be no good, so that it is not downloaded again: which one, and why.
#[derive(Debug, Default)]
pub struct Damaged {
    identity: String,
    why: String,
}

/// Why there is no restored database yet.
enum Missing {
    /// Nobody but others can change that: it is said once.
    Waiting(String),
    /// A try failed.
    Failed(String),
}

impl From<String> for Missing {
    fn from(why: String) -> Missing {
        Missing::Failed(why)
    }
}

/// Gets a database for a node that has none: waits for a snapshot, or for somebody to put a database there.
/// Returns false when stopped.
pub fn restore_missing(config: &Config, connection: &Connection, stop: &Stop) -> Result<bool, String> {
    let store = store(config, Some(connection), stop)?;
    let mut backoff = Backoff::default();
    let mut said = String::new();
    let mut damaged = Damaged::default();
    loop {
        if config.db_path.exists() {
            return Ok(true);
        }
        let why = match try_restore(config, connection, &store, &mut damaged) {
            Ok(()) => return Ok(true),
            Err(Missing::Waiting(why)) => why,
            Err(Missing::Failed(why)) => format!("restore: {why}; trying again"),
        };
        if said != why && !stop.requested() {
            log::warn!("{}: no such file; {why}", config.db_path.display());
            said = why;
        }
        if backoff.wait(stop) {
            return Ok(false);
        }
    }
}

/// One try.
fn try_restore(
    config: &Config,
    connection: &Connection,
    store: &Store,
    damaged: &mut Damaged,
) -> Result<(), Missing> {
    connection.wait_up(limits::API_TIMEOUT).map_err(|error| format!("waiting for NATS ({error})"))?;
    if !config.snapshot.enabled {
        let why = "snapshots are disabled: waiting for the application to create it";
        return Err(Missing::Waiting(why.to_owned()));
    }
    let found = store
        .stat(limits::SNAPSHOT_NAME)
        .map_err(|error| format!("look at {}: {error}", store.describe()))?;
    let Some(stored) = found else {
        return Err(Missing::Waiting(format!(
            "waiting for a snapshot in {}, or for the application to create the database",
            store.describe()
        )));
    };
    let js = JetStream::new(connection.clone());
    let begun = Instant::now();
    let download = download_fitting(config, &js, store, &stored, damaged)?;
    match files::publish_new(download.path(), &config.db_path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(format!("{}: {error}", config.db_path.display()).into()),
    }
    // A sequence map of the lost database would say more than the restored one holds.
    let _ = std::fs::remove_file(&config.seq_map_path);
    log::info!(
        "restored {} from snapshot {} of {}: {} bytes in {:.1} s",
        config.db_path.display(),
        stored.name,
        store.describe(),
        stored.size,
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Downloads a snapshot, checks it and makes it this node's, with a position in every stream. Where the store knows its
/// position, one that is too old is not downloaded. For one that is too old or damaged, the leader is asked for another.
fn download_fitting(
    config: &Config,
    js: &JetStream,
    store: &Store,
    stored: &Stored,
    damaged: &mut Damaged,
) -> Result<Temporary, Missing> {
    let identity = format!("{} {}", stored.version, stored.label.digest);
    let bad = |why: &str| {
        ask(config, js, &SeqMap::new(), &stored.label.digest);
        Missing::Waiting(format!(
            "the snapshot in {} is damaged ({why}): waiting for another",
            store.describe()
        ))
    };
    if damaged.identity == identity {
        return Err(bad(&damaged.why));
    }
    if !stored.label.positions.is_empty() {
        begin_behind(config, js, &stored.label.positions)?;
    }
    let download = Temporary::new(files::beside(&config.db_path, ".harmonylite-download"));
    let checked = match fetch(config, store, stored, &download) {
        Ok(_) => db::make_ready(download.path()),
        Err(Fault::Snapshot(why)) => Err(db::Error::Corrupt(why)),
        Err(Fault::Other(why)) => return Err(why.into()),
    };
    let positions = match checked {
        Ok(positions) => positions,
        Err(db::Error::Corrupt(why)) => {
            let error = bad(&why);
            *damaged = Damaged { identity, why };
            return Err(error);
        }
        Err(error) => return Err(error.to_string().into()),
    };
    let begin = begin_behind(config, js, &positions)?;
    db::set_positions(download.path(), &begin).map_err(|error| error.to_string())?;
    Ok(download)
}

/// Asks the leader for a snapshot that serves; that it could not be asked changes nothing for us.
fn ask(config: &Config, js: &JetStream, positions: &SeqMap, instead_of: &str) {
    let wanted = wanted::Wanted {
        node_id: config.node_id,
        positions: positions.clone(),
        instead_of: instead_of.to_owned(),
        revision: 0,
    };
    match wanted::ask(js, config.log.replicas, &wanted) {
        Ok(true) => log::info!("asked the leader for a fresh snapshot"),
        Ok(false) => {}
        Err(error) => log::debug!("ask for a fresh snapshot: {error}"),
    }
}

/// Brings a database that fell behind the streams to the state of the stored snapshot, under a live application. The error
/// says what is missing.
pub fn restore_live(
    config: &Config,
    js: &JetStream,
    store: &Store,
    database: &mut db::Applier,
    damaged: &mut Damaged,
) -> Result<(), String> {
    let found = store.stat(limits::SNAPSHOT_NAME);
    let found = found.map_err(|error| format!("look at {}: {error}", store.describe()))?;
    let Some(stored) = found else {
        return Err(format!("this node is not whole and waits for a snapshot in {}", store.describe()));
    };
    // Its position is known without a download, unless a Go node made it.
    if stored.label.positions.is_empty() {
        return Err(
            "the stored snapshot has no position (a Go node made it): this node waits for one that has"
                .to_owned(),
        );
    }
    let begun = Instant::now();
    let download = match download_fitting(config, js, store, &stored, damaged) {
        Ok(download) => download,
        Err(Missing::Waiting(why) | Missing::Failed(why)) => return Err(why),
    };
    let applied = database.reconcile(download.path()).map_err(|error| error.to_string())?;
    log::info!(
        "brought the database to the state of snapshot {}: {} rows written or deleted, {:.1} s",
        stored.name,
        applied.rows,
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Positions of streams that a snapshot does not know (a Go node's knows none): they are replayed from their first
/// message. An error when the streams no longer hold what comes after the snapshot: a fresh one is asked for.
fn begin_behind(
    config: &Config,
    js: &JetStream,
    positions: &SeqMap,
) -> Result<Vec<(String, db::Position)>, Missing> {
    let mut begin = vec![];
    let mut needed = SeqMap::new();
    let mut too_old = None;
    for shard in 1..=config.log.shards {
        let name = config.stream(shard);
        let info = match js.stream(&name) {
            Ok(Some(info)) => info,
            Ok(None) => continue,
            Err(error) => return Err(format!("stream {name}: {error}").into()),
        };
        needed.insert(name.clone(), info.state.first_seq.saturating_sub(1));
        let Some(seq) = positions.get(&name) else {
            let seq = info.state.first_seq.saturating_sub(1);
            begin.push((name, db::Position { seq, created: info.created }));
            continue;
        };
        let position = db::Position { seq: *seq, created: String::new() };
        if let replicator::Judgement::Gap(first, last) = replicator::judge(Some(&position), &info) {
            too_old = Some(format!(
                "the snapshot in the store is too old (messages {first} to {last} of stream {name} are gone): waiting for a \
                 fresh one; -save-snapshot on a healthy node makes it"
            ));
        }
    }
    match too_old {
        None => Ok(begin),
        Some(why) => {
            ask(config, js, &needed, "");
            Err(Missing::Waiting(why))
        }
    }
}
