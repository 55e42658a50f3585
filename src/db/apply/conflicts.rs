//! Writes of other nodes that lost to ours. Two nodes wrote one row, and neither had the other's write: the later one in the stream
//! wins on every node. The node that wrote the winner is the only one that sees both, for its change log still holds its own
//! write when the other one arrives. What it keeps is what its write overwrites: the last of several writes that come before it. So
//! each lost write is kept on exactly one node. The list is not part of snapshots.

use crate::base::limits;
use crate::db::{error::Error, open, ours, state};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use std::path::Path;

const TABLE: &str = "__harmonylite__conflict";
const CREATE: &str = "CREATE TABLE IF NOT EXISTS __harmonylite__conflict(id INTEGER PRIMARY KEY AUTOINCREMENT, tbl TEXT NOT NULL, \
     key BLOB NOT NULL, kind INTEGER NOT NULL, lost_by INTEGER NOT NULL, won_by INTEGER NOT NULL, won_id INTEGER NOT NULL, \
     stream TEXT NOT NULL, seq INTEGER NOT NULL, time INTEGER NOT NULL, columns TEXT NOT NULL, payload BLOB NOT NULL, \
     UNIQUE(tbl, key, won_id))";
/// Bytes that an entry takes of the room.
macro_rules! bytes {
    () => {
        "length(payload) + length(key) + length(CAST(columns AS BLOB)) + length(CAST(tbl AS BLOB))"
    };
}
const COLUMNS: &str = "id, tbl, kind, lost_by, won_by, stream, seq, time, columns, payload";
const PUT: &str = "INSERT INTO __harmonylite__conflict(tbl, key, kind, lost_by, won_by, won_id, stream, seq, time, columns, \
     payload) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
const ENTRIES: &str = "SELECT id, tbl, key, kind, lost_by, won_by, -2 - id, stream, seq, time, columns, payload \
     FROM __harmonylite__conflict ORDER BY id";
const CARRY: &str = "INSERT OR IGNORE INTO __harmonylite__conflict(id, tbl, key, kind, lost_by, won_by, won_id, stream, seq, time, \
     columns, payload) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
const OVERWRITTEN: &str = concat!(
    "DELETE FROM __harmonylite__conflict WHERE tbl = ?1 AND key = ?2 AND won_id = ?3 RETURNING ",
    bytes!()
);
const SIZE: &str = concat!("SELECT count(*), coalesce(sum(", bytes!(), "), 0) FROM __harmonylite__conflict");
const OLDEST: &str = concat!("SELECT id, ", bytes!(), " FROM __harmonylite__conflict ORDER BY id LIMIT 1");
const REMOVE: &str = "DELETE FROM __harmonylite__conflict WHERE id = ?1";
const OF_KINDS: &str = "SELECT kind, count(*) FROM __harmonylite__conflict GROUP BY kind";
/// Of writes that lost to one which may be on its way.
const UNDER: &str = "SELECT tbl, key, kind, won_id, payload FROM __harmonylite__conflict WHERE won_id > 0 AND kind IN (0, 1, 2) ORDER BY id";
const DISPLACED: &str = "UPDATE OR IGNORE __harmonylite__conflict SET kind = 3, won_id = ?4 WHERE tbl = ?1 AND key = ?2 AND won_id = ?3 AND kind <> 3";
const ORPHAN_OF: &str = concat!(
    "DELETE FROM __harmonylite__conflict WHERE tbl = ?1 AND key = ?2 AND won_id = -1 AND stream = ?3 AND seq = ?4 RETURNING ",
    bytes!()
);
/// Name of the number of those that went for want of room.
const DROPPED: &str = "dropped conflicts";
const COUNT: &str = "SELECT count(*) FROM __harmonylite__conflict";

/// What was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A change of a row.
    Update,
    /// Both nodes inserted a row, and gave it the same key: they are two different things.
    Insert,
    /// A deletion.
    Delete,
    /// A row that had the same value in a UNIQUE index as ours.
    Unique,
    /// A row that refers to one which is gone: one node deleted that while another one wrote the row. It is there.
    Orphan,
    /// A row that only this node had, which publishes nothing: it went when the database was brought to the state of a snapshot.
    Local,
    /// A change of the schema: another node had changed the same before.
    Schema,
}

