//! Reading a stream in order: an ephemeral pull consumer without acknowledgements, built anew from the reader's own
//! position whenever anything is odd.

use super::connection::Subscription;
use super::jetstream::JetStream;
use super::wire::Message;
use super::{Error, nuid};
use crate::base::limits;
use crossbeam_channel::Sender;
use serde::Deserialize;
use serde_json::json;
use std::time::Instant;

/// A message of a stream.
#[derive(Debug)]
pub struct Item {
    /// Its sequence in the stream.
    pub seq: u64,
    /// Messages of the stream that were waiting behind it.
    pub pending: u64,
    /// When the server stored it, Unix milliseconds by its clock.
    pub time_ms: i64,
    /// The message.
    pub message: Message,
}

/// What a delivery means.
#[derive(Debug)]
pub enum Step {
    /// The next message.
    Item(Item),
    /// Nothing for the reader.
    Nothing,
    /// The consumer is of no use any more: why. The reader builds a new one from its position.
    Rebuild(String),
}

/// One consumer on the server and its pulls.
pub struct Consumer {
    js: JetStream,
    stream: String,
    name: String,
    subscription: Subscription,
    inbox: String,
    epoch: u64,
    /// Messages asked for that have not come.
    credit: usize,
    batch: usize,
    delivered: u64,
    last_seq: u64,
    heard: Instant,
}

impl Consumer {
    /// Creates a consumer whose first message is the first one not below `start`, and asks for messages. They come into
    /// `queue`, which must hold at least `batch` messages for each consumer that shares it.
    pub fn open(
        js: &JetStream,
        stream: &str,
        filter: Option<&str>,
        start: u64,
        batch: usize,
        queue: Sender<Message>,
    ) -> Result<Consumer, Error> {
        #[derive(Deserialize)]
        struct Created {
            name: String,
        }
        let inbox = format!("_INBOX.{}", nuid());
        let epoch = js.connection().epoch();
        let subscription = js.connection().subscribe(&inbox, queue);
        let mut config = json!({
            "deliver_policy": "by_start_sequence", "opt_start_seq": start.max(1), "ack_policy": "none",
            "replay_policy": "instant", "inactive_threshold": 60_000_000_000u64, "mem_storage": true, "num_replicas": 1,
        });
        if let Some(filter) = filter {
            config["filter_subject"] = json!(filter);
        }
        let body = json!({ "stream_name": stream, "config": config });
        let created: Created = js.api(&format!("CONSUMER.CREATE.{stream}"), &body)?;
        let mut consumer = Consumer {
            js: js.clone(),
            stream: stream.to_owned(),
            name: created.name,
            subscription,
            inbox,
            epoch,
            credit: 0,
            batch,
            delivered: 0,
            last_seq: start.saturating_sub(1),
            heard: Instant::now(),
        };
        consumer.pull()?;
        Ok(consumer)
    }

    /// Whether a message of the shared queue is this consumer's.
    pub fn owns(&self, message: &Message) -> bool {
        message.sid == self.subscription.sid
    }

