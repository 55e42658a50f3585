//! The board: what the workers show to the operator. Nobody decides anything by it.

use super::histogram::{Histogram, LONG};
use crate::base::clock;
use crate::db::{KeptConflicts, SetAside};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shared by all workers.
#[derive(Debug)]
pub struct Board {
    begun: Instant,
    published: Count,
    consumed: Count,
    rows: AtomicU64,
    pending: AtomicU64,
    tables: AtomicU64,
    leader: AtomicBool,
    open: AtomicBool,
    namesake: Mutex<String>,
    disagreement: Mutex<String>,
    snapshot: Mutex<SnapshotState>,
    snapshots: Histogram,
    aside: Mutex<SetAside>,
    conflicts: Mutex<KeptConflicts>,
    lost: AtomicU64,
    compared: Mutex<Compared>,
    in_memory: AtomicBool,
    schemas_equal: AtomicBool,
    other_schema: Mutex<String>,
    cannot_follow: AtomicBool,
    troubles: Mutex<BTreeMap<&'static str, String>>,
}

/// Events, and when the last of them was counted.
#[derive(Debug, Default)]
struct Count {
    events: AtomicU64,
    /// Unix milliseconds; 0: never.
    last_ms: AtomicI64,
}

impl Count {
    fn add(&self, events: usize) {
        self.events.fetch_add(events as u64, Relaxed);
        self.last_ms.store(clock::unix_ms(), Relaxed);
    }
}

/// How the last snapshot and the last restore on trial went, as far as this node made them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotState {
    /// When one was last stored, Unix milliseconds; 0: never.
    pub stored_ms: i64,
    /// Why the last try failed; empty: it did not.
    pub failure: String,
    /// Size of the last one in the store.
    pub bytes: u64,
    /// When a restore was last proven, Unix milliseconds; 0: never.
    pub proven_ms: i64,
    /// Why the last proof failed; empty: it did not.
    pub unproven: String,
}

/// What the last comparison of the nodes came to, whoever made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// When it ended, Unix milliseconds; 0: there was none since the start.
    pub at_ms: i64,
    /// Rows and tables that differed.
    pub differences: u64,
    pub text: String,
}

/// Events since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Published and acknowledged.
    pub published: u64,
    /// Consumed from the streams, our own echoes included.
    pub consumed: u64,
    /// Rows written or deleted for other nodes.
    pub rows: u64,
}

impl Default for Board {
    fn default() -> Board {
        Board {
            begun: Instant::now(),
            published: Count::default(),
            consumed: Count::default(),
            rows: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            tables: AtomicU64::new(0),
            leader: AtomicBool::new(false),
            open: AtomicBool::new(false),
            namesake: Mutex::default(),
            disagreement: Mutex::default(),
            snapshot: Mutex::default(),
            snapshots: Histogram::new(LONG),
            aside: Mutex::default(),
            conflicts: Mutex::default(),
            lost: AtomicU64::new(0),
            compared: Mutex::default(),
            in_memory: AtomicBool::new(false),
            schemas_equal: AtomicBool::new(true),
            other_schema: Mutex::default(),
            cannot_follow: AtomicBool::new(false),
            troubles: Mutex::default(),
        }
    }
}

impl Board {
    /// Shows what is set aside now.
    pub fn set_aside(&self, aside: SetAside) {
        *lock(&self.aside) = aside;
    }

    /// What is set aside.
    pub fn aside(&self) -> SetAside {
        lock(&self.aside).clone()
    }

    /// Events that wait for a table or column.
    pub fn waiting_events(&self) -> u64 {
        lock(&self.aside).tables.iter().filter(|of| !of.refused).map(|of| of.events).sum()
    }

    /// Whether all running nodes have this node's schema, as far as they have told; if not, which one has another in a table that both
    /// replicate: empty where their lists of tables alone differ.
    pub fn set_other_schema(&self, equal: bool, other: &str) {
        self.schemas_equal.store(equal, Relaxed);
        replace(&self.other_schema, other);
    }

