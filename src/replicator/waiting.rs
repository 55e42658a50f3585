//! The events that were read from the streams and are not applied yet, and when they are to be.
//!
//! An event of another node is applied at once. Echoes alone (events of our own that came back) may wait for company:
//! settling the change log is not urgent, and each transaction of ours makes the application's writers wait.

use crate::base::limits;
use crate::db::Incoming;
use std::collections::VecDeque;
use std::collections::vec_deque::Drain;
use std::time::{Duration, Instant};

/// Events in the order in which they were read.
pub struct Waiting {
    events: VecDeque<Incoming>,
    bytes: usize,
    /// When they must be applied.
    due: Instant,
    /// So many echoes are worth a transaction.
    worth: usize,
}

impl Waiting {
    /// Nothing waits. `max_entries`: messages that a stream keeps; while a short one is waited for, it would run away.
    pub fn new(max_entries: u64, now: Instant) -> Waiting {
        let short = usize::try_from(max_entries / 64).unwrap_or(usize::MAX).max(4);
        Waiting { events: VecDeque::new(), bytes: 0, due: now, worth: limits::ECHO_BATCH.min(short) }
    }

    /// Adds an event. `urgent`: somebody waits for it.
    pub fn push(&mut self, event: Incoming, urgent: bool, now: Instant) {
        if urgent {
            self.due = now;
        } else if self.events.is_empty() {
            self.due = now + limits::ECHO_WAIT;
        }
        self.bytes += event.payload.len();
        self.events.push_back(event);
    }

    /// Whether so many wait that they are worth a transaction, or the publisher waits for them.
    fn is_worth_it(&self) -> bool {
        self.events.len() >= self.worth || self.bytes >= limits::ECHO_BYTES
    }

    /// Whether more may be read before they are applied.
    pub fn has_room(&self) -> bool {
        self.events.len() < limits::APPLY_BATCH || !self.is_worth_it()
    }

    /// How long they may still wait; `None`: nothing waits.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        if self.events.is_empty() {
            None
        } else if self.is_worth_it() {
            Some(Duration::ZERO)
        } else {
            Some(self.due.saturating_duration_since(now))
        }
    }

    /// Whether it is time to apply them.
    pub fn is_due(&self, now: Instant) -> bool {
        self.pause(now).is_some_and(|pause| pause.is_zero())
    }

    /// All of them.
    pub fn batch(&mut self) -> &[Incoming] {
        self.events.make_contiguous()
    }

    /// Takes out the first ones, which were applied.
    pub fn take_applied(&mut self, count: usize) -> Drain<'_, Incoming> {
        let applied: usize = self.events.iter().take(count).map(|event| event.payload.len()).sum();
        self.bytes -= applied;
        self.events.drain(..count)
    }

    /// Forgets those that `wanted` does not want: they will be read again.
    pub fn retain(&mut self, wanted: impl Fn(&Incoming) -> bool) {
        self.events.retain(wanted);
        self.bytes = self.events.iter().map(|event| event.payload.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(stream: usize, seq: u64, bytes: usize) -> Incoming {
        Incoming { stream, seq, origin: None, payload: vec![0; bytes] }
    }

    fn waiting(max_entries: u64) -> (Waiting, Instant) {
        let start = Instant::now();
        (Waiting::new(max_entries, start), start)
    }

    #[test]
    fn nothing_is_never_due() {
        let (waiting, start) = waiting(1024);
        assert!(!waiting.is_due(start + Duration::from_secs(60)));
        assert_eq!(waiting.pause(start), None);
    }

    #[test]
    fn an_event_of_another_node_is_applied_at_once() {
        let (mut waiting, start) = waiting(1024);
        waiting.push(event(0, 1, 10), true, start);
        assert!(waiting.is_due(start));
    }

    #[test]
    fn an_echo_waits_for_company_but_not_for_ever() {
        let (mut waiting, start) = waiting(1 << 20);
        waiting.push(event(0, 1, 10), false, start);
        assert!(!waiting.is_due(start));
        assert_eq!(waiting.pause(start), Some(limits::ECHO_WAIT));
        // A second one does not prolong the wait.
        waiting.push(event(0, 2, 10), false, start + limits::ECHO_WAIT / 2);
        assert!(waiting.is_due(start + limits::ECHO_WAIT));
    }

    #[test]
    fn somebody_elses_event_takes_the_echoes_along() {
        let (mut waiting, start) = waiting(1 << 20);
        waiting.push(event(0, 1, 10), false, start);
        waiting.push(event(0, 2, 10), true, start);
        assert!(waiting.is_due(start));
        assert_eq!(waiting.batch().len(), 2);
    }

    #[test]
    fn many_echoes_are_worth_a_transaction() {
        let (mut waiting, start) = waiting(1024);
        for seq in 1..16 {
            waiting.push(event(0, seq, 1), false, start);
        }
        assert!(!waiting.is_due(start), "15 of a stream of 1024");
        waiting.push(event(0, 16, 1), false, start);
        assert!(waiting.is_due(start), "16: a sixty-fourth of it");
    }

    #[test]
    fn large_echoes_are_worth_one_too() {
        let (mut waiting, start) = waiting(1 << 20);
        waiting.push(event(0, 1, limits::ECHO_BYTES), false, start);
        assert!(waiting.is_due(start));
    }

    #[test]
    fn a_very_short_stream_still_gathers_a_few() {
        let (mut waiting, start) = waiting(1);
        for seq in 1..4 {
            waiting.push(event(0, seq, 1), false, start);
        }
        assert!(!waiting.is_due(start));
        waiting.push(event(0, 4, 1), false, start);
        assert!(waiting.is_due(start));
    }

    #[test]
    fn reading_goes_on_until_a_batch_is_full_and_worth_it() {
        let (mut waiting, start) = waiting(1024);
        for seq in 0..limits::APPLY_BATCH as u64 {
            assert!(waiting.has_room());
            waiting.push(event(0, seq, 1), false, start);
        }
        assert!(!waiting.has_room());
    }

    #[test]
    fn bytes_are_counted_out_again() {
        let (mut waiting, start) = waiting(1 << 20);
        waiting.push(event(0, 1, limits::ECHO_BYTES), false, start);
        waiting.push(event(1, 1, 5), false, start);
        assert_eq!(waiting.take_applied(1).count(), 1);
        assert!(!waiting.is_due(start), "the large one is gone");
        waiting.push(event(0, 2, limits::ECHO_BYTES), false, start);
        waiting.retain(|event| event.stream == 1);
        assert!(!waiting.is_due(start));
        assert_eq!(waiting.batch().len(), 1);
    }
}