    /// Asks for messages when at most half of the batch is still to come.
    fn pull(&mut self) -> Result<(), Error> {
        if self.credit > self.batch / 2 {
            return Ok(());
        }
        let count = self.batch - self.credit;
        let max_payload = self.js.connection().max_payload();
        let body = json!({
            "batch": count,
            "max_bytes": limits::PULL_BYTES.max(max_payload + (64 << 10)),
            "expires": nanoseconds(limits::PULL_EXPIRES),
            "idle_heartbeat": nanoseconds(limits::PULL_HEARTBEAT),
        });
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.name);
        let frame = super::wire::publish_frame(&subject, Some(&self.inbox), &[], body.to_string().as_bytes())
            .map_err(Error::Permanent)?;
        self.js.connection().send(&frame)?;
        self.credit += count;
        Ok(())
    }

    /// Takes a delivery.
    pub fn on_message(&mut self, message: Message) -> Step {
        self.heard = Instant::now();
        match message.headers.status {
            None => self.on_item(message),
            Some(100) => self.on_heartbeat(&message),
            Some(status) => self.on_status(status, &message),
        }
    }

    fn on_item(&mut self, message: Message) -> Step {
        let Some(numbers) = message.reply.as_deref().and_then(AckSubject::parse) else {
            return Step::Rebuild(format!("unreadable acknowledgement subject {:?}", message.reply));
        };
        if numbers.consumer != self.delivered + 1 || numbers.stream <= self.last_seq {
            return Step::Rebuild(format!(
                "delivery {} (sequence {}) came after delivery {} (sequence {})",
                numbers.consumer, numbers.stream, self.delivered, self.last_seq
            ));
        }
        self.delivered = numbers.consumer;
        self.last_seq = numbers.stream;
        self.credit = self.credit.saturating_sub(1);
        // The message is good; if asking for more failed, the silence that follows leads to a new consumer.
        let _ = self.pull();
        let AckSubject { stream: seq, pending, time_ms, .. } = numbers;
        Step::Item(Item { seq, pending, time_ms, message })
    }

    fn on_heartbeat(&mut self, message: &Message) -> Step {
        let last = message.headers.get("Nats-Last-Consumer").and_then(|text| text.parse::<u64>().ok());
        match last {
            Some(last) if last > self.delivered => {
                Step::Rebuild(format!("{} deliveries were lost", last - self.delivered))
            }
            _ => Step::Nothing,
        }
    }

    fn on_status(&mut self, status: u16, message: &Message) -> Step {
        let description = &message.headers.description;
        let lower = description.to_ascii_lowercase();
        let ended_pull =
            matches!(status, 404 | 408) || lower.contains("maxbytes") || lower.contains("batch completed");
        if !ended_pull {
            return Step::Rebuild(format!("the server says {status} {description}"));
        }
        let left = message.headers.get("Nats-Pending-Messages").and_then(|text| text.parse::<usize>().ok());
        self.credit = left.map_or(0, |left| self.credit.saturating_sub(left));
        match self.pull() {
            Ok(()) => Step::Nothing,
            Err(error) => Step::Rebuild(error.to_string()),
        }
    }

    /// Why the consumer is of no use any more, if it is so: another connection, or silence.
    pub fn trouble(&self) -> Option<String> {
        if self.js.connection().epoch() != self.epoch || !self.js.connection().is_up() {
            return Some("the connection was lost".to_owned());
        }
        (self.heard.elapsed() > limits::PULL_SILENCE).then(|| "no heartbeat".to_owned())
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if self.trouble().is_none() {
            let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", self.stream, self.name);
            // Best effort: the server removes an unused consumer by itself.
            let _ = self.js.connection().publish(&subject, &[], &[]);
        }
    }
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

struct AckSubject {
    stream: u64,
    consumer: u64,
    time_ms: i64,
    pending: u64,
}

impl AckSubject {
    /// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, or with a domain and an
    /// account hash before the stream and perhaps a token at the end.
    fn parse(subject: &str) -> Option<AckSubject> {
        let parts: Vec<&str> = subject.split('.').collect();
        let from = match parts.len() {
            9 => 5,
            11.. => 7,
            _ => return None,
        };
        let number = |at: usize| parts[at].parse::<u64>().ok();
        (parts[0] == "$JS" && parts[1] == "ACK").then(|| {
            Some(AckSubject {
                stream: number(from)?,
                consumer: number(from + 1)?,
                time_ms: i64::try_from(number(from + 2)? / 1_000_000).ok()?,
                pending: number(from + 3)?,
            })
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgement_subjects_old_and_new() {
        let old = AckSubject::parse("$JS.ACK.S.C.1.42.7.1700000000000000000.5").unwrap();
        assert_eq!((old.stream, old.consumer, old.pending), (42, 7, 5));
        assert_eq!(old.time_ms, 1_700_000_000_000);
        let new = AckSubject::parse("$JS.ACK._.ABC.S.C.1.42.7.1700000000000000000.5").unwrap();
        assert_eq!((new.stream, new.consumer, new.pending), (42, 7, 5));
        let token = AckSubject::parse("$JS.ACK.hub.ABC.S.C.1.42.7.1700000000000000000.5.tok").unwrap();
        assert_eq!((token.stream, token.consumer, token.pending), (42, 7, 5));
        for bad in ["", "$JS.ACK", "$JS.ACK.S.C.1.x.7.1.5", "a.b.c.d.e.f.g.h.i"] {
            assert!(AckSubject::parse(bad).is_none(), "{bad}");
        }
    }
}
