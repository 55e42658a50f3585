//! Which life of the streams a database follows. When the broker has lost what nodes had read already, positions and databases do not
//! belong together any more, and a new epoch begins: all nodes compare themselves with one of them.

use std::fmt;

/// A number that rises, and a random one that tells apart two epochs which began without knowledge of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch {
    pub number: u64,
    pub id: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.number, self.id)
    }
}

impl Epoch {
    /// Reads what `to_string` has written.
    pub fn parse(text: &str) -> Option<Epoch> {
        let (number, id) = text.split_once('-')?;
        Some(Epoch { number: number.parse().ok()?, id: u64::from_str_radix(id, 16).ok()? })
    }

    /// One that comes after both.
    pub fn after(self, other: Epoch) -> Epoch {
        let number = self.number.max(other.number).saturating_add(1);
        Epoch { number, id: crate::base::random::random_u64() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for epoch in [Epoch::default(), Epoch { number: 3, id: u64::MAX }] {
            assert_eq!(Epoch::parse(&epoch.to_string()), Some(epoch));
        }
        for text in ["", "3", "3-", "-3", "x-1", "3-g", "99999999999999999999-1"] {
            assert_eq!(Epoch::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_next_one_comes_after_both() {
        let (low, high) = (Epoch { number: 2, id: 9 }, Epoch { number: 7, id: 1 });
        assert_eq!((low.after(high).number, high.after(low).number), (8, 8));
        assert_ne!(low.after(high), low.after(high));
    }
}
