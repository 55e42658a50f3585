//! Getting the database back from a snapshot: for a node that has none, whose database is damaged, or that lacks what the
//! streams no longer hold.

use super::Node;
use super::scratch::{about_copy, beside, need_room, size};
use super::search::{Found, Places, Search};
use crate::base::error::{Context, Error, Kind};
use crate::base::{clock, copies, files, limits, once::Once, retry::Backoff, rights::Rights, stop::Stop};
use crate::cluster::{Bucket, blocks};
use crate::config::Config;
use crate::db;
use crate::model::blocks::Want;
use crate::operate::{Signals, Whole};
use crate::storage::{OpenStore, Store};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// In the names of what is set aside beside the database: a damaged one, and the WAL of one that is gone.
const DAMAGED: &str = ".damaged-";
const LOST: &str = ".lost-";

/// What a node that waits for its database works with.
pub struct Recovery<'a> {
    pub config: &'a Config,
    pub bucket: Bucket,
    pub open_store: OpenStore,
    pub signals: Arc<Signals>,
    pub stop: &'a Stop,
}

impl Recovery<'_> {
    fn node(&self) -> Node<'_> {
        Node { config: self.config, bucket: &self.bucket, stop: self.stop }
    }

    /// Tries `step` with growing pauses until it succeeds. What is missing is logged once, and shown by health as `whole` puts
    /// it. `None`: stopped.
    fn until_done<R>(
        &self,
        what: &str,
        whole: fn(String) -> Whole,
        mut step: impl FnMut(&mut Search) -> Result<R, Error>,
    ) -> Option<R> {
        let mut backoff = Backoff::default();
        let mut search = Search::default();
        let mut said = Once::default();
        loop {
            let before = db::mark(&self.config.db_path);
            let error = match step(&mut search) {
                Ok(done) => {
                    self.signals.set_whole(Whole::Waiting("the database is not open".to_owned()));
                    return Some(done);
                }
                Err(error) => error,
            };
            let text = format!("{what}; {}", told(&error));
            if !self.stop.requested() {
                said.warn(&text);
            }
            self.signals.set_whole(whole(text));
            if self.pause(backoff.pause(), before) {
                return None;
            }
        }
    }

    /// Waits between two tries; a database that was written since `before` ends the wait early. True: stopped.
    fn pause(&self, pause: Duration, before: db::Mark) -> bool {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.stop.wait(left.min(limits::ARRIVAL_LOOK)) {
                return true;
            }
            if left.is_zero() || db::mark(&self.config.db_path) != before {
                return false;
            }
        }
    }

    /// Gets a database for a node that has none: waits for a snapshot, or for somebody to put a database there.
    /// Returns false when stopped.
    pub fn missing(&self) -> bool {
        let path = &self.config.db_path;
        log::warn!(
            "{}: no database is there; db_path is where the application's is, or will be",
            path.display()
        );
        let what = format!("{}: no such file", path.display());
        let done = self.until_done(&what, Whole::Waiting, |search| {
            if path.exists() {
                return Ok(());
            }
            files::need_dir(path)?;
            let found = self.find(search, "the application to create it")?;
            noted(search, &found, |found| self.put_in_place(found))
        });
        done.is_some()
    }

    /// Gets content for a database in which the application has made no table yet: waits for a snapshot, or for the
    /// application to make one. Returns false when stopped.
    pub fn empty(&self) -> bool {
        let path = &self.config.db_path;
        let what = format!("{}: a database without any table", path.display());
        let done = self.until_done(&what, Whole::Waiting, |search| {
            if !path.exists() || db::holds_tables(path)? {
                return Ok(());
            }
            let found = self.find(search, "the application to create its tables")?;
            noted(search, &found, |found| self.fill(found))
        });
        done.is_some()
    }

    fn fill(&self, found: &Found) -> Result<(), Error> {
        let path = &self.config.db_path;
        self.capture_in(found)?;
        let fill = || db::fill_database(path, found.path(), self.config.journal_mode, self.stop);
        match patiently(self.stop, fill).context(path.display())? {
            db::Filled::Yes => self.is_restored(found),
            db::Filled::HasTables => {}
            db::Filled::Stopped => return Err(Error::stopped()),
        }
        Ok(())
    }

    /// An application may write as soon as the snapshot is its database.
    fn capture_in(&self, found: &Found) -> Result<(), Error> {
        if self.config.publish {
            db::install_capture(found.path()).map_err(about_copy).context(&found.name)?;
        }
        self.steer(found)
    }

    /// The keys that it inserts under are this node's alone. What cannot be claimed now is claimed later.
    fn steer(&self, found: &Found) -> Result<(), Error> {
        if !self.config.steers_keys() {
            return Ok(());
        }
        let claim = |want: &Want| {
            let claimed = blocks::claim(&self.bucket, want);
            claimed.inspect_err(|error| log::debug!("table {}: claim keys: {error}", want.table)).ok()
        };
        db::steer_file(found.path(), claim).map_err(about_copy).context(&found.name)
    }

    fn is_restored(&self, found: &Found) {
        // A sequence map of the lost database would say more than the restored one holds.
        let _ = std::fs::remove_file(&self.config.seq_map_path);
        log::info!("restored {} from {}: {}", self.config.db_path.display(), found.name, found.told());
    }

    /// Gives the snapshot the database's name.
    fn put_in_place(&self, found: &Found) -> Result<(), Error> {
        let path = &self.config.db_path;
        let rights = rights_of_lost(path).map_err(|error| failed(path, &error))?;
        self.capture_in(found)?;
        if let Err(error) = rights.give(found.path()) {
            log::warn!("owner and permissions of {}: {error}", path.display());
        }
        // Last of all: another try would not know the rights any more.
        keep_companions_of_lost(path)?;
        match files::publish_new(found.path(), path) {
            Ok(()) => self.is_restored(found),
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(failed(path, &error));
            }
            Err(_) if path.exists() => {}
            Err(_) => {
                let why = "is a symbolic link that leads to nothing: waiting for what it leads to";
                return Err(Error::waiting(format!("{} {why}", path.display())));
            }
        }
        Ok(())
    }

    /// Finds a snapshot; `other_help` could come instead of one.
    fn find(&self, search: &mut Search, other_help: &str) -> Result<Found, Error> {
        if !self.config.snapshot.enabled {
            return Err(Error::waiting(format!("snapshots are disabled: waiting for {other_help}")));
        }
        let connection = self.bucket.js().connection();
        connection
            .wait_up(limits::API_TIMEOUT)
            .map_err(|error| Error::unreachable(format!("waiting for NATS ({error})")))?;
        let store = (self.open_store)()?;
        let found = search.find(Places {
            node: self.node(),
            store: &store,
            has_database: false,
            schema: None,
            generation: None,
        })?;
        found.ok_or_else(|| {
            let place = store.describe();
            Error::waiting(format!("waiting for a snapshot in {place}, or for {other_help}"))
        })
    }

    /// Brings back a damaged database: it is copied aside, what it holds of unpublished changes is carried into a snapshot,
    /// and that is put in its place under a live application. A file that a person puts there meanwhile is left alone, and
    /// ends the recovery as well. Returns false when stopped.
    pub fn damaged(&self, why: &str) -> bool {
        let path = &self.config.db_path;
        // Where health is cut, what is waited for is not.
        let what = format!("{}: damaged", path.display());
        log::error!("{what} ({why}): recovering it");
        let file = files::identity(path);
        let mut kept = None;
        let done = self.until_done(&what, Whole::Damaged, |search| {
            if !is_still(path, file) {
                return Ok(());
            }
            if kept.is_none() {
                kept = Some(set_aside(path)?);
            }
            let found = self.find(search, "somebody to put a good copy in its place")?;
            noted(search, &found, |found| self.replace_damaged(found, file))
        });
        done.is_some()
    }

    fn replace_damaged(&self, found: &Found, file: Option<files::Identity>) -> Result<(), Error> {
        let path = &self.config.db_path;
        let mut saved = db::Salvaged::default();
        let replaced = patiently(self.stop, || {
            // The download and the application's lock took their time.
            if !is_still(path, file) {
                return Ok(None);
            }
            // Opened anew each time: what the application wrote meanwhile may have made the file readable.
            let mut salvage = match self.config.publish {
                true => Some(db::Salvage::open(path, found.path(), self.config.node_id)?),
                false => None,
            };
            let mut carry = || {
                db::keep_excluded(path, found.path(), &self.config.tables)?;
                db::carry_conflicts(path, found.path())?;
                saved = salvage.as_mut().map_or(Ok(saved), db::Salvage::run)?;
                Ok(())
            };
            carry()?;
            self.steer(found).map_err(|error| db::Error::Other(error.to_string()))?;
            let last = db::LastLook::IfPossible(&mut carry);
            db::replace_database(path, found.path(), self.stop, last).map(Some)
        });
        match replaced.context(path.display())? {
            Some(true) => {}
            Some(false) => return Err(Error::stopped()),
            None => return Ok(()),
        }
        let _ = std::fs::remove_file(&self.config.seq_map_path);
        let unreadable = match saved.unreadable {
            0 => String::new(),
            count => format!(", {count} could not be read"),
        };
        log::info!(
            "restored {} from {}: {}; {} unpublished changes of the damaged one were carried over{unreadable}",
            path.display(),
            found.name,
            found.told(),
            saved.changes
        );
        Ok(())
    }
}

