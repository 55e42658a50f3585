//! Nodes that run: rows of every kind in both directions, kills and outages, the Go program's formats, the command line.

mod automatic_keys;
mod cli;
mod conflicts;
mod crash;
mod equality;
mod floods;
mod forged;
mod frameworks;
mod fulltext;
mod generated;
mod golden;
mod hostile;
mod keys;
mod lists;
mod lost_streams;
mod orphans;
mod private;
mod real_data;
mod rebuilds;
mod registry;
mod replicate;
mod schemas;
mod sessions;
mod shards;
pub mod tables;
pub mod travel;
mod whole;
