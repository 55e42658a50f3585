//! Seeing to it that the streams reach back far enough for what is in the database: now and then while the publisher sends, and after
//! a broker that had no room for it again and again.

use crate::base::limits;
use crate::config::Config;
use crate::nats::JetStream;
use crate::operate::{Board, Looker, Lookout, Signals, Trouble};
use crate::streams;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub struct Reaching {
    js: JetStream,
    lookout: Arc<Lookout>,
    /// Bytes that were sent since the last look.
    sent: usize,
    /// When a look in vain was made.
    in_vain: Option<Instant>,
    trouble: Trouble,
}

impl Reaching {
    pub fn new(js: JetStream, board: &Arc<Board>, lookout: Arc<Lookout>) -> Reaching {
        let trouble = Trouble::new(board, "reach");
        Reaching { js, lookout, sent: limits::REACH_LOOK, in_vain: None, trouble }
    }

    pub fn note_sent(&mut self, bytes: usize) {
        self.sent += bytes;
    }

    /// Whether so much was sent since the last look that another is due.
    pub fn is_due(&self) -> bool {
        self.sent >= limits::REACH_LOOK
    }

    /// How long it is until a look in vain is made again.
    pub fn pause(&self, now: Instant) -> Duration {
        let Some(at) = self.in_vain else { return Duration::MAX };
        let is_looked_at = self.lookout.is_looked_at(Looker::Program, now);
        let pause = if is_looked_at { limits::LOOKOUT_QUESTION } else { limits::REACH_AGAIN };
        // Who begins to look wants to know soon.
        pause.saturating_sub(now.saturating_duration_since(at)).min(limits::LOOKOUT_QUESTION)
    }

    /// Whether a look in vain is to be made again now.
    pub fn is_due_again(&self, now: Instant) -> bool {
        self.pause(now).is_zero() && self.js.connection().is_up()
    }

    /// Looks at all streams. `database`: its bytes.
    pub fn look(&mut self, config: &Config, signals: &Signals, database: u64) {
        let flow = &signals.flow;
        (self.sent, self.in_vain) = (0, None);
        for (at, shard) in (0..flow.streams()).zip(1..) {
            let reach = flow.reach(at);
            match streams::widen(&self.js, config, (shard, reach), database) {
                Ok(now) if now != reach => flow.widen(at, now),
                Ok(_) => {}
                Err(error) => {
                    self.in_vain = Some(Instant::now());
                    self.trouble.warn(&error.to_string());
                    return;
                }
            }
        }
        self.trouble.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::Connection;

    #[test]
    fn a_look_in_vain_is_made_again_and_sooner_while_somebody_looks() {
        let lookout = Arc::new(Lookout::default());
        let js = JetStream::new(Connection::offline());
        let mut reaching = Reaching::new(js, &Arc::default(), lookout.clone());
        let now = Instant::now();
        assert!(reaching.is_due() && reaching.pause(now) == Duration::MAX);
        reaching.in_vain = Some(now);
        let soon = now + limits::LOOKOUT_QUESTION;
        assert!(!reaching.pause(soon).is_zero() && reaching.pause(now + limits::REACH_AGAIN).is_zero());
        lookout.look(Looker::Program, Duration::ZERO);
        assert!(reaching.pause(soon).is_zero());
        assert!(!reaching.is_due_again(soon), "without a connection nothing is asked");
    }
}
