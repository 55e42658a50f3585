//! Asking running daemons, several at once.

use super::subject_of_all;
use super::wire::{ANSWER_BYTES, Answer, Ask, Hello};
use crate::base::error::Error;
use crate::base::stop::Stop;
use crate::config::Config;
use crate::nats::{Connection, Message, nuid};
use crossbeam_channel::{Receiver, bounded, select};
use std::time::{Duration, Instant};

/// How long daemons have to say that they are there.
const HELLO_WAIT: Duration = Duration::from_millis(1_500);
/// A daemon that is asked for more has this long, twice.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Daemons that are compared at most.
const NODES: usize = 64;

/// A daemon that answered.
#[derive(Clone, Debug)]
pub struct Peer {
    pub node: u64,
    pub subject: String,
    pub publishes: bool,
    pub leads: bool,
}

/// Where questions are asked and answers come back.
pub struct Caller<'a> {
    config: &'a Config,
    connection: Connection,
    stop: &'a Stop,
    inbox: String,
    answers: Receiver<Message>,
    _subscription: Box<dyn std::any::Any>,
    /// Number of the next question.
    next: u64,
    /// Bytes of questions and answers.
    pub bytes: u64,
}

impl<'a> Caller<'a> {
    pub fn new(config: &'a Config, connection: &Connection, stop: &'a Stop) -> Caller<'a> {
        let inbox = format!("_INBOX.{}", nuid());
        let (queue, answers) = bounded(NODES * 2);
        let subscription = Box::new(connection.subscribe(&format!("{inbox}.*"), queue));
        Caller {
            config,
            connection: connection.clone(),
            stop,
            inbox,
            answers,
            _subscription: subscription,
            next: 0,
            bytes: 0,
        }
    }

    pub fn config(&self) -> &Config {
        self.config
    }

    pub fn stop(&self) -> &Stop {
        self.stop
    }

    /// All daemons that are there, each once, by their nodes' numbers.
    pub fn hello(&mut self) -> Result<Vec<Hello>, Error> {
        let number = self.ask(&subject_of_all(self.config), &Ask::Hello)?;
        let until = Instant::now() + HELLO_WAIT;
        let mut found: Vec<Hello> = vec![];
        while let Some((of, answer)) = self.next_answer(until)? {
            if let Some(Answer::Hello(hello)) = answer
                && of == number
                && found.len() < NODES
                && found.iter().all(|known| known.subject != hello.subject)
            {
                found.push(hello);
            }
        }
        found.sort_by_key(|hello| hello.node);
        Ok(found)
    }

    /// Asks several daemons at once; the answers come in the order of the questions. `None`: no answer, asked twice.
    pub fn ask_all(&mut self, questions: &[(&Peer, Ask)]) -> Result<Vec<Option<Answer>>, Error> {
        let mut answers: Vec<Option<Answer>> = vec![None; questions.len()];
        for _ in 0..2 {
            let mut numbers = vec![None; questions.len()];
            for (place, (peer, ask)) in questions.iter().enumerate() {
                if answers[place].is_none() {
                    numbers[place] = Some(self.ask(&peer.subject, ask)?);
                }
            }
            let until = Instant::now() + ANSWER_WAIT;
            while answers.iter().any(Option::is_none) {
                let Some((of, answer)) = self.next_answer(until)? else { break };
                if let Some(place) = numbers.iter().position(|number| *number == Some(of)) {
                    answers[place] =
                        Some(answer.unwrap_or(Answer::Failed("an unreadable answer".to_owned())));
                }
            }
            if answers.iter().all(Option::is_some) {
                break;
            }
        }
        Ok(answers)
    }

    /// Says something that nobody answers.
    pub fn tell(&self, subject: &str, payload: &[u8]) -> Result<(), Error> {
        Ok(self.connection.publish(subject, &[], payload)?)
    }

    fn ask(&mut self, subject: &str, ask: &Ask) -> Result<u64, Error> {
        self.next += 1;
        let payload = ask.encode();
        self.bytes += payload.len() as u64;
        let reply = format!("{}.{}", self.inbox, self.next);
        self.connection.send(&self.connection.frame(subject, Some(&reply), &[], &payload)?)?;
        Ok(self.next)
    }

    /// The number of a question and its answer; `None`: the time is over. An answer may be unreadable.
    fn next_answer(&mut self, until: Instant) -> Result<Option<(u64, Option<Answer>)>, Error> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let message = select! {
                recv(self.stop.receiver()) -> _ => return Err(Error::stopped()),
                recv(self.answers) -> message => message,
                default(left) => return Ok(None),
            };
            let Ok(message) = message else { return Ok(None) };
            self.bytes += message.payload.len() as u64;
            // The server's own word that nobody listens.
            if message.headers.status.is_some() || message.payload.len() > ANSWER_BYTES {
                continue;
            }
            let number = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
            if let Some(number) = number {
                return Ok(Some((number, Answer::decode(&message.payload))));
            }
        }
    }
}
