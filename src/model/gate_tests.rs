//! Sets, their parts, and what becomes of them when a part is missing.

use super::*;

const A: Option<Origin> = Some(Origin { node: 1, incarnation: 1 });
const A_BEFORE: Option<Origin> = Some(Origin { node: 1, incarnation: 0 });
const B: Option<Origin> = Some(Origin { node: 2, incarnation: 1 });

/// Sequences; those of joined messages are written after each other.
#[derive(Debug, PartialEq)]
struct Seq(u64);

impl Append for Seq {
    fn append(&mut self, next: Seq) {
        self.0 = self.0 * 10 + next.0;
    }
}

/// A gate, the time, and the last sequence.
struct Stream {
    gate: Gate<Seq>,
    now: i64,
    seq: u64,
}

impl Stream {
    fn new() -> Stream {
        Stream { gate: Gate::default(), now: 1_800_000_000_000, seq: 0 }
    }

    /// The sequences of the messages that take effect when this one comes.
    fn pass(&mut self, origin: Option<Origin>, part: &str) -> Vec<u64> {
        self.pass_bytes(origin, part, 10)
    }

    fn pass_bytes(&mut self, origin: Option<Origin>, part: &str, bytes: usize) -> Vec<u64> {
        self.seq += 1;
        let part = Part::of_header((!part.is_empty()).then_some(part));
        let (seq, time_ms) = (self.seq, self.now);
        let effects = self.gate.pass(Arrival { message: Seq(seq), seq, bytes, time_ms, origin, part });
        effects.into_iter().map(|Seq(seq)| seq).collect()
    }
}

#[test]
fn headers_and_back() {
    for (part, header) in [
        (Part::WHOLE, None),
        (Part { number: 1, more: true, cut: false }, Some("1+")),
        (Part { number: 20, more: true, cut: false }, Some("20+")),
        (Part { number: 20, more: true, cut: true }, Some("20&")),
        (Part { number: 21, more: false, cut: false }, Some("21")),
    ] {
        assert_eq!(part.header().as_deref(), header);
        assert_eq!(Part::of_header(header), part);
    }
    for other in ["", "+", "0", "0+", "-1", "1++", "1&+", "1+&", "&", "x", "99999999999999999999+"] {
        assert_eq!(Part::of_header(Some(other)), Part::WHOLE, "{other}");
    }
}

#[test]
fn a_set_takes_effect_where_its_last_part_stands() {
    let mut stream = Stream::new();
    assert_eq!(stream.pass(A, ""), [1]);
    assert!(stream.pass(A, "1+").is_empty());
    assert_eq!(stream.pass(B, ""), [3], "others do not wait");
    assert_eq!(stream.pass(None, ""), [4]);
    assert!(stream.pass(B, "1+").is_empty() && stream.pass(A, "2+").is_empty());
    assert_eq!(stream.gate.checkpoint(), 1, "before the first part of the oldest open set");
    assert_eq!(stream.pass(A, "3"), [2, 6, 7]);
    assert_eq!(stream.gate.checkpoint(), 4);
    assert_eq!(stream.pass(B, "2"), [5, 8]);
    assert_eq!((stream.gate.checkpoint(), stream.gate.newest(), stream.gate.bytes), (8, 8, 0));
}

#[test]
fn a_payload_that_is_cut_is_joined_again() {
    let mut stream = Stream::new();
    assert!(stream.pass(A, "1&").is_empty());
    assert_eq!(stream.pass(B, ""), [2]);
    assert!(stream.pass(A, "2&").is_empty());
    assert!(stream.pass(A, "2&").is_empty(), "twice");
    assert_eq!(stream.pass(A, "3"), [135], "the rest ends the set");
    for part in ["1+", "2&", "3+"] {
        assert!(stream.pass(A, part).is_empty());
    }
    assert_eq!(stream.pass(A, "4"), [6, 78, 9], "in the middle of a set");
    stream.pass(A, "1&");
    assert!(stream.pass(A, "3").is_empty(), "a piece is missing");
}

#[test]
fn a_set_with_a_missing_part_takes_no_effect() {
    let mut stream = Stream::new();
    stream.pass(A, "1+");
    assert!(stream.pass(A, "3+").is_empty());
    assert!(stream.pass(A, "4").is_empty(), "the second is missing");
    assert_eq!(stream.gate.checkpoint(), 3, "and nobody waits for it");
    assert!(stream.pass(A, "2").is_empty(), "the rest of a set whose beginning nobody has seen");
    stream.pass(A, "1+");
    assert!(stream.pass(A_BEFORE, "2").is_empty(), "of another incarnation");
    assert!(stream.pass(A, "1+").is_empty(), "begun anew");
    assert!(stream.pass(A, "1+").is_empty());
    assert_eq!(stream.pass(A, "2"), [8, 9]);
    stream.pass(A, "1+");
    assert_eq!(stream.pass(A, ""), [11], "given up");
    assert!(stream.pass(A, "2").is_empty());
}

