//! Applying events: the rules of `fold`, carried out on the database, a batch and its checkpoint in one transaction.

mod checkpoint;
mod collisions;
mod mirrored;
pub mod parked;
mod touched;
mod write;

use crate::base::limits;
use crate::db::apply::{touched::Touched, write::Failure};
use crate::db::schema::{self, Schema, Table};
use crate::db::{capture, error::Error, open, sql::quote, state};
use crate::model::event::{Codec, Event, Kind};
use crate::model::fold::{self, Facts, Order, Plan, Row};
use crate::model::origin::Origin;
use crate::model::positions::{Position, SeqMap};
use crate::model::value::{Value, row_key};
use rusqlite::{Connection, params_from_iter};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// An event as it came out of a stream.
#[derive(Debug)]
pub struct Incoming {
    /// The stream.
    pub stream: String,
    /// Its sequence there.
    pub seq: u64,
    /// Publisher and change-log id, for events that carry them.
    pub origin: Option<(Origin, i64)>,
    /// The message's body.
    pub payload: Vec<u8>,
}

/// What a batch came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Events consumed: all of the batch, or fewer when its time was up.
    pub events: usize,
    /// Rows written or deleted.
    pub rows: usize,
    /// Log entries that were settled.
    pub settled: usize,
    /// Log entries made, which the publisher should look at.
    pub touched: usize,
    /// This database publishes under a new name from now on: it turned out to be an older copy.
    pub renamed: bool,
}

/// The connection that applies.
pub struct Applier {
    pub(in crate::db) connection: Connection,
    path: PathBuf,
    pub(in crate::db) node: u64,
    pub(in crate::db) schema: Schema,
    by_number: HashMap<i64, Arc<Table>>,
    pub(in crate::db) touched: Option<Touched>,
    origin: Option<Origin>,
    folded: HashMap<(String, Origin), i64>,
    changed_marks: HashSet<(String, Origin)>,
    parked: HashSet<String>,
    codec: Codec,
    checkpointer: crate::db::apply::checkpoint::Checkpointer,
}

/// What one event came to, besides changes of the database.
enum Outcome {
    Done,
    /// It does not fit the schema: why.
    Park(String),
}

impl Applier {
    /// Opens the database, which has its state table (see [`Applier::ensure_state`]).
    pub fn open(path: &Path, node: u64) -> Result<Applier, Error> {
        let mut connection = open::open(path)?;
        open::insist(&mut connection)?;
        // REPLACE must fire the probe's delete trigger; the application's triggers are off here, so nothing recurses.
        connection.execute_batch("PRAGMA recursive_triggers=ON")?;
        let codec = Codec::new(false).map_err(|error| Error::Other(error.to_string()))?;
        let parked = parked::tables(&connection)?;
        Ok(Applier {
            path: path.to_path_buf(),
            node,
            schema: Schema::default(),
            by_number: HashMap::new(),
            touched: None,
            origin: None,
            folded: HashMap::new(),
            changed_marks: HashSet::new(),
            parked,
            codec,
            checkpointer: crate::db::apply::checkpoint::Checkpointer::open(path)?,
            connection,
        })
    }

    /// Whether an event was published by this database.
    pub fn is_own(&self, incoming: &Incoming) -> bool {
        matches!((&incoming.origin, &self.origin), (Some((origin, _)), Some(ours)) if origin == ours)
    }

    /// Makes sure that the database has our state. Removes capture when this node publishes nothing.
    pub fn ensure_state(path: &Path, publish: bool) -> Result<(), Error> {
        let mut connection = open::open(path)?;
        capture::ensure_state(&mut connection)?;
        if publish { Ok(()) } else { capture::uninstall(&mut connection) }
    }

    /// The position in a stream; `None` when the database never followed it.
    pub fn position(&self, stream: &str) -> Result<Option<Position>, Error> {
        state::position(&self.connection, stream)
    }

    /// Writes the position in a stream, outside of a batch; `fresh`: it counts in a new stream, where nothing was folded.
    pub fn set_position(&mut self, stream: &str, position: &Position, fresh: bool) -> Result<(), Error> {
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        state::set_position(&transaction, stream, position)?;
        if fresh {
            state::forget_folded(&transaction, stream)?;
        }
        transaction.commit()?;
        if fresh {
            self.folded.retain(|(name, _), _| name != stream);
        }
        Ok(())
    }

    /// Whether the database came from a snapshot.
    pub fn is_restored(&self) -> Result<bool, Error> {
        Ok(state::meta(&self.connection, state::RESTORED)?.is_some())
    }

    /// All positions.
    pub fn positions(&self) -> Result<SeqMap, Error> {
        state::positions(&self.connection)
    }

