//! Making a snapshot of the database and storing it.

use super::scratch::{self, need_room};
use super::transfer::Progress;
use super::{Node, show_positions};
use crate::base::error::{Context, Error};
use crate::base::temporary::Temporary;
use crate::base::{clock, digest, files, limits};
use crate::cluster::lease::{Lease, UploadLease};
use crate::config::Config;
use crate::db;
use crate::storage::{Candidate, Label, Store, Stored};
use std::time::{Duration, Instant};

/// Pause between two looks whether the changes inside a snapshot are published.
const SETTLE_LOOK: Duration = Duration::from_millis(100);

/// What [`save`] did.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The snapshot in the store.
    pub stored: Stored,
    /// The store had the same snapshot already: the database has not changed since.
    pub unchanged: bool,
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
}

/// Makes a snapshot of the database and stores it, unless the store has the very same already.
/// [`crate::base::error::Kind::Damaged`]: the database cannot be copied because it is damaged.
pub fn save(node: Node<'_>, store: &Store, terms: Terms<'_>) -> Result<Saved, Error> {
    let (config, begun) = (node.config, Instant::now());
    let _lock = scratch::lock(config, terms.patience, node.stop)?;
    let patience = terms.patience.max(limits::UPLOAD_PATIENCE);
    let upload = UploadLease::acquire(node.bucket, config.node_id, patience, node.stop)?;
    let what = || format!("store snapshot in {}", store.describe());
    let unfinished = store.prepare().context(what())? > 0;
    let stamp = db::Stamp { node: config.node_id, time_ms: clock::unix_ms(), revision: upload.revision() };
    let made = make(config, &stamp)?;
    wait_until_settled(node, &made, terms.leader)?;
    let mut label = label(&made, &stamp, config.snapshot.packing.name());
    label.content = store.veiled(&label.content);
    let current = store.stat(limits::SNAPSHOT_NAME).context(what())?;
    if let (Some(stored), None) = (&current, terms.leader) {
        let lacking = db::included_in(made.file.path()).map_err(scratch::about_copy).context(what())?;
        keep_newer((config, store), stored, &label, &lacking)?;
    }
    // An interrupted upload may have replaced the stored snapshot or not: that cannot be told from outside.
    let may_stay = !terms.anew && !unfinished;
    let is_same = |current: &Stored| store.is_sealed(current) && current.label.same_content(&label);
    if let Some(current) = current.filter(|current| may_stay && is_same(current)) {
        return Ok(Saved { stored: current, unchanged: true, took: begun.elapsed() });
    }
    let file = pack(config, made.file, made.size)?;
    let digested = std::fs::File::open(file.path()).and_then(|mut file| digest::digest_of(&mut file));
    (label.size, label.digest) =
        digested.map_err(|error| Error::local(format!("{}: {error}", file.place().display())))?;
    let progress = Progress::new("uploading the snapshot", label.size);
    let may_switch = || {
        let leads = still_leads(terms.leader).and_then(|()| terms.leader.map_or(Ok(()), Lease::confirm));
        leads.and_then(|()| upload.confirm())
    };
    let keep = config.snapshot.keep;
    let candidate = Candidate { label: &label, path: file.path() };
    let stored = store.save(candidate, keep, &|done| progress.note(done), &may_switch);
    Ok(Saved { stored: stored.context(what())?, unchanged: false, took: begun.elapsed() })
}

fn make(config: &Config, stamp: &db::Stamp) -> Result<db::Made, Error> {
    let (size, temp_dir) = (scratch::size(&config.db_path), config.temp_dir());
    if size >= limits::LONG_COPY {
        log::info!("making a snapshot of {} MB in {}", size / 1_000_000, temp_dir.display());
    }
    db::make_snapshot(&config.db_path, &temp_dir, stamp).context("make snapshot")
}

