//! A node that replicates tables which it did not replicate before joins in them.

use super::Node;
use super::at::state_at;
use super::join::keep_copy;
use super::replay::Until;
use super::restore::patiently;
use super::scratch::{about_copy, scratch};
use crate::base::error::{Context, Error, Kind};
use crate::base::limits;
use crate::base::temporary::Temporary;
use crate::cluster::wanted::{self, Wanted};
use crate::config::Join;
use crate::db::{self, Extra, Noted};
use crate::model::positions::SeqMap;
use crate::storage::Store;
use std::time::{Duration, Instant};

/// A node that joins in some tables, over all its tries.
#[derive(Default)]
pub struct Including {
    begun: Option<Instant>,
    /// What was found not to fit, and why.
    unfit: Option<(Tried, String)>,
}

/// What has to change before a table fits that did not.
#[derive(PartialEq, Eq)]
struct Tried {
    schema: String,
    /// Changes of the schema that are known.
    changes: usize,
    snapshot: String,
}

impl Tried {
    fn now(node: Node<'_>, store: &Store, database: &db::Applier) -> Result<Tried, Error> {
        Ok(Tried {
            schema: db::schema_hash(&node.config.db_path)?,
            changes: database.known_changes()?,
            snapshot: store.stat(limits::SNAPSHOT_NAME)?.map(|stored| stored.identity()).unwrap_or_default(),
        })
    }
}

impl Including {
    /// One try. `others`: a running node that replicates one of the tables, and has its rows. Nothing else may be applied meanwhile. The
    /// error says what is missing.
    pub fn try_include(
        &mut self,
        node: Node<'_>,
        store: &Store,
        database: &mut db::Applier,
        others: impl Fn(&[String]) -> Option<u64>,
    ) -> Result<(), Error> {
        let tables = database.included()?;
        if tables.is_empty() {
            *self = Including::default();
            return Ok(());
        }
        let tried = Tried::now(node, store, database)?;
        if let Some((_, why)) = self.unfit.as_ref().filter(|(before, _)| *before == tried) {
            return Err(Error::waiting(why.clone()));
        }
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let until = Until::Positions(database.positions()?);
        let agreed = match state_at((node, store), &until, || scratch(node.config, "agreed"), &tables.here) {
            Ok((copy, _)) => Some(copy),
            Err(error) if error.kind() == Kind::Missing => {
                let passed = database.has_passed(&tables)?;
                if let Some(why) = waits(others(&tables.here), passed, begun.elapsed(), &error) {
                    ask(node, store);
                    return Err(why);
                }
                None
            }
            Err(error) => return Err(error),
        };
        if let Some(agreed) = &agreed {
            database.carry_over(agreed.path()).map_err(about_copy).context("copy of the agreed state")?;
        }
        let (joined, told, unfit) = include(node, database, &tables, agreed.as_ref())?;
        if !joined.is_empty() {
            self.begun = None;
            log::info!("table {} is replicated from now on: {told}", joined.join(", "));
        }
        match unfit {
            None => Ok(()),
            Some(why) => {
                self.unfit = Some((tried, why.clone()));
                Err(Error::waiting(why))
            }
        }
    }
}

/// Why a node waits whose tables no snapshot holds; `None`: it is the first one that replicates them.
fn waits(other: Option<u64>, passed: bool, waited: Duration, why: &Error) -> Option<Error> {
    match other {
        Some(node) => Some(Error::waiting(format!(
            "node {node} replicates it too, and no snapshot holds what it has ({why}): waiting for one; -save-snapshot on that node \
             makes it"
        ))),
        None if passed && waited < limits::FIRST_SNAPSHOT => Some(Error::waiting(format!(
            "other nodes have changed it: waiting a minute for a snapshot that holds it ({why})"
        ))),
        None if passed => {
            log::warn!(
                "{why}: going on without. Rows that only other nodes have stay there until they are written again"
            );
            None
        }
        None => None,
    }
}

/// Asks for a snapshot of somebody else than the maker of the one that is there.
fn ask(node: Node<'_>, store: &Store) {
    let current = store.stat(limits::SNAPSHOT_NAME).ok().flatten();
    let instead_of = current.map(|stored| stored.identity()).unwrap_or_default();
    let wanted = Wanted::new(node.config.node_id, SeqMap::new(), instead_of);
    if let Err(error) = wanted::ask(node.bucket, &wanted) {
        log::debug!("ask for a fresh snapshot: {error}");
    }
}

/// Returns which tables joined, what that meant for their rows, and why others have not.
fn include(
    node: Node<'_>,
    database: &mut db::Applier,
    tables: &Noted,
    agreed: Option<&Temporary>,
) -> Result<(Vec<String>, String, Option<String>), Error> {
    let config = node.config;
    let extra = match (config.join, config.publish) {
        (Join::Replace, false) => Extra::SetAside,
        (Join::Replace, true) => Extra::Remove,
        (Join::Merge, _) => Extra::Publish,
    };
    let mut kept = None;
    let (with, applied) = patiently(node.stop, || {
        let with = match agreed {
            Some(agreed) => db::Included::compare(&config.db_path, agreed.path(), tables)?,
            None => db::Included::alone(tables),
        };
        if with.loses(extra) && kept.is_none() {
            let copy = keep_copy(config).map_err(|error| db::Error::Other(error.to_string()))?;
            kept = Some(format!("; as it was: {}", copy.display()));
        }
        let applied = database.join_tables(&with, tables, extra)?;
        Ok((with, applied))
    })?;
    let kept = kept.unwrap_or_default();
    let told = match with.told().as_str() {
        "" => format!("no other node has it, and its {} rows are published", applied.touched),
        told => format!("{told}, {} are published{kept}", applied.touched),
    };
    let joined = with.joined(tables).filter(|name| tables.here.contains(name)).cloned();
    Ok((joined.collect(), told, with.waits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_first_waits_for_nobody_and_others_wait_for_a_snapshot() {
        let why = Error::new(Kind::Missing, "none");
        let waits = |other, passed, waited| waits(other, passed, waited, &why).is_some();
        assert!(!waits(None, false, Duration::ZERO));
        assert!(waits(Some(3), false, limits::FIRST_SNAPSHOT * 100));
        assert!(waits(None, true, Duration::ZERO));
        assert!(!waits(None, true, limits::FIRST_SNAPSHOT));
    }
}
