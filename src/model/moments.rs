//! When a stream stored some of the messages that were read from it. A stream that lost its newest messages gives their sequences
//! again, to other messages; the time of storing tells one from the other.

use std::fmt;

/// Sequences and times (Unix milliseconds by the server's clock), the newest first. The farther back, the fewer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moments(Vec<(u64, i64)>);

impl Moments {
    /// Notes a message that was read after all others.
    pub fn push(&mut self, seq: u64, time_ms: i64) {
        self.cut(seq.saturating_sub(1));
        let mut kept = vec![(seq, time_ms)];
        for (at, pair) in self.0.iter().enumerate() {
            // Of all that are about as far back, the oldest one: it will be the one that is farther back.
            let distance = |pair: &(u64, i64)| (seq - pair.0).ilog2();
            let older = self.0.get(at + 1);
            if older.is_none_or(|older| distance(older) > distance(pair)) {
                kept.push(*pair);
            }
        }
        self.0 = kept;
    }

    /// Forgets what comes after `seq`.
    pub fn cut(&mut self, seq: u64) {
        self.0.retain(|(known, _)| *known <= seq);
    }

    /// All of them.
    pub fn pairs(&self) -> &[(u64, i64)] {
        &self.0
    }

    /// Up to where a stream is what it was, if the newest of these messages is gone and its sequence is another one's by now, or will be.
    /// `None`: it is still there, or nothing tells. The stream holds messages from `first` to `last`; `stored` asks for the time of one.
    pub fn lost_after<E>(
        &self,
        (first, last): (u64, u64),
        mut stored: impl FnMut(u64) -> Result<Option<i64>, E>,
    ) -> Result<Option<u64>, E> {
        for (at, (seq, time_ms)) in self.0.iter().enumerate() {
            if *seq < first {
                // It was removed because it is old, as all before it.
                return Ok((at > 0).then_some(first - 1));
            }
            if *seq <= last && stored(*seq)? == Some(*time_ms) {
                return Ok((at > 0).then_some(*seq));
            }
        }
        Ok((!self.0.is_empty()).then_some(first.saturating_sub(1)))
    }

    /// Reads what `to_string` has written; what is no pair is left out.
    pub fn parse(text: &str) -> Moments {
        let pair = |text: &str| {
            let (seq, time) = text.split_once(':')?;
            Some((seq.parse().ok()?, time.parse().ok()?))
        };
        let mut pairs: Vec<(u64, i64)> = text.split(' ').filter_map(pair).collect();
        pairs.sort_unstable_by_key(|(seq, _)| std::cmp::Reverse(*seq));
        pairs.dedup_by_key(|(seq, _)| *seq);
        Moments(pairs)
    }
}

impl fmt::Display for Moments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self.0.iter().map(|(seq, time)| format!("{seq}:{time}")).collect();
        f.write_str(&pairs.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_reach_far_back_and_stay_few() {
        let mut moments = Moments::default();
        for seq in 1..=100_000 {
            moments.push(seq, i64::try_from(seq).unwrap() * 10);
            assert!(moments.pairs().len() <= 20, "{moments}");
        }
        let pairs = moments.pairs();
        assert_eq!(pairs[0], (100_000, 1_000_000));
        assert!(pairs.iter().all(|(seq, time)| *time == i64::try_from(*seq).unwrap() * 10));
        // From any point back, the next one is at most about twice as far.
        for pair in pairs.windows(2) {
            let (near, far) = (100_000 - pair[0].0, 100_000 - pair[1].0);
            assert!(far <= near.max(1) * 4, "{moments}");
        }
        assert!(pairs.last().unwrap().0 <= 50_000, "{moments}");
    }

    #[test]
    fn text_and_back() {
        let mut moments = Moments::default();
        for (seq, time) in [(1, 5), (9, 6), (12, -7)] {
            moments.push(seq, time);
        }
        assert_eq!(Moments::parse(&moments.to_string()), moments);
        assert_eq!(Moments::parse(" x 3: 4:5 :6 4:9 7:1").pairs(), [(7, 1), (4, 5)]);
    }

    #[test]
    fn a_sequence_that_comes_again_replaces_what_came_after_it() {
        let mut moments = Moments::parse("9:90 8:80 4:40");
        moments.push(8, 85);
        assert_eq!(moments.pairs(), [(8, 85), (4, 40)]);
        moments.cut(7);
        assert_eq!(moments.pairs(), [(4, 40)]);
    }

    #[test]
    fn a_tail_that_was_lost_is_noticed_even_if_another_one_has_grown() {
        let known = Moments::parse("9:90 8:80 6:60 2:20");
        let look = |first, last, times: &dyn Fn(u64) -> i64| {
            known.lost_after::<()>((first, last), |seq| Ok(Some(times(seq)))).unwrap()
        };
        let as_it_was = |seq: u64| i64::try_from(seq).unwrap() * 10;
        assert_eq!(look(1, 9, &as_it_was), None);
        assert_eq!(look(1, 100, &as_it_was), None);
        assert_eq!(look(10, 100, &as_it_was), None, "too old to tell");
        assert_eq!(look(1, 7, &as_it_was), Some(6));
        let anew_from = |lost: u64| move |seq: u64| as_it_was(seq) + i64::from(seq >= lost);
        assert_eq!(look(1, 100, &anew_from(9)), Some(8));
        assert_eq!(look(1, 100, &anew_from(7)), Some(6));
        assert_eq!(look(1, 100, &anew_from(1)), Some(0));
        assert_eq!(look(4, 100, &anew_from(5)), Some(3));
        assert_eq!(Moments::default().lost_after::<()>((0, 0), |_| Ok(None)), Ok(None));
    }
}
