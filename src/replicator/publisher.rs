//! The publisher: from the change log into the streams, many in flight, in order, until each has come back.

use super::audit::{Audit, Seen, Verdict};
use super::changes::{Changes, report};
use super::cut;
use super::later::retry_later;
use super::orders::{Command, Orders};
use super::outbox::{Bounds, Outbox};
use super::reaching::Reaching;
use crate::base::error::{Error, Kind};
use crate::base::{fail, limits, random::random_u32, stop::Stop};
use crate::config::Config;
use crate::db::{self, Capture, ChangeLog};
use crate::model::event::Event;
use crate::model::gate::{self, Part};
use crate::model::{origin::Origin, payload::Codec, set::Format, shard};
use crate::nats::{Acked, Connection, JetStream, Message, Pipeline};
use crate::operate::{Board, Lookout, Making, Signals, Trouble};
use crossbeam_channel::select;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a publisher works with.
pub struct Setup {
    pub config: Config,
    /// The change log of an opened database.
    pub log: ChangeLog,
    pub connection: Connection,
    pub orders: Orders,
    pub board: Arc<Board>,
    pub signals: Arc<Signals>,
    pub lookout: Arc<Lookout>,
    pub stop: Stop,
}

/// The publisher's thread.
pub struct Publisher {
    setup: Setup,
    /// By stream.
    subjects: Vec<String>,
    outboxes: Vec<Outbox>,
    /// The rest of a row that is cut; nothing is sent before it.
    pieces: VecDeque<Outgoing>,
    /// What the outboxes hold ends a set: the log was read to the end.
    complete: bool,
    /// The log may hold more than was read.
    more: bool,
    origin: Origin,
    codec: Codec,
    pipeline: Pipeline<Sent>,
    started: bool,
    /// The lowest id of each message without an acknowledgement. With `replicate = false` those below the lowest are settled.
    in_flight: BTreeSet<i64>,
    audit: Audit,
    /// Counts the rewinds: a part of the message ids.
    attempt: u64,
    /// A random number, from which the attempts of this process are counted in sets of several parts.
    process: u64,
    /// A stream has refused a set: until the log is read to its end, each row is a message and a set of its own.
    alone: bool,
    reaching: Reaching,
    changes: Changes,
    reading: Trouble,
    sending: Trouble,
    refusing: Trouble,
}

/// A message, or a piece of one.
struct Outgoing {
    stream: usize,
    /// The first and the last one of its rows.
    ids: (i64, i64),
    /// Rows that are stored with it; 0 for a piece that is not the last one.
    rows: usize,
    /// Of its first row.
    table: Arc<str>,
    payload: Vec<u8>,
    part: Part,
    /// Which piece of its payload it is.
    piece: u64,
}

/// What comes back with an acknowledgement.
#[derive(Debug)]
struct Sent {
    /// What is not in flight any more then: the lowest of its ids; of a last part also that of the first one; of a first one
    /// nothing, for the set may still take no effect.
    ends: Vec<i64>,
    rows: usize,
    bytes: usize,
    part: Part,
    /// It was sent while each row went alone.
    alone: bool,
    stream: usize,
    making: Making,
    /// Of its first row.
    table: Arc<str>,
    /// The last one of its ids.
    last: i64,
}

impl Publisher {
    /// A publisher on an opened change log.
    pub fn new(setup: Setup) -> Result<Publisher, Error> {
        let origin = setup.log.origin()?;
        let codec = Codec::new(setup.config.log.compress);
        Ok(Publisher {
            subjects: (1..=setup.config.log.shards).map(|shard| setup.config.subject(shard)).collect(),
            outboxes: (0..setup.config.log.shards).map(|_| Outbox::default()).collect(),
            pieces: VecDeque::new(),
            complete: true,
            more: true,
            origin,
            codec: codec.map_err(|error| Error::local(format!("zstd: {error}")))?,
            pipeline: Pipeline::new(&setup.connection, limits::PUBLISH_WINDOW),
            // Without a follower nobody catches up, and nothing can come back that should be waited for.
            started: !setup.config.replicate,
            in_flight: BTreeSet::new(),
            audit: Audit::new(Instant::now()),
            attempt: 0,
            process: u64::from(random_u32()) + 1,
            alone: false,
            reaching: Reaching::new(
                JetStream::new(setup.connection.clone()),
                &setup.board,
                setup.lookout.clone(),
            ),
            changes: Changes::default(),
            reading: Trouble::new(&setup.board, "publisher"),
            sending: Trouble::new(&setup.board, "stream"),
            refusing: Trouble::new(&setup.board, "refused rows"),
            setup,
        })
    }

