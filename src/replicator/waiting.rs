//! The events that were read from the streams and are not applied yet, and when they are to be.
//!
//! An event of another node is applied at once, unless the application writes too and a transaction of ours has just ended: each one
//! makes the application's writers wait, and fails those of its transactions that have read and are about to write. Echoes alone (events of our own that
//! came back) wait until the application is quiet, or for seconds: settling the change log is not urgent.

use crate::base::{fail, limits};
use crate::db::{Ends, Incoming};
use crate::model::gate::{Append, Arrival, Gate, Part};
use crate::model::reach::Reach;
use std::collections::VecDeque;
use std::collections::vec_deque::Drain;
use std::time::{Duration, Instant};

/// Events in the order in which they were read.
pub struct Waiting {
    events: VecDeque<Incoming>,
    bytes: usize,
    /// Of each stream: the parts of open change sets.
    gates: Vec<Gate<Read>>,
    /// When they must be applied because somebody waits for them.
    urgent: Option<Instant>,
    /// When the first and the last of them were added.
    added: (Instant, Instant),
    /// Echoes among them.
    echoes: usize,
    /// So many echoes are worth a transaction, or so many bytes.
    worth: (usize, usize),
    /// When events were applied last, if the application writes too.
    applied: Option<Instant>,
}

/// An event, and whether somebody waits for it.
struct Read {
    event: Incoming,
    urgent: bool,
}

impl Append for Read {
    fn append(&mut self, next: Read) {
        self.event.append(next.event);
    }
}

impl Waiting {
    /// Nothing waits.
    pub fn new(streams: usize, now: Instant) -> Waiting {
        let gates = (0..streams).map(|_| Gate::default()).collect();
        let worth = (limits::ECHO_BATCH, limits::ECHO_BYTES);
        let events = VecDeque::new();
        Waiting { events, bytes: 0, gates, urgent: None, added: (now, now), echoes: 0, worth, applied: None }
    }

    /// A stream reaches back only so far: the publisher waits for what the echoes of more would bring.
    pub fn keep_within(&mut self, reach: Reach) {
        let (echoes, least) = (reach.echoes(), self.worth);
        let bound = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        self.worth = (least.0.min(bound(echoes.messages)), least.1.min(bound(echoes.bytes)));
    }

    /// Adds an event that its stream stored at `time_ms`. `urgent`: somebody waits for it. Returns where its stream is read to, if
    /// nothing of it waits.
    pub fn push(
        &mut self,
        event: Incoming,
        (part, time_ms): (Part, i64),
        urgent: bool,
        now: Instant,
    ) -> Option<Ends> {
        let (stream, seq, bytes) = (event.stream, event.seq, event.payload.len());
        let gate = self.gates.get_mut(stream)?;
        let origin = event.origin.map(|(origin, _)| origin);
        let effects =
            gate.pass(Arrival { message: Read { event, urgent }, seq, bytes, time_ms, origin, part });
        let ends = Ends { read: gate.newest(), checkpoint: gate.checkpoint() };
        let none = effects.is_empty();
        for Read { event, urgent } in effects {
            self.add(event, urgent, now);
        }
        let last = self.events.iter_mut().rev().find(|event| event.stream == stream);
        match last {
            Some(last) => {
                last.ends = Some(ends);
                None
            }
            None => none.then_some(ends),
        }
    }

    fn add(&mut self, event: Incoming, urgent: bool, now: Instant) {
        if self.events.is_empty() {
            self.added.0 = now;
        }
        self.added.1 = now;
        if urgent {
            let free = self.applied.map_or(now, |applied| applied + limits::APPLY_SPACING);
            self.urgent.get_or_insert(now.max(free));
        } else {
            self.echoes += 1;
        }
        self.bytes += event.payload.len();
        self.events.push_back(event);
        fail::point("message queued");
    }

    /// Nothing is waited for any more.
    pub fn hurry(&mut self, now: Instant) {
        self.urgent = Some(now);
    }

    fn due(&self) -> Instant {
        let (first, last) = self.added;
        let quiet = (last + limits::ECHO_QUIET).min(first + limits::ECHO_WAIT);
        self.urgent.map_or(quiet, |urgent| urgent.min(quiet))
    }

