//! Single rows: what they are here, whether the change log holds them, and where this node stands in the streams, all of one read
//! transaction. And their repair: a row that is right here is published as if the application had written it.

use super::print::{Printer, Seed, canonical};
use super::watch::unique_prints;
use super::{Examiner, Key};
use crate::db::apply::aside;
use crate::db::capture::log_table::{self, Touch};
use crate::db::{error::Error, ours, sql::quote, state, table::Table};
use crate::model::agree::{Print, Sight};
use crate::model::positions::SeqMap;
use crate::model::value::Value;
use rusqlite::{ToSql, TransactionBehavior, params_from_iter};
use std::collections::HashMap;

/// Which rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    pub table: String,
    /// As [`super::Described::print`] was.
    pub definition: u64,
    pub seed: Seed,
    pub keys: Vec<Key>,
}

/// One row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub sight: Sight,
    /// Numbers of its values in UNIQUE indexes.
    pub unique: Vec<u64>,
}

/// All of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sights {
    pub positions: SeqMap,
    /// The streams that the positions count in.
    pub generation: String,
    /// In the order in which they were asked for.
    pub rows: Vec<Seen>,
}

impl Examiner {
    /// What the rows are here.
    pub fn sights(&mut self, wanted: &Wanted) -> Result<Sights, Error> {
        let table = self.table(&wanted.table, wanted.definition)?;
        check_width(&table, &wanted.keys)?;
        let transaction = self.connection.unchecked_transaction()?;
        self.check_schema()?;
        let mut rows = Vec::with_capacity(wanted.keys.len());
        for key in &wanted.keys {
            let (row, unique) = self.row(&table, wanted.seed, key)?;
            let waits = aside::holds_row(&self.connection, (&table.name, &table.row_key(key)))?;
            rows.push(Seen { sight: Sight { row, touched: false, waits }, unique });
        }
        self.mark_touched(&table, &wanted.keys, &mut rows)?;
        let positions = state::positions(&self.connection)?;
        let generation = state::generation(&self.connection)?;
        transaction.finish()?;
        Ok(Sights { positions, generation, rows })
    }

    /// The number of the rows with a key, and of what they have in UNIQUE indexes. Several rows can have the same key with a NULL.
    fn row(&self, table: &Table, seed: Seed, key: &[Value]) -> Result<(Option<Print>, Vec<u64>), Error> {
        let printer = Printer::new(table, seed);
        let filter: Vec<String> =
            table.key.iter().map(|column| format!("{} IS ?", table.key_operand("", column))).collect();
        let sql = format!(
            "SELECT {} FROM main.{} WHERE {}",
            printer.list,
            quote(&table.name),
            filter.join(" AND ")
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(key))?;
        let (mut sum, mut unique) = (None, vec![]);
        while let Some(row) = rows.next()? {
            let print = printer.row(row)?.0;
            sum = Some(sum.map_or(print, |sum: Print| sum.wrapping_add(print)));
            let values: Vec<Value> =
                (0..printer.width()).map(|place| row.get(place)).collect::<Result<_, _>>()?;
            let named = |name: &str| {
                table
                    .image
                    .iter()
                    .position(|known| known.eq_ignore_ascii_case(name))
                    .map(|place| &values[place])
            };
            unique.extend(unique_prints(table, named));
        }
        Ok((sum, unique))
    }

    /// The log has no index, for the application would pay for it: it is read once for all keys.
    fn mark_touched(&self, table: &Table, keys: &[Key], rows: &mut [Seen]) -> Result<(), Error> {
        if !log_table::exists(&self.connection)? {
            return Ok(());
        }
        let places: HashMap<Vec<u8>, usize> =
            keys.iter().enumerate().map(|(place, key)| (canonical(table, key), place)).collect();
        let sql = log_table::entries(log_table::width(&self.connection)?);
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut entries = statement.query([0, i64::MAX])?;
        while let Some(entry) = entries.next()? {
            let (number, _) = Touch::of(entry.get(1)?);
            if number != table.id || number == 0 {
                continue;
            }
            let key: Key = (0..table.key.len()).map(|at| entry.get(at + 2)).collect::<Result<_, _>>()?;
            if let Some(place) = places.get(&canonical(table, &key)) {
                rows[*place].sight.touched = true;
            }
        }
        Ok(())
    }

    /// Publishes rows that are as `expected` here, as if the application had just written them: they are logged. A row that is not
    /// there is published as gone. Returns for each whether it is, or why it is not.
    pub fn publish_again(
        &mut self,
        wanted: &Wanted,
        expected: &[Option<Print>],
    ) -> Result<Vec<Result<(), &'static str>>, Error> {
        let table = self.table(&wanted.table, wanted.definition)?;
        check_width(&table, &wanted.keys)?;
        if table.id == 0 || !ours::has_table(&self.connection, log_table::NAME)? {
            return Ok(vec![Err("this node does not publish"); wanted.keys.len()]);
        }
        let transaction =
            rusqlite::Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        self.check_schema()?;
        let mut done = vec![];
        for (key, expected) in wanted.keys.iter().zip(expected) {
            done.push(if key.contains(&Value::Null) {
                Err("a key with NULL names no single row")
            } else if self.row(&table, wanted.seed, key)?.0 == *expected {
                let parameters = std::iter::once(&table.id as &dyn ToSql)
                    .chain(key.iter().map(|value| value as &dyn ToSql));
                self.connection.prepare_cached(&table.sql().touch)?.execute(params_from_iter(parameters))?;
                Ok(())
            } else {
                Err("it was written meanwhile")
            });
        }
        transaction.commit()?;
        Ok(done)
    }
}

fn check_width(table: &Table, keys: &[Key]) -> Result<(), Error> {
    if keys.iter().all(|key| key.len() == table.key.len()) {
        return Ok(());
    }
    Err(Error::Mismatch(format!("table {}: a key of another length", table.name)))
}
