//! Making a snapshot of the database and storing it.

use super::{Progress, lock, room};
use crate::base::files::{self, Temporary};
use crate::base::{clock, digest, limits, stop::Stop};
use crate::cluster::lease::{Lease, UploadLease};
use crate::config::Config;
use crate::db;
use crate::nats::JetStream;
use crate::operate::board::Status;
use crate::storage::{self, Label, Store, Stored};
use std::time::{Duration, Instant};

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
