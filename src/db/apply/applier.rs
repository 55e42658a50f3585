//! The applier: events by the rules, a batch and its checkpoint in one transaction.

use crate::base::limits;
use crate::db::apply::carry::{Carried, carry_out, delete};
use crate::db::apply::facts::{Look, gather};
use crate::db::apply::session::{Applied, Session};
use crate::db::apply::subject::{Source, Subject};
use crate::db::apply::{parked, rows::Failure};
use crate::db::{error::Error, state, table::Table};
use crate::model::event::{Codec, Event, Malformed};
use crate::model::fold::{self, Order, Reason};
use crate::model::origin::Origin;
use crate::model::positions::{Position, SeqMap};
use crate::model::value::Value;
use std::path::Path;
use std::time::Instant;

/// An event as it came out of a stream.
#[derive(Debug)]
pub struct Incoming {
    /// The stream's number: its place in the list that [`Applier::open`] was given.
    pub stream: usize,
    pub seq: u64,
    /// The publisher's name and the event's change-log id there; `None` for an event of the Go program.
    pub origin: Option<(Origin, i64)>,
    /// The message's body.
    pub payload: Vec<u8>,
}

/// What one event came to, besides changes of the database.
enum Outcome {
    /// It is dealt with, and counts as folded or does not.
    Done { folded: bool },
    /// It does not fit the schema, and why.
    Park(String),
}

pub struct Applier {
    pub(in crate::db) session: Session,
    codec: Codec,
}

impl Applier {
    /// Opens a database that has our tables (see [`crate::db::ensure_state`]). `streams` gives the streams their numbers.
    pub fn open(path: &Path, node: u64, streams: &[String]) -> Result<Applier, Error> {
        let codec = Codec::new(false).map_err(|error| Error::Other(error.to_string()))?;
        Ok(Applier { session: Session::open(path, node, streams)?, codec })
    }

    /// Whether an event was published by this database.
    pub fn is_own(&self, incoming: &Incoming) -> bool {
        incoming.origin.is_some_and(|(origin, _)| self.session.is_ours(origin))
    }

    /// The position in a stream; `None` when the database never followed it.
    pub fn position(&self, stream: usize) -> Result<Option<Position>, Error> {
        self.session.position(stream)
    }

    /// Writes the position in a stream outside of a batch.
    pub fn set_position(&mut self, stream: usize, position: &Position) -> Result<(), Error> {
        self.session.set_position(stream, position)
    }

    /// The same in a stream that was made anew: nothing of it was folded.
    pub fn begin_stream(&mut self, stream: usize, position: &Position) -> Result<(), Error> {
        self.session.begin_stream(stream, position)
    }

    /// All positions by the streams' names, whether they have numbers here or not.
    pub fn positions(&self) -> Result<SeqMap, Error> {
        self.session.positions()
    }

    /// Whether the database came from a snapshot.
    pub fn is_restored(&self) -> Result<bool, Error> {
        Ok(state::meta(&self.session.connection, state::RESTORED)?.is_some())
    }

    /// Applies a batch in order, up to its end or until its time or its bytes are used up, and moves the checkpoint: all or
    /// nothing.
    pub fn apply(&mut self, batch: &[Incoming]) -> Result<Applied, Error> {
        // Before the transaction: the application must not wait for the decoding of anything.
        let decoded = self.decode(batch);
        let applied = self.in_transaction(|applier| applier.consume_all(batch, decoded))?;
        self.session.checkpoint();
        Ok(applied)
    }

    /// Takes over a change that another copy of this database had logged: the row is as the event says, and logged.
    pub fn adopt(&mut self, event: &Event) -> Result<Applied, Error> {
        self.in_transaction(|applier| {
            applier.fold_image(event)?;
            let misfit = || Error::Mismatch(format!("table {}: no such table, or no key", event.table));
            let session = &mut applier.session;
            let table = session.schema.tables.get(&event.table).cloned().ok_or_else(misfit)?;
            let subject = Subject::new(&table, event, Source::default()).ok_or_else(misfit)?;
            if !session.is_touched(&subject.key)?
                && let Some(touched) = &mut session.touched
            {
                touched.touch(
                    &session.connection,
                    &table,
                    subject.key_values.iter().copied(),
                    &subject.key,
                )?;
                session.applied.touched += 1;
            }
            Ok(())
        })
    }

