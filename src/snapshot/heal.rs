//! After the broker has lost what nodes had read: a node compares itself with the one that leads into the new epoch, by a snapshot.
//! It has followed the streams as they are now all the while. The snapshot is brought to the same position; then what differs
//! is what one of the two had read before the loss and the other had not, and nothing that was written since.

use super::replay::{Until, replay};
use super::restore::{meet, noted, patiently};
use super::scratch::about_copy;
use super::search::{Found, Places, Search};
use super::{Node, show_positions};
use crate::base::error::Error;
use crate::db;
use crate::storage::Store;
use std::time::Instant;

/// A node that compares itself, over all its tries.
#[derive(Default)]
pub struct Healing {
    search: Search,
    /// Found, but ahead of this node; with the generation that it is of.
    found: Option<(String, Found)>,
}

impl Healing {
    /// One try, with a snapshot of this generation of the streams. The error says what is missing.
    pub fn try_heal(
        &mut self,
        node: Node<'_>,
        store: &Store,
        database: &mut db::Applier,
        generation: &str,
    ) -> Result<(), Error> {
        let (begun, path) = (Instant::now(), &node.config.db_path);
        let found = match self.found.take().filter(|(of, _)| of == generation) {
            Some((_, found)) => found,
            None => {
                let schema = db::schema_hash(path)?;
                let places = Places {
                    node,
                    store,
                    has_database: true,
                    schema: Some(&schema),
                    generation: Some(generation),
                };
                let none = || {
                    let place = store.describe();
                    Error::waiting(format!("waiting for a snapshot in {place} to compare this node with"))
                };
                self.search.find(places)?.ok_or_else(none)?
            }
        };
        let (ours, theirs) = (database.positions()?, db::positions_of(found.path()).map_err(about_copy)?);
        let is_behind = |(stream, seq): (&String, &u64)| ours.get(stream).is_none_or(|ours| ours < seq);
        if theirs.iter().any(is_behind) {
            self.found = Some((generation.to_owned(), found));
            return Err(Error::waiting(format!(
                "reading the streams up to the snapshot's position ({})",
                show_positions(&theirs)
            )));
        }
        let (differ, applied) = noted(&mut self.search, &found, |found| {
            replay(node, found.path(), &Until::Positions(ours))?;
            meet(node, database, found)?;
            let with = db::compare(path, found.path())?;
            let applied = patiently(node.stop, || database.reconcile(&with, db::Extra::OfWhoReadMore))?;
            Ok((with.extra + with.missing + with.changed, applied))
        })?;
        *self = Healing::default();
        log::info!(
            "compared the database with {}: {differ} rows differed, {} were written or deleted here, {} are published, {:.1} s",
            found.name,
            applied.rows,
            applied.touched,
            begun.elapsed().as_secs_f64()
        );
        Ok(())
    }
}
