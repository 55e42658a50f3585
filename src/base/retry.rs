//! Trying again what failed for a moment: one decorator for every operation that retries.
//!
//! An operation has one budget of tries. Its steps, and their steps, draw on the same budget: a request that never succeeds
//! is made at most [`Retry::new`]'s number of times, however many retries stand around it. Pauses grow, and end at once when
//! a stop is requested.

use crate::base::{limits, random, stop::Stop};
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Growing pauses, with jitter: nodes that failed together must not come back together.
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
    /// Pauses that double from `limits::RETRY_FIRST` to `max`.
    pub fn up_to(max: Duration) -> Self {
        Backoff::between(limits::RETRY_FIRST.min(max), max)
    }

    /// Pauses that double from `first` to `max`.
    pub fn between(first: Duration, max: Duration) -> Self {
        Backoff { next: first, first, max }
    }

    /// The next pause: half of it is certain, the other half random.
    pub fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.max);
        full / 2 + full.mul_f64(f64::from(random::random_u32()) / f64::from(u32::MAX) / 2.0)
    }

    /// Takes the next pause. True: a stop was requested before it was over.
    pub fn wait(&mut self, stop: &Stop) -> bool {
        let pause = self.pause();
        stop.wait(pause)
    }

    /// Begins again with the first pause.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// An error of an operation that can be tried again.
pub trait Retryable: fmt::Display + Sized {
    /// Whether the same request may succeed a moment later.
    fn is_transient(&self) -> bool;
    /// The error of an operation that a stop ended.
    fn stopped() -> Self;
    /// The same error, its text followed by the effort that was made, such as `5 tries, 1.2 s`.
    #[must_use]
    fn after(self, effort: &str) -> Self;
}

/// How operations are tried again.
#[derive(Clone, Debug)]
pub struct Retry {
    tries: u32,
    first: Duration,
    max: Duration,
    /// After this time nothing is tried again.
    within: Duration,
    stop: Stop,
}

impl Retry {
    /// At most so many tries of one operation. `stop` ends the pauses between them.
    pub fn new(tries: u32, stop: Stop) -> Retry {
        Retry::with_pauses(tries, limits::RETRY_FIRST, limits::RETRY_MAX, stop)
    }

    /// The same with pauses that double from `first` to `max`.
    pub fn with_pauses(tries: u32, first: Duration, max: Duration, stop: Stop) -> Retry {
        Retry { tries, first, max, within: Duration::MAX, stop }
    }

    /// The same, but that no try begins when this time has passed.
    #[must_use]
    pub fn within(self, within: Duration) -> Retry {
        Retry { within, ..self }
    }

    /// Runs an operation until it succeeds, fails for good, or has used up its tries; `what` names it in messages. The
    /// operation hands the tries that it gets to its steps ([`Tries::step`]). A success after failures is reported once.
    pub fn run<T, E: Retryable>(
        &self,
        what: &str,
        operation: impl FnMut(&Tries<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let (begun, failed) = (Instant::now(), AtomicU32::new(0));
        let tries = Tries { retry: self, left: AtomicU32::new(self.tries), failed: &failed };
        let result = tries.step(what, operation);
        let failed = failed.load(Relaxed);
        if result.is_ok() && failed > 0 {
            log::info!("{what}: succeeded after {}", effort(failed + 1, begun.elapsed()));
        }
        result
    }
}

/// What is left of an operation's budget of tries.
#[derive(Debug)]
pub struct Tries<'a> {
    retry: &'a Retry,
    left: AtomicU32,
    /// Failures so far of the whole operation, all of its steps included.
    failed: &'a AtomicU32,
}

impl Tries<'_> {
    /// What ends the pauses between the tries; a step that takes long looks at it itself.
    pub fn stop(&self) -> &Stop {
        &self.retry.stop
    }

    /// Runs a step of the operation, and that step alone again while it may succeed and tries are left. A step that succeeds
    /// in the end gives back what it took; one that used up the tries has used up those of the operation too.
    pub fn step<T, E: Retryable>(
        &self,
        what: &str,
        mut step: impl FnMut(&Tries<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let mut backoff = Backoff::between(self.retry.first, self.retry.max);
        let allowed = self.left.load(Relaxed);
        let mut made = 0;
        loop {
            let before = allowed.saturating_sub(made);
            let inside = Tries { left: AtomicU32::new(before), ..*self };
            let error = match step(&inside) {
                Err(error) if error.is_transient() => error,
                other => return other,
            };
            // What failed may have been a step of this step, which has tried it already.
            let tried_inside = before - inside.left.load(Relaxed);
            made += tried_inside.max(1);
            if made >= allowed || begun.elapsed() >= self.retry.within {
                self.left.store(0, Relaxed);
                let is_new = tried_inside == 0 && made > 1;
                return Err(if is_new { error.after(&effort(made, begun.elapsed())) } else { error });
            }
            self.failed.fetch_add(1, Relaxed);
            log::debug!("{what}: {error}; trying again");
            if backoff.wait(&self.retry.stop) {
                return Err(E::stopped());
            }
        }
    }
}

/// `3 tries, 0.7 s`.
fn effort(tries: u32, took: Duration) -> String {
    let noun = if tries == 1 { "try" } else { "tries" };
    if took < Duration::from_secs(10) {
        format!("{tries} {noun}, {:.1} s", took.as_secs_f64())
    } else {
        format!("{tries} {noun}, {} s", took.as_secs())
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
