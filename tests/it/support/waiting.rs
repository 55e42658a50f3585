//! Waiting for a condition with a bound, and the numbers that a person sets in the environment.

use std::time::{Duration, Instant};

/// Waits until `condition` gives something; panics after `seconds`.
pub fn wait_for<T>(what: &str, seconds: u64, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < until, "waited {seconds} s in vain: {what}\n{}", super::stuck::doings());
        pause(5);
    }
}

/// A short wait between two attempts.
pub fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// A number that a person set to make a test longer or to repeat it; `None` when it is not set.
pub fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