    /// Publishes until stop, then drains.
    pub fn run(mut self) -> Result<(), Error> {
        // Without a follower nobody gives orders.
        let never = crossbeam_channel::never();
        let commands = if self.setup.config.replicate { self.setup.orders.commands.clone() } else { never };
        let wake = self.setup.orders.wake.clone();
        let (mut look, mut used) = (true, Instant::now());
        while !self.setup.stop.requested() {
            if look {
                self.more = true;
                look = !self.pass()?;
                if !look {
                    self.reading.forget();
                }
                used = Instant::now();
            }
            let timeout = if look {
                Duration::from_millis(50)
            } else {
                self.pipeline
                    .next_tick()
                    .min(self.audit.pause())
                    .min(self.rest(used))
                    .min(self.reaching.pause(Instant::now()))
            };
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
            if self.reaching.is_due_again(Instant::now()) {
                self.look_at_reach();
            }
            look |= self.tick();
            look |= self.look_for_lost_changes();
        }
        self.drain();
        Ok(())
    }

    /// After a while without work, the connection to a database of many tables gives back memory. Returns how long that is off.
    fn rest(&mut self, used: Instant) -> Duration {
        if !self.setup.log.may_rest() {
            return Duration::MAX;
        }
        let left = limits::REST_AFTER.saturating_sub(used.elapsed());
        if left.is_zero()
            && let Err(error) = self.setup.log.rest()
        {
            log::debug!("give back memory: {error}");
        }
        left.max(Duration::from_millis(50))
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
        for outbox in &mut self.outboxes {
            if let Some(first) = std::mem::take(outbox).first_in_flight() {
                self.in_flight.remove(&first);
            }
        }
        self.pieces.clear();
        self.complete = true;
        self.attempt += 1;
        self.changes = Changes::default();
        self.refusing.show("");
        self.audit.rewound();
        self.setup.log.rewind();
    }

    /// Reads the log and sends, as far as there is room. True when nothing is left to do now.
    fn pass(&mut self) -> Result<bool, Error> {
        match self.setup.log.follow_schema() {
            Ok(Some(capture)) => {
                report(&capture);
                self.look_at_rebuilt(&capture)?;
                self.changes.are_due();
            }
            Ok(None) => {}
            Err(error) => return retry_later(&mut self.reading, "follow the schema", error),
        }
        if !self.started {
            return Ok(true);
        }
        if let Err(error) = self.take_changes() {
            return retry_later(&mut self.reading, "read changes of the schema", error);
        }
        loop {
            if !self.send_waiting()? {
                // An acknowledgement, or the follower's progress, brings us back.
                return Ok(true);
            }
            if self.complete && !self.more {
                return Ok(true);
            }
            match self.setup.log.read(self.setup.config.scan_max_changes) {
                Ok(batch) => {
                    fail::point("log read");
                    (self.more, self.complete) = (batch.more, !batch.more);
                    if batch.passed {
                        self.setup.signals.note_unwritten();
                    }
                    for change in batch.changes {
                        let number = shard::number(change.shard_hash, self.setup.config.log.shards);
                        let stream = usize::try_from(number - 1).unwrap_or(0);
                        self.outboxes[stream].push(change.event);
                    }
                }
                Err(error) => return retry_later(&mut self.reading, "read the change log", error),
            }
        }
    }

    /// Changes of the schema go before the rows that were written after them, and into one set with them. Go nodes know none.
    fn take_changes(&mut self) -> Result<(), db::Error> {
        if self.setup.signals.flow.format(0) != Format::Sets {
            return self.changes.tell_stuck(&self.setup.log);
        }
        for event in self.changes.take(&self.setup.log)? {
            self.outboxes[0].push(event);
            (self.complete, self.more) = (false, true);
        }
        Ok(())
    }

    /// Sees to what was written in tables while they were built anew, and to tables that have come to be as the cluster has them: the
    /// follower can tell, if there is one.
    fn look_at_rebuilt(&mut self, capture: &Capture) -> Result<(), Error> {
        if self.setup.config.replicate {
            self.setup.signals.note_rebuilt();
            return Ok(());
        }
        if capture.rebuilt.is_empty() && capture.included.is_empty() {
            return Ok(());
        }
        let logged = self.setup.log.log_rebuilt();
        logged.or_else(|error| retry_later(&mut self.reading, "log rows", error).map(drop))
    }

