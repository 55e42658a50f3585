//! The applier: events by the rules, a batch and its checkpoint in one transaction.

use crate::base::{clock, limits};
use crate::db::apply::aside::Cause;
use crate::db::apply::carry::{carry_out, delete};
use crate::db::apply::deferred::Deferred;
use crate::db::apply::displaced;
use crate::db::apply::facts::{Gathered, Look, gather};
use crate::db::apply::hidden;
use crate::db::apply::incoming::{Ends, Incoming};
use crate::db::apply::lost;
use crate::db::apply::overtaken;
use crate::db::apply::renewal::Why;
use crate::db::apply::rows::Failure;
use crate::db::apply::session::{Applied, Session};
use crate::db::apply::subject::{Place, Source, Subject};
use crate::db::steering::Steering;
use crate::db::{capture::ChangeLog, error::Error, state, table::Table};
use crate::model::change::Change;
use crate::model::epoch::Epoch;
use crate::model::event::{Event, Malformed};
use crate::model::fold::{self, Order, Reason};
use crate::model::origin::Origin;
use crate::model::payload::{Codec, Payload};
use crate::model::positions::{Position, SeqMap};
use crate::model::value::Value;
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What one event came to, besides changes of the database.
pub enum Outcome {
    /// It is dealt with, and counts as folded or does not.
    Done { folded: bool },
    /// It cannot be used, or not yet, and why. Nothing has changed.
    Aside(Cause),
}

pub struct Applier {
    pub(in crate::db) session: Session,
    pub(super) codec: Codec,
    /// Up to which number events that are set aside were tried again; `None`: all that can be were.
    pub(super) tried: Option<i64>,
    /// Some of them could go on and wait for a write of ours to come back.
    pub(super) deferred: Deferred,
    /// The last transaction ended inside a change set.
    in_pieces: bool,
    /// The epoch, when it was read last; `None`: it may have changed.
    pub(super) epoch: Option<(Epoch, Option<String>)>,
    /// What was decoded and not consumed, by stream and sequence.
    pub(super) decoded: VecDeque<((usize, u64), Result<Payload, Malformed>)>,
}

impl Applier {
    /// Opens a database that has our tables (see [`crate::db::Opening`]). `streams` gives the streams their numbers.
    pub fn open(path: &Path, node: u64, streams: &[String]) -> Result<Applier, Error> {
        let codec = Codec::new(false).map_err(|error| Error::Other(error.to_string()))?;
        let session = Session::open(path, node, streams)?;
        Ok(Applier {
            session,
            codec,
            tried: None,
            deferred: Deferred::default(),
            in_pieces: false,
            epoch: None,
            decoded: VecDeque::new(),
        })
    }

    /// The same for a database whose schema another connection reads, too.
    pub fn open_beside(
        path: &Path,
        node: u64,
        streams: &[String],
        log: &ChangeLog,
    ) -> Result<Applier, Error> {
        let mut applier = Applier::open(path, node, streams)?;
        applier.session.known = log.known();
        Ok(applier)
    }

    /// The same, naming in warnings the tables that cannot be replicated. For a database without capture, which does that.
    pub fn open_telling(path: &Path, node: u64, streams: &[String]) -> Result<Applier, Error> {
        let mut applier = Applier::open(path, node, streams)?;
        applier.session.tells_refused = true;
        Ok(applier)
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
        self.decoded.clear();
        self.session.set_position(stream, position)
    }

    /// What was decoded is read again.
    pub(super) fn forget_decoded(&mut self) {
        self.decoded.clear();
    }

    /// All positions by the streams' names, whether they have numbers here or not.
    pub fn positions(&self) -> Result<SeqMap, Error> {
        self.session.positions()
    }

    /// Whether the database came from a snapshot.
    pub fn is_restored(&self) -> Result<bool, Error> {
        Ok(state::meta(&self.session.connection, state::RESTORED)?.is_some())
    }

    /// Applies a batch in order, up to its end or until its time is used up, and moves the checkpoint: all or nothing.
    pub fn apply(&mut self, batch: &[Incoming]) -> Result<Applied, Error> {
        // Before the transaction: the application must not wait for the decoding of anything.
        let again = self.decode_aside()?;
        self.decode(batch);
        self.await_look()?;
        let batch = &batch[..self.follow_schema(batch)?];
        self.prepare_probes()?;
        // After the schema was read: it says which tables need blocks.
        self.await_blocks();
        let after = self.tried;
        let applied = self.in_transaction(|applier| {
            let begun = Instant::now();
            applier.try_again(after, again, begun)?;
            applier.consume_all(batch, begun)
        });
        let applied = applied.inspect_err(|_| self.tried = after)?;
        self.session.checkpoint();
        Ok(applied)
    }

