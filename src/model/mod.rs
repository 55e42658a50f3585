//! What all nodes must agree on: values, events, the rules that fold events, shards, positions. No SQL and no sockets; only
//! `positions` reads and writes a file.

pub mod agree;
pub mod blocks;
pub mod change;
pub mod epoch;
pub mod event;
pub mod fold;
pub mod gate;
pub mod gotime;
pub mod lists;
pub mod moments;
pub mod origin;
pub mod payload;
pub mod positions;
pub mod reach;
pub mod set;
pub mod shard;
pub mod value;
