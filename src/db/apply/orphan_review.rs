//! Which node keeps an orphan (see [`crate::db::apply::orphans`]). A row becomes an orphan in the stream by one event: the one that removes
//! what it refers to, or the one that writes it when that is gone. The node of this event keeps it. It finds the orphan before the event
//! comes back, and by then others may have been earlier: what is kept is looked at again.

use crate::db::apply::beneath::Claims;
use crate::db::apply::orphans::Kept;
use crate::db::apply::session::Session;
use crate::db::apply::subject::Subject;
use crate::db::error::Error;
use crate::db::foreign_keys::ForeignKey;
use crate::model::event::Event;
use crate::model::value::Value;

/// What an image refers to by a foreign key.
fn values(key: &ForeignKey, event: &Event) -> Option<Vec<Value>> {
    key.columns.iter().map(|(child, _)| event.value_of(child).cloned()).collect()
}

impl Session {
    /// A row of ours comes back that may be kept as an orphan. Before anything is changed. If what it refers to is there again, it is none.
    /// If another write of the row has referred to the same before, that one is the orphan, and its node keeps it, or the one that has
    /// removed what it refers to. `stays`: a later write of the row is on its way.
    pub fn review_orphan(&mut self, subject: &Subject<'_>, image: &Claims, stays: bool) -> Result<(), Error> {
        let Some(kept) = self.orphans.kept_of.remove(&subject.key) else { return Ok(()) };
        let before = self.beneath.refers(&kept);
        let refers_to_it = image.refers(kept.foreign) == kept.refers;
        let key = self.orphans.keys[kept.foreign].clone();
        let is_orphan = refers_to_it && self.is_parent_gone(&key, subject.event)?;
        if is_orphan && (kept.is_ours || before != kept.refers) {
            return Ok(());
        }
        if is_orphan {
            return self.give_away(&kept);
        }
        if !stays {
            // What it refers to may be there in the stream until our deletion comes.
            let is_gone_here =
                refers_to_it && kept.parent.is_some() && !self.has_parent(&key, subject.event)?;
            return if is_gone_here { self.keep_until_gone(kept) } else { self.give_away(&kept) };
        }
        self.orphans.kept_of.insert(subject.key.clone(), kept);
        Ok(())
    }

    /// Whether what an image refers to is gone in the stream.
    fn is_parent_gone(&self, key: &ForeignKey, event: &Event) -> Result<bool, Error> {
        let row = self.parent_row(key, event);
        if let Some(hidden) = row.and_then(|row| self.beneath.of(&key.parent, &row)) {
            return Ok(hidden.claims.is_none());
        }
        Ok(!self.has_parent(key, event)?)
    }

    /// Whether what an image refers to is here.
    fn has_parent(&self, key: &ForeignKey, event: &Event) -> Result<bool, Error> {
        match values(key, event) {
            Some(values) => key.has_parent(&self.connection, &values),
            None => Ok(true),
        }
    }

    /// If what the row refers to is gone by a write of ours that is on its way, it is looked at again when that comes back.
    pub fn keep_until_gone(&mut self, mut kept: Kept) -> Result<(), Error> {
        if let Some(parent) = kept.parent.clone()
            && self.is_touched(&parent)?
        {
            kept.is_theirs = self.beneath.is_gone(&self.orphans.keys[kept.foreign].parent, &parent);
            self.orphans.kept_for.entry(parent).or_default().push(kept);
        }
        Ok(())
    }

    /// Our deletion of a row comes back: what refers to it becomes an orphan by that. Not if it does not refer to it any more, nor if
    /// another node has removed the row before: then it is an orphan by that, and theirs to keep.
    pub fn confirm_orphans_of(&mut self, (table, row): (&str, &[u8])) -> Result<(), Error> {
        self.orphans.kept_of.remove(row);
        if !self.beneath.is_gone(table, row) {
            self.take_orphans_of(row);
        }
        for kept in self.orphans.kept_for.remove(row).unwrap_or_default() {
            let Some(child) = self.schema.tables.get(&kept.table).cloned() else { continue };
            let key = self.orphans.keys[kept.foreign].clone();
            // A row that was written here since may be settled.
            let is_none = !self.is_touched(&kept.row)?
                && key.orphan_refers(&self.connection, &child, &kept.key)?.is_none();
            if kept.is_theirs || is_none {
                self.give_away(&kept)?;
            }
        }
        Ok(())
    }

    /// An event of ours removes a row in the stream. A row that refers to it there becomes an orphan by that, also if a later write of ours
    /// hides it.
    pub fn take_orphans_of(&mut self, row: &[u8]) {
        let of_row = |kept: &&mut Kept| kept.parent.as_deref() == Some(row);
        for kept in self.orphans.kept_of.values_mut().filter(of_row) {
            kept.is_ours |= self.beneath.refers(kept) == kept.refers;
        }
    }

    /// A row that we had deleted and have written again comes back: nothing has become an orphan by us.
    pub fn give_away_orphans_of(&mut self, row: &[u8]) -> Result<(), Error> {
        let all = self.orphans.kept_for.remove(row).unwrap_or_default();
        all.iter().try_for_each(|kept| self.give_away(kept))
    }

    fn give_away(&mut self, kept: &Kept) -> Result<(), Error> {
        let place = (self.streams[kept.place.stream].as_str(), kept.place.seq);
        self.conflicts.forget_orphan(&self.connection, (&kept.table, &kept.row), place)
    }

    /// The key of the row that an image refers to, if it refers to a key.
    fn parent_row(&self, key: &ForeignKey, event: &Event) -> Option<Vec<u8>> {
        let parent = self.schema.tables.get(&key.parent)?;
        Some(parent.row_key(&key.key_of(parent, &values(key, event)?)?))
    }

    /// What an event of ours has made an orphan is found before the next event comes: what that writes is another node's to keep.
    pub fn find_orphans_after(&mut self, own: bool) -> Result<(), Error> {
        if own && !self.orphans.given_up.is_empty() { self.find_orphans() } else { Ok(()) }
    }
}
