//! Looking for a snapshot that serves: the current one, or an older one that is kept. Each is checked before it is used,
//! and what is known of one that did not serve is remembered, so that it is not downloaded in vain again.

use super::Node;
use super::begin::{self, Begin};
use super::scratch::{about_copy, beside};
use super::transfer::fetch;
use super::tried::{Cause, Flaw, Missing, Patience, Requests, Tried};
use crate::base::error::{Context, Error, Kind};
use crate::base::limits;
use crate::base::temporary::Temporary;
use crate::cluster::wanted::{self, Wanted};
use crate::db;
use crate::model::positions::{Position, SeqMap};
use crate::storage::{Store, Stored};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// A snapshot that serves: downloaded, checked, and made this node's.
pub struct Found {
    file: Temporary,
    identity: String,
    /// What it is called in messages.
    pub name: String,
    size: u64,
    begun: Instant,
}

impl Found {
    /// The file into which it was downloaded.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Size, and the time since the download began, for messages.
    pub fn told(&self) -> String {
        format!("{} bytes in {:.1} s", self.size, self.begun.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
impl Found {
    /// As if this file had been downloaded and checked.
    pub fn of(file: Temporary) -> Found {
        let (identity, name) = ("SHA-256=x".to_owned(), "snapshot.db".to_owned());
        Found { file, identity, name, size: 0, begun: Instant::now() }
    }
}

/// The search of one node for one purpose, over all its tries.
#[derive(Default)]
pub struct Search {
    /// By name and identity.
    tried: BTreeMap<String, Tried>,
    requests: Requests,
    /// Begins when there are only snapshots without a position.
    patience: Patience,
}

/// Where a search looks.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    pub node: Node<'a>,
    pub store: &'a Store,
    /// Whether there is a database that the snapshot is for.
    pub has_database: bool,
    /// Schema hash that the snapshot is to have; `None`: any.
    pub schema: Option<&'a str>,
    /// Only a snapshot of this generation of the streams serves; `None`: any.
    pub generation: Option<&'a str>,
}

impl Places<'_> {
    /// What a snapshot is called in messages.
    fn name(&self, stored: &Stored) -> String {
        format!("snapshot {} in {}", stored.name, self.store.describe())
    }

    fn check_schema(&self, stored: &Stored, theirs: &str) -> Result<(), Error> {
        match self.schema {
            // Where schemas travel, both may come to the same one.
            Some(ours) if ours != theirs && !self.node.config.schema_travels => {
                Err(Error::waiting(db::schema_mismatch(theirs, ours)).at(self.name(stored)))
            }
            _ => Ok(()),
        }
    }
}

impl Search {
    /// Finds a snapshot that serves. `None`: the store holds none at all. The error is about the newest one.
    pub fn find(&mut self, places: Places<'_>) -> Result<Option<Found>, Missing> {
        let store = places.store;
        let looked = || format!("look at {}", store.describe());
        let newest = store.stat(limits::SNAPSHOT_NAME).context(looked()).map_err(Missing::Store)?;
        let newest = newest.filter(holds_tables);
        let mut first = None;
        match newest {
            // Somebody may have removed it without the leader's knowledge.
            None => drop(self.ask(places, Cause::NoneThere, None, SeqMap::new())),
            Some(stored) => match self.get_fitting(places, &stored) {
                Ok(found) => return Ok(Some(found)),
                Err(missing) if missing.lets_older_serve() => first = Some(missing),
                Err(missing) => return Err(missing),
            },
        }
        let older = store.list().context(looked()).map_err(Missing::Store)?;
        for stored in older.iter().filter(|stored| !is_current(stored) && holds_tables(stored)) {
            match self.get_fitting(places, stored) {
                Ok(found) => {
                    if let Some(missing) = first {
                        log::warn!("{}; using {}", Error::from(missing), stored.name);
                    }
                    return Ok(Some(found));
                }
                Err(missing) if missing.lets_older_serve() => {
                    log::debug!("{}: {}", stored.name, Error::from(missing.clone()));
                    first.get_or_insert(missing);
                }
                Err(missing) => return Err(missing),
            }
        }
        first.map_or(Ok(None), Err)
    }

    /// Notes why a snapshot that was found did not do after all.
    pub fn failed(&mut self, found: &Found, why: &Error) {
        if let Some(tried) = self.tried.get_mut(&found.identity) {
            tried.failed(why.clone().into());
        }
    }

    /// Checks what is known of a snapshot, downloads it, checks it, and makes it this node's, with a position in every
    /// stream. If the current one is too old or damaged, the leader is asked for another.
    fn get_fitting(&mut self, places: Places<'_>, stored: &Stored) -> Result<Found, Missing> {
        let identity = format!("{} {}", stored.name, stored.identity());
        self.check_label(places, stored)?;
        self.check_flaw(places, stored, &identity)?;
        if let Some(why) = self.tried.get(&identity).and_then(|tried| tried.refused(Instant::now())) {
            return Err(why.clone());
        }
        let got = self.download(places, stored, &identity);
        if let (Err(why), Some(tried)) = (&got, self.tried.get_mut(&identity)) {
            tried.failed(why.clone());
        }
        got
    }

