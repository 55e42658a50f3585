//! The daemon: starts every worker, watches over them, stops them in order. The only place that sees them all.
//!
//! Some workers live as long as the daemon (presence, health, metrics, the leader's lease). Those that work on the database
//! are one [`session::Session`]; a replaced or damaged database ends it, and the next one begins.

mod check;
mod claim;
mod lookout;
mod open;
mod session;
mod state;
mod supervise;

use crate::base::error::Kind;
use crate::base::stop::Stop;
use crate::base::{error::Error, limits, once::Once};
use crate::cluster::lease::Keeper;
use crate::cluster::presence;
use crate::config::{Config, Snapshot};
use crate::db;
use crate::operate::{Usage, View, Whole, health, metrics, notify, socket};
use crate::snapshot::{self, Recovery};
use crate::streams;
use claim::Claim;
pub use claim::lock_database;
use open::{Pauses, Unfounded, get_database};
use session::Session;
use state::Daemon;
use std::sync::Arc;
use std::time::{Duration, Instant};
use supervise::{End, supervise};

/// How long the daemon waits for the workers that outlive the sessions: the leader's lease is given back by one
/// request.
const LAST_WORKERS: Duration = Duration::from_secs(1);
/// `replicate = false`: pause between two looks whether the streams are there, and after a failed one.
const STREAMS_LOOK: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(1)];

/// Runs until stop, or until something fails for good.
pub fn run(config: &Config, stop: &Stop) -> Result<(), Error> {
    if !config.publish {
        log::info!("a read replica (publish = false): what is written here stays here");
    }
    let Some(claim) = Claim::take(config, stop)? else { return Ok(()) };
    snapshot::remove_leftovers(config);
    let mut daemon = Daemon::new(config, claim, stop)?;
    let result = daemon.start_workers().and_then(|()| daemon.sessions());
    daemon.end();
    result
}

