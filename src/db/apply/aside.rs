//! Events that are set aside, whole: those that wait for a table or column which a migration may still bring, and those that
//! the database refused. They are kept in the order of their arrival, within bounds; the table's other rows go on.

use crate::base::{clock, digest, limits};
use crate::db::{error::Error, open, ours, state};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

pub const TABLE: &str = "__harmonylite__set_aside";
/// The table of earlier versions, which held waiting events alone.
const PARKED: &str = "__harmonylite__parked";
/// Those that a snapshot may hold.
pub const TABLES: [&str; 2] = [TABLE, PARKED];

const CREATE: &str = "CREATE TABLE IF NOT EXISTS __harmonylite__set_aside(id INTEGER PRIMARY KEY, stream TEXT NOT NULL, \
     seq INTEGER NOT NULL, row INTEGER NOT NULL DEFAULT 0, tbl TEXT NOT NULL, key BLOB NOT NULL, state INTEGER NOT NULL, \
     overtaken INTEGER NOT NULL, missing TEXT NOT NULL, why TEXT NOT NULL, since INTEGER NOT NULL, payload BLOB NOT NULL, \
     UNIQUE(stream, seq, row)); \
     CREATE INDEX IF NOT EXISTS __harmonylite__set_aside_key ON __harmonylite__set_aside(tbl, key, state); \
     CREATE INDEX IF NOT EXISTS __harmonylite__set_aside_state ON __harmonylite__set_aside(state);";
/// Earlier versions had one event of a message.
const TAKE_SINGLE: [&str; 2] = [
    "ALTER TABLE __harmonylite__set_aside RENAME TO __harmonylite__set_aside_single; DROP INDEX __harmonylite__set_aside_key; \
     DROP INDEX __harmonylite__set_aside_state",
    "INSERT INTO __harmonylite__set_aside(id, stream, seq, tbl, key, state, overtaken, missing, why, since, payload) \
     SELECT id, stream, seq, tbl, key, state, overtaken, missing, why, since, payload FROM __harmonylite__set_aside_single; \
     DROP TABLE __harmonylite__set_aside_single",
];
const HAS_ROWS: &str = "SELECT 1 FROM pragma_table_info('__harmonylite__set_aside') WHERE name = 'row'";
const TAKE_PARKED: &str = "INSERT OR IGNORE INTO __harmonylite__set_aside(stream, seq, tbl, key, state, overtaken, missing, why, since, \
     payload) SELECT stream, seq, tbl, x'', 0, 0, '[]', '', 0, payload FROM __harmonylite__parked ORDER BY stream, seq; \
     DROP TABLE __harmonylite__parked;";
/// Bytes that an event takes of the room: its message, and all that is kept beside it and may be large. Table and key stand in an
/// index, too. In SQLite, `length` counts the characters of a text, up to a zero.
macro_rules! bytes {
    () => {
        "length(payload) + length(CAST(missing AS BLOB)) + length(CAST(why AS BLOB)) + 2 * (length(CAST(tbl AS BLOB)) + length(key))"
    };
}

pub(super) const COLUMNS: &str =
    concat!("id, stream, seq, tbl, key, state, overtaken, missing, why, since, payload, ", bytes!());
const PUT: &str = "INSERT OR REPLACE INTO __harmonylite__set_aside(id, stream, seq, tbl, key, state, overtaken, missing, why, since, \
     payload, row) VALUES(?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8, ?9, ?10, ?11)";
