//! Finding out that another running daemon has this node's `node_id`: a cloned machine, a copied configuration.
//!
//! Each daemon says now and then, on a subject of its node, that it is there. A daemon that hears another one on its own
//! subject has a namesake. Rows survive that (events carry the database's incarnation), but leases and people take the two
//! for one. The same thread listens for daemons that have another number of shards.

use super::shards::Shards;
use super::states::States;
use super::{HELLO_BYTES, Told};
use crate::base::{error::Error, limits, random, stop::Stop, worker::Workers};
use crate::config::Config;
use crate::nats::Connection;
use crate::operate::status::{host, state};
use crate::operate::{Board, Looker, State, View};
use crossbeam_channel::{bounded, select};
use serde_json::json;
use std::time::{Duration, Instant};

/// Messages that wait to be looked at; one that finds no room comes again.
const QUEUE: usize = 16;
/// States that wait: all nodes of a large cluster answer at once.
const STATES: usize = 256;
/// Characters of a text of another daemon that are shown, and of ours that are sent: together they fit into a message.
const SHOWN: usize = 200;

/// Pause while an answer is owed, or a namesake is there.
const SOON: Duration = Duration::from_millis(100);

/// Starts the thread that speaks and listens.
pub fn start(view: &View, stop: &Stop, workers: &mut Workers) -> Result<(), Error> {
    let (view, stop) = (view.clone(), stop.clone());
    workers.spawn("presence", move || {
        let View { config, connection, board, fleet, lookout, .. } = &view;
        let mut namesakes = Namesakes::new(config, &host());
        let mut shards = Shards::new(config, &host());
        let mut states = States::new(&config.nats.stream_prefix);
        let listen = |subject: &str, places: usize| {
            let (queue, messages) = bounded(places);
            (connection.subscribe(subject, queue), messages)
        };
        let (_namesakes, heard) = listen(&namesakes.subject, QUEUE);
        let (_numbers, numbers) = listen(&shards.subject, QUEUE);
        let (_states, told) = listen(&states.subject, STATES);
        let (_questions, questions) = listen(&states.ask_subject, QUEUE);
        loop {
            namesakes.look(connection, board, Instant::now());
            shards.look(connection, board, Instant::now());
            states.speak(connection, fleet, &state(&view), Instant::now());
            let now = Instant::now();
            let doubts = namesakes.times.heard.is_some() && lookout.is_looked_at(Looker::Program, now);
            if states.ask(connection, fleet, doubts, now) {
                namesakes.times.asked(now);
            }
            select! {
                recv(stop.receiver()) -> _ => {
                    let last = State { leaves: true, problems: 0, whole: true, ..state(&view) };
                    states.speak(connection, fleet, &last, Instant::now());
                    return Ok(());
                }
                recv(heard) -> message => {
                    let Ok(message) = message else { return Ok(()) };
                    namesakes.hear(&message.payload, board, Instant::now());
                }
                recv(numbers) -> message => {
                    let Ok(message) = message else { return Ok(()) };
                    shards.hear(&message.payload, board, Instant::now());
                }
                recv(told) -> message => {
                    let Ok(message) = message else { return Ok(()) };
                    let Some(state) = states.read(&message.payload) else { continue };
                    shards.heard_state(&state, board);
                    if state.node == config.node_id {
                        namesakes.hear_state(&state, board, Instant::now());
                    } else {
                        fleet.heard(state, Instant::now());
                    }
                }
                recv(questions) -> message => {
                    let Ok(message) = message else { return Ok(()) };
                    states.hear_question(&message.payload);
                }
                recv(fleet.woken()) -> _ => {}
                default(if states.owes || namesakes.times.heard.is_some() { SOON } else { Duration::from_secs(1) }) => {}
            }
        }
    })
}

/// What a daemon knows about others with its node id.
struct Namesakes {
    /// Where daemons of this node id speak.
    subject: String,
    node_id: u64,
    /// By this random text we know our own messages.
    me: String,
    hello: String,
    times: Times,
    told: Told,
}

impl Namesakes {
    fn new(config: &Config, host: &str) -> Namesakes {
        let me = format!("{:016x}", random::random_u64());
        let place = format!("{} (process {})", config.db_path.display(), std::process::id());
        Namesakes {
            subject: format!("{}.node.{}", config.nats.stream_prefix, config.node_id),
            node_id: config.node_id,
            hello: json!({ "id": me, "database": shown(&place), "host": shown(host) }).to_string(),
            me,
            times: Times::default(),
            told: Told::default(),
        }
    }

