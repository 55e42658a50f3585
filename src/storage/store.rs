//! What is the same for every store: tries again what may succeed, checks what it reads and what it wrote, keeps older
//! generations, never replaces a newer snapshot by an older one.

use super::{Backend, Error, Label, Stored, Upload};
use crate::base::digest::{Hashing, same_digest};
use crate::base::{clock, limits, retry::Backoff, stop::Stop};
use crate::storage::pack::{Key, Unpack};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How long a caller wants to go on trying.
#[derive(Clone)]
pub struct Patience {
    /// Tries of each step.
    pub tries: u32,
    /// Ends the pauses between them.
    pub stop: Option<Stop>,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { tries: limits::STORE_TRIES, stop: None }
    }
}

/// A store, and the rules for using it.
pub struct Store {
    backend: Box<dyn Backend>,
    patience: Patience,
}

impl Store {
    /// Uses `backend`.
    pub fn new(backend: Box<dyn Backend>, patience: Patience) -> Store {
        Store { backend, patience }
    }

    /// What it is, for messages; without secrets.
    pub fn describe(&self) -> String {
        self.backend.describe()
    }

    /// The backend itself: single steps, for tests.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// The snapshot of a name; `None` when there is none.
    pub fn stat(&self, name: &str) -> Result<Option<Stored>, Error> {
        match self.again("look", || self.backend.stat(name)) {
            Err(Error::NotFound) => Ok(None),
            other => other,
        }
    }

    /// All snapshots: the current one, then the older ones, newest first.
    pub fn list(&self) -> Result<Vec<Stored>, Error> {
        let mut found = match self.again("list", || self.backend.list()) {
            Err(Error::NotFound) => vec![],
            other => other?,
        };
        found.sort_by(|a, b| {
            let rank = |stored: &Stored| stored.name != limits::SNAPSHOT_NAME;
            rank(a).cmp(&rank(b)).then_with(|| b.name.cmp(&a.name))
        });
        Ok(found)
    }

    /// Makes ready for uploads: what must exist is created, unfinished uploads of others are ended. Returns how many there
    /// were. The caller holds the upload lease.
    pub fn prepare(&self) -> Result<usize, Error> {
        self.again("prepare", || self.backend.prepare())?;
        let swept = self.again("sweep", || self.backend.sweep())?;
        if swept > 0 {
            log::info!("{}: removed what {swept} unfinished uploads left", self.describe());
        }
        Ok(swept)
    }

    /// Stores a file as the current snapshot; `keep - 1` older ones stay under dated names. The caller holds the upload
    /// lease and has called [`Store::prepare`]; `may_switch` says whether it still does.
    pub fn save(
        &self,
        label: &Label,
        path: &Path,
        keep: u64,
        progress: &(dyn Fn(u64) + Sync),
        may_switch: &(dyn Fn() -> Result<(), String> + Sync),
    ) -> Result<Stored, Error> {
        let name = limits::SNAPSHOT_NAME;
        let current = self.stat(name)?;
        not_newer(current.as_ref(), label)?;
        if keep > 1
            && let Some(current) = &current
        {
            match self.archive(current) {
                // A new snapshot is worth more than a kept one.
                Err(Error::Permanent(why)) => {
                    log::warn!("{}: the last snapshot is not kept: {why}", self.describe());
                }
                result => result.map_err(|error| error.at("keep the last snapshot"))?,
            }
        }
        let ask = || {
            may_switch()?;
            let current = self.stat(name).map_err(|error| error.to_string())?;
            not_newer(current.as_ref(), label).map_err(|error| error.to_string())
        };
        let stored = self.again("upload", || {
            let sent = AtomicU64::new(0);
            let sent = |count: u64| progress(sent.fetch_add(count, Relaxed) + count);
            let upload = Upload { name, label, path, sent: &sent, may_switch: &ask };
            let result = self.backend.put(&upload);
            // An answer may get lost on its way although the work was done.
            match (result, self.stat(name)) {
                (_, Ok(Some(found))) if found.size == label.size && is(&found, label) => Ok(found),
                (Err(error), _) => Err(error),
                (Ok(()), Ok(_)) => Err(Error::Transient(
                    "the store says that it has the snapshot, and shows another".to_owned(),
                )),
                (Ok(()), Err(error)) => Err(error),
            }
        })?;
        if let Err(error) = self.prune(keep) {
            log::warn!("{}: remove old snapshots: {error}", self.describe());
        }
        Ok(stored)
    }