    /// Whether they have.
    pub fn are_schemas_equal(&self) -> bool {
        self.schemas_equal.load(Relaxed)
    }

    /// Which node has another schema, and where; empty: none.
    pub fn other_schema(&self) -> String {
        lock(&self.other_schema).clone()
    }

    /// What a worker cannot do now; empty: it can.
    pub fn set_trouble(&self, whose: &'static str, text: &str) {
        let mut troubles = lock(&self.troubles);
        if text.is_empty() {
            troubles.remove(whose);
        } else {
            troubles.insert(whose, text.to_owned());
        }
    }

    /// What workers cannot do now.
    pub fn troubles(&self) -> Vec<String> {
        lock(&self.troubles).values().cloned().collect()
    }

    /// A change of the schema could not be carried out here, or all could.
    pub fn set_cannot_follow(&self, cannot: bool) {
        self.cannot_follow.store(cannot, Relaxed);
    }

    /// Whether one could not.
    pub fn cannot_follow(&self) -> bool {
        self.cannot_follow.load(Relaxed)
    }

    /// Shows how many conflicts are kept.
    pub fn set_conflicts(&self, kept: KeptConflicts) {
        *lock(&self.conflicts) = kept;
    }

    /// Conflicts that are kept, by kind.
    pub fn conflicts(&self) -> KeptConflicts {
        lock(&self.conflicts).clone()
    }

    /// Writes of others lost to ours.
    pub fn count_lost(&self, writes: usize) {
        self.lost.fetch_add(writes as u64, Relaxed);
    }

    /// Writes of others that lost to ours since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// The broker keeps a stream in memory alone, or none.
    pub fn set_in_memory(&self, in_memory: bool) {
        self.in_memory.store(in_memory, Relaxed);
    }

    /// Whether it does.
    pub fn is_in_memory(&self) -> bool {
        self.in_memory.load(Relaxed)
    }

    /// Events were published and acknowledged.
    pub fn count_published(&self, events: usize) {
        self.published.add(events);
    }

    /// Events were consumed, and rows written or deleted for other nodes.
    pub fn count_consumed(&self, events: usize, rows: usize) {
        self.consumed.add(events);
        self.rows.fetch_add(rows as u64, Relaxed);
    }

    /// All events since the start.
    pub fn totals(&self) -> Totals {
        Totals {
            published: self.published.events.load(Relaxed),
            consumed: self.consumed.events.load(Relaxed),
            rows: self.rows.load(Relaxed),
        }
    }

    /// When an event was last published and last consumed, Unix milliseconds; 0: never.
    pub fn last_events(&self) -> (i64, i64) {
        (self.published.last_ms.load(Relaxed), self.consumed.last_ms.load(Relaxed))
    }

    /// So many captured changes have not come back.
    pub fn set_pending(&self, changes: u64) {
        self.pending.store(changes, Relaxed);
    }

    /// Captured changes that have not come back, as last counted.
    pub fn pending(&self) -> u64 {
        self.pending.load(Relaxed)
    }

    /// So many tables are captured.
    pub fn set_tables(&self, tables: usize) {
        self.tables.store(tables as u64, Relaxed);
    }

    /// Tables that are captured.
    pub fn tables(&self) -> u64 {
        self.tables.load(Relaxed)
    }

    /// This node is the leader, or not.
    pub fn set_leader(&self, leader: bool) {
        self.leader.store(leader, Relaxed);
    }

    /// Whether this node is the leader.
    pub fn is_leader(&self) -> bool {
        self.leader.load(Relaxed)
    }

    /// The database was opened, or closed.
    pub fn set_open(&self, open: bool) {
        self.open.store(open, Relaxed);
    }

    /// Whether the database is open.
    pub fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// Where another running daemon with this node's `node_id` is; empty: none was heard of. True when that is news.
    pub fn set_namesake(&self, place: &str) -> bool {
        replace(&self.namesake, place)
    }

