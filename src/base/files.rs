//! Files and directories: written so that a crash at any moment leaves the old file or the new one, locked, compared.

use crate::base::{error::Error, random};
use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
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

/// From here on, whatever this process and its children create is for their own user alone, unless somebody says otherwise
/// for one file. SQLite gives a WAL and a journal the permissions of their database, whatever is set here.
pub fn create_private_files() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Creates a file that nobody else may read. An error if the name exists, be it as a link.
pub fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Replaces a whole file at one instant: a new file with a random name, sync, rename, sync of the directory.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = beside(path, &format!(".{:016x}{UNFINISHED}", random::random_u64()));
    let write = || {
        let mut file = create_private(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        sync_dir(path)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&temporary)))
}

/// Ends the name of a file that [`write_atomically`] has not finished.
const UNFINISHED: &str = ".tmp";

/// Removes what a killed process left of [`write_atomically`] to this path; nobody may be writing to it.
pub fn remove_unfinished(path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for (found, entry) in entries(&parent(path)) {
        let random = found.strip_prefix(&name).and_then(|rest| rest.strip_suffix(UNFINISHED));
        // Earlier versions wrote without a random part.
        let unfinished =
            random.is_some_and(|random| random.is_empty() || random.strip_prefix('.').is_some_and(is_random));
        if unfinished && is_own(&entry, FileType::is_file) {
            remove_left(&entry);
        }
    }
}

/// Whether a part of a name is a random number as we write it.
pub fn is_random(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Names and paths of all that lies in a directory; none if it cannot be read.
pub fn entries(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(dir) else { return vec![] };
    let named = |entry: std::fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    entries.filter_map(Result::ok).filter_map(named).collect()
}

/// Whether something of a kind belongs to the user that we run as. A link is judged itself, not what it leads to.
pub fn is_own(path: &Path, kind: fn(&FileType) -> bool) -> bool {
    let own = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.uid() == own && kind(&meta.file_type()))
}

/// Removes a file that a killed process left.
pub fn remove_left(path: &Path) {
    match std::fs::remove_file(path) {
        Ok(()) => log::info!("removed {}, which an interrupted run had left", path.display()),
        Err(error) => log::warn!("remove {}: {error}", path.display()),
    }
}

/// The path of the file that a path means when every symbolic link is followed, also when the last link leads to nothing.
/// The path itself when its directory does not exist.
pub fn follow_links(path: &Path) -> PathBuf {
    /// As many links as Linux follows.
    const LINKS: usize = 40;
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let mut path = path.to_path_buf();
    for _ in 0..LINKS {
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = parent(&path).join(target);
    }
    match (parent(&path).canonicalize(), path.file_name()) {
        (Ok(dir), Some(name)) => dir.join(name),
        _ => path,
    }
}

/// How many names (hard links) the file at `path` has; 0: there is none.
pub fn hard_links(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.nlink())
}