    /// Applies a batch in order, up to its end or until its time is up, and moves the checkpoint: all or nothing.
    pub fn apply(&mut self, batch: &[Incoming]) -> Result<Applied, Error> {
        let applied = self.in_transaction(|applier| applier.apply_in_transaction(batch))?;
        self.checkpointer.after_batch(&self.connection, applied.events);
        Ok(applied)
    }

    /// Runs `body` in one write transaction; if it fails, memory goes back with the database.
    pub(in crate::db) fn in_transaction(
        &mut self,
        body: impl FnOnce(&mut Applier) -> Result<Applied, Error>,
    ) -> Result<Applied, Error> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let savepoint = self.touched.as_ref().map(Touched::savepoint);
        let result = body(self).and_then(|applied| {
            self.connection.execute_batch("COMMIT")?;
            Ok(applied)
        });
        self.changed_marks.clear();
        if result.is_err() {
            if !self.connection.is_autocommit() {
                self.connection.execute_batch("ROLLBACK")?;
            }
            self.forget_cached_state()?;
            if let (Some(touched), Some(savepoint)) = (&mut self.touched, savepoint) {
                touched.rolled_back(savepoint);
            }
            // A schema that was read inside may have been rolled back with its mirror.
            self.schema.version = -1;
        }
        result
    }

    /// What the state table holds is read again when it is needed.
    pub(in crate::db) fn forget_cached_state(&mut self) -> Result<(), Error> {
        self.folded.clear();
        self.changed_marks.clear();
        self.parked = parked::tables(&self.connection)?;
        Ok(())
    }

    /// The schema as it is now, and the log as the application left it.
    pub(in crate::db) fn begin_batch(&mut self, applied: &mut Applied) -> Result<(), Error> {
        self.follow_schema(applied)?;
        if let Some(touched) = &mut self.touched {
            touched.catch_up(&self.connection, &self.by_number)?;
        }
        Ok(())
    }

    /// Marks of what was folded, and the log's placeholder.
    pub(in crate::db) fn end_batch(&mut self) -> Result<(), Error> {
        for (stream, origin) in &self.changed_marks {
            if let Some(id) = self.folded.get(&(stream.clone(), *origin)) {
                state::set_folded(&self.connection, stream, *origin, *id)?;
            }
        }
        if let Some(touched) = &mut self.touched {
            touched.drop_placeholder(&self.connection)?;
        }
        Ok(())
    }

    fn apply_in_transaction(&mut self, batch: &[Incoming]) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        self.begin_batch(&mut applied)?;
        let begun = Instant::now();
        let mut last: HashMap<&str, u64> = HashMap::new();
        for incoming in batch {
            if applied.events > 0 && begun.elapsed() > limits::APPLY_TIME {
                break;
            }
            self.consume(incoming, &mut applied)?;
            applied.events += 1;
            last.insert(&incoming.stream, incoming.seq);
        }
        for (stream, seq) in last {
            state::set_seq(&self.connection, stream, seq)?;
        }
        self.end_batch()?;
        Ok(applied)
    }

    /// Whether the log holds a key.
    pub(in crate::db) fn is_touched(&self, key: &[u8]) -> Result<bool, Error> {
        match &self.touched {
            Some(touched) => touched.holds(&self.connection, key, i64::MAX),
            None => Ok(false),
        }
    }

    /// Folds an image that came from nobody's stream.
    pub(in crate::db) fn fold_image(&mut self, event: &Event, applied: &mut Applied) -> Result<(), Error> {
        match self.fold(event, None, false, applied)? {
            Outcome::Done => Ok(()),
            Outcome::Park(why) => Err(Error::Mismatch(why)),
        }
    }

    /// Takes over a change that another copy of this database had logged: the row is as the event says, and logged.
    pub fn adopt(&mut self, event: &Event) -> Result<Applied, Error> {
        self.in_transaction(|applier| {
            let mut applied = Applied::default();
            applier.begin_batch(&mut applied)?;
            applier.fold_image(event, &mut applied)?;
            let misfit = || Error::Mismatch(format!("table {}: no such table, or no key", event.table));
            let table = applier.schema.tables.get(&event.table).cloned().ok_or_else(misfit)?;
            let values = key_values(&table, event).ok_or_else(misfit)?;
            let key = canonical(&table, &values);
            if let Some(touched) = &mut applier.touched
                && !touched.holds(&applier.connection, &key, i64::MAX)?
            {
                touched.touch(&applier.connection, &table, &values, &key)?;
                applied.touched += 1;
            }
            applier.end_batch()?;
            Ok(applied)
        })
    }

    /// Reads the schema again if it changed, and applies parked events that fit now.
    fn follow_schema(&mut self, applied: &mut Applied) -> Result<(), Error> {
        let version = schema::version(&self.connection)?;
        if version == self.schema.version {
            return Ok(());
        }
        self.schema = capture::read_numbered(&self.connection)?;
        self.by_number = self.schema.tables.values().map(|table| (table.id, table.clone())).collect();
        self.origin = Some(state::origin(&self.connection, self.node)?);
        let captures = state::has_table(&self.connection, capture::LOG)?;
        match (&mut self.touched, captures) {
            (Some(touched), true) => touched.reset(&self.connection)?,
            (None, true) => self.touched = Some(Touched::new(&self.connection)?),
            (_, false) => self.touched = None,
        }
        collisions::prepare(&self.connection, &self.schema)?;
        mirrored::refresh(&self.connection, &self.path, &self.schema)?;
        if let Some(touched) = &mut self.touched {
            touched.catch_up(&self.connection, &self.by_number)?;
        }
        for table in self.parked.clone() {
            if self.schema.tables.contains_key(&table) {
                self.apply_parked(&table, applied)?;
            }
        }
        Ok(())
    }

    fn apply_parked(&mut self, table: &str, applied: &mut Applied) -> Result<(), Error> {
        let mut after = (String::new(), 0);
        let mut count = 0;
        while let Some(event) = parked::next(&self.connection, table, &after)? {
            if let Ok(unpacked) = self.codec.unpack(&event.payload)
                && let Outcome::Park(_) = self.fold(&unpacked, None, false, applied)?
            {
                return Ok(());
            }
            parked::remove(&self.connection, &event)?;
            count += 1;
            after = (event.stream, event.seq);
        }
        self.parked.remove(table);
        log::info!("table {table}: applied {count} events that had waited for its schema");
        Ok(())
    }

    fn consume(&mut self, incoming: &Incoming, applied: &mut Applied) -> Result<(), Error> {
        let place = || format!("{} sequence {}", incoming.stream, incoming.seq);
        let event = match self.codec.unpack(&incoming.payload) {
            Ok(event) => event,
            Err(why) => {
                log::error!("{}: not an event, left out: {why}", place());
                return Ok(());
            }
        };
        let order = match &incoming.origin {
            Some((origin, id)) => Some(Order { id: *id, folded: self.folded_id(&incoming.stream, origin)? }),
            None => None,
        };
        let own = self.is_own(incoming);
        let known = self.schema.tables.contains_key(&event.table);
        if !known && (self.schema.others.contains(&event.table) || event.table.starts_with(limits::PREFIX)) {
            return Ok(());
        }
        let outcome = if self.parked.contains(&event.table) {
            Outcome::Park(String::new())
        } else if known {
            self.fold(&event, order, own, applied)?
        } else {
            Outcome::Park(format!("no table {}", event.table))
        };
        if let Some(order) = order
            && order.id > order.folded
            && let Some((origin, id)) = &incoming.origin
        {
            let mark = (incoming.stream.clone(), *origin);
            self.folded.insert(mark.clone(), *id);
            self.changed_marks.insert(mark);
        } else if order.is_some() && matches!(outcome, Outcome::Park(_)) {
            return Ok(()); // A duplicate or straggler.
        }
        if let Outcome::Park(why) = outcome
            && !own
        {
            if self.parked.insert(event.table.clone()) {
                log::warn!(
                    "{}: {why}: events of table {} wait until the application changes its schema here",
                    place(),
                    event.table
                );
            }
            parked::park(&self.connection, &incoming.stream, incoming.seq, &event.table, &incoming.payload)?;
        }
        Ok(())
    }

    /// Whether an event of ours, seen for the first time, is one that our log does not know: an older copy of the database
    /// was put back, or a power cut took commits that had been published. Its log gives ids again that others have folded.
    fn is_older_copy(&self, key: &[u8], order: Option<Order>) -> Result<bool, Error> {
        match (&self.touched, order) {
            (Some(touched), Some(order)) if order.id > order.folded => {
                Ok(order.id > touched.highest() || !touched.holds(&self.connection, key, order.id)?)
            }
            _ => Ok(false),
        }
    }

    /// A new name to publish under, whose ids nobody has seen.
    pub(in crate::db) fn rename(&mut self) -> Result<(), Error> {
        log::warn!(
            "this database has published more than it knows: it is an older copy, or lost its last commits. What it had \
             published comes back; it publishes under a new name from now on"
        );
        state::new_incarnation(&self.connection)?;
        self.origin = Some(state::origin(&self.connection, self.node)?);
        Ok(())
    }

    fn folded_id(&mut self, stream: &str, origin: &Origin) -> Result<i64, Error> {
        let mark = (stream.to_owned(), *origin);
        if let Some(id) = self.folded.get(&mark) {
            return Ok(*id);
        }
        let id = state::folded(&self.connection, stream, *origin)?;
        self.folded.insert(mark, id);
        Ok(id)
    }

    /// One event by the rules.
    fn fold(
        &mut self,
        event: &Event,
        order: Option<Order>,
        mut own: bool,
        applied: &mut Applied,
    ) -> Result<Outcome, Error> {
        let Some(table) = self.schema.tables.get(&event.table).cloned() else {
            return Ok(Outcome::Park(format!("no table {}", event.table)));
        };
        let Some(values) = key_values(&table, event) else {
            log::error!(
                "an event of table {} from node {} lacks a key column, left out",
                event.table,
                event.node
            );
            return Ok(Outcome::Done);
        };
        let key = canonical(&table, &values);
        if own && self.is_older_copy(&key, order)? {
            self.rename()?;
            applied.renamed = true;
            own = false;
        }
        let mut facts = Facts { order, own, tombstone: event.kind == Kind::Delete, ..Facts::default() };
        if let Some(touched) = &self.touched
            && !touched.is_empty(&self.connection)?
        {
            facts.touched = touched.holds(&self.connection, &key, i64::MAX)?;
            facts.unsettled =
                own && touched.holds(&self.connection, &key, order.map_or(event.id, |order| order.id))?;
        }
        let mut collisions = vec![];
        if facts.touched && !facts.tombstone && !table.unique.is_empty() && fold::decide(&facts).fold {
            collisions = self.probe(&table, event, &key, &mut facts)?;
        }
        let mut plan = fold::decide(&facts);
        if plan.row == Row::Write {
            match self.write(&table, event) {
                Ok(rows) => applied.rows += rows,
                Err(Failure::Collides) if collisions.is_empty() => {
                    collisions = self.probe(&table, event, &key, &mut facts)?;
                    plan = fold::decide(&facts);
                    self.delete_collisions(&table, &collisions, &facts, applied)?;
                    collisions.clear();
                    if plan.row == Row::Write {
                        match self.write(&table, event) {
                            Ok(rows) => applied.rows += rows,
                            Err(failure) => return failure.outcome(),
                        }
                    }
                }
                Err(failure) => return failure.outcome(),
            }
        }
        if plan.delete_collisions {
            self.delete_collisions(&table, &collisions, &facts, applied)?;
        }
        if plan.row == Row::Delete {
            applied.rows += self.delete(&table, &values)?;
        }
        let limit = order.map_or(event.id, |order| order.id);
        self.log_and_settle(&plan, &table, &values, &key, limit, applied)?;
        Ok(Outcome::Done)
    }

    fn log_and_settle(
        &mut self,
        plan: &Plan,
        table: &Table,
        values: &[Value],
        key: &[u8],
        limit: i64,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let Some(touched) = &mut self.touched else { return Ok(()) };
        if plan.touch {
            touched.touch(&self.connection, table, values, key)?;
            applied.touched += 1;
        }
        if plan.settle {
            applied.settled += touched.settle(&self.connection, key, limit)?;
        }
        Ok(())
    }

    fn delete_collisions(
        &self,
        table: &Table,
        collisions: &[Vec<Value>],
        facts: &Facts,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        for (values, touched) in collisions.iter().zip(&facts.collisions) {
            if !touched {
                applied.rows += self.delete(table, values)?;
            }
        }
        Ok(())
    }

    pub(in crate::db) fn delete(&self, table: &Table, key: &[Value]) -> Result<usize, Error> {
        let sql = format!("DELETE FROM main.{} WHERE {}", quote(&table.name), table.key_filter());
        Ok(self.connection.prepare_cached(&sql)?.execute(params_from_iter(key))?)
    }

    /// Rows that collide with the event's image; fills in which of them are touched.
    fn probe(
        &self,
        table: &Table,
        event: &Event,
        own_key: &[u8],
        facts: &mut Facts,
    ) -> Result<Vec<Vec<Value>>, Error> {
        let mut found = collisions::find(&self.connection, table, event)?;
        found.retain(|values| canonical(table, values) != own_key);
        facts.collisions.clear();
        for values in &found {
            facts.collisions.push(self.is_touched(&canonical(table, values))?);
        }
        Ok(found)
    }
}

impl Failure {
    fn outcome(self) -> Result<Outcome, Error> {
        match self {
            Failure::Collides => Ok(Outcome::Park(
                "the row collides with another one in a way that cannot be solved".to_owned(),
            )),
            Failure::Misfit(why) => Ok(Outcome::Park(why)),
            Failure::Database(error) => Err(error),
        }
    }
}

fn key_values(table: &Table, event: &Event) -> Option<Vec<Value>> {
    let find = |name: &str| {
        event.row.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
    };
    table.key.iter().map(|(name, _)| find(name)).collect()
}

pub(in crate::db) fn canonical(table: &Table, values: &[Value]) -> Vec<u8> {
    let with_collation: Vec<_> = values.iter().cloned().zip(table.key.iter().map(|(_, c)| *c)).collect();
    row_key(table.id, &with_collation)
}
