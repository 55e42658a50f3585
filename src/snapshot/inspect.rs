//! What a person does with stored snapshots: list them, prove that one is good, get one back as a plain database.

use super::Progress;
use crate::base::files::{self, Temporary};
use crate::config::Config;
use crate::db;
use crate::storage::{self, Store, Stored};
use std::path::Path;

/// All snapshots of the store, the current one first.
pub fn list(store: &Store) -> Result<Vec<Stored>, String> {
    store.list().map_err(|error| format!("list {}: {error}", store.describe()))
}

/// What the examination of a snapshot showed.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What was examined.
    pub stored: Stored,
    /// What it holds; the error: why nobody should restore it.
    pub inside: Result<db::Inside, String>,
}

fn find(store: &Store, name: &str) -> Result<Stored, String> {
    let found = store.stat(name).map_err(|error| format!("look at {}: {error}", store.describe()))?;
    found.ok_or_else(|| format!("{}: there is no snapshot {name}", store.describe()))
}

/// Downloads into `target` and unpacks. The inner error is the snapshot's fault.
fn download(
    config: &Config,
    store: &Store,
    stored: &Stored,
    target: &Temporary,
) -> Result<Result<Stored, String>, String> {
    match fetch(config, store, stored, target) {
        Ok(stored) => Ok(Ok(stored)),
        Err(Fault::Snapshot(why)) => Ok(Err(why)),
        Err(Fault::Store(why) | Fault::Local(why)) => Err(why),
    }
}

/// Whose fault it is that a snapshot is not here.
pub enum Fault {
    /// The snapshot's: its content does not fit its description, or cannot be unpacked.
    Snapshot(String),
    /// The store's, or the network's.
    Store(String),
    /// This node's: its disk's.
    Local(String),
}

/// Downloads a snapshot, unpacks it, and checks size and digest.
pub fn fetch(config: &Config, store: &Store, stored: &Stored, target: &Temporary) -> Result<Stored, Fault> {
    let path = target.path();
    super::room(&files::parent(path), stored.size).map_err(Fault::Local)?;
    let failed = |error: std::io::Error| Fault::Local(format!("{}: {error}", path.display()));
    let file =
        std::fs::OpenOptions::new().create(true).truncate(true).write(true).open(path).map_err(failed)?;
    let progress = Progress::new("downloading the snapshot", stored.size);
    let key = config.snapshot.packing.key.as_ref();
    store.fetch(stored, &file, key, &|done| progress.at(done)).map_err(|error| {
        let text = format!("download {} from {}: {error}", stored.name, store.describe());
        match error {
            storage::Error::Damaged(_) => Fault::Snapshot(text),
            storage::Error::Unreadable(why) => Fault::Snapshot(format!("unpack {}: {why}", stored.name)),
            _ => Fault::Store(text),
        }
    })
}

/// Downloads a snapshot and examines it: size, digest, SQLite's integrity check.
pub fn verify(config: &Config, store: &Store, name: &str) -> Result<Verdict, String> {
    let stored = find(store, name)?;
    let stem = config.db_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let scratch = Temporary::new(config.temp_dir().join(format!("{stem}.harmonylite-verify")));
    Ok(match download(config, store, &stored, &scratch)? {
        Err(why) => Verdict { stored, inside: Err(why) },
        Ok(stored) => {
            let inside = match db::inspect(scratch.path()) {
                Err(error @ db::Error::Disk(_)) => return Err(error.to_string()),
                inside => inside.map_err(|error| error.to_string()),
            };
            Verdict { stored, inside }
        }
    })
}

/// Gets a snapshot as a plain database with nothing of ours in it, under a name that must be free.
pub fn restore_to(config: &Config, store: &Store, name: &str, target: &Path) -> Result<Stored, String> {
    let exists = || format!("{}: exists already, and is not overwritten", target.display());
    if target.exists() {
        return Err(exists());
    }
    let stored = find(store, name)?;
    let scratch = Temporary::new(files::beside(target, ".harmonylite-download"));
    let stored = download(config, store, &stored, &scratch)??;
    db::strip(scratch.path()).map_err(|error| format!("{name}: {error}"))?;
    match files::publish_new(scratch.path(), target) {
        Ok(()) => Ok(stored),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists()),
        Err(error) => Err(format!("{}: {error}", target.display())),
    }
}
