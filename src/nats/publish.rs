//! Pipelined publishing: many messages in flight, each acknowledged, all sent again in order when in doubt.

use super::connection::{Connection, Subscription};
use super::error::{Error, NO_ROOM};
use super::jetstream::{self, Ack};
use super::nuid;
use super::wire::{self, Message};
use crate::base::limits;
use crossbeam_channel::{Receiver, bounded};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Pause between a rejection that may pass ("no stream takes the subject") and the repetition, the first time.
const AFTER_REJECTION: Duration = Duration::from_millis(250);
/// The longest such pause: each repetition sends all that waits.
const AFTER_REJECTIONS: Duration = Duration::from_secs(1);

/// A silence of this length is said: a busy stream acknowledges within milliseconds, over a thin line within a second or two.
const UNANSWERED: Duration = Duration::from_millis(1_500);

/// Messages on their way into streams. `T` is what the caller wants back with each acknowledgement.
pub struct Pipeline<T> {
    connection: Connection,
    /// Acknowledgements go to subjects below this one; their last token is the message's number.
    inbox: String,
    acks: Receiver<Message>,
    #[allow(dead_code, reason = "dropping it unsubscribes")]
    subscription: Subscription,
    window: Window<T>,
}

/// The end of one message.
#[derive(Debug)]
pub struct Acked<T> {
    /// What the caller gave along.
    pub tag: T,
    /// Stored, or refused for good.
    pub result: Result<Ack, Error>,
}

impl<T> Pipeline<T> {
    /// At most `window` messages in flight.
    pub fn new(connection: &Connection, window: usize) -> Pipeline<T> {
        // Twice the window, because repetitions are acknowledged twice. If one finds no room, the repetition brings another.
        let (sender, acks) = bounded(window * 2);
        let inbox = format!("_INBOX.{}", nuid());
        let subscription = connection.subscribe(&format!("{inbox}.*"), sender);
        let connection = connection.clone();
        Pipeline { connection, inbox, acks, subscription, window: Window::new(window) }
    }

    /// Whether another message may be sent. One is always let through, however large.
    pub fn has_room(&self) -> bool {
        self.window.has_room()
    }

    /// Whether the broker is there now.
    pub fn is_up(&self) -> bool {
        self.connection.is_up()
    }

    /// Bytes of the largest message that the server takes.
    pub fn max_payload(&self) -> usize {
        self.connection.max_payload()
    }

    /// Messages without an acknowledgement.
    pub fn in_flight(&self) -> usize {
        self.window.unacked.len()
    }

    /// Whether everything was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.window.unacked.is_empty()
    }

    /// The queue of acknowledgements, for `select!`; what comes out goes to [`Pipeline::on_ack`].
    pub fn acks(&self) -> &Receiver<Message> {
        &self.acks
    }

    /// Sends a message, now or as soon as there is a connection. Fails only for a message that can never be sent.
    pub fn send(
        &mut self,
        subject: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
        tag: T,
    ) -> Result<(), Error> {
        let reply = format!("{}.{}", self.inbox, self.window.next_number());
        let frame = self.connection.frame(subject, Some(&reply), headers, payload)?;
        // What follows an unsent message must not overtake it: then all wait for the repetition.
        if self.window.may_send_on(self.connection.epoch()) && self.connection.send(&frame).is_err() {
            self.window.sent_on = None;
        }
        self.window.push(frame, tag);
        Ok(())
    }

    /// Takes an acknowledgement. `None`: a repetition's, or a rejection that will be tried again.
    pub fn on_ack(&mut self, message: &Message) -> Option<Acked<T>> {
        let number = message.subject.rsplit('.').next()?.parse().ok()?;
        self.window.end(number, jetstream::ack(message))
    }

    /// To be called now and then: after a reconnect, a rejection or a silence, sends everything unacknowledged again. Returns the
    /// messages that the server of this connection does not take: it would cut the connection for each.
    #[must_use]
    pub fn tick(&mut self, now: Instant) -> Vec<Acked<T>> {
        let epoch = self.connection.is_up().then(|| self.connection.epoch());
        if !self.window.must_repeat(now, epoch) {
            return vec![];
        }
        let too_large = self.window.end_too_large(self.connection.max_payload());
        log::debug!("sending {} unacknowledged messages again", self.window.unacked.len());
        if self.window.frames().any(|frame| self.connection.send(frame).is_err()) {
            self.window.sent_on = None;
        }
        too_large
    }

    /// Why nothing is acknowledged; `None`: something is, or there is nothing to acknowledge, or no connection.
    pub fn trouble(&self, now: Instant) -> Option<String> {
        if self.connection.is_up() { self.window.trouble(now) } else { None }
    }

    /// How soon [`Pipeline::tick`] wants to be called.
    pub fn next_tick(&self) -> Duration {
        self.window.next_tick()
    }
}

