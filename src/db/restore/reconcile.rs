//! Bringing a live database to the state of a snapshot, under an application that keeps its connection open. Every row that
//! differs is folded like an event, in one transaction: the application sees the old state or the new one, rows that it wrote
//! and that are not published yet stay and are still published, and tables that are not replicated are left alone.
//!
//! What differs is found before that, without a lock: whatever the application writes meanwhile is in the change log, and
//! only the caller writes otherwise. So the application waits for the differences alone, not for the comparison.

use crate::base::limits;
use crate::db::apply::aside::{self, Cause};
use crate::db::apply::{Applied, Applier, is_there};
use crate::db::restore::encoding::match_encoding;
use crate::db::schema::Schema;
use crate::db::{error::Error, lists, open, sql::quote, state, table::Table};
use crate::model::event::{Event, Kind};
use crate::model::shard;
use crate::model::value::Value;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A table in the snapshot's file with the keys of the rows that differ. `kind` is 0 for rows that only the database has, 1 for
/// rows that only the snapshot has, 2 for rows that have other values.
const DIFFERENT: &str = "__harmonylite__different";

/// What becomes of rows that the snapshot does not have and the log does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// They go: they were deleted elsewhere, or are not wanted.
    Remove,
    /// The same on a node without a change log, which cannot tell a row that was deleted elsewhere from one that its own application
    /// wrote: they go to the list of lost writes.
    SetAside,
    /// They stay and are published: no other node has ever seen them.
    Publish,
    /// Both databases stand at the same position, and one of them may have read what the streams have lost since. Then each row is as
    /// the one has it that has read more of the row's stream. Where each has read something that the other has not, what only
    /// the database has is published, and the rest is as the snapshot has it.
    OfWhoReadMore,
}

/// Which of two databases has read more of a stream that has lost something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Snapshot,
    Database,
    Both,
}

/// What the snapshot has of a row: columns with their values.
pub(super) type Image = Vec<(Arc<str>, Value)>;

const READ_MORE: [&str; 2] = ["main", "snap"];

/// A snapshot and how it differs from a database.
#[derive(Debug)]
pub struct Comparison {
    snapshot: PathBuf,
    /// Rows that only the database has.
    pub extra: u64,
    /// Rows that only the snapshot has.
    pub missing: u64,
    /// Rows that both have, with other values.
    pub changed: u64,
    /// The database's own rows may have UNIQUE values that the snapshot's rows have too.
    pub may_collide: bool,
    /// The tables that only one of them has, or that have other columns there. They were not compared.
    pub apart: Vec<String>,
    /// Tables and their columns that the snapshot does not have. What the database has there stays.
    lacking: Vec<(Arc<str>, BTreeSet<Arc<str>>)>,
    /// The hash of the database's schema.
    schema: Arc<str>,
}

/// Compares the database with a snapshot that was checked and made ready, row by row, in value and type.
pub fn compare(database: &Path, snapshot: &Path) -> Result<Comparison, Error> {
    match_encoding(snapshot, database)?;
    let (connection, schema) = begin(database, snapshot)?;
    check_same_schema(&connection, &schema)?;
    let mut found = Comparison::new(snapshot, &schema);
    for table in schema.tables.values() {
        found.note(&connection, table, &Values::all(table))?;
    }
    Ok(found)
}

/// Compares some tables with what another file holds of them, whose schema may be an older one: what both have. Returns the names of
/// the tables that the file has not, or under another key, too.
pub fn compare_tables(
    database: &Path,
    other: &Path,
    tables: &[String],
) -> Result<(Comparison, Vec<String>), Error> {
    match_encoding(other, database)?;
    let (connection, schema) = begin(database, other)?;
    let theirs = Schema::read(&Connection::open(other)?)?;
    let (mut found, mut unknown) = (Comparison::new(other, &schema), vec![]);
    for table in tables.iter().filter_map(|name| schema.tables.get(&**name)) {
        match theirs.tables.get(&table.name) {
            Some(other)
                if other
                    .key
                    .iter()
                    .map(|column| &column.name)
                    .eq(table.key.iter().map(|column| &column.name)) =>
            {
                found.note(&connection, table, &Values::common(table, other))?;
            }
            _ => unknown.push(table.name.to_string()),
        }
    }
    Ok((found, unknown))
}

