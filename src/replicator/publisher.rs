//! The publisher: from the change log into the streams, many in flight, in order, until each has come back.

use super::audit::{AUDIT_INTERVAL, Audit, Seen, Verdict};
use crate::base::error::{Error, Kind};
use crate::base::{limits, stop::Stop};
use crate::config::Config;
use crate::db::{self, Capture, ChangeLog};
use crate::model::{event::Codec, origin::Origin, shard};
use crate::nats::{Acked, Connection, Message, Pipeline};
use crate::operate::{Board, Making, Signals};
use crossbeam_channel::{Receiver, Sender, bounded, select};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the follower tells the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    /// All that was in the streams at the start is applied: publish.
    Start,
    /// A stream lost what we had published: publish again what has not come back.
    Rewind,
}

/// What others hold of the publisher.
#[derive(Clone)]
pub struct Handle {
    commands: Sender<Command>,
    wake: Sender<()>,
}

/// The other end of a [`Handle`].
pub struct Orders {
    commands: Receiver<Command>,
    wake: Receiver<()>,
}

/// A handle and its orders.
pub fn orders() -> (Handle, Orders) {
    // The follower says Start once, and Rewind once for each change of a stream; one that finds no room is said again.
    let (commands, obeyed) = bounded(4);
    // Level-triggered: one token is as good as many.
    let (wake, woken) = bounded(1);
    (Handle { commands, wake }, Orders { commands: obeyed, wake: woken })
}

impl Handle {
    /// The application has committed, or the follower has made log entries or progress.
    pub fn wake(&self) {
        // Full: the publisher has not seen the last one yet.
        let _ = self.wake.try_send(());
    }

    /// Everything may be published from now on.
    pub fn start(&self) {
        let _ = self.commands.try_send(Command::Start);
    }

    /// What has not come back is to be published again. False: say it again later.
    pub fn rewind(&self) -> bool {
        let said = self.commands.try_send(Command::Rewind).is_ok();
        if said {
            self.wake();
        }
        said
    }
}

/// What a publisher works with.
pub struct Setup {
    pub config: Config,
    /// The change log of an opened database.
    pub log: ChangeLog,
    pub connection: Connection,
    pub orders: Orders,
    pub board: Arc<Board>,
    pub signals: Arc<Signals>,
    pub stop: Stop,
}

/// The publisher's thread.
pub struct Publisher {
    setup: Setup,
    /// By stream.
    subjects: Vec<String>,
    /// Read and not sent yet.
    pending: VecDeque<db::Change>,
    /// The log may hold more than was read.
    more: bool,
    origin: Origin,
    codec: Codec,
    pipeline: Pipeline<Sent>,
    started: bool,
    /// Ids without an acknowledgement. With `replicate = false` those below the lowest are settled.
    in_flight: BTreeSet<i64>,
    audit: Audit,
    /// Counts the rewinds: a part of the message ids.
    attempt: u64,
}

/// What comes back with an acknowledgement.
#[derive(Debug)]
struct Sent {
    id: i64,
    stream: usize,
    making: Making,
    table: Arc<str>,
}

impl Publisher {
    /// A publisher on an opened change log.
    pub fn new(setup: Setup) -> Result<Publisher, Error> {
        let origin = setup.log.origin()?;
        let codec = Codec::new(setup.config.log.compress);
        Ok(Publisher {
            subjects: (1..=setup.config.log.shards).map(|shard| setup.config.subject(shard)).collect(),
            pending: VecDeque::new(),
            more: true,
            origin,
            codec: codec.map_err(|error| Error::local(format!("zstd: {error}")))?,
            pipeline: Pipeline::new(&setup.connection, limits::PUBLISH_WINDOW),
            // Without a follower nobody catches up, and nothing can come back that should be waited for.
            started: !setup.config.replicate,
            in_flight: BTreeSet::new(),
            audit: Audit::new(Instant::now()),
            attempt: 0,
            setup,
        })
    }

