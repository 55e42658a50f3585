//! When it is looked for what was written in tables that were built anew, and for what the cluster has of tables that are replicated
//! here since a short time.

use super::setup::Setup;
use crate::base::error::{Error, Kind};
use crate::base::once::Once;
use crate::db;
use crate::operate::Whole;
use std::time::{Duration, Instant};

/// Pauses between two tries.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// The next look.
pub struct Rebuilt {
    /// `None`: there is nothing to look for.
    due: Option<Instant>,
    pause: Duration,
    said: Once,
    /// The node is not whole because of this.
    lacks: Option<Whole>,
}

impl Rebuilt {
    /// An earlier process may not have come to it.
    pub fn new(now: Instant) -> Rebuilt {
        Rebuilt { due: Some(now), pause: PAUSES[0], said: Once::default(), lacks: None }
    }

    fn is_due(&mut self, told: bool, now: Instant) -> bool {
        if told {
            (self.due, self.pause) = (Some(now), PAUSES[0]);
        }
        self.due.is_some_and(|due| due <= now)
    }

    /// What the node lacks because of this; `None`: nothing.
    pub fn lacks(&self) -> Option<&Whole> {
        self.lacks.as_ref()
    }

    /// Looks, if it is time. The database must stand where the streams were read to. [`Kind::Damaged`]: the database is.
    pub fn look(&mut self, setup: &mut Setup, now: Instant) -> Result<(), Error> {
        let told = setup.signals.take_rebuilt() | setup.database.take_rebuilt();
        if !self.is_due(told, now) {
            return Ok(());
        }
        match settle(setup) {
            Ok(()) => {
                self.due = None;
                self.said.forget();
                if self.lacks.take().is_some_and(|lacks| lacks == setup.signals.whole()) {
                    setup.signals.set_whole(Whole::Yes);
                }
                Ok(())
            }
            Err(error) if error.kind() == Kind::Damaged => Err(error),
            Err(error) => {
                let included = setup.database.included().unwrap_or_default();
                let what = if included.is_empty() {
                    "what was written in tables that were built anew".to_owned()
                } else {
                    format!("table {} is not yet as the cluster has it", included.names())
                };
                self.said.warn(&format!("{what}: {error}; trying again"));
                if !included.is_empty() {
                    // It lacks what the cluster has of it, so it must not lead.
                    let lacks = Whole::Waiting(format!("{what}: {error}"));
                    setup.signals.set_whole(lacks.clone());
                    self.lacks = Some(lacks);
                }
                self.due = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(PAUSES[1]);
                Ok(())
            }
        }
    }
}

fn settle(setup: &mut Setup) -> Result<(), Error> {
    let has_rebuilt = setup.config.publish && !setup.database.rebuilt()?.is_empty();
    if !has_rebuilt && setup.database.included()?.is_empty() {
        return Ok(());
    }
    if let Some(settle) = setup.settle_rebuilt.as_mut() {
        settle(&mut setup.database)?;
    } else {
        settle_alone(setup, has_rebuilt)?;
    }
    if let Some(publisher) = &setup.publisher {
        publisher.wake();
    }
    Ok(())
}

/// Without snapshots, all rows are published.
fn settle_alone(setup: &mut Setup, has_rebuilt: bool) -> Result<(), Error> {
    if has_rebuilt {
        let found = setup.database.log_rebuilt(&setup.config.db_path, None)?;
        found.tell(false);
    }
    let tables = setup.database.included()?;
    if !tables.is_empty() {
        let applied =
            setup.database.join_tables(&db::Included::alone(&tables), &tables, db::Extra::Publish)?;
        log::warn!(
            "table {} is replicated from now on, and without snapshots nothing tells what others have of it: its {} rows are published",
            tables.names(),
            applied.touched
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_look_is_at_once_and_another_one_when_it_is_told() {
        let now = Instant::now();
        let mut rebuilt = Rebuilt::new(now);
        assert!(rebuilt.is_due(false, now));
        rebuilt.due = None;
        assert!(!rebuilt.is_due(false, now) && rebuilt.is_due(true, now));
    }
}
