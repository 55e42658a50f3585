//! Snapshots in a directory of this machine: on a mounted disk or a share.

use super::pour::pour;
use super::tree::{Entry, Files, Source, Tree};
use super::{Error, urls};
use crate::base::{self, files};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

pub struct Directory(PathBuf);

impl Directory {
    /// A store in the directory at `path`.
    pub fn store(path: &Path, read_back: bool) -> Files<Directory> {
        Files { tree: Directory(path.to_path_buf()), read_back }
    }

    fn failed(&self, name: &str, error: &io::Error) -> Error {
        let text = format!("{}: {error}", self.0.join(name).display());
        match error.kind() {
            ErrorKind::NotFound => Error::NotFound,
            ErrorKind::Interrupted | ErrorKind::TimedOut => Error::Transient(text),
            _ => Error::Permanent(text),
        }
    }

    /// Opens a file to read it. A pipe would hold up whoever opens it, and a link or a device leads to what nobody stored.
    fn open(&self, name: &str) -> Result<File, Error> {
        let path = self.0.join(name);
        let failed = |error: io::Error| self.failed(name, &error);
        let no_plain_file = || Error::Damaged(format!("{}: no plain file", path.display()));
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            // A link; a socket.
            Err(Errno::LOOP | Errno::NXIO) => return Err(no_plain_file()),
            Err(error) => return Err(failed(error.into())),
        };
        if file.metadata().map_err(failed)?.is_file() { Ok(file) } else { Err(no_plain_file()) }
    }
}

impl Tree for Directory {
    fn describe(&self) -> String {
        format!("directory {}", self.0.display())
    }

    fn make_dirs(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.0)
            .map_err(|error| Error::Permanent(format!("{}: {error}", self.0.display())))
    }

    fn list(&self) -> Result<Vec<Entry>, Error> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(self.failed("", &error)),
        };
        let mut found = vec![];
        for entry in entries {
            let entry = entry.map_err(|error| self.failed("", &error))?;
            // A file that is gone since it was listed is not there.
            if let (Ok(meta), Ok(name)) = (entry.metadata(), entry.file_name().into_string())
                && meta.is_file()
            {
                found.push(Entry { name, size: meta.len() });
            }
        }
        Ok(found)
    }

    fn size(&self, name: &str) -> Result<Option<u64>, Error> {
        match fs::symlink_metadata(self.0.join(name)) {
            Ok(meta) => Ok(meta.is_file().then_some(meta.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    fn write(&self, name: &str, source: Source<'_>) -> Result<(), Error> {
        let mut file = create(&self.0.join(name)).map_err(|error| self.failed(name, &error))?;
        let mut source: Box<dyn io::Read + '_> = source.open()?;
        pour(&mut source, &mut file)?;
        file.sync_all().map_err(|error| self.failed(name, &error))
    }

    fn read(&self, name: &str, sink: &mut dyn Write) -> Result<(), Error> {
        pour(&mut self.open(name)?, sink)
    }

    fn replaces(&self) -> Result<bool, Error> {
        Ok(true)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let target = self.0.join(to);
        fs::rename(self.0.join(from), &target)
            .and_then(|()| files::sync_dir(&target))
            .map_err(|error| self.failed(from, &error))
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        let mut source = self.open(from)?;
        let mut copy = || {
            let mut file = create(&self.0.join(to))?;
            io::copy(&mut source, &mut file)?;
            file.sync_all()
        };
        copy().map_err(|error| self.failed(from, &error))
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        match fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.failed(name, &error)),
            _ => Ok(()),
        }
    }
}

/// A file for a snapshot, which nobody else may read. One of that name that an interrupted upload left goes first, so that
/// its permissions, or a link, do not stay.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    files::create_private(path)
}

/// The directory that a configuration means: an absolute path, or `file://` and that path with escapes.
pub fn path_of(text: &str) -> Result<PathBuf, base::Error> {
    let path = match text.strip_prefix("file://") {
        Some(rest) => urls::unescape(rest).ok_or_else(|| base::Error::usage("not UTF-8"))?,
        None => text.to_owned(),
    };
    if path.starts_with('/') { Ok(path.into()) } else { Err(base::Error::usage("not an absolute path")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "what may hang runs in a thread of its own")]
    use super::*;
    use crate::base::scratch::Scratch;

    #[test]
    fn paths_and_urls() {
        assert_eq!(path_of("/a b").unwrap(), PathBuf::from("/a b"));
        assert_eq!(path_of("file:///a%20b").unwrap(), PathBuf::from("/a b"));
        for (wrong, why) in [
            ("a", "not an absolute path"),
            ("file://host/a", "not an absolute path"),
            ("file:///%ff", "not UTF-8"),
        ] {
            assert_eq!(path_of(wrong).unwrap_err().to_string(), why, "{wrong}");
        }
    }

    #[test]
    fn files_come_and_go() {
        let scratch = Scratch::new("directory");
        let tree = Directory::store(&scratch.path("a/b"), true).tree;
        assert_eq!((tree.list().unwrap(), tree.size("x").unwrap()), (vec![], None));
        tree.make_dirs().unwrap();
        tree.write("x", Source::Bytes(b"abc")).unwrap();
        tree.copy("x", "y").unwrap();
        for name in ["x", "y"] {
            let meta = fs::metadata(scratch.path("a/b").join(name)).unwrap();
            assert_eq!(std::os::unix::fs::MetadataExt::mode(&meta) & 0o777, 0o600, "{name}");
        }
        tree.rename("x", "y").unwrap();
        assert_eq!(tree.list().unwrap(), [Entry { name: "y".into(), size: 3 }]);
        let mut read = vec![];
        tree.read("y", &mut read).unwrap();
        assert_eq!((read.as_slice(), tree.size("x").unwrap()), (&b"abc"[..], None));
        assert!(matches!(tree.rename("x", "y"), Err(Error::NotFound)));
        assert!(matches!(tree.read("x", &mut read), Err(Error::NotFound)));
        assert_eq!(tree.size("y").unwrap(), Some(3), "a rename without a source leaves the target alone");
        tree.remove("y").unwrap();
        tree.remove("y").unwrap();
        assert!(tree.list().unwrap().is_empty());
    }

    /// A pipe would hold up whoever opens it, until somebody writes into it.
    #[test]
    fn only_plain_files_are_read() {
        let scratch = Scratch::new("special-files");
        let tree = Directory::store(&scratch.path("d"), true).tree;
        tree.make_dirs().unwrap();
        let place = scratch.path("d");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            place.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        fs::create_dir(place.join("directory")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", place.join("link")).unwrap();
        std::os::unix::fs::symlink("plain", place.join("link-to-plain")).unwrap();
        tree.write("plain", Source::Bytes(b"abc")).unwrap();
        let (done, all) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for name in ["directory", "link-to-plain", "link", "pipe"] {
                let read = tree.read(name, &mut &mut [0u8; 8][..]);
                let copied = tree.copy(name, "copy");
                done.send((name, tree.size(name).unwrap(), read, copied.is_err())).unwrap();
            }
        });
        for _ in 0..4 {
            let (name, size, read, no_copy) = all.recv_timeout(std::time::Duration::from_secs(5)).unwrap();
            assert_eq!(size, None, "{name}");
            assert!(
                matches!(&read, Err(Error::Damaged(why)) if why.contains("no plain file")),
                "{name}: {read:?}"
            );
            assert!(no_copy, "{name}");
        }
    }
}
