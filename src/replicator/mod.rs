//! Replication: one thread publishes what the application changed, one follows the streams and applies what they hold.

mod audit;
mod chores;
mod claimer;
mod followed;
mod follower;
mod healing;
mod outbox;
mod pacing;
mod publisher;
mod setup;
mod waiting;

pub use claimer::claim_blocks;
pub use follower::Follower;
pub use publisher::{Handle as PublisherHandle, Orders, Publisher, Setup as PublisherSetup, orders, report};
pub use setup::{Heal, Recover, Setup as FollowerSetup};
