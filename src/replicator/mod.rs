//! Replication: one thread publishes what the application changed, one follows the streams and applies what they hold.

mod follower;
mod publisher;

pub use follower::{Follower, Recover};
pub use publisher::{Command, Publisher, report};
