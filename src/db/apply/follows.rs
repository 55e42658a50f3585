//! What the writing session remembers of changes of the schema.

use crate::db::error::Error;
use crate::db::migrate::Translation;
use rusqlite::Connection;
use std::time::Instant;

/// How a database follows changes of the schema.
#[derive(Debug, Default)]
pub struct Travel {
    /// It does. Otherwise people migrate each node.
    pub on: bool,
    /// What is dropped is kept for a while.
    pub keeps: bool,
    pub translation: Translation,
    /// How many changes had been noted when they were read.
    pub noted: u64,
    /// When changes that failed are tried again.
    pub again: Option<Instant>,
    /// Since when rows break a UNIQUE rule that another node has made.
    pub doubles_since: Option<Instant>,
    /// Scripts that were run, by their changes' ids, and why they failed; empty: they did not.
    pub reports: Vec<(String, String)>,
    /// Tables were found built anew while a change was carried out.
    pub rebuilt: bool,
}

impl Travel {
    /// Reads the changes that the database has seen.
    pub fn read(&mut self, connection: &Connection, noted: u64) -> Result<(), Error> {
        self.noted = noted;
        self.translation = Translation::read(connection)?;
        Ok(())
    }
}
