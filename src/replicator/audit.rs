//! Whether what was published must be published again: entries that were published, acknowledged and consumed, and are still
//! in the change log, were lost on the way.

use std::time::{Duration, Instant};

/// How often entries that stay in the log are looked for.
const AUDIT_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is looked whether the server takes more now, while something was refused.
const AUDIT_AGAIN: Duration = Duration::from_millis(500);

/// What one look sees.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Entries that were read, and so published or refused; `None`: they could not be counted.
    pub published: Option<i64>,
    /// Something is on its way: not sent, not acknowledged, or acknowledged and not consumed yet.
    pub on_its_way: bool,
    /// Largest message that the server takes, in bytes.
    pub max_payload: usize,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Nothing,
    /// So many changes did not come back: publish again.
    Lost(i64),
    /// What was too large is not any more: publish again.
    LargerMessages,
}

/// What the looks before have seen.
#[derive(Debug)]
pub struct Audit {
    last: Instant,
    /// Entries that stayed at the last look, when nothing was on its way; 0: none, or something was.
    stuck: i64,
    /// Entries that were left over when all was published again: with refused ones among them, once more would not help.
    left_over: i64,
    /// Changes that their stream does not take, since all was last published.
    refused: usize,
    /// The server's largest message when one was refused, in bytes.
    refused_at: usize,
}

impl Audit {
    pub fn new(now: Instant) -> Audit {
        Audit { last: now, stuck: 0, left_over: 0, refused: 0, refused_at: 0 }
    }

    /// How often it is to be asked whether a look is due.
    pub fn pause(&self) -> Duration {
        if self.refused > 0 { AUDIT_AGAIN } else { AUDIT_INTERVAL }
    }

    /// Whether it is time for a look: now and then, and as soon as the server takes larger messages than one that was refused. True
    /// means that the caller takes one.
    pub fn is_due(&mut self, now: Instant, max_payload: usize) -> bool {
        let larger = self.refused > 0 && max_payload > self.refused_at;
        let due = larger || now.saturating_duration_since(self.last) >= AUDIT_INTERVAL;
        if due {
            self.last = now;
        }
        due
    }

    /// A change was refused by the server or by its stream.
    pub fn note_refusal(&mut self, max_payload: usize) {
        self.refused += 1;
        self.refused_at = max_payload;
    }

    /// All is published again, from the beginning of the log.
    pub fn rewound(&mut self) {
        self.refused = 0;
    }

    /// Judges what a look has seen. Entries must stay over two looks: one may fall between an echo and its settling.
    pub fn judge(&mut self, seen: Seen) -> Verdict {
        if self.refused > 0 && seen.max_payload > self.refused_at {
            return Verdict::LargerMessages;
        }
        if seen.on_its_way {
            self.stuck = 0;
            return Verdict::Nothing;
        }
        let Some(published) = seen.published else { return Verdict::Nothing };
        let hopeless = self.refused > 0 && published == self.left_over;
        let lost = published > 0 && self.stuck > 0 && !hopeless;
        self.stuck = published;
        if !lost {
            return Verdict::Nothing;
        }
        self.left_over = published;
        Verdict::Lost(published)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit() -> Audit {
        Audit::new(Instant::now())
    }

    fn stays(published: i64) -> Seen {
        Seen { published: Some(published), on_its_way: false, max_payload: 1_000 }
    }

    #[test]
    fn looks_are_an_interval_apart() {
        let start = Instant::now();
        let mut audit = Audit::new(start);
        assert!(!audit.is_due(start, 0));
        assert!(audit.is_due(start + AUDIT_INTERVAL, 0));
        assert!(!audit.is_due(start + AUDIT_INTERVAL, 0));
    }

    #[test]
    fn what_stays_over_two_looks_is_lost() {
        let mut audit = audit();
        assert_eq!(audit.judge(stays(3)), Verdict::Nothing);
        assert_eq!(audit.judge(stays(2)), Verdict::Lost(2));
    }

    #[test]
    fn what_is_on_its_way_is_not_lost() {
        let mut audit = audit();
        audit.judge(stays(3));
        assert_eq!(audit.judge(Seen { on_its_way: true, ..stays(3) }), Verdict::Nothing);
        assert_eq!(audit.judge(stays(3)), Verdict::Nothing, "the count begins anew");
        assert_eq!(audit.judge(stays(3)), Verdict::Lost(3));
    }

    #[test]
    fn an_empty_log_and_one_that_cannot_be_counted_lose_nothing() {
        let mut audit = audit();
        for _ in 0..3 {
            assert_eq!(audit.judge(stays(0)), Verdict::Nothing);
            assert_eq!(audit.judge(Seen { published: None, ..stays(0) }), Verdict::Nothing);
        }
    }

    #[test]
    fn what_is_refused_is_not_sent_for_ever() {
        let mut audit = audit();
        audit.judge(stays(1));
        assert_eq!(audit.judge(stays(1)), Verdict::Lost(1));
        audit.rewound();
        audit.note_refusal(1_000);
        for _ in 0..3 {
            assert_eq!(audit.judge(stays(1)), Verdict::Nothing);
        }
        // Another one that is lost beside it is published again.
        assert_eq!(audit.judge(stays(2)), Verdict::Lost(2));
    }

    #[test]
    fn a_larger_limit_helps_what_was_refused() {
        let mut audit = audit();
        audit.note_refusal(1_000);
        assert_eq!(audit.judge(stays(0)), Verdict::Nothing);
        assert_eq!(audit.judge(Seen { max_payload: 2_000, ..stays(0) }), Verdict::LargerMessages);
        audit.rewound();
        assert_eq!(audit.judge(Seen { max_payload: 2_000, ..stays(0) }), Verdict::Nothing);
    }
}
