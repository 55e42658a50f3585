//! What is known about an event before it is folded, gathered from the database all at once.

use crate::db::apply::{collisions, renewal::Why, rows::Failure, session::Session, subject::Subject};
use crate::model::fold::Facts;
use crate::model::value::Value;

/// Facts, and the keys of the rows that [`Facts::collisions`] tells about, in the same order.
#[derive(Debug)]
pub struct Gathered {
    pub facts: Facts,
    pub colliding: Vec<Vec<Value>>,
    /// The ids, not above the event's, under which the change log holds its key.
    pub unsettled: Vec<i64>,
    /// Why the database takes a new incarnation, if it does.
    pub renews: Option<Why>,
}

/// How to look for collisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// By queries on the indexes, where the table allows it.
    Indexes,
    /// By an attempt to write the image, which finds whatever SQLite itself would complain about.
    Probe,
}

/// Gathers all facts about an event.
pub fn gather(session: &Session, subject: &Subject<'_>, look: Look) -> Result<Gathered, Failure> {
    let source = subject.source;
    let mut facts =
        Facts { order: source.order, own: source.own, tombstone: subject.is_tombstone(), ..Facts::default() };
    let (mut unsettled, mut renews) = (vec![], None);
    if let Some(touched) = &session.touched {
        let id = subject.log_id();
        unsettled = touched.ids(&session.connection, &subject.key)?;
        facts.touched = !unsettled.is_empty();
        unsettled.retain(|logged| *logged <= id);
        // What comes too late would come too late again.
        facts.unsettled = source.own && !unsettled.is_empty() && !session.is_spent(source);
        // The log gives rising ids and keeps an entry until its event came back. So an event of ours comes from an entry,
        // unless an older copy of the database was put back, or a power cut took commits that had been published.
        let why = match id > touched.highest() {
            true => Some(Why::Beyond),
            false => (!facts.unsettled).then_some(Why::Unlogged),
        };
        renews = why.filter(|why| source.own && session.may_take_new_incarnation(*why));
        facts.unlogged = renews.is_some();
        // Under this id we have published nothing, so it settles nothing.
        facts.own &= why != Some(Why::Beyond) || facts.unlogged;
    }
    let mut colliding = vec![];
    if facts.need_collisions() && !subject.table.unique.is_empty() {
        colliding = match look {
            Look::Indexes => collisions::find(&session.connection, &session.mirrored, subject)?,
            Look::Probe => collisions::probe(&session.connection, &session.mirrored, subject)?,
        };
        for values in &colliding {
            facts.collisions.push(session.is_touched(&subject.table.row_key(values))?);
        }
    }
    Ok(Gathered { facts, colliding, unsettled, renews })
}