    /// Keeps the current snapshot under the name of its time.
    fn archive(&self, current: &Stored) -> Result<(), Error> {
        let time = if current.label.time_ms > 0 { current.label.time_ms } else { clock::unix_ms() };
        let name = format!("snapshot-{}.db", clock::compact(time));
        self.again("copy", || {
            // Tried before: the answer was lost, or the upload after it failed.
            if self.backend.stat(&name)?.is_some_and(|kept| is(&kept, &current.label)) {
                return Ok(());
            }
            self.backend.copy(current, &name)
        })
    }

    fn prune(&self, keep: u64) -> Result<(), Error> {
        let older = self.list()?.into_iter().filter(|stored| stored.name != limits::SNAPSHOT_NAME);
        for old in older.skip(usize::try_from(keep.saturating_sub(1)).unwrap_or(usize::MAX)) {
            self.again("remove", || self.backend.remove(&old.name))?;
        }
        Ok(())
    }

    /// Reads the snapshot of a name into a file, unpacked on its way, and checks size and digest. Returns what it turned out
    /// to be: with another label than `wanted` if it was replaced meanwhile.
    pub fn fetch(
        &self,
        wanted: &Stored,
        file: &File,
        key: Option<&Key>,
        progress: &dyn Fn(u64),
    ) -> Result<Stored, Error> {
        let mut first = Some(wanted.clone());
        self.again("download", || {
            let stored = match first.take() {
                Some(wanted) => wanted,
                None => self.backend.stat(&wanted.name)?.ok_or(Error::NotFound)?,
            };
            let failed = |error: io::Error| Error::Permanent(format!("write: {error}"));
            let mut target = file;
            target.set_len(0).and_then(|()| target.seek(SeekFrom::Start(0))).map_err(failed)?;
            let unpack = Unpack::new(BufWriter::with_capacity(limits::OBJECT_CHUNK, target), key);
            let mut sink = Hashing::new(Counted { inner: unpack, count: 0, progress });
            self.backend.get(&stored, &mut sink)?;
            let (size, digest) = (sink.size, sink.digest());
            let unpacked = sink.into_inner().inner.finish().map_err(failed)?;
            let stored = identify(stored, size, &digest)?;
            unpacked.map_err(Error::Unreadable)?;
            target.sync_all().map_err(failed)?;
            Ok(stored)
        })
    }

    /// Tries again what may succeed.
    fn again<R>(&self, what: &str, mut step: impl FnMut() -> Result<R, Error>) -> Result<R, Error> {
        let mut backoff = Backoff::default();
        let mut tries = 1;
        loop {
            match step() {
                // Replaced while it was read, perhaps: once more.
                Err(Error::Damaged(_)) if tries == 1 => tries += 1,
                Err(Error::Transient(why)) if tries < self.patience.tries => {
                    log::debug!("{}: {what}: {why}; trying again", self.describe());
                    let pause = backoff.pause();
                    match &self.patience.stop {
                        Some(stop) if stop.wait(pause) => return Err(Error::Transient(why)),
                        Some(_) => {}
                        None => crate::base::stop::pause(pause),
                    }
                    tries += 1;
                }
                Err(Error::Transient(why)) if tries > 1 => {
                    return Err(Error::Transient(format!("{why} (after {tries} tries)")));
                }
                other => return other,
            }
        }
    }
}

/// Whether a stored snapshot is the one that a label describes.
fn is(stored: &Stored, label: &Label) -> bool {
    same_digest(&stored.label.digest, &label.digest) && stored.label.time_ms == label.time_ms
}

fn not_newer(current: Option<&Stored>, label: &Label) -> Result<(), Error> {
    match current {
        Some(current) if current.label.is_newer_than(label) => Err(Error::Permanent(format!(
            "the store holds a newer snapshot, of node {}: it stays",
            current.label.node
        ))),
        _ => Ok(()),
    }
}

/// Compares what was read with what was announced.
fn identify(stored: Stored, size: u64, digest: &str) -> Result<Stored, Error> {
    if !stored.label.digest.is_empty() && stored.label.size != stored.size {
        return Err(Error::Damaged(format!("{} bytes are there of {}", stored.size, stored.label.size)));
    }
    if size != stored.size {
        return Err(Error::Transient(format!("{size} bytes came of {}", stored.size)));
    }
    // A Go node's: nothing was announced.
    if stored.label.digest.is_empty() || same_digest(&stored.label.digest, digest) {
        return Ok(stored);
    }
    match stored.other_labels.iter().find(|label| same_digest(&label.digest, digest)) {
        Some(label) => Ok(Stored { label: label.clone(), other_labels: vec![], ..stored }),
        None => {
            Err(Error::Damaged(format!("the content has {digest}, announced was {}", stored.label.digest)))
        }
    }
}

/// Tells of every piece.
struct Counted<'a, W> {
    inner: W,
    count: u64,
    progress: &'a dyn Fn(u64),
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.count += count as u64;
        (self.progress)(self.count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
