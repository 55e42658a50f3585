//! When it is looked for what was written in tables that were built anew.

use super::setup::Setup;
use crate::base::error::{Error, Kind};
use crate::base::once::Once;
use std::time::{Duration, Instant};

/// Pauses between two tries.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// The next look.
pub struct Rebuilt {
    /// `None`: there is nothing to look for.
    due: Option<Instant>,
    pause: Duration,
    said: Once,
}

impl Rebuilt {
    /// An earlier process may not have come to it.
    pub fn new(now: Instant) -> Rebuilt {
        Rebuilt { due: Some(now), pause: PAUSES[0], said: Once::default() }
    }

    fn is_due(&mut self, told: bool, now: Instant) -> bool {
        if told {
            (self.due, self.pause) = (Some(now), PAUSES[0]);
        }
        self.due.is_some_and(|due| due <= now)
    }

    /// Looks, if it is time. The database must stand where the streams were read to. [`Kind::Damaged`]: the database is.
    pub fn look(&mut self, setup: &mut Setup, now: Instant) -> Result<(), Error> {
        if !self.is_due(setup.signals.take_rebuilt(), now) {
            return Ok(());
        }
        match settle(setup) {
            Ok(()) => {
                self.due = None;
                self.said.forget();
                Ok(())
            }
            Err(error) if error.kind() == Kind::Damaged => Err(error),
            Err(error) => {
                self.said
                    .warn(&format!("what was written in tables that were built anew: {error}; trying again"));
                self.due = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(PAUSES[1]);
                Ok(())
            }
        }
    }
}

fn settle(setup: &mut Setup) -> Result<(), Error> {
    if !setup.config.publish || setup.database.rebuilt()?.is_empty() {
        return Ok(());
    }
    if let Some(settle) = setup.settle_rebuilt.as_mut() {
        settle(&mut setup.database)?;
    } else {
        let found = setup.database.log_rebuilt(&setup.config.db_path, None)?;
        found.tell(false);
    }
    if let Some(publisher) = &setup.publisher {
        publisher.wake();
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
