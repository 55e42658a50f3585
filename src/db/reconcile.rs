//! Bringing a live database to the state of a snapshot, under an application that keeps its connection open: every row
//! that differs is folded like an event, in one transaction. So the application sees the old state or the new one, rows that
//! it wrote and that are not published yet stay and are still published, and tables that are not replicated are left alone.

use super::apply::{Applied, Applier, canonical};
use super::{Error, Schema, Table, parked, quote, state};
use crate::event::{Event, Kind};
use crate::value::Value;
use rusqlite::params_from_iter;
use std::path::Path;

impl Applier {
    /// Takes over the state and the positions of a snapshot that was checked and made ready.
    pub fn reconcile(&mut self, snapshot: &Path) -> Result<Applied, Error> {
        let path = snapshot
            .to_str()
            .ok_or_else(|| Error::Other(format!("{snapshot:?}: SQLite needs a path in UTF-8")))?;
        self.connection.execute("ATTACH ?1 AS snap", [path])?;
        let result = self.in_transaction(|applier| applier.reconcile_attached());
        // A leftover would only be in the way of the next try, which attaches under the same name.
        self.connection.execute_batch("DETACH snap")?;
        result
    }

    fn reconcile_attached(&mut self) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        self.begin_batch(&mut applied)?;
        self.check_same_schema()?;
        applied.settled = self.settle_what_the_snapshot_folded()?;
        for table in self.schema.tables.values().cloned().collect::<Vec<_>>() {
            self.remove_extra(&table, &mut applied)?;
        }
        for table in self.schema.tables.values().cloned().collect::<Vec<_>>() {
            self.write_different(&table, &mut applied)?;
        }
        self.take_state()?;
        self.end_batch()?;
        Ok(applied)
    }

    fn check_same_schema(&self) -> Result<(), Error> {
        let sql =
            format!("SELECT value FROM snap.{} WHERE kind = 'meta' AND name = 'schema_hash'", state::TABLE);
        let theirs: String = self.connection.query_row(&sql, [], |row| row.get(0))?;
        let ours: &Schema = &self.schema;
        if theirs == ours.hash {
            return Ok(());
        }
        Err(Error::Mismatch(format!(
            "the snapshot's schema ({}) is not this database's ({}): run the same migrations on all nodes",
            &theirs[..12.min(theirs.len())],
            &ours.hash[..12]
        )))
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

    /// Rows that the snapshot does not have go, unless they are touched.
    fn remove_extra(&mut self, table: &Table, applied: &mut Applied) -> Result<(), Error> {
        let key: Vec<String> = table.key.iter().map(|(name, _)| quote(name)).collect();
        let same: Vec<String> = key.iter().map(|name| format!("s.{name} IS m.{name}")).collect();
        let sql = format!(
            "SELECT {} FROM main.{1} AS m WHERE NOT EXISTS (SELECT 1 FROM snap.{1} AS s WHERE {2})",
            key.iter().map(|name| format!("m.{name}")).collect::<Vec<_>>().join(", "),
            quote(&table.name),
            same.join(" AND ")
        );
        let extra: Vec<Vec<Value>> = {
            let mut statement = self.connection.prepare(&sql)?;
            let rows = statement.query_map([], |row| (0..key.len()).map(|at| row.get(at)).collect())?;
            rows.collect::<Result<_, _>>()?
        };
        for values in extra {
            if !self.is_touched(&canonical(table, &values))? {
                applied.rows += self.delete(table, &values)?;
            }
        }
        Ok(())
    }

    /// Rows of the snapshot that are missing here or hold other values are folded as images.
    fn write_different(&mut self, table: &Table, applied: &mut Applied) -> Result<(), Error> {
        let mut names: Vec<String> = table.stored().map(|column| column.name.clone()).collect();
        if table.by_rowid {
            names.insert(0, "rowid".to_owned());
        }
        let columns = names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ");
        let key_at: Vec<usize> =
            table.key.iter().map(|(key, _)| names.iter().position(|name| name == key).unwrap_or(0)).collect();
        let ours = format!("SELECT {columns} FROM main.{} WHERE {}", quote(&table.name), table.key_filter());
        // Another connection reads the snapshot, so that writing here does not disturb the reading.
        let reader = rusqlite::Connection::open(self.attached_path()?)?;
        let mut theirs = reader.prepare(&format!("SELECT {columns} FROM {}", quote(&table.name)))?;
        let mut rows = theirs.query([])?;
        while let Some(row) = rows.next()? {
            let values: Vec<Value> = (0..names.len()).map(|at| row.get(at)).collect::<Result<_, _>>()?;
            let key = key_at.iter().map(|at| &values[*at]);
            let equal = {
                let mut statement = self.connection.prepare_cached(&ours)?;
                let mut found = statement.query(params_from_iter(key))?;
                match found.next()? {
                    Some(here) => {
                        let here: Vec<Value> =
                            (0..names.len()).map(|at| here.get(at)).collect::<Result<_, _>>()?;
                        here == values
                    }
                    None => false,
                }
            };
            if !equal {
                let row = names.iter().cloned().zip(values).collect();
                let event = Event {
                    node: 0,
                    id: 0,
                    kind: Kind::Insert,
                    table: table.name.clone(),
                    row,
                    schema_hash: None,
                };
                self.fold_image(&event, applied)?;
            }
        }
        Ok(())
    }

    fn attached_path(&self) -> Result<String, Error> {
        let sql = "SELECT file FROM pragma_database_list WHERE name = 'snap'";
        Ok(self.connection.query_row(sql, [], |row| row.get(0))?)
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
