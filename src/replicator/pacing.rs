//! When the follower tries again to connect its readers, when it leaves the lock to the application, and when it shows its
//! positions in the sequence-map file.

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
            errors: Backoff::up_to(Duration::from_secs(1)),
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

/// The pauses in which the application gets the write lock. One that waits for it asks seldom, up to ten times a second, and would
/// find it taken again and again while transactions of ours follow each other.
#[derive(Default)]
pub struct Yielding {
    /// When the application was last seen to write.
    seen: Option<Instant>,
}

impl Yielding {
    /// After a transaction that began at `begun`; `noticed`: the application has written before it. One that is about to write for the
    /// first time is not seen, so that others have a quarter of the time.
    pub fn pause(&mut self, noticed: bool, begun: Instant, now: Instant) -> Duration {
        if noticed {
            self.seen = Some(now);
        }
        let took = now.saturating_duration_since(begun).min(limits::YIELD_MAX);
        if self.is_writing(now) {
            took
        } else if took < limits::YIELD_FROM {
            Duration::ZERO
        } else {
            took / 3
        }
    }

    /// Whether the application was seen to write a short time ago.
    pub fn is_writing(&self, now: Instant) -> bool {
        self.seen.is_some_and(|seen| now.saturating_duration_since(seen) < limits::YIELD_FOR)
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

/// The pause before a stream is made anew that somebody has removed: a nats-server that is still removing its files would remove
/// those of the new one.
#[derive(Default)]
pub struct Removed(Option<Instant>);

impl Removed {
    /// The stream is not there. Whether the pause is over.
    pub fn is_over(&mut self, now: Instant) -> bool {
        let since = *self.0.get_or_insert(now);
        now.saturating_duration_since(since) >= limits::REMOVED_PAUSE
    }

    /// It is there: the next removal is another one.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

/// Tells how many writes of others have lost, a line a minute at most.
pub struct LostWrites {
    told: u64,
    not_before: Instant,
}

impl LostWrites {
    pub fn new(now: Instant) -> LostWrites {
        LostWrites { told: 0, not_before: now }
    }

    /// `lost`: all since the start.
    pub fn tell(&mut self, lost: u64, now: Instant) {
        if lost == self.told || now < self.not_before {
            return;
        }
        let new = lost - self.told;
        (self.told, self.not_before) = (lost, now + Duration::from_secs(60));
        log::warn!(
            "{new} writes of other nodes lost to later ones of this node; -conflicts shows them, -conflict-restore brings them back"
        );
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
        assert!(longest > Duration::from_millis(500) && longest <= Duration::from_secs(1), "{longest:?}");
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
    fn an_application_that_writes_has_the_lock_half_of_the_time() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut yielding = Yielding::default();
        assert_eq!(yielding.pause(false, start, start + ms(15)), ms(5), "somebody may wait");
        assert_eq!(yielding.pause(false, start, start + ms(4)), Duration::ZERO);
        assert_eq!(yielding.pause(true, start, start + ms(20)), ms(20));
        assert_eq!(yielding.pause(false, start + ms(40), start + ms(55)), ms(15), "it may wait now");
        assert_eq!(yielding.pause(false, start, start + ms(900)), limits::YIELD_MAX);
        let later = start + ms(20) + limits::YIELD_FOR;
        assert_eq!(yielding.pause(false, later, later + ms(9)), ms(3));
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

    #[test]
    fn a_removed_stream_is_made_anew_after_a_pause() {
        let (start, pause) = (Instant::now(), limits::REMOVED_PAUSE);
        let mut removed = Removed::default();
        assert!(!removed.is_over(start) && !removed.is_over(start + pause / 2));
        assert!(removed.is_over(start + pause) && removed.is_over(start + pause * 2));
        removed.forget();
        assert!(!removed.is_over(start + pause * 3), "it is another removal");
    }
}
