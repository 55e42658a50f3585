//! The number that a row's values come to: equal rows have equal ones on all nodes, others never, as far as SHA-256 goes. A seed of
//! each comparison's own goes in, so nobody can prepare rows that come to the same.

use crate::db::sql::quote;
use crate::db::table::Table;
use crate::model::agree::Print;
use crate::model::shard::fnv1;
use crate::model::value::{Value, row_key};
use ring::digest::{Context, SHA256};
use rusqlite::Row;
use rusqlite::types::ValueRef;

/// Random, and the same for all nodes of one comparison.
pub type Seed = [u8; 16];

/// Buckets into which the rows of a range fall by their keys.
pub const BUCKETS: u16 = 256;

/// How rows of a table are read and printed.
pub struct Printer {
    seed: Seed,
    /// What is selected: the columns of an image.
    pub list: String,
    /// Places of the columns in the order of their names: tables whose columns stand in another order have equal rows.
    order: Vec<usize>,
    /// Places of the key's columns.
    key: Vec<usize>,
}

impl Printer {
    pub fn new(table: &Table, seed: Seed) -> Printer {
        let list: Vec<String> = table.image.iter().map(|name| quote(name)).collect();
        let mut order: Vec<usize> = (0..table.image.len()).collect();
        order.sort_by_key(|place| table.image[*place].to_lowercase());
        let place = |name: &str| table.image.iter().position(|known| **known == *name).unwrap_or(0);
        let key = table.key.iter().map(|column| place(&column.name)).collect();
        Printer { seed, list: list.join(", "), order, key }
    }

    /// Number of columns of an image.
    pub fn width(&self) -> usize {
        self.order.len()
    }

    /// The row's number, and the bytes that its values have.
    pub fn row(&self, row: &Row<'_>) -> rusqlite::Result<(Print, usize)> {
        let mut context = Context::new(&SHA256);
        context.update(&self.seed);
        let mut bytes = 0;
        for place in &self.order {
            let value = row.get_ref(*place)?;
            bytes += update(&mut context, value);
        }
        Ok((number(context), bytes))
    }

    pub fn key(&self, row: &Row<'_>) -> rusqlite::Result<Vec<Value>> {
        self.key.iter().map(|place| row.get(*place)).collect()
    }

    /// The number by which nodes know a key.
    pub fn key_print(&self, table: &Table, key: &[Value]) -> Print {
        let mut context = Context::new(&SHA256);
        context.update(&self.seed);
        context.update(&canonical(table, key));
        number(context)
    }
}

/// The key in bytes that are the same on all nodes, however the value is written there.
pub fn canonical(table: &Table, key: &[Value]) -> Vec<u8> {
    row_key(0, key.iter().zip(table.key.iter().map(|column| column.collation)))
}

/// The bucket of a key.
pub fn bucket(table: &Table, key: &[Value]) -> u16 {
    let hash = fnv1(&canonical(table, key));
    u16::try_from((hash ^ (hash >> 32)) % u64::from(BUCKETS)).unwrap_or(0)
}

fn number(context: Context) -> Print {
    let digest = context.finish();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    Print::from_be_bytes(bytes)
}

/// A value with its storage class and its length, so that values do not run into each other.
fn update(context: &mut Context, value: ValueRef<'_>) -> usize {
    let mut put = |class: u8, bytes: &[u8]| {
        let mut head = [class; 9];
        head[1..].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
        context.update(&head);
        context.update(bytes);
        bytes.len()
    };
    match value {
        ValueRef::Null => put(0, &[]),
        ValueRef::Integer(number) => put(1, &number.to_be_bytes()),
        // The two zeros are equal, and SQLite does not always keep the sign.
        ValueRef::Real(real) => put(2, &(if real == 0.0 { 0.0 } else { real }).to_bits().to_be_bytes()),
        ValueRef::Text(bytes) => put(3, bytes),
        ValueRef::Blob(bytes) => put(4, bytes),
    }
}
