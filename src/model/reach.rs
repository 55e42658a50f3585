//! How far a change stream reaches back, and what follows from it: how far a node may publish ahead of the others, and when the
//! next snapshot is due.

/// What a change stream keeps: the newest messages, up to these bounds. [`u64::MAX`]: no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    pub messages: u64,
    /// As the server counts them, with subjects and headers.
    pub bytes: u64,
}

/// Messages of a stream whose bounds nobody has set.
const MESSAGES: u64 = 1 << 20;
/// Its bytes at least.
const BYTES: u64 = 64 << 20;
/// A row takes about so many bytes of a database at least, with the page's overhead: more messages than it has rows.
const ROW: u64 = 16;

impl Reach {
    /// Only messages are counted.
    pub fn of_messages(messages: u64) -> Reach {
        Reach { messages, bytes: u64::MAX }
    }

    /// The least for a database of so many bytes, when nobody has set any: a transaction that writes or deletes every row takes as
    /// much as is in the database before or after it. Half of it is as much as a snapshot, so that snapshots that are made because
    /// a stream has advanced by half send no more than the changes themselves.
    pub fn least(database: u64) -> Reach {
        Reach { messages: MESSAGES.max(database / ROW), bytes: BYTES.max(database.saturating_mul(2)) }
    }

    /// What a stream gets whose reach is too short: it is not changed again soon.
    pub fn ample(database: u64) -> Reach {
        Reach::least(database.saturating_add(database / 2))
    }

    pub fn covers(self, other: Reach) -> bool {
        self.messages >= other.messages && self.bytes >= other.bytes
    }

    /// How far a node may publish before what came back to it. It stands for all: then at least one node of a dozen, the one that
    /// has read farthest, always finds every message, and makes the snapshot that the others may need.
    pub fn ahead(self) -> Reach {
        Reach { messages: (self.messages / 16).max(16), bytes: self.bytes / 16 }
    }

    /// How many echoes are gathered at most: what they wait for must not fill the room ahead.
    pub fn echoes(self) -> Reach {
        Reach { messages: (self.messages / 20).max(4), bytes: self.bytes / 20 }
    }

    /// Parts of one change set: the first one must be in the stream when the last one comes, also for those who begin anew.
    pub fn parts(self) -> u64 {
        (self.messages / 8).max(16)
    }

    /// Whether so much is half of it: early enough that the stream still holds everything after a snapshot while the next one is
    /// made.
    pub fn is_half(self, messages: u64, bytes: u64) -> bool {
        messages >= (self.messages / 2).max(1) || bytes >= (self.bytes / 2).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_grows_with_the_database() {
        assert_eq!(Reach::least(0), Reach { messages: 1 << 20, bytes: 64 << 20 });
        assert_eq!(Reach::least(100 << 20), Reach { messages: 100 << 16, bytes: 200 << 20 });
        for database in [0, 1 << 20, 33 << 20, 100 << 20, u64::MAX] {
            assert!(
                Reach::least(database).bytes / 2 >= database.min(u64::MAX / 2),
                "a snapshot of {database}"
            );
            assert!(Reach::ample(database).covers(Reach::least(database)));
        }
        assert!(Reach::of_messages(u64::MAX).covers(Reach::least(1 << 30)));
        assert!(!Reach::of_messages(1_024).covers(Reach::least(0)));
    }

    #[test]
    fn shares_of_short_and_endless_ones() {
        let short = Reach::of_messages(100);
        assert_eq!(short.ahead(), Reach { messages: 16, bytes: u64::MAX / 16 });
        assert_eq!((short.echoes().messages, short.parts()), (5, 16));
        assert_eq!(Reach::of_messages(1_024).ahead().messages, 64);
        assert!(short.is_half(50, 0) && !short.is_half(49, 1 << 60));
        assert!(Reach::of_messages(1).is_half(1, 0) && !Reach::of_messages(1).is_half(0, 0));
        assert!(Reach::least(0).is_half(1, 32 << 20));
    }
}
