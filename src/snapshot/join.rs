//! The first join: a database that never followed the streams, with rows of its own, comes into a cluster.
//!
//! One node founds the cluster: its rows are the cluster's first state, told by the first snapshot. Every other database is
//! brought to the state of a snapshot when it joins, and what it holds beyond that is treated by rule: `join = "merge"`
//! publishes it, `"replace"` takes it out. In both cases a copy of the database is kept before any value is lost.

use super::replay::{Until, replay};
use super::restore::{follow, noted, patiently};
use super::scratch::{beside, need_room, size};
use super::search::{Found, Places, Search};
use super::tried::Missing;
use super::{Node, begin, show_positions};
use crate::base::error::{Context, Error, Kind};
use crate::base::{clock, copies, files, limits, rights::Rights};
use crate::cluster::founder;
use crate::config::{Config, Join};
use crate::db;
use crate::storage::Store;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// In the name of a copy of the database as it was before it joined.
const BEFORE_JOIN: &str = ".before-join-";

/// A node that joins, over all its tries.
pub struct Joining {
    begun: Instant,
    search: Search,
}

impl Joining {
    /// A node that begins to join now.
    pub fn new(now: Instant) -> Joining {
        Joining { begun: now, search: Search::default() }
    }

    /// One try: afterwards the database follows the streams from a snapshot's position, or goes on as it is. The error says
    /// what is missing.
    pub fn try_join(
        &mut self,
        node: Node<'_>,
        store: Result<Store, Error>,
        database: &mut db::Applier,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        if db::schema_hash(&node.config.db_path)? == db::schema_of_nothing() {
            return Err(Error::waiting(
                "the database has no table that could be replicated: waiting for the application to create its tables",
            ));
        }
        let found = match &store {
            Ok(store) => {
                self.search.find(Places { node, store, has_database: true, schema: None, generation: None })
            }
            Err(error) => Err(Missing::Store(error.clone())),
        };
        let found = match found {
            Ok(Some(found)) => found,
            Ok(None) => return self.join_without(node, None),
            Err(missing) => return self.join_without(node, Some(missing)),
        };
        let told = noted(&mut self.search, &found, |found| join_with(node, found, database))?;
        log::info!(
            "joined with {} (join = \"{}\") in {:.1} s: {told}",
            found.name,
            node.config.join.name(),
            begun.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// No snapshot can be had: the founder goes on as it is, others wait for its first snapshot, but not for ever.
    fn join_without(&self, node: Node<'_>, missing: Option<Missing>) -> Result<(), Error> {
        let patience = patience(missing.as_ref());
        let why = missing.map_or_else(|| Error::waiting("there is no snapshot"), Error::from);
        if node.stop.requested() {
            return Err(why);
        }
        let config = node.config;
        // A node that publishes nothing makes no snapshot, so it cannot be the founder.
        let founder = match config.publish {
            true => Some(founder::claim(node.bucket, config.node_id)?),
            false => founder::founder(node.bucket)?,
        };
        let other = founder.filter(|founder| *founder != config.node_id);
        match decide(other, self.begun.elapsed(), patience) {
            Without::WaitFor(founder) => Err(Error::waiting(format!(
                "{why}; this node waits for one from the cluster that node {founder} began"
            ))),
            // Only a snapshot can bridge that.
            _ if !begin::hold_everything(&begin::look(node)?) => {
                Err(Error::waiting(format!("{why}; the streams no longer hold their first message")))
            }
            Without::GoOnBesideOthers => {
                log::warn!(
                    "{why}: going on without. Rows that only this node or only the others had before stay where they are \
                     until they are written again"
                );
                Ok(())
            }
            Without::GoOn => Ok(()),
        }
    }
}

/// How long a node that did not found the cluster waits for a snapshot. `missing`: why none serves; `None`: there is none.
fn patience(missing: Option<&Missing>) -> Duration {
    match missing {
        None => limits::FIRST_SNAPSHOT,
        // A store that cannot be reached must not keep a node from its work for long.
        Some(Missing::Store(_)) => limits::STORE_ABSENT,
        // Too old, damaged, or without its key: another one will come. Or this machine's disk is full.
        Some(Missing::Snapshot(_)) => Duration::MAX,
    }
}

/// What a node does that can have no snapshot.
#[derive(Debug, PartialEq, Eq)]
enum Without {
    /// It waits for the first snapshot of the cluster that this node founded.
    WaitFor(u64),
    /// It goes on as it is, beside others that may hold other rows.
    GoOnBesideOthers,
    /// It founded the cluster, or nobody did: it goes on as it is.
    GoOn,
}

/// `other`: the node that founded the cluster, if that is not this one.
fn decide(other: Option<u64>, waited: Duration, patience: Duration) -> Without {
    match other {
        Some(founder) if waited < patience => Without::WaitFor(founder),
        Some(_) => Without::GoOnBesideOthers,
        None => Without::GoOn,
    }
}

/// Brings the database to the state of a snapshot and of what the streams hold after it; returns what that meant for its
/// rows.
fn join_with(node: Node<'_>, found: &Found, database: &mut db::Applier) -> Result<String, Error> {
    let config = node.config;
    // What the streams hold after the snapshot is the cluster's, too: in the streams the last writer of a row wins, and
    // this database's rows are not in them.
    replay(node, found.path(), &Until::End)?;
    follow(node, database, found)?;
    let comparison = db::compare_what_fits(&config.db_path, found.path())?;
    let (extra, loses) = match config.join {
        Join::Merge => (db::Extra::Publish, comparison.changed > 0 || comparison.may_collide),
        Join::Replace => (db::Extra::Remove, comparison.changed + comparison.extra > 0),
    };
    let kept = if loses { format!("; as it was: {}", keep_copy(config)?.display()) } else { String::new() };
    let applied = patiently(node.stop, || database.reconcile(&comparison, extra))?;
    let positions = database.positions()?;
    let apart = match comparison.apart.as_slice() {
        [] => String::new(),
        apart => format!("; table {} is not here, not there, or has other columns", apart.join(", ")),
    };
    Ok(format!(
        "{} rows came, {} had other values, {} were only here{}{apart}{kept}; position {}",
        comparison.missing,
        comparison.changed,
        comparison.extra,
        match config.join {
            Join::Merge => format!(" ({} of them are published)", applied.touched),
            Join::Replace => " and were removed".to_owned(),
        },
        show_positions(&positions)
    ))
}

/// Makes a copy of the database as it is now, under a dated name beside it; returns that name.
pub fn keep_copy(config: &Config) -> Result<PathBuf, Error> {
    let path = &config.db_path;
    need_room(&files::parent(path), size(path) * 2)?;
    let copy = beside(path, "aside")?;
    db::copy_database(path, copy.path()).context(format!("copy {}", path.display()))?;
    let name = files::beside(path, &format!("{BEFORE_JOIN}{}", clock::compact(clock::unix_ms())));
    let published = Rights::of(path)
        .and_then(|rights| rights.give(copy.path()))
        .and_then(|()| files::publish_new(copy.path(), &name));
    published.map_err(|error| Error::new(Kind::Local, format!("{}: {error}", name.display())))?;
    copies::keep_newest(path, BEFORE_JOIN, &name);
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(1_000_000);

    #[test]
    fn the_founder_waits_for_nobody() {
        assert_eq!(decide(None, Duration::ZERO, Duration::MAX), Without::GoOn);
    }

    #[test]
    fn others_wait_for_the_founders_first_snapshot_but_not_for_ever() {
        let patience = patience(None);
        assert_eq!(decide(Some(3), Duration::ZERO, patience), Without::WaitFor(3));
        assert_eq!(
            decide(Some(3), limits::FIRST_SNAPSHOT - Duration::from_millis(1), patience),
            Without::WaitFor(3)
        );
        assert_eq!(decide(Some(3), limits::FIRST_SNAPSHOT, patience), Without::GoOnBesideOthers);
    }

    #[test]
    fn a_store_that_cannot_be_reached_stops_nobody_for_long() {
        let missing = Missing::Store(Error::unreachable("http 503"));
        let patience = patience(Some(&missing));
        assert_eq!(decide(Some(3), Duration::ZERO, patience), Without::WaitFor(3));
        assert_eq!(decide(Some(3), limits::STORE_ABSENT, patience), Without::GoOnBesideOthers);
    }

    #[test]
    fn a_snapshot_that_does_not_serve_yet_is_waited_for_without_end() {
        for error in [Error::waiting("is encrypted"), Error::local("full"), Error::unreachable("broker")] {
            let patience = patience(Some(&Missing::Snapshot(error)));
            assert_eq!(decide(Some(3), LONG, patience), Without::WaitFor(3));
        }
    }
}