    /// Sends what can be sent. False when there is no room for more now.
    fn send_waiting(&mut self) -> Result<bool, Error> {
        for stream in 0..self.outboxes.len() {
            let bounds = self.bounds(stream);
            while !self.pieces.is_empty() || self.outboxes[stream].has_message(bounds, self.complete) {
                if !self.pipeline.has_room() || !self.others_can_follow() {
                    return Ok(false);
                }
                if self.reaching.is_due() {
                    self.look_at_reach();
                }
                if let Some(piece) = self.pieces.pop_front() {
                    self.send_message(piece);
                    continue;
                }
                let (rows, part) = self.outboxes[stream].next_message(bounds, self.complete);
                self.send(stream, bounds.bytes > 0, &rows, part)?;
            }
        }
        if self.complete {
            self.alone = false;
        }
        Ok(true)
    }

    fn bounds(&self, stream: usize) -> Bounds {
        // Encoded, values are shorter than in memory.
        let bytes = match self.setup.signals.flow.format(stream) {
            Format::Sets if !self.alone => limits::PART_BYTES.min(self.pipeline.max_payload() / 2),
            _ => 0,
        };
        // The first part must be in the stream when the last one comes, also for those who begin anew.
        let parts = if self.alone { 1 } else { self.setup.signals.flow.reach(stream).parts() };
        Bounds { bytes, parts }
    }

