//! The follower: from the streams into the database, in order, from its own checkpoint, whatever happens to the broker.

use super::chores::Chores;
use super::followed::Followed;
use super::healing::{Healing, Outcome, Tools};
use super::pacing::{MapFile, Tries, Yielding};
use super::rebuilt::Rebuilt;
use super::reports;
use super::setup::Setup;
use super::waiting::Waiting;
use crate::base::error::{Context, Error, Kind};
use crate::base::{fail, limits, once::Once};
use crate::db::{self, Ends, Incoming, WhyAnew};
use crate::model::positions::{self, Position, SeqMap};
use crate::model::reach::Reach;
use crate::nats::Message;
use crate::operate::{Trouble, Whole};
use crate::streams::{self, Item, Judgement, Reader};
use crossbeam_channel::{Receiver, select};
use std::time::{Duration, Instant};

/// The follower's thread.
pub struct Follower {
    setup: Setup,
    streams: Vec<Followed>,
    queue: Receiver<Message>,
    link: Receiver<()>,
    /// A block of keys is to be taken.
    steering: Receiver<()>,
    waiting: Waiting,
    tries: Tries,
    yielding: Yielding,
    map_file: MapFile,
    /// What the sequence-map file shows.
    shown: SeqMap,
    said: Once,
    connecting: Trouble,
    applying: Trouble,
    /// The database follows the streams, or goes on as it is.
    joined: bool,
    /// All that the streams held at the first look is applied.
    started: bool,
    /// The publisher is to be told to publish again what has not come back.
    owes_rewind: bool,
    chores: Chores,
    rebuilt: Rebuilt,
    healing: Healing,
    looked_at_formats: Instant,
    /// Whether there are more streams than this node's was looked at.
    looked_beyond: bool,
}

impl Follower {
    /// A follower on an opened database.
    pub fn new(mut setup: Setup) -> Result<Follower, Error> {
        let shards = setup.config.log.shards;
        let (deliver, queue) = streams::queue(usize::try_from(shards).unwrap_or(1));
        let mut streams = vec![];
        for stream in setup.config.streams() {
            let position = setup.database.position(streams.len())?;
            let reader = Reader::new(&setup.js, stream, deliver.clone());
            let mut followed = Followed::new(streams.len(), reader, None);
            // What an earlier session had published may have been in a stream that is gone.
            followed.begins_anew(&setup.signals, position);
            streams.push(followed);
        }
        let followed =
            streams.iter().any(|stream| stream.position.is_some()) || setup.database.is_restored()?;
        let joined = setup.takes_over.is_none() && (followed || setup.join.is_none());
        let whole = if joined { Whole::Yes } else { Whole::Waiting("joining the cluster".to_owned()) };
        setup.signals.set_whole(whole);
        let now = Instant::now();
        let mut follower = Follower {
            waiting: Waiting::new(streams.len(), now),
            streams,
            queue,
            link: setup.js.connection().watch(),
            steering: setup.database.due_blocks(),
            tries: Tries::new(now),
            yielding: Yielding::default(),
            map_file: MapFile::new(now),
            shown: SeqMap::new(),
            said: Once::default(),
            connecting: Trouble::new(&setup.board, "follower"),
            applying: Trouble::new(&setup.board, "applying"),
            joined,
            started: false,
            owes_rewind: false,
            chores: Chores::new(now, setup.config.schema_keep),
            rebuilt: Rebuilt::new(now),
            healing: Healing::new(setup.database.epoch()?.1.is_some(), now),
            looked_at_formats: now,
            looked_beyond: false,
            setup,
        };
        let Follower { chores, setup, .. } = &mut follower;
        chores.show(&mut setup.database, &setup.board, &setup.signals);
        follower.setup.tell_generation();
        // Until there is something to apply.
        follower.setup.database.rest(Duration::ZERO);
        Ok(follower)
    }

