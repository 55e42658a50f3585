//! The writing session: the one connection that writes into the database while it is replicated, and everything in memory
//! that stands for contents of the database and must be rolled back with them.

use crate::base::{fail, limits, memory};
use crate::db::apply::aside::{self, Aside};
use crate::db::apply::beneath::Beneath;
use crate::db::apply::conflicts::{self, Conflicts};
use crate::db::apply::{checkpoint::Checkpointer, collisions, feed::Feeds, marks::Marks};
use crate::db::apply::{
    follows::Travel,
    mirrored::Mirrored,
    renewal::{Renewals, Why},
    savepoint,
    subject::{Place, Source},
    touched::Touched,
    writers::{self, Writers},
};
use crate::db::apply::{orphans::Orphans, ousted::Ousted, recent::Recent};
use crate::db::capture::log_table;
use crate::db::schema::{self, Known, Schema};
use crate::db::steering::{self, Steering};
use crate::db::{digits, error::Error, open, ours, rowids, schema_rows, sql::quote, state, table::Table};
use crate::model::event::Event;
use crate::model::fold::Order;
use crate::model::origin::Origin;
use crate::model::positions::{Position, SeqMap};
use crate::model::value::Value;
use rusqlite::{Connection, TransactionBehavior};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a transaction came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Messages consumed: all of the batch, or fewer when its time was up.
    pub events: usize,
    /// Events in them.
    pub changes: usize,
    /// Rows written or deleted.
    pub rows: usize,
    /// Log entries that were settled.
    pub settled: usize,
    /// Writes of others that lost to ours.
    pub lost: usize,
    /// Log entries that were made. The publisher has them to publish.
    pub touched: usize,
    /// The application has written since the last one.
    pub noticed: bool,
    /// This database turned out to be an older copy and publishes under a new incarnation from now on.
    pub new_incarnation: bool,
}

/// The same for the database at `path`.
#[cfg(test)]
pub fn ensure_state(path: &Path) -> Result<(), Error> {
    ensure_state_of(&mut open::open(path)?)
}

