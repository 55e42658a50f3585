//! Transfers of snapshots: the download, and the lines that tell how far a long one has come.

use super::scratch::{need_room, room};
use crate::base::error::{Context, Error, Kind};
use crate::base::temporary::Temporary;
use crate::base::{files, limits, progress};
use crate::storage::{self, Seal, Store, Stored};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Shows a transfer's progress on a terminal, and logs a long one's now and then.
pub struct Progress {
    what: &'static str,
    total: u64,
    /// When it was last told.
    last: Mutex<Instant>,
    shown: progress::Line,
}

impl Progress {
    /// `what` is on its way, `total` bytes of it.
    pub fn new(what: &'static str, total: u64) -> Progress {
        Progress { what, total, last: Mutex::new(Instant::now()), shown: progress::Line::default() }
    }

    /// Takes note that `done` bytes were transferred.
    pub fn note(&self, done: u64) {
        self.shown.show(|| progress::bar(self.what, done, self.total));
        if let Some(line) = self.line(done, Instant::now()) {
            log::info!("{line}");
        }
    }

    fn line(&self, done: u64, now: Instant) -> Option<String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(*last) <= limits::PROGRESS_INTERVAL {
            return None;
        }
        *last = now;
        Some(format!("{}: {} of {} MB", self.what, done / 1_000_000, self.total / 1_000_000))
    }
}

/// Checks that a snapshot fits into a directory. Returns how many bytes one may take whose size nobody vouches for.
fn check_room(dir: &Path, stored: &Stored) -> Result<u64, Error> {
    let (plain, room) = (stored.plain_size(), room(dir)?.max(stored.size));
    // What is not packed comes out as large as it lies in the store, whatever its label says.
    need_room(dir, plain.max(stored.size))?;
    if stored.seal != Seal::Whole && plain > room {
        let text = format!(
            "the snapshot needs {plain} bytes, {room} may be taken: a tenth of the free space, 64 MB at least, stays free for \
             the application"
        );
        return Err(Error::local(text).at(dir.display()));
    }
    Ok(room)
}

/// Downloads a snapshot, unpacks it, and checks size and digest. Returns what it turned out to be: the store may have
/// replaced it meanwhile. [`Kind::Unusable`]: its content is not what it should be, or must
/// not be taken.
pub fn fetch(store: &Store, stored: &Stored, target: &Temporary) -> Result<Stored, Error> {
    let path = target.path();
    if let Some(why) = stored.refused() {
        return Err(Error::new(Kind::Unusable, format!("{}: {why}", stored.name)));
    }
    let room = check_room(&target.place(), stored)?;
    let file = files::create_private(path)
        .map_err(|error| Error::local(format!("{}: {error}", target.place().display())))?;
    let progress = Progress::new("downloading the snapshot", stored.size);
    let fetched = store.fetch(stored, &file, room, &|done| progress.note(done));
    let what = match &fetched {
        Err(storage::Error::Unreadable(_) | storage::Error::Local(_)) => format!("unpack {}", stored.name),
        _ => format!("download {} from {}", stored.name, store.describe()),
    };
    fetched.context(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A store tells the size of what it holds, and nobody vouches for that.
    #[test]
    fn what_lies_in_the_store_must_fit_as_well_as_what_comes_out() {
        let dir = std::env::temp_dir();
        let stored = |size, plain| {
            let label = storage::Label { plain, ..storage::Label::default() };
            Stored { size, label, ..Stored::default() }
        };
        let huge = 1 << 60;
        for (size, plain) in [(huge, 1000), (1000, huge), (huge, 0)] {
            let error = check_room(&dir, &stored(size, plain)).unwrap_err();
            assert_eq!(error.kind(), Kind::Local, "{error}");
        }
        assert!(check_room(&dir, &stored(1000, 2000)).unwrap() < huge);
    }

    #[test]
    fn progress_is_told_once_an_interval() {
        let progress = Progress::new("uploading", 90_000_000);
        let begun = *progress.last.lock().unwrap();
        let soon = begun + limits::PROGRESS_INTERVAL;
        assert_eq!(progress.line(1_000_000, soon), None);
        let later = soon + Duration::from_millis(1);
        assert_eq!(progress.line(7_900_000, later).unwrap(), "uploading: 7 of 90 MB");
        assert_eq!(progress.line(8_000_000, later + limits::PROGRESS_INTERVAL), None);
        assert!(progress.line(9_000_000, later + limits::PROGRESS_INTERVAL * 2).is_some());
    }
}