    /// Says that we are there if it is time to, and forgets a namesake of which nothing was heard any more.
    fn look(&mut self, connection: &Connection, board: &Board, now: Instant) {
        if connection.is_up() && self.times.is_to_speak(now) {
            // What cannot be said now is said later.
            let _ = connection.publish(&self.subject, &[], self.hello.as_bytes());
        }
        if self.times.has_gone(now) {
            board.set_namesake("");
        }
    }

    /// Takes what a daemon said, perhaps we ourselves.
    fn hear(&mut self, payload: &[u8], board: &Board, now: Instant) {
        let Some(other) = somebody_else(payload, &self.me) else { return };
        self.times.heard(now);
        self.note(&other, board, now);
    }

    /// A daemon with our number has told its state, perhaps that it stops. Others may still be there then: they are asked.
    fn hear_state(&mut self, state: &State, board: &Board, now: Instant) {
        if state.leaves {
            self.times.left(now);
            return;
        }
        self.times.answered(now);
        if board.namesake().is_empty() {
            self.note(&format!("on {}", state.host), board, now);
        }
    }

    fn note(&mut self, other: &str, board: &Board, now: Instant) {
        if board.set_namesake(other) && self.told.may(now) {
            log::error!(
                "another daemon runs with node_id {}, {other}: give each node a node_id of its own",
                self.node_id
            );
        }
    }
}

/// When we spoke, and when somebody else did.
#[derive(Debug, Default)]
struct Times {
    spoke: Option<Instant>,
    heard: Option<Instant>,
    /// Somebody else answers questions: earlier versions do not.
    answers: bool,
    /// The first question since that was not answered.
    unanswered: Option<Instant>,
}

impl Times {
    /// Whether it is time to say that we are there; it is done, then.
    fn is_to_speak(&mut self, now: Instant) -> bool {
        let speak =
            self.spoke.is_none_or(|at| now.saturating_duration_since(at) >= limits::PRESENCE_INTERVAL);
        if speak {
            self.spoke = Some(now);
        }
        speak
    }

    /// Somebody else spoke. If we knew of nobody, he shall hear of us soon, too. Only then: three namesakes that answer whoever
    /// spoke last would never fall silent.
    fn heard(&mut self, now: Instant) {
        if self.heard.is_none() {
            self.spoke = None;
        }
        self.heard = Some(now);
    }

    /// All nodes were asked.
    fn asked(&mut self, now: Instant) {
        if self.heard.is_some() && self.answers {
            self.unanswered.get_or_insert(now);
        }
    }

    /// Somebody else told its state.
    fn answered(&mut self, now: Instant) {
        *self = Times { heard: Some(now), answers: true, unanswered: None, ..*self };
    }

    /// Somebody else said that it stops.
    fn left(&mut self, now: Instant) {
        if self.heard.is_some() {
            self.unanswered = now.checked_sub(limits::STATE_ANSWER / 2).or(Some(now));
        }
    }

    /// Whether nobody else was heard for some intervals, or answered when asked; true once.
    fn has_gone(&mut self, now: Instant) -> bool {
        let since = |at: Option<Instant>, pause: Duration| {
            at.is_some_and(|at| now.saturating_duration_since(at) >= pause)
        };
        let gone =
            since(self.heard, limits::PRESENCE_INTERVAL * 3) || since(self.unanswered, limits::STATE_ANSWER);
        if gone {
            *self = Times { spoke: self.spoke, ..Times::default() };
        }
        gone
    }
}

/// The beginning of a text, without what a terminal would obey.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

