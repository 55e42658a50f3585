//! The configuration: read and checked once at the start, then handed down as plain structs.

mod keys;
mod reader;
mod stores;

use crate::base::{files, logger::Format, secret::Secret};
use crate::db::JournalMode;
use crate::model::{lists::Lists, reach::Reach, set, shard};
use crate::nats::is_loopback;
use crate::storage::{Location, pack::Packing};
use std::path::PathBuf;
use std::time::Duration;

pub use keys::load;

/// The whole configuration, with what flags of the command line add to it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The application's database: the file itself, symbolic links followed, so that all nodes on it mean the same path.
    pub db_path: PathBuf,
    /// The same as the configuration names it.
    pub db_path_given: PathBuf,
    /// The file of the sequence map; it lies beside the database unless set.
    pub seq_map_path: PathBuf,
    /// This node's number, unique in the cluster.
    pub node_id: u64,
    /// Capture and publish local changes, and take part in making snapshots.
    pub publish: bool,
    /// Apply other nodes' changes.
    pub replicate: bool,
    /// Change-log rows read in one pass.
    pub scan_max_changes: u64,
    /// The time without an event after which the daemon stops; zero: never.
    pub sleep_timeout: Duration,
    /// Time between two looks for changes when no file event comes.
    pub polling_interval: Duration,
    /// Which tables are replicated.
    pub tables: Lists,
    /// What to do with a database that is not in WAL mode.
    pub journal_mode: JournalMode,
    /// What becomes of rows that only this node has when it joins.
    pub join: Join,
    /// Time between two comparisons of all nodes; zero: none.
    pub compare_interval: Duration,
    /// After this time without a word, a node is not shown any more.
    pub forget_nodes_after: Duration,
    /// Keys of AUTOINCREMENT tables come from blocks that the node claims.
    pub automatic_keys: bool,
    /// Rows that refer to one which another node has deleted are settled as their foreign key says.
    pub settle_orphans: bool,
    /// Changes of the schema are published and followed; otherwise people migrate each node.
    pub schema_travels: bool,
    /// How long what a change of the schema took away is kept; zero: not at all.
    pub schema_keep: Duration,
    /// The section `[replication_log]`: the change streams.
    pub log: ReplicationLog,
    /// The section `[snapshot]`.
    pub snapshot: Snapshot,
    /// The section `[nats]`: the broker.
    pub nats: Nats,
    /// The section `[health_check]`.
    pub health: Health,
    /// The section `[prometheus]`: metrics.
    pub prometheus: Prometheus,
    /// The form of log lines.
    pub log_format: Format,
    /// Log debug lines as well.
    pub verbose: bool,
}

/// What becomes of the rows that only this node has when it joins for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// They are published.
    Merge,
    /// They are removed.
    Replace,
}

impl Join {
    /// As the configuration file says it.
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
    /// The number of streams.
    pub shards: u64,
    /// Messages that each stream keeps; `None`: as far as the database's size asks for.
    pub max_entries: Option<u64>,
    /// Copies of each stream in a NATS cluster.
    pub replicas: u64,
    /// Compress events with zstd. The streams are named accordingly.
    pub compress: bool,
    /// The form of streams that are made; `None`: sets. Others keep theirs.
    pub format: Option<set::Format>,
    /// Change the limits of existing streams to those of this configuration.
    pub update_existing: bool,
}

impl ReplicationLog {
    /// How far a stream reaches back as long as nobody has looked at it.
    pub fn reach(&self) -> Reach {
        self.max_entries.map_or_else(|| Reach::least(0), Reach::of_messages)
    }
}

/// `[snapshot]`.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Make and use snapshots.
    pub enabled: bool,
    /// Time between two snapshots; zero: the time alone is no reason to make one.
    pub interval: Duration,
    /// Time between two trial restores of the newest snapshot by the leader; zero: none.
    pub verify_interval: Duration,
    /// Life of the leader's lease.
    pub leader_ttl: Duration,
    /// Directory of temporary files; that of the database unless set.
    pub temp_dir: Option<PathBuf>,
    /// Where snapshots are kept.
    pub store: Location,
    /// The number of snapshots that are kept, including the current one.
    pub keep: u64,
    /// Read an upload back before it becomes the current snapshot, in stores that check no hash themselves.
    pub read_back: bool,
    /// How stored files are packed. Its key also unpacks.
    pub packing: Packing,
    /// Is asked for after each stored snapshot; empty: nothing is.
    pub ping_url: Secret,
    /// With a key: take also snapshots that are not encrypted, or whose label is not authenticated.
    pub accept_plain: bool,
}

/// `[prometheus]`.
#[derive(Clone, Debug)]
pub struct Prometheus {
    pub enable: bool,
    /// `host:port`.
    pub bind: String,
    /// First part of the metrics' names.
    pub namespace: String,
    /// Second part of the metrics' names; empty: there is none.
    pub subsystem: String,
}

