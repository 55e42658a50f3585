//! What waits to be sent into one stream, cut into messages and change sets.

use crate::base::limits;
use crate::model::event::Event;
use crate::model::gate::Part;
use std::collections::VecDeque;

/// Rows of one stream that were read and not sent yet.
#[derive(Default)]
pub struct Outbox {
    waiting: VecDeque<Event>,
    bytes: usize,
    /// Parts of the open set that were sent, and their bytes.
    parts: u64,
    sent: usize,
    /// The lowest id in the first of them.
    first: Option<i64>,
    /// It was said that a transaction goes out in pieces: one that writes all the time would say it several times a second.
    told: bool,
}

impl Outbox {
    pub fn push(&mut self, event: Event) {
        self.bytes += event.size();
        self.waiting.push_back(event);
    }

    /// The lowest id that waits.
    pub fn lowest(&self) -> Option<i64> {
        self.waiting.front().map(|event| event.id)
    }

    /// The lowest id of the open set, whose first part is in flight until the last one is stored.
    pub fn first_in_flight(&self) -> Option<i64> {
        self.first
    }

    /// Whether a message can be made. While the set goes on, something is left for its last part.
    pub fn has_message(&self, bounds: Bounds, complete: bool) -> bool {
        if complete { !self.waiting.is_empty() } else { self.waiting.len() > 1 && self.bytes > bounds.bytes }
    }

    /// The rows of the next message, and where it stands in its set.
    pub fn next_message(&mut self, bounds: Bounds, complete: bool) -> (Vec<Event>, Part) {
        let (mut rows, mut bytes) = (vec![], 0);
        while let Some(event) = self.waiting.front() {
            let last_one = self.waiting.len() == 1 && !complete;
            let full = bytes + event.size() > bounds.bytes || rows.len() >= limits::PART_ROWS;
            if !rows.is_empty() && (full || last_one) {
                break;
            }
            bytes += event.size();
            rows.extend(self.waiting.pop_front());
        }
        self.bytes -= bytes;
        let is_last = complete && self.waiting.is_empty();
        let number = self.parts + 1;
        let more = !is_last && number < bounds.parts && self.sent < limits::SET_MESSAGES_BYTES;
        if !is_last && !more && number > 1 && !std::mem::replace(&mut self.told, true) {
            log::info!(
                "a transaction is published in pieces: it has more than {number} messages, or is larger than {} MiB (said once)",
                limits::SET_MESSAGES_BYTES >> 20
            );
        }
        (rows, Part { number, more, cut: false })
    }

    /// Whether the open set may go on after a message of so many bytes.
    pub fn has_room_after(&self, bytes: usize) -> bool {
        self.sent + bytes < limits::SET_MESSAGES_BYTES
    }

    /// Notes that a part goes out; returns what is not in flight any more when it is acknowledged.
    pub fn sent(&mut self, first: i64, bytes: usize, part: Part) -> Vec<i64> {
        if part.more {
            (self.parts, self.sent) = (part.number, self.sent + bytes);
            let begins = *self.first.get_or_insert(first) == first;
            return if begins || part.cut { vec![] } else { vec![first] };
        }
        (self.parts, self.sent) = (0, 0);
        self.first.take().into_iter().chain([first]).collect()
    }
}

/// How large messages and sets may be.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Bytes of rows in a message; 0: one row each.
    pub bytes: usize,
    /// Messages of a set.
    pub parts: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Kind;
    use crate::model::value::Value;

    fn row(id: i64, bytes: usize) -> Event {
        let row = vec![("v".into(), Value::Blob(vec![0; bytes]))];
        Event { node: 1, id, kind: Kind::Insert, table: "t".into(), row, schema_hash: None }
    }

    /// What goes out of rows with these sizes, read in slices: the number of rows of each message with its header.
    fn sent(slices: &[&[usize]], bytes: usize) -> Vec<String> {
        let bounds = Bounds { bytes, parts: 4 };
        let mut outbox = Outbox::default();
        let (mut sent, mut id) = (vec![], 0);
        for (at, slice) in slices.iter().enumerate() {
            for bytes in *slice {
                id += 1;
                outbox.push(row(id, *bytes));
            }
            let complete = at + 1 == slices.len();
            while outbox.has_message(bounds, complete) {
                let (rows, part) = outbox.next_message(bounds, complete);
                outbox.sent(rows[0].id, 1, part);
                sent.push(format!("{}:{}", rows.len(), part.header().unwrap_or_default()));
            }
            assert_eq!(outbox.waiting.iter().map(Event::size).sum::<usize>(), outbox.bytes);
        }
        assert!(outbox.waiting.is_empty() && outbox.parts == 0, "the set is closed");
        sent
    }

    #[test]
    fn a_set_is_one_message_or_numbered_parts_the_last_one_marked() {
        assert_eq!(sent(&[&[10, 10, 10]], 1000), ["3:"]);
        assert_eq!(sent(&[&[10]], 0), ["1:"]);
        assert_eq!(sent(&[&[10, 10, 10]], 0), ["1:1+", "1:2+", "1:3"]);
        assert_eq!(sent(&[&[400, 400, 400, 400, 400]], 1000), ["2:1+", "2:2+", "1:3"]);
        // One row that is larger goes alone.
        assert_eq!(sent(&[&[10, 5000, 10]], 1000), ["1:1+", "1:2+", "1:3"]);
    }

    #[test]
    fn a_set_of_too_many_parts_ends_and_the_next_one_begins() {
        assert_eq!(
            sent(&[&[10; 9]], 0),
            ["1:1+", "1:2+", "1:3+", "1:4", "1:1+", "1:2+", "1:3+", "1:4", "1:"]
        );
    }

    #[test]
    fn a_first_part_is_in_flight_until_the_last_one_is_stored() {
        let mut outbox = Outbox::default();
        let part = |number, more| Part { number, more, cut: false };
        assert!(outbox.sent(5, 10, part(1, true)).is_empty());
        assert_eq!(outbox.sent(7, 10, part(2, true)), [7]);
        assert_eq!(outbox.sent(9, 10, part(3, false)), [5, 9]);
        assert_eq!(outbox.sent(11, 10, Part::WHOLE), [11]);
    }

    #[test]
    fn a_row_that_is_cut_is_in_flight_until_its_last_piece_is_stored() {
        let mut outbox = Outbox::default();
        let part = |number, cut| Part { number, more: true, cut };
        assert!(outbox.sent(5, 10, part(1, true)).is_empty());
        assert!(outbox.sent(5, 10, part(2, false)).is_empty(), "it begins the set");
        assert!(outbox.sent(7, 10, part(3, true)).is_empty());
        assert_eq!(outbox.sent(7, 10, part(4, false)), [7]);
        assert_eq!(outbox.sent(8, 10, Part { number: 5, more: false, cut: false }), [5, 8]);
    }

    #[test]
    fn while_a_set_goes_on_something_is_left_for_its_last_part() {
        assert_eq!(sent(&[&[10, 10], &[]], 0), ["1:1+", "1:2"]);
        assert_eq!(sent(&[&[10], &[], &[10], &[]], 0), ["1:1+", "1:2"]);
        assert_eq!(sent(&[&[600, 600, 600], &[]], 1000), ["1:1+", "1:2+", "1:3"]);
        assert_eq!(sent(&[&[600], &[]], 1000), ["1:"]);
    }
}
