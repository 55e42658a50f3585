//! Changes of the application's schema: noticed here, carried out elsewhere, remembered for events of older schemas.

mod carry;
mod definitions;
pub mod history;
pub mod kept;
mod matching;
mod notice;
mod order;
mod origins;
mod people;
#[cfg(test)]
#[path = "random_changes_tests.rs"]
mod random_changes;
mod rebuild;
mod rules;
mod scratch;
mod script;
mod settle;
mod shape;
mod statement;
mod translate;
mod unsettled;

pub use carry::Carried;
pub use definitions::{difference, exist, remember, remember_all};
pub use notice::{Looker, look, set_last_hash, steps};
pub use people::{ScriptTried, changes, kept_of, try_script, undo};
pub use rules::{brought, may_bring};
pub use settle::{Settled, planned, settle};
pub use translate::Translation;
