//! Capture: what the application writes is noticed, logged by its key, and read for the publisher.

mod all_rows;
mod changelog;
mod entries;
pub mod install;
pub mod log_table;
mod plan;
mod takeover;
mod triggers;
mod watch;

pub use all_rows::log_all_rows;
pub use changelog::ChangeLog;
pub use install::{Capture, install_capture, remove_capture};
pub use watch::watch;
