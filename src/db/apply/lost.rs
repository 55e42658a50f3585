//! Which writes of others lose to ours, as the rules decide it; and rows that a read replica loses.

use crate::base::{clock, fail};
use crate::db::apply::conflicts::{Found, Kind};
use crate::db::apply::facts::Gathered;
use crate::db::apply::rows;
use crate::db::apply::session::Session;
use crate::db::apply::subject::Subject;
use crate::db::capture::log_table::{self, Touch};
use crate::db::error::Error;
use crate::db::table::Table;
use crate::model::event::Event;
use crate::model::fold::{Plan, Reason};
use crate::model::value::Value;
use rusqlite::params_from_iter;

/// Keeps an event that loses to a write of ours, if it does; returns the entry of the log that has this write. Before anything is changed.
pub fn note(
    session: &mut Session,
    subject: &Subject<'_>,
    gathered: &Gathered,
    plan: &Plan,
) -> Result<Option<i64>, Error> {
    let Some(place) = session.place else { return Ok(None) };
    if !matches!(plan.reason, Reason::OursIsLater | Reason::Blocked) || session.touched.is_none() {
        return Ok(None);
    }
    let (node, first) = (session.node(), won_by(session, subject, gathered, plan)?);
    if subject.event.node == node && plan.reason == Reason::OursIsLater {
        // What an older copy of this database has published is no other node's. What comes before it was lost to that.
        let row = (&*subject.table.name, subject.key.as_slice());
        session.conflicts.forget(&session.connection, row, first.unwrap_or(0))?;
        return Ok(first);
    }
    let stream = session.streams[place.stream].clone();
    let kind = match plan.reason {
        Reason::Blocked => Kind::Unique,
        _ => kind_of(session, subject, first)?,
    };
    if kind == Kind::Unique {
        session.orphans.give_up(&subject.table, subject.event, place, false);
    }
    keep(session, subject, kind, (node, first), (&stream, place.seq, place.time_ms))?;
    if kind == Kind::Unique {
        session.oust(subject, None, place)?;
    }
    Ok(first)
}

/// The entry of the log that an event loses to: the one of its row, or of the first row that has a UNIQUE value of it.
fn won_by(
    session: &Session,
    subject: &Subject<'_>,
    gathered: &Gathered,
    plan: &Plan,
) -> Result<Option<i64>, Error> {
    if plan.reason != Reason::Blocked {
        return first_touch(session, &subject.key);
    }
    let at = gathered.facts.collisions.iter().position(|touched| *touched);
    let values = at.and_then(|at| gathered.colliding.get(at));
    values.map_or(Ok(None), |values| first_touch(session, &subject.table.row_key(values)))
}

/// The first entry of the log that holds the row.
pub(super) fn first_touch(session: &Session, key: &[u8]) -> Result<Option<i64>, Error> {
    let Some(touched) = &session.touched else { return Ok(None) };
    Ok(touched.ids(&session.connection, key)?.into_iter().min())
}

pub(super) fn kind_of(session: &Session, lost: &Subject<'_>, first: Option<i64>) -> Result<Kind, Error> {
    if lost.is_tombstone() {
        return Ok(Kind::Delete);
    }
    Ok(match first.map(|id| log_table::touch_of(&session.connection, id)).transpose()? {
        Some(Touch::Inserted) => Kind::Insert,
        _ => Kind::Update,
    })
}

/// Keeps what lost to the node's write of this entry, unless the row is here as it says.
pub(super) fn keep(
    session: &mut Session,
    lost: &Subject<'_>,
    kind: Kind,
    (node, first): (u64, Option<i64>),
    (stream, seq, time_ms): (&str, u64, i64),
) -> Result<(), Error> {
    let table = lost.table.clone();
    let won_id = first.unwrap_or(0);
    if kind != Kind::Unique && is_here(session, lost)? {
        return session.conflicts.forget(&session.connection, (&table.name, &lost.key), won_id);
    }
    // It is the row as the schema has it now: what becomes of that is known when it is brought back.
    let now = Event { schema_hash: Some(session.schema.hash.clone()), ..lost.event.clone() };
    let found = Found {
        table: &table.name,
        key: &lost.key,
        kind,
        lost_by: lost.event.node,
        won_by: node,
        won_id,
        stream,
        seq,
        time_ms,
        key_columns: table.key.iter().map(|column| &*column.name).collect(),
        payload: now.encode(),
    };
    session.conflicts.put(&session.connection, &found)?;
    session.applied.lost += 1;
    fail::point("lost write kept");
    Ok(())
}

impl Session {
    /// Keeps a row that is about to go, and that no other node may ever have had.
    pub fn keep_local(&mut self, table: &Table, key_values: &[Value]) -> Result<(), Error> {
        let Some(event) = rows::event_of(&self.connection, table, key_values, self.node())? else {
            return Ok(());
        };
        let found = Found {
            table: &table.name,
            key: &table.row_key(key_values),
            kind: Kind::Local,
            lost_by: self.node(),
            won_by: 0,
            won_id: 0,
            stream: "snapshot",
            seq: 0,
            time_ms: clock::unix_ms(),
            key_columns: table.key.iter().map(|column| &*column.name).collect(),
            payload: event.encode(),
        };
        self.conflicts.put(&self.connection, &found)?;
        self.applied.lost += 1;
        Ok(())
    }
}

/// Whether the row is here as the event has it, or gone.
pub fn is_here(session: &Session, subject: &Subject<'_>) -> Result<bool, Error> {
    let table = &subject.table;
    let key = subject.key_values.iter().copied();
    let mut statement = session.connection.prepare_cached(&table.sql().image)?;
    let mut rows = statement.query(params_from_iter(key))?;
    let Some(row) = rows.next()? else { return Ok(subject.is_tombstone()) };
    if subject.is_tombstone() {
        return Ok(false);
    }
    for place in 0..table.image.len() {
        let here: Value = row.get(place)?;
        if subject.image_value(place).is_some_and(|value| *value != here) {
            return Ok(false);
        }
    }
    Ok(true)
}