    /// Runs `body` in one write transaction, with the schema and the change log as the application has left them. If it
    /// fails, memory goes back with the database.
    pub(in crate::db) fn in_transaction(
        &mut self,
        body: impl FnOnce(&mut Applier) -> Result<(), Error>,
    ) -> Result<Applied, Error> {
        self.session.begin()?;
        let result = self.catch_up().and_then(|()| body(self));
        self.session.end(result)
    }

    /// After a change of the schema, parked events may fit.
    fn catch_up(&mut self) -> Result<(), Error> {
        if !self.session.catch_up()? {
            return Ok(());
        }
        for table in self.session.parked.clone() {
            if self.session.schema.tables.contains_key(table.as_str()) {
                self.apply_parked(&table)?;
            }
        }
        Ok(())
    }

    fn apply_parked(&mut self, table: &str) -> Result<(), Error> {
        let mut after = (String::new(), 0);
        let mut count = 0;
        while let Some(event) = parked::next(&self.session.connection, table, &after)? {
            if let Ok(unpacked) = self.codec.unpack(&event.payload)
                && let Outcome::Park(_) = self.fold(&unpacked, Source::default())?
            {
                return Ok(());
            }
            parked::remove(&self.session.connection, &event)?;
            count += 1;
            after = (event.stream, event.seq);
        }
        self.session.parked.remove(table);
        log::info!("table {table}: applied {count} events that had waited for its schema");
        Ok(())
    }

    /// Decodes events, as many as one transaction takes.
    fn decode(&mut self, batch: &[Incoming]) -> Vec<Result<Event, Malformed>> {
        let (mut decoded, mut bytes) = (Vec::with_capacity(batch.len()), 0);
        for incoming in batch {
            if bytes > limits::APPLY_BYTES {
                break;
            }
            let event = self.codec.unpack(&incoming.payload);
            bytes += event.as_ref().map_or(0, Event::size);
            decoded.push(event);
        }
        decoded
    }

    fn consume_all(
        &mut self,
        batch: &[Incoming],
        decoded: Vec<Result<Event, Malformed>>,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        let mut last: Vec<Option<u64>> = vec![];
        for (incoming, event) in batch.iter().zip(decoded) {
            if self.session.applied.events > 0 && begun.elapsed() > limits::APPLY_TIME {
                break;
            }
            self.consume(incoming, event)?;
            self.session.applied.events += 1;
            last.resize(last.len().max(incoming.stream + 1), None);
            last[incoming.stream] = Some(incoming.seq);
        }
        for (stream, seq) in last.iter().enumerate() {
            if let Some(seq) = seq {
                self.session.set_seq(stream, *seq)?;
            }
        }
        Ok(())
    }

    fn consume(&mut self, incoming: &Incoming, event: Result<Event, Malformed>) -> Result<(), Error> {
        let event = match event {
            Ok(event) => event,
            Err(why) => {
                log::error!("{}: not an event, left out: {why}", self.place(incoming));
                return Ok(());
            }
        };
        let source = self.session.source(incoming.stream, incoming.origin)?;
        if self.session.schema.leaves_out(&event.table) {
            return Ok(());
        }
        // An event of ours need not wait for those that are parked: its row is the one that stands here, and its log entries are
        // settled. Otherwise it would be published again and again.
        let waits = self.session.parked.contains(&*event.table) && !source.own;
        let outcome = if waits { Outcome::Park(String::new()) } else { self.fold(&event, source)? };
        let passed = source.order.is_some_and(Order::is_passed);
        let folded = match &outcome {
            Outcome::Done { folded } => *folded,
            Outcome::Park(_) => !passed,
        };
        if let (Some((origin, id)), true) = (incoming.origin, folded) {
            self.session.raise_mark(incoming.stream, origin, id);
        }
        match outcome {
            // An event of ours fitted when it was published. The application has dropped or changed its table since.
            Outcome::Park(why) if !passed && !self.is_own(incoming) => {
                self.park(incoming, &event.table, &why)
            }
            _ => Ok(()),
        }
    }

