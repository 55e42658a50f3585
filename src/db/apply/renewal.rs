//! How often a database may take a new incarnation because of an event of its own that it does not know. The first time comes
//! at once: an older copy was put in place. Whoever takes one after the other takes its own events for somebody else's, for
//! whatever reason, and would publish all of its log for ever. So between two there is a pause, and it grows.

use std::time::{Duration, Instant};

/// Why an event of ours is one that we did not publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The log does not hold its key, though it has given its id: we may misunderstand our own events.
    Unlogged,
    /// The log has not given its id yet. Until there is a new name, nobody takes what we publish under ids below it.
    Beyond,
}

#[derive(Debug)]
struct Renewal {
    /// When the last one was taken, and the pause after it.
    last: Option<(Instant, Duration)>,
    first: Duration,
    max: Duration,
}

impl Renewal {
    const fn new(first: Duration, max: Duration) -> Renewal {
        Renewal { last: None, first, max }
    }

    /// Whether a new incarnation may be taken now.
    fn is_allowed(&self, now: Instant) -> bool {
        self.last.is_none_or(|(taken, pause)| now.saturating_duration_since(taken) >= pause)
    }

    fn taken(&mut self, now: Instant) {
        let pause = self.last.map_or(self.first, |(_, pause)| (pause * 2).min(self.max));
        self.last = Some((now, pause));
    }
}

/// The pauses of a database.
#[derive(Debug)]
pub struct Renewals {
    unlogged: Renewal,
    beyond: Renewal,
    /// Taken in the transaction that is open.
    taken: Option<Why>,
}

impl Default for Renewals {
    fn default() -> Renewals {
        Renewals {
            unlogged: Renewal::new(Duration::from_secs(60), Duration::from_secs(24 * 3600)),
            beyond: Renewal::new(Duration::from_secs(1), Duration::from_secs(60)),
            taken: None,
        }
    }
}

impl Renewals {
    /// Whether a new incarnation may be taken now for this reason.
    pub fn is_allowed(&self, why: Why, now: Instant) -> bool {
        match why {
            Why::Unlogged => self.unlogged.is_allowed(now),
            Why::Beyond => self.beyond.is_allowed(now),
        }
    }

    /// A transaction begins.
    pub fn begin(&mut self) {
        self.taken = None;
    }

    /// One is taken in this transaction.
    pub fn take(&mut self, why: Why) {
        self.taken = Some(why);
    }

    /// The transaction is committed.
    pub fn committed(&mut self, now: Instant) {
        match self.taken.take() {
            Some(Why::Unlogged) => self.unlogged.taken(now),
            Some(Why::Beyond) => self.beyond.taken(now),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_comes_at_once_and_every_other_after_a_longer_pause() {
        for (why, max) in
            [(Why::Unlogged, Duration::from_secs(24 * 3600)), (Why::Beyond, Duration::from_secs(60))]
        {
            let (start, mut renewals) = (Instant::now(), Renewals::default());
            assert!(renewals.is_allowed(why, start));
            let (mut now, mut last) = (start, Duration::ZERO);
            for _ in 0..20 {
                renewals.begin();
                renewals.take(why);
                renewals.committed(now);
                let pause = (1..)
                    .map(Duration::from_secs)
                    .find(|pause| renewals.is_allowed(why, now + *pause))
                    .unwrap();
                assert!(pause > last || pause == max, "{pause:?} after {last:?}");
                (now, last) = (now + pause, pause);
            }
            assert_eq!(last, max);
        }
    }

    #[test]
    fn what_is_rolled_back_was_not_taken() {
        let (now, mut renewals) = (Instant::now(), Renewals::default());
        renewals.take(Why::Beyond);
        renewals.begin();
        renewals.committed(now);
        assert!(renewals.is_allowed(Why::Beyond, now));
        renewals.take(Why::Beyond);
        renewals.committed(now);
        assert!(!renewals.is_allowed(Why::Beyond, now) && renewals.is_allowed(Why::Unlogged, now));
    }
}
