//! The changes of the schema that this database has seen, in their order: its own and those of others. They tell what to make of
//! events of older schemas, and travel inside snapshots.

use crate::base::limits;
use crate::db::{error::Error, ours};
use crate::model::change::Change;
use rusqlite::{Connection, OptionalExtension, params};

pub const TABLE: &str = "__harmonylite__change";
const CREATE: &str = "CREATE TABLE IF NOT EXISTS __harmonylite__change(n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, \
     state TEXT NOT NULL, time INTEGER NOT NULL, why TEXT NOT NULL, body TEXT NOT NULL)";
const PUT: &str = "INSERT INTO __harmonylite__change(id, state, time, why, body) VALUES(?1, ?2, ?3, ?4, ?5) \
     ON CONFLICT(id) DO UPDATE SET state = excluded.state, why = excluded.why, body = excluded.body";
/// What was waiting gets its place in the order.
const PLACE: &str = "DELETE FROM __harmonylite__change WHERE id = ?1 AND state IN ('waiting', 'own') AND ?2 IN ('done', 'failed')";
const REWRITE: &str = "UPDATE __harmonylite__change SET body = ?2 WHERE id = ?1";
const LAST_DONE: &str = "SELECT id FROM __harmonylite__change WHERE state = 'done' AND n < (SELECT coalesce(min(n), 9223372036854775807) FROM \
     __harmonylite__change WHERE state = 'failed') ORDER BY n DESC LIMIT 1";
const TRIM: &str = "DELETE FROM __harmonylite__change WHERE state NOT IN ('waiting', 'failed') AND n <= \
     (SELECT max(n) FROM __harmonylite__change) - ?1";
const ALL: &str = "SELECT state, time, why, body FROM __harmonylite__change ORDER BY state = 'waiting', n";
const STATE: &str = "SELECT state FROM __harmonylite__change WHERE id = ?1";
const WHY_FAILED: &str = "SELECT why FROM __harmonylite__change WHERE id = ?1 AND state = 'failed'";
const OF_STATE: &str = "SELECT n, body FROM __harmonylite__change WHERE state = ?1 ORDER BY n";
const ANY_OF_STATE: &str = "SELECT 1 FROM __harmonylite__change WHERE state = ?1 LIMIT 1";
const ANY_PUBLISHED: &str =
    "SELECT 1 FROM __harmonylite__change WHERE state NOT IN ('waiting', 'failed') LIMIT 1";
const FORGET_UNPUBLISHED: &str = "DELETE FROM __harmonylite__change WHERE state IN ('waiting', 'failed')";

/// What became of a change here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The application of this node made it, and it has not come back from the stream.
    Waiting,
    /// The application of this node made it, and it is not published: schemas do not travel.
    Own,
    /// The schema is as it says.
    Done,
    /// It could not be carried out, and is tried again.
    Failed,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Own => "own",
            State::Done => "done",
            State::Failed => "failed",
        }
    }

    fn of(word: &str) -> State {
        [State::Waiting, State::Own, State::Failed]
            .into_iter()
            .find(|s| s.word() == word)
            .unwrap_or(State::Done)
    }
}

/// A change that this database has seen.
#[derive(Clone, Debug)]
pub struct Past {
    pub state: State,
    /// When it was made here, Unix milliseconds.
    pub time_ms: i64,
    /// What it lost against others, or why it failed; empty: nothing.
    pub why: String,
    pub change: Change,
}

pub fn create(connection: &Connection) -> Result<(), Error> {
    Ok(connection.execute_batch(CREATE)?)
}

pub fn exists(connection: &Connection) -> Result<bool, Error> {
    ours::has_table(connection, TABLE)
}

/// Writes what became of a change.
pub fn put(
    connection: &Connection,
    change: &Change,
    state: State,
    (time_ms, why): (i64, &str),
) -> Result<(), Error> {
    connection.execute(PLACE, [&change.id, state.word()])?;
    connection.execute(PUT, params![change.id, state.word(), time_ms, why, change.body()])?;
    connection.execute(TRIM, [limits::CHANGES_KEPT])?;
    Ok(())
}

