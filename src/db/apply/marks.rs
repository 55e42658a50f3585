//! High-water marks: the highest change-log id that was folded from each origin in each stream. What is not above it is a
//! duplicate or a straggler.

use crate::base::limits;
use crate::db::{error::Error, state};
use crate::model::origin::Origin;
use rusqlite::Connection;
use std::collections::HashMap;

/// The number of a stream, and an origin.
type Mark = (usize, Origin);

/// The marks that were needed so far, read from the state table once and written back once a transaction.
#[derive(Debug, Default)]
pub struct Marks {
    folded: HashMap<Mark, i64>,
    /// The sequence at which each changed mark was last raised.
    changed: HashMap<Mark, u64>,
}

impl Marks {
    /// The highest id folded; 0 when none was. `stream` is the stream's name under the mark's number.
    pub fn folded(&mut self, connection: &Connection, mark: Mark, stream: &str) -> Result<i64, Error> {
        if let Some(id) = self.folded.get(&mark) {
            return Ok(*id);
        }
        let id = state::folded(connection, stream, mark.1)?;
        self.folded.insert(mark, id);
        Ok(id)
    }

    pub fn raise(&mut self, mark: Mark, id: i64, seq: u64) {
        self.folded.insert(mark, id);
        self.changed.insert(mark, seq);
    }

    /// Writes the marks that have changed. `streams` has the streams' names under their numbers. Whoever publishes can invent origins:
    /// beyond a bound, those go that were heard of longest ago, but never our own.
    pub fn write(
        &self,
        connection: &Connection,
        streams: &[String],
        own: Option<Origin>,
    ) -> Result<(), Error> {
        for (mark, seq) in &self.changed {
            if let Some(id) = self.folded.get(mark) {
                state::set_folded(connection, &streams[mark.0], mark.1, (*id, *seq))?;
            }
        }
        if self.folded.len() > limits::ORIGINS {
            for stream in streams {
                state::forget_oldest_folded(connection, stream, own)?;
            }
        }
        Ok(())
    }

    /// What was written is committed.
    pub fn committed(&mut self) {
        self.changed.clear();
        if self.folded.len() > limits::ORIGINS {
            self.folded.clear();
        }
    }

    /// The state table holds something else: it is read again when it is needed.
    pub fn forget(&mut self) {
        self.folded.clear();
        self.changed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_written_once_and_read_again_after_a_rollback() {
        let connection = Connection::open_in_memory().unwrap();
        state::create(&connection).unwrap();
        let streams = ["s-1".to_owned(), "s-2".to_owned()];
        let mark = (1, Origin { node: 7, incarnation: 1 });
        let mut marks = Marks::default();
        assert_eq!(marks.folded(&connection, mark, "s-2").unwrap(), 0);
        marks.raise(mark, 5, 1);
        assert_eq!(marks.folded(&connection, mark, "s-2").unwrap(), 5);
        assert_eq!(state::folded(&connection, "s-2", mark.1).unwrap(), 0);
        marks.write(&connection, &streams, None).unwrap();
        marks.committed();
        assert_eq!(state::folded(&connection, "s-2", mark.1).unwrap(), 5);
        marks.raise(mark, 9, 2);
        marks.forget();
        assert_eq!(marks.folded(&connection, mark, "s-2").unwrap(), 5);
        assert_eq!(marks.folded(&connection, (0, mark.1), "s-1").unwrap(), 0);
    }
}
