//! Replication: one thread publishes what the application changed, one applies what the streams hold.

mod applier;
mod publisher;
mod replay;
mod streams;

pub use applier::{Applier, Recover};
pub use publisher::{Command, Publisher, report};
pub use replay::{Until, replay};
pub use streams::{Judgement, ensure, ensure_all, judge};
