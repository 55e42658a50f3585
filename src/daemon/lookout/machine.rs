//! This machine: the disks, and who holds the database's write lock.

use crate::base::{files, limits};
use crate::operate::{Trouble, View};
use rustix::fs::StatVfsMountFlags;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

/// The byte of the `-shm` file that a writer locks (SQLite's `WAL_WRITE_LOCK`, <https://sqlite.org/walformat.html>, 2.3.1).
const WRITE_LOCK: u64 = 120;

/// What was seen of it.
pub struct MachineLook {
    disk: Trouble,
    lock: Trouble,
    dirs: Vec<PathBuf>,
    shm: PathBuf,
    wal: PathBuf,
    held: Option<Held>,
}

/// A write lock that was seen.
struct Held {
    by: u32,
    /// The WAL's size and time: whoever commits changes them.
    wal: Option<(u64, SystemTime)>,
    since: Instant,
}

impl MachineLook {
    pub fn new(view: &View) -> MachineLook {
        let config = &view.config;
        let database = files::follow_links(&config.db_path);
        let mut dirs = vec![files::parent(&database), files::parent(&config.seq_map_path)];
        if config.makes_snapshots() {
            dirs.push(config.temp_dir());
        }
        dirs.dedup();
        MachineLook {
            disk: Trouble::new(&view.board, "disk"),
            lock: Trouble::new(&view.board, "write lock"),
            dirs,
            shm: files::beside(&database, "-shm"),
            wal: files::beside(&database, "-wal"),
            held: None,
        }
    }

    pub fn look(&mut self, now: Instant) {
        match self.dirs.iter().find_map(|dir| unwritable(dir)) {
            Some(why) => self.disk.warn(&why),
            None => self.disk.forget(),
        }
        self.look_at_lock(now);
    }

    fn look_at_lock(&mut self, now: Instant) {
        let inode = std::fs::metadata(&self.shm).map_or(0, |meta| meta.ino());
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        let holder = writer(&locks, inode).filter(|pid| *pid != std::process::id());
        let wal =
            std::fs::metadata(&self.wal).ok().and_then(|meta| Some((meta.len(), meta.modified().ok()?)));
        self.held = holder.map(|by| match self.held.take() {
            Some(held) if held.by == by && held.wal == wal => held,
            _ => Held { by, wal, since: now },
        });
        match &self.held {
            Some(held) if now.saturating_duration_since(held.since) >= limits::LOCK_HELD => {
                let (by, seconds) = (held.by, now.saturating_duration_since(held.since).as_secs());
                // An application's long transaction is its own affair: no line in the log.
                self.lock.show(&format!(
                    "process {by}{} has held the database's write lock for {seconds} s: what others wrote waits until its \
                     transaction ends",
                    name_of(by)
                ));
            }
            _ => self.lock.show(""),
        }
    }
}

/// Why nothing can be written below a directory; `None`: something can, as far as can be seen.
fn unwritable(dir: &Path) -> Option<String> {
    let (shown, stat) = (dir.display(), rustix::fs::statvfs(dir).ok()?);
    let of = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let (free, size) = (of(stat.f_bavail), of(stat.f_blocks));
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        Some(format!("{shown}: the disk is mounted read-only: mount it to be written"))
    } else if size > 0 && free < limits::DISK_FULL.min(size / 50) {
        Some(format!("{shown}: the disk is full, {} KiB free: make room", free >> 10))
    } else if stat.f_files > 0 && stat.f_favail == 0 {
        Some(format!("{shown}: the disk takes no more files: remove some"))
    } else {
        None
    }
}

/// The process that holds the write lock of the database whose `-shm` file has this inode, by the kernel's `/proc/locks`. To open
/// that file would drop the locks that SQLite holds in this process.
fn writer(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1).skip_while(|word| *word == "->");
        let [kind, _, mode, pid, file, from, to] = std::array::from_fn(|_| words.next().unwrap_or_default());
        let covers = from.parse().is_ok_and(|from: u64| from <= WRITE_LOCK)
            && to.parse().map_or(to == "EOF", |to: u64| to >= WRITE_LOCK);
        let is_it = kind != "FLOCK" && mode == "WRITE" && file.rsplit(':').next()?.parse() == Ok(inode);
        let waits = line.contains("->");
        (is_it && covers && !waits).then(|| pid.parse().ok()).flatten()
    })
}

/// ` (sqlite3)`, or nothing when it cannot be told.
fn name_of(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| !c.is_control()).collect();
    if name.is_empty() { name } else { format!(" ({name})") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;

    #[test]
    fn the_writer_is_who_has_locked_its_byte() {
        let locks = "1: POSIX  ADVISORY  READ 10 fe:00:77 123 123\n\
                     2: POSIX  ADVISORY  WRITE 11 fe:00:78 120 120\n\
                     3: OFDLCK ADVISORY  WRITE 12 fe:00:79 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 13 fe:00:80 0 EOF\n\
                     4: -> POSIX ADVISORY  WRITE 14 fe:00:81 120 120\n\
                     5: POSIX  ADVISORY  WRITE 15 fe:00:82 121 121\n\
                     junk\n";
        let of = |inode| writer(locks, inode);
        assert_eq!((of(77), of(78), of(79)), (None, Some(11), Some(12)));
        assert_eq!((of(80), of(81), of(82), of(0)), (None, None, None, None));
    }

    #[test]
    fn a_disk_with_room_is_no_trouble() {
        let scratch = Scratch::new("lookout-disk");
        assert_eq!(unwritable(scratch.dir()), None);
        assert_eq!(unwritable(&scratch.path("none")), None, "other workers meet that");
        assert!(name_of(std::process::id()).len() > 3);
        assert_eq!(name_of(0), "");
    }
}
