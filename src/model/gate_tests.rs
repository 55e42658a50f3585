//! Sets, their parts, and what becomes of them when a part is missing.

use super::*;

const A: Option<Origin> = Some(Origin { node: 1, incarnation: 1 });
const A_BEFORE: Option<Origin> = Some(Origin { node: 1, incarnation: 0 });
const B: Option<Origin> = Some(Origin { node: 2, incarnation: 1 });

/// A gate, the time, and the last sequence.
struct Stream {
    gate: Gate<u64>,
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
        self.gate.pass(Arrival { message: seq, seq, bytes, time_ms, origin, part })
    }
}

#[test]
fn headers_and_back() {
    for (part, header) in [
        (Part::WHOLE, None),
        (Part { number: 1, more: true }, Some("1+")),
        (Part { number: 20, more: true }, Some("20+")),
        (Part { number: 21, more: false }, Some("21")),
    ] {
        assert_eq!(part.header().as_deref(), header);
        assert_eq!(Part::of_header(header), part);
    }
    for other in ["", "+", "0", "0+", "-1", "1++", "x", "99999999999999999999+"] {
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

/// Whatever stands in a stream: a node that begins again after the checkpoint sees the same take effect afterwards.
#[test]
fn who_begins_after_the_checkpoint_misses_nothing() {
    let mut random = crate::base::mutants::Mutator::new(crate::base::random::random_u64());
    for _ in 0..300 {
        let mut stream = Stream::new();
        let mut messages = vec![];
        let mut parts = [0_u64; 3];
        for _ in 0..60 {
            let node = random.below(3);
            let more = random.below(3) > 0;
            // Now and then a part is missing, or comes twice.
            let number = (parts[node] + [1, 1, 1, 1, 1, 1, 1, 2, 0][random.below(9)]).max(1);
            parts[node] = if more { number } else { 0 };
            stream.now += [1, 1, 1, 10, limits::SET_SILENCE_MS][random.below(5)];
            messages.push((
                Some(Origin { node: node as u64, incarnation: 0 }),
                Part { number, more },
                stream.now,
            ));
        }
        let pass = |gate: &mut Gate<u64>, at: usize| {
            let (origin, part, time_ms) = messages[at];
            let seq = at as u64 + 1;
            gate.pass(Arrival { message: seq, seq, bytes: 1, time_ms, origin, part })
        };
        let mut gate = Gate::default();
        let effects: Vec<Vec<u64>> = (0..messages.len()).map(|at| pass(&mut gate, at)).collect();
        let mut gate = Gate::default();
        let until = random.below(messages.len());
        (0..until).for_each(|at| drop(pass(&mut gate, at)));
        let checkpoint = gate.checkpoint() as usize;
        gate.clear();
        for (at, effect) in effects.iter().enumerate().skip(checkpoint) {
            let again = pass(&mut gate, at);
            if at >= until {
                assert_eq!(&again, effect, "from {checkpoint} on, begun anew after {until}: {messages:?}");
            }
        }
    }
}
