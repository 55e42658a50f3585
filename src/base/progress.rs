//! How far long work has come: one line on a person's terminal, drawn again and again. It goes through the logger, which draws it
//! where somebody looks, and nowhere else ([`crate::base::logger::Output`]).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Log records of this target are such lines; an empty one removes the last.
pub const TARGET: &str = "progress";
/// Pause between two drawings.
const PAUSE: Duration = Duration::from_millis(100);
/// A longer line would be broken by the terminal, and could not be drawn over.
const WIDTH: usize = 78;
/// Places in a bar.
const PLACES: u64 = 20;

/// The line of one piece of work. It is removed with it.
#[derive(Debug, Default)]
pub struct Line(Mutex<Option<Instant>>);

impl Line {
    /// Shows a text, unless one was shown a moment ago.
    pub fn show(&self, text: impl FnOnce() -> String) {
        if !log::log_enabled!(target: TARGET, log::Level::Trace) {
            return;
        }
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if last.is_none_or(|last| now.saturating_duration_since(last) >= PAUSE) {
            *last = Some(now);
            let text: String = text().chars().take(WIDTH).collect();
            log::trace!(target: TARGET, "{text}");
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.0.get_mut().is_ok_and(|last| last.is_some()) {
            log::trace!(target: TARGET, "");
        }
    }
}

/// A bar with what it is about: `uploading [=====>         ]  27 %, 22 of 80 MB`.
pub fn bar(what: &str, done: u64, total: u64) -> String {
    let done = done.min(total);
    let of = |whole: u64| {
        if total == 0 { whole } else { (u128::from(done) * u128::from(whole) / u128::from(total)) as u64 }
    };
    let (full, percent) = (of(PLACES), of(100));
    let places: String = (0..PLACES)
        .map(|place| match place {
            place if place < full => '=',
            place if place == full => '>',
            _ => ' ',
        })
        .collect();
    let (unit, name) = if total < 10_000_000 { (1_000, "kB") } else { (1_000_000, "MB") };
    format!("{what} [{places}] {percent:3} %, {} of {} {name}", done / unit, total / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_grows_from_nothing_to_all() {
        assert_eq!(bar("x", 0, 80_000_000), "x [>                   ]   0 %, 0 of 80 MB");
        assert_eq!(bar("x", 22_000_000, 80_000_000), "x [=====>              ]  27 %, 22 of 80 MB");
        assert_eq!(bar("x", 9_000, 4_000), "x [====================] 100 %, 4 of 4 kB");
        assert_eq!(bar("x", 0, 0), "x [====================] 100 %, 0 of 0 kB");
        assert_eq!(bar("x", u64::MAX, u64::MAX).matches('=').count(), 20);
    }
}
