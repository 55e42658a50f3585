//! Our state table: this database's incarnation, the checkpoint of each stream, and the highest id folded from each origin. It
//! is written in the transaction that applies events, and travels inside snapshots. All SQL on it stands here.

use crate::base::limits;
use crate::db::{error::Error, ours};
use crate::model::epoch::Epoch;
use crate::model::lists::Lists;
use crate::model::moments::Moments;
use crate::model::origin::{Origin, parse_incarnation};
use crate::model::positions::{Position, SeqMap};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::collections::BTreeSet;

pub const TABLE: &str = "__harmonylite__state";

/// Name of the text that a database has when it came from a snapshot: its rows are the cluster's.
pub const RESTORED: &str = "restored";
/// Name of the text that a database has which was taken over from the Go program.
pub const TAKEN_OVER: &str = "taken_over";
/// Name of the text that a database has from when tables of ours were found dropped until it is opened anew.
pub const MENDED: &str = "mended";
/// Name of the text that holds the schema hash of a snapshot.
pub const SCHEMA_HASH: &str = "schema_hash";

/// Name of the text with the hashes of the schema that was seen last, and of the one before.
pub const SCHEMA_SEEN: &str = "schema_seen";

/// Kind of the numbers about what is set aside.
const ASIDE: &str = "aside";
/// Kind of the numbers that say who has written a table.
const WRITERS: &str = "writers";
const INCARNATION: &str = "incarnation";

const CREATE: &str = "CREATE TABLE IF NOT EXISTS __harmonylite__state(kind TEXT NOT NULL, name TEXT NOT NULL, value, \
     PRIMARY KEY(kind, name)) WITHOUT ROWID";
const NAMELESS: &str = "nameless";
const FORGET_NAMELESS: &str = "DELETE FROM __harmonylite__state WHERE kind = 'nameless' AND name = ?1";
const GET: &str = "SELECT value FROM __harmonylite__state WHERE kind = ?1 AND name = ?2";
const SET: &str = "INSERT OR REPLACE INTO __harmonylite__state(kind, name, value) VALUES(?1, ?2, ?3)";
const POSITIONS: &str = "SELECT name, value FROM __harmonylite__state WHERE kind = 'seq'";
const GENERATION: &str = "SELECT name || '=' || value FROM __harmonylite__state WHERE kind = 'created' AND value <> '' ORDER BY name";
const FORGET_HEARD: &str =
    "DELETE FROM __harmonylite__state WHERE kind = 'heard' AND substr(name, 1, length(?1) + 1) = ?1 || ' '";
const MOMENTS: &str = "moments";
const EPOCH: &str = "epoch";
/// Names of the texts about the epoch: the one that the database is in, and, while it compares itself with others because of a new
/// one, how far it had come.
const NOW: &str = "now";
const STANDING: &str = "standing";
const FORGET_STANDING: &str = "DELETE FROM __harmonylite__state WHERE kind = 'epoch' AND name = 'standing'";
/// What two databases that hold the same have in common, beside what they have logged.
const COMMON: &str = "SELECT kind || ' ' || name || ' ' || value FROM __harmonylite__state \
     WHERE kind IN ('seq', 'created', 'folded', 'nameless') ORDER BY 1";
/// What is taken from a snapshot.
pub const OF_SNAPSHOT: &str = "'seq', 'created', 'folded', 'heard', 'aside', 'moments', 'epoch'";
/// Sequences that are told apart as the last at which an origin was heard of.
const HEARD_STEP: u64 = 1_024;
const SET_HEARD: &str = "INSERT INTO __harmonylite__state(kind, name, value) VALUES('heard', ?1, ?2) \
     ON CONFLICT(kind, name) DO UPDATE SET value = excluded.value WHERE value <> excluded.value";
const FORGET_OLDEST: &str = "DELETE FROM __harmonylite__state WHERE kind = 'folded' AND name IN (SELECT f.name FROM __harmonylite__state f \
     LEFT JOIN __harmonylite__state h ON h.kind = 'heard' AND h.name = f.name WHERE f.kind = 'folded' \
     AND substr(f.name, 1, length(?1) + 1) = ?1 || ' ' AND f.name <> ?2 ORDER BY coalesce(h.value, 0) DESC LIMIT -1 OFFSET ?3)";
