//! Metrics in the Prometheus text format 0.0.4: names `<namespace>[_<subsystem>]_<name>`, label `node_id` (compat.md 1i).

use crate::base::{stop::Stop, worker};
use crate::config::Config;
use crate::nats::Connection;
use crate::operate::board::Status;
use crate::operate::responder::{self, Reply};
use crossbeam_channel::Sender;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Starts the thread that answers, if it is wanted. Every path gets the same.
pub fn start(
    config: &Config,
    connection: &Connection,
    status: &Arc<Status>,
    stop: &Stop,
    exits: &Sender<worker::Exit>,
) -> Result<(), String> {
    let prometheus = &config.prometheus;
    if !prometheus.enable {
        return Ok(());
    }
    let (config, connection, status) = (config.clone(), connection.clone(), status.clone());
    responder::start("metrics", "prometheus.bind", &prometheus.bind.clone(), stop, exits, move |_| Reply {
        status: "200 OK",
        kind: "text/plain; version=0.0.4; charset=utf-8",
        body: text(&config, connection.is_up(), &status),
    })
}

/// All metrics.
fn text(config: &Config, connected: bool, status: &Status) -> String {
    let snapshot = status.snapshot();
    let seconds = |ms: i64| ms / 1000;
    let whole = !status.gap.load(Relaxed) && status.missing().is_empty();
    let namespace = [config.prometheus.namespace.as_str(), &config.prometheus.subsystem];
    let prefix: String =
        namespace.iter().filter(|part| !part.is_empty()).map(|part| format!("{part}_")).collect();
    let mut text = String::new();
    let mut put = |name: &str, kind: &str, help: &str, values: &[(String, i64)]| {
        let _ = writeln!(text, "# HELP {prefix}{name} {help}\n# TYPE {prefix}{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(text, "{prefix}{name}{{node_id=\"{}\"{labels}}} {value}", config.node_id);
        }
    };
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let plain = |value: i64| [(String::new(), value)];
    let count = |counter: &std::sync::atomic::AtomicU64| plain(number(counter.load(Relaxed)));
    let (counter, gauge) = ("counter", "gauge");
    put("published", counter, "Events published and acknowledged.", &count(&status.published));
    put("consumed", counter, "Events read from the streams, own ones included.", &count(&status.consumed));
    put("rows_applied", counter, "Rows written or deleted for other nodes.", &count(&status.rows));
    put("pending_publish", gauge, "Captured changes that have not come back.", &count(&status.pending));
    let applied: Vec<(String, i64)> = (1..=config.log.shards)
        .zip(&status.applied)
        .map(|(shard, seq)| (format!(",stream=\"{}\"", config.stream(shard)), number(seq.load(Relaxed))))
        .collect();
    put("applied_sequence", gauge, "Highest sequence applied of each stream.", &applied);
    put("tables", gauge, "Tables captured.", &count(&status.tables));
    put("connected", gauge, "1: connected to NATS.", &plain(connected.into()));
    put("database_open", gauge, "1: the database is open.", &plain(status.open.load(Relaxed).into()));
    put("whole", gauge, "1: nothing is missing.", &plain(whole.into()));
    put("snapshot_leader", gauge, "1: makes the snapshots.", &plain(status.leader.load(Relaxed).into()));
    put(
        "snapshot_stored_timestamp_seconds",
        gauge,
        "When this node last stored a snapshot; 0: never.",
        &plain(seconds(snapshot.stored_ms)),
    );
    put(
        "snapshot_failing",
        gauge,
        "1: the last snapshot failed.",
        &plain((!snapshot.failure.is_empty()).into()),
    );
    put(
        "restore_proven_timestamp_seconds",
        gauge,
        "When a restore was last proven; 0: never.",
        &plain(seconds(snapshot.proven_ms)),
    );
    put(
        "restore_unproven",
        gauge,
        "1: the last proof failed.",
        &plain((!snapshot.unproven.is_empty()).into()),
    );
    put("uptime_seconds", gauge, "Time since the start.", &plain(number(status.uptime().as_secs())));
    text
}