/// What is said of a try that came to nothing: what is waited for, or what failed.
fn told(error: &Error) -> String {
    match error.kind() {
        Kind::Waiting | Kind::Unusable => error.to_string(),
        _ => format!("restore: {error}; trying again"),
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::local(format!("{}: {error}", path.display()))
}

/// Whether a damaged database is still the file at its path. Otherwise a person has removed it or put another one there.
fn is_still(path: &Path, file: Option<files::Identity>) -> bool {
    let is_still = file.is_some() && files::identity(path) == file;
    if !is_still {
        log::warn!("{}: the damaged file is not there any more: beginning anew", path.display());
    }
    is_still
}

/// The rights of a database that is gone: SQLite gave them to what it left beside it. Otherwise those of a new one.
fn rights_of_lost(path: &Path) -> std::io::Result<Rights> {
    let left = copies::COMPANIONS.map(|suffix| files::beside(path, suffix));
    match left.iter().find(|left| left.exists()) {
        Some(left) => Rights::of(left),
        None => Rights::of_new(path),
    }
}

/// Renames what SQLite left of a database that is gone: it would replay that WAL or journal into the new one.
fn keep_companions_of_lost(path: &Path) -> Result<(), Error> {
    for suffix in copies::COMPANIONS {
        let stray = files::beside(path, suffix);
        if stray.exists() && !path.exists() {
            let name = files::beside(path, &format!("{LOST}{}{suffix}", clock::compact(clock::unix_ms())));
            files::publish_new(&stray, &name).map_err(|error| failed(&stray, &error))?;
            copies::keep_newest(path, LOST, &name);
            log::warn!("{} belongs to a database that is gone: kept as {}", stray.display(), name.display());
        }
    }
    Ok(())
}

/// Copies a damaged database with its companions to a dated name beside it; returns that name. When such a copy is there
/// already, no other one is made.
fn set_aside(path: &Path) -> Result<PathBuf, Error> {
    let aside = |path: &Path, error: std::io::Error| failed(path, &error).at("set aside");
    if let Some(same) = files::find_copy(path, DAMAGED).map_err(|error| aside(path, error))? {
        log::info!("{} is the same: no other copy is made", same.display());
        return Ok(same);
    }
    let companions = ["", "-wal", "-shm", "-journal"];
    let needed: u64 = companions.iter().map(|suffix| size(&files::beside(path, suffix))).sum();
    need_room(&files::parent(path), needed)?;
    let name = files::beside(path, &format!("{DAMAGED}{}", clock::compact(clock::unix_ms())));
    // The database last: a copy that has a name of its own is a whole one.
    for suffix in companions.iter().rev() {
        let from = files::beside(path, suffix);
        if !from.exists() {
            continue;
        }
        let copy = beside(path, "aside")?;
        std::fs::copy(&from, copy.path())
            .and_then(|_| Rights::of(&from)?.give(copy.path()))
            .map_err(|error| aside(&from, error))?;
        files::publish_new(copy.path(), &files::beside(&name, suffix))
            .map_err(|error| aside(&from, error))?;
    }
    log::warn!("{} is kept as {}", path.display(), name.display());
    copies::keep_newest(path, DAMAGED, &name);
    Ok(name)
}

/// Uses what was found; why that failed is remembered, so that the same snapshot is not downloaded again at once.
pub fn noted<R>(
    search: &mut Search,
    found: &Found,
    step: impl FnOnce(&Found) -> Result<R, Error>,
) -> Result<R, Error> {
    step(found).inspect_err(|why| search.failed(found, why))
}

/// Brings a database and a snapshot to one schema, if each knows the changes that the other one lacks.
pub(super) fn meet(node: Node<'_>, database: &mut db::Applier, found: &Found) -> Result<(), Error> {
    follow(node, database, found)?;
    let (ours, theirs) = (db::schema_hash(&node.config.db_path), db::schema_hash(found.path()));
    let (ours, theirs) = (ours?, theirs?);
    if ours == theirs {
        return Ok(());
    }
    Err(Error::waiting(db::schema_mismatch(&theirs, &ours)).at(&found.name))
}

/// Carries out in each what it lacks of the changes of the schema that the other one knows, as far as they fit.
pub(super) fn follow(node: Node<'_>, database: &mut db::Applier, found: &Found) -> Result<(), Error> {
    match node.config.schema_travels {
        true => patiently(node.stop, || database.follow_snapshot(found.path())),
        false => Ok(()),
    }
}

/// Brings a database that lacks what the streams no longer hold to the state of a stored snapshot, under a live application.
/// The error says what is missing.
pub fn restore_live(
    node: Node<'_>,
    store: &Store,
    database: &mut db::Applier,
    search: &mut Search,
) -> Result<(), Error> {
    let (begun, path) = (Instant::now(), &node.config.db_path);
    let schema = db::schema_hash(path)?;
    let found =
        search.find(Places { node, store, has_database: true, schema: Some(&schema), generation: None })?;
    let found = found.ok_or_else(|| {
        Error::waiting(format!("this node is not whole and waits for a snapshot in {}", store.describe()))
    })?;
    // A node that publishes has logged what its application wrote, so the rest was deleted elsewhere.
    let extra = if node.config.publish { db::Extra::Remove } else { db::Extra::SetAside };
    let applied = noted(search, &found, |found| {
        meet(node, database, found)?;
        let comparison = db::compare(path, found.path())?;
        patiently(node.stop, || database.reconcile(&comparison, extra))
    })?;
    *search = Search::default();
    if applied.lost > 0 {
        log::warn!(
            "{} rows that the cluster does not have are gone from here: they were deleted elsewhere, or written here, where nothing is \
             published (publish = false). They are on the list of lost writes: -conflicts shows them, -conflict-restore brings one back",
            applied.lost
        );
    }
    log::info!(
        "brought the database to the state of {}: {} rows written or deleted, {:.1} s",
        found.name,
        applied.rows,
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Tries again while the application holds the lock: what was downloaded and compared is not to be thrown away for that.
pub fn patiently<R>(stop: &Stop, mut step: impl FnMut() -> Result<R, db::Error>) -> Result<R, Error> {
    let mut said = false;
    loop {
        match step() {
            // The try itself has waited for the lock already.
            Err(db::Error::Busy) if !stop.requested() => {
                if !said {
                    log::warn!("the application holds the lock on the database: waiting to restore it");
                    said = true;
                }
            }
            Err(db::Error::Busy) => return Err(Error::stopped()),
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{scratch::Scratch, stop};
    use crate::config::tests::with;
    use crate::nats::{Connection, JetStream};
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_waited_for_is_told_apart_from_what_failed() {
        assert_eq!(told(&Error::waiting("waiting for a snapshot")), "waiting for a snapshot");
        assert_eq!(told(&Error::new(Kind::Unusable, "is damaged")), "is damaged");
        assert_eq!(told(&Error::local("disk full")), "restore: disk full; trying again");
        assert_eq!(told(&Error::unreachable("http 503")), "restore: http 503; trying again");
    }

    #[test]
    fn the_applications_lock_is_waited_for() {
        let (_source, stop) = stop::pair();
        let mut answers = vec![Ok(7), Err(db::Error::Busy), Err(db::Error::Busy)];
        assert_eq!(patiently(&stop, || answers.pop().unwrap()), Ok(7));
        assert!(answers.is_empty());
    }

    #[test]
    fn what_is_no_lock_is_not_waited_for() {
        let (_source, stop) = stop::pair();
        let error = patiently(&stop, || Err::<(), _>(db::Error::Disk("full".into()))).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Local, "full"));
    }

    #[test]
    fn a_stop_ends_the_wait_for_the_lock() {
        let (source, stop) = stop::pair();
        source.stop();
        let error = patiently(&stop, || Err::<(), _>(db::Error::Busy)).unwrap_err();
        assert_eq!(error.kind(), Kind::Stopped);
    }

    /// A recovery without a broker.
    fn recovery<'a>(config: &'a Config, stop: &'a Stop) -> Recovery<'a> {
        Recovery {
            config,
            bucket: Bucket::new(&JetStream::new(Connection::offline()), 1),
            open_store: Box::new(|| Err(Error::unreachable("no store"))),
            signals: Arc::new(Signals::new(1, crate::model::reach::Reach::of_messages(1_024))),
            stop,
        }
    }

    fn config(scratch: &Scratch, text: &str) -> Config {
        let mut config = with(text);
        config.db_path = scratch.path("app.db");
        config.seq_map_path = scratch.path("seq-map.cbor");
        config
    }

    /// A person helps himself while the node waits for a snapshot.
    #[test]
    fn a_damaged_database_that_is_removed_or_replaced_is_not_recovered() {
        type Help = fn(&Path);
        let helps: [(&str, Help); 2] = [
            ("removed", |path| std::fs::remove_file(path).unwrap()),
            ("replaced", |path| {
                let other = files::beside(path, ".good");
                std::fs::write(&other, b"").unwrap();
                std::fs::rename(&other, path).unwrap();
            }),
        ];
        for (what, help) in helps {
            let scratch = Scratch::new("restore-helped");
            let config = config(&scratch, "snapshot.enabled = false\n");
            std::fs::write(&config.db_path, b"damaged").unwrap();
            let (source, stop) = stop::pair();
            let (sender, done) = crossbeam_channel::bounded(1);
            std::thread::scope(|scope| {
                scope.spawn(|| sender.send(recovery(&config, &stop).damaged("page 1")).unwrap());
                let is_aside = |name: &String| name.contains(DAMAGED);
                while !scratch.names().iter().any(is_aside) {
                    stop.wait(Duration::from_millis(5));
                }
                help(&config.db_path);
                let done = done.recv_timeout(Duration::from_secs(10));
                source.stop();
                assert_eq!(done, Ok(true), "{what}");
            });
        }
    }

    /// The lock of an application lasts, and so does a download.
    #[test]
    fn what_a_person_puts_there_during_the_last_try_is_not_replaced() {
        let scratch = Scratch::new("restore-last-try");
        let config = config(&scratch, "");
        let damaged = scratch.path("damaged");
        std::fs::write(&damaged, b"damaged").unwrap();
        std::fs::write(&config.db_path, b"").unwrap();
        let found = Found::of(beside(&config.db_path, "download").unwrap());
        rusqlite::Connection::open(found.path()).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
        let (_source, stop) = stop::pair();
        recovery(&config, &stop).replace_damaged(&found, files::identity(&damaged)).unwrap();
        assert_eq!(std::fs::read(&config.db_path).unwrap(), b"");
    }

    #[test]
    fn a_try_that_fails_forgets_no_rights_of_a_lost_database() {
        let scratch = Scratch::new("restore-rights");
        let config = config(&scratch, "");
        let left = files::beside(&config.db_path, "-wal");
        std::fs::write(&left, b"commits").unwrap();
        std::fs::set_permissions(&left, Permissions::from_mode(0o640)).unwrap();
        let rights = Rights::of(&left).unwrap();
        let found = Found::of(beside(&config.db_path, "download").unwrap());
        std::fs::write(found.path(), "no database".repeat(100)).unwrap();
        let (_source, stop) = stop::pair();
        let recovery = recovery(&config, &stop);
        assert!(recovery.put_in_place(&found).is_err());
        std::fs::remove_file(found.path()).unwrap();
        rusqlite::Connection::open(found.path()).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
        db::make_ready(found.path(), &Default::default()).unwrap();
        recovery.put_in_place(&found).unwrap();
        assert_eq!(Rights::of(&config.db_path).unwrap(), rights);
        assert!(!left.exists() && scratch.names().iter().any(|name| name.contains(LOST)));
    }

    #[test]
    fn only_the_newest_damaged_databases_are_kept() {
        let scratch = Scratch::new("aside-many");
        let path = scratch.path("app.db");
        for n in 1..=5 {
            for suffix in ["", "-wal"] {
                let name = format!("app.db.damaged-2020010{n}T000000Z{suffix}");
                std::fs::write(scratch.path(&name), [n]).unwrap();
            }
        }
        std::fs::write(&path, b"damaged").unwrap();
        let kept = set_aside(&path).unwrap();
        let copies: Vec<String> = scratch
            .names()
            .into_iter()
            .filter(|name| name.contains(DAMAGED) && !name.ends_with("-wal"))
            .collect();
        let newest = kept.file_name().unwrap().to_str().unwrap();
        assert_eq!(copies, ["app.db.damaged-20200104T000000Z", "app.db.damaged-20200105T000000Z", newest]);
        assert_eq!(scratch.names().len(), 6, "two of them have a WAL: {:?}", scratch.names());
    }

    #[test]
    fn a_damaged_database_is_set_aside_once() {
        let dir = std::env::temp_dir().join(format!("harmonylite-aside-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("app.db");
        std::fs::write(&path, b"damaged").unwrap();
        std::fs::write(files::beside(&path, "-wal"), b"its wal").unwrap();
        let kept = set_aside(&path).unwrap();
        assert_eq!(std::fs::read(&kept).unwrap(), b"damaged");
        assert_eq!(std::fs::read(files::beside(&kept, "-wal")).unwrap(), b"its wal");
        assert_eq!(set_aside(&path).unwrap(), kept, "the same content needs no other copy");
        assert_eq!(std::fs::read(&path).unwrap(), b"damaged", "the database stays");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 4);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
