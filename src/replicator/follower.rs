//! The applier: from the streams into the database, in order, from its own checkpoint, whatever happens to the broker.

use super::publisher::Command;
use crate::base::{limits, once::Once, retry::Backoff, stop::Stop};
use crate::config::Config;
use crate::db::{self, Incoming};
use crate::model::origin::Origin;
use crate::model::positions::{self, Position, SeqMap};
use crate::nats::{Consumer, Error, JetStream, Message, Step};
use crate::operate::board::Status;
use crate::streams::{self, Judgement};
use crossbeam_channel::{Receiver, Sender, bounded, select};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// The applier's thread.
pub struct Follower {
    config: Config,
    database: db::Applier,
    js: JetStream,
    shards: Vec<Shard>,
    queue: Receiver<Message>,
    deliver: Sender<Message>,
    waiting: VecDeque<Incoming>,
    /// When the waiting events must be applied; later while they are echoes alone.
    apply_at: Instant,
    waiting_bytes: usize,
    link: Receiver<()>,
    /// The publisher's, if there is one.
    publisher: Option<(Sender<Command>, Sender<()>)>,
    recover: Option<Recover>,
    join: Option<Recover>,
    /// The database follows the streams, or goes on as it is.
    joined: bool,
    status: Arc<Status>,
    stop: Stop,
    started: bool,
    file: SeqMap,
    file_written: Instant,
    file_stale: bool,
    backoff: Backoff,
    /// Of looks for a snapshot.
    recovery_pauses: Backoff,
    rebuild_at: Instant,
    said: Once,
    /// The publisher is to be told to publish again what has not come back.
    owes_rewind: bool,
    /// An event without our message id was seen.
    go_nodes_seen: bool,
}

/// Brings the database to the state of a snapshot; the text says what is missing for that.
pub type Recover = Box<dyn FnMut(&mut db::Applier) -> Result<(), String> + Send>;

/// One stream and its reader.
struct Shard {
    number: u64,
    stream: String,
    position: Option<Position>,
    consumer: Option<Consumer>,
    /// Sequence that the stream had at the first look: up to there it is catching up.
    target: Option<u64>,
}

impl Follower {
    /// An applier on an opened database. `taken_over`: positions of a sequence map for streams that the database does
    /// not know.
    pub fn new(
        config: &Config,
        database: db::Applier,
        js: JetStream,
        taken_over: &SeqMap,
        publisher: Option<(Sender<Command>, Sender<()>)>,
        status: Arc<Status>,
        stop: Stop,
    ) -> Result<Follower, String> {
        let shard_count = usize::try_from(config.log.shards).unwrap_or(1);
        let (deliver, queue) = bounded(limits::PULL_BATCH * 2 * shard_count);
        let mut shards = vec![];
        for number in 1..=config.log.shards {
            let stream = config.stream(number);
            let position = database.position(&stream).map_err(|error| error.to_string())?;
            let from_file =
                || taken_over.get(&stream).map(|seq| Position { seq: *seq, created: String::new() });
            let position = position.or_else(from_file);
            if let (Some(slot), Some(position)) = (status.applied.get(shards.len()), &position) {
                slot.store(position.seq, Relaxed);
            }
            shards.push(Shard { number, stream, position, consumer: None, target: None });
        }
        Ok(Follower {
            config: config.clone(),
            database,
            link: js.connection().watch(),
            js,
            shards,
            queue,
            deliver,
            waiting: VecDeque::new(),
            apply_at: Instant::now(),
            waiting_bytes: 0,
            publisher,
            recover: None,
            join: None,
            joined: true,
            status,
            stop,
            started: false,
            file: SeqMap::new(),
            file_written: Instant::now(),
            file_stale: true,
            backoff: Backoff::up_to(Duration::from_secs(2)),
            recovery_pauses: Backoff::up_to(limits::RECOVERY_LOOK_MAX),
            rebuild_at: Instant::now(),
            said: Once::default(),
            owes_rewind: false,
            go_nodes_seen: false,
        })
    }

    /// Lets it get over gaps in the streams by itself.
    pub fn recovering(self, recover: Option<Recover>) -> Follower {
        Follower { recover, ..self }
    }

    /// Lets it join first, if its database never followed the streams.
    pub fn joining(self, join: Option<Recover>) -> Follower {
        let followed = self.shards.iter().any(|shard| shard.position.is_some())
            || self.database.is_restored().unwrap_or(false);
        let joined = followed || join.is_none();
        // Who is not whole makes no snapshots.
        self.status.gap.store(!joined, Relaxed);
        Follower { join, joined, ..self }
    }

