//! What this node has sent, received and written to the disk, by day and by month (UTC): what a thin line or a flash disk bears is
//! counted so. Kept in a file beside the sequence map, which is written at a stop, and now and then while rows flow: a quiet node
//! writes nothing.

use super::View;
use super::status::bytes_written;
use crate::base::{clock, files, limits};
use crate::config::Config;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Bytes sent and received over NATS, read from the streams, written to disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Bytes([u64; 4]);

impl Bytes {
    /// What a running process has come to.
    fn of(view: &View) -> Bytes {
        let (sent, received) = view.connection.traffic().so_far();
        Bytes([sent, received, view.signals.flow.bytes_read(), bytes_written().unwrap_or(0)])
    }

    fn add(&mut self, more: Bytes) {
        self.0.iter_mut().zip(more.0).for_each(|(sum, more)| *sum = sum.saturating_add(more));
    }

    fn since(self, before: Bytes) -> Bytes {
        Bytes(std::array::from_fn(|at| self.0[at].saturating_sub(before.0[at])))
    }

    fn shown(self) -> Value {
        let [sent, received, replicated, written] = self.0;
        json!({ "sent": sent, "received": received, "replicated": replicated, "written_to_disk": written })
    }
}

/// What the file holds: `{"day":"2026-11-28","today":[1,2,3,4],"month":[5,6,7,8]}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The day of `today`; its beginning is the month of `month`.
    day: String,
    today: Bytes,
    month: Bytes,
}

impl Kept {
    /// What a file holds; nothing if it is none of ours.
    fn read(bytes: &[u8]) -> Kept {
        serde_json::from_slice(bytes).ok().filter(|kept: &Kept| kept.day.is_ascii()).unwrap_or_default()
    }

    fn add(&mut self, more: Bytes, ms: i64) {
        let day = &clock::rfc3339(ms)[..10];
        if self.day != day {
            if self.day.get(..7) != day.get(..7) {
                self.month = Bytes::default();
            }
            self.today = Bytes::default();
            day.clone_into(&mut self.day);
        }
        self.today.add(more);
        self.month.add(more);
    }
}

#[derive(Debug)]
struct State {
    kept: Kept,
    /// What of this process is in it.
    counted: Bytes,
    /// When the file was written, and how many rows had flowed then.
    stored: (Instant, u64),
}

/// Shared by those who count and those who show.
#[derive(Debug)]
pub struct Usage {
    path: PathBuf,
    state: Mutex<State>,
}

impl Usage {
    /// What was counted before is read.
    pub fn load(config: &Config) -> Usage {
        let path = files::beside(&config.seq_map_path, ".traffic");
        // One that is missing or cannot be read: it begins anew.
        let kept = std::fs::read(&path).map(|bytes| Kept::read(&bytes)).unwrap_or_default();
        Usage {
            path,
            state: Mutex::new(State { kept, counted: Bytes::default(), stored: (Instant::now(), 0) }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what came since the last call.
    pub fn count(&self, view: &View) {
        let mut state = self.lock();
        let now = Bytes::of(view);
        let more = now.since(state.counted);
        state.counted = now;
        state.kept.add(more, clock::unix_ms());
    }

    /// Writes the file: at the end, and when rows have flowed since the last time, long ago.
    pub fn store(&self, view: &View, last: bool, now: Instant) {
        let mut state = self.lock();
        let totals = view.board.totals();
        let flowed = totals.published + totals.consumed;
        let due =
            now.saturating_duration_since(state.stored.0) >= limits::USAGE_STORE && flowed != state.stored.1;
        if !due && !last {
            return;
        }
        state.stored = (now, flowed);
        let text = serde_json::to_string(&state.kept).unwrap_or_default() + "\n";
        if let Err(error) = files::write_atomically(&self.path, text.as_bytes()) {
            log::debug!("write {}: {error}", self.path.display());
        }
    }

    /// Today's bytes, and this month's.
    pub fn shown(&self) -> (Value, Value) {
        let state = self.lock();
        (state.kept.today.shown(), state.kept.month.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;
    use crate::operate::status::tests::view;

    const DAY: i64 = 86_400_000;
    /// 2026-11-28.
    const NOW: i64 = 1_795_824_000_000;

    fn sums(kept: &Kept) -> (u64, u64) {
        (kept.today.0[0], kept.month.0[0])
    }

    #[test]
    fn days_and_months_begin_anew() {
        let mut kept = Kept::default();
        let mut add = |bytes, days: i64| {
            kept.add(Bytes([bytes, 0, 0, 0]), NOW + days * DAY);
            sums(&kept)
        };
        assert_eq!(add(5, 0), (5, 5));
        assert_eq!(add(2, 0), (7, 7));
        assert_eq!(add(1, 1), (1, 8));
        assert_eq!(add(1, 3), (1, 1), "December");
        assert_eq!(add(3, 3 + 365), (3, 3), "the December after");
    }

    #[test]
    fn it_goes_on_where_it_was_stored_and_garbage_begins_anew() {
        let scratch = Scratch::new("usage");
        let mut view = view("");
        view.config.seq_map_path = scratch.path("seq-map.cbor");
        let usage = Usage::load(&view.config);
        usage.count(&view);
        usage.lock().kept.add(Bytes([7, 8, 9, 10]), clock::unix_ms());
        usage.store(&view, false, Instant::now() + limits::USAGE_STORE);
        assert!(!usage.path.exists(), "a quiet node writes nothing");
        view.board.count_published(1);
        usage.store(&view, false, Instant::now());
        assert!(!usage.path.exists(), "not often");
        usage.store(&view, false, Instant::now() + limits::USAGE_STORE);
        let again = Usage::load(&view.config);
        assert_eq!(again.lock().kept, usage.lock().kept);
        assert_eq!(again.shown().0["sent"], 7);
        for garbage in [
            &b""[..],
            b"{",
            b"{\"day\":\"2026-11-28\"}",
            b"[1]",
            "{\"day\":\"é\",\"today\":[1,2,3,4],\"month\":[1,2,3,4]}".as_bytes(),
        ] {
            assert_eq!(Kept::read(garbage), Kept::default());
        }
    }
}