const FORGET_UNHEARD: &str = "DELETE FROM __harmonylite__state WHERE kind = 'heard' AND name NOT IN \
     (SELECT name FROM __harmonylite__state WHERE kind = 'folded')";
const FOLDED_NAMES: &str = "SELECT name FROM __harmonylite__state WHERE kind = 'folded'";
const REMOVE_META: &str = "DELETE FROM __harmonylite__state WHERE kind = 'meta' AND name = ?1";
const FORGET_OWN: &str = "DELETE FROM __harmonylite__state WHERE kind IN ('meta', 'refused', 'rebuilt')";
/// Kind of the names of tables that were built anew while nothing was captured.
const REBUILT: &str = "rebuilt";
const ALL_REBUILT: &str = "SELECT name, value FROM __harmonylite__state WHERE kind = 'rebuilt' ORDER BY name";
const FORGET_REBUILT: &str = "DELETE FROM __harmonylite__state WHERE kind = 'rebuilt'";
const FORGET_REBUILT_TABLE: &str =
    "DELETE FROM __harmonylite__state WHERE kind = 'rebuilt' AND name = ?1 COLLATE NOCASE";
/// Kind of the text that holds the lists of tables, and its name.
const LISTS: &str = "tables";
/// Kind of the names of tables that are replicated again and whose rows are not yet those of the cluster.
const INCLUDED: &str = "included";
/// Kind of the names of tables whose events were passed over, because they are not replicated here.
const PASSED: &str = "passed";
const NAMES: &str = "SELECT name FROM __harmonylite__state WHERE kind = ?1 ORDER BY name";
const FORGET_NAME: &str = "DELETE FROM __harmonylite__state WHERE kind = ?1 AND name = ?2 COLLATE NOCASE";
const REFUSED: &str = "SELECT CAST(name AS INTEGER) FROM __harmonylite__state WHERE kind = 'refused'";
const FORGET_PUBLISHED: &str = "DELETE FROM __harmonylite__state WHERE kind = 'refused' \
     AND CAST(name AS INTEGER) NOT IN (SELECT id FROM __harmonylite__log WHERE t <> 0)";

pub fn create(connection: &Connection) -> Result<(), Error> {
    Ok(connection.execute_batch(CREATE)?)
}

pub fn exists(connection: &Connection) -> Result<bool, Error> {
    ours::has_table(connection, TABLE)
}

fn get<T: rusqlite::types::FromSql>(
    connection: &Connection,
    kind: &str,
    name: &str,
) -> Result<Option<T>, Error> {
    Ok(connection.prepare_cached(GET)?.query_row([kind, name], |row| row.get(0)).optional()?)
}

fn set(connection: &Connection, kind: &str, name: &str, value: impl rusqlite::ToSql) -> Result<(), Error> {
    connection.prepare_cached(SET)?.execute(params![kind, name, value])?;
    Ok(())
}

/// One text about the database or snapshot as a whole.
pub fn meta(connection: &Connection, name: &str) -> Result<Option<String>, Error> {
    get(connection, "meta", name)
}

pub fn set_meta(connection: &Connection, name: &str, value: &str) -> Result<(), Error> {
    set(connection, "meta", name, value)
}

pub fn remove_meta(connection: &Connection, name: &str) -> Result<(), Error> {
    connection.execute(REMOVE_META, [name])?;
    Ok(())
}

/// Who has written a table (see [`crate::db::apply`]); 0: nobody that is known.
pub fn writers(connection: &Connection, table: &str) -> Result<i64, Error> {
    Ok(get(connection, WRITERS, table)?.unwrap_or(0))
}

pub fn set_writers(connection: &Connection, table: &str, who: i64) -> Result<(), Error> {
    set(connection, WRITERS, table, who)
}

/// A number about what is set aside; 0 when it was never written.
pub fn number(connection: &Connection, name: &str) -> Result<i64, Error> {
    Ok(get(connection, ASIDE, name)?.unwrap_or(0))
}

