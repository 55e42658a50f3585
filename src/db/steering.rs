//! The keys that SQLite will give in AUTOINCREMENT tables, steered into blocks that this node alone has. SQLite keeps the highest key
//! of such a table in the ordinary table `sqlite_sequence` and gives the next one, so whoever writes there chooses it: the
//! application's own statements, `last_insert_rowid()` and RETURNING are right without its doing anything.

use crate::base::{fail, limits};
use crate::db::schema::Schema;
use crate::db::{error::Error, open, ours};
use crate::model::blocks::{Block, Tables, Want};
use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const TABLE: &str = "__harmonylite__block";
const CREATE: &str = "CREATE TABLE IF NOT EXISTS __harmonylite__block(tbl TEXT PRIMARY KEY, first INTEGER NOT NULL, \
     last INTEGER NOT NULL) WITHOUT ROWID";
const BLOCK: &str = "SELECT first, last FROM __harmonylite__block WHERE tbl = ?1";
const SET_BLOCK: &str = "INSERT OR REPLACE INTO __harmonylite__block(tbl, first, last) VALUES(?1, ?2, ?3)";
const HIGHEST: &str = "SELECT seq FROM main.sqlite_sequence WHERE name = ?1";
const SET_HIGHEST: &str = "UPDATE main.sqlite_sequence SET seq = ?2 WHERE name = ?1";
const FIRST_HIGHEST: &str = "INSERT INTO main.sqlite_sequence(name, seq) VALUES(?1, ?2)";

pub fn create(connection: &Connection) -> Result<(), Error> {
    Ok(connection.execute_batch(CREATE)?)
}

pub fn is_up_to_date(connection: &Connection) -> Result<bool, Error> {
    ours::has_table(connection, TABLE)
}

/// What the publisher, the follower and whoever claims blocks know together. Clones share it.
#[derive(Clone, Debug)]
pub struct Steering(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    tables: Mutex<Tables>,
    /// Blocks are wanted, or one was claimed.
    changed: Condvar,
    /// Wakes the follower when a block in reserve is to be taken.
    wake: (Sender<()>, Receiver<()>),
    /// After a wait in vain, nobody waits for a block before this.
    hopeless: Mutex<Option<Instant>>,
}

impl Steering {
    /// Nothing is steered.
    pub fn off() -> Steering {
        Steering(None)
    }

    pub fn on() -> Steering {
        Steering(Some(Arc::new(Shared {
            tables: Mutex::default(),
            changed: Condvar::new(),
            wake: bounded(1),
            hopeless: Mutex::default(),
        })))
    }

