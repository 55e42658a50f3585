//! Ranges of keys: their digests, and lists of their rows.

use super::print::{BUCKETS, Printer, Seed, bucket};
use super::{Examiner, Key};
use crate::base::{clock, limits};
use crate::db::{error::Error, sql::quote, table::Table};
use crate::model::agree::Print;
use crate::model::value::Value;
use rusqlite::{Row, params_from_iter};
use std::time::{Duration, Instant};

/// Bytes of the longest key that a range may end with.
const BOUND_BYTES: usize = 8 << 10;

/// Which rows of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Span {
    pub table: String,
    /// As [`super::Described::print`] was.
    pub definition: u64,
    pub seed: Seed,
    /// They come after this key; `None`: from the first one on.
    pub after: Option<Key>,
    /// Up to this key; `None`: as far as one transaction should go.
    pub until: Option<Key>,
}

/// The digest of a range.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Range {
    /// The range ended with this key, before the end that was asked for; `None`: there are no more rows.
    pub stopped: Option<Key>,
    pub rows: u64,
    /// Buckets that have rows, with the sum of the rows' numbers.
    pub buckets: Vec<(u16, Print)>,
}

/// A row of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// By this number nodes know the key.
    pub key_print: Print,
    pub print: Print,
    pub key: Key,
}

/// The rows of some buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// As in [`Range`].
    pub stopped: Option<Key>,
    pub rows: Vec<Listed>,
    /// Rows whose keys are too long to be told.
    pub left_out: u64,
}

/// How far one transaction goes.
struct Budget {
    rows: u64,
    bytes: usize,
    begun: Instant,
    worked: Duration,
    /// With an end that another node has found, there is some room for rows that the other one does not have.
    given: u32,
}

impl Budget {
    fn of(span: &Span) -> Budget {
        Budget {
            rows: 0,
            bytes: 0,
            begun: Instant::now(),
            worked: clock::of_thread(),
            given: if span.until.is_some() { 2 } else { 1 },
        }
    }

    /// Counts a row; true when it should be the last one.
    fn is_used_up(&mut self, bytes: usize) -> bool {
        self.rows += 1;
        self.bytes += bytes;
        let factor = self.given;
        if self.rows >= limits::COMPARE_ROWS * u64::from(factor)
            || self.bytes >= limits::COMPARE_BYTES * factor as usize
        {
            return true;
        }
        let looks_at_the_clock = self.rows.is_multiple_of(64) || bytes > 4_096;
        looks_at_the_clock
            && (clock::of_thread().saturating_sub(self.worked) >= limits::COMPARE_WORK * factor
                || self.begun.elapsed() >= limits::COMPARE_TIME * factor)
    }
}

impl Examiner {
    /// The digest of a range.
    pub fn range(&mut self, span: &Span) -> Result<Range, Error> {
        let mut sums = vec![0; usize::from(BUCKETS)];
        let mut filled = vec![false; usize::from(BUCKETS)];
        let mut rows = 0;
        let stopped = self.scan(span, |printer, table, row| {
            let (print, bytes) = printer.row(row)?;
            let place = usize::from(bucket(table, &printer.key(row)?));
            sums[place] = Print::wrapping_add(sums[place], print);
            filled[place] = true;
            rows += 1;
            Ok((bytes, true))
        })?;
        let buckets = (0..BUCKETS).filter(|place| filled[usize::from(*place)]);
        let buckets = buckets.map(|place| (place, sums[usize::from(place)])).collect();
        Ok(Range { stopped, rows, buckets })
    }

    /// The rows of some buckets, with as many bytes of keys as are wanted at most.
    pub fn list(&mut self, span: &Span, buckets: &[u16], max_bytes: usize) -> Result<Listing, Error> {
        let mut wanted = vec![false; usize::from(BUCKETS)];
        for place in buckets {
            if let Some(wanted) = wanted.get_mut(usize::from(*place)) {
                *wanted = true;
            }
        }
        let mut listing = Listing::default();
        let mut size = 0;
        listing.stopped = self.scan(span, |printer, table, row| {
            let key = printer.key(row)?;
            if !wanted[usize::from(bucket(table, &key))] {
                return Ok((0, true));
            }
            let bytes: usize = key.iter().map(Value::size).sum();
            if bytes > BOUND_BYTES {
                listing.left_out += 1;
                return Ok((bytes, true));
            }
            let (print, of_row) = printer.row(row)?;
            listing.rows.push(Listed { key_print: printer.key_print(table, &key), print, key });
            size += bytes + 32;
            Ok((of_row, size + BOUND_BYTES < max_bytes))
        })?;
        Ok(listing)
    }