/// What a change comes to at its place in the order.
pub fn rewrite(connection: &Connection, change: &Change) -> Result<(), Error> {
    connection.execute(REWRITE, [&change.id, &change.body()])?;
    Ok(())
}

/// The id of the last change that was carried out with all before it.
pub fn last_done(connection: &Connection) -> Result<Option<String>, Error> {
    Ok(connection.prepare_cached(LAST_DONE)?.query_row([], |row| row.get(0)).optional()?)
}

/// What became of a change; `None`: it was not seen yet.
pub fn state_of(connection: &Connection, id: &str) -> Result<Option<State>, Error> {
    let word: Option<String> =
        connection.prepare_cached(STATE)?.query_row([id], |row| row.get(0)).optional()?;
    Ok(word.map(|word| State::of(&word)))
}

/// Why a change failed here; `None`: it did not.
pub fn why_failed(connection: &Connection, id: &str) -> Result<Option<String>, Error> {
    if !exists(connection)? {
        return Ok(None);
    }
    Ok(connection.prepare_cached(WHY_FAILED)?.query_row([id], |row| row.get(0)).optional()?)
}

/// All changes in their order, those that have no place as yet last. One that cannot be read, of a newer version, is left out.
pub fn all(connection: &Connection) -> Result<Vec<Past>, Error> {
    if !exists(connection)? {
        return Ok(vec![]);
    }
    let mut statement = connection.prepare(ALL)?;
    let rows = statement.query_map([], |row| {
        let (state, body): (String, String) = (row.get(0)?, row.get(3)?);
        let (time_ms, why) = (row.get(1)?, row.get(2)?);
        Ok(Change::parse(&body).ok().map(|change| Past { state: State::of(&state), time_ms, why, change }))
    })?;
    Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// The changes in a state, with their numbers.
pub fn in_state(connection: &Connection, state: State) -> Result<Vec<(i64, Change)>, Error> {
    if !exists(connection)? {
        return Ok(vec![]);
    }
    let mut statement = connection.prepare_cached(OF_STATE)?;
    let rows = statement.query_map([state.word()], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
    let rows: Vec<(i64, String)> = rows.collect::<Result<_, _>>()?;
    Ok(rows.into_iter().filter_map(|(number, body)| Some((number, Change::parse(&body).ok()?))).collect())
}

/// Whether any change is in a state.
pub fn any_in_state(connection: &Connection, state: State) -> Result<bool, Error> {
    Ok(exists(connection)? && connection.prepare_cached(ANY_OF_STATE)?.exists([state.word()])?)
}

/// Whether it has seen a change that is not its own alone.
pub fn any_published(connection: &Connection) -> Result<bool, Error> {
    Ok(exists(connection)? && connection.prepare(ANY_PUBLISHED)?.exists([])?)
}

/// Removes what is of one database alone: for a snapshot.
pub fn forget_unpublished(connection: &Connection) -> Result<(), Error> {
    connection.execute(FORGET_UNPUBLISHED, [])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::change::Step;

    #[test]
    fn the_oldest_changes_go_first_and_none_that_is_not_settled() {
        let connection = Connection::open_in_memory().unwrap();
        create(&connection).unwrap();
        let change = |name: &str| Change::new(1, 0, ("", ""), vec![Step::DropTable { table: name.into() }]);
        let (first, second) = (change("a"), change("b"));
        put(&connection, &first, State::Waiting, (0, "")).unwrap();
        put(&connection, &second, State::Done, (0, "")).unwrap();
        for _ in 0..limits::CHANGES_KEPT {
            put(&connection, &change("c"), State::Own, (0, "")).unwrap();
        }
        let all = all(&connection).unwrap();
        assert_eq!(all.len() as i64, limits::CHANGES_KEPT + 1);
        // It has no place as yet.
        assert_eq!((all[0].state, all.last().unwrap().state), (State::Own, State::Waiting));
        assert_eq!(state_of(&connection, &second.id).unwrap(), None);
        put(&connection, &first, State::Done, (0, "x lost")).unwrap();
        assert!(!any_in_state(&connection, State::Waiting).unwrap());
    }
}
