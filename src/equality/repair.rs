//! Making rows equal: a node that has the row as it is to be publishes it again, as if its application had just written it, and
//! all others take it over by the usual rules.

use super::ask::{Caller, Peer};
use super::candidates::ask;
use super::comparing::{Comparing, Scope};
use super::report::{Difference, Repaired, Report};
use super::wire::{Answer, Ask};
use crate::base::error::{Error, Kind};
use crate::base::stop::Stop;
use crate::config::Config;
use crate::db::equality::{Key, Wanted};
use crate::model::agree::Print;
use crate::nats::Connection;
use std::time::{Duration, Instant};

/// Rows that are published in one transaction of a node.
const ROWS: usize = 100;
/// Time for repaired rows to come everywhere.
const ARRIVAL: Duration = Duration::from_secs(30);
/// Pause between two looks whether they have.
const LOOK: Duration = Duration::from_millis(200);

/// Whose rows are right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// Those of more than half of the nodes that were compared.
    #[default]
    Majority,
    /// Those of the node that makes the snapshots.
    Leader,
    Node(u64),
}

/// A row and the node whose state it gets.
struct Order {
    table: usize,
    key: Key,
    right: Option<Print>,
    /// The node that publishes it, or why none does.
    by: By,
}

#[derive(PartialEq, Eq)]
enum By {
    Peer(usize),
    /// And why.
    Nobody(String),
}

/// Compares, and makes equal what differs. With `try_only` it only says what it would do.
pub fn repair(
    config: &Config,
    connection: &Connection,
    stop: &Stop,
    (scope, side, try_only): (&Scope, Side, bool),
) -> Result<(Report, Vec<Repaired>), Error> {
    let mut comparing = Comparing::run(Caller::new(config, connection, stop), scope)?;
    check_side(&comparing.peers, side)?;
    let orders = orders(&comparing, side);
    let mut done = vec![];
    for chunk in chunks(&orders) {
        done.extend(comparing.carry_out(chunk, try_only)?);
    }
    Ok((comparing.report, done))
}

fn check_side(peers: &[Peer], side: Side) -> Result<(), Error> {
    let is_there = match side {
        Side::Majority => true,
        Side::Leader => peers.iter().any(|peer| peer.leads),
        Side::Node(node) => peers.iter().any(|peer| peer.node == node),
    };
    if is_there {
        return Ok(());
    }
    let who = match side {
        Side::Node(node) => format!("node {node}"),
        _ => "a leader".to_owned(),
    };
    Err(Error::new(Kind::Waiting, format!("{who} is not among the nodes that were compared")))
}

/// What is to be done, row by row.
fn orders(comparing: &Comparing<'_>, side: Side) -> Vec<Order> {
    let tables = comparing.report.tables.iter().enumerate();
    let orders =
        tables.flat_map(|(table, of)| of.differences.iter().map(move |difference| (table, difference)));
    orders
        .map(|(table, difference)| {
            let (right, by) = match right(&comparing.peers, difference, side) {
                Some(right) => (right, publisher(&comparing.peers, difference, right)),
                None => (None, By::Nobody("no more than half of the nodes have the same".to_owned())),
            };
            Order { table, key: difference.key.clone(), right, by }
        })
        .collect()
}

/// What the row should be; the inner `None`: it should be gone.
fn right(peers: &[Peer], difference: &Difference, side: Side) -> Option<Option<Print>> {
    let of = |wanted: &dyn Fn(&Peer) -> bool| {
        let node = peers.iter().find(|peer| wanted(peer))?.node;
        difference.sights.iter().find(|(of, _)| *of == node).map(|(_, sight)| sight.row)
    };
    match side {
        Side::Node(node) => of(&|peer| peer.node == node),
        Side::Leader => of(&|peer| peer.leads),
        Side::Majority => {
            let groups = difference.groups();
            let (row, nodes) = groups.first()?;
            (nodes.len() * 2 > difference.sights.len()).then_some(*row)
        }
    }
}

