//! The changes of the schema that are to be published.

use crate::base::limits;
use crate::db::{self, Capture, ChangeLog};
use crate::model::event::Event;
use std::time::Instant;

/// Which of them were sent.
#[derive(Debug)]
pub struct Changes {
    /// There may be some that were not.
    due: bool,
    /// The number of the last one that was.
    sent: i64,
    /// When something was sent last.
    at: Option<Instant>,
    /// Whether there are some that cannot be sent was looked at.
    looked: bool,
}

impl Default for Changes {
    fn default() -> Changes {
        Changes { due: true, sent: 0, at: None, looked: false }
    }
}

impl Changes {
    /// The schema has changed.
    pub fn are_due(&mut self) {
        (self.due, self.looked) = (true, false);
    }

    /// Says that changes do not travel in streams of single rows: Go nodes read these.
    pub fn tell_stuck(&mut self, log: &ChangeLog) -> Result<(), db::Error> {
        if !std::mem::replace(&mut self.looked, true) && !log.changes_after(self.sent)?.is_empty() {
            log::warn!(
                "the streams hold single rows (replication_log.format), as Go nodes read them: changes of the schema do not travel in \
                 them. Make the same change on each node, or let the streams hold sets (-stream-format sets)"
            );
        }
        Ok(())
    }

    /// The events of those that are to be sent now.
    pub fn take(&mut self, log: &ChangeLog) -> Result<Vec<Event>, db::Error> {
        if !self.due {
            return Ok(vec![]);
        }
        let waiting = log.changes_after(self.sent)?;
        self.due = false;
        if let Some((last, _)) = waiting.last() {
            (self.sent, self.at) = (*last, Some(Instant::now()));
        }
        Ok(waiting.into_iter().map(|(number, change)| change.event(number)).collect())
    }

    /// Nothing is on its way: what was sent long ago and has not come back is sent again.
    pub fn look_for_lost(&mut self) {
        if self.at.is_some_and(|at| at.elapsed() > limits::CHANGE_AGAIN) {
            *self = Changes::default();
        }
    }
}

/// What a change of schema brought, for people.
pub fn report(capture: &Capture) {
    if capture.taken_over > 0 {
        log::info!("took over from a Go node: {} captured changes are published now", capture.taken_over);
    }
    for table in &capture.rebuilt {
        log::info!(
            "table {table} was built anew and is captured again; looking for what was written meanwhile"
        );
    }
    for table in &capture.included {
        log::info!("table {table} is replicated from now on; looking for what the cluster has of it");
    }
    for (table, rows) in &capture.new_tables {
        log::info!("table {table} is captured from now on; its {rows} rows are published");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_was_sent_long_ago_is_looked_for_again() {
        let long_ago = Instant::now().checked_sub(limits::CHANGE_AGAIN + Duration::from_secs(1));
        let mut changes = Changes { due: false, sent: 7, at: long_ago, looked: true };
        changes.look_for_lost();
        assert!(changes.due && changes.sent == 0 && changes.at.is_none());
        let mut changes = Changes { due: false, sent: 7, at: Some(Instant::now()), looked: true };
        changes.look_for_lost();
        assert!(!changes.due);
    }
}
