//! Whether this daemon may work at the database's path: before anything there is touched, and while it runs.

use crate::base::error::{Context, Error};
use crate::base::{files, stop::Stop};
use crate::config::Config;
use crate::db::{self, Seen};
use crate::model::positions;
use std::cell::Cell;
use std::time::Duration;

/// Pause between two looks whether the database's directory is there.
const DIRECTORY_LOOK: Duration = Duration::from_secs(1);
/// Ends the name of the lock of every database.
const LOCK_SUFFIX: &str = ".harmonylite.lock";

/// The claim of a daemon on its database.
pub struct Claim {
    #[allow(dead_code, reason = "holding the lock is the claim")]
    lock: files::Lock,
    /// The file with several names that is locked itself.
    locked: Cell<Option<files::Identity>>,
}

impl Claim {
    /// Waits for the database's directory, and claims the path. `None`: stopped. An error when another daemon has it, or when
    /// what lies there is no database and never was one.
    pub fn take(config: &Config, stop: &Stop) -> Result<Option<Claim>, Error> {
        let mut said = false;
        while let Err(error) = files::need_dir(&config.db_path) {
            if !said {
                log::warn!("{}: {error}", config.db_path.display());
                said = true;
            }
            if stop.wait(DIRECTORY_LOOK) {
                return Ok(None);
            }
        }
        let lock = lock_database(config)?;
        let claim = Claim { lock, locked: Cell::new(None) };
        claim.confirm(config)?;
        Ok(Some(claim))
    }

    /// Fails when the configured path leads to another file by now, or when another daemon works on this file under another
    /// of its names.
    pub fn confirm(&self, config: &Config) -> Result<(), Error> {
        let (path, given) = (&config.db_path, &config.db_path_given);
        if path != given {
            let now = files::follow_links(given);
            // Asked twice: one path may have two spellings, and a file that is renamed into place right now is another one.
            if now != *path && now.exists() && files::identity(given) != files::identity(path) {
                return Err(Error::local(format!(
                    "{} leads to {} now, and did lead to {}: ending, so that the next start works there",
                    given.display(),
                    now.display(),
                    path.display()
                )));
            }
        }
        let file = files::identity(path);
        if files::hard_links(path) < 2 || file == self.locked.get() {
            return Ok(());
        }
        if !files::lock_for_good(path)
            .map_err(|error| Error::local(error.to_string()))
            .context(path.display())?
        {
            return Err(Error::waiting(format!(
                "{}: the file has another name (a hard link) under which another harmonylite works on it",
                path.display()
            )));
        }
        self.locked.set(file);
        log::warn!(
            "{}: the file has another name (a hard link). SQLite keeps a WAL for each name, so an application that uses the \
             other one damages the database",
            path.display()
        );
        Ok(())
    }
}

/// One daemon for one database. Fails when what lies there is no database and never was one: a lock would say that it was.
pub fn lock_database(config: &Config) -> Result<files::Lock, Error> {
    refuse_another(config)?;
    let path = config.lock_path();
    match files::Lock::try_take(&path) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(Error::waiting(format!("another harmonylite runs on {}", config.db_path.display()))),
        Err(error) => Err(Error::local(format!("{}: {error}", path.display()))),
    }
}

/// A file that is no database is recovered only if it was one: otherwise `db_path` names a wrong file.
fn refuse_another(config: &Config) -> Result<(), Error> {
    let path = &config.db_path;
    // A file that cannot be read is told about when it is opened.
    if !matches!(db::look(path), Ok(Seen::Another)) || (path.is_file() && was_a_database(config)) {
        return Ok(());
    }
    Err(Error::local(format!(
        "{}: db_path names something that is no SQLite database, and no daemon has worked on it before: it is left alone. \
         Accepted is a database, or a name that is free",
        path.display()
    )))
}

