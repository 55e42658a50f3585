//! Which writes of others lose to ours, as the rules decide it; and rows that a read replica loses.

use crate::base::{clock, fail};
use crate::db::apply::conflicts::{Found, Kind};
use crate::db::apply::rows;
use crate::db::apply::session::Session;
use crate::db::apply::subject::Subject;
use crate::db::capture::log_table::{self, Touch};
use crate::db::error::Error;
use crate::db::table::Table;
use crate::model::fold::{Plan, Reason};
use crate::model::value::Value;
use rusqlite::params_from_iter;

/// Keeps an event that loses to a write of ours, if it does. Before anything is changed.
pub fn note(session: &mut Session, subject: &Subject<'_>, plan: &Plan, node: u64) -> Result<(), Error> {
    let Some(place) = session.place else { return Ok(()) };
    // What an older copy of this database has published is no other node's.
    if !matches!(plan.reason, Reason::OursIsLater | Reason::Blocked) || subject.event.node == node {
        return Ok(());
    }
    let Some(touched) = &session.touched else { return Ok(()) };
    let first = touched.ids(&session.connection, &subject.key)?.into_iter().min();
    let kind = match (plan.reason, subject.is_tombstone()) {
        (Reason::Blocked, _) => Kind::Unique,
        (_, true) => Kind::Delete,
        (_, false) => match first.map(|id| log_table::touch_of(&session.connection, id)).transpose()? {
            Some(Touch::Inserted) => Kind::Insert,
            _ => Kind::Update,
        },
    };
    let table = subject.table.clone();
    let won_id = first.unwrap_or(0);
    if kind != Kind::Unique && is_here(session, subject)? {
        let row = (&*table.name, &*subject.key);
        return session.conflicts.forget(&session.connection, row, won_id);
    }
    let found = Found {
        table: &table.name,
        key: &subject.key,
        kind,
        lost_by: subject.event.node,
        won_by: node,
        won_id,
        stream: &session.streams[place.stream],
        seq: place.seq,
        time_ms: place.time_ms,
        key_columns: table.key.iter().map(|column| &*column.name).collect(),
        payload: subject.event.encode(),
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