const AMEND: &str = "UPDATE __harmonylite__set_aside SET tbl = ?2, key = ?3, state = ?4, missing = ?5, why = ?6 WHERE id = ?1";
const REMOVE: &str = "DELETE FROM __harmonylite__set_aside WHERE id = ?1";
const WAITS: &str = "SELECT 1 FROM __harmonylite__set_aside WHERE tbl = ?1 AND key IN (?2, x'') AND state <> 1 AND id < ?3 LIMIT 1";
const SETTLE: &str = concat!(
    "DELETE FROM __harmonylite__set_aside WHERE tbl = ?1 AND key = ?2 AND state = 1 RETURNING ",
    bytes!()
);
/// Of those of one state, but for one.
const OLDEST: &str = concat!(
    "SELECT id, ",
    bytes!(),
    " FROM __harmonylite__set_aside WHERE state = ?1 AND id <> ?2 ORDER BY id LIMIT 1"
);
const SIZES: &str =
    concat!("SELECT count(*), coalesce(sum(", bytes!(), "), 0) FROM __harmonylite__set_aside WHERE state ");
const LONG_KEY: &str =
    "SELECT id, key FROM __harmonylite__set_aside WHERE id > ?1 AND length(key) > ?2 ORDER BY id LIMIT 1";
const SHORTEN_KEY: &str = "UPDATE __harmonylite__set_aside SET key = ?2 WHERE id = ?1";
const HOLDS: &str = "SELECT 1 FROM __harmonylite__set_aside WHERE id = ?1";
const COUNT: &str = "SELECT count(*) FROM __harmonylite__set_aside";
const OF_TABLES: &str = "SELECT tbl, state = 1, count(*) FROM __harmonylite__set_aside GROUP BY tbl, state = 1 ORDER BY 1, 2 LIMIT 50";
const TRIED_AGAIN: &str = "SELECT 1 FROM __harmonylite__set_aside WHERE state = 2 LIMIT 1";

/// Bytes of the longest key that is kept as it is: as many as a digest in hex has.
const KEY_BYTES: usize = 64;
/// Name of the number of the last event that was set aside: numbers are not used again.
const LAST: &str = "last";
/// Name of the number of waiting events that were dropped, the oldest first, because there were too many.
const LOST_WAITING: &str = "lost waiting";
/// The same of refused events.
const LOST_REFUSED: &str = "lost refused";

/// What an event that is set aside is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for a table or column.
    Waiting,
    /// The database refused it.
    Refused,
    /// A person asked for it to be tried again.
    Again,
}

impl State {
    fn number(self) -> i64 {
        match self {
            State::Waiting => 0,
            State::Refused => 1,
            State::Again => 2,
        }
    }

    fn of(number: i64) -> State {
        match number {
            1 => State::Refused,
            2 => State::Again,
            _ => State::Waiting,
        }
    }

    /// The word by which people and programs know it.
    pub fn word(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Refused => "refused",
            State::Again => "to be tried again",
        }
    }
}

/// Why an event is set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The table's name as the event has it; empty when the bytes are no event.
    pub table: String,
    /// The row's key (see [`crate::db::table::Table::row_key`]); empty when it is not known.
    pub key: Vec<u8>,
    /// Columns that are not here, at most [`limits::ASIDE_COLUMNS`]; empty for a table that is not here, and for a refused event.
    pub missing: Vec<String>,
    pub refused: bool,
    /// In words; empty for an event that waits because an earlier one of its row does.
    pub why: String,
}

/// An event that is set aside.
#[derive(Clone, Debug)]
pub struct Held {
    /// Numbers rise in the order of arrival.
    pub id: i64,
    pub stream: String,
    pub seq: i64,
    pub table: String,
    pub key: Vec<u8>,
    pub state: State,
    /// The application here has written the row since, and that came back: of a waiting event only the missing columns count.
    pub overtaken: bool,
    pub missing: Vec<String>,
    pub why: String,
    /// Unix milliseconds; 0: not known.
    pub since_ms: i64,
    /// The message's body.
    pub payload: Vec<u8>,
    /// What it takes of the room.
    bytes: i64,
}

