//! Reading a stream in order: an ephemeral pull consumer without acknowledgements, built anew from the reader's own
//! position whenever anything is odd.

use super::connection::Subscription;
use super::error::Error;
use super::jetstream::JetStream;
use super::nuid;
use super::wire::Message;
use crate::base::limits;
use crossbeam_channel::Sender;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What a consumer delivers.
#[derive(Clone, Copy, Debug)]
pub struct Pull<'a> {
    /// The stream's name.
    pub stream: &'a str,
    /// Only messages of this subject; `None`: of all.
    pub filter: Option<&'a str>,
    /// The first message is the first one whose sequence is not below this.
    pub start: u64,
    /// Messages on the way at most.
    pub batch: usize,
}

/// A message of a stream.
#[derive(Debug)]
pub struct Item {
    /// Its sequence in the stream.
    pub seq: u64,
    /// How many messages of the stream were to follow when the server sent it.
    pub pending: u64,
    /// When the server stored it, Unix milliseconds by its clock.
    pub time_ms: i64,
    pub message: Message,
}

/// What a delivery means to the reader.
#[derive(Debug)]
pub enum Step {
    /// The next message.
    Item(Item),
    /// Nothing for the reader.
    Nothing,
    /// The consumer is of no use any more, and why. The reader builds a new one from its position.
    Rebuild(String),
}

/// One consumer on the server and its pulls.
pub struct Consumer {
    js: JetStream,
    stream: String,
    /// The server chose it.
    name: String,
    subscription: Subscription,
    inbox: String,
    /// The connection on which it was made.
    epoch: u64,
    deliveries: Deliveries,
}

impl Consumer {
    /// Creates a consumer and asks for messages. They come into `queue`, which must hold at least `pull.batch` messages for
    /// each consumer that shares it.
    pub fn open(js: &JetStream, pull: &Pull<'_>, queue: Sender<Message>) -> Result<Consumer, Error> {
        #[derive(Deserialize)]
        struct Created {
            name: String,
        }
        let inbox = format!("_INBOX.{}", nuid());
        let epoch = js.connection().epoch();
        let subscription = js.connection().subscribe(&inbox, queue);
        let created: Created = js.api(&format!("CONSUMER.CREATE.{}", pull.stream), &creation(pull))?;
        let deliveries = Deliveries::new(pull, &created.name, Instant::now());
        let mut consumer = Consumer {
            js: js.clone(),
            stream: pull.stream.to_owned(),
            name: created.name,
            subscription,
            inbox,
            epoch,
            deliveries,
        };
        consumer.ask()?;
        Ok(consumer)
    }

    /// Whether a message of the shared queue is this consumer's.
    pub fn owns(&self, message: &Message) -> bool {
        message.sid == self.subscription.sid
    }

    /// Asks for messages when at most half of the batch is still to come.
    fn ask(&mut self) -> Result<(), Error> {
        let count = self.deliveries.to_ask_for();
        if count == 0 {
            return Ok(());
        }
        let connection = self.js.connection();
        let body = pull_request(count, connection.max_payload()).to_string();
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.name);
        connection.send(&connection.frame(&subject, Some(&self.inbox), &[], body.as_bytes())?)?;
        self.deliveries.credit += count;
        Ok(())
    }

    /// Takes a delivery.
    pub fn on_message(&mut self, message: Message, now: Instant) -> Step {
        let step = self.deliveries.take(message, now);
        if matches!(step, Step::Rebuild(_)) {
            return step;
        }
        let asked = self.ask();
        match step {
            // The message is good. If asking for more failed, the silence that follows leads to a new consumer.
            Step::Item(item) => Step::Item(item),
            _ => asked.map_or_else(|error| Step::Rebuild(error.to_string()), |()| Step::Nothing),
        }
    }

    /// Why the consumer is of no use any more, if it is so: another connection, or silence.
    pub fn trouble(&self, now: Instant) -> Option<String> {
        if self.lost_its_connection() {
            return Some("the connection was lost".to_owned());
        }
        self.deliveries.are_silent(now).then(|| "no heartbeat".to_owned())
    }

    fn lost_its_connection(&self) -> bool {
        let connection = self.js.connection();
        connection.epoch() != self.epoch || !connection.is_up()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if !self.lost_its_connection() {
            let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", self.stream, self.name);
            // Best effort: the server removes an unused consumer by itself.
            let _ = self.js.connection().publish(&subject, &[], &[]);
        }
    }
}

