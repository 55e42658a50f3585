//! What happened in a run, counted: a run in which a kind of statement or of fault never happened proves nothing about it.

use std::collections::BTreeMap;

#[derive(Clone, Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub fn take_in(&mut self, other: &mut Tally) {
        for (what, times) in std::mem::take(&mut other.0) {
            self.add(what, times);
        }
    }

    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    pub fn sum(&self, of: &[&str]) -> u64 {
        of.iter().map(|what| self.of(what)).sum()
    }

    /// Fails if one of them did not happen.
    pub fn insist(&self, all: &[&str]) {
        let missing: Vec<&&str> = all.iter().filter(|what| self.of(what) == 0).collect();
        assert!(missing.is_empty(), "never happened: {missing:?}\n{self}");
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(what, times)| format!("{what} {times}")).collect();
        f.write_str(&parts.join(", "))
    }
}