pub fn set_number(connection: &Connection, name: &str, number: i64) -> Result<(), Error> {
    set(connection, ASIDE, name, number)
}

/// Removes what a database says of itself alone.
pub fn forget_own(connection: &Connection) -> Result<(), Error> {
    connection.execute(FORGET_OWN, [])?;
    Ok(())
}

/// Notes that the row of a log entry cannot be published: entries with higher ids are in the streams, and it is not.
pub fn note_refused(connection: &Connection, id: i64) -> Result<(), Error> {
    connection.execute(FORGET_PUBLISHED, [])?;
    set(connection, "refused", &id.to_string(), 1)
}

/// Notes that a table was built anew while nothing was captured. `id`: the highest log id when it was captured again.
pub fn note_rebuilt(connection: &Connection, table: &str, id: i64) -> Result<(), Error> {
    set(connection, REBUILT, table, id)
}

/// The tables that were, with those ids.
pub fn rebuilt(connection: &Connection) -> Result<Vec<(String, i64)>, Error> {
    let mut statement = connection.prepare(ALL_REBUILT)?;
    let tables = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(tables.collect::<Result<_, _>>()?)
}

/// The rows of a table that was built anew are those that it had.
pub fn forget_rebuilt_table(connection: &Connection, table: &str) -> Result<(), Error> {
    connection.execute(FORGET_REBUILT_TABLE, [table])?;
    Ok(())
}

pub fn forget_rebuilt(connection: &Connection) -> Result<(), Error> {
    connection.execute(FORGET_REBUILT, [])?;
    Ok(())
}

/// The lists of tables that the database was opened with last; `None`: it knows none.
pub fn lists(connection: &Connection) -> Result<Option<Lists>, Error> {
    if !exists(connection)? {
        return Ok(None);
    }
    Ok(get::<String>(connection, LISTS, LISTS)?.map(|text| Lists::decode(&text)))
}

pub fn set_lists(connection: &Connection, lists: &Lists) -> Result<(), Error> {
    set(connection, LISTS, LISTS, lists.encode())
}

