//! Growing pauses between tries, with jitter so that nodes do not knock in step.

use crate::base::{limits, stop::Stop};
use std::time::Duration;

/// The pauses of one row of tries.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff::up_to(limits::RETRY_MAX)
    }
}

impl Backoff {
    /// Pauses that double from the first to `max`.
    pub fn up_to(max: Duration) -> Self {
        Backoff::between(limits::RETRY_FIRST.min(max), max)
    }

    /// Pauses that double from `first` to `max`.
    pub fn between(first: Duration, max: Duration) -> Self {
        Backoff { next: first, first, max }
    }

    /// The next pause: half of it certain, half random.
    pub fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.max);
        full / 2 + full.mul_f64(f64::from(random_u32()) / f64::from(u32::MAX) / 2.0)
    }

    /// Takes the next pause; true when stop was said meanwhile.
    pub fn wait(&mut self, stop: &Stop) -> bool {
        let pause = self.pause();
        stop.wait(pause)
    }

    /// Begins again with the first pause.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Random bytes from the system.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    use ring::rand::SecureRandom;
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new().fill(&mut bytes).expect("the kernel has random numbers");
    bytes
}

/// A random number.
pub fn random_u32() -> u32 {
    u32::from_le_bytes(random_bytes())
}

/// A random number.
pub fn random_u64() -> u64 {
    u64::from_le_bytes(random_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_below_the_limit() {
        let mut backoff = Backoff::up_to(Duration::from_secs(1));
        let pauses: Vec<_> = (0..10).map(|_| backoff.pause()).collect();
        assert!(pauses[0] <= limits::RETRY_FIRST && pauses[0] >= limits::RETRY_FIRST / 2);
        assert!(pauses.iter().all(|p| *p <= Duration::from_secs(1)));
        assert!(pauses[9] >= Duration::from_millis(500));
    }
}