impl Daemon<'_> {
    fn start_workers(&mut self) -> Result<(), Error> {
        let config = self.config;
        let view = View {
            config: config.clone(),
            connection: self.broker.connection.clone(),
            board: self.board.clone(),
            signals: self.signals.clone(),
            fleet: Arc::default(),
            lookout: self.lookout.clone(),
            usage: Usage::load(config).into(),
        };
        presence::start(&view, &self.token, &mut self.workers)?;
        notify::start(&view, self.stop, &self.token, &mut self.workers)?;
        socket::start(&view, &self.token, &mut self.workers)?;
        health::start(&view, &self.token, &mut self.workers)?;
        metrics::start(&view, &self.token, &mut self.workers)?;
        // One in NATS is asked where a key decides what is taken of it: that the broker is there is seen elsewhere.
        let Snapshot { enabled, store, packing, .. } = &config.snapshot;
        let has_store = *enabled && (store.is_apart_from_nats() || packing.key.is_some());
        let store = has_store.then(|| self.broker.store_opener(config));
        lookout::start(&view, self.bucket.js(), store, &self.token, &mut self.workers)?;
        if config.makes_snapshots() {
            let keeper = Keeper::new(
                &self.bucket,
                config.node_id,
                config.snapshot.leader_ttl,
                (&self.board, &self.signals),
            );
            self.lease = keeper.lease();
            let stop = self.token.clone();
            self.workers.spawn("lease", move || {
                keeper.run(&stop);
                Ok(())
            })?;
        }
        if !config.replicate {
            self.create_streams_in_background()?;
        }
        Ok(())
    }

    /// `replicate = false`: no follower looks after the streams.
    fn create_streams_in_background(&mut self) -> Result<(), Error> {
        let (config, js, stop) = (self.config.clone(), self.js().clone(), self.token.clone());
        let signals = self.signals.clone();
        self.workers.spawn("streams", move || {
            let mut said = Once::default();
            let mut looked_beyond = false;
            loop {
                let pause = match js.connection().is_up().then(|| streams::ensure_all(&js, &config)) {
                    Some(Ok(formats)) => {
                        for (stream, format) in formats.into_iter().enumerate() {
                            signals.flow.set_format(stream, format);
                        }
                        looked_beyond = looked_beyond || streams::warn_of_more_shards(&js, &config).is_ok();
                        STREAMS_LOOK[0]
                    }
                    Some(Err(error)) => {
                        said.warn(&format!("{error}; trying again"));
                        STREAMS_LOOK[1]
                    }
                    None => STREAMS_LOOK[1],
                };
                if stop.wait(pause) {
                    return Ok(());
                }
            }
        })
    }

    /// One session after the other: the next one begins when the database was replaced, by somebody or by us.
    fn sessions(&mut self) -> Result<(), Error> {
        let path = &self.config.db_path;
        let recovery = Recovery {
            config: self.config,
            bucket: self.bucket.clone(),
            open_store: self.broker.store_opener(self.config),
            signals: self.signals.clone(),
            stop: self.stop,
        };
        let mut unfounded = Unfounded::default();
        let mut pauses = Pauses::default();
        loop {
            let Some(database) = get_database(self, &recovery, &mut pauses)? else { return Ok(()) };
            match self.session(database)? {
                End::Stopped | End::Idle => return Ok(()),
                End::Replaced => log::warn!("{}: is another file now: beginning anew", path.display()),
                End::Stripped(why) => {
                    log::error!("{}: {why}: beginning anew", path.display());
                    if self.stop.wait(limits::STRIPPED_PAUSE) {
                        return Ok(());
                    }
                }
                End::Damaged(why) => {
                    let Some(verdict) = self.examine(&why) else {
                        if unfounded.wait(&why, self) {
                            return Ok(());
                        }
                        continue;
                    };
                    if pauses.wait(&self.signals, self.stop) || !recovery.damaged(&verdict) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// A worker says that the database is damaged: what SQLite's own check says. `None`: it finds nothing.
    fn examine(&self, why: &str) -> Option<String> {
        let path = &self.config.db_path;
        match db::find_damage(path, db::Look::Everything, self.stop) {
            Ok(found) => found.damage.into_iter().next(),
            Err(error) => {
                log::warn!("{}: {why}; check: {error}", path.display());
                None
            }
        }
    }

    /// All workers on one database, until something ends them.
    fn session(&mut self, database: open::Database) -> Result<End, Error> {
        self.board.set_open(true);
        let mut session = match Session::start(self, database) {
            Ok(session) => session,
            Err(error) if error.kind() == Kind::Damaged => return Ok(End::Damaged(error.to_string())),
            Err(error) => return Err(error),
        };
        let result = supervise(self, &mut session);
        if matches!(result, Ok(End::Idle)) {
            self.last_snapshot();
        }
        log::info!("stopping");
        let left = session.stop();
        self.board.set_open(false);
        let result = result?;
        if !left.is_empty() && matches!(result, End::Damaged(_) | End::Stripped(_) | End::Replaced) {
            let left = left.join(", ");
            return Err(Error::local(format!("{left} did not end in time to open the database anew")));
        }
        if matches!(result, End::Damaged(_) | End::Stripped(_) | End::Replaced) {
            self.signals.set_whole(Whole::Waiting("the database is not open".to_owned()));
        }
        Ok(result)
    }

    /// Before sleeping, a leader leaves a fresh snapshot for whoever comes next.
    fn last_snapshot(&self) {
        if self.lease.held().is_none() {
            return;
        }
        let terms = snapshot::Terms { patience: limits::SETTLE_WAIT, leader: Some(&self.lease), anew: false };
        let node = snapshot::Node { config: self.config, bucket: &self.bucket, stop: self.stop };
        let saved =
            (self.broker.store_opener(self.config))().and_then(|store| snapshot::save(node, &store, terms));
        match saved {
            Ok(saved) if saved.unchanged => {
                log::info!("snapshot (sleep_timeout): the stored one is up to date");
            }
            Ok(saved) => {
                log::info!(
                    "stored snapshot {} (sleep_timeout): {} bytes",
                    saved.stored.name,
                    saved.stored.size
                );
            }
            Err(why) => log::warn!("{why}"),
        }
    }

    /// Stops what the sessions have shared; the broker last, for everybody else needs it.
    fn end(mut self) {
        self.source.stop();
        socket::wake(&self.config.socket_path());
        self.workers.wait(Instant::now() + LAST_WORKERS);
        self.broker.stop();
    }
}
