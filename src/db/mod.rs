//! The application's database. Everything that speaks SQL stands below here.
//!
//! Rules of this room: our connections make no automatic checkpoints; nothing opens or closes the database's files by other
//! means than SQLite; no read transaction is held while waiting.

mod apply;
mod autoincrement;
mod capture;
mod describe;
mod digits;
pub mod equality;
mod error;
mod examine;
mod foreign_keys;
mod indexes;
mod lists;
mod look;
mod migrate;
mod open;
mod opening;
mod ours;
mod restore;
mod rowids;
mod sample;
mod schema;
mod schema_rows;
mod sql;
mod state;
mod steering;
mod table;
mod writable;

pub use apply::aside::{
    Held, OfTable, SetAside, State as AsideState, Which, discard, list as list_aside, try_again,
};
pub use apply::conflicts::{
    Conflict, Kept as KeptConflicts, Kind as ConflictKind, Which as WhichConflicts, carry as carry_conflicts,
    discard as discard_conflicts, dropped as dropped_conflicts, list as list_conflicts,
};
pub use apply::{Applier, Ends, Incoming, Restored, queued};
pub use autoincrement::set_autoincrement;
pub use capture::{Capture, ChangeLog, install_capture, watch};
pub use describe::{Described, SchemaWatch, TableDescribed, describe};
pub use error::Error;
pub use examine::{Examined, OnlyHere, examine, is_stripped, newest_captured, only_here};
pub use lists::included_in;
pub use look::{Mark, Seen, holds_tables, is_known, look, mark, writer_of};
pub use migrate::history::{Past as PastChange, State as ChangeState};
pub use migrate::kept::Kept as KeptThing;
pub use migrate::{ScriptTried, changes, kept_of, try_script, undo};
pub use open::{JournalMode, sqlite_version};
pub use opening::Opening;
pub use ours::cleanup;
pub use restore::{
    Extra, Filled, Included, Inside, LastLook, Look, Made, Noted, Salvage, Salvaged, Stamp, compare,
    compare_what_fits, copy_database, fill_database, find_damage, holds_unsettled, inspect_snapshot,
    keep_excluded, make_ready, make_snapshot, positions_of, replace_database, schema_hash, schema_mismatch,
    schema_of_nothing, set_positions, strip_snapshot,
};
pub use sample::{lines_of, run_script};
pub use state::Why as WhyAnew;
pub use steering::{Steering, steer_file};

#[cfg(test)]
#[path = "schedules_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "forgets_tests.rs"]
mod forgets_tests;

#[cfg(test)]
#[path = "keys_tests.rs"]
mod keys_tests;

#[cfg(test)]
#[path = "scratch_tests.rs"]
mod scratch;
