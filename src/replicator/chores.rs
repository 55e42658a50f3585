//! What the follower does beside following, now and then: it shows what is set aside and what has lost, settles what nobody has
//! written, and goes on in fresh blocks of keys.

use super::pacing::LostWrites;
use crate::base::{clock, limits};
use crate::db;
use crate::operate::{Board, Signals, Whole};
use std::time::{Duration, Instant};

/// When each was last done, and what it found.
pub struct Chores {
    looked_aside: Instant,
    looked_unwritten: Instant,
    lost_writes: LostWrites,
    /// Waiting events that were dropped for want of room: rows that this database lacks.
    lost: u64,
    /// Events are set aside.
    waits: bool,
    go_nodes_seen: bool,
    /// How long what a change of the schema took away is kept, and when it was looked for what is older.
    keeps: (Duration, Option<Instant>),
}

impl Chores {
    pub fn new(now: Instant, keep: Duration) -> Chores {
        Chores {
            looked_aside: now,
            looked_unwritten: now,
            lost_writes: LostWrites::new(now),
            lost: 0,
            waits: false,
            go_nodes_seen: false,
            keeps: (keep, None),
        }
    }

    /// `is_of_go_node`: an event without our message id was read.
    pub fn warn_of_go_nodes(&mut self, is_of_go_node: bool, shards: u64) {
        if is_of_go_node && shards > 1 && !self.go_nodes_seen {
            self.go_nodes_seen = true;
            log::warn!(
                "a Go node publishes here and shards = {shards}: it spreads the rows of a table over several streams, so rows \
                 that collide in a UNIQUE index can differ between nodes"
            );
        }
    }

    /// Time between two looks at what is set aside: what waits goes on soon when it can.
    pub fn pause(&self) -> Duration {
        if self.waits { limits::ASIDE_LOOK_AGAIN } else { limits::ASIDE_LOOK }
    }

    /// Does what is due.
    pub fn run(&mut self, database: &mut db::Applier, board: &Board, signals: &Signals) {
        let now = Instant::now();
        if now.saturating_duration_since(self.looked_aside) >= self.pause() {
            self.looked_aside = now;
            self.show(database, board, signals);
        }
        if now.saturating_duration_since(self.looked_unwritten) >= limits::ECHO_WAIT {
            self.looked_unwritten = now;
            settle_unwritten(database, signals);
        }
        let (keep, looked) = self.keeps;
        if looked.is_none_or(|looked| now.saturating_duration_since(looked) >= limits::KEPT_LOOK) {
            self.keeps.1 = Some(now);
            forget_kept(database, keep);
        }
        if database.is_block_due()
            && let Err(error) = database.tidy()
        {
            log::debug!("take a block of keys: {error}");
        }
    }

    /// Looks whether what is set aside can be tried again, and shows what there is, and what has lost.
    pub fn show(&mut self, database: &mut db::Applier, board: &Board, signals: &Signals) {
        match database.look().and_then(|()| database.news()) {
            Ok(Some(aside)) => {
                // What it waits for beside this stays.
                let unchanged = signals.whole() == self.reached();
                self.lost = aside.lost_waiting;
                self.waits = !aside.tables.is_empty();
                if unchanged {
                    signals.set_whole(self.reached());
                }
                board.set_aside(aside);
            }
            Ok(None) => {}
            // Applying meets the same, and says it.
            Err(error) => log::debug!("what is set aside: {error}"),
        }
        match database.kept_conflicts() {
            Ok(Some(kept)) => board.set_conflicts(kept),
            Ok(None) => {}
            Err(error) => log::debug!("conflicts: {error}"),
        }
        board.set_cannot_follow(database.cannot_follow());
        self.lost_writes.tell(board.lost(), Instant::now());
    }

    /// Whether a node that follows all its streams is whole.
    fn reached(&self) -> Whole {
        match self.lost {
            0 => Whole::Yes,
            lost => Whole::Waiting(format!(
                "{lost} events that waited for a table or column were dropped, because there were too many: bring the schema up to \
                 date, then restore this node from a snapshot, or accept the loss (-set-aside drop all)"
            )),
        }
    }
}

/// What a change of the schema took away long ago goes for good.
fn forget_kept(database: &mut db::Applier, keep: Duration) {
    let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    match database.forget_kept(clock::unix_ms().saturating_sub(keep)) {
        Ok(0) => {}
        Ok(count) => log::info!("{count} dropped tables and columns that were kept are gone for good"),
        Err(error) => log::debug!("forget what was kept: {error}"),
    }
}

/// Log entries of rows that were not written, after all, are settled with the next batch; without one, here.
fn settle_unwritten(database: &mut db::Applier, signals: &Signals) {
    if signals.take_unwritten()
        && let Err(error) = database.tidy()
    {
        log::debug!("settle entries of rows that were not written: {error}");
        signals.note_unwritten();
    }
}
