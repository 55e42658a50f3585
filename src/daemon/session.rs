//! The workers on one database: publisher, watch, check, snapshot scheduler, follower.

use super::check;
use super::open::Database;
use super::state::Daemon;
use crate::base::error::{Context, Error};
use crate::base::stop::{self, Stop, StopSource};
use crate::base::{files, limits, worker::Workers};
use crate::cluster::{
    registry::{Registry, Told},
    teller,
};
use crate::db;
use crate::equality;
use crate::model::positions::SeqMap;
use crate::operate::Whole;
use crate::replicator::{
    Follower, FollowerSetup, Heal, Orders, Publisher, PublisherHandle, PublisherSetup, Recover, claim_blocks,
    orders,
};
use crate::snapshot;
use std::time::Instant;

/// Running workers. Dropping it stops them without waiting.
pub struct Session {
    /// Which file they work on.
    pub file: Option<files::Identity>,
    pub workers: Workers,
    /// The follower, which ends last: what the publisher sent can still come back.
    pub follower: Workers,
    source: StopSource,
    follower_source: StopSource,
}

impl Session {
    /// Starts all workers that the configuration asks for. If one cannot start, none runs.
    pub fn start(daemon: &Daemon<'_>, database: Database) -> Result<Session, Error> {
        let (source, token) = stop::pair();
        let (follower_source, follower_token) = stop::pair();
        let mut session = Session {
            file: database.file,
            workers: Workers::default(),
            follower: Workers::default(),
            source,
            follower_source,
        };
        match session.start_workers(daemon, database, &token, follower_token) {
            Ok(()) => Ok(session),
            Err(error) => {
                session.stop();
                Err(error)
            }
        }
    }

    fn start_workers(
        &mut self,
        daemon: &Daemon<'_>,
        database: Database,
        token: &Stop,
        follower_token: Stop,
    ) -> Result<(), Error> {
        let (handle, orders) = orders();
        let config = daemon.config;
        self.start_check(daemon, token)?;
        if let Some(log) = database.capture {
            daemon.board.set_tables(log.table_names().len());
            self.start_publisher(daemon, log, orders, token)?;
            self.start_watch(daemon, handle.clone(), token)?;
        }
        if let Some(applier) = database.applier {
            if database.steering.is_on() {
                let (steering, bucket, stop) = (database.steering, daemon.bucket.clone(), token.clone());
                self.workers.spawn("claimer", move || claim_blocks(&steering, &bucket, &stop))?;
            }
            let takes_over = takes_over(daemon, token, &applier, database.taken_over)?;
            let follower = Follower::new(FollowerSetup {
                config: config.clone(),
                database: applier,
                js: daemon.js().clone(),
                bucket: daemon.bucket.clone(),
                publisher: config.publish.then_some(handle),
                recover: config.snapshot.enabled.then(|| recover(daemon, token)),
                takes_over,
                join: config.snapshot.enabled.then(|| join(daemon, token)),
                settle_rebuilt: config.snapshot.enabled.then(|| settle_rebuilt(daemon, token)),
                heal: config.snapshot.enabled.then(|| heal(daemon, token)),
                board: daemon.board.clone(),
                signals: daemon.signals.clone(),
                stop: follower_token,
            })?;
            self.follower.spawn("follower", move || follower.run())?;
        } else {
            daemon.signals.set_whole(Whole::Yes);
        }
        self.start_comparing(daemon, token)?;
        self.start_teller(daemon, token)?;
        if config.makes_snapshots() {
            let scheduler = snapshot::Scheduler {
                config: config.clone(),
                bucket: daemon.bucket.clone(),
                open_store: daemon.broker.store_opener(config),
                lease: daemon.lease.clone(),
                board: daemon.board.clone(),
                signals: daemon.signals.clone(),
                stop: token.clone(),
            };
            self.workers.spawn("snapshot", move || scheduler.run())?;
        }
        Ok(())
    }

    /// Starts the thread that answers when nodes are compared, and the one that has them compared.
    fn start_comparing(&mut self, daemon: &Daemon<'_>, token: &Stop) -> Result<(), Error> {
        let setup = equality::Setup {
            config: daemon.config.clone(),
            js: daemon.js().clone(),
            board: daemon.board.clone(),
            signals: daemon.signals.clone(),
            stop: token.clone(),
        };
        self.workers.spawn("compare", move || equality::answer(setup))?;
        if daemon.config.compare_interval.is_zero() {
            return Ok(());
        }
        let (config, stop) = (daemon.config.clone(), token.clone());
        let connection = daemon.broker.connection.clone();
        self.workers.spawn("compare-due", move || equality::compare_when_due(&config, &connection, &stop))
    }

    /// Starts the thread that tells the schema to the others.
    fn start_teller(&mut self, daemon: &Daemon<'_>, token: &Stop) -> Result<(), Error> {
        let setup = teller::Setup {
            config: daemon.config.clone(),
            bucket: daemon.bucket.clone(),
            board: daemon.board.clone(),
            lookout: daemon.lookout.clone(),
            stop: token.clone(),
        };
        self.workers.spawn("teller", move || {
            teller::run(&setup);
            Ok(())
        })
    }

