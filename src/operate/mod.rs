//! What an operator sees of a running daemon, and the signals by which its workers steer each other.

pub mod board;
pub mod health;
pub mod metrics;
pub mod responder;
