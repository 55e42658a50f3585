//! The rule against a model: nodes that write, publish, read ahead of their checkpoints and settle in any order, and one row
//! that was changed behind our back.

use super::*;
use std::collections::BTreeMap;

/// A small generator: the test is the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

const KEYS: usize = 4;
const NODES: usize = 3;

#[derive(Clone, Copy, Debug)]
struct Message {
    key: usize,
    value: Option<Print>,
    node: usize,
    id: usize,
}

#[derive(Default)]
struct Node {
    rows: BTreeMap<usize, Print>,
    /// Key and whether it was published.
    log: BTreeMap<usize, (usize, bool)>,
    next: usize,
    /// How far it has read, and what its database says of that.
    read: usize,
    checkpoint: usize,
}

#[derive(Default)]
struct Cluster {
    stream: Vec<Message>,
    nodes: [Node; NODES],
}

impl Cluster {
    fn put(&mut self, node: usize, key: usize, value: Option<Print>) {
        match value {
            Some(value) => self.nodes[node].rows.insert(key, value),
            None => self.nodes[node].rows.remove(&key),
        };
    }

    fn write(&mut self, node: usize, key: usize, value: Option<Print>) {
        self.put(node, key, value);
        let node = &mut self.nodes[node];
        node.next += 1;
        node.log.insert(node.next, (key, false));
    }

    /// Publishes all that is not published, with the rows as they are now.
    fn publish(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        for (id, (key, published)) in &mut node.log {
            if !std::mem::replace(published, true) {
                self.stream.push(Message {
                    key: *key,
                    value: node.rows.get(key).copied(),
                    node: number,
                    id: *id,
                });
            }
        }
    }

    fn fold(&mut self, number: usize) {
        let Some(message) = self.stream.get(self.nodes[number].read).copied() else { return };
        self.nodes[number].read += 1;
        if message.node == number {
            // An echo settles; a row that was written again since stays as it is.
            self.nodes[number].log.remove(&message.id);
            return;
        }
        let touched = self.nodes[number].log.values().any(|(key, _)| *key == message.key);
        if !touched {
            self.put(number, message.key, message.value);
        }
    }

    /// The checkpoint follows what was read, or stays behind, as with an open set.
    fn commit(&mut self, number: usize, random: &mut Random) {
        let node = &mut self.nodes[number];
        node.checkpoint += random.below(node.read - node.checkpoint + 1);
    }

    fn sight(&self, number: usize, key: usize) -> Sight {
        let node = &self.nodes[number];
        let touched = node.log.values().any(|(known, _)| *known == key);
        Sight { row: node.rows.get(&key).copied(), touched, waits: false }
    }

    fn step(&mut self, random: &mut Random) {
        let number = random.below(NODES);
        match random.below(8) {
            0 => {
                let value = (random.below(4) > 0).then(|| random.below(2) as Print);
                self.write(number, random.below(KEYS - 1), value);
            }
            1 => self.publish(number),
            2 => self.commit(number, random),
            _ => self.fold(number),
        }
    }

    fn steps(&mut self, random: &mut Random, count: usize) {
        for _ in 0..count {
            self.step(random);
        }
    }

    fn settle(&mut self) {
        (0..NODES).for_each(|number| self.publish(number));
        for number in 0..NODES {
            while self.nodes[number].read < self.stream.len() {
                self.fold(number);
            }
            self.nodes[number].checkpoint = self.nodes[number].read;
        }
    }

    /// One comparison of a key, with events between all that it does.
    fn compare(&mut self, key: usize, random: &mut Random) -> Verdict {
        let (mut sights, mut lowest) = (vec![], usize::MAX);
        for number in 0..NODES {
            let steps = random.below(6);
            self.steps(random, steps);
            sights.push(self.sight(number, key));
            lowest = lowest.min(self.nodes[number].checkpoint);
        }
        let steps = random.below(3);
        self.steps(random, steps);
        let end = self.stream.len();
        let spoken_of = self.stream[lowest..end].iter().any(|message| message.key == key);
        judge(&sights, spoken_of)
    }
}

#[test]
fn no_row_on_its_way_is_called_different() {
    let (mut same, mut unsettled) = (0, 0);
    for seed in 0..3_000 {
        let (mut cluster, mut random) = (Cluster::default(), Random(seed));
        for _ in 0..30 {
            cluster.steps(&mut random, 5);
            let key = random.below(KEYS - 1);
            match cluster.compare(key, &mut random) {
                Verdict::Same => same += 1,
                Verdict::Unsettled => unsettled += 1,
                Verdict::Differs => panic!("seed {seed}: a false alarm about key {key}"),
            }
        }
    }
    assert!(
        same > 1_000 && unsettled > 1_000,
        "{same} same, {unsettled} unsettled: does the model still move?"
    );
}

/// The same without the part of the rule that reads the stream, or the one that looks into the logs, cries wolf.
#[test]
fn each_part_of_the_rule_is_needed() {
    let mut wolves = [0, 0];
    for seed in 0..300 {
        let (mut cluster, mut random) = (Cluster::default(), Random(seed));
        for _ in 0..30 {
            cluster.steps(&mut random, 5);
            let key = random.below(KEYS - 1);
            let sights: Vec<Sight> = (0..NODES).map(|number| cluster.sight(number, key)).collect();
            wolves[0] += usize::from(judge(&sights, false) == Verdict::Differs);
            let lowest = cluster.nodes.iter().map(|node| node.checkpoint).min().unwrap();
            let spoken_of = cluster.stream[lowest..].iter().any(|message| message.key == key);
            let blind: Vec<Sight> =
                sights.into_iter().map(|sight| Sight { touched: false, ..sight }).collect();
            wolves[1] += usize::from(judge(&blind, spoken_of) == Verdict::Differs);
        }
    }
    assert!(wolves.iter().all(|count| *count > 10), "{wolves:?}");
}

#[test]
fn a_row_changed_behind_our_back_is_found_while_others_are_written() {
    for seed in 0..1_000 {
        let (mut cluster, mut random) = (Cluster::default(), Random(seed));
        // The last key is written by nobody else in between.
        let (key, odd) = (KEYS - 1, random.below(NODES));
        cluster.write(random.below(NODES), key, Some(7));
        cluster.steps(&mut random, 40);
        cluster.settle();
        cluster.put(odd, key, (random.below(2) > 0).then_some(8));
        cluster.steps(&mut random, 20);
        assert_eq!(cluster.compare(key, &mut random), Verdict::Differs, "seed {seed}");
    }
}

#[test]
fn a_difference_that_is_written_meanwhile_is_never_the_same_and_found_when_it_rests() {
    for seed in 0..1_000 {
        let (mut cluster, mut random) = (Cluster::default(), Random(seed));
        cluster.steps(&mut random, 60);
        cluster.settle();
        let key = random.below(KEYS - 1);
        cluster.put(random.below(NODES), key, Some(99));
        assert_eq!(judge(&[0, 1, 2].map(|number| cluster.sight(number, key)), false), Verdict::Differs);
        cluster.steps(&mut random, 30);
        cluster.settle();
        let sights = [0, 1, 2].map(|number| cluster.sight(number, key));
        assert_ne!(judge(&sights, false), Verdict::Unsettled, "seed {seed}");
    }
}
