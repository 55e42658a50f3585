//! What a search remembers of the snapshots that did not serve: when one may be downloaded again, when the leader may be
//! asked for another, how long a better one is waited for. Decisions over values and the time, without I/O.

use crate::base::error::{Error, Kind};
use crate::base::{limits, once::Once, retry::Backoff};
use std::time::{Duration, Instant};

/// Why no snapshot serves yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The store cannot be reached or read: it may hold a good one.
    Store(Error),
    /// Anything else: the snapshots in the store do not serve, or the broker or this machine failed.
    Snapshot(Error),
}

impl Missing {
    /// Whether an older snapshot may serve where this one does not. When a request or this machine's disk failed, it would
    /// fail with the next one, too.
    pub fn lets_older_serve(&self) -> bool {
        matches!(self, Missing::Snapshot(error) if matches!(error.kind(), Kind::Waiting | Kind::Unusable))
    }
}

impl From<Error> for Missing {
    fn from(error: Error) -> Missing {
        Missing::Snapshot(error)
    }
}

impl From<Missing> for Error {
    fn from(missing: Missing) -> Error {
        let (Missing::Store(error) | Missing::Snapshot(error)) = missing;
        error
    }
}

/// What a downloaded snapshot turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is not what its label says, or no database, or cannot be unpacked: why.
    Damaged(String),
    /// It does not know its position: a Go node made it.
    Unplaced,
    /// Its tables are other ones than this database's: the hash of its schema.
    Schema(String),
}

/// A snapshot that was downloaded and did not serve.
pub struct Tried {
    flaw: Option<Flaw>,
    why: Missing,
    not_before: Instant,
    pauses: Backoff,
}

impl Tried {
    /// A snapshot that is about to be downloaded for the first time.
    pub fn new(now: Instant) -> Tried {
        Tried {
            flaw: None,
            why: Missing::Snapshot(Error::waiting("not downloaded yet")),
            not_before: now,
            pauses: Backoff::up_to(limits::DOWNLOAD_AGAIN_MAX),
        }
    }

    /// What is wrong with it, if that is known.
    pub fn flaw(&self) -> Option<&Flaw> {
        self.flaw.as_ref()
    }

    /// Why it did not serve the last time; `None`: it may be downloaded again.
    pub fn refused(&self, now: Instant) -> Option<&Missing> {
        (now < self.not_before).then_some(&self.why)
    }

    /// A download has ended, well or not: the pause until the next one counts from here.
    pub fn downloaded(&mut self, now: Instant) {
        self.not_before = now + self.pauses.pause();
    }

    /// The download was damaged. The damage may have happened on its way, so it is downloaded again, but rarely.
    pub fn is_damaged(&mut self, why: String, now: Instant) {
        if self.flaw.is_none() {
            self.pauses = Backoff::between(limits::ASK_AGAIN, limits::ASK_AGAIN_MAX);
            self.not_before = now + self.pauses.pause();
        }
        self.flaw = Some(Flaw::Damaged(why));
    }

    /// The download was read: this is what is wrong with it, if anything.
    pub fn is_read(&mut self, flaw: Option<Flaw>) {
        self.flaw = flaw;
    }

    /// Why it did not serve.
    pub fn failed(&mut self, why: Missing) {
        self.why = why;
    }
}

/// Why the leader is asked for another snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    NoneThere,
    TooOld,
    Damaged,
    Refused,
    Unplaced,
}

impl Cause {
    /// Whether the content of the snapshot is at fault, so that the same content must not come again.
    pub fn is_of_content(self) -> bool {
        matches!(self, Cause::Damaged | Cause::Refused | Cause::Unplaced)
    }
}

/// The requests of one search for another snapshot.
pub struct Requests {
    /// `None`: none was sent for a damaged one.
    not_before: Option<Instant>,
    pauses: Backoff,
    said: Once,
}

impl Default for Requests {
    fn default() -> Requests {
        Requests {
            not_before: None,
            pauses: Backoff::between(limits::ASK_AGAIN, limits::ASK_AGAIN_MAX),
            said: Once::default(),
        }
    }
}

impl Requests {
    /// Whether another one may be asked for instead of a damaged one.
    pub fn may_ask_instead(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|not_before| now >= not_before)
    }

    /// Another one was asked for instead of a damaged one. If this node itself damages whatever it downloads, another one
    /// does not help: so it asks less and less often.
    pub fn asked_instead(&mut self, now: Instant) {
        self.not_before = Some(now + self.pauses.pause());
    }

    /// Whether a request is news to the operator: a node that waits asks again and again, since what it needs grows with the
    /// streams. It is news once for each cause and snapshot.
    pub fn is_news(&mut self, cause: Cause, identity: &str) -> bool {
        self.said.is_news(&format!("{cause:?} {identity}"))
    }
}

/// How long a better snapshot is waited for when there are only those without a position.
#[derive(Default)]
pub struct Patience {
    since: Option<Instant>,
}

impl Patience {
    /// The longest wait.
    pub const MAX: Duration = limits::FIRST_SNAPSHOT;

