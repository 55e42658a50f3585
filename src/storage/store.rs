//! What is the same for every store: it tries again what may succeed, checks what it reads and what it wrote, keeps older
//! generations, and never replaces a newer snapshot by an older one. Every label passes the check of its seal here, before
//! anybody reads it.

use super::pack::{Bound, Terms, Unpack};
use super::pour::Intake;
use super::{Backend, Error, Label, Seal, Seals, Stored, Upload, dated_name, is_snapshot};
use crate::base::digest::{Hashing, same_digest};
use crate::base::retry::{Retry, Tries};
use crate::base::{self, clock, limits};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// A store, and the rules for using it. Each of its operations has one budget of tries.
pub struct Store {
    backend: Box<dyn Backend>,
    retry: Retry,
    seals: Seals,
}

/// A file that is to become the current snapshot.
#[derive(Clone, Copy)]
pub struct Candidate<'a> {
    /// Describes the file; its size and digest are those of the file.
    pub label: &'a Label,
    /// Where the file lies.
    pub path: &'a Path,
}

impl Store {
    /// Uses a backend. `retry`: how each operation is tried again. Nothing is sealed, and every label believed.
    pub fn new(backend: Box<dyn Backend>, retry: Retry) -> Store {
        Store { backend, retry, seals: Seals::default() }
    }

    /// The same with seals on its labels.
    pub fn with_seals(self, seals: Seals) -> Store {
        Store { seals, ..self }
    }

    /// Whether a snapshot has the seal that this node's uploads have. Without a key there is none.
    pub fn is_sealed(&self, stored: &Stored) -> bool {
        self.seals.are_whole(stored)
    }

    /// A label's `content` as it is written down: with a key it tells those without the key nothing.
    pub fn veiled(&self, content: &str) -> String {
        self.seals.veiled(content)
    }

    /// What it is, for messages; without secrets.
    pub fn describe(&self) -> String {
        self.backend.describe()
    }

    /// The backend itself, for tests of its single steps.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// The snapshot of a name; `None` when there is none. One that this node must not take is there, and [`Stored::refused`].
    pub fn stat(&self, name: &str) -> Result<Option<Stored>, Error> {
        self.glance("look", |_| self.look(name))
    }

    /// Whether the store answers and lets us in, and the current snapshot by its newest label alone: one request, tried once. An older
    /// label may be one that this node believes, and does not belong to what lies there.
    pub fn answers(&self) -> Result<Option<Stored>, Error> {
        let once = self.retry.clone().within(std::time::Duration::ZERO);
        let look = || match self.backend.stat(limits::SNAPSHOT_NAME) {
            Err(Error::NotFound) => Ok(None),
            found => Ok(found?.map(|stored| self.seals.judge(Stored { other_labels: vec![], ..stored }))),
        };
        self.run_with(&once, "look", |_| look())
    }

    /// All snapshots: the current one, then the older ones, newest first.
    pub fn list(&self) -> Result<Vec<Stored>, Error> {
        let found = match self.glance("list", |_| self.backend.list()) {
            Err(Error::NotFound) => vec![],
            other => other?,
        };
        let mut found: Vec<Stored> = found.into_iter().map(|stored| self.seals.judge(stored)).collect();
        found.sort_by(|a, b| {
            let rank = |stored: &Stored| stored.name != limits::SNAPSHOT_NAME;
            rank(a).cmp(&rank(b)).then_with(|| b.name.cmp(&a.name))
        });
        Ok(found)
    }

    /// Makes the store ready for uploads: creates what must exist, and ends the unfinished uploads of others. Returns how
    /// many of those there were. The caller holds the upload lease.
    pub fn prepare(&self) -> Result<usize, Error> {
        self.run("prepare", |_| self.backend.prepare())?;
        let swept = self.run("sweep", |_| self.backend.sweep())?;
        if swept > 0 {
            log::info!("{}: removed what {swept} unfinished uploads left", self.describe());
        }
        Ok(swept)
    }

