//! The leader's lease: a key that one node holds, renewed by compare-and-set, judged by nobody's calendar.
//!
//! Key and value are the Go program's (compat.md 1e). A holder counts from before it sent the renewal, by its own
//! monotonic clock. A rival counts how long it has seen the same revision.

use crate::base::stop::{self, Stop, StopSource};
use crate::base::{clock, once::Once, worker};
use crate::nats::{Error, JetStream, Kv};
use crate::operate::board::Status;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bucket of the leases, fixed in the Go program.
pub const BUCKET: &str = "e-harmonylite";
/// The key of the leader.
const LEADER: &str = "snapshot-leader";
/// The key of whoever uploads a snapshot right now, leader or not.
const UPLOAD: &str = "snapshot";
/// Life of the upload lease, fixed in the Go program.
const UPLOAD_TTL: Duration = Duration::from_secs(10);

/// How often a rival looks at the lease, at least.
const RIVAL_LOOK: Duration = Duration::from_secs(2);

/// The value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Who holds it.
    #[serde(rename = "NodeID")]
    pub node_id: u64,
    /// Milliseconds of the holder's clock at the renewal; for Go nodes, which compare it with theirs. 0: released.
    #[serde(rename = "Timestamp")]
    pub timestamp: i64,
}

impl Claim {
    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing into memory does not fail.
        let _ = ciborium::into_writer(&self, &mut bytes);
        bytes
    }
}

/// What others see of a lease.
#[derive(Clone, Default)]
pub struct Lease(Arc<Mutex<View>>);

#[derive(Default)]
struct View {
    held: Option<Held>,
    /// Where it lies, once it was opened.
    kv: Option<(Kv, &'static str)>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    revision: u64,
    /// By the clock that goes on while the machine sleeps.
    until: Duration,
}

impl Lease {
    fn lock(&self) -> std::sync::MutexGuard<'_, View> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The lease's revision while we hold it, by our own clock.
    pub fn held(&self) -> Option<u64> {
        self.lock().held.filter(|held| clock::since_boot() < held.until).map(|held| held.revision)
    }

    /// Asks the broker whether we hold it at this moment: right before a step that cannot be taken back.
    pub fn confirm(&self) -> Result<(), String> {
        let lost = || "the lease was lost to another node".to_owned();
        let kv = self.lock().kv.clone();
        let (kv, key) = kv.ok_or_else(lost)?;
        for _ in 0..3 {
            let before = self.held().ok_or_else(lost)?;
            let entry = kv.get(key).map_err(|error| format!("ask for the lease: {error}"))?;
            let revision = entry.map_or(0, |entry| entry.revision);
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
        self.since.is_some_and(|since| now.saturating_sub(since) >= ttl)
    }
}

/// One who wants a key.
struct Claimant {
    lease: Lease,
    js: JetStream,
    key: &'static str,
    node_id: u64,
    ttl: Duration,
    replicas: u64,
    /// A claim with our node id is a dead process's: somebody else made sure of that.
    alone: bool,
    seen: Seen,
}

impl Claimant {
    fn new(js: JetStream, key: &'static str, node_id: u64, ttl: Duration, replicas: u64) -> Claimant {
        Claimant {
            lease: Lease::default(),
            js,
            key,
            node_id,
            ttl,
            replicas,
            alone: false,
            seen: Seen::default(),
        }
    }

    fn kv(&self) -> Result<Kv, Error> {
        if let Some((kv, _)) = &self.lease.lock().kv {
            return Ok(kv.clone());
        }
        let kv = Kv::open(&self.js, BUCKET, self.replicas)?;
        self.lease.lock().kv = Some((kv.clone(), self.key));
        Ok(kv)
    }

