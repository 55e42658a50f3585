//! Snapshots: when one is due, how it is made and stored, and how a node without a database gets it back.

use crate::config::Config;
use crate::db;
use crate::files::{self, Temporary};
use crate::lease::Lease;
use crate::limits;
use crate::nats::{Connection, JetStream};
use crate::replicator;
use crate::retry::Backoff;
use crate::seqmap::SeqMap;
use crate::status::Status;
use crate::stop::Stop;
use crate::storage::{self, NatsStore, Store, Stored};
use std::io::{BufReader, BufWriter};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The store that the configuration names.
pub fn store(config: &Config, connection: &Connection) -> Box<dyn Store> {
    let js = JetStream::new(connection.clone());
    Box::new(NatsStore::new(&js, &config.snapshot.nats_bucket, config.snapshot.nats_replicas))
}

/// Logs a long transfer's progress now and then.
struct Progress {
    what: String,
    total: u64,
    last: Instant,
}

impl Progress {
    fn new(what: String, total: u64) -> Progress {
        Progress { what, total, last: Instant::now() }
    }

    fn at(&mut self, done: u64) {
        if self.last.elapsed() > limits::PROGRESS_INTERVAL {
            self.last = Instant::now();
            log::info!("{}: {} of {} MB", self.what, done / 1_000_000, self.total / 1_000_000);
        }
    }
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

/// Makes a snapshot of the database and stores it. `may_switch` is asked right before the old one is replaced.
pub fn save(
    config: &Config,
    store: &dyn Store,
    patience: Duration,
    stop: &Stop,
    may_switch: &mut dyn FnMut() -> Result<(), String>,
) -> Result<Stored, String> {
    let _lock = lock(config, patience, stop)?;
    let temp_dir = config.temp_dir();
    let made = db::make(&config.db_path, &temp_dir, config.node_id)
        .map_err(|error| format!("make snapshot: {error}"))?;
    wait_until_settled(config, &made, stop)?;
    let file =
        std::fs::File::open(made.file.path()).map_err(|e| format!("{}: {e}", made.file.path().display()))?;
    let mut progress = Progress::new("uploading the snapshot".to_owned(), made.size);
    let mut source = BufReader::with_capacity(limits::OBJECT_CHUNK, file);
    store
        .put(limits::SNAPSHOT_NAME, &made.positions, &mut source, &mut |done| progress.at(done), may_switch)
        .map_err(|error| format!("store snapshot in {}: {error}", store.describe()))
}

/// A snapshot may hold rows whose events are still on their way. It is stored when they are in the stream: otherwise, if
/// this node died now, a reader of the snapshot would hold rows that nobody else ever gets.
fn wait_until_settled(config: &Config, made: &db::Made, stop: &Stop) -> Result<(), String> {
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

/// Opens the store; dropping the store closes what was opened for it.
pub type OpenStore = Box<dyn Fn() -> Result<Box<dyn Store>, String> + Send>;

/// The thread that makes snapshots while this node is the leader.
pub struct Scheduler {
    /// The configuration.
    pub config: Config,
    /// Where the snapshots go.
    pub open_store: OpenStore,
    /// Asked before and after.
    pub lease: Lease,
    /// Positions and the time of the last event.
    pub status: Arc<Status>,
    /// Ends it.
    pub stop: Stop,
}

/// What the scheduler knows of the stored snapshot.
#[derive(Clone, Debug, Default)]
struct Last {
    known: bool,
    positions: Option<SeqMap>,
}

impl Scheduler {
    /// Looks once a second whether a snapshot is due.
    pub fn run(self) -> Result<(), String> {
        let mut last = Last::default();
        let mut backoff = Backoff::up_to(Duration::from_secs(300));
        let mut not_before = Instant::now();
        let mut interval_from = Instant::now();
        while !self.stop.wait(Duration::from_secs(1)) {
            let Some(revision) = self.lease.held() else {
                last.known = false;
                continue;
            };
            if Instant::now() < not_before {
                continue;
            }
            let result = self.step(&mut last, revision, &mut interval_from);
            match result {
                Ok(()) => backoff.reset(),
                Err(_) if self.stop.requested() => break,
                Err(why) => {
                    let pause = backoff.pause().max(Duration::from_secs(1));
                    log::warn!("{why}; trying again in {} s", pause.as_secs());
                    not_before = Instant::now() + pause;
                }
            }
        }
        Ok(())
    }

    fn step(&self, last: &mut Last, revision: u64, interval_from: &mut Instant) -> Result<(), String> {
        if !last.known {
            let store = (self.open_store)()?;
            let found = store.stat(limits::SNAPSHOT_NAME);
            let found = found.map_err(|error| format!("look at {}: {error}", store.describe()))?;
            *last = Last { known: true, positions: found.map(|stored| stored.positions) };
        }
        let Some(reason) = self.due(last, *interval_from) else { return Ok(()) };
        let mut may_switch = || match self.lease.held() {
            Some(now) if now >= revision => Ok(()),
            _ => Err("the leader lease was lost".to_owned()),
        };
        let begun = Instant::now();
        let store = (self.open_store)()?;
        let stored = save(&self.config, store.as_ref(), Duration::ZERO, &self.stop, &mut may_switch)?;
        log::info!(
            "stored snapshot {} ({reason}): {} bytes in {:.1} s in {}",
            stored.name,
            stored.size,
            begun.elapsed().as_secs_f64(),
            store.describe()
        );
        *interval_from = Instant::now();
        *last = Last { known: true, positions: Some(stored.positions) };
        Ok(())
    }

    /// Why a snapshot is due, if it is.
    fn due(&self, last: &Last, interval_from: Instant) -> Option<&'static str> {
        let Some(positions) = &last.positions else { return Some("there was none") };
        let advance = |shard: u64| {
            let stored = positions.get(&self.config.stream(shard)).copied().unwrap_or(0);
            let slot = usize::try_from(shard - 1).unwrap_or(0);
            self.status.applied_seq(slot).saturating_sub(stored)
        };
        let advances: Vec<u64> = (1..=self.config.log.shards).map(advance).collect();
        // Early enough that the stream still holds everything behind the snapshot while the next one is made.
        if advances.iter().any(|advance| *advance >= (self.config.log.max_entries / 2).max(1)) {
            return Some("the stream advanced");
        }
        let interval = self.config.snapshot.interval;
        let changed = advances.iter().any(|advance| *advance > 0);
        (!interval.is_zero() && changed && interval_from.elapsed() >= interval).then_some("interval")
    }
}

/// Gets a database for a node that has none: waits for a snapshot, or for somebody to put a database there.
/// Returns false when stopped.
pub fn restore_missing(config: &Config, connection: &Connection, stop: &Stop) -> Result<bool, String> {
    let store = store(config, connection);
    let mut backoff = Backoff::default();
    let mut said = String::new();
    loop {
        if config.db_path.exists() {
            return Ok(true);
        }
        let waiting_for = match try_restore(config, connection, store.as_ref()) {
            Ok(None) => return Ok(true),
            Ok(Some(waiting_for)) => waiting_for,
            Err(why) => format!("restore: {why}; trying again"),
        };
        if said != waiting_for {
            log::warn!("{}: no such file; {waiting_for}", config.db_path.display());
            said = waiting_for;
        }
        if backoff.wait(stop) {
            return Ok(false);
        }
    }
}

/// One try: `None` when the database is there, else what is missing.
fn try_restore(
    config: &Config,
    connection: &Connection,
    store: &dyn Store,
) -> Result<Option<String>, String> {
    connection.wait_up(limits::API_TIMEOUT).map_err(|error| format!("waiting for NATS ({error})"))?;
    if !config.snapshot.enabled {
        return Ok(Some("snapshots are disabled: waiting for the application to create it".to_owned()));
    }
    let found = match store.stat(limits::SNAPSHOT_NAME) {
        Ok(found) => found,
        Err(storage::Error::NotFound) => None,
        Err(error) => return Err(format!("look at {}: {error}", store.describe())),
    };
    let Some(stored) = found else {
        return Ok(Some(format!(
            "waiting for a snapshot in {}, or for the application to create the database",
            store.describe()
        )));
    };
    let js = JetStream::new(connection.clone());
    let begun = Instant::now();
    let download = match download_fitting(config, &js, store, &stored)? {
        Ok(download) => download,
        Err(too_old) => return Ok(Some(too_old)),
    };
    match files::publish_new(download.path(), &config.db_path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", config.db_path.display())),
    }
    // A sequence map of the lost database would say more than the restored one holds.
    let _ = std::fs::remove_file(&config.seq_map_path);
    log::info!(
        "restored {} from snapshot {} of {}: {} bytes in {:.1} s",
        config.db_path.display(),
        stored.name,
        store.describe(),
        stored.size,
        begun.elapsed().as_secs_f64()
    );
    Ok(None)
}

/// Downloads a snapshot, checks it and makes it this node's, with a position in every stream. The inner error says that the
/// streams no longer hold what comes after it; where the store knows its position, without a download.
fn download_fitting(
    config: &Config,
    js: &JetStream,
    store: &dyn Store,
    stored: &Stored,
) -> Result<Result<Temporary, String>, String> {
    if !stored.positions.is_empty()
        && let Err(too_old) = begin_behind(config, js, &stored.positions)?
    {
        return Ok(Err(too_old));
    }
    let download = Temporary::new(files::beside(&config.db_path, ".harmonylite-download"));
    fetch(store, stored, &download)?;
    let positions = db::make_ready(download.path()).map_err(|error| error.to_string())?;
    let begin = match begin_behind(config, js, &positions)? {
        Ok(begin) => begin,
        Err(too_old) => return Ok(Err(too_old)),
    };
    db::set_positions(download.path(), &begin).map_err(|error| error.to_string())?;
    Ok(Ok(download))
}

/// Brings a database that fell behind the streams to the state of the stored snapshot, under a live application. The error
/// says what is missing.
pub fn restore_live(
    config: &Config,
    js: &JetStream,
    store: &dyn Store,
    database: &mut db::Applier,
) -> Result<(), String> {
    let stored = match store.stat(limits::SNAPSHOT_NAME) {
        Ok(Some(stored)) => stored,
        Ok(None) | Err(storage::Error::NotFound) => {
            return Err(format!("this node is not whole and waits for a snapshot in {}", store.describe()));
        }
        Err(error) => return Err(format!("look at {}: {error}", store.describe())),
    };
    // Its position is known without a download, unless a Go node made it.
    if stored.positions.is_empty() {
        return Err(
            "the stored snapshot has no position (a Go node made it): this node waits for one that has"
                .to_owned(),
        );
    }
    let begun = Instant::now();
    let download = download_fitting(config, js, store, &stored)??;
    let applied = database.reconcile(download.path()).map_err(|error| error.to_string())?;
    log::info!(
        "brought the database to the state of snapshot {}: {} rows written or deleted, {:.1} s",
        stored.name,
        applied.rows,
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Downloads a snapshot; size and digest are checked on the way.
fn fetch(store: &dyn Store, stored: &Stored, target: &Temporary) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", target.path().display());
    let free = files::free_space(&files::parent(target.path())).map_err(failed)?;
    if free < stored.size {
        return Err(format!(
            "{}: the snapshot has {} bytes, {free} are free",
            target.path().display(),
            stored.size
        ));
    }
    let file = std::fs::File::create(target.path()).map_err(failed)?;
    let mut sink = BufWriter::with_capacity(limits::OBJECT_CHUNK, file);
    let mut progress = Progress::new("downloading the snapshot".to_owned(), stored.size);
    store
        .get(stored, &mut sink, &mut |done| progress.at(done))
        .map_err(|error| format!("download from {}: {error}", store.describe()))?;
    let file = sink.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)
}

/// Positions of streams that a snapshot does not know (a Go node's knows none): they are replayed from their first
/// message. The inner error says that the streams no longer hold what comes after the snapshot.
#[allow(clippy::type_complexity, reason = "one caller, right above")]
fn begin_behind(
    config: &Config,
    js: &JetStream,
    positions: &SeqMap,
) -> Result<Result<Vec<(String, db::Position)>, String>, String> {
    let mut begin = vec![];
    for shard in 1..=config.log.shards {
        let name = config.stream(shard);
        let info = match js.stream(&name) {
            Ok(Some(info)) => info,
            Ok(None) => continue,
            Err(error) => return Err(format!("stream {name}: {error}")),
        };
        let Some(seq) = positions.get(&name) else {
            let seq = info.state.first_seq.saturating_sub(1);
            begin.push((name, db::Position { seq, created: info.created }));
            continue;
        };
        let position = db::Position { seq: *seq, created: String::new() };
        if let replicator::Judgement::Gap(first, last) = replicator::judge(Some(&position), &info) {
            return Ok(Err(format!(
                "the snapshot in the store is too old (messages {first} to {last} of stream {name} are gone): waiting for a \
                 fresh one; -save-snapshot on a healthy node makes it"
            )));
        }
    }
    Ok(Ok(begin))
}