    fn start_publisher(
        &mut self,
        daemon: &Daemon<'_>,
        log: db::ChangeLog,
        orders: Orders,
        stop: &Stop,
    ) -> Result<(), Error> {
        let publisher = Publisher::new(PublisherSetup {
            config: daemon.config.clone(),
            log,
            connection: daemon.broker.connection.clone(),
            orders,
            board: daemon.board.clone(),
            signals: daemon.signals.clone(),
            lookout: daemon.lookout.clone(),
            stop: stop.clone(),
        })?;
        self.workers.spawn("publisher", move || publisher.run())
    }

    /// Starts the thread that wakes the publisher when something was committed.
    fn start_watch(
        &mut self,
        daemon: &Daemon<'_>,
        publisher: PublisherHandle,
        stop: &Stop,
    ) -> Result<(), Error> {
        let (path, interval, stop) =
            (daemon.config.db_path.clone(), daemon.config.polling_interval, stop.clone());
        self.workers.spawn("watch", move || {
            db::watch(&path, interval, &stop, || publisher.wake())
                .context(format!("watch {}", path.display()))
        })
    }

    /// Starts the thread that looks, beside the others, whether all pages of the database can be read.
    fn start_check(&mut self, daemon: &Daemon<'_>, stop: &Stop) -> Result<(), Error> {
        let (path, lookout, stop) = (daemon.config.db_path.clone(), daemon.lookout.clone(), stop.clone());
        self.workers.spawn("check", move || check::run(&path, &lookout, &stop))
    }

    /// Stops all workers in order, and waits for them within a bound; returns the names of those that have not ended.
    pub fn stop(mut self) -> Vec<&'static str> {
        let until = Instant::now() + limits::DRAIN;
        self.source.stop();
        let mut left = self.workers.wait(until);
        self.follower_source.stop();
        left.extend(self.follower.wait(until));
        left
    }
}

/// How the follower gets over a gap in the streams.
fn recover(daemon: &Daemon<'_>, stop: &Stop) -> Recover {
    let open_store = daemon.broker.store_opener(daemon.config);
    let (config, bucket, stop) = (daemon.config.clone(), daemon.bucket.clone(), stop.clone());
    let mut search = snapshot::Search::default();
    Box::new(move |database| {
        let node = snapshot::Node { config: &config, bucket: &bucket, stop: &stop };
        snapshot::restore_live(node, &open_store()?, database, &mut search)
    })
}

/// How what was written in tables that were built anew is found out, and what the cluster has of those that were not replicated before.
fn settle_rebuilt(daemon: &Daemon<'_>, stop: &Stop) -> Recover {
    let open_store = daemon.broker.store_opener(daemon.config);
    let (config, bucket, stop) = (daemon.config.clone(), daemon.bucket.clone(), stop.clone());
    let (registry, mut including) = (Registry::new(&bucket), snapshot::Including::default());
    Box::new(move |database| {
        let node = snapshot::Node { config: &config, bucket: &bucket, stop: &stop };
        let store = open_store()?;
        if config.publish {
            snapshot::settle_rebuilt(node, &store, database)?;
        }
        let me = config.node_id;
        including.try_include(node, &store, database, |tables| {
            let running = registry.running().unwrap_or_default();
            let has_one = |told: &Told| told.node != me && tables.iter().any(|table| told.replicates(table));
            running.iter().find(|told| has_one(told)).map(|told| told.node)
        })
    })
}

/// How a database that never followed the streams joins.
fn join(daemon: &Daemon<'_>, stop: &Stop) -> Recover {
    let open_store = daemon.broker.store_opener(daemon.config);
    let (config, bucket, stop) = (daemon.config.clone(), daemon.bucket.clone(), stop.clone());
    let mut joining = snapshot::Joining::new(Instant::now());
    Box::new(move |database| {
        let node = snapshot::Node { config: &config, bucket: &bucket, stop: &stop };
        joining.try_join(node, open_store(), database)
    })
}

/// What is to be done first with a database on which a Go node worked last. `map`: its positions, if the database has none.
fn takes_over(
    daemon: &Daemon<'_>,
    stop: &Stop,
    database: &db::Applier,
    map: SeqMap,
) -> Result<Option<Recover>, Error> {
    let visit = database.visit()?;
    let (config, bucket, stop) = (daemon.config.clone(), daemon.bucket.clone(), stop.clone());
    let inherits = !map.is_empty();
    Ok((inherits || visit.is_some()).then(|| -> Recover {
        Box::new(move |database| {
            let node = snapshot::Node { config: &config, bucket: &bucket, stop: &stop };
            if let Some(reached) = &visit {
                snapshot::end_visit(node, reached, database)?;
            }
            if inherits { snapshot::inherit(node, &map, database) } else { Ok(()) }
        })
    }))
}

/// How a database is compared with others after the broker lost what nodes had read.
fn heal(daemon: &Daemon<'_>, stop: &Stop) -> Heal {
    let open_store = daemon.broker.store_opener(daemon.config);
    let (config, bucket, stop) = (daemon.config.clone(), daemon.bucket.clone(), stop.clone());
    let mut healing = snapshot::Healing::default();
    Box::new(move |database, generation| {
        let node = snapshot::Node { config: &config, bucket: &bucket, stop: &stop };
        healing.try_heal(node, &open_store()?, database, generation)
    })
}
