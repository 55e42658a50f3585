//! What a follower works with.

use super::orders::Handle;
use crate::base::error::Error;
use crate::base::stop::Stop;
use crate::cluster::Bucket;
use crate::config::Config;
use crate::db;
use crate::nats::JetStream;
use crate::operate::{Board, Signals};
use std::sync::Arc;

/// Brings the database to the state of a snapshot; the error says what is missing for that.
pub type Recover = Box<dyn FnMut(&mut db::Applier) -> Result<(), Error> + Send>;

/// Compares the database with a snapshot of this generation of the streams; the error says what is missing for that.
pub type Heal = Box<dyn FnMut(&mut db::Applier, &str) -> Result<(), Error> + Send>;

/// What a follower works with.
pub struct Setup {
    pub config: Config,
    /// The connection that applies, to an opened database.
    pub database: db::Applier,
    pub js: JetStream,
    pub bucket: Bucket,
    /// The publisher's, if there is one.
    pub publisher: Option<Handle>,
    /// Gets over gaps in the streams; `None`: a person must.
    pub recover: Option<Recover>,
    /// What comes before all else in a database on which a Go node worked last.
    pub takes_over: Option<Recover>,
    /// Lets a database that never followed the streams join the cluster; `None`: it goes on as it is.
    pub join: Option<Recover>,
    /// Finds out what was written in tables that were built anew; `None`: nothing tells, and all rows are published.
    pub settle_rebuilt: Option<Recover>,
    /// Compares it with others after the broker lost what was read; `None`: it goes on as it is.
    pub heal: Option<Heal>,
    pub board: Arc<Board>,
    pub signals: Arc<Signals>,
    pub stop: Stop,
}

impl Setup {
    /// Says which generation of the streams the database follows.
    pub fn tell_generation(&self) {
        match self.database.generation() {
            Ok(generation) => self.signals.set_generation(generation),
            Err(error) => log::debug!("read the generation of the streams: {error}"),
        }
    }
}
