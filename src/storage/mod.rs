//! Where snapshots are kept: one contract for every store ([`Backend`]), and what is the same for all of them
//! ([`Store`]: retries, checks, kept generations).

mod directory;
pub mod http;
mod label;
mod nats;
mod open;
pub mod pack;
mod s3;
mod sftp;
mod store;
mod tree;
mod webdav;

pub use directory::{Directory, path_of as directory_path};
pub use label::Label;
pub use nats::NatsStore;
pub use open::{Location, OpenStore};
pub use s3::{Keys, S3, S3Options, Signable, canonical_request, find_keys, sign, string_to_sign};
pub use sftp::{Sftp, SftpOptions, Trust};
pub use store::{Patience, Store};
pub use tree::{Entry, Files, Source, Tree};
pub use webdav::{Webdav, WebdavOptions};

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// What went wrong, told apart by what the caller can do.
#[derive(Debug)]
pub enum Error {
    /// There is no such snapshot.
    NotFound,
    /// Trying again will not help.
    Permanent(String),
    /// Trying again may help.
    Transient(String),
    /// What the store holds is not what was stored.
    Damaged(String),
    /// It is what was stored, and cannot be unpacked here.
    Unreadable(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotFound => f.write_str("no such snapshot"),
            Error::Permanent(why) | Error::Transient(why) | Error::Damaged(why) | Error::Unreadable(why) => {
                f.write_str(why)
            }
        }
    }
}

impl Error {
    /// The same with the object in front.
    pub fn at(self, what: impl fmt::Display) -> Error {
        match self {
            Error::NotFound => Error::NotFound,
            Error::Permanent(why) => Error::Permanent(format!("{what}: {why}")),
            Error::Transient(why) => Error::Transient(format!("{what}: {why}")),
            Error::Damaged(why) => Error::Damaged(format!("{what}: {why}")),
            Error::Unreadable(why) => Error::Unreadable(format!("{what}: {why}")),
        }
    }
}

/// A snapshot as the store has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Bytes in the store.
    pub size: u64,
    /// Changes with every upload.
    pub version: String,
    /// What its maker wrote about it; empty when a Go node made it.
    pub label: Label,
    /// Labels that it may have instead: a store that switches description and content one after the other cannot tell
    /// from outside which of them a crash left there. The digest of the content decides.
    pub other_labels: Vec<Label>,
}

impl Stored {
    /// Tells this content from others under the same name: by its digest, or (a Go node's has none) by what is seen of it.
    pub fn identity(&self) -> String {
        if self.label.digest.is_empty() {
            format!("{} {} {} bytes", self.name, self.version, self.size)
        } else {
            self.label.digest.clone()
        }
    }
}

/// What is to be stored.
pub struct Upload<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its description; size and digest are those of the file.
    pub label: &'a Label,
    /// The file.
    pub path: &'a Path,
    /// Told of every piece that is on its way: bytes.
    pub sent: &'a (dyn Fn(u64) + Sync),
    /// Asked at the last moment at which the old content can stay.
    pub may_switch: &'a (dyn Fn() -> Result<(), String> + Sync),
}

impl Upload<'_> {
    /// A piece of the file, as a stream that counts what is read of it.
    pub fn piece(&self, offset: u64, length: u64) -> Result<impl Read, Error> {
        struct Counted<'s>(io::Take<std::fs::File>, &'s (dyn Fn(u64) + Sync));
        impl Read for Counted<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.0.read(buffer)?;
                (self.1)(count as u64);
                Ok(count)
            }
        }
        let open = || {
            let mut file = std::fs::File::open(self.path)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(file)
        };
        let file = open()
            .map_err(|error: io::Error| Error::Permanent(format!("{}: {error}", self.path.display())))?;
        Ok(Counted(file.take(length), self.sent))
    }

    /// Asks whether the old content may be replaced.
    pub fn ask(&self) -> Result<(), Error> {
        (self.may_switch)().map_err(Error::Permanent)
    }
}

/// A store. At every moment there is a whole snapshot under its name, or none at all.
///
/// Uploads are exclusive: the caller holds the upload lease. What a former holder left half done, or is still doing, is
/// made impossible to finish by [`Backend::sweep`]: its temporary object is gone, so it cannot be given the name any more.
pub trait Backend: Send + Sync {
    /// What it is, for messages; without secrets.
    fn describe(&self) -> String;

    /// Makes what must be there before the first upload: a bucket, directories.
    fn prepare(&self) -> Result<(), Error>;

    /// The snapshot of a name; `None` when there is none.
    fn stat(&self, name: &str) -> Result<Option<Stored>, Error>;

    /// All snapshots, in any order.
    fn list(&self) -> Result<Vec<Stored>, Error>;

    /// Stores a file under a name, replacing what has that name at one instant.
    fn put(&self, upload: &Upload<'_>) -> Result<(), Error>;

    /// Writes the content that `stat` described. Size and digest are the caller's to check.
    fn get(&self, stored: &Stored, sink: &mut dyn Write) -> Result<(), Error>;

    /// Gives a snapshot a second name, with its label.
    fn copy(&self, stored: &Stored, name: &str) -> Result<(), Error>;

    /// Removes a snapshot; one that is not there is no error.
    fn remove(&self, name: &str) -> Result<(), Error>;

    /// Ends all unfinished uploads and removes what they left. Returns how many there were.
    fn sweep(&self) -> Result<usize, Error>;
}

/// Whether a name is one that snapshots have here: `snapshot.db` and `snapshot-<time>.db`.
pub fn is_snapshot(name: &str) -> bool {
    let middle = name.strip_prefix("snapshot").and_then(|rest| rest.strip_suffix(".db"));
    middle.is_some_and(|dated| dated.is_empty() || (dated.len() == 17 && dated.starts_with('-')))
}

/// Random text that names an upload.
pub(crate) fn upload_id() -> String {
    data_encoding::HEXLOWER.encode(&crate::base::retry::random_bytes::<8>())
}
