//! Whether all pages of the database can be read: nobody may touch a damaged one for weeks. A thread of the session looks once at its
//! start, and again while somebody looks at the node, if the database is not a large one.

use crate::base::error::{Error, Kind};
use crate::base::{files, limits, memory, stop::Stop};
use crate::db;
use crate::operate::{Looker, Lookout};
use crossbeam_channel::select;
use std::path::Path;
use std::time::{Duration, Instant};

/// Looks until stop. [`Kind::Damaged`]: the database is.
pub fn run(path: &Path, lookout: &Lookout, stop: &Stop) -> Result<(), Error> {
    if stop.wait(limits::CHECK_AFTER) {
        return Ok(());
    }
    let mut last = look(path, true, stop)?;
    loop {
        select! {
            recv(stop.receiver()) -> _ => return Ok(()),
            recv(lookout.looked_at()) -> _ => {}
        }
        let who = if lookout.is_looked_at(Looker::Person, Instant::now()) {
            Looker::Person
        } else {
            Looker::Program
        };
        if last.is_due(who, Instant::now()) && may_look(path) {
            last = look(path, false, stop)?;
        }
    }
}

/// The last look.
struct Last {
    at: Instant,
    took: Duration,
    /// No other follows: reading the schema costs more than the pages.
    is_only: bool,
}

impl Last {
    fn is_due(&self, who: Looker, now: Instant) -> bool {
        let [person, program] = limits::CHECK_SHARE;
        let pause = match who {
            Looker::Person => limits::CHECK_PERSON.max(self.took * person),
            Looker::Program => limits::CHECK_PROGRAM.max(self.took * program),
        };
        !self.is_only && now.saturating_duration_since(self.at) >= pause
    }
}

/// Without a WAL the application's writers would wait for a look.
fn may_look(path: &Path) -> bool {
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let wal = files::beside(path, "-wal");
    wal.exists() && bytes(path) + bytes(&wal) <= limits::CHECK_BYTES
}

fn look(path: &Path, first: bool, stop: &Stop) -> Result<Last, Error> {
    let begun = Instant::now();
    let mut is_only = false;
    match db::find_damage(path, db::Look::Pages, stop) {
        Ok(found) => {
            is_only = found.large_schema;
            for warning in found.warnings.iter().filter(|_| first) {
                log::warn!(
                    "{}: {warning}: searches may miss rows; build that index anew ('rebuild')",
                    path.display()
                );
            }
            if let Some(why) = found.damage.into_iter().next() {
                return Err(Error::new(Kind::Damaged, why));
            }
        }
        Err(error) => log::debug!("{}: check: {error}", path.display()),
    }
    // The check has read the schema, too.
    memory::give_back();
    if first {
        // What a start runs through is over.
        memory::let_go_of_code();
    }
    let now = Instant::now();
    Ok(Last { at: now, took: now.saturating_duration_since(begun), is_only })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;

    #[test]
    fn the_longer_a_look_takes_the_less_often_it_is_made() {
        let at = Instant::now();
        let of = |ms, who, pause| {
            Last { at, took: Duration::from_millis(ms), is_only: false }.is_due(who, at + pause)
        };
        assert!(
            of(1, Looker::Person, limits::CHECK_PERSON) && !of(1, Looker::Person, limits::CHECK_PERSON / 2)
        );
        assert!(!of(100, Looker::Person, Duration::from_millis(1_900)));
        assert!(of(100, Looker::Person, Duration::from_secs(2)));
        assert!(
            !of(1, Looker::Program, limits::CHECK_PERSON) && of(1, Looker::Program, limits::CHECK_PROGRAM)
        );
        let only = Last { at, took: Duration::ZERO, is_only: true };
        assert!(!only.is_due(Looker::Person, at + limits::CHECK_PROGRAM));
    }

    #[test]
    fn a_large_database_and_one_without_a_wal_are_left_alone() {
        let scratch = Scratch::new("check");
        let path = scratch.path("app.db");
        std::fs::write(&path, "x").unwrap();
        assert!(!may_look(&path));
        let wal = std::fs::File::create(scratch.path("app.db-wal")).unwrap();
        assert!(may_look(&path));
        wal.set_len(limits::CHECK_BYTES).unwrap();
        assert!(!may_look(&path));
    }
}
