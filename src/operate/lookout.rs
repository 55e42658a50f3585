//! Who looks at this node, and when what no worker would meet before long was last looked at: the disk, the write lock, the
//! clock, the broker's answer, the store. A thread of the daemon does that, soon after somebody began to look.

use crate::base::limits;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looker {
    /// A person, who reads the page or the status: all is looked at anew.
    Person,
    /// A program that asks for health every few seconds, for years: what costs something is looked at seldom.
    Program,
}

#[derive(Debug, Default)]
struct Looks {
    person: Option<Instant>,
    anybody: Option<Instant>,
    /// When the last round of looks began that has ended.
    round: Option<Instant>,
}

/// Shared by those who show and the thread that looks.
#[derive(Debug)]
pub struct Lookout {
    looks: Mutex<Looks>,
    ended: Condvar,
    wake: Sender<()>,
    woken: Receiver<()>,
    tell: Sender<()>,
    looked_at: Receiver<()>,
}

impl Default for Lookout {
    fn default() -> Lookout {
        // One place: a wake-up that finds it full has been given already.
        let ((wake, woken), (tell, looked_at)) = (bounded(1), bounded(1));
        Lookout { looks: Mutex::default(), ended: Condvar::new(), wake, woken, tell, looked_at }
    }
}

impl Lookout {
    fn lock(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody looks now: waits a moment for a round that is not old.
    pub fn look(&self, who: Looker, patience: Duration) {
        let now = Instant::now();
        let mut looks = self.lock();
        looks.anybody = Some(now);
        if who == Looker::Person {
            looks.person = Some(now);
        }
        let _ = (self.wake.try_send(()), self.tell.try_send(()));
        let is_fresh = |looks: &mut Looks| looks.round.is_some_and(|at| at + limits::LOOKOUT_ROUND > now);
        let _ = self.ended.wait_timeout_while(looks, patience, |looks| !is_fresh(looks));
    }

    /// Whether somebody of this kind, or a person, looked a short while ago.
    pub fn is_looked_at(&self, by: Looker, now: Instant) -> bool {
        let looks = self.lock();
        let last = if by == Looker::Person { looks.person } else { looks.anybody };
        last.is_some_and(|at| now.saturating_duration_since(at) < limits::LOOKOUT_LOOKED)
    }

    /// Whether anybody has looked since then.
    pub fn was_looked_at_since(&self, then: Instant) -> bool {
        self.lock().anybody.is_some_and(|at| at > then)
    }

    /// Gets a token when somebody begins to look.
    pub fn woken(&self) -> &Receiver<()> {
        &self.woken
    }

    /// The same for the thread that checks the database.
    pub fn looked_at(&self) -> &Receiver<()> {
        &self.looked_at
    }

    /// A round of looks that began then has ended.
    pub fn has_looked(&self, began: Instant) {
        self.lock().round = Some(began);
        self.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_waits_for_a_fresh_round_and_not_for_long() {
        let lookout = Lookout::default();
        let begun = Instant::now();
        lookout.look(Looker::Program, Duration::from_millis(20));
        assert!(begun.elapsed() >= Duration::from_millis(20), "nobody looks for it");
        assert!(lookout.woken().try_recv().is_ok() && lookout.woken().try_recv().is_err());
        let now = Instant::now();
        assert!(lookout.is_looked_at(Looker::Program, now) && !lookout.is_looked_at(Looker::Person, now));
        assert!(!lookout.is_looked_at(Looker::Program, now + limits::LOOKOUT_LOOKED));
        lookout.has_looked(now);
        let begun = Instant::now();
        lookout.look(Looker::Person, Duration::from_secs(5));
        assert!(begun.elapsed() < Duration::from_secs(1), "the last round is fresh");
        assert!(lookout.is_looked_at(Looker::Person, Instant::now()));
    }
}