    /// Stores a file as the current snapshot; `keep - 1` older ones stay under dated names. `progress` is told of the bytes
    /// that were sent. The caller holds the upload lease and has called [`Store::prepare`]; `may_switch` says whether it
    /// still holds that lease.
    pub fn save(
        &self,
        candidate: Candidate<'_>,
        keep: u64,
        progress: &(dyn Fn(u64) + Sync),
        may_switch: &(dyn Fn() -> Result<(), base::Error> + Sync),
    ) -> Result<Stored, Error> {
        let name = limits::SNAPSHOT_NAME;
        let Candidate { label, path } = candidate;
        let label = &self.seals.seal(Label { verified: self.backend.compares(), ..label.clone() });
        let current = self.stat(name)?;
        not_newer(current.as_ref(), label)?;
        if keep > 1
            && let Some(current) = current.as_ref().filter(|current| current.refused().is_none())
        {
            match self.archive(current, label.time_ms) {
                // A new snapshot is worth more than a kept one.
                Err(Error::Permanent(why)) => {
                    log::warn!("{}: the last snapshot is not kept: {why}", self.describe());
                }
                result => result.map_err(|error| error.at("keep the last snapshot"))?,
            }
        }
        let may_have_switched = AtomicBool::new(false);
        let stored = self.run("upload", |tries| {
            let ask = || {
                may_switch().map_err(Error::MayNotSwitch)?;
                let current = tries.step("look", |_| self.look(name))?;
                not_newer(current.as_ref(), label)?;
                may_have_switched.store(true, Relaxed);
                Ok(())
            };
            // Each try sends the file from its beginning.
            let sent = AtomicU64::new(0);
            let sent = |count: u64| progress(sent.fetch_add(count, Relaxed) + count);
            let put = self.backend.put(&Upload { name, label, path, sent: &sent, may_switch: &ask, tries });
            match put {
                // The old content cannot have been replaced yet, so there is nothing to look for.
                Err(error) if !may_have_switched.load(Relaxed) => Err(error),
                Err(Error::Stopped) => Err(Error::Stopped),
                put => self.outcome(put, label, tries),
            }
        })?;
        if let Err(error) = self.prune(keep) {
            log::warn!("{}: remove old snapshots: {error}", self.describe());
        }
        Ok(stored)
    }

    /// What came of an upload, by what stands in the store: the answer to an upload that was done may have been lost.
    fn outcome(&self, put: Result<(), Error>, label: &Label, tries: &Tries<'_>) -> Result<Stored, Error> {
        let found = tries.step("look", |_| self.look(limits::SNAPSHOT_NAME));
        let shown = |found: &Stored| found.size == label.size && self.is_sealed(found) && is(found, label);
        match (put, found) {
            (Ok(()), Ok(Some(found))) if shown(&found) => Ok(found),
            // After a failure, a label that is one of several proves nothing: the description may have been replaced without
            // the content.
            (Err(_), Ok(Some(found))) if shown(&found) && found.other_labels.is_empty() => Ok(found),
            (Err(error), _) | (Ok(()), Err(error)) => Err(error),
            (Ok(()), Ok(_)) => {
                Err(Error::Transient("the store says that it has the snapshot, and shows another".to_owned()))
            }
        }
    }

    /// Keeps the current snapshot under the name of its time. `next_ms`: the time of the one that replaces it.
    fn archive(&self, current: &Stored, next_ms: i64) -> Result<(), Error> {
        let mut name = dated_name(current.label.time_ms);
        // A label without a seal may tell a time that no name can hold.
        if current.label.time_ms <= 0 || !is_snapshot(&name) {
            name = self.name_before(next_ms)?;
        }
        self.run("copy", |tries| {
            // It is there already when the answer to an earlier try was lost, or the upload after it failed.
            let kept = self.look(&name)?;
            if kept.is_some_and(|kept| self.is_sealed(&kept) && is(&kept, &current.label)) {
                return Ok(());
            }
            self.backend.copy(current, &name, tries)
        })
    }

    /// A free name for a snapshot of unknown age: a younger one's would push the next one, which is known to be good, out of those
    /// that are kept.
    fn name_before(&self, next_ms: i64) -> Result<String, Error> {
        let next_ms = if next_ms > 0 { next_ms } else { clock::unix_ms() };
        let names = (1..=16).map(|seconds| dated_name(next_ms.saturating_sub(seconds * 1_000)));
        let mut last = dated_name(next_ms);
        for name in names {
            last = name;
            if self.stat(&last)?.is_none() {
                break;
            }
        }
        Ok(last)
    }

    /// Removes the oldest snapshots, so that `keep` are left. Those that this node does not take are counted apart: whoever
    /// forges some pushes none of ours out, and none that a person may want is removed for being old-fashioned.
    fn prune(&self, keep: u64) -> Result<(), Error> {
        let older = self.list()?.into_iter().filter(|stored| stored.name != limits::SNAPSHOT_NAME);
        let (ours, refused): (Vec<_>, Vec<_>) = older.partition(|stored| stored.refused().is_none());
        let kept = usize::try_from(keep.saturating_sub(1)).unwrap_or(usize::MAX);
        for old in ours.into_iter().skip(kept).chain(refused.into_iter().skip(kept)) {
            self.run("remove", |_| self.backend.remove(&old.name))?;
        }
        Ok(())
    }