/// What is written beside the snapshot, without what only its packed file tells.
fn label(made: &db::Made, stamp: &db::Stamp, encoding: String) -> Label {
    Label {
        content: made.content.clone(),
        positions: made.positions.clone(),
        streams: made.streams.clone(),
        schema: made.schema.clone(),
        node: stamp.node,
        time_ms: stamp.time_ms,
        revision: stamp.revision,
        encoding,
        plain: made.size,
        ..Label::default()
    }
}

/// What a person or a script stores does not take the place of a snapshot that holds more: that may be the last copy of it. A leader
/// leads because it has read all.
/// `lacking`: tables whose rows are not yet those of the cluster here.
fn keep_newer(
    (config, store): (&Config, &Store),
    stored: &Stored,
    label: &Label,
    lacking: &[String],
) -> Result<(), Error> {
    let has_followed = |label: &Label| !label.positions.is_empty();
    if !store.is_sealed(stored) || !has_followed(&stored.label) {
        return Ok(());
    }
    let why = if !has_followed(label) {
        "this database has never followed the streams".to_owned()
    } else if stored.label.is_newer_than(label) {
        "this database has not read so far".to_owned()
    } else if stored.label.streams != label.streams && !daemon_runs(config) {
        "the streams were made anew since this database followed them, or before".to_owned()
    } else if !lacking.is_empty() {
        format!("table {} is not yet as the cluster has it here", lacking.join(", "))
    } else {
        return Ok(());
    };
    Err(Error::waiting(format!(
        "{} in {} stays, for it may hold what this one lacks: its position is {}, and {why}; start the daemon and let it catch up, \
         or make the snapshot on another node",
        stored.name,
        store.describe(),
        show_positions(&stored.label.positions)
    )))
}

fn daemon_runs(config: &Config) -> bool {
    !matches!(files::Lock::try_take(&config.lock_path()), Ok(Some(_)))
}

fn still_leads(leader: Option<&Lease>) -> Result<(), Error> {
    if leader.is_some_and(|leader| leader.held().is_none()) {
        return Err(Error::waiting("the leader lease was lost"));
    }
    Ok(())
}

/// Compresses and encrypts the file, as configured.
fn pack(config: &Config, file: Temporary, size: u64) -> Result<Temporary, Error> {
    let packing = &config.snapshot.packing;
    if packing.is_none() {
        return Ok(file);
    }
    need_room(&config.temp_dir(), size)?;
    let packed = scratch::scratch(config, "stored")?;
    packing
        .pack(file.path(), packed.path())
        .map_err(|error| Error::local(format!("{}: {error}", packed.place().display())))?;
    Ok(packed)
}

/// Waits until the changes that a snapshot holds are in the streams. If it were stored earlier and this node died, a reader
/// of the snapshot would hold rows that no other node ever gets. A node that lost the leader's lease does not wait: it holds
/// the upload lease, and its successor's snapshot may be the one that it needs itself.
fn wait_until_settled(node: Node<'_>, made: &db::Made, leader: Option<&Lease>) -> Result<(), Error> {
    let config = node.config;
    let until = Instant::now() + limits::SETTLE_WAIT;
    loop {
        match db::holds_unsettled(&config.db_path, made.unsettled_up_to) {
            Ok(false) => return Ok(()),
            Ok(true) | Err(db::Error::Busy) => {}
            Err(error) => return Err(error).context("read the change log"),
        }
        if !daemon_runs(config) {
            return Err(Error::local(
                "the database holds changes that are not published, and no daemon runs that would publish them: start it",
            ));
        }
        still_leads(leader)?;
        if Instant::now() > until {
            return Err(Error::waiting(format!(
                "the database holds changes that were not published within {} s (is the daemon connected?)",
                limits::SETTLE_WAIT.as_secs()
            )));
        }
        if node.stop.wait(SETTLE_LOOK) {
            return Err(Error::stopped());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;

    #[test]
    fn a_person_needs_no_lease_and_a_leader_does() {
        assert_eq!(still_leads(None), Ok(()));
        assert_eq!(still_leads(Some(&Lease::default())).unwrap_err().kind(), Kind::Waiting);
    }
}