    /// Publishes until stop, then drains.
    pub fn run(mut self) -> Result<(), Error> {
        // Without a follower nobody gives orders.
        let never = crossbeam_channel::never();
        let commands = if self.setup.config.replicate { self.setup.orders.commands.clone() } else { never };
        let wake = self.setup.orders.wake.clone();
        let mut look = true;
        while !self.setup.stop.requested() {
            if look {
                self.more = true;
                look = !self.pass()?;
            }
            let timeout =
                if look { Duration::from_millis(50) } else { self.pipeline.next_tick().min(AUDIT_INTERVAL) };
            select! {
                recv(self.setup.stop.receiver()) -> _ => break,
                recv(wake) -> token => match token {
                    Ok(()) => look = true,
                    Err(_) => break,
                },
                recv(commands) -> command => match command {
                    Ok(command) => {
                        self.obey(command);
                        look = true;
                    }
                    Err(_) => break,
                },
                recv(self.pipeline.acks()) -> message => {
                    if let Ok(message) = message {
                        self.take_acks(message);
                        look = true;
                    }
                },
                default(timeout) => {}
            }
            self.tick();
            look |= self.look_for_lost_changes();
        }
        self.drain();
        Ok(())
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Start => {
                self.started = true;
                self.reload_origin();
            }
            Command::Rewind => self.rewind(),
        }
    }

    /// The follower may have found that the database is an older copy, which publishes under a new name.
    fn reload_origin(&mut self) {
        match self.setup.log.origin() {
            Ok(origin) => self.origin = origin,
            // What goes out under the old name does not come back, and the audit leads here again.
            Err(error) => log::debug!("read the incarnation: {error}"),
        }
    }

    fn rewind(&mut self) {
        self.reload_origin();
        self.pending.clear();
        self.attempt += 1;
        self.audit.rewound();
        self.setup.log.rewind();
    }

    /// Reads the log and sends, as far as there is room. True when nothing is left to do now.
    fn pass(&mut self) -> Result<bool, Error> {
        match self.setup.log.follow_schema() {
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
                    // An acknowledgement, or the follower's progress, brings us back.
                    self.pending.push_front(change);
                    return Ok(true);
                }
                self.send(&change)?;
            }
            if !self.more {
                return Ok(true);
            }
            match self.setup.log.read(self.setup.config.scan_max_changes) {
                Ok(batch) => {
                    self.more = batch.more;
                    self.pending.extend(batch.changes);
                }
                Err(error) => return retry_later("read the change log", error),
            }
        }
    }

    fn send(&mut self, change: &db::Change) -> Result<(), Error> {
        let number = shard::number(change.shard_hash, self.setup.config.log.shards);
        let stream = usize::try_from(number - 1).unwrap_or(0);
        let event = &change.event;
        let payload = self.codec.pack(event).map_err(|error| Error::local(format!("zstd: {error}")))?;
        let id = self.origin.message_id(event.id, self.attempt);
        let making = self.setup.signals.flow.making(stream);
        let sent = Sent { id: event.id, stream, making, table: event.table.clone() };
        self.in_flight.insert(event.id);
        let headers = [("Nats-Msg-Id", id.as_str())];
        if let Err(error) = self.pipeline.send(&self.subjects[stream], &headers, &payload, sent) {
            self.audit.note_refusal(self.pipeline.max_payload());
            log::error!(
                "a row of table {} is not published: {error}; it stays in the change log, raise the server's max_payload",
                event.table
            );
        }
        Ok(())
    }

    /// A stream keeps `max_entries` messages: what ran too far ahead of the nodes that read it would be lost to them. So each
    /// node keeps its publishing within a sixteenth of that before its own follower, which stands for all: then at least one
    /// node of a dozen always sees every message, and makes the snapshot that the others may need.
    fn others_can_follow(&self) -> bool {
        let config = &self.setup.config;
        let ahead = (config.log.max_entries / 16).max(16);
        let in_flight = self.pipeline.in_flight() as u64;
        !config.replicate || self.setup.signals.flow.not_come_back() + in_flight < ahead
    }

    /// Takes an acknowledgement and all that wait after it.
    fn take_acks(&mut self, first: Message) {
        let mut next = Some(first);
        let mut count = 0;
        while let Some(message) = next {
            if let Some(acked) = self.pipeline.on_ack(&message) {
                count += self.acknowledged(acked);
            }
            next = self.pipeline.acks().try_recv().ok();
        }
        self.setup.board.count_published(count);
        if !self.setup.config.replicate {
            self.settle_acknowledged();
        }
    }

    /// Sends again what must be sent again.
    fn tick(&mut self) {
        for refused in self.pipeline.tick(Instant::now()) {
            self.acknowledged(refused);
        }
    }

    /// Returns how many messages were stored: one or none.
    fn acknowledged(&mut self, acked: Acked<Sent>) -> usize {
        let Acked { tag: sent, result } = acked;
        match result {
            Ok(ack) => {
                self.in_flight.remove(&sent.id);
                self.setup.signals.flow.acked(sent.stream, sent.making, ack.seq);
                1
            }
            Err(error) => {
                self.audit.note_refusal(self.pipeline.max_payload());
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
        let below = below.map_or_else(|| self.setup.log.cursor(), |lowest| lowest - 1);
        if let Err(error) = self.setup.log.settle_up_to(below) {
            log::debug!("settle the change log: {error}"); // With the next acknowledgement again.
        }
    }

    /// True when everything is to be published again.
    fn look_for_lost_changes(&mut self) -> bool {
        if !self.audit.is_due(Instant::now()) {
            return false;
        }
        let counted = self.setup.log.unsettled().ok();
        if let Some((published, waiting)) = counted {
            self.setup.board.set_pending((published + waiting).unsigned_abs());
        }
        if !self.started {
            return false;
        }
        let behind = self.setup.config.replicate && self.setup.signals.flow.not_come_back() > 0;
        let verdict = self.audit.judge(Seen {
            published: counted.map(|(published, _)| published),
            on_its_way: !self.pipeline.is_empty() || !self.pending.is_empty() || behind,
            max_payload: self.pipeline.max_payload(),
        });
        match verdict {
            Verdict::Nothing => return false,
            Verdict::LargerMessages => {
                log::info!("the server takes larger messages now: trying again what was too large");
            }
            Verdict::Lost(changes) => {
                log::warn!("{changes} changes were published and have not come back; publishing them again");
            }
        }
        self.rewind();
        true
    }

    /// After stop: what is captured still goes out, within a bound.
    fn drain(&mut self) {
        let until = Instant::now() + limits::DRAIN / 2;
        while self.started && self.pipeline.is_up() && Instant::now() < until {
            self.more = true;
            // What cannot be read cannot go out; the follower settles what comes back.
            if self.pass().is_err_and(|error| error.kind() == Kind::Damaged) {
                return;
            }
            if self.pipeline.is_empty()
                && self.pending.is_empty()
                && self.setup.log.unsettled().is_ok_and(|(_, waiting)| waiting == 0)
            {
                return;
            }
            if let Ok(message) = self.pipeline.acks().recv_timeout(Duration::from_millis(50)) {
                self.take_acks(message);
            }
            self.tick();
        }
        if let Ok((published, waiting)) = self.setup.log.unsettled()
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

/// A lock, a full disk and a change of the schema pass; every other error ends the worker.
fn retry_later(what: &str, error: db::Error) -> Result<bool, Error> {
    match error {
        db::Error::Busy => Ok(false),
        db::Error::Disk(why) => {
            log::error!("{what}: {why}; trying again");
            Ok(false)
        }
        error @ db::Error::SchemaChanged => {
            log::debug!("{what}: {error}");
            Ok(false)
        }
        other => Err(Error::from(other).at(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wake_up_is_as_good_as_many() {
        let (handle, orders) = orders();
        handle.wake();
        handle.wake();
        assert!(orders.wake.try_recv().is_ok());
        assert!(orders.wake.try_recv().is_err());
    }

    #[test]
    fn a_rewind_that_finds_no_room_is_to_be_said_again() {
        let (handle, orders) = orders();
        handle.start();
        while handle.rewind() {}
        assert_eq!(orders.commands.try_recv(), Ok(Command::Start));
        assert!(handle.rewind());
        assert!(orders.wake.try_recv().is_ok(), "an order wakes the publisher");
    }

    #[test]
    fn a_lock_and_a_full_disk_pass_and_damage_does_not() {
        assert!(!retry_later("read", db::Error::Busy).unwrap());
        assert!(!retry_later("read", db::Error::Disk("full".into())).unwrap());
        assert!(!retry_later("read", db::Error::SchemaChanged).unwrap());
        let error = retry_later("read the change log", db::Error::Corrupt("page 3".into())).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (Kind::Damaged, "read the change log: page 3")
        );
    }
}
