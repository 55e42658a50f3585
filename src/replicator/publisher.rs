//! The publisher: from the change log into the streams, many in flight, in order, until each has come back.

use crate::base::{limits, stop::Stop};
use crate::config::Config;
use crate::db::{self, Capture, ChangeLog};
use crate::model::{event::Codec, origin::Origin, shard};
use crate::nats::{Acked, Connection, Pipeline};
use crate::operate::board::Status;
use crossbeam_channel::{Receiver, select};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// What the applier tells the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// All that was in the streams at the start is applied: publish.
    Start,
    /// A stream lost what we had published: publish again what has not come back.
    Rewind,
}

/// How often entries that stay in the log are looked for.
const AUDIT_INTERVAL: Duration = Duration::from_secs(5);

/// The publisher's thread.
pub struct Publisher {
    config: Config,
    log: ChangeLog,
    /// Read and not sent yet.
    pending: VecDeque<db::Change>,
    /// The log may hold more than was read.
    more: bool,
    origin: Origin,
    codec: Codec,
    pipeline: Pipeline<Sent>,
    /// Wake-ups: the application committed, or the applier made log entries or progress.
    wake: Receiver<()>,
    commands: Receiver<Command>,
    status: Arc<Status>,
    stop: Stop,
    started: bool,
    /// Ids without an acknowledgement. With `replicate = false` those below the lowest are settled.
    in_flight: BTreeSet<i64>,
    last_audit: Instant,
    stuck: i64,
    /// Entries left over by the last rewind: with refused ones among them, another one would not help.
    left_over: i64,
    /// Changes that their stream will not take, since the last rewind.
    refused: usize,
    /// The server's largest message when one was refused.
    refused_at: usize,
    /// Counts the rewinds.
    attempt: u64,
}

/// What comes back with an acknowledgement.
#[derive(Debug)]
struct Sent {
    id: i64,
    shard: usize,
    table: String,
}

impl Publisher {
    /// A publisher on an opened change log.
    pub fn new(
        config: &Config,
        log: ChangeLog,
        connection: &Connection,
        wake: Receiver<()>,
        commands: Receiver<Command>,
        status: Arc<Status>,
        stop: Stop,
    ) -> Result<Publisher, String> {
        let origin = log.origin().map_err(|error| error.to_string())?;
        Ok(Publisher {
            log,
            pending: VecDeque::new(),
            more: true,
            origin,
            codec: Codec::new(config.log.compress).map_err(|error| error.to_string())?,
            pipeline: Pipeline::new(connection, limits::PUBLISH_WINDOW),
            wake,
            commands,
            status,
            stop,
            // Without an applier nobody catches up, and nothing can come back that should be waited for.
            started: !config.replicate,
            in_flight: BTreeSet::new(),
            last_audit: Instant::now(),
            stuck: 0,
            left_over: 0,
            refused: 0,
            refused_at: 0,
            attempt: 0,
            config: config.clone(),
        })
    }

