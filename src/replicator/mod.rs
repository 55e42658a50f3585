//! Replication: one thread publishes what the application changed, one follows the streams and applies what they hold.

mod audit;
mod changes;
mod chores;
mod claimer;
mod cut;
mod followed;
mod follower;
mod healing;
mod later;
mod orders;
mod outbox;
mod pacing;
mod publisher;
mod reaching;
mod rebuilt;
mod reports;
mod setup;
mod waiting;

pub use changes::report;
pub use claimer::claim_blocks;
pub use follower::Follower;
pub use orders::{Handle as PublisherHandle, Orders, orders};
pub use publisher::{Publisher, Setup as PublisherSetup};
pub use setup::{Heal, Recover, Setup as FollowerSetup};