    /// Applies until stop. The publisher has ended before: what it published comes back now, or at the next start.
    pub fn run(mut self) -> Result<(), Error> {
        let mut drain_until = None;
        loop {
            let now = Instant::now();
            if self.setup.stop.requested() {
                let until = *drain_until.get_or_insert(now + limits::DRAIN / 4);
                self.waiting.hurry(now);
                if now > until || self.has_drained() {
                    break;
                }
            }
            self.connect(now)?;
            let again = self.setup.database.has_more();
            let pause = self.waiting.pause(now);
            if pause != Some(Duration::ZERO) && !again {
                self.wait(pause.unwrap_or(self.chores.pause()));
            }
            self.collect();
            if again || self.waiting.is_due(Instant::now()) {
                self.apply()?;
            }
            self.setup.database.rest(limits::REST_AFTER);
            self.chores.run(&mut self.setup.database, &self.setup.board, &self.setup.signals);
            let may_compare = self.started && self.waiting.pause(now).is_none();
            if may_compare && self.streams.iter().all(Followed::is_even) {
                self.rebuilt.look(&mut self.setup, now)?;
            }
            self.look_at_formats();
            self.look_at_epoch()?;
            self.start_publisher_when_caught_up();
            self.pay_rewind();
            self.write_map_file(false);
        }
        self.write_map_file(true);
        Ok(())
    }

    fn has_drained(&self) -> bool {
        !self.started || self.setup.signals.flow.not_come_back() == 0 || !self.is_up()
    }

    fn is_up(&self) -> bool {
        self.setup.js.connection().is_up()
    }

    /// Waits for a message, for a change of the connection, or until something is to be done.
    fn wait(&mut self, at_most: Duration) {
        let now = Instant::now();
        let stopping = self.setup.stop.requested();
        let missing = self.is_up() && self.streams.iter().any(|stream| !stream.reader.is_connected());
        let timeout = match (stopping, missing) {
            (true, _) => Duration::from_millis(20),
            (false, true) => self.tries.pause(now).max(Duration::from_millis(5)),
            (false, false) => Duration::from_secs(1),
        };
        let looks = self.joined && self.is_up();
        let timeout = if looks { timeout.min(self.healing.pause(now)) } else { timeout };
        // After stop its channel is always ready, and the wait is for echoes alone.
        let never = crossbeam_channel::never();
        let stop = if stopping { &never } else { self.setup.stop.receiver() };
        let message = select! {
            recv(stop) -> _ => None,
            recv(self.link) -> _ => {
                self.tries.at_once(now);
                None
            }
            recv(self.steering) -> _ => None,
            recv(self.queue) -> message => message.ok(),
            default(timeout.min(at_most)) => None,
        };
        if let Some(message) = message {
            self.take(message);
        }
    }

    /// Takes what is queued, up to a batch.
    fn collect(&mut self) {
        while self.waiting.has_room() {
            match self.queue.try_recv() {
                Ok(message) => self.take(message),
                Err(_) => break,
            }
        }
    }

    fn take(&mut self, message: Message) {
        let Some(at) = self.streams.iter().position(|stream| stream.reader.owns(&message)) else {
            return; // Of a consumer that was given up.
        };
        let Some(item) = self.streams[at].reader.take(message, Instant::now()) else { return };
        fail::point("message received");
        self.chores.warn_of_go_nodes(item.origin.is_none(), self.setup.config.log.shards);
        let Item { seq, origin, payload, part, time_ms, .. } = item;
        self.setup.signals.flow.came(at, seq, payload.len());
        let incoming = Incoming { stream: at, seq, origin, time_ms, payload, ends: None };
        // Before the node has caught up, it waits for its own events as well as for others'.
        let urgent = !self.started || !self.setup.database.is_own(&incoming);
        if let Some(ends) = self.waiting.push(incoming, (part, time_ms), urgent, Instant::now()) {
            self.streams[at].has_read(&self.setup.signals, ends.read);
            self.pass_unused(at, ends.checkpoint);
            // Its parts come back before they are applied.
            self.wake_publisher();
        }
    }