    /// Publishes until stop, then drains.
    pub fn run(mut self) -> Result<(), String> {
        let mut look = true;
        while !self.stop.requested() {
            if look {
                self.more = true;
                look = !self.pass().map_err(|error| self.failed(&error))?;
            }
            let timeout =
                if look { Duration::from_millis(50) } else { self.pipeline.next_tick().min(AUDIT_INTERVAL) };
            select! {
                recv(self.stop.receiver()) -> _ => break,
                recv(self.wake) -> token => match token {
                    Ok(()) => look = true,
                    Err(_) => break,
                },
                recv(self.commands) -> command => match command {
                    Ok(command) => look |= self.obey(command),
                    Err(_) => break,
                },
                recv(self.pipeline.acks()) -> message => {
                    if let Ok(message) = message {
                        look |= self.take_acks(message);
                    }
                },
                default(timeout) => {}
            }
            self.pipeline.tick();
            look |= self.audit().map_err(|error| self.failed(&error))?;
        }
        self.drain();
        Ok(())
    }

    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Start => {
                self.started = true;
                self.reload_origin();
            }
            Command::Rewind => self.rewind(),
        }
        true
    }

    /// The applier may have found that the database is an older copy, which publishes under a new name.
    fn reload_origin(&mut self) {
        match self.log.origin() {
            Ok(origin) => self.origin = origin,
            // What goes out under the old name does not come back, and the audit leads here again.
            Err(error) => log::debug!("read the incarnation: {error}"),
        }
    }

    fn rewind(&mut self) {
        self.reload_origin();
        self.pending.clear();
        self.attempt += 1;
        self.refused = 0;
        self.log.rewind();
    }

    fn failed(&self, error: &db::Error) -> String {
        if let db::Error::Corrupt(why) = error {
            self.status.note_damage(why);
        }
        error.to_string()
    }

    /// Reads the log and sends, as far as there is room. True when nothing is left to do now.
    fn pass(&mut self) -> Result<bool, db::Error> {
        match self.log.follow_schema() {
            Ok(Some(capture)) => report(&capture),
            Ok(None) => {}
            Err(error) => return retry_later("follow the schema", error),
        }
        if !self.started {
            return Ok(true);
        }
        loop {
            while let Some(change) = self.pending.pop_front() {
                if !self.pipeline.has_room() || !self.others_can_follow() {
                    // An acknowledgement, or the applier's progress, brings us back.
                    self.pending.push_front(change);
                    return Ok(true);
                }
                self.send(&change)?;
            }
            if !self.more {
                return Ok(true);
            }
            match self.log.read(self.config.scan_max_changes) {
                Ok(batch) => {
                    self.more = batch.more;
                    self.pending.extend(batch.changes);
                }
                Err(error) => return retry_later("read the change log", error),
            }
        }
    }

    fn send(&mut self, change: &db::Change) -> Result<(), db::Error> {
        let number = shard::number(change.shard_hash, self.config.log.shards);
        let event = &change.event;
        let payload = self.codec.pack(event).map_err(|error| db::Error::Other(format!("zstd: {error}")))?;
        let id = self.origin.message_id(event.id, self.attempt);
        let shard = usize::try_from(number - 1).unwrap_or(0);
        let sent = Sent { id: event.id, shard, table: event.table.clone() };
        let subject = self.config.subject(number);
        self.in_flight.insert(event.id);
        let result = self.pipeline.send(&subject, &[("Nats-Msg-Id", id.as_str())], &payload, sent);
        if let Err(error) = result {
            self.note_refusal();
            log::error!(
                "a row of table {} is not published: {error}; it stays in the change log, raise the server's max_payload",
                event.table
            );
        }
        Ok(())
    }

    fn note_refusal(&mut self) {
        self.refused += 1;
        self.refused_at = self.pipeline.max_payload();
    }

    /// A stream keeps `max_entries` messages: what ran too far ahead of the appliers would be lost to them. So each node
    /// keeps its publishing within a sixteenth of that before its own applier, which stands for all: then at least one node
    /// of a dozen always sees every message, and makes the snapshot that the others may need.
    fn others_can_follow(&self) -> bool {
        let ahead = (self.config.log.max_entries / 16).max(16);
        let in_flight = self.pipeline.in_flight() as u64;
        !self.config.replicate || self.status.not_come_back() + in_flight < ahead
    }

    /// Takes an acknowledgement and all that wait behind it. True when there may be room again.
    fn take_acks(&mut self, first: crate::nats::Message) -> bool {
        let mut next = Some(first);
        let mut count = 0;
        while let Some(message) = next {
            if let Some(acked) = self.pipeline.on_ack(&message) {
                count += self.acknowledged(acked);
            }
            next = self.pipeline.acks().try_recv().ok();
        }
        self.status.count_published(count);
        if !self.config.replicate {
            self.settle_acknowledged();
        }
        true
    }

    fn acknowledged(&mut self, acked: Acked<Sent>) -> usize {
        let Acked { tag: sent, result } = acked;
        match result {
            Ok(ack) => {
                self.in_flight.remove(&sent.id);
                if let Some(slot) = self.status.acked.get(sent.shard) {
                    slot.fetch_max(ack.seq, Relaxed);
                }
                1
            }
            Err(error) => {
                self.note_refusal();
                log::error!(
                    "a row of table {} is refused by its stream: {error}; it stays in the change log",
                    sent.table
                );
                0
            }
        }
    }

    /// `replicate = false`: what is acknowledged is settled.
    fn settle_acknowledged(&mut self) {
        let below =
            self.in_flight.first().copied().or_else(|| self.pending.front().map(|change| change.event.id));
        let below = below.map_or_else(|| self.log.cursor(), |lowest| lowest - 1);
        if let Err(error) = self.log.settle_up_to(below) {
            log::debug!("settle the change log: {error}"); // With the next acknowledgement again.
        }
    }

    /// Entries that were published, acknowledged and consumed, and are still there, were lost on the way: again.
    fn audit(&mut self) -> Result<bool, db::Error> {
        if self.last_audit.elapsed() < AUDIT_INTERVAL {
            return Ok(false);
        }
        self.last_audit = Instant::now();
        let counted = self.log.unsettled();
        if let Ok((published, waiting)) = counted {
            self.status.pending.store((published + waiting).unsigned_abs(), Relaxed);
        }
        if !self.started {
            return Ok(false);
        }
        if self.refused > 0 && self.pipeline.max_payload() > self.refused_at {
            log::info!("the server takes larger messages now: trying again what was too large");
            self.rewind();
            return Ok(true);
        }
        let behind = self.config.replicate && self.status.not_come_back() > 0;
        if !self.pipeline.is_empty() || !self.pending.is_empty() || behind {
            self.stuck = 0;
            return Ok(false);
        }
        let Ok((published, _)) = counted else { return Ok(false) };
        let hopeless = self.refused > 0 && published == self.left_over;
        let again = published > 0 && self.stuck > 0 && !hopeless;
        if again {
            self.left_over = published;
            log::warn!("{published} changes were published and have not come back; publishing them again");
            self.rewind();
        }
        self.stuck = published;
        Ok(again)
    }

    /// After stop: what is captured still goes out, within a bound.
    fn drain(&mut self) {
        let until = Instant::now() + limits::DRAIN / 2;
        while self.started && self.pipeline.is_up() && Instant::now() < until {
            self.more = true;
            // What cannot be read cannot go out; the applier settles what comes back.
            if matches!(self.pass(), Err(db::Error::Corrupt(_))) {
                return;
            }
            if self.pipeline.is_empty()
                && self.pending.is_empty()
                && self.log.unsettled().is_ok_and(|(_, waiting)| waiting == 0)
            {
                return;
            }
            if let Ok(message) = self.pipeline.acks().recv_timeout(Duration::from_millis(50)) {
                self.take_acks(message);
            }
            self.pipeline.tick();
        }
        if let Ok((published, waiting)) = self.log.unsettled()
            && published + waiting > 0
        {
            log::info!(
                "{} changes are still to be published; they stay in the change log",
                published + waiting
            );
        }
    }
}

/// What a change of schema brought, for people.
pub fn report(capture: &Capture) {
    if capture.taken_over > 0 {
        log::info!("took over from a Go node: {} captured changes are published now", capture.taken_over);
    }
    for (table, rows) in &capture.new_tables {
        log::info!("table {table} is captured from now on; its {rows} rows are published");
    }
}

/// Busy and full disks pass; everything else ends the worker.
fn retry_later(what: &str, error: db::Error) -> Result<bool, db::Error> {
    match error {
        db::Error::Busy => Ok(false),
        db::Error::Disk(why) => {
            log::error!("{what}: {why}; trying again");
            Ok(false)
        }
        // The application changed the schema between two statements: next time.
        db::Error::Other(why) if why.contains("no such") => {
            log::debug!("{what}: {why}");
            Ok(false)
        }
        other => Err(other),
    }
}
