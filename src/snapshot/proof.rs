//! Proof that a restore would work: the newest snapshot is restored into a scratch file, brought forward by what the streams
//! hold behind it, and compared with the live database, row by row.

use super::inspect::{Fault, fetch};
use super::replay::{Until, replay};
use super::{list, room};
use crate::base::{clock, files::Temporary, limits, stop::Stop};
use crate::cluster::lease;
use crate::config::Config;
use crate::db;
use crate::nats::{Error, JetStream, Kv};
use crate::storage::{Store, Stored};
use serde_json::json;

/// The key in the leases' bucket that tells every node of the last proof.
const KEY: &str = "snapshot-proven";

/// The last proof.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Digest of the snapshot that was restored.
    pub digest: String,
    /// When, Unix milliseconds by the clock of the node that did it.
    pub time_ms: i64,
    /// Messages that were replayed behind it.
    pub messages: u64,
}

/// Restores the current snapshot into scratch files and compares. The error: what speaks against it.
pub fn prove(config: &Config, js: &JetStream, store: &Store, stop: &Stop) -> Result<Proof, String> {
    let stored = store.stat(limits::SNAPSHOT_NAME).map_err(|error| error.to_string())?;
    let stored = stored.ok_or_else(|| format!("{}: there is no snapshot", store.describe()))?;
    let Stored { name, size, .. } = &stored;
    let temp_dir = config.temp_dir();
    let live = std::fs::metadata(&config.db_path).map_or(0, |meta| meta.len());
    room(&temp_dir, size + live * 2)?;
    let stem = config.db_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let scratch = |what: &str| Temporary::new(temp_dir.join(format!("{stem}.harmonylite-{what}")));
    let (restored, copy) = (scratch("proof"), scratch("proof-live"));
    match fetch(config, store, &stored, &restored) {
        Ok(_) => {}
        Err(Fault::Snapshot(why)) => return Err(format!("{name} is damaged: {why}")),
        Err(Fault::Store(why) | Fault::Local(why)) => return Err(why),
    }
    let failed = |error: db::Error| format!("{name}: {error}");
    db::inspect(restored.path()).map_err(failed)?;
    db::make_ready(restored.path()).map_err(failed)?;
    let of_live = |error: db::Error| format!("copy the database: {error}");
    db::copy(&config.db_path, copy.path()).map_err(of_live)?;
    let positions = db::positions_of(copy.path()).map_err(of_live)?;
    let messages = replay(config, js, restored.path(), &Until::Positions(positions), stop)?;
    let comparison = db::compare(copy.path(), restored.path()).map_err(failed)?;
    match comparison.unexplained(copy.path(), config.node_id).map_err(failed)? {
        0 => Ok(Proof { digest: stored.label.digest.clone(), time_ms: clock::unix_ms(), messages }),
        rows => Err(format!(
            "restored from {name} and brought forward, {rows} rows differ from the live database"
        )),
    }
}

/// Tells all nodes.
pub fn tell(config: &Config, js: &JetStream, proof: &Proof) -> Result<(), Error> {
    let kv = Kv::open(js, lease::BUCKET, config.log.replicas)?;
    let value = json!({
        "node_id": config.node_id, "digest": proof.digest, "time": clock::rfc3339(proof.time_ms), "messages": proof.messages,
    });
    let revision = kv.get(KEY)?.map_or(0, |entry| entry.revision);
    match kv.update(KEY, value.to_string().as_bytes(), revision) {
        Ok(_) | Err(Error::Conflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What was told last.
pub fn told(config: &Config, js: &JetStream) -> Result<Option<Proof>, Error> {
    let Some(entry) = Kv::open(js, lease::BUCKET, config.log.replicas)?.get(KEY)? else { return Ok(None) };
    let value: serde_json::Value =
        serde_json::from_slice(&entry.value.unwrap_or_default()).unwrap_or_default();
    let time_ms = value["time"].as_str().and_then(clock::parse);
    Ok(time_ms.map(|time_ms| Proof {
        digest: value["digest"].as_str().unwrap_or_default().to_owned(),
        time_ms,
        messages: value["messages"].as_u64().unwrap_or(0),
    }))
}

/// All snapshots of the store and, as far as NATS can be asked, which of them was last restored on trial.
pub fn list_proven(
    config: &Config,
    js: Option<&JetStream>,
    store: &Store,
) -> Result<(Vec<Stored>, Option<Proof>), String> {
    let proof = js.and_then(|js| told(config, js).ok().flatten());
    Ok((list(store)?, proof))
}
