//! The worker that answers for this node's database, one question after the other.

use super::report::Result as Told;
use super::spoken::spoken_of;
use super::wire::{Answer, Ask, Hello, Spoken};
use super::{subject_of_all, subject_of_results};
use crate::base::error::Error;
use crate::base::{clock, limits, memory, stop::Stop};
use crate::config::Config;
use crate::db;
use crate::db::equality::{Described, Examiner};
use crate::model::positions::Position;
use crate::nats::{JetStream, Message, nuid};
use crate::operate::{Board, Signals};
use crossbeam_channel::{bounded, select};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Questions that wait; more are dropped, and asked again.
const QUEUE: usize = 64;
/// Bytes of the longest list in an answer.
const LIST_BYTES: usize = 128 << 10;
/// Nodes that are named at most.
const KNOWN: usize = 256;
/// Tries of an answer while the application changes the schema.
const TRIES: u32 = 3;
/// After this time without a question the database is closed.
const IDLE: Duration = Duration::from_secs(5);

/// What the worker is made of.
pub struct Setup {
    pub config: Config,
    pub js: JetStream,
    pub board: Arc<Board>,
    pub signals: Arc<Signals>,
    pub stop: Stop,
}

/// Answers until stop.
pub fn answer(setup: Setup) -> Result<(), Error> {
    let connection = setup.js.connection().clone();
    let mut answering = Answering {
        subject: format!("{}.compare.{}", setup.config.nats.stream_prefix, nuid()),
        examiner: None,
        used: Instant::now(),
        setup,
    };
    let (queue, questions) = bounded(QUEUE);
    let all = connection.subscribe(&subject_of_all(&answering.setup.config), queue.clone());
    let _own = connection.subscribe(&answering.subject, queue.clone());
    let results = connection.subscribe(&subject_of_results(&answering.setup.config), queue);
    let stop = answering.setup.stop.clone();
    loop {
        select! {
            recv(stop.receiver()) -> _ => return Ok(()),
            recv(questions) -> message => {
                let Ok(message) = message else { return Ok(()) };
                if message.sid == results.sid {
                    answering.hear(&message);
                } else {
                    answering.take(&message, message.sid == all.sid);
                }
            }
            default(limits::COMPARE_LOOK) => answering.rest(),
        }
    }
}

struct Answering {
    setup: Setup,
    subject: String,
    /// Open while somebody asks.
    examiner: Option<Examiner>,
    used: Instant,
}

impl Answering {
    /// Closes the database when nobody asks any more.
    fn rest(&mut self) {
        if self.examiner.is_some() && self.used.elapsed() >= IDLE {
            self.examiner = None;
            memory::give_back();
        }
    }

    /// Shows what a comparison came to.
    fn hear(&self, message: &Message) {
        if let Some(Told { differences, text }) = Told::decode(&message.payload) {
            self.setup.board.note_compared(clock::unix_ms(), differences, &text);
        }
    }

    fn take(&mut self, message: &Message, to_all: bool) {
        let (Some(reply), Some(ask)) = (&message.reply, Ask::decode(&message.payload)) else { return };
        if to_all != (ask == Ask::Hello) {
            return;
        }
        self.used = Instant::now();
        let answer = self.answer(&ask);
        // Whoever gets no answer asks again.
        if let Err(error) = self.setup.js.connection().clone().publish(reply, &[], &answer.encode()) {
            log::debug!("answer about equality: {error}");
        }
    }

    fn answer(&mut self, ask: &Ask) -> Answer {
        for _ in 0..TRIES {
            match self.try_to(ask) {
                Ok(answer) => return answer,
                Err(db::Error::SchemaChanged) => {}
                Err(error) => {
                    // Another file may be in its place the next time.
                    self.examiner = None;
                    return Answer::Failed(error.to_string().chars().take(500).collect());
                }
            }
        }
        Answer::Changed
    }

    fn try_to(&mut self, ask: &Ask) -> Result<Answer, db::Error> {
        let Answering { setup, examiner, subject, .. } = self;
        let examiner = match examiner {
            Some(examiner) => examiner,
            None => examiner.insert(Examiner::open(&setup.config.db_path)?),
        };
        let most = match setup.js.connection().max_payload() {
            0 => LIST_BYTES,
            max => LIST_BYTES.min(max / 2),
        };
        Ok(match ask {
            Ask::Hello => Answer::Hello(hello(setup, examiner, subject)?),
            Ask::Tables(after) => page(examiner.tables()?, after, most),
            Ask::Range(span) => Answer::Range(examiner.range(span)?),
            Ask::List(span, buckets) => Answer::List(examiner.list(span, buckets, most)?),
            Ask::Sights(wanted) => Answer::Sights(examiner.sights(wanted)?),
            Ask::Spoken(Spoken { table, definition, from, generation, rows }) => {
                let mut watch = examiner.watch(table, *definition, rows)?;
                if examiner.generation()? == *generation {
                    let positions = setup.config.streams().into_iter().map(|stream| {
                        let created = examiner.created(&stream)?;
                        let seq = from.get(&stream).copied();
                        Ok((stream, created.zip(seq).map(|(created, seq)| Position { seq, created })))
                    });
                    let positions: Vec<_> = positions.collect::<Result<_, db::Error>>()?;
                    spoken_of(&setup.js, &positions, &mut watch, &setup.stop);
                } else {
                    watch.give_up();
                }
                Answer::Spoken(watch.spoken_of)
            }
            Ask::Publish(wanted, expected) if wanted.keys.len() == expected.len() => {
                let done = examiner.publish_again(wanted, expected)?;
                Answer::Published(
                    done.into_iter().map(|done| done.err().unwrap_or_default().to_owned()).collect(),
                )
            }
            Ask::Publish(..) => Answer::Failed("as many rows as keys are needed".to_owned()),
        })
    }
}

fn hello(setup: &Setup, examiner: &Examiner, subject: &str) -> Result<Hello, db::Error> {
    let Setup { config, board, signals, .. } = setup;
    let why_not = if config.replicate {
        signals.whole().reason().map(|why| format!("it is not whole: {why}")).unwrap_or_default()
    } else {
        "replicate = false: it does not hold what other nodes write".to_owned()
    };
    let mut knows = examiner.known_nodes()?;
    knows.truncate(KNOWN);
    Ok(Hello {
        node: config.node_id,
        subject: subject.to_owned(),
        publishes: config.publish,
        leads: board.is_leader(),
        why_not: why_not.chars().take(500).collect(),
        knows,
    })
}

/// The tables after a name, as many as fit.
fn page(tables: Vec<Described>, after: &str, most: usize) -> Answer {
    let mut bytes = 0;
    let mut rest = tables.into_iter().filter(|table| table.name.as_str() > after).peekable();
    let mut found = vec![];
    while let Some(table) = rest.next_if(|_| bytes < most / 2) {
        bytes += table.name.len() + table.definition.len() + 24;
        found.push(table);
    }
    Answer::Tables(found, rest.peek().is_some())
}
