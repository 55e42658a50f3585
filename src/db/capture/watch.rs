//! Noticing commits: file events on the database's files say when to look, `data_version` says whether anything was committed,
//! and a slow poll catches what no event announced.

use crate::base::{files, limits, stop::Stop};
use crate::db::{error::Error, open};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use std::path::Path;
use std::time::{Duration, Instant};

/// Calls `wake` after each commit, whichever connection made it, until stop.
pub fn watch(path: &Path, poll_interval: Duration, stop: &Stop, mut wake: impl FnMut()) -> Result<(), Error> {
    let connection = open::open_without_schema(path)?;
    let events = Events::new(path);
    if let Err(errno) = &events {
        log::warn!(
            "no file events (inotify: {errno}); looking every {} ms instead",
            poll_interval.as_millis()
        );
    }
    let mut version = open::data_version(&connection)?;
    // What was committed between the publisher's first look and this moment is in this version already.
    wake();
    let look = |version: &mut i64, wake: &mut dyn FnMut()| -> Result<(), Error> {
        let now = match open::data_version(&connection) {
            // Another process recovers or replaces the WAL, or the disk fails for a moment. Something may have changed.
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
            // The event comes with the write, and the commit becomes visible only later. So look several times after the last
            // event. While events keep coming, look more and more rarely, so that many commits do not cause as many queries.
            let (mut at, mut spacing) = (0, limits::LOOK_SPACING_MIN);
            let mut last = Instant::now();
            while at < limits::LOOK_AGAIN_US.len() {
                let pause = Duration::from_micros(limits::LOOK_AGAIN_US[at]);
                let another = matches!(&events, Ok(events) if events.wait(pause));
                if another && std::mem::replace(&mut last, Instant::now()).elapsed() > limits::LOOK_RARE {
                    // The next commit, some time after the last one: it does not wait.
                    (at, spacing) = (0, limits::LOOK_SPACING_MIN);
                    continue;
                }
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

/// File events on the database, its WAL and its journal.
struct Events {
    inotify: rustix::fd::OwnedFd,
    names: [Vec<u8>; 3],
}

impl Events {
    fn new(path: &Path) -> rustix::io::Result<Events> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let mask = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&inotify, files::parent(path), mask)?;
        let name = |suffix: &str| {
            files::beside(path, suffix).file_name().map(|n| n.as_encoded_bytes().to_vec()).unwrap_or_default()
        };
        Ok(Events { inotify, names: [name(""), name("-wal"), name("-journal")] })
    }

    /// Waits for an event and takes all that have come. True when one of them is of the database's files.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::scratch::Scratch;

    #[test]
    fn events_of_the_databases_files_are_ours_and_others_are_not() {
        let scratch = Scratch::new("watch", "CREATE TABLE t(a)");
        let events = Events::new(&scratch.path).unwrap();
        scratch.app.execute_batch("INSERT INTO t VALUES(1)").unwrap();
        assert!(events.wait(Duration::from_secs(5)));
        events.drain();
        let other = scratch.path.with_extension("other");
        std::fs::write(&other, b"x").unwrap();
        assert!(!events.wait(Duration::from_millis(1)));
        std::fs::remove_file(&other).unwrap();
    }

    #[test]
    fn the_data_version_changes_with_each_commit_of_another_connection() {
        let scratch = Scratch::new("version", "CREATE TABLE t(a)");
        let connection = open::open(&scratch.path).unwrap();
        let before = open::data_version(&connection).unwrap();
        assert_eq!(open::data_version(&connection).unwrap(), before);
        scratch.app.execute_batch("INSERT INTO t VALUES(1)").unwrap();
        assert_ne!(open::data_version(&connection).unwrap(), before);
    }
}
