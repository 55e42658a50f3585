//! Getting the database open: made fit for replication, waited for while it is locked, restored while it is missing or
//! damaged.

use super::state::Daemon;
use crate::base::error::{Context, Error};
use crate::base::{files, limits, once::Once, retry::Backoff, stop::Stop};
use crate::config::Config;
use crate::db::{self, ChangeLog};
use crate::model::positions::{self, SeqMap};
use crate::operate::{Signals, Whole};
use crate::replicator;
use crate::snapshot::Recovery;
use std::time::{Duration, Instant};

/// Pauses between recoveries: a disk that fails damages the next database too, and recovering it again and again would fill
/// the disk with copies.
#[derive(Default)]
pub struct Pauses {
    last: Option<Instant>,
    next: Duration,
}

impl Pauses {
    /// No pause for the first recovery in a while, growing ones for those that follow.
    fn next(&mut self, now: Instant) -> Duration {
        let again =
            self.last.is_some_and(|last| now.saturating_duration_since(last) < limits::RECOVERED_FOR_GOOD);
        self.next = if again {
            (self.next * 2).clamp(limits::RECOVERY_PAUSE, limits::RECOVERED_FOR_GOOD)
        } else {
            Duration::ZERO
        };
        self.last = Some(now + self.next);
        self.next
    }

    /// Takes the next pause. True: stopped.
    pub fn wait(&mut self, signals: &Signals, stop: &Stop) -> bool {
        let pause = self.next(Instant::now());
        if !pause.is_zero() {
            let seconds = pause.as_secs();
            let text = format!("damaged again: a disk or memory may be failing; recovering in {seconds} s");
            log::error!("{text}");
            signals.set_whole(Whole::Damaged(text));
        }
        stop.wait(pause)
    }
}

/// Pauses between sessions when a worker calls the database damaged and SQLite's check does not: recovering it would lose what
/// is right, and help nothing.
#[derive(Default)]
pub struct Unfounded {
    last: Option<Instant>,
    next: Duration,
    said: Once,
}

impl Unfounded {
    /// A short pause at first, then longer ones as long as it goes on.
    fn next(&mut self, now: Instant) -> Duration {
        let again =
            self.last.is_some_and(|last| now.saturating_duration_since(last) < limits::RECOVERED_FOR_GOOD);
        if !again {
            self.said.forget();
        }
        self.next = if again { self.next * 2 } else { limits::UNFOUNDED_FIRST };
        self.next = self.next.min(limits::UNFOUNDED_MAX);
        self.last = Some(now + self.next);
        self.next
    }

    /// Takes the next pause, which health shows with the reason. True: stopped.
    pub fn wait(&mut self, why: &str, daemon: &Daemon<'_>) -> bool {
        let pause = self.next(Instant::now());
        let text =
            format!("{why}, and SQLite's check of the database finds nothing: beginning anew after a pause");
        if self.said.is_news(&text) {
            log::error!("{}: {text}", daemon.config.db_path.display());
        }
        daemon.signals.set_whole(Whole::Waiting(text));
        daemon.stop.wait(pause)
    }
}

/// The database, opened: restored when it is missing or damaged. `None`: stopped.
pub fn get_database(
    daemon: &Daemon<'_>,
    recovery: &Recovery<'_>,
    pauses: &mut Pauses,
) -> Result<Option<Database>, Error> {
    let (config, signals, stop) = (daemon.config, &daemon.signals, daemon.stop);
    loop {
        daemon.claim.confirm(config)?;
        if !config.db_path.exists() && !recovery.missing() || !may_touch(daemon) {
            return Ok(None);
        }
        match open_database(config, signals, stop)? {
            Opened::Database(database) => return Ok(Some(*database)),
            Opened::Gone => {}
            Opened::Empty if recovery.empty() => {}
            Opened::Damaged(why) if !pauses.wait(signals, stop) && recovery.damaged(&why) => {}
            Opened::Damaged(_) | Opened::Empty | Opened::Stopped => return Ok(None),
        }
    }
}

