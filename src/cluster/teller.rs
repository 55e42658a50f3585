//! The thread that tells this node's schema in the registry, and looks whether the others have the same.

use super::Bucket;
use super::registry::{Registry, TableTold, Told};
use crate::base::{clock, limits, once::Once, stop::Stop};
use crate::config::Config;
use crate::db::{self, Described, TableDescribed};
use crate::operate::Board;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the thread works with.
pub struct Setup {
    pub config: Config,
    pub bucket: Bucket,
    pub board: Arc<Board>,
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
        said: Once::default(),
    };
    loop {
        teller.step(setup, Instant::now());
        if setup.stop.wait(limits::REGISTRY_LOOK) {
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
    said: Once,
}

fn is_due(last: Option<Instant>, pause: Duration, now: Instant) -> bool {
    last.is_none_or(|last| now.saturating_duration_since(last) >= pause)
}

impl Teller {
    fn step(&mut self, setup: &Setup, now: Instant) {
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
                Ok(()) => self.told = Some(now),
                Err(error) => {
                    return self.said.warn(&format!("tell the schema to the others: {error}; trying again"));
                }
            }
        }
        if is_due(self.read, limits::REGISTRY_READ, now) {
            self.read = Some(now);
            match self.registry.running() {
                Ok(all) => setup.board.set_schemas_equal(all.iter().all(|other| other.hash == schema.hash)),
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
