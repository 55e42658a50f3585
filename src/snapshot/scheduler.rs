//! The thread that makes snapshots while this node is the leader, and now and then restores one on trial.

use super::due::{self, Facts, Pauses, Proving, Reason, Requests, Standing};
use super::ping::ping;
use super::proof::prove;
use super::save::{Saved, Terms, save};
use super::search::holds_tables;
use super::{Node, scratch, show_positions};
use crate::base::error::{Context, Error, Kind};
use crate::base::{clock, limits, once::Once, stop::Stop};
use crate::cluster::lease::{Lease, UploadLease};
use crate::cluster::wanted::{self, Wanted};
use crate::cluster::{Bucket, founder, proven};
use crate::config::Config;
use crate::operate::{Board, Signals};
use crate::storage::{Label, OpenStore, Store, Stored};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two looks whether a snapshot is due.
const LOOK: Duration = Duration::from_millis(500);

/// What the thread works with.
pub struct Scheduler {
    pub config: Config,
    pub bucket: Bucket,
    pub open_store: OpenStore,
    /// The leader's: without it nothing is made.
    pub lease: Lease,
    pub board: Arc<Board>,
    pub signals: Arc<Signals>,
    pub stop: Stop,
}

/// What the scheduler knows.
struct Known {
    /// The stored snapshot; the outer `None`: not looked at yet.
    stored: Option<Option<Stored>>,
    /// An upload that was not finished was found: what stands in the store is not known from outside.
    unfinished: bool,
    /// When the interval began.
    interval_from: Instant,
    requests: Requests,
    /// What was asked last, and its revision.
    asked: Option<(u64, Wanted)>,
    proving: Proving,
    /// The generation of the streams for which a snapshot was made here last.
    generation: String,
}

impl Scheduler {
    /// Makes snapshots until stop. [`Kind::Damaged`]: the database turned out to be damaged.
    pub fn run(self) -> Result<(), Error> {
        let now = Instant::now();
        let mut known = Known {
            stored: None,
            unfinished: false,
            interval_from: now,
            requests: Requests::new(now),
            asked: None,
            proving: Proving::default(),
            generation: String::new(),
        };
        let mut pauses = Pauses::default();
        let mut said = Once::default();
        while !self.stop.wait(LOOK) {
            if self.lease.held().is_none() {
                known.stored = None;
                // Another node makes them now.
                self.board.forget_snapshot_failure();
                continue;
            }
            if self.signals.take_store_back() {
                pauses.succeeded();
            }
            if !pauses.may_try(Instant::now()) {
                continue;
            }
            match self.step(&mut known) {
                Ok(()) => {
                    pauses.succeeded();
                    said.forget();
                    self.prove_when_due(&mut known.proving)?;
                }
                Err(_) if self.stop.requested() => break,
                Err(error) if error.kind() == Kind::Damaged => return Err(error),
                Err(error) => {
                    // What others did meanwhile may be the reason: the next try looks at the store anew.
                    known.stored = None;
                    let (text, pause) = (error.to_string(), pauses.failed(Instant::now()));
                    if said.is_news(&text) {
                        log::warn!("{text}; trying again, first in {} s", pause.as_secs());
                    }
                    self.board.note_snapshot(Err(&text));
                }
            }
        }
        Ok(())
    }

