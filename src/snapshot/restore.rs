//! Getting the database back from a snapshot: for a node that has none, and for one that fell behind the streams.

use super::inspect::{Fault, fetch};
use super::{OpenStore, wanted};
use crate::clock;
use crate::config::Config;
use crate::db;
use crate::files::{self, Temporary};
use crate::limits;
use crate::nats::{Connection, JetStream};
use crate::replicator;
use crate::retry::Backoff;
use crate::seqmap::SeqMap;
use crate::status::Status;
use crate::stop::Stop;
use crate::storage::{Store, Stored};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Snapshots that were found to be no good, so that they are not downloaded again: which, and why.
pub type Damaged = BTreeMap<String, String>;

/// Why there is no restored database yet.
pub enum Missing {
    /// Nobody but others can change that: it is said once.
    Waiting(String),
    /// A try failed.
    Failed(String),
}

impl From<String> for Missing {
    fn from(why: String) -> Missing {
        Missing::Failed(why)
    }
}

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
        mut step: impl FnMut(&mut Damaged) -> Result<R, Missing>,
    ) -> Option<R> {
        let mut backoff = Backoff::default();
        let mut damaged = Damaged::new();
        let mut said = String::new();
        loop {
            let why = match step(&mut damaged) {
                Ok(done) => {
                    self.status.set_missing("");
                    return Some(done);
                }
                Err(Missing::Waiting(why)) => why,
                Err(Missing::Failed(why)) => format!("restore: {why}; trying again"),
            };
            if said != why && !self.stop.requested() {
                log::warn!("{what}; {why}");
                said.clone_from(&why);
            }
            self.status.set_missing(&format!("{what}; {why}"));
            self.status.connected.store(self.connection.is_up(), Relaxed);
            if backoff.wait(self.stop) {
                return None;
            }
        }
    }

    /// Gets a database for a node that has none: waits for a snapshot, or for somebody to put a database there.
    /// Returns false when stopped.
    pub fn missing(&self) -> bool {
        let what = format!("{}: no such file", self.config.db_path.display());
        let done = self.until_done(&what, |damaged| {
            if self.config.db_path.exists() {
                return Ok(());
            }
            self.try_missing(damaged)
        });
        done.is_some()
    }

    /// One try.
    fn try_missing(&self, damaged: &mut Damaged) -> Result<(), Missing> {
        let path = &self.config.db_path;
        let begun = Instant::now();
        let found = self.find(damaged, "waiting for the application to create it")?;
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
        match files::publish_new(found.file.path(), path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(format!("{}: {error}", path.display()).into()),
        }
        // A sequence map of the lost database would say more than the restored one holds.
        let _ = std::fs::remove_file(&self.config.seq_map_path);
        log::info!("restored {} from {}: {}", path.display(), found.name, found.told(begun.elapsed()));
        Ok(())
    }

    fn find(&self, damaged: &mut Damaged, without: &str) -> Result<Found, Missing> {
        if !self.config.snapshot.enabled {
            return Err(Missing::Waiting(format!("snapshots are disabled: {without}")));
        }
        self.connection
            .wait_up(limits::API_TIMEOUT)
            .map_err(|error| format!("waiting for NATS ({error})"))?;
        let store = (self.open_store)()?;
        let js = JetStream::new(self.connection.clone());
        find(self.config, &js, &store, damaged)?.ok_or_else(|| {
            Missing::Waiting(format!("waiting for a snapshot in {}, or {without}", store.describe()))
        })
    }

    /// Brings back a damaged database: it is copied aside, what it holds of unpublished changes is carried into a snapshot,
    /// and that is put in its place under the eyes of the application. Returns false when stopped.
    pub fn damaged(&self, why: &str) -> bool {
        let path = &self.config.db_path;
        let what = format!("{}: damaged ({why})", path.display());
        log::error!("{what}: recovering it");
        let mut kept = None;
        let done = self.until_done(&what, |damaged| {
            if kept.is_none() {
                kept = Some(set_aside(path, "damaged")?);
            }
            self.try_damaged(damaged)
        });
        done.unwrap_or(false)
    }

    fn try_damaged(&self, damaged: &mut Damaged) -> Result<bool, Missing> {
        let path = &self.config.db_path;
        let begun = Instant::now();
        let found = self.find(damaged, "for a person")?;
        let failed = |error: db::Error| Missing::Failed(format!("{}: {error}", path.display()));
        let saved = if self.config.publish {
            db::salvage(path, found.file.path(), self.config.node_id).map_err(failed)?
        } else {
            db::Salvaged::default()
        };
        if !db::replace(path, found.file.path(), self.stop).map_err(failed)? {
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
            found.told(begun.elapsed()),
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
    let companions = ["", "-wal", "-shm"];
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

/// A snapshot that serves: downloaded, checked, and made this node's.
pub struct Found {
    file: Temporary,
    /// For messages.
    pub name: String,
    size: u64,
}

impl Found {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    fn told(&self, took: Duration) -> String {
        format!("{} bytes in {:.1} s", self.size, took.as_secs_f64())
    }
}

/// Finds a snapshot that serves: the newest one, or an older one that is kept. `None`: there is none at all. The error is
/// about the newest.
pub fn find(
    config: &Config,
    js: &JetStream,
    store: &Store,
    damaged: &mut Damaged,
) -> Result<Option<Found>, Missing> {
    let looked = |error| format!("look at {}: {error}", store.describe());
    let mut first = None;
    if let Some(stored) = store.stat(limits::SNAPSHOT_NAME).map_err(looked)? {
        match download_fitting(config, js, store, &stored, damaged) {
            Ok(found) => return Ok(Some(found)),
            Err(Missing::Failed(why)) => return Err(Missing::Failed(why)),
            Err(why) => first = Some(why),
        }
    }
    let older = store.list().map_err(looked)?;
    for stored in older.iter().filter(|stored| stored.name != limits::SNAPSHOT_NAME) {
        match download_fitting(config, js, store, stored, damaged) {
            Ok(found) => {
                if let Some(Missing::Waiting(why)) = first {
                    log::warn!("{why}; using {}", stored.name);
                }
                return Ok(Some(found));
            }
            Err(Missing::Failed(why)) => return Err(Missing::Failed(why)),
            Err(Missing::Waiting(why)) => {
                log::debug!("{}: {why}", stored.name);
                first.get_or_insert(Missing::Waiting(why));
            }
        }
    }
    match first {
        Some(why) => Err(why),
        None => {
            // Somebody may have removed it, and the leader not know.
            ask(config, js, &SeqMap::new(), "");
            Ok(None)
        }
    }
}

/// Downloads a snapshot, checks it and makes it this node's, with a position in every stream. Where the store knows its
/// position, one that is too old is not downloaded. For one that is too old or damaged, the leader is asked for another.
fn download_fitting(
    config: &Config,
    js: &JetStream,
    store: &Store,
    stored: &Stored,
    damaged: &mut Damaged,
) -> Result<Found, Missing> {
    let identity = format!("{} {}", stored.name, stored.identity());
    let bad = |why: &str| {
        ask(config, js, &SeqMap::new(), &stored.identity());
        let which = if stored.name == limits::SNAPSHOT_NAME { "" } else { stored.name.as_str() };
        let space = if which.is_empty() { "" } else { " " };
        Missing::Waiting(format!(
            "the snapshot{space}{which} in {} is damaged ({why}): waiting for another",
            store.describe()
        ))
    };
    if let Some(why) = damaged.get(&identity) {
        return Err(bad(why));
    }
    if !stored.label.positions.is_empty() {
        begin_behind(config, js, &stored.label.positions)?;
    }
    let file = Temporary::new(files::beside(&config.db_path, ".harmonylite-download"));
    let begun = Instant::now();
    let fetched = fetch(config, store, stored, &file);
    log::debug!("download: {:.2} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let checked = match fetched {
        Ok(_) => db::make_ready(file.path()),
        Err(Fault::Snapshot(why)) => Err(db::Error::Corrupt(why)),
        Err(Fault::Other(why)) => return Err(why.into()),
    };
    let positions = match checked {
        Ok(positions) => positions,
        Err(db::Error::Corrupt(why)) => {
            let error = bad(&why);
            damaged.insert(identity, why);
            return Err(error);
        }
        Err(error) => return Err(error.to_string().into()),
    };
    log::debug!("check: {:.2} s", begun.elapsed().as_secs_f64());
    let begin = begin_behind(config, js, &positions)?;
    db::set_positions(file.path(), &begin).map_err(|error| error.to_string())?;
    let name = format!("snapshot {} of {}", stored.name, store.describe());
    Ok(Found { file, name, size: stored.size })
}

/// Asks the leader for a snapshot that serves; that it could not be asked changes nothing for us.
fn ask(config: &Config, js: &JetStream, positions: &SeqMap, instead_of: &str) {
    let wanted = wanted::Wanted {
        node_id: config.node_id,
        positions: positions.clone(),
        instead_of: instead_of.to_owned(),
        revision: 0,
    };
    match wanted::ask(js, config.log.replicas, &wanted) {
        Ok(true) => log::info!("asked the leader for a fresh snapshot"),
        Ok(false) => {}
        Err(error) => log::debug!("ask for a fresh snapshot: {error}"),
    }
}

/// Brings a database that fell behind the streams to the state of a stored snapshot, under a live application. The error
/// says what is missing.
pub fn restore_live(
    config: &Config,
    js: &JetStream,
    store: &Store,
    database: &mut db::Applier,
    damaged: &mut Damaged,
) -> Result<(), String> {
    let begun = Instant::now();
    let found = match find(config, js, store, damaged) {
        Ok(Some(found)) => found,
        Ok(None) => {
            return Err(format!("this node is not whole and waits for a snapshot in {}", store.describe()));
        }
        Err(Missing::Waiting(why) | Missing::Failed(why)) => return Err(why),
    };
    let applied = db::compare(&config.db_path, found.file.path())
        .and_then(|comparison| database.reconcile(&comparison, db::Extra::Remove))
        .map_err(|error| error.to_string())?;
    log::info!(
        "brought the database to the state of {}: {} rows written or deleted, {:.1} s",
        found.name,
        applied.rows,
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Positions of streams that a snapshot does not know (a Go node's knows none): they are replayed from their first
/// message. An error when the streams no longer hold what comes after the snapshot: a fresh one is asked for.
fn begin_behind(
    config: &Config,
    js: &JetStream,
    positions: &SeqMap,
) -> Result<Vec<(String, db::Position)>, Missing> {
    let mut begin = vec![];
    let mut needed = SeqMap::new();
    let mut too_old = None;
    for shard in 1..=config.log.shards {
        let name = config.stream(shard);
        let info = match js.stream(&name) {
            Ok(Some(info)) => info,
            Ok(None) => continue,
            Err(error) => return Err(format!("stream {name}: {error}").into()),
        };
        needed.insert(name.clone(), info.state.first_seq.saturating_sub(1));
        let Some(seq) = positions.get(&name) else {
            let seq = info.state.first_seq.saturating_sub(1);
            begin.push((name, db::Position { seq, created: info.created }));
            continue;
        };
        let position = db::Position { seq: *seq, created: String::new() };
        if let replicator::Judgement::Gap(first, last) = replicator::judge(Some(&position), &info) {
            too_old = Some(format!(
                "the snapshot in the store is too old (messages {first} to {last} of stream {name} are gone): waiting for a \
                 fresh one; -save-snapshot on a healthy node makes it"
            ));
        }
    }
    match too_old {
        None => Ok(begin),
        Some(why) => {
            ask(config, js, &needed, "");
            Err(Missing::Waiting(why))
        }
    }
}
