//! Snapshots in a directory of files: what WebDAV, SFTP and a mounted disk have in common.
//!
//! The file `snapshot.db.json` describes `snapshot.db`. Two files cannot change at one instant, so the description names the
//! new content *and* the one before, and is renamed first: whatever a crash leaves, the content that has the name is described.
//! Unfinished files are called `<name>.<id>.tmp`. An upload ends with renaming its own: a later uploader removes all of them
//! before it begins, so that no earlier upload can end any more, however late it wakes up.

use super::pour::Intake;
use super::{Backend, Error, Label, Seal, Stored, Upload, is_snapshot, is_upload_id, upload_id};
use crate::base::digest::{Hashing, hex_sha256, same_digest};
use crate::base::{limits, retry::Tries};
use serde_json::{Map, Value, json};
use std::io::{self, Read, Write};

/// Labels in a description: that of the present content, and of those before it.
const LABELS: usize = 4;

/// A file in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// What is written. It can be read several times, for a write that is tried again.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    Bytes(&'a [u8]),
    /// The file of an upload.
    File(&'a Upload<'a>),
}

impl<'a> Source<'a> {
    /// Bytes.
    pub fn length(&self) -> u64 {
        match self {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::File(upload) => upload.label.size,
        }
    }

    /// Reads it from its beginning.
    pub fn open(&self) -> Result<Box<dyn Read + 'a>, Error> {
        Ok(match self {
            Source::Bytes(bytes) => Box::new(*bytes),
            Source::File(upload) => Box::new(upload.piece(0, upload.label.size)?),
        })
    }
}

/// A directory of files on some server. Names are single components.
pub trait Tree: Send + Sync {
    /// What it is, for messages; without secrets.
    fn describe(&self) -> String;
    /// Creates the directory and those above it.
    fn make_dirs(&self) -> Result<(), Error>;
    /// The files of the directory; one that is not there has none.
    fn list(&self) -> Result<Vec<Entry>, Error>;
    /// Bytes of a file; `None` when there is no such file.
    fn size(&self, name: &str) -> Result<Option<u64>, Error>;
    /// Writes a new file and makes it durable where the server can.
    fn write(&self, name: &str, source: Source<'_>) -> Result<(), Error>;
    /// Reads a file.
    fn read(&self, name: &str, sink: &mut dyn Write) -> Result<(), Error>;
    /// Whether [`Tree::rename`] replaces what has the new name at one instant, and leaves it alone when the file to rename is
    /// gone.
    fn replaces(&self) -> Result<bool, Error>;
    /// Renames a file; `NotFound` when it is gone.
    fn rename(&self, from: &str, to: &str) -> Result<(), Error>;
    /// Gives a copy of a file another name.
    fn copy(&self, from: &str, to: &str) -> Result<(), Error>;
    /// Removes a file; one that is not there is no error.
    fn remove(&self, name: &str) -> Result<(), Error>;
}

/// The store in a directory.
pub struct Files<T> {
    pub tree: T,
    /// Whether every upload is read back before it gets its name.
    pub read_back: bool,
}

/// The name of the old file during a switch on a server that cannot replace one.
fn previous(name: &str) -> String {
    format!("{name}.previous")
}

fn description_name(name: &str) -> String {
    format!("{name}.json")
}

fn temporary(name: &str) -> String {
    format!("{name}.{}.tmp", upload_id())
}

/// `{"snapshots": [<label>, ...], "check": "<SHA-256 of the list's text, in hex>"}`. The content is checked against this text,
/// so a damaged text must be noticed.
fn description(labels: &[Label]) -> Vec<u8> {
    let objects = labels.iter().map(|label| {
        let pairs = label.pairs().into_iter().map(|(key, value)| (key.to_owned(), Value::String(value)));
        Value::Object(pairs.collect::<Map<_, _>>())
    });
    let list = Value::Array(objects.collect());
    let check = hex_sha256(list.to_string().as_bytes());
    json!({ "snapshots": list, "check": check }).to_string().into_bytes()
}

/// The labels of a description; `None` when it is damaged.
fn labels(bytes: &[u8]) -> Option<Vec<Label>> {
    let top: Value = serde_json::from_slice(bytes).ok()?;
    let list = top.get("snapshots")?;
    if top.get("check")?.as_str()? != hex_sha256(list.to_string().as_bytes()) {
        return None;
    }
    let label = |object: &Value| {
        let pairs = object.as_object()?.iter().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)));
        Some(Label::from_pairs(pairs))
    };
    list.as_array()?.iter().map(label).collect()
}

/// Takes a short file into memory, and fails when it turns out to be a long one.
#[derive(Default)]
struct Short {
    bytes: Vec<u8>,
    is_long: bool,
}

