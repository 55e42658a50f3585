//! Where ranges differ, and which rows make them differ.

use super::ask::{Caller, Peer};
use super::wire::{Answer, Ask};
use crate::base::error::Error;
use crate::db::equality::{BUCKETS, Key, Listing, Range, Seed, Span};
use crate::model::agree::Print;
use std::collections::HashMap;

/// Buckets whose rows are in memory at once.
const BUCKETS_AT_ONCE: usize = 16;

/// Why a table is not compared any more.
pub enum Broken {
    /// It has another definition now, or is gone.
    Changed,
    /// A node fell silent or failed, and what it said.
    Lost(usize, String),
    Failed(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Broken {
        Broken::Failed(error)
    }
}

/// A table of which ranges are compared.
pub struct Ranges<'a, 'b> {
    pub caller: &'a mut Caller<'b>,
    pub peers: &'a [Peer],
    pub table: &'a str,
    pub definition: u64,
    pub seed: Seed,
}

impl Ranges<'_, '_> {
    fn span(&self, after: Option<&Key>, until: Option<&Key>) -> Span {
        Span {
            table: self.table.to_owned(),
            definition: self.definition,
            seed: self.seed,
            after: after.cloned(),
            until: until.cloned(),
        }
    }

    /// The digests of the next range that all nodes can read in one transaction, and its end; `None`: there are no more rows.
    pub fn next(&mut self, after: Option<&Key>) -> Result<(Option<Key>, Vec<Range>), Broken> {
        let mut until: Option<Key> = None;
        let mut read: Vec<Option<Range>> = vec![None; self.peers.len()];
        // The first node finds an end that suits itself; one with more rows there ends sooner, and then all others do so, too.
        read[0] = self.ranges(&[0], self.span(after, None))?.pop();
        if let Some(stopped) = read[0].as_mut().and_then(|range| range.stopped.take()) {
            until = Some(stopped);
        }
        let mut last = 0;
        // Each round ends sooner than the one before; rows that are written meanwhile may cost a few more.
        for _ in 0..self.peers.len() * 4 + 8 {
            let open: Vec<usize> = (0..read.len()).filter(|peer| read[*peer].is_none()).collect();
            if open.is_empty() {
                return Ok((until, read.into_iter().flatten().collect()));
            }
            let found = self.ranges(&open, self.span(after, until.as_ref()))?;
            for (peer, range) in open.into_iter().zip(found) {
                read[peer] = Some(range);
            }
            let sooner =
                read.iter().position(|range| range.as_ref().is_some_and(|range| range.stopped.is_some()));
            if let Some(peer) = sooner {
                let mut range = read[peer].take().unwrap_or_default();
                until = range.stopped.take();
                read.fill(None);
                read[peer] = Some(range);
                last = peer;
            }
        }
        Err(Broken::Lost(last, "it ends each range sooner than before".to_owned()))
    }

    fn ranges(&mut self, peers: &[usize], span: Span) -> Result<Vec<Range>, Broken> {
        let questions: Vec<(usize, Ask)> =
            peers.iter().map(|peer| (*peer, Ask::Range(span.clone()))).collect();
        let answers = ask(self.caller, self.peers, questions)?;
        let range = |(peer, answer): (&usize, Answer)| match answer {
            Answer::Range(range) => Ok(range),
            _ => Err(Broken::Lost(*peer, "an answer to another question".to_owned())),
        };
        peers.iter().zip(answers).map(range).collect()
    }

    /// The keys of the rows that are not listed alike by all nodes, and how many have keys too long to be told.
    pub fn unlike(
        &mut self,
        (after, until): (Option<&Key>, Option<&Key>),
        digests: &[Range],
    ) -> Result<(Vec<Key>, u64), Broken> {
        let mut found = (vec![], 0);
        for buckets in unlike_buckets(digests).chunks(BUCKETS_AT_ONCE) {
            let mut rows: HashMap<Print, (Key, Vec<Option<Print>>)> = HashMap::new();
            let mut begins: Vec<Option<Option<Key>>> = vec![Some(after.cloned()); self.peers.len()];
            while begins.iter().any(Option::is_some) {
                let open = begins.iter().enumerate().filter_map(|(peer, begin)| {
                    let span = self.span(begin.as_ref()?.as_ref(), until);
                    Some((peer, Ask::List(span, buckets.to_vec())))
                });
                let open: Vec<(usize, Ask)> = open.collect();
                let asked: Vec<usize> = open.iter().map(|(peer, _)| *peer).collect();
                for (peer, answer) in asked.into_iter().zip(ask(self.caller, self.peers, open)?) {
                    let Answer::List(Listing { stopped, rows: listed, left_out }) = answer else {
                        return Err(Broken::Lost(peer, "an answer to another question".to_owned()));
                    };
                    found.1 += left_out;
                    for row in listed {
                        let none = || (row.key, vec![None; self.peers.len()]);
                        let sum = &mut rows.entry(row.key_print).or_insert_with(none).1[peer];
                        *sum = Some(sum.map_or(row.print, |sum| sum.wrapping_add(row.print)));
                    }
                    begins[peer] = stopped.map(Some);
                }
            }
            let unlike =
                rows.into_values().filter(|(_, prints)| prints.iter().any(|print| *print != prints[0]));
            found.0.extend(unlike.map(|(key, _)| key));
        }
        Ok(found)
    }
}

/// Buckets that are not the same in all digests.
fn unlike_buckets(digests: &[Range]) -> Vec<u16> {
    let sums = |range: &Range| {
        let mut sums = vec![None; usize::from(BUCKETS)];
        for (bucket, print) in &range.buckets {
            if let Some(sum) = sums.get_mut(usize::from(*bucket)) {
                *sum = Some(*print);
            }
        }
        sums
    };
    let all: Vec<Vec<Option<Print>>> = digests.iter().map(sums).collect();
    let differs =
        |bucket: &u16| all.iter().any(|sums| sums[usize::from(*bucket)] != all[0][usize::from(*bucket)]);
    (0..BUCKETS).filter(differs).collect()
}

/// Asks some of the peers at once. Any of them that does not answer as it should is lost.
pub fn ask(
    caller: &mut Caller<'_>,
    peers: &[Peer],
    questions: Vec<(usize, Ask)>,
) -> Result<Vec<Answer>, Broken> {
    let numbers: Vec<usize> = questions.iter().map(|(peer, _)| *peer).collect();
    let questions: Vec<(&Peer, Ask)> = questions.into_iter().map(|(peer, ask)| (&peers[peer], ask)).collect();
    let answers = caller.ask_all(&questions)?;
    let check = |(peer, answer)| match answer {
        None => Err(Broken::Lost(peer, "it does not answer any more".to_owned())),
        Some(Answer::Changed) => Err(Broken::Changed),
        Some(Answer::Failed(why)) => Err(Broken::Lost(peer, why)),
        Some(answer) => Ok(answer),
    };
    numbers.into_iter().zip(answers).map(check).collect()
}
