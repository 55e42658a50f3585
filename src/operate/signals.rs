//! The signals by which the workers of a daemon steer each other. What is only shown is on the [`super::Board`].

use super::flow::Flow;
use crate::model::reach::Reach;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whether this node's database holds all that it should: whatever the streams and the snapshots brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whole {
    /// It does.
    Yes,
    /// It does not yet: what it waits for.
    Waiting(String),
    /// It is damaged, and being recovered: what is wrong, or what the recovery waits for.
    Damaged(String),
}

impl Whole {
    /// What is missing; `None`: nothing.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Whole::Yes => None,
            Whole::Waiting(reason) | Whole::Damaged(reason) => Some(reason),
        }
    }
}

/// Shared by all workers.
#[derive(Debug)]
pub struct Signals {
    whole: Mutex<Whole>,
    /// How far publishing and following have come.
    pub flow: Flow,
    /// The change log holds entries for which nothing is published, so that no echo settles them.
    unwritten: AtomicBool,
    /// Tables were built anew while nothing captured them.
    rebuilt: AtomicBool,
    /// The generation of the streams that the database follows; empty: not known.
    generation: Mutex<String>,
    /// This node is to lead at once, whoever led before.
    leads: AtomicBool,
    /// A store that was away answers again.
    store_back: AtomicBool,
}

impl Signals {
    /// For a node of `streams` streams, which reach back so far as long as nobody has looked, and whose database is not open yet.
    pub fn new(streams: usize, reach: Reach) -> Signals {
        let whole = Whole::Waiting("the database is not open".to_owned());
        Signals {
            whole: Mutex::new(whole),
            flow: Flow::new(streams, reach),
            unwritten: AtomicBool::new(false),
            rebuilt: AtomicBool::new(false),
            generation: Mutex::default(),
            leads: AtomicBool::new(false),
            store_back: AtomicBool::new(false),
        }
    }

    /// Whether the node is whole.
    pub fn whole(&self) -> Whole {
        lock(&self.whole).clone()
    }

    /// Whether the node is whole: a node that misses changes must not make snapshots.
    pub fn is_whole(&self) -> bool {
        *lock(&self.whole) == Whole::Yes
    }

    /// Says that the change log holds entries of rows that nobody has written.
    pub fn note_unwritten(&self) {
        self.unwritten.store(true, Ordering::Relaxed);
    }

    /// Whether that was said since the last call.
    pub fn take_unwritten(&self) -> bool {
        self.unwritten.swap(false, Ordering::Relaxed)
    }

    /// Says that tables were built anew.
    pub fn note_rebuilt(&self) {
        self.rebuilt.store(true, Ordering::Relaxed);
    }

    /// Whether that was said since the last call.
    pub fn take_rebuilt(&self) -> bool {
        self.rebuilt.swap(false, Ordering::Relaxed)
    }

    /// Says whether it is.
    pub fn set_whole(&self, whole: Whole) {
        *lock(&self.whole) = whole;
    }
}

impl Signals {
    /// Says that this node is to lead at once: all others wait for its snapshot.
    pub fn lead(&self) {
        self.leads.store(true, Ordering::Relaxed);
    }

    /// Whether that was said since the last call.
    pub fn is_to_lead(&self) -> bool {
        self.leads.swap(false, Ordering::Relaxed)
    }

    /// Says that the store answers again.
    pub fn note_store_back(&self) {
        self.store_back.store(true, Ordering::Relaxed);
    }

    /// Whether that was said since the last call.
    pub fn take_store_back(&self) -> bool {
        self.store_back.swap(false, Ordering::Relaxed)
    }

    /// Says which generation of the streams the database follows.
    pub fn set_generation(&self, generation: String) {
        *lock(&self.generation) = generation;
    }

    /// The same.
    pub fn generation(&self) -> String {
        lock(&self.generation).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_whole_when_somebody_said_so() {
        let signals = Signals::new(1, Reach::of_messages(1));
        assert!(!signals.is_whole());
        assert_eq!(signals.whole().reason(), Some("the database is not open"));
        signals.set_whole(Whole::Yes);
        assert!(signals.is_whole() && signals.whole().reason().is_none());
        signals.set_whole(Whole::Damaged("page 3".into()));
        assert!(!signals.is_whole());
    }
}