impl Held {
    /// Why it is set aside.
    pub fn cause(&self) -> Cause {
        Cause {
            table: self.table.clone(),
            key: self.key.clone(),
            missing: self.missing.clone(),
            refused: self.state == State::Refused,
            why: self.why.clone(),
        }
    }

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Held> {
        let missing: String = row.get(7)?;
        Ok(Held {
            id: row.get(0)?,
            stream: row.get(1)?,
            seq: row.get(2)?,
            table: row.get(3)?,
            key: row.get(4)?,
            state: State::of(row.get(5)?),
            overtaken: row.get(6)?,
            missing: serde_json::from_str(&missing).unwrap_or_default(),
            why: row.get(8)?,
            since_ms: row.get(9)?,
            payload: row.get(10)?,
            bytes: row.get(11)?,
        })
    }
}

/// How many events of a table are set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfTable {
    pub table: String,
    pub refused: bool,
    pub events: u64,
}

/// What is set aside, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAside {
    /// At most fifty tables.
    pub tables: Vec<OfTable>,
    /// Waiting events that were dropped because there were too many.
    pub lost_waiting: u64,
    /// The same of refused events.
    pub lost_refused: u64,
}

pub fn create(connection: &Connection) -> Result<(), Error> {
    let [set_apart, take] = TAKE_SINGLE;
    let single = ours::has_table(connection, TABLE)? && !connection.prepare(HAS_ROWS)?.exists([])?;
    if single {
        connection.execute_batch(set_apart)?;
    }
    connection.execute_batch(CREATE)?;
    if single {
        connection.execute_batch(take)?;
    }
    if ours::has_table(connection, PARKED)? {
        connection.execute_batch(TAKE_PARKED)?;
    }
    shorten_keys(connection)
}

/// Whether [`create`] has nothing to do.
pub fn is_up_to_date(connection: &Connection) -> Result<bool, Error> {
    let index = "SELECT 1 FROM main.sqlite_schema WHERE name = '__harmonylite__set_aside_state'";
    Ok(ours::has_table(connection, TABLE)?
        && connection.prepare(HAS_ROWS)?.exists([])?
        && connection.prepare(index)?.exists([])?
        && !ours::has_table(connection, PARKED)?
        && !connection.prepare(LONG_KEY)?.exists(params![0, KEY_BYTES as i64])?)
}

/// Keys are only compared for equality, so a long one is kept as its digest: a value of many megabytes may be a few kilobytes on
/// its way. A digest in hex is never taken for a key, which begins with the table's number.
pub(super) fn known_by(key: &[u8]) -> Cow<'_, [u8]> {
    if key.len() <= KEY_BYTES { Cow::Borrowed(key) } else { digest::hex_sha256(key).into_bytes().into() }
}

/// Earlier versions kept keys of any length as they were.
fn shorten_keys(connection: &Connection) -> Result<(), Error> {
    let mut last = 0;
    loop {
        let query = params![last, KEY_BYTES as i64];
        let found = connection
            .prepare_cached(LONG_KEY)?
            .query_row(query, |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((id, key)): Option<(i64, Vec<u8>)> = found else { return Ok(()) };
        connection.prepare_cached(SHORTEN_KEY)?.execute(params![id, known_by(&key)])?;
        last = id;
    }
}

pub fn is_empty(connection: &Connection) -> Result<bool, Error> {
    let sql = format!("SELECT NOT EXISTS(SELECT 1 FROM {TABLE})");
    Ok(!ours::has_table(connection, TABLE)? || connection.query_row(&sql, [], |row| row.get(0))?)
}

/// Which of the events that are set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// The one of this number.
    One(i64),
}

/// Runs a statement on all or one; returns the number of events that there were.
fn each(path: &Path, sql: &str, which: Which) -> Result<usize, Error> {
    let connection = open::open(path)?;
    if !ours::has_table(&connection, TABLE)? {
        return Ok(0);
    }
    match which {
        Which::All => Ok(connection.execute(sql, [])?),
        Which::One(id) => Ok(connection.execute(&format!("{sql} WHERE id = ?1"), [id])?),
    }
}

