//! Getting the database back from a snapshot: for a node that has none, whose database is damaged, or that fell behind the
//! streams.

use super::search::{Found, Missing, Places, Search};
use crate::base::files::{self, Temporary};
use crate::base::{clock, limits, once::Once, retry::Backoff, stop::Stop};
use crate::config::Config;
use crate::db;
use crate::nats::{Connection, JetStream};
use crate::operate::board::Status;
use crate::storage::{OpenStore, Store};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a node that waits for its database works with.
pub struct Recovery<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The broker.
    pub connection: &'a Connection,
    /// Opens the store.
    pub open_store: OpenStore,
    /// Shows what is missing.
    pub status: &'a Status,
    /// Ends the waiting.
    pub stop: &'a Stop,
}

impl Recovery<'_> {
    /// Tries again and again, with growing pauses, until something came out of it; what is missing is said once and shown
    /// by health. `None`: stopped.
    fn until_done<R>(
        &self,
        what: &str,
        mut step: impl FnMut(&mut Search) -> Result<R, Missing>,
    ) -> Option<R> {
        let mut backoff = Backoff::default();
        let mut search = Search::default();
        let mut said = Once::default();
        loop {
            let why = match step(&mut search) {
                Ok(done) => {
                    self.status.set_missing("");
                    return Some(done);
                }
                Err(Missing::Waiting(why)) => why,
                Err(missing) => format!("restore: {}; trying again", missing.why()),
            };
            if !self.stop.requested() {
                said.warn(&format!("{what}; {why}"));
            }
            self.status.set_missing(&format!("{what}; {why}"));
            if backoff.wait(self.stop) {
                return None;
            }
        }
    }

    /// Gets a database for a node that has none: waits for a snapshot, or for somebody to put a database there.
    /// Returns false when stopped.
    pub fn missing(&self) -> bool {
        let what = format!("{}: no such file", self.config.db_path.display());
        let done = self.until_done(&what, |search| {
            if self.config.db_path.exists() {
                return Ok(());
            }
            let found = self.find(search, "the application to create it")?;
            noted(search, &found, |found| self.put_in_place(found))
        });
        done.is_some()
    }

    /// Gives the snapshot the database's name.
    fn put_in_place(&self, found: &Found) -> Result<(), String> {
        let path = &self.config.db_path;
        // SQLite would replay a WAL or journal of the lost database into the new one.
        for suffix in ["-wal", "-shm", "-journal"] {
            let stray = files::beside(path, suffix);
            if stray.exists() && !path.exists() {
                let name =
                    files::beside(path, &format!(".lost-{}{suffix}", clock::compact(clock::unix_ms())));
                files::publish_new(&stray, &name).map_err(|error| format!("{}: {error}", stray.display()))?;
                log::warn!(
                    "{} belongs to a database that is gone: kept as {}",
                    stray.display(),
                    name.display()
                );
            }
        }
        if self.config.publish {
            db::install_capture(found.path()).map_err(|error| format!("{}: {error}", found.name))?;
        }
        match files::publish_new(found.path(), path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
        // A sequence map of the lost database would say more than the restored one holds.
        let _ = std::fs::remove_file(&self.config.seq_map_path);
        log::info!("restored {} from {}: {}", path.display(), found.name, found.told());
        Ok(())
    }

    /// `who` could help otherwise.
    fn find(&self, search: &mut Search, who: &str) -> Result<Found, Missing> {
        if !self.config.snapshot.enabled {
            return Err(Missing::Waiting(format!("snapshots are disabled: waiting for {who}")));
        }
        self.connection
            .wait_up(limits::API_TIMEOUT)
            .map_err(|error| format!("waiting for NATS ({error})"))?;
        let store = (self.open_store)()?;
        let js = JetStream::new(self.connection.clone());
        let places = Places { config: self.config, js: &js, store: &store, schema: None };
        search.find(places)?.ok_or_else(|| {
            Missing::Waiting(format!("waiting for a snapshot in {}, or for {who}", store.describe()))
        })
    }

    /// Brings back a damaged database: it is copied aside, what it holds of unpublished changes is carried into a snapshot,
    /// and that is put in its place under the eyes of the application. Returns false when stopped.
    pub fn damaged(&self, why: &str) -> bool {
        let path = &self.config.db_path;
        let what = format!("{}: damaged ({why})", path.display());
        log::error!("{what}: recovering it");
        let mut kept = None;
        let done = self.until_done(&what, |search| {
            if kept.is_none() {
                kept = Some(set_aside(path, "damaged")?);
            }
            let found = self.find(search, "a person")?;
            noted(search, &found, |found| self.replace_damaged(found))
        });
        done.unwrap_or(false)
    }

    /// False when stopped.
    fn replace_damaged(&self, found: &Found) -> Result<bool, String> {
        let path = &self.config.db_path;
        let failed = |error: db::Error| format!("{}: {error}", path.display());
        let mut saved = db::Salvaged::default();
        let replaced = patiently(self.stop, || {
            // Opened anew each time: what the application wrote meanwhile may have made the file readable.
            let mut salvage = match self.config.publish {
                true => Some(db::Salvage::open(path, found.path(), self.config.node_id)?),
                false => None,
            };
            let mut carry = || {
                saved = salvage.as_mut().map_or(Ok(saved), db::Salvage::run)?;
                Ok(())
            };
            carry()?;
            db::replace(path, found.path(), self.stop, &mut carry)
        });
        if !replaced.map_err(failed)? {
            return Ok(false);
        }
        let _ = std::fs::remove_file(&self.config.seq_map_path);
        let unreadable = match saved.unreadable {
            0 => String::new(),
            count => format!(", {count} could not be read"),
        };
        log::info!(
            "restored {} from {}: {}; {} unpublished changes of the damaged one were carried over{unreadable}",
            path.display(),
            found.name,
            found.told(),
            saved.changes
        );
        Ok(true)
    }
}

