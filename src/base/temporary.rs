//! Scratch files. Each lies in a directory of its own that nobody else may enter and whose name cannot be guessed, so a
//! shared directory such as `/tmp` can hold them. What a killed process left is told by its lock, and removed.

use crate::base::copies::COMPANIONS;
use crate::base::files::{self, Lock};
use crate::base::random;
use std::fs::FileType;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// In the name of every scratch directory, between the name of the database and what the directory is for.
const MARK: &str = ".harmonylite-";
/// The file in it whose lock its maker holds.
const LOCK: &str = "lock";
/// What earlier versions made plain files for, as their names tell.
const PLAIN: [&str; 14] = [
    "aside",
    "download",
    "download-plain",
    "download.harmonylite-converted",
    "proof",
    "proof-live",
    "proof-plain",
    "rebuilt",
    "snapshot",
    "snapshot-packed",
    "snapshot-packed-stored",
    "snapshot-stored",
    "verify",
    "verify-plain",
];
/// Tries to find a free name. Each is random, so even the second is needed only if somebody plays tricks.
const TRIES: u32 = 8;

/// The path of a temporary database. Its directory is removed, with all that is in it, when this is dropped.
#[derive(Debug)]
pub struct Temporary {
    dir: PathBuf,
    path: PathBuf,
    #[allow(dead_code, reason = "holding it tells others that the directory is in use")]
    lock: Lock,
}

impl Temporary {
    /// Makes a directory in `place` that is named after `database` and `purpose`. There is no file in it yet. What killed
    /// processes left there goes first: commands that are killed again and again must not fill the disk.
    pub fn new(place: &Path, database: &Path, purpose: &str) -> io::Result<Temporary> {
        remove_leftovers(place, database);
        let name = database.file_name().unwrap_or_default();
        for _ in 0..TRIES {
            let mut unique = name.to_os_string();
            unique.push(format!("{MARK}{purpose}-{:016x}", random::random_u64()));
            let dir = place.join(unique);
            match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            match Lock::try_take(&dir.join(LOCK)) {
                Ok(Some(lock)) if dir.join(LOCK).exists() => {
                    return Ok(Temporary { path: dir.join(name), dir, lock });
                }
                // Another process that removes leftovers was faster: it has the lock, or has removed what we locked.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let _ = std::fs::remove_dir_all(&dir);
                    return Err(error);
                }
            }
        }
        Err(io::Error::other("no directory for temporary files can be made"))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory in which it was made, for messages: the file's own path is another one at each try.
    pub fn place(&self) -> PathBuf {
        files::parent(&self.dir)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            log::warn!("remove {}: {error}", self.dir.display());
        }
    }
}

/// Removes the scratch files of `database` in `place` whose makers died. A directory that another user made stays, whatever
/// it is called, and so does one that is in use.
pub fn remove_leftovers(place: &Path, database: &Path) {
    let stem = database.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for (name, path) in files::entries(place) {
        let Some(purpose) = name.strip_prefix(&stem).and_then(|rest| rest.strip_prefix(MARK)) else {
            continue;
        };
        if files::is_own(&path, FileType::is_dir) {
            if purpose.rsplit_once('-').is_some_and(|(_, random)| files::is_random(random)) {
                remove_if_dead(&path);
            }
        } else if is_of_earlier_version(purpose) && files::is_own(&path, FileType::is_file) {
            files::remove_left(&path);
        }
    }
}

/// Whether an earlier version could have left a plain file for this purpose, or what SQLite keeps beside one. Any other file
/// is a person's.
fn is_of_earlier_version(purpose: &str) -> bool {
    PLAIN.contains(&COMPANIONS.iter().find_map(|suffix| purpose.strip_suffix(suffix)).unwrap_or(purpose))
}

