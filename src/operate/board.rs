//! What the workers show each other and the operator: counters and states, without locks that anyone waits for.

use crate::base::clock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared by all workers.
#[derive(Debug)]
pub struct Status {
    begun: Instant,
    /// Events published and acknowledged.
    pub published: AtomicU64,
    /// Events consumed from the streams, our own echoes included.
    pub consumed: AtomicU64,
    /// Rows written or deleted for other nodes.
    pub rows: AtomicU64,
    /// Highest sequence applied, by shard (from 0).
    pub applied: Vec<AtomicU64>,
    /// Highest sequence at which an event of ours was stored, by shard.
    pub acked: Vec<AtomicU64>,
    /// Captured changes that have not come back, as last counted.
    pub pending: AtomicU64,
    /// The streams no longer hold what comes after our checkpoint: this node is not whole.
    pub gap: AtomicBool,
    /// Tables that are captured.
    pub tables: AtomicU64,
    /// This node is the leader.
    pub leader: AtomicBool,
    /// The address of another running daemon that has this node's `node_id`; empty: none was heard of.
    pub namesake: Mutex<String>,
    /// The database is open.
    pub open: AtomicBool,
    missing: Mutex<String>,
    damage: Mutex<String>,
    snapshot: Mutex<SnapshotState>,
    last_event_ms: AtomicU64,
    published_ms: AtomicI64,
    consumed_ms: AtomicI64,
}

/// How the last snapshot went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotState {
    /// When one was last stored by this node, Unix milliseconds; 0: never.
    pub stored_ms: i64,
    /// Why the last try failed; empty: it did not.
    pub failure: String,
    /// When a restore was last proven by this node, Unix milliseconds; 0: never.
    pub proven_ms: i64,
    /// Why the last proof failed; empty: it did not.
    pub unproven: String,
}

impl Status {
    /// All zero.
    pub fn new(shards: u64) -> Status {
        Status {
            begun: Instant::now(),
            published: AtomicU64::new(0),
            consumed: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            applied: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            acked: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            pending: AtomicU64::new(0),
            gap: AtomicBool::new(false),
            tables: AtomicU64::new(0),
            leader: AtomicBool::new(false),
            namesake: Mutex::default(),
            open: AtomicBool::new(false),
            missing: Mutex::default(),
            damage: Mutex::default(),
            snapshot: Mutex::default(),
            last_event_ms: AtomicU64::new(0),
            published_ms: AtomicI64::new(0),
            consumed_ms: AtomicI64::new(0),
        }
    }

    /// Notes that events were published and acknowledged.
    pub fn count_published(&self, events: usize) {
        self.count(&self.published, &self.published_ms, events);
    }

    /// Notes that events were consumed.
    pub fn count_consumed(&self, events: usize) {
        self.count(&self.consumed, &self.consumed_ms, events);
    }

    fn count(&self, counter: &AtomicU64, at: &AtomicI64, events: usize) {
        counter.fetch_add(events as u64, Relaxed);
        at.store(clock::unix_ms(), Relaxed);
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_event_ms.store(now, Relaxed);
    }

    /// What the node waits for before it is whole; empty: nothing.
    pub fn missing(&self) -> String {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what is missing; empty: nothing is any more.
    pub fn set_missing(&self, what: &str) {
        what.clone_into(&mut self.missing.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes that a worker found the database damaged: the daemon sees to it.
    pub fn note_damage(&self, why: &str) {
        why.clone_into(&mut self.damage.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What was noted, once; empty: nothing.
    pub fn take_damage(&self) -> String {
        std::mem::take(&mut self.damage.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How the last snapshot went.
    pub fn snapshot(&self) -> SnapshotState {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that a snapshot was stored, or why it was not.
    pub fn note_snapshot(&self, result: Result<i64, &str>) {
        let mut state = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(stored_ms) => {
                state.stored_ms = stored_ms;
                state.failure.clear();
            }
            Err(why) => why.clone_into(&mut state.failure),
        }
    }

    /// Notes that a restore was proven, or what spoke against it.
    pub fn note_proof(&self, result: Result<i64, &str>) {
        let mut state = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(proven_ms) => {
                state.proven_ms = proven_ms;
                state.unproven.clear();
            }
            Err(why) => why.clone_into(&mut state.unproven),
        }
    }

    /// When an event was last published and last consumed, Unix milliseconds; 0: never.
    pub fn last_events(&self) -> (i64, i64) {
        (self.published_ms.load(Relaxed), self.consumed_ms.load(Relaxed))
    }

    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Time since the last event in or out, or since the start.
    pub fn idle(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.last_event_ms.load(Relaxed)))
    }

    /// How far, in the shard where it is farthest, our own applying is behind what we published; 0: all came back.
    pub fn not_come_back(&self) -> u64 {
        let behind = |(acked, applied): (&AtomicU64, &AtomicU64)| {
            acked.load(Relaxed).saturating_sub(applied.load(Relaxed))
        };
        self.acked.iter().zip(&self.applied).map(behind).max().unwrap_or(0)
    }

    /// Highest sequence applied of a shard.
    pub fn applied_seq(&self, shard: usize) -> u64 {
        self.applied.get(shard).map_or(0, |seq| seq.load(Relaxed))
    }
}
