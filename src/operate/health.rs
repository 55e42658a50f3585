//! The health check: `GET <path>` answers 200, or 503 when the node does not work (compat.md 1i).
//!
//! `status` is `healthy`; `degraded` (200) when it replicates but a person should look: no snapshot could be stored, the
//! node is not whole, another daemon has its `node_id`; `unhealthy` (503) without a connection to NATS or without a database.

use crate::base::{clock, stop::Stop, worker};
use crate::config::Config;
use crate::nats::Connection;
use crate::operate::board::Status;
use crate::operate::responder::{self, Reply};
use crossbeam_channel::Sender;
use serde_json::json;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

/// Starts the thread that answers, if it is wanted.
pub fn start(
    config: &Config,
    connection: &Connection,
    status: &Arc<Status>,
    stop: &Stop,
    exits: &Sender<worker::Exit>,
) -> Result<(), String> {
    if !config.health.enable {
        return Ok(());
    }
    let (config, connection, status) = (config.clone(), connection.clone(), status.clone());
    let bind = config.health.bind.clone();
    responder::start("health", "health_check.bind", &bind, stop, exits, move |path| {
        let (code, body) = if path == config.health.path {
            let (healthy, body) = report(&config, connection.is_up(), &status);
            (if healthy { "200 OK" } else { "503 Service Unavailable" }, body)
        } else {
            ("404 Not Found", String::new())
        };
        let body = if config.health.detailed { body } else { String::new() };
        Reply { status: code, kind: "application/json", body }
    })
}

/// Whether the node works, and the answer's body.
fn report(config: &Config, connected: bool, status: &Status) -> (bool, String) {
    let snapshot = status.snapshot();
    let namesake = status.namesake.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let gap = status.gap.load(Relaxed);
    let mut problems = vec![];
    if !connected {
        problems.push("not connected to NATS".to_owned());
    }
    let (open, missing) = (status.open.load(Relaxed), status.missing());
    if !missing.is_empty() {
        problems.push(format!("not whole: {}", crate::base::secret::redact(&missing)));
    } else if gap {
        problems.push("not whole: the streams no longer hold what comes next".to_owned());
    } else if !open {
        problems.push("the database is not open".to_owned());
    }
    if !snapshot.failure.is_empty() {
        problems.push(format!("no snapshot: {}", crate::base::secret::redact(&snapshot.failure)));
    }
    if !snapshot.unproven.is_empty() {
        problems.push(format!("restore not proven: {}", crate::base::secret::redact(&snapshot.unproven)));
    }
    if !namesake.is_empty() {
        problems.push(format!("another daemon has this node_id, {namesake}"));
    }
    let working = connected && open;
    let word = match (working, problems.is_empty()) {
        (false, _) => "unhealthy",
        (true, false) => "degraded",
        (true, true) => "healthy",
    };
    let time = |ms: i64| if ms == 0 { "0001-01-01T00:00:00Z".to_owned() } else { clock::rfc3339(ms) };
    let (published, consumed) = status.last_events();
    let body = json!({
        "status": word,
        "node_id": config.node_id,
        "uptime_seconds": status.uptime().as_secs(),
        "db_connected": open,
        "nats_connected": connected,
        "cdc_installed": config.publish,
        "tables_tracked": status.tables.load(Relaxed),
        "last_replicated_event_timestamp": time(consumed),
        "last_published_event_timestamp": time(published),
        "version": env!("CARGO_PKG_VERSION"),
        "problems": problems,
        "snapshot_leader": status.leader.load(Relaxed),
        "last_snapshot_timestamp": time(snapshot.stored_ms),
        "last_proven_restore_timestamp": time(snapshot.proven_ms),
    });
    (working, format!("{body}\n"))
}