/// The request that creates a consumer. It lives in the server's memory and ends after a minute without a pull.
fn creation(pull: &Pull<'_>) -> Value {
    let mut config = json!({
        "deliver_policy": "by_start_sequence", "opt_start_seq": pull.start.max(1), "ack_policy": "none",
        "replay_policy": "instant", "inactive_threshold": 60_000_000_000u64, "mem_storage": true, "num_replicas": 1,
    });
    if let Some(filter) = pull.filter {
        config["filter_subject"] = json!(filter);
    }
    json!({ "stream_name": pull.stream, "config": config })
}

/// The request for `count` messages.
fn pull_request(count: usize, max_payload: usize) -> Value {
    let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    json!({
        "batch": count,
        "max_bytes": limits::pull_bytes(max_payload),
        "expires": nanoseconds(limits::PULL_EXPIRES),
        "idle_heartbeat": nanoseconds(limits::PULL_HEARTBEAT),
    })
}

/// What was delivered, and what is still to come. Any gap makes the consumer useless: deliveries that find the reader's
/// queue full are dropped, and this is how that is noticed.
struct Deliveries {
    /// Names of the stream and the consumer: they stand in each delivery.
    from: (String, String),
    batch: usize,
    /// Messages that were asked for and have not come.
    credit: usize,
    /// The consumer's number of the last delivery; its deliveries are numbered from 1.
    delivered: u64,
    /// The stream's sequence of the last delivery.
    last_seq: u64,
    /// When anything came last.
    heard: Instant,
}

impl Deliveries {
    fn new(pull: &Pull<'_>, consumer: &str, now: Instant) -> Deliveries {
        let last_seq = pull.start.saturating_sub(1);
        let from = (pull.stream.to_owned(), consumer.to_owned());
        Deliveries { from, batch: pull.batch, credit: 0, delivered: 0, last_seq, heard: now }
    }

    /// How many messages to ask for now: after half of a batch has come, what is missing to a whole one; else 0.
    fn to_ask_for(&self) -> usize {
        if self.credit > self.batch / 2 { 0 } else { self.batch - self.credit }
    }

    fn are_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) > limits::PULL_SILENCE
    }

    fn take(&mut self, message: Message, now: Instant) -> Step {
        self.heard = now;
        match message.headers.status {
            None => self.take_item(message),
            Some(100) => self.take_heartbeat(&message),
            Some(status) => self.take_status(status, &message),
        }
    }

    fn take_item(&mut self, message: Message) -> Step {
        let Some(numbers) = message.reply.as_deref().and_then(AckSubject::parse) else {
            return Step::Rebuild(format!("unreadable acknowledgement subject {:?}", message.reply));
        };
        if numbers.from != (self.from.0.as_str(), self.from.1.as_str()) {
            return Step::Rebuild(format!("a delivery of another consumer: {:?}", message.reply));
        }
        if numbers.consumer != self.delivered + 1 || numbers.stream <= self.last_seq {
            return Step::Rebuild(format!(
                "delivery {} (sequence {}) came after delivery {} (sequence {})",
                numbers.consumer, numbers.stream, self.delivered, self.last_seq
            ));
        }
        self.delivered = numbers.consumer;
        self.last_seq = numbers.stream;
        self.credit = self.credit.saturating_sub(1);
        let AckSubject { stream: seq, pending, time_ms, .. } = numbers;
        Step::Item(Item { seq, pending, time_ms, message })
    }

    /// A heartbeat tells the number of the last delivery: with a higher one than ours, some were dropped.
    fn take_heartbeat(&mut self, message: &Message) -> Step {
        match message.headers.number("Nats-Last-Consumer") {
            Some(last) if last > self.delivered => {
                Step::Rebuild(format!("{} deliveries were lost", last - self.delivered))
            }
            _ => Step::Nothing,
        }
    }

    fn take_status(&mut self, status: u16, message: &Message) -> Step {
        let description = &message.headers.description;
        if !ends_a_pull(status, description) {
            return Step::Rebuild(format!("the server says {status} {description}"));
        }
        // What the server still owed to the pull will not come. Older servers do not say how much that is.
        let owed = message.headers.number("Nats-Pending-Messages").and_then(|n| usize::try_from(n).ok());
        self.credit = owed.map_or(0, |owed| self.credit.saturating_sub(owed));
        Step::Nothing
    }
}