/// The messages in flight, in order, and when to send them again. Time comes in by [`Window::must_repeat`] alone.
struct Window<T> {
    /// At most so many messages.
    size: usize,
    unacked: VecDeque<Pending<T>>,
    /// Number of the first message in `unacked`; the others follow without a gap.
    first: u64,
    /// Of all frames in `unacked`.
    bytes: usize,
    /// The connection on which all of `unacked` was sent; `None`: some were not.
    sent_on: Option<u64>,
    /// Since when nothing was acknowledged; `None`: since the next look.
    silent_since: Option<Instant>,
    /// The same, and a repetition does not end it: for people.
    unanswered_since: Option<Instant>,
    /// A silence of this length means that something was lost. On a thin line the first acknowledgement takes long: it doubles
    /// with each repetition, until messages are acknowledged that were sent once.
    patience: Duration,
    /// Messages below this number were sent more than once.
    repeated: u64,
    rejection: Rejection,
    /// The pause before the repetition after the next rejection.
    pause: Duration,
    /// Why a message was refused last, since the last that was acknowledged.
    refusal: String,
}

struct Pending<T> {
    frame: Vec<u8>,
    /// `None` after its acknowledgement, while an earlier message still waits for its own.
    tag: Option<T>,
}

/// Whether a message was refused in a way that may pass.
enum Rejection {
    None,
    New,
    RepeatAt(Instant),
}

impl<T> Window<T> {
    fn new(size: usize) -> Window<T> {
        Window {
            size,
            unacked: VecDeque::new(),
            first: 0,
            bytes: 0,
            sent_on: None,
            silent_since: None,
            unanswered_since: None,
            patience: limits::PUBLISH_RESEND,
            repeated: 0,
            rejection: Rejection::None,
            pause: AFTER_REJECTION,
            refusal: String::new(),
        }
    }

    fn has_room(&self) -> bool {
        self.unacked.len() < self.size && self.bytes < limits::PUBLISH_WINDOW_BYTES
    }

    /// The number of the next message.
    fn next_number(&self) -> u64 {
        self.first + self.unacked.len() as u64
    }

    /// Whether the next message goes out at once on this connection: only if all before it did.
    fn may_send_on(&mut self, epoch: u64) -> bool {
        if self.unacked.is_empty() {
            self.sent_on = Some(epoch);
            self.heard();
        }
        self.sent_on == Some(epoch)
    }

    /// The server lives.
    fn heard(&mut self) {
        (self.silent_since, self.unanswered_since) = (None, None);
    }

    fn push(&mut self, frame: Vec<u8>, tag: T) {
        self.bytes += frame.len();
        self.unacked.push_back(Pending { frame, tag: Some(tag) });
    }

