//! What an operator sees of a running daemon, and the signals by which its workers steer each other.

mod board;
mod fleet;
mod flow;
pub mod health;
mod histogram;
mod lookout;
pub mod metrics;
pub mod notify;
mod page;
mod responder;
mod signals;
pub mod socket;
pub mod status;
mod trouble;
mod usage;
mod verdict;
pub mod words;

use crate::config::Config;
use crate::nats::Connection;
use std::sync::Arc;

pub use board::{Board, Totals};
pub use fleet::{Fleet, State};
pub use flow::Making;
pub use lookout::{Looker, Lookout};
pub use signals::{Signals, Whole};
pub use trouble::Trouble;
pub use usage::Usage;

/// What health, metrics, status and page are made of.
#[derive(Clone)]
pub struct View {
    pub config: Config,
    pub connection: Connection,
    pub board: Arc<Board>,
    pub signals: Arc<Signals>,
    pub fleet: Arc<Fleet>,
    pub lookout: Arc<Lookout>,
    pub usage: Arc<Usage>,
}
