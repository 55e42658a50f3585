//! Reading one change stream in order, from a position on, whatever happens to the broker: the follower reads so for ever,
//! a replay up to a bound.

use super::format::format_of;
use super::judge::{Judgement, judge};
use super::made::{reach_of, size_of};
use crate::base::{clock, error, limits};
use crate::model::gate::{self, Part};
use crate::model::moments::Moments;
use crate::model::{origin::Origin, positions::Position, reach::Reach, set::Format};
use crate::nats::{Consumer, JetStream, Message, Pull, Step, StreamInfo};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::time::Instant;

/// A message of a change stream.
#[derive(Debug)]
pub struct Item {
    /// Its sequence.
    pub seq: u64,
    /// The publisher and its change-log id, for messages of ours.
    pub origin: Option<(Origin, i64)>,
    /// Where it stands in the change set of its publisher.
    pub part: Part,
    /// When the server stored it, Unix milliseconds by its clock.
    pub time_ms: i64,
    /// Nothing more was in the stream when it was delivered.
    pub is_last: bool,
    pub payload: Vec<u8>,
}

/// A queue for the messages of `readers` readers: their pulls never ask for more than has room in it.
pub fn queue(readers: usize) -> (Sender<Message>, Receiver<Message>) {
    bounded(limits::PULL_BATCH * 2 * readers.max(1))
}

/// One stream, and the consumer on the server by which it is read.
pub struct Reader {
    js: JetStream,
    stream: String,
    deliver: Sender<Message>,
    consumer: Option<Consumer>,
    progress: Progress,
    format: Format,
    reach: Reach,
    size: u64,
    created: String,
    in_memory: bool,
}

impl Reader {
    /// A reader that is not connected yet; the consumer's messages come into the queue of `deliver`.
    pub fn new(js: &JetStream, stream: String, deliver: Sender<Message>) -> Reader {
        Reader {
            js: js.clone(),
            stream,
            deliver,
            consumer: None,
            progress: Progress::default(),
            format: Format::Rows,
            reach: Reach::of_messages(u64::MAX),
            size: 0,
            created: String::new(),
            in_memory: false,
        }
    }

    /// Whether the broker keeps the stream in memory alone.
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// In which form changes are to be published in it, as it was when it was connected.
    pub fn format(&self) -> Format {
        self.format
    }

    /// How far the stream reached back, and the size of its messages in the middle, when it was connected.
    pub fn reach(&self) -> (Reach, u64) {
        (self.reach, self.size)
    }

    /// Whether it reads, as far as it knows.
    pub fn is_connected(&self) -> bool {
        self.consumer.is_some()
    }

    /// Gives up its consumer: what was read and not used will be read again.
    pub fn disconnect(&mut self) {
        self.consumer = None;
    }

    /// Begins to read after `position`, or at the first message without one; with a gap it does not. `moments`: of messages that were
    /// read before. `None`: there is no such stream.
    pub fn connect(
        &mut self,
        position: Option<&Position>,
        moments: &Moments,
    ) -> Result<Option<Judgement>, error::Error> {
        self.consumer = None;
        let Some(info) = self.js.stream(&self.stream)? else { return Ok(None) };
        self.format = format_of(&info)?;
        (self.reach, self.size) = (reach_of(&info), size_of(&info));
        self.created.clone_from(&info.created);
        self.in_memory = info.config["storage"] == "memory";
        let judgement = match self.lost_after(position, moments, &info)? {
            Some(seq) => {
                let why = format!("holds other messages after {seq} than this node has read");
                Judgement::Changed(Position { seq, created: info.created.clone() }, why)
            }
            None => judge(position, &info),
        };
        let (Judgement::Continue(position) | Judgement::Changed(position, _)) = &judgement else {
            return Ok(Some(judgement));
        };
        let pull = Pull {
            stream: &self.stream,
            filter: None,
            start: position.seq.saturating_add(1),
            batch: limits::PULL_BATCH,
        };
        self.consumer = Some(Consumer::open(&self.js, &pull, self.deliver.clone())?);
        self.progress.begin(position.seq, &info);
        Ok(Some(judgement))
    }

    /// Up to where the same stream is what it was, if it has lost messages that were read from it.
    fn lost_after(
        &self,
        position: Option<&Position>,
        moments: &Moments,
        info: &StreamInfo,
    ) -> Result<Option<u64>, error::Error> {
        let Some(position) = position.filter(|position| position.created == info.created) else {
            return Ok(None);
        };
        let stored = |seq| {
            let time = self.js.message_time(&self.stream, seq)?;
            Ok::<_, error::Error>(time.and_then(|time| clock::parse(&time)))
        };
        let lost = moments.lost_after((info.state.first_seq, info.state.last_seq), stored)?;
        Ok(lost.map(|seq| seq.min(position.seq)))
    }

    /// When the stream was created that it was connected to last.
    pub fn created(&self) -> &str {
        &self.created
    }

    /// Gives up a consumer that is of no use any more.
    pub fn check(&mut self, now: Instant) {
        if let Some(why) = self.consumer.as_ref().and_then(|consumer| consumer.trouble(now)) {
            self.give_up(&why);
        }
    }

    fn give_up(&mut self, why: &str) {
        log::debug!("stream {}: {why}; reading it anew", self.stream);
        self.consumer = None;
    }

