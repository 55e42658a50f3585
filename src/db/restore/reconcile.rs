//! Bringing a live database to the state of a snapshot, under an application that keeps its connection open: every row
//! that differs is folded like an event, in one transaction. So the application sees the old state or the new one, rows that
//! it wrote and that are not published yet stay and are still published, and tables that are not replicated are left alone.
//!
//! What differs is found before, without a lock: whatever the application writes meanwhile is in the change log, and nobody
//! else writes. So it is kept waiting for the differences alone, not for the comparison.

use crate::base::limits;
use crate::db::apply::{Applied, Applier, canonical, parked};
use crate::db::schema::{Schema, Table};
use crate::db::{capture, error::Error, open, sql::quote, state};
use crate::model::event::{Event, Kind};
use crate::model::value::Value;
use rusqlite::Connection;
use std::path::{Path, PathBuf};

/// Keys of rows that differ, in the snapshot's file: `kind` 0 for rows that only the database has, 1 for rows that are
/// missing there, 2 for those with other values.
const DIFFERENT: &str = "__harmonylite__different";

/// What becomes of rows that the snapshot does not have and the log does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// They were deleted elsewhere, or are not wanted: they go.
    Remove,
    /// Nobody else has ever seen them: they stay, and are published.
    Publish,
}

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
}

/// Compares the database with a snapshot that was checked and made ready, row by row, in value and type.
pub fn compare(database: &Path, snapshot: &Path) -> Result<Comparison, Error> {
    let connection = open::open(database)?;
    attach(&connection, snapshot)?;
    connection.execute_batch(&format!(
        "PRAGMA snap.journal_mode=OFF; PRAGMA snap.synchronous=OFF; PRAGMA snap.cache_size=-{};
         DROP TABLE IF EXISTS snap.{DIFFERENT}",
        limits::PAGE_CACHE_KIB
    ))?;
    let schema = capture::read_numbered(&connection)?;
    check_same_schema(&connection, &schema)?;
    let width = schema.tables.values().map(|table| table.key.len()).max().unwrap_or(1);
    let columns: String = (1..=width).map(|n| format!(", k{n}")).collect();
    connection.execute_batch(&format!(
        "CREATE TABLE snap.{DIFFERENT}(id INTEGER PRIMARY KEY, tbl TEXT, kind INTEGER{columns});"
    ))?;
    let snapshot = snapshot.to_path_buf();
    let mut found = Comparison { snapshot, extra: 0, missing: 0, changed: 0, may_collide: false };
    for table in schema.tables.values() {
        let [extra, missing, changed] =
            [note(&connection, table, 0)?, note(&connection, table, 1)?, note(&connection, table, 2)?];
        found.extra += extra as u64;
        found.missing += missing as u64;
        found.changed += changed as u64;
        found.may_collide |= extra > 0 && missing + changed > 0 && !table.unique.is_empty();
    }
    Ok(found)
}

fn attach(connection: &Connection, snapshot: &Path) -> Result<(), Error> {
    let path = snapshot
        .to_str()
        .ok_or_else(|| Error::Other(format!("{snapshot:?}: SQLite needs a path in UTF-8")))?;
    connection.execute("ATTACH ?1 AS snap", [path])?;
    Ok(())
}

/// Notes the keys of a table's rows that differ in one way; returns how many.
fn note(connection: &Connection, table: &Table, kind: usize) -> Result<usize, Error> {
    let key: Vec<String> = table.key.iter().map(|(name, _)| quote(name)).collect();
    let same_key = key.iter().map(|name| format!("a.{name} IS b.{name}")).collect::<Vec<_>>().join(" AND ");
    let (from, other) = if kind == 0 { ("main", "snap") } else { ("snap", "main") };
    let exists = format!("EXISTS (SELECT 1 FROM {other}.{0} AS b WHERE {same_key}", quote(&table.name));
    let values: Vec<String> = table
        .stored()
        .map(|column| quote(&column.name))
        .map(|name| format!("a.{name} IS b.{name} COLLATE BINARY AND typeof(a.{name}) IS typeof(b.{name})"))
        .collect();
    let condition = match kind {
        2 => format!("{exists}) AND NOT {exists} AND {})", values.join(" AND ")),
        _ => format!("NOT {exists})"),
    };
    let places: String = (1..=key.len()).map(|n| format!(", k{n}")).collect();
    let keys: String = key.iter().map(|name| format!(", a.{name}")).collect();
    let sql = format!(
        "INSERT INTO snap.{DIFFERENT}(tbl, kind{places}) SELECT ?1, {kind}{keys} FROM {from}.{} AS a WHERE {condition}",
        quote(&table.name)
    );
    Ok(connection.execute(&sql, [&table.name])?)
}

