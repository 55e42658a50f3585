//! When the leader makes a snapshot, and when it proves that one can be restored: decisions over values and the time,
//! without I/O.

use crate::base::{limits, retry::Backoff};
use crate::cluster::wanted::Wanted;
use crate::model::reach::Reach;
use crate::storage::{Seal, Stored};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// The shortest pause after a failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Why a snapshot is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    NoneThere,
    /// Somebody's upload was interrupted: what stands in the store is not known from outside.
    Unfinished,
    /// What stands in the store has no seal of this cluster, and this node has a key.
    Unsealed,
    /// The description of what stands in the store is damaged.
    Damaged,
    StreamAnew,
    StreamAdvanced,
    Interval,
    /// A node asked for one, by the request with this revision.
    Asked {
        node: u64,
        revision: u64,
    },
}

impl Reason {
    /// Whether the snapshot is made even if the store has the very same.
    pub fn wants_another(&self) -> bool {
        matches!(self, Reason::Asked { .. })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoneThere => f.write_str("there was none"),
            Reason::Unfinished => f.write_str("an upload was not finished"),
            Reason::Unsealed => f.write_str("the stored one was not authenticated"),
            Reason::Damaged => f.write_str("the description of the stored one is damaged"),
            Reason::StreamAnew => f.write_str("the stream was created anew"),
            Reason::StreamAdvanced => f.write_str("the stream advanced"),
            Reason::Interval => f.write_str("interval"),
            Reason::Asked { node, .. } => write!(f, "node {node} asked for one"),
        }
    }
}

/// Why a snapshot is due whatever the streams hold: what stands in the store is not one that the nodes take.
pub fn not_taken(stored: &Stored, has_key: bool) -> Option<Reason> {
    match &stored.seal {
        Seal::Whole => None,
        _ if has_key => Some(Reason::Unsealed),
        Seal::Unasked => None,
        Seal::Refused(_) => Some(Reason::Damaged),
    }
}

/// Where this node's database stands in a stream, beside the stored snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub stream: String,
    /// Up to there it is applied: a snapshot that is made now has this position.
    pub seq: u64,
    /// The snapshot's position; 0: it knows no such stream.
    pub stored: u64,
    /// Bytes between the two.
    pub bytes: u64,
    pub reach: Reach,
}

impl Standing {
    fn messages(&self) -> u64 {
        self.seq.saturating_sub(self.stored)
    }
}

/// The streams of which the stored snapshot holds more than this node: either this node has not caught up with them, or they were
/// created anew.
pub fn doubtful(standings: &[Standing]) -> impl Iterator<Item = &Standing> {
    standings.iter().filter(|standing| standing.seq < standing.stored)
}

/// What the decision is made from, when there is a stored snapshot.
pub struct Facts<'a> {
    pub standings: &'a [Standing],
    /// One of the streams ends before the snapshot's position.
    pub is_anew: bool,
    /// Zero: none are made by time.
    pub interval: Duration,
    /// Time since the interval began.
    pub elapsed: Duration,
}

/// Why a snapshot is due, if it is.
pub fn reason(facts: &Facts<'_>) -> Option<Reason> {
    let has_advanced = facts.standings.iter().any(|standing| standing.messages() > 0);
    let is_far = |standing: &Standing| standing.reach.is_half(standing.messages(), standing.bytes);
    if facts.is_anew {
        Some(Reason::StreamAnew)
    } else if has_advanced && facts.standings.iter().any(is_far) {
        // Early enough that the streams still hold everything after this snapshot while the next one is made.
        Some(Reason::StreamAdvanced)
    } else if !facts.interval.is_zero() && has_advanced && facts.elapsed >= facts.interval {
        Some(Reason::Interval)
    } else {
        None
    }
}

/// When the interval began, which runs from the last snapshot on, over restarts and changes of the leader. `made_ms`: when
/// that was made, by its maker's clock; one that is ahead of ours tells nothing. `now` is `now_ms` by this machine's clock.
/// `None`: this machine did not run then.
pub fn interval_began(made_ms: i64, interval: Duration, (now, now_ms): (Instant, i64)) -> Option<Instant> {
    now.checked_sub(age(made_ms, now_ms).min(interval))
}

fn age(then_ms: i64, now_ms: i64) -> Duration {
    u64::try_from(now_ms.saturating_sub(then_ms)).map_or(Duration::ZERO, Duration::from_millis)
}

