//! Noticing commits: file events on the database's files say when to look, `data_version` says whether anything was
//! committed, and a slow poll catches what no event announced.

use crate::base::{files, limits, stop::Stop};
use crate::db::{error::Error, open};
use rusqlite::Connection;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use std::path::Path;
use std::time::{Duration, Instant};

/// Calls `wake` after each commit of anybody else than the watching connection, until stop.
pub fn watch(path: &Path, poll_interval: Duration, stop: &Stop, mut wake: impl FnMut()) -> Result<(), Error> {
    let connection = open::open(path)?;
    let events = Events::new(path);
    if let Err(why) = &events {
        log::warn!("no file events ({why}); looking every {} ms instead", poll_interval.as_millis());
    }
    let mut version = data_version(&connection)?;
    let look = |version: &mut i64, wake: &mut dyn FnMut()| -> Result<(), Error> {
        let now = match data_version(&connection) {
            // Somebody recovers or replaces the WAL, or the disk has its moments: whatever it is, something changes.
            Err(Error::Busy | Error::Disk(_)) => *version + 1,
            other => other?,
        };
        if now != *version {
            *version = now;
            wake();
        }
        Ok(())
    };
    let mut next_poll = Instant::now() + poll_interval;
    while !stop.requested() {
        let now = Instant::now();
        let wait = next_poll.saturating_duration_since(now).min(Duration::from_secs(1));
        let woken = match &events {
            Ok(events) => events.wait(wait),
            Err(_) => {
                stop.wait(wait);
                false
            }
        };
        if woken {
            // The event comes with the write, the commit becomes visible later: look several times after the last event.
            // While events keep coming, look ever more rarely: a storm of commits is not answered by a storm of queries.
            let (mut at, mut spacing) = (0, limits::LOOK_SPACING_MIN);
            while at < limits::LOOK_AGAIN_US.len() {
                let pause = Duration::from_micros(limits::LOOK_AGAIN_US[at]);
                let another = matches!(&events, Ok(events) if events.wait(pause));
                if another && stop.wait(spacing) || stop.requested() {
                    return Ok(());
                }
                look(&mut version, &mut wake)?;
                (at, spacing) = if another {
                    (1, (spacing * 2).min(limits::LOOK_SPACING_MAX))
                } else {
                    (at + 1, spacing)
                };
            }
        }
        if Instant::now() >= next_poll {
            look(&mut version, &mut wake)?;
            next_poll = Instant::now() + poll_interval;
        }
    }
    Ok(())
}

fn data_version(connection: &Connection) -> Result<i64, Error> {
    Ok(connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?)
}

/// File events on the database, its WAL and its journal.
struct Events {
    inotify: rustix::fd::OwnedFd,
    names: [Vec<u8>; 3],
}

impl Events {
    fn new(path: &Path) -> Result<Events, String> {
        let failed = |errno: rustix::io::Errno| format!("inotify: {errno}");
        let inotify =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).map_err(failed)?;
        let mask = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&inotify, files::parent(path), mask).map_err(failed)?;
        let name = |suffix: &str| {
            files::beside(path, suffix).file_name().map(|n| n.as_encoded_bytes().to_vec()).unwrap_or_default()
        };
        Ok(Events { inotify, names: [name(""), name("-wal"), name("-journal")] })
    }

    /// Waits for an event of one of the files; takes all that are there. Events of other files do not end the wait early
    /// more than once a millisecond.
    fn wait(&self, timeout: Duration) -> bool {
        let timespec = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timespec)) {
            Ok(ready) if ready > 0 => self.drain(),
            _ => false,
        }
    }

    fn drain(&self) -> bool {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut ours = false;
        // Until the queue is empty, which is an error of kind "again".
        while let Ok(event) = reader.next() {
            let overflow = event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
            let name = event.file_name().map(std::ffi::CStr::to_bytes);
            ours |= overflow || name.is_some_and(|name| self.names.iter().any(|known| known == name));
        }
        ours
    }
}
