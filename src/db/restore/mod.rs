//! Whole databases: copied into snapshots, checked, compared, brought into the place of a live one.

mod copy;
mod header;
mod reconcile;
mod replace;

pub use copy::{
    Inside, Made, Ready, Stamp, copy, inspect, install_capture, make, make_ready, positions_of, schema_hash,
    set_positions, strip, unsettled,
};
pub use reconcile::{Comparison, Extra, compare, mismatch};
pub use replace::{Look, Salvage, Salvaged, damage, replace};