    /// Takes the lease if it is free, renews it if it is ours.
    fn beat(&mut self) -> Result<(), Error> {
        let kv = self.kv()?;
        let begun = clock::since_boot();
        let revision = match self.lease.held() {
            Some(revision) => revision,
            None => match self.free_revision(&kv, begun)? {
                Some(revision) => revision,
                None => return Ok(()),
            },
        };
        let claim = Claim { node_id: self.node_id, timestamp: clock::unix_ms() };
        let until = begun + self.ttl;
        match kv.update(self.key, &claim.encode(), revision) {
            Ok(revision) => {
                self.lease.set(Some(Held { revision, until }));
                Ok(())
            }
            Err(Error::Conflict(_)) => {
                self.lease.set(None);
                self.seen = Seen::default();
                Ok(())
            }
            // Unknown whether it was written: read back.
            Err(error) => match kv.get(self.key)? {
                Some(entry)
                    if entry.value.as_deref() == Some(claim.encode().as_slice())
                        && entry.revision > revision =>
                {
                    self.lease.set(Some(Held { revision: entry.revision, until }));
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// The revision to overwrite, if the lease is free.
    fn free_revision(&mut self, kv: &Kv, now: Duration) -> Result<Option<u64>, Error> {
        let Some(entry) = kv.get(self.key)? else { return Ok(Some(0)) };
        let claim = entry.value.as_deref().and_then(|value| ciborium::from_reader::<Claim, _>(value).ok());
        let released =
            claim.is_none_or(|claim| claim.timestamp == 0 || (self.alone && claim.node_id == self.node_id));
        Ok((released || self.seen.expired(entry.revision, now, self.ttl)).then_some(entry.revision))
    }

    /// Gives it back, so that nobody has to wait; `None`: we did not hold it.
    fn release(&mut self) -> Option<Result<(), Error>> {
        let revision = self.lease.held()?;
        self.lease.set(None);
        let released = Claim { node_id: self.node_id, timestamp: 0 };
        Some(self.kv().and_then(|kv| kv.update(self.key, &released.encode(), revision)).map(drop))
    }
}

/// The thread that gets, keeps and gives back the leader's lease.
pub struct Keeper {
    claimant: Claimant,
    status: Arc<Status>,
    stop: Stop,
    said: Once,
}

impl Keeper {
    /// A keeper for this node.
    pub fn new(
        js: JetStream,
        node_id: u64,
        ttl: Duration,
        replicas: u64,
        status: Arc<Status>,
        stop: Stop,
    ) -> Keeper {
        let claimant = Claimant::new(js, LEADER, node_id, ttl, replicas);
        Keeper { claimant, status, stop, said: Once::default() }
    }

    /// Its result.
    pub fn lease(&self) -> Lease {
        self.claimant.lease.clone()
    }

    /// Heartbeats every third of the lease's life until stop, then releases it.
    pub fn run(mut self) -> Result<(), String> {
        let mut leader = false;
        loop {
            if self.status.gap.load(Relaxed) {
                // Who is not whole makes no snapshots.
                self.release();
            } else if self.claimant.js.connection().is_up()
                && let Err(error) = self.claimant.beat()
            {
                self.said.warn(&format!("leader lease: {error}; trying again"));
            }
            let now = self.claimant.lease.held().is_some();
            if now != leader {
                leader = now;
                self.status.leader.store(leader, Relaxed);
                if leader {
                    self.said.forget();
                    log::info!("this node is the leader: it makes the snapshots");
                } else {
                    log::warn!("this node is no longer the leader");
                }
            }
            if self.rest(leader) {
                self.release();
                return Ok(());
            }
        }
    }

    /// Waits for the next heartbeat: a holder a third of the lease's life, a rival less, so that a released lease is taken
    /// soon. True: stop.
    fn rest(&self, leader: bool) -> bool {
        let heartbeat = self.claimant.ttl / 3;
        let until = Instant::now() + if leader { heartbeat } else { heartbeat.min(RIVAL_LOOK) };
        let whole = !self.status.gap.load(Relaxed);
        loop {
            let step = if whole { 500 } else { 50 };
            let left = until.saturating_duration_since(Instant::now()).min(Duration::from_millis(step));
            if self.stop.wait(left) {
                return true;
            }
            // Who becomes whole, or is not any more, has something to do.
            if left.is_zero() || whole == self.status.gap.load(Relaxed) {
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

/// The right to upload a snapshot, for as long as this value lives. Leader or person: one at a time in the whole cluster,
/// Go nodes included.
pub struct UploadLease {
    lease: Lease,
    stop: Option<StopSource>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl UploadLease {
    /// Waits for the lease, at most `patience`. (One whose holder died on another node is free ten seconds later.) The caller
    /// has made sure that no other process of this node uploads.
    pub fn acquire(
        js: &JetStream,
        node_id: u64,
        replicas: u64,
        patience: Duration,
        stop: &Stop,
    ) -> Result<UploadLease, String> {
        let mut claimant = Claimant::new(js.clone(), UPLOAD, node_id, UPLOAD_TTL, replicas);
        claimant.alone = true;
        let until = Instant::now() + patience;
        let mut why = "another node is uploading a snapshot".to_owned();
        loop {
            if let Err(error) = claimant.beat() {
                why = format!("upload lease: {error}");
            }
            if claimant.lease.held().is_some() {
                return UploadLease::keep(claimant);
            }
            if Instant::now() >= until || stop.wait(Duration::from_millis(500)) {
                return Err(why);
            }
        }
    }

    fn keep(mut claimant: Claimant) -> Result<UploadLease, String> {
        let (source, stop) = stop::pair();
        let lease = claimant.lease.clone();
        // Nobody waits for its end but the holder, who has its handle.
        let (exits, _) = crossbeam_channel::bounded(1);
        let thread = worker::spawn("upload-lease", &exits, move || {
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
        Ok(UploadLease { lease, stop: Some(source), thread: Some(thread) })
    }

    /// The revision under which it was last renewed.
    pub fn revision(&self) -> u64 {
        self.lease.held().unwrap_or(0)
    }

    /// Asks the broker whether we hold it at this moment.
    pub fn confirm(&self) -> Result<(), String> {
        self.lease.confirm()
    }
}

impl Drop for UploadLease {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_the_go_programs() {
        let claim = Claim { node_id: 1, timestamp: 1_700_000_000_000 };
        let hex = data_encoding::HEXLOWER.encode(&claim.encode());
        assert_eq!(hex, "a2664e6f64654944016954696d657374616d701b0000018bcfe56800");
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
}