/// Copies a database with its companions to a dated name beside it; returns that name. A copy that is there already is not
/// made again.
pub fn set_aside(path: &Path, what: &str) -> Result<PathBuf, String> {
    let failed = |path: &Path, error: std::io::Error| format!("set {} aside: {error}", path.display());
    if let Some(same) = files::find_copy(path, &format!(".{what}-")).map_err(|error| failed(path, error))? {
        log::info!("{} is the same: no other copy is made", same.display());
        return Ok(same);
    }
    let companions = ["", "-wal", "-shm", "-journal"];
    let size =
        companions.iter().map(|suffix| std::fs::metadata(files::beside(path, suffix)).map_or(0, |m| m.len()));
    super::room(&files::parent(path), size.sum())?;
    let name = files::beside(path, &format!(".{what}-{}", clock::compact(clock::unix_ms())));
    // The database last: a copy that has a name of its own is a whole one.
    for suffix in companions.iter().rev() {
        let from = files::beside(path, suffix);
        if !from.exists() {
            continue;
        }
        let copy = Temporary::new(files::beside(path, ".harmonylite-aside"));
        std::fs::copy(&from, copy.path()).map_err(|error| failed(&from, error))?;
        files::publish_new(copy.path(), &files::beside(&name, suffix))
            .map_err(|error| failed(&from, error))?;
    }
    log::warn!("{} is kept as {}", path.display(), name.display());
    Ok(name)
}

/// Uses what was found; why that failed is remembered.
fn noted<R>(
    search: &mut Search,
    found: &Found,
    step: impl FnOnce(&Found) -> Result<R, String>,
) -> Result<R, Missing> {
    step(found).map_err(|why| {
        search.failed(found, &why);
        Missing::Failed(why)
    })
}

/// Brings a database that fell behind the streams to the state of a stored snapshot, under a live application. The error
/// says what is missing.
pub fn restore_live(
    config: &Config,
    js: &JetStream,
    store: &Store,
    database: &mut db::Applier,
    search: &mut Search,
    stop: &Stop,
) -> Result<(), String> {
    let begun = Instant::now();
    let schema = db::schema_hash(&config.db_path).map_err(|error| error.to_string())?;
    let places = Places { config, js, store, schema: Some(&schema) };
    let found = search.find(places).map_err(Missing::why)?;
    let found = found
        .ok_or_else(|| format!("this node is not whole and waits for a snapshot in {}", store.describe()))?;
    let applied = noted(search, &found, |found| {
        db::compare(&config.db_path, found.path())
            .and_then(|comparison| patiently(stop, || database.reconcile(&comparison, db::Extra::Remove)))
            .map_err(|error| error.to_string())
    });
    let applied = applied.map_err(Missing::why)?;
    *search = Search::default();
    log::info!(
        "brought the database to the state of {}: {} rows written or deleted, {:.1} s",
        found.name,
        applied.rows,
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Tries again while the application holds the lock: what was downloaded and compared is not to be thrown away for that.
pub fn patiently<R>(stop: &Stop, mut step: impl FnMut() -> Result<R, db::Error>) -> Result<R, db::Error> {
    let mut said = false;
    loop {
        match step() {
            Err(db::Error::Busy) if !stop.requested() => {
                if !said {
                    log::warn!("the application holds the lock on the database: waiting to restore it");
                    said = true;
                }
            }
            other => return other,
        }
    }
}
