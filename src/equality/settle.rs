//! Rows that are not listed alike, looked at until they can be judged.

use super::candidates::{Broken, ask};
use super::comparing::{Candidate, Comparing};
use super::report::Left;
use super::wire::{Answer, Ask, Spoken};
use crate::base::error::Error;
use crate::db::equality::{Sights, Wanted};
use crate::model::agree::{Verdict, is_same, judge};
use crate::model::positions::SeqMap;
use crate::model::value::Value;
use std::time::Duration;

/// Rows that are asked for at once, and bytes of their keys.
const ROWS: usize = 100;
const KEY_BYTES: usize = 48 << 10;
/// Looks at a row that stays unsettled.
const LOOKS: u32 = 8;
/// Pause before the first of them; it doubles.
const PAUSE: Duration = Duration::from_millis(50);
/// Rows that are named as unsettled.
const NAMED: usize = 100;

impl Comparing<'_> {
    /// Looks at the rows that wait, again and again; those that cannot be judged are named as unsettled.
    pub fn settle(&mut self) -> Result<(), Broken> {
        let mut pause = PAUSE;
        for _ in 0..LOOKS {
            if self.waiting.is_empty() {
                return Ok(());
            }
            if self.caller.stop().wait(pause) {
                return Err(Broken::Failed(Error::stopped()));
            }
            pause *= 2;
            let mut waiting = std::mem::take(&mut self.waiting);
            let looked = self.look(&mut waiting);
            self.waiting = waiting;
            looked?;
        }
        for candidate in std::mem::take(&mut self.waiting) {
            let touched = self.peers.iter().zip(&candidate.seen).filter(|(_, seen)| seen.sight.touched);
            let nodes: Vec<String> = touched.map(|(peer, _)| peer.node.to_string()).collect();
            let why = if nodes.is_empty() {
                "it is written all the time, or a node is far behind".to_owned()
            } else {
                format!("not published yet by node {}", nodes.join(", "))
            };
            if self.report.unsettled.len() < NAMED {
                let table = self.report.tables[candidate.table].name.clone();
                self.report.unsettled.push(Left { table, key: candidate.key, why });
            } else {
                self.report.more_unsettled += 1;
            }
        }
        Ok(())
    }

    /// Looks at rows once. Those that are the same go, those that differ are put on the report, the others stay.
    pub fn look(&mut self, candidates: &mut Vec<Candidate>) -> Result<(), Broken> {
        let mut rest = std::mem::take(candidates).into_iter().peekable();
        while rest.peek().is_some() {
            let table = rest.peek().map_or(0, |first| first.table);
            let mut bytes = 0;
            let mut some = vec![];
            while let Some(candidate) =
                rest.next_if(|next| next.table == table && some.len() < ROWS && bytes < KEY_BYTES)
            {
                bytes += candidate.key.iter().map(Value::size).sum::<usize>();
                some.push(candidate);
            }
            // After a difference too many, the others of the table are of no interest.
            if self.report.tables[table].more {
                continue;
            }
            let looked = self.look_at(table, &mut some);
            candidates.append(&mut some);
            if let Err(broken) = looked {
                candidates.extend(rest);
                return Err(broken);
            }
        }
        Ok(())
    }

    fn look_at(&mut self, table: usize, some: &mut Vec<Candidate>) -> Result<(), Broken> {
        let all = self.sights(table, some)?;
        for (place, candidate) in some.iter_mut().enumerate() {
            candidate.seen = all.iter().map(|sights| sights.rows[place].clone()).collect();
        }
        some.retain(|candidate| !is_same(candidate.sights()));
        let touched = |candidate: &Candidate| candidate.sights().any(|sight| sight.touched);
        let (mut judged, mut stay): (Vec<Candidate>, Vec<Candidate>) =
            std::mem::take(some).into_iter().partition(|candidate| !touched(candidate));
        let spoken = self.spoken(table, &judged, &all);
        let spoken = match spoken {
            Ok(spoken) => spoken,
            Err(broken) => {
                some.append(&mut stay);
                some.append(&mut judged);
                return Err(broken);
            }
        };
        for (candidate, spoken_of) in judged.into_iter().zip(spoken) {
            match judge(candidate.sights(), spoken_of) {
                Verdict::Same => {}
                Verdict::Differs => self.differs(candidate),
                Verdict::Unsettled => stay.push(candidate),
            }
        }
        some.append(&mut stay);
        Ok(())
    }

    /// What all nodes say about rows, in the order of the nodes.
    fn sights(&mut self, table: usize, some: &[Candidate]) -> Result<Vec<Sights>, Broken> {
        let wanted = Wanted {
            table: self.report.tables[table].name.clone(),
            definition: self.definitions[table],
            seed: self.seed,
            keys: some.iter().map(|candidate| candidate.key.clone()).collect(),
        };
        let questions = (0..self.peers.len()).map(|peer| (peer, Ask::Sights(wanted.clone()))).collect();
        let answers = ask(&mut self.caller, &self.peers, questions)?;
        let sights = answers.into_iter().enumerate().map(|(peer, answer)| match answer {
            Answer::Sights(sights) if sights.rows.len() == some.len() => Ok(sights),
            _ => Err(Broken::Lost(peer, "an answer to another question".to_owned())),
        });
        sights.collect()
    }

    /// Whether messages between the lowest position and the streams' ends speak of the rows. One of the nodes reads them.
    fn spoken(&mut self, table: usize, some: &[Candidate], all: &[Sights]) -> Result<Vec<bool>, Broken> {
        let Some(from) = self.lowest(all).filter(|_| !some.is_empty()) else {
            return Ok(vec![true; some.len()]);
        };
        let rows = some.iter().map(|candidate| {
            let unique = candidate.seen.iter().flat_map(|seen| &seen.unique).copied().collect();
            (candidate.key.clone(), unique)
        });
        let spoken = Spoken {
            table: self.report.tables[table].name.clone(),
            definition: self.definitions[table],
            from,
            generation: all[0].generation.clone(),
            rows: rows.collect(),
        };
        match ask(&mut self.caller, &self.peers, vec![(0, Ask::Spoken(spoken))])?.pop() {
            Some(Answer::Spoken(spoken_of)) if spoken_of.len() == some.len() => Ok(spoken_of),
            _ => Err(Broken::Lost(0, "an answer to another question".to_owned())),
        }
    }

    /// The lowest position in each stream; `None`: the nodes do not follow the same streams.
    fn lowest(&self, all: &[Sights]) -> Option<SeqMap> {
        if all.iter().any(|sights| sights.generation != all[0].generation) {
            return None;
        }
        let streams = self.caller.config().streams().into_iter();
        let lowest = streams.map(|stream| {
            let seqs: Option<Vec<u64>> =
                all.iter().map(|sights| sights.positions.get(&stream).copied()).collect();
            let seq = seqs?.into_iter().min()?;
            Some((stream, seq))
        });
        lowest.collect()
    }
}
