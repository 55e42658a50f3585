//! A row that is larger than a message of the server is cut into pieces, each a part of its change set.

use crate::model::gate::Part;

/// Bytes of a message that its headers may take.
const HEADERS: usize = 1 << 10;
/// The bits of an attempt's number below the piece's.
const PIECE_SHIFT: u32 = 40;

/// Bytes of a payload that one message carries at most.
pub fn most(max_payload: usize) -> usize {
    max_payload.saturating_sub(HEADERS).max(max_payload / 2).max(1)
}

/// The pieces of a payload, each with its part of the set and its number. `part` is that of the whole.
pub fn pieces(payload: &[u8], most: usize, part: Part) -> impl Iterator<Item = (&[u8], Part, u64)> {
    let count = payload.len().div_ceil(most) as u64;
    (0..).zip(payload.chunks(most)).map(move |(at, piece)| {
        let is_last = at + 1 == count;
        let part = Part { number: part.number + at, more: part.more || !is_last, cut: !is_last };
        (piece, part, at)
    })
}

/// The attempt of a piece: the stream must not take two pieces of one row for one message that came twice.
pub fn attempt(attempt: u64, piece: u64) -> u64 {
    attempt + (piece << PIECE_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_numbered_and_all_but_the_last_one_are_cut() {
        let heads = |bytes: usize, part| -> Vec<_> {
            let payload = vec![7; bytes];
            pieces(&payload, 10, part).map(|(piece, part, _)| (piece.len(), part.header())).collect()
        };
        let head = |bytes: usize, text: &str| (bytes, Some(text.to_owned()));
        assert_eq!(heads(10, Part::WHOLE), [(10, None)]);
        assert_eq!(heads(25, Part::WHOLE), [head(10, "1&"), head(10, "2&"), head(5, "3")]);
        let middle = Part { number: 4, more: true, cut: false };
        assert_eq!(heads(11, middle), [head(10, "4&"), head(1, "5+")]);
    }

    #[test]
    fn no_two_pieces_have_the_same_attempt() {
        let largest = u64::from(u32::MAX) + 1;
        assert!(attempt(largest + 1_000_000, 0) < attempt(1, 1));
        assert!(attempt(largest, 1) < attempt(0, 2));
    }

    #[test]
    fn headers_have_room_beside_a_piece() {
        assert_eq!(most(1 << 20), (1 << 20) - HEADERS);
        assert_eq!((most(1_000), most(0)), (500, 1));
    }
}
