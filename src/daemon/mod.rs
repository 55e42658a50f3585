//! The daemon: starts every worker, watches over them, stops them in order. The only place that sees them all.

mod open;

use crate::base::stop::{self, Stop};
use crate::base::{files, limits, once::Once, worker};
use crate::broker::{Broker, open_store};
use crate::cluster::lease::{self, Lease};
use crate::cluster::presence;
use crate::config::Config;
use crate::db;
use crate::nats::JetStream;
use crate::operate::{board::Status, health, metrics};
use crate::replicator::{Follower, Publisher, Recover};
use crate::snapshot::{self, Recovery};
use crate::streams;
use crossbeam_channel::{Receiver, Sender, bounded};
use open::{Database, Pauses, get_database};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Places in the queue of ended workers: more than there are workers.
const WORKERS: usize = 32;
/// How often a failed statement may look like damage where there is none.
const UNFOUNDED_MAX: u32 = 3;

/// Runs until stop, or until something fails for good.
pub fn run(config: &Config, stop: &Stop) -> Result<(), String> {
    let _lock = lock_database(config)?;
    snapshot::remove_leftovers(config, stop);
    let (exits, ended) = bounded(WORKERS);
    let broker = Broker::start(config, stop, &exits)?;
    let result = run_with(config, stop, &broker, &exits, &ended);
    broker.stop();
    result
}

