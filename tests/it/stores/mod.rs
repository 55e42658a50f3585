//! The places where snapshots are kept: one contract for all, refusals, stores that misbehave, uploads that are killed.

mod contract;
mod hostile;
mod hostile_http;
mod hostile_sftp;
mod killed;
mod mended;
pub mod refused;
mod signatures;
mod silent;
