//! Directories and small file systems that are gone with their test, and damage to files.

use super::stuck;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that is removed at the end of a test that passed.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Dir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("harmonylite-it-{}-{number}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        stuck::begun(&path);
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        stuck::ended(&self.0);
        if std::thread::panicking() {
            eprintln!("the test failed; its files are kept in {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A small file system in memory; gone with it.
pub struct Small(pub PathBuf);

impl Small {
    pub fn mount(path: PathBuf, size: &str) -> Option<Small> {
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={size},mode=777");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Small(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Overwrites `length` bytes from offset `at` on with garbage.
pub fn spoil(path: &Path, at: u64, length: usize) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0xa5; length], at).unwrap();
}
