//! One comparison, from the question who is there to the report.

use super::ask::{Caller, Peer};
use super::candidates::{Broken, Ranges, ask};
use super::comparing::{Candidate, Comparing, Scope};
use super::report::{OfTable, Report, Result as Told};
use super::subject_of_results;
use super::wire::{Answer, Ask, Hello};
use crate::base::error::{Error, Kind};
use crate::base::stop::Stop;
use crate::base::{progress, random};
use crate::config::Config;
use crate::db::equality::{Described, Key};
use crate::nats::Connection;
use std::collections::BTreeMap;
use std::time::Instant;

/// Rows that wait to be looked at again.
const WAITING: usize = 1_000;
/// Tables of a node that are compared at most.
const TABLES: usize = 20_000;
/// Times that a comparison goes on without a node that fell silent.
const LOSSES: usize = 8;
/// Tables that are compared anew because an application has changed them.
const CHANGES: usize = 20;

/// Compares the daemons that are there.
pub fn compare(
    config: &Config,
    connection: &Connection,
    stop: &Stop,
    scope: &Scope,
) -> Result<Report, Error> {
    Comparing::run(Caller::new(config, connection, stop), scope).map(|comparing| comparing.report)
}

impl<'a> Comparing<'a> {
    /// Compares, and keeps what a repair needs.
    pub fn run(mut caller: Caller<'a>, scope: &'a Scope) -> Result<Comparing<'a>, Error> {
        let begun = Instant::now();
        let found = caller.hello()?;
        let mut comparing = Comparing {
            caller,
            peers: vec![],
            seed: random::random_bytes(),
            scope,
            report: Report::default(),
            waiting: vec![],
            definitions: vec![],
            changes: 0,
            shown: progress::Line::default(),
        };
        comparing.meet(found)?;
        comparing.all_tables()?;
        comparing.settle_all()?;
        let report = &mut comparing.report;
        report.nodes = comparing.peers.iter().map(|peer| peer.node).collect();
        (report.took, report.bytes) = (begun.elapsed(), comparing.caller.bytes);
        comparing.tell();
        Ok(comparing)
    }

    fn meet(&mut self, found: Vec<Hello>) -> Result<(), Error> {
        if found.is_empty() {
            return Err(Error::unreachable(
                "no running daemon answers: start one, or wait until it has connected",
            ));
        }
        let there: Vec<u64> = found.iter().map(|hello| hello.node).collect();
        let mut known: Vec<u64> = found.iter().flat_map(|hello| &hello.knows).copied().collect();
        known.retain(|node| !there.contains(node));
        known.sort_unstable();
        known.dedup();
        self.report.silent = known;
        for Hello { node, subject, publishes, leads, why_not, .. } in found {
            if why_not.is_empty() {
                self.peers.push(Peer { node, subject, publishes, leads });
            } else {
                self.report.left_out.push((node, why_not));
            }
        }
        if self.peers.is_empty() {
            return Err(Error::waiting("no daemon that answers is whole: look again later"));
        }
        Ok(())
    }

    /// Goes on without a node.
    fn lose(&mut self, peer: usize, why: String) {
        let peer = self.peers.remove(peer);
        self.report.left_out.push((peer.node, why));
        // What was seen of it does not count; the rows are looked at again.
        self.waiting.iter_mut().for_each(|candidate| candidate.seen.clear());
    }

    fn all_tables(&mut self) -> Result<(), Error> {
        let mut losses = 0;
        let mut tables = loop {
            match self.tables() {
                Ok(tables) => break tables,
                Err(Broken::Failed(error)) => return Err(error),
                Err(Broken::Changed) => {}
                Err(Broken::Lost(peer, why)) => self.lose(peer, why),
            }
            losses += 1;
            if losses > LOSSES || self.peers.is_empty() {
                return Err(Error::waiting("the nodes do not say which tables they have: look again later"));
            }
        };
        if let Some(wanted) = &self.scope.table {
            tables.retain(|name, _| name.eq_ignore_ascii_case(wanted));
            if tables.is_empty() {
                let text = format!("no node replicates a table {wanted}");
                return Err(Error::new(Kind::Missing, text));
            }
        }
        for described in tables.into_values() {
            self.table(described)?;
        }
        Ok(())
    }

    /// What each node says about its tables, by their names in lower case. A definition that is like the first node's is not kept.
    fn tables(&mut self) -> Result<BTreeMap<String, Vec<(u64, Described)>>, Broken> {
        let mut all: BTreeMap<String, Vec<(u64, Described)>> = BTreeMap::new();
        for (number, peer) in self.peers.iter().enumerate() {
            let (mut after, mut count) = (String::new(), 0);
            loop {
                let question = vec![(number, Ask::Tables(after.clone()))];
                let Some(Answer::Tables(tables, more)) = ask(&mut self.caller, &self.peers, question)?.pop()
                else {
                    return Err(Broken::Lost(number, "an answer to another question".to_owned()));
                };
                count += tables.len();
                let last = tables.last().map(|table| table.name.clone());
                for mut table in tables {
                    let known = all.entry(table.name.to_lowercase()).or_default();
                    if known.first().is_some_and(|(_, first)| first.print == table.print) {
                        table.definition = String::new();
                    }
                    known.push((peer.node, table));
                }
                match last {
                    Some(last) if more && count < TABLES && last > after => after = last,
                    _ => break,
                }
            }
        }
        Ok(all)
    }

    fn table(&mut self, described: Vec<(u64, Described)>) -> Result<(), Error> {
        let Some((_, first)) = described.first() else { return Ok(()) };
        let (name, print) = (first.name.clone(), first.print);
        let aside = described.iter().filter(|(_, table)| table.aside > 0);
        let aside = aside.map(|(node, table)| (*node, table.aside)).collect();
        let mut table = OfTable { name, aside, ..OfTable::default() };
        let everywhere = self
            .peers
            .iter()
            .all(|peer| described.iter().any(|(node, table)| *node == peer.node && table.print == print));
        if !everywhere {
            table.definitions = self.definitions_of(&described);
        }
        self.report.tables.push(table);
        self.definitions.push(print);
        if everywhere { self.rows() } else { Ok(()) }
    }

    fn definitions_of(&self, described: &[(u64, Described)]) -> Vec<(String, Vec<u64>)> {
        let mut groups: Vec<(String, Vec<u64>)> = vec![];
        for peer in &self.peers {
            let of = described.iter().find(|(node, _)| *node == peer.node).map(|(_, table)| table);
            let text = match of {
                None => "there is no such table, or it is not replicated".to_owned(),
                Some(table) if table.definition.is_empty() => described[0].1.definition.clone(),
                Some(table) => table.definition.clone(),
            };
            match groups.iter_mut().find(|(known, _)| *known == text) {
                Some((_, nodes)) => nodes.push(peer.node),
                None => groups.push((text, vec![peer.node])),
            }
        }
        groups
    }

    /// The rows of the last table of the report.
    fn rows(&mut self) -> Result<(), Error> {
        let mut after: Option<Key> = None;
        let mut losses = 0;
        loop {
            // A single node has nobody to be compared with.
            if self.peers.len() < 2 {
                return Ok(());
            }
            match self.range(after.as_ref()) {
                Ok(None) => return Ok(()),
                Ok(Some(until)) => after = Some(until),
                Err(Broken::Failed(error)) => return Err(error),
                Err(Broken::Lost(peer, why)) if losses < LOSSES => {
                    losses += 1;
                    self.lose(peer, why);
                }
                Err(Broken::Lost(..)) => {
                    return Err(Error::waiting("the nodes fall silent: look again later"));
                }
                Err(Broken::Changed) => return self.changed(),
            }
        }
    }

    /// An application has changed the table meanwhile: it is compared anew.
    fn changed(&mut self) -> Result<(), Error> {
        self.changes += 1;
        let last = self.report.tables.pop();
        self.definitions.pop();
        let Some(last) = last.filter(|_| self.changes <= CHANGES) else {
            return Err(Error::waiting("the applications change their tables: look again later"));
        };
        let place = self.report.tables.len();
        self.waiting.retain(|candidate| candidate.table != place);
        match self.tables() {
            Ok(mut tables) => self.table(tables.remove(&last.name.to_lowercase()).unwrap_or_default()),
            Err(Broken::Failed(error)) => Err(error),
            Err(_) => Err(Error::waiting(format!("table {} changes: look again later", last.name))),
        }
    }

    /// Compares the next range; returns its end, `None` at the end of the table.
    fn range(&mut self, after: Option<&Key>) -> Result<Option<Key>, Broken> {
        let Some(place) = self.report.tables.len().checked_sub(1) else { return Ok(None) };
        let name = self.report.tables[place].name.clone();
        let mut ranges = Ranges {
            caller: &mut self.caller,
            peers: &self.peers,
            table: &name,
            definition: self.definitions[place],
            seed: self.seed,
        };
        let (until, digests) = ranges.next(after)?;
        let (keys, left_out) = ranges.unlike((after, until.as_ref()), &digests)?;
        self.report.tables[place].rows += digests.iter().map(|range| range.rows).max().unwrap_or(0);
        let rows = self.report.tables[place].rows;
        self.shown.show(|| format!("comparing table {name}: {rows} rows"));
        self.report.more_unsettled += left_out;
        let new = keys.into_iter().map(|key| Candidate { table: place, key, seen: vec![] });
        let mut new: Vec<Candidate> = new.collect();
        self.look(&mut new)?;
        self.waiting.append(&mut new);
        if self.waiting.len() >= WAITING {
            self.settle()?;
        }
        if self.report.tables[place].more {
            return Ok(None);
        }
        Ok(until)
    }

    fn settle_all(&mut self) -> Result<(), Error> {
        for _ in 0..=LOSSES {
            match self.settle() {
                Ok(()) => return Ok(()),
                Err(Broken::Failed(error)) => return Err(error),
                Err(Broken::Lost(peer, why)) => self.lose(peer, why),
                Err(Broken::Changed) => {}
            }
            if self.peers.len() < 2 {
                return Ok(());
            }
        }
        Err(Error::waiting("the nodes fall silent, or their tables change: look again later"))
    }

    /// Lets the daemons know what a comparison of everything came to, for their health and metrics.
    fn tell(&self) {
        if self.scope.table.is_some() {
            return;
        }
        let more = self.report.tables.iter().filter(|table| table.more).count() as u64;
        let told = Told { differences: self.report.differences() + more, text: self.report.summary() };
        if let Err(error) = self.caller.tell(&subject_of_results(self.caller.config()), &told.encode()) {
            log::debug!("result of a comparison: {error}");
        }
    }
}
