//! A snapshot's file. Here it is made from the live database in one consistent read, cleaned of everything that belongs to
//! this node alone, and stamped with its position. On the other side it is checked and made ready to be a node's database.

use crate::base::temporary::Temporary;
use crate::base::{clock, digest, files, limits};
use crate::db::apply::{aside, create_tables, feed};
use crate::db::capture::log_table;
use crate::db::migrate::history;
use crate::db::restore::check::{Look, check};
use crate::db::restore::copy::{Copied, copy, rollback_mode};
use crate::db::{error::Error, lists, open, ours, rowids, schema::Schema, sql::quote, state};
use crate::model::lists::Lists;
use crate::model::positions::{Position, SeqMap};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::fs::File;
use std::path::Path;

/// Share of free pages, in percent, from which a snapshot is copied once more to lose them.
const SLACK_PERCENT: i64 = 10;

/// What is written into a snapshot about its making.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamp {
    pub node: u64,
    /// Unix milliseconds.
    pub time_ms: i64,
    /// Revision of the lease under which it is uploaded.
    pub revision: u64,
}

/// A snapshot's file, which is removed when this is dropped.
#[derive(Debug)]
pub struct Made {
    pub file: Temporary,
    /// Bytes of the file.
    pub size: u64,
    pub positions: SeqMap,
    /// The generation of the streams that the positions count in; empty when unknown.
    pub streams: String,
    /// Schema hash (formats, section "Schema hash").
    pub schema: String,
    /// Digest of the file without its stamp, equal for an unchanged database.
    pub content: String,
    /// Highest change-log id of a row that it holds and that was not published when it was read; 0: none.
    pub unsettled_up_to: i64,
}

/// Makes a snapshot of the database at `path`, as a compact file in `temp_dir`. Rows keep their rowids.
pub fn make_snapshot(path: &Path, temp_dir: &Path, stamp: &Stamp) -> Result<Made, Error> {
    let disk = |error: std::io::Error| Error::Disk(format!("{}: {error}", temp_dir.display()));
    let scratch = |purpose: &str| Temporary::new(temp_dir, path, purpose).map_err(disk);
    let needed = std::fs::metadata(path).map_or(0, |meta| meta.len()) + open::wal_size(path);
    let free = files::free_space(temp_dir).map_err(disk)?;
    if free < needed {
        return Err(Error::Disk(format!(
            "{}: a snapshot needs up to {needed} bytes, {free} are free",
            temp_dir.display()
        )));
    }
    let mut file = scratch("snapshot")?;
    let source = open::open(path)?;
    let copied = copy(&source, file.path())?;
    drop(source);
    let cleaned = clean(file.path())?;
    if cleaned.schema == Schema::hash_of_nothing() {
        return Err(Error::Mismatch(
            "the database has no table that could be replicated, and no snapshot is made of it".to_owned(),
        ));
    }
    if cleaned.slack && copied == Copied::Compact {
        let packed = scratch("snapshot-packed")?;
        copy(&Connection::open(file.path())?, packed.path())?;
        rollback_mode(&Connection::open(packed.path())?)?;
        file = packed;
    }
    let content = File::open(file.path()).and_then(|mut file| digest::digest_of(&mut file)).map_err(disk)?.1;
    put_stamp(file.path(), stamp, &cleaned.schema)?;
    let size = std::fs::metadata(file.path()).map_err(disk)?.len();
    let Cleaned { positions, streams, schema, unsettled_up_to, .. } = cleaned;
    Ok(Made { file, size, positions, streams, schema, content, unsettled_up_to })
}

struct Cleaned {
    positions: SeqMap,
    streams: String,
    schema: String,
    unsettled_up_to: i64,
    /// So many pages are free that it is worth copying once more.
    slack: bool,
}

/// Opens a file that nobody needs yet, so its writes need not survive a crash.
fn open_scratch(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path)?;
    rollback_mode(&connection)?;
    connection.execute_batch(&format!(
        "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{};",
        limits::PAGE_CACHE_KIB
    ))?;
    Ok(connection)
}