/// What is set aside in the database at `path`, in the order of arrival.
pub fn list(path: &Path) -> Result<Vec<Held>, Error> {
    let connection = open::open(path)?;
    if !ours::has_table(&connection, TABLE)? {
        return Ok(vec![]);
    }
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM {TABLE} ORDER BY id"))?;
    let held = statement.query_map([], Held::read)?;
    Ok(held.collect::<Result<_, _>>()?)
}

/// Marks events of the database at `path` to be tried again by its daemon; returns how many.
pub fn try_again(path: &Path, which: Which) -> Result<usize, Error> {
    each(path, &format!("UPDATE {TABLE} SET state = 2"), which)
}

/// Drops events of the database at `path` for good; returns how many. Who drops all knows of those that were lost, too.
pub fn discard(path: &Path, which: Which) -> Result<usize, Error> {
    let gone = each(path, &format!("DELETE FROM {TABLE}"), which)?;
    let connection = open::open(path)?;
    if which == Which::All && state::exists(&connection)? {
        state::set_number(&connection, LOST_WAITING, 0)?;
        state::set_number(&connection, LOST_REFUSED, 0)?;
    }
    Ok(gone)
}

pub fn summary(connection: &Connection) -> Result<SetAside, Error> {
    let mut statement = connection.prepare_cached(OF_TABLES)?;
    let of_table = |row: &Row<'_>| {
        Ok(OfTable { table: row.get(0)?, refused: row.get(1)?, events: row.get::<_, i64>(2)?.unsigned_abs() })
    };
    let tables = statement.query_map([], of_table)?.collect::<Result<_, _>>()?;
    let lost = |name: &str| state::number(connection, name).map(i64::unsigned_abs);
    Ok(SetAside { tables, lost_waiting: lost(LOST_WAITING)?, lost_refused: lost(LOST_REFUSED)? })
}

/// The same; nothing in a database that has no such table.
pub fn summary_if_any(connection: &Connection) -> Result<SetAside, Error> {
    if ours::has_table(connection, TABLE)? { summary(connection) } else { Ok(SetAside::default()) }
}

/// Whether events of a row are set aside, for whatever reason.
pub fn holds_row(connection: &Connection, (table, key): (&str, &[u8])) -> Result<bool, Error> {
    if !ours::has_table(connection, TABLE)? {
        return Ok(false);
    }
    let sql = "SELECT 1 FROM __harmonylite__set_aside WHERE tbl = ?1 AND key = ?2 LIMIT 1";
    Ok(connection.prepare_cached(sql)?.exists(params![table, known_by(key)])?)
}

/// A cause as it is written down.
struct Kept<'a> {
    cause: &'a Cause,
    state: State,
    key: Cow<'a, [u8]>,
    missing: String,
}

impl Kept<'_> {
    fn of(cause: &Cause) -> Kept<'_> {
        Kept {
            cause,
            state: if cause.refused { State::Refused } else { State::Waiting },
            key: known_by(&cause.key),
            missing: serde_json::to_string(&cause.missing).unwrap_or_default(),
        }
    }

    /// The same as in SQL.
    fn bytes(&self, payload: &[u8]) -> i64 {
        let Cause { table, why, .. } = self.cause;
        let bytes = payload.len() + self.missing.len() + why.len() + 2 * (table.len() + self.key.len());
        i64::try_from(bytes).unwrap_or(i64::MAX)
    }
}

/// The number of no event.
const NOBODY: i64 = 0;

/// Events and bytes of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    events: i64,
    bytes: i64,
}

impl Size {
    fn change(&mut self, events: i64, bytes: i64) {
        self.events += events;
        self.bytes += bytes;
    }
}

/// What the applying connection knows of its table.
#[derive(Debug, Default)]
pub struct Aside {
    waiting: Size,
    refused: Size,
    /// What was said: once for each table and reason.
    said: HashSet<String>,
    /// Something was set aside or left since [`Aside::take_news`].
    news: bool,
    /// Events are shown as dropped for want of room.
    shown_lost: bool,
}

