//! Bringing a scratch copy of the database forward: what the streams hold behind its positions is applied, up to a bound.

use crate::base::{limits, stop::Stop};
use crate::config::Config;
use crate::db::{self, Incoming};
use crate::model::{origin::Origin, positions::SeqMap};
use crate::nats::{Consumer, JetStream, Message, Step, StreamInfo};
use crate::streams::{self, Judgement};
use crossbeam_channel::{Receiver, bounded};
use std::path::Path;
use std::time::{Duration, Instant};

/// Up to where a stream is replayed.
#[derive(Clone, Debug)]
pub enum Until {
    /// Its end, as it is when it is looked at.
    End,
    /// A sequence, for each stream; streams that are not named stay where they are.
    Positions(SeqMap),
    /// A moment, Unix milliseconds: later messages are left out.
    Time(i64),
}

impl Until {
    fn last(&self, stream: &str, info: &StreamInfo) -> u64 {
        match self {
            Until::End | Until::Time(_) => info.state.last_seq,
            Until::Positions(positions) => positions.get(stream).copied().unwrap_or(0),
        }
    }
}

/// Replays; returns the number of messages. The file is nobody else's. The error says what is missing.
pub fn replay(
    config: &Config,
    js: &JetStream,
    path: &Path,
    until: &Until,
    stop: &Stop,
) -> Result<u64, String> {
    let failed = |error: db::Error| format!("{}: {error}", path.display());
    let mut database = db::Applier::open(path, config.node_id).map_err(failed)?;
    let mut count = 0;
    for shard in 1..=config.log.shards {
        let stream = config.stream(shard);
        let info = js.stream(&stream).map_err(|error| format!("stream {stream}: {error}"))?;
        let Some(info) = info else { continue };
        let position = database.position(&stream).map_err(failed)?;
        let from = match streams::judge(position.as_ref(), &info) {
            Judgement::Continue(position) => position.seq,
            Judgement::Changed(_, why) => return Err(format!("stream {stream} {why}")),
            Judgement::Gap(first, last) => {
                return Err(format!("stream {stream} no longer holds messages {first} to {last}"));
            }
        };
        let last = until.last(&stream, &info);
        if last > info.state.last_seq {
            return Err(format!("stream {stream} ends at {}, before {last}", info.state.last_seq));
        }
        let mut replaying = Replaying { js, stream: &stream, database: &mut database, until, last, stop };
        if last > from && info.state.messages > 0 {
            count += replaying.run(from)?;
        }
    }
    Ok(count)
}

struct Replaying<'a> {
    js: &'a JetStream,
    stream: &'a str,
    database: &'a mut db::Applier,
    until: &'a Until,
    last: u64,
    stop: &'a Stop,
}

impl Replaying<'_> {
    fn run(&mut self, from: u64) -> Result<u64, String> {
        let (deliver, queue) = bounded(limits::PULL_BATCH * 2);
        let (mut at, mut count, mut tries) = (from, 0, 0);
        loop {
            let consumer =
                Consumer::open(self.js, self.stream, None, at + 1, limits::PULL_BATCH, deliver.clone());
            let end = match consumer {
                Ok(mut consumer) => self.read(&mut consumer, &queue, &mut at, &mut count)?,
                Err(error) => Some(error.to_string()),
            };
            let Some(why) = end else { return Ok(count) };
            tries += 1;
            if tries > limits::STORE_TRIES || self.stop.wait(Duration::from_millis(200)) {
                return Err(format!("replay stream {}: {why}", self.stream));
            }
        }
    }

    /// Reads with one consumer. `None`: all is there; a text: it is of no use any more.
    fn read(
        &mut self,
        consumer: &mut Consumer,
        queue: &Receiver<Message>,
        at: &mut u64,
        count: &mut u64,
    ) -> Result<Option<String>, String> {
        let mut batch: Vec<Incoming> = vec![];
        let mut heard = Instant::now();
        loop {
            let mut done = false;
            match queue.recv_timeout(Duration::from_millis(if batch.is_empty() { 500 } else { 1 })) {
                Ok(message) if !consumer.owns(&message) => {}
                Ok(message) => match consumer.on_message(message) {
                    Step::Nothing => {}
                    Step::Rebuild(why) => return self.apply(&mut batch, at, count).map(|()| Some(why)),
                    Step::Item(item) => {
                        heard = Instant::now();
                        let wanted = item.seq <= self.last
                            && !matches!(self.until, Until::Time(time) if item.time_ms > *time);
                        done = !wanted || item.seq >= self.last || item.pending == 0;
                        if wanted {
                            let origin =
                                item.message.headers.get("Nats-Msg-Id").and_then(Origin::parse_message_id);
                            let (stream, payload) = (self.stream.to_owned(), item.message.payload);
                            batch.push(Incoming { stream, seq: item.seq, origin, payload });
                        }
                    }
                },
                Err(_) if heard.elapsed() > limits::PULL_SILENCE || consumer.trouble().is_some() => {
                    let why = consumer.trouble().unwrap_or_else(|| "no answer".to_owned());
                    return self.apply(&mut batch, at, count).map(|()| Some(why));
                }
                Err(_) => done = self.apply(&mut batch, at, count).map(|()| false)?,
            }
            if self.stop.requested() {
                return Err("stopped".to_owned());
            }
            if done || batch.len() >= limits::APPLY_BATCH {
                self.apply(&mut batch, at, count)?;
            }
            if done {
                return Ok(None);
            }
        }
    }

    fn apply(&mut self, batch: &mut Vec<Incoming>, at: &mut u64, count: &mut u64) -> Result<(), String> {
        while !batch.is_empty() {
            let applied = self
                .database
                .apply(batch)
                .map_err(|error| format!("replay stream {}: {error}", self.stream))?;
            *at = batch[applied.events - 1].seq;
            *count += applied.events as u64;
            batch.drain(..applied.events);
        }
        Ok(())
    }
}
