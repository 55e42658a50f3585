//! The database as it was: from a kept snapshot, and what the streams hold after it.

use super::inspect::{list, put_in_place, refuse_existing};
use super::replay::{Until, replay};
use super::restore::patiently;
use super::scratch::{about_copy, beside, scratch};
use super::transfer::fetch;
use super::{Node, show_positions};
use crate::base::clock;
use crate::base::error::{Context, Error, Kind};
use crate::base::temporary::Temporary;
use crate::config::Config;
use crate::db;
use crate::model::positions::SeqMap;
use crate::nats::JetStream;
use crate::storage::{Store, Stored};
use std::path::Path;

/// A database as it was.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The snapshot that it began with.
    pub from: Stored,
    /// Number of messages that were replayed.
    pub messages: u64,
    /// Where the restored database stands.
    pub positions: SeqMap,
}

/// Reads `TIME|POSITION`: a time in RFC 3339 (`2026-11-24T15:00:00Z`, or without a zone, which is UTC), a sequence
/// (`1234`, with one stream), or `stream=sequence,...`.
pub fn parse_when(config: &Config, text: &str) -> Result<Until, Error> {
    let streams: Vec<String> = (1..=config.log.shards).map(|shard| config.stream(shard)).collect();
    parse(&streams, text)
}

fn parse(streams: &[String], text: &str) -> Result<Until, Error> {
    let wrong = || {
        Error::usage(format!(
            "{text}: accepted is a time (2026-11-24T15:00:00Z, 2026-11-24 15:00:00 in UTC) or a position (1234 with one stream, \
             or {}=1234,... for all)",
            streams.first().map_or("stream", String::as_str)
        ))
    };
    if let Ok(seq) = text.parse::<u64>() {
        return match streams {
            [stream] => Ok(Until::Positions([(stream.clone(), seq)].into())),
            _ => Err(wrong()),
        };
    }
    if !text.contains('=') {
        return clock::parse(text).map(Until::Time).ok_or_else(wrong);
    }
    let mut positions = SeqMap::new();
    for pair in text.split([',', ' ']).filter(|pair| !pair.is_empty()) {
        let (stream, seq) = pair.split_once('=').ok_or_else(wrong)?;
        if !streams.iter().any(|known| known == stream) {
            let known = streams.join(", ");
            return Err(Error::usage(format!("{stream}: no stream of this cluster; there is {known}")));
        }
        positions.insert(stream.to_owned(), seq.parse().map_err(|_| wrong())?);
    }
    match streams.iter().find(|stream| !positions.contains_key(*stream)) {
        Some(missing) => Err(Error::usage(format!("{text}: no sequence for stream {missing}"))),
        None => Ok(Until::Positions(positions)),
    }
}

/// Writes the state at a moment or position to a file that must not exist, with nothing of ours in it.
pub fn restore_at(node: Node<'_>, store: &Store, until: &Until, target: &Path) -> Result<Restored, Error> {
    refuse_existing(target)?;
    let (copy, restored) = state_at((node, store), until, || beside(target, "download"), &[])?;
    db::strip_snapshot(copy.path()).map_err(about_copy).context(&restored.from.name)?;
    put_in_place(&copy, target)?;
    Ok(restored)
}

/// Brings the whole cluster to the state at a moment or position: what differs in this node's database is written there as writes of
/// this node. Returns the numbers of rows that were deleted and written, too.
pub fn restore_everywhere(
    node: Node<'_>,
    store: &Store,
    until: &Until,
) -> Result<(Restored, [u64; 2]), Error> {
    let path = &node.config.db_path;
    let (copy, restored) = state_at((node, store), until, || scratch(node.config, "everywhere"), &[])?;
    let mut database = db::Applier::open(path, node.config.node_id, &node.config.streams())?;
    let written = patiently(node.stop, || {
        let comparison = db::compare(path, copy.path())?;
        database.write_everywhere(&comparison)?;
        Ok([comparison.extra, comparison.missing + comparison.changed])
    })?;
    Ok((restored, written))
}