/// A file of the application that we never changed stays as it is until the broker has let this node in once: with a wrong
/// address or password nothing happens to it. False: stopped.
fn may_touch(daemon: &Daemon<'_>) -> bool {
    let (path, connection) = (&daemon.config.db_path, &daemon.broker.connection);
    let has_been_up = || connection.epoch() > 0;
    if has_been_up() || db::is_known(path) {
        return true;
    }
    let why = format!("{}: nothing is done to it before the broker has let this node in", path.display());
    daemon.signals.set_whole(Whole::Waiting(why));
    while !has_been_up() {
        if daemon.stop.wait(limits::ARRIVAL_LOOK) {
            return false;
        }
    }
    true
}

/// The database, opened and made fit, and what is known about its positions.
pub struct Database {
    /// Which file it is.
    pub file: Option<files::Identity>,
    /// The log, if this node publishes.
    pub capture: Option<ChangeLog>,
    /// The connection that applies, if it does.
    pub applier: Option<db::Applier>,
    /// What its publisher and its follower know of the keys that are given here.
    pub steering: db::Steering,
    /// Positions of a sequence map that the database does not know.
    pub taken_over: SeqMap,
}

/// What came of opening the database.
enum Opened {
    Database(Box<Database>),
    Damaged(String),
    Gone,
    /// The application has made no table in it yet.
    Empty,
    Stopped,
}

/// Opens the database; while the application holds a lock or the disk is full, again and again.
fn open_database(config: &Config, signals: &Signals, stop: &Stop) -> Result<Opened, Error> {
    let path = config.db_path.display();
    let mut backoff = Backoff::up_to(Duration::from_secs(2));
    let mut said = Once::default();
    loop {
        let why = match try_open(config) {
            Ok(Some(database)) => return Ok(Opened::Database(Box::new(database))),
            Ok(None) => return Ok(Opened::Empty),
            Err(db::Error::Corrupt(why)) => return Ok(Opened::Damaged(why)),
            // It was removed a moment ago.
            Err(_) if !config.db_path.exists() => return Ok(Opened::Gone),
            Err(db::Error::Busy) => format!("{path}: locked by the application; waiting"),
            Err(db::Error::Disk(why)) => format!("{path}: {why}; trying again"),
            Err(error) => return Err(error).context(path),
        };
        said.warn(&why);
        signals.set_whole(Whole::Waiting(why));
        if backoff.wait(stop) {
            return Ok(Opened::Stopped);
        }
    }
}

