//! The chunks of an object on their way into its bucket: in order, and as many at once as the line takes.

use super::error::Error;
use super::jetstream::is_stored;
use super::publish::Pipeline;
use crate::base::limits;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A chunk on its way.
pub struct Sent {
    pub number: u64,
    pub at: Instant,
}

/// How many chunks the line takes at once: what waits before it keeps a leader's heartbeats waiting, too.
pub struct Line {
    pub takes: usize,
}

impl Default for Line {
    fn default() -> Line {
        Line { takes: 1 }
    }
}

impl Line {
    /// A chunk was acknowledged after this time.
    pub fn took(&mut self, time: Duration) {
        if time < limits::OBJECT_ACK_FAST {
            self.takes = (self.takes + 1).min(limits::OBJECT_WINDOW);
        } else if time > limits::OBJECT_ACK_FAST * 2 {
            self.takes = (self.takes / 2).max(1);
        }
    }
}

/// Waits for the acknowledgement of one more chunk; returns how long that chunk took.
pub fn one_ack(pipeline: &mut Pipeline<Sent>, order: &mut Order) -> Result<Duration, Error> {
    let mut until = Instant::now() + limits::TRANSFER_STALL;
    loop {
        let message = pipeline.acks().recv_timeout(Duration::from_millis(250)).ok();
        // A repetition's, too: on a thin line they come before the next one's.
        if message.as_ref().is_some_and(is_stored) {
            until = Instant::now() + limits::TRANSFER_STALL;
        }
        if let Some(acked) = message.as_ref().and_then(|message| pipeline.on_ack(message)) {
            let Sent { number, at } = acked.tag;
            order.stored(number, acked.result?.seq)?;
            return Ok(at.elapsed());
        }
        let now = Instant::now();
        if message.is_none() && now > until {
            return Err(stalled("was stored"));
        }
        if let Some(refused) = pipeline.tick(now).pop() {
            refused.result?;
        }
    }
}

/// The sequences under which chunks were stored: they must rise with the chunks' numbers, or the object would be read in
/// another order.
#[derive(Default)]
pub struct Order(BTreeMap<u64, u64>);

impl Order {
    fn stored(&mut self, chunk: u64, seq: u64) -> Result<(), Error> {
        self.0.insert(chunk, seq);
        if !self.0.values().is_sorted_by(|before, after| before < after) {
            return Err(Error::Transient("chunks were stored out of order".to_owned()));
        }
        // A chunk that as many later ones have followed as two windows hold cannot be overtaken any more.
        while self.0.len() > limits::OBJECT_WINDOW * 2 {
            self.0.pop_first();
        }
        Ok(())
    }
}

/// The error of a transfer that has come to a stand.
pub fn stalled(what: &str) -> Error {
    Error::Transient(format!("no chunk {what} for {} s", limits::TRANSFER_STALL.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_may_come_in_any_order_but_sequences_must_rise() {
        let mut order = Order::default();
        assert!(order.stored(1, 11).is_ok() && order.stored(0, 10).is_ok() && order.stored(2, 20).is_ok());
        assert!(matches!(order.stored(3, 19), Err(Error::Transient(_))));
        let mut order = Order::default();
        order.stored(0, 10).unwrap();
        assert!(order.stored(1, 10).is_err(), "two chunks have one sequence");
    }

    #[test]
    fn only_chunks_that_can_still_be_overtaken_are_remembered() {
        let mut order = Order::default();
        for chunk in 0..100 {
            order.stored(chunk, chunk + 1).unwrap();
        }
        assert_eq!(order.0.len(), limits::OBJECT_WINDOW * 2);
        assert_eq!(order.0.keys().next(), Some(&(100 - limits::OBJECT_WINDOW as u64 * 2)));
    }

    #[test]
    fn a_thin_line_takes_one_chunk_at_a_time_and_a_fast_one_all() {
        let mut line = Line::default();
        let seconds = Duration::from_secs;
        assert_eq!(line.takes, 1);
        (0..9).for_each(|_| line.took(Duration::from_millis(20)));
        assert_eq!(line.takes, limits::OBJECT_WINDOW);
        line.took(Duration::from_millis(800));
        assert_eq!(line.takes, limits::OBJECT_WINDOW, "neither fast nor slow");
        (0..9).for_each(|_| line.took(seconds(4)));
        assert_eq!(line.takes, 1);
    }
}
