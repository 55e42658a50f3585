//! When the follower tries again to connect its readers, and when it shows its positions in the sequence-map file.

use crate::base::{limits, retry::Backoff};
use std::time::{Duration, Instant};

/// Tries to connect: short pauses after errors, longer ones between two looks for a snapshot.
pub struct Tries {
    not_before: Instant,
    errors: Backoff,
    looks: Backoff,
}

impl Tries {
    pub fn new(now: Instant) -> Tries {
        Tries {
            not_before: now,
            errors: Backoff::up_to(Duration::from_secs(2)),
            looks: Backoff::up_to(limits::RECOVERY_LOOK_MAX),
        }
    }

    /// Whether a try may be made.
    pub fn may(&self, now: Instant) -> bool {
        now >= self.not_before
    }

    /// Until the next try.
    pub fn pause(&self, now: Instant) -> Duration {
        self.not_before.saturating_duration_since(now)
    }

    /// Something new is known: the next try may be made at once.
    pub fn at_once(&mut self, now: Instant) {
        self.not_before = now;
    }

    /// A try failed.
    pub fn failed(&mut self, now: Instant) {
        self.not_before = now + self.errors.pause();
    }

    /// No snapshot served.
    pub fn found_nothing(&mut self, now: Instant) {
        self.not_before = now + self.looks.pause();
    }

    /// A try succeeded: the next failure is a new one.
    pub fn succeeded(&mut self) {
        self.errors.reset();
        self.looks.reset();
    }
}

/// The sequence-map file: written when it is stale, at most once in [`limits::SEQMAP_INTERVAL`], and at the end.
pub struct MapFile {
    stale: bool,
    written: Instant,
}

impl MapFile {
    pub fn new(now: Instant) -> MapFile {
        MapFile { stale: true, written: now }
    }

    /// A position has changed.
    pub fn is_stale(&mut self) {
        self.stale = true;
    }

    /// Whether it is to be written now; true means that the caller does. `last`: nothing comes after it.
    pub fn is_due(&mut self, now: Instant, last: bool) -> bool {
        let due =
            self.stale && (last || now.saturating_duration_since(self.written) >= limits::SEQMAP_INTERVAL);
        if due {
            *self = MapFile { stale: false, written: now };
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_after_errors_come_ever_later_and_begin_anew_after_a_success() {
        let start = Instant::now();
        let mut tries = Tries::new(start);
        assert!(tries.may(start));
        let mut longest = Duration::ZERO;
        for _ in 0..10 {
            tries.failed(start);
            assert!(!tries.may(start));
            longest = longest.max(tries.pause(start));
        }
        assert!(longest > Duration::from_secs(1) && longest <= Duration::from_secs(2), "{longest:?}");
        tries.succeeded();
        tries.failed(start);
        assert!(tries.pause(start) <= limits::RETRY_FIRST);
    }

    #[test]
    fn news_end_a_pause() {
        let start = Instant::now();
        let mut tries = Tries::new(start);
        tries.found_nothing(start);
        assert!(!tries.may(start));
        tries.at_once(start);
        assert!(tries.may(start) && tries.pause(start).is_zero());
    }

    #[test]
    fn looks_for_a_snapshot_have_pauses_of_their_own() {
        let start = Instant::now();
        let mut tries = Tries::new(start);
        for _ in 0..12 {
            tries.found_nothing(start);
        }
        let look = tries.pause(start);
        assert!(look > Duration::from_secs(2) && look <= limits::RECOVERY_LOOK_MAX);
        tries.failed(start);
        assert!(tries.pause(start) <= limits::RETRY_FIRST);
    }

    #[test]
    fn the_file_is_written_once_an_interval_while_it_is_stale() {
        let start = Instant::now();
        let mut file = MapFile::new(start);
        assert!(!file.is_due(start, false));
        assert!(file.is_due(start + limits::SEQMAP_INTERVAL, false));
        assert!(!file.is_due(start + limits::SEQMAP_INTERVAL * 3, false), "nothing has changed");
        file.is_stale();
        assert!(file.is_due(start + limits::SEQMAP_INTERVAL * 3, false));
        file.is_stale();
        assert!(!file.is_due(start + limits::SEQMAP_INTERVAL * 3, false), "too soon");
        assert!(file.is_due(start + limits::SEQMAP_INTERVAL * 3, true), "but for the last time");
        assert!(!file.is_due(start + limits::SEQMAP_INTERVAL * 9, true));
    }
}
