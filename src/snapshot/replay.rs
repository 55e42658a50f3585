//! Bringing a scratch copy of the database forward: what the streams hold after its positions is applied, up to a bound.

use super::Node;
use super::scratch::about_copy;
use crate::base::error::{Context, Error, Kind};
use crate::base::{limits, progress};
use crate::db::{self, Ends, Incoming};
use crate::model::gate::{Arrival, Gate};
use crate::model::positions::{Position, SeqMap};
use crate::nats::{Message, StreamInfo};
use crate::streams::{self, Item, Judgement, Reader, queue};
use crossbeam_channel::{Receiver, RecvTimeoutError, select};
use std::path::Path;
use std::time::{Duration, Instant};

/// Pause before a stream is read anew.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a reader with nothing to apply waits for a message before it looks after its consumer.
const LOOK: Duration = Duration::from_millis(500);
/// How long waiting events wait for more of them.
const COMPANY: Duration = Duration::from_millis(1);

/// Up to where a stream is replayed.
#[derive(Clone, Debug)]
pub enum Until {
    /// Its end, as it is at the first look.
    End,
    /// A sequence, for each stream; streams that are not named stay where they are.
    Positions(SeqMap),
    /// A moment, Unix milliseconds: later messages are left out.
    Time(i64),
}

impl Until {
    /// The last sequence that may be of interest.
    fn last(&self, stream: &str, info: &StreamInfo) -> u64 {
        match self {
            Until::End | Until::Time(_) => info.state.last_seq,
            Until::Positions(positions) => positions.get(stream).copied().unwrap_or(0),
        }
    }

    /// What becomes of a message, when `last` is the last sequence of interest.
    fn treat(&self, last: u64, item: &Item) -> Treatment {
        let is_later = matches!(self, Until::Time(time) if item.time_ms > *time);
        if item.seq > last || is_later {
            Treatment::End
        } else if item.seq == last || item.is_last {
            Treatment::ApplyAndEnd
        } else {
            Treatment::Apply
        }
    }
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
enum Treatment {
    Apply,
    /// It is the last one of interest.
    ApplyAndEnd,
    /// It lies beyond the bound.
    End,
}

/// Brings the database file at `path`, which nobody else uses, forward; returns the number of messages that were applied.
/// [`Kind::Missing`]: a stream does not hold what is wanted of it.
pub fn replay(node: Node<'_>, path: &Path, until: &Until) -> Result<u64, Error> {
    let streams = node.config.streams();
    let open = db::Applier::open(path, node.config.node_id, &streams);
    let mut database = open.map_err(about_copy).context("copy of the snapshot")?;
    if node.config.schema_travels {
        database.travel(false).map_err(about_copy).context("copy of the snapshot")?;
    }
    let mut count = 0;
    for (number, stream) in streams.iter().enumerate() {
        let Some(info) = node.js().stream(stream).context(format!("stream {stream}"))? else { continue };
        let position = database.position(number).map_err(about_copy).context("copy of the snapshot")?;
        let last = until.last(stream, &info);
        if !is_to_be_read(position.as_ref(), last, &info).context(format!("stream {stream}"))? {
            continue;
        }
        let (deliver, queue) = queue(1);
        let reader = Reader::new(node.js(), stream.clone(), deliver);
        let mut replaying = Replaying {
            node,
            number,
            reader,
            queue,
            database: &mut database,
            until,
            last,
            gate: Gate::default(),
            batch: vec![],
            count: 0,
            shown: progress::Line::default(),
        };
        replaying.run().context(format!("replay stream {stream}"))?;
        count += replaying.count;
    }
    Ok(count)
}

/// Whether a stream has to be read up to `last`.
fn is_to_be_read(position: Option<&Position>, last: u64, info: &StreamInfo) -> Result<bool, Error> {
    let position = after(streams::judge(position, info))?;
    if last > info.state.last_seq {
        let text = format!("ends at {}, before {last}", info.state.last_seq);
        return Err(Error::new(Kind::Missing, text));
    }
    Ok(last > position.seq && info.state.messages > 0)
}

/// The position after which a stream is read, if it is the same stream and holds what comes next.
fn after(judgement: Judgement) -> Result<Position, Error> {
    match judgement {
        Judgement::Continue(position) => Ok(position),
        Judgement::Changed(_, why) => Err(Error::new(Kind::Missing, why)),
        Judgement::Gap(first, last) => {
            Err(Error::new(Kind::Missing, format!("no longer holds messages {first} to {last}")))
        }
    }
}

/// One stream on its way into the scratch copy.
struct Replaying<'a> {
    node: Node<'a>,
    /// The stream's number in the database.
    number: usize,
    reader: Reader,
    queue: Receiver<Message>,
    database: &'a mut db::Applier,
    until: &'a Until,
    last: u64,
    /// The parts of open change sets.
    gate: Gate<Incoming>,
    /// Read, and not applied yet.
    batch: Vec<Incoming>,
    /// Messages applied.
    count: u64,
    shown: progress::Line,
}

