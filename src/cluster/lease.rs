//! Leases: a key that one node holds at a time, renewed by compare-and-set, judged by nobody's calendar.
//!
//! Keys and values are the Go program's (formats, section "Key-value buckets"). A holder counts from the moment before it
//! sent the renewal, by its own monotonic clock. A rival counts how long it has seen the same revision. The leader's lease
//! has a thread of its own ([`Keeper`]) and never waits for an upload; the upload lease ([`UploadLease`]) is held while a
//! snapshot is uploaded, by the leader or by a person's command.

use super::{Bucket, Entry, Key};
use crate::base::error::{self, Context};
use crate::base::stop::{self, Stop, StopSource};
use crate::base::{clock, once::Once, worker::Workers};
use crate::nats::Error;
use crate::operate::{Board, Signals};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Held by the leader.
const LEADER: Key<'static, Claim> = claim_key("snapshot-leader");
/// Held while a snapshot is uploaded, by the leader or not.
const UPLOAD: Key<'static, Claim> = claim_key("snapshot");
/// Life of the upload lease, fixed in the Go program.
const UPLOAD_TTL: Duration = Duration::from_secs(10);
/// A rival looks at the lease at least this often.
const RIVAL_LOOK: Duration = Duration::from_secs(2);
/// How soon a change of "whole" is seen by a keeper that rests: a whole one, and one that waits to become it.
const WHOLE_LOOK: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(50)];

/// The value of a lease's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The node that holds it.
    #[serde(rename = "NodeID")]
    pub node_id: u64,
    /// Milliseconds of the holder's clock at the renewal; for Go nodes, which compare it with theirs. 0: released.
    #[serde(rename = "Timestamp")]
    pub timestamp: i64,
}

