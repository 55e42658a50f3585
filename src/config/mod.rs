//! The configuration: read once, checked once, handed down as plain structs.

mod keys;
mod reader;
mod stores;

use crate::base::{logger::Format, secret::Secret};
use crate::db::JournalMode;
use crate::storage::{Location, pack::Packing};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use keys::{later_key, load};

/// Everything that the daemon was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The application's database.
    pub db_path: PathBuf,
    /// The sequence map; beside the database unless set.
    pub seq_map_path: PathBuf,
    /// This node's number, unique in the cluster.
    pub node_id: u64,
    /// Capture and publish local changes, and take part in making snapshots.
    pub publish: bool,
    /// Apply other nodes' changes.
    pub replicate: bool,
    /// Change-log rows read in one pass.
    pub scan_max_changes: u64,
    /// Stop after so long without an event; zero: never.
    pub sleep_timeout: Duration,
    /// How often to look for changes without a file event.
    pub polling_interval: Duration,
    /// What to do with a database that is not in WAL mode.
    pub journal_mode: JournalMode,
    /// What becomes of rows that only this node has when it joins.
    pub join: Join,
    /// The change streams.
    pub log: ReplicationLog,
    /// Snapshots.
    pub snapshot: Snapshot,
    /// The broker.
    pub nats: Nats,
    /// The health check.
    pub health: Health,
    /// The metrics.
    pub prometheus: Prometheus,
    /// How lines look.
    pub log_format: Format,
    /// Debug lines as well.
    pub verbose: bool,
}

/// What becomes of a database's own rows at its first join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// They are published.
    Merge,
    /// They are removed.
    Replace,
}

impl Join {
    /// As the configuration says it.
    pub fn name(self) -> &'static str {
        match self {
            Join::Merge => "merge",
            Join::Replace => "replace",
        }
    }
}

/// `[replication_log]`.
#[derive(Clone, Debug)]
pub struct ReplicationLog {
    /// Number of streams.
    pub shards: u64,
    /// Messages that each stream keeps.
    pub max_entries: u64,
    /// Copies of each stream in a NATS cluster.
    pub replicas: u64,
    /// zstd around events, and streams named accordingly.
    pub compress: bool,
    /// Bring the limits of existing streams in line with this configuration.
    pub update_existing: bool,
}

/// `[snapshot]`.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Make and use snapshots.
    pub enabled: bool,
    /// Time between snapshots; zero: none by time.
    pub interval: Duration,
    /// How often the leader restores the newest one on trial; zero: never.
    pub verify_interval: Duration,
    /// Life of the leader's lease.
    pub leader_ttl: Duration,
    /// Directory of temporary files; beside the database unless set.
    pub temp_dir: Option<PathBuf>,
    /// Where they are kept.
    pub store: Location,
    /// How many are kept, the current one included.
    pub keep: u64,
    /// Read an upload back before it becomes the snapshot, where the store checks no hash itself.
    pub read_back: bool,
    /// How the stored file is packed; the key also unpacks.
    pub packing: Packing,
}

/// `[prometheus]`.
#[derive(Clone, Debug)]
pub struct Prometheus {
    /// Answer at all.
    pub enable: bool,
    /// `host:port`.
    pub bind: String,
    /// First part of the names.
    pub namespace: String,
    /// Second part; empty: none.
    pub subsystem: String,
}

/// `[health_check]`.
#[derive(Clone, Debug)]
pub struct Health {
    /// Answer at all.
    pub enable: bool,
    /// `host:port`.
    pub bind: String,
    /// Path of the URL.
    pub path: String,
    /// JSON; else only the status code.
    pub detailed: bool,
}

/// `[nats]`, and the flags about the server that we start ourselves.
#[derive(Clone, Debug)]
pub struct Nats {
    /// Servers; empty: our own.
    pub urls: Vec<String>,
    /// Subjects are `<prefix>-<shard>`.
    pub subject_prefix: String,
    /// Streams are `<prefix>-c-<shard>`, or `<prefix>-<shard>` without compression.
    pub stream_prefix: String,
    /// The nats-server program; found on PATH unless set.
    pub server_binary: Option<PathBuf>,
    /// Settings for our own server that win over ours.
    pub server_config: Option<PathBuf>,
    /// Address of our own server.
    pub bind_address: String,
    /// nkey seed file.
    pub seed_file: Option<PathBuf>,
    /// User name.
    pub user_name: String,
    /// Password.
    pub user_password: Secret,
    /// Token.
    pub token: Secret,
    /// Certificate authorities for TLS.
    pub ca_file: Option<PathBuf>,
    /// Client certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Do not use servers that the broker announces.
    pub ignore_discovered: bool,
    /// `-cluster-addr`: where our own server listens for its cluster.
    pub cluster_addr: String,
    /// `-cluster-peers`.
    pub cluster_peers: Vec<String>,
    /// `-leaf-servers`.
    pub leaf_servers: Vec<String>,
}

impl Config {
    /// Name of a shard's stream.
    pub fn stream(&self, shard: u64) -> String {
        let mark = if self.log.compress { "-c" } else { "" };
        format!("{}{mark}-{shard}", self.nats.stream_prefix)
    }

    /// Subject of a shard's events.
    pub fn subject(&self, shard: u64) -> String {
        format!("{}-{shard}", self.nats.subject_prefix)
    }

    /// Name of this node towards NATS.
    pub fn node_name(&self) -> String {
        format!("harmonylite-node-{}", self.node_id)
    }

    /// Locked by a running daemon.
    pub fn lock_path(&self) -> PathBuf {
        crate::base::files::beside(&self.db_path, ".harmonylite.lock")
    }

    /// Whether this node takes part in making snapshots. Who applies nothing does not hold what others wrote, nor know where
    /// its database stands in the streams.
    pub fn makes_snapshots(&self) -> bool {
        self.snapshot.enabled && self.publish && self.replicate
    }

    /// Where temporary copies of the database go.
    pub fn temp_dir(&self) -> PathBuf {
        self.snapshot.temp_dir.clone().unwrap_or_else(|| crate::base::files::parent(&self.db_path))
    }
}

/// Node id of a machine without `node_id`: a hash of its machine id, as the Go program computes it.
pub fn machine_node_id() -> Option<u64> {
    ["/var/lib/dbus/machine-id", "/etc/machine-id"].iter().find_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        let id = text.trim();
        (!id.is_empty()).then(|| crate::model::shard::fnv1(id.as_bytes()))
    })
}

/// A short text for errors: the file, or the built-in defaults.
pub(crate) fn origin(file: Option<&Path>) -> String {
    file.map_or_else(|| "defaults".to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests;
