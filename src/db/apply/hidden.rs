//! Rows that writes of ours hide (see [`crate::db::apply::beneath`]): what becomes of them in the stream before our writes come there.

use crate::db::apply::beneath::{Claims, Under};
use crate::db::apply::claims;
use crate::db::apply::conflicts::{self, Kind};
use crate::db::apply::facts::Gathered;
use crate::db::apply::rows::Failure;
use crate::db::apply::session::Session;
use crate::db::apply::subject::{Source, Subject};
use crate::model::event::Event;
use crate::model::fold::{Plan, Reason};

/// Notes what an event is in the stream for rows that writes of ours hide, and for its own row, if it is hidden from now on. Before
/// anything is changed, and after what it lost was kept. `won_id`: the entry of the log that it lost to.
pub fn note(
    session: &mut Session,
    subject: &Subject<'_>,
    plan: &Plan,
    won_id: Option<i64>,
) -> Result<(), Failure> {
    let Some(touched) = &session.touched else { return Ok(()) };
    if touched.is_empty() {
        session.beneath.clear();
        session.orphans.agreed();
    }
    let table = subject.table.clone();
    let counts = !table.unique.is_empty() || session.orphans.is_of_keys(&table);
    if session.place.is_none() || !plan.fold || subject.source.late || !counts {
        return Ok(());
    }
    read(session)?;
    let own = subject.source.own;
    let stays = match plan.reason {
        Reason::OursIsLater | Reason::Blocked => true,
        Reason::Echo => is_logged_again(session, subject)?,
        _ => false,
    };
    let name = &*table.name;
    let is_image_needed = stays || session.beneath.has(name) || (own && session.orphans.keeps(&subject.key));
    let image = match is_image_needed && !subject.is_tombstone() {
        true => Some(claims::of(session, subject)?),
        false => None,
    };
    if let Some(image) = &image {
        displace(session, subject, image)?;
        if own {
            session.review_orphan(subject, image, stays)?;
        }
    }
    if subject.is_tombstone() && own {
        session.confirm_orphans_of((name, &subject.key))?;
    } else if own && !stays {
        session.give_away_orphans_of(&subject.key)?;
    } else if stays {
        session.orphans.is_theirs(&subject.key, subject.is_tombstone());
    }
    if stays {
        let won_id = won_id.filter(|_| !own);
        let before = session.beneath.of(name, &subject.key).and_then(|under| under.won_id);
        if let Some(before) = before.filter(|before| won_id.is_some_and(|now| now != *before)) {
            // This event has overwritten it: if that was a conflict, it is theirs.
            session.conflicts.forget(&session.connection, (name, &subject.key), before)?;
        }
        session.beneath.set(&table.name, &subject.key, Under { won_id, claims: image });
    } else {
        session.beneath.remove(name, &subject.key);
    }
    Ok(())
}

/// Notes which rows that foreign keys refer to an event has removed or written in the stream. After it was carried out.
pub fn note_removed(session: &mut Session, subject: &Subject<'_>, gathered: &Gathered, plan: &Plan) {
    if !plan.fold || session.touched.is_none() || !session.orphans.is_referred_to(&subject.table) {
        return;
    }
    for at in &plan.displace {
        session.beneath.note_removed(subject.table.row_key(&gathered.colliding[*at]));
    }
    if subject.is_tombstone() && session.place.is_some() {
        session.beneath.note_removed(subject.key.clone());
    } else {
        session.beneath.note_written(&subject.key);
    }
}

/// Whether the application has written the row since an event of ours.
fn is_logged_again(session: &Session, subject: &Subject<'_>) -> Result<bool, Failure> {
    let Some(touched) = &session.touched else { return Ok(false) };
    let ids = touched.ids(&session.connection, &subject.key)?;
    Ok(ids.into_iter().any(|id| id > subject.log_id()))
}

/// Hidden rows that the event's row removes in the stream. If it is ours, they lose to it, and only we can know: a later write of their
/// rows by somebody else may have been made with that in mind, and is not what they lost to. If it is not, its node keeps them.
fn displace(session: &mut Session, subject: &Subject<'_>, image: &Claims) -> Result<(), Failure> {
    let name = &*subject.table.name;
    for key in session.beneath.in_the_way(name, &subject.key, image) {
        if !session.is_touched(&key)? {
            session.beneath.remove(name, &key);
            continue;
        }
        let won_id = session.beneath.of(name, &key).and_then(|under| under.won_id);
        let (connection, row) = (&session.connection, (name, key.as_slice()));
        match (won_id, subject.source.own) {
            (Some(won_id), true) => {
                session.conflicts.is_displaced(connection, row, (won_id, subject.event.id))?;
            }
            (Some(won_id), false) => session.conflicts.forget(connection, row, won_id)?,
            (None, _) => {}
        }
        if subject.source.own {
            session.orphans.kept_for.remove(&key);
            session.take_orphans_of(&key);
        } else {
            session.orphans.is_theirs(&key, true);
        }
        session.beneath.set(&subject.table.name, &key, Under { won_id: None, claims: None });
    }
    Ok(())
}

/// What an earlier process has left, or this one before it went back: the list of lost writes has it.
fn read(session: &mut Session) -> Result<(), Failure> {
    if session.beneath.is_read {
        return Ok(());
    }
    session.beneath.is_read = true;
    for lost in conflicts::under_writes_of_ours(&session.connection)? {
        let table = session.schema.tables.get(&*lost.table).cloned();
        let (Some(table), Ok(event)) = (table, Event::decode(&lost.payload)) else { continue };
        let Some(touched) = &session.touched else { return Ok(()) };
        let first = touched.ids(&session.connection, &lost.key)?.into_iter().min();
        let Some(subject) = Subject::new(&table, &event, Source::default()) else { continue };
        if first != Some(lost.won_id) {
            continue;
        }
        let claims = match lost.kind {
            Kind::Delete => None,
            _ => Some(claims::of(session, &subject)?),
        };
        session.beneath.set(&table.name, &lost.key, Under { won_id: first, claims });
    }
    Ok(())
}