fn names(connection: &Connection, kind: &str) -> Result<Vec<String>, Error> {
    let mut statement = connection.prepare_cached(NAMES)?;
    let names = statement.query_map([kind], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// Notes that a table is replicated from now on, and was not before: its rows are not yet those of the cluster.
pub fn note_included(connection: &Connection, table: &str) -> Result<(), Error> {
    set(connection, INCLUDED, table, 1)
}

/// The tables that are, whether they are there or not.
pub fn included(connection: &Connection) -> Result<Vec<String>, Error> {
    names(connection, INCLUDED)
}

/// The rows of a table are those of the cluster, or it is not replicated any more.
pub fn forget_included(connection: &Connection, table: &str) -> Result<(), Error> {
    connection.execute(FORGET_NAME, [INCLUDED, table])?;
    Ok(())
}

/// Notes that an event of a table was passed over.
pub fn note_passed(connection: &Connection, table: &str) -> Result<(), Error> {
    set(connection, PASSED, table, 1)
}

/// The tables of which events were passed over.
pub fn passed(connection: &Connection) -> Result<Vec<String>, Error> {
    names(connection, PASSED)
}

pub fn forget_passed(connection: &Connection, table: &str) -> Result<(), Error> {
    connection.execute(FORGET_NAME, [PASSED, table])?;
    Ok(())
}

/// The log ids of entries that could not be published.
pub fn refused(connection: &Connection) -> Result<Vec<i64>, Error> {
    let mut statement = connection.prepare(REFUSED)?;
    let ids = statement.query_map([], |row| row.get(0))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

/// Gives the database a new incarnation, under which the ids of its change log begin anew for everybody.
pub fn new_incarnation(connection: &Connection) -> Result<(), Error> {
    set_meta(connection, INCARNATION, &format!("{:016x}", crate::base::random::random_u64()))
}

pub fn has_incarnation(connection: &Connection) -> Result<bool, Error> {
    Ok(meta(connection, INCARNATION)?.is_some())
}

/// Under which name this database publishes.
pub fn origin(connection: &Connection, node: u64) -> Result<Origin, Error> {
    let incarnation = meta(connection, INCARNATION)?.as_deref().and_then(parse_incarnation);
    let missing = || Error::Other(format!("{TABLE} has no incarnation; run -cleanup and start again"));
    Ok(Origin { node, incarnation: incarnation.ok_or_else(missing)? })
}

/// Gives the database a new incarnation if one of its positions is before the one that it had `reached`: it is an
/// older copy then, whose log gives ids again that others have folded. Returns whether it is.
pub fn new_incarnation_of_older_copy(connection: &mut Connection, reached: &SeqMap) -> Result<bool, Error> {
    let is_older = |connection: &Connection| -> Result<bool, Error> {
        let is_before =
            |(stream, seq): (&String, &u64)| reached.get(stream).is_some_and(|reached| reached > seq);
        Ok(positions(connection)?.iter().any(is_before))
    };
    if !is_older(connection)? {
        return Ok(false);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let older = is_older(&transaction)?;
    if older {
        new_incarnation(&transaction)?;
    }
    transaction.commit()?;
    Ok(older)
}

/// The position in a stream; `None` when the database never followed the stream.
pub fn position(connection: &Connection, stream: &str) -> Result<Option<Position>, Error> {
    let Some(seq) = get::<i64>(connection, "seq", stream)? else { return Ok(None) };
    let created = get::<String>(connection, "created", stream)?.unwrap_or_default();
    Ok(Some(Position { seq: u64::try_from(seq).unwrap_or(0), created }))
}

pub fn set_position(connection: &Connection, stream: &str, position: &Position) -> Result<(), Error> {
    set(connection, "created", stream, &position.created)?;
    connection.execute(FORGET_NAMELESS, [stream])?;
    set_seq(connection, stream, position.seq)
}

/// Sequence of the last message without a publisher's name that was applied while a set was open, after the position; 0: none.
pub fn nameless(connection: &Connection, stream: &str) -> Result<u64, Error> {
    Ok(get::<i64>(connection, NAMELESS, stream)?.and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0))
}

pub fn set_nameless(connection: &Connection, stream: &str, seq: u64) -> Result<(), Error> {
    set(connection, NAMELESS, stream, i64::try_from(seq).unwrap_or(i64::MAX))
}

/// Writes the sequence of a position, not the stream's time of creation.
pub fn set_seq(connection: &Connection, stream: &str, seq: u64) -> Result<(), Error> {
    set(connection, "seq", stream, i64::try_from(seq).unwrap_or(i64::MAX))
}

/// All positions, as the sequence map shows them.
pub fn positions(connection: &Connection) -> Result<SeqMap, Error> {
    let mut statement = connection.prepare_cached(POSITIONS)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))?;
    rows.map(|row| row.map(|(name, seq)| (name, u64::try_from(seq).unwrap_or(0))).map_err(Error::from))
        .collect()
}

/// The highest id folded from an origin in a stream; 0 when none was.
pub fn folded(connection: &Connection, stream: &str, origin: Origin) -> Result<i64, Error> {
    Ok(get(connection, "folded", &format!("{stream} {origin}"))?.unwrap_or(0))
}

/// `mark`: that id, and the sequence at which it was folded.
pub fn set_folded(
    connection: &Connection,
    stream: &str,
    origin: Origin,
    mark: (i64, u64),
) -> Result<(), Error> {
    let name = format!("{stream} {origin}");
    set(connection, "folded", &name, mark.0)?;
    // Every sequence would be a write more for each transaction; a rough one is enough to tell old from new.
    let heard = i64::try_from(mark.1 / HEARD_STEP).unwrap_or(i64::MAX);
    connection.prepare_cached(SET_HEARD)?.execute(params![name, heard])?;
    Ok(())
}

/// Keeps only the `ORIGINS` marks of a stream that were raised last, and `own`.
pub fn forget_oldest_folded(connection: &Connection, stream: &str, own: Option<Origin>) -> Result<(), Error> {
    let own = own.map_or(String::new(), |origin| format!("{stream} {origin}"));
    connection.prepare_cached(FORGET_OLDEST)?.execute(params![
        stream,
        own,
        i64::try_from(limits::ORIGINS).unwrap_or(i64::MAX)
    ])?;
    connection.prepare_cached(FORGET_UNHEARD)?.execute([])?;
    Ok(())
}

/// Forgets where in a stream each origin was heard of last. What was folded from it is not forgotten: ids rise, whatever the
/// stream is, and what comes once more from a broken connection is still a straggler.
pub fn forget_heard(connection: &Connection, stream: &str) -> Result<(), Error> {
    connection.execute(FORGET_HEARD, [stream])?;
    Ok(())
}

/// When messages of a stream were stored that were read here.
pub fn moments(connection: &Connection, stream: &str) -> Result<Moments, Error> {
    Ok(Moments::parse(&get::<String>(connection, MOMENTS, stream)?.unwrap_or_default()))
}

pub fn set_moments(connection: &Connection, stream: &str, moments: &Moments) -> Result<(), Error> {
    set(connection, MOMENTS, stream, moments.to_string())
}

/// Forgets all of them but the newest one.
pub fn keep_newest_moment(connection: &Connection, stream: &str) -> Result<(), Error> {
    let known = moments(connection, stream)?;
    let mut newest = Moments::default();
    if let Some((seq, time_ms)) = known.pairs().first() {
        newest.push(*seq, *time_ms);
    }
    if newest == known { Ok(()) } else { set_moments(connection, stream, &newest) }
}

/// The epoch that the rows and the positions belong to.
pub fn epoch(connection: &Connection) -> Result<Epoch, Error> {
    Ok(get::<String>(connection, EPOCH, NOW)?.and_then(|text| Epoch::parse(&text)).unwrap_or_default())
}

/// The database is in this epoch now, and has compared itself with others as far as it had to.
pub fn set_epoch(connection: &Connection, epoch: Epoch) -> Result<(), Error> {
    set(connection, EPOCH, NOW, epoch.to_string())?;
    connection.execute(FORGET_STANDING, [])?;
    Ok(())
}

/// How far the database had come before the streams changed; `None`: it is in its epoch.
pub fn standing(connection: &Connection) -> Result<Option<String>, Error> {
    get(connection, EPOCH, STANDING)
}

/// Why a database has to compare itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Others have lost something.
    Others,
    /// What it had read is lost.
    Lost,
    /// It has not read what a stream does not hold any more, so that it is like no other one.
    Gap,
}