const fn claim_key(name: &'static str) -> Key<'static, Claim> {
    Key {
        name,
        encode: |claim| {
            let mut bytes = Vec::new();
            // Writing into memory does not fail.
            let _ = ciborium::into_writer(claim, &mut bytes);
            bytes
        },
        decode: |bytes| ciborium::from_reader(bytes).ok(),
    }
}

/// The revision of the leader's lease: it changes as long as there is a leader.
pub fn leaders_revision(bucket: &Bucket) -> Result<u64, Error> {
    Ok(bucket.get(&LEADER)?.revision)
}

/// What others see of a lease.
#[derive(Clone, Default)]
pub struct Lease(Arc<Mutex<View>>);

#[derive(Default)]
struct View {
    held: Option<Held>,
    /// Where it lies, once it was asked for.
    place: Option<(Bucket, &'static Key<'static, Claim>)>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    revision: u64,
    /// By the clock that goes on while the machine sleeps.
    until: Duration,
}

impl Lease {
    fn lock(&self) -> MutexGuard<'_, View> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease's revision while we hold it, by our own clock.
    pub fn held(&self) -> Option<u64> {
        self.held_at(clock::since_boot())
    }

    fn held_at(&self, now: Duration) -> Option<u64> {
        self.lock().held.filter(|held| now < held.until).map(|held| held.revision)
    }

    /// Asks the broker whether we hold it at this moment: right before a step that cannot be taken back.
    pub fn confirm(&self) -> Result<(), error::Error> {
        let lost = || error::Error::waiting("the lease was lost to another node");
        let place = self.lock().place.clone();
        let (bucket, key) = place.ok_or_else(lost)?;
        for _ in 0..3 {
            let before = self.held().ok_or_else(lost)?;
            let revision = bucket.get(key).context("ask for the lease")?.revision;
            // It may have been renewed while we asked.
            if revision == before || Some(revision) == self.held() {
                return Ok(());
            }
        }
        Err(lost())
    }

    fn set(&self, held: Option<Held>) {
        self.lock().held = held;
    }
}

/// What a rival has seen.
#[derive(Debug, Default)]
struct Seen {
    revision: u64,
    since: Option<Duration>,
}

impl Seen {
    /// Notes a revision; true when it has not changed for `ttl`.
    fn expired(&mut self, revision: u64, now: Duration, ttl: Duration) -> bool {
        if self.revision != revision || self.since.is_none() {
            *self = Seen { revision, since: Some(now) };
        }
        self.since.is_some() && !self.is_fresh(now, ttl)
    }

    /// Whether the revision was seen first within `ttl`.
    fn is_fresh(&self, now: Duration, ttl: Duration) -> bool {
        self.since.is_some_and(|since| now.saturating_sub(since) < ttl)
    }
}

/// A node that wants a key.
struct Claimant {
    lease: Lease,
    bucket: Bucket,
    key: &'static Key<'static, Claim>,
    node_id: u64,
    ttl: Duration,
    /// A claim with our own node id was left by a process that died, and is taken over at once: the caller holds a local file
    /// lock, so no other process of this node lives that could have made it.
    alone: bool,
    /// The nodes have agreed that this one leads, whoever holds the lease: it is taken over.
    chosen: bool,
    seen: Seen,
}

impl Claimant {
    fn new(bucket: &Bucket, key: &'static Key<'static, Claim>, node_id: u64, ttl: Duration) -> Claimant {
        let lease = Lease::default();
        lease.lock().place = Some((bucket.clone(), key));
        Claimant {
            lease,
            bucket: bucket.clone(),
            key,
            node_id,
            ttl,
            alone: false,
            chosen: false,
            seen: Seen::default(),
        }
    }

    /// Takes the lease if it is free, renews it if it is ours.
    fn beat(&mut self) -> Result<(), Error> {
        let begun = clock::since_boot();
        let revision = match self.lease.held() {
            Some(revision) => revision,
            None => {
                let entry = match self.bucket.look(self.key)? {
                    Some(entry) => entry,
                    // Nobody has written it since, and that is not long enough ago.
                    None if !self.chosen && self.seen.is_fresh(begun, self.ttl) => return Ok(()),
                    None => self.bucket.get(self.key)?,
                };
                match self.free_revision(&entry, begun) {
                    Some(revision) => revision,
                    None => return Ok(()),
                }
            }
        };
        let claim = Claim { node_id: self.node_id, timestamp: clock::unix_ms() };
        let until = begun + self.ttl;
        match self.bucket.update(self.key, &claim, revision) {
            Ok(revision) => {
                self.chosen = false;
                self.lease.set(Some(Held { revision, until }));
                Ok(())
            }
            Err(Error::Conflict(_)) => {
                self.lease.set(None);
                self.seen = Seen::default();
                Ok(())
            }
            // Nobody knows whether it was written: read back.
            Err(error) => match self.bucket.get(self.key)? {
                entry if entry.value == Some(claim) && entry.revision > revision => {
                    self.lease.set(Some(Held { revision: entry.revision, until }));
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// The revision to overwrite, if the lease is free.
    fn free_revision(&mut self, entry: &Entry<Claim>, now: Duration) -> Option<u64> {
        let never_written = entry.revision == 0;
        let released = entry
            .value
            .is_none_or(|claim| claim.timestamp == 0 || (self.alone && claim.node_id == self.node_id));
        let free =
            never_written || released || self.chosen || self.seen.expired(entry.revision, now, self.ttl);
        free.then_some(entry.revision)
    }

    /// Gives it back, so that nobody has to wait; `None`: we did not hold it.
    fn release(&mut self) -> Option<Result<(), Error>> {
        let revision = self.lease.held()?;
        self.lease.set(None);
        let released = Claim { node_id: self.node_id, timestamp: 0 };
        Some(self.bucket.update(self.key, &released, revision).map(drop))
    }
}

/// The thread that gets, keeps and gives back the leader's lease.
pub struct Keeper {
    claimant: Claimant,
    board: Arc<Board>,
    signals: Arc<Signals>,
    said: Once,
}

impl Keeper {
    /// A keeper for this node.
    pub fn new(
        bucket: &Bucket,
        node_id: u64,
        ttl: Duration,
        (board, signals): (&Arc<Board>, &Arc<Signals>),
    ) -> Keeper {
        let claimant = Claimant::new(bucket, &LEADER, node_id, ttl);
        Keeper { claimant, board: board.clone(), signals: signals.clone(), said: Once::default() }
    }

    /// What others see of it.
    pub fn lease(&self) -> Lease {
        self.claimant.lease.clone()
    }

    /// Heartbeats every third of the lease's life until stop, then releases it.
    pub fn run(mut self, stop: &Stop) {
        let mut leader = false;
        loop {
            self.claimant.chosen |= self.signals.is_to_lead();
            if !self.signals.is_whole() {
                // A node that misses changes must not make snapshots.
                self.release();
            } else if self.claimant.bucket.js().connection().is_up()
                && let Err(error) = self.claimant.beat()
            {
                self.said.warn(&format!("leader lease: {error}; trying again"));
            }
            let now = self.claimant.lease.held().is_some();
            if now != leader {
                leader = now;
                self.board.set_leader(leader);
                if leader {
                    self.said.forget();
                    log::info!("this node is the leader: it makes the snapshots");
                } else {
                    log::warn!("this node is no longer the leader");
                }
            }
            if self.rest(leader, stop) {
                self.release();
                return;
            }
        }
    }

    /// Waits for the next heartbeat: a holder a third of the lease's life, a rival less, so that a released lease is taken
    /// soon. True: stop.
    fn rest(&self, leader: bool, stop: &Stop) -> bool {
        let until = Instant::now() + pause(self.claimant.ttl, leader);
        let whole = self.signals.is_whole();
        loop {
            let left = until.saturating_duration_since(Instant::now()).min(WHOLE_LOOK[usize::from(!whole)]);
            if stop.wait(left) {
                return true;
            }
            // A node that becomes whole, or ceases to be, has something to do at once.
            if left.is_zero() || whole != self.signals.is_whole() {
                return false;
            }
        }
    }

    fn release(&mut self) {
        match self.claimant.release() {
            None => {}
            Some(Ok(())) => log::info!("released the leader lease"),
            Some(Err(error)) => log::warn!("release the leader lease: {error}; it expires by itself"),
        }
    }
}

/// From one heartbeat to the next.
fn pause(ttl: Duration, leader: bool) -> Duration {
    if leader { ttl / 3 } else { (ttl / 3).min(RIVAL_LOOK) }
}

/// The right to upload a snapshot, for as long as this value lives. Leader or person: one at a time in the whole cluster,
/// Go nodes included.
pub struct UploadLease {
    lease: Lease,
    stop: Option<StopSource>,
    workers: Workers,
}

impl UploadLease {
    /// Waits for the lease, at most `patience`. (One whose holder died on another node is free ten seconds later.) The caller
    /// has made sure that no other process of this node uploads.
    pub fn acquire(
        bucket: &Bucket,
        node_id: u64,
        patience: Duration,
        stop: &Stop,
    ) -> Result<UploadLease, error::Error> {
        let mut claimant = Claimant::new(bucket, &UPLOAD, node_id, UPLOAD_TTL);
        claimant.alone = true;
        let until = Instant::now() + patience;
        let mut why = error::Error::waiting("another node is uploading a snapshot");
        loop {
            if let Err(error) = claimant.beat() {
                why = error::Error::from(error).at("upload lease");
            }
            if claimant.lease.held().is_some() {
                return UploadLease::keep(claimant);
            }
            if Instant::now() >= until || stop.wait(Duration::from_millis(500)) {
                return Err(why);
            }
        }
    }

    fn keep(mut claimant: Claimant) -> Result<UploadLease, error::Error> {
        let (source, stop) = stop::pair();
        let lease = claimant.lease.clone();
        let mut workers = Workers::default();
        workers.spawn("upload-lease", move || {
            while !stop.wait(UPLOAD_TTL / 3) {
                if let Err(error) = claimant.beat() {
                    log::debug!("upload lease: {error}");
                }
            }
            if let Some(Err(error)) = claimant.release() {
                log::debug!("release the upload lease: {error}; it expires by itself");
            }
            Ok(())
        })?;
        Ok(UploadLease { lease, stop: Some(source), workers })
    }

    /// The revision under which it was last renewed.
    pub fn revision(&self) -> u64 {
        self.lease.held().unwrap_or(0)
    }

    /// Asks the broker whether we hold it at this moment.
    pub fn confirm(&self) -> Result<(), error::Error> {
        self.lease.confirm()
    }
}

impl Drop for UploadLease {
    fn drop(&mut self) {
        self.stop.take();
        // Two requests at most stand between the thread and its end.
        self.workers.wait(Instant::now() + 3 * crate::base::limits::API_TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_the_go_programs() {
        let claim = Claim { node_id: 1, timestamp: 1_700_000_000_000 };
        let bytes = (LEADER.encode)(&claim);
        let hex = data_encoding::HEXLOWER.encode(&bytes);
        assert_eq!(hex, "a2664e6f64654944016954696d657374616d701b0000018bcfe56800");
        assert_eq!((LEADER.decode)(&bytes), Some(claim));
        assert_eq!((LEADER.decode)(b"\xff\xff"), None);
    }

    #[test]
    fn mutants_of_leases_are_no_lease_or_one_that_is_read_the_same_again() {
        let claims = [(1, 1_700_000_000_000), (u64::MAX, i64::MIN), (0, 0)];
        let valid = claims.map(|(node_id, timestamp)| (LEADER.encode)(&Claim { node_id, timestamp }));
        // Deep nesting, which no change makes by chance.
        let nested = [[0x81; 100_000].to_vec(), [0xc1; 100_000].to_vec()];
        assert!(nested.iter().all(|bytes| (LEADER.decode)(bytes).is_none()));
        crate::base::mutants::each("leases", &valid, |mutant| {
            if let Some(claim) = (LEADER.decode)(mutant) {
                assert_eq!((LEADER.decode)(&(LEADER.encode)(&claim)), Some(claim));
                let mut seen = Seen::default();
                assert!(!seen.expired(claim.node_id, Duration::ZERO, UPLOAD_TTL));
            }
        });
    }

    #[test]
    fn a_rival_waits_until_a_revision_is_old_as_seen_by_itself() {
        let (ttl, start) = (Duration::from_secs(9), Duration::from_secs(100));
        let mut seen = Seen::default();
        assert!(!seen.expired(5, start, ttl));
        assert!(!seen.expired(5, start + Duration::from_secs(8), ttl));
        assert!(!seen.expired(6, start + Duration::from_secs(9), ttl));
        assert!(!seen.expired(6, start + Duration::from_secs(17), ttl));
        assert!(seen.expired(6, start + Duration::from_secs(18), ttl));
    }

    #[test]
    fn a_holder_judges_its_lease_by_its_own_clock() {
        let lease = Lease::default();
        assert_eq!(lease.held_at(Duration::ZERO), None);
        lease.set(Some(Held { revision: 7, until: Duration::from_secs(30) }));
        assert_eq!(lease.held_at(Duration::from_secs(29)), Some(7));
        assert_eq!(lease.held_at(Duration::from_secs(30)), None);
    }

    #[test]
    fn a_lease_that_was_never_asked_for_is_not_confirmed() {
        let error = Lease::default().confirm().unwrap_err();
        assert_eq!(error.kind(), crate::base::Kind::Waiting);
    }

    #[test]
    fn heartbeats_fit_into_the_lease() {
        let seconds = Duration::from_secs;
        assert_eq!(pause(seconds(30), true), seconds(10));
        assert_eq!(pause(seconds(30), false), RIVAL_LOOK);
        assert_eq!(pause(seconds(3), false), seconds(1));
    }
}