/// Where a message's sender runs, if it is not us.
fn somebody_else(payload: &[u8], me: &str) -> Option<String> {
    if payload.len() > HELLO_BYTES {
        return None;
    }
    let value: serde_json::Value = serde_json::from_slice(payload).ok()?;
    let text = |key: &str| value[key].as_str().map(shown);
    (text("id")? != me)
        .then(|| format!("on {}: {}", text("host").unwrap_or_default(), text("database").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_somebody_else_counts() {
        let hello = br#"{"id":"a","host":"h","database":"/x\n(process 7)"}"#;
        assert_eq!(somebody_else(hello, "a"), None);
        assert_eq!(somebody_else(hello, "b").unwrap(), "on h: /x(process 7)");
        assert_eq!(somebody_else(b"junk", "b"), None);
        assert_eq!(somebody_else(b"{}", "b"), None);
    }

    #[test]
    fn mutants_of_presence_name_somebody_in_a_line_or_nobody() {
        let valid = [
            br#"{"id":"0123456789abcdef","host":"h","database":"/x (process 7)"}"#.to_vec(),
            "{\"id\":\"\u{1b}[2J\",\"host\":\"a\\u0000b\",\"database\":\"x\\n\"}".into(),
        ];
        crate::base::mutants::each("presence", &valid, |mutant| {
            if let Some(other) = somebody_else(mutant, "me") {
                assert!(!other.contains(char::is_control) && other.chars().count() <= 410, "{other:?}");
            }
        });
    }

    #[test]
    fn a_daemon_speaks_at_once_and_then_once_an_interval() {
        let start = Instant::now();
        let mut times = Times::default();
        assert!(times.is_to_speak(start));
        assert!(!times.is_to_speak(start + limits::PRESENCE_INTERVAL / 2));
        assert!(times.is_to_speak(start + limits::PRESENCE_INTERVAL));
    }

    #[test]
    fn the_first_namesake_is_answered_soon_and_forgotten_late() {
        let start = Instant::now();
        let mut times = Times::default();
        assert!(times.is_to_speak(start));
        times.heard(start);
        assert!(times.is_to_speak(start));
        times.heard(start);
        assert!(!times.is_to_speak(start));
        assert!(!times.has_gone(start + limits::PRESENCE_INTERVAL * 2));
        assert!(times.has_gone(start + limits::PRESENCE_INTERVAL * 3));
        assert!(!times.has_gone(start + limits::PRESENCE_INTERVAL * 4), "said once");
    }

    #[test]
    fn a_namesake_that_answered_and_does_not_any_more_is_forgotten_soon() {
        let start = Instant::now();
        let mut times = Times::default();
        times.heard(start);
        times.asked(start);
        assert!(!times.has_gone(start + limits::STATE_ANSWER), "an earlier version never answers");
        times.answered(start);
        times.asked(start);
        times.answered(start);
        assert!(!times.has_gone(start + limits::STATE_ANSWER));
        times.asked(start);
        assert!(
            times.has_gone(start + limits::STATE_ANSWER) && !times.has_gone(start + limits::STATE_ANSWER)
        );
        times.heard(start);
        times.left(start);
        assert!(times.has_gone(start + limits::STATE_ANSWER));
        times.left(start);
        assert!(!times.has_gone(start + limits::STATE_ANSWER), "nobody was there");
    }

    #[test]
    fn a_message_that_is_too_long_is_not_read() {
        let padded = |bytes: usize| {
            let hello = r#"{"id":"a","host":"h"}"#;
            hello.to_owned() + &" ".repeat(bytes - hello.len())
        };
        assert!(somebody_else(padded(HELLO_BYTES).as_bytes(), "b").is_some());
        assert!(somebody_else(padded(HELLO_BYTES + 1).as_bytes(), "b").is_none());
    }

    #[test]
    fn our_own_message_is_short_whatever_the_paths_name() {
        for part in ["x", "\u{1f600}", "\"", "\\"] {
            let mut config = crate::config::tests::with("");
            config.db_path = part.repeat(4_000).into();
            let namesakes = Namesakes::new(&config, &part.repeat(4_000));
            assert!(namesakes.hello.len() <= HELLO_BYTES, "{part}: {} bytes", namesakes.hello.len());
            assert!(somebody_else(namesakes.hello.as_bytes(), "b").is_some());
        }
    }

    /// All say what they have to say, until nobody has; returns how often somebody spoke.
    fn talk(nodes: &mut [(Namesakes, Board)], now: Instant) -> usize {
        let mut spoken = 0;
        while let Some(speaker) = nodes.iter_mut().position(|(node, _)| node.times.is_to_speak(now)) {
            spoken += 1;
            assert!(spoken <= nodes.len() * 2, "they answer each other without end");
            let hello = nodes[speaker].0.hello.clone();
            for (node, board) in nodes.iter_mut() {
                node.hear(hello.as_bytes(), board, now);
            }
        }
        spoken
    }

    #[test]
    fn many_namesakes_fall_silent() {
        for count in 2..=4 {
            let config = crate::config::tests::with("");
            let node = |n| (Namesakes::new(&config, &format!("host-{n}")), Board::default());
            let mut nodes: Vec<(Namesakes, Board)> = (0..count).map(node).collect();
            let start = Instant::now();
            talk(&mut nodes, start);
            assert!(nodes.iter().all(|(_, board)| !board.namesake().is_empty()), "all know");
            assert_eq!(talk(&mut nodes, start), 0);
            assert_eq!(talk(&mut nodes, start + limits::PRESENCE_INTERVAL), count);
        }
    }
}