/// Opens the database with the other file attached, which gets an empty table of differences.
pub(super) fn begin(database: &Path, other: &Path) -> Result<(Connection, Schema), Error> {
    let connection = open::open(database)?;
    attach(&connection, other)?;
    connection.execute_batch(&format!(
        "PRAGMA snap.journal_mode=OFF; PRAGMA snap.synchronous=OFF; PRAGMA snap.cache_size=-{};
         DROP TABLE IF EXISTS snap.{DIFFERENT}",
        limits::PAGE_CACHE_KIB
    ))?;
    let schema = Schema::read_numbered(&connection)?;
    let columns: String = (1..=schema.key_width()).map(|n| format!(", k{n}")).collect();
    connection.execute_batch(&format!(
        "CREATE TABLE snap.{DIFFERENT}(id INTEGER PRIMARY KEY, tbl TEXT, kind INTEGER{columns});"
    ))?;
    Ok((connection, schema))
}

pub(super) fn attach(connection: &Connection, snapshot: &Path) -> Result<(), Error> {
    let path = snapshot
        .to_str()
        .ok_or_else(|| Error::Other(format!("{snapshot:?}: SQLite needs a path in UTF-8")))?;
    connection.execute("ATTACH ?1 AS snap", [path])?;
    Ok(())
}

/// What is compared of a row: the columns that are stored, quoted, and whether values must have the same type, too.
pub(super) struct Values(Vec<(String, bool)>);

impl Values {
    pub(super) fn all(table: &Table) -> Values {
        Values(table.stored().map(|column| (quote(&column.name), true)).collect())
    }

    /// Those that both have. A type that was declared anew changes how all values are stored, and none of them.
    fn common(table: &Table, other: &Table) -> Values {
        let both = table.stored().filter_map(|column| {
            let theirs = other.stored().find(|theirs| theirs.name == column.name)?;
            Some((quote(&column.name), theirs.declared_type == column.declared_type))
        });
        Values(both.collect())
    }

    fn are_equal(&self) -> String {
        let terms = self.0.iter().map(|(name, same_type)| match same_type {
            true => format!("a.{name} IS b.{name} COLLATE BINARY AND typeof(a.{name}) IS typeof(b.{name})"),
            false => format!("a.{name} IS b.{name} COLLATE BINARY"),
        });
        all_of(&terms.collect::<Vec<_>>())
    }
}

/// Notes the keys of a table's rows that differ in one way; returns how many.
fn note(connection: &Connection, table: &Table, values: &Values, kind: usize) -> Result<usize, Error> {
    let key: Vec<String> = table.key.iter().map(|column| quote(&column.name)).collect();
    let same_key = table.same_key("a", "b");
    let (from, other) = if kind == 0 { ("main", "snap") } else { ("snap", "main") };
    let exists = format!("EXISTS (SELECT 1 FROM {other}.{0} AS b WHERE {same_key}", quote(&table.name));
    let condition = match kind {
        2 => format!("{exists}) AND NOT {exists} AND {})", values.are_equal()),
        _ => format!("NOT {exists})"),
    };
    let places: String = (1..=key.len()).map(|n| format!(", k{n}")).collect();
    let keys: String = key.iter().map(|name| format!(", a.{name}")).collect();
    let sql = format!(
        "INSERT INTO snap.{DIFFERENT}(tbl, kind{places}) SELECT ?1, {kind}{keys} FROM {from}.{} AS a WHERE {condition}",
        quote(&table.name)
    );
    Ok(connection.execute(&sql, [&*table.name])?)
}

/// Terms joined by AND as a balanced tree: SQLite takes expressions of a depth of 1,000 and tables of 2,000 columns.
fn all_of(terms: &[String]) -> String {
    match terms {
        [] => "1".to_owned(),
        [term] => term.clone(),
        terms => {
            let (left, right) = terms.split_at(terms.len() / 2);
            format!("({} AND {})", all_of(left), all_of(right))
        }
    }
}

