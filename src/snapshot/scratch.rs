//! Scratch files: where they lie, the room that they need, what an interrupted run left of them, and the lock under which
//! one snapshot of a database is made at a time.

use crate::base::error::{Context, Error, Kind};
use crate::base::files;
use crate::base::limits;
use crate::base::stop::Stop;
use crate::base::temporary::{self, Temporary};
use crate::config::Config;
use crate::db;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pause between two tries to take the lock.
const LOCK_LOOK: Duration = Duration::from_millis(100);

/// A scratch file for the database, in the directory for temporary files.
pub fn scratch(config: &Config, purpose: &str) -> Result<Temporary, Error> {
    make(&config.temp_dir(), &config.db_path, purpose)
}

/// A scratch file that can be renamed to `path`.
pub fn beside(path: &Path, purpose: &str) -> Result<Temporary, Error> {
    make(&files::parent(path), path, purpose)
}

fn make(place: &Path, path: &Path, purpose: &str) -> Result<Temporary, Error> {
    Temporary::new(place, path, purpose)
        .map_err(|error| Error::local(format!("temporary file in {}: {error}", place.display())))
}

/// The size of a file in bytes; 0 when there is none.
pub fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Checks that `needed` bytes are free in a directory.
pub fn need_room(dir: &Path, needed: u64) -> Result<(), Error> {
    let free =
        files::free_space(dir).map_err(|error| Error::local(error.to_string())).context(dir.display())?;
    fits(needed, free).context(dir.display())
}

/// Bytes in a directory that content from outside may take: a tenth of the free space, 64 MB at least, stays free for the
/// application, but never more than half of it.
pub fn room(dir: &Path) -> Result<u64, Error> {
    let free =
        files::free_space(dir).map_err(|error| Error::local(error.to_string())).context(dir.display())?;
    Ok(free - reserve(free))
}

fn reserve(free: u64) -> u64 {
    (free / 10).max(limits::RESERVE).min(free / 2)
}

fn fits(needed: u64, free: u64) -> Result<(), Error> {
    if free < needed {
        return Err(Error::local(format!("the snapshot needs {needed} bytes, {free} are free")));
    }
    Ok(())
}

/// An error about a scratch copy of a snapshot: its damage is not damage of this node's database.
pub fn about_copy(error: db::Error) -> Error {
    match error {
        db::Error::Corrupt(why) => Error::new(Kind::Unusable, why),
        error => error.into(),
    }
}

/// Takes the lock under which one snapshot of a database is made at a time; waits for it at most `patience`.
pub fn lock(config: &Config, patience: Duration, stop: &Stop) -> Result<files::Lock, Error> {
    let path = files::beside(&config.db_path, ".harmonylite-snapshot.lock");
    let until = Instant::now() + patience;
    loop {
        match files::Lock::try_take(&path) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) => {}
            Err(error) => return Err(Error::local(format!("{}: {error}", path.display()))),
        }
        if Instant::now() >= until {
            return Err(Error::waiting("another snapshot of this database is being made"));
        }
        if stop.wait(LOCK_LOOK) {
            return Err(Error::stopped());
        }
    }
}

/// Removes what killed processes left beside the database, in the directory for temporary files and beside the sequence map.
/// The caller holds the lock of the database.
pub fn remove_leftovers(config: &Config) {
    for place in [files::parent(&config.db_path), config.temp_dir()] {
        temporary::remove_leftovers(&place, &config.db_path);
    }
    files::remove_unfinished(&config.seq_map_path);
    files::remove_unfinished(&config.seq_map_path.with_file_name(limits::SFTP_HOST_KEYS));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_both_numbers() {
        assert_eq!(fits(5, 5), Ok(()));
        let error = fits(6, 5).unwrap_err();
        assert_eq!(error.kind(), Kind::Local);
        assert_eq!(error.to_string(), "the snapshot needs 6 bytes, 5 are free");
    }

    #[test]
    fn a_tenth_of_the_disk_stays_free_and_on_small_disks_more() {
        const MB: u64 = 1_000_000;
        assert_eq!(reserve(2_000 * MB), 200 * MB);
        assert_eq!(reserve(300 * MB), limits::RESERVE);
        assert_eq!(reserve(100 * MB), 50 * MB, "a small disk still takes a small database");
        assert_eq!(reserve(0), 0);
    }

    #[test]
    fn a_damaged_copy_is_no_damaged_database() {
        let kind = |error| about_copy(error).kind();
        assert_eq!(kind(db::Error::Corrupt("page 3".into())), Kind::Unusable);
        assert_eq!(kind(db::Error::Disk("full".into())), Kind::Local);
        assert_eq!(kind(db::Error::Busy), Kind::Waiting);
    }
}