    /// Sends rows as a message, or begins to send them as several if they are too large for one.
    fn send(&mut self, stream: usize, as_set: bool, rows: &[Event], part: Part) -> Result<(), Error> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
        let table = first.table.clone();
        self.in_flight.insert(first.id);
        if rows.len() == 1 && first.size() > limits::ROW_BYTES {
            let why = format!("it has more than {} MiB", limits::ROW_BYTES >> 20);
            self.refused((&table, first.id), part != Part::WHOLE, ("is not published", &why));
            return Ok(());
        }
        let payload = if as_set { self.codec.pack_set(rows) } else { self.codec.pack(first) };
        let payload = payload.map_err(|error| Error::local(format!("zstd: {error}")))?;
        fail::point("set encoded");
        let ids = (first.id, last.id);
        let whole = Outgoing { stream, ids, rows: rows.len(), table, payload, part, piece: 0 };
        let most = cut::most(self.pipeline.max_payload());
        let size = whole.payload.len();
        // Go nodes join nothing.
        let may_cut = self.setup.signals.flow.format(stream) == Format::Sets && size <= limits::CUT_BYTES;
        if size <= most || !may_cut {
            self.send_message(whole);
            return Ok(());
        }
        let part = Part { more: part.more && self.outboxes[stream].has_room_after(size), ..part };
        self.pieces = cut::pieces(&whole.payload, most, part)
            .map(|(payload, part, piece)| {
                let rows = if part.cut { 0 } else { whole.rows };
                Outgoing { payload: payload.to_vec(), part, piece, rows, table: whole.table.clone(), ..whole }
            })
            .collect();
        Ok(())
    }

    fn send_message(&mut self, message: Outgoing) {
        let Outgoing { stream, ids: (first, last), rows, table, payload, part, piece } = message;
        // Parts are never taken for those of a set that an earlier process began: it may have cut them otherwise.
        let attempt = if part == Part::WHOLE { self.attempt } else { self.process + self.attempt };
        let id = self.origin.message_id(last, cut::attempt(attempt, piece));
        let making = self.setup.signals.flow.making(stream);
        let ends = self.outboxes[stream].sent(first, payload.len(), part);
        let (bytes, alone) = (payload.len(), self.alone);
        let sent = Sent { ends, rows, bytes, part, alone, stream, making, table: table.clone(), last };
        self.reaching.note_sent(bytes);
        let part = part.header();
        let mut headers = vec![("Nats-Msg-Id", id.as_str())];
        headers.extend(part.as_deref().map(|part| (gate::HEADER, part)));
        if let Err(error) = self.pipeline.send(&self.subjects[stream], &headers, &payload, sent) {
            let why = format!("{error}; raise the server's max_payload");
            self.refused((&table, last), rows > 1 || part.is_some(), ("is not published", &why));
        }
        fail::point("message handed over");
    }

    /// A message that its stream will never take. A set that it belongs to takes no effect, so the rows are published again, each
    /// alone.
    fn refused(&mut self, (table, id): (&str, i64), of_a_set: bool, (what, why): (&str, &str)) {
        if of_a_set {
            log::info!(
                "a change set with rows of table {table} cannot be stored ({why}): its rows are published one by one"
            );
            self.rewind();
            (self.alone, self.complete) = (true, false);
            return;
        }
        self.audit.note_refusal(self.pipeline.max_payload());
        if let Err(error) = self.setup.log.note_refused(id) {
            log::debug!("note a row that is refused: {error}"); // When it is refused again.
        }
        let line = format!("a row of table {table} {what}: {why}");
        log::error!("{line}; it stays in the change log");
        self.refusing.show(&line);
    }

    /// What ran too far ahead of the nodes that read it would be lost to them.
    fn others_can_follow(&self) -> bool {
        !self.setup.config.replicate || self.setup.signals.flow.has_room(self.pipeline.in_flight())
    }

    /// Sees to it that the streams reach back far enough for what is in the database now.
    fn look_at_reach(&mut self) {
        // What cannot be read now is looked at again.
        if let Ok(database) = self.setup.log.database_bytes() {
            self.reaching.look(&self.setup.config, &self.setup.signals, database);
        }
    }

    /// Takes an acknowledgement and all that wait after it.
    fn take_acks(&mut self, first: Message) {
        let mut next = Some(first);
        let mut count = 0;
        while let Some(message) = next {
            if let Some(acked) = self.pipeline.on_ack(&message) {
                fail::point("acknowledgement received");
                count += self.acknowledged(acked);
                fail::point("acknowledgement noted");
            }
            next = self.pipeline.acks().try_recv().ok();
        }
        self.setup.board.count_published(count);
        if !self.setup.config.replicate {
            self.settle_acknowledged();
        }
    }

    /// Sends again what must be sent again. True when something is to be published in another way.
    fn tick(&mut self) -> bool {
        let now = Instant::now();
        let refused = self.pipeline.tick(now);
        self.sending.show(&self.pipeline.trouble(now).unwrap_or_default());
        let any = !refused.is_empty();
        for refused in refused {
            self.acknowledged(refused);
        }
        any
    }

    /// Returns how many rows were stored.
    fn acknowledged(&mut self, acked: Acked<Sent>) -> usize {
        let Acked { tag: sent, result } = acked;
        match result {
            Ok(ack) => {
                for id in &sent.ends {
                    self.in_flight.remove(id);
                }
                self.setup.signals.flow.acked(sent.stream, sent.making, ack.seq, sent.bytes);
                sent.rows
            }
            Err(error) => {
                // A row that goes alone is not helped by going alone, unless a server that takes less than the one before cut it.
                let is_cut_anew = sent.bytes > cut::most(self.pipeline.max_payload());
                let of_a_set = sent.rows > 1 || sent.part != Part::WHOLE && (!sent.alone || is_cut_anew);
                let row = (&*sent.table, sent.last);
                self.refused(row, of_a_set, ("is refused by its stream", &error.to_string()));
                0
            }
        }
    }

    /// `replicate = false`: what is acknowledged is settled.
    fn settle_acknowledged(&mut self) {
        let waiting = self.outboxes.iter().filter_map(Outbox::lowest);
        let below = self.in_flight.first().copied().into_iter().chain(waiting).min();
        let below = below.map_or_else(|| self.setup.log.cursor(), |lowest| lowest - 1);
        if let Err(error) = self.setup.log.settle_up_to(below) {
            log::debug!("settle the change log: {error}"); // With the next acknowledgement again.
        }
    }

    /// Whether all that was read was sent.
    fn is_sent(&self) -> bool {
        self.pieces.is_empty() && self.outboxes.iter().all(|outbox| outbox.lowest().is_none())
    }

    /// True when everything is to be published again.
    fn look_for_lost_changes(&mut self) -> bool {
        if !self.audit.is_due(Instant::now(), self.pipeline.max_payload()) {
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
        if !behind && self.pipeline.is_empty() && self.is_sent() {
            self.changes.look_for_lost();
        }
        let verdict = self.audit.judge(Seen {
            published: counted.map(|(published, _)| published),
            on_its_way: !self.pipeline.is_empty() || !self.is_sent() || behind,
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
                && self.is_sent()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wake_up_is_as_good_as_many() {
        let (handle, orders) = crate::replicator::orders();
        handle.wake();
        handle.wake();
        assert!(orders.wake.try_recv().is_ok());
        assert!(orders.wake.try_recv().is_err());
    }

    #[test]
    fn a_rewind_that_finds_no_room_is_to_be_said_again() {
        let (handle, orders) = crate::replicator::orders();
        handle.start();
        while handle.rewind() {}
        assert_eq!(orders.commands.try_recv(), Ok(Command::Start));
        assert!(handle.rewind());
        assert!(orders.wake.try_recv().is_ok(), "an order wakes the publisher");
    }
}
