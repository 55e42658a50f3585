//! What an operator sees of a running daemon, and the signals by which its workers steer each other.

mod board;
mod flow;
pub mod health;
pub mod metrics;
mod responder;
mod signals;

use crate::config::Config;
use crate::nats::Connection;
use std::sync::Arc;

pub use board::{Board, Totals};
pub use flow::Making;
pub use signals::{Signals, Whole};

/// What health and metrics are made of.
#[derive(Clone)]
pub struct View {
    pub config: Config,
    pub connection: Connection,
    pub board: Arc<Board>,
    pub signals: Arc<Signals>,
}