/// Makes sure that the database has the tables and the incarnation that every node needs, capturing or not.
pub fn ensure_state_of(connection: &mut Connection) -> Result<(), Error> {
    if has_all_tables(connection)? && state::has_incarnation(connection)? {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    create_tables(&transaction)?;
    if !state::has_incarnation(&transaction)? {
        state::new_incarnation(&transaction)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Whether the tables that every node needs are there.
pub fn has_all_tables(connection: &Connection) -> Result<bool, Error> {
    Ok(ours::has_table(connection, state::TABLE)?
        && aside::is_up_to_date(connection)?
        && conflicts::is_up_to_date(connection)?
        && steering::is_up_to_date(connection)?)
}

/// Creates the tables that every node needs, where they are not there.
pub fn create_tables(connection: &Connection) -> Result<(), Error> {
    state::create(connection)?;
    aside::create(connection)?;
    conflicts::create(connection)?;
    steering::create(connection)
}

pub struct Session {
    pub connection: Connection,
    node: u64,
    /// Names of the streams under their numbers.
    pub streams: Vec<String>,
    pub schema: Arc<Schema>,
    /// `PRAGMA schema_version` for which all is made: the schema, and what is temporary on the connection.
    version: i64,
    /// A quiet connection should not keep the schema.
    large: bool,
    /// What was decoded took much memory, which is free now.
    pub heavy: bool,
    /// When there was work; `None` since the connection gave back the schema.
    used: Option<Instant>,
    /// The schema as any connection has read it last.
    pub known: Known,
    /// The mirror of the change log; `None` without capture.
    pub touched: Option<Touched>,
    /// `None` until the first transaction.
    origin: Option<Origin>,
    marks: Marks,
    pub aside: Aside,
    pub conflicts: Conflicts,
    pub orphans: Orphans,
    pub recent: Recent,
    pub beneath: Beneath,
    pub ousted: Ousted,
    pub steering: Steering,
    writers: Writers,
    /// `None` for an image that comes out of no stream: nothing loses to it.
    pub place: Option<Place>,
    renewals: Renewals,
    /// Tables that cannot be replicated are named in warnings: nobody else who reads the schema does.
    pub tells_refused: bool,
    /// Tables of which it is noted that events were passed over; `None` until the first one is.
    passed: Option<BTreeSet<String>>,
    /// When the running transaction began.
    begun: Instant,
    /// What the running transaction has come to.
    pub applied: Applied,
    /// The application's triggers that run on this connection too.
    pub mirrored: Mirrored,
    /// Those that only the application may run.
    feeds: Feeds,
    checkpointer: Checkpointer,
    pub travel: Travel,
}

impl Session {
    /// Opens a database that has our tables (see [`ensure_state_of`]).
    pub fn open(path: &Path, node: u64, streams: &[String]) -> Result<Session, Error> {
        let mut connection = open::open(path)?;
        open::insist(&mut connection)?;
        digits::agree(&connection)?;
        // The probe for collisions needs it: a REPLACE must fire delete triggers. Nothing recurses, because the
        // application's triggers are off on our connections.
        connection.execute_batch("PRAGMA recursive_triggers=ON")?;
        let mut aside = Aside::default();
        aside.load(&connection)?;
        let mut conflicts = Conflicts::default();
        conflicts.load(&connection)?;
        let large = schema_rows::is_large(schema_rows::count(&connection)?);
        Ok(Session {
            node,
            large,
            heavy: false,
            used: Some(Instant::now()),
            streams: streams.to_vec(),
            schema: Arc::default(),
            version: -1,
            known: Known::default(),
            touched: None,
            origin: None,
            marks: Marks::default(),
            aside,
            conflicts,
            orphans: Orphans::default(),
            recent: Recent::default(),
            beneath: Beneath::default(),
            ousted: Ousted::default(),
            steering: Steering::off(),
            writers: Writers::default(),
            place: None,
            renewals: Renewals::default(),
            tells_refused: false,
            passed: None,
            begun: Instant::now(),
            applied: Applied::default(),
            mirrored: Mirrored::default(),
            feeds: Feeds::default(),
            checkpointer: Checkpointer::open(path)?,
            travel: Travel::default(),
            connection,
        })
    }

    /// Begins a write transaction. A schema that the application has changed is read before: it would wait for that.
    pub fn begin(&mut self) -> Result<(), Error> {
        fail::point("transaction asked for");
        if self.large {
            // The connection may have given back the schema.
            schema_rows::warm(&self.connection)?;
        }
        for _ in 0..limits::INSTALL_TRIES {
            if schema::version(&self.connection)? != self.version {
                self.known.read(&self.connection)?;
            }
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
            let version = schema::version(&self.connection)?;
            if version == self.version || version == self.known.last().version {
                break;
            }
            self.connection.execute_batch("ROLLBACK")?;
        }
        if self.connection.is_autocommit() {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
        }
        fail::point("transaction begun");
        self.applied = Applied::default();
        self.orphans.begin();
        self.renewals.begin();
        self.begun = Instant::now();
        self.used = Some(self.begun);
        Ok(())
    }

    /// Commits the transaction if `result` is good and all can be written; otherwise the database goes back to where it was,
    /// and memory with it.
    pub fn end(&mut self, result: Result<(), Error>) -> Result<Applied, Error> {
        if result.is_ok() {
            fail::point("rows written");
        }
        let committed = result.and_then(|()| self.insist()).and_then(|()| self.write_back()).and_then(|()| {
            fail::point("log written back");
            self.connection.execute_batch("COMMIT")?;
            fail::point("committed");
            Ok(())
        });
        if let Err(error) = committed {
            self.roll_back()?;
            return Err(error);
        }
        self.marks.committed();
        self.renewals.committed(self.begun);
        Ok(self.applied)
    }

    /// Fails if SQLite has rolled back the transaction by itself: what is written next would be committed alone.
    pub fn insist(&self) -> Result<(), Error> {
        savepoint::insist_on_transaction(&self.connection)
    }

    /// Writes what memory has gathered for the database.
    fn write_back(&mut self) -> Result<(), Error> {
        self.marks.write(&self.connection, &self.streams, self.origin)?;
        fail::point("marks written");
        self.steering.settle(&self.connection)?;
        if let Some(touched) = &mut self.touched {
            touched.write_back(&self.connection)?;
        }
        if self.feeds.finish(&self.connection)? {
            let now = schema::version(&self.connection)?;
            self.known.has_looked_at_own(self.version, now);
            self.version = now;
        }
        Ok(())
    }

    fn roll_back(&mut self) -> Result<(), Error> {
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        // The schema may have been read inside and is rolled back, and so are the temporary tables: all is made anew.
        self.version = -1;
        self.touched = None;
        self.writers.forget();
        // A block that was taken in it was not taken.
        self.steering.load(&self.connection, &self.schema)?;
        self.forget_cached_state()
    }

    /// Our tables hold something else than memory does: they are read again when they are needed.
    pub fn forget_cached_state(&mut self) -> Result<(), Error> {
        self.marks.forget();
        self.passed = None;
        self.beneath.forget();
        self.orphans.agreed();
        self.conflicts.load(&self.connection)?;
        self.aside.load(&self.connection)
    }

    /// A checkpoint of the WAL when one is due.
    pub fn checkpoint(&mut self) {
        self.checkpointer.after_batch(&self.connection, self.applied.events);
    }

    /// Takes notice of what the application has done since the last transaction: of its writes, and of changes of the schema.
    /// Returns whether the schema changed.
    pub fn catch_up(&mut self) -> Result<bool, Error> {
        let mut changed = self.is_schema_changed()?;
        if changed {
            self.read_schema()?;
        }
        changed |= self.look_at_changes()?;
        if let Some(touched) = &mut self.touched {
            self.applied.noticed = touched.catch_up(&self.connection, &self.schema)?;
        }
        self.feeds.begin(&self.connection)?;
        fail::point("schema and log caught up");
        Ok(changed)
    }

    /// A row was inserted or changed, by this node or by another one.
    pub fn note_writer(&mut self, table: &Table, own: bool) -> Result<(), Error> {
        self.writers.note(&self.connection, table, own)
    }

    /// Names in a warning the tables whose keys two nodes give and nobody steers, and steers the others from now on. It takes no
    /// lock.
    pub fn steer(&mut self, steering: Steering) -> Result<(), Error> {
        self.steering = steering;
        // At the start there was no transaction yet, which reads the schema.
        let schema = self.known.read(&self.connection)?;
        let warnings = writers::warnings(&self.connection, schema.tables.values())?;
        warnings.iter().for_each(|warning| log::warn!("{warning}"));
        self.steering.load(&self.connection, &schema)
    }

    /// Whether the publisher has read a schema with AUTOINCREMENT tables that this connection has not seen yet.
    pub fn are_tables_new_to_steering(&self) -> bool {
        if !self.steering.is_on() {
            return false;
        }
        let known = self.known.last();
        known.version != self.version && known.tables.values().any(|table| table.autoincrement)
    }

    fn read_schema(&mut self) -> Result<(), Error> {
        // Those that were made for the schema as it was may not fit it any more, and SQLite compiles them with every statement.
        drop_temporary_triggers(&self.connection)?;
        let known = self.known.last();
        let mut schema = match known.version == schema::version(&self.connection)? {
            true => known,
            // The application changes it all the time.
            false => Arc::new(Schema::read_numbered(&self.connection)?),
        };
        let captures = log_table::exists(&self.connection)?;
        if !captures && self.keep_rowids(&schema)? {
            schema = Arc::new(Schema::read_numbered(&self.connection)?);
        }
        if self.tells_refused {
            schema.tell_refused(&self.schema);
        }
        self.schema = schema;
        self.origin = Some(state::origin(&self.connection, self.node)?);
        self.touched = match captures {
            true => Some(Touched::new(&self.connection)?),
            false => None,
        };
        collisions::prepare(&self.connection, &self.schema)?;
        self.beneath.forget();
        let fed = self.mirrored.refresh(&mut self.connection, &self.schema)?;
        self.feeds.refresh(&self.connection, fed)?;
        self.steering.load(&self.connection, &self.schema)?;
        self.orphans.read(&self.connection, &self.schema)?;
        self.travel.read(&self.connection, self.known.noted())?;
        self.version = schema::version(&self.connection)?;
        self.large = schema_rows::is_large(schema_rows::count(&self.connection)?);
        if self.large {
            // What it was before is free now.
            memory::give_back();
        }
        Ok(())
    }

    /// Makes what a probe for collisions in a table needs, outside of a transaction. Without effect for a table that needs no probes.
    pub fn prepare_probe(&self, table: &str) -> Result<(), Error> {
        match self.schema.find(table) {
            Some(table) => collisions::prepare_probe(&self.connection, table),
            None => Ok(()),
        }
    }

    /// What capture does otherwise. Whether there was something to do.
    fn keep_rowids(&self, schema: &Schema) -> Result<bool, Error> {
        let tables = rowids::lacking(&self.connection, schema)?;
        rowids::keep(&self.connection, &tables)?;
        Ok(!tables.is_empty())
    }

    /// Whether events of a table are passed over because it is not replicated here. The first time that is noted: if it is replicated
    /// again, the cluster has rows of it.
    pub fn passes_over(&mut self, table: &str) -> Result<bool, Error> {
        if !self.schema.lists.exclude(table) {
            return Ok(false);
        }
        let passed = match &mut self.passed {
            Some(passed) => passed,
            none => none.insert(state::passed(&self.connection)?.into_iter().collect()),
        };
        // Whoever invents tables must not fill the database.
        if passed.len() < limits::TABLES_PASSED && passed.insert(table.to_owned()) {
            state::note_passed(&self.connection, table)?;
        }
        Ok(true)
    }

    /// Something is read outside of a transaction.
    pub fn note_use(&mut self) {
        self.used = Some(Instant::now());
    }

    /// Gives back memory when there was no work for so long. Without effect where the schema is small, and so was the work.
    pub fn rest(&mut self, after: Duration) {
        if self.used.is_none_or(|used| used.elapsed() < after) {
            return;
        }
        self.used = None;
        if (self.large || std::mem::take(&mut self.heavy))
            && let Err(error) = open::give_back(&self.connection)
        {
            log::debug!("give back memory: {error}");
        }
    }

    /// Whether the change log holds a key.
    pub fn is_touched(&self, key: &[u8]) -> Result<bool, Error> {
        match &self.touched {
            Some(touched) => Ok(!touched.ids(&self.connection, key)?.is_empty()),
            None => Ok(false),
        }
    }

    /// Logs a row as touched, where there is a log: its state is published.
    pub fn touch(&mut self, table: &Table, key_values: &[Value], key: &[u8]) -> Result<(), Error> {
        if let Some(touched) = &mut self.touched {
            touched.touch(&self.connection, table, key_values, key)?;
            self.applied.touched += 1;
        }
        Ok(())
    }

    /// Looks whether what waits for the application's triggers is to be tried again.
    pub fn look_at_feeds(&mut self) -> Result<(), Error> {
        self.feeds.look(&self.connection)
    }

    /// Whether a transaction is to do that.
    pub fn are_feeds_due(&self) -> bool {
        self.feeds.is_due()
    }

    /// The version of the schema for which all is made.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// What was made for the schema is made anew at the next transaction.
    pub fn forget_schema(&mut self) {
        self.version = -1;
    }

    /// Whether the application has changed the schema since the last transaction.
    pub fn is_schema_changed(&self) -> Result<bool, Error> {
        Ok(schema::version(&self.connection)? != self.version)
    }

    /// The table of an event. One that capture has not seen yet is not there for what comes out of a stream: capture publishes all rows
    /// that it finds in a new table, so those of others would be published as this node's.
    pub fn table_of(&self, event: &Event) -> Option<Arc<Table>> {
        let table = self.schema.find(&event.table)?;
        let is_unseen = self.touched.is_some() && self.place.is_some() && table.id == 0;
        (!is_unseen).then(|| table.clone())
    }

    /// Whether this database publishes under a name.
    pub fn is_ours(&self, origin: Origin) -> bool {
        self.origin == Some(origin)
    }

    pub fn node(&self) -> u64 {
        self.node
    }

    pub fn origin(&self) -> Result<Origin, Error> {
        state::origin(&self.connection, self.node)
    }

    /// Where an event of a stream comes from; `origin` is its publisher's name and its change-log id there.
    pub fn source(&mut self, stream: usize, origin: Option<(Origin, i64)>) -> Result<Source, Error> {
        let Some((origin, id)) = origin else { return Ok(Source::default()) };
        let folded = self.marks.folded(&self.connection, (stream, origin), &self.streams[stream])?;
        Ok(Source { order: Some(Order { id, folded }), own: self.is_ours(origin), late: false })
    }

    /// The event with this id, at this sequence of the stream, counts as folded.
    pub fn raise_mark(&mut self, stream: usize, origin: Origin, id: i64, seq: u64) {
        self.marks.raise((stream, origin), id, seq);
    }

    /// Whether a new incarnation may be taken in this transaction because of an event.
    pub fn may_take_new_incarnation(&self, why: Why) -> bool {
        self.renewals.is_allowed(why, self.begun)
    }

    /// Whether the event is ours, and one was folded in our name under an id that our log has not given yet: for everybody, all that
    /// we publish under this name from now on comes too late.
    pub fn is_spent(&self, source: Source) -> bool {
        let folded = source.order.map_or(0, |order| order.folded);
        source.own && self.touched.as_ref().is_some_and(|touched| folded > touched.highest())
    }

    /// A new incarnation for a log that has not given the ids that were folded under the present one.
    pub fn new_incarnation(&mut self) -> Result<(), Error> {
        self.renew(Why::Beyond)
    }

    /// Publishes under a new incarnation from now on, whose ids nobody has seen.
    pub fn renew(&mut self, why: Why) -> Result<(), Error> {
        log::warn!(
            "this database has published more than it knows: it is an older copy, or lost its last commits, or somebody published \
             in its name. What it had published comes back; it publishes under a new name from now on"
        );
        self.renewals.take(why);
        state::new_incarnation(&self.connection)?;
        self.origin = Some(self.origin()?);
        self.applied.new_incarnation = true;
        Ok(())
    }

    /// See [`state::nameless`].
    pub fn nameless(&self, stream: usize) -> Result<u64, Error> {
        state::nameless(&self.connection, &self.streams[stream])
    }

    pub fn set_nameless(&self, stream: usize, seq: u64) -> Result<(), Error> {
        state::set_nameless(&self.connection, &self.streams[stream], seq)
    }

    /// Moves the checkpoint, inside a transaction.
    pub fn set_seq(&self, stream: usize, seq: u64) -> Result<(), Error> {
        state::set_seq(&self.connection, &self.streams[stream], seq)?;
        fail::point("checkpoint written");
        Ok(())
    }

    /// The position in a stream; `None` when the database never followed it.
    pub fn position(&self, stream: usize) -> Result<Option<Position>, Error> {
        state::position(&self.connection, &self.streams[stream])
    }

    pub fn positions(&self) -> Result<SeqMap, Error> {
        state::positions(&self.connection)
    }

    /// Writes the position in a stream, in a transaction of its own.
    pub fn set_position(&mut self, stream: usize, position: &Position) -> Result<(), Error> {
        self.used = Some(Instant::now());
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        state::set_position(&transaction, &self.streams[stream], position)?;
        transaction.commit()?;
        Ok(())
    }

    /// Writes the position in a stream that is another one now, or lost what was read from it; inside a transaction.
    pub fn begin_stream(&mut self, stream: usize, position: &Position) -> Result<(), Error> {
        let (connection, name) = (&self.connection, &self.streams[stream]);
        let known = state::position(connection, name)?;
        let mut moments = state::moments(connection, name)?;
        let is_same = known.is_some_and(|known| known.created == position.created);
        moments.cut(if is_same { position.seq } else { 0 });
        state::set_moments(connection, name, &moments)?;
        state::set_position(connection, name, position)?;
        state::forget_heard(connection, name)
    }

    /// Publishes under a new incarnation, because the streams have lost what was published.
    pub fn take_new_name(&mut self) -> Result<(), Error> {
        state::new_incarnation(&self.connection)?;
        self.origin = Some(self.origin()?);
        Ok(())
    }

    /// Notes when the newest message was stored that was applied here, inside a transaction.
    pub fn note_moment(&self, stream: usize, (seq, time_ms): (u64, i64)) -> Result<(), Error> {
        let mut moments = state::moments(&self.connection, &self.streams[stream])?;
        moments.push(seq, time_ms);
        state::set_moments(&self.connection, &self.streams[stream], &moments)?;
        fail::point("moment written");
        Ok(())
    }
}

pub fn drop_temporary_triggers(connection: &Connection) -> Result<(), Error> {
    let mut list = connection.prepare("SELECT name FROM temp.sqlite_schema WHERE type = 'trigger'")?;
    let names: Vec<String> = list.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    if names.is_empty() {
        return Ok(());
    }
    for name in names {
        connection.execute_batch(&format!("DROP TRIGGER IF EXISTS temp.{}", quote(&name)))?;
    }
    // If the schema was read since, SQLite does not know those whose table is gone, and would find them if it came again.
    connection.execute_batch(
        "PRAGMA writable_schema=ON; DELETE FROM temp.sqlite_schema WHERE type = 'trigger'; PRAGMA writable_schema=OFF",
    )?;
    Ok(())
}