/// Brings a copy of the newest snapshot that is old enough to a moment or position. Its maker must have replicated these `tables`.
pub fn state_at(
    (node, store): (Node<'_>, &Store),
    until: &Until,
    scratch: impl Fn() -> Result<Temporary, Error>,
    tables: &[String],
) -> Result<(Temporary, Restored), Error> {
    let mut found = list(store)?;
    // The newest first: the least to replay.
    found.sort_by_key(|stored| std::cmp::Reverse(stored.label.time_ms));
    let mut why = format!("{}: there is no snapshot", store.describe());
    for stored in found {
        if let Some(unfit) = unfit(node.js(), &stored, until)? {
            why = format!("{}: {unfit}", stored.name);
            continue;
        }
        let copy = scratch()?;
        match fetch(store, &stored, &copy) {
            Ok(_) => {}
            Err(error) if error.kind() == Kind::Unusable => {
                log::warn!("{}: {error}", stored.name);
                why = format!("{}: {error}", stored.name);
                continue;
            }
            Err(error) => return Err(error),
        }
        db::make_ready(copy.path(), &node.config.tables).map_err(about_copy).context(&stored.name)?;
        let lacking = db::included_in(copy.path()).map_err(about_copy).context(&stored.name)?;
        if let Some(table) =
            lacking.iter().find(|lacking| tables.iter().any(|t| t.eq_ignore_ascii_case(lacking)))
        {
            why = format!("{}: its maker does not replicate table {table}", stored.name);
            continue;
        }
        let messages = replay(node, copy.path(), until).context(format!("from {}", stored.name))?;
        let positions = db::positions_of(copy.path()).map_err(about_copy).context(&stored.name)?;
        return Ok((copy, Restored { from: stored, messages, positions }));
    }
    Err(Error::new(Kind::Missing, format!("no kept snapshot is old enough: {why}")))
}

/// Finds out what was written in tables that were built anew while nothing captured them: what differs from the state at the
/// database's own position is published. Nothing else may be applied meanwhile.
pub fn settle_rebuilt(node: Node<'_>, store: &Store, database: &mut db::Applier) -> Result<(), Error> {
    let positions = database.positions()?;
    let tables = database.rebuilt()?;
    if tables.is_empty() {
        return Ok(());
    }
    let until = Until::Positions(positions);
    let agreed = state_at((node, store), &until, || scratch(node.config, "agreed"), &tables);
    let agreed = match agreed {
        Ok((copy, _)) => Some(copy),
        // No snapshot tells what was agreed.
        Err(error) if error.kind() == Kind::Missing && list(store)?.iter().all(is_unplaced) => None,
        Err(error) => return Err(error),
    };
    if let Some(agreed) = &agreed {
        database.carry_over(agreed.path()).map_err(about_copy).context("copy of the agreed state")?;
    }
    let path = &node.config.db_path;
    let found = patiently(node.stop, || database.log_rebuilt(path, agreed.as_ref().map(Temporary::path)))?;
    found.tell(agreed.is_some());
    Ok(())
}

/// Whether a Go node made it, which knows no position.
fn is_unplaced(stored: &Stored) -> bool {
    stored.label.positions.is_empty()
}

/// Why a snapshot cannot be brought forward to the bound; `None`: it can.
fn unfit(js: &JetStream, stored: &Stored, until: &Until) -> Result<Option<String>, Error> {
    if let Some(why) = stored.refused() {
        return Ok(Some(why.to_owned()));
    }
    let positions = &stored.label.positions;
    if positions.is_empty() {
        return Ok(Some("has no position (a Go node made it)".to_owned()));
    }
    match until {
        Until::End => Ok(None),
        Until::Positions(wanted) if is_beyond(positions, wanted) => {
            Ok(Some(format!("stands at {}", show_positions(positions))))
        }
        Until::Positions(_) => Ok(None),
        Until::Time(time) => {
            for (stream, seq) in positions {
                if made_at(js, stored, (stream, *seq))? > *time {
                    return Ok(Some(format!("is of {}", clock::rfc3339(stored.label.time_ms))));
                }
            }
            Ok(None)
        }
    }
}

/// Whether a snapshot holds more of any stream than is wanted.
fn is_beyond(positions: &SeqMap, wanted: &SeqMap) -> bool {
    positions.iter().any(|(stream, seq)| wanted.get(stream).is_none_or(|wanted| wanted < seq))
}

/// When the last message of a stream that the snapshot holds was stored, by the server's clock, which also judges what is
/// replayed; by the clock of the snapshot's maker when the stream does not hold that message. Unix milliseconds.
fn made_at(js: &JetStream, stored: &Stored, (stream, seq): (&str, u64)) -> Result<i64, Error> {
    let time = match seq {
        0 => None,
        seq => js.message_time(stream, seq).context(format!("stream {stream}, message {seq}"))?,
    };
    Ok(time.and_then(|text| clock::parse(&text)).unwrap_or(stored.label.time_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn map(pairs: &[(&str, u64)]) -> SeqMap {
        pairs.iter().map(|(name, seq)| ((*name).to_owned(), *seq)).collect()
    }

    fn positions(streams: &[String], text: &str) -> SeqMap {
        match parse(streams, text).unwrap() {
            Until::Positions(positions) => positions,
            other => panic!("{other:?}"),
        }
    }

    fn refused(streams: &[String], text: &str) -> String {
        let error = parse(streams, text).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        error.to_string()
    }

    #[test]
    fn a_bare_sequence_needs_a_single_stream() {
        assert_eq!(positions(&streams(&["c-1"]), "1234"), map(&[("c-1", 1234)]));
        assert!(refused(&streams(&["c-1", "c-2"]), "1234").contains("c-1=1234,... for all"));
    }

    #[test]
    fn a_position_names_every_stream() {
        let both = streams(&["c-1", "c-2"]);
        assert_eq!(positions(&both, "c-2=7,c-1=3"), map(&[("c-1", 3), ("c-2", 7)]));
        assert_eq!(positions(&both, "c-1=3 c-2=7"), map(&[("c-1", 3), ("c-2", 7)]));
        assert_eq!(refused(&both, "c-1=3"), "c-1=3: no sequence for stream c-2");
        assert_eq!(refused(&both, "c-3=3"), "c-3: no stream of this cluster; there is c-1, c-2");
        assert!(refused(&both, "c-1=three,c-2=7").contains("accepted is"));
    }

    #[test]
    fn anything_else_is_a_time() {
        let one = streams(&["c-1"]);
        assert!(matches!(parse(&one, "2026-11-24T13:15:00Z"), Ok(Until::Time(1_795_526_100_000))));
        assert!(refused(&one, "yesterday").starts_with("yesterday: accepted is a time"));
        assert!(parse(&one, "-5").is_err());
    }

    #[test]
    fn a_snapshot_that_holds_more_than_is_wanted_does_not_serve() {
        let wanted = map(&[("a", 5), ("b", 7)]);
        assert!(!is_beyond(&map(&[("a", 5), ("b", 0)]), &wanted));
        assert!(is_beyond(&map(&[("a", 6), ("b", 0)]), &wanted));
        assert!(is_beyond(&map(&[("c", 0)]), &wanted), "a stream that nobody asked for");
    }
}
