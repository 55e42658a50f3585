//! A snapshot's file: made from the live database in one consistent read, cleaned of everything that is this node's own,
//! stamped with its position; and, on the other side, checked and made ready to be a node's database.

use crate::base::files::{self, Temporary};
use crate::base::{clock, digest, limits};
use crate::db::{capture, error::Error, open, state};
use crate::model::positions::{Position, SeqMap};
use rusqlite::{Connection, OptionalExtension};
use std::fs::File;
use std::path::Path;

/// Free pages of a snapshot, in hundredths, from which it is packed once more.
const SLACK_PERCENT: i64 = 10;

/// Who makes a snapshot, and under which lease: stamped into it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamp {
    /// The node.
    pub node: u64,
    /// Unix milliseconds.
    pub time_ms: i64,
    /// Revision of the lease.
    pub revision: u64,
}

/// A snapshot's file, removed when dropped.
#[derive(Debug)]
pub struct Made {
    /// The file.
    pub file: Temporary,
    /// Its size.
    pub size: u64,
    /// Its position in each stream.
    pub positions: SeqMap,
    /// Names the generation of the streams that the positions count in; empty when unknown.
    pub streams: String,
    /// Schema hash (compat.md 1h).
    pub schema: String,
    /// Digest of the file without its stamp: equal for an unchanged database.
    pub content: String,
    /// Highest change-log id of a row that it holds and that was not published when it was read; 0: none.
    pub unsettled_up_to: i64,
}

/// Copies the database at `path` into a file in `temp_dir`: consistent, compact, with the rowids it has.
pub fn make(path: &Path, temp_dir: &Path, stamp: &Stamp) -> Result<Made, Error> {
    let disk = |error: std::io::Error| Error::Disk(format!("{}: {error}", temp_dir.display()));
    let stem = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = |part: &str| temp_dir.join(format!("{stem}.harmonylite-{part}"));
    let needed = std::fs::metadata(path).map_or(0, |meta| meta.len()) + open::wal_size(path);
    let free = files::free_space(temp_dir).map_err(disk)?;
    if free < needed {
        return Err(Error::Disk(format!(
            "{}: a snapshot needs up to {needed} bytes, {free} are free",
            temp_dir.display()
        )));
    }
    let mut file = Temporary::new(name("snapshot"));
    let source = open::open(path)?;
    vacuum_into(&source, file.path())?;
    drop(source);
    let cleaned = clean(file.path())?;
    if cleaned.slack {
        let packed = Temporary::new(name("snapshot-packed"));
        vacuum_into(&Connection::open(file.path())?, packed.path())?;
        rollback_mode(&Connection::open(packed.path())?)?;
        file = packed;
    }
    let content = File::open(file.path()).and_then(|mut file| digest::digest_of(&mut file)).map_err(disk)?.1;
    put_stamp(file.path(), stamp, &cleaned.schema)?;
    let size = std::fs::metadata(file.path()).map_err(disk)?.len();
    let Cleaned { positions, streams, schema, unsettled_up_to, .. } = cleaned;
    Ok(Made { file, size, positions, streams, schema, content, unsettled_up_to })
}

/// Copies the database at `path` as it is into a new file: one consistent read.
pub fn copy(path: &Path, target: &Path) -> Result<(), Error> {
    vacuum_into(&open::open(path)?, target)
}

fn vacuum_into(source: &Connection, target: &Path) -> Result<(), Error> {
    let text =
        target.to_str().ok_or_else(|| Error::Other(format!("{target:?}: SQLite needs a path in UTF-8")))?;
    source.execute("VACUUM INTO ?1", [text])?;
    Ok(())
}

fn rollback_mode(connection: &Connection) -> Result<(), Error> {
    let mode: String = connection.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get(0))?;
    if mode.eq_ignore_ascii_case("delete") {
        Ok(())
    } else {
        Err(Error::Other(format!("snapshot: journal mode stays {mode}")))
    }
}

struct Cleaned {
    positions: SeqMap,
    streams: String,
    schema: String,
    unsettled_up_to: i64,
    /// It is worth packing.
    slack: bool,
}

/// The file is nobody's yet: no need to survive a crash.
fn open_scratch(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path)?;
    rollback_mode(&connection)?;
    connection.execute_batch(&format!(
        "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{};",
        limits::PAGE_CACHE_KIB
    ))?;
    Ok(connection)
}

/// Removes triggers and log; of our tables the state stays, and events that wait for a schema if there are any.
fn clean(path: &Path) -> Result<Cleaned, Error> {
    let connection = open_scratch(path)?;
    let unsettled_up_to = highest_unsettled(&connection)?;
    let schema = crate::db::schema::Schema::read(&connection)?.hash;
    state::create(&connection)?;
    let parked = state::has_table(&connection, crate::db::apply::parked::TABLE)?
        && !crate::db::apply::parked::tables(&connection)?.is_empty();
    capture::drop_all(&connection, |name| {
        name != state::TABLE && !(parked && name == crate::db::apply::parked::TABLE)
    })?;
    let positions = state::positions(&connection)?;
    let streams = state::generation(&connection)?;
    let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    let free: i64 = connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
    let slack = free * 100 > pages * SLACK_PERCENT;
    Ok(Cleaned { positions, streams, schema, unsettled_up_to, slack })
}

