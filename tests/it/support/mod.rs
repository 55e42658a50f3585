//! The harness: directories, brokers, nodes, stores and their servers, and waiting for a condition with a bound. Everything
//! that it starts ends when its owner is dropped, so a test that panics leaves no process behind.

mod broker;
mod certificates;
mod database;
mod directory;
mod health;
mod node;
mod process;
pub mod proxy;
pub mod servers;
pub mod stores;
mod stuck;
mod waiting;

pub use broker::{Nats, connect_with, nats_binaries};
pub use certificates::{Authority, Certificate};
pub use database::{contents, root_page, value, wait_equal};
pub use directory::{Dir, Small, spoil};
pub use health::{health, http_get};
pub use node::Node;
pub use process::{PROGRAM, Process, cpu_ticks, faketime, free_port, is_root, json, printed, signal, skip};
pub use waiting::{number_from_environment, pause, wait_for};