    /// Whether a snapshot may serve by what its label says.
    fn check_label(&mut self, places: Places<'_>, stored: &Stored) -> Result<(), Error> {
        if let Some(why) = stored.refused() {
            return Err(self.refused(places, stored, why));
        }
        let label = &stored.label;
        if places.generation.is_some_and(|generation| label.streams != generation) {
            // The leader makes another one by itself.
            return Err(Error::waiting(format!(
                "{} is from before the broker lost messages: waiting for a fresh one",
                places.name(stored)
            )));
        }
        if !label.positions.is_empty() {
            self.begin(places, stored, &label.positions)?;
        }
        // Where some tables are not replicated, only the snapshot itself tells what it holds of the others.
        if !label.schema.is_empty() && places.node.config.tables.name_nothing() {
            places.check_schema(stored, &label.schema)?;
        }
        if label.encoding.contains("encrypted") && places.node.config.snapshot.packing.key.is_none() {
            // The leader is not asked for another one: it would be encrypted, too.
            return Err(Error::waiting(format!(
                "{} is encrypted, and this node has no key (snapshot.key_file)",
                places.name(stored)
            )));
        }
        Ok(())
    }

    /// Whether it may serve by what an earlier download showed.
    fn check_flaw(&mut self, places: Places<'_>, stored: &Stored, identity: &str) -> Result<(), Error> {
        let Some(tried) = self.tried.get(identity) else { return Ok(()) };
        match tried.flaw().cloned() {
            Some(Flaw::Damaged(why)) if tried.refused(Instant::now()).is_some() => {
                Err(self.damaged(places, stored, &why))
            }
            Some(Flaw::Damaged(_)) | None => Ok(()),
            Some(Flaw::Schema(theirs)) => places.check_schema(stored, &theirs),
            Some(Flaw::Unplaced) => {
                let begin = self.begin(places, stored, &SeqMap::new())?;
                self.check_unplaced(places, stored, &begin).map(drop)
            }
        }
    }

    /// Asks for another snapshot than one that is of no use, and less and less often.
    fn ask_instead(&mut self, places: Places<'_>, cause: Cause, stored: &Stored) {
        // Only for the current snapshot the leader is asked for another: a new one cannot repair a kept, older one.
        if is_current(stored)
            && self.requests.may_ask_instead(Instant::now())
            && self.ask(places, cause, Some(stored), SeqMap::new())
        {
            self.requests.asked_instead(Instant::now());
        }
    }

    /// A snapshot that this node must not take: a leader with the key makes another.
    fn refused(&mut self, places: Places<'_>, stored: &Stored, why: &str) -> Error {
        self.ask_instead(places, Cause::Refused, stored);
        Error::waiting(format!("{}: {why}", places.name(stored)))
    }

    fn damaged(&mut self, places: Places<'_>, stored: &Stored, why: &str) -> Error {
        self.ask_instead(places, Cause::Damaged, stored);
        let text = format!("{} is damaged ({why}): waiting for another", places.name(stored));
        Error::new(Kind::Unusable, text)
    }

    fn download(&mut self, places: Places<'_>, stored: &Stored, identity: &str) -> Result<Found, Missing> {
        let config = places.node.config;
        let begun = Instant::now();
        let file = beside(&config.db_path, "download").map_err(Missing::Snapshot)?;
        let fetched = fetch(places.store, stored, &file);
        let fetched_at = Instant::now();
        log::debug!("download: {:.2} s", (fetched_at - begun).as_secs_f64());
        let tried = self.tried.entry(identity.to_owned()).or_insert_with(|| Tried::new(begun));
        tried.downloaded(fetched_at);
        let checked = match fetched {
            Ok(_) => db::make_ready(file.path(), &config.tables).map_err(about_copy),
            Err(error) => Err(error_of_fetch(error)?),
        };
        let ready = match checked {
            Ok(ready) => ready,
            Err(error) if error.kind() == Kind::Unusable => {
                tried.is_damaged(error.to_string(), fetched_at);
                return Err(self.damaged(places, stored, &error.to_string()).into());
            }
            Err(error) => return Err(error.into()),
        };
        log::debug!("check: {:.2} s", fetched_at.elapsed().as_secs_f64());
        if let Err(error) = places.check_schema(stored, &ready.schema) {
            tried.is_read(Some(Flaw::Schema(ready.schema)));
            return Err(error.into());
        }
        let is_unplaced = ready.positions.is_empty();
        tried.is_read(is_unplaced.then_some(Flaw::Unplaced));
        let begin = self.begin(places, stored, &ready.positions)?;
        if is_unplaced && self.check_unplaced(places, stored, &begin)? == Unplaced::MayLack {
            log::warn!(
                "{} has no position (a Go node made it), and there is no other: using it. Rows that were changed after \
                 it was made, and before the streams' first message, stay as they are until they are written again",
                places.name(stored)
            );
        }
        db::set_positions(file.path(), &begin).map_err(about_copy)?;
        Ok(Found { file, identity: identity.to_owned(), name: places.name(stored), size: stored.size, begun })
    }