    /// Applies until stop.
    pub fn run(mut self) -> Result<(), String> {
        let mut drain_until = None;
        loop {
            if self.stop.requested() {
                // The publisher has ended before us. What it published comes back now, or at the next start.
                let until = *drain_until.get_or_insert_with(|| Instant::now() + limits::DRAIN / 4);
                let done = self.status.not_come_back() == 0 || !self.js.connection().is_up();
                if done || !self.started || Instant::now() > until {
                    break;
                }
            }
            self.keep_consumers();
            let pause = self.apply_at.saturating_duration_since(Instant::now());
            if self.waiting.is_empty() || !pause.is_zero() {
                self.wait(if self.waiting.is_empty() { Duration::from_secs(1) } else { pause });
            }
            self.collect();
            if !self.waiting.is_empty() && (self.apply_at <= Instant::now() || self.enough_echoes()) {
                self.apply()?;
            }
            self.start_publisher_when_caught_up();
            self.pay_rewind();
            self.write_file(false);
        }
        self.write_file(true);
        Ok(())
    }

    /// Whether so many echoes wait that they are worth a transaction, or the publisher waits for them.
    fn enough_echoes(&self) -> bool {
        let for_publisher = usize::try_from(self.config.log.max_entries / 64).unwrap_or(usize::MAX).max(4);
        self.waiting.len() >= limits::ECHO_BATCH.min(for_publisher)
            || self.waiting_bytes >= limits::ECHO_BYTES
    }

    fn wait(&mut self, at_most: Duration) {
        let missing =
            self.js.connection().is_up() && self.shards.iter().any(|shard| shard.consumer.is_none());
        let until_rebuild = self.rebuild_at.saturating_duration_since(Instant::now());
        let timeout =
            if missing { until_rebuild.max(Duration::from_millis(5)) } else { Duration::from_secs(1) };
        // After stop its channel is always ready, and the wait is for echoes alone.
        let stop = if self.stop.requested() { &crossbeam_channel::never() } else { self.stop.receiver() };
        let timeout = if self.stop.requested() { Duration::from_millis(20) } else { timeout };
        let message = select! {
            recv(stop) -> _ => None,
            recv(self.link) -> _ => {
                self.rebuild_at = Instant::now();
                None
            }
            recv(self.queue) -> message => message.ok(),
            default(timeout.min(at_most)) => None,
        };
        if let Some(message) = message {
            self.take(message);
        }
    }

