//! The leader's lease: a key that one node holds, renewed by compare-and-set, judged by nobody's calendar.
//!
//! Key and value are the Go program's (compat.md 1e). A holder counts from before it sent the renewal, by its own
//! monotonic clock. A rival counts how long it has seen the same revision.

use crate::clock;
use crate::nats::{Error, JetStream, Kv};
use crate::status::Status;
use crate::stop::Stop;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bucket of the leases, fixed in the Go program.
const BUCKET: &str = "e-harmonylite";
/// The key of the leader.
const KEY: &str = "snapshot-leader";

/// How often a rival looks at the lease, at least.
const RIVAL_LOOK: Duration = Duration::from_secs(2);

/// The value of the key.
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

/// What others see of the lease.
#[derive(Clone, Debug, Default)]
pub struct Lease(Arc<Mutex<Option<Held>>>);

#[derive(Clone, Copy, Debug)]
struct Held {
    revision: u64,
    until: Instant,
}

impl Lease {
    /// The lease's revision while we hold it. To be asked again before every step that cannot be taken back.
    pub fn held(&self) -> Option<u64> {
        let held = *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        held.filter(|held| Instant::now() < held.until).map(|held| held.revision)
    }

    fn set(&self, held: Option<Held>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = held;
    }
}

/// What a rival has seen.
#[derive(Debug, Default)]
struct Seen {
    revision: u64,
    since: Option<Instant>,
}

impl Seen {
    /// Notes a revision; true when it has not changed for `ttl`.
    fn expired(&mut self, revision: u64, now: Instant, ttl: Duration) -> bool {
        if self.revision != revision || self.since.is_none() {
            *self = Seen { revision, since: Some(now) };
        }
        self.since.is_some_and(|since| now.duration_since(since) >= ttl)
    }
}

/// The thread that gets, keeps and gives back the lease.
pub struct Keeper {
    /// Its result.
    pub lease: Lease,
    js: JetStream,
    node_id: u64,
    ttl: Duration,
    replicas: u64,
    status: Arc<Status>,
    stop: Stop,
    kv: Option<Kv>,
    seen: Seen,
    last_warning: String,
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
        Keeper {
            lease: Lease::default(),
            js,
            node_id,
            ttl,
            replicas,
            status,
            stop,
            kv: None,
            seen: Seen::default(),
            last_warning: String::new(),
        }
    }

    /// Heartbeats every third of the lease's life until stop, then releases it.
    pub fn run(mut self) -> Result<(), String> {
        let mut leader = false;
        loop {
            if self.status.gap.load(Relaxed) {
                // Who is not whole makes no snapshots.
                self.release();
            } else if self.js.connection().is_up()
                && let Err(error) = self.beat()
                && self.last_warning != error.to_string()
            {
                self.last_warning = error.to_string();
                log::warn!("leader lease: {error}; trying again");
            }
            let now = self.lease.held().is_some();
            if now != leader {
                leader = now;
                if leader {
                    self.last_warning.clear();
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
    /// soon. A holder that is not whole any more does not wait. True: stop.
    fn rest(&self, leader: bool) -> bool {
        let heartbeat = self.ttl / 3;
        let until = Instant::now() + if leader { heartbeat } else { heartbeat.min(RIVAL_LOOK) };
        loop {
            let left = until.saturating_duration_since(Instant::now()).min(Duration::from_millis(500));
            if self.stop.wait(left) {
                return true;
            }
            if left.is_zero() || (leader && self.status.gap.load(Relaxed)) {
                return false;
            }
        }
    }

    fn beat(&mut self) -> Result<(), Error> {
        let kv = match &self.kv {
            Some(kv) => kv.clone(),
            None => {
                let kv = Kv::open(&self.js, BUCKET, self.replicas)?;
                self.kv = Some(kv.clone());
                kv
            }
        };
        let begun = Instant::now();
        let held = self.lease.held();
        let revision = match held {
            Some(revision) => revision,
            None => match self.free_revision(&kv, begun)? {
                Some(revision) => revision,
                None => return Ok(()),
            },
        };
        let claim = Claim { node_id: self.node_id, timestamp: clock::unix_ms() };
        match kv.update(KEY, &claim.encode(), revision) {
            Ok(revision) => {
                self.lease.set(Some(Held { revision, until: begun + self.ttl }));
                Ok(())
            }
            Err(Error::Conflict(_)) => {
                self.lease.set(None);
                self.seen = Seen::default();
                Ok(())
            }
            // Unknown whether it was written: read back.
            Err(error) => match kv.get(KEY)? {
                Some(entry)
                    if entry.value.as_deref() == Some(claim.encode().as_slice())
                        && entry.revision > revision =>
                {
                    self.lease.set(Some(Held { revision: entry.revision, until: begun + self.ttl }));
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// The revision to overwrite, if the lease is free.
    fn free_revision(&mut self, kv: &Kv, now: Instant) -> Result<Option<u64>, Error> {
        let Some(entry) = kv.get(KEY)? else { return Ok(Some(0)) };
        let claim = entry.value.as_deref().and_then(|value| ciborium::from_reader::<Claim, _>(value).ok());
        let released = claim.is_none_or(|claim| claim.timestamp == 0);
        Ok((released || self.seen.expired(entry.revision, now, self.ttl)).then_some(entry.revision))
    }

    fn release(&mut self) {
        if let (Some(revision), Some(kv)) = (self.lease.held(), &self.kv) {
            self.lease.set(None);
            let released = Claim { node_id: self.node_id, timestamp: 0 };
            match kv.update(KEY, &released.encode(), revision) {
                Ok(_) => log::info!("released the leader lease"),
                Err(error) => log::warn!("release the leader lease: {error}; it expires by itself"),
            }
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
        let (ttl, start) = (Duration::from_secs(9), Instant::now());
        let mut seen = Seen::default();
        assert!(!seen.expired(5, start, ttl));
        assert!(!seen.expired(5, start + Duration::from_secs(8), ttl));
        assert!(!seen.expired(6, start + Duration::from_secs(9), ttl));
        assert!(!seen.expired(6, start + Duration::from_secs(17), ttl));
        assert!(seen.expired(6, start + Duration::from_secs(18), ttl));
    }
}
