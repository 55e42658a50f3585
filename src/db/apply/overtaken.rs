//! Events that wait, and that a write of ours overtakes: it is later in the stream, and the application made it without them.

use crate::db::apply::aside::{Aside, COLUMNS, Held, TABLE, known_by};
use crate::db::apply::lost;
use crate::db::apply::session::Session;
use crate::db::apply::subject::{Source, Subject};
use crate::db::error::Error;
use crate::model::payload::Codec;
use rusqlite::{Connection, OptionalExtension, params};

const OVERTAKE: &str = "UPDATE __harmonylite__set_aside SET overtaken = 1 WHERE id = ?1";
const GONE: &str = "DELETE FROM __harmonylite__set_aside WHERE tbl = ?1 AND key = ?2 AND state <> 1";

/// A write of ours comes later than an event of its row that waits, and overtakes it: what the event says is lost, but for the columns
/// that are missing here. Before the log's entries of the row are settled.
pub fn note(session: &mut Session, codec: &mut Codec, subject: &Subject<'_>) -> Result<(), Error> {
    let row = (&*subject.table.name, subject.key.as_slice());
    if session.touched.is_none() {
        return Ok(());
    }
    let Some(held) = session.aside.last_waiting(&session.connection, row)? else { return Ok(()) };
    let Ok(event) = codec.unpack(&held.payload) else { return Ok(()) };
    let event = session.translated(&event).into_owned();
    let won_by = (session.node(), lost::first_touch(session, &subject.key)?);
    if let Some(lost) = Subject::new(&subject.table, &event, Source::default())
        && lost.event.node != won_by.0
    {
        let kind = lost::kind_of(session, &lost, won_by.1)?;
        let place = (&*held.stream, held.seq.unsigned_abs(), held.since_ms);
        lost::keep(session, &lost, kind, won_by, place)?;
    }
    Ok(())
}

/// An event of our own came back, which is later than those of its row that wait: of each, only the columns count that ours does not
/// have, and nothing if the row is gone. `columns`: so many of the event's first ones were published with it.
pub fn settle(
    session: &mut Session,
    codec: &mut Codec,
    subject: &Subject<'_>,
    columns: usize,
) -> Result<(), Error> {
    if !session.aside.any_waits() {
        return Ok(());
    }
    let of_row = params![&*subject.table.name, known_by(&subject.key)];
    if subject.is_tombstone() {
        if session.connection.prepare_cached(GONE)?.execute(of_row)? > 0 {
            session.aside.load(&session.connection)?;
        }
        return Ok(());
    }
    let published = &subject.event.row[..columns.min(subject.event.row.len())];
    let has = |name: &str| published.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    for held in session.aside.all_waiting(&session.connection, (&subject.table.name, &subject.key))? {
        let event = codec.unpack(&held.payload).ok();
        let event = event.as_ref().map(|event| session.translated(event));
        if event.is_some_and(|event| !event.is_tombstone() && event.row.iter().all(|(name, _)| has(name))) {
            session.aside.remove(&session.connection, &held)?;
        } else {
            session.connection.prepare_cached(OVERTAKE)?.execute([held.id])?;
        }
    }
    Ok(())
}

impl Aside {
    /// All events of a row that wait, in the order of their arrival.
    fn all_waiting(&self, connection: &Connection, row: (&str, &[u8])) -> Result<Vec<Held>, Error> {
        let sql =
            format!("SELECT {COLUMNS} FROM {TABLE} WHERE tbl = ?1 AND key = ?2 AND state <> 1 ORDER BY id");
        let mut statement = connection.prepare_cached(&sql)?;
        let held = statement.query_map(params![row.0, known_by(row.1)], Held::read)?;
        Ok(held.collect::<Result<_, _>>()?)
    }

    /// The last event of a row that waits and was not overtaken before.
    fn last_waiting(&self, connection: &Connection, row: (&str, &[u8])) -> Result<Option<Held>, Error> {
        if !self.any_waits() {
            return Ok(None);
        }
        let sql = format!(
            "SELECT {COLUMNS} FROM {TABLE} WHERE tbl = ?1 AND key = ?2 AND state <> 1 AND NOT overtaken ORDER BY id DESC LIMIT 1"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        Ok(statement.query_row(params![row.0, known_by(row.1)], Held::read).optional()?)
    }
}
