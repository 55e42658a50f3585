//! Keys of AUTOINCREMENT tables that nobody else gives: each node inserts into a block of its own, which lies above every block that
//! was claimed before. SQLite gives the key after the highest that the table has had, so a node whose table gets a key above its block
//! goes on in a fresh one. Here is how large blocks are and when a node needs another one; who claims them is elsewhere.

use crate::base::limits;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Keys from `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub first: i64,
    pub last: i64,
}

impl Block {
    fn size(self) -> i64 {
        self.last - self.first + 1
    }

    /// Keys that are left when the next block is to be taken.
    fn reserve(self) -> i64 {
        self.size() / 2
    }

    /// Whether the key that SQLite gives after `highest` is in the block.
    fn serves_after(self, highest: i64) -> bool {
        highest >= self.first - 1 && highest < self.last
    }
}

/// Whether a block that begins there is to be a small one: 2^31 is near, and few keys are left for those who need them to stay below.
pub fn is_tight(first: i64) -> bool {
    (1 << 30..1 << 31).contains(&first)
}

/// A block that is to be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    pub table: Arc<str>,
    /// It must lie above this key.
    pub above: i64,
    pub size: i64,
    /// This node has had blocks of the table: if nobody knows of any, that was forgotten.
    pub had_some: bool,
}

/// One table's keys as this node sees them.
#[derive(Clone, Debug)]
struct Keys {
    block: Option<Block>,
    /// The next one, claimed ahead.
    spare: Option<Block>,
    /// The highest key that the table has had, as far as it is known.
    highest: i64,
    /// Of these, the highest that this node gave.
    given: i64,
    size: i64,
    /// The most that it gave at once lately.
    burst: i64,
    pace: Pace,
}

impl Default for Keys {
    fn default() -> Keys {
        let pace = Pace::default();
        Keys { block: None, spare: None, highest: 0, given: 0, size: limits::BLOCK_FIRST, burst: 0, pace }
    }
}

/// Fewer keys in a second are few.
const SLOW: i64 = 200;
/// As many are many.
const FAST: i64 = 1_000;

/// How many keys a node gives in a second. Until it is noticed that a block is used up and the next one is taken, some pass.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// When the running second began, and keys since then.
    begun: Option<Instant>,
    /// When the last key was given.
    last: Option<Instant>,
    count: i64,
    /// Keys of the second before.
    before: i64,
}

impl Pace {
    fn gave(&mut self, keys: i64, now: Instant) {
        let elapsed = self.begun.map(|begun| now.saturating_duration_since(begun));
        if elapsed.is_none_or(|elapsed| elapsed >= Duration::from_secs(1)) {
            // After a pause, the second before had none.
            let is_next = elapsed.is_some_and(|elapsed| elapsed < Duration::from_secs(2));
            self.before = if is_next { self.count } else { 0 };
            (self.begun, self.count) = (Some(now), 0);
        }
        self.count += keys;
        self.last = Some(now);
    }

    /// Keys of a block that lasts if it goes on as it does; 0: that cannot be told yet. Who inserts fast needs those of most of a
    /// second: on a busy machine the next block is not taken much sooner. From a few keys not too much is concluded.
    fn soon(self) -> i64 {
        let Some(elapsed) =
            self.last.zip(self.begun).map(|(last, begun)| last.saturating_duration_since(begun))
        else {
            return 0;
        };
        let ms = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
        if ms < 10 {
            return 0;
        }
        let rate = self.count.saturating_mul(1_000) / ms;
        let lasts = if rate < SLOW { rate / 4 } else { rate.saturating_mul(3) / 4 };
        lasts.min(self.count.saturating_mul(8))
    }

    /// Keys of a block that lasts long enough, and not much longer. Who inserts fast uses many before the next row of another node
    /// comes, so more of them cost few gaps.
    fn wants(self) -> i64 {
        let wants = match self.count.max(self.before) {
            // Up to so many, nearly each one comes between those of others.
            some @ ..FAST => some * 3 / 4,
            many => many * 2,
        };
        wants.max(self.soon())
    }
}

impl Keys {
    /// Whether this node needs another block: it has none, it is in a foreign one, or its own is nearly used up.
    fn is_due(&self) -> bool {
        self.block.is_none_or(|block| {
            !block.serves_after(self.highest) || block.last - self.highest < block.reserve()
        })
    }

    /// A block in reserve that begins where this node's own ends, with nobody between, makes that one longer: SQLite goes from one to
    /// the other by itself.
    fn join(&mut self) {
        let (Some(block), Some(spare)) = (self.block, self.spare) else { return };
        let joined = Block { first: block.first.max(self.highest + 1), last: spare.last };
        if block.last + 1 == spare.first && joined.serves_after(self.highest) {
            self.resize();
            (self.block, self.spare) = (Some(joined), None);
        }
    }

    fn has_spare(&self) -> bool {
        self.spare.is_some_and(|spare| spare.first > self.highest)
    }

    /// The next block's size follows from what the last one was used for.
    fn resize(&mut self) {
        let Some(block) = self.block else { return };
        let used = (self.given.min(block.last) - block.first + 1).max(0);
        let is_used_up = block.last - self.given < block.reserve();
        let wanted = if is_used_up { self.size * 4 } else { (self.size / 4).max(used * 4) };
        let usual = wanted.max(self.pace.wants()).clamp(limits::BLOCK_LEAST, limits::BLOCK_MOST);
        self.size = usual.max(self.again());
        self.burst /= 2;
    }

    /// Keys of a block in which as many as lately can be given at once, when up to half of it is used. No larger one is taken in time:
    /// a transaction that inserts many rows holds the lock.
    fn again(&self) -> i64 {
        self.burst.saturating_mul(2).min(limits::BLOCK_BURST)
    }

    /// Keys that the next block needs at least, as it looks now.
    fn needs(&self) -> i64 {
        self.pace.soon().min(limits::BLOCK_MOST).max(self.again())
    }
}

/// The keys of all tables that are steered.
#[derive(Debug, Default)]
pub struct Tables(BTreeMap<Arc<str>, Keys>);

impl Tables {
    /// These tables are steered from now on, and no others.
    pub fn set(&mut self, names: &[Arc<str>]) {
        self.0.retain(|name, _| names.contains(name));
        for name in names {
            self.0.entry(name.clone()).or_default();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the database holds.
    pub fn found(&mut self, table: &str, block: Option<Block>, highest: i64) {
        if let Some(keys) = self.0.get_mut(table) {
            keys.block = block;
            keys.given = keys.given.max(highest);
            keys.highest = keys.highest.max(highest);
        }
    }

    /// The application is about to get a row of another node.
    pub fn saw(&mut self, table: &str, key: i64) {
        if let Some(keys) = self.0.get_mut(table) {
            keys.highest = keys.highest.max(key);
        }
    }

    /// The application has written rows, the last one under this key.
    pub fn gave(&mut self, table: &str, key: i64, now: Instant) {
        let Some(keys) = self.0.get_mut(table) else { return };
        keys.highest = keys.highest.max(key);
        let Some(block) = keys.block.filter(|block| block.first <= key) else { return };
        let new = key - keys.given.max(block.first - 1);
        if new > 0 {
            keys.burst = keys.burst.max(new);
            keys.pace.gave(new, now);
            keys.given = key;
        }
        if keys.is_due() {
            keys.join();
        }
    }

    /// Tables that need another block, whether there is one or not.
    pub fn due(&self) -> Vec<Arc<str>> {
        self.0.iter().filter(|(_, keys)| keys.is_due()).map(|(name, _)| name.clone()).collect()
    }

    /// Whether a table needs another block and none is there for it.
    pub fn lacks_any(&self) -> bool {
        self.0.values().any(|keys| keys.is_due() && !keys.has_spare())
    }

    /// Blocks to claim now: each table has one in reserve, and another one if that was claimed when it gave far fewer keys.
    pub fn wants(&self) -> Vec<Want> {
        let wants = |(name, keys): (&Arc<str>, &Keys)| {
            let above = keys.highest.max(keys.block.map_or(0, |block| block.last));
            let needs = keys.needs();
            let is_small = keys.spare.is_some_and(|spare| !is_tight(spare.first) && spare.size() * 2 < needs);
            (!keys.has_spare() || is_small).then(|| Want {
                table: name.clone(),
                above,
                size: keys.size.max(needs),
                had_some: keys.block.is_some(),
            })
        };
        self.0.iter().filter_map(wants).collect()
    }

    /// A block was claimed.
    pub fn claimed(&mut self, table: &str, block: Block) {
        if let Some(keys) = self.0.get_mut(table) {
            // A small one, instead of which a larger one was claimed, is not given up if it need not be.
            keys.join();
            keys.spare = Some(block);
            if keys.is_due() {
                keys.join();
            }
        }
    }

    /// Takes the block in reserve, for a table whose highest key in the database is this one. `None`: it does not serve.
    pub fn take(&mut self, table: &str, highest: i64) -> Option<Block> {
        let keys = self.0.get_mut(table)?;
        keys.highest = keys.highest.max(highest);
        let spare = keys.spare.filter(|spare| spare.first > keys.highest)?;
        keys.resize();
        (keys.block, keys.spare) = (Some(spare), None);
        // What SQLite counts from.
        keys.highest = spare.first - 1;
        keys.given = keys.highest;
        Some(spare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steered() -> (Tables, Arc<str>) {
        let (mut tables, name): (Tables, Arc<str>) = (Tables::default(), "t".into());
        tables.set(std::slice::from_ref(&name));
        (tables, name)
    }

    #[test]
    fn a_node_takes_a_block_first_and_another_when_a_higher_key_comes() {
        let (mut tables, _) = steered();
        assert!(tables.lacks_any());
        let want = tables.wants().remove(0);
        assert_eq!((want.above, want.size, want.had_some), (0, limits::BLOCK_FIRST, false));
        tables.claimed("t", Block { first: 1, last: 512 });
        assert_eq!(tables.take("t", 0), Some(Block { first: 1, last: 512 }));
        assert!(tables.due().is_empty());
        assert!(tables.wants()[0].had_some && tables.wants()[0].above == 512, "one in reserve");
        tables.claimed("t", Block { first: 1025, last: 1536 });
        tables.gave("t", 1, Instant::now());
        assert!(tables.due().is_empty() && tables.wants().is_empty());
        // A row of another node's block, 513 to 1024.
        tables.saw("t", 513);
        assert_eq!(tables.due().len(), 1);
        assert_eq!(tables.take("t", 513), Some(Block { first: 1025, last: 1536 }));
        assert_eq!(tables.wants()[0].size, limits::BLOCK_FIRST / 4, "little of it was used");
    }

    #[test]
    fn a_reserve_that_others_have_overtaken_does_not_serve() {
        let (mut tables, _) = steered();
        tables.claimed("t", Block { first: 1, last: 20 });
        tables.take("t", 0);
        tables.claimed("t", Block { first: 21, last: 40 });
        tables.saw("t", 50);
        assert!(tables.lacks_any());
        assert_eq!(tables.take("t", 50), None);
        assert_eq!(tables.wants()[0].above, 50);
    }

    #[test]
    fn blocks_grow_with_use_and_shrink_without() {
        let (mut tables, _) = steered();
        let (mut first, mut now) = (1, Instant::now());
        let mut sizes = vec![];
        for round in 0..50 {
            let want = tables.wants().remove(0);
            sizes.push(want.size);
            let block = Block { first, last: first + want.size - 1 };
            tables.claimed("t", block);
            assert_eq!(tables.take("t", first - 1), Some(block));
            let given = if round < 6 { block.last } else { block.first };
            now += Duration::from_secs(10);
            tables.gave("t", given, now);
            // Another node is in the next one.
            first = block.last + 2;
            tables.saw("t", first - 1);
        }
        assert!(sizes.contains(&limits::BLOCK_MOST), "{sizes:?}");
        assert_eq!(sizes.last(), Some(&limits::BLOCK_LEAST), "{sizes:?}");
    }

    #[test]
    fn a_block_lasts_as_long_at_the_pace_of_late() {
        // Rows each 25 ms: 800 and 2,000 in a second.
        for (rows, expected) in [(20, 550..800), (50, 3_500..4_300)] {
            let (mut tables, _) = steered();
            let (mut now, mut first) = (Instant::now(), 1);
            let mut sizes = vec![];
            for _ in 0..200 {
                let want = tables.wants().remove(0);
                sizes.push(want.size);
                tables.claimed("t", Block { first, last: first + want.size - 1 });
                tables.take("t", first - 1).unwrap();
                now += Duration::from_millis(25);
                tables.gave("t", first + rows - 1, now);
                first += want.size + 1;
                tables.saw("t", first - 1);
            }
            let late = &sizes[60..];
            assert!(late.iter().all(|size| expected.contains(size)), "{late:?}");
        }
    }

    #[test]
    fn a_reserve_that_was_claimed_before_it_became_fast_is_claimed_anew() {
        let (mut tables, _) = steered();
        let start = Instant::now();
        tables.claimed("t", Block { first: 1, last: 1_024 });
        tables.take("t", 0);
        tables.claimed("t", Block { first: 2_001, last: 2_256 });
        // Fifty rows at once are no pace.
        tables.gave("t", 50, start);
        assert!(tables.wants().is_empty());
        // A row in an eighth of a millisecond.
        for ms in 1..=20 {
            tables.gave("t", 50 + ms * 8, start + Duration::from_millis(ms.unsigned_abs()));
        }
        let want = tables.wants().remove(0);
        assert_eq!(want.size, 8 * 210, "eight times as many as were given");
        tables.claimed("t", Block { first: 3_001, last: 3_000 + want.size });
        assert!(tables.wants().is_empty());
        // Where keys are scarce, nobody claims one block after the other.
        tables.claimed("t", Block { first: 1 << 30, last: (1 << 30) + 19 });
        assert!(tables.wants().is_empty());
    }

    #[test]
    fn who_inserts_alone_goes_from_block_to_block_without_being_steered() {
        let (mut tables, _) = steered();
        let (mut now, mut next, mut key) = (Instant::now(), 1, 0);
        let mut claim = |tables: &mut Tables| {
            for want in tables.wants() {
                tables.claimed("t", Block { first: next, last: next + want.size - 1 });
                next += want.size;
            }
            next
        };
        claim(&mut tables);
        tables.take("t", 0).unwrap();
        for _ in 0..1_000 {
            claim(&mut tables);
            now += Duration::from_millis(20);
            key += 50;
            tables.gave("t", key, now);
            claim(&mut tables);
            assert!(tables.due().is_empty(), "{key}");
        }
        assert!(claim(&mut tables) < key + 4 * limits::BLOCK_MOST, "not many more than it needs");
        // After a key of another node it takes the next one.
        tables.saw("t", key + 6 * limits::BLOCK_MOST);
        assert!(tables.lacks_any());
    }

    #[test]
    fn who_inserts_many_at_once_can_do_so_again() {
        let (mut tables, _) = steered();
        let (mut now, mut next) = (Instant::now(), 1);
        let mut claim = |tables: &mut Tables| {
            for want in tables.wants() {
                let first = next.max(want.above + 1);
                tables.claimed("t", Block { first, last: first + want.size - 1 });
                next = first + want.size;
            }
        };
        claim(&mut tables);
        let mut block = tables.take("t", 0).unwrap();
        for round in 0..10 {
            claim(&mut tables);
            // A few in a transaction each, then 20,000 in one, then those of another node.
            for key in [3, 7, 20_007] {
                now += Duration::from_millis(700);
                tables.gave("t", block.first + key - 1, now);
            }
            assert!(round == 0 || block.last >= block.first + 20_006, "{round}: {block:?}");
            claim(&mut tables);
            let key = block.last.max(block.first + 20_006) + 1;
            claim(&mut tables);
            tables.saw("t", key);
            claim(&mut tables);
            block = tables.take("t", key).unwrap();
        }
    }

    /// Nodes that insert, hear of each other late and in any order, with one counter: no key is given twice.
    #[test]
    fn no_key_is_given_twice() {
        for seed in 0..30_u64 {
            let mut random = seed;
            let mut below = |n: u64| {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % n
            };
            let mut nodes: Vec<(Tables, i64, usize)> = (0..3).map(|_| (steered().0, 0, 0)).collect();
            let (mut counter, mut stream, mut given) = (1, vec![], std::collections::BTreeSet::new());
            for _ in 0..5_000 {
                let at = usize::try_from(below(3)).unwrap();
                let (tables, seq, read) = &mut nodes[at];
                if below(3) == 0 && *read < stream.len() {
                    // The next row of the stream is applied, with a fresh block if it needs one.
                    let key: i64 = stream[*read];
                    *read += 1;
                    tables.saw("t", key);
                    *seq = (*seq).max(key);
                } else if !tables.lacks_any() {
                    *seq += 1;
                    assert!(given.insert(*seq), "seed {seed}: key {seq}");
                    stream.push(*seq);
                    tables.gave("t", *seq, Instant::now());
                }
                for want in tables.wants() {
                    let first = counter.max(want.above + 1);
                    counter = first + want.size;
                    tables.claimed("t", Block { first, last: counter - 1 });
                }
                if !tables.due().is_empty() {
                    *seq = tables.take("t", *seq).unwrap().first - 1;
                }
                for want in tables.wants() {
                    let first = counter.max(want.above + 1);
                    counter = first + want.size;
                    tables.claimed("t", Block { first, last: counter - 1 });
                }
            }
            assert!(given.len() > 1_000);
        }
    }
}
