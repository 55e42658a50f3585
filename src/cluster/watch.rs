//! What is written into the cluster's bucket, heard as it is written, so that nobody asks again and again for what has not changed: an
//! idle cluster would send little else. A subscription promises nothing, so each key is asked for now and then all the same, and
//! where a change was not heard, always.

use crate::base::limits;
use crate::nats::{Connection, Message, Subscription};
use crossbeam_channel::{Receiver, bounded};
use std::collections::HashMap;
use std::time::Instant;

/// Writes that wait to be noticed; more are made up for by asking.
const QUEUE: usize = 64;

/// What was heard of the keys of one bucket.
pub struct Watch {
    connection: Connection,
    _subscription: Subscription,
    messages: Receiver<Message>,
    /// The subjects' common beginning.
    before: String,
    keys: HashMap<String, Heard>,
    /// The connection on which all that was heard.
    epoch: u64,
    /// A change was missed on this connection.
    deaf: bool,
}

/// What is known of a key.
#[derive(Default)]
struct Heard {
    /// When it was last written.
    written: Option<Instant>,
    /// When it was last read, and its revision then.
    read: Option<(Instant, u64)>,
}

impl Watch {
    /// Keys with a dot in their names are not heard of: what nodes tell of their schemas is long.
    pub fn new(connection: &Connection, bucket: &str) -> Watch {
        let (sender, messages) = bounded(QUEUE);
        let before = format!("$KV.{bucket}.");
        let subscription = connection.subscribe(&format!("{before}*"), sender);
        Watch {
            connection: connection.clone(),
            _subscription: subscription,
            messages,
            before,
            keys: HashMap::new(),
            epoch: connection.epoch(),
            deaf: false,
        }
    }

    fn listen(&mut self, now: Instant) {
        let epoch = self.connection.epoch();
        if epoch != self.epoch {
            (self.epoch, self.deaf) = (epoch, false);
            self.keys.clear();
        }
        while let Ok(message) = self.messages.try_recv() {
            self.note(&message.subject, now);
        }
    }

    fn note(&mut self, subject: &str, now: Instant) {
        let Some(key) = subject.strip_prefix(&self.before) else { return };
        // Whoever may publish can invent keys: those that nobody reads are not remembered.
        if let Some(heard) = self.keys.get_mut(key) {
            heard.written = Some(now);
        }
    }

    /// Whether a key may hold something else than when it was read last. One that was written a moment ago may not be stored yet.
    pub fn may_have_changed(&mut self, key: &str, now: Instant) -> bool {
        self.listen(now);
        let since = |at: Instant| now.saturating_duration_since(at);
        let Some(heard) = self.keys.get(key) else { return true };
        let Some((read, _)) = heard.read else { return true };
        let written = heard.written.is_some_and(|at| at + limits::WATCH_STORED > read);
        self.deaf || written || since(read) >= limits::WATCH_READ
    }

    /// A key was read.
    pub fn was_read(&mut self, key: &str, revision: u64, now: Instant) {
        let heard = self.keys.entry(key.to_owned()).or_default();
        let missed = |(read, known): (Instant, u64)| {
            known != revision && heard.written.is_none_or(|at| at + limits::WATCH_STORED < read)
        };
        self.deaf |= heard.read.is_some_and(missed);
        heard.read = Some((now, revision));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn watch() -> (Watch, Instant) {
        (Watch::new(&Connection::offline(), "b"), Instant::now())
    }

    #[test]
    fn a_key_is_read_again_when_it_was_written_and_now_and_then() {
        let (mut watch, start) = watch();
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!(watch.may_have_changed("k", start), "nobody has read it");
        watch.was_read("k", 7, start);
        assert!(!watch.may_have_changed("k", at(5_000)));
        assert!(watch.may_have_changed("k", start + limits::WATCH_READ));
        watch.note("$KV.b.k", at(6_000));
        watch.note("$KV.b.unknown", at(6_000));
        assert!(watch.may_have_changed("k", at(6_000)) && watch.keys.len() == 1);
        watch.was_read("k", 7, at(6_001));
        assert!(watch.may_have_changed("k", at(6_002)), "it may not be stored yet");
        let stored = at(6_000) + limits::WATCH_STORED;
        watch.was_read("k", 8, stored);
        assert!(!watch.may_have_changed("k", stored));
    }

    #[test]
    fn a_change_that_was_not_heard_makes_all_be_read_always() {
        let (mut watch, start) = watch();
        watch.was_read("k", 7, start);
        watch.was_read("k", 9, start + limits::WATCH_READ);
        assert!(watch.may_have_changed("k", start + limits::WATCH_READ));
        watch.epoch = 99;
        watch.listen(start);
        assert!(!watch.deaf, "another connection may be another account");
    }
}