fn put_stamp(path: &Path, stamp: &Stamp, schema: &str) -> Result<(), Error> {
    let connection = open_scratch(path)?;
    state::set_meta(&connection, "snapshot_node", &stamp.node.to_string())?;
    state::set_meta(&connection, "snapshot_time", &clock::rfc3339(stamp.time_ms))?;
    state::set_meta(&connection, "snapshot_revision", &stamp.revision.to_string())?;
    state::set_meta(&connection, "schema_hash", schema)
}

fn highest_unsettled(connection: &Connection) -> Result<i64, Error> {
    if !state::has_table(connection, capture::LOG)? {
        return Ok(0);
    }
    let sql = format!("SELECT max(id) FROM {} WHERE t <> 0", capture::LOG);
    Ok(connection.query_row(&sql, [], |row| row.get::<_, Option<i64>>(0))?.unwrap_or(0))
}

/// Whether a change up to log id `limit` has not come back from the stream yet.
pub fn unsettled(path: &Path, limit: i64) -> Result<bool, Error> {
    let connection = open::open(path)?;
    if limit == 0 || !state::has_table(&connection, capture::LOG)? {
        return Ok(false);
    }
    let sql = format!("SELECT 1 FROM {} WHERE t <> 0 AND id <= ?1 LIMIT 1", capture::LOG);
    Ok(connection.query_row(&sql, [limit], |_| Ok(())).optional()?.is_some())
}

/// Opens a downloaded file, if it is a database and passes SQLite's own check.
fn open_checked(path: &Path, check: &str) -> Result<Connection, Error> {
    let mut header = [0; 16];
    let mut file = File::open(path).map_err(|e| Error::Disk(format!("{}: {e}", path.display())))?;
    let read = std::io::Read::read_exact(&mut file, &mut header);
    if read.is_err() || &header != b"SQLite format 3\0" {
        return Err(Error::Corrupt("the snapshot is not an SQLite database".to_owned()));
    }
    drop(file);
    let connection = Connection::open(path)?;
    connection.execute_batch(&format!("PRAGMA cache_size=-{};", limits::PAGE_CACHE_KIB))?;
    let verdict: String = connection.query_row(&format!("PRAGMA {check}(1)"), [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(Error::Corrupt(format!("the snapshot is damaged: {verdict}")));
    }
    Ok(connection)
}

/// What a downloaded snapshot says about itself, after SQLite's full check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// Positions; empty for a Go node's.
    pub positions: SeqMap,
    /// Schema hash of the tables that are there.
    pub schema: String,
    /// Number of tables of the application.
    pub tables: usize,
}

/// Checks a downloaded snapshot thoroughly.
pub fn inspect(path: &Path) -> Result<Inside, Error> {
    let connection = open_checked(path, "integrity_check")?;
    let schema = crate::db::schema::Schema::read(&connection)?;
    let positions = if state::exists(&connection)? { state::positions(&connection)? } else { SeqMap::new() };
    Ok(Inside { positions, tables: schema.tables.len(), schema: schema.hash })
}

/// Where a file stands in the streams.
pub fn positions_of(path: &Path) -> Result<SeqMap, Error> {
    let connection = Connection::open(path)?;
    if state::exists(&connection)? { state::positions(&connection) } else { Ok(SeqMap::new()) }
}

/// Checks a downloaded snapshot thoroughly and leaves nothing of ours in it.
pub fn strip(path: &Path) -> Result<(), Error> {
    let connection = open_checked(path, "integrity_check")?;
    capture::drop_all(&connection, |_| true)?;
    rollback_mode(&connection)
}

/// A downloaded snapshot that may become this node's database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// The position that it holds in each stream; empty for a Go node's, which has none.
    pub positions: SeqMap,
    /// The hash of its schema.
    pub schema: String,
}

/// Checks a downloaded snapshot and makes it this node's: its own incarnation, nothing of the maker's.
pub fn make_ready(path: &Path) -> Result<Ready, Error> {
    let connection = open_checked(path, "quick_check")?;
    let schema = crate::db::schema::Schema::read(&connection)?.hash;
    capture::drop_all(&connection, |name| name != state::TABLE && name != crate::db::apply::parked::TABLE)?;
    let known = state::exists(&connection)?;
    state::create(&connection)?;
    crate::db::apply::parked::create(&connection)?;
    if let Some(stamped) = state::meta(&connection, "schema_hash")?
        && stamped != schema
    {
        return Err(Error::Corrupt(format!("its schema has the hash {schema}, its maker says {stamped}")));
    }
    connection.execute(&format!("DELETE FROM {} WHERE kind = 'meta'", state::TABLE), [])?;
    state::set_meta(&connection, "schema_hash", &schema)?;
    state::new_incarnation(&connection)?;
    state::set_meta(&connection, state::RESTORED, "1")?;
    let positions = if known { state::positions(&connection)? } else { SeqMap::new() };
    Ok(Ready { positions, schema })
}

/// The hash of the schema of the database at `path` (compat.md 1h).
pub fn schema_hash(path: &Path) -> Result<String, Error> {
    Ok(crate::db::schema::Schema::read(&open::open(path)?)?.hash)
}

/// Installs capture in a file that is to become the database: an application may write as soon as it has its name.
pub fn install_capture(path: &Path) -> Result<(), Error> {
    capture::install(&mut open::open(path)?).map(drop)
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
