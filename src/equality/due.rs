//! The comparison that comes by itself, every so often. Of all nodes that are to make it, the one with the lowest number does.

use super::ask::Caller;
use super::compare::compare;
use super::comparing::Scope;
use crate::base::error::Error;
use crate::base::{memory, once::Once, stop::Stop};
use crate::config::Config;
use crate::nats::Connection;

/// Rows that are named in the log.
const ROWS: usize = 20;

/// Compares after each `compare_interval`, until stop. The daemons hear what it came to, this one too.
pub fn compare_when_due(config: &Config, connection: &Connection, stop: &Stop) -> Result<(), Error> {
    let mut said = Once::default();
    loop {
        if stop.wait(config.compare_interval) {
            return Ok(());
        }
        match run(config, connection, stop) {
            Ok(()) => said = Once::default(),
            Err(_) if stop.requested() => return Ok(()),
            Err(error) => {
                said.warn(&format!("comparing the nodes: {error}; trying again after compare_interval"))
            }
        }
        memory::give_back();
    }
}

fn run(config: &Config, connection: &Connection, stop: &Stop) -> Result<(), Error> {
    let first = Caller::new(config, connection, stop).hello()?.into_iter().map(|hello| hello.node).min();
    if first != Some(config.node_id) {
        return Ok(());
    }
    let report = compare(config, connection, stop, &Scope { table: None, rows: ROWS })?;
    if report.is_equal() {
        log::info!("{}: {} rows in {} ms", report.summary(), report.rows(), report.took.as_millis());
    } else {
        log::error!("{}: see -verify", report.summary());
    }
    Ok(())
}