/// Whether a daemon has worked at this path: its lock is there, or a sequence map that is not of another database beside it.
fn was_a_database(config: &Config) -> bool {
    if config.lock_path().exists() {
        return true;
    }
    let of_another = || {
        let beside = files::entries(&files::parent(&config.db_path));
        beside.iter().any(|(name, _)| name.ends_with(LOCK_SUFFIX))
    };
    matches!(positions::read(&config.seq_map_path), positions::Found::Map(_)) && !of_another()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;
    use crate::base::stop;
    use crate::config::tests::with;
    use std::path::Path;

    fn config(path: &Path) -> Config {
        let mut config = with("");
        config.db_path_given = path.to_path_buf();
        config.db_path = files::follow_links(path);
        config.seq_map_path = files::parent(path).join("seq-map.cbor");
        config
    }

    const TEXT: &[u8] = b"this is a text and no database, and longer than a header";

    #[test]
    fn a_file_that_never_was_a_database_is_refused_and_stays() {
        let scratch = Scratch::new("claim-text");
        let path = scratch.path("notes.txt");
        std::fs::write(&path, TEXT).unwrap();
        let (_source, stop) = stop::pair();
        for _ in 0..2 {
            let error = Claim::take(&config(&path), &stop).err().unwrap();
            assert!(error.to_string().contains("no SQLite database"), "{error}");
        }
        assert_eq!(scratch.names(), ["notes.txt"], "nothing was made beside it");
        // The sequence map is of another database.
        positions::write(&scratch.path("seq-map.cbor"), &[("s-1".to_owned(), 3)].into()).unwrap();
        std::fs::write(scratch.path("app.db.harmonylite.lock"), b"").unwrap();
        assert!(Claim::take(&config(&path), &stop).is_err());
        assert!(Claim::take(&config(scratch.dir()), &stop).is_err(), "a directory is no database");
    }

    #[test]
    fn a_file_that_was_a_database_is_claimed() {
        for name in ["app.db.harmonylite.lock", "seq-map.cbor"] {
            let scratch = Scratch::new("claim-damaged");
            let path = scratch.path("app.db");
            std::fs::write(&path, TEXT).unwrap();
            positions::write(&scratch.path(name), &[("s-1".to_owned(), 3)].into()).unwrap();
            let (_source, stop) = stop::pair();
            assert!(Claim::take(&config(&path), &stop).unwrap().is_some(), "{name}");
        }
    }

    #[test]
    fn one_daemon_for_one_file_whatever_it_is_called() {
        let scratch = Scratch::new("claim-names");
        let path = scratch.path("app.db");
        std::fs::write(&path, b"").unwrap();
        let (_source, stop) = stop::pair();
        let first = Claim::take(&config(&path), &stop).unwrap().unwrap();
        std::os::unix::fs::symlink(&path, scratch.path("link.db")).unwrap();
        let error = Claim::take(&config(&scratch.path("link.db")), &stop).err().unwrap();
        assert!(error.to_string().contains("another harmonylite runs on"), "{error}");
        // The second name comes while the first daemon runs, which notices it.
        std::fs::hard_link(&path, scratch.path("hard.db")).unwrap();
        first.confirm(&config(&path)).unwrap();
        let error = Claim::take(&config(&scratch.path("hard.db")), &stop).err().unwrap();
        assert!(
            error.to_string().contains("another of its names") || error.to_string().contains("another name"),
            "{error}"
        );
        first.confirm(&config(&path)).unwrap();
    }

    #[test]
    fn a_link_that_leads_elsewhere_ends_the_claim() {
        let scratch = Scratch::new("claim-moved");
        let (one, two, link) = (scratch.path("one.db"), scratch.path("two.db"), scratch.path("link.db"));
        std::fs::write(&one, b"").unwrap();
        std::os::unix::fs::symlink(&one, &link).unwrap();
        let (_source, stop) = stop::pair();
        let config = config(&link);
        let claim = Claim::take(&config, &stop).unwrap().unwrap();
        claim.confirm(&config).unwrap();
        std::fs::write(&two, b"").unwrap();
        std::fs::remove_file(&link).unwrap();
        claim.confirm(&config).unwrap();
        std::os::unix::fs::symlink(&two, &link).unwrap();
        let error = claim.confirm(&config).unwrap_err().to_string();
        assert!(error.contains("two.db now"), "{error}");
    }

    #[test]
    fn a_directory_that_is_not_there_is_waited_for() {
        let scratch = Scratch::new("claim-wait");
        let path = scratch.path("disk/app.db");
        let (source, stop) = stop::pair();
        source.stop();
        assert!(Claim::take(&config(&path), &stop).unwrap().is_none());
        std::fs::create_dir(scratch.path("disk")).unwrap();
        assert!(Claim::take(&config(&path), &stop).unwrap().is_some());
    }
}
