//! Whether the streams still hold what comes after a snapshot's position, so that a database can begin with it.

use super::Node;
use crate::base::error::{Context, Error};
use crate::model::positions::{Position, SeqMap};
use crate::nats::StreamInfo;
use crate::streams::{self, Judgement};

/// The streams that exist, with their names.
pub type Streams = Vec<(String, StreamInfo)>;

/// Asks the broker for the state of all streams.
pub fn look(node: Node<'_>) -> Result<Streams, Error> {
    let mut found = vec![];
    for name in node.config.streams() {
        // One that does not exist will be created empty.
        if let Some(info) = node.js().stream(&name).context(format!("stream {name}"))? {
            found.push((name, info));
        }
    }
    Ok(found)
}

/// How the streams relate to a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin {
    /// They hold everything after it. Streams that it does not know (a Go node's snapshot knows none) are to be read after
    /// these positions, that is from their first message on.
    After(Vec<(String, Position)>),
    TooOld(Gap),
}

/// What lies between a snapshot and the streams, and is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Gap {
    pub stream: String,
    /// Sequence of the first message that is gone.
    pub first: u64,
    /// Sequence of the last message that is gone.
    pub last: u64,
    /// The lowest positions after which the streams hold everything.
    pub needed: SeqMap,
}

/// Judges a snapshot by its positions.
pub fn judge(streams: &Streams, positions: &SeqMap) -> Begin {
    let before_first = |info: &StreamInfo| info.state.first_seq.saturating_sub(1);
    let mut unknown = vec![];
    for (name, info) in streams {
        let Some(seq) = positions.get(name) else {
            let position = Position { seq: before_first(info), created: info.created.clone() };
            unknown.push((name.clone(), position));
            continue;
        };
        // A label does not say when its streams were created: one that was created anew is noticed when it is read.
        let position = Position { seq: *seq, created: String::new() };
        if let Judgement::Gap(first, last) = streams::judge(Some(&position), info) {
            let needed = streams.iter().map(|(name, info)| (name.clone(), before_first(info))).collect();
            return Begin::TooOld(Gap { stream: name.clone(), first, last, needed });
        }
    }
    Begin::After(unknown)
}

/// Whether the streams hold all that was ever in them.
pub fn hold_everything(streams: &Streams) -> bool {
    !streams.iter().any(|(_, info)| matches!(streams::judge(None, info), Judgement::Gap(..)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::StreamState;

    fn streams(all: &[(&str, u64, u64)]) -> Streams {
        let info = |first_seq, last_seq| StreamInfo {
            config: serde_json::Value::Null,
            created: "a".into(),
            state: StreamState { first_seq, last_seq, ..StreamState::default() },
            ts: String::new(),
        };
        all.iter().map(|(name, first, last)| ((*name).to_owned(), info(*first, *last))).collect()
    }

    fn map(pairs: &[(&str, u64)]) -> SeqMap {
        pairs.iter().map(|(name, seq)| ((*name).to_owned(), *seq)).collect()
    }

    #[test]
    fn a_snapshot_that_the_streams_continue_serves() {
        let streams = streams(&[("x", 6, 9), ("y", 1, 3)]);
        assert_eq!(judge(&streams, &map(&[("x", 5), ("y", 0)])), Begin::After(vec![]));
        assert_eq!(judge(&streams, &map(&[("x", 9), ("y", 3)])), Begin::After(vec![]));
    }

    #[test]
    fn one_that_is_too_old_tells_the_gap_and_what_would_serve() {
        let Begin::TooOld(gap) = judge(&streams(&[("x", 6, 9), ("y", 3, 3)]), &map(&[("x", 4), ("y", 2)]))
        else {
            panic!("message 5 of x is gone");
        };
        assert_eq!((gap.stream.as_str(), gap.first, gap.last), ("x", 5, 5));
        assert_eq!(gap.needed, map(&[("x", 5), ("y", 2)]));
    }

    #[test]
    fn one_gap_in_any_stream_is_enough() {
        let streams = streams(&[("x", 1, 9), ("y", 8, 9)]);
        let Begin::TooOld(gap) = judge(&streams, &map(&[("x", 9), ("y", 2)])) else { panic!("y has a gap") };
        assert_eq!((gap.stream.as_str(), gap.first, gap.last), ("y", 3, 7));
    }

    #[test]
    fn a_stream_that_a_snapshot_does_not_know_is_read_from_its_first_message() {
        let Begin::After(unknown) = judge(&streams(&[("x", 6, 9), ("y", 1, 3)]), &SeqMap::new()) else {
            panic!("no position cannot be too old");
        };
        let at = |seq| Position { seq, created: "a".into() };
        assert_eq!(unknown, [("x".to_owned(), at(5)), ("y".to_owned(), at(0))]);
    }

    #[test]
    fn streams_that_lost_their_first_message_do_not_hold_everything() {
        assert!(hold_everything(&streams(&[])));
        assert!(hold_everything(&streams(&[("x", 1, 9), ("y", 0, 0)])));
        assert!(!hold_everything(&streams(&[("x", 1, 9), ("y", 2, 9)])));
    }
}
