//! Files and directories: written so that a crash at any moment leaves the old file or the new one, locked, compared.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// `path` with `suffix` appended to its last component: `data.db` and `-wal` give `data.db-wal`.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    path.with_file_name(name)
}

/// The directory that holds `path`.
pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Replaces a whole file at one instant: temporary name, sync, rename, sync of the directory.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = beside(path, ".tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&temporary, path)?;
    sync_dir(path)
}

/// Makes what was renamed to `path` durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

/// Gives a finished file its final name. The error `AlreadyExists`: something else has that name by now, and stays.
pub fn publish_new(temporary: &Path, path: &Path) -> io::Result<()> {
    File::open(temporary)?.sync_all()?;
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, temporary, cwd, path, rustix::fs::RenameFlags::NOREPLACE) {
        Ok(()) => {}
        // The file system does not know that flag (vfat, some network mounts). A hard link refuses an existing name as well.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            std::fs::hard_link(temporary, path)?;
            std::fs::remove_file(temporary)?;
        }
        Err(errno) => return Err(errno.into()),
    }
    sync_dir(path)
}

/// Which file a name stands for: device and inode.
pub type Identity = (u64, u64);

/// The file that `path` names now; `None` when there is none. The file is not opened.
pub fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// A file beside `path` that has the same content, and whose name is that of `path`, `infix` and any further text.
pub fn find_copy(path: &Path, infix: &str) -> io::Result<Option<PathBuf>> {
    let prefix = beside(path, infix).file_name().unwrap_or_default().to_os_string();
    for entry in std::fs::read_dir(parent(path))? {
        let entry = entry?;
        let named = entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
        if named && same_content(path, &entry.path())? {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

fn same_content(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let count = one.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        if other.read_exact(&mut right[..count]).is_err() || left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

/// An advisory lock on a file that only harmonylite opens. It is released when dropped, or when the process dies.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "holding the file holds the lock")] File);

impl Lock {
    /// Takes the lock; `None` when another process holds it.
    pub fn try_take(path: &Path) -> io::Result<Option<Lock>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Bytes that this process may still write to the file system that holds `path`.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The path of a temporary database. The file and SQLite's files beside it are removed when this is dropped.
#[derive(Debug)]
pub struct Temporary(PathBuf);

impl Temporary {
    /// Takes charge of `path`, and removes what an earlier run left there.
    pub fn new(path: PathBuf) -> Self {
        let temporary = Temporary(path);
        temporary.remove();
        temporary
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn remove(&self) {
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let path = beside(&self.0, suffix);
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                log::warn!("remove {}: {error}", path.display());
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;

    #[test]
    fn a_whole_file_is_replaced_at_once_and_nothing_is_left() {
        let scratch = Scratch::new("files");
        let path = scratch.path("a");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"2").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"2");
        assert_eq!(scratch.names(), ["a"]);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let scratch = Scratch::new("files-fail");
        let path = scratch.path("a");
        write_atomically(&path, b"old").unwrap();
        // The temporary name is taken by a directory: the first step fails.
        std::fs::create_dir(scratch.path("a.tmp")).unwrap();
        assert!(write_atomically(&path, b"new").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        // The final name is a directory: the last step fails.
        std::fs::create_dir(scratch.path("d")).unwrap();
        assert!(write_atomically(&scratch.path("d"), b"new").is_err());
        assert!(scratch.path("d").is_dir());
    }

    #[test]
    fn a_new_file_never_replaces_another() {
        let scratch = Scratch::new("files-new");
        let (finished, path) = (scratch.path("finished"), scratch.path("a"));
        std::fs::write(&finished, b"x").unwrap();
        publish_new(&finished, &path).unwrap();
        assert_eq!(scratch.names(), ["a"]);
        std::fs::write(&finished, b"y").unwrap();
        assert_eq!(publish_new(&finished, &path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
        assert_eq!(scratch.names(), ["a", "finished"]);
    }

    #[test]
    fn one_lock_at_a_time() {
        let scratch = Scratch::new("files-lock");
        let path = scratch.path("lock");
        let lock = Lock::try_take(&path).unwrap();
        assert!(lock.is_some());
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(lock);
        assert!(Lock::try_take(&path).unwrap().is_some());
    }

    #[test]
    fn names_beside_a_file() {
        assert_eq!(beside(Path::new("/d/data.db"), "-wal"), PathBuf::from("/d/data.db-wal"));
        assert_eq!(beside(Path::new("data.db"), "-wal"), PathBuf::from("data.db-wal"));
        assert_eq!(parent(Path::new("/d/data.db")), PathBuf::from("/d"));
        assert_eq!(parent(Path::new("data.db")), PathBuf::from("."));
    }

    #[test]
    fn a_file_is_known_after_a_rename_and_not_after_a_replacement() {
        let scratch = Scratch::new("files-identity");
        let (one, two) = (scratch.path("one"), scratch.path("two"));
        std::fs::write(&one, b"1").unwrap();
        std::fs::write(&two, b"1").unwrap();
        let known = identity(&one);
        assert!(known.is_some() && known != identity(&two) && identity(&scratch.path("none")).is_none());
        std::fs::rename(&one, scratch.path("moved")).unwrap();
        assert_eq!(identity(&scratch.path("moved")), known);
        std::fs::rename(&two, &one).unwrap();
        assert_ne!(identity(&one), known);
    }

    #[test]
    fn a_copy_is_found_by_its_content() {
        let scratch = Scratch::new("files-copy");
        let path = scratch.path("a.db");
        let content = vec![7; (64 << 10) + 1];
        std::fs::write(&path, &content).unwrap();
        std::fs::write(scratch.path("a.db.kept-1"), &content[1..]).unwrap();
        let mut other = content.clone();
        *other.last_mut().unwrap() = 8;
        std::fs::write(scratch.path("a.db.kept-2"), other).unwrap();
        std::fs::write(scratch.path("b.db.kept-3"), &content).unwrap();
        assert_eq!(find_copy(&path, ".kept-").unwrap(), None);
        std::fs::write(scratch.path("a.db.kept-4"), &content).unwrap();
        assert_eq!(find_copy(&path, ".kept-").unwrap(), Some(scratch.path("a.db.kept-4")));
    }

    #[test]
    fn a_temporary_database_goes_with_all_that_sqlite_makes_beside_it() {
        let scratch = Scratch::new("files-temporary");
        let path = scratch.path("t.db");
        std::fs::write(&path, b"left by an earlier run").unwrap();
        let temporary = Temporary::new(path);
        assert!(scratch.names().is_empty());
        for suffix in ["", "-journal", "-wal", "-shm", "-other"] {
            std::fs::write(beside(temporary.path(), suffix), b"x").unwrap();
        }
        drop(temporary);
        assert_eq!(scratch.names(), ["t.db-other"]);
    }

    #[test]
    fn there_is_space_where_a_file_can_be_written() {
        let scratch = Scratch::new("files-space");
        assert!(free_space(scratch.dir()).unwrap() > 0);
        assert!(free_space(&scratch.path("none")).is_err());
    }
}
