//! Integration tests: real nats-servers, real node processes, real databases.

mod cli;
mod crash;
mod golden;
mod hostile;
mod nats_client;
mod real_data;
mod replicate;
mod snapshots;
mod speed;
mod support;
mod tidy;
