//! When the leader makes a snapshot.

use super::{Terms, claim, lock, proof, save, show_positions};
use crate::base::{clock, limits, once::Once, retry::Backoff, stop::Stop};
use crate::cluster::lease::{Lease, UploadLease};
use crate::cluster::wanted;
use crate::config::Config;
use crate::nats::JetStream;
use crate::operate::board::Status;
use crate::storage::{Label, OpenStore, Stored};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The thread that makes snapshots while this node is the leader.
pub struct Scheduler {
    /// The configuration.
    pub config: Config,
    /// The broker.
    pub js: JetStream,
    /// Where the snapshots go.
    pub open_store: OpenStore,
    /// Asked before and after.
    pub lease: Lease,
    /// Positions and the time of the last event.
    pub status: Arc<Status>,
    /// Ends it.
    pub stop: Stop,
}

/// What the scheduler knows.
struct Known {
    /// The stored snapshot; the outer `None`: not looked at yet.
    stored: Option<Option<Label>>,
    /// An upload that was not finished was found: what stands in the store is not known from outside.
    unfinished: bool,
    /// The interval counts from here.
    interval_from: Instant,
    /// The last request that was looked at is not older.
    asked_at: Instant,
    /// Requests up to this revision were served.
    served: u64,
    /// When the next restore on trial is due; `None`: not looked yet.
    prove_at: Option<Instant>,
}

/// A reason to make one.
struct Due {
    reason: String,
    serves: u64,
}

impl From<&str> for Due {
    fn from(reason: &str) -> Due {
        Due { reason: reason.to_owned(), serves: 0 }
    }
}

impl Scheduler {
    /// Looks again and again whether a snapshot is due.
    pub fn run(self) -> Result<(), String> {
        let now = Instant::now();
        let mut known = Known {
            stored: None,
            unfinished: false,
            interval_from: now,
            asked_at: now,
            served: 0,
            prove_at: None,
        };
        let mut backoff = Backoff::up_to(Duration::from_secs(300));
        let mut not_before = Instant::now();
        let mut said = Once::default();
        while !self.stop.wait(Duration::from_millis(250)) {
            if self.lease.held().is_none() {
                known.stored = None;
                continue;
            }
            if Instant::now() < not_before {
                continue;
            }
            match self.step(&mut known) {
                Ok(()) => {
                    backoff.reset();
                    said.forget();
                    self.prove_when_due(&mut known);
                }
                Err(_) if self.stop.requested() => break,
                Err(why) => {
                    // What others did meanwhile may be the reason.
                    known.stored = None;
                    let pause = backoff.pause().max(Duration::from_secs(1));
                    if said.is_news(&why) {
                        log::warn!("{why}; trying again, first in {} s", pause.as_secs());
                    }
                    self.status.note_snapshot(Err(&why));
                    not_before = Instant::now() + pause;
                }
            }
        }
        Ok(())
    }

    fn step(&self, known: &mut Known) -> Result<(), String> {
        if known.stored.is_none() {
            self.look(known)?;
        }
        let Some(due) = self.due(known)? else { return Ok(()) };
        let store = (self.open_store)()?;
        let terms = Terms {
            patience: Duration::ZERO,
            leader: Some(&self.lease),
            anew: due.serves > 0,
            status: Some(&self.status),
        };
        let saved = save(&self.config, &self.js, &store, &self.stop, terms)?;
        let Stored { name, size, label, .. } = saved.stored;
        let positions = show_positions(&label.positions);
        if saved.unchanged {
            log::debug!(
                "snapshot {name} ({}): the database has not changed, position {positions}",
                due.reason
            );
        } else {
            log::info!(
                "stored snapshot {name} ({}): {size} bytes in {:.1} s in {}, position {positions}",
                due.reason,
                saved.took.as_secs_f64(),
                store.describe()
            );
        }
        self.status.note_snapshot(Ok(label.time_ms));
        known.interval_from = Instant::now();
        known.unfinished = false;
        known.served = known.served.max(due.serves);
        known.stored = Some(Some(label));
        Ok(())
    }

    /// Restores the newest snapshot on trial, as often as configured, whoever the leader was the last time.
    fn prove_when_due(&self, known: &mut Known) {
        let interval = self.config.snapshot.verify_interval;
        if interval.is_zero() || known.prove_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        if known.prove_at.is_none()
            && let Ok(Some(last)) = proof::told(&self.config, &self.js)
        {
            let ago = u64::try_from(clock::unix_ms() - last.time_ms).unwrap_or(0);
            let left = interval.saturating_sub(Duration::from_millis(ago));
            known.prove_at = Some(Instant::now() + left);
            if !left.is_zero() {
                self.status.note_proof(Ok(last.time_ms));
                return;
            }
        }
        let begun = Instant::now();
        let proved =
            (self.open_store)().and_then(|store| proof::prove(&self.config, &self.js, &store, &self.stop));
        match proved {
            Ok(proof) => {
                log::info!(
                    "proved that a restore works: snapshot and {} messages behind it give the live database, {:.1} s",
                    proof.messages,
                    begun.elapsed().as_secs_f64()
                );
                self.status.note_proof(Ok(proof.time_ms));
                if let Err(error) = proof::tell(&self.config, &self.js, &proof) {
                    log::debug!("tell of the proof: {error}");
                }
                known.prove_at = Some(Instant::now() + interval);
            }
            Err(_) if self.stop.requested() => {}
            Err(why) => {
                log::error!("restore not proven: {why}");
                self.status.note_proof(Err(&why));
                known.prove_at = Some(Instant::now() + interval.min(limits::PROVE_AGAIN));
            }
        }
    }