    /// Where it is; empty: none was heard of.
    pub fn namesake(&self) -> String {
        lock(&self.namesake).clone()
    }

    /// Who has another number of shards than this node; empty: nobody was heard of. True when that is news.
    pub fn set_disagreement(&self, other: &str) -> bool {
        replace(&self.disagreement, other)
    }

    /// Who it is; empty: nobody was heard of.
    pub fn disagreement(&self) -> String {
        lock(&self.disagreement).clone()
    }

    /// How the last snapshot went.
    pub fn snapshot(&self) -> SnapshotState {
        lock(&self.snapshot).clone()
    }

    /// A snapshot was stored (when, in Unix milliseconds), or could not be (why).
    pub fn note_snapshot(&self, result: Result<i64, &str>) {
        let mut state = lock(&self.snapshot);
        let state = &mut *state;
        note(result, &mut state.stored_ms, &mut state.failure);
    }

    /// That one could not be stored is no concern of this node any more.
    pub fn forget_snapshot_failure(&self) {
        lock(&self.snapshot).failure.clear();
    }

    /// A snapshot was stored: how long it took, and its size there.
    pub fn count_snapshot(&self, took: Duration, bytes: u64) {
        lock(&self.snapshot).bytes = bytes;
        self.snapshots.add(took, 1);
    }

    /// How long the snapshots took that this node stored.
    pub fn snapshots_took(&self) -> &Histogram {
        &self.snapshots
    }

    /// A restore was proven (when, in Unix milliseconds), or something spoke against it (what).
    pub fn note_proof(&self, result: Result<i64, &str>) {
        let mut state = lock(&self.snapshot);
        let state = &mut *state;
        note(result, &mut state.proven_ms, &mut state.unproven);
    }

    /// The nodes were compared, at a time in Unix milliseconds.
    pub fn note_compared(&self, at_ms: i64, differences: u64, text: &str) {
        *lock(&self.compared) = Compared { at_ms, differences, text: text.to_owned() };
    }

    /// What the last comparison of the nodes came to.
    pub fn compared(&self) -> Compared {
        lock(&self.compared).clone()
    }

    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.begun.elapsed()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replaces a text; true when it was another one.
fn replace(known: &Mutex<String>, text: &str) -> bool {
    let mut known = lock(known);
    let news = *known != text;
    text.clone_into(&mut known);
    news
}

fn note(result: Result<i64, &str>, when: &mut i64, why: &mut String) {
    match result {
        Ok(ms) => {
            *when = ms;
            why.clear();
        }
        Err(reason) => reason.clone_into(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_tell_when() {
        let board = Board::default();
        assert_eq!((board.totals(), board.last_events()), (Totals::default(), (0, 0)));
        board.count_published(3);
        board.count_consumed(5, 2);
        board.count_consumed(1, 0);
        assert_eq!(board.totals(), Totals { published: 3, consumed: 6, rows: 2 });
        assert!(board.last_events().0 > 0 && board.last_events().1 > 0);
    }

    #[test]
    fn a_failure_is_shown_until_a_success() {
        let board = Board::default();
        board.note_snapshot(Ok(5));
        board.note_snapshot(Err("disk full"));
        board.note_proof(Err("3 rows differ"));
        let state = board.snapshot();
        assert_eq!(
            (state.stored_ms, state.failure.as_str(), state.unproven.as_str()),
            (5, "disk full", "3 rows differ")
        );
        board.note_snapshot(Ok(9));
        board.note_proof(Ok(7));
        let state = board.snapshot();
        assert_eq!((state.stored_ms, state.proven_ms), (9, 7));
        assert!(state.failure.is_empty() && state.unproven.is_empty());
    }

    #[test]
    fn a_namesake_is_news_once() {
        let board = Board::default();
        assert!(!board.set_namesake(""));
        assert!(board.set_namesake("on b: /x"));
        assert!(!board.set_namesake("on b: /x"));
        assert_eq!(board.namesake(), "on b: /x");
        assert!(board.set_namesake(""));
    }
}
