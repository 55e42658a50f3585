//! One stream of a follower: its reader, and up to where it is read and applied.

use super::pacing::Removed;
use crate::base::fail;
use crate::db::Ends;
use crate::model::positions::Position;
use crate::model::set::Format;
use crate::operate::Signals;
use crate::streams::Reader;

/// One stream.
pub struct Followed {
    /// The stream's number.
    at: usize,
    pub reader: Reader,
    /// Up to where it is read and applied; `None`: never followed.
    pub position: Option<Position>,
    /// The database's own position: after it the stream is read again when the reading is interrupted. Parts of open change sets
    /// follow.
    pub checkpoint: u64,
    /// Somebody has removed the stream.
    pub removed: Removed,
    /// It was said that the broker keeps it in memory alone.
    told_memory: bool,
}

impl Followed {
    pub fn new(at: usize, reader: Reader, position: Option<Position>) -> Followed {
        let checkpoint = position.as_ref().map_or(0, |position| position.seq);
        Followed { at, reader, position, checkpoint, removed: Removed::default(), told_memory: false }
    }

    /// From 1.
    pub fn shard(&self) -> u64 {
        self.at as u64 + 1
    }

    /// Whether all that the stream held at the first look is applied.
    pub fn has_caught_up(&self) -> bool {
        self.position.as_ref().is_some_and(|position| self.reader.has_caught_up(position.seq))
    }

    /// Whether the database has all that was read, and nothing else.
    pub fn is_even(&self) -> bool {
        self.reader.is_connected()
            && self.position.as_ref().is_some_and(|position| position.seq == self.checkpoint)
    }

    /// What was read and not applied comes again.
    pub fn step_back(&mut self) {
        if let Some(position) = &mut self.position {
            position.seq = position.seq.min(self.checkpoint);
        }
    }

    pub fn has_read(&mut self, signals: &Signals, read: u64) {
        if let Some(position) = &mut self.position {
            position.seq = read;
        }
        signals.flow.read(self.at, read);
    }

    pub fn has_applied(&mut self, signals: &Signals, ends: Ends) {
        self.has_read(signals, ends.read);
        self.checkpoint = ends.checkpoint;
        signals.flow.checkpoint(self.at, ends.checkpoint);
        fail::point("applied noted");
    }

    /// The database has this position, which did not come from applying.
    pub fn goes_on(&mut self, signals: &Signals, position: Position) {
        signals.flow.read(self.at, position.seq);
        signals.flow.checkpoint(self.at, position.seq);
        self.checkpoint = position.seq;
        self.position = Some(position);
    }

    /// The same, in a stream that is another one, or lost what was read from it, or with the state of a snapshot.
    pub fn begins_anew(&mut self, signals: &Signals, position: Option<Position>) {
        self.checkpoint = position.as_ref().map_or(0, |position| position.seq);
        self.position = position;
        signals.flow.begin_anew(self.at, self.checkpoint);
    }

    /// In which form changes are published from now on. `told`: it is said when it is another one.
    pub fn note_format(&self, signals: &Signals, format: Format, told: bool) {
        if told && format != signals.flow.format(self.at) {
            let stream = self.reader.stream();
            log::info!("stream {stream}: changes are published as {} from now on", format.name());
        }
        signals.flow.set_format(self.at, format);
    }

    /// Says once that the broker keeps the stream in memory alone; returns whether it does.
    pub fn tell_memory(&mut self) -> bool {
        let in_memory = self.reader.is_in_memory();
        if in_memory && !self.told_memory {
            log::warn!(
                "the broker keeps stream {} in memory alone: when it restarts, all nodes have to compare themselves with each other, \
                 and what it had taken from a node that is gone by then is lost. Create the stream with file storage",
                self.reader.stream()
            );
        }
        self.told_memory = in_memory;
        in_memory
    }
}