impl Replaying<'_> {
    /// Reads to the bound. When the broker fails, it reads on from what is applied; the number of tries that bring nothing is
    /// bounded.
    fn run(&mut self) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            let before = self.count;
            let why = match self.read() {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == Kind::Unreachable => error,
                Err(error) => return Err(error),
            };
            tries = if self.count > before { 1 } else { tries + 1 };
            if tries > limits::STORE_TRIES {
                return Err(why);
            }
            if self.node.stop.wait(AGAIN) {
                return Err(Error::stopped());
            }
        }
    }

    /// Reads with one consumer.
    fn read(&mut self) -> Result<(), Error> {
        self.connect()?;
        let mut heard = Instant::now();
        loop {
            let Some(message) = self.next_message()? else {
                self.apply()?;
                let now = Instant::now();
                self.reader.check(now);
                if streams::is_silent(heard, now) {
                    self.reader.disconnect();
                }
                if !self.reader.is_connected() {
                    return Err(Error::unreachable(
                        "the reading was interrupted, and could not be taken up again",
                    ));
                }
                continue;
            };
            if !self.reader.owns(&message) {
                continue; // Of a consumer that was given up.
            }
            let now = Instant::now();
            if let Some(item) = self.reader.take(message, now) {
                heard = now;
                if self.collect(item)? {
                    return Ok(());
                }
            }
        }
    }

    /// Begins to read after what is applied: the database tells.
    fn connect(&mut self) -> Result<(), Error> {
        self.batch.clear();
        self.gate.clear();
        let position = self.database.position(self.number).map_err(about_copy)?;
        let moments = self.database.moments(self.number).map_err(about_copy)?;
        match self.reader.connect(position.as_ref(), &moments)? {
            Some(judgement) => after(judgement).map(drop),
            None => Err(Error::new(Kind::Missing, "was deleted")),
        }
    }

    /// The next message; `None`: none came for a moment.
    fn next_message(&self) -> Result<Option<Message>, Error> {
        let patience = if self.batch.is_empty() { LOOK } else { COMPANY };
        let stop = self.node.stop;
        let message = select! {
            recv(stop.receiver()) -> _ => return Err(Error::stopped()),
            recv(self.queue) -> message => message.map_err(|_| RecvTimeoutError::Disconnected),
            default(patience) => Err(RecvTimeoutError::Timeout),
        };
        Ok(message.ok())
    }

    /// Takes a message; true when it was the last one of interest.
    fn collect(&mut self, item: Item) -> Result<bool, Error> {
        let treatment = self.until.treat(self.last, &item);
        if treatment != Treatment::End {
            let Item { seq, origin, payload, part, time_ms, .. } = item;
            let (bytes, publisher) = (payload.len(), origin.map(|(origin, _)| origin));
            let message = Incoming { stream: self.number, seq, origin, time_ms, payload, ends: None };
            self.batch.extend(self.gate.pass(Arrival {
                message,
                seq,
                bytes,
                time_ms,
                origin: publisher,
                part,
            }));
            // A set whose last part lies beyond the bound is left out.
            let ends = Ends { read: self.gate.newest(), checkpoint: self.gate.checkpoint() };
            if let Some(last) = self.batch.last_mut() {
                last.ends = Some(ends);
            }
        }
        if treatment != Treatment::Apply || self.batch.len() >= limits::APPLY_BATCH {
            self.apply()?;
        }
        Ok(treatment != Treatment::Apply)
    }

    fn apply(&mut self) -> Result<(), Error> {
        while !self.batch.is_empty() {
            let applied = self.database.apply(&self.batch).map_err(about_copy)?;
            self.count += applied.events as u64;
            self.shown.show(|| format!("replaying what came after the snapshot: {} messages", self.count));
            self.batch.drain(..applied.events);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gate::Part;
    use crate::nats::StreamState;

    fn item(seq: u64, time_ms: i64, is_last: bool) -> Item {
        Item { seq, origin: None, part: Part::WHOLE, time_ms, is_last, payload: vec![] }
    }

    fn info(messages: u64, first_seq: u64, last_seq: u64) -> StreamInfo {
        let state = StreamState { messages, first_seq, last_seq, ..StreamState::default() };
        StreamInfo { config: serde_json::Value::Null, created: "a".into(), state, ts: String::new() }
    }

    fn position(seq: u64) -> Position {
        Position { seq, created: "a".into() }
    }

    #[test]
    fn the_last_sequence_is_the_end_of_the_stream_or_the_one_asked_for() {
        let info = info(9, 1, 9);
        assert_eq!(Until::End.last("x", &info), 9);
        assert_eq!(Until::Time(5).last("x", &info), 9);
        let until = Until::Positions([("x".to_owned(), 4)].into());
        assert_eq!((until.last("x", &info), until.last("y", &info)), (4, 0));
    }

    #[test]
    fn a_replay_ends_with_the_last_sequence() {
        assert_eq!(Until::End.treat(5, &item(4, 0, false)), Treatment::Apply);
        assert_eq!(Until::End.treat(5, &item(5, 0, false)), Treatment::ApplyAndEnd);
        // The last one was deleted: the next one tells.
        assert_eq!(Until::End.treat(5, &item(6, 0, false)), Treatment::End);
    }

    #[test]
    fn a_replay_ends_where_the_stream_ends() {
        assert_eq!(Until::End.treat(9, &item(7, 0, true)), Treatment::ApplyAndEnd);
    }

    #[test]
    fn a_message_after_the_moment_is_left_out() {
        let until = Until::Time(1_000);
        assert_eq!(until.treat(9, &item(3, 1_000, false)), Treatment::Apply);
        assert_eq!(until.treat(9, &item(3, 1_000, true)), Treatment::ApplyAndEnd);
        assert_eq!(until.treat(9, &item(4, 1_001, false)), Treatment::End);
    }

    #[test]
    fn what_is_there_already_is_not_read() {
        assert_eq!(is_to_be_read(Some(&position(5)), 9, &info(9, 1, 9)), Ok(true));
        assert_eq!(is_to_be_read(None, 9, &info(9, 1, 9)), Ok(true));
        assert_eq!(is_to_be_read(Some(&position(9)), 9, &info(9, 1, 9)), Ok(false));
        assert_eq!(is_to_be_read(Some(&position(9)), 4, &info(9, 1, 9)), Ok(false));
        assert_eq!(is_to_be_read(Some(&position(5)), 9, &info(0, 10, 9)).unwrap_err().kind(), Kind::Missing);
        assert_eq!(is_to_be_read(None, 0, &info(0, 0, 0)), Ok(false));
    }

    #[test]
    fn what_a_stream_cannot_give_is_said() {
        let error =
            |position, last, info| is_to_be_read(Some(&position), last, &info).unwrap_err().to_string();
        assert_eq!(error(position(2), 9, info(5, 5, 9)), "no longer holds messages 3 to 4");
        assert_eq!(error(position(2), 12, info(9, 1, 9)), "ends at 9, before 12");
        let other = Position { seq: 2, created: "b".into() };
        assert_eq!(error(other, 9, info(9, 1, 9)), "was created anew at a");
    }
}
