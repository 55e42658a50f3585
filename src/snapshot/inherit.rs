//! A database on which the Go program worked last.
//!
//! Its positions are a promise that it does not keep: it passes over rows without a word. So what the streams still hold is folded
//! once more, in a scratch copy, and only what differs is written: readers see no older state of a row on the way.

use super::begin::{self, Begin, Streams};
use super::join::keep_copy;
use super::replay::{Until, replay};
use super::restore::patiently;
use super::scratch::{about_copy, need_room, scratch, size};
use super::{Node, show_positions};
use crate::base::error::{Context, Error};
use crate::base::{files, limits};
use crate::db::{self, Extra, Stamp};
use crate::model::event::Event;
use crate::model::payload::{Codec, Payload};
use crate::model::positions::{Position, SeqMap};
use crate::streams::{self, Judgement};
use std::time::Instant;

/// Takes over a database that has followed the streams up to the positions of a Go node's sequence map. Afterwards it has positions.
pub fn inherit(node: Node<'_>, map: &SeqMap, database: &mut db::Applier) -> Result<(), Error> {
    let streams = begin::look(node)?;
    if !go_on(&streams, map) {
        log::warn!(
            "taking over the database of a Go node, which was away for longer than the streams reach, or followed other streams ({})",
            show_positions(map)
        );
        return take_positions(node, map, database);
    }
    let Begin::After(first) = begin::judge(&streams, &SeqMap::new()) else {
        return take_positions(node, map, database);
    };
    let begun = Instant::now();
    let path = &node.config.db_path;
    let copy = scratch(node.config, "inherited")?;
    need_room(&files::parent(copy.path()), size(path) * 2)?;
    let made = db::make_snapshot(path, &files::parent(copy.path()), &Stamp::default())
        .context(format!("copy {}", path.display()))?;
    let folded = made.file.path();
    db::make_ready(folded, &node.config.tables)
        .and_then(|_| db::set_positions(folded, &first))
        .map_err(about_copy)?;
    let messages = replay(node, folded, &Until::End)?;
    let comparison = db::compare(path, folded)?;
    let loses = comparison.changed + comparison.extra > 0;
    let kept =
        if loses { format!("; as it was: {}", keep_copy(node.config)?.display()) } else { String::new() };
    // What was captured and not published stays: it is later.
    let applied = patiently(node.stop, || database.reconcile(&comparison, Extra::Remove))?;
    log::warn!(
        "took over the database of a Go node, which passes over rows without a word: the {messages} messages that the streams hold were \
         compared with it, and {} rows that were not as they say are now{kept} ({:.1} s). Rows that it passed over before are as they were: \
         for a whole database, remove this one, and a snapshot takes its place",
        applied.rows,
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Whether all streams go on after positions.
fn go_on(streams: &Streams, map: &SeqMap) -> bool {
    streams.iter().all(|(name, info)| {
        let position = map.get(name).map(|seq| Position { seq: *seq, created: String::new() });
        matches!(streams::judge(position.as_ref(), info), Judgement::Continue(_))
    })
}

/// The follower goes on from there, and sees what is to be done.
fn take_positions(node: Node<'_>, map: &SeqMap, database: &mut db::Applier) -> Result<(), Error> {
    for (number, stream) in node.config.streams().iter().enumerate() {
        if let Some(seq) = map.get(stream) {
            database.set_position(number, &Position { seq: *seq, created: String::new() })?;
        }
    }
    Ok(())
}

/// A Go node has worked on a database of ours. What it applied looks like writes of the application; entries of the log that have nothing
/// to publish go, before anything is published.
pub fn end_visit(node: Node<'_>, reached: &SeqMap, database: &mut db::Applier) -> Result<(), Error> {
    let positions = database.positions()?;
    let mut codec = Codec::new(false).map_err(|error| Error::local(error.to_string()))?;
    let mut events: Vec<Event> = vec![];
    for (stream, info) in begin::look(node)? {
        let last = reached.get(&stream).copied().unwrap_or(0).min(info.state.last_seq);
        let ours = positions.get(&stream).copied().unwrap_or(0);
        let first = ours.max(last.saturating_sub(limits::VISIT_MESSAGES)) + 1;
        for seq in first.max(info.state.first_seq)..=last {
            if node.stop.requested() {
                return Err(Error::stopped());
            }
            let message = node.js().message_of(&stream, seq).context(format!("stream {stream}"))?;
            match message.map(|payload| codec.read(&payload)) {
                Some(Ok(Payload::Row(event))) => events.push(event),
                Some(Ok(Payload::Set(set))) => events.extend(set),
                Some(Err(_)) | None => {}
            }
        }
    }
    let settled = patiently(node.stop, || database.end_visit(&events))?;
    log::warn!(
        "a Go node has worked on this database since we did: {settled} of the changes that it left are those of other nodes, and are not \
         published. Run -cleanup before you change programs"
    );
    Ok(())
}