    /// Reads a snapshot into a file, unpacks it on its way, and checks size and digest. Of a snapshot whose label is not sealed
    /// at most `room` bytes are written. `progress` is told of the bytes that came. Returns what
    /// the snapshot turned out to be: its label is another one than that of `wanted` if it was replaced meanwhile.
    pub fn fetch(
        &self,
        wanted: &Stored,
        file: &File,
        room: u64,
        progress: &dyn Fn(u64),
    ) -> Result<Stored, Error> {
        let mut first = Some(wanted.clone());
        self.run("download", |tries| {
            let stored = match first.take() {
                Some(wanted) => wanted,
                None => self.look(&wanted.name)?.ok_or(Error::NotFound)?,
            };
            if let Some(why) = stored.refused() {
                return Err(Error::Unreadable(why.to_owned()));
            }
            let failed = |error: io::Error| Error::Local(format!("write: {error}"));
            let mut target = file;
            target.set_len(0).and_then(|()| target.seek(SeekFrom::Start(0))).map_err(failed)?;
            let terms = Terms {
                key: self.seals.key(),
                refuse_plain: self.seals.refuses_plain(),
                bound: bound(&stored, room),
            };
            let unpack = Unpack::new(BufWriter::with_capacity(limits::OBJECT_CHUNK, target), terms);
            let mut intake = Intake::new(Hashing::new(unpack), stored.size, tries.stop(), progress);
            let got = self.backend.get(&stored, &mut intake);
            let hashing = intake.finish(got)?;
            let stored = identify(stored, hashing.size, &hashing.digest())?;
            // Only now: what came whole and cannot be unpacked is no fault of the transfer.
            hashing.into_inner().finish()?;
            target.sync_all().map_err(failed)?;
            Ok(stored)
        })
    }

    fn look(&self, name: &str) -> Result<Option<Stored>, Error> {
        match self.backend.stat(name) {
            Err(Error::NotFound) => Ok(None),
            other => Ok(other?.map(|stored| self.seals.judge(stored))),
        }
    }

    /// As [`Store::run`] for an operation that only looks at names and labels: a store that stays silent is asked once.
    fn glance<R>(
        &self,
        what: &str,
        operation: impl FnMut(&Tries<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.run_with(&self.retry.clone().within(limits::LOOK_TRIES), what, operation)
    }

    /// Runs an operation with a budget of tries.
    pub(super) fn run<R>(
        &self,
        what: &str,
        operation: impl FnMut(&Tries<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.run_with(&self.retry, what, operation)
    }

    /// What turns out damaged is read once more: it may have been replaced while it
    /// was read.
    fn run_with<R>(
        &self,
        retry: &Retry,
        what: &str,
        mut operation: impl FnMut(&Tries<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut once_more = true;
        retry.run(&format!("{}: {what}", self.describe()), |tries| match operation(tries) {
            Err(Error::Damaged(_)) if std::mem::take(&mut once_more) => operation(tries),
            other => other,
        })
    }
}

/// Whether a stored snapshot is the one that a label describes.
fn is(stored: &Stored, label: &Label) -> bool {
    same_digest(&stored.label.digest, &label.digest) && stored.label.time_ms == label.time_ms
}

/// Whether a snapshot with this label may replace the current one.
fn not_newer(current: Option<&Stored>, label: &Label) -> Result<(), Error> {
    match current {
        Some(current) if current.label.is_newer_than(label) => Err(Error::Permanent(format!(
            "the store holds a newer snapshot, of node {}: it stays",
            current.label.node
        ))),
        _ => Ok(()),
    }
}

/// How much may come out of a snapshot. Who wrote a label without a seal is not known, so neither it nor what the store says
/// of itself can widen what the disk has to give.
fn bound(stored: &Stored, room: u64) -> Bound {
    match stored.label.plain {
        // Any of several labels may turn out to be the one that fits.
        plain
            if plain > 0
                && stored.other_labels.is_empty()
                && (stored.seal == Seal::Whole || plain <= room) =>
        {
            Bound::Announced(plain)
        }
        _ => Bound::Room(room),
    }
}

/// Compares what was read with what was announced, and chooses the label that fits.
fn identify(stored: Stored, size: u64, digest: &str) -> Result<Stored, Error> {
    if !stored.label.digest.is_empty() && stored.label.size != stored.size {
        return Err(Error::Damaged(format!("{} bytes are there of {}", stored.size, stored.label.size)));
    }
    if size != stored.size {
        return Err(Error::Transient(format!("{size} bytes came of {}", stored.size)));
    }
    // A Go node announces no digest.
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

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
