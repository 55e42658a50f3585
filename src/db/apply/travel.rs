//! Changes of the schema that come out of a stream. A message with one is never applied together with what was before it: first the
//! change is carried out, in a transaction of its own; what was read is then decoded already, and applied to the schema as it is.

use crate::base::{clock, limits};
use crate::db::apply::applier::Applier;
use crate::db::apply::aside::Cause;
use crate::db::apply::conflicts::{Found, Kind};
use crate::db::apply::doubles::Doubles;
use crate::db::apply::follows::Travel;
use crate::db::apply::incoming::Incoming;
use crate::db::apply::session::{Session, drop_temporary_triggers};
use crate::db::capture::{install, log_all_rows, log_table};
use crate::db::migrate::history::{self, Past, State};
use crate::db::migrate::{self, Carried, Looker, Settled, kept};
use crate::db::schema::{self, Schema};
use crate::db::{error::Error, open, state, table::Table};
use crate::model::change::Change;
use crate::model::event::{Event, Malformed};
use crate::model::payload::Payload;
use crate::model::value::Value;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

impl Session {
    /// Reads the changes again if the publisher has noted more. Whether it has.
    pub fn look_at_changes(&mut self) -> Result<bool, Error> {
        let noted = self.known.noted();
        if noted == self.travel.noted {
            return Ok(false);
        }
        self.travel.read(&self.connection, noted)?;
        Ok(true)
    }