impl Kind {
    pub const ALL: [Kind; 7] =
        [Kind::Update, Kind::Insert, Kind::Delete, Kind::Unique, Kind::Orphan, Kind::Local, Kind::Schema];

    fn number(self) -> i64 {
        match self {
            Kind::Update => 0,
            Kind::Insert => 1,
            Kind::Delete => 2,
            Kind::Unique => 3,
            Kind::Orphan => 4,
            Kind::Local => 5,
            Kind::Schema => 6,
        }
    }

    fn of(number: i64) -> Kind {
        Kind::ALL.into_iter().find(|kind| kind.number() == number).unwrap_or(Kind::Update)
    }

    /// The word by which people and programs know it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Update => "update",
            Kind::Insert => "insert",
            Kind::Delete => "delete",
            Kind::Unique => "unique",
            Kind::Orphan => "orphan",
            Kind::Local => "local",
            Kind::Schema => "schema",
        }
    }
}

/// A write that lost.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// Rises in the order in which conflicts were found.
    pub id: i64,
    pub table: String,
    pub kind: Kind,
    /// Node that wrote it.
    pub lost_by: u64,
    /// Node whose write is there now; 0 for [`Kind::Local`].
    pub won_by: u64,
    /// Where the lost write stands.
    pub stream: String,
    pub seq: u64,
    /// When the stream stored it, Unix milliseconds; 0: not known.
    pub time_ms: i64,
    /// Names of the key's columns.
    pub key_columns: Vec<String>,
    /// The event (see [`crate::model::event::Event::encode`]).
    pub payload: Vec<u8>,
}

impl Conflict {
    fn read(row: &Row<'_>) -> rusqlite::Result<Conflict> {
        let columns: String = row.get(8)?;
        Ok(Conflict {
            id: row.get(0)?,
            table: row.get(1)?,
            kind: Kind::of(row.get(2)?),
            lost_by: row.get::<_, i64>(3)?.cast_unsigned(),
            won_by: row.get::<_, i64>(4)?.cast_unsigned(),
            stream: row.get(5)?,
            seq: row.get::<_, i64>(6)?.unsigned_abs(),
            time_ms: row.get(7)?,
            key_columns: serde_json::from_str(&columns).unwrap_or_default(),
            payload: row.get(9)?,
        })
    }
}

/// How many are kept of each kind.
pub type Kept = Vec<(Kind, u64)>;

/// Which of the conflicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    One(i64),
    OfTable(String),
}

impl Which {
    pub fn is_meant(&self, conflict: &Conflict) -> bool {
        match self {
            Which::All => true,
            Which::One(id) => *id == conflict.id,
            Which::OfTable(table) => conflict.table.eq_ignore_ascii_case(table),
        }
    }
}

pub fn create(connection: &Connection) -> Result<(), Error> {
    Ok(connection.execute_batch(CREATE)?)
}

pub fn is_up_to_date(connection: &Connection) -> Result<bool, Error> {
    ours::has_table(connection, TABLE)
}

/// The conflicts of the database at `path`, in the order in which they were found.
pub fn list(path: &Path) -> Result<Vec<Conflict>, Error> {
    read_all(&open::open(path)?)
}

fn read_all(connection: &Connection) -> Result<Vec<Conflict>, Error> {
    if !ours::has_table(connection, TABLE)? {
        return Ok(vec![]);
    }
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM {TABLE} ORDER BY id"))?;
    let all = statement.query_map([], Conflict::read)?;
    Ok(all.collect::<Result<_, _>>()?)
}

/// How many went because there was no room for newer ones.
pub fn dropped(path: &Path) -> Result<u64, Error> {
    let connection = open::open(path)?;
    if !state::exists(&connection)? {
        return Ok(0);
    }
    state::number(&connection, DROPPED).map(i64::unsigned_abs)
}

