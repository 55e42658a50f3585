//! The broker: our NATS client against real servers, and against one that misbehaves; a server of our own.

mod client;
mod forged;
pub mod hostile;
mod malformed;
mod own_server;
mod strangers;
mod tls;
