//! What the workers show each other and the operator: counters and states, without locks that anyone waits for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
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
    /// The streams no longer hold what comes after our checkpoint: this node is not whole.
    pub gap: AtomicBool,
    last_event_ms: AtomicU64,
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
            gap: AtomicBool::new(false),
            last_event_ms: AtomicU64::new(0),
        }
    }

    /// Adds to a counter, and notes that something happened.
    pub fn count(&self, counter: &AtomicU64, events: usize) {
        counter.fetch_add(events as u64, Relaxed);
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_event_ms.store(now, Relaxed);
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
