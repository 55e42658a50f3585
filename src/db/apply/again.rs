//! Events that were set aside, tried again: after a change of the schema, and when a person asks for it.

use crate::base::limits;
use crate::db::apply::applier::{Applier, Outcome, no_event, refused};
use crate::db::apply::aside::{self, Cause, Held, SetAside, State};
use crate::db::apply::conflicts;
use crate::db::apply::rows::{self, Failure};
use crate::db::apply::subject::{Place, Source, Subject};
use crate::db::error::Error;
use crate::model::event::{Event, Malformed};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// An event that is set aside, decoded.
pub type Again = (Held, Result<Event, Malformed>);

impl Applier {
    /// Whether events that are set aside, or what waits for the application's triggers, are to be tried again: [`Applier::apply`] does
    /// it, some in each transaction.
    pub fn has_more(&self) -> bool {
        self.tried.is_some() || self.session.are_feeds_due() || self.is_change_due()
    }

    /// Looks whether something that is set aside, or waits for the application's triggers, is to be tried again.
    pub fn look(&mut self) -> Result<(), Error> {
        let session = &mut self.session;
        session.look_at_feeds()?;
        if self.tried.is_some() || session.aside.is_empty() {
            return Ok(());
        }
        let changed = session.aside.any_waits() && session.is_schema_changed()?;
        if changed || self.deferred.is_due(Instant::now()) || session.aside.is_asked(&session.connection)? {
            self.tried = Some(0);
        }
        Ok(())
    }

    /// How many conflicts are kept of each kind, if that may have changed since the last call.
    pub fn kept_conflicts(&mut self) -> Result<Option<conflicts::Kept>, Error> {
        let session = &mut self.session;
        session.conflicts.look(&session.connection)?;
        if !session.conflicts.take_news() {
            return Ok(None);
        }
        conflicts::kept(&session.connection).map(Some)
    }

    /// Gives back memory when there was no work for so long.
    pub fn rest(&mut self, after: Duration) {
        self.session.rest(after);
    }

    /// What is set aside, if that may have changed since the last call.
    pub fn news(&mut self) -> Result<Option<SetAside>, Error> {
        let session = &mut self.session;
        session.aside.look(&session.connection)?;
        if !session.aside.take_news() {
            return Ok(None);
        }
        let found = aside::summary(&session.connection)?;
        session.aside.shown(&found);
        Ok(Some(found))
    }

    /// The next events to try again. Before the transaction: the application must not wait for the decoding of anything.
    pub(super) fn decode_aside(&mut self) -> Result<Vec<Again>, Error> {
        let Some(after) = self.tried else { return Ok(vec![]) };
        let next = self.session.aside.next(&self.session.connection, after)?;
        if next.is_empty() {
            self.tried = None;
        }
        if next.iter().any(|held| held.state == State::Again) {
            // Another process has marked them: they count as waiting now.
            self.session.aside.load(&self.session.connection)?;
        }
        let decode = |held: Held| {
            let event = self.codec.unpack(&held.payload);
            (held, event)
        };
        Ok(next.into_iter().map(decode).collect())
    }

    /// Tries events again, until the transaction's time is up. `after`: the number that they come after.
    pub(super) fn try_again(
        &mut self,
        after: Option<i64>,
        events: Vec<Again>,
        begun: Instant,
    ) -> Result<(), Error> {
        if self.tried != after {
            // The transaction met a change of the schema: all begins anew.
            return Ok(());
        }
        let (mut applied, mut tables) = (0, BTreeSet::new());
        for (held, event) in events {
            if begun.elapsed() > limits::APPLY_TIME {
                break;
            }
            self.tried = Some(held.id);
            if self.try_one(&held, event)? {
                applied += 1;
                tables.insert(held.table);
            }
        }
        if applied > 0 {
            let tables: Vec<String> = tables.into_iter().collect();
            log::info!("applied {applied} events that were set aside (tables: {})", tables.join(", "));
        }
        Ok(())
    }