fn remove_if_dead(dir: &Path) {
    let removed = match Lock::try_take_existing(&dir.join(LOCK)) {
        Ok(Some(_lock)) => std::fs::remove_dir_all(dir),
        Ok(None) => return,
        // It was made a moment ago, or its maker died in that moment: then it is empty.
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::remove_dir(dir),
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => log::info!("removed {}, which an interrupted run had left", dir.display()),
        Err(error) => log::warn!("remove {}: {error}", dir.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;
    use std::os::unix::fs::PermissionsExt;

    fn database() -> &'static Path {
        Path::new("/somewhere/app.db")
    }

    #[test]
    fn a_scratch_file_lies_where_nobody_else_can_go_and_leaves_nothing() {
        let scratch = Scratch::new("temporary");
        let one = Temporary::new(scratch.dir(), database(), "snapshot").unwrap();
        let other = Temporary::new(scratch.dir(), database(), "snapshot").unwrap();
        assert_ne!(one.path(), other.path());
        assert!(!one.path().exists());
        for temporary in [&one, &other] {
            let mode = std::fs::metadata(files::parent(temporary.path())).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
            for suffix in ["", "-journal", "-wal", "-shm", "-other"] {
                std::fs::write(files::beside(temporary.path(), suffix), b"x").unwrap();
            }
        }
        assert!(scratch.names().iter().all(|name| name.starts_with("app.db.harmonylite-snapshot-")));
        drop((one, other));
        assert!(scratch.names().is_empty());
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let scratch = Scratch::new("temporary-none");
        assert!(Temporary::new(&scratch.path("none"), database(), "snapshot").is_err());
    }

    #[test]
    fn what_a_dead_process_left_goes_and_what_is_in_use_stays() {
        let scratch = Scratch::new("temporary-left");
        let used = Temporary::new(scratch.dir(), database(), "download").unwrap();
        std::fs::write(used.path(), b"in use").unwrap();
        leave_dead(&scratch);
        std::fs::create_dir(scratch.path("app.db.harmonylite-proof-00000000000000ff")).unwrap();
        let stay = [
            "app.db",
            "app.db-wal",
            "app.db.damaged-20261124T131500Z",
            "app.db.harmonylite.lock",
            "app.db.harmonylite-snapshot.lock",
            "other.db.harmonylite-download",
            "my-app.db.harmonylite-download",
            "app.db.harmonylite-backup",
            "app.db.harmonylite-backup-wal",
            "app.db.harmonylite-snapshot-of-monday",
            "app.db.harmonylite-0123456789abcdef",
            "app.db.harmonylite-",
            "app.db.harmonylite--wal",
        ];
        let of_earlier_versions = PLAIN.map(|purpose| format!("app.db.harmonylite-{purpose}"));
        for name in stay.iter().copied().chain(of_earlier_versions.iter().map(String::as_str)) {
            std::fs::write(scratch.path(name), b"x").unwrap();
        }
        for name in ["app.db.harmonylite-download-wal", "app.db.harmonylite-snapshot-packed-journal"] {
            std::fs::write(scratch.path(name), b"x").unwrap();
        }
        std::fs::create_dir(scratch.path("app.db.harmonylite-backups")).unwrap();
        remove_leftovers(scratch.dir(), database());
        let mut expected: Vec<String> = stay.iter().map(|name| (*name).to_owned()).collect();
        expected.push("app.db.harmonylite-backups".into());
        expected.push(files::parent(used.path()).file_name().unwrap().to_string_lossy().into_owned());
        expected.sort();
        assert_eq!(scratch.names(), expected);
        assert_eq!(std::fs::read(used.path()).unwrap(), b"in use");
    }

    /// As the system does it for a process that is killed: the lock goes, the files stay.
    fn leave_dead(scratch: &Scratch) {
        let dead = Temporary::new(scratch.dir(), database(), "snapshot").unwrap();
        std::fs::write(dead.path(), b"left").unwrap();
        let (dir, kept) = (files::parent(dead.path()), scratch.path("kept"));
        std::fs::rename(&dir, &kept).unwrap();
        drop(dead);
        std::fs::rename(&kept, &dir).unwrap();
    }

    #[test]
    fn processes_that_are_killed_again_and_again_do_not_fill_the_disk() {
        let scratch = Scratch::new("temporary-again");
        for _ in 0..5 {
            leave_dead(&scratch);
            assert_eq!(scratch.names().len(), 1);
        }
        drop(Temporary::new(scratch.dir(), database(), "download").unwrap());
        assert!(scratch.names().is_empty());
    }

    /// Each removes what it takes for the other's leftovers.
    #[test]
    fn two_processes_take_nothing_from_each_other() {
        let scratch = Scratch::new("temporary-two");
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        // That no name can be found is an error, and harms nobody.
                        let Ok(made) = Temporary::new(scratch.dir(), database(), "snapshot") else {
                            continue;
                        };
                        std::fs::write(made.path(), b"x").unwrap();
                    }
                });
            }
        });
        assert!(scratch.names().is_empty());
    }

    /// Another user can make directories with such names in `/tmp`: what lies behind his link stays.
    #[test]
    fn a_link_is_no_leftover() {
        let scratch = Scratch::new("temporary-link");
        std::fs::create_dir(scratch.path("his")).unwrap();
        std::fs::write(scratch.path("his/lock"), b"").unwrap();
        let name = "app.db.harmonylite-snapshot-0123456789abcdef";
        std::os::unix::fs::symlink(scratch.path("his"), scratch.path(name)).unwrap();
        remove_leftovers(scratch.dir(), database());
        assert_eq!(scratch.names(), [name, "his"]);
        assert!(scratch.path("his/lock").exists());
    }
}
