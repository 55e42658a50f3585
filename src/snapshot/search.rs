//! Looking for a snapshot that serves: the newest one, or an older one that is kept. Each is checked before it is used, and
//! what is known of one that did not serve is remembered, so that nothing is downloaded again for nothing.

use super::inspect::{Fault, fetch};
use crate::base::files::{self, Temporary};
use crate::base::{limits, retry::Backoff};
use crate::cluster::wanted::{self, Wanted};
use crate::config::Config;
use crate::db;
use crate::model::positions::SeqMap;
use crate::nats::JetStream;
use crate::storage::{Store, Stored};
use crate::streams;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Why there is no snapshot that serves yet.
#[derive(Clone, Debug)]
pub enum Missing {
    /// Nobody but others can change that: it is said once.
    Waiting(String),
    /// The store cannot be reached or read.
    Unreachable(String),
    /// A try failed on this node, or the broker did not answer.
    Failed(String),
}

impl From<String> for Missing {
    fn from(why: String) -> Missing {
        Missing::Failed(why)
    }
}

impl Missing {
    /// The text.
    pub fn why(self) -> String {
        let (Missing::Waiting(why) | Missing::Unreachable(why) | Missing::Failed(why)) = self;
        why
    }
}

/// A snapshot that serves: downloaded, checked, and made this node's.
pub struct Found {
    file: Temporary,
    identity: String,
    /// For messages.
    pub name: String,
    size: u64,
    begun: Instant,
}

impl Found {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Size, and the time since the download began, for messages.
    pub fn told(&self) -> String {
        format!("{} bytes in {:.1} s", self.size, self.begun.elapsed().as_secs_f64())
    }
}

/// What a downloaded snapshot turned out to be.
enum Flaw {
    /// It is not what its label says, or no database, or cannot be unpacked: why.
    Damaged(String),
    /// It does not know its position: a Go node made it.
    Unplaced,
    /// Its tables are other ones than this database's: the hash of its schema.
    Schema(String),
}

/// A snapshot that was downloaded and did not serve.
struct Tried {
    flaw: Option<Flaw>,
    /// Why not.
    why: Missing,
    /// Not downloaded again before.
    not_before: Instant,
    pauses: Backoff,
}

/// The search of one node for one purpose, over all its tries.
pub struct Search {
    /// By identity.
    tried: BTreeMap<String, Tried>,
    /// Since when there was nothing but snapshots without a position.
    unplaced_since: Option<Instant>,
    /// When another one may be asked for instead of a damaged one.
    ask_at: Instant,
    asks: Backoff,
}

impl Default for Search {
    fn default() -> Search {
        Search {
            tried: BTreeMap::new(),
            unplaced_since: None,
            ask_at: Instant::now(),
            asks: Backoff::between(limits::ASK_AGAIN, limits::ASK_AGAIN_MAX),
        }
    }
}

/// Where a search looks.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The broker.
    pub js: &'a JetStream,
    /// The store.
    pub store: &'a Store,
    /// Schema hash of the database that it is to fit; `None`: there is none.
    pub schema: Option<&'a str>,
}

impl Search {
    /// Finds one. `None`: there is none at all. The error is about the newest.
    pub fn find(&mut self, places: Places<'_>) -> Result<Option<Found>, Missing> {
        let Places { config, js, store, .. } = places;
        let looked = |error| Missing::Unreachable(format!("look at {}: {error}", store.describe()));
        let mut first = None;
        let newest = store.stat(limits::SNAPSHOT_NAME).map_err(looked)?;
        if newest.is_none() {
            // Somebody may have removed it, and the leader not know.
            ask(config, js, &SeqMap::new(), "");
        }
        if let Some(stored) = newest {
            match self.get_fitting(places, &stored) {
                Ok(found) => return Ok(Some(found)),
                Err(Missing::Waiting(why)) => first = Some(why),
                Err(missing) => return Err(missing),
            }
        }
        let older = store.list().map_err(looked)?;
        for stored in older.iter().filter(|stored| stored.name != limits::SNAPSHOT_NAME) {
            match self.get_fitting(places, stored) {
                Ok(found) => {
                    if let Some(why) = first {
                        log::warn!("{why}; using {}", stored.name);
                    }
                    return Ok(Some(found));
                }
                Err(Missing::Waiting(why)) => {
                    log::debug!("{}: {why}", stored.name);
                    first.get_or_insert(why);
                }
                Err(missing) => return Err(missing),
            }
        }
        match first {
            Some(why) => Err(Missing::Waiting(why)),
            None => Ok(None),
        }
    }

    /// Notes why a snapshot that was found did not do after all.
    pub fn failed(&mut self, found: &Found, why: &str) {
        if let Some(tried) = self.tried.get_mut(&found.identity) {
            tried.why = Missing::Failed(why.to_owned());
        }
    }