    /// Whether so many wait that they are worth a transaction, or the publisher waits for them.
    fn is_worth_it(&self) -> bool {
        self.echoes >= self.worth.0 || self.events.len() >= limits::APPLY_BATCH || self.bytes >= self.worth.1
    }

    /// Whether more may be read before they are applied.
    pub fn has_room(&self) -> bool {
        self.bytes < limits::WAITING_BYTES && (self.events.len() < limits::APPLY_BATCH || !self.is_worth_it())
    }

    /// How long they may still wait; `None`: nothing waits.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        if self.events.is_empty() {
            None
        } else if self.is_worth_it() {
            Some(Duration::ZERO)
        } else {
            Some(self.due().saturating_duration_since(now))
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

    /// Takes out the first ones, which were applied. `spaced`: the application writes too.
    pub fn take_applied(&mut self, count: usize, spaced: bool) -> Drain<'_, Incoming> {
        let applied: usize = self.events.iter().take(count).map(|event| event.payload.len()).sum();
        self.bytes -= applied;
        self.echoes = 0;
        self.applied = spaced.then(Instant::now);
        self.urgent = self.urgent.filter(|_| count < self.events.len());
        self.events.drain(..count)
    }

    /// Forgets those of a stream: they will be read again.
    pub fn forget(&mut self, stream: usize) {
        self.events.retain(|event| event.stream != stream);
        self.bytes = self.events.iter().map(|event| event.payload.len()).sum();
        if self.events.is_empty() {
            self.urgent = None;
        }
        if let Some(gate) = self.gates.get_mut(stream) {
            gate.clear();
        }
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        (0..self.gates.len()).for_each(|stream| self.forget(stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::origin::Origin;

    fn event(stream: usize, seq: u64, bytes: usize) -> Incoming {
        Incoming { stream, seq, origin: None, time_ms: 0, payload: vec![0; bytes], ends: None }
    }

    fn waiting(messages: u64) -> (Waiting, Instant) {
        let start = Instant::now();
        let mut waiting = Waiting::new(2, start);
        waiting.keep_within(Reach::of_messages(messages));
        (waiting, start)
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
        waiting.push(event(0, 1, 10), (Part::WHOLE, 0), true, start);
        assert!(waiting.is_due(start));
    }

    #[test]
    fn an_echo_waits_for_company_but_not_for_ever() {
        let (mut waiting, start) = waiting(1 << 20);
        waiting.push(event(0, 1, 10), (Part::WHOLE, 0), false, start);
        assert!(!waiting.is_due(start));
        assert_eq!(waiting.pause(start), Some(limits::ECHO_QUIET));
        // While the application writes, others follow.
        let mut now = start;
        while !waiting.is_due(now) {
            waiting.push(event(0, 2, 10), (Part::WHOLE, 0), false, now);
            now += limits::ECHO_QUIET / 2;
        }
        assert!((limits::ECHO_WAIT..limits::ECHO_WAIT + limits::ECHO_QUIET).contains(&(now - start)));
    }

    #[test]
    fn somebody_elses_event_takes_the_echoes_along() {
        let (mut waiting, start) = waiting(1 << 20);
        waiting.push(event(0, 1, 10), (Part::WHOLE, 0), false, start);
        waiting.push(event(0, 2, 10), (Part::WHOLE, 0), true, start);
        assert!(waiting.is_due(start));
        assert_eq!(waiting.batch().len(), 2);
    }

    #[test]
    fn many_echoes_are_worth_a_transaction() {
        let (mut waiting, start) = waiting(1024);
        for seq in 1..51 {
            waiting.push(event(0, seq, 1), (Part::WHOLE, 0), false, start);
        }
        assert!(!waiting.is_due(start), "50 of a stream of 1024");
        waiting.push(event(0, 51, 1), (Part::WHOLE, 0), false, start);
        assert!(waiting.is_due(start), "51: a twentieth of it");
    }

    #[test]
    fn large_echoes_are_worth_one_too() {
        let (mut waiting, start) = waiting(1 << 20);
        waiting.push(event(0, 1, limits::ECHO_BYTES), (Part::WHOLE, 0), false, start);
        assert!(waiting.is_due(start));
    }

    #[test]
    fn a_very_short_stream_still_gathers_a_few() {
        let (mut waiting, start) = waiting(1);
        for seq in 1..4 {
            waiting.push(event(0, seq, 1), (Part::WHOLE, 0), false, start);
        }
        assert!(!waiting.is_due(start));
        waiting.push(event(0, 4, 1), (Part::WHOLE, 0), false, start);
        assert!(waiting.is_due(start));
    }

    #[test]
    fn reading_goes_on_until_a_batch_is_full_and_worth_it() {
        let (mut waiting, start) = waiting(1024);
        for seq in 0..limits::APPLY_BATCH as u64 {
            assert!(waiting.has_room());
            waiting.push(event(0, seq, 1), (Part::WHOLE, 0), false, start);
        }
        assert!(!waiting.has_room());
    }

    #[test]
    fn bytes_are_counted_out_again() {
        let (mut waiting, start) = waiting(1 << 20);
        waiting.push(event(0, 1, limits::ECHO_BYTES), (Part::WHOLE, 0), false, start);
        waiting.push(event(1, 1, 5), (Part::WHOLE, 0), false, start);
        assert_eq!(waiting.take_applied(1, true).count(), 1);
        assert!(!waiting.is_due(start), "the large one is gone");
        waiting.push(event(0, 2, limits::ECHO_BYTES), (Part::WHOLE, 0), false, start);
        waiting.forget(0);
        assert!(!waiting.is_due(start));
        assert_eq!(waiting.batch().len(), 1);
    }

    #[test]
    fn a_set_is_added_with_its_last_part_and_its_stream_is_read_on_meanwhile() {
        let origin = Origin { node: 7, incarnation: 1 };
        let part = |number, more| (Part { number, more, cut: false }, 0);
        let of = |seq| Incoming { origin: Some((origin, 1)), ..event(0, seq, 1) };
        let (mut waiting, start) = waiting(1024);
        assert_eq!(waiting.push(of(1), part(1, true), true, start), Some(Ends { read: 1, checkpoint: 0 }));
        assert_eq!(waiting.push(event(0, 2, 1), (Part::WHOLE, 0), true, start), None);
        assert_eq!(waiting.batch()[0].ends, Some(Ends { read: 2, checkpoint: 0 }));
        assert_eq!(waiting.push(of(3), part(2, true), true, start), None);
        assert_eq!(waiting.batch()[0].ends, Some(Ends { read: 3, checkpoint: 0 }));
        assert_eq!(waiting.take_applied(1, true).count(), 1);
        assert_eq!(waiting.push(of(4), part(3, false), true, start), None);
        let batch = waiting.batch().iter().map(|event| (event.seq, event.ends)).collect::<Vec<_>>();
        assert_eq!(batch, [(1, None), (3, None), (4, Some(Ends::at(4)))]);
    }

    #[test]
    fn events_that_follow_each_other_closely_share_a_transaction() {
        let (mut waiting, start) = waiting(1 << 20);
        waiting.push(event(0, 1, 10), (Part::WHOLE, 0), true, start);
        assert!(waiting.is_due(start));
        waiting.take_applied(1, true).for_each(drop);
        let now = waiting.applied.unwrap();
        waiting.push(event(0, 2, 10), (Part::WHOLE, 0), true, now);
        waiting.push(event(0, 3, 10), (Part::WHOLE, 0), true, now + limits::APPLY_SPACING / 2);
        assert!(!waiting.is_due(now + limits::APPLY_SPACING / 2));
        assert!(waiting.is_due(now + limits::APPLY_SPACING));
        waiting.take_applied(2, true).for_each(drop);
        let now = waiting.applied.unwrap() + limits::APPLY_SPACING;
        waiting.push(event(0, 4, 10), (Part::WHOLE, 0), true, now);
        assert!(waiting.is_due(now), "one alone does not wait");
        waiting.take_applied(1, false).for_each(drop);
        waiting.push(event(0, 5, 10), (Part::WHOLE, 0), true, now);
        assert!(waiting.is_due(now), "nobody else writes");
    }
}
