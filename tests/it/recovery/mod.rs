//! Databases that fell behind, joined late, were damaged or lost: each becomes whole by itself.

mod away;
mod back_in_time;
mod chaos;
pub mod damage;
mod disasters;
mod files;
mod forgets;
mod join;
mod restore_live;
mod scenarios;
mod start;
mod stripped;