/// Removes triggers and log. Of our tables only the state stays, and what is set aside if there is anything: a snapshot lacks
/// no row that waits here.
fn clean(path: &Path) -> Result<Cleaned, Error> {
    let connection = open_scratch(path)?;
    let captures = log_table::exists(&connection)?;
    let unsettled_up_to = if captures { log_table::highest_unsettled(&connection)? } else { 0 };
    let schema = Schema::read(&connection)?;
    if !schema.lists.in_snapshots {
        empty(&connection, schema.excluded.iter())?;
    }
    let schema = schema.hash.to_string();
    state::create(&connection)?;
    let any_aside = !aside::is_empty(&connection)?;
    // What the application has not run yet, the index in the snapshot lacks too: the queue goes along, with what runs it.
    let queues = feed::pending(&connection)?;
    let any_changes = history::any_published(&connection)?;
    ours::drop_prefixed(&connection, |name| {
        let is_history = any_changes && name == history::TABLE;
        let is_kept = name == state::TABLE || is_history || any_aside && name == aside::TABLE;
        !is_kept && !feed::belongs_to(name, &queues)
    })?;
    if any_changes {
        history::forget_unpublished(&connection)?;
    }
    state::remove_meta(&connection, state::SCHEMA_SEEN)?;
    let positions = state::positions(&connection)?;
    // Those before the newest one differ from node to node.
    for stream in positions.keys() {
        state::keep_newest_moment(&connection, stream)?;
    }
    let streams = state::generation(&connection)?;
    let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    let free: i64 = connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
    let slack = free * 100 > pages * SLACK_PERCENT;
    Ok(Cleaned { positions, streams, schema, unsettled_up_to, slack })
}

/// Removes all rows of tables. Nothing of them is left on free pages either.
fn empty<'a>(connection: &Connection, tables: impl Iterator<Item = &'a String>) -> Result<(), Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.execute_batch("PRAGMA foreign_keys=OFF; PRAGMA secure_delete=ON")?;
    for table in tables {
        connection.execute_batch(&format!("DELETE FROM main.{}", quote(table)))?;
    }
    Ok(())
}

fn put_stamp(path: &Path, stamp: &Stamp, schema: &str) -> Result<(), Error> {
    let connection = open_scratch(path)?;
    state::set_meta(&connection, "snapshot_node", &stamp.node.to_string())?;
    state::set_meta(&connection, "snapshot_time", &clock::rfc3339(stamp.time_ms))?;
    state::set_meta(&connection, "snapshot_revision", &stamp.revision.to_string())?;
    state::set_meta(&connection, state::SCHEMA_HASH, schema)
}

/// Whether the database holds a change up to log id `limit` that has not come back from its stream yet, and may.
pub fn holds_unsettled(path: &Path, limit: i64) -> Result<bool, Error> {
    let connection = open::open(path)?;
    if state::exists(&connection)? && !state::rebuilt(&connection)?.is_empty() {
        return Ok(true);
    }
    if limit == 0 || !log_table::exists(&connection)? {
        return Ok(false);
    }
    log_table::any_unsettled(&connection, limit, &state::refused(&connection)?)
}

/// Opens a downloaded file, if it is a database and passes SQLite's own check.
fn open_checked(path: &Path, look: Look) -> Result<Connection, Error> {
    let mut header = [0; 16];
    let mut file = File::open(path).map_err(|e| Error::Disk(format!("{}: {e}", path.display())))?;
    let read = std::io::Read::read_exact(&mut file, &mut header);
    if read.is_err() || &header != b"SQLite format 3\0" {
        return Err(Error::Corrupt("the snapshot is not an SQLite database".to_owned()));
    }
    drop(file);
    let connection = Connection::open(path)?;
    connection.execute_batch(&format!("PRAGMA cache_size=-{};", limits::PAGE_CACHE_KIB))?;
    let found = check(&connection, look)?;
    if let Some(first) = found.damage.first() {
        return Err(Error::Corrupt(format!("the snapshot is damaged: {first}")));
    }
    for warning in found.warnings {
        log::info!("the snapshot holds an index that its own check dislikes: {warning}");
    }
    Ok(connection)
}

