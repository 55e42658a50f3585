//! Pipelined publishing: many messages in flight, each acknowledged, all sent again in order when in doubt.

use super::connection::{Connection, Subscription};
use super::jetstream::{self, Ack};
use super::wire::{self, Message};
use super::{Error, nuid};
use crate::base::limits;
use crossbeam_channel::{Receiver, bounded};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Messages on their way into streams. `T` is what the caller wants back with each acknowledgement.
pub struct Pipeline<T> {
    connection: Connection,
    inbox: String,
    acks: Receiver<Message>,
    #[allow(dead_code, reason = "dropping it unsubscribes")]
    subscription: Subscription,
    window: usize,
    unacked: VecDeque<Pending<T>>,
    /// Number of the first message in `unacked`.
    first: u64,
    bytes: usize,
    /// The connection on which all of `unacked` was sent; 0: some were not.
    sent_on: u64,
    progress: Instant,
    /// A rejection asks for a repetition at this time.
    repeat_at: Option<Instant>,
}

struct Pending<T> {
    frame: Vec<u8>,
    tag: Option<T>,
}

/// The end of one message.
#[derive(Debug)]
pub struct Acked<T> {
    /// What the caller gave.
    pub tag: T,
    /// Stored, or refused for good.
    pub result: Result<Ack, Error>,
}

impl<T> Pipeline<T> {
    /// At most `window` messages in flight.
    pub fn new(connection: &Connection, window: usize) -> Pipeline<T> {
        // Twice the window: repetitions are acknowledged twice; what finds no room is a repetition's.
        let (sender, acks) = bounded(window * 2);
        let inbox = format!("_INBOX.{}", nuid());
        let subscription = connection.subscribe(&format!("{inbox}.*"), sender);
        Pipeline {
            connection: connection.clone(),
            inbox,
            acks,
            subscription,
            window,
            unacked: VecDeque::new(),
            first: 0,
            bytes: 0,
            sent_on: connection.epoch(),
            progress: Instant::now(),
            repeat_at: None,
        }
    }

    /// Whether another message may be sent. One is always let through, however large.
    pub fn has_room(&self) -> bool {
        self.unacked.len() < self.window && self.bytes < limits::PUBLISH_WINDOW_BYTES
    }

    /// Whether the broker is there now.
    pub fn is_up(&self) -> bool {
        self.connection.is_up()
    }

    /// Largest message that the server takes.
    pub fn max_payload(&self) -> usize {
        self.connection.max_payload()
    }

    /// Messages without an acknowledgement.
    pub fn in_flight(&self) -> usize {
        self.unacked.len()
    }

    /// Whether everything was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.unacked.is_empty()
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
        let max = self.connection.max_payload();
        let size = payload.len()
            + headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>()
            + 16;
        if max > 0 && size > max {
            return Err(Error::Permanent(format!("{size} bytes, the server takes {max} (its max_payload)")));
        }
        let reply = format!("{}.{}", self.inbox, self.first + self.unacked.len() as u64);
        let frame = wire::publish_frame(subject, Some(&reply), headers, payload).map_err(Error::Permanent)?;
        if self.unacked.is_empty() {
            self.progress = Instant::now();
            self.sent_on = self.connection.epoch();
        }
        self.bytes += frame.len();
        if self.sent_on == self.connection.epoch() && self.connection.send(&frame).is_err() {
            self.sent_on = 0;
        }
        self.unacked.push_back(Pending { frame, tag: Some(tag) });
        Ok(())
    }

    /// Takes an acknowledgement. `None`: a repetition's, or a rejection that will be tried again.
    pub fn on_ack(&mut self, message: &Message) -> Option<Acked<T>> {
        let number: u64 = message.subject.rsplit('.').next()?.parse().ok()?;
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let pending = self.unacked.get_mut(at)?;
        let result = jetstream::ack(message);
        if let Err(Error::Transient(why)) = &result {
            if self.repeat_at.is_none() {
                log::debug!("publish refused for now: {why}");
                self.repeat_at = Some(Instant::now() + Duration::from_millis(250));
            }
            return None;
        }
        let tag = pending.tag.take()?;
        self.progress = Instant::now();
        while self.unacked.front().is_some_and(|pending| pending.tag.is_none()) {
            if let Some(done) = self.unacked.pop_front() {
                self.bytes -= done.frame.len();
                self.first += 1;
            }
        }
        Some(Acked { tag, result })
    }

    /// To be called now and then: after a reconnect, a rejection or a silence, sends everything unacknowledged again.
    pub fn tick(&mut self) {
        if self.unacked.is_empty() {
            self.repeat_at = None;
            return;
        }
        let now = Instant::now();
        let epoch = self.connection.epoch();
        let silent = now.duration_since(self.progress) > limits::PUBLISH_RESEND;
        let refused = self.repeat_at.is_some_and(|at| at <= now);
        if !self.connection.is_up() || (self.sent_on == epoch && !silent && !refused) {
            return;
        }
        log::debug!("sending {} unacknowledged messages again", self.unacked.len());
        self.repeat_at = None;
        self.progress = now;
        self.sent_on = epoch;
        for pending in self.unacked.iter().filter(|pending| pending.tag.is_some()) {
            if self.connection.send(&pending.frame).is_err() {
                self.sent_on = 0;
                return;
            }
        }
    }

    /// How soon [`Pipeline::tick`] wants to be called.
    pub fn next_tick(&self) -> Duration {
        if self.unacked.is_empty() {
            return Duration::from_secs(60);
        }
        if self.sent_on == 0 || self.repeat_at.is_some() {
            Duration::from_millis(100)
        } else {
            Duration::from_millis(500)
        }
    }
}