    /// Checks what is known of a snapshot, downloads it, checks it, and makes it this node's, with a position in every
    /// stream. If the newest is too old or damaged, the leader is asked for another.
    fn get_fitting(&mut self, places: Places<'_>, stored: &Stored) -> Result<Found, Missing> {
        let identity = format!("{} {}", stored.name, stored.identity());
        self.fits_as_known(places, stored, &identity)?;
        if let Some(tried) = self.tried.get(&identity)
            && Instant::now() < tried.not_before
        {
            return Err(tried.why.clone());
        }
        let got = self.download(places, stored, &identity);
        if let (Err(why), Some(tried)) = (&got, self.tried.get_mut(&identity)) {
            tried.why = why.clone();
        }
        got
    }

    /// Whether it may serve, by its label and by what was seen of it before.
    fn fits_as_known(&mut self, places: Places<'_>, stored: &Stored, identity: &str) -> Result<(), Missing> {
        let label = &stored.label;
        if !label.positions.is_empty() {
            begin_behind(places, stored, &label.positions)?;
        }
        if !label.schema.is_empty() {
            fits_schema(places, stored, &label.schema)?;
        }
        if label.encoding.contains("encrypted") && places.config.snapshot.packing.key.is_none() {
            // Another one would be encrypted too.
            return Err(Missing::Waiting(format!(
                "{} is encrypted, and this node has no key (snapshot.key_file)",
                name(places, stored)
            )));
        }
        match self.tried.get(identity).and_then(|tried| tried.flaw.as_ref()) {
            None => Ok(()),
            // What damaged it may have been on the way: now and then it is tried again.
            Some(Flaw::Damaged(why)) if Instant::now() < self.tried[identity].not_before => {
                let why = why.clone();
                Err(self.damaged(places, stored, &why))
            }
            Some(Flaw::Damaged(_)) => Ok(()),
            Some(Flaw::Schema(theirs)) => fits_schema(places, stored, theirs),
            Some(Flaw::Unplaced) => {
                let begin = begin_behind(places, stored, &SeqMap::new())?;
                self.may_be_unplaced(places, stored, &begin).map(drop)
            }
        }
    }

    fn damaged(&mut self, places: Places<'_>, stored: &Stored, why: &str) -> Missing {
        // Others may be no better, to us: so we ask less and less often.
        if Instant::now() >= self.ask_at
            && is_newest(stored)
            && ask(places.config, places.js, &SeqMap::new(), &stored.identity())
        {
            self.ask_at = Instant::now() + self.asks.pause();
        }
        Missing::Waiting(format!("{} is damaged ({why}): waiting for another", name(places, stored)))
    }

    fn download(&mut self, places: Places<'_>, stored: &Stored, identity: &str) -> Result<Found, Missing> {
        let Places { config, .. } = places;
        let tried = self.tried.entry(identity.to_owned()).or_insert_with(|| Tried {
            flaw: None,
            why: Missing::Failed(String::new()),
            not_before: Instant::now(),
            pauses: Backoff::up_to(limits::DOWNLOAD_AGAIN_MAX),
        });
        let file = Temporary::new(files::beside(&config.db_path, ".harmonylite-download"));
        let begun = Instant::now();
        let fetched = fetch(config, places.store, stored, &file);
        log::debug!("download: {:.2} s", begun.elapsed().as_secs_f64());
        let fetched_at = Instant::now();
        // Counted from here: the pause is one between two downloads.
        tried.not_before = fetched_at + tried.pauses.pause();
        let checked = match fetched {
            Ok(_) => db::make_ready(file.path()),
            Err(Fault::Snapshot(why)) => Err(db::Error::Corrupt(why)),
            Err(Fault::Store(why)) => return Err(Missing::Unreachable(why)),
            Err(Fault::Local(why)) => return Err(why.into()),
        };
        let ready = match checked {
            Ok(ready) => ready,
            Err(db::Error::Corrupt(why)) => {
                if tried.flaw.is_none() {
                    tried.pauses = Backoff::between(limits::ASK_AGAIN, limits::ASK_AGAIN_MAX);
                    tried.not_before = fetched_at + tried.pauses.pause();
                }
                tried.flaw = Some(Flaw::Damaged(why.clone()));
                return Err(self.damaged(places, stored, &why));
            }
            Err(error) => return Err(error.to_string().into()),
        };
        log::debug!("check: {:.2} s", fetched_at.elapsed().as_secs_f64());
        tried.flaw = None;
        if let Err(why) = fits_schema(places, stored, &ready.schema) {
            tried.flaw = Some(Flaw::Schema(ready.schema));
            return Err(why);
        }
        let begin = begin_behind(places, stored, &ready.positions)?;
        if ready.positions.is_empty() {
            tried.flaw = Some(Flaw::Unplaced);
            if self.may_be_unplaced(places, stored, &begin)? == Unplaced::MayLack {
                log::warn!(
                    "{} has no position (a Go node made it), and there is no other: using it. Rows that were changed after \
                     it was made, and before the streams' first message, stay as they are until they are written again",
                    name(places, stored)
                );
            }
        }
        db::set_positions(file.path(), &begin).map_err(|error| error.to_string())?;
        Ok(Found {
            file,
            identity: identity.to_owned(),
            name: name(places, stored),
            size: stored.size,
            begun,
        })
    }

