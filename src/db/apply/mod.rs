//! Applying events. The session holds what is written and what must be rolled back with it; facts are gathered, the rules
//! decide, the plan is carried out; the applier does that for a batch and its checkpoint in one transaction. What the database
//! does not take is set aside.

mod again;
mod anew;
mod applier;
pub mod aside;
mod beneath;
mod bring_back;
mod carry;
mod checkpoint;
mod claims;
mod collisions;
pub mod conflicts;
mod deferred;
mod displaced;
mod doubles;
mod facts;
pub mod feed;
mod feed_queue;
mod feed_sql;
mod follows;
mod hidden;
mod incoming;
mod lost;
mod marks;
mod mirrored;
mod orphan_review;
mod orphan_search;
mod orphans;
mod ousted;
mod ousting;
mod overtaken;
mod recent;
mod renewal;
mod rows;
mod savepoint;
mod session;
mod subject;
mod touched;
mod travel;
mod trigger;
mod visit;
mod writers;

pub use applier::Applier;
pub use bring_back::{Restored, own_write, remove_row};
pub use feed::queued;
pub use incoming::{Ends, Incoming};
pub use rows::is_there;
#[cfg(test)]
pub use session::ensure_state;
pub use session::{Applied, create_tables, ensure_state_of, has_all_tables};
pub use visit::note as note_visit;
pub use writers::warnings as same_keys;
