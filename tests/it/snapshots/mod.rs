//! Snapshots: made, found, restored, proven, by the leader and by a person's commands.

mod commands;
mod cost;
mod nats_store;
mod proof;
mod publishers;
mod sealed;
mod wanted;
