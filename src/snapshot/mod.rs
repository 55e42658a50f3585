//! Snapshots: how one is made and stored ([`save`]), when one is due ([`Scheduler`]), how a node whose database is
//! missing, damaged or far behind the streams gets it back ([`Recovery`], [`restore_live`]), and what a person can do with them ([`list`],
//! [`verify`], [`restore_to`]).

mod at;
mod inspect;
mod join;
mod proof;
mod replay;
mod restore;
mod save;
mod scheduler;
mod search;

pub use at::{Restored, parse_when, restore_at};
pub use inspect::{Verdict, list, restore_to, verify};
pub use join::{Joined, Joining, claim};
pub use proof::{Proof, list_proven, prove};
pub use replay::{Until, replay};
pub use restore::{Recovery, restore_live};
pub use save::{Saved, Terms, save};
pub use scheduler::Scheduler;
pub use search::Search;

use crate::base::{files, limits, stop::Stop};
use crate::config::Config;
use crate::model::positions::SeqMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Logs a long transfer's progress now and then.
struct Progress {
    what: &'static str,
    total: u64,
    last: Mutex<Instant>,
}

impl Progress {
    fn new(what: &'static str, total: u64) -> Progress {
        Progress { what, total, last: Mutex::new(Instant::now()) }
    }

    fn at(&self, done: u64) {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.elapsed() > limits::PROGRESS_INTERVAL {
            *last = Instant::now();
            log::info!("{}: {} of {} MB", self.what, done / 1_000_000, self.total / 1_000_000);
        }
    }
}

/// `stream=sequence` for each stream, for messages.
pub fn show_positions(positions: &SeqMap) -> String {
    let shown: Vec<String> = positions.iter().map(|(name, seq)| format!("{name}={seq}")).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(" ") }
}

/// Takes the lock under which one snapshot of a database is made at a time; waits for it at most `patience`.
fn lock(config: &Config, patience: Duration, stop: &Stop) -> Result<files::Lock, String> {
    let path = files::beside(&config.db_path, ".harmonylite-snapshot.lock");
    let until = Instant::now() + patience;
    loop {
        match files::Lock::try_take(&path) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if Instant::now() < until && !stop.wait(Duration::from_millis(100)) => {}
            Ok(None) => return Err("another snapshot of this database is being made".to_owned()),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
}

/// Removes what a crash left beside the database and in the directory for temporary files, unless a snapshot is being made.
pub fn remove_leftovers(config: &Config, stop: &Stop) {
    let Ok(_lock) = lock(config, Duration::ZERO, stop) else { return };
    let stem = config.db_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let prefix = format!("{stem}.harmonylite-");
    for dir in [files::parent(&config.db_path), config.temp_dir()] {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let ours =
                name.to_str().is_some_and(|name| name.starts_with(&prefix) && !name.ends_with(".lock"));
            if ours && std::fs::remove_file(entry.path()).is_ok() {
                log::info!("removed {}, which an interrupted run had left", entry.path().display());
            }
        }
    }
}

/// Checks that so many bytes are free in a directory.
fn room(dir: &std::path::Path, needed: u64) -> Result<(), String> {
    let free = files::free_space(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    if free < needed {
        return Err(format!("{}: the snapshot needs {needed} bytes, {free} are free", dir.display()));
    }
    Ok(())
}
