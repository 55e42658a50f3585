//! The broker: whether it answers, and what its clock says.

use crate::base::{clock, limits};
use crate::nats::JetStream;
use crate::operate::{Looker, Trouble, View};
use std::collections::HashSet;
use std::time::Instant;

/// What was seen of it.
pub struct BrokerLook {
    view: View,
    js: JetStream,
    answer: Trouble,
    clock: Trouble,
    asked: Option<Instant>,
    /// It did not answer the last question as it should.
    pub fails: bool,
    /// Streams that were there once: what was never made is not missed.
    known: HashSet<String>,
}

impl BrokerLook {
    pub fn new(view: &View, js: &JetStream) -> BrokerLook {
        BrokerLook {
            view: view.clone(),
            js: js.clone(),
            answer: Trouble::new(&view.board, "broker"),
            clock: Trouble::new(&view.board, "clock"),
            asked: None,
            fails: false,
            known: HashSet::new(),
        }
    }

    /// Asks while a person looks, once for a program that looks, and once at the start; after a bad answer again and again, seldom if
    /// nobody looks. Each question waits a moment for its answer at most.
    pub fn look(&mut self, is_looked_at: bool, now: Instant) {
        let connection = self.view.connection.clone();
        if !connection.is_up() {
            // That there is none is said elsewhere. Whoever looks wants to know soon when there is one.
            self.answer.show("");
            if is_looked_at {
                connection.hurry();
            }
            return;
        }
        let lookout = &self.view.lookout;
        let is_due = |at: Instant| {
            let is_new = lookout.is_looked_at(Looker::Person, now) || lookout.was_looked_at_since(at);
            let pause = match is_looked_at {
                true if self.fails || is_new => limits::LOOKOUT_QUESTION,
                false if self.fails => limits::LOOKOUT_FAILING,
                _ => return false,
            };
            now.saturating_duration_since(at) >= pause
        };
        if !self.asked.is_none_or(is_due) {
            return;
        }
        self.asked = Some(now);
        let mut trouble = String::new();
        for (stream, name) in self.view.config.streams().iter().enumerate() {
            match self.js.stream_within(name, limits::LOOKOUT_ANSWER) {
                Ok(Some(info)) => {
                    self.known.insert(name.clone());
                    self.view.fleet.note_end(&self.view.signals.generation(), stream, info.state.last_seq);
                    self.compare_clocks(&info.ts);
                }
                Ok(None) if self.known.contains(name) => {
                    trouble = format!(
                        "stream {name} is not there: it is made anew in a moment, and what it held is taken from the nodes"
                    );
                }
                Ok(None) => {}
                Err(error) => {
                    trouble = format!(
                        "the broker is connected and JetStream does not answer ({error}): see whether its JetStream is on, and \
                         this login may use it"
                    );
                    break;
                }
            }
        }
        // A connection that was lost meanwhile is said elsewhere.
        if !connection.is_up() {
            trouble.clear();
        }
        self.fails = !trouble.is_empty();
        self.answer.show(&trouble);
    }

    /// `theirs`: the server's time when it answered, RFC 3339. Servers before 2.10 tell none.
    fn compare_clocks(&mut self, theirs: &str) {
        let Some(theirs) = clock::parse(theirs) else { return self.clock.forget() };
        match differ(clock::unix_ms(), theirs) {
            Some(why) => self.clock.warn(&why),
            None => self.clock.forget(),
        }
    }
}

/// By how much two clocks differ, in words; `None`: so little that it does not matter.
fn differ(ours_ms: i64, theirs_ms: i64) -> Option<String> {
    let apart = ours_ms.abs_diff(theirs_ms);
    let direction = if ours_ms > theirs_ms { "ahead of" } else { "behind" };
    (apart >= limits::CLOCKS_APART_MS).then(|| {
        format!("the clock of this machine is {} s {direction} the broker's: set both (NTP)", apart / 1_000)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_differ_by_what_matters() {
        assert_eq!(differ(1_000_000, 1_000_900), None);
        assert!(differ(3_600_000, 0).unwrap().contains("3600 s ahead of"));
        assert!(differ(0, 60_000).unwrap().contains("60 s behind"));
    }
}