    /// Notes what became of a message; `None` when it is no news, or will be tried again.
    fn end(&mut self, number: u64, result: Result<Ack, Error>) -> Option<Acked<T>> {
        // A repetition's tells that the server lives, too.
        self.heard();
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let pending = self.unacked.get_mut(at)?;
        if let Err(Error::Transient(why) | Error::NoRoom(why)) = &result {
            self.refusal = match &result {
                Err(Error::NoRoom(_)) => format!("{why}: {NO_ROOM}"),
                _ => why.clone(),
            };
            if matches!(self.rejection, Rejection::None) {
                log::debug!("publish refused for now: {why}");
                self.rejection = Rejection::New;
            }
            return None;
        }
        let tag = pending.tag.take()?;
        self.refusal.clear();
        self.pause = AFTER_REJECTION;
        if number >= self.repeated {
            self.patience = (self.patience / 2).max(limits::PUBLISH_RESEND);
        }
        while self.unacked.front().is_some_and(|pending| pending.tag.is_none()) {
            if let Some(done) = self.unacked.pop_front() {
                self.bytes -= done.frame.len();
                self.first += 1;
            }
        }
        Some(Acked { tag, result })
    }

    /// Ends the messages whose bodies are longer than `max` bytes.
    fn end_too_large(&mut self, max: usize) -> Vec<Acked<T>> {
        let large = |(number, pending): (u64, &Pending<T>)| {
            let bytes = wire::body_bytes(&pending.frame);
            (bytes > max).then(|| (number, wire::too_large(bytes, max)))
        };
        let found: Vec<(u64, Error)> = (self.first..).zip(&self.unacked).filter_map(large).collect();
        found.into_iter().filter_map(|(number, error)| self.end(number, Err(error))).collect()
    }

    /// Whether everything must be sent again on the connection `epoch` (`None`: there is none), and notes that it is.
    fn must_repeat(&mut self, now: Instant, epoch: Option<u64>) -> bool {
        if self.unacked.is_empty() {
            self.rejection = Rejection::None;
            return false;
        }
        if matches!(self.rejection, Rejection::New) {
            self.rejection = Rejection::RepeatAt(now + self.pause);
            self.pause = (self.pause * 2).min(AFTER_REJECTIONS);
        }
        self.unanswered_since.get_or_insert(now);
        let silent_since = *self.silent_since.get_or_insert(now);
        let silent = now.duration_since(silent_since) > self.patience;
        let rejected = matches!(self.rejection, Rejection::RepeatAt(at) if at <= now);
        if epoch.is_none() || (self.sent_on == epoch && !silent && !rejected) {
            return false;
        }
        if silent && self.sent_on == epoch {
            self.patience = (self.patience * 2).min(limits::PUBLISH_RESEND_MAX);
        }
        self.repeated = self.next_number();
        self.rejection = Rejection::None;
        self.silent_since = Some(now);
        self.sent_on = epoch;
        true
    }

    fn trouble(&self, now: Instant) -> Option<String> {
        let since = self.unanswered_since;
        let silent = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if self.unacked.is_empty() {
            None
        } else if !self.refusal.is_empty() {
            Some(format!("the stream refuses changes for now: {}", self.refusal))
        } else if silent >= UNANSWERED {
            Some(
                "the stream acknowledges no changes: see the broker's log, and whether its disk is full"
                    .to_owned(),
            )
        } else {
            None
        }
    }

