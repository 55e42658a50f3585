//! How many bytes wait in the queue of a subscription.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A message's share in the bytes of its subscription's queue, given back when the message is dropped or taken apart.
#[derive(Debug, Default)]
pub struct Queued {
    bytes: usize,
    of: Option<Arc<AtomicUsize>>,
}

impl Queued {
    /// Takes a share; `None` when all together would be more than `max`. One message is always let through, however large.
    pub fn take(of: &Arc<AtomicUsize>, bytes: usize, max: usize) -> Option<Queued> {
        let before = of.fetch_add(bytes, Relaxed);
        let queued = Queued { bytes, of: Some(of.clone()) };
        (before == 0 || before.saturating_add(bytes) <= max).then_some(queued)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some(of) = &self.of {
            of.fetch_sub(self.bytes, Relaxed);
        }
    }
}

/// A copy lies in no queue.
impl Clone for Queued {
    fn clone(&self) -> Queued {
        Queued::default()
    }
}

/// It is no part of what was said.
impl PartialEq for Queued {
    fn eq(&self, _: &Queued) -> bool {
        true
    }
}

impl Eq for Queued {}
