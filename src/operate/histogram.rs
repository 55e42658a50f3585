//! Durations, counted by how long they were.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counts durations up to each of some bounds, and all of them.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [Bound],
    /// One more than there are bounds: the last counts what is longer than all.
    counts: Vec<AtomicU64>,
    microseconds: AtomicU64,
}

/// A bound in seconds, as it is shown, and in microseconds.
pub type Bound = (&'static str, u64);

/// What a network and a small disk take: 5 ms to 30 s.
pub const QUICK: &[Bound] = &[
    ("0.005", 5_000),
    ("0.01", 10_000),
    ("0.025", 25_000),
    ("0.05", 50_000),
    ("0.1", 100_000),
    ("0.25", 250_000),
    ("0.5", 500_000),
    ("1", 1_000_000),
    ("2.5", 2_500_000),
    ("10", 10_000_000),
    ("30", 30_000_000),
];

/// What a whole database takes: 0.1 s to an hour.
pub const LONG: &[Bound] = &[
    ("0.1", 100_000),
    ("0.5", 500_000),
    ("1", 1_000_000),
    ("5", 5_000_000),
    ("15", 15_000_000),
    ("60", 60_000_000),
    ("300", 300_000_000),
    ("900", 900_000_000),
    ("3600", 3_600_000_000),
];

impl Histogram {
    /// With these bounds, from the shortest on.
    pub fn new(bounds: &'static [Bound]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, microseconds: AtomicU64::new(0) }
    }

    /// Something took so long, so many times.
    pub fn add(&self, took: Duration, times: u64) {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = self.bounds.partition_point(|(_, bound)| *bound < microseconds);
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(times, Relaxed);
        }
        self.microseconds.fetch_add(microseconds.saturating_mul(times), Relaxed);
    }

    /// Each bound with the number of durations up to it, `+Inf` last; and the sum of all in seconds.
    pub fn so_far(&self) -> (Vec<(&'static str, u64)>, String) {
        let names = self.bounds.iter().map(|(name, _)| *name).chain(["+Inf"]);
        let mut sum = 0;
        let up_to = |(name, count): (&'static str, &AtomicU64)| {
            sum += count.load(Relaxed);
            (name, sum)
        };
        let counts = names.zip(&self.counts).map(up_to).collect();
        let all = self.microseconds.load(Relaxed);
        (counts, format!("{}.{:06}", all / 1_000_000, all % 1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_counts_in_every_bucket_that_holds_it() {
        let histogram = Histogram::new(&[("0.1", 100_000), ("1", 1_000_000)]);
        for (ms, times) in [(100, 2), (101, 1), (1_000, 1), (5_000, 3)] {
            histogram.add(Duration::from_millis(ms), times);
        }
        let (counts, sum) = histogram.so_far();
        assert_eq!(counts, [("0.1", 2), ("1", 4), ("+Inf", 7)]);
        assert_eq!(sum, "16.301000");
    }

    #[test]
    fn bounds_are_what_their_names_say() {
        for bounds in [QUICK, LONG] {
            assert!(bounds.is_sorted_by_key(|(_, bound)| *bound));
            for (name, bound) in bounds {
                let seconds: f64 = name.parse().unwrap();
                assert!((seconds * 1e6 - f64::from(u32::try_from(*bound).unwrap())).abs() < 0.5, "{name}");
            }
        }
    }
}