/// Takes a lock on the file itself, whatever it is called, until the process ends; false when another process has it. The
/// file is never closed: closing it would drop the locks that SQLite holds on it in this process.
pub fn lock_for_good(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let taken = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    std::mem::forget(file);
    match taken {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Fails when the directory of `path` does not exist; somebody may mount or make it.
pub fn need_dir(path: &Path) -> Result<(), Error> {
    let dir = parent(path);
    if dir.is_dir() {
        return Ok(());
    }
    let why = "no such directory (a disk that is not mounted?): waiting for it";
    Err(Error::waiting(format!("{}: {why}", dir.display())))
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

/// For `open`: a link in the last place of the path is an error.
const NO_FOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// An advisory lock on a file that only harmonylite opens. It is released when dropped, or when the process dies.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "holding the file holds the lock")] File);

impl Lock {
    /// Takes the lock; `None` when another process holds it.
    pub fn try_take(path: &Path) -> io::Result<Option<Lock>> {
        let mut options = OpenOptions::new();
        Lock::take(options.create(true).truncate(false).mode(0o600), path)
    }

    /// The same for a lock whose file exists; an error of the kind `NotFound` when it does not.
    pub fn try_take_existing(path: &Path) -> io::Result<Option<Lock>> {
        Lock::take(&mut OpenOptions::new(), path)
    }

    fn take(options: &mut OpenOptions, path: &Path) -> io::Result<Option<Lock>> {
        let file = options.write(true).custom_flags(NO_FOLLOW).open(path)?;
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
        // The final name is a directory: the last step fails.
        std::fs::create_dir(scratch.path("d")).unwrap();
        assert!(write_atomically(&scratch.path("d"), b"new").is_err());
        assert!(scratch.path("d").is_dir());
        assert_eq!(scratch.names(), ["a", "d"], "a write that failed leaves nothing");
    }

    /// Somebody else can create files in the directory: neither is his link followed, nor may he read what is written.
    #[test]
    fn a_whole_file_is_private_and_follows_no_link() {
        let scratch = Scratch::new("files-link");
        let (path, strangers) = (scratch.path("a"), scratch.path("strangers"));
        std::fs::write(&strangers, b"his").unwrap();
        for name in ["a.tmp", "a"] {
            std::os::unix::fs::symlink(&strangers, scratch.path(name)).unwrap();
        }
        write_atomically(&path, b"ours").unwrap();
        assert_eq!(std::fs::read(&strangers).unwrap(), b"his");
        let meta = std::fs::symlink_metadata(&path).unwrap();
        assert!(meta.is_file());
        assert_eq!(meta.mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(&path).unwrap(), b"ours");
        std::os::unix::fs::symlink(&strangers, scratch.path("lock")).unwrap();
        assert!(Lock::try_take(&scratch.path("lock")).is_err());
        assert!(create_private(&scratch.path("lock")).is_err());
    }

    #[test]
    fn what_a_killed_process_left_of_a_write_is_removed_and_nothing_else() {
        let scratch = Scratch::new("files-unfinished");
        let all = [
            "a",
            "a.tmp",
            "a.0123456789abcdef.tmp",
            "a.b.tmp",
            "b.0123456789abcdef.tmp",
            "a.0123456789abcdef",
        ];
        for name in all {
            std::fs::write(scratch.path(name), b"x").unwrap();
        }
        std::os::unix::fs::symlink(scratch.path("a"), scratch.path("a.00000000000000ff.tmp")).unwrap();
        remove_unfinished(&scratch.path("a"));
        let left = ["a", "a.00000000000000ff.tmp", "a.0123456789abcdef", "a.b.tmp", "b.0123456789abcdef.tmp"];
        assert_eq!(scratch.names(), left);
    }

    #[test]
    fn links_are_followed_also_to_what_is_not_there() {
        let scratch = Scratch::new("files-follow");
        let dir = scratch.dir().canonicalize().unwrap();
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, scratch.path(name)).unwrap();
        std::fs::create_dir(scratch.path("disk")).unwrap();
        link("disk/app.db", "one");
        link("one", "two");
        assert_eq!(follow_links(&scratch.path("two")), dir.join("disk/app.db"), "nothing is there yet");
        std::fs::write(scratch.path("disk/app.db"), b"x").unwrap();
        assert_eq!(follow_links(&scratch.path("two")), dir.join("disk/app.db"));
        link("disk", "dir");
        assert_eq!(follow_links(&scratch.path("dir/app.db")), dir.join("disk/app.db"));
        assert_eq!(follow_links(&scratch.path("dir/new.db")), dir.join("disk/new.db"));
        link("/nowhere/at/all.db", "lost");
        assert_eq!(follow_links(&scratch.path("lost")), PathBuf::from("/nowhere/at/all.db"));
        link("loop", "loop");
        follow_links(&scratch.path("loop"));
    }

    #[test]
    fn a_file_is_locked_under_all_its_names() {
        let scratch = Scratch::new("files-names");
        std::fs::write(scratch.path("a"), b"x").unwrap();
        assert_eq!((hard_links(&scratch.path("a")), hard_links(&scratch.path("b"))), (1, 0));
        std::fs::hard_link(scratch.path("a"), scratch.path("b")).unwrap();
        assert_eq!(hard_links(&scratch.path("a")), 2);
        assert!(lock_for_good(&scratch.path("a")).unwrap());
        assert!(!lock_for_good(&scratch.path("b")).unwrap());
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
    fn there_is_space_where_a_file_can_be_written() {
        let scratch = Scratch::new("files-space");
        assert!(free_space(scratch.dir()).unwrap() > 0);
        assert!(free_space(&scratch.path("none")).is_err());
    }
}
