//! Whole databases: copied into snapshots, checked, compared, and put in the place of a live one.

mod check;
mod header;
mod reconcile;
mod replace;
mod snapshot;

pub use check::Look;
pub use reconcile::{Extra, compare, schema_mismatch};
pub use replace::{Salvage, Salvaged, find_damage, replace_database};
pub use snapshot::{
    Inside, Made, Stamp, copy_database, holds_unsettled, inspect_snapshot, make_ready, make_snapshot,
    positions_of, schema_hash, set_positions, strip_snapshot,
};