/// `None`: the application has made no table in it yet.
fn try_open(config: &Config) -> Result<Option<Database>, db::Error> {
    let path = &config.db_path;
    // Before there is a connection, and before anything is written.
    let writer = db::writer_of(path);
    let mut opening = db::Opening::open(path)?;
    if !opening.holds_tables()? {
        return Ok(None);
    }
    opening.prepare(config.journal_mode)?;
    opening.set_lists(&config.tables)?;
    opening.note_writer(writer)?;
    let reached = match positions::read(&config.seq_map_path) {
        positions::Found::Map(reached) => reached,
        _ => SeqMap::new(),
    };
    // Where a Go node has been, the map is its own.
    if !opening.note_visit(&reached)? && opening.new_incarnation_of_older_copy(&reached)? {
        log::warn!(
            "{}: lacks what {} says it had: it is an older copy, or lost its last commits. What it had published comes back from \
             the streams; it publishes under a new name from now on",
            path.display(),
            config.seq_map_path.display()
        );
        // Said once: the map is written anew from the database.
        let _ = std::fs::remove_file(&config.seq_map_path);
    }
    let is_of_go_program = opening.is_of_go_program()?;
    let steering = if config.steers_keys() { db::Steering::on() } else { db::Steering::off() };
    let capture = if config.publish {
        let (mut log, done) = opening.with_capture(config.node_id)?;
        replicator::report(&done);
        if !config.replicate {
            log.log_rebuilt()?;
        }
        let names = log.table_names();
        log::info!(
            "capturing {} tables of {} (schema {})",
            names.len(),
            path.display(),
            &log.schema_hash()[..12]
        );
        log.steer(steering.clone());
        if config.log.shards == 1 {
            log.keep_together();
        }
        log.note_schema(config.schema_travels)?;
        Some(log)
    } else {
        opening.without_capture()?;
        None
    };
    let streams: Vec<String> = (1..=config.log.shards).map(|number| config.stream(number)).collect();
    let mut applier = match (config.replicate, &capture) {
        (true, Some(log)) => Some(db::Applier::open_beside(path, config.node_id, &streams, log)?),
        (true, None) => Some(db::Applier::open_telling(path, config.node_id, &streams)?),
        (false, _) => None,
    };
    if let (Some(applier), true) = (&mut applier, steering.is_on()) {
        applier.steer(steering.clone())?;
    }
    if let (Some(applier), true) = (&mut applier, config.settle_orphans) {
        applier.settle_orphans();
    }
    if let (Some(applier), true) = (&mut applier, config.schema_travels) {
        applier.travel(!config.schema_keep.is_zero())?;
    }
    let unknown = match &applier {
        Some(applier) => applier.positions()?.is_empty(),
        None => false,
    };
    let taken_over = if unknown && is_of_go_program { read_seq_map(config) } else { SeqMap::new() };
    // Opening for writing may have given it another inode (overlay file systems).
    let file = files::identity(path);
    Ok(Some(Database { file, capture, applier, steering, taken_over }))
}

/// A database that does not know its positions (a Go node's, or one that was cleaned) has them in the sequence map.
fn read_seq_map(config: &Config) -> SeqMap {
    let path = config.seq_map_path.display();
    match positions::read(&config.seq_map_path) {
        positions::Found::Missing => SeqMap::new(),
        positions::Found::Map(map) => {
            log::warn!(
                "{path}: taking over {} positions, of a Go node unless this database was cleaned (-cleanup)",
                map.len()
            );
            map
        }
        positions::Found::Damaged(why) => {
            log::warn!("{path}: {why}; beginning with what the streams hold");
            SeqMap::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_damaged_again_and_again_waits_ever_longer() {
        let start = Instant::now();
        let mut pauses = Pauses::default();
        assert_eq!(pauses.next(start), Duration::ZERO);
        let mut now = start;
        let mut seen = vec![];
        for _ in 0..12 {
            let pause = pauses.next(now);
            now += pause;
            seen.push(pause);
        }
        assert_eq!(seen[0], limits::RECOVERY_PAUSE);
        assert_eq!(seen[1], limits::RECOVERY_PAUSE * 2);
        assert_eq!(seen[11], limits::RECOVERED_FOR_GOOD);
    }

    #[test]
    fn damage_after_a_long_while_is_a_new_one() {
        let start = Instant::now();
        let mut pauses = Pauses::default();
        pauses.next(start);
        assert!(!pauses.next(start).is_zero());
        assert!(pauses.next(start + limits::RECOVERED_FOR_GOOD * 2).is_zero());
    }

    #[test]
    fn a_worker_that_is_wrong_about_damage_is_started_again_ever_later() {
        let mut now = Instant::now();
        let mut unfounded = Unfounded::default();
        let mut seen = vec![];
        for _ in 0..12 {
            let pause = unfounded.next(now);
            now += pause;
            seen.push(pause);
        }
        assert_eq!(seen[..3], [1, 2, 4].map(|n| limits::UNFOUNDED_FIRST * n));
        assert_eq!(seen[11], limits::UNFOUNDED_MAX);
        assert_eq!(unfounded.next(now + limits::RECOVERED_FOR_GOOD * 2), limits::UNFOUNDED_FIRST);
    }
}
