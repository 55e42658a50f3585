//! A stream judged against a position: whether it holds what comes next, and whether it is the same stream.

use crate::model::positions::Position;
use crate::nats::StreamInfo;

/// How a stream relates to the position from which it is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Its messages after this position are the next ones.
    Continue(Position),
    /// It is another stream under the same name, or one that lost its tail: this position is in the stream as it is now, its
    /// messages after it are the next ones, and what has not come back must be published again. The text says what changed.
    Changed(Position, String),
    /// It does not hold what comes next: the first and the last sequence that are gone.
    Gap(u64, u64),
}

/// Judges a stream against a position; `None`: nothing of it was ever applied.
pub fn judge(position: Option<&Position>, info: &StreamInfo) -> Judgement {
    let created = info.created.clone();
    let at = |seq: u64| Position { seq, created: created.clone() };
    let (seq, changed) = match position {
        None => (0, None),
        Some(position) if !position.created.is_empty() && position.created != created => {
            (0, Some(format!("was created anew at {created}")))
        }
        Some(position) if position.seq > info.state.last_seq => {
            let text =
                format!("ends at {}, this node had applied up to {}", info.state.last_seq, position.seq);
            (info.state.last_seq, Some(text))
        }
        Some(position) => (position.seq, None),
    };
    if info.state.first_seq > seq.saturating_add(1) {
        return Judgement::Gap(seq + 1, info.state.first_seq - 1);
    }
    match changed {
        Some(why) => Judgement::Changed(at(seq), why),
        None => Judgement::Continue(at(seq)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::StreamState;
    use serde_json::Value;

    fn info(created: &str, first_seq: u64, last_seq: u64) -> StreamInfo {
        let state = StreamState { first_seq, last_seq, ..StreamState::default() };
        StreamInfo { config: Value::Null, created: created.into(), state, ts: String::new() }
    }

    fn position(seq: u64, created: &str) -> Position {
        Position { seq, created: created.into() }
    }

    #[test]
    fn judgements() {
        let at = |seq, created: &str| Judgement::Continue(position(seq, created));
        assert_eq!(judge(None, &info("a", 0, 0)), at(0, "a"));
        assert_eq!(judge(None, &info("a", 1, 9)), at(0, "a"));
        assert_eq!(judge(None, &info("a", 2, 9)), Judgement::Gap(1, 1));
        assert_eq!(judge(Some(&position(5, "a")), &info("a", 1, 9)), at(5, "a"));
        // The last message before ours is the first one gone: nothing is missed.
        assert_eq!(judge(Some(&position(5, "a")), &info("a", 6, 9)), at(5, "a"));
        assert_eq!(judge(Some(&position(5, "a")), &info("a", 7, 9)), Judgement::Gap(6, 6));
        assert_eq!(judge(Some(&position(5, "")), &info("a", 1, 9)), at(5, "a"));
        let Judgement::Changed(now, _) = judge(Some(&position(5, "a")), &info("b", 1, 9)) else { panic!() };
        assert_eq!(now, position(0, "b"));
        let Judgement::Changed(now, _) = judge(Some(&position(9, "a")), &info("a", 1, 7)) else { panic!() };
        assert_eq!(now, position(7, "a"));
        assert_eq!(judge(Some(&position(5, "a")), &info("b", 4, 9)), Judgement::Gap(1, 3));
        let end = u64::MAX;
        assert_eq!(judge(Some(&position(end, "a")), &info("a", 1, end)), at(end, "a"));
        assert_eq!(judge(Some(&position(5, "a")), &info("a", end, end)), Judgement::Gap(6, end - 1));
    }
}
