//! The thread that tells this node's schema in the registry, and looks whether the others have the same.

use super::Bucket;
use super::registry::{Registry, TableTold, Told};
use crate::base::{clock, limits, stop::Stop};
use crate::config::Config;
use crate::db::{self, Described, TableDescribed};
use crate::operate::{Board, Looker, Lookout, Trouble};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the thread works with.
pub struct Setup {
    pub config: Config,
    pub bucket: Bucket,
    pub board: Arc<Board>,
    pub lookout: Arc<Lookout>,
    pub stop: Stop,
}

/// What a node with this schema tells.
pub fn told(config: &Config, schema: &Described, waiting: u64) -> Told {
    let table = |(name, hash, columns): &TableDescribed| {
        let columns = columns.iter().cloned().collect();
        (name.clone(), TableTold { hash: hash.clone(), columns })
    };
    Told {
        node: config.node_id,
        hash: schema.hash.clone(),
        previous: schema.previous.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        updated_ms: clock::unix_ms(),
        tables: Some(schema.tables.iter().map(table).collect()),
        left_out: 0,
        excluded: schema.excluded.iter().take(limits::NAMES_SHOWN).cloned().collect(),
        included: schema.included.iter().take(limits::NAMES_SHOWN).cloned().collect(),
        waiting,
        read_replica: !config.publish,
    }
}

/// Tells and looks until stop. What cannot be told now is told later.
pub fn run(setup: &Setup) {
    let mut teller = Teller {
        registry: Registry::new(&setup.bucket),
        schema: None,
        watch: None,
        told: None,
        read: None,
        trouble: Trouble::new(&setup.board, "registry"),
    };
    loop {
        let now = Instant::now();
        let is_looked_at = setup.lookout.is_looked_at(Looker::Program, now);
        teller.step(setup, is_looked_at, now);
        if setup.stop.wait(if is_looked_at { limits::LOOKOUT_ROUND } else { limits::REGISTRY_LOOK }) {
            return;
        }
    }
}

struct Teller {
    registry: Registry,
    /// The schema as it was read last.
    schema: Option<Described>,
    watch: Option<db::SchemaWatch>,
    /// When it was told last; `None`: there is something new to tell.
    told: Option<Instant>,
    /// When the others were looked at last.
    read: Option<Instant>,
    trouble: Trouble,
}

fn is_due(last: Option<Instant>, pause: Duration, now: Instant) -> bool {
    last.is_none_or(|last| now.saturating_duration_since(last) >= pause)
}

/// That a node has another schema than this one, and in which table; `None`: it has not, or their lists of tables alone differ.
fn difference(ours: &Described, other: &Told) -> Option<String> {
    if other.hash == ours.hash {
        return None;
    }
    let says = |table: &str| format!("node {} has another schema than this node{table}", other.node);
    let Some(theirs) = &other.tables else { return Some(says("")) };
    let here: BTreeMap<&str, &str> =
        ours.tables.iter().map(|(name, hash, _)| (name.as_str(), hash.as_str())).collect();
    let is_excluded =
        |by: &[String], name: &str| by.iter().any(|excluded| excluded.eq_ignore_ascii_case(name));
    let lacks =
        |name: &str| !theirs.contains_key(name) && other.left_out == 0 && !is_excluded(&other.excluded, name);
    let differs = |(name, hash): (&&str, &&str)| match theirs.get(*name) {
        Some(told) => told.hash != **hash,
        None => lacks(name),
    };
    let is_new = |name: &&String| !here.contains_key(name.as_str()) && !is_excluded(&ours.excluded, name);
    let table = here.iter().find(|(name, hash)| differs((*name, *hash))).map(|(name, _)| (*name).to_owned());
    let table = table.or_else(|| theirs.keys().find(is_new).cloned())?;
    Some(says(&format!(" (table {table})")))
}

impl Teller {
    fn step(&mut self, setup: &Setup, is_looked_at: bool, now: Instant) {
        match self.look(setup) {
            Ok(true) => (self.told, self.read) = (None, None),
            Ok(false) => {}
            // The application may hold the lock.
            Err(error) => return log::debug!("look at the schema: {error}"),
        }
        let Some(schema) = &self.schema else { return };
        if !setup.bucket.js().connection().is_up() {
            return;
        }
        if is_due(self.told, limits::REGISTRY_RENEWAL, now) {
            let told = told(&setup.config, schema, setup.board.waiting_events());
            match self.registry.tell(&told) {
                Ok(()) => {
                    self.told = Some(now);
                    self.trouble.forget();
                }
                Err(error) => {
                    return self
                        .trouble
                        .warn(&format!("tell the schema to the others: {error}; trying again"));
                }
            }
        }
        // Each reading asks for what every node has told.
        let pause = match is_looked_at {
            true if setup.lookout.is_looked_at(Looker::Person, now) => limits::LOOKOUT_QUESTION,
            true => limits::REGISTRY_READ_PROGRAM,
            false => limits::REGISTRY_READ,
        };
        if is_due(self.read, pause, now) {
            self.read = Some(now);
            match self.registry.running() {
                Ok(all) => {
                    let equal = all.iter().all(|other| other.hash == schema.hash);
                    let other = all.iter().find_map(|other| difference(schema, other));
                    setup.board.set_other_schema(equal, &other.unwrap_or_default());
                }
                Err(error) => log::debug!("read the schemas of the others: {error}"),
            }
        }
    }

    /// Whether there is something new to tell.
    fn look(&mut self, setup: &Setup) -> Result<bool, db::Error> {
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => none.insert(db::SchemaWatch::open(&setup.config.db_path)?),
        };
        let Some(schema) = watch.look(&setup.config.db_path)? else { return Ok(false) };
        let is_news = self.schema.as_ref() != Some(&schema);
        self.schema = Some(schema);
        Ok(is_news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_differ_in_a_table_that_both_replicate() {
        let table = |name: &str, hash: &str| {
            (name.to_owned(), TableTold { hash: hash.into(), ..TableTold::default() })
        };
        let ours = Described {
            hash: "a".into(),
            tables: vec![("t".into(), "1".into(), vec![]), ("u".into(), "1".into(), vec![])],
            excluded: vec!["w".into()],
            ..Described::default()
        };
        let other = |tables: &[(&str, &str)], excluded: &[&str]| Told {
            node: 2,
            hash: "b".into(),
            tables: Some(tables.iter().map(|(name, hash)| table(name, hash)).collect()),
            excluded: excluded.iter().map(|name| (*name).to_owned()).collect(),
            ..Told::default()
        };
        let of = |tables: &[(&str, &str)], excluded: &[&str]| difference(&ours, &other(tables, excluded));
        let says = |table: &str| Some(format!("node 2 has another schema than this node (table {table})"));
        assert_eq!(of(&[("t", "1"), ("u", "2")], &[]), says("u"));
        assert_eq!(of(&[("t", "1")], &[]), says("u"));
        assert_eq!(of(&[("t", "1")], &["u"]), None, "it does not replicate that one");
        assert_eq!(of(&[("t", "1"), ("u", "1"), ("v", "1")], &[]), says("v"));
        assert_eq!(
            of(&[("t", "1"), ("u", "1"), ("w", "1")], &[]),
            None,
            "this node does not replicate that one"
        );
        let go = Told { tables: None, ..other(&[], &[]) };
        assert_eq!(difference(&ours, &go).unwrap(), "node 2 has another schema than this node");
        assert_eq!(difference(&ours, &Told { hash: "a".into(), ..go }), None);
    }
}