/// Who publishes the row: a node that has it so.
fn publisher(peers: &[Peer], difference: &Difference, right: Option<Print>) -> By {
    let waits = difference.waits_on();
    if !waits.is_empty() {
        let nodes: Vec<String> = waits.iter().map(u64::to_string).collect();
        return By::Nobody(format!(
            "events of it are set aside on node {}: see -set-aside there",
            nodes.join(", ")
        ));
    }
    let has =
        |peer: &Peer| difference.sights.iter().any(|(node, sight)| *node == peer.node && sight.row == right);
    let found = peers.iter().position(|peer| peer.publishes && has(peer));
    found.map_or_else(|| By::Nobody("no node that publishes has it so".to_owned()), By::Peer)
}

/// Rows of one table with one publisher follow each other.
fn chunks(orders: &[Order]) -> impl Iterator<Item = &[Order]> {
    orders.chunk_by(|a, b| a.table == b.table && a.by == b.by).flat_map(|same| same.chunks(ROWS))
}

impl Comparing<'_> {
    fn carry_out(&mut self, orders: &[Order], try_only: bool) -> Result<Vec<Repaired>, Error> {
        let Some(first) = orders.first() else { return Ok(vec![]) };
        let peer = match &first.by {
            By::Peer(peer) => *peer,
            By::Nobody(why) => return Ok(self.said(orders, None, |_| why.clone())),
        };
        if try_only {
            return Ok(self.said(orders, Some(peer), |_| String::new()));
        }
        let wanted = self.wanted(orders);
        let expected = orders.iter().map(|order| order.right).collect();
        let answer = ask(&mut self.caller, &self.peers, vec![(peer, Ask::Publish(wanted, expected))]);
        let whys = match answer.map(|mut answers| answers.pop()) {
            Ok(Some(Answer::Published(whys))) if whys.len() == orders.len() => whys,
            Err(super::candidates::Broken::Failed(error)) => return Err(error),
            Err(super::candidates::Broken::Lost(_, why)) => vec![why; orders.len()],
            _ => vec!["its table has changed".to_owned(); orders.len()],
        };
        let arrived = self.arrived(orders, &whys)?;
        Ok(self.said(orders, Some(peer), |place| match (whys[place].as_str(), arrived[place]) {
            ("", true) => String::new(),
            ("", false) => "it was published, and is not the same everywhere yet".to_owned(),
            (why, _) => why.to_owned(),
        }))
    }

    fn said(&self, orders: &[Order], by: Option<usize>, why_not: impl Fn(usize) -> String) -> Vec<Repaired> {
        let by = by.map(|peer| self.peers[peer].node);
        let table = |order: &Order| self.report.tables[order.table].name.clone();
        let said = orders.iter().enumerate().map(|(place, order)| Repaired {
            table: table(order),
            key: order.key.clone(),
            by,
            why_not: why_not(place),
        });
        said.collect()
    }

    fn wanted(&self, orders: &[Order]) -> Wanted {
        let table = orders[0].table;
        Wanted {
            table: self.report.tables[table].name.clone(),
            definition: self.definitions[table],
            seed: self.seed,
            keys: orders.iter().map(|order| order.key.clone()).collect(),
        }
    }

    /// Waits until the rows that were published are the same everywhere.
    fn arrived(&mut self, orders: &[Order], whys: &[String]) -> Result<Vec<bool>, Error> {
        let until = Instant::now() + ARRIVAL;
        let wanted = self.wanted(orders);
        let mut same = vec![false; orders.len()];
        while Instant::now() < until && same.iter().zip(whys).any(|(same, why)| !same && why.is_empty()) {
            if self.caller.stop().wait(LOOK) {
                return Err(Error::stopped());
            }
            let questions: Vec<(&Peer, Ask)> =
                self.peers.iter().map(|peer| (peer, Ask::Sights(wanted.clone()))).collect();
            let answers = self.caller.ask_all(&questions)?;
            let rows = |place: usize| {
                answers.iter().map(move |answer| match answer {
                    Some(Answer::Sights(sights)) => sights.rows.get(place).map(|seen| seen.sight.row),
                    _ => None,
                })
            };
            for (place, same) in same.iter_mut().enumerate() {
                let first = rows(place).next().flatten();
                *same |= first.is_some() && rows(place).all(|row| row == first);
            }
        }
        Ok(same)
    }
}
