//! Events that are set aside, could go on, and wait for a write of ours to come back.

use crate::base::{limits, retry::Backoff};
use std::time::Instant;

/// Events that could go on and wait for a write of ours: when they are tried again.
#[derive(Debug)]
pub struct Deferred {
    due: Option<Instant>,
    pauses: Backoff,
}

impl Default for Deferred {
    fn default() -> Deferred {
        Deferred { due: None, pauses: Backoff::between(limits::ASIDE_LOOK_AGAIN, limits::ASIDE_PUT_OFF) }
    }
}

impl Deferred {
    /// One waits for a write of ours.
    pub fn put_off(&mut self, now: Instant) {
        let pauses = &mut self.pauses;
        self.due.get_or_insert_with(|| now + pauses.pause());
    }

    /// Whether to try again; then what is put off has to be put off anew.
    pub fn is_due(&mut self, now: Instant) -> bool {
        match self.due {
            Some(due) if now >= due => {
                self.due = None;
                true
            }
            Some(_) => false,
            None => {
                self.pauses.reset();
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_off_again_and_again_is_tried_ever_later() {
        let (mut deferred, start) = (Deferred::default(), Instant::now());
        assert!(!deferred.is_due(start));
        let mut now = start;
        for _ in 0..20 {
            deferred.put_off(now);
            assert!(!deferred.is_due(now));
            now += limits::ASIDE_PUT_OFF;
            assert!(deferred.is_due(now));
        }
        deferred.put_off(now);
        assert!(!deferred.is_due(now + limits::ASIDE_PUT_OFF / 4));
        assert!(deferred.is_due(now + limits::ASIDE_PUT_OFF) && !deferred.is_due(now), "nothing is put off");
        deferred.put_off(now);
        assert!(deferred.is_due(now + limits::ASIDE_LOOK_AGAIN));
    }
}