    /// A new leader looks at what is there, and ends what its predecessor left unfinished.
    fn look(&self, known: &mut Known) -> Result<(), String> {
        let store = (self.open_store)()?;
        let failed = |error| format!("look at {}: {error}", store.describe());
        let _lock = lock(&self.config, Duration::ZERO, &self.stop)?;
        let upload = UploadLease::acquire(
            &self.js,
            self.config.node_id,
            self.config.log.replicas,
            limits::UPLOAD_PATIENCE,
            &self.stop,
        )?;
        known.unfinished |= store.prepare().map_err(failed)? > 0;
        drop(upload);
        let found = store.stat(limits::SNAPSHOT_NAME).map_err(failed)?;
        known.stored = Some(found.map(|stored| stored.label));
        // The interval goes on over restarts and changes of leader; a maker's clock that is ahead of ours tells nothing.
        let made_ms = known.stored.iter().flatten().map(|label| label.time_ms).next().unwrap_or(0);
        let age = u64::try_from(clock::unix_ms() - made_ms).map_or(Duration::ZERO, Duration::from_millis);
        known.interval_from =
            Instant::now().checked_sub(age.min(self.config.snapshot.interval)).unwrap_or(known.interval_from);
        // A cluster that is older than this key, or whose broker was wiped, has members: who comes now joins them.
        claim(&self.config, &self.js).map(drop)
    }

    /// Why a snapshot is due, if it is.
    fn due(&self, known: &mut Known) -> Result<Option<Due>, String> {
        let Some(Some(label)) = known.stored.clone() else { return Ok(Some("there was none".into())) };
        if known.unfinished {
            return Ok(Some("an upload was not finished".into()));
        }
        let mut farthest = 0;
        for shard in 1..=self.config.log.shards {
            let stream = self.config.stream(shard);
            let stored = label.positions.get(&stream).copied().unwrap_or(0);
            let applied = self.status.applied_seq(usize::try_from(shard - 1).unwrap_or(0));
            farthest = farthest.max(applied.saturating_sub(stored));
            // Behind the snapshot: either this node is, or the stream began anew.
            if applied < stored && self.ends_before(&stream, stored)? {
                return Ok(Some("the stream was created anew".into()));
            }
        }
        // Early enough that the stream still holds everything behind the snapshot while the next one is made.
        if farthest >= (self.config.log.max_entries / 2).max(1) {
            return Ok(Some("the stream advanced".into()));
        }
        let interval = self.config.snapshot.interval;
        if !interval.is_zero() && farthest > 0 && known.interval_from.elapsed() >= interval {
            return Ok(Some("interval".into()));
        }
        self.asked_for(known)
    }

    fn ends_before(&self, stream: &str, seq: u64) -> Result<bool, String> {
        let info = self.js.stream(stream).map_err(|error| format!("stream {stream}: {error}"))?;
        Ok(info.is_some_and(|info| info.state.last_seq < seq))
    }

    /// Whether a node asked for a snapshot that the stored one cannot serve. That one may be another node's, or a person's:
    /// the store tells.
    fn asked_for(&self, known: &mut Known) -> Result<Option<Due>, String> {
        if known.asked_at.elapsed() < limits::ASKED_LOOK {
            return Ok(None);
        }
        known.asked_at = Instant::now();
        let asked = wanted::asked(&self.js, self.config.log.replicas);
        let asked = asked.map_err(|error| format!("look for requests of other nodes: {error}"))?;
        let Some(asked) = asked.filter(|asked| asked.revision > known.served) else { return Ok(None) };
        let store = (self.open_store)()?;
        let found = store.stat(limits::SNAPSHOT_NAME);
        let found = found.map_err(|error| format!("look at {}: {error}", store.describe()))?;
        let served = found.as_ref().is_some_and(|stored| asked.is_served_by(stored));
        known.stored = Some(found.map(|stored| stored.label));
        if served {
            known.served = asked.revision;
            return Ok(None);
        }
        let reason = format!("node {} asked for one", asked.node_id);
        Ok(Some(Due { reason, serves: asked.revision }))
    }
}