fn check_same_schema(connection: &Connection, ours: &Schema) -> Result<(), Error> {
    let sql = format!("SELECT value FROM snap.{} WHERE kind = 'meta' AND name = 'schema_hash'", state::TABLE);
    let theirs: String = connection.query_row(&sql, [], |row| row.get(0))?;
    if theirs == ours.hash {
        return Ok(());
    }
    Err(Error::Mismatch(mismatch(&theirs, &ours.hash)))
}

/// What is said of two schema hashes that differ.
pub fn mismatch(theirs: &str, ours: &str) -> String {
    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    format!(
        "the snapshot's schema ({}) is not this database's ({}): run the same migrations on all nodes",
        short(theirs),
        short(ours)
    )
}

impl Comparison {
    /// The keys of a table's rows of some kinds, or (with `columns`) the snapshot's rows under them, one after the other.
    /// Another connection than the one that writes: writing does not disturb the reading.
    fn each(
        &self,
        table: &Table,
        kinds: &str,
        columns: Option<&[String]>,
        mut step: impl FnMut(Vec<Value>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let reader = Connection::open(&self.snapshot)?;
        let key = table.key.iter().enumerate();
        let sql = match columns {
            None => {
                let key: Vec<String> = key.map(|(at, _)| format!("k{}", at + 1)).collect();
                format!(
                    "SELECT {} FROM {DIFFERENT} WHERE tbl = ?1 AND kind IN ({kinds}) ORDER BY id",
                    key.join(", ")
                )
            }
            Some(columns) => {
                let same: Vec<String> =
                    key.map(|(at, (name, _))| format!("s.{} IS d.k{}", quote(name), at + 1)).collect();
                let columns: Vec<String> = columns.iter().map(|name| format!("s.{}", quote(name))).collect();
                format!(
                    "SELECT {} FROM {DIFFERENT} AS d CROSS JOIN {} AS s ON {} WHERE d.tbl = ?1 AND d.kind IN ({kinds}) ORDER BY d.id",
                    columns.join(", "),
                    quote(&table.name),
                    same.join(" AND ")
                )
            }
        };
        let mut statement = reader.prepare(&sql)?;
        let width = statement.column_count();
        let mut rows = statement.query([&table.name])?;
        while let Some(row) = rows.next()? {
            step((0..width).map(|at| row.get(at)).collect::<Result<_, _>>()?)?;
        }
        Ok(())
    }
}

impl Comparison {
    /// How many of the differences are not changes of the database's own that are still on their way.
    pub fn unexplained(&self, database: &Path, node: u64) -> Result<u64, Error> {
        let mut rows = 0;
        Applier::open(database, node)?.in_transaction(|applier| {
            applier.begin_batch(&mut Applied::default())?;
            for table in applier.schema.tables.values() {
                self.each(table, "0, 1, 2", None, |key| {
                    rows += u64::from(!applier.is_touched(&canonical(table, &key))?);
                    Ok(())
                })?;
            }
            Ok(Applied::default())
        })?;
        Ok(rows)
    }
}

impl Applier {
    /// Takes over the state and the positions of a snapshot, as compared.
    pub fn reconcile(&mut self, with: &Comparison, extra: Extra) -> Result<Applied, Error> {
        attach(&self.connection, &with.snapshot)?;
        let result = self.in_transaction(|applier| applier.reconcile_attached(with, extra));
        // A leftover would only be in the way of the next try, which attaches under the same name.
        self.connection.execute_batch("DETACH snap")?;
        result
    }