    /// An event as it would be had it been made now.
    pub fn translated<'a>(&self, event: &'a Event) -> Cow<'a, Event> {
        self.travel.translation.translate(event, &self.schema)
    }

    /// What columns of an event are called now; those that are gone have no name.
    pub fn translated_names(&self, event: &Event, names: &[String]) -> Vec<String> {
        let row = names.iter().map(|name| (name.as_str().into(), Value::Null)).collect();
        let event =
            Event { row, table: event.table.clone(), schema_hash: event.schema_hash.clone(), ..*event };
        self.translated(&event).row.iter().map(|(name, _)| name.to_string()).collect()
    }

    /// The same with the columns that it lacks.
    pub fn completed<'a>(&self, table: &Table, event: Cow<'a, Event>) -> Result<Cow<'a, Event>, Error> {
        self.travel.translation.complete(&self.connection, table, event)
    }

    /// Whether the schema has changed and nobody has noted yet what became of it.
    fn is_look_missing(&self) -> Result<bool, Error> {
        match self.known.looked() {
            Some(looked) => Ok(looked != schema::version(&self.connection)?),
            None => Ok(false),
        }
    }

    /// Why a change of the schema was not carried out: it is none that this program knows.
    pub fn cause_of(&self, change: Result<Change, Malformed>) -> Option<Cause> {
        let why = change.err().filter(|_| self.travel.on)?;
        let why = format!("a change of the schema: {why}");
        Some(Cause { table: String::new(), key: vec![], missing: vec![], refused: true, why })
    }

    /// Carries out a change that comes next in the order, and notes it.
    fn carry_out(&mut self, change: &Change) -> Result<Carried, Error> {
        let before = history::exists(&self.connection)?;
        let known = if before { history::state_of(&self.connection, &change.id)? } else { None };
        if known == Some(State::Done) {
            return Ok(Carried::default());
        }
        drop_temporary_triggers(&self.connection)?;
        let captures = self.touched.is_some();
        // What the application has changed a moment ago comes later in the order.
        let mut schema = (*self.schema).clone();
        if captures {
            let (now, found) = install::install_inside(&self.connection, &schema)?;
            (schema, self.travel.rebuilt) = (now, self.travel.rebuilt || !found.rebuilt.is_empty());
            migrate::look(&self.connection, &schema, Looker { node: self.node(), travels: true })?;
        }
        history::create(&self.connection)?;
        let noted: BTreeSet<String> =
            state::rebuilt(&self.connection)?.into_iter().map(|(name, _)| name).collect();
        let Settled { carried, change: settled, told_anew } =
            migrate::settle(&self.connection, change, self.travel.keeps)?;
        if captures && carried.changed {
            schema = install::install_inside(&self.connection, &schema)?.0;
            for table in carried.rebuilt.iter().filter(|table| !noted.contains(*table)) {
                state::forget_rebuilt_table(&self.connection, table)?;
            }
            for table in told_anew.iter().filter_map(|name| schema.find(name)) {
                log_all_rows(&self.connection, table)?;
            }
        } else if carried.changed {
            schema = Schema::read(&self.connection)?;
        }
        let mut change = settled.map_or(Cow::Borrowed(change), Cow::Owned);
        if migrate::exist(&self.connection)? {
            let difference = migrate::difference(&self.connection)?;
            if change.script.is_some() {
                // What it came to, for events of the schema before.
                change.to_mut().steps = migrate::steps(&self.connection, &schema, &difference)?;
            }
            migrate::remember(&self.connection, &difference)?;
        } else {
            migrate::remember_all(&self.connection)?;
        }
        if change.script.is_some() && captures {
            // Others have run it before they get what was written here meanwhile.
            log_table::log_again(&self.connection)?;
        }
        migrate::set_last_hash(&self.connection, &schema.hash)?;
        self.known.has_looked_at_own(self.version(), schema::version(&self.connection)?);
        let lost = carried.lost.join("; ");
        history::put(&self.connection, &change, State::Done, (clock::unix_ms(), &lost))?;
        if known == Some(State::Waiting) {
            self.keep_lost(&change, &carried)?;
            self.tell_ousted()?;
        }
        Ok(carried)
    }

    /// Whether this node's own application has given a table a UNIQUE rule, and that is on its way: nobody else has the rule as yet.
    pub fn has_own_rule(&self, table: &str) -> Result<bool, Error> {
        let own = match self.travel.on {
            true => history::in_state(&self.connection, State::Waiting)?,
            false => vec![],
        };
        Ok(own.iter().any(|(_, change)| migrate::may_bring(change, table)))
    }

    /// Keeps, on the node that made it, what of a change has lost against others.
    fn keep_lost(&mut self, change: &Change, carried: &Carried) -> Result<(), Error> {
        for (nth, lost) in carried.lost.iter().enumerate() {
            let row = vec![("schema".into(), Value::Text(lost.as_bytes().to_vec()))];
            let event = Event { row, ..change.event(0) };
            self.conflicts.put(
                &self.connection,
                &Found {
                    table: crate::model::change::TABLE,
                    key: format!("{} {nth}", change.id).as_bytes(),
                    kind: Kind::Schema,
                    lost_by: change.node,
                    won_by: 0,
                    won_id: 0,
                    stream: "",
                    seq: 0,
                    time_ms: change.time_ms,
                    key_columns: vec!["schema"],
                    payload: event.encode(),
                },
            )?;
        }
        Ok(())
    }
}

impl Applier {
    /// Follows changes of the schema from now on. `keeps`: what they drop is kept for a while.
    pub fn travel(&mut self, keeps: bool) -> Result<(), Error> {
        let failed = history::any_in_state(&self.session.connection, State::Failed)?;
        let again = failed.then(Instant::now);
        self.session.travel = Travel { on: true, keeps, again, ..Travel::default() };
        Ok(())
    }

    /// Carries out, in the copy at `path` of a state that others know too, what this database has seen of changes and the copy has not.
    pub fn carry_over(&self, path: &Path) -> Result<(), Error> {
        let mut copy = Applier::open(path, self.session.node(), &self.session.streams)?;
        copy.travel(false)?;
        copy.catch_up_with(history::all(&self.session.connection)?, false)
    }

    /// The same the other way round, from a snapshot. Of a script only what it came to is carried out: its rows come with the snapshot, and
    /// this database may have all of it already.
    pub fn follow_snapshot(&mut self, path: &Path) -> Result<(), Error> {
        self.catch_up_with(history::all(&open::open(path)?)?, true)?;
        self.carry_over(path)
    }

