//! Rows that lose their place to a row with the same UNIQUE value: who wrote them, that they are lost, and what refers to them.

use crate::db::apply::conflicts::{Found, Kind};
use crate::db::apply::facts::Gathered;
use crate::db::apply::orphans::Seen;
use crate::db::apply::rows;
use crate::db::apply::session::{Place, Session};
use crate::db::apply::subject::Subject;
use crate::db::error::Error;
use crate::db::table::Table;
use crate::model::event::Event;
use crate::model::fold::Plan;
use crate::model::value::Value;

/// Notes what is about to be displaced by an event out of a stream. What an event of ours displaces was written by others, who did not have
/// it, and came here after it and before it in the stream: it loses to ours, and only we can know. What another node's event
/// displaces that node keeps.
pub fn note(
    session: &mut Session,
    subject: &Subject<'_>,
    gathered: &Gathered,
    plan: &Plan,
) -> Result<(), Error> {
    let Some(place) = session.place else { return Ok(()) };
    if session.touched.is_none() {
        return Ok(());
    }
    for at in &plan.displace {
        let values = &gathered.colliding[*at];
        if subject.source.own {
            lose(session, subject, values, place)?;
        } else {
            session.see_displaced(&subject.table, values, place, subject.event.node);
        }
    }
    Ok(())
}

fn lose(session: &mut Session, winner: &Subject<'_>, values: &[Value], place: Place) -> Result<(), Error> {
    let table = &winner.table;
    let key = table.row_key(values);
    // Who wrote it may have been forgotten: then it is said to be where the winner is, by nobody.
    let here = (0, (place.stream, place.seq, place.time_ms));
    let (node, (stream, seq, time_ms)) = session.recent.of(&key).unwrap_or(here);
    let Some(event) = rows::event_of(&session.connection, table, values, node)? else { return Ok(()) };
    let found = Found {
        table: &table.name,
        key: &key,
        kind: Kind::Unique,
        lost_by: node,
        won_by: session.node(),
        won_id: winner.event.id,
        stream: &session.streams[stream],
        seq,
        time_ms,
        key_columns: table.key.iter().map(|column| &*column.name).collect(),
        payload: event.encode(),
    };
    session.conflicts.put(&session.connection, &found)?;
    session.applied.lost += 1;
    session.orphans.give_up(table, &event, (stream, seq, time_ms));
    Ok(())
}

impl Session {
    /// A row of another node is gone, if rows of ours that are on their way may refer to it.
    fn see_displaced(&mut self, table: &Table, key: &[Value], place: Place, node: u64) {
        if self.orphans.is_of_keys(table) && self.touched.as_ref().is_some_and(|touched| !touched.is_empty())
        {
            let place = (place.stream, place.seq, place.time_ms);
            let (table, key) = (table.name.clone(), key.to_vec());
            self.orphans.seen.push(Seen { table, key, place, node, gone: true, late: false });
        }
    }

    /// Notes who has written a row that another one may displace.
    pub fn note_recent(&mut self, event: &Event, place: Place) {
        let Some(touched) = &self.touched else { return };
        if touched.is_empty() {
            return self.recent.clear();
        }
        let table = self.schema.find(&event.table).filter(|table| !table.unique.is_empty());
        let Some(table) = table.filter(|_| !event.is_tombstone()) else { return };
        let find = |name: &str| event.row.iter().find(|(known, _)| **known == *name).map(|(_, value)| value);
        let values: Option<Vec<&Value>> = table.key.iter().map(|column| find(&column.name)).collect();
        if let Some(values) = values {
            let place = (place.stream, place.seq, place.time_ms);
            self.recent.note(table.row_key(values), event.node, place);
        }
    }
}