/// Notes how far the database had come: how many messages it had `read` that are lost, and a digest that is equal where the rows are.
/// Messages that are lost one after the other, before the database has compared itself, add up. One that has lost nothing knows
/// nothing of what is lost.
pub fn note_standing(connection: &Connection, why: Why, read: u64) -> Result<(), Error> {
    let before = standing(connection)?;
    if before.is_some() && why == Why::Others {
        return Ok(());
    }
    let before = before.and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(0_u64);
    let mut statement = connection.prepare(COMMON)?;
    let mut lines: Vec<String> =
        statement.query_map([], |row| row.get(0))?.collect::<Result<_, rusqlite::Error>>()?;
    if why == Why::Gap {
        lines.push(crate::base::random::random_u64().to_string());
    }
    set(connection, EPOCH, STANDING, format!("{} {}", before.saturating_add(read), hash(&lines)))
}

/// The generation of the streams that the positions count in: a short hash that changes when one of them is created anew, or lost
/// what was read from it.
/// Empty when no stream's time of creation is known.
pub fn generation(connection: &Connection) -> Result<String, Error> {
    generation_in(connection, epoch(connection)?)
}

/// The same, as it will be in another epoch.
pub fn generation_in(connection: &Connection, epoch: Epoch) -> Result<String, Error> {
    let mut statement = connection.prepare(GENERATION)?;
    let mut lines: Vec<String> =
        statement.query_map([], |row| row.get(0))?.collect::<Result<_, rusqlite::Error>>()?;
    if lines.is_empty() {
        return Ok(String::new());
    }
    // Until the broker forgets something, there are no epochs.
    if epoch != Epoch::default() {
        lines.push(epoch.to_string());
    }
    Ok(hash(&lines)[..8].to_owned())
}