    /// Whether a snapshot without a position serves: all that the streams hold is replayed behind it, so it does when they
    /// hold everything. When they do not, rows that were changed in between would stay as they were: a node that has a
    /// database waits for a better one, but not for ever, for a cluster of Go nodes has none.
    fn may_be_unplaced(
        &mut self,
        places: Places<'_>,
        stored: &Stored,
        begin: &[(String, crate::model::positions::Position)],
    ) -> Result<Unplaced, Missing> {
        if places.schema.is_none() || begin.iter().all(|(_, position)| position.seq == 0) {
            return Ok(Unplaced::Serves);
        }
        let since = *self.unplaced_since.get_or_insert_with(Instant::now);
        if since.elapsed() < limits::FIRST_SNAPSHOT {
            if is_newest(stored) {
                ask(places.config, places.js, &SeqMap::new(), &stored.identity());
            }
            return Err(Missing::Waiting(format!(
                "{} has no position (a Go node made it): waiting a minute for one that has",
                name(places, stored)
            )));
        }
        Ok(Unplaced::MayLack)
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

/// For messages.
fn name(places: Places<'_>, stored: &Stored) -> String {
    format!("snapshot {} in {}", stored.name, places.store.describe())
}

fn fits_schema(places: Places<'_>, stored: &Stored, theirs: &str) -> Result<(), Missing> {
    match places.schema {
        Some(ours) if ours != theirs => {
            Err(Missing::Waiting(format!("{}: {}", name(places, stored), db::mismatch(theirs, ours))))
        }
        _ => Ok(()),
    }
}

/// What is wrong with older ones, a fresh one does not mend.
fn is_newest(stored: &Stored) -> bool {
    stored.name == limits::SNAPSHOT_NAME
}

/// Asks the leader for a snapshot that serves. False: it could not be asked.
fn ask(config: &Config, js: &JetStream, positions: &SeqMap, instead_of: &str) -> bool {
    let wanted = Wanted {
        node_id: config.node_id,
        positions: positions.clone(),
        instead_of: instead_of.to_owned(),
        revision: 0,
    };
    let asked = wanted::ask(js, config.log.replicas, &wanted);
    match &asked {
        Ok(true) => log::info!("asked the leader for a fresh snapshot"),
        Ok(false) => {}
        Err(error) => log::debug!("ask for a fresh snapshot: {error}"),
    }
    asked.is_ok()
}

/// Positions of streams that a snapshot does not know (a Go node's knows none): they are replayed from their first
/// message. An error when the streams no longer hold what comes after the snapshot: a fresh one is asked for.
fn begin_behind(
    places: Places<'_>,
    stored: &Stored,
    positions: &SeqMap,
) -> Result<Vec<(String, crate::model::positions::Position)>, Missing> {
    let Places { config, js, .. } = places;
    let mut begin = vec![];
    let mut needed = SeqMap::new();
    let mut too_old = None;
    for shard in 1..=config.log.shards {
        let name = config.stream(shard);
        let info = match js.stream(&name) {
            Ok(Some(info)) => info,
            Ok(None) => continue,
            Err(error) => return Err(format!("stream {name}: {error}").into()),
        };
        needed.insert(name.clone(), info.state.first_seq.saturating_sub(1));
        let Some(seq) = positions.get(&name) else {
            let seq = info.state.first_seq.saturating_sub(1);
            begin.push((name, crate::model::positions::Position { seq, created: info.created }));
            continue;
        };
        let position = crate::model::positions::Position { seq: *seq, created: String::new() };
        if let streams::Judgement::Gap(first, last) = streams::judge(Some(&position), &info) {
            too_old = Some(format!(
                "the snapshot in the store is too old (messages {first} to {last} of stream {name} are gone): waiting for a \
                 fresh one; -save-snapshot on a healthy node makes it"
            ));
        }
    }
    match too_old {
        None => Ok(begin),
        Some(why) => {
            if is_newest(stored) {
                ask(config, js, &needed, "");
            }
            Err(Missing::Waiting(why))
        }
    }
}
