//! Events on their way from the streams into the database.

use crate::model::gate::Append;
use crate::model::origin::Origin;

/// An event as it came out of a stream.
#[derive(Debug)]
pub struct Incoming {
    /// The stream's number: its place in the list that [`Applier::open`] was given.
    pub stream: usize,
    pub seq: u64,
    /// The publisher's name and the event's change-log id there; `None` for an event of the Go program.
    pub origin: Option<(Origin, i64)>,
    /// When the stream stored it, Unix milliseconds.
    pub time_ms: i64,
    /// The message's body.
    pub payload: Vec<u8>,
    /// A change set ends with it. `None`: more of the set follows, and belongs into the same transaction.
    pub ends: Option<Ends>,
}

impl Append for Incoming {
    fn append(&mut self, next: Incoming) {
        self.payload.extend_from_slice(&next.payload);
        self.seq = next.seq;
    }
}

/// Where a reader stands after a change set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Everything up to here was read.
    pub read: u64,
    /// After this sequence somebody must begin who knows nothing of sets whose last part has not come.
    pub checkpoint: u64,
}

#[cfg(test)]
impl Ends {
    /// No set is open.
    pub fn at(seq: u64) -> Ends {
        Ends { read: seq, checkpoint: seq }
    }
}