fn check_same_schema(connection: &Connection, ours: &Schema) -> Result<(), Error> {
    let sql = format!("SELECT value FROM snap.{} WHERE kind = 'meta' AND name = ?1", state::TABLE);
    let theirs: String = connection.query_row(&sql, [state::SCHEMA_HASH], |row| row.get(0))?;
    if *theirs == *ours.hash {
        return Ok(());
    }
    Err(Error::Mismatch(schema_mismatch(&theirs, &ours.hash)))
}

/// What is said about two schema hashes that differ.
pub fn schema_mismatch(theirs: &str, ours: &str) -> String {
    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    format!(
        "the snapshot's schema ({}) is not this database's ({}): run the same migrations on all nodes",
        short(theirs),
        short(ours)
    )
}

impl Comparison {
    pub(super) fn new(other: &Path, schema: &Schema) -> Comparison {
        Comparison {
            snapshot: other.to_path_buf(),
            extra: 0,
            missing: 0,
            changed: 0,
            may_collide: false,
            apart: vec![],
            lacking: vec![],
            schema: schema.hash.clone(),
        }
    }

    pub(super) fn note(
        &mut self,
        connection: &Connection,
        table: &Table,
        values: &Values,
    ) -> Result<(), Error> {
        let note = |kind| note(connection, table, values, kind);
        let [extra, missing, changed] = [note(0)?, note(1)?, note(2)?];
        self.extra += extra as u64;
        self.missing += missing as u64;
        self.changed += changed as u64;
        self.may_collide |= extra > 0 && missing + changed > 0 && !table.unique.is_empty();
        Ok(())
    }

    /// The same of a table that has fewer columns in the snapshot.
    pub(super) fn note_common(
        &mut self,
        connection: &Connection,
        table: &Table,
        theirs: &Table,
    ) -> Result<(), Error> {
        let lacking: BTreeSet<Arc<str>> =
            table.image.iter().filter(|name| !theirs.image.contains(name)).cloned().collect();
        if lacking.is_empty() {
            return self.note(connection, table, &Values::all(table));
        }
        self.lacking.push((table.name.clone(), lacking));
        self.note(connection, table, &Values::common(table, theirs))
    }