    /// Takes over a change that another copy of this database had logged: the row is as the event says, and logged.
    pub fn adopt(&mut self, event: &Event) -> Result<Applied, Error> {
        self.in_transaction(|applier| {
            if let Some(cause) = applier.fold_image(event)? {
                return Err(Error::Mismatch(cause.why));
            }
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

    /// What each transaction does besides its rows: settles the log entries of rows that were in the way of others and are still there,
    /// and goes on in blocks of keys that are in reserve, where the application has nearly used up what it has.
    pub fn tidy(&mut self) -> Result<(), Error> {
        self.in_transaction(|_| Ok(())).map(drop)
    }

    /// Runs `body` in one write transaction, with the schema and the change log as the application has left them. If it
    /// fails, memory goes back with the database.
    pub(in crate::db) fn in_transaction(
        &mut self,
        body: impl FnOnce(&mut Applier) -> Result<(), Error>,
    ) -> Result<Applied, Error> {
        self.epoch = None;
        self.session.begin()?;
        let result = self.catch_up().and_then(|()| body(self));
        self.session.end(result)
    }

    /// After a change of the schema, events that are set aside may fit.
    fn catch_up(&mut self) -> Result<(), Error> {
        if self.session.catch_up()? && self.session.aside.any_waits() {
            self.tried = Some(0);
        }
        Ok(())
    }

    /// Decodes messages, as many as one transaction takes at most. What the last one has left is not decoded again.
    fn decode(&mut self, batch: &[Incoming]) {
        let (mut count, mut bytes, mut ends) = (0, 0, true);
        for incoming in batch {
            if bytes > if ends { limits::APPLY_BYTES } else { limits::SET_BYTES } {
                break;
            }
            let place = (incoming.stream, incoming.seq);
            if self.decoded.get(count).is_none_or(|(known, _)| *known != place) {
                self.decoded.truncate(count);
                self.decoded.push_back((place, self.codec.read(&incoming.payload)));
            }
            bytes += self.decoded[count].1.as_ref().map_or(0, Payload::weight);
            count += 1;
            ends = incoming.ends.is_some();
        }
        self.decoded.truncate(count);
        self.session.heavy |= bytes > limits::APPLY_BYTES;
    }

    /// The application must not get a key after the highest one of another node, so a block above it is needed first.
    fn await_blocks(&self) {
        let schema = &self.session.schema;
        let keys = self.decoded_events().filter_map(|event| {
            let table = schema.tables.get(&event.table).filter(|table| table.autoincrement)?;
            let key = event.row.iter().find(|(name, _)| **name == *table.key[0].name);
            match key {
                Some((_, Value::Integer(key))) if !event.is_tombstone() => Some((&*table.name, *key)),
                _ => None,
            }
        });
        self.session.steering.await_blocks(keys);
    }

    fn decoded_events(&self) -> impl Iterator<Item = &Event> {
        self.decoded.iter().flat_map(|(_, payload)| match payload {
            Ok(Payload::Row(event)) => std::slice::from_ref(event),
            Ok(Payload::Set(events)) => events,
            Err(_) => &[],
        })
    }

    /// Makes what the decoded events' probes need, before the transaction.
    fn prepare_probes(&mut self) -> Result<(), Error> {
        self.catch_up_before()?;
        // Rows of one table mostly follow each other.
        let mut all: Vec<&Arc<str>> = self.decoded_events().map(|event| &event.table).collect();
        all.dedup_by(|one, other| Arc::ptr_eq(one, other));
        let names: BTreeSet<&Arc<str>> = all.into_iter().collect();
        names.into_iter().try_for_each(|name| self.session.prepare_probe(name))
    }

    /// Takes notice of a changed schema in a transaction of its own. A transaction in which anything of the schema has changed, be it
    /// temporary, makes SQLite read all of the schema after each probe, while the application waits for the lock.
    pub(in crate::db) fn catch_up_before(&mut self) -> Result<(), Error> {
        if self.session.is_schema_changed()? { self.tidy() } else { Ok(()) }
    }

    /// Steers the keys of AUTOINCREMENT tables from now on.
    pub fn steer(&mut self, steering: Steering) -> Result<(), Error> {
        self.session.steer(steering)
    }

    /// Ready when [`Applier::tidy`] is to be called.
    pub fn due_blocks(&self) -> crossbeam_channel::Receiver<()> {
        self.session.steering.due()
    }

    /// Whether it is to be called.
    pub fn is_block_due(&self) -> bool {
        self.session.steering.is_ready() || self.session.are_tables_new_to_steering()
    }

    /// A transaction ends where a change set ends, unless it has become too long for the application that waits. Then the rest comes
    /// in the next one, and who begins anew passes over what was folded.
    fn consume_all(&mut self, batch: &[Incoming], begun: Instant) -> Result<(), Error> {
        let mut last: Vec<Option<(u64, (u64, i64))>> = vec![];
        let (mut ends, mut count) = (true, 0);
        let worked = clock::of_thread();
        let is_long_for_a_set = || {
            let work = clock::of_thread().saturating_sub(worked);
            work > limits::SET_WORK || begun.elapsed() > limits::SET_TIME
        };
        for incoming in batch {
            let is_long = if ends { begun.elapsed() > limits::APPLY_TIME } else { is_long_for_a_set() };
            if count > 0 && is_long {
                break;
            }
            let Some((_, payload)) = self.decoded.pop_front() else { break };
            self.consume(incoming, payload)?;
            count += 1;
            ends = incoming.ends.is_some();
            if let Some(Ends { checkpoint, .. }) = incoming.ends {
                last.resize(last.len().max(incoming.stream + 1), None);
                last[incoming.stream] = Some((checkpoint, (incoming.seq, incoming.time_ms)));
            }
        }
        self.session.find_orphans()?;
        self.session.applied.events = count;
        self.tell_pieces(&batch[..count]);
        for (stream, seq) in last.iter().enumerate() {
            if let Some((seq, moment)) = seq {
                self.session.set_seq(stream, *seq)?;
                self.session.note_moment(stream, *moment)?;
            }
        }
        Ok(())
    }

    /// Says once that a set is applied in pieces.
    fn tell_pieces(&mut self, applied: &[Incoming]) {
        let Some(last) = applied.last() else { return };
        if last.ends.is_none() && !self.in_pieces {
            let stream = &self.session.streams[last.stream];
            log::info!(
                "{stream} sequence {}: a change set is too large to be applied at once: in pieces, of which readers here may see \
                 some before the others",
                last.seq
            );
        }
        self.in_pieces = last.ends.is_none();
    }

    fn consume(&mut self, incoming: &Incoming, payload: Result<Payload, Malformed>) -> Result<(), Error> {
        self.session.applied.changes +=
            if let Ok(Payload::Set(events)) = &payload { events.len() } else { 1 };
        match payload {
            Err(why) => self.set_aside((incoming, 0), &no_event(&why), &incoming.payload),
            Ok(Payload::Row(event)) => self.consume_row(incoming, &event),
            Ok(Payload::Set(events)) => {
                for mut event in events {
                    let origin = incoming.origin.map(|(origin, _)| (origin, event.id));
                    event.node = origin.map_or(0, |(origin, _)| origin.node);
                    if let Some(cause) = self.consume_event(incoming, &event, origin)? {
                        self.set_aside((incoming, event.id), &cause, &event.encode())?;
                    }
                }
                Ok(())
            }
        }
    }

    fn consume_row(&mut self, incoming: &Incoming, event: &Event) -> Result<(), Error> {
        let is_nameless = incoming.origin.is_none();
        if is_nameless && incoming.seq <= self.session.nameless(incoming.stream)? {
            return Ok(());
        }
        if let Some(cause) = self.consume_event(incoming, event, incoming.origin)? {
            self.set_aside((incoming, 0), &cause, &incoming.payload)?;
        }
        // It will be read again, and nothing else tells that it was applied.
        if is_nameless && incoming.ends.is_none_or(|ends| ends.checkpoint < incoming.seq) {
            self.session.set_nameless(incoming.stream, incoming.seq)?;
        }
        Ok(())
    }

    /// Why the event cannot be used, if it cannot.
    fn consume_event(
        &mut self,
        incoming: &Incoming,
        event: &Event,
        origin: Option<(Origin, i64)>,
    ) -> Result<Option<Cause>, Error> {
        if let Some(change) = Change::of(event) {
            return Ok(self.session.cause_of(change));
        }
        let mut source = self.session.source(incoming.stream, origin)?;
        if self.session.is_spent(source) && self.session.may_take_new_incarnation(Why::Beyond) {
            self.session.new_incarnation()?;
            source.own = false;
        }
        if source.own {
            self.session.find_orphans()?;
        }
        let passed = source.order.is_some_and(Order::is_passed);
        let Incoming { stream, seq, time_ms, .. } = *incoming;
        self.session.place = Some(Place { stream, seq, time_ms });
        let outcome = self.fold(event, source);
        self.session.place = None;
        let outcome = outcome?;
        self.session.find_orphans_after(source.own)?;
        let folded = match &outcome {
            Outcome::Done { folded } => *folded,
            Outcome::Aside(_) => !passed,
        };
        let outcome_is_done = matches!(outcome, Outcome::Done { .. });
        if let (Some((origin, id)), true) = (origin, folded) {
            self.session.raise_mark(incoming.stream, origin, id, incoming.seq);
            if !source.own && outcome_is_done {
                self.session.see_row(event, Place { stream, seq, time_ms }, false);
            }
        }
        match outcome {
            Outcome::Aside(cause) if !passed => Ok(Some(cause)),
            _ => Ok(None),
        }
    }

    /// `row`: a row of a set by its id, or 0 for a whole message.
    fn set_aside(
        &mut self,
        (incoming, row): (&Incoming, i64),
        cause: &Cause,
        payload: &[u8],
    ) -> Result<(), Error> {
        let session = &mut self.session;
        let place = (session.streams[incoming.stream].as_str(), incoming.seq, row);
        session.aside.put(&session.connection, place, cause, payload)
    }

    /// Folds an image that came out of no stream; returns why the database does not take it, if it does not.
    pub(in crate::db) fn fold_image(&mut self, event: &Event) -> Result<Option<Cause>, Error> {
        match self.fold(event, Source::default())? {
            Outcome::Done { .. } => Ok(None),
            Outcome::Aside(cause) => Ok(Some(cause)),
        }
    }

    /// One event by the rules: facts are gathered, a plan is made of them, and the plan is carried out.
    pub(super) fn fold(&mut self, event: &Event, source: Source) -> Result<Outcome, Error> {
        let outcome = self.fold_in_turn(event, source)?;
        self.session.insist()?;
        Ok(outcome)
    }

    fn fold_in_turn(&mut self, event: &Event, source: Source) -> Result<Outcome, Error> {
        let passed = source.order.is_some_and(Order::is_passed);
        let event = self.session.translated(event);
        let Some(table) = self.session.table_of(&event) else {
            // An event of ours had a table when it was published: the application has dropped it since.
            if passed || source.own || self.session.passes_over(&event.table)? {
                return Ok(Outcome::Done { folded: !passed });
            }
            return Ok(Outcome::Aside(self.no_table(&event.table)));
        };
        let columns = event.row.len();
        let event = self.session.completed(&table, event)?;
        let Some(mut subject) = Subject::new(&table, &event, source) else {
            let why = format!("table {}: an event lacks a column of the key", table.name);
            return Ok(Outcome::Aside(refused(&table, vec![], why)));
        };
        if !passed && let Some(cause) = self.must_wait(&subject)? {
            return Ok(Outcome::Aside(cause));
        }
        // The first look nearly always finds all collisions. If the write still fails on a UNIQUE index, nothing has changed
        // yet: the probe sees what SQLite sees, and with these facts the rules decide again. If even that does not help, the
        // event is set aside, so it is not lost.
        for look in [Look::Indexes, Look::Probe] {
            match self.fold_once(&mut subject, look) {
                Ok(Ok(folded)) => {
                    self.overtake(&subject, columns, folded)?;
                    return Ok(Outcome::Done { folded });
                }
                Ok(Err(cause)) => return Ok(Outcome::Aside(cause)),
                Err(Failure::Collides) => {}
                Err(Failure::Database(error)) => return Err(error),
                Err(Failure::Missing(column)) => {
                    return Ok(Outcome::Aside(waiting(&subject, vec![column])));
                }
                Err(Failure::Refused(why)) => {
                    let why = format!("table {}: {why}", table.name);
                    return Ok(Outcome::Aside(refused(&table, subject.key, why)));
                }
            }
        }
        let why =
            format!("table {}: the row collides with another one in a way that cannot be solved", table.name);
        Ok(Outcome::Aside(refused(&table, subject.key, why)))
    }

    /// Whether the event counts as folded, or why it must wait.
    fn fold_once(&mut self, subject: &mut Subject<'_>, look: Look) -> Result<Result<bool, Cause>, Failure> {
        let mut gathered = gather(&self.session, subject, look)?;
        if subject.source.late {
            self.give_in(subject, &mut gathered)?;
        }
        let plan = fold::decide(&gathered.facts);
        if let (true, Some(why)) = (plan.new_incarnation, gathered.renews) {
            self.session.renew(why)?;
            subject.source.own = false;
            // It is somebody else's event from now on, and waits like theirs.
            if let Some(cause) = self.must_wait(subject)? {
                return Ok(Err(cause));
            }
        }
        let won_id = lost::note(&mut self.session, subject, &gathered, &plan)?;
        if subject.source.own && plan.fold {
            overtaken::note(&mut self.session, &mut self.codec, subject)?;
        }
        hidden::note(&mut self.session, subject, &plan, won_id)?;
        displaced::note(&mut self.session, subject, &gathered, &plan)?;
        carry_out(&mut self.session, subject, &gathered, &plan)?;
        hidden::note_removed(&mut self.session, subject, &gathered, &plan);
        if self.session.place.is_some() && plan.fold && !subject.is_tombstone() {
            self.session.note_writer(&subject.table, subject.source.own)?;
        }
        tell(subject, plan.reason);
        Ok(Ok(plan.fold))
    }

    /// A late event does not displace rows: they may be later in the order. Its own row is given up, and the state of all of them is
    /// published. But a row of which an event waits, too, is older than what is to come, and no state to be published: that event
    /// writes it again.
    fn give_in(&mut self, subject: &Subject<'_>, gathered: &mut Gathered) -> Result<(), Failure> {
        if self.session.touched.is_none() {
            return Ok(());
        }
        for (at, key_values) in gathered.colliding.iter().enumerate() {
            if gathered.facts.collisions[at] {
                continue;
            }
            let (session, key) = (&mut self.session, subject.table.row_key(key_values));
            let row = (&*subject.table.name, key.as_slice());
            if !session.aside.waits(&session.connection, row, i64::MAX)? {
                session.touch(&subject.table, key_values, &key)?;
                gathered.facts.collisions[at] = true;
            }
        }
        Ok(())
    }

    /// Why an event must wait: earlier ones of its row do, or its table lacks a column. An event of ours need not: its row is the one
    /// that stands here, and its log entries are settled. Otherwise it would be published again and again.
    fn must_wait(&self, subject: &Subject<'_>) -> Result<Option<Cause>, Error> {
        if subject.source.own {
            return Ok(None);
        }
        let missing = subject.missing();
        let row = (&*subject.table.name, subject.key.as_slice());
        let session = &self.session;
        // A late event was compared with those before it already.
        let waits = !subject.source.late && session.aside.waits(&session.connection, row, i64::MAX)?;
        if !waits && missing.is_empty() {
            return Ok(None);
        }
        Ok(Some(waiting(subject, missing)))
    }

    /// What is set aside and comes before an event of the same row that was just folded.
    fn overtake(&mut self, subject: &Subject<'_>, columns: usize, folded: bool) -> Result<(), Error> {
        if !folded || self.session.aside.is_empty() {
            return Ok(());
        }
        if subject.source.own {
            overtaken::settle(&mut self.session, &mut self.codec, subject, columns)?;
        }
        let (session, row) = (&mut self.session, (&*subject.table.name, subject.key.as_slice()));
        if subject.source.late { Ok(()) } else { session.aside.settle(&session.connection, row) }
    }

    fn no_table(&self, table: &str) -> Cause {
        let refused = self.session.schema.leaves_out(table);
        let shown: String = table.chars().take(64).collect();
        let why = if refused {
            format!("table {shown} is not replicated here")
        } else {
            format!("there is no table {shown}")
        };
        Cause { table: table.to_owned(), key: vec![], missing: vec![], refused, why }
    }

    /// Deletes a row that no event speaks of.
    pub(in crate::db) fn delete(&mut self, table: &Table, key: &[Value]) -> Result<(), Error> {
        match delete(&self.session, table, key) {
            Ok(rows) => self.session.applied.rows += rows,
            Err(Failure::Database(error)) => return Err(error),
            Err(Failure::Refused(why) | Failure::Missing(why)) => return Err(Error::Mismatch(why)),
            Err(Failure::Collides) => {}
        }
        Ok(())
    }
}

/// Bytes that are no event are kept, too: a newer version of this program may know what they are.
pub fn no_event(why: &Malformed) -> Cause {
    let why = format!("not an event: {why}");
    Cause { table: String::new(), key: vec![], missing: vec![], refused: true, why }
}

pub fn refused(table: &Table, key: Vec<u8>, why: String) -> Cause {
    Cause { table: table.name.to_string(), key, missing: vec![], refused: true, why }
}

/// `missing` is empty for an event whose row waits already.
fn waiting(subject: &Subject<'_>, missing: Vec<String>) -> Cause {
    let table = &subject.table.name;
    let why = match missing.as_slice() {
        [] => String::new(),
        columns => format!("table {table} has no column {}", columns[0].chars().take(64).collect::<String>()),
    };
    Cause { table: table.to_string(), key: subject.key.clone(), missing, refused: false, why }
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
