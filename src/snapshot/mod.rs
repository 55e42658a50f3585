//! Snapshots: how one is made and stored ([`save`]), when one is due ([`Scheduler`]), how a node whose database is
//! missing, damaged or far behind the streams gets it back ([`Recovery`], [`restore_live`]), and what a person can do with them ([`list`],
//! [`verify`], [`restore_to`]).

mod at;
mod inspect;
mod join;
mod proof;
mod restore;
mod scheduler;
mod search;
mod wanted;

pub use at::{Restored, parse_when, restore_at};
pub use inspect::{Verdict, list, restore_to, verify};
pub use join::{Joined, Joining, claim};
pub use proof::{Proof, list_proven, prove};
pub use restore::{Recovery, restore_live};
pub use scheduler::Scheduler;
pub use search::Search;

use crate::clock;
use crate::config::{Config, StoreKind};
use crate::db;
use crate::digest;
use crate::files::{self, Temporary};
use crate::lease::{Lease, UploadLease};
use crate::limits;
use crate::nats::{Connection, JetStream};
use crate::seqmap::SeqMap;
use crate::status::Status;
use crate::stop::Stop;
use crate::storage::{self, Backend, Directory, Label, NatsStore, Patience, S3, Sftp, Store, Stored, Webdav};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The store that the configuration names. Only the NATS store uses the connection.
pub fn store(config: &Config, connection: Option<&Connection>, stop: &Stop) -> Result<Store, String> {
    let snapshot = &config.snapshot;
    let backend: Box<dyn Backend> = match &snapshot.store {
        StoreKind::Nats => {
            let connection = connection.ok_or("the store is in NATS, and there is no connection")?;
            let js = JetStream::new(connection.clone());
            Box::new(NatsStore::new(&js, &snapshot.nats_bucket, snapshot.nats_replicas))
        }
        StoreKind::S3(options, keys) => {
            let keys = storage::find_keys(keys.clone(), &|name| std::env::var(name).ok());
            Box::new(S3::new(options.clone(), keys)?)
        }
        StoreKind::Webdav(options) => Box::new(Webdav::store(options.clone(), snapshot.read_back)?),
        StoreKind::Sftp(options) => Box::new(Sftp::store(options.clone(), snapshot.read_back)),
        StoreKind::File(path) => Box::new(Directory::store(path, snapshot.read_back)),
    };
    Ok(Store::new(backend, Patience { stop: Some(stop.clone()), ..Patience::default() }))
}

/// Whether the store can be reached without NATS.
pub fn is_apart_from_nats(config: &Config) -> bool {
    !matches!(config.snapshot.store, StoreKind::Nats)
}

/// Opens the store; dropping the store closes what was opened for it.
pub type OpenStore = Box<dyn Fn() -> Result<Store, String> + Send>;

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

/// What [`save`] did.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The snapshot in the store.
    pub stored: Stored,
    /// It was there already: the database has not changed since.
    pub unchanged: bool,
    /// What it took.
    pub took: Duration,
}

/// How a snapshot is to be made.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// How long to wait for one that is being made.
    pub patience: Duration,
    /// Only as long as this lease is held.
    pub leader: Option<&'a Lease>,
    /// Even if the store has the very same.
    pub anew: bool,
    /// Is told when the database turns out to be damaged.
    pub status: Option<&'a Status>,
}

