//! The fleet: what the nodes of the cluster have told about themselves, and how far each of them is behind.
//!
//! `cluster::states` fills it; status and page show it. Nobody decides anything by it.

use crate::base::{clock, limits};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Nodes that are remembered: whoever may publish can invent some.
const NODES: usize = 500;
/// Ends of a stream that are remembered, to tell for how long a node has been behind.
const ENDS: usize = 600;
/// A time that lies back is known to one part in so many.
const PRECISION: u32 = 32;
/// Ends that come faster than this count as one.
const END_SPACING: Duration = Duration::from_millis(500);

/// What a node tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub node: u64,
    pub host: String,
    pub version: String,
    /// Which streams the positions count in; empty: not known.
    pub generation: String,
    /// The database's position in each stream, in the order of the shards.
    pub positions: Vec<u64>,
    /// The highest sequence that the node knows of each stream.
    pub ends: Vec<u64>,
    /// Captured changes that have not come back.
    pub pending: u64,
    pub leader: bool,
    pub publishes: bool,
    pub replicates: bool,
    pub whole: bool,
    /// Problems that its health names.
    pub problems: u64,
    pub set_aside: u64,
    pub conflicts: u64,
    /// When it last stored a snapshot, and last proved a restore; Unix milliseconds, 0: never.
    pub stored_ms: i64,
    pub proven_ms: i64,
    /// It is stopping in order.
    pub leaves: bool,
}

impl State {
    /// What others should hear of soon when it changes.
    pub fn gist(&self) -> (bool, bool, u64, i64, bool) {
        (self.leader, self.whole, self.problems, self.stored_ms.max(self.proven_ms), self.leaves)
    }
}

/// Whether a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Alive,
    /// It said that it stops.
    Stopped,
    /// It does not answer, or has not spoken for long.
    Silent,
    /// This node is not connected, and hears nobody.
    Unknown,
}

impl Presence {
    pub fn word(self) -> &'static str {
        match self {
            Presence::Alive => "alive",
            Presence::Stopped => "stopped",
            Presence::Silent => "silent",
            Presence::Unknown => "unknown",
        }
    }
}

/// How far a position is behind the ends of the streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    pub messages: u64,
    /// For how long; 0 when it is level.
    pub seconds: u64,
}

/// A node as it is shown.
#[derive(Clone, Debug)]
pub struct Node {
    pub state: State,
    pub presence: Presence,
    /// When it was last heard, Unix milliseconds by our clock.
    pub heard_ms: i64,
    /// `None`: its positions are not known, or count in other streams than ours.
    pub behind: Option<Behind>,
}

#[derive(Debug)]
struct Peer {
    state: State,
    heard: Instant,
    heard_ms: i64,
    /// The first question that it has not answered.
    unanswered: Option<Instant>,
}

/// The ends that one stream had, the oldest first.
#[derive(Debug, Default)]
struct Ends(VecDeque<(Instant, u64)>);

impl Ends {
    fn note(&mut self, end: u64, now: Instant) {
        match self.0.back_mut() {
            Some((_, last)) if *last >= end => {}
            Some((at, last)) if now.saturating_duration_since(*at) < END_SPACING => *last = end,
            _ => self.0.push_back((now, end)),
        }
        if self.0.len() > ENDS {
            // The longer ago, the less exactly it need be known.
            let mut kept: Option<Instant> = None;
            self.0.retain(|(at, _)| {
                let age = now.saturating_duration_since(*at);
                let keep = kept.is_none_or(|kept| at.saturating_duration_since(kept) * PRECISION >= age);
                kept = if keep { Some(*at) } else { kept };
                keep
            });
        }
    }

    fn last(&self) -> u64 {
        self.0.back().map_or(0, |(_, end)| *end)
    }

