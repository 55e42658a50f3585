//! Files written so that a crash at any moment leaves the old one or the new one.

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

/// Writes a whole file: temporary name, sync, rename, sync of the directory.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = beside(path, ".tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&temporary, path)?;
    sync_dir(path)
}

/// Makes a rename in the directory of `path` durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

/// Gives a finished file its final name, unless something has that name by now (`AlreadyExists`).
pub fn publish_new(temporary: &Path, path: &Path) -> io::Result<()> {
    File::open(temporary)?.sync_all()?;
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, temporary, cwd, path, rustix::fs::RenameFlags::NOREPLACE) {
        Ok(()) => {}
        // A file system without that flag (vfat, some network mounts): a hard link refuses an existing name as well.
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

/// The file that `path` names now; `None`: none. Opens nothing.
pub fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// A file beside `path` with its name, `infix` and anything behind it, that has the same content.
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

/// An advisory lock on a file of our own, released when dropped or when the process dies.
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

/// Bytes free for us on the file system that holds `path`.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A temporary file's path; the file and its SQLite companions are removed when this is dropped.
#[derive(Debug)]
pub struct Temporary(PathBuf);

impl Temporary {
    /// Takes charge of `path`, removing what an earlier run left there.
    pub fn new(path: PathBuf) -> Self {
        let temporary = Temporary(path);
        temporary.remove();
        temporary
    }

    /// Where it lies.
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

    #[test]
    fn whole_files_and_locks() {
        let dir = std::env::temp_dir().join(format!("harmonylite-files-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"2").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"2");
        let other = dir.join("b");
        std::fs::write(&other, b"x").unwrap();
        assert_eq!(publish_new(&other, &path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let lock = Lock::try_take(&dir.join("lock")).unwrap();
        assert!(lock.is_some());
        assert!(Lock::try_take(&dir.join("lock")).unwrap().is_none());
        drop(lock);
        assert!(Lock::try_take(&dir.join("lock")).unwrap().is_some());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
