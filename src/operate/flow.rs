//! How far the publisher has come in each stream, and how far the follower. A sequence counts in one making of its stream: when
//! the stream was created anew, what was acknowledged in the old one says nothing any more.

use super::histogram::{Histogram, QUICK};
use crate::base::limits;
use crate::model::{reach::Reach, set::Format};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Which making of a stream a sequence counts in: a stream that is created anew begins another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Making(u64);

/// The flow in all streams.
#[derive(Debug)]
pub struct Flow {
    streams: Vec<Mutex<StreamFlow>>,
    round_trips: Histogram,
}

#[derive(Debug)]
struct StreamFlow {
    making: Making,
    away: Away,
    /// Highest sequence read here; 0: none.
    read: u64,
    /// The sequence after which the stream is read by somebody who gets this database now.
    checkpoint: u64,
    /// Highest sequence that is known to exist.
    end: u64,
    /// Bytes of all messages that were read since the start, whatever stream they came from.
    came: u64,
    sizes: Sizes,
    reach: Reach,
    /// In which form changes are to be published.
    format: Format,
}

impl StreamFlow {
    fn new(reach: Reach) -> StreamFlow {
        StreamFlow {
            making: Making::default(),
            away: Away::default(),
            read: 0,
            checkpoint: 0,
            end: 0,
            came: 0,
            sizes: Sizes::default(),
            reach,
            format: Format::default(),
        }
    }
}

impl Flow {
    /// Of so many streams, which reach back so far as long as nobody has looked.
    pub fn new(streams: usize, reach: Reach) -> Flow {
        Flow {
            streams: (0..streams).map(|_| Mutex::new(StreamFlow::new(reach))).collect(),
            round_trips: Histogram::new(QUICK),
        }
    }