#[test]
fn a_part_that_comes_twice_counts_once() {
    let mut stream = Stream::new();
    stream.pass(A, "1+");
    stream.pass(A, "2+");
    assert!(stream.pass(A, "2+").is_empty());
    assert_eq!(stream.pass(A, "3"), [1, 2, 4]);
    assert!(stream.pass(A, "3").is_empty());
}

#[test]
fn a_set_whose_publisher_was_silent_for_too_long_takes_no_effect() {
    let mut stream = Stream::new();
    stream.pass(A, "1+");
    stream.now += limits::SET_SILENCE_MS;
    stream.pass(A, "2+");
    assert_eq!(stream.gate.checkpoint(), 0);
    stream.now += limits::SET_SILENCE_MS + 1;
    assert_eq!(stream.pass(B, ""), [3]);
    assert_eq!(stream.gate.checkpoint(), 3, "it holds nothing back");
    assert!(stream.pass(A, "3").is_empty());
}

/// Somebody sends a part now and then: the set is over in the end, and nobody has to begin before it any more.
#[test]
fn a_set_does_not_stay_open_for_as_long_as_its_publisher_likes() {
    let mut stream = Stream::new();
    assert!(stream.pass(A, "1+").is_empty());
    let begun = stream.now;
    for number in 2.. {
        stream.now += limits::SET_SILENCE_MS - 1_000;
        if stream.now - begun > limits::SET_LIFE_MS {
            break;
        }
        assert!(stream.pass(A, &format!("{number}+")).is_empty());
        assert_eq!(stream.gate.checkpoint(), 0);
    }
    stream.pass(B, "");
    assert_eq!(stream.gate.checkpoint(), stream.seq);
    // What it ends with takes no effect, and its next set does.
    let last = stream.gate.open[&A.unwrap()].next;
    assert!(stream.pass(A, &last.to_string()).is_empty());
    assert_eq!(stream.pass(A, "").len(), 1);
}

#[test]
fn many_sets_of_many_names_take_bounded_room_and_time() {
    let mut stream = Stream::new();
    for node in 0..50_000 {
        stream.pass(Some(Origin { node, incarnation: 3 }), "1+");
    }
    assert_eq!(stream.gate.open.len(), limits::SETS_OPEN);
    let part = |number: u64| format!("{number}+");
    stream.pass(A, "1+");
    let fit = limits::SETS_OPEN_BYTES / (limits::PART_WEIGHT + 10);
    for number in 2..400_000 {
        stream.pass(A, &part(number));
    }
    assert!(stream.gate.open.values().all(|open| open.parts.len() <= fit));
    assert!(stream.gate.bytes <= limits::SETS_OPEN_BYTES);
}

#[test]
fn what_somebody_opens_and_leaves_open_takes_bounded_room() {
    let mut stream = Stream::new();
    for node in 0..100 {
        let origin = Some(Origin { node, incarnation: 5 });
        stream.pass_bytes(origin, "1+", limits::SETS_OPEN_BYTES / 10);
        stream.pass_bytes(origin, "2+", limits::SETS_OPEN_BYTES / 10);
        assert!(stream.gate.bytes <= limits::SETS_OPEN_BYTES + limits::SETS_OPEN_BYTES / 10);
    }
    stream.pass(A, "1+");
    assert_eq!(stream.pass(A, "2"), [201, 202]);
}

/// Which rule a reader does not keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    No,
    /// A part takes effect where it stands.
    Last,
    /// A part that is missing is not noticed.
    Order,
    /// A first part, or a whole set, does not end the one that is open.
    Anew,
    /// Silence does not end a set.
    Silence,
    /// Who begins anew begins after the newest message.
    Checkpoint,
}

type Messages = Vec<(Option<Origin>, Part, i64)>;

/// Three publishers whose parts are missing now and then, come twice or late, or are given up.
fn random_stream(random: &mut crate::base::mutants::Mutator) -> Messages {
    let (mut parts, mut now) = ([0_u64; 3], 0);
    let message = |_| {
        let node = random.below(3);
        let more = random.below(3) > 0;
        let number = (parts[node] + [1, 1, 1, 1, 1, 1, 1, 2, 0][random.below(9)]).max(1);
        let number = if random.below(12) == 0 { 1 } else { number };
        parts[node] = if more { number } else { 0 };
        now += [1, 1, 1, 10, limits::SET_SILENCE_MS * 2 / 3][random.below(5)];
        (Some(Origin { node: node as u64, incarnation: 0 }), Part { number, more, cut: false }, now)
    };
    (0..60).map(message).collect()
}

