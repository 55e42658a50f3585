//! The database as it was: from a kept snapshot, and what the streams hold behind it.

use super::inspect::{Fault, fetch};
use super::replay::{Until, replay};
use super::show_positions;
use crate::base::files::{self, Temporary};
use crate::base::{clock, stop::Stop};
use crate::config::Config;
use crate::db;
use crate::model::positions::SeqMap;
use crate::nats::JetStream;
use crate::storage::{Store, Stored};
use std::path::Path;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The snapshot that it began with.
    pub from: Stored,
    /// Messages replayed.
    pub messages: u64,
    /// Where the database stands now.
    pub positions: SeqMap,
}

/// Reads `TIME|POSITION`: a time in RFC 3339 (`2026-11-24T15:00:00Z`, or without a zone, which is UTC), a sequence
/// (`1234`, with one stream), or `stream=sequence,...`.
pub fn parse_when(config: &Config, text: &str) -> Result<Until, String> {
    let wrong = || {
        format!(
            "{text}: accepted is a time (2026-11-24T15:00:00Z, 2026-11-24 15:00:00 in UTC) or a position (1234 with one stream, \
             or {}=1234,... for all)",
            config.stream(1)
        )
    };
    if let Ok(seq) = text.parse::<u64>() {
        return if config.log.shards == 1 {
            Ok(Until::Positions([(config.stream(1), seq)].into()))
        } else {
            Err(wrong())
        };
    }
    if !text.contains('=') {
        return clock::parse(text).map(Until::Time).ok_or_else(wrong);
    }
    let streams: Vec<String> = (1..=config.log.shards).map(|shard| config.stream(shard)).collect();
    let mut positions = SeqMap::new();
    for pair in text.split([',', ' ']).filter(|pair| !pair.is_empty()) {
        let (stream, seq) = pair.split_once('=').ok_or_else(wrong)?;
        if !streams.iter().any(|known| known == stream) {
            return Err(format!("{stream}: no stream of this cluster; there is {}", streams.join(", ")));
        }
        positions.insert(stream.to_owned(), seq.parse().map_err(|_| wrong())?);
    }
    match streams.iter().find(|stream| !positions.contains_key(*stream)) {
        Some(missing) => Err(format!("{text}: no sequence for stream {missing}")),
        None => Ok(Until::Positions(positions)),
    }
}

/// Writes the state at a moment or position to a file that must not exist, with nothing of ours in it.
pub fn restore_at(
    config: &Config,
    js: &JetStream,
    store: &Store,
    until: &Until,
    target: &Path,
    stop: &Stop,
) -> Result<Restored, String> {
    let exists = || format!("{}: exists already, and is not overwritten", target.display());
    if target.exists() {
        return Err(exists());
    }
    let mut found = super::list(store)?;
    // The newest first: the least to replay.
    found.sort_by_key(|stored| std::cmp::Reverse(stored.label.time_ms));
    let mut why = format!("{}: there is no snapshot", store.describe());
    for stored in found {
        if let Err(unfit) = fits(js, &stored, until)? {
            why = format!("{}: {unfit}", stored.name);
            continue;
        }
        let scratch = Temporary::new(files::beside(target, ".harmonylite-download"));
        match fetch(config, store, &stored, &scratch) {
            Ok(_) => {}
            Err(Fault::Snapshot(bad)) => {
                log::warn!("{}: {bad}", stored.name);
                why = format!("{}: {bad}", stored.name);
                continue;
            }
            Err(Fault::Store(error) | Fault::Local(error)) => return Err(error),
        }
        let failed = |error: db::Error| format!("{}: {error}", stored.name);
        db::make_ready(scratch.path()).map_err(failed)?;
        let messages = replay(config, js, scratch.path(), until, stop)
            .map_err(|error| format!("from {}: {error}", stored.name))?;
        let positions = db::positions_of(scratch.path()).map_err(failed)?;
        db::strip(scratch.path()).map_err(failed)?;
        return match files::publish_new(scratch.path(), target) {
            Ok(()) => Ok(Restored { from: stored, messages, positions }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists()),
            Err(error) => Err(format!("{}: {error}", target.display())),
        };
    }
    Err(format!("no kept snapshot is old enough: {why}"))
}

/// Whether a snapshot stands before the bound. The inner error: why not.
fn fits(js: &JetStream, stored: &Stored, until: &Until) -> Result<Result<(), String>, String> {
    let positions = &stored.label.positions;
    if positions.is_empty() {
        return Ok(Err("has no position (a Go node made it)".to_owned()));
    }
    for (stream, seq) in positions {
        match until {
            Until::End => {}
            Until::Positions(wanted) => {
                if wanted.get(stream).is_none_or(|wanted| wanted < seq) {
                    return Ok(Err(format!("stands at {}", show_positions(positions))));
                }
            }
            // What the snapshot holds is judged by the server's clock, as what is replayed is.
            Until::Time(time) => {
                let stored_at = match seq {
                    0 => None,
                    seq => js
                        .message_time(stream, *seq)
                        .map_err(|error| format!("stream {stream}, message {seq}: {error}"))?,
                };
                // Gone from the stream, or before its first message: as the maker's clock said.
                let last = stored_at.and_then(|text| clock::parse(&text)).unwrap_or(stored.label.time_ms);
                if last > *time {
                    return Ok(Err(format!("is of {}", clock::rfc3339(stored.label.time_ms))));
                }
            }
        }
    }
    Ok(Ok(()))
}
