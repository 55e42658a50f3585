//! Finding out that another running daemon has another number of shards (`replication_log.shards`): each of the two misses rows
//! of the other, and nothing else shows it.
//!
//! A daemon says its number when it has connected, on a subject of its cluster. One that hears another number says its own, so
//! that both know: at once if it knew of none, else at its next turn, for many daemons must not answer each other without end.
//! Both repeat it now and then while they differ. Daemons that agree are silent; a Go node neither speaks nor
//! listens.

use super::{HELLO_BYTES, Told};
use crate::base::limits;
use crate::config::Config;
use crate::nats::Connection;
use crate::operate::{Board, State};
use serde_json::{Value, json};
use std::time::Instant;

/// What a daemon knows about the numbers of others.
pub struct Shards {
    /// Where daemons tell their numbers.
    pub subject: String,
    ours: u64,
    hello: String,
    /// The connection on which we spoke last.
    epoch: u64,
    spoke: Option<Instant>,
    /// When somebody with another number was last heard, and who.
    heard: Option<Instant>,
    other: u64,
    /// Somebody with another number has not had an answer.
    owes: bool,
    /// The last line about a disagreement.
    told: Told,
}

impl Shards {
    /// Nobody was heard yet. `host`: this machine's name.
    pub fn new(config: &Config, host: &str) -> Shards {
        let ours = config.log.shards;
        Shards {
            subject: format!("{}.shards", config.nats.stream_prefix),
            ours,
            hello: json!({ "node_id": config.node_id, "shards": ours, "host": host }).to_string(),
            epoch: 0,
            spoke: None,
            heard: None,
            other: 0,
            owes: false,
            told: Told::default(),
        }
    }

    /// Says our number if it is time to, and forgets a disagreement of which nothing was heard any more.
    pub fn look(&mut self, connection: &Connection, board: &Board, now: Instant) {
        if connection.is_up() && self.is_to_speak(connection.epoch(), now) {
            // What cannot be said now is said later.
            let _ = connection.publish(&self.subject, &[], self.hello.as_bytes());
        }
        if self.is_settled(now) {
            board.set_disagreement("");
        }
    }

    /// Takes what a daemon said.
    pub fn hear(&mut self, payload: &[u8], board: &Board, now: Instant) {
        let Some((node, other)) = self.disagreement(payload) else { return };
        self.other = node;
        let news = board.set_disagreement(&other);
        self.heard_other(now);
        if news && self.told.may(now) {
            log::error!(
                "replication_log.shards = {} here, and {other}: the two nodes miss rows of each other; give all nodes of the \
                 cluster the same number",
                self.ours
            );
        }
    }

    /// Who has another number, if the payload says so; for people.
    fn disagreement(&self, payload: &[u8]) -> Option<(u64, String)> {
        if payload.len() > HELLO_BYTES {
            return None;
        }
        let value: Value = serde_json::from_slice(payload).ok()?;
        let (node, shards) = (value["node_id"].as_u64()?, value["shards"].as_u64()?);
        let host = value["host"].as_str().unwrap_or_default();
        let host: String = host.chars().filter(|c| !c.is_control()).take(100).collect();
        (shards != self.ours).then(|| (node, format!("node {node} on {host} has {shards}")))
    }

    /// A node has told its state: whoever had another number may have ours now, or stop.
    pub fn heard_state(&mut self, state: &State, board: &Board) {
        let agrees = state.positions.len() as u64 == self.ours;
        if self.heard.is_some() && state.node == self.other && (state.leaves || agrees) {
            (self.heard, self.owes, self.told) = (None, false, Told::default());
            board.set_disagreement("");
        }
    }

    /// True on a new connection, and when somebody with another number waits for an answer: at once if
    /// nobody was known to have another one.
    fn is_to_speak(&mut self, epoch: u64, now: Instant) -> bool {
        let rested =
            self.spoke.is_none_or(|at| now.saturating_duration_since(at) >= limits::PRESENCE_INTERVAL);
        let speak = epoch != self.epoch || (self.owes && rested);
        if speak {
            (self.epoch, self.spoke, self.owes) = (epoch, Some(now), false);
        }
        speak
    }

    fn heard_other(&mut self, now: Instant) {
        if self.heard.is_none() {
            self.spoke = None;
        }
        (self.heard, self.owes) = (Some(now), true);
    }