impl Aside {
    /// So many reasons are remembered as said.
    const SAID: usize = 1_000;

    /// Reads the sizes anew.
    pub fn load(&mut self, connection: &Connection) -> Result<(), Error> {
        let size = |which: &str| {
            let size = |row: &Row<'_>| Ok(Size { events: row.get(0)?, bytes: row.get(1)? });
            connection.query_row(&format!("{SIZES}{which}"), [], size)
        };
        (self.waiting, self.refused) = (size("<> 1")?, size("= 1")?);
        self.news = true;
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.events == 0 && self.refused.events == 0
    }

    pub fn any_waits(&self) -> bool {
        self.waiting.events > 0
    }

    /// A person may have dropped events in another process.
    pub fn look(&mut self, connection: &Connection) -> Result<(), Error> {
        if self.is_empty() && !self.shown_lost {
            return Ok(());
        }
        let count = connection.prepare_cached(COUNT)?.query_row([], |row| row.get::<_, i64>(0))?;
        if count != self.waiting.events + self.refused.events || (count == 0 && self.shown_lost) {
            self.load(connection)?;
        }
        Ok(())
    }

    /// What was shown last.
    pub fn shown(&mut self, aside: &SetAside) {
        self.shown_lost = aside.lost_waiting + aside.lost_refused > 0;
    }

    /// Whether what is set aside may have changed since the last call.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Whether an event that was set aside before number `before` waits whose row has this key, or whose table was not here.
    pub fn waits(&self, connection: &Connection, row: (&str, &[u8]), before: i64) -> Result<bool, Error> {
        let query = params![row.0, known_by(row.1), before];
        Ok(self.any_waits() && connection.prepare_cached(WAITS)?.exists(query)?)
    }

    /// Whether an event is still set aside.
    pub fn holds(&self, connection: &Connection, held: &Held) -> Result<bool, Error> {
        Ok(connection.prepare_cached(HOLDS)?.exists([held.id])?)
    }

    /// Whether a person asked for something to be tried again.
    pub fn is_asked(&self, connection: &Connection) -> Result<bool, Error> {
        Ok(!self.is_empty() && connection.prepare_cached(TRIED_AGAIN)?.exists([])?)
    }

    /// Sets an event aside. When there is no room, the oldest of its kind go first.
    pub fn put(
        &mut self,
        connection: &Connection,
        place: (&str, u64, i64),
        cause: &Cause,
        payload: &[u8],
    ) -> Result<(), Error> {
        self.say(&format!("{} sequence {}", place.0, place.1), cause);
        let kept = Kept::of(cause);
        let bytes = kept.bytes(payload);
        if bytes > limits::ASIDE_BYTES {
            log::error!("it takes {bytes} bytes, more than is kept: dropped");
            return Aside::count_lost(connection, cause.refused, 1);
        }
        self.make_room(connection, kept.state, bytes, NOBODY)?;
        let id = state::number(connection, LAST)? + 1;
        state::set_number(connection, LAST, id)?;
        let seq = i64::try_from(place.1).unwrap_or(i64::MAX);
        connection.prepare_cached(PUT)?.execute(params![
            id,
            place.0,
            seq,
            cause.table,
            kept.key,
            kept.state.number(),
            kept.missing,
            cause.why,
            clock::unix_ms(),
            payload,
            place.2
        ])?;
        self.size(kept.state).change(1, bytes);
        self.news = true;
        Ok(())
    }

    /// What is known of the events of a state. Those that are to be tried again count as waiting.
    fn size(&mut self, state: State) -> &mut Size {
        if state == State::Refused { &mut self.refused } else { &mut self.waiting }
    }

