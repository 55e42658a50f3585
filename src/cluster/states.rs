//! Nodes tell each other how they are: version, positions, what waits. Status and page are made of it.
//!
//! Each node speaks seldom: the more nodes there are, the seldomer, so that all together cost each of them a few bytes a
//! second. When somebody looks at one node, it asks the others, and all speak at once. A node of an earlier version
//! neither speaks nor answers.

use super::HELLO_BYTES;
use crate::base::{limits, random};
use crate::nats::Connection;
use crate::operate::{Fleet, State};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Characters of a text of another node that are kept.
const TEXT: usize = 64;

/// What this node has said, and when.
pub struct States {
    /// Where nodes tell their states.
    pub subject: String,
    /// Where they are asked to.
    pub ask_subject: String,
    /// By this random text we know our own messages.
    me: String,
    /// The connection on which we spoke last.
    epoch: u64,
    spoke: Option<Instant>,
    said: Option<(bool, bool, u64, i64, bool)>,
    asked: Option<Instant>,
    /// Somebody has asked.
    pub owes: bool,
}

impl States {
    /// Nothing was said yet.
    pub fn new(stream_prefix: &str) -> States {
        States {
            subject: format!("{stream_prefix}.state"),
            ask_subject: format!("{stream_prefix}.state.ask"),
            me: format!("{:08x}", random::random_u32()),
            epoch: 0,
            spoke: None,
            said: None,
            asked: None,
            owes: false,
        }
    }

    /// Tells our state if it is time to.
    pub fn speak(&mut self, connection: &Connection, fleet: &Fleet, state: &State, now: Instant) {
        if connection.epoch() != self.epoch {
            fleet.forget_questions();
        }
        if connection.is_up() && self.is_to_speak(connection.epoch(), state, fleet.len(), now) {
            let _ = connection.publish(&self.subject, &[], encode(&self.me, state).as_bytes());
        }
    }

    /// Asks the others while somebody looks, or for another reason; true when it did.
    pub fn ask(&mut self, connection: &Connection, fleet: &Fleet, also: bool, now: Instant) -> bool {
        let rested = self.asked.is_none_or(|at| elapsed(at, now) >= limits::state_questions(fleet.len()));
        if !connection.is_up() || !rested || !(also || fleet.is_looked_at(now)) {
            return false;
        }
        self.asked = Some(now);
        let asked = connection.publish(&self.ask_subject, &[], self.me.as_bytes()).is_ok();
        if asked {
            fleet.asked(now);
        }
        asked
    }

    /// What a node said; `None`: we ourselves, or nothing that is a state.
    pub fn read(&self, payload: &[u8]) -> Option<State> {
        decode(&self.me, payload)
    }

    /// Somebody asks, perhaps we ourselves.
    pub fn hear_question(&mut self, payload: &[u8]) {
        self.owes = self.owes || payload != self.me.as_bytes();
    }

    /// True on a new connection, when the time has come, when something has changed that others should know, and when somebody
    /// has asked; the last two not too often.
    fn is_to_speak(&mut self, epoch: u64, state: &State, nodes: usize, now: Instant) -> bool {
        let rested = |pause: Duration| self.spoke.is_none_or(|at| elapsed(at, now) >= pause);
        let speak = epoch != self.epoch
            || rested(limits::state_interval(nodes))
            || (self.owes && rested(limits::STATE_ANSWERS))
            || (self.said != Some(state.gist()) && (state.leaves || rested(limits::STATE_CHANGES)));
        if speak {
            (self.epoch, self.spoke, self.owes) = (epoch, Some(now), false);
            self.said = Some(state.gist());
        }
        speak
    }
}

fn elapsed(since: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(since)
}

/// Short names, and nothing that has its usual value: each node gets this from all others.
fn encode(me: &str, state: &State) -> String {
    let mut value = json!({
        "id": me,
        "n": state.node,
        "v": state.version,
        "p": state.positions,
    });
    let mut put = |name: &str, unusual: bool, what: Value| {
        if unusual {
            value[name] = what;
        }
    };
    put("h", !state.host.is_empty(), cut(&state.host).into());
    put("g", !state.generation.is_empty(), state.generation.clone().into());
    put("e", state.ends != state.positions, json!(state.ends));
    put("w", state.pending > 0, state.pending.into());
    put("l", state.leader, 1.into());
    put("quiet", !state.publishes, 1.into());
    put("deaf", !state.replicates, 1.into());
    put("part", !state.whole, 1.into());
    put("bad", state.problems > 0, state.problems.into());
    put("a", state.set_aside > 0, state.set_aside.into());
    put("c", state.conflicts > 0, state.conflicts.into());
    put("s", state.stored_ms > 0, state.stored_ms.into());
    put("t", state.proven_ms > 0, state.proven_ms.into());
    put("bye", state.leaves, 1.into());
    value.to_string()
}

