//! Mutants: valid bytes, changed at random, for every decoder of what comes from outside. `HARMONYLITE_MUTANTS` sets how many
//! of each kind (5000), `HARMONYLITE_SEED` the seed of the first; the next ones follow it.

use std::time::{Duration, Instant};

/// Numbers at which decoders count wrong.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0xffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
/// A decoder that takes longer for one mutant has no bound; the machine may be busy with other tests.
const LONGEST: Duration = Duration::from_secs(10);

/// The changes of one mutant. The same seed makes the same mutant.
pub struct Mutator(u64);

impl Mutator {
    pub fn new(seed: u64) -> Mutator {
        Mutator(seed)
    }

    /// `SplitMix64`.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 for 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }

    /// A range of at most `longest` bytes.
    fn range(&mut self, length: usize, longest: usize) -> std::ops::Range<usize> {
        let from = self.below(length + 1);
        from..from + self.below((length - from).min(longest) + 1)
    }

    fn number(&mut self) -> u64 {
        if self.below(2) == 0 { *self.pick(&EDGES) } else { self.next() >> self.below(64) }
    }

    /// One of `valid` with one to four changes.
    pub fn mutant(&mut self, valid: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.pick(valid).clone();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, valid);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, valid: &[Vec<u8>]) {
        let length = bytes.len();
        let at = self.below(length);
        match self.below(10) {
            0..=2 if length > 0 => bytes[at] ^= 1 << self.below(8),
            3 if length > 0 => bytes[at] = self.next() as u8,
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(self.range(length, 64))),
            // A piece again at another place.
            6 => {
                let piece = bytes[self.range(length, 256)].to_vec();
                bytes.splice(at..at, piece);
            }
            // A piece of another one.
            7 => {
                let other = self.pick(valid).clone();
                let piece = other[self.range(other.len(), 256)].to_vec();
                let range = self.range(length, piece.len());
                bytes.splice(range, piece);
            }
            // A number in binary, and one in digits.
            8 => {
                let number = self.number().to_be_bytes();
                let end = length.min(at + 8);
                bytes[at..end].copy_from_slice(&number[8 - (end - at)..]);
            }
            _ => {
                let end =
                    bytes[at..].iter().position(|byte| !byte.is_ascii_digit()).map_or(length, |n| at + n);
                bytes.splice(at..end, self.number().to_string().into_bytes());
            }
        }
    }
}

fn setting(name: &str, default: impl FnOnce() -> u64) -> u64 {
    std::env::var(name).ok().map_or_else(default, |text| text.parse().expect(name))
}

/// Tells how to repeat a mutant that broke something.
struct Told<'a>(&'a str, u64);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}: repeat with HARMONYLITE_MUTANTS=1 HARMONYLITE_SEED={}", self.0, self.1);
        }
    }
}

/// Gives `check` as many seeds as are wanted; each must be done in bounded time.
pub fn each_seed(what: &str, mut check: impl FnMut(&mut Mutator)) {
    let count = setting("HARMONYLITE_MUTANTS", || 5_000);
    let first = setting("HARMONYLITE_SEED", || u64::from_le_bytes(super::random::random_bytes()) >> 16);
    println!("{count} mutants of {what} from HARMONYLITE_SEED={first}");
    for seed in first..first.saturating_add(count) {
        let (_told, begun) = (Told(what, seed), Instant::now());
        check(&mut Mutator::new(seed));
        assert!(begun.elapsed() < LONGEST, "{what}: {:?}", begun.elapsed());
    }
}

/// Gives `check` mutants of valid bytes.
pub fn each(what: &str, valid: &[Vec<u8>], mut check: impl FnMut(&[u8])) {
    each_seed(what, |mutator| check(&mutator.mutant(valid)));
}

#[test]
fn mutants_differ_and_repeat() {
    let valid = vec![b"{\"a\": 123}".to_vec(), (0..=255).collect()];
    let made = |seed| Mutator::new(seed).mutant(&valid);
    let changed = (0..1_000).filter(|seed| !valid.contains(&made(*seed))).count();
    assert!(changed > 900, "{changed} of 1000 are changed");
    assert!((0..100).all(|seed| made(seed) == made(seed)));
    // Nothing to change is no trouble.
    each("nothing", &[vec![]], |_| {});
}