    /// Drops the oldest events of a state, but not number `but`, until one of `bytes` bytes finds room.
    fn make_room(
        &mut self,
        connection: &Connection,
        state: State,
        bytes: i64,
        but: i64,
    ) -> Result<(), Error> {
        let mut lost = 0;
        loop {
            let size = self.size(state);
            if size.events < limits::ASIDE_EVENTS && size.bytes + bytes <= limits::ASIDE_BYTES {
                break;
            }
            let oldest = connection
                .prepare_cached(OLDEST)?
                .query_row([state.number(), but], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((id, length)): Option<(i64, i64)> = oldest else { break };
            connection.prepare_cached(REMOVE)?.execute([id])?;
            size.change(-1, -length);
            lost += 1;
        }
        Aside::count_lost(connection, state == State::Refused, lost)
    }

    fn count_lost(connection: &Connection, refused: bool, events: i64) -> Result<(), Error> {
        if events == 0 {
            return Ok(());
        }
        let name = if refused { LOST_REFUSED } else { LOST_WAITING };
        state::set_number(connection, name, state::number(connection, name)? + events)
    }

    /// An event that was tried again stays, for this cause.
    pub fn amend(&mut self, connection: &Connection, held: &Held, cause: &Cause) -> Result<(), Error> {
        self.say(&format!("{} sequence {}", held.stream, held.seq), cause);
        let kept = Kept::of(cause);
        if kept.state == held.state && *held.key == *kept.key && held.missing == cause.missing {
            return Ok(());
        }
        let bytes = kept.bytes(&held.payload);
        self.size(held.state).change(-1, -held.bytes);
        self.make_room(connection, kept.state, bytes, held.id)?;
        self.size(kept.state).change(1, bytes);
        self.news = true;
        let values = params![held.id, cause.table, kept.key, kept.state.number(), kept.missing, cause.why];
        connection.prepare_cached(AMEND)?.execute(values)?;
        Ok(())
    }

    /// An event is applied.
    pub fn remove(&mut self, connection: &Connection, held: &Held) -> Result<(), Error> {
        connection.prepare_cached(REMOVE)?.execute([held.id])?;
        self.size(held.state).change(-1, -held.bytes);
        self.news = true;
        Ok(())
    }

    /// A later event of the row was folded: what was refused before is as if it had been overwritten.
    pub fn settle(&mut self, connection: &Connection, row: (&str, &[u8])) -> Result<(), Error> {
        if self.refused.events == 0 {
            return Ok(());
        }
        let mut statement = connection.prepare_cached(SETTLE)?;
        let mut gone = statement.query(params![row.0, known_by(row.1)])?;
        while let Some(row) = gone.next()? {
            self.refused.change(-1, -row.get::<_, i64>(0)?);
            self.news = true;
        }
        Ok(())
    }

    /// The next events to be tried again after number `after`, up to `APPLY_BATCH` and `APPLY_BYTES`.
    pub fn next(&self, connection: &Connection, after: i64) -> Result<Vec<Held>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM {TABLE} WHERE state <> 1 AND id > ?1 ORDER BY id LIMIT ?2");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![after, limits::APPLY_BATCH as i64])?;
        let (mut found, mut bytes) = (vec![], 0);
        while bytes <= limits::APPLY_BYTES as i64
            && let Some(row) = rows.next()?
        {
            let held = Held::read(row)?;
            bytes += held.bytes;
            found.push(held);
        }
        Ok(found)
    }

    /// Says once for each table and reason what happens to its events.
    fn say(&mut self, place: &str, cause: &Cause) {
        let Cause { table, why, refused, .. } = cause;
        if why.is_empty() || self.said.len() >= Aside::SAID || !self.said.insert(format!("{table}\n{why}")) {
            return;
        }
        if *refused {
            log::error!("{place}: {why}: the event is set aside, and the others go on; -set-aside shows it");
        } else {
            log::warn!(
                "{place}: {why}: its events wait until the application changes its schema here; -set-aside shows them"
            );
        }
    }
}

#[cfg(test)]
#[path = "aside_tests.rs"]
mod tests;
