//! Getting the database open: made fit for replication, waited for while it is locked, restored while it is missing or
//! damaged.

use crate::base::{files, limits, once::Once, retry::Backoff, stop::Stop};
use crate::config::Config;
use crate::db::{self, ChangeLog};
use crate::model::positions::{self, SeqMap};
use crate::operate::board::Status;
use crate::replicator;
use crate::snapshot::Recovery;
use std::time::{Duration, Instant};

/// A disk that fails damages the next database too: recovering it again and again would fill it with copies.
#[derive(Default)]
pub struct Pauses {
    last: Option<Instant>,
    next: Duration,
}

impl Pauses {
    /// No pause for the first recovery in a while, growing ones for those that follow. True: stopped.
    pub fn wait(&mut self, status: &Status, stop: &Stop) -> bool {
        let again = self.last.is_some_and(|last| last.elapsed() < limits::RECOVERED_FOR_GOOD);
        self.next = if again {
            (self.next * 2).clamp(limits::RECOVERY_PAUSE, limits::RECOVERED_FOR_GOOD)
        } else {
            Duration::ZERO
        };
        if again {
            let text = format!(
                "damaged again: a disk or memory may be failing; recovering in {} s",
                self.next.as_secs()
            );
            log::error!("{text}");
            status.set_missing(&text);
        }
        let stopped = stop.wait(self.next);
        self.last = Some(Instant::now());
        stopped
    }
}

/// The database, opened: restored when it is missing or damaged. `None`: stopped.
pub fn get_database(
    config: &Config,
    recovery: &Recovery<'_>,
    pauses: &mut Pauses,
    stop: &Stop,
) -> Result<Option<Database>, String> {
    loop {
        if !config.db_path.exists() && !recovery.missing() {
            return Ok(None);
        }
        match open_database(config, recovery.status, stop)? {
            Opened::Database(database) => return Ok(Some(*database)),
            Opened::Gone => {}
            Opened::Damaged(why) if !pauses.wait(recovery.status, stop) && recovery.damaged(&why) => {}
            Opened::Damaged(_) | Opened::Stopped => return Ok(None),
        }
    }
}

/// The database, opened and made fit, and what is known about its positions.
pub struct Database {
    /// Which file it is.
    pub file: Option<files::Identity>,
    /// The log, if this node publishes.
    pub capture: Option<ChangeLog>,
    /// The connection that applies, if it does.
    pub applier: Option<db::Applier>,
    /// Positions of a sequence map that the database does not know.
    pub taken_over: SeqMap,
}

/// What came of opening the database.
enum Opened {
    Database(Box<Database>),
    Damaged(String),
    Gone,
    Stopped,
}

/// Opens the database; while the application holds a lock or the disk is full, again and again.
fn open_database(config: &Config, status: &Status, stop: &Stop) -> Result<Opened, String> {
    let path = config.db_path.display();
    let mut backoff = Backoff::up_to(Duration::from_secs(2));
    let mut said = Once::default();
    loop {
        let why = match try_open(config) {
            Ok(database) => {
                status.set_missing("");
                return Ok(Opened::Database(Box::new(database)));
            }
            Err(db::Error::Corrupt(why)) => return Ok(Opened::Damaged(why)),
            // It was removed a moment ago.
            Err(_) if !config.db_path.exists() => return Ok(Opened::Gone),
            Err(db::Error::Busy) => format!("{path}: locked by the application; waiting"),
            Err(db::Error::Disk(why)) => format!("{path}: {why}; trying again"),
            Err(error) => return Err(format!("{path}: {error}")),
        };
        said.warn(&why);
        status.set_missing(&why);
        if backoff.wait(stop) {
            return Ok(Opened::Stopped);
        }
    }
}

fn try_open(config: &Config) -> Result<Database, db::Error> {
    let path = &config.db_path;
    db::check_file(path)?;
    db::prepare(path, config.journal_mode)?;
    db::Applier::ensure_state(path, config.publish)?;
    if let positions::Found::Map(reached) = positions::read(&config.seq_map_path)
        && db::rename_older_copy(path, &reached)?
    {
        log::warn!(
            "{}: is behind {}: an older copy, or it lost its last commits. What it had published comes back; it publishes \
             under a new name from now on",
            path.display(),
            config.seq_map_path.display()
        );
        // Said once: the map is written anew from the database.
        let _ = std::fs::remove_file(&config.seq_map_path);
    }
    let capture = if config.publish {
        let (log, done) = ChangeLog::open(path, config.node_id)?;
        replicator::report(&done);
        let names = log.table_names();
        log::info!(
            "capturing {} tables of {} (schema {})",
            names.len(),
            path.display(),
            &log.schema_hash()[..12]
        );
        Some(log)
    } else {
        None
    };
    let applier = if config.replicate { Some(db::Applier::open(path, config.node_id)?) } else { None };
    let unknown = match &applier {
        Some(applier) => applier.positions()?.is_empty(),
        None => false,
    };
    let taken_over = if unknown { read_seq_map(config) } else { SeqMap::new() };
    // Opening for writing may have given it another inode (overlay file systems).
    let file = files::identity(path);
    Ok(Database { file, capture, applier, taken_over })
}

/// A database that does not know its positions (a Go node's, say) has them in the sequence map.
fn read_seq_map(config: &Config) -> SeqMap {
    let path = config.seq_map_path.display();
    match positions::read(&config.seq_map_path) {
        positions::Found::Missing => SeqMap::new(),
        positions::Found::Map(map) => {
            log::info!("{path}: taking over {} positions", map.len());
            map
        }
        positions::Found::Damaged(why) => {
            log::warn!("{path}: {why}; beginning with what the streams hold");
            SeqMap::new()
        }
    }
}