fn hash(lines: &[String]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, lines.join("\n").as_bytes());
    data_encoding::HEXLOWER.encode(&hash.as_ref()[..16])
}

/// Nodes of which something was folded, as far as that is remembered.
pub fn known_nodes(connection: &Connection) -> Result<BTreeSet<u64>, Error> {
    let mut statement = connection.prepare_cached(FOLDED_NAMES)?;
    let mut rows = statement.query([])?;
    let mut nodes = BTreeSet::new();
    while let Some(row) = rows.next()? {
        // The stream, a space, the origin: the node, a dash, the incarnation.
        let name: String = row.get(0)?;
        let node = name.rsplit(' ').next().and_then(|origin| origin.split('-').next());
        nodes.extend(node.and_then(|node| node.parse::<u64>().ok()));
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        create(&connection).unwrap();
        connection
    }

    #[test]
    fn positions_are_kept_for_each_stream() {
        let c = database();
        assert_eq!(position(&c, "s-1").unwrap(), None);
        let at = Position { seq: 7, created: "2025".to_owned() };
        set_position(&c, "s-1", &at).unwrap();
        set_seq(&c, "s-2", u64::MAX).unwrap();
        assert_eq!(position(&c, "s-1").unwrap(), Some(at));
        let unknown = Position { seq: i64::MAX.unsigned_abs(), created: String::new() };
        assert_eq!(position(&c, "s-2").unwrap(), Some(unknown));
        assert_eq!(positions(&c).unwrap().len(), 2);
    }

    #[test]
    fn marks_of_one_stream_are_forgotten_alone() {
        let c = database();
        let origin = Origin { node: 7, incarnation: 1 };
        for stream in ["s-1", "s-10", "s-1 x"] {
            set_folded(&c, stream, origin, (5, 1)).unwrap();
        }
        forget_heard(&c, "s-1").unwrap();
        assert_eq!(folded(&c, "s-1", origin).unwrap(), 5);
        assert_eq!(folded(&c, "s-10", origin).unwrap(), 5);
        assert_eq!(folded(&c, "s-10", Origin { node: 8, ..origin }).unwrap(), 0);
    }

    #[test]
    fn an_incarnation_is_needed_and_never_the_same_again() {
        let c = database();
        assert!(origin(&c, 1).unwrap_err().to_string().contains("no incarnation"));
        new_incarnation(&c).unwrap();
        let first = origin(&c, 1).unwrap();
        assert_eq!((first.node, origin(&c, 1).unwrap()), (1, first));
        new_incarnation(&c).unwrap();
        assert_ne!(origin(&c, 1).unwrap(), first);
    }

    #[test]
    fn the_generation_changes_with_the_creation_of_a_stream_alone() {
        let c = database();
        let at = |seq, created: &str| Position { seq, created: created.to_owned() };
        set_position(&c, "s-1", &at(1, "")).unwrap();
        assert_eq!(generation(&c).unwrap(), "");
        set_position(&c, "s-1", &at(1, "2025-01-01")).unwrap();
        let first = generation(&c).unwrap();
        assert_eq!(first.len(), 8);
        set_seq(&c, "s-1", 2).unwrap();
        assert_eq!(generation(&c).unwrap(), first);
        set_position(&c, "s-1", &at(2, "2025-01-02")).unwrap();
        assert_ne!(generation(&c).unwrap(), first);
    }

    #[test]
    fn texts_go_together_and_leave_positions() {
        let c = database();
        set_meta(&c, RESTORED, "1").unwrap();
        set_seq(&c, "s-1", 3).unwrap();
        forget_own(&c).unwrap();
        assert_eq!(meta(&c, RESTORED).unwrap(), None);
        assert_eq!(positions(&c).unwrap(), SeqMap::from([("s-1".to_owned(), 3)]));
    }
}
