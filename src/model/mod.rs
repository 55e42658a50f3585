//! What all nodes must agree on: values, events, the rules that fold them, shards, positions. No I/O.

pub mod event;
pub mod fold;
pub mod gotime;
pub mod origin;
pub mod positions;
pub mod shard;
pub mod value;
