//! A snapshot's file: made from the live database in one consistent read, cleaned of everything that is this node's own,
//! stamped with its position; and, on the other side, checked and made ready to be a node's database.

use super::{Error, capture, open, state};
use crate::files::{self, Temporary};
use crate::seqmap::SeqMap;
use crate::{clock, limits};
use rusqlite::{Connection, OptionalExtension};
use std::path::Path;

/// Free pages of a snapshot, in hundredths, from which it is packed once more.
const SLACK_PERCENT: i64 = 10;

/// A snapshot's file, removed when dropped.
#[derive(Debug)]
pub struct Made {
    /// The file.
    pub file: Temporary,
    /// Its size.
    pub size: u64,
    /// Its position in each stream.
    pub positions: SeqMap,
    /// Highest change-log id of a row that it holds and that was not published when it was read; 0: none.
    pub unsettled_up_to: i64,
}

/// Copies the database at `path` into a file in `temp_dir`: consistent, compact, with the rowids it has.
pub fn make(path: &Path, temp_dir: &Path, node: u64) -> Result<Made, Error> {
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
    let (positions, unsettled_up_to, slack) = clean(file.path(), node)?;
    if slack {
        let packed = Temporary::new(name("snapshot-packed"));
        vacuum_into(&Connection::open(file.path())?, packed.path())?;
        rollback_mode(&Connection::open(packed.path())?)?;
        file = packed;
    }
    let size = std::fs::metadata(file.path()).map_err(disk)?.len();
    Ok(Made { file, size, positions, unsettled_up_to })
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

/// Removes triggers and log, stamps the state table. Returns positions, highest unsettled id, whether it is worth packing.
fn clean(path: &Path, node: u64) -> Result<(SeqMap, i64, bool), Error> {
    let connection = Connection::open(path)?;
    rollback_mode(&connection)?;
    // The file is nobody's yet: no need to survive a crash.
    connection.execute_batch(&format!(
        "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{};",
        limits::PAGE_CACHE_KIB
    ))?;
    let unsettled = highest_unsettled(&connection)?;
    let schema = super::Schema::read(&connection)?;
    state::create(&connection)?;
    capture::drop_all(&connection, |name| name != state::TABLE && name != super::parked::TABLE)?;
    state::set_meta(&connection, "snapshot_node", &node.to_string())?;
    state::set_meta(&connection, "snapshot_time", &clock::rfc3339(clock::unix_ms()))?;
    state::set_meta(&connection, "schema_hash", &schema.hash)?;
    let positions = state::positions(&connection)?;
    let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    let free: i64 = connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
    Ok((positions, unsettled, free * 100 > pages * SLACK_PERCENT))
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

/// Checks a downloaded snapshot and makes it this node's: its own incarnation, nothing of the maker's. Returns the
/// position that it holds in each stream; empty for a Go node's snapshot, which has none.
pub fn make_ready(path: &Path) -> Result<SeqMap, Error> {
    let mut header = [0; 16];
    let mut file = std::fs::File::open(path).map_err(|e| Error::Disk(format!("{}: {e}", path.display())))?;
    let read = std::io::Read::read_exact(&mut file, &mut header);
    if read.is_err() || &header != b"SQLite format 3\0" {
        return Err(Error::Corrupt("the snapshot is not an SQLite database".to_owned()));
    }
    drop(file);
    let connection = Connection::open(path)?;
    connection.execute_batch(&format!("PRAGMA cache_size=-{};", limits::PAGE_CACHE_KIB))?;
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(Error::Corrupt(format!("the snapshot is damaged: {verdict}")));
    }
    capture::drop_all(&connection, |name| name != state::TABLE && name != super::parked::TABLE)?;
    if !state::exists(&connection)? {
        return Ok(SeqMap::new());
    }
    connection.execute(
        &format!("DELETE FROM {} WHERE kind = 'meta' AND name <> 'schema_hash'", state::TABLE),
        [],
    )?;
    state::new_incarnation(&connection)?;
    state::positions(&connection)
}

/// Writes positions into a snapshot's file that [`make_ready`] has checked.
pub fn set_positions(path: &Path, positions: &[(String, super::Position)]) -> Result<(), Error> {
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
