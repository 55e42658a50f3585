//! Changes of the application's schema: noticed here, carried out elsewhere, remembered for events of older schemas.

mod carry;
mod definitions;
pub mod history;
pub mod kept;
mod matching;
mod notice;
mod people;
mod rebuild;
mod rules;
mod script;
mod statement;
mod translate;

pub use carry::{Carried, Terms, carry_out};
pub use definitions::{difference, exist, remember, remember_all};
pub use notice::{Looker, look, set_last_hash, steps};
pub use people::{ScriptTried, changes, kept_of, try_script, undo};
pub use rules::{brought, may_bring};
pub use translate::Translation;
