//! The commands that do one thing and end.

mod snapshots;

pub use snapshots::{Show, cleanup, list, restore, restore_at, save, verify};
