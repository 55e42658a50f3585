//! A differential fuzzer: schemas, statements and faults that are made up from a seed, on three nodes at once. What the applications were
//! told is compared with what all nodes hold in the end.
//!
//! A seed gives the same schema, the same transactions and the same faults again; only what meets what differs.

mod application;
mod cluster;
mod fail_points;
mod faults;
mod history;
pub mod random;
mod statements;
mod stream;
mod tables;
mod tally;

use crate::support::{Dir, number_from_environment};
use cluster::Cluster;
use faults::FAULTS;
use random::Random;
use statements::STATEMENTS;
use std::time::{Duration, Instant};
use tables::FEATURES;
use tally::Tally;

/// Faults of a round.
const A_ROUND: usize = 4;

/// KiB by which the daemon that lives as long as its schedule may grow between the first and the last third of it.
const GROWTH: u64 = 8 << 10;

/// Says at a failure how to have the same again.
struct Replay {
    seed: u64,
    rounds: u64,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "again: HARMONYLITE_FUZZ_SEED={} HARMONYLITE_FUZZ_ROUNDS={} cargo test --profile fast --test it -- fuzz::whatever \
                 --nocapture",
                self.seed, self.rounds
            );
        }
    }
}

/// One cluster from its beginning to its end.
fn schedule(seed: u64, rounds: u64, tally: &mut Tally) {
    let _replay = Replay { seed, rounds };
    eprintln!("schedule of seed {seed}, {rounds} rounds");
    let dir = Dir::new("fuzz");
    let mut cluster = Cluster::start(&dir, seed);
    // All kinds of faults are dealt like cards, so that none is missing.
    let (mut dealer, mut cards, mut memory) = (Random::new(seed), vec![], vec![]);
    for _ in 0..rounds {
        if cards.len() < A_ROUND {
            cards.extend(dealer.shuffled(FAULTS));
        }
        let faults: Vec<&'static str> = cards.drain(..A_ROUND).collect();
        cluster.round(&faults);
        memory.extend(cluster.lasting_memory());
    }
    let third = memory.len() / 3;
    if third >= 2 {
        let mean = |samples: &[u64]| samples.iter().sum::<u64>() / samples.len() as u64;
        let (first, last) = (mean(&memory[..third]), mean(&memory[memory.len() - third..]));
        eprintln!("memory of the daemon that was never ended: {memory:?} KiB");
        assert!(last <= first + GROWTH, "it grows from {first} to {last} KiB");
    }
    tally.take_in(&mut cluster.tally);
}

#[test]
fn whatever_applications_write() {
    let begun = Instant::now();
    let seed = number_from_environment("HARMONYLITE_FUZZ_SEED").unwrap_or(1);
    let mut tally = Tally::default();
    match number_from_environment("HARMONYLITE_FUZZ_MINUTES") {
        None => schedule(seed, number_from_environment("HARMONYLITE_FUZZ_ROUNDS").unwrap_or(3), &mut tally),
        Some(minutes) => {
            let rounds = number_from_environment("HARMONYLITE_FUZZ_ROUNDS").unwrap_or(30);
            for number in 0.. {
                schedule(seed * 1_000_000 + number, rounds, &mut tally);
                if begun.elapsed() > Duration::from_secs(minutes * 60) {
                    break;
                }
            }
        }
    }
    eprintln!(
        "fuzz: {} schedules, {} rounds, {} transactions, {} statements, {} faults, {} s\n{tally}",
        tally.of("schedules"),
        tally.of("rounds"),
        tally.of("transactions"),
        tally.sum(STATEMENTS),
        tally.sum(FAULTS),
        begun.elapsed().as_secs()
    );
    tally.insist(STATEMENTS);
    tally.insist(FAULTS);
    tally.insist(FEATURES);
}