/// `None`: our own, or no state.
fn decode(me: &str, payload: &[u8]) -> Option<State> {
    if payload.len() > HELLO_BYTES {
        return None;
    }
    let value: Value = serde_json::from_slice(payload).ok()?;
    if value["id"].as_str()? == me {
        return None;
    }
    let text = |name: &str| value[name].as_str().map(cut).unwrap_or_default();
    let number = |name: &str| value[name].as_u64().unwrap_or(0);
    let list = |name: &str| -> Option<Vec<u64>> {
        let numbers = value[name].as_array()?.iter().take(limits::SHARDS);
        numbers.map(Value::as_u64).collect()
    };
    let positions = list("p")?;
    let ends = list("e").filter(|ends| ends.len() == positions.len()).unwrap_or_else(|| positions.clone());
    Some(State {
        node: value["n"].as_u64()?,
        host: text("h"),
        version: text("v"),
        generation: text("g"),
        ends,
        positions,
        pending: number("w"),
        leader: number("l") > 0,
        publishes: number("quiet") == 0,
        replicates: number("deaf") == 0,
        whole: number("part") == 0,
        problems: number("bad"),
        set_aside: number("a"),
        conflicts: number("c"),
        stored_ms: value["s"].as_i64().unwrap_or(0),
        proven_ms: value["t"].as_i64().unwrap_or(0),
        leaves: number("bye") > 0,
    })
}

/// The beginning of a text, without what a terminal would obey.
fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual() -> State {
        State {
            node: 7,
            host: "edge-7".into(),
            version: "0.1.0".into(),
            generation: "0123abcd".into(),
            positions: vec![1_234_567],
            ends: vec![1_234_567],
            publishes: true,
            replicates: true,
            whole: true,
            ..State::default()
        }
    }

    #[test]
    fn what_was_said_is_heard() {
        let unusual = State {
            positions: vec![5, 6],
            ends: vec![9, 9],
            pending: 3,
            leader: true,
            publishes: false,
            replicates: false,
            whole: false,
            problems: 2,
            set_aside: 1,
            conflicts: 4,
            stored_ms: 17,
            proven_ms: 18,
            leaves: true,
            ..usual()
        };
        for state in [usual(), unusual] {
            let said = encode("me", &state);
            assert_eq!(decode("you", said.as_bytes()), Some(state));
            assert_eq!(decode("me", said.as_bytes()), None);
        }
    }

    /// The price that the documentation names.
    #[test]
    fn all_nodes_together_cost_each_of_them_a_few_bytes_a_second() {
        let said = encode("01234567", &usual());
        assert!(said.len() <= 110, "{} bytes: {said}", said.len());
        // The protocol's line counts, too.
        let message = u32::try_from(said.len()).unwrap() + 50;
        for nodes in [2_u32, 10, 100, 400] {
            let interval = limits::state_interval(nodes as usize).as_secs_f64();
            let a_second = f64::from(message * nodes) / interval;
            assert!(a_second <= 5.5, "{nodes} nodes: {a_second} bytes a second");
        }
    }

    #[test]
    fn mutants_of_states_are_read_in_bounds() {
        let valid =
            [encode("01234567", &usual()).into_bytes(), br#"{"id":"a","n":1,"p":[1,2],"e":[3,4]}"#.to_vec()];
        crate::base::mutants::each("states", &valid, |mutant| {
            if let Some(state) = decode("me", mutant) {
                assert!(!state.host.contains(char::is_control) && state.host.chars().count() <= TEXT);
                assert!(state.positions.len() <= limits::SHARDS && state.ends.len() == state.positions.len());
            }
        });
        assert_eq!(decode("me", &vec![b' '; HELLO_BYTES + 1]), None);
    }

    #[test]
    fn a_node_speaks_on_each_connection_then_seldom_and_soon_when_something_changed() {
        let (mut states, start) = (States::new("x"), Instant::now());
        let interval = limits::state_interval(3);
        let mut state = usual();
        assert!(states.is_to_speak(1, &state, 3, start));
        assert!(!states.is_to_speak(1, &state, 3, start + interval / 2));
        assert!(states.is_to_speak(1, &state, 3, start + interval));
        assert!(states.is_to_speak(2, &state, 3, start + interval));
        let start = start + interval;
        state.leader = true;
        assert!(!states.is_to_speak(2, &state, 3, start + limits::STATE_CHANGES / 2), "not too often");
        assert!(states.is_to_speak(2, &state, 3, start + limits::STATE_CHANGES));
        state.positions = vec![99];
        assert!(!states.is_to_speak(2, &state, 3, start + limits::STATE_CHANGES * 2), "rows are no news");
        state.leaves = true;
        assert!(states.is_to_speak(2, &state, 3, start + limits::STATE_CHANGES), "the last word");
    }

    #[test]
    fn questions_are_answered_but_not_more_than_once_a_second() {
        let (mut states, start) = (States::new("x"), Instant::now());
        assert!(states.is_to_speak(1, &usual(), 3, start));
        states.hear_question(&states.me.clone().into_bytes());
        assert!(!states.is_to_speak(1, &usual(), 3, start + limits::STATE_ANSWERS), "our own question");
        states.hear_question(b"somebody");
        assert!(!states.is_to_speak(1, &usual(), 3, start + limits::STATE_ANSWERS / 2));
        assert!(states.is_to_speak(1, &usual(), 3, start + limits::STATE_ANSWERS));
        assert!(!states.is_to_speak(1, &usual(), 3, start + limits::STATE_ANSWERS * 2), "it was answered");
    }
}
