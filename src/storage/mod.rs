//! Where snapshots are kept: one contract for every store ([`Backend`]), and what is the same for all of them ([`Store`]:
//! trying again, checks, kept generations).

mod directory;
#[cfg(feature = "http")]
pub mod http;
mod label;
mod nats;
mod open;
mod options;
pub mod pack;
mod pour;
mod probe;
#[cfg(feature = "store-s3")]
mod s3;
mod seal;
#[cfg(feature = "store-sftp")]
mod sftp;
mod store;
mod tree;
pub mod urls;
#[cfg(feature = "store-webdav")]
mod webdav;

pub use directory::path_of as directory_path;
pub use label::Label;
pub use open::{Location, OpenStore, lacking};
pub use options::{Keys, S3Options, SftpOptions, Trust, WebdavOptions};
#[cfg(feature = "store-s3")]
pub use s3::{Signable, canonical_request, sign, string_to_sign};
pub use seal::{Seal, Seals};
pub use store::{Candidate, Store};

use crate::base::retry::{Retryable, Tries};
use crate::base::{self, Kind};
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// What went wrong, told apart by what the caller can do.
#[derive(Debug)]
pub enum Error {
    /// There is no such snapshot.
    NotFound,
    /// The store refuses: trying again will not help.
    Permanent(String),
    /// The store cannot be reached or fails for the moment: trying again may help.
    Transient(String),
    /// The store holds other bytes than were stored.
    Damaged(String),
    /// The store holds what was stored, but this node cannot unpack it.
    Unreadable(String),
    /// A file or disk of this machine failed.
    Local(String),
    /// The caller may not replace the snapshot, for the reason that it gives itself.
    MayNotSwitch(base::Error),
    /// A stop was requested while the operation waited for its next try.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotFound => f.write_str("no such snapshot"),
            Error::Permanent(why)
            | Error::Transient(why)
            | Error::Damaged(why)
            | Error::Unreadable(why)
            | Error::Local(why) => f.write_str(why),
            Error::MayNotSwitch(error) => write!(f, "{error}"),
            Error::Stopped => f.write_str("stopped"),
        }
    }
}

impl From<Error> for base::Error {
    fn from(error: Error) -> base::Error {
        let kind = match &error {
            Error::NotFound => Kind::Missing,
            Error::Permanent(_) => Kind::Refused,
            Error::Transient(_) => Kind::Unreachable,
            Error::Damaged(_) | Error::Unreadable(_) => Kind::Unusable,
            Error::Local(_) => Kind::Local,
            Error::MayNotSwitch(error) => error.kind(),
            Error::Stopped => Kind::Stopped,
        };
        base::Error::new(kind, error.to_string())
    }
}

impl Retryable for Error {
    fn is_transient(&self) -> bool {
        matches!(self, Error::Transient(_))
    }

    fn stopped() -> Error {
        Error::Stopped
    }

    fn after(self, effort: &str) -> Error {
        self.with_text(|why| format!("{why} (after {effort})"))
    }
}

impl Error {
    /// The same with the object in front of the text.
    pub fn at(self, what: impl fmt::Display) -> Error {
        self.with_text(|why| format!("{what}: {why}"))
    }

    fn with_text(self, change: impl FnOnce(String) -> String) -> Error {
        match self {
            Error::Permanent(why) => Error::Permanent(change(why)),
            Error::Transient(why) => Error::Transient(change(why)),
            Error::Damaged(why) => Error::Damaged(change(why)),
            Error::Unreadable(why) => Error::Unreadable(change(why)),
            Error::Local(why) => Error::Local(change(why)),
            other @ (Error::NotFound | Error::MayNotSwitch(_) | Error::Stopped) => other,
        }
    }
}