    /// True when it is dealt with.
    fn try_one(&mut self, held: &Held, event: Result<Event, Malformed>) -> Result<bool, Error> {
        if !self.session.aside.holds(&self.session.connection, held)? {
            // A person has just dropped it.
            return Ok(false);
        }
        let cause = match event {
            Err(why) => no_event(&why),
            Ok(event) => match self.fold_late(held, &event)? {
                Outcome::Aside(cause) => cause,
                Outcome::Done { .. } => {
                    self.session.aside.remove(&self.session.connection, held)?;
                    return Ok(true);
                }
            },
        };
        self.session.aside.amend(&self.session.connection, held, &cause)?;
        Ok(false)
    }

    fn fold_late(&mut self, held: &Held, event: &Event) -> Result<Outcome, Error> {
        let source = Source { late: true, ..Source::default() };
        let missing = self.session.translated_names(event, &held.missing);
        let event = &*self.session.translated(event);
        let table = self.session.schema.find(&event.table).cloned();
        if let Some(subject) = table.as_ref().and_then(|table| Subject::new(table, event, source)) {
            let row = (&*subject.table.name, subject.key.as_slice());
            if self.session.aside.waits(&self.session.connection, row, held.id)? {
                // Earlier ones of its row still wait.
                return Ok(Outcome::Aside(Cause {
                    table: subject.table.name.to_string(),
                    key: subject.key,
                    missing: held.missing.clone(),
                    refused: false,
                    why: String::new(),
                }));
            }
            if subject.missing().is_empty() {
                if !missing.is_empty() && self.session.is_touched(&subject.key)? {
                    // A write of ours is later, and may have these columns, or not: that is known when it has come back.
                    self.deferred.put_off(Instant::now());
                    return Ok(Outcome::Aside(held.cause()));
                }
                if held.overtaken {
                    return self.write_missing(&missing, &subject);
                }
            }
        }
        self.session.place = self
            .session
            .streams
            .iter()
            .position(|name| *name == held.stream)
            .map(|stream| Place { stream, seq: held.seq.unsigned_abs(), time_ms: held.since_ms });
        let outcome = self.fold(event, source);
        let place = self.session.place.take();
        if let (Ok(Outcome::Done { .. }), Some(place)) = (&outcome, place) {
            self.session.see_row(event, place, true);
        }
        outcome
    }

    /// Only the columns that were missing here are written, and only if the row is still there: the others, and whether it is there,
    /// the application has decided since, later in the order.
    fn write_missing(&mut self, missing: &[String], subject: &Subject<'_>) -> Result<Outcome, Error> {
        let done = Ok(Outcome::Done { folded: true });
        if subject.is_tombstone() {
            return done;
        }
        let row = &subject.event.row;
        let listed = |name: &str| missing.iter().any(|missing| missing.eq_ignore_ascii_case(name));
        // A list that is full was cut. Columns that a migration adds are a table's last ones: the others follow the last of the list.
        let cut = missing.len() >= limits::ASIDE_COLUMNS;
        let last = row.iter().rposition(|(name, _)| cut && listed(name)).unwrap_or(row.len());
        let follows = |name: &str| row.iter().skip(last).any(|(known, _)| known.eq_ignore_ascii_case(name));
        let is_missing = |name: &str| listed(name) || follows(name);
        let connection = &self.session.connection;
        let written = self
            .session
            .mirrored
            .guard(connection, &subject.table.name, || rows::update_only(connection, subject, is_missing));
        let failed = |why: String| {
            let why = format!("table {}: {why}", subject.table.name);
            Ok(Outcome::Aside(refused(&subject.table, subject.key.clone(), why)))
        };
        match written {
            Ok(rows) => self.session.applied.rows += rows,
            Err(Failure::Database(error)) => return Err(error),
            Err(Failure::Collides) => return failed("a UNIQUE value is taken".to_owned()),
            Err(Failure::Refused(why) | Failure::Missing(why)) => return failed(why),
        }
        done
    }
}
