//! Whole databases: copied into snapshots, checked, compared, and put in the place of a live one.

mod check;
mod copy;
mod encoding;
mod everywhere;
mod fill;
mod header;
mod included;
mod keep;
mod rebuilt;
mod reconcile;
mod replace;
mod snapshot;

pub use check::Look;
pub use copy::copy_database;
pub use fill::{Filled, fill_database};
pub use included::{Included, Noted, compare_what_fits};
pub use keep::keep_excluded;
pub use reconcile::{Extra, compare, schema_mismatch};
pub use replace::{LastLook, Salvage, Salvaged, find_damage, replace_database};
pub use snapshot::{
    Inside, Made, Stamp, holds_unsettled, inspect_snapshot, make_ready, make_snapshot, positions_of,
    schema_hash, schema_of_nothing, set_positions, strip_snapshot,
};