/// Makes a snapshot of the database and stores it, unless the store has the very same already.
pub fn save(
    config: &Config,
    js: &JetStream,
    store: &Store,
    stop: &Stop,
    terms: Terms<'_>,
) -> Result<Saved, String> {
    let Terms { patience, leader, anew, status } = terms;
    let begun = Instant::now();
    let _lock = lock(config, patience, stop)?;
    let upload = UploadLease::acquire(
        js,
        config.node_id,
        config.log.replicas,
        patience.max(limits::UPLOAD_PATIENCE),
        stop,
    )?;
    let failed = |error: storage::Error| format!("store snapshot in {}: {error}", store.describe());
    let swept = store.prepare().map_err(failed)?;
    let stamp = db::Stamp { node: config.node_id, time_ms: clock::unix_ms(), revision: upload.revision() };
    let temp_dir = config.temp_dir();
    let size = std::fs::metadata(&config.db_path).map_or(0, |meta| meta.len());
    if size >= limits::LONG_COPY {
        log::info!("making a snapshot of {} MB in {}", size / 1_000_000, temp_dir.display());
    }
    let made = db::make(&config.db_path, &temp_dir, &stamp).map_err(|error| {
        if let (db::Error::Corrupt(why), Some(status)) = (&error, status) {
            status.note_damage(why);
        }
        format!("make snapshot: {error}")
    })?;
    wait_until_settled(config, &made, leader, stop)?;
    let mut label = Label {
        content: made.content.clone(),
        positions: made.positions.clone(),
        streams: made.streams.clone(),
        schema: made.schema.clone(),
        node: stamp.node,
        time_ms: stamp.time_ms,
        revision: stamp.revision,
        encoding: config.snapshot.packing.name(),
        ..Label::default()
    };
    let current = store.stat(limits::SNAPSHOT_NAME).map_err(failed)?;
    // After an interrupted upload nobody knows from outside what stands there.
    if let Some(current) = current.filter(|current| !anew && swept == 0 && current.label.same_content(&label))
    {
        return Ok(Saved { stored: current, unchanged: true, took: begun.elapsed() });
    }
    let file = pack(config, made.file, made.size)?;
    let path = file.path();
    let digested = std::fs::File::open(path).and_then(|mut file| digest::digest_of(&mut file));
    (label.size, label.digest) = digested.map_err(|error| format!("{}: {error}", path.display()))?;
    let progress = Progress::new("uploading the snapshot", label.size);
    let may_switch = || {
        still_leads(leader)?;
        leader.map_or(Ok(()), Lease::confirm)?;
        upload.confirm()
    };
    let keep = config.snapshot.keep;
    let stored = store.save(&label, path, keep, &|done| progress.at(done), &may_switch).map_err(failed)?;
    Ok(Saved { stored, unchanged: false, took: begun.elapsed() })
}

fn still_leads(leader: Option<&Lease>) -> Result<(), String> {
    if leader.is_some_and(|leader| leader.held().is_none()) {
        return Err("the leader lease was lost".to_owned());
    }
    Ok(())
}

/// Compresses and encrypts the file, as configured.
fn pack(config: &Config, file: Temporary, size: u64) -> Result<Temporary, String> {
    let packing = &config.snapshot.packing;
    if packing.is_none() {
        return Ok(file);
    }
    room(&files::parent(file.path()), size)?;
    let packed = Temporary::new(files::beside(file.path(), "-stored"));
    packing
        .pack(file.path(), packed.path())
        .map_err(|error| format!("{}: {error}", packed.path().display()))?;
    Ok(packed)
}

/// Checks that so many bytes are free in a directory.
fn room(dir: &std::path::Path, needed: u64) -> Result<(), String> {
    let free = files::free_space(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    if free < needed {
        return Err(format!("{}: the snapshot needs {needed} bytes, {free} are free", dir.display()));
    }
    Ok(())
}

/// A snapshot may hold rows whose events are still on their way. It is stored when they are in the stream: otherwise, if
/// this node died now, a reader of the snapshot would hold rows that nobody else ever gets. Who is not the leader any more
/// does not wait: it holds the upload lease, and its successor's snapshot may be the one that this node needs.
fn wait_until_settled(
    config: &Config,
    made: &db::Made,
    leader: Option<&Lease>,
    stop: &Stop,
) -> Result<(), String> {
    let until = Instant::now() + limits::SETTLE_WAIT;
    loop {
        match db::unsettled(&config.db_path, made.unsettled_up_to) {
            Ok(false) => return Ok(()),
            Ok(true) | Err(db::Error::Busy) => {}
            Err(error) => return Err(format!("read the change log: {error}")),
        }
        if matches!(files::Lock::try_take(&config.lock_path()), Ok(Some(_))) {
            return Err(
                "the database holds changes that are not published, and no daemon runs that would: start it"
                    .to_owned(),
            );
        }
        still_leads(leader)?;
        if Instant::now() > until {
            return Err(format!(
                "the database holds changes that were not published within {} s (is the daemon connected?)",
                limits::SETTLE_WAIT.as_secs()
            ));
        }
        if stop.wait(Duration::from_millis(100)) {
            return Err("stopped".to_owned());
        }
    }
}
