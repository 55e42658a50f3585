//! How often a database may take a new incarnation because of an event of its own that it does not know. The first time comes
//! at once: an older copy was put in place. Whoever takes one after the other takes its own events for somebody else's, for
//! whatever reason, and would publish all of its log for ever. So between two there is a pause, and it grows.

use std::time::{Duration, Instant};

const PAUSE_MIN: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Default)]
pub struct Renewal {
    /// When the last one was taken, and the pause after it.
    last: Option<(Instant, Duration)>,
}

impl Renewal {
    /// Whether a new incarnation may be taken now.
    pub fn is_allowed(&self, now: Instant) -> bool {
        self.last.is_none_or(|(taken, pause)| now.saturating_duration_since(taken) >= pause)
    }

    /// One was taken, and is committed.
    pub fn taken(&mut self, now: Instant) {
        let pause = self.last.map_or(PAUSE_MIN, |(_, pause)| (pause * 2).min(PAUSE_MAX));
        self.last = Some((now, pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_comes_at_once_and_every_other_after_a_longer_pause() {
        let (start, mut renewal) = (Instant::now(), Renewal::default());
        assert!(renewal.is_allowed(start));
        let (mut now, mut last) = (start, Duration::ZERO);
        for _ in 0..20 {
            renewal.taken(now);
            let pause =
                (1..).map(Duration::from_secs).find(|pause| renewal.is_allowed(now + *pause)).unwrap();
            assert!(pause > last || pause == PAUSE_MAX, "{pause:?} after {last:?}");
            (now, last) = (now + pause, pause);
        }
        assert_eq!(last, PAUSE_MAX);
    }
}
