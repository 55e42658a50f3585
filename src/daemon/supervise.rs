//! Watching over a session: what ends it, and a line a minute on what it does.

use super::session::Session;
use super::state::Daemon;
use crate::base::error::{Error, Kind};
use crate::base::files::{self, Identity};
use crate::base::worker::Exit;
use crate::db;
use crate::operate::Totals;
use std::time::{Duration, Instant};

/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// The same while the database's file is not the one that it was.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// From one summary line to the next.
const SUMMARY: Duration = Duration::from_secs(60);

/// Why a session ends without an error.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Stopped,
    /// No event for `sleep_timeout`.
    Idle,
    /// The database's file was removed, or is another one.
    Replaced,
    /// A worker found the database damaged: why.
    Damaged(String),
    /// A worker misses tables of ours: why.
    Stripped(String),
}

/// Waits for stop, for the end of any worker, for another file in the database's place, or for the sleep timeout.
pub fn supervise(daemon: &mut Daemon<'_>, session: &mut Session) -> Result<End, Error> {
    let (config, stop) = (daemon.config, daemon.stop);
    let begun = Instant::now();
    let mut summary = Summary { at: begun, told: daemon.board.totals() };
    let mut idle = Idle { since: begun, events: 0 };
    let mut place = Place { file: session.file, misses: 0 };
    loop {
        let exit = crossbeam_channel::select! {
            recv(stop.receiver()) -> _ => return Ok(End::Stopped),
            recv(session.workers.ended()) -> exit => exit.inspect(|exit| session.workers.note(exit)).ok(),
            recv(session.follower.ended()) -> exit => exit.inspect(|exit| session.follower.note(exit)).ok(),
            recv(daemon.workers.ended()) -> exit => exit.inspect(|exit| daemon.workers.note(exit)).ok(),
            recv(daemon.broker.workers.ended()) -> exit => {
                exit.inspect(|exit| daemon.broker.workers.note(exit)).ok()
            }
            default(if place.misses > 0 { LOOK_AGAIN } else { LOOK }) => None,
        };
        if let Some(exit) = exit {
            let is_stripped = || db::is_stripped(&config.db_path, config.publish).unwrap_or(false);
            return match meaning(exit, stop.requested()) {
                // Whatever it says: it is because of that.
                Err(why) if is_stripped() => Ok(End::Stripped(why.to_string())),
                meaning => meaning,
            };
        }
        daemon.claim.confirm(config)?;
        if place.is_taken(files::identity(&config.db_path)) {
            return Ok(End::Replaced);
        }
        let (now, totals) = (Instant::now(), daemon.board.totals());
        if let Some(line) = summary.line(totals, now) {
            log::info!("{line}");
        }
        if !config.sleep_timeout.is_zero() && idle.time(totals, now) >= config.sleep_timeout {
            log::info!("no event for {} ms: sleep_timeout", config.sleep_timeout.as_millis());
            return Ok(End::Idle);
        }
    }
}

/// What the end of a worker means for the session.
fn meaning(exit: Exit, stopping: bool) -> Result<End, Error> {
    match exit.result {
        Err(why) if why.kind() == Kind::Damaged => Ok(End::Damaged(why.to_string())),
        Err(why) if why.kind() == Kind::Stripped => Ok(End::Stripped(why.to_string())),
        Err(why) if stopping && why.kind() == Kind::Stopped => Ok(End::Stopped),
        Err(why) => Err(why),
        Ok(()) if stopping => Ok(End::Stopped),
        Ok(()) => Err(Error::local(format!("worker {} ended by itself", exit.name))),
    }
}

/// Whether the database's path still names the file that is open.
struct Place {
    file: Option<Identity>,
    misses: u32,
}

impl Place {
    /// True at the second look that finds another file: one that is renamed over another one is not there for a moment on
    /// some file systems.
    fn is_taken(&mut self, now: Option<Identity>) -> bool {
        self.misses = if now == self.file { 0 } else { self.misses + 1 };
        self.misses > 1
    }
}

/// Since when no event came or went.
struct Idle {
    since: Instant,
    events: u64,
}

impl Idle {
    fn time(&mut self, totals: Totals, now: Instant) -> Duration {
        let events = totals.published + totals.consumed;
        if events != self.events {
            *self = Idle { since: now, events };
        }
        now.saturating_duration_since(self.since)
    }
}

/// The last summary line.
struct Summary {
    at: Instant,
    told: Totals,
}

impl Summary {
    /// A line a minute, if something happened.
    fn line(&mut self, totals: Totals, now: Instant) -> Option<String> {
        if now.saturating_duration_since(self.at) < SUMMARY {
            return None;
        }
        let told = std::mem::replace(self, Summary { at: now, told: totals }).told;
        let (published, consumed) = (totals.published - told.published, totals.consumed - told.consumed);
        (published + consumed > 0).then(|| {
            let rows = totals.rows - told.rows;
            format!("last minute: {published} events published, {consumed} consumed, {rows} rows applied")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(name: &'static str, result: Result<(), Error>) -> Exit {
        Exit { name, result }
    }

    #[test]
    fn damage_is_seen_by_its_kind_whoever_finds_it() {
        for name in ["check", "publisher", "follower", "snapshot"] {
            let damaged = Err(Error::new(Kind::Damaged, "page 3"));
            assert_eq!(meaning(exit(name, damaged), false), Ok(End::Damaged("page 3".into())));
        }
    }

    #[test]
    fn a_worker_that_ends_by_itself_ends_the_daemon() {
        let end = meaning(exit("watch", Ok(())), false).unwrap_err();
        assert_eq!(end.to_string(), "worker watch ended by itself");
        assert_eq!(meaning(exit("watch", Ok(())), true), Ok(End::Stopped));
        let failed = meaning(exit("watch", Err(Error::local("inotify"))), true).unwrap_err();
        assert_eq!(failed.to_string(), "inotify");
        assert_eq!(meaning(exit("watch", Err(Error::stopped())), true), Ok(End::Stopped));
    }

    #[test]
    fn another_file_counts_at_the_second_look() {
        let mut place = Place { file: Some((1, 2)), misses: 0 };
        assert!(!place.is_taken(Some((1, 2))));
        assert!(!place.is_taken(None));
        assert!(!place.is_taken(Some((1, 2))), "it was renamed into place");
        assert!(!place.is_taken(Some((1, 9))));
        assert!(place.is_taken(Some((1, 9))));
    }

    #[test]
    fn idle_time_counts_from_the_last_event() {
        let start = Instant::now();
        let mut idle = Idle { since: start, events: 0 };
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(idle.time(Totals::default(), at(5)), Duration::from_secs(5));
        let one = Totals { consumed: 1, ..Totals::default() };
        assert_eq!(idle.time(one, at(6)), Duration::ZERO);
        assert_eq!(idle.time(one, at(9)), Duration::from_secs(3));
    }

    #[test]
    fn a_summary_tells_what_the_last_minute_brought() {
        let start = Instant::now();
        let mut summary = Summary { at: start, told: Totals::default() };
        let totals = Totals { published: 3, consumed: 5, rows: 2 };
        assert_eq!(summary.line(totals, start + SUMMARY / 2), None);
        assert_eq!(
            summary.line(totals, start + SUMMARY).unwrap(),
            "last minute: 3 events published, 5 consumed, 2 rows applied"
        );
        assert_eq!(summary.line(totals, start + SUMMARY * 2), None, "nothing happened");
        let more = Totals { published: 4, ..totals };
        assert_eq!(
            summary.line(more, start + SUMMARY * 3).unwrap(),
            "last minute: 1 events published, 0 consumed, 0 rows applied"
        );
    }
}