    /// Whether nobody with another number was heard for some intervals; true once.
    fn is_settled(&mut self, now: Instant) -> bool {
        let settled =
            self.heard.is_some_and(|at| now.saturating_duration_since(at) >= limits::PRESENCE_INTERVAL * 3);
        if settled {
            (self.heard, self.told) = (None, Told::default());
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn shards(number: u64) -> Shards {
        let config = crate::config::tests::with(&format!("[replication_log]\nshards = {number}"));
        Shards::new(&config, "here")
    }

    #[test]
    fn only_another_number_is_a_disagreement() {
        let (one, two) = (shards(1), shards(2));
        assert_eq!(one.disagreement(one.hello.as_bytes()), None);
        assert_eq!(one.disagreement(two.hello.as_bytes()), Some((1, "node 1 on here has 2".to_owned())));
        let odd =
            "{\"node_id\":18446744073709551615,\"shards\":18446744073709551615,\"host\":\"a\\nb\\u001b[2J\"}";
        assert_eq!(
            one.disagreement(odd.as_bytes()).unwrap().1,
            "node 18446744073709551615 on ab[2J has 18446744073709551615"
        );
        for other in ["", "{}", "[]", "{\"node_id\":1}", "{\"node_id\":1,\"shards\":-2}"] {
            assert_eq!(one.disagreement(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn mutants_of_numbers_of_shards_name_somebody_in_a_line_or_nobody() {
        let (one, valid) = (shards(1), [shards(2).hello.into_bytes(), shards(64).hello.into_bytes()]);
        crate::base::mutants::each("numbers of shards", &valid, |mutant| {
            if let Some((_, other)) = one.disagreement(mutant) {
                assert!(!other.contains(char::is_control) && other.chars().count() <= 200, "{other:?}");
            }
        });
    }

    #[test]
    fn those_who_agree_speak_once_a_connection() {
        let (mut shards, start) = (shards(1), Instant::now());
        assert!(shards.is_to_speak(1, start));
        assert!(!shards.is_to_speak(1, start + limits::PRESENCE_INTERVAL * 9));
        assert!(shards.is_to_speak(2, start));
    }

    #[test]
    fn another_number_is_answered_at_once_and_then_now_and_then() {
        let (mut shards, start) = (shards(1), Instant::now());
        assert!(shards.is_to_speak(1, start));
        shards.heard_other(start);
        assert!(shards.is_to_speak(1, start));
        shards.heard_other(start);
        assert!(!shards.is_to_speak(1, start + Duration::from_secs(1)));
        assert!(shards.is_to_speak(1, start + limits::PRESENCE_INTERVAL));
        assert!(!shards.is_to_speak(1, start + limits::PRESENCE_INTERVAL * 2), "the answer was given");
    }

    #[test]
    fn a_disagreement_ends_with_the_daemon_or_its_number() {
        let (mut ours, board, start) = (shards(1), Board::default(), Instant::now());
        let state =
            |node, shards, leaves| State { node, positions: vec![0; shards], leaves, ..State::default() };
        for (state, ends) in [
            (state(1, 2, false), false),
            (state(7, 1, true), false),
            (state(1, 2, true), true),
            (state(1, 1, false), true),
        ] {
            ours.hear(shards(2).hello.as_bytes(), &board, start);
            ours.heard_state(&state, &board);
            assert_eq!(board.disagreement().is_empty(), ends, "{state:?}");
        }
    }

    #[test]
    fn a_disagreement_is_shown_until_nothing_is_heard_of_it() {
        let (mut ours, board, start) = (shards(1), Board::default(), Instant::now());
        ours.hear(shards(2).hello.as_bytes(), &board, start);
        assert_eq!(board.disagreement(), "node 1 on here has 2");
        assert!(!ours.is_settled(start + limits::PRESENCE_INTERVAL * 2));
        assert!(ours.is_settled(start + limits::PRESENCE_INTERVAL * 3));
        assert!(!ours.is_settled(start + limits::PRESENCE_INTERVAL * 4));
    }

    #[test]
    fn a_message_that_is_too_long_is_not_read() {
        let (one, two) = (shards(1), shards(2));
        let padded = |bytes: usize| two.hello.clone() + &" ".repeat(bytes - two.hello.len());
        assert!(one.disagreement(padded(HELLO_BYTES).as_bytes()).is_some());
        assert!(one.disagreement(padded(HELLO_BYTES + 1).as_bytes()).is_none());
    }

    /// All say what they have to say, until nobody has; returns how often somebody spoke.
    fn talk(nodes: &mut [(Shards, Board)], now: Instant) -> usize {
        let mut spoken = 0;
        while let Some(speaker) = nodes.iter_mut().position(|(shards, _)| shards.is_to_speak(1, now)) {
            spoken += 1;
            assert!(spoken <= nodes.len() * 2, "they answer each other without end");
            let hello = nodes[speaker].0.hello.clone();
            for (shards, board) in nodes.iter_mut() {
                shards.hear(hello.as_bytes(), board, now);
            }
        }
        spoken
    }

    #[test]
    fn many_nodes_that_differ_fall_silent() {
        for numbers in [&[1, 1, 2, 2][..], &[1, 1, 1, 2], &[1, 2, 3], &[1, 2, 3, 4]] {
            let node = |(id, number): (usize, &u64)| {
                let text = format!("node_id = {id}\n[replication_log]\nshards = {number}");
                let config = crate::config::tests::only(&text);
                (Shards::new(&config, &format!("host-{id}")), Board::default())
            };
            let mut nodes: Vec<(Shards, Board)> = numbers.iter().enumerate().map(node).collect();
            let start = Instant::now();
            talk(&mut nodes, start);
            assert!(nodes.iter().all(|(_, board)| !board.disagreement().is_empty()), "{numbers:?}: all know");
            assert_eq!(talk(&mut nodes, start), 0);
            assert!((1..=4).contains(&talk(&mut nodes, start + limits::PRESENCE_INTERVAL)), "{numbers:?}");
        }
    }
}