    /// Takes what is queued, up to a batch.
    fn collect(&mut self) {
        while self.waiting.len() < limits::APPLY_BATCH || !self.enough_echoes() {
            match self.queue.try_recv() {
                Ok(message) => self.take(message),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, message: Message) {
        let Some(shard) =
            self.shards.iter_mut().find(|s| s.consumer.as_ref().is_some_and(|c| c.owns(&message)))
        else {
            return; // Of a consumer that was given up.
        };
        let Some(consumer) = &mut shard.consumer else { return };
        match consumer.on_message(message) {
            Step::Nothing => {}
            Step::Rebuild(why) => {
                log::debug!("stream {}: {why}; reading it anew", shard.stream);
                shard.consumer = None;
            }
            Step::Item(item) => {
                // Caught up also when the stream holds nothing more, whatever its last sequence is.
                if item.pending == 0 && shard.target.is_some_and(|target| target > item.seq) {
                    shard.target = Some(item.seq);
                }
                let expected = self.waiting.iter().rev().find(|w| w.stream == shard.stream).map(|w| w.seq);
                let expected = expected.unwrap_or_else(|| shard.position.as_ref().map_or(0, |p| p.seq)) + 1;
                if item.seq > expected {
                    // Deleted messages, or a gap: the stream's state tells.
                    match self.js.stream(&shard.stream) {
                        Ok(Some(info)) if info.state.first_seq <= expected => {}
                        _ => {
                            shard.consumer = None;
                            return;
                        }
                    }
                }
                let origin = item.message.headers.get("Nats-Msg-Id").and_then(Origin::parse_message_id);
                if origin.is_none() && self.config.log.shards > 1 && !self.go_nodes_seen {
                    self.go_nodes_seen = true;
                    log::warn!(
                        "a Go node publishes here and shards = {}: rows that collide in a UNIQUE index can differ between \
                         nodes, for it spreads them over several streams",
                        self.config.log.shards
                    );
                }
                let stream = shard.stream.clone();
                let incoming = Incoming { stream, seq: item.seq, origin, payload: item.message.payload };
                self.waiting_bytes += incoming.payload.len();
                let catching_up = !self.started;
                if catching_up || !self.database.is_own(&incoming) {
                    self.apply_at = Instant::now();
                } else if self.waiting.is_empty() {
                    self.apply_at = Instant::now() + limits::ECHO_WAIT;
                }
                self.waiting.push_back(incoming);
            }
        }
    }

    /// Applies the waiting events; while the application holds the lock, again and again.
    fn apply(&mut self) -> Result<(), String> {
        let batch = self.waiting.make_contiguous();
        let applied = match self.database.apply(batch) {
            Ok(applied) => applied,
            Err(error @ (db::Error::Busy | db::Error::Disk(_))) => {
                self.said.warn(&format!("applying changes: {error}; trying again"));
                let pause =
                    if matches!(error, db::Error::Busy) { Duration::ZERO } else { Duration::from_secs(1) };
                self.stop.wait(pause);
                return Ok(());
            }
            Err(error) => {
                if let db::Error::Corrupt(why) = &error {
                    self.status.note_damage(why);
                }
                return Err(format!("apply changes: {error}"));
            }
        };
        self.said.forget();
        self.owes_rewind |= applied.renamed;
        for incoming in self.waiting.drain(..applied.events) {
            self.waiting_bytes -= incoming.payload.len();
            if let Some(at) = self.shards.iter().position(|shard| shard.stream == incoming.stream) {
                if let Some(position) = &mut self.shards[at].position {
                    position.seq = incoming.seq;
                }
                if let Some(slot) = self.status.applied.get(at) {
                    slot.store(incoming.seq, Relaxed);
                }
            }
        }
        self.status.count_consumed(applied.events);
        self.status.rows.fetch_add(applied.rows as u64, Relaxed);
        self.file_stale = true;
        if let Some((_, wake)) = &self.publisher {
            // Entries that we made, or progress that the publisher waits for. Full: it is awake already.
            let _ = wake.try_send(());
        }
        Ok(())
    }

    /// Gives up consumers that are of no use, builds those that are missing.
    fn keep_consumers(&mut self) {
        for shard in &mut self.shards {
            if let Some(why) = shard.consumer.as_ref().and_then(Consumer::trouble) {
                log::debug!("stream {}: {why}; reading it anew", shard.stream);
                shard.consumer = None;
            }
        }
        let missing: Vec<usize> =
            (0..self.shards.len()).filter(|at| self.shards[*at].consumer.is_none()).collect();
        if missing.is_empty() || self.rebuild_at > Instant::now() || !self.js.connection().is_up() {
            return;
        }
        if !self.joined && !self.try_join() {
            self.rebuild_at = Instant::now() + self.recovery_pauses.pause();
            return;
        }
        let mut gap = false;
        for at in missing {
            // What was read and not applied would come again.
            let stream = self.shards[at].stream.clone();
            self.waiting.retain(|incoming| incoming.stream != stream);
            self.waiting_bytes = self.waiting.iter().map(|incoming| incoming.payload.len()).sum();
            match self.build(at) {
                Ok(true) => {}
                Ok(false) => {
                    // Positions may have changed: all begin anew.
                    gap = true;
                    break;
                }
                Err(error) => {
                    self.said.warn(&format!("stream {stream}: {error}; trying again"));
                    self.rebuild_at = Instant::now() + self.backoff.pause();
                    return;
                }
            }
        }
        self.status.gap.store(gap, Relaxed);
        if gap {
            self.rebuild_at = Instant::now() + self.recovery_pauses.pause();
        } else {
            self.backoff.reset();
            self.recovery_pauses.reset();
            self.said.forget();
            self.status.set_missing("");
        }
    }

    /// Builds a shard's consumer behind its position. False when the stream does not hold what comes next.
    fn build(&mut self, at: usize) -> Result<bool, Error> {
        let number = self.shards[at].number;
        let stream = self.shards[at].stream.clone();
        let info = match self.js.stream(&stream)? {
            Some(info) => info,
            None => streams::ensure(&self.js, &self.config, number)?,
        };
        let position = match streams::judge(self.shards[at].position.as_ref(), &info) {
            Judgement::Gap(first, last) => {
                self.fill_gap(&stream, first, last);
                return Ok(false);
            }
            Judgement::Continue(position) => {
                self.remember(at, &position, false)?;
                position
            }
            Judgement::Changed(position, why) => {
                log::warn!(
                    "stream {stream} {why}: following it as it is now; what has not come back is published again"
                );
                let fresh = position.seq == 0;
                self.remember(at, &position, fresh)?;
                self.owes_rewind = true;
                position
            }
        };
        let deliver = self.deliver.clone();
        let consumer =
            Consumer::open(&self.js, &stream, None, position.seq + 1, limits::PULL_BATCH, deliver)?;
        let shard = &mut self.shards[at];
        shard.consumer = Some(consumer);
        let last = info.state.last_seq;
        let empty = info.state.messages == 0;
        shard.target.get_or_insert(if empty { position.seq } else { last });
        Ok(true)
    }

    /// The stream does not hold what comes next: a snapshot that is newer than the gap fills it.
    fn fill_gap(&mut self, stream: &str, first: u64, last: u64) {
        self.status.gap.store(true, Relaxed);
        let gap = format!(
            "stream {stream} no longer holds messages {first} to {last}, which this node has not seen"
        );
        let Some(recover) = self.recover.as_mut() else {
            self.said.warn(&format!(
                "{gap}: it is not whole, and snapshots are disabled. Stop it, give it the database of another node and start \
                 it again"
            ));
            return;
        };
        // A database that never followed the streams may hold rows that nobody else has: it joins.
        if self.shards.iter().all(|shard| shard.position.is_none()) {
            self.joined = false;
            return;
        }
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.shards.iter_mut().for_each(|shard| shard.consumer = None);
        match recover(&mut self.database) {
            Ok(()) => {
                self.status.set_missing("");
                log::info!("{gap}: restored from a snapshot");
                self.take_positions();
            }
            Err(why) => {
                self.status.set_missing(&format!("{gap}: {why}"));
                self.said.warn(&format!("{gap}: {why}; trying again"));
            }
        }
    }

    /// True when it has joined.
    fn try_join(&mut self) -> bool {
        let Some(join) = self.join.as_mut() else { return true };
        if let Err(why) = join(&mut self.database) {
            self.status.set_missing(&format!("joining: {why}"));
            self.said.warn(&format!("joining: {why}"));
            return false;
        }
        self.joined = true;
        self.status.set_missing("");
        self.take_positions();
        true
    }

    /// Positions that a snapshot brought.
    fn take_positions(&mut self) {
        for (at, shard) in self.shards.iter_mut().enumerate() {
            match self.database.position(&shard.stream) {
                Ok(position) => shard.position = position,
                Err(error) => log::warn!("read the position in {}: {error}", shard.stream),
            }
            if let Some(slot) = self.status.applied.get(at) {
                slot.store(shard.position.as_ref().map_or(0, |position| position.seq), Relaxed);
            }
        }
        self.rebuild_at = Instant::now();
        self.owes_rewind = true;
        self.file_stale = true;
        if let Some((_, wake)) = &self.publisher {
            let _ = wake.try_send(());
        }
    }

    /// Notes a position that did not come from applying, in the database too.
    fn remember(&mut self, at: usize, position: &Position, fresh: bool) -> Result<(), Error> {
        let shard = &mut self.shards[at];
        if shard.position.as_ref() != Some(position) {
            self.database
                .set_position(&shard.stream, position, fresh)
                .map_err(|error| Error::Transient(format!("write the position: {error}")))?;
            shard.position = Some(position.clone());
            self.file_stale = true;
        }
        if let Some(slot) = self.status.applied.get(at) {
            slot.store(position.seq, Relaxed);
        }
        Ok(())
    }

    fn start_publisher_when_caught_up(&mut self) {
        let caught_up = |shard: &Shard| match (&shard.position, shard.target) {
            (Some(position), Some(target)) => position.seq >= target,
            _ => false,
        };
        if self.started || !self.shards.iter().all(caught_up) {
            return;
        }
        self.started = true;
        // It begins with all that the log holds.
        self.owes_rewind = false;
        log::info!("caught up with {}", if self.shards.len() == 1 { "the stream" } else { "all streams" });
        if let Some((commands, _)) = &self.publisher {
            let _ = commands.try_send(Command::Start);
        }
    }

    fn pay_rewind(&mut self) {
        if self.owes_rewind
            && let Some((commands, wake)) = &self.publisher
            && commands.try_send(Command::Rewind).is_ok()
        {
            let _ = wake.try_send(());
            self.owes_rewind = false;
        }
    }

    /// Shows the checkpoint to the outside, at most once a second.
    fn write_file(&mut self, now: bool) {
        if !self.file_stale || (!now && self.file_written.elapsed() < limits::SEQMAP_INTERVAL) {
            return;
        }
        self.file_stale = false;
        self.file_written = Instant::now();
        let map: SeqMap = self
            .shards
            .iter()
            .filter_map(|s| s.position.as_ref().map(|p| (s.stream.clone(), p.seq)))
            .collect();
        if map != self.file {
            match positions::write(&self.config.seq_map_path, &map) {
                Ok(()) => self.file = map,
                Err(error) => log::warn!("write {}: {error}", self.config.seq_map_path.display()),
            }
        }
    }
}
