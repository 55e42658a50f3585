//! Replication: one thread publishes what the application changed, one follows the streams and applies what they hold.

mod audit;
mod follower;
mod outbox;
mod pacing;
mod publisher;
mod waiting;

pub use follower::{Follower, Recover, Setup as FollowerSetup};
pub use publisher::{Handle as PublisherHandle, Orders, Publisher, Setup as PublisherSetup, orders, report};