/// Carries the list of a damaged database into the one at `prepared`, as far as it can be read; returns how many. Its log's ids begin
/// anew there, so what is carried is of none of them.
pub fn carry(damaged: &Path, prepared: &Path) -> Result<usize, Error> {
    let mut entries = vec![];
    if let Err(error) = read_entries(damaged, &mut entries) {
        log::warn!("{}: lost writes that were kept cannot all be read: {error}", damaged.display());
    }
    let target = open::open(prepared)?;
    create(&target)?;
    let transaction = target.unchecked_transaction()?;
    let mut carried = 0;
    for entry in entries {
        carried += transaction.prepare_cached(CARRY)?.execute(params_from_iter(entry))?;
    }
    transaction.commit()?;
    Ok(carried)
}

/// The rows of the list, as far as they can be read: there is room for so many.
fn read_entries(path: &Path, entries: &mut Vec<Vec<Value>>) -> Result<(), Error> {
    let source = open::open(path)?;
    if !ours::has_table(&source, TABLE)? {
        return Ok(());
    }
    let mut statement = source.prepare(ENTRIES)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        entries.push((0..12).map(|at| row.get(at)).collect::<Result<_, _>>()?);
    }
    Ok(())
}

/// Drops conflicts of the database at `path`; returns how many.
pub fn discard(path: &Path, which: &Which) -> Result<usize, Error> {
    let connection = open::open(path)?;
    let meant = read_all(&connection)?.into_iter().filter(|conflict| which.is_meant(conflict));
    let mut gone = 0;
    for conflict in meant {
        gone += connection.execute(REMOVE, [conflict.id])?;
    }
    if *which == Which::All && state::exists(&connection)? {
        state::set_number(&connection, DROPPED, 0)?;
    }
    Ok(gone)
}

pub fn remove(connection: &Connection, id: i64) -> Result<bool, Error> {
    Ok(connection.prepare_cached(REMOVE)?.execute([id])? > 0)
}

/// Numbers of the kept ones by kind.
pub fn kept(connection: &Connection) -> Result<Kept, Error> {
    let mut statement = connection.prepare_cached(OF_KINDS)?;
    let of_kind = |row: &Row<'_>| Ok((Kind::of(row.get(0)?), row.get::<_, i64>(1)?.unsigned_abs()));
    Ok(statement.query_map([], of_kind)?.collect::<Result<_, _>>()?)
}

/// One that was just found.
pub struct Found<'a> {
    pub table: &'a str,
    /// The row's key (see [`crate::db::table::Table::row_key`]).
    pub key: &'a [u8],
    pub kind: Kind,
    pub lost_by: u64,
    pub won_by: u64,
    /// The log entry of our write.
    pub won_id: i64,
    pub stream: &'a str,
    pub seq: u64,
    pub time_ms: i64,
    pub key_columns: Vec<&'a str>,
    pub payload: Vec<u8>,
}

/// A write that lost to one of ours which may be on its way.
pub struct Lost {
    pub table: String,
    pub key: Vec<u8>,
    pub kind: Kind,
    pub won_id: i64,
    pub payload: Vec<u8>,
}

/// Writes of rows that lost to writes of ours under entries of the log, which may be settled since.
pub fn under_writes_of_ours(connection: &Connection) -> Result<Vec<Lost>, Error> {
    let mut statement = connection.prepare_cached(UNDER)?;
    let lost = statement.query_map([], |row| {
        let (table, key, kind) = (row.get(0)?, row.get(1)?, Kind::of(row.get(2)?));
        Ok(Lost { table, key, kind, won_id: row.get(3)?, payload: row.get(4)? })
    })?;
    Ok(lost.collect::<Result<_, _>>()?)
}

/// What the applying connection knows of the table.
#[derive(Debug, Default)]
pub struct Conflicts {
    entries: i64,
    bytes: i64,
    /// Something was put in or went since [`Conflicts::take_news`].
    news: bool,
    /// It was said that the oldest go.
    is_full: bool,
}

