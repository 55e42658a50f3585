//! Rows that lose their place to a row with the same UNIQUE value: who wrote them, that they are lost, and what refers to them.

use crate::db::apply::conflicts::Kind;
use crate::db::apply::facts::Gathered;
use crate::db::apply::lost;
use crate::db::apply::orphans::Seen;
use crate::db::apply::rows;
use crate::db::apply::session::Session;
use crate::db::apply::subject::{Place, Source, Subject};
use crate::db::error::Error;
use crate::model::fold::{Plan, Row};
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
    let (Some(place), Some(touched)) = (session.place, &session.touched) else { return Ok(()) };
    let is_quiet = touched.is_empty();
    if is_quiet {
        session.recent.clear();
    }
    for at in &plan.displace {
        let values = &gathered.colliding[*at];
        if subject.source.own {
            lose(session, subject, values, place)?;
            continue;
        }
        session.oust(subject, Some(values.as_slice()), place)?;
        if !is_quiet && session.orphans.is_of_keys(&subject.table) {
            let (table, key, node) = (subject.table.name.clone(), values.clone(), subject.event.node);
            session.orphans.seen.push(Seen { table, key, place, node, gone: true, late: false });
        }
    }
    if plan.row == Row::Write && !subject.source.own && !is_quiet && !subject.table.unique.is_empty() {
        session.recent.note(subject.key.clone(), subject.event.node, place);
    }
    Ok(())
}

fn lose(session: &mut Session, winner: &Subject<'_>, values: &[Value], place: Place) -> Result<(), Error> {
    let table = &winner.table;
    // Who wrote it may have been forgotten: then it is said to be where the winner is, by nobody.
    let (node, place) = session.recent.of(&table.row_key(values)).unwrap_or((0, place));
    let Some(event) = rows::event_of(&session.connection, table, values, node)? else { return Ok(()) };
    session.orphans.give_up(table, &event, place, true);
    let Some(row) = Subject::new(table, &event, Source::default()) else { return Ok(()) };
    let (won_by, stream) = ((session.node(), Some(winner.event.id)), session.streams[place.stream].clone());
    lost::keep(session, &row, Kind::Unique, won_by, (&stream, place.seq, place.time_ms))
}