    /// Calls `step` with the keys of a table's rows of some kinds.
    pub(super) fn each_key(
        &self,
        table: &Table,
        kinds: &str,
        step: impl FnMut(Vec<Value>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let key: Vec<String> = (1..=table.key.len()).map(|n| format!("k{n}")).collect();
        let sql = format!(
            "SELECT {} FROM {DIFFERENT} WHERE tbl = ?1 AND kind IN ({kinds}) ORDER BY id",
            key.join(", ")
        );
        self.each(table, &sql, step)
    }

    /// Calls `step` with the images of a table's rows that the snapshot has and the database has not, or otherwise.
    pub(super) fn each_image(
        &self,
        table: &Table,
        mut step: impl FnMut(Image) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let lacking = self.lacking.iter().find(|(name, _)| *name == table.name);
        let is_there = |name: &&Arc<str>| lacking.is_none_or(|(_, lacking)| !lacking.contains(*name));
        let names: Vec<&Arc<str>> = table.image.iter().filter(is_there).collect();
        let key = table.key.iter().enumerate();
        let same: Vec<String> =
            key.map(|(at, column)| format!("{} IS d.k{}", table.key_operand("s.", column), at + 1)).collect();
        let columns: Vec<String> = names.iter().map(|name| format!("s.{}", quote(name))).collect();
        let sql = format!(
            "SELECT {} FROM {DIFFERENT} AS d CROSS JOIN {} AS s ON {} WHERE d.tbl = ?1 AND d.kind IN (1, 2) ORDER BY d.id",
            columns.join(", "),
            quote(&table.name),
            same.join(" AND ")
        );
        self.each(table, &sql, |values| step(names.iter().map(|name| Arc::clone(name)).zip(values).collect()))
    }

    fn each(
        &self,
        table: &Table,
        sql: &str,
        mut step: impl FnMut(Vec<Value>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // Not the connection that writes, so that writing does not disturb the reading.
        let reader = Connection::open(&self.snapshot)?;
        let mut statement = reader.prepare(sql)?;
        let width = statement.column_count();
        let mut rows = statement.query([&*table.name])?;
        while let Some(row) = rows.next()? {
            step((0..width).map(|at| row.get(at)).collect::<Result<_, _>>()?)?;
        }
        Ok(())
    }

    /// How many of the differences are not changes of the database's own that are still on their way.
    pub fn unexplained(&self, database: &Path, node: u64) -> Result<u64, Error> {
        let mut rows = 0;
        Applier::open(database, node, &[])?.in_transaction(|applier| {
            let session = &applier.session;
            for table in session.schema.tables.values() {
                self.each_key(table, "0, 1, 2", |key| {
                    rows += u64::from(!session.is_touched(&table.row_key(&key))?);
                    Ok(())
                })?;
            }
            Ok(())
        })?;
        Ok(rows)
    }
}

/// Which one has read more of a row's stream.
fn of_row(more: &[More], table: &Table, key: &[Value]) -> More {
    let first = more.first().copied().unwrap_or(More::Snapshot);
    if more.iter().all(|more| *more == first) {
        return first;
    }
    let number = shard::number(table.shard_hash(key), more.len() as u64);
    usize::try_from(number - 1).ok().and_then(|at| more.get(at)).copied().unwrap_or(first)
}

impl Applier {
    /// Takes over the rows and the positions of a snapshot that was compared with the database.
    pub fn reconcile(&mut self, with: &Comparison, extra: Extra) -> Result<Applied, Error> {
        self.catch_up_before()?;
        for table in self.session.schema.tables.values() {
            self.session.prepare_probe(&table.name)?;
        }
        attach(&self.session.connection, &with.snapshot)?;
        let result = self.in_transaction(|applier| applier.reconcile_attached(with, extra));
        // A leftover would only be in the way of the next attempt, which attaches under the same name.
        self.session.connection.execute_batch("DETACH snap")?;
        result
    }

    fn reconcile_attached(&mut self, with: &Comparison, extra: Extra) -> Result<(), Error> {
        // The application may have changed the schema since the comparison.
        if self.session.schema.hash != with.schema {
            return Err(Error::SchemaChanged);
        }
        let more = self.who_read_more(extra)?;
        self.settle_what_the_snapshot_folded()?;
        self.give_up_rebuilt()?;
        let is_compared = |table: &&Arc<Table>| !with.apart.iter().any(|name| **name == *table.name);
        let tables: Vec<Arc<Table>> =
            self.session.schema.tables.values().filter(is_compared).cloned().collect();
        for table in tables.iter().filter(|_| more.contains(&More::Database)) {
            with.each_key(table, "0, 1, 2", |key| match of_row(&more, table, &key) {
                More::Database => self.publish_state(table, &key),
                _ => Ok(()),
            })?;
        }
        for table in tables.iter().filter(|_| extra != Extra::Publish) {
            with.each_key(table, "0", |key| match of_row(&more, table, &key) {
                More::Snapshot => self.remove_extra(table, &key, extra),
                _ => Ok(()),
            })?;
        }
        let mut refused = vec![];
        for table in &tables {
            with.each_image(table, |image| {
                if self.stays(&more, table, &image)? {
                    return Ok(());
                }
                refused.extend(self.fold_row(table, image)?);
                Ok(())
            })?;
        }
        // Only now, because the snapshot's rows have displaced those that collide with them in UNIQUE indexes.
        for table in &tables {
            with.each_key(table, "0", |key| match of_row(&more, table, &key) {
                More::Both => self.publish_extra(table, &key),
                _ => Ok(()),
            })?;
        }
        self.take_state()?;
        self.note_apart(&with.apart)?;
        // After the snapshot's own, which have replaced all that was set aside here.
        (1..).zip(refused).try_for_each(|(number, (cause, payload))| {
            let session = &mut self.session;
            session.aside.put(&session.connection, ("snapshot", number, 0), &cause, &payload)
        })
    }

    /// What the cluster has of these tables is not here yet.
    fn note_apart(&self, tables: &[String]) -> Result<(), Error> {
        let connection = &self.session.connection;
        let is_there = "SELECT 1 FROM snap.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
        for name in tables {
            state::note_included(connection, name)?;
            if connection.prepare_cached(is_there)?.exists([name])? {
                state::note_passed(connection, name)?;
            }
        }
        connection.flush_prepared_statement_cache();
        Ok(())
    }

    /// By stream. Marks rise in the order of a stream, and are never taken back: what one database has folded of an origin and the other
    /// has not is in the part that was lost, because both stand at the same position.
    fn who_read_more(&self, extra: Extra) -> Result<Vec<More>, Error> {
        let of_stream = |stream: &String| {
            let [main, snap] = READ_MORE;
            let has_more = |ours: &str, theirs: &str| {
                let sql = format!(
                    "SELECT 1 FROM {ours}.{0} AS a WHERE a.kind = 'folded' AND substr(a.name, 1, length(?1) + 1) = ?1 || ' ' AND \
                     a.value > coalesce((SELECT b.value FROM {theirs}.{0} AS b WHERE b.kind = 'folded' AND b.name = a.name), 0)",
                    state::TABLE
                );
                self.session.connection.prepare(&sql)?.exists([stream]).map_err(Error::from)
            };
            Ok(match (has_more(main, snap)?, has_more(snap, main)?) {
                (false, _) => More::Snapshot,
                (true, false) => More::Database,
                (true, true) => More::Both,
            })
        };
        let streams = &self.session.streams;
        match extra {
            // A node that publishes nothing has nothing to say.
            Extra::OfWhoReadMore if self.session.touched.is_some() => streams.iter().map(of_stream).collect(),
            Extra::Publish => Ok(vec![More::Both; streams.len().max(1)]),
            _ => Ok(vec![More::Snapshot; streams.len()]),
        }
    }

    /// The row is right here, or rightly gone: that is published.
    fn publish_state(&mut self, table: &Table, key: &[Value]) -> Result<(), Error> {
        let row_key = table.row_key(key);
        match self.session.is_touched(&row_key)? {
            true => Ok(()),
            false => self.session.touch(table, key, &row_key),
        }
    }

    /// Folds an image that came out of no stream; returns why the database does not take it, and the event to set aside, if it does not.
    pub(super) fn fold_row(&mut self, table: &Table, row: Image) -> Result<Option<(Cause, Vec<u8>)>, Error> {
        let (table, schema_hash) = (table.name.clone(), None);
        let event = Event { node: 0, id: 0, kind: Kind::Insert, table, row, schema_hash };
        Ok(self.fold_image(&event)?.map(|cause| (cause, event.encode())))
    }

    /// Whether the row of an image of the snapshot stays as it is here.
    fn stays(&self, more: &[More], table: &Table, image: &Image) -> Result<bool, Error> {
        if !more.contains(&More::Database) {
            return Ok(false);
        }
        let value = |name: &str| {
            let found = image.iter().find(|(column, _)| **column == *name);
            found.map_or(Value::Null, |(_, value)| value.clone())
        };
        let key: Vec<Value> = table.key.iter().map(|column| value(&column.name)).collect();
        Ok(of_row(more, table, &key) == More::Database && self.session.is_touched(&table.row_key(&key))?)
    }

    /// Whether a row that only the database has is still there, and not on its way to the others.
    fn is_extra(&self, table: &Table, key: &[Value]) -> Result<bool, Error> {
        let session = &self.session;
        Ok(!session.is_touched(&table.row_key(key))? && is_there(&session.connection, table, key)?)
    }

    pub(super) fn remove_extra(&mut self, table: &Table, key: &[Value], extra: Extra) -> Result<(), Error> {
        if !self.is_extra(table, key)? {
            return Ok(());
        }
        if extra == Extra::SetAside {
            self.session.keep_local(table, key)?;
        }
        self.delete(table, key)
    }

    pub(super) fn publish_extra(&mut self, table: &Table, key: &[Value]) -> Result<(), Error> {
        if !self.is_extra(table, key)? {
            return Ok(());
        }
        let session = &mut self.session;
        // A node that does not publish keeps its rows to itself.
        if let Some(touched) = &mut session.touched {
            touched.touch(&session.connection, table, key, &table.row_key(key))?;
            session.applied.touched += 1;
        }
        Ok(())
    }

    /// Changes of ours that came back before the snapshot's position are in its state. They are settled, because their
    /// events will not be read again. With several streams these are the ones that had come back in all of them; the others
    /// are published once more. What could not be published is in no state but this one.
    fn settle_what_the_snapshot_folded(&mut self) -> Result<(), Error> {
        let session = &mut self.session;
        let origin = session.origin()?;
        let sql = format!(
            "SELECT coalesce(min(coalesce(f.value, 0)), 0), coalesce(max(f.value), 0) FROM snap.{0} AS s LEFT JOIN snap.{0} AS f \
             ON f.kind = 'folded' AND f.name = s.name || ' ' || ?1 WHERE s.kind = 'seq'",
            state::TABLE
        );
        let (folded, highest): (i64, i64) =
            session.connection.query_row(&sql, [origin.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let Some(touched) = &mut session.touched else { return Ok(()) };
        if highest > touched.highest() {
            // The database is an older copy, whose ids mean something else than the snapshot's.
            return session.new_incarnation();
        }
        let refused = state::refused(&session.connection)?;
        session.applied.settled += touched.settle_all(&session.connection, folded, &refused)?;
        Ok(())
    }

    /// The database takes over the cluster's state while it has tables that were built anew: nothing tells what was written in
    /// them.
    fn give_up_rebuilt(&mut self) -> Result<(), Error> {
        let tables = state::rebuilt(&self.session.connection)?;
        let tables: Vec<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
        if !tables.is_empty() {
            log::warn!(
                "table {} was built anew while nothing captured it, and the streams do not reach back to what was agreed before: \
                 what was written meanwhile gives way to the cluster's state",
                tables.join(", ")
            );
            state::forget_rebuilt(&self.session.connection)?;
        }
        Ok(())
    }

    /// Positions, high-water marks and what is set aside become those of the snapshot.
    fn take_state(&mut self) -> Result<(), Error> {
        self.session.connection.execute_batch(&format!(
            "DELETE FROM main.{0} WHERE kind IN ({2});
             INSERT INTO main.{0} SELECT * FROM snap.{0} WHERE kind IN ({2});
             DELETE FROM main.{1}; INSERT INTO main.{1} SELECT * FROM snap.{1};",
            state::TABLE,
            aside::TABLE,
            state::OF_SNAPSHOT
        ))?;
        lists::drop_aside(&self.session.connection)?;
        self.session.forget_cached_state()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::restore::snapshot::{Stamp, make_ready, make_snapshot};
    use crate::db::scratch::Scratch;

    #[test]
    fn terms_are_joined_without_depth() {
        let terms = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(all_of(&terms(0)), "1");
        assert_eq!(all_of(&terms(1)), "0");
        assert_eq!(all_of(&terms(3)), "(0 AND (1 AND 2))");
        let (mut depth, mut deepest) = (0, 0);
        for c in all_of(&terms(4_000)).chars() {
            depth += i32::from(c == '(') - i32::from(c == ')');
            deepest = deepest.max(depth);
        }
        assert_eq!(deepest, 12);
    }

    #[test]
    fn a_table_of_as_many_columns_as_sqlite_takes_is_compared() {
        let columns: String = (1..2_000).map(|n| format!(", c{n}")).collect();
        let scratch = Scratch::new(
            "wide",
            &format!(
                "CREATE TABLE t(id INTEGER PRIMARY KEY{columns}); INSERT INTO t(id, c1) VALUES(1, 'a'), (2, 'b')"
            ),
        );
        let dir = crate::base::files::parent(&scratch.path);
        let made = make_snapshot(&scratch.path, &dir, &Stamp::default()).unwrap();
        make_ready(made.file.path(), &Default::default()).unwrap();
        scratch
            .app
            .execute_batch("UPDATE t SET c1999 = 'x' WHERE id = 2; INSERT INTO t(id) VALUES(3)")
            .unwrap();
        let found = compare(&scratch.path, made.file.path()).unwrap();
        assert_eq!((found.extra, found.missing, found.changed), (1, 0, 1));
    }
}