    /// Whether to go on waiting; the wait begins with the first question.
    pub fn waits(&mut self, now: Instant) -> bool {
        now.saturating_duration_since(*self.since.get_or_insert(now)) < Patience::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(text: &str) -> Missing {
        Error::waiting(text).into()
    }

    #[test]
    fn an_older_snapshot_may_serve_where_the_newest_does_not() {
        assert!(waiting("too old").lets_older_serve());
        assert!(Missing::from(Error::new(Kind::Unusable, "damaged")).lets_older_serve());
    }

    #[test]
    fn an_older_snapshot_is_no_help_when_a_request_fails() {
        for error in [Error::local("disk full"), Error::unreachable("no answer"), Error::stopped()] {
            assert!(!Missing::Snapshot(error).lets_older_serve());
        }
        assert!(!Missing::Store(Error::waiting("http 503")).lets_older_serve());
    }

    #[test]
    fn a_snapshot_is_not_downloaded_again_at_once() {
        let start = Instant::now();
        let mut tried = Tried::new(start);
        assert_eq!(tried.refused(start), None);
        tried.downloaded(start);
        tried.failed(waiting("no room"));
        assert_eq!(tried.refused(start), Some(&waiting("no room")));
        assert_eq!(tried.refused(start + limits::RETRY_FIRST), None);
    }

    #[test]
    fn pauses_between_downloads_grow_up_to_a_bound() {
        let mut now = Instant::now();
        let mut tried = Tried::new(now);
        for _ in 0..20 {
            tried.downloaded(now);
            assert!(tried.refused(now).is_some());
            now += limits::DOWNLOAD_AGAIN_MAX;
            assert!(tried.refused(now).is_none());
        }
        tried.downloaded(now);
        assert!(tried.refused(now + limits::DOWNLOAD_AGAIN_MAX / 3).is_some());
    }

    #[test]
    fn a_damaged_snapshot_is_downloaded_rarely() {
        let start = Instant::now();
        let mut tried = Tried::new(start);
        tried.downloaded(start);
        tried.is_damaged("page 3".into(), start);
        assert_eq!(tried.flaw(), Some(&Flaw::Damaged("page 3".into())));
        assert!(tried.refused(start + limits::ASK_AGAIN / 3).is_some());
        assert!(tried.refused(start + limits::ASK_AGAIN).is_none());
        // And again: the pause has grown.
        let later = start + limits::ASK_AGAIN;
        tried.downloaded(later);
        tried.is_damaged("page 3".into(), later);
        assert!(tried.refused(later + limits::ASK_AGAIN - Duration::from_secs(1)).is_some());
        assert!(tried.refused(later + limits::ASK_AGAIN * 2).is_none());
    }

    #[test]
    fn what_was_damaged_on_its_way_may_be_whole_the_next_time() {
        let start = Instant::now();
        let mut tried = Tried::new(start);
        tried.downloaded(start);
        tried.is_damaged("page 3".into(), start);
        tried.is_read(None);
        assert_eq!(tried.flaw(), None);
        tried.is_read(Some(Flaw::Unplaced));
        assert_eq!(tried.flaw(), Some(&Flaw::Unplaced));
    }

    #[test]
    fn another_one_than_a_damaged_one_is_asked_for_at_once_and_then_rarely() {
        let start = Instant::now();
        let mut requests = Requests::default();
        assert!(requests.may_ask_instead(start));
        requests.asked_instead(start);
        assert!(!requests.may_ask_instead(start + limits::ASK_AGAIN / 3));
        assert!(requests.may_ask_instead(start + limits::ASK_AGAIN));
        for _ in 0..10 {
            requests.asked_instead(start);
        }
        assert!(!requests.may_ask_instead(start + limits::ASK_AGAIN_MAX / 3));
        assert!(requests.may_ask_instead(start + limits::ASK_AGAIN_MAX));
    }

    #[test]
    fn a_node_that_waits_says_once_that_it_asked() {
        let mut requests = Requests::default();
        assert!(requests.is_news(Cause::TooOld, "SHA-256=x"));
        for _ in 0..10 {
            assert!(!requests.is_news(Cause::TooOld, "SHA-256=x"));
        }
    }

    #[test]
    fn a_request_for_another_reason_is_news() {
        let mut requests = Requests::default();
        assert!(requests.is_news(Cause::NoneThere, ""));
        assert!(requests.is_news(Cause::TooOld, "SHA-256=x"));
        assert!(requests.is_news(Cause::Damaged, "SHA-256=x"));
        assert!(requests.is_news(Cause::Damaged, "SHA-256=y"), "another snapshot, damaged again");
        assert!(!requests.is_news(Cause::Damaged, "SHA-256=y"));
    }

    #[test]
    fn a_better_snapshot_is_waited_for_from_the_first_question_on() {
        let start = Instant::now();
        let mut patience = Patience::default();
        assert!(patience.waits(start));
        assert!(patience.waits(start + Patience::MAX / 2));
        assert!(!patience.waits(start + Patience::MAX));
    }
}