    /// The frames to send again, in order.
    fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.unacked.iter().filter(|pending| pending.tag.is_some()).map(|pending| pending.frame.as_slice())
    }

    fn next_tick(&self) -> Duration {
        if self.unacked.is_empty() {
            Duration::from_secs(60)
        } else if self.sent_on.is_none() || !matches!(self.rejection, Rejection::None) {
            Duration::from_millis(100)
        } else {
            Duration::from_millis(500)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Option<u64> = Some(1);
    const MS: Duration = Duration::from_millis(1);

    fn stored(seq: u64) -> Result<Ack, Error> {
        Ok(Ack { seq, duplicate: false })
    }

    fn busy() -> Result<Ack, Error> {
        Err(Error::Transient("busy".into()))
    }

    /// A window whose messages, tagged by their numbers, were all sent on connection 1.
    fn sent(count: u64) -> Window<u64> {
        let mut window = Window::new(4);
        for tag in 0..count {
            assert!(window.may_send_on(1));
            window.push(vec![b'0' + tag as u8], tag);
        }
        window
    }

    fn waiting(window: &Window<u64>) -> String {
        String::from_utf8(window.frames().flatten().copied().collect()).unwrap()
    }

    #[test]
    fn acknowledgements_in_any_order_free_the_window_from_the_front() {
        let mut window = sent(3);
        assert_eq!(window.end(1, stored(11)).unwrap().tag, 1);
        assert_eq!((window.unacked.len(), window.bytes, waiting(&window).as_str()), (3, 3, "02"));
        assert_eq!(window.end(0, stored(10)).unwrap().tag, 0);
        assert_eq!((window.unacked.len(), window.bytes, window.first), (1, 1, 2));
        assert_eq!(window.next_number(), 3);
        assert_eq!(window.end(2, stored(12)).unwrap().tag, 2);
        assert!(window.unacked.is_empty() && window.bytes == 0);
    }

    #[test]
    fn a_message_ends_once() {
        let mut window = sent(2);
        assert!(window.end(1, stored(1)).is_some());
        // Its repetition's acknowledgement, one from before the window, one of a message that was never sent.
        assert!(window.end(1, stored(1)).is_none());
        window.end(0, stored(2));
        assert!(window.end(0, stored(2)).is_none());
        assert!(window.end(7, stored(3)).is_none());
    }

    #[test]
    fn room_is_bounded_by_messages_and_by_bytes() {
        let mut window = sent(3);
        assert!(window.has_room());
        window.push(vec![0], 3);
        assert!(!window.has_room());
        let mut window = Window::new(4);
        assert!(window.has_room(), "the first passes, however large");
        window.push(vec![0; limits::PUBLISH_WINDOW_BYTES], 0);
        assert!(!window.has_room());
    }

    #[test]
    fn a_final_refusal_is_an_end_and_a_passing_one_is_not() {
        let mut window = sent(2);
        assert!(window.end(0, busy()).is_none());
        let refused = window.end(0, Err(Error::Permanent("too large".into()))).unwrap();
        assert_eq!((refused.tag, refused.result), (0, Err(Error::Permanent("too large".into()))));
        assert_eq!(waiting(&window), "1");
    }

    #[test]
    fn silence_leads_to_a_repetition() {
        let mut window = sent(2);
        let begin = Instant::now();
        assert!(!window.must_repeat(begin, EPOCH));
        assert!(!window.must_repeat(begin + limits::PUBLISH_RESEND, EPOCH));
        assert!(window.must_repeat(begin + limits::PUBLISH_RESEND + MS, EPOCH));
        // And that begins the wait anew, twice as long.
        assert!(!window.must_repeat(begin + limits::PUBLISH_RESEND * 3 + MS, EPOCH));
        assert!(window.must_repeat(begin + limits::PUBLISH_RESEND * 3 + MS * 2, EPOCH));
    }

    /// On a line where a message takes 9 seconds, it is sent three times, and the later ones once.
    #[test]
    fn a_thin_line_is_waited_for() {
        let mut window = sent(1);
        let (begin, mut now) = (Instant::now(), Instant::now());
        let repetitions = |window: &mut Window<u64>, now: &mut Instant, seconds: u32| {
            let until = *now + Duration::from_secs(u64::from(seconds));
            let mut count = 0;
            while *now < until {
                *now += MS * 100;
                count += u32::from(window.must_repeat(*now, EPOCH));
            }
            count
        };
        assert_eq!(repetitions(&mut window, &mut now, 9), 2);
        window.end(0, stored(1));
        for number in 1..5 {
            assert!(window.may_send_on(1));
            window.push(vec![b'x'], number);
            // The repetitions' acknowledgements come late.
            window.end(0, stored(1));
            let repeated = repetitions(&mut window, &mut now, 9);
            assert!(repeated <= 1, "{repeated} of message {number}");
            window.end(number, stored(number + 1));
        }
        assert!(now - begin < Duration::from_secs(60));
        // A line that has become fast is trusted again.
        for number in 5..15 {
            assert!(window.may_send_on(1));
            window.push(vec![b'x'], number);
            window.end(number, stored(number + 1));
        }
        assert_eq!(window.patience, limits::PUBLISH_RESEND);
    }

    #[test]
    fn progress_puts_the_repetition_off() {
        let mut window = sent(2);
        let begin = Instant::now();
        assert!(!window.must_repeat(begin, EPOCH));
        window.end(0, stored(1));
        let later = begin + limits::PUBLISH_RESEND + MS;
        assert!(!window.must_repeat(later, EPOCH));
        assert!(!window.must_repeat(later + limits::PUBLISH_RESEND, EPOCH));
        assert!(window.must_repeat(later + limits::PUBLISH_RESEND + MS, EPOCH));
    }

    #[test]
    fn another_connection_leads_to_a_repetition_at_once() {
        let mut window = sent(1);
        let now = Instant::now();
        assert!(!window.must_repeat(now, EPOCH));
        assert!(
            !window.must_repeat(now + limits::PUBLISH_RESEND * 9, None),
            "without a connection nothing is sent"
        );
        assert!(window.must_repeat(now, Some(2)));
        assert!(!window.must_repeat(now, Some(2)));
    }

    #[test]
    fn a_passing_rejection_leads_to_a_repetition_after_a_pause() {
        let mut window = sent(2);
        let now = Instant::now();
        window.end(0, busy());
        assert_eq!(window.next_tick(), Duration::from_millis(100));
        assert!(!window.must_repeat(now, EPOCH));
        // More rejections do not move the time.
        window.end(1, busy());
        assert!(!window.must_repeat(now + AFTER_REJECTION - MS, EPOCH));
        assert!(window.must_repeat(now + AFTER_REJECTION, EPOCH));
        assert!(!window.must_repeat(now + AFTER_REJECTION, EPOCH));
        assert_eq!(window.next_tick(), Duration::from_millis(500));
    }

    #[test]
    fn a_silence_is_said_until_it_ends_and_a_refusal_with_what_to_do() {
        let mut window = sent(2);
        let now = Instant::now();
        assert!(!window.must_repeat(now, EPOCH) && window.trouble(now).is_none());
        let later = now + limits::PUBLISH_RESEND + MS;
        assert!(window.trouble(later).unwrap().contains("acknowledges no changes"));
        assert!(window.must_repeat(later, EPOCH));
        assert!(window.trouble(later + MS).is_some(), "the repetition is no answer");
        assert!(window.end(0, Err(Error::NoRoom("full".into()))).is_none());
        assert!(window.trouble(later).unwrap().contains("full: make room"));
        let mut at = later;
        for pause in [1, 2, 4, 4] {
            assert!(!window.must_repeat(at, EPOCH));
            assert!(!window.must_repeat(at + AFTER_REJECTION * pause - MS, EPOCH), "{pause}");
            at += AFTER_REJECTION * pause;
            assert!(window.must_repeat(at, EPOCH), "{pause}");
            window.end(0, Err(Error::NoRoom("full".into())));
        }
        window.end(0, stored(1));
        assert_eq!(window.trouble(at), None);
    }

    #[test]
    fn an_empty_window_has_nothing_to_repeat() {
        let mut window = sent(1);
        window.end(0, busy());
        window.end(0, stored(1));
        let now = Instant::now();
        assert!(!window.must_repeat(now + limits::PUBLISH_RESEND * 9, Some(2)));
        assert_eq!(window.next_tick(), Duration::from_secs(60));
        // The silence before the next message does not count as its own.
        assert!(window.may_send_on(2));
        window.push(vec![b'x'], 7);
        assert!(!window.must_repeat(now + limits::PUBLISH_RESEND * 99, Some(2)));
    }

    #[test]
    fn nothing_overtakes_a_message_that_was_not_sent() {
        let mut window = sent(1);
        window.sent_on = None;
        assert!(!window.may_send_on(1) && !window.may_send_on(2));
        assert_eq!(window.next_tick(), Duration::from_millis(100));
        assert!(window.must_repeat(Instant::now(), EPOCH));
        assert!(window.may_send_on(1));
    }

    /// The bodies of the frames that went to the server.
    fn bodies(connection: &Connection) -> String {
        connection.said().lines().filter(|line| line.len() == 1).collect()
    }

    #[test]
    fn after_a_reconnect_all_goes_out_again_in_order() {
        let connection = Connection::offline();
        let mut pipeline: Pipeline<u8> = Pipeline::new(&connection, 8);
        let now = Instant::now();
        for body in ["a", "b"] {
            pipeline.send("s", &[], body.as_bytes(), 0).unwrap();
        }
        assert!(pipeline.tick(now).is_empty());
        assert_eq!(bodies(&connection), "");
        connection.come_up();
        pipeline.send("s", &[], b"c", 0).unwrap();
        assert_eq!(bodies(&connection), "", "c must not overtake a and b");
        assert!(pipeline.tick(now).is_empty());
        assert_eq!(bodies(&connection), "abc");
        pipeline.send("s", &[], b"d", 0).unwrap();
        assert_eq!(bodies(&connection), "d");
        connection.go_down();
        connection.come_up();
        assert!(pipeline.tick(now).is_empty());
        assert_eq!(bodies(&connection), "abcd");
    }

    #[test]
    fn what_the_server_of_a_new_connection_does_not_take_is_not_sent_again() {
        let connection = Connection::offline();
        let mut pipeline: Pipeline<&str> = Pipeline::new(&connection, 8);
        let (large, headers) = ([b'x'; 1_001], [("A", "b")]);
        // Before the first connection nobody knows what the server takes.
        pipeline.send("s", &[], b"a", "small").unwrap();
        pipeline.send("s", &[], &large, "large").unwrap();
        pipeline.send("s", &headers, &large[..990], "large with its headers").unwrap();
        pipeline.send("s", &[], &large[..1_000], "as large as may be").unwrap();
        connection.come_up();
        let refused = pipeline.tick(Instant::now());
        let tags: Vec<&str> = refused.iter().map(|acked| acked.tag).collect();
        assert_eq!(tags, ["large", "large with its headers"]);
        let why = "1001 bytes, the server takes 1000 (its max_payload)";
        assert_eq!(refused[0].result, Err(Error::Permanent(why.into())));
        assert_eq!(connection.said().matches("PUB").count(), 2);
        assert!(pipeline.tick(Instant::now()).is_empty());
    }

    #[test]
    fn acknowledgements_find_their_message_by_the_subject() {
        let connection = Connection::offline();
        connection.come_up();
        let mut pipeline: Pipeline<&str> = Pipeline::new(&connection, 8);
        let sid = pipeline.subscription.sid;
        pipeline.send("s", &[], b"a", "first").unwrap();
        pipeline.send("s", &[], b"b", "second").unwrap();
        let body = r#"{"seq":9}"#;
        connection.hear(format!("MSG {}.1 {sid} {}\r\n{body}\r\n", pipeline.inbox, body.len()).as_bytes());
        let acked = pipeline.on_ack(&pipeline.acks().try_recv().unwrap()).unwrap();
        assert_eq!((acked.tag, acked.result.unwrap().seq, pipeline.in_flight()), ("second", 9, 2));
        connection.hear(format!("MSG {}.x {sid} 0\r\n\r\n", pipeline.inbox).as_bytes());
        assert!(pipeline.on_ack(&pipeline.acks().try_recv().unwrap()).is_none());
    }

    #[test]
    fn a_message_that_can_never_be_sent_takes_no_place() {
        let connection = Connection::offline();
        connection.come_up();
        let mut pipeline: Pipeline<u8> = Pipeline::new(&connection, 8);
        assert!(matches!(pipeline.send("s", &[], &[0; 2000], 0), Err(Error::Permanent(_))));
        assert!(pipeline.is_empty());
    }
}