/// Whether a status message ends one pull and leaves the consumer as it is. 404: no messages; 408: the pull expired. 409 has
/// many reasons and no code of its own for each, only words (nats-server, `server/consumer.go`): "Message Size Exceeds
/// MaxBytes" and "Batch Completed" end a pull, while "Consumer Deleted", "Leadership Change" and the like end the consumer.
fn ends_a_pull(status: u16, description: &str) -> bool {
    let words = description.to_ascii_lowercase();
    match status {
        404 | 408 => true,
        409 => words.contains("exceeds maxbytes") || words.contains("batch completed"),
        _ => false,
    }
}

/// The numbers of a delivery, which stand in its reply subject.
#[derive(Debug, PartialEq, Eq)]
struct AckSubject<'a> {
    /// Names of the stream and the consumer.
    from: (&'a str, &'a str),
    /// Sequence in the stream.
    stream: u64,
    /// Number of the consumer's delivery.
    consumer: u64,
    time_ms: i64,
    pending: u64,
}

impl AckSubject<'_> {
    /// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, or with a domain and an
    /// account hash before the stream and perhaps a token at the end.
    fn parse(subject: &str) -> Option<AckSubject<'_>> {
        let parts: Vec<&str> = subject.split('.').collect();
        let from = match parts.len() {
            9 => 5,
            11.. => 7,
            _ => return None,
        };
        if parts[0] != "$JS" || parts[1] != "ACK" {
            return None;
        }
        let number = |at: usize| parts[at].parse::<u64>().ok();
        Some(AckSubject {
            from: (parts[from - 3], parts[from - 2]),
            stream: number(from)?,
            consumer: number(from + 1)?,
            time_ms: i64::try_from(number(from + 2)? / 1_000_000).ok()?,
            pending: number(from + 3)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::queued::Queued;
    use crate::nats::wire::Headers;

    const PULL: Pull<'_> = Pull { stream: "S", filter: None, start: 5, batch: 8 };

    fn deliveries() -> Deliveries {
        Deliveries { credit: PULL.batch, ..Deliveries::new(&PULL, "C", Instant::now()) }
    }

    fn message(reply: Option<String>, headers: &str) -> Message {
        let headers = Headers::parse(headers.as_bytes());
        Message { sid: 1, subject: "s".into(), reply, headers, payload: vec![], queued: Queued::default() }
    }

    fn delivery(consumer: u64, stream: u64) -> Message {
        message(Some(format!("$JS.ACK.S.C.1.{stream}.{consumer}.1700000000000000000.3")), "")
    }

    fn status(line: &str) -> Message {
        message(None, &format!("NATS/1.0 {line}\r\n\r\n"))
    }

    fn seq(step: Step) -> u64 {
        match step {
            Step::Item(item) => item.seq,
            other => panic!("{other:?}"),
        }
    }

    fn why(step: Step) -> String {
        match step {
            Step::Rebuild(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn deliveries_in_order_with_and_without_holes_in_the_stream() {
        let (mut deliveries, now) = (deliveries(), Instant::now());
        assert_eq!(seq(deliveries.take(delivery(1, 5), now)), 5);
        // Messages that were deleted from the stream have no delivery.
        assert_eq!(seq(deliveries.take(delivery(2, 9), now)), 9);
        assert_eq!(deliveries.credit, PULL.batch - 2);
    }

    #[test]
    fn what_a_delivery_tells() {
        let Step::Item(item) = deliveries().take(delivery(1, 5), Instant::now()) else { panic!() };
        assert_eq!((item.pending, item.time_ms), (3, 1_700_000_000_000));
    }

    #[test]
    fn a_lost_repeated_or_foreign_delivery_makes_the_consumer_useless() {
        let now = Instant::now();
        for (consumer, stream) in [(3, 7), (1, 6), (2, 5), (2, 4)] {
            let mut deliveries = deliveries();
            deliveries.take(delivery(1, 5), now);
            let why = why(deliveries.take(delivery(consumer, stream), now));
            assert_eq!(
                why,
                format!("delivery {consumer} (sequence {stream}) came after delivery 1 (sequence 5)")
            );
        }
        assert!(why(deliveries().take(delivery(1, 4), now)).contains("after delivery 0 (sequence 4)"));
        assert!(why(deliveries().take(message(None, ""), now)).contains("unreadable"));
        for from in ["T.C", "S.D"] {
            let forged = message(Some(format!("$JS.ACK.{from}.1.5.1.1700000000000000000.3")), "");
            assert!(why(deliveries().take(forged, now)).contains("of another consumer"), "{from}");
        }
    }

    #[test]
    fn mutants_of_deliveries_come_in_order_or_end_the_consumer() {
        let blocks =
            ["NATS/1.0 100 Idle\r\nNats-Last-Consumer: 1\r\n\r\n", "NATS/1.0 404 No Messages\r\n\r\n"];
        let more =
            ["NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 7\r\n\r\n", "NATS/1.0\r\nA: b\r\n\r\n"];
        let blocks =
            [blocks, more].concat().iter().map(|block| block.as_bytes().to_vec()).collect::<Vec<_>>();
        crate::base::mutants::each_seed("deliveries", |mutator| {
            let (mut deliveries, mut last, now) = (deliveries(), PULL.start - 1, Instant::now());
            for number in 1..=4 {
                let good = delivery(number, number + 4).reply.unwrap_or_default().into_bytes();
                let reply = if mutator.below(3) > 0 { good } else { mutator.mutant(&[good]) };
                let mut message = message(Some(String::from_utf8_lossy(&reply).into_owned()), "");
                if mutator.below(3) == 0 {
                    message.headers = Headers::parse(&mutator.mutant(&blocks));
                }
                match deliveries.take(message, now) {
                    Step::Item(item) => {
                        assert!(item.seq > last);
                        last = item.seq;
                    }
                    Step::Nothing => {}
                    Step::Rebuild(why) => return assert!(!why.is_empty()),
                }
                assert!(deliveries.to_ask_for() <= PULL.batch);
            }
        });
    }

    #[test]
    fn a_heartbeat_shows_deliveries_that_were_dropped() {
        let (mut deliveries, now) = (deliveries(), Instant::now());
        deliveries.take(delivery(1, 5), now);
        let beat =
            |last: u64| message(None, &format!("NATS/1.0 100 Idle\r\nNats-Last-Consumer: {last}\r\n\r\n"));
        assert!(matches!(deliveries.take(beat(1), now), Step::Nothing));
        assert!(matches!(deliveries.take(status("100 Idle Heartbeat"), now), Step::Nothing));
        assert_eq!(why(deliveries.take(beat(4), now)), "3 deliveries were lost");
    }

    #[test]
    fn silence_begins_with_the_last_word_of_any_kind() {
        let mut deliveries = deliveries();
        let begin = deliveries.heard;
        assert!(!deliveries.are_silent(begin + limits::PULL_SILENCE));
        assert!(deliveries.are_silent(begin + limits::PULL_SILENCE + Duration::from_millis(1)));
        let later = begin + limits::PULL_HEARTBEAT;
        deliveries.take(status("100 Idle Heartbeat"), later);
        assert!(!deliveries.are_silent(later + limits::PULL_SILENCE));
    }

    #[test]
    fn more_is_asked_for_when_half_has_come() {
        let (mut deliveries, now) = (deliveries(), Instant::now());
        for number in 1..=3 {
            deliveries.take(delivery(number, number + 4), now);
            assert_eq!(deliveries.to_ask_for(), 0);
        }
        deliveries.take(delivery(4, 8), now);
        assert_eq!(deliveries.to_ask_for(), 4);
        assert_eq!(Deliveries::new(&PULL, "C", now).to_ask_for(), PULL.batch);
    }

    #[test]
    fn a_pull_that_ended_is_made_anew() {
        let now = Instant::now();
        for line in [
            "404 No Messages",
            "408 Request Timeout",
            "409 Message Size Exceeds MaxBytes",
            "409 Batch Completed",
        ] {
            let mut deliveries = deliveries();
            assert!(matches!(deliveries.take(status(line), now), Step::Nothing), "{line}");
            assert_eq!(deliveries.to_ask_for(), PULL.batch, "{line}");
        }
        // A newer server tells how much it still owed: the rest is on its way.
        let mut deliveries = deliveries();
        deliveries.take(status("408 Request Timeout\r\nNats-Pending-Messages: 7"), now);
        assert_eq!((deliveries.credit, deliveries.to_ask_for()), (1, 7));
        deliveries.take(status("408 Request Timeout\r\nNats-Pending-Messages: 99"), now);
        assert_eq!(deliveries.credit, 0);
    }

    #[test]
    fn other_words_of_the_server_end_the_consumer() {
        for line in [
            "409 Consumer Deleted",
            "409 Leadership Change",
            "409 Exceeded MaxRequestMaxBytes of 5",
            "503",
            "500 x",
        ] {
            let why = why(deliveries().take(status(line), Instant::now()));
            assert!(why.starts_with(&format!("the server says {line}")), "{why}");
        }
    }

    #[test]
    fn acknowledgement_subjects_old_and_new() {
        let numbers = Some(AckSubject {
            from: ("S", "C"),
            stream: 42,
            consumer: 7,
            time_ms: 1_700_000_000_000,
            pending: 5,
        });
        for subject in [
            "$JS.ACK.S.C.1.42.7.1700000000000000000.5",
            "$JS.ACK._.ABC.S.C.1.42.7.1700000000000000000.5",
            "$JS.ACK.hub.ABC.S.C.1.42.7.1700000000000000000.5.tok",
        ] {
            assert_eq!(AckSubject::parse(subject), numbers, "{subject}");
        }
    }

    #[test]
    fn what_is_no_acknowledgement_subject() {
        for bad in [
            "",
            "$JS.ACK",
            "$JS.ACK.S.C.1.x.7.1.5",
            "$JS.ACK.S.C.1.-4.7.1.5",
            "$JS.ACK.S.C.1.42.7.1700000000000000000.5.tok",
            "$JS.NAK.S.C.1.42.7.1.5",
            "a.b.c.d.e.f.g.h.i",
        ] {
            assert_eq!(AckSubject::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn requests() {
        let all = creation(&Pull { start: 0, ..PULL });
        assert_eq!((&all["stream_name"], &all["config"]["opt_start_seq"]), (&json!("S"), &json!(1)));
        assert!(all["config"].get("filter_subject").is_none());
        let some = creation(&Pull { filter: Some("a.b"), ..PULL });
        assert_eq!(
            (&some["config"]["opt_start_seq"], &some["config"]["filter_subject"]),
            (&json!(5), &json!("a.b"))
        );
        assert_eq!(pull_request(3, 0)["max_bytes"], json!(limits::PULL_BYTES));
        let large = pull_request(3, 8 << 20);
        assert_eq!((&large["batch"], &large["max_bytes"]), (&json!(3), &json!((8 << 20) + (64 << 10))));
        assert_eq!(large["idle_heartbeat"], json!(5_000_000_000u64));
    }
}
