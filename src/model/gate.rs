//! Where change sets begin and end in a stream. A set that is larger than one message comes in numbered parts, with messages of
//! others between them. It takes effect where its last part stands, all of it; a set whose last part never comes takes none, for
//! its publisher publishes it again. What takes effect depends on the stream alone, so all nodes see the same; no clock of
//! theirs counts. A row that is larger than one message is cut: it comes in parts, too, which are joined again here.

use crate::base::limits;
use crate::model::origin::Origin;
use std::collections::HashMap;

/// The header of a part.
pub const HEADER: &str = "Hl-Set";

/// Where a message stands in the change set of its publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 1.
    pub number: u64,
    /// Another part follows.
    pub more: bool,
    /// It goes on with the payload of this one, which was too large for a message.
    pub cut: bool,
}

/// A message whose payload can go on in the next one.
pub trait Append {
    fn append(&mut self, next: Self);
}

impl Part {
    /// A message that is a whole set. It needs no header.
    pub const WHOLE: Part = Part { number: 1, more: false, cut: false };

    /// The header's value: `1+`, `2+`, `3`; of one that is cut `2&`.
    pub fn header(self) -> Option<String> {
        let end = match self {
            Part { cut: true, .. } => "&",
            Part { more: true, .. } => "+",
            _ => "",
        };
        (self != Part::WHOLE).then(|| format!("{}{end}", self.number))
    }

    /// Reads a header. What is none counts as a whole set, as the messages of those who know no sets do.
    pub fn of_header(value: Option<&str>) -> Part {
        let parse = |text: &str| {
            let cut = text.ends_with('&');
            let digits = text.strip_suffix(['+', '&']);
            let number = digits.unwrap_or(text).parse().ok().filter(|number| *number > 0)?;
            Some(Part { number, more: digits.is_some(), cut })
        };
        value.and_then(parse).unwrap_or(Part::WHOLE)
    }
}

/// A message as it comes out of its stream.
#[derive(Debug)]
pub struct Arrival<T> {
    pub message: T,
    pub seq: u64,
    pub bytes: usize,
    /// When the stream stored it, Unix milliseconds.
    pub time_ms: i64,
    /// Its publisher; `None`: one that knows no sets.
    pub origin: Option<Origin>,
    pub part: Part,
}

/// A set whose last part has not come.
#[derive(Debug)]
struct Open<T> {
    /// Number of the next part.
    next: u64,
    /// Time of the first one, and of the last one.
    begun: i64,
    heard: i64,
    /// Sequence of the first one.
    first: u64,
    parts: Vec<T>,
    /// The last of them goes on in the next one.
    cut: bool,
    bytes: usize,
}

/// The parts of open sets of one stream.
#[derive(Debug)]
pub struct Gate<T> {
    open: HashMap<Origin, Open<T>>,
    bytes: usize,
    /// Sequence and time of the newest message.
    newest: (u64, i64),
}

impl<T> Default for Gate<T> {
    fn default() -> Gate<T> {
        Gate { open: HashMap::new(), bytes: 0, newest: (0, i64::MIN) }
    }
}

impl<T: Append> Open<T> {
    fn add(&mut self, message: T, part: Part) {
        match self.parts.last_mut() {
            Some(last) if self.cut => last.append(message),
            _ => self.parts.push(message),
        }
        self.cut = part.cut;
    }

    /// Whether a part that comes now still belongs to it. Whoever begins anew reads from its first part on, so it must not stay open
    /// for as long as somebody likes.
    fn lives(&self, time_ms: i64) -> bool {
        time_ms.saturating_sub(self.heard) <= limits::SET_SILENCE_MS
            && time_ms.saturating_sub(self.begun) <= limits::SET_LIFE_MS
    }
}

/// What a part takes, its own memory and what stands around it.
fn weight(bytes: usize) -> usize {
    bytes.saturating_add(limits::PART_WEIGHT)
}

impl<T: Append> Gate<T> {
    /// Takes the next message of the stream; returns those that take effect now, in order.
    pub fn pass(&mut self, arrival: Arrival<T>) -> Vec<T> {
        self.newest = (arrival.seq, self.newest.1.max(arrival.time_ms));
        let Some(origin) = arrival.origin else { return vec![arrival.message] };
        match arrival.part {
            Part::WHOLE => {
                // A set that its publisher has given up.
                self.close(origin);
                vec![arrival.message]
            }
            Part { number: 1, .. } => {
                self.close(origin);
                self.open(origin, arrival);
                vec![]
            }
            _ => self.go_on(origin, arrival),
        }
    }

    fn open(&mut self, origin: Origin, arrival: Arrival<T>) {
        let bytes = weight(arrival.bytes);
        // Only somebody who means harm opens so much and leaves it open.
        while self.bytes.saturating_add(bytes) > limits::SETS_OPEN_BYTES
            || self.open.len() >= limits::SETS_OPEN
        {
            let Some(oldest) = self.open.iter().min_by_key(|(_, open)| open.first).map(|(origin, _)| *origin)
            else {
                break;
            };
            self.close(oldest);
        }
        self.bytes += bytes;
        let Arrival { message, seq, time_ms, part, .. } = arrival;
        let (parts, cut) = (vec![message], part.cut);
        let open = Open { next: 2, begun: time_ms, heard: time_ms, first: seq, parts, cut, bytes };
        self.open.insert(origin, open);
    }

    fn go_on(&mut self, origin: Origin, arrival: Arrival<T>) -> Vec<T> {
        let Some(open) = self.open.get_mut(&origin) else { return vec![] };
        let Part { number, more, .. } = arrival.part;
        if number < open.next {
            return vec![]; // It came before.
        }
        let bytes = weight(arrival.bytes);
        let is_too_much = open.bytes.saturating_add(bytes) > limits::SETS_OPEN_BYTES;
        if number > open.next || !open.lives(arrival.time_ms) || is_too_much {
            self.close(origin);
            return vec![];
        }
        open.add(arrival.message, arrival.part);
        if !more {
            return self.close(origin);
        }
        (open.next, open.heard) = (number + 1, arrival.time_ms);
        open.bytes += bytes;
        self.bytes += bytes;
        vec![]
    }

    fn close(&mut self, origin: Origin) -> Vec<T> {
        let Some(open) = self.open.remove(&origin) else { return vec![] };
        self.bytes -= open.bytes;
        open.parts
    }

    /// Sequence of the newest message.
    pub fn newest(&self) -> u64 {
        self.newest.0
    }

    /// The sequence after which somebody must read who knows nothing of open sets. A set that was silent for too long takes no
    /// effect any more, whatever comes.
    pub fn checkpoint(&self) -> u64 {
        let (seq, time_ms) = self.newest;
        let first = self.open.values().filter(|open| open.lives(time_ms)).map(|open| open.first).min();
        first.map_or(seq, |first| first.saturating_sub(1).min(seq))
    }

    /// Forgets everything: the stream is read anew from the checkpoint.
    pub fn clear(&mut self) {
        *self = Gate::default();
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
