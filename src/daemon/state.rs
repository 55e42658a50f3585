//! What the sessions of a daemon share.

use super::claim::Claim;
use crate::base::error::Error;
use crate::base::stop::{self, Stop, StopSource};
use crate::base::worker::Workers;
use crate::broker::Broker;
use crate::cluster::{Bucket, lease::Lease};
use crate::config::Config;
use crate::nats::JetStream;
use crate::operate::{Board, Lookout, Signals};
use std::sync::Arc;

/// A daemon between its start and its end.
pub struct Daemon<'a> {
    pub config: &'a Config,
    pub stop: &'a Stop,
    pub claim: Claim,
    pub broker: Broker,
    pub bucket: Bucket,
    pub board: Arc<Board>,
    pub signals: Arc<Signals>,
    pub lookout: Arc<Lookout>,
    /// The leader's, if this node makes snapshots; else nobody's.
    pub lease: Lease,
    /// Those that live as long as the daemon.
    pub workers: Workers,
    /// Dropping it stops those workers.
    pub source: StopSource,
    pub token: Stop,
}

impl Daemon<'_> {
    pub fn new<'a>(config: &'a Config, claim: Claim, stop: &'a Stop) -> Result<Daemon<'a>, Error> {
        let broker = Broker::start(config, stop)?;
        let js = JetStream::new(broker.connection.clone());
        let (source, token) = stop::pair();
        Ok(Daemon {
            config,
            stop,
            claim,
            bucket: Bucket::new(&js, config.log.replicas),
            broker,
            board: Arc::default(),
            signals: Arc::new(Signals::new(
                usize::try_from(config.log.shards).unwrap_or(1),
                config.log.reach(),
            )),
            lookout: Arc::default(),
            lease: Lease::default(),
            workers: Workers::default(),
            source,
            token,
        })
    }

    pub fn js(&self) -> &JetStream {
        self.bucket.js()
    }
}