impl Conflicts {
    /// Reads the sizes anew.
    pub fn load(&mut self, connection: &Connection) -> Result<(), Error> {
        (self.entries, self.bytes) = connection.query_row(SIZE, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        self.news = true;
        Ok(())
    }

    /// A person may have dropped some in another process.
    pub fn look(&mut self, connection: &Connection) -> Result<(), Error> {
        if self.entries > 0
            && connection.prepare_cached(COUNT)?.query_row([], |row| row.get(0)) != Ok(self.entries)
        {
            self.load(connection)?;
        }
        Ok(())
    }

    /// Whether the list may have changed since the last call.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// What a write of ours would have overwritten has been overwritten by somebody else: if that was a conflict, it is theirs.
    pub fn forget(&mut self, connection: &Connection, row: (&str, &[u8]), won_id: i64) -> Result<(), Error> {
        if self.entries == 0 {
            return Ok(());
        }
        let of_write = params![row.0, row.1, won_id];
        let gone =
            connection.prepare_cached(OVERWRITTEN)?.query_row(of_write, |row| row.get(0)).optional()?;
        self.count_out(gone);
        Ok(())
    }

    /// A row that was kept as an orphan is none, or is another node's to keep. `place`: the stream and sequence under which it is kept.
    pub fn forget_orphan(
        &mut self,
        connection: &Connection,
        row: (&str, &[u8]),
        place: (&str, u64),
    ) -> Result<(), Error> {
        let seq = i64::try_from(place.1).unwrap_or(i64::MAX);
        let of_orphan = params![row.0, row.1, place.0, seq];
        let gone = connection.prepare_cached(ORPHAN_OF)?.query_row(of_orphan, |row| row.get(0)).optional()?;
        self.count_out(gone);
        Ok(())
    }

    fn count_out(&mut self, bytes: Option<i64>) {
        if let Some(bytes) = bytes {
            self.entries -= 1;
            self.bytes -= bytes;
            self.news = true;
        }
    }

    /// What a write of ours would have overwritten has lost its place to an event of ours before: that is what it lost to, and no later
    /// write of its row changes that.
    pub fn is_displaced(
        &mut self,
        connection: &Connection,
        row: (&str, &[u8]),
        (won_id, by): (i64, i64),
    ) -> Result<(), Error> {
        let changed = connection.prepare_cached(DISPLACED)?.execute(params![row.0, row.1, won_id, by])?;
        self.news |= changed > 0;
        Ok(())
    }

    /// Keeps one. When there is no room, the oldest go.
    pub fn put(&mut self, connection: &Connection, found: &Found<'_>) -> Result<(), Error> {
        let columns = serde_json::to_string(&found.key_columns).unwrap_or_default();
        let bytes = found.payload.len() + found.key.len() + columns.len() + found.table.len();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.forget(connection, (found.table, found.key), found.won_id)?;
        self.make_room(connection, bytes)?;
        connection.prepare_cached(PUT)?.execute(params![
            found.table,
            found.key,
            found.kind.number(),
            found.lost_by.cast_signed(),
            found.won_by.cast_signed(),
            found.won_id,
            found.stream,
            i64::try_from(found.seq).unwrap_or(i64::MAX),
            found.time_ms,
            columns,
            found.payload
        ])?;
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.news = true;
        Ok(())
    }

    fn make_room(&mut self, connection: &Connection, bytes: i64) -> Result<(), Error> {
        let before = self.entries;
        while self.entries >= limits::CONFLICTS || self.bytes.saturating_add(bytes) > limits::CONFLICT_BYTES {
            let oldest = connection
                .prepare_cached(OLDEST)?
                .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((id, length)): Option<(i64, i64)> = oldest else { break };
            remove(connection, id)?;
            self.entries -= 1;
            self.bytes -= length;
        }
        if before > self.entries {
            let dropped = state::number(connection, DROPPED)? + before - self.entries;
            state::set_number(connection, DROPPED, dropped)?;
            if !std::mem::replace(&mut self.is_full, true) {
                log::warn!(
                    "the list of lost writes is full: the oldest go; -conflicts shows it, and -conflicts drop makes room"
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "conflicts_tests.rs"]
mod tests;
