//! The commands that do one thing and end: what they print is here.

mod aside;
mod cleanup;
mod shown;
mod snapshots;

pub use aside::{Verb, set_aside};
pub use cleanup::cleanup;
pub use snapshots::{list, restore, restore_at, save, verify};

use serde_json::Value;

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Show {
    /// One JSON document instead of text.
    pub json: bool,
    /// Nothing when all is well.
    pub quiet: bool,
}

impl Show {
    fn print(self, text: impl FnOnce() -> String, value: impl FnOnce() -> Value) {
        match self {
            Show { json: true, .. } => println!("{}", value()),
            Show { quiet: true, .. } => {}
            _ => println!("{}", text()),
        }
    }
}