    fn change<R>(&self, stream: usize, step: impl FnOnce(&mut StreamFlow) -> R) -> Option<R> {
        self.streams.get(stream).map(|flow| step(&mut flow.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The making of a stream as the follower knows it; the publisher notes it with each message that it sends.
    pub fn making(&self, stream: usize) -> Making {
        self.change(stream, |flow| flow.making).unwrap_or_default()
    }

    /// A message of ours, sent in `making`, was stored under `seq`.
    pub fn acked(&self, stream: usize, making: Making, seq: u64, bytes: usize) {
        self.change(stream, |flow| {
            // It may have been stored in the stream that is gone, or have come back already.
            if flow.making == making && seq > flow.read {
                flow.away.add(seq, stored_size(bytes), Instant::now());
                flow.end = flow.end.max(seq);
            } else if flow.making == making {
                // It was read back before its acknowledgement came.
                self.round_trips.add(Duration::ZERO, 1);
            }
        });
    }

    /// The follower was given a message.
    pub fn came(&self, stream: usize, seq: u64, bytes: usize) {
        self.change(stream, |flow| {
            flow.sizes.add(seq, stored_size(bytes));
            flow.end = flow.end.max(seq);
            flow.came += bytes as u64;
        });
    }

    /// The follower is done with all up to `read`.
    pub fn read(&self, stream: usize, read: u64) {
        self.change(stream, |flow| {
            flow.read = read;
            flow.away.came_back(read, Instant::now(), &self.round_trips);
        });
    }

    /// How long messages of ours were away: from their acknowledgement until they were read back and applied.
    pub fn round_trips(&self) -> &Histogram {
        &self.round_trips
    }

    /// The database's position in the stream.
    pub fn checkpoint(&self, stream: usize, checkpoint: u64) {
        self.change(stream, |flow| {
            flow.checkpoint = checkpoint;
            flow.end = flow.end.max(checkpoint);
        });
    }

    /// How many streams there are.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// The highest sequence of a stream that this node knows to exist.
    pub fn known_end(&self, stream: usize) -> u64 {
        self.change(stream, |flow| flow.end).unwrap_or(0)
    }

    /// Bytes of all messages that were read since the start.
    pub fn bytes_read(&self) -> u64 {
        (0..self.streams.len()).filter_map(|stream| self.change(stream, |flow| flow.came)).sum()
    }

    /// The stream is not the one that it was: sequences count anew, and the follower stands at `seq`.
    pub fn begin_anew(&self, stream: usize, seq: u64) {
        self.change(stream, |flow| {
            let StreamFlow { making: Making(making), reach, format, came, .. } = *flow;
            *flow = StreamFlow {
                making: Making(making + 1),
                read: seq,
                checkpoint: seq,
                end: seq,
                came,
                format,
                ..StreamFlow::new(reach)
            };
        });
    }

    /// In which form changes are to be published in a stream.
    pub fn set_format(&self, stream: usize, format: Format) {
        self.change(stream, |flow| flow.format = format);
    }

    /// The same; rows until it is known.
    pub fn format(&self, stream: usize) -> Format {
        self.change(stream, |flow| flow.format).unwrap_or_default()
    }

    /// How far a stream reaches back, and the size of its messages in the middle.
    pub fn set_reach(&self, stream: usize, reach: Reach, size: u64) {
        self.change(stream, |flow| (flow.reach, flow.sizes.middle) = (reach, size));
    }

    /// The stream was changed, and reaches back farther now.
    pub fn widen(&self, stream: usize, reach: Reach) {
        self.change(stream, |flow| flow.reach = reach);
    }

    /// How far a stream reaches back.
    pub fn reach(&self, stream: usize) -> Reach {
        self.change(stream, |flow| flow.reach).unwrap_or(Reach::of_messages(u64::MAX))
    }

    /// The database's position in a stream.
    pub fn applied_seq(&self, stream: usize) -> u64 {
        self.change(stream, |flow| flow.checkpoint).unwrap_or(0)
    }

    /// About how many bytes of a stream lie after `seq`, up to the database's position.
    pub fn bytes_after(&self, stream: usize, seq: u64) -> u64 {
        let between = |flow: &mut StreamFlow| {
            let at = flow.checkpoint;
            flow.sizes.after(seq, at).saturating_sub(flow.sizes.after(at, at))
        };
        self.change(stream, between).unwrap_or(0)
    }

    /// How many messages of ours, in all streams, were stored and have not come back.
    pub fn not_come_back(&self) -> u64 {
        (0..self.streams.len()).filter_map(|stream| self.change(stream, |flow| flow.away.messages)).sum()
    }

    /// Whether so many more messages can be published without running too far ahead of those who read them. A sixteenth of what a
    /// stream keeps may be away.
    pub fn has_room(&self, in_flight: usize) -> bool {
        (0..self.streams.len()).all(|stream| {
            let has_room = |flow: &mut StreamFlow| {
                let (away, ahead) = (&flow.away, flow.reach.ahead());
                away.messages + (in_flight as u64) < ahead.messages && away.bytes < ahead.bytes
            };
            self.change(stream, has_room).unwrap_or(true)
        })
    }
}

/// What a message takes in its stream: its subject and headers count, too.
fn stored_size(payload: usize) -> u64 {
    (payload + limits::MESSAGE_OVERHEAD) as u64
}

/// Messages of ours that were stored and have not come back.
#[derive(Debug, Default)]
struct Away {
    runs: VecDeque<Run>,
    messages: u64,
    bytes: u64,
}

/// Neighbours in one entry.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// The last sequence.
    last: u64,
    count: u64,
    bytes: u64,
    /// When the first of them was acknowledged.
    since: Instant,
}

/// From so many entries on, as many messages share one.
const RUN: u64 = 64;

impl Away {
    fn add(&mut self, seq: u64, bytes: u64, now: Instant) {
        self.messages += 1;
        self.bytes += bytes;
        let crowded = self.runs.len() as u64 >= RUN;
        match self.runs.back_mut() {
            // Acknowledgements come in almost any order: one that is late counts as the one before.
            Some(run) if seq <= run.last || (crowded && run.count < RUN) => {
                run.last = seq.max(run.last);
                run.count += 1;
                run.bytes += bytes;
            }
            _ => self.runs.push_back(Run { last: seq, count: 1, bytes, since: now }),
        }
    }

    fn came_back(&mut self, read: u64, now: Instant, round_trips: &Histogram) {
        while let Some(run) = self.runs.front().copied()
            && run.last <= read
        {
            self.messages -= run.count;
            self.bytes -= run.bytes;
            round_trips.add(now.saturating_duration_since(run.since), run.count);
            self.runs.pop_front();
        }
    }
}

/// How many bytes lie between two sequences of a stream: exact to a step for what was read since the start.
#[derive(Debug)]
struct Sizes {
    sum: u64,
    newest: u64,
    /// The first sequence, and then one for each step: with the sum up to there.
    marks: VecDeque<(u64, u64)>,
    step: u64,
    /// Of a message that was not read here.
    middle: u64,
}

/// Marks at most; then every second one goes.
const MARKS: usize = 512;

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { sum: 0, newest: 0, marks: VecDeque::new(), step: 64 << 10, middle: 0 }
    }
}