/// What a downloaded snapshot says about itself, after SQLite's full check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// Empty for a snapshot that the Go program made, which knows none.
    pub positions: SeqMap,
    /// Schema hash, computed from the tables that are there.
    pub schema: String,
    /// Number of the application's tables.
    pub tables: usize,
}

/// Checks a downloaded snapshot as thoroughly as SQLite can.
pub fn inspect_snapshot(path: &Path) -> Result<Inside, Error> {
    let connection = open_checked(path, Look::Everything)?;
    let schema = Schema::read(&connection)?;
    let positions = if state::exists(&connection)? { state::positions(&connection)? } else { SeqMap::new() };
    Ok(Inside { positions, tables: schema.tables.len(), schema: schema.hash.to_string() })
}

/// The positions of the database at `path`, which no application uses.
pub fn positions_of(path: &Path) -> Result<SeqMap, Error> {
    let connection = Connection::open(path)?;
    if state::exists(&connection)? { state::positions(&connection) } else { Ok(SeqMap::new()) }
}

/// Checks a downloaded snapshot as thoroughly as SQLite can, and leaves nothing of ours in it but what feeds an index.
pub fn strip_snapshot(path: &Path) -> Result<(), Error> {
    let connection = open_checked(path, Look::Everything)?;
    // A queue stays until the application has run it: without it, the index would never know those rows.
    let queues = feed::pending(&connection)?;
    ours::drop_prefixed(&connection, |name| !feed::belongs_to(name, &queues))?;
    rollback_mode(&connection)
}

/// A downloaded snapshot that may become this node's database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Empty for a snapshot that the Go program made, which knows none.
    pub positions: SeqMap,
    /// Schema hash.
    pub schema: String,
}

/// Checks a downloaded snapshot and makes it this node's: it gets an incarnation of its own, loses what was its maker's, and follows
/// these lists of tables. What its maker did not replicate and this node does is noted in it.
pub fn make_ready(path: &Path, lists: &Lists) -> Result<Ready, Error> {
    let mut connection = open_checked(path, Look::Pages)?;
    let tables = Schema::read(&connection)?;
    let queues = feed::pending(&connection)?;
    ours::drop_prefixed(&connection, |name| {
        let is_kept = name == state::TABLE || name == history::TABLE || aside::TABLES.contains(&name);
        !is_kept && !feed::belongs_to(name, &queues)
    })?;
    let known = state::exists(&connection)?;
    create_tables(&connection)?;
    // Before anybody gives it pages of another size, by VACUUM.
    rowids::keep(&connection, &rowids::lacking(&connection, &tables)?)?;
    if let Some(stamped) = state::meta(&connection, state::SCHEMA_HASH)?
        && *stamped != *tables.hash
    {
        let why = format!("its schema has the hash {}, its maker says {stamped}", tables.hash);
        return Err(Error::Corrupt(why));
    }
    lists::set(&mut connection, lists)?;
    let schema = Schema::read(&connection)?.without(&state::included(&connection)?);
    state::forget_own(&connection)?;
    state::set_meta(&connection, state::SCHEMA_HASH, &schema)?;
    state::new_incarnation(&connection)?;
    state::set_meta(&connection, state::RESTORED, "1")?;
    let positions = if known { state::positions(&connection)? } else { SeqMap::new() };
    Ok(Ready { positions, schema })
}

/// The schema hash of a snapshot that holds no table: it tells nobody anything.
pub fn schema_of_nothing() -> String {
    Schema::hash_of_nothing()
}

/// The schema hash of the database at `path` (formats, section "Schema hash").
pub fn schema_hash(path: &Path) -> Result<String, Error> {
    Ok(Schema::read(&open::open(path)?)?.hash.to_string())
}

/// Writes positions into a snapshot's file that [`make_ready`] has checked.
pub fn set_positions(path: &Path, positions: &[(String, Position)]) -> Result<(), Error> {
    if positions.is_empty() {
        return Ok(());
    }
    let connection = Connection::open(path)?;
    state::create(&connection)?;
    for (stream, position) in positions {
        state::set_position(&connection, stream, position)?;
    }
    Ok(())
}