/// A snapshot as the store has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// `snapshot.db`, or that with a time.
    pub name: String,
    /// Bytes in the store.
    pub size: u64,
    /// Changes with every upload.
    pub version: String,
    /// What its maker wrote about it; empty when a Go node made it.
    pub label: Label,
    /// Labels that the content may have instead. Some stores replace description and content one after the other; after a
    /// crash between the two, only the digest of the content tells which label is right.
    pub other_labels: Vec<Label>,
    /// What the label's seal showed. Only [`Store`] sets it, but for a snapshot whose description is damaged: its backend
    /// refuses it.
    pub seal: Seal,
}

impl Stored {
    /// Why this node does not take it; then its label says nothing but the digest.
    pub fn refused(&self) -> Option<&str> {
        match &self.seal {
            Seal::Refused(why) => Some(why),
            Seal::Whole | Seal::Unasked => None,
        }
    }

    /// Bytes that it has when it is unpacked; those in the store if its label does not say.
    pub fn plain_size(&self) -> u64 {
        if self.label.plain > 0 { self.label.plain } else { self.size }
    }

    /// Tells this content from others under the same name: its digest, or, for a Go node's snapshot without one, what can be
    /// seen of it.
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
    /// The name that the file gets.
    pub name: &'a str,
    /// Its description; size and digest are those of the file.
    pub label: &'a Label,
    /// The file.
    pub path: &'a Path,
    /// Is told of every piece that is on its way: bytes.
    pub sent: &'a (dyn Fn(u64) + Sync),
    /// Is asked at the last moment at which the old content can stay.
    pub may_switch: &'a (dyn Fn() -> Result<(), Error> + Sync),
    /// What the upload's steps may be tried again with.
    pub tries: &'a Tries<'a>,
}

impl Upload<'_> {
    /// A piece of the file, as a stream that tells `sent` what was read of it.
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
        let file =
            open().map_err(|error: io::Error| Error::Local(format!("{}: {error}", self.path.display())))?;
        Ok(Counted(file.take(length), self.sent))
    }
}

/// A store. At every moment there is a whole snapshot under its name, or none at all.
///
/// Uploads are exclusive: the caller holds the upload lease. [`Backend::sweep`] makes it impossible to finish what a former
/// holder left half done, or is still doing: its temporary object is gone, so it cannot be given the name any more.
pub trait Backend: Send + Sync {
    /// What it is, for messages; without secrets.
    fn describe(&self) -> String;

    /// Whether [`Backend::put`] compares what the store has with the file.
    fn compares(&self) -> bool;

    /// Makes what must be there before the first upload: a bucket, directories.
    fn prepare(&self) -> Result<(), Error>;

    /// The snapshot of a name; `None` when there is none.
    fn stat(&self, name: &str) -> Result<Option<Stored>, Error>;

    /// All snapshots, in any order.
    fn list(&self) -> Result<Vec<Stored>, Error>;