    fn behind(&self, position: u64, now: Instant) -> Behind {
        let since = self.0.iter().find(|(_, end)| *end > position).map(|(at, _)| *at);
        Behind {
            messages: self.last().saturating_sub(position),
            seconds: since.map_or(0, |at| now.saturating_duration_since(at).as_secs()),
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    peers: BTreeMap<u64, Peer>,
    ends: Vec<Ends>,
    generation: String,
    /// When somebody last looked.
    looked: Option<Instant>,
}

/// Shared by the thread that listens and those who show.
#[derive(Debug)]
pub struct Fleet {
    known: Mutex<Known>,
    wake: Sender<()>,
    woken: Receiver<()>,
}

impl Default for Fleet {
    fn default() -> Fleet {
        // One place: a wake-up that finds it full has been given already.
        let (wake, woken) = bounded(1);
        Fleet { known: Mutex::default(), wake, woken }
    }
}

impl Fleet {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody looks now, so the nodes are asked how they are.
    pub fn look(&self, now: Instant) {
        self.lock().looked = Some(now);
        let _ = self.wake.try_send(());
    }

    /// A program asks for health: a small cluster is asked, now and then.
    pub fn glance(&self, now: Instant) {
        let mut known = self.lock();
        let rested = known.looked.is_none_or(|at| now.saturating_duration_since(at) >= limits::STATE_GLANCE);
        if rested && known.peers.len() <= limits::STATE_GLANCE_NODES {
            known.looked = Some(now);
            let _ = self.wake.try_send(());
        }
    }

    /// Whether somebody looked a short while ago.
    pub fn is_looked_at(&self, now: Instant) -> bool {
        let looked = self.lock().looked;
        looked.is_some_and(|at| now.saturating_duration_since(at) < limits::STATE_LOOKED)
    }

    /// Gets a token when somebody begins to look.
    pub fn woken(&self) -> &Receiver<()> {
        &self.woken
    }

    /// All nodes were asked.
    pub fn asked(&self, now: Instant) {
        for peer in self.lock().peers.values_mut() {
            peer.unanswered.get_or_insert(now);
        }
    }

    /// The connection is new: what was asked on the old one may have been lost.
    pub fn forget_questions(&self) {
        self.lock().peers.values_mut().for_each(|peer| peer.unanswered = None);
    }

    /// Another node has told its state.
    pub fn heard(&self, state: State, now: Instant) {
        let mut known = self.lock();
        if is_same(&known.generation, &state.generation) {
            for numbers in [&state.ends, &state.positions] {
                known.ends.iter_mut().zip(numbers).for_each(|(ends, end)| ends.note(*end, now));
            }
        }
        if known.peers.len() >= NODES && !known.peers.contains_key(&state.node) {
            let oldest = known.peers.iter().min_by_key(|(_, peer)| peer.heard).map(|(node, _)| *node);
            oldest.map(|node| known.peers.remove(&node));
        }
        let peer = Peer { heard: now, heard_ms: clock::unix_ms(), unanswered: None, state };
        known.peers.insert(peer.state.node, peer);
    }

    /// The highest sequence that is known of a stream of our generation; another generation begins anew.
    pub fn note_end(&self, generation: &str, stream: usize, end: u64) {
        let mut known = self.lock();
        if known.generation != generation {
            generation.clone_into(&mut known.generation);
            known.ends.clear();
        }
        if known.ends.len() <= stream {
            known.ends.resize_with(stream + 1, Ends::default);
        }
        known.ends[stream].note(end, Instant::now());
    }

    /// The highest sequence that is known of a stream.
    pub fn end(&self, stream: usize) -> u64 {
        self.lock().ends.get(stream).map_or(0, Ends::last)
    }

    /// How far positions are behind.
    pub fn behind(&self, positions: &[u64], now: Instant) -> Behind {
        behind(&self.lock(), positions, now)
    }

    /// How many other nodes are known.
    pub fn len(&self) -> usize {
        self.lock().peers.len()
    }

    /// Whether all nodes that are there have spoken since then.
    pub fn is_fresh(&self, since: Instant, now: Instant) -> bool {
        let known = self.lock();
        let count = known.peers.len();
        known
            .peers
            .values()
            .all(|peer| peer.heard >= since || !matches!(presence(peer, count, true, now), Presence::Alive))
    }

    /// All other nodes that were heard of.
    pub fn nodes(&self, connected: bool, now: Instant) -> Vec<Node> {
        let known = self.lock();
        let shown = |peer: &Peer| {
            let ours = is_same(&known.generation, &peer.state.generation);
            let comparable = ours && peer.state.replicates && peer.state.positions.len() == known.ends.len();
            Node {
                state: peer.state.clone(),
                presence: presence(peer, known.peers.len(), connected, now),
                heard_ms: peer.heard_ms,
                behind: comparable.then(|| behind(&known, &peer.state.positions, now)),
            }
        };
        known.peers.values().map(shown).collect()
    }
}

/// Whether positions count in the same streams, as far as that is known.
fn is_same(one: &str, other: &str) -> bool {
    one == other || one.is_empty() || other.is_empty()
}

fn behind(known: &Known, positions: &[u64], now: Instant) -> Behind {
    let mut sum = Behind::default();
    for (ends, position) in known.ends.iter().zip(positions) {
        let of_stream = ends.behind(*position, now);
        sum.messages += of_stream.messages;
        sum.seconds = sum.seconds.max(of_stream.seconds);
    }
    sum
}

fn presence(peer: &Peer, count: usize, connected: bool, now: Instant) -> Presence {
    let since = |at: Instant| now.saturating_duration_since(at);
    if peer.state.leaves {
        Presence::Stopped
    } else if !connected {
        Presence::Unknown
    } else if peer.unanswered.is_some_and(|at| since(at) >= limits::STATE_ANSWER)
        || since(peer.heard) >= limits::state_interval(count) * 3
    {
        Presence::Silent
    } else {
        Presence::Alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(node: u64, positions: &[u64]) -> State {
        State { node, positions: positions.to_vec(), replicates: true, ..State::default() }
    }

    fn words(fleet: &Fleet, now: Instant) -> Vec<&'static str> {
        fleet.nodes(true, now).iter().map(|node| node.presence.word()).collect()
    }

    #[test]
    fn a_node_that_does_not_answer_is_silent_until_it_speaks() {
        let (fleet, start) = (Fleet::default(), Instant::now());
        fleet.heard(state(2, &[]), start);
        fleet.heard(state(3, &[]), start);
        assert_eq!(words(&fleet, start), ["alive", "alive"]);
        fleet.asked(start);
        fleet.heard(state(3, &[]), start);
        let later = start + limits::STATE_ANSWER;
        assert_eq!(words(&fleet, later), ["silent", "alive"]);
        assert!(fleet.is_fresh(start, later), "nobody waits for one that is silent");
        fleet.heard(state(2, &[]), later);
        assert_eq!(words(&fleet, later), ["alive", "alive"]);
        assert_eq!(words(&fleet, later + limits::state_interval(2) * 3), ["silent", "silent"]);
        assert_eq!(fleet.nodes(false, later)[0].presence, Presence::Unknown);
        fleet.heard(State { leaves: true, ..state(2, &[]) }, later);
        assert_eq!(words(&fleet, later), ["stopped", "alive"]);
    }

    #[test]
    fn questions_of_a_lost_connection_make_nobody_silent() {
        let (fleet, start) = (Fleet::default(), Instant::now());
        fleet.heard(state(2, &[]), start);
        fleet.asked(start);
        fleet.forget_questions();
        assert_eq!(words(&fleet, start + limits::STATE_ANSWER), ["alive"]);
    }

    #[test]
    fn a_node_is_behind_by_messages_and_by_the_time_since_it_was_level() {
        let (fleet, start) = (Fleet::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        fleet.note_end("g", 0, 10);
        fleet.note_end("g", 1, 5);
        {
            let mut known = fleet.lock();
            known.ends[0].note(12, at(60));
            known.ends[0].note(20, at(90));
            known.ends[0].note(15, at(95));
        }
        let behind = |positions: &[u64]| {
            let Behind { messages, seconds } = fleet.behind(positions, at(100));
            (messages, seconds)
        };
        assert_eq!(behind(&[20, 5]), (0, 0));
        assert_eq!(behind(&[12, 5]), (8, 10));
        assert_eq!(behind(&[11, 5]), (9, 40));
        assert_eq!(behind(&[20, 4]).0, 1);
        fleet.heard(State { generation: "other".into(), ..state(2, &[1, 1]) }, start);
        fleet.heard(State { generation: "g".into(), ..state(3, &[12, 5]) }, start);
        let nodes = fleet.nodes(true, at(100));
        assert_eq!(nodes[0].behind, None, "its positions count in other streams");
        assert_eq!(nodes[1].behind.unwrap().messages, 8);
        fleet.note_end("anew", 0, 1);
        assert_eq!((fleet.end(0), fleet.end(1)), (1, 0), "sequences of other streams say nothing");
    }

    #[test]
    fn the_ends_of_the_others_count_too() {
        let (fleet, now) = (Fleet::default(), Instant::now());
        fleet.note_end("g", 0, 1);
        fleet.note_end("g", 1, 1);
        let told = State { generation: "g".into(), ends: vec![7, 9], ..state(2, &[6, 3]) };
        fleet.heard(told, now);
        assert_eq!((fleet.end(0), fleet.end(1)), (7, 9));
    }

    #[test]
    fn memory_is_bounded_however_many_nodes_and_ends_there_are() {
        let (fleet, start) = (Fleet::default(), Instant::now());
        for node in 0..2_000 {
            fleet.heard(state(node, &[]), start + Duration::from_millis(node));
        }
        assert_eq!(fleet.len(), NODES);
        assert!(fleet.lock().peers.contains_key(&1_999) && !fleet.lock().peers.contains_key(&0));
        let mut ends = Ends::default();
        for second in 0..10_000 {
            ends.note(second, start + Duration::from_secs(second));
        }
        assert!(ends.0.len() <= ENDS && ends.last() == 9_999);
        let seconds = ends.behind(5_000, start + Duration::from_secs(10_000)).seconds;
        assert!(seconds.abs_diff(5_000) <= 5_000 / 16, "{seconds}");
        let seconds = ends.behind(9_980, start + Duration::from_secs(10_000)).seconds;
        assert!(seconds.abs_diff(20) <= 2, "{seconds}");
    }

    #[test]
    fn somebody_who_looks_wakes_the_one_who_asks() {
        let (fleet, now) = (Fleet::default(), Instant::now());
        assert!(!fleet.is_looked_at(now));
        fleet.look(now);
        fleet.look(now);
        assert!(fleet.woken().try_recv().is_ok() && fleet.woken().try_recv().is_err());
        assert!(fleet.is_looked_at(now) && !fleet.is_looked_at(now + limits::STATE_LOOKED));
    }
}