    /// Reads a range in one transaction; `step` says how many bytes the row had, and whether the next one may follow. Returns the key
    /// that the reading ended with, if rows of the range are left.
    fn scan(
        &mut self,
        span: &Span,
        mut step: impl FnMut(&Printer, &Table, &Row<'_>) -> rusqlite::Result<(usize, bool)>,
    ) -> Result<Option<Key>, Error> {
        let table = self.table(&span.table, span.definition)?;
        let printer = Printer::new(&table, span.seed);
        let width = table.key.len();
        let fits = |key: &Option<Key>| key.as_ref().is_none_or(|key| key.len() == width);
        if !fits(&span.after) || !fits(&span.until) {
            return Err(Error::Mismatch(format!("table {}: a key of another length", table.name)));
        }
        let transaction = self.connection.unchecked_transaction()?;
        self.check_schema()?;
        let mut budget = Budget::of(span);
        let mut stopped = None;
        'parts: for (sql, parameters) in parts(&table, &printer, span) {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params_from_iter(parameters))?;
            while let Some(row) = rows.next()? {
                if row.get(printer.width())? {
                    // It lies beyond the end, and so does all that follows.
                    stopped = None;
                    break 'parts;
                }
                if stopped.is_some() {
                    // There is a next row.
                    break 'parts;
                }
                let (bytes, goes_on) = step(&printer, &table, row)?;
                if budget.is_used_up(bytes) || !goes_on {
                    let key = printer.key(row)?;
                    if is_bound(&key) {
                        stopped = Some(key);
                    }
                }
            }
        }
        transaction.finish()?;
        Ok(stopped)
    }
}

/// Whether a range can end with the key: it can be told, and no other row has it, as rows with NULL in their keys may.
fn is_bound(key: &[Value]) -> bool {
    key.iter().map(Value::size).sum::<usize>() <= BOUND_BYTES && !key.contains(&Value::Null)
}

/// The statements that read a range in order, with their parameters. The keys after `(a, b)` are those with the same `a` and a greater `b`,
/// and then those with a greater `a`: SQLite finds the beginning of each in the key's index.
fn parts(table: &Table, printer: &Printer, span: &Span) -> Vec<(String, Vec<Value>)> {
    let columns: Vec<String> = table.key.iter().map(|column| table.key_operand("", column)).collect();
    let (beyond, beyond_values) = match &span.until {
        Some(until) => {
            let mut values = vec![];
            let within = up_to(&columns, until, &mut values);
            (format!("NOT {within}"), values)
        }
        None => ("0".to_owned(), vec![]),
    };
    let select = |conditions: &[String]| {
        let filter = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        };
        format!(
            "SELECT {}, {beyond} FROM main.{}{filter} ORDER BY {}",
            printer.list,
            quote(&table.name),
            columns.join(", ")
        )
    };
    let Some(after) = &span.after else { return vec![(select(&[]), beyond_values)] };
    (0..columns.len())
        .rev()
        .map(|last| {
            let mut values = beyond_values.clone();
            let mut conditions: Vec<String> = vec![];
            for (column, value) in columns.iter().zip(after).take(last) {
                conditions.push(format!("{column} IS ?"));
                values.push(value.clone());
            }
            if after[last] == Value::Null {
                conditions.push(format!("{} IS NOT NULL", columns[last]));
            } else {
                conditions.push(format!("{} > ?", columns[last]));
                values.push(after[last].clone());
            }
            (select(&conditions), values)
        })
        .collect()
}

/// A condition that is true for keys up to `until`. NULL comes before everything else.
fn up_to(columns: &[String], until: &[Value], values: &mut Vec<Value>) -> String {
    let (Some((column, columns)), Some((value, until))) = (columns.split_first(), until.split_first()) else {
        return "1".to_owned();
    };
    let less = if *value == Value::Null {
        "0".to_owned()
    } else {
        values.push(value.clone());
        format!("({column} IS NULL OR {column} < ?)")
    };
    values.push(value.clone());
    let rest = up_to(columns, until, values);
    format!("({less} OR ({column} IS ? AND {rest}))")
}

/// For tests: the statements of a range.
#[cfg(test)]
pub fn statements(table: &Table, span: &Span) -> Vec<(String, Vec<Value>)> {
    parts(table, &Printer::new(table, span.seed), span)
}