    /// Stores a file under a name, replacing what has that name at one instant.
    fn put(&self, upload: &Upload<'_>) -> Result<(), Error>;

    /// Writes the content that `stat` described to `sink`. The caller checks its size and digest.
    fn get(&self, stored: &Stored, sink: &mut dyn Write) -> Result<(), Error>;

    /// Gives a snapshot a second name, with its label.
    fn copy(&self, stored: &Stored, name: &str, tries: &Tries<'_>) -> Result<(), Error>;

    /// Removes a snapshot; one that is not there is no error.
    fn remove(&self, name: &str) -> Result<(), Error>;

    /// Ends all unfinished uploads and removes what they left. Returns how many there were.
    fn sweep(&self) -> Result<usize, Error>;
}

/// Whether a name is one that snapshots have here: `snapshot.db` and `snapshot-<time>.db`, such as
/// `snapshot-20261124T131500Z.db`. Others are not ours, and stay as they are.
pub fn is_snapshot(name: &str) -> bool {
    let is_time = |text: &str| {
        let fits = |(at, byte): (usize, u8)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        };
        text.len() == 16 && text.bytes().enumerate().all(fits)
    };
    let middle = name.strip_prefix("snapshot").and_then(|rest| rest.strip_suffix(".db"));
    middle.is_some_and(|dated| dated.is_empty() || dated.strip_prefix('-').is_some_and(is_time))
}

/// The name under which an older snapshot is kept, made of its time in Unix milliseconds.
fn dated_name(time_ms: i64) -> String {
    format!("snapshot-{}.db", base::clock::compact(time_ms))
}

/// Random text that names an upload.
fn upload_id() -> String {
    data_encoding::HEXLOWER.encode(&base::random::random_bytes::<8>())
}

/// Whether a text may be one of [`upload_id`]: what is called otherwise is not ours.
fn is_upload_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
#[path = "fake_tests.rs"]
mod fake;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;
    use crate::base::{retry::Retry, stop};
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn every_error_keeps_what_the_caller_can_do() {
        let why = || "why".to_owned();
        for (error, kind, text) in [
            (Error::NotFound, Kind::Missing, "no such snapshot"),
            (Error::Permanent(why()), Kind::Refused, "put: why (after 2 tries)"),
            (Error::Transient(why()), Kind::Unreachable, "put: why (after 2 tries)"),
            (Error::Damaged(why()), Kind::Unusable, "put: why (after 2 tries)"),
            (Error::Unreadable(why()), Kind::Unusable, "put: why (after 2 tries)"),
            (Error::Local(why()), Kind::Local, "put: why (after 2 tries)"),
            (Error::MayNotSwitch(base::Error::waiting("lost")), Kind::Waiting, "lost"),
            (Error::Stopped, Kind::Stopped, "stopped"),
        ] {
            let is_transient = error.is_transient();
            assert_eq!(is_transient, kind == Kind::Unreachable, "{error}");
            let error = base::Error::from(error.after("2 tries").at("put"));
            assert_eq!((error.kind(), error.to_string().as_str()), (kind, text));
        }
    }

    #[test]
    fn names_of_snapshots() {
        for name in ["snapshot.db", "snapshot-20261124T131500Z.db"] {
            assert!(is_snapshot(name), "{name}");
        }
        for name in [
            "",
            "snapshot",
            "snapshot.db.json",
            "snapshot.db.0123456789abcdef.tmp",
            "snapshot-probe-1.db",
            "snapshot-of-the-vms-ABCDE.db",
            "snapshot-2026112-T131500Z.db",
            "snapshot-20261124T13150\u{e9}.db",
            "snapshot-+20261124T13150.db",
            "a.db",
        ] {
            assert!(!is_snapshot(name), "{name}");
        }
    }

    #[test]
    fn identity_without_a_digest_is_what_can_be_seen() {
        let mut stored =
            Stored { name: "snapshot.db".into(), size: 3, version: "v".into(), ..Stored::default() };
        assert_eq!(stored.identity(), "snapshot.db v 3 bytes");
        stored.label.digest = "SHA-256=x".into();
        assert_eq!(stored.identity(), "SHA-256=x");
    }

    #[test]
    fn a_piece_of_a_file_is_counted() {
        let scratch = Scratch::new("piece");
        let (path, sent) = (scratch.path("f"), AtomicU64::new(0));
        std::fs::write(&path, b"0123456789").unwrap();
        let (_source, token) = stop::pair();
        let read = |path: &Path| {
            Retry::new(1, token.clone()).run("read", |tries| {
                let upload = Upload {
                    name: "snapshot.db",
                    label: &Label::default(),
                    path,
                    sent: &|count| {
                        sent.fetch_add(count, Relaxed);
                    },
                    may_switch: &|| Ok(()),
                    tries,
                };
                let mut text = String::new();
                upload.piece(3, 4)?.read_to_string(&mut text).unwrap();
                Ok(text)
            })
        };
        assert_eq!((read(&path).unwrap().as_str(), sent.load(Relaxed)), ("3456", 4));
        assert!(matches!(read(&scratch.path("none")), Err(Error::Local(_))));
    }
}
