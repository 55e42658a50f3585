//! Rows that have lost their place by a UNIQUE rule which only this node has as yet: its application has made it, and that is on its
//! way. Where the rule comes later, both rows are there, and nobody could tell which one has gone. So when the change comes back, this
//! node deletes for all what is still gone here. Only memory knows it: after a restart the other nodes decide for themselves.

use crate::db::apply::conflicts::Kind;
use crate::db::apply::lost;
use crate::db::apply::ousted::Row;
use crate::db::apply::rows;
use crate::db::apply::session::Session;
use crate::db::apply::subject::{Place, Source, Subject};
use crate::db::error::Error;
use crate::db::table::Table;
use crate::model::value::Value;
use std::sync::Arc;

impl Session {
    /// A row has no place here, and may have it elsewhere: an event's own, or one that is about to be displaced by it.
    pub fn oust(&mut self, event: &Subject<'_>, displaced: Option<&[Value]>, at: Place) -> Result<(), Error> {
        let table = event.table.clone();
        if !self.has_own_rule(&table.name)? {
            self.ousted.forget(&table.name);
            return Ok(());
        }
        let own_key = || event.key_values.iter().map(|value| (*value).clone()).collect();
        let key: Vec<Value> = displaced.map_or_else(own_key, <[Value]>::to_vec);
        let row_key = table.row_key(&key);
        let (node, place) = self.recent.of(&row_key).unwrap_or((0, at));
        let image = match displaced {
            Some(key) => rows::event_of(&self.connection, &table, key, node)?,
            None => None,
        };
        let row = Row { key, image, place, won_by: event.event.node };
        self.ousted.put(&table.name, row_key, row);
        Ok(())
    }

    /// A change of this node's application has come back: what it has ousted and is not here again is gone.
    pub fn tell_ousted(&mut self) -> Result<(), Error> {
        for (name, row) in self.ousted.take() {
            if let Some(table) = self.schema.find(&name).cloned()
                && table.key.len() == row.key.len()
                && !rows::is_there(&self.connection, &table, &row.key)?
            {
                self.tell_gone(&table, row)?;
            }
        }
        self.find_orphans()
    }

    fn tell_gone(&mut self, table: &Arc<Table>, row: Row) -> Result<(), Error> {
        if let Some(image) = &row.image {
            self.orphans.give_up(table, image, row.place, true);
            if let Some(lost) = Subject::new(table, image, Source::default()) {
                let stream = self.streams[row.place.stream].clone();
                let place = (stream.as_str(), row.place.seq, row.place.time_ms);
                lost::keep(self, &lost, Kind::Unique, (row.won_by, None), place)?;
            }
        }
        self.touch(table, &row.key, &table.row_key(&row.key))
    }
}