/// What takes effect where a message stands, by looking back from it.
fn effect_at(messages: &Messages, at: usize) -> Vec<u64> {
    let (origin, last, _) = messages[at];
    if last == Part::WHOLE {
        return vec![at as u64 + 1];
    }
    let of_origin = || (0..=at).filter(|at| messages[*at].0 == origin);
    let Some(first) = of_origin().rfind(|at| messages[*at].1.number == 1) else { return vec![] };
    let mut set = vec![];
    let mut heard = messages[first].2;
    for at in of_origin().filter(|at| *at >= first) {
        let (_, part, time) = messages[at];
        let expected = set.len() as u64 + 1;
        if part.number < expected {
            continue;
        }
        let closed = set.last().is_some_and(|seq: &u64| !messages[*seq as usize - 1].1.more);
        if part.number > expected || closed || time - heard > limits::SET_SILENCE_MS {
            return vec![];
        }
        heard = time;
        set.push(at as u64 + 1);
    }
    if last.more || set.last() != Some(&(at as u64 + 1)) { vec![] } else { set }
}

/// A reader that keeps all rules but one.
struct Reader {
    gate: Gate<Seq>,
    broken: Broken,
}

impl Reader {
    fn new(broken: Broken) -> Reader {
        Reader { gate: Gate::default(), broken }
    }

    fn pass(&mut self, messages: &Messages, at: usize) -> Vec<u64> {
        let (origin, mut part, mut time_ms) = messages[at];
        let open = origin.and_then(|origin| self.gate.open.get(&origin)).map(|open| open.next);
        match (self.broken, open) {
            (Broken::Last, _) => part = Part::WHOLE,
            (Broken::Order, Some(next)) if part.number > next => part.number = next,
            (Broken::Anew, Some(next)) if part.number == 1 => part.number = next,
            (Broken::Silence, _) => time_ms = 0,
            _ => {}
        }
        let seq = at as u64 + 1;
        let effects = self.gate.pass(Arrival { message: Seq(seq), seq, bytes: 1, time_ms, origin, part });
        effects.into_iter().map(|Seq(seq)| seq).collect()
    }

    /// The sequence after which somebody begins who knows nothing.
    fn checkpoint(&self) -> usize {
        let of_gate =
            if self.broken == Broken::Checkpoint { self.gate.newest() } else { self.gate.checkpoint() };
        of_gate as usize
    }
}

/// Whatever stands in a stream: what takes effect together is one set, whole and in order, and a node that begins again after the
/// checkpoint sees the same take effect afterwards.
fn holds(random: &mut crate::base::mutants::Mutator, broken: Broken) -> Result<(), String> {
    let messages = random_stream(random);
    let mut reader = Reader::new(broken);
    for at in 0..messages.len() {
        let (effect, expected) = (reader.pass(&messages, at), effect_at(&messages, at));
        if effect != expected {
            return Err(format!("at {at} {effect:?} takes effect, not {expected:?}: {messages:?}"));
        }
    }
    let mut reader = Reader::new(broken);
    let until = random.below(messages.len());
    (0..until).for_each(|at| drop(reader.pass(&messages, at)));
    let checkpoint = reader.checkpoint();
    reader.gate.clear();
    for at in checkpoint..messages.len() {
        if reader.pass(&messages, at) != effect_at(&messages, at) && at >= until {
            return Err(format!(
                "begun after {checkpoint}, read before up to {until}, other at {at}: {messages:?}"
            ));
        }
    }
    Ok(())
}

#[test]
fn whole_sets_take_effect_and_who_begins_after_the_checkpoint_misses_nothing() {
    let mut random = crate::base::mutants::Mutator::new(crate::base::random::random_u64());
    for _ in 0..500 {
        if let Err(why) = holds(&mut random, Broken::No) {
            panic!("{why}");
        }
    }
}

/// The property can fail: with any one rule broken some streams show it.
#[test]
fn every_rule_is_needed() {
    for broken in [Broken::Last, Broken::Order, Broken::Anew, Broken::Silence, Broken::Checkpoint] {
        let mut random = crate::base::mutants::Mutator::new(1);
        assert!((0..500).any(|_| holds(&mut random, broken).is_err()), "{broken:?}");
    }
}