    /// Messages without any effect move the database's position only now and then.
    fn pass_unused(&mut self, at: usize, checkpoint: u64) {
        let stream = &self.streams[at];
        if checkpoint.saturating_sub(stream.checkpoint) < limits::UNUSED {
            return;
        }
        let Some(position) = &stream.position else { return };
        let (read, position) = (position.seq, Position { seq: checkpoint, ..position.clone() });
        match self.setup.database.set_position(at, &position) {
            Ok(()) => self.streams[at].has_applied(&self.setup.signals, Ends { read, checkpoint }),
            // With the next one again.
            Err(error) => log::debug!("write the position: {error}"),
        }
    }

    /// Applies the waiting events; while the application holds the lock, again and again.
    fn apply(&mut self) -> Result<(), Error> {
        let begun = Instant::now();
        let applied = match self.setup.database.apply(self.waiting.batch()) {
            Ok(applied) => applied,
            Err(error @ (db::Error::Busy | db::Error::SchemaChanged | db::Error::Disk(_))) => {
                self.applying.warn(&format!("applying changes: {error}; trying again"));
                // The try itself has waited for a lock already.
                let busy = matches!(error, db::Error::Busy | db::Error::SchemaChanged);
                self.setup.stop.wait(if busy { Duration::ZERO } else { Duration::from_secs(1) });
                return Ok(());
            }
            Err(error) => return Err(error).context("apply changes"),
        };
        self.applying.forget();
        let pause = self.yielding.pause(applied.noticed, begun, Instant::now());
        // Not while the application's keys are about to be used up.
        select!(recv(self.setup.stop.receiver()) -> _ => {}, recv(self.steering) -> _ => {}, default(pause) => {});
        self.owes_rewind |= applied.new_incarnation;
        let applied_up_to: Vec<(usize, Ends)> = self
            .waiting
            .take_applied(applied.events, self.yielding.is_writing(Instant::now()))
            .filter_map(|incoming| Some((incoming.stream, incoming.ends?)))
            .collect();
        for (at, ends) in applied_up_to {
            self.streams[at].has_applied(&self.setup.signals, ends);
        }
        self.setup.board.count_consumed(applied.changes, applied.rows);
        self.setup.board.count_lost(applied.lost);
        self.map_file.is_stale();
        reports::tell(&mut self.setup);
        // Entries that we made, or progress that the publisher waits for.
        self.wake_publisher();
        Ok(())
    }