/// `[health_check]`.
#[derive(Clone, Debug)]
pub struct Health {
    pub enable: bool,
    /// `host:port`.
    pub bind: String,
    /// Path of the URL.
    pub path: String,
    /// Answer with JSON; otherwise with the status code alone.
    pub detailed: bool,
}

/// `[nats]`, and the flags for a nats-server of our own.
#[derive(Clone, Debug)]
pub struct Nats {
    /// URLs of servers; none: the daemon runs a nats-server of its own.
    pub urls: Vec<String>,
    /// Subjects are `<prefix>-<shard>`.
    pub subject_prefix: String,
    /// Streams are `<prefix>-c-<shard>`, or `<prefix>-<shard>` without compression.
    pub stream_prefix: String,
    /// The nats-server program; found on PATH unless set.
    pub server_binary: Option<PathBuf>,
    /// A file with settings for our own server that win over those of the daemon.
    pub server_config: Option<PathBuf>,
    /// Address of our own server.
    pub bind_address: String,
    /// The file with the seed of an nkey.
    pub seed_file: Option<PathBuf>,
    pub user_name: String,
    pub user_password: Secret,
    pub token: Secret,
    /// Certificate authorities for TLS, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate.
    pub cert_file: Option<PathBuf>,
    /// The key of the client certificate.
    pub key_file: Option<PathBuf>,
    /// Do not use servers that the broker announces.
    pub ignore_discovered: bool,
    /// `-cluster-addr`: where our own server listens for its cluster.
    pub cluster_addr: String,
    /// `-cluster-peers`.
    pub cluster_peers: Vec<String>,
    /// `nats.leaf_servers`, or `-leaf-servers`: servers that our own one joins as a leaf.
    pub leaf_servers: Vec<String>,
}

impl Nats {
    /// Whether our own server lets in only those who know a secret. A user without a password is none.
    pub fn has_login(&self) -> bool {
        let secret = if self.user_name.is_empty() { &self.token } else { &self.user_password };
        !secret.is_empty()
    }

    /// Whether whoever reaches the cluster port of our own server may read and write.
    pub fn cluster_is_open(&self) -> bool {
        let (host, _) = self.cluster_addr.rsplit_once(':').unwrap_or_default();
        !self.cluster_addr.is_empty() && !self.has_login() && !is_loopback(host)
    }

    /// Whether TLS is demanded of every server, whatever its URL says.
    pub fn demands_tls(&self) -> bool {
        self.ca_file.is_some() || self.cert_file.is_some() || self.key_file.is_some()
    }
}

impl Config {
    /// The name of a shard's stream.
    pub fn stream(&self, shard: u64) -> String {
        let mark = if self.log.compress { "-c" } else { "" };
        format!("{}{mark}-{shard}", self.nats.stream_prefix)
    }

    /// Names of all streams, in the order of their shards.
    pub fn streams(&self) -> Vec<String> {
        (1..=self.log.shards).map(|shard| self.stream(shard)).collect()
    }

    /// Subject of a shard's events.
    pub fn subject(&self, shard: u64) -> String {
        format!("{}-{shard}", self.nats.subject_prefix)
    }

    /// The name of this node's connections to NATS.
    pub fn node_name(&self) -> String {
        format!("harmonylite-node-{}", self.node_id)
    }

    /// The file that a running daemon keeps locked.
    pub fn lock_path(&self) -> PathBuf {
        files::beside(&self.db_path, ".harmonylite.lock")
    }

    /// The socket at which a running daemon tells its status.
    pub fn socket_path(&self) -> PathBuf {
        files::beside(&self.seq_map_path, ".sock")
    }

    /// Whether the keys of AUTOINCREMENT tables are steered.
    pub fn steers_keys(&self) -> bool {
        self.automatic_keys && self.publish && self.replicate
    }

    /// Whether this node takes part in making snapshots. A node that applies nothing lacks what others wrote, and does not know
    /// its position in the streams.
    pub fn makes_snapshots(&self) -> bool {
        self.snapshot.enabled && self.publish && self.replicate
    }

    /// The directory of temporary copies of the database.
    pub fn temp_dir(&self) -> PathBuf {
        self.snapshot.temp_dir.clone().unwrap_or_else(|| files::parent(&self.db_path))
    }
}

/// The node id of a machine without `node_id`: a hash of its machine id (formats, section "Node id").
fn machine_node_id() -> Option<u64> {
    ["/var/lib/dbus/machine-id", "/etc/machine-id"].iter().find_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        let id = text.trim();
        (!id.is_empty()).then(|| shard::fnv1(id.as_bytes()))
    })
}

#[cfg(test)]
pub mod tests;