impl Sizes {
    fn add(&mut self, seq: u64, bytes: u64) {
        if self.marks.back().is_none_or(|(_, sum)| self.sum - sum >= self.step) {
            self.marks.push_back((seq.saturating_sub(1), self.sum));
        }
        self.sum = self.sum.saturating_add(bytes);
        self.newest = seq;
        if self.marks.len() > MARKS {
            self.step *= 2;
            let mut number = 0;
            self.marks.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
    }

    /// Bytes after `seq`; `end`: the newest sequence, if nothing was read here.
    fn after(&self, seq: u64, end: u64) -> u64 {
        let begin = self.marks.front().map_or(end, |(first, _)| *first);
        if seq <= begin {
            return self.sum.saturating_add(self.middle.saturating_mul(begin - seq));
        }
        if seq >= self.newest {
            return 0;
        }
        let below = self.marks.partition_point(|(mark, _)| *mark <= seq);
        self.marks.get(below.saturating_sub(1)).map_or(0, |(_, sum)| self.sum - sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = limits::MESSAGE_OVERHEAD as u64;

    fn flow(streams: usize) -> Flow {
        Flow::new(streams, Reach::of_messages(1_024))
    }

    #[test]
    fn our_own_messages_count_until_they_come_back() {
        let flow = flow(2);
        assert_eq!(flow.not_come_back(), 0);
        // Others published 1,000 messages between them.
        for seq in [5, 1_006] {
            flow.acked(0, flow.making(0), seq, 0);
        }
        flow.acked(1, flow.making(1), 4, 0);
        assert_eq!(flow.not_come_back(), 3);
        flow.read(0, 1_005);
        assert_eq!(flow.not_come_back(), 2);
        flow.read(1, 4);
        flow.read(0, 1_006);
        assert_eq!(flow.not_come_back(), 0);
        // One that came back before its acknowledgement.
        flow.acked(0, flow.making(0), 1_006, 0);
        assert_eq!(flow.not_come_back(), 0);
        let (counts, _) = flow.round_trips().so_far();
        assert_eq!(counts.last(), Some(&("+Inf", 4)), "each message counts once");
    }

    #[test]
    fn acknowledgements_come_in_any_order() {
        let flow = flow(1);
        for seq in [9, 8, 7] {
            flow.acked(0, flow.making(0), seq, 0);
        }
        flow.read(0, 8);
        assert_eq!(flow.not_come_back(), 3);
        flow.read(0, 9);
        assert_eq!(flow.not_come_back(), 0);
    }

    #[test]
    fn what_was_acknowledged_in_a_stream_that_is_gone_holds_nothing_back() {
        let flow = flow(1);
        let before = flow.making(0);
        flow.acked(0, before, 1_000, 0);
        flow.read(0, 990);
        flow.begin_anew(0, 0);
        assert_eq!(flow.not_come_back(), 0);
        // An acknowledgement that was on its way all the time.
        flow.acked(0, before, 1_001, 0);
        assert_eq!(flow.not_come_back(), 0);
        flow.acked(0, flow.making(0), 3, 0);
        assert_eq!(flow.not_come_back(), 1);
        flow.read(0, 3);
        assert_eq!(flow.not_come_back(), 0);
    }

    #[test]
    fn a_sixteenth_of_a_stream_may_be_away_in_messages_and_in_bytes() {
        let flow = flow(2);
        assert!(flow.has_room(63) && !flow.has_room(64));
        for seq in 1..=63 {
            flow.acked(1, flow.making(1), seq, 0);
        }
        assert!(flow.has_room(0) && !flow.has_room(1), "the fullest stream counts");
        flow.read(1, 1);
        assert!(flow.has_room(1));
        flow.set_reach(0, Reach { messages: 1 << 20, bytes: 32 * SIZE }, 0);
        flow.acked(0, flow.making(0), 1, 0);
        assert!(flow.has_room(0));
        flow.acked(0, flow.making(0), 2, 0);
        assert!(!flow.has_room(0));
    }

    #[test]
    fn many_messages_that_are_away_take_little_room() {
        let flow = Flow::new(1, Reach::of_messages(1 << 24));
        let count = 100_000;
        for seq in 1..=count {
            flow.acked(0, flow.making(0), seq * 2, 0);
        }
        assert_eq!(flow.not_come_back(), count);
        assert!(flow.change(0, |flow| flow.away.runs.len()) <= Some(2_000));
        flow.read(0, count);
        assert!(flow.not_come_back().abs_diff(count / 2) <= RUN);
        flow.read(0, count * 2);
        assert_eq!(flow.change(0, |flow| (flow.away.messages, flow.away.bytes)), Some((0, 0)));
    }

    #[test]
    fn bytes_between_a_snapshot_and_the_database() {
        let flow = flow(1);
        flow.set_reach(0, Reach::of_messages(9), 7);
        flow.begin_anew(0, 100);
        flow.set_reach(0, Reach::of_messages(9), 7);
        assert_eq!(flow.bytes_after(0, 90), 70, "only what the server says of the stream is known");
        for seq in 101..=300 {
            flow.came(0, seq, 9_900);
        }
        assert_eq!(flow.bytes_after(0, 90), 70, "what is read and not in the database does not count");
        flow.checkpoint(0, 300);
        assert_eq!(flow.bytes_after(0, 100), 200 * (9_900 + SIZE));
        assert_eq!(flow.bytes_after(0, 90), 200 * (9_900 + SIZE) + 70);
        let half = flow.bytes_after(0, 200);
        assert!(half.abs_diff(100 * (9_900 + SIZE)) <= 128 << 10, "{half}");
        assert_eq!((flow.bytes_after(0, 300), flow.bytes_after(0, 999)), (0, 0));
    }

    #[test]
    fn marks_are_bounded_and_stay_right() {
        let mut sizes = Sizes::default();
        for seq in 1..=200_000 {
            sizes.add(seq, 5_000);
        }
        assert!(sizes.marks.len() <= MARKS);
        let after = sizes.after(150_000, 0);
        assert!(after.abs_diff(50_000 * 5_000) <= sizes.step * 2, "{after}");
        assert_eq!(sizes.after(0, 0), 200_000 * 5_000);
    }

    #[test]
    fn a_stream_that_does_not_exist_is_nobody() {
        let flow = flow(1);
        flow.acked(7, flow.making(7), 5, 0);
        flow.read(7, 1);
        flow.begin_anew(7, 3);
        assert_eq!((flow.not_come_back(), flow.applied_seq(7), flow.bytes_after(7, 0)), (0, 0, 0));
        assert!(flow.has_room(0));
    }
}