    fn reconcile_attached(&mut self, with: &Comparison, extra: Extra) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        self.begin_batch(&mut applied)?;
        // The application may have changed it since.
        check_same_schema(&self.connection, &self.schema)?;
        applied.settled = self.settle_what_the_snapshot_folded()?;
        let tables: Vec<_> = self.schema.tables.values().cloned().collect();
        let treat = |applier: &mut Applier, applied: &mut Applied| {
            tables.iter().try_for_each(|table| {
                with.each(table, "0", None, |key| applier.treat_extra(table, &key, extra, applied))
            })
        };
        if extra == Extra::Remove {
            treat(self, &mut applied)?;
        }
        for table in &tables {
            let mut names: Vec<String> = table.stored().map(|column| column.name.clone()).collect();
            if table.by_rowid {
                names.insert(0, "rowid".to_owned());
            }
            with.each(table, "1, 2", Some(&names), |values| {
                let row = names.iter().cloned().zip(values).collect();
                let (table, schema_hash) = (table.name.clone(), None);
                let event = Event { node: 0, id: 0, kind: Kind::Insert, table, row, schema_hash };
                self.fold_image(&event, &mut applied)
            })?;
        }
        // Only now: the snapshot's rows have taken the UNIQUE values that they have.
        if extra == Extra::Publish {
            treat(self, &mut applied)?;
        }
        self.take_state()?;
        self.end_batch()?;
        Ok(applied)
    }

    fn is_there(&self, table: &Table, key: &[Value]) -> Result<bool, Error> {
        let sql = format!("SELECT 1 FROM main.{} WHERE {}", quote(&table.name), table.key_filter());
        Ok(self.connection.prepare_cached(&sql)?.exists(rusqlite::params_from_iter(key))?)
    }

    fn treat_extra(
        &mut self,
        table: &Table,
        values: &[Value],
        extra: Extra,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let key = canonical(table, values);
        if self.is_touched(&key)? || !self.is_there(table, values)? {
            return Ok(());
        }
        match (extra, &mut self.touched) {
            (Extra::Publish, Some(touched)) => {
                touched.touch(&self.connection, table, values, &key)?;
                applied.touched += 1;
            }
            // Who publishes nothing keeps them to itself.
            (Extra::Publish, None) => {}
            (Extra::Remove, _) => applied.rows += self.delete(table, values)?,
        }
        Ok(())
    }

    /// Changes of ours that came back before the snapshot's position are in its state: they are settled, for their events
    /// will not be read again. With several streams, those that had come back in all of them; the others are published
    /// once more.
    fn settle_what_the_snapshot_folded(&mut self) -> Result<usize, Error> {
        let origin = state::origin(&self.connection, self.node)?;
        let sql = format!(
            "SELECT coalesce(min(coalesce(f.value, 0)), 0), coalesce(max(f.value), 0) FROM snap.{0} AS s LEFT JOIN snap.{0} AS f \
             ON f.kind = 'folded' AND f.name = s.name || ' ' || ?1 WHERE s.kind = 'seq'",
            state::TABLE
        );
        let (folded, highest): (i64, i64) =
            self.connection.query_row(&sql, [origin.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        match &mut self.touched {
            // An older copy: its ids mean something else.
            Some(touched) if highest > touched.highest() => self.rename().map(|()| 0),
            Some(touched) => touched.settle_all(&self.connection, folded),
            None => Ok(0),
        }
    }

    /// Positions, what was folded from whom, and events that wait for a schema: as in the snapshot.
    fn take_state(&mut self) -> Result<(), Error> {
        self.connection.execute_batch(&format!(
            "DELETE FROM main.{0} WHERE kind IN ('seq', 'created', 'folded');
             INSERT INTO main.{0} SELECT * FROM snap.{0} WHERE kind IN ('seq', 'created', 'folded');
             DELETE FROM main.{1}; INSERT INTO main.{1} SELECT * FROM snap.{1};",
            state::TABLE,
            parked::TABLE
        ))?;
        self.forget_cached_state()
    }
}
