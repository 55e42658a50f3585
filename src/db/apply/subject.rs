//! An event beside the table that it is about to change.

use crate::base::limits;
use crate::db::table::Table;
use crate::model::event::Event;
use crate::model::fold::Order;
use crate::model::value::Value;
use std::sync::Arc;

/// Where an event comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source {
    /// `None` for an event without origin.
    pub order: Option<Order>,
    /// This database published the event, under its present incarnation.
    pub own: bool,
    /// The event was set aside and comes after events that follow it in its stream.
    pub late: bool,
}

/// Where an event stands.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Number of the stream.
    pub stream: usize,
    pub seq: u64,
    /// When the stream stored it, Unix milliseconds.
    pub time_ms: i64,
}

#[derive(Debug)]
pub struct Subject<'a> {
    pub table: Arc<Table>,
    pub event: &'a Event,
    pub source: Source,
    /// The values of the key, in the order of the table's key.
    pub key_values: Vec<&'a Value>,
    /// The key as the change log's mirror knows it.
    pub key: Vec<u8>,
    /// The event's columns are exactly those of the table's image, in the same order: the prepared statements take it as it is.
    pub is_whole: bool,
}

impl<'a> Subject<'a> {
    /// `None` when the event lacks a column of the key.
    pub fn new(table: &Arc<Table>, event: &'a Event, source: Source) -> Option<Subject<'a>> {
        let key_values: Vec<&Value> =
            table.key.iter().map(|column| event.value_of(&column.name)).collect::<Option<_>>()?;
        let key = table.row_key(key_values.iter().copied());
        let is_whole = event.row.len() == table.image.len()
            && event.row.iter().zip(&table.image).all(|((name, _), known)| name == known);
        Some(Subject { table: table.clone(), event, source, key_values, key, is_whole })
    }

    /// The first columns of the event that the table lacks, at most [`limits::ASIDE_COLUMNS`], unless it is a tombstone, which needs none but the key.
    pub fn missing(&self) -> Vec<String> {
        if self.is_whole || self.is_tombstone() {
            return vec![];
        }
        let is_known = |name: &str| {
            self.table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name))
                || self.table.image.iter().any(|known| known.eq_ignore_ascii_case(name))
        };
        let names = self.event.row.iter().map(|(name, _)| name).filter(|name| !is_known(name));
        names.take(limits::ASIDE_COLUMNS).map(|name| name.to_string()).collect()
    }

    pub fn is_tombstone(&self) -> bool {
        self.event.is_tombstone()
    }

    pub fn has_null_key(&self) -> bool {
        self.key_values.iter().any(|value| **value == Value::Null)
    }

    /// Entries of the change log up to this id are covered by the event.
    pub fn log_id(&self) -> i64 {
        self.source.order.map_or(self.event.id, |order| order.id)
    }

    /// The value of a column of the table's image; `None` when the event does not have it.
    pub fn image_value(&self, place: usize) -> Option<&'a Value> {
        if self.is_whole {
            return self.event.row.get(place).map(|(_, value)| value);
        }
        self.event.value_of(self.table.image.get(place)?)
    }
}