/// One daemon for one database.
pub fn lock_database(config: &Config) -> Result<files::Lock, String> {
    let path = config.lock_path();
    match files::Lock::try_take(&path) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(format!("another harmonylite runs on {}", config.db_path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn run_with(
    config: &Config,
    stop: &Stop,
    broker: &Broker,
    exits: &Sender<worker::Exit>,
    ended: &Receiver<worker::Exit>,
) -> Result<(), String> {
    let (source, token) = stop::pair();
    let status = Arc::new(Status::new(config.log.shards));
    presence::start(config, &broker.connection, &status, &token, exits)?;
    health::start(config, &broker.connection, &status, &token, exits)?;
    metrics::start(config, &broker.connection, &status, &token, exits)?;
    let result = sessions(config, stop, broker, &status, exits, ended);
    source.stop();
    result
}

/// One session after the other: the next one begins when the database was replaced, by somebody or by us.
fn sessions(
    config: &Config,
    stop: &Stop,
    broker: &Broker,
    status: &Arc<Status>,
    exits: &Sender<worker::Exit>,
    ended: &Receiver<worker::Exit>,
) -> Result<(), String> {
    let path = &config.db_path;
    let recovery = Recovery {
        config,
        connection: &broker.connection,
        open_store: broker.store_opener(config),
        status,
        stop,
    };
    let mut unfounded = 0;
    let mut pauses = Pauses::default();
    loop {
        let Some(database) = get_database(config, &recovery, &mut pauses, stop)? else { return Ok(()) };
        status.open.store(true, Relaxed);
        let end = session(config, broker, database, status, stop, exits, ended);
        status.open.store(false, Relaxed);
        match end? {
            End::Stopped | End::Idle => return Ok(()),
            End::Replaced => log::warn!("{}: is another file now: beginning anew", path.display()),
            End::Damaged(why) => {
                let verdict = match db::damage(path, db::Look::Everything, stop) {
                    Ok(Some(verdict)) => verdict,
                    // A statement failed, and all is right: it may have been the moment. If that goes on, it was not.
                    Ok(None) if unfounded < UNFOUNDED_MAX => {
                        unfounded += 1;
                        log::warn!(
                            "{}: {why}, and SQLite's check finds nothing: beginning anew",
                            path.display()
                        );
                        continue;
                    }
                    Ok(None) => why,
                    Err(error) => {
                        log::warn!("{}: check: {error}", path.display());
                        continue;
                    }
                };
                unfounded = 0;
                if pauses.wait(status, stop) || !recovery.damaged(&verdict) {
                    return Ok(());
                }
            }
        }
    }
}

/// All workers on one database, until something ends them.
fn session(
    config: &Config,
    broker: &Broker,
    database: Database,
    status: &Arc<Status>,
    stop: &Stop,
    exits: &Sender<worker::Exit>,
    ended: &Receiver<worker::Exit>,
) -> Result<End, String> {
    let (source, token) = stop::pair();
    let (applier_source, applier_token) = stop::pair();
    status.gap.store(false, Relaxed);
    status.take_damage();
    let file = database.file;
    let lease = start_workers(config, broker, database, status, &token, &applier_token, exits)?;
    let mut gone = vec![];
    let result = supervise(config, stop, status, file, ended, &mut gone);
    if matches!(result, Ok(End::Idle)) {
        last_snapshot(config, broker, &lease, stop);
    }
    log::info!("stopping");
    let until = Instant::now() + limits::DRAIN;
    source.stop();
    let expected = [
        ("publisher", config.publish),
        ("watch", config.publish),
        ("check", true),
        ("lease", config.makes_snapshots()),
        ("snapshot", config.makes_snapshots()),
    ];
    let started = expected.iter().filter(|(_, started)| *started).map(|(name, _)| *name).collect();
    let mut left = wait_for(started, &mut gone, ended, until);
    // Last, so that what the publisher sent can still come back.
    applier_source.stop();
    left.extend(wait_for(if config.replicate { vec!["applier"] } else { vec![] }, &mut gone, ended, until));
    match &result {
        Ok(End::Damaged(_) | End::Replaced) if !left.is_empty() => {
            Err(format!("{} did not end in time to open the database anew", left.join(", ")))
        }
        _ => result,
    }
}

/// Starts the workers; returns the lease that the snapshot scheduler works under.
fn start_workers(
    config: &Config,
    broker: &Broker,
    database: Database,
    status: &Arc<Status>,
    token: &Stop,
    applier_token: &Stop,
    exits: &Sender<worker::Exit>,
) -> Result<Lease, String> {
    let js = JetStream::new(broker.connection.clone());
    // Level-triggered: one token is as good as many.
    let (wake, woken) = bounded(1);
    // The applier says at most one Start, and one Rewind for each change of a stream; a second Rewind adds nothing.
    let (commands, obeyed) = bounded(4);
    let obeyed = if config.replicate { obeyed } else { crossbeam_channel::never() };
    {
        let (path, status, stop) = (config.db_path.clone(), status.clone(), token.clone());
        worker::spawn("check", exits, move || {
            check(&path, &status, &stop);
            Ok(())
        })?;
    }
    if let Some(log) = database.capture {
        status.tables.store(log.table_names().len() as u64, Relaxed);
        let publisher =
            Publisher::new(config, log, &broker.connection, woken, obeyed, status.clone(), token.clone())?;
        worker::spawn("publisher", exits, move || publisher.run())?;
        watch(config, status, token, wake.clone(), exits)?;
        if !config.replicate {
            create_streams_in_background(config, &js, token, exits)?;
        }
    }
    if let Some(applier) = database.applier {
        let publisher = config.publish.then_some((commands, wake));
        let applier = Follower::new(
            config,
            applier,
            js.clone(),
            &database.taken_over,
            publisher,
            status.clone(),
            applier_token.clone(),
        )?;
        let snapshots = config.snapshot.enabled;
        let applier = applier
            .recovering(snapshots.then(|| recover(config, broker, token)))
            .joining(snapshots.then(|| join(config, broker, token)));
        worker::spawn("applier", exits, move || applier.run())?;
    }
    if !config.makes_snapshots() {
        return Ok(Lease::default());
    }
    let keeper = lease::Keeper::new(
        js.clone(),
        config.node_id,
        config.snapshot.leader_ttl,
        config.log.replicas,
        status.clone(),
        token.clone(),
    );
    let lease = keeper.lease();
    worker::spawn("lease", exits, move || keeper.run())?;
    let scheduler = snapshot::Scheduler {
        config: config.clone(),
        js,
        open_store: broker.store_opener(config),
        lease: lease.clone(),
        status: status.clone(),
        stop: token.clone(),
    };
    worker::spawn("snapshot", exits, move || scheduler.run())?;
    Ok(lease)
}

/// How the follower gets over a gap in the streams.
fn recover(config: &Config, broker: &Broker, stop: &Stop) -> Recover {
    let open_store = broker.store_opener(config);
    let (config, js, stop) = (config.clone(), JetStream::new(broker.connection.clone()), stop.clone());
    let mut search = snapshot::Search::default();
    Box::new(move |database| {
        snapshot::restore_live(&config, &js, &open_store()?, database, &mut search, &stop)
    })
}

/// How a database that never followed the streams joins.
fn join(config: &Config, broker: &Broker, stop: &Stop) -> Recover {
    let open_store = broker.store_opener(config);
    let (config, js, stop) = (config.clone(), JetStream::new(broker.connection.clone()), stop.clone());
    let mut joining = snapshot::Joining::default();
    Box::new(move |database| joining.try_join(&config, &js, open_store(), database, &stop).map(drop))
}

/// Starts the thread that wakes the publisher when something was committed.
fn watch(
    config: &Config,
    status: &Arc<Status>,
    stop: &Stop,
    wake: Sender<()>,
    exits: &Sender<worker::Exit>,
) -> Result<(), String> {
    let (path, interval, status, stop) =
        (config.db_path.clone(), config.polling_interval, status.clone(), stop.clone());
    worker::spawn("watch", exits, move || {
        let wake = || {
            // Full: the publisher has not seen the last one yet.
            let _ = wake.try_send(());
        };
        db::watch(&path, interval, &stop, wake).map_err(|error| {
            if let db::Error::Corrupt(why) = &error {
                status.note_damage(why);
            }
            format!("watch {}: {error}", path.display())
        })
    })
    .map(drop)
}

/// Looks once, beside the others, whether all pages of the database can be read: nobody may touch a damaged one for weeks.
fn check(path: &Path, status: &Status, stop: &Stop) {
    if stop.wait(limits::CHECK_AFTER) {
        return;
    }
    match db::damage(path, db::Look::Pages, stop) {
        Ok(Some(why)) => status.note_damage(&why),
        Ok(None) => {}
        Err(error) => log::debug!("{}: check: {error}", path.display()),
    }
}

/// `replicate = false`: no applier looks after the streams.
fn create_streams_in_background(
    config: &Config,
    js: &JetStream,
    stop: &Stop,
    exits: &Sender<worker::Exit>,
) -> Result<(), String> {
    let (config, js, stop) = (config.clone(), js.clone(), stop.clone());
    worker::spawn("streams", exits, move || {
        let mut said = Once::default();
        loop {
            let pause = match js.connection().is_up().then(|| streams::ensure_all(&js, &config)) {
                Some(Ok(())) => Duration::from_secs(30),
                Some(Err(error)) => {
                    said.warn(&format!("{error}; trying again"));
                    Duration::from_secs(1)
                }
                None => Duration::from_secs(1),
            };
            if stop.wait(pause) {
                return Ok(());
            }
        }
    })
    .map(drop)
}

/// Why a session ends without an error.
enum End {
    Stopped,
    Idle,
    /// The database's file was removed, or is another one.
    Replaced,
    /// A worker found it damaged.
    Damaged(String),
}

/// Waits for stop, for the end of any worker, or for the sleep timeout; a summary line a minute when something happened.
fn supervise(
    config: &Config,
    stop: &Stop,
    status: &Status,
    file: Option<files::Identity>,
    ended: &Receiver<worker::Exit>,
    gone: &mut Vec<&'static str>,
) -> Result<End, String> {
    let mut summary = Summary::default();
    let mut others = 0;
    loop {
        crossbeam_channel::select! {
            recv(stop.receiver()) -> _ => return Ok(End::Stopped),
            recv(ended) -> exit => {
                let exit = exit.map_err(|_| "all workers ended".to_owned())?;
                gone.push(exit.name);
                if exit.name == "check" && exit.result.is_ok() {
                    continue;
                }
                let damage = status.take_damage();
                return match exit.result {
                    _ if !damage.is_empty() => Ok(End::Damaged(damage)),
                    Ok(()) if stop.requested() => Ok(End::Stopped),
                    Ok(()) => Err(format!("worker {} ended by itself", exit.name)),
                    Err(why) => Err(why),
                };
            }
            default(Duration::from_secs(1)) => {}
        }
        let damage = status.take_damage();
        if !damage.is_empty() {
            return Ok(End::Damaged(damage));
        }
        // Twice, for a file that is renamed over another one is not there for a moment on some file systems.
        others = if files::identity(&config.db_path) == file { 0 } else { others + 1 };
        if others > 1 {
            return Ok(End::Replaced);
        }
        summary.maybe(status);
        if !config.sleep_timeout.is_zero() && status.idle() >= config.sleep_timeout {
            log::info!("no event for {} ms: sleep_timeout", config.sleep_timeout.as_millis());
            return Ok(End::Idle);
        }
    }
}

/// The last summary line.
struct Summary {
    at: Instant,
    published: u64,
    consumed: u64,
    rows: u64,
}

impl Default for Summary {
    fn default() -> Summary {
        Summary { at: Instant::now(), published: 0, consumed: 0, rows: 0 }
    }
}

impl Summary {
    fn maybe(&mut self, status: &Status) {
        if self.at.elapsed() < Duration::from_secs(60) {
            return;
        }
        let (published, consumed, rows) =
            (status.published.load(Relaxed), status.consumed.load(Relaxed), status.rows.load(Relaxed));
        if (published, consumed) != (self.published, self.consumed) {
            log::info!(
                "last minute: {} events published, {} consumed, {} rows applied",
                published - self.published,
                consumed - self.consumed,
                rows - self.rows
            );
        }
        *self = Summary { at: Instant::now(), published, consumed, rows };
    }
}

/// Before sleeping, a leader leaves a fresh snapshot behind.
fn last_snapshot(config: &Config, broker: &Broker, lease: &Lease, stop: &Stop) {
    if lease.held().is_none() {
        return;
    }
    let js = JetStream::new(broker.connection.clone());
    let terms =
        snapshot::Terms { patience: limits::SETTLE_WAIT, leader: Some(lease), anew: false, status: None };
    let saved = open_store(config, Some(&broker.connection), stop)
        .and_then(|store| snapshot::save(config, &js, &store, stop, terms));
    match saved {
        Ok(saved) if saved.unchanged => log::info!("snapshot (sleep_timeout): the stored one is up to date"),
        Ok(saved) => {
            log::info!("stored snapshot {} (sleep_timeout): {} bytes", saved.stored.name, saved.stored.size);
        }
        Err(why) => log::warn!("{why}"),
    }
}

/// Waits until the named workers have ended (those in `gone` have), within a bound; returns those that have not. The
/// broker's own threads end later.
fn wait_for(
    mut running: Vec<&'static str>,
    gone: &mut Vec<&'static str>,
    ended: &Receiver<worker::Exit>,
    until: Instant,
) -> Vec<&'static str> {
    running.retain(|name| !gone.contains(name));
    while !running.is_empty() {
        let Ok(exit) = ended.recv_deadline(until) else { break };
        gone.push(exit.name);
        running.retain(|name| *name != exit.name);
        if let Err(why) = exit.result {
            log::warn!("{}: {why}", exit.name);
        }
    }
    running
}
