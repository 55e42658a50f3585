//! Snapshots in a directory of files, wherever it lies: the part that WebDAV, SFTP and a mounted disk share.
//!
//! Beside `snapshot.db` stands `snapshot.db.json`, which describes it. Two files cannot change at one instant, so the
//! description names the new content *and* the one before, and is renamed first: whatever a crash leaves, the content that
//! stands under the name is described. Files in the making are called `<name>.<id>.tmp`. Renaming needs them to be there:
//! a later uploader, who removes them first, thereby ends every earlier upload, however late it wakes up.

use super::{Backend, Error, Label, Stored, Upload, is_snapshot, upload_id};
use crate::base::digest::{Hashing, hex_sha256, same_digest};
use crate::base::{limits, retry::Backoff, stop};
use serde_json::{Map, Value, json};
use std::io::{self, Read, Write};

/// Labels kept in a description: the present content's and those before it.
const LABELS: usize = 4;

/// A file in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// What is written: it may be needed a second time.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// Bytes at hand.
    Bytes(&'a [u8]),
    /// A file.
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

    /// From the beginning.
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
    /// Creates the directory, with those above it.
    fn make_dirs(&self) -> Result<(), Error>;
    /// Its files; a directory that is not there has none.
    fn list(&self) -> Result<Vec<Entry>, Error>;
    /// Bytes of a file; `None`: not there.
    fn size(&self, name: &str) -> Result<Option<u64>, Error>;
    /// Writes a new file and makes it durable where the server can.
    fn write(&self, name: &str, source: Source<'_>) -> Result<(), Error>;
    /// Reads a file.
    fn read(&self, name: &str, sink: &mut dyn Write) -> Result<(), Error>;
    /// Whether [`Tree::rename`] replaces what has the name at one instant, and leaves it alone when there is nothing to
    /// rename.
    fn replaces(&self) -> Result<bool, Error>;
    /// Renames a file; `NotFound` when it is gone.
    fn rename(&self, from: &str, to: &str) -> Result<(), Error>;
    /// Copies a file.
    fn copy(&self, from: &str, to: &str) -> Result<(), Error>;
    /// Removes a file; one that is not there is no error.
    fn remove(&self, name: &str) -> Result<(), Error>;
}

/// The store in a directory.
pub struct Files<T> {
    /// The directory.
    pub tree: T,
    /// Read every upload back before it gets its name.
    pub read_back: bool,
}

/// Where the old file lies while one that a server cannot replace is switched.
pub fn previous(name: &str) -> String {
    format!("{name}.previous")
}

fn description_name(name: &str) -> String {
    format!("{name}.json")
}

fn temporary(name: &str) -> String {
    format!("{name}.{}.tmp", upload_id())
}

/// `{"snapshots": [<label>, ...], "check": "<SHA-256 of the list's text, in hex>"}`: content is trusted by this text, so
/// the text must prove itself.
fn description(labels: &[Label]) -> Vec<u8> {
    let objects = labels.iter().map(|label| {
        let pairs = label.pairs().into_iter().map(|(key, value)| (key.to_owned(), Value::String(value)));
        Value::Object(pairs.collect::<Map<_, _>>())
    });
    let list = Value::Array(objects.collect());
    let check = hex_sha256(list.to_string().as_bytes());
    json!({ "snapshots": list, "check": check }).to_string().into_bytes()
}

/// Reads a description; `None` when it is not what was written.
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

/// The text of a short file.
struct Short(Vec<u8>);

impl Write for Short {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.0.len() + bytes.len()) as u64 > limits::HTTP_TEXT {
            return Err(io::Error::other("a description longer than a megabyte"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T: Tree> Files<T> {
    fn labels(&self, name: &str) -> Result<Vec<Label>, Error> {
        let name = description_name(name);
        for name in [&name, &previous(&name)] {
            let mut text = Short(vec![]);
            match self.tree.read(name, &mut text) {
                Ok(()) => {
                    return labels(&text.0).ok_or_else(|| Error::Damaged(format!("{name} is damaged")));
                }
                Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(vec![])
    }

    /// The label is that of the newest description with this size, which is right but for the moment of a switch.
    fn stored(&self, name: &str, file: String, size: u64) -> Result<Stored, Error> {
        let mut fitting = self.labels(name)?.into_iter().filter(|label| label.size == size);
        let label = fitting.next().unwrap_or_default();
        Ok(Stored { name: name.to_owned(), size, version: file, label, other_labels: fitting.collect() })
    }

    /// Writes a temporary file; it is there, whole, or gone.
    fn write_checked(&self, name: &str, source: Source<'_>) -> Result<(), Error> {
        let result =
            self.again(name, || self.tree.write(name, source)).and_then(|()| self.check(name, source));
        if result.is_err() {
            let _ = self.tree.remove(name);
        }
        result
    }

    fn check(&self, name: &str, source: Source<'_>) -> Result<(), Error> {
        let expected = source.length();
        match self.again(name, || self.tree.size(name))? {
            Some(size) if size == expected => {}
            Some(size) => {
                return Err(Error::Transient(format!("the store holds {size} bytes of {expected}")));
            }
            None => return Err(Error::Transient("the store took the file, and does not have it".to_owned())),
        }
        if self.read_back
            && let Source::File(upload) = source
        {
            let mut hashing = Hashing::new(io::sink());
            self.tree.read(name, &mut hashing)?;
            if hashing.size != expected || !same_digest(&hashing.digest(), &upload.label.digest) {
                return Err(Error::Transient("the store gives back other bytes than it got".to_owned()));
            }
        }
        Ok(())
    }

    /// Gives a finished file its name. A rename whose source is gone was made impossible by a later uploader; or it was done,
    /// and its answer got lost: then the next step, or the look at what stands there in the end, tells which.
    fn switch(&self, from: &str, to: &str) -> Result<(), Error> {
        let atomic = self.again(to, || self.tree.replaces())?;
        let mut tries = 0;
        let renamed = self.again(to, || {
            tries += 1;
            if atomic { self.tree.rename(from, to) } else { self.set_aside(from, to) }
        });
        match renamed {
            Ok(()) => {}
            Err(Error::NotFound) if tries > 1 => return Ok(()),
            Err(Error::NotFound) => {
                return Err(Error::Permanent("a later upload removed this one's files".to_owned()));
            }
            Err(error) => return Err(error.at(format!("rename to {to}"))),
        }
        match self.again(from, || self.tree.size(from))? {
            None => Ok(()),
            Some(_) => Err(Error::Transient(format!("the store says it renamed to {to}, and did not"))),
        }
    }

    /// On a server whose rename cannot replace, or deletes the target before it looks at the source: the old file stands
    /// under another name meanwhile, where readers look too.
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
        // What is left of it, the next upload sweeps.
        let _ = self.tree.remove(&aside);
        Ok(())
    }

    fn again<R>(&self, what: &str, mut step: impl FnMut() -> Result<R, Error>) -> Result<R, Error> {
        let mut backoff = Backoff::default();
        let mut tries = 1;
        loop {
            match step() {
                Err(Error::Transient(why)) if tries < limits::STORE_TRIES => {
                    tries += 1;
                    log::debug!("{}: {what}: {why}; trying again", self.tree.describe());
                    stop::pause(backoff.pause());
                }
                other => return other,
            }
        }
    }

    fn put_files(&self, upload: &Upload<'_>, data: &str, text: &str) -> Result<(), Error> {
        self.write_checked(data, Source::File(upload))?;
        let label = Label { verified: self.read_back, ..upload.label.clone() };
        let mut all = vec![label];
        let known = match self.labels(upload.name) {
            // It goes with the snapshot that it describes.
            Err(Error::Damaged(_)) => vec![],
            other => other?,
        };
        let known = known.into_iter().filter(|known| known.digest != upload.label.digest);
        all.extend(known.take(LABELS - 1));
        self.write_checked(text, Source::Bytes(&description(&all)))?;
        upload.ask()?;
        self.switch(text, &description_name(upload.name))?;
        self.switch(data, upload.name)
    }
}

impl<T: Tree> Backend for Files<T> {
    fn describe(&self) -> String {
        self.tree.describe()
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
        let entries = self.tree.list()?;
        let snapshots = entries.into_iter().filter(|entry| is_snapshot(&entry.name));
        snapshots.map(|entry| self.stored(&entry.name, entry.name.clone(), entry.size)).collect()
    }

    fn put(&self, upload: &Upload<'_>) -> Result<(), Error> {
        let (data, text) = (temporary(upload.name), temporary(&description_name(upload.name)));
        let result = self.put_files(upload, &data, &text);
        if result.is_err() {
            for left in [&data, &text] {
                let _ = self.tree.remove(left);
            }
        }
        result
    }

    fn get(&self, stored: &Stored, sink: &mut dyn Write) -> Result<(), Error> {
        self.tree.read(&stored.version, sink)
    }

    fn copy(&self, stored: &Stored, name: &str) -> Result<(), Error> {
        let (data, text) = (temporary(name), description_name(name));
        let text_temporary = temporary(&text);
        let labels: Vec<Label> = [&stored.label].into_iter().chain(&stored.other_labels).cloned().collect();
        let result = self
            .tree
            .copy(&stored.version, &data)
            .and_then(|()| self.write_checked(&text_temporary, Source::Bytes(&description(&labels))))
            .and_then(|()| self.switch(&text_temporary, &text))
            .and_then(|()| self.switch(&data, name));
        if result.is_err() {
            for left in [&data, &text_temporary] {
                let _ = self.tree.remove(left);
            }
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
            if entry.name.starts_with("snapshot") && entry.name.ends_with(".tmp") {
                self.tree.remove(&entry.name)?;
                swept += 1;
            } else if let Some(name) = entry.name.strip_suffix(".previous") {
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
mod tests {
    use super::*;

    #[test]
    fn descriptions_and_back() {
        let one = Label { digest: "SHA-256=a".into(), size: 5, node: 3, ..Label::default() };
        let two = Label { digest: "SHA-256=b".into(), size: 5, ..Label::default() };
        let text = description(&[one.clone(), two.clone()]);
        assert_eq!(labels(&text), Some(vec![one, two]));
        for garbage in ["", "[]", "{\"snapshots\": 3}", "{\"snapshots\":[3]}", "\u{0}"] {
            assert_eq!(labels(garbage.as_bytes()), None);
        }
        for at in 0..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            assert_eq!(labels(&damaged), None, "byte {at}");
        }
        assert!(is_snapshot("snapshot.db") && is_snapshot("snapshot-20261124T131500Z.db"));
        assert!(!is_snapshot("snapshot.db.json") && !is_snapshot(&temporary("snapshot.db")));
    }
}