/// The requests of other nodes, as far as this leader has looked at them.
pub struct Requests {
    looked_at: Instant,
    /// Requests up to this revision were served.
    served: u64,
    /// The nodes for which snapshots were made, by their ids; all that find no room share the id of nobody.
    askers: BTreeMap<u64, Asker>,
}

/// A node for which a snapshot was made.
struct Asker {
    /// Its next request counts from then on.
    not_before: Instant,
    pause: Duration,
}

impl Requests {
    /// None was looked at; the first look is due after the usual pause.
    pub fn new(now: Instant) -> Requests {
        Requests { looked_at: now, served: 0, askers: BTreeMap::new() }
    }

    /// Whether to look at them now; true begins the next pause.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let due = now.saturating_duration_since(self.looked_at) >= limits::ASKED_LOOK;
        if due {
            self.looked_at = now;
        }
        due
    }

    /// Whether the request with this revision was not looked at before.
    pub fn is_new(&self, revision: u64) -> bool {
        revision > self.served
    }

    /// Whether a node has to wait until its next request counts: a snapshot was made for it a short time ago.
    pub fn has_to_wait(&self, node: u64, now: Instant) -> bool {
        self.askers.get(&self.key(node)).is_some_and(|asker| now < asker.not_before)
    }

    /// Under which id a node is remembered.
    fn key(&self, node: u64) -> u64 {
        let is_full = self.askers.len() >= limits::ASKERS;
        if is_full && !self.askers.contains_key(&node) { u64::MAX } else { node }
    }

    /// Why a snapshot is due for a request, when `stored` is what stands in the store. That may be another node's snapshot,
    /// or a person's, and serve the request.
    pub fn reason(&mut self, (revision, wanted): &(u64, Wanted), stored: Option<&Stored>) -> Option<Reason> {
        if stored.is_some_and(|stored| wanted.is_served_by(stored)) {
            self.served = *revision;
            return None;
        }
        Some(Reason::Asked { node: wanted.node_id, revision: *revision })
    }

    /// A snapshot was made for a reason. The pause of a node that asked doubles with each one; a node that asked for none
    /// for a long time begins anew.
    pub fn made(&mut self, reason: &Reason, now: Instant) {
        let Reason::Asked { node, revision } = reason else { return };
        self.served = self.served.max(*revision);
        self.askers.retain(|_, asker| now < asker.not_before + limits::ASK_AGAIN_MAX);
        let key = self.key(*node);
        let pause = self.askers.get(&key).map_or(limits::ASKED_LOOK, |asker| asker.pause * 2);
        let pause = pause.min(limits::ASK_AGAIN_MAX);
        self.askers.insert(key, Asker { not_before: now + pause, pause });
    }
}

/// When the next restore on trial is due.
#[derive(Default)]
pub struct Proving {
    /// `None`: nobody has looked when the last one was.
    at: Option<Instant>,
}

impl Proving {
    /// `interval`: time between two of them; zero: none are made.
    pub fn is_due(&self, now: Instant, interval: Duration) -> bool {
        !interval.is_zero() && self.at.is_none_or(|at| now >= at)
    }

    /// Whether this leader knows when one is due.
    pub fn is_known(&self) -> bool {
        self.at.is_some()
    }

    /// The last one was done by any node at `proven_ms` by that node's clock: the interval goes on, whoever the leader was.
    pub fn goes_on(&mut self, proven_ms: i64, interval: Duration, (now, now_ms): (Instant, i64)) {
        self.at = Some(now + interval.saturating_sub(age(proven_ms, now_ms)));
    }

    /// One was done.
    pub fn proven(&mut self, now: Instant, interval: Duration) {
        self.at = Some(now + interval);
    }

    /// One failed: the next one comes sooner.
    pub fn failed(&mut self, now: Instant, interval: Duration) {
        self.at = Some(now + interval.min(limits::PROVE_AGAIN));
    }
}

/// The pauses after failures.
pub struct Pauses {
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses { backoff: Backoff::up_to(PAUSE_MAX), not_before: None }
    }
}

impl Pauses {
    /// Whether the pause is over.
    pub fn may_try(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|not_before| now >= not_before)
    }

    /// A try failed; returns the pause that begins.
    pub fn failed(&mut self, now: Instant) -> Duration {
        let pause = self.backoff.pause().max(PAUSE_MIN);
        self.not_before = Some(now + pause);
        pause
    }

    /// A try succeeded: the next failure is a first one.
    pub fn succeeded(&mut self) {
        self.backoff.reset();
        self.not_before = None;
    }
}

#[cfg(test)]
#[path = "due_tests.rs"]
mod tests;