    fn park(&mut self, incoming: &Incoming, table: &str, why: &str) -> Result<(), Error> {
        if self.session.parked.insert(table.to_owned()) {
            log::warn!(
                "{}: {why}: events of table {table} wait until the application changes its schema here",
                self.place(incoming)
            );
        }
        let stream = self.session.stream(incoming.stream);
        parked::park(&self.session.connection, stream, incoming.seq, table, &incoming.payload)
    }

    fn place(&self, incoming: &Incoming) -> String {
        format!("{} sequence {}", self.session.stream(incoming.stream), incoming.seq)
    }

    /// Folds an image that came out of no stream.
    pub(in crate::db) fn fold_image(&mut self, event: &Event) -> Result<(), Error> {
        match self.fold(event, Source::default())? {
            Outcome::Done { .. } => Ok(()),
            Outcome::Park(why) => Err(Error::Mismatch(why)),
        }
    }

    /// One event by the rules: facts are gathered, a plan is made of them, and the plan is carried out.
    fn fold(&mut self, event: &Event, source: Source) -> Result<Outcome, Error> {
        let Some(table) = self.session.schema.tables.get(&event.table).cloned() else {
            return Ok(Outcome::Park(format!("no table {}", event.table)));
        };
        let Some(mut subject) = Subject::new(&table, event, source) else {
            log::error!(
                "an event of table {} from node {} lacks a key column, left out",
                event.table,
                event.node
            );
            return Ok(Outcome::Done { folded: !source.order.is_some_and(Order::is_passed) });
        };
        // The first look nearly always finds all collisions. If the write still fails on a UNIQUE index, nothing has changed
        // yet: the probe sees what SQLite sees, and with these facts the rules decide again. If even that does not help, the
        // event is parked, so it is not lost.
        for look in [Look::Indexes, Look::Probe] {
            let gathered = gather(&self.session, &subject, look)?;
            let plan = fold::decide(&gathered.facts);
            if plan.new_incarnation {
                self.session.new_incarnation()?;
                subject.source.own = false;
                if self.session.parked.contains(&*event.table) {
                    // It is somebody else's event from now on, and waits like theirs.
                    return Ok(Outcome::Park(String::new()));
                }
            }
            match carry_out(&mut self.session, &subject, &gathered, &plan)? {
                Carried::Done => {
                    tell(&subject, plan.reason);
                    return Ok(Outcome::Done { folded: plan.fold });
                }
                Carried::Misfit(why) => return Ok(Outcome::Park(why)),
                Carried::Collides => {}
            }
        }
        Ok(Outcome::Park("the row collides with another one in a way that cannot be solved".to_owned()))
    }

    /// Deletes a row that no event speaks of.
    pub(in crate::db) fn delete(&mut self, table: &Table, key: &[Value]) -> Result<(), Error> {
        match delete(&self.session, table, key) {
            Ok(rows) => self.session.applied.rows += rows,
            Err(Failure::Database(error)) => return Err(error),
            Err(Failure::Misfit(why)) => return Err(Error::Mismatch(why)),
            Err(Failure::Collides) => {}
        }
        Ok(())
    }
}

/// What is kept or lost, for whoever searches for a row.
fn tell(subject: &Subject<'_>, reason: Reason) {
    if !matches!(reason, Reason::Folded | Reason::Echo) {
        let Event { node, id, .. } = subject.event;
        log::debug!("table {}: event {id} of node {node}: {reason}", subject.table.name);
    }
}

#[cfg(test)]
#[path = "applier_tests.rs"]
mod tests;
