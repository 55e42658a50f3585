//! Checkpoints of the WAL for what we wrote ourselves. They are passive, and made while another connection of ours holds the
//! write lock, so that no other process can be in the middle of resetting the WAL.

use crate::base::limits;
use crate::db::{error::Error, open};
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, MAIN_DB};
use std::path::{Path, PathBuf};

/// Number of events since the last checkpoint from which another one is made.
const EVENTS: usize = 500;

/// Keeps the WAL file from growing without bound when the application does not checkpoint.
pub struct Checkpointer {
    connection: Connection,
    path: PathBuf,
    events: usize,
}

impl Checkpointer {
    /// Opens a connection for checkpoints.
    pub fn open(path: &Path) -> Result<Checkpointer, Error> {
        Ok(Checkpointer { connection: open::open_without_schema(path)?, path: path.to_path_buf(), events: 0 })
    }

    /// To be called after each batch, with the connection that wrote it and the batch's number of events.
    pub fn after_batch(&mut self, writer: &Connection, events: usize) {
        self.events += events;
        if self.events < EVENTS || open::wal_size(&self.path) < limits::WAL_CHECKPOINT_BYTES {
            return;
        }
        self.events = 0;
        // Whatever fails here is tried again with a later batch.
        if writer.execute_batch("BEGIN IMMEDIATE").is_ok() {
            let _ = self.connection.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::PASSIVE);
            let _ = writer.execute_batch("COMMIT");
        }
    }
}
