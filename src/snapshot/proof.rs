//! Proof that a restore would work: the current snapshot is restored into a scratch file, brought forward by what the
//! streams hold after it, and compared with the live database, row by row.

use super::Node;
use super::inspect::list;
use super::replay::{Until, replay};
use super::scratch::{about_copy, need_room, scratch, size};
use super::transfer::fetch;
use crate::base::error::{Context, Error, Kind};
use crate::base::{clock, limits};
use crate::cluster::Bucket;
use crate::cluster::proven::{self, Proof};
use crate::db;
use crate::storage::{Store, Stored};

/// Restores the current snapshot into scratch files and compares. The error says what speaks against it.
pub fn prove(node: Node<'_>, store: &Store) -> Result<Proof, Error> {
    let config = node.config;
    let stored = store.stat(limits::SNAPSHOT_NAME).context(format!("look at {}", store.describe()))?;
    let missing = || Error::new(Kind::Missing, format!("{}: there is no snapshot", store.describe()));
    let stored = stored.ok_or_else(missing)?;
    let name = &stored.name;
    if let Some(why) = stored.refused() {
        return Err(Error::new(Kind::Unusable, format!("{name}: {why}")));
    }
    need_room(
        &config.temp_dir(),
        stored.plain_size().saturating_add(size(&config.db_path).saturating_mul(2)),
    )?;
    let (restored, live) = (scratch(config, "proof")?, scratch(config, "proof-live")?);
    fetch(store, &stored, &restored).map_err(|error| match error.kind() {
        Kind::Unusable => error.at(format!("{name} is damaged")),
        _ => error,
    })?;
    db::inspect_snapshot(restored.path()).map_err(about_copy).context(name)?;
    db::make_ready(restored.path(), &config.tables).map_err(about_copy).context(name)?;
    // A copy of the live database, so that both sides stand still.
    db::copy_database(&config.db_path, live.path()).context("copy the database")?;
    let positions = db::positions_of(live.path()).map_err(about_copy).context("copy of the database")?;
    let messages = replay(node, restored.path(), &Until::Positions(positions))?;
    let comparison = db::compare(live.path(), restored.path()).map_err(about_copy).context(name)?;
    let differing = comparison.unexplained(live.path(), config.node_id).map_err(about_copy).context(name)?;
    if differing > 0 {
        let text = format!(
            "restored from {name} and brought forward, {differing} rows differ from the live database"
        );
        return Err(Error::new(Kind::Unusable, text));
    }
    let digest = stored.label.digest.clone();
    Ok(Proof { node: config.node_id, digest, time_ms: clock::unix_ms(), messages })
}

/// All snapshots of the store and, as far as the broker can be asked, which of them was last restored on trial.
pub fn list_proven(bucket: Option<&Bucket>, store: &Store) -> Result<(Vec<Stored>, Option<Proof>), Error> {
    let proof = bucket.and_then(|bucket| proven::told(bucket).ok().flatten());
    Ok((list(store)?, proof))
}