impl Write for Short {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + bytes.len()) as u64 > limits::HTTP_TEXT {
            self.is_long = true;
            return Err(io::Error::other("longer than a megabyte"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a name is that of a snapshot or of its description.
fn is_ours(name: &str) -> bool {
    is_snapshot(name.strip_suffix(".json").unwrap_or(name))
}

/// Whether a name is that of an unfinished file of an upload, or of a trial of the server. Nobody else's file may be removed.
fn is_temporary(name: &str) -> bool {
    let Some(name) = name.strip_suffix(".tmp") else { return false };
    match name.strip_prefix("snapshot-probe.") {
        Some(probe) => is_upload_id(probe.strip_suffix("-missing").unwrap_or(probe)),
        None => name.rsplit_once('.').is_some_and(|(name, id)| is_ours(name) && is_upload_id(id)),
    }
}

impl<T: Tree> Files<T> {
    /// The labels of a snapshot; [`Error::Damaged`] when its description is.
    fn labels(&self, name: &str) -> Result<Vec<Label>, Error> {
        let name = description_name(name);
        for name in [&name, &previous(&name)] {
            let mut text = Short::default();
            let damaged = || Error::Damaged(format!("its description is damaged ({name})"));
            match self.tree.read(name, &mut text) {
                Ok(()) => return labels(&text.bytes).ok_or_else(damaged),
                Err(Error::NotFound) => {}
                Err(Error::Damaged(_)) => return Err(damaged()),
                Err(_) if text.is_long => return Err(damaged()),
                Err(error) => return Err(error),
            }
        }
        Ok(vec![])
    }

    /// Takes the newest label of this size. During a switch that may be a wrong one: the others go with it, and the digest of
    /// the content decides. A snapshot with a damaged description is refused, and keeps nobody from the others, nor from
    /// replacing it.
    fn stored(&self, name: &str, file: String, size: u64) -> Result<Stored, Error> {
        let stored = Stored { name: name.to_owned(), size, version: file, ..Stored::default() };
        let found = match self.labels(name) {
            // It may have been replaced while it was read.
            Err(Error::Damaged(_)) => self.labels(name),
            found => found,
        };
        let mut fitting = match found {
            Err(Error::Damaged(why)) => {
                return Ok(Stored { seal: Seal::Refused(format!("{why}: it is not taken")), ..stored });
            }
            found => found?.into_iter().filter(|label| label.size == size),
        };
        let label = fitting.next().unwrap_or_default();
        Ok(Stored { label, other_labels: fitting.collect(), ..stored })
    }

    /// Writes a temporary file. Afterwards it is there and whole, or gone.
    fn write_checked(&self, name: &str, source: Source<'_>, tries: &Tries<'_>) -> Result<(), Error> {
        let written = tries.step(&format!("write {name}"), |_| self.tree.write(name, source));
        let result = written.and_then(|()| self.check(name, source, tries));
        if result.is_err() {
            let _ = self.tree.remove(name);
        }
        result
    }

    fn check(&self, name: &str, source: Source<'_>, tries: &Tries<'_>) -> Result<(), Error> {
        let expected = source.length();
        match self.size(name, tries)? {
            Some(size) if size == expected => {}
            Some(size) => {
                return Err(Error::Transient(format!("the store holds {size} bytes of {expected}")));
            }
            None => return Err(Error::Transient("the store took the file, and does not have it".to_owned())),
        }
        if self.read_back
            && let Source::File(upload) = source
        {
            let (size, digest) = tries.step(&format!("read back {name}"), |tries| {
                let mut intake = Intake::new(Hashing::new(io::sink()), expected, tries.stop(), &|_| {});
                let read = self.tree.read(name, &mut intake);
                let hashing = intake.finish(read)?;
                Ok::<_, Error>((hashing.size, hashing.digest()))
            })?;
            if size != expected || !same_digest(&digest, &upload.label.digest) {
                return Err(Error::Transient("the store gives back other bytes than it got".to_owned()));
            }
        }
        Ok(())
    }

    fn size(&self, name: &str, tries: &Tries<'_>) -> Result<Option<u64>, Error> {
        tries.step(&format!("look at {name}"), |_| self.tree.size(name))
    }

    /// Gives a finished file its name. It is this step alone that is tried again, not the upload before it.
    ///
    /// A file that is gone at the first try was removed by a later uploader: the upload is over. At a later try it may be gone
    /// because the rename was done and its answer lost. Then the store's look at what has the name in the end tells which.
    fn switch(&self, from: &str, to: &str, tries: &Tries<'_>) -> Result<(), Error> {
        let what = format!("rename to {to}");
        let replaces = tries.step(&what, |_| self.tree.replaces())?;
        let mut tried = 0;
        let renamed = tries.step(&what, |_| {
            tried += 1;
            if replaces { self.tree.rename(from, to) } else { self.set_aside(from, to) }
        });
        match renamed {
            Ok(()) => {}
            Err(Error::NotFound) if tried > 1 => return Ok(()),
            Err(Error::NotFound) => {
                return Err(Error::Permanent("a later upload removed this one's files".to_owned()));
            }
            Err(error) => return Err(error.at(what)),
        }
        match self.size(from, tries)? {
            None => Ok(()),
            Some(_) => Err(Error::Transient(format!("the store says it renamed to {to}, and did not"))),
        }
    }

    /// Switches on a server whose rename cannot replace a file, or deletes the target before it looks for the source. The old
    /// file has another name meanwhile, where readers look for it too.
    fn set_aside(&self, from: &str, to: &str) -> Result<(), Error> {
        let aside = previous(to);
        if self.tree.size(from)?.is_none() {
            return Err(Error::NotFound);
        }
        if self.tree.size(to)?.is_some() {
            self.tree.remove(&aside)?;
            self.tree.rename(to, &aside)?;
        }
        if let Err(error) = self.tree.rename(from, to) {
            if self.tree.size(to)?.is_none() && self.tree.size(&aside)?.is_some() {
                self.tree.rename(&aside, to)?;
            }
            return Err(error);
        }
        // If this fails, the next upload sweeps the file away.
        let _ = self.tree.remove(&aside);
        Ok(())
    }

    /// Writes both files of an upload under temporary names, and asks whether they may be switched.
    fn write_files(&self, upload: &Upload<'_>, data: &str, text: &str) -> Result<(), Error> {
        let tries = upload.tries;
        self.write_checked(data, Source::File(upload), tries)?;
        let mut all = vec![upload.label.clone()];
        let known = match tries.step("read the description", |_| self.labels(upload.name)) {
            // The new description replaces the damaged one, together with the snapshot that it described.
            Err(Error::Damaged(_)) => vec![],
            other => other?,
        };
        let known = known.into_iter().filter(|known| known.digest != upload.label.digest);
        all.extend(known.take(LABELS - 1));
        self.write_checked(text, Source::Bytes(&description(&all)), tries)?;
        (upload.may_switch)()
    }

    fn remove_both(&self, data: &str, text: &str) {
        for left in [data, text] {
            let _ = self.tree.remove(left);
        }
    }
}

impl<T: Tree> Backend for Files<T> {
    fn describe(&self) -> String {
        self.tree.describe()
    }

    fn compares(&self) -> bool {
        self.read_back
    }

    fn prepare(&self) -> Result<(), Error> {
        self.tree.make_dirs()
    }

    fn stat(&self, name: &str) -> Result<Option<Stored>, Error> {
        if let Some(size) = self.tree.size(name)? {
            return self.stored(name, name.to_owned(), size).map(Some);
        }
        let previous = previous(name);
        match self.tree.size(&previous)? {
            Some(size) => self.stored(name, previous, size).map(Some),
            None => Ok(None),
        }
    }

    fn list(&self) -> Result<Vec<Stored>, Error> {
        let mut snapshots = self.tree.list()?;
        snapshots.retain(|entry| is_snapshot(&entry.name));
        // Each description is a request of its own.
        if snapshots.len() > limits::SNAPSHOTS {
            return Err(Error::Permanent(format!(
                "the directory holds more than {} snapshots",
                limits::SNAPSHOTS
            )));
        }
        snapshots.into_iter().map(|entry| self.stored(&entry.name, entry.name.clone(), entry.size)).collect()
    }

    fn put(&self, upload: &Upload<'_>) -> Result<(), Error> {
        let (name, tries) = (upload.name, upload.tries);
        let (data, text) = (temporary(name), temporary(&description_name(name)));
        let mut result = self.write_files(upload, &data, &text);
        let mut is_untouched = result.is_err();
        if result.is_ok() {
            result = self.switch(&text, &description_name(name), tries);
            is_untouched = result.is_err() && matches!(self.tree.size(&text), Ok(Some(_)));
        }
        if is_untouched {
            self.remove_both(&data, &text);
        }
        // If the description was replaced and the content is not, the content stays under its temporary name: the next uploader
        // sees that an upload was interrupted, and does not trust the description.
        result?;
        self.switch(&data, name, tries)
    }

    fn get(&self, stored: &Stored, sink: &mut dyn Write) -> Result<(), Error> {
        self.tree.read(&stored.version, sink)
    }

    fn copy(&self, stored: &Stored, name: &str, tries: &Tries<'_>) -> Result<(), Error> {
        let (data, text) = (temporary(name), description_name(name));
        let text_temporary = temporary(&text);
        let labels: Vec<Label> = [&stored.label].into_iter().chain(&stored.other_labels).cloned().collect();
        let result = tries
            .step("copy", |_| self.tree.copy(&stored.version, &data))
            .and_then(|()| self.write_checked(&text_temporary, Source::Bytes(&description(&labels)), tries))
            .and_then(|()| self.switch(&text_temporary, &text, tries))
            .and_then(|()| self.switch(&data, name, tries));
        if result.is_err() {
            self.remove_both(&data, &text_temporary);
        }
        result
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        self.tree.remove(name)?;
        self.tree.remove(&description_name(name))
    }

    fn sweep(&self) -> Result<usize, Error> {
        let mut swept = 0;
        let entries = self.tree.list()?;
        let present = |name: &str| entries.iter().any(|entry| entry.name == name);
        for entry in &entries {
            if is_temporary(&entry.name) {
                self.tree.remove(&entry.name)?;
                swept += 1;
            } else if let Some(name) = entry.name.strip_suffix(".previous").filter(|name| is_ours(name)) {
                if present(name) {
                    self.tree.remove(&entry.name)?;
                } else {
                    self.tree.rename(&entry.name, name)?;
                }
                swept += 1;
            }
        }
        Ok(swept)
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