    fn shared(&self) -> Option<(&Shared, MutexGuard<'_, Tables>)> {
        let shared = self.0.as_deref()?;
        Some((shared, shared.tables.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Ready when a block in reserve is to be taken.
    pub fn due(&self) -> Receiver<()> {
        self.0.as_deref().map_or_else(crossbeam_channel::never, |shared| shared.wake.1.clone())
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a table needs a block, and all that do have one in reserve.
    pub fn is_ready(&self) -> bool {
        self.shared().is_some_and(|(_, tables)| !tables.due().is_empty() && !tables.lacks_any())
    }

    /// Reads what the database holds: which tables are steered, their blocks, the keys that they have had.
    pub fn load(&self, connection: &Connection, schema: &Schema) -> Result<(), Error> {
        let Some((shared, mut tables)) = self.shared() else { return Ok(()) };
        let steered = schema.tables.values().filter(|table| table.autoincrement && table.id != 0);
        let names: Vec<Arc<str>> = steered.map(|table| table.name.clone()).collect();
        tables.set(&names);
        for name in names {
            let block = block_of(connection, &name)?;
            tables.found(&name, block, highest(connection, &name)?);
        }
        shared.tell(&tables);
        Ok(())
    }

    /// The application has written rows with these keys.
    pub fn saw_own(&self, table: &str, key: i64) {
        let Some((shared, mut tables)) = self.shared() else { return };
        tables.gave(table, key, Instant::now());
        shared.tell(&tables);
    }

    /// Rows of other nodes with these keys are about to be written. Waits until there is a block above them, within a bound.
    pub fn await_blocks<'a>(&self, keys: impl Iterator<Item = (&'a str, i64)>) {
        fail::point("batch decoded");
        let Some((shared, mut tables)) = self.shared() else { return };
        if tables.is_empty() {
            return;
        }
        for (table, key) in keys {
            tables.saw(table, key);
        }
        if !tables.lacks_any() {
            return;
        }
        let now = Instant::now();
        let mut hopeless = shared.hopeless.lock().unwrap_or_else(PoisonError::into_inner);
        if hopeless.is_some_and(|until| now < until) {
            return;
        }
        shared.changed.notify_all();
        let (tables, waited) = shared
            .changed
            .wait_timeout_while(tables, limits::CLAIM_WAIT, |tables| tables.lacks_any())
            .unwrap_or_else(PoisonError::into_inner);
        *hopeless = waited.timed_out().then(|| Instant::now() + limits::CLAIM_PAUSE);
        if waited.timed_out() {
            let lacking: Vec<String> = tables.due().iter().map(ToString::to_string).collect();
            log::warn!(
                "no block of keys could be claimed (tables: {}): rows that are inserted here now can get keys that other nodes give, \
                 too; -conflicts shows what loses",
                lacking.join(", ")
            );
        }
    }

    /// Blocks to claim, as soon as any are wanted, or none after the time.
    pub fn next_wants(&self, at_most: Duration) -> Vec<Want> {
        let Some((shared, tables)) = self.shared() else { return vec![] };
        let wait = shared.changed.wait_timeout_while(tables, at_most, |tables| tables.wants().is_empty());
        wait.unwrap_or_else(PoisonError::into_inner).0.wants()
    }

    /// A block was claimed.
    pub fn claimed(&self, table: &str, block: Block) {
        let Some((shared, mut tables)) = self.shared() else { return };
        tables.claimed(table, block);
        shared.changed.notify_all();
        shared.tell(&tables);
    }

    /// Goes on in the block in reserve, in every table that needs it. At the end of a write transaction, after all rows.
    pub fn settle(&self, connection: &Connection) -> Result<bool, Error> {
        let Some((shared, mut tables)) = self.shared() else { return Ok(false) };
        let mut any = false;
        for name in tables.due() {
            let Some(block) = tables.take(&name, highest(connection, &name)?) else { continue };
            put(connection, &name, block)?;
            log::debug!("table {name}: keys {} to {} are this node's", block.first, block.last);
            any = true;
            fail::point("keys taken");
        }
        if any {
            // Another one in reserve is wanted.
            shared.changed.notify_all();
        }
        Ok(any)
    }
}

impl Shared {
    fn tell(&self, tables: &Tables) {
        if !tables.wants().is_empty() {
            self.changed.notify_all();
        }
        if !tables.due().is_empty() && !tables.lacks_any() {
            // A full channel holds the same word already.
            let _ = self.wake.0.try_send(());
        }
    }
}

/// Lets SQLite go on with a block's first key.
fn put(connection: &Connection, table: &str, block: Block) -> Result<(), Error> {
    let highest = block.first - 1;
    if connection.prepare_cached(SET_HIGHEST)?.execute(params![table, highest])? == 0 {
        connection.prepare_cached(FIRST_HIGHEST)?.execute(params![table, highest])?;
    }
    connection.prepare_cached(SET_BLOCK)?.execute(params![table, block.first, block.last])?;
    Ok(())
}

/// The highest key that a table has had.
fn highest(connection: &Connection, table: &str) -> Result<i64, Error> {
    let highest: Option<Option<i64>> =
        connection.prepare_cached(HIGHEST)?.query_row([table], |row| row.get(0)).optional()?;
    Ok(highest.flatten().unwrap_or(0))
}

fn block_of(connection: &Connection, table: &str) -> Result<Option<Block>, Error> {
    let block = |row: &rusqlite::Row<'_>| Ok(Block { first: row.get(0)?, last: row.get(1)? });
    Ok(connection.prepare_cached(BLOCK)?.query_row([table], block).optional()?)
}

/// Gives each AUTOINCREMENT table of a file that is about to become the database a block, before an application can insert into it.
/// `claim` gets one; what cannot be had now is claimed later.
pub fn steer_file(path: &Path, claim: impl Fn(&Want) -> Option<Block>) -> Result<(), Error> {
    let connection = open::open(path)?;
    let schema = Schema::read_numbered(&connection)?;
    let steering = Steering::on();
    create(&connection)?;
    steering.load(&connection, &schema)?;
    for want in steering.next_wants(Duration::ZERO) {
        if let Some(block) = claim(&want) {
            steering.claimed(&want.table, block);
        }
    }
    steering.settle(&connection).map(drop)
}

#[cfg(test)]
#[path = "steering_tests.rs"]
mod tests;
