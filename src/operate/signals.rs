//! The signals by which the workers of a daemon steer each other. What is only shown is on the [`super::Board`].

use crate::model::set::Format;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whether this node's database holds all that it should: whatever the streams and the snapshots brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whole {
    /// It does.
    Yes,
    /// It does not yet: what it waits for.
    Waiting(String),
    /// It is damaged, and being recovered: what is wrong, or what the recovery waits for.
    Damaged(String),
}

impl Whole {
    /// What is missing; `None`: nothing.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Whole::Yes => None,
            Whole::Waiting(reason) | Whole::Damaged(reason) => Some(reason),
        }
    }
}

/// Shared by all workers.
#[derive(Debug)]
pub struct Signals {
    whole: Mutex<Whole>,
    /// How far publishing and following have come.
    pub flow: Flow,
}

impl Signals {
    /// For a node of `streams` streams, whose database is not open yet.
    pub fn new(streams: usize) -> Signals {
        let whole = Whole::Waiting("the database is not open".to_owned());
        Signals { whole: Mutex::new(whole), flow: Flow::new(streams) }
    }

    /// Whether the node is whole.
    pub fn whole(&self) -> Whole {
        lock(&self.whole).clone()
    }

    /// Whether the node is whole: a node that misses changes must not make snapshots.
    pub fn is_whole(&self) -> bool {
        *lock(&self.whole) == Whole::Yes
    }

    /// Says whether it is.
    pub fn set_whole(&self, whole: Whole) {
        *lock(&self.whole) = whole;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which making of a stream a sequence counts in: a stream that is created anew begins another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Making(u64);

/// How far the publisher has come in each stream, and how far the follower. A sequence counts in one making of its stream:
/// when the stream was created anew, what was acknowledged in the old one says nothing any more.
#[derive(Debug)]
pub struct Flow(Vec<Mutex<StreamFlow>>);

#[derive(Debug, Default)]
struct StreamFlow {
    making: Making,
    /// Highest sequence under which a message of ours was stored; 0: none.
    acked: u64,
    /// Highest sequence applied here; 0: none.
    applied: u64,
    /// In which form changes are to be published.
    format: Format,
}

impl Flow {
    fn new(streams: usize) -> Flow {
        Flow((0..streams).map(|_| Mutex::default()).collect())
    }

    fn change<R>(&self, stream: usize, step: impl FnOnce(&mut StreamFlow) -> R) -> Option<R> {
        self.0.get(stream).map(|flow| step(&mut lock(flow)))
    }

    /// The making of a stream as the follower knows it; the publisher notes it with each message that it sends.
    pub fn making(&self, stream: usize) -> Making {
        self.change(stream, |flow| flow.making).unwrap_or_default()
    }

    /// A message of ours, sent in `making`, was stored under `seq`.
    pub fn acked(&self, stream: usize, making: Making, seq: u64) {
        self.change(stream, |flow| {
            // It may have been stored in the stream that is gone.
            if flow.making == making {
                flow.acked = flow.acked.max(seq);
            }
        });
    }

    /// The follower has applied up to `seq`.
    pub fn applied(&self, stream: usize, seq: u64) {
        self.change(stream, |flow| flow.applied = seq);
    }

    /// The stream is not the one that it was: sequences count anew, and the follower stands at `seq`.
    pub fn begin_anew(&self, stream: usize, seq: u64) {
        self.change(stream, |flow| {
            *flow =
                StreamFlow { making: Making(flow.making.0 + 1), acked: 0, applied: seq, format: flow.format };
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

    /// Highest sequence applied here.
    pub fn applied_seq(&self, stream: usize) -> u64 {
        self.change(stream, |flow| flow.applied).unwrap_or(0)
    }

    /// How far, in the stream where it is farthest, the follower is from the last message that we published; 0: all came
    /// back.
    pub fn not_come_back(&self) -> u64 {
        let behind = |flow: &Mutex<StreamFlow>| {
            let flow = lock(flow);
            flow.acked.saturating_sub(flow.applied)
        };
        self.0.iter().map(behind).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farthest_stream_counts() {
        let flow = Flow::new(2);
        assert_eq!(flow.not_come_back(), 0);
        flow.acked(0, flow.making(0), 10);
        flow.acked(1, flow.making(1), 4);
        flow.applied(0, 7);
        assert_eq!(flow.not_come_back(), 4);
        flow.applied(1, 4);
        assert_eq!(flow.not_come_back(), 3);
        flow.applied(0, 12);
        assert_eq!(flow.not_come_back(), 0);
    }

    #[test]
    fn acknowledgements_come_in_any_order() {
        let flow = Flow::new(1);
        flow.acked(0, flow.making(0), 9);
        flow.acked(0, flow.making(0), 8);
        assert_eq!(flow.not_come_back(), 9);
    }

    #[test]
    fn what_was_acknowledged_in_a_stream_that_is_gone_holds_nothing_back() {
        let flow = Flow::new(1);
        let before = flow.making(0);
        flow.acked(0, before, 1_000);
        flow.applied(0, 990);
        flow.begin_anew(0, 0);
        assert_eq!(flow.not_come_back(), 0);
        // An acknowledgement that was on its way all the time.
        flow.acked(0, before, 1_001);
        assert_eq!(flow.not_come_back(), 0);
        flow.acked(0, flow.making(0), 3);
        assert_eq!(flow.not_come_back(), 3);
        flow.applied(0, 3);
        assert_eq!((flow.not_come_back(), flow.applied_seq(0)), (0, 3));
    }

    #[test]
    fn a_stream_that_does_not_exist_is_nobody() {
        let flow = Flow::new(1);
        flow.acked(7, flow.making(7), 5);
        flow.applied(7, 1);
        flow.begin_anew(7, 3);
        assert_eq!((flow.not_come_back(), flow.applied_seq(7)), (0, 0));
    }

    #[test]
    fn a_node_is_whole_when_somebody_said_so() {
        let signals = Signals::new(1);
        assert!(!signals.is_whole());
        assert_eq!(signals.whole().reason(), Some("the database is not open"));
        signals.set_whole(Whole::Yes);
        assert!(signals.is_whole() && signals.whole().reason().is_none());
        signals.set_whole(Whole::Damaged("page 3".into()));
        assert!(!signals.is_whole());
    }
}
