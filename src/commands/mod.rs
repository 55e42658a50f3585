//! The commands that do one thing and end: what they print is here.

mod aside;
mod autoincrement;
mod cleanup;
mod completion;
mod conflicts;
mod demo;
mod doctor;
mod equality;
mod format;
mod init;
mod manual;
mod migrate;
mod schema;
mod service;
mod shown;
mod snapshots;
mod status;
mod sync;

pub use aside::{Verb as AsideVerb, set_aside};
pub use autoincrement::autoincrement;
pub use cleanup::cleanup;
pub use completion::{Shell, completion};
pub use conflicts::{
    Filter as ConflictFilter, Verb as ConflictVerb, conflicts, parse_which as which_conflicts,
    restore as restore_conflicts,
};
pub use demo::demo;
pub use doctor::{doctor, refused_configuration};
pub use equality::{compare, repair};
pub use format::stream_format;
pub use init::{Wanted, init};
pub use manual::{help, man, topics};
pub use migrate::{migrate, migrate_status, schema_undo};
pub use schema::{status as schema_status, status_of_cluster as schema_status_of_cluster};
pub use service::{Service, print_service};
pub use snapshots::{list, restore, restore_at, restore_everywhere, save, verify};
pub use status::status;
pub use sync::sync;

use serde_json::Value;

/// A text or JSON that a terminal can be shown: names and values come from whoever publishes or stores, and JSON leaves some
/// characters as they are which a terminal obeys. Line breaks stay.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

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
            Show { json: true, .. } => println!("{}", escaped(&value().to_string())),
            Show { quiet: true, .. } => {}
            _ => println!("{}", escaped(&text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_that_a_terminal_obeys_is_printed_and_the_json_stays_the_same() {
        let text: String = ('\0'..='\u{ff}').chain(['\u{20ac}']).collect();
        let value = serde_json::json!({ "why": text, "list": [1] });
        for json in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let shown = escaped(&json);
            assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown}");
            assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
        }
    }
}