    /// Looks now and then whether somebody has changed the form in which changes are to be published.
    fn look_at_formats(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.looked_at_formats) < limits::FORMAT_LOOK || !self.is_up() {
            return;
        }
        self.looked_at_formats = now;
        for at in 0..self.streams.len() {
            let name = self.streams[at].reader.stream();
            let Ok(Some(info)) = self.setup.js.stream(name) else { continue };
            match streams::format_of(&info) {
                Ok(format) => self.streams[at].note_format(&self.setup.signals, format, self.started),
                Err(error) => self.connecting.warn(&format!("stream {name}: {error}")),
            }
            // Somebody may have changed its limits, too.
            self.note_reach(at, streams::reach_of(&info), streams::size_of(&info));
        }
    }

    fn note_reach(&mut self, at: usize, reach: Reach, size: u64) {
        self.setup.signals.flow.set_reach(at, reach, size);
        self.waiting.keep_within(reach);
    }

    fn wake_publisher(&self) {
        if let Some(publisher) = &self.setup.publisher {
            publisher.wake();
        }
    }

    /// Gives up readers that are of no use, connects those that are missing. [`Kind::Damaged`]: the database is.
    fn connect(&mut self, now: Instant) -> Result<(), Error> {
        self.streams.iter_mut().for_each(|stream| stream.reader.check(now));
        let is_missing = |stream: &Followed| !stream.reader.is_connected();
        if !self.streams.iter().any(is_missing) || !self.tries.may(now) || !self.is_up() {
            return Ok(());
        }
        if !self.joined && !self.try_join()? {
            self.tries.found_nothing(now);
            return Ok(());
        }
        // A node that was away must know it before it fills a gap.
        self.look_at_epoch()?;
        for at in 0..self.streams.len() {
            if self.streams[at].reader.is_connected() {
                continue;
            }
            // What was read and not applied comes again.
            self.waiting.forget(at);
            self.streams[at].step_back();
            match self.connect_stream(at) {
                Ok(true) => {}
                Ok(false) => {
                    // Positions may have changed: all streams begin anew.
                    self.tries.found_nothing(now);
                    return Ok(());
                }
                Err(error) if error.kind() == Kind::Damaged => return Err(error),
                Err(error) => {
                    let stream = self.streams[at].reader.stream();
                    self.connecting.warn(&format!("stream {stream}: {error}; trying again"));
                    self.tries.failed(now);
                    return Ok(());
                }
            }
        }
        self.tries.succeeded();
        self.said.forget();
        self.connecting.forget();
        self.show_whole("");
        let in_memory = self.streams.iter_mut().map(Followed::tell_memory).filter(|memory| *memory).count();
        self.setup.board.set_in_memory(in_memory > 0);
        if !self.looked_beyond {
            self.looked_beyond = streams::warn_of_more_shards(&self.setup.js, &self.setup.config).is_ok();
        }
        Ok(())
    }

    /// Connects a stream's reader after its position. False when the stream does not hold what comes next.
    fn connect_stream(&mut self, at: usize) -> Result<bool, Error> {
        let moments = self.setup.database.moments(at)?;
        let shard = self.streams[at].shard();
        let Followed { reader, position, removed, .. } = &mut self.streams[at];
        let stream = reader.stream().to_owned();
        let mut judgement = reader.connect(position.as_ref(), &moments)?;
        if judgement.is_none() {
            if position.is_some() && !removed.is_over(Instant::now()) {
                return Err(Error::unreachable("was removed: making it anew in a moment"));
            }
            streams::ensure(&self.setup.js, &self.setup.config, shard)?;
            judgement = reader.connect(position.as_ref(), &moments)?;
        }
        removed.forget();
        let recorded = match judgement {
            None => return Err(Error::unreachable("was removed as soon as it was made")),
            Some(Judgement::Gap(first, last)) => {
                let is_another = position.as_ref().is_some_and(|known| known.created != reader.created());
                if self.healing.is_pending() || is_another || self.is_left_alone(at) {
                    let seq = Position { seq: last, created: self.streams[at].reader.created().to_owned() };
                    log::warn!(
                        "stream {stream} does not hold messages {first} to {last}: following it as it is now, and comparing this \
                         node with others"
                    );
                    self.begin_anew(Some((at, seq)), WhyAnew::Gap)?;
                } else {
                    self.fill_gap(&stream, first, last)?;
                }
                return Ok(false);
            }
            Some(Judgement::Continue(position)) => self.record(at, position),
            Some(Judgement::Changed(position, why)) => {
                log::warn!(
                    "stream {stream} {why}: following it as it is now; what has not come back is published again, and this node \
                     is compared with others"
                );
                self.begin_anew(Some((at, position)), WhyAnew::Lost)
            }
        };
        let reader = &mut self.streams[at].reader;
        if recorded.is_err() {
            reader.disconnect();
        }
        let (format, (reach, size)) = (reader.format(), reader.reach());
        self.streams[at].note_format(&self.setup.signals, format, self.started);
        self.note_reach(at, reach, size);
        recorded.context("write the position").map(|()| true)
    }

    /// The stream does not hold what comes next: a snapshot that is newer than the gap fills it.
    fn fill_gap(&mut self, stream: &str, first: u64, last: u64) -> Result<(), Error> {
        let gap = format!(
            "stream {stream} no longer holds messages {first} to {last}, which this node has not seen"
        );
        let waits = |what: &str| Whole::Waiting(format!("{gap}{what}"));
        if !matches!(self.setup.signals.whole(), Whole::Waiting(why) if why.starts_with(&gap)) {
            self.setup.signals.set_whole(waits(""));
        }
        let Some(recover) = self.setup.recover.as_mut() else {
            self.said.warn(&format!(
                "{gap}: it is not whole, and snapshots are disabled. Stop it, give it the database of another node and start \
                 it again"
            ));
            return Ok(());
        };
        // A database that never followed the streams may hold rows that nobody else has: it joins.
        if self.streams.iter().all(|stream| stream.position.is_none()) {
            self.joined = false;
            return Ok(());
        }
        self.waiting.clear();
        self.streams.iter_mut().for_each(|stream| stream.reader.disconnect());
        match recover(&mut self.setup.database) {
            Ok(()) => {
                log::info!("{gap}: restored from a snapshot");
                self.take_positions();
            }
            Err(why) if why.kind() == Kind::Damaged => return Err(why),
            Err(why) => {
                self.setup.signals.set_whole(waits(&format!(": {why}")));
                self.said.warn(&format!("{gap}: {why}; trying again"));
            }
        }
        Ok(())
    }

    /// True when it has joined.
    fn try_join(&mut self) -> Result<bool, Error> {
        let (step, what) = match (&mut self.setup.takes_over, &mut self.setup.join) {
            (Some(step), _) => (step, "taking over"),
            (None, Some(step)) => (step, "joining"),
            (None, None) => return Ok(true),
        };
        if let Err(why) = step(&mut self.setup.database) {
            if why.kind() == Kind::Damaged {
                return Err(why);
            }
            self.setup.signals.set_whole(Whole::Waiting(format!("{what}: {why}")));
            self.said.warn(&format!("{what}: {why}"));
            return Ok(false);
        }
        self.take_positions();
        let takes_over = self.setup.takes_over.take().is_some();
        self.joined = !takes_over || self.streams.iter().any(|stream| stream.position.is_some());
        Ok(self.joined)
    }

    /// Takes over the positions that a snapshot brought.
    fn take_positions(&mut self) {
        for (at, stream) in self.streams.iter_mut().enumerate() {
            let known = self.setup.database.position(at).unwrap_or_else(|error| {
                log::warn!("read the position in {}: {error}", stream.reader.stream());
                stream.position.clone()
            });
            // What we published before stands in the snapshot's state, or is published again.
            stream.begins_anew(&self.setup.signals, known);
        }
        self.tries.at_once(Instant::now());
        self.setup.tell_generation();
        self.owes_rewind = true;
        self.map_file.is_stale();
        self.wake_publisher();
    }

    /// Notes a position that did not come from applying, in the database too.
    fn record(&mut self, at: usize, position: Position) -> Result<(), db::Error> {
        let (followed, database) = (&mut self.streams[at], &mut self.setup.database);
        if followed.position.as_ref() != Some(&position) {
            database.set_position(at, &position)?;
            self.map_file.is_stale();
        }
        followed.goes_on(&self.setup.signals, position);
        self.setup.tell_generation();
        Ok(())
    }

    /// The streams are not what they were: goes on in one of them at this position, if one is given, and has to compare the database.
    fn begin_anew(&mut self, position: Option<(usize, Position)>, why: WhyAnew) -> Result<(), db::Error> {
        self.setup.database.begin_anew(position.as_slice(), why)?;
        self.healing.set_pending(true, Instant::now());
        self.show_whole("");
        self.owes_rewind = true;
        if let Some((at, position)) = position {
            self.streams[at].begins_anew(&self.setup.signals, Some(position));
        }
        // The file does not say of which stream a position is: one that is higher than this would be taken for a loss of commits.
        self.map_file.is_stale();
        self.write_map_file(true);
        self.setup.tell_generation();
        Ok(())
    }

    /// Whether this node lacks what a stream does not hold any more, and nobody is there to help it.
    fn is_left_alone(&mut self, at: usize) -> bool {
        let Setup { config, bucket, .. } = &self.setup;
        self.streams[at].position.is_some()
            && config.makes_snapshots()
            && self.healing.nobody_leads(config, bucket, Instant::now())
    }

    /// A node that follows all its streams is whole, unless it has to compare itself.
    fn show_whole(&self, missing: &str) {
        self.setup.signals.set_whole(match self.healing.is_pending() {
            false => self.rebuilt.lacks().cloned().unwrap_or(Whole::Yes),
            true => Whole::Waiting(format!(
                "the broker has lost messages that nodes had read, and this node is to be compared with others{missing}"
            )),
        });
    }

    /// Looks whether another epoch of the streams has begun, and takes the next step into it.
    fn look_at_epoch(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if !self.joined || !self.is_up() || !self.healing.is_due(now) {
            return Ok(());
        }
        let follows = self.streams.iter().any(|stream| stream.position.is_some());
        let Setup { config, bucket, database, heal, .. } = &mut self.setup;
        let tools = Tools { config, bucket, database, heal: heal.as_mut(), follows };
        match self.healing.step(tools, now) {
            Ok(Outcome::Nothing) => {}
            Ok(Outcome::Behind) => match self.begin_anew(None, WhyAnew::Others).map_err(Error::from) {
                Err(error) if error.kind() == Kind::Damaged => return Err(error),
                Err(error) => self.healing.say(&format!("{error}; trying again")),
                Ok(()) => log::warn!("the broker has lost messages: this node is compared with others"),
            },
            Ok(outcome) => {
                if outcome == Outcome::Leads {
                    self.setup.signals.lead();
                }
                let was_pending = self.healing.is_pending();
                self.healing.set_pending(false, now);
                if outcome == Outcome::Healed {
                    // What was read and not applied comes again.
                    self.waiting.clear();
                    self.streams.iter_mut().for_each(|stream| stream.reader.disconnect());
                    self.take_positions();
                } else {
                    self.setup.tell_generation();
                }
                if was_pending && self.streams.iter().all(|stream| stream.reader.is_connected()) {
                    self.show_whole("");
                }
                if was_pending {
                    log::info!("this node is in step with the others again");
                }
            }
            Err(error) if error.kind() == Kind::Damaged => return Err(error),
            Err(error) if self.healing.is_pending() => {
                self.show_whole(&format!(": {error}"));
                self.healing.say(&format!("comparing this node with others: {error}"));
            }
            Err(error) => log::debug!("look for another epoch of the streams: {error}"),
        }
        Ok(())
    }

    fn start_publisher_when_caught_up(&mut self) {
        if self.started || !self.streams.iter().all(Followed::has_caught_up) {
            return;
        }
        self.started = true;
        // The publisher begins with all that the log holds.
        self.owes_rewind = false;
        log::info!("caught up with {}", if self.streams.len() == 1 { "the stream" } else { "all streams" });
        if let Some(publisher) = &self.setup.publisher {
            publisher.start();
        }
    }

    fn pay_rewind(&mut self) {
        if self.owes_rewind
            && let Some(publisher) = &self.setup.publisher
        {
            self.owes_rewind = !publisher.rewind();
        }
    }

    /// Shows the checkpoint to the outside.
    fn write_map_file(&mut self, last: bool) {
        if !self.map_file.is_due(Instant::now(), last) {
            return;
        }
        let positions = self.streams.iter().filter_map(|stream| {
            stream.position.as_ref().map(|_| (stream.reader.stream().to_owned(), stream.checkpoint))
        });
        let map: SeqMap = positions.collect();
        if map != self.shown {
            let path = &self.setup.config.seq_map_path;
            match positions::write(path, &map) {
                Ok(()) => {
                    self.shown = map;
                    fail::point("sequence map written");
                }
                Err(error) => log::warn!("write {}: {error}", path.display()),
            }
        }
    }
}