    fn catch_up_with(&mut self, all: Vec<Past>, rows_come: bool) -> Result<(), Error> {
        let known = history::all(&self.session.connection)?.into_iter();
        let known = known.filter(|past| past.state != State::Failed).map(|past| past.change.id);
        let known: BTreeSet<String> = known.collect();
        let is_new = |past: &Past| past.state != State::Failed && !known.contains(&past.change.id);
        for Past { change, .. } in all.into_iter().filter(is_new) {
            let steps_alone = rows_come && change.script.is_some();
            let done = self.in_transaction(|applier| {
                if !steps_alone {
                    return applier.session.carry_out(&change).map(drop);
                }
                applier.session.carry_out(&Change { script: None, ..change.clone() })?;
                // As it is known elsewhere, with its statements.
                history::put(&applier.session.connection, &change, State::Done, (clock::unix_ms(), ""))
            });
            self.session.forget_schema();
            match done {
                Ok(_) => {}
                Err(Error::Mismatch(why) | Error::Other(why)) if rows_come => {
                    self.note_failed(&change, &why)?
                }
                // The copy is compared as it is.
                Err(Error::Mismatch(why) | Error::Other(why)) => {
                    log::debug!(
                        "a change of the schema ({}) does not fit into a copy: {why}",
                        change.summary()
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Carries out the changes of the schema in the first message, if it has some that were not seen yet. Returns how many messages can
    /// be applied before the next one that has.
    pub(super) fn follow_schema(&mut self, batch: &[Incoming]) -> Result<usize, Error> {
        if !self.session.travel.on {
            return Ok(batch.len());
        }
        self.try_changes_again()?;
        for change in self.unseen(0)? {
            self.carry_out_change(&change)?;
        }
        for at in 1..self.decoded.len().min(batch.len()) {
            if !self.unseen(at)?.is_empty() {
                return Ok(at);
            }
        }
        Ok(batch.len())
    }

    /// Waits a moment for the publisher when the application has just changed the schema: what became of its columns must be noted
    /// before events are applied.
    pub(super) fn await_look(&self) -> Result<(), Error> {
        let begun = Instant::now();
        while self.session.is_look_missing()? && begun.elapsed() < limits::LOOK_PATIENCE {
            std::thread::park_timeout(limits::BUSY_STEP);
        }
        Ok(())
    }

    /// The changes in a decoded message that are neither done nor failed.
    fn unseen(&self, at: usize) -> Result<Vec<Change>, Error> {
        let events = match self.decoded.get(at) {
            Some((_, Ok(Payload::Set(events)))) => events.as_slice(),
            Some((_, Ok(Payload::Row(event)))) => std::slice::from_ref(event),
            _ => &[],
        };
        let mut found = vec![];
        for change in events.iter().filter_map(Change::of).flatten() {
            let connection = &self.session.connection;
            let known =
                if history::exists(connection)? { history::state_of(connection, &change.id)? } else { None };
            if matches!(known, None | Some(State::Waiting | State::Own)) {
                found.push(change);
            }
        }
        Ok(found)
    }

    fn carry_out_change(&mut self, change: &Change) -> Result<(), Error> {
        let (mut carried, mut doubles) = (Carried::default(), Doubles::default());
        let mut done = self.in_transaction(|applier| {
            carried = applier.session.carry_out(change)?;
            Ok(())
        });
        self.session.forget_schema();
        if let Err(Error::Mismatch(why)) = &done
            && change.script.is_none()
        {
            let why = why.clone();
            done = self.in_transaction(|applier| {
                doubles = applier
                    .session
                    .give_up_doubles(&migrate::planned(&applier.session.connection, change)?)?;
                if doubles.given_up == 0 || doubles.waits {
                    return Err(Error::Mismatch(why));
                }
                carried = applier.session.carry_out(change)?;
                Ok(())
            });
            self.session.forget_schema();
        }
        if !doubles.waits {
            self.session.travel.doubles_since = None;
        }
        let (node, summary) = (change.node, change.summary());
        if change.script.is_some()
            && !matches!(done, Err(Error::Busy | Error::Disk(_) | Error::SchemaChanged))
        {
            let why = done.as_ref().err().map(ToString::to_string).unwrap_or_default();
            self.session.travel.reports.push((change.id.clone(), why));
        }
        match done {
            Ok(_) => {
                if carried.changed {
                    log::info!("node {node} has changed the schema ({summary}): this database follows");
                }
                if doubles.given_up > 0 {
                    log::warn!(
                        "{} rows had a value that must be UNIQUE now and another row has: they are removed, and kept (-conflicts)",
                        doubles.given_up
                    );
                }
                for lost in &carried.lost {
                    log::warn!("a change of the schema by node {node} has no effect: {lost}");
                }
                Ok(())
            }
            Err(Error::Mismatch(why)) if doubles.waits => {
                log::debug!("{summary} by node {node} waits for what that node says of rows: {why}");
                self.put_off(change, &why, limits::DOUBLES_AGAIN)
            }
            Err(Error::Mismatch(why) | Error::Other(why)) => self.note_failed(change, &why),
            Err(error) => Err(error),
        }
    }

    /// A change does not fit here: it is tried again later.
    fn note_failed(&mut self, change: &Change, why: &String) -> Result<(), Error> {
        if history::why_failed(&self.session.connection, &change.id)?.as_ref() != Some(why) {
            log::error!(
                "node {} has changed the schema ({}), and this database cannot follow: {why}; trying again. Rows that need it wait",
                change.node,
                change.summary()
            );
        }
        self.put_off(change, why, limits::CHANGE_AGAIN)
    }

    fn put_off(&mut self, change: &Change, why: &str, pause: Duration) -> Result<(), Error> {
        self.session.travel.again = Some(Instant::now() + pause);
        self.in_transaction(|applier| {
            let connection = &applier.session.connection;
            history::create(connection)?;
            history::put(connection, change, State::Failed, (clock::unix_ms(), why))
        })
        .map(drop)
    }

    /// How many changes of the schema this database knows.
    pub fn known_changes(&self) -> Result<usize, Error> {
        Ok(history::all(&self.session.connection)?.len())
    }

    /// Whether tables were found built anew since the last call.
    pub fn take_rebuilt(&mut self) -> bool {
        std::mem::take(&mut self.session.travel.rebuilt)
    }

    /// What became of scripts since the last call: the ids of their changes, and why they failed.
    pub fn take_reports(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.session.travel.reports)
    }

    /// Drops what was kept before a moment of what changes of the schema took away; returns how many.
    pub fn forget_kept(&mut self, before_ms: i64) -> Result<usize, Error> {
        if kept::all(&self.session.connection)?.iter().all(|kept| kept.time_ms >= before_ms) {
            return Ok(0);
        }
        let mut count = 0;
        self.in_transaction(|applier| {
            count = kept::forget_older(&applier.session.connection, before_ms)?;
            Ok(())
        })?;
        Ok(count)
    }

    /// Whether a change failed that is to be tried again, now or later.
    pub fn cannot_follow(&self) -> bool {
        self.session.travel.again.is_some()
    }

    /// Whether changes that failed are to be tried again now.
    pub(super) fn is_change_due(&self) -> bool {
        self.session.travel.again.is_some_and(|again| again <= Instant::now())
    }

    fn try_changes_again(&mut self) -> Result<(), Error> {
        if !self.is_change_due() {
            return Ok(());
        }
        self.session.travel.again = None;
        for (_, change) in history::in_state(&self.session.connection, State::Failed)? {
            self.carry_out_change(&change)?;
        }
        Ok(())
    }
}