    /// Positions of streams that a snapshot does not know: they are read from their first message on. An error when the
    /// streams no longer hold what comes after the snapshot: then the leader is asked for a fresh one.
    fn begin(
        &mut self,
        places: Places<'_>,
        stored: &Stored,
        positions: &SeqMap,
    ) -> Result<Vec<(String, Position)>, Error> {
        let gap = match begin::judge(&begin::look(places.node)?, positions) {
            Begin::After(unknown) => return Ok(unknown),
            Begin::TooOld(gap) => gap,
        };
        if is_current(stored) {
            self.ask(places, Cause::TooOld, Some(stored), gap.needed);
        }
        Err(Error::waiting(format!(
            "the snapshot in the store is too old (messages {} to {} of stream {} are gone): waiting for a fresh one; \
             -save-snapshot on a healthy node makes it",
            gap.first, gap.last, gap.stream
        )))
    }

    /// Whether a snapshot without a position serves. All that the streams hold is replayed after it, so it serves when they
    /// hold everything. Otherwise rows that were changed in between would stay as they were: a node that has a database
    /// waits for a better snapshot, but not for ever, for a cluster of Go nodes has none.
    fn check_unplaced(
        &mut self,
        places: Places<'_>,
        stored: &Stored,
        begin: &[(String, Position)],
    ) -> Result<Unplaced, Error> {
        if !places.has_database || begin.iter().all(|(_, position)| position.seq == 0) {
            return Ok(Unplaced::Serves);
        }
        if !self.patience.waits(Instant::now()) {
            return Ok(Unplaced::MayLack);
        }
        if is_current(stored) {
            self.ask(places, Cause::Unplaced, Some(stored), SeqMap::new());
        }
        Err(Error::waiting(format!(
            "{} has no position (a Go node made it): waiting a minute for one that has",
            places.name(stored)
        )))
    }

    /// Asks the leader for another snapshot than `stored`, one that reaches `positions`. False: it could not be asked.
    fn ask(&mut self, places: Places<'_>, cause: Cause, stored: Option<&Stored>, positions: SeqMap) -> bool {
        let identity = stored.map(Stored::identity).unwrap_or_default();
        let instead_of = if cause.is_of_content() { identity.clone() } else { String::new() };
        let wanted = Wanted::new(places.node.config.node_id, positions, instead_of);
        match wanted::ask(places.node.bucket, &wanted) {
            Ok(true) if self.requests.is_news(cause, &identity) => {
                log::info!("asked the leader for a fresh snapshot");
                true
            }
            Ok(_) => true,
            Err(error) => {
                log::debug!("ask for a fresh snapshot: {error}");
                false
            }
        }
    }
}

/// How a snapshot without a position serves.
#[derive(PartialEq, Eq)]
enum Unplaced {
    /// As well as any that there is.
    Serves,
    /// What happened between it and the streams' first message may be lacking.
    MayLack,
}

/// A snapshot without any table counts as none: an earlier version made it of a database that an application had just
/// created.
pub fn holds_tables(stored: &Stored) -> bool {
    stored.label.schema != db::schema_of_nothing()
}

fn is_current(stored: &Stored) -> bool {
    stored.name == limits::SNAPSHOT_NAME
}

/// A download that failed: the snapshot's own fault, or what stands between it and this node.
fn error_of_fetch(error: Error) -> Result<Error, Missing> {
    match error.kind() {
        Kind::Unusable => Ok(error),
        Kind::Local | Kind::Stopped => Err(Missing::Snapshot(error)),
        _ => Err(Missing::Store(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_download_is_the_snapshots_fault_or_the_stores_or_ours() {
        let of = |kind| error_of_fetch(Error::new(kind, "why"));
        assert_eq!(of(Kind::Unusable).unwrap().to_string(), "why");
        for kind in [Kind::Unreachable, Kind::Refused, Kind::Missing] {
            assert_eq!(of(kind), Err(Missing::Store(Error::new(kind, "why"))));
        }
        for kind in [Kind::Local, Kind::Stopped] {
            assert_eq!(of(kind), Err(Missing::Snapshot(Error::new(kind, "why"))));
        }
    }

    /// An earlier version made snapshots of databases without a table: a node with data must not wait for their schema.
    #[test]
    fn a_snapshot_without_a_table_counts_as_none() {
        let with = |schema: &str| {
            let label = crate::storage::Label { schema: schema.into(), ..Default::default() };
            Stored { label, ..Stored::default() }
        };
        // SHA-256 of nothing.
        let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(!holds_tables(&with(nothing)));
        assert!(holds_tables(&with("8fd1a3a67028")));
        assert!(holds_tables(&with("")), "a Go node's tells no schema");
    }

    #[test]
    fn only_the_current_snapshot_has_the_fixed_name() {
        let named = |name: &str| Stored { name: name.into(), ..Stored::default() };
        assert!(is_current(&named("snapshot.db")));
        assert!(!is_current(&named("snapshot-20261124T131500Z.db")));
    }
}