    /// Whether a message of the queue is this reader's. One of a consumer that was given up is nobody's.
    pub fn owns(&self, message: &Message) -> bool {
        self.consumer.as_ref().is_some_and(|consumer| consumer.owns(message))
    }

    /// Takes a message of its own. `None`: it holds nothing for the caller, or the reader has to be connected anew.
    pub fn take(&mut self, message: Message, now: Instant) -> Option<Item> {
        let item = match self.consumer.as_mut()?.on_message(message, now) {
            Step::Nothing => return None,
            Step::Rebuild(why) => {
                self.give_up(&why);
                return None;
            }
            Step::Item(item) => item,
        };
        if self.progress.skips(item.seq) && !self.holds_all_up_to(item.seq) {
            self.give_up("messages are gone, or were never there");
            return None;
        }
        self.progress.read(item.seq, item.pending);
        let origin = item.message.headers.get("Nats-Msg-Id").and_then(Origin::parse_message_id);
        let part = Part::of_header(item.message.headers.get(gate::HEADER));
        let (payload, is_last) = (item.message.payload, item.pending == 0);
        Some(Item { seq: item.seq, origin, part, time_ms: item.time_ms, is_last, payload })
    }

    /// A sequence was left out: that message was deleted, or the stream moved on past us, or somebody forged the delivery to
    /// make us believe that we are far ahead. The stream's state tells.
    fn holds_all_up_to(&self, seq: u64) -> bool {
        matches!(self.js.stream(&self.stream), Ok(Some(info)) if self.progress.may_skip_to(seq, &info))
    }

    /// Whether a reader who has used everything up to `seq` has all that the stream held at the first look.
    pub fn has_caught_up(&self, seq: u64) -> bool {
        self.progress.target.is_some_and(|target| seq >= target)
    }
}

/// How far a reader has come.
#[derive(Debug, Default)]
struct Progress {
    /// Sequence of the last message that was handed out, or the position from which it reads.
    last: u64,
    /// Last sequence of the stream at the first look: up to there the reader is catching up.
    target: Option<u64>,
}

impl Progress {
    fn begin(&mut self, position: u64, info: &StreamInfo) {
        self.last = position;
        let end = if info.state.messages == 0 { position } else { info.state.last_seq };
        self.target.get_or_insert(end);
    }

    /// Whether `seq` is not the next one.
    fn skips(&self, seq: u64) -> bool {
        seq > self.last.saturating_add(1)
    }

    /// Whether the messages between the last one and `seq` were deleted one by one: the stream goes on from the last one, and
    /// reaches to `seq`.
    fn may_skip_to(&self, seq: u64, info: &StreamInfo) -> bool {
        info.state.first_seq <= self.last.saturating_add(1) && seq <= info.state.last_seq
    }

    fn read(&mut self, seq: u64, pending: u64) {
        self.last = seq;
        // Caught up also when the stream holds nothing more, whatever its last sequence is.
        if pending == 0 && self.target.is_some_and(|target| target > seq) {
            self.target = Some(seq);
        }
    }
}

/// How long a consumer may be silent before a replay gives it up.
pub fn is_silent(heard: Instant, now: Instant) -> bool {
    now.saturating_duration_since(heard) > limits::PULL_SILENCE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::StreamState;

    fn info(messages: u64, first_seq: u64, last_seq: u64) -> StreamInfo {
        let state = StreamState { messages, first_seq, last_seq, ..StreamState::default() };
        StreamInfo { config: serde_json::Value::Null, created: "a".into(), state, ts: String::new() }
    }

    #[test]
    fn the_target_is_what_the_stream_held_at_the_first_look() {
        let mut progress = Progress::default();
        progress.begin(3, &info(9, 1, 9));
        assert_eq!((progress.last, progress.target), (3, Some(9)));
        progress.read(4, 5);
        // Connected anew, when the stream has grown.
        progress.begin(4, &info(20, 1, 20));
        assert_eq!((progress.last, progress.target), (4, Some(9)));
    }

    #[test]
    fn an_empty_stream_has_nothing_to_catch_up_with() {
        let mut progress = Progress::default();
        progress.begin(5, &info(0, 6, 5));
        assert_eq!(progress.target, Some(5));
    }

    #[test]
    fn deleted_messages_at_the_end_are_not_waited_for() {
        let mut progress = Progress::default();
        progress.begin(0, &info(3, 1, 9));
        progress.read(7, 0);
        assert_eq!(progress.target, Some(7));
        progress.read(12, 0);
        assert_eq!(progress.target, Some(7), "what comes later is no part of catching up");
    }

    #[test]
    fn a_sequence_that_is_left_out_is_noticed() {
        let mut progress = Progress::default();
        progress.begin(4, &info(9, 1, 9));
        assert!(!progress.skips(5) && progress.skips(6));
        assert!(progress.may_skip_to(9, &info(3, 1, 9)), "single messages were deleted");
        assert!(!progress.may_skip_to(9, &info(3, 6, 9)), "the stream moved on");
        assert!(!progress.may_skip_to(10, &info(3, 1, 9)), "the stream never had it");
        progress.read(5, 4);
        assert!(!progress.skips(6) && progress.skips(7));
    }

    #[test]
    fn silence_has_a_bound() {
        let start = Instant::now();
        assert!(!is_silent(start, start + limits::PULL_SILENCE));
        assert!(is_silent(start, start + limits::PULL_SILENCE * 2));
    }
}
