//! What a person does with stored snapshots: list them, check that one is good, get one back as a plain database.

use super::scratch::{about_copy, beside, scratch};
use super::transfer::fetch;
use crate::base::error::{Context, Error, Kind};
use crate::base::files;
use crate::base::temporary::Temporary;
use crate::config::Config;
use crate::db;
use crate::storage::{Store, Stored};
use std::path::Path;

/// All snapshots of the store, the current one first.
pub fn list(store: &Store) -> Result<Vec<Stored>, Error> {
    store.list().context(format!("list {}", store.describe()))
}

/// What the examination of a snapshot showed.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub stored: Stored,
    /// What the snapshot holds; the error says why it must not be restored.
    pub inside: Result<db::Inside, Error>,
}

fn find(store: &Store, name: &str) -> Result<Stored, Error> {
    let found = store.stat(name).context(format!("look at {}", store.describe()))?;
    let missing = || format!("{}: there is no snapshot {name}", store.describe());
    found.ok_or_else(|| Error::new(Kind::Missing, missing()))
}

/// Downloads a snapshot and examines it: size, digest, SQLite's integrity check.
pub fn verify(config: &Config, store: &Store, name: &str) -> Result<Verdict, Error> {
    let stored = find(store, name)?;
    let copy = scratch(config, "verify")?;
    let stored = match fetch(store, &stored, &copy) {
        Ok(stored) => stored,
        Err(error) if error.kind() == Kind::Unusable => return Ok(Verdict { stored, inside: Err(error) }),
        Err(error) => return Err(error),
    };
    match db::inspect_snapshot(copy.path()) {
        Err(error @ db::Error::Disk(_)) => Err(error.into()),
        // Whatever else SQLite says of it, the snapshot does not serve.
        inside => {
            let inside = inside.map_err(|error| Error::new(Kind::Unusable, error.to_string()));
            Ok(Verdict { stored, inside })
        }
    }
}

/// Gets a snapshot as a plain database with nothing of ours in it, under a name that must be free.
pub fn restore_to(store: &Store, name: &str, target: &Path) -> Result<Stored, Error> {
    refuse_existing(target)?;
    let stored = find(store, name)?;
    let copy = beside(target, "download")?;
    let stored = fetch(store, &stored, &copy)?;
    db::strip_snapshot(copy.path()).map_err(about_copy).context(name)?;
    put_in_place(&copy, target)?;
    Ok(stored)
}

/// Fails when the name is taken.
pub fn refuse_existing(target: &Path) -> Result<(), Error> {
    if target.exists() { Err(exists(target)) } else { Ok(()) }
}

/// Gives a finished scratch file the name that was asked for, unless something has that name by now.
pub fn put_in_place(copy: &Temporary, target: &Path) -> Result<(), Error> {
    files::publish_new(copy.path(), target).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(target),
        _ => Error::local(format!("{}: {error}", target.display())),
    })
}

fn exists(target: &Path) -> Error {
    Error::local(format!("{}: exists already, and is not overwritten", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_not_overwritten() {
        let dir = std::env::temp_dir().join(format!("harmonylite-inspect-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let target = dir.join("target.db");
        assert_eq!(refuse_existing(&target), Ok(()));
        let copy = beside(&target, "copy").unwrap();
        std::fs::write(copy.path(), b"first").unwrap();
        put_in_place(&copy, &target).unwrap();
        assert!(refuse_existing(&target).is_err());
        std::fs::write(copy.path(), b"second").unwrap();
        let error = put_in_place(&copy, &target).unwrap_err();
        assert!(error.to_string().ends_with("target.db: exists already, and is not overwritten"), "{error}");
        assert_eq!(std::fs::read(&target).unwrap(), b"first");
        drop(copy);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
