//! The application's database: everything that speaks SQL lives below here.
//!
//! Rules of this directory: no automatic checkpoints on our connections; nothing opens or closes the database's files by
//! other means than SQLite; a read transaction is never held while waiting.

mod apply;
mod capture;
mod error;
mod indexes;
mod open;
mod restore;
mod schema;
mod sql;
mod state;

pub use apply::{Applied, Applier, Incoming};
pub use capture::{Batch, Capture, Change, ChangeLog, cleanup, rename_older_copy, watch};
pub use error::Error;
pub use open::{JournalMode, check_file, prepare};
pub use restore::{
    Comparison, Extra, Inside, Look, Made, Ready, Salvage, Salvaged, Stamp, compare, copy, damage, inspect,
    install_capture, make, make_ready, mismatch, positions_of, replace, schema_hash, set_positions, strip,
    unsettled,
};

/// Version of the bundled SQLite.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

#[cfg(test)]
#[path = "schedules_tests.rs"]
mod tests;