    fn node(&self) -> Node<'_> {
        Node { config: &self.config, bucket: &self.bucket, stop: &self.stop }
    }

    /// Makes a snapshot if one is due.
    fn step(&self, known: &mut Known) -> Result<(), Error> {
        if known.stored.is_none() {
            self.look(known)?;
        }
        let Some(reason) = self.due(known)? else { return Ok(()) };
        let store = (self.open_store)()?;
        let terms =
            Terms { patience: Duration::ZERO, leader: Some(&self.lease), anew: reason.wants_another() };
        let generation = self.signals.generation();
        let saved = save(self.node(), &store, terms)?;
        known.generation = generation;
        log_saved(&saved, &reason, &store);
        self.board.note_snapshot(Ok(saved.stored.label.time_ms));
        self.board.count_snapshot(saved.took, saved.stored.size);
        ping(&self.config.snapshot.ping_url);
        known.interval_from = Instant::now();
        known.unfinished = false;
        known.requests.made(&reason, Instant::now());
        known.stored = Some(Some(saved.stored));
        Ok(())
    }

    /// A new leader looks at what is there, and ends what its predecessor left unfinished.
    fn look(&self, known: &mut Known) -> Result<(), Error> {
        let (config, store) = (&self.config, (self.open_store)()?);
        let what = || format!("look at {}", store.describe());
        let _lock = scratch::lock(config, Duration::ZERO, &self.stop)?;
        let upload = UploadLease::acquire(&self.bucket, config.node_id, limits::UPLOAD_PATIENCE, &self.stop)?;
        known.unfinished |= store.prepare().context(what())? > 0;
        drop(upload);
        let found = store.stat(limits::SNAPSHOT_NAME).context(what())?.filter(holds_tables);
        let made_ms = found.as_ref().map_or(0, |stored| stored.label.time_ms);
        if let Some((stored, why)) = found.as_ref().and_then(|stored| Some((stored, stored.refused()?))) {
            log::warn!("snapshot {} in {}: {why}; making another", stored.name, store.describe());
        }
        known.stored = Some(found);
        let now = (Instant::now(), clock::unix_ms());
        if let Some(began) = due::interval_began(made_ms, config.snapshot.interval, now) {
            known.interval_from = began;
        }
        // A cluster that is older than the founder's key, or whose broker was wiped, has members: a node that comes now joins
        // it.
        founder::claim(&self.bucket, config.node_id)?;
        Ok(())
    }

    /// Why a snapshot is due, if it is.
    fn due(&self, known: &mut Known) -> Result<Option<Reason>, Error> {
        let Some(Some(stored)) = &known.stored else { return Ok(Some(Reason::NoneThere)) };
        if let Some(reason) = due::not_taken(stored, self.config.snapshot.packing.key.is_some()) {
            return Ok(Some(reason));
        }
        let stored = &stored.label;
        if known.unfinished {
            return Ok(Some(Reason::Unfinished));
        }
        // Nodes that have to compare themselves wait for it.
        let generation = self.signals.generation();
        if !stored.streams.is_empty() && stored.streams != generation && known.generation != generation {
            return Ok(Some(Reason::StreamAnew));
        }
        let standings = self.standings(stored);
        let mut is_anew = false;
        for standing in due::doubtful(&standings) {
            is_anew |= self.ends_before(&standing.stream, standing.stored)?;
        }
        let reason = due::reason(&Facts {
            standings: &standings,
            is_anew,
            interval: self.config.snapshot.interval,
            elapsed: known.interval_from.elapsed(),
        });
        if reason.is_some() { Ok(reason) } else { self.asked_for(known) }
    }

    fn standings(&self, stored: &Label) -> Vec<Standing> {
        let flow = &self.signals.flow;
        let standing = |(at, stream): (usize, String)| {
            let stored = stored.positions.get(&stream).copied().unwrap_or(0);
            let (seq, reach, bytes) = (flow.applied_seq(at), flow.reach(at), flow.bytes_after(at, stored));
            Standing { stream, seq, stored, bytes, reach }
        };
        self.config.streams().into_iter().enumerate().map(standing).collect()
    }

    fn ends_before(&self, stream: &str, seq: u64) -> Result<bool, Error> {
        let info = self.bucket.js().stream(stream).context(format!("stream {stream}"))?;
        Ok(info.is_some_and(|info| info.state.last_seq < seq))
    }

    /// Whether a node asked for a snapshot that the stored one cannot serve: the store tells which one that is by now.
    fn asked_for(&self, known: &mut Known) -> Result<Option<Reason>, Error> {
        if !known.requests.is_due(Instant::now()) {
            return Ok(None);
        }
        if let Some(asked) = wanted::asked(&self.bucket).context("look for requests of other nodes")? {
            known.asked = asked;
        }
        let asked = known.asked.clone().filter(|(revision, _)| known.requests.is_new(*revision));
        let Some((revision, wanted)) = asked else { return Ok(None) };
        if known.requests.has_to_wait(wanted.node_id, Instant::now()) {
            return Ok(None);
        }
        let asked = (revision, self.without_the_impossible(&wanted)?);
        let store = (self.open_store)()?;
        let found = store.stat(limits::SNAPSHOT_NAME).context(format!("look at {}", store.describe()))?;
        let found = found.filter(holds_tables);
        let reason = known.requests.reason(&asked, found.as_ref());
        known.stored = Some(found);
        Ok(reason)
    }

    /// A request without positions in streams that are not ours, and without those beyond the end of a stream: no snapshot
    /// reaches them, so that one would be made after the other.
    fn without_the_impossible(&self, wanted: &Wanted) -> Result<Wanted, Error> {
        let streams = self.config.streams();
        let has_applied = |stream: &str| {
            streams.iter().position(|name| name == stream).map(|at| self.signals.flow.applied_seq(at))
        };
        let possible = wanted.retain(|stream, seq| match has_applied(stream) {
            None => Ok(false),
            Some(applied) if applied >= seq => Ok(true),
            Some(_) => {
                let info =
                    self.bucket.js().stream(stream).map_err(|error| error.at(format!("stream {stream}")))?;
                Ok(info.is_some_and(|info| seq <= info.state.last_seq))
            }
        })?;
        Ok(possible)
    }

    /// Restores the newest snapshot on trial, as often as configured, whoever the leader was the last time.
    fn prove_when_due(&self, proving: &mut Proving) -> Result<(), Error> {
        let (interval, begun) = (self.config.snapshot.verify_interval, Instant::now());
        if !proving.is_due(begun, interval) {
            return Ok(());
        }
        if !proving.is_known()
            && let Ok(Some(last)) = proven::told(&self.bucket)
        {
            proving.goes_on(last.time_ms, interval, (begun, clock::unix_ms()));
            if !proving.is_due(begun, interval) {
                self.board.note_proof(Ok(last.time_ms));
                return Ok(());
            }
        }
        match (self.open_store)().and_then(|store| prove(self.node(), &store)) {
            Ok(proof) => {
                log::info!(
                    "proved that a restore works: the snapshot and {} messages after it give the live database, {:.1} s",
                    proof.messages,
                    begun.elapsed().as_secs_f64()
                );
                self.board.note_proof(Ok(proof.time_ms));
                if let Err(error) = proven::tell(&self.bucket, &proof) {
                    log::debug!("tell of the proof: {error}");
                }
                proving.proven(Instant::now(), interval);
            }
            Err(_) if self.stop.requested() => {}
            Err(error) if error.kind() == Kind::Damaged => return Err(error),
            Err(error) => {
                log::error!("restore not proven: {error}");
                self.board.note_proof(Err(&error.to_string()));
                proving.failed(Instant::now(), interval);
            }
        }
        Ok(())
    }
}

fn log_saved(saved: &Saved, reason: &Reason, store: &Store) {
    let Stored { name, size, label, .. } = &saved.stored;
    let positions = show_positions(&label.positions);
    if saved.unchanged {
        log::debug!("snapshot {name} ({reason}): the database has not changed, position {positions}");
    } else {
        log::info!(
            "stored snapshot {name} ({reason}): {size} bytes in {:.1} s in {}, position {positions}",
            saved.took.as_secs_f64(),
            store.describe()
        );
    }
}
