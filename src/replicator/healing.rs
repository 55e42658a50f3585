//! What a follower does when the broker has lost what nodes had read: it agrees with the others on a new epoch of the streams, and
//! compares its database with that of the node that leads into it. It follows the streams as they are now all the while.

use super::setup::Heal;
use crate::base::error::{Error, Kind};
use crate::base::{limits, once::Once};
use crate::cluster::epoch::{self, Come, Record};
use crate::cluster::{Bucket, lease};
use crate::config::Config;
use crate::db;
use crate::model::epoch::Epoch;
use std::time::{Duration, Instant};

/// Between two looks at the epoch.
pub struct Healing {
    next: Instant,
    /// The database has to compare itself.
    pending: bool,
    /// The record's revision, and since when it is so.
    record: Seen,
    /// The same of the leader's lease, which a leader that lives renews.
    lease: Seen,
    said: Once,
}

#[derive(Default)]
struct Seen(Option<(u64, Instant)>);

impl Seen {
    /// For how long the revision has been this one.
    fn unchanged(&mut self, revision: u64, now: Instant) -> Duration {
        if self.0.is_none_or(|(known, _)| known != revision) {
            self.0 = Some((revision, now));
        }
        self.0.map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(since))
    }
}

/// What a step works with.
pub struct Tools<'a> {
    pub config: &'a Config,
    pub bucket: &'a Bucket,
    pub database: &'a mut db::Applier,
    /// Compares the database with a snapshot; `None`: there are none.
    pub heal: Option<&'a mut Heal>,
    /// The database follows the streams.
    pub follows: bool,
}

/// What a step came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing that concerns the follower.
    Nothing,
    /// Others are in a later epoch: this database has to compare itself.
    Behind,
    /// The database is in the epoch now, as it is.
    Adopted,
    /// The same, and the others wait for a snapshot of it.
    Leads,
    /// The database was compared, and has the snapshot's state.
    Healed,
}

/// What to do about the record while the database has to compare itself.
#[derive(Debug, PartialEq, Eq)]
enum Move {
    Write(Record),
    /// The same, and this node leads.
    Lead(Record),
    Adopt,
    Compare,
    Wait,
}

impl Healing {
    pub fn new(pending: bool, now: Instant) -> Healing {
        let (record, lease) = (Seen::default(), Seen::default());
        Healing { next: now, pending, record, lease, said: Once::default() }
    }

    /// Whether the database has to compare itself.
    pub fn is_pending(&self) -> bool {
        self.pending
    }

    /// It has to from now on, or has not any more.
    pub fn set_pending(&mut self, pending: bool, now: Instant) {
        self.pending = pending;
        self.next = now;
        self.said.forget();
    }

    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// Until the next look.
    pub fn pause(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// One look at the epoch. The error says what is missing. [`Kind::Damaged`]: the database is.
    pub fn step(&mut self, tools: Tools<'_>, now: Instant) -> Result<Outcome, Error> {
        self.next = now + if self.pending { limits::EPOCH_STEP } else { limits::EPOCH_LOOK };
        let read = if self.pending { Some(epoch::read(tools.bucket)?) } else { epoch::look(tools.bucket)? };
        let Some((revision, record)) = read else { return Ok(Outcome::Nothing) };
        let (mine, standing) = tools.database.epoch()?;
        match standing {
            Some(standing) => self.heal(tools, (revision, record), come(mine, &standing), now),
            None => look(tools, (revision, &record), mine),
        }
    }

    fn heal(
        &mut self,
        mut tools: Tools<'_>,
        (revision, record): (u64, Record),
        come: Come,
        now: Instant,
    ) -> Result<Outcome, Error> {
        let node = Candidate { id: tools.config.node_id, may_lead: tools.config.makes_snapshots() };
        let unchanged = self.record.unchanged(revision, now);
        match decide(&record, &come, node, unchanged) {
            Move::Wait => Err(Error::waiting("the nodes find out which one had read most of what is lost")),
            Move::Write(record) => {
                epoch::write(tools.bucket, &record, revision)?;
                Err(Error::waiting("telling the others how far this node had read"))
            }
            Move::Lead(record) if epoch::write(tools.bucket, &record, revision)? => {
                log::warn!(
                    "this node had read most of what the broker lost: the others compare themselves with it"
                );
                adopt(&mut tools, record.epoch).map(|_| Outcome::Leads)
            }
            Move::Lead(_) => Err(Error::waiting("another node was faster")),
            Move::Adopt => adopt(&mut tools, record.epoch),
            Move::Compare if tools.heal.is_none() => {
                log::warn!(
                    "snapshots are disabled: rows that only other nodes had read before the broker lost them may be missing here, \
                     and rows that were deleted may still be here"
                );
                adopt(&mut tools, record.epoch)
            }
            Move::Compare => self.compare(tools, (revision, record), come, now),
        }
    }

    fn compare(
        &mut self,
        tools: Tools<'_>,
        (revision, record): (u64, Record),
        come: Come,
        now: Instant,
    ) -> Result<Outcome, Error> {
        let Tools { config, bucket, database, heal, .. } = tools;
        let Some(heal) = heal else { return Ok(Outcome::Nothing) };
        let generation = database.generation_in(record.epoch)?;
        let error = match heal(database, &generation) {
            Ok(()) => return Ok(Outcome::Healed),
            Err(error) if error.kind() == Kind::Damaged => return Err(error),
            Err(error) => error,
        };
        if config.makes_snapshots() && self.nobody_leads(config, bucket, now) {
            log::warn!("{error}; the node that was to lead is not there: going on without it");
            let nodes = [(config.node_id, come)].into();
            let next = Record { epoch: record.epoch.after(record.epoch), leader: 0, nodes };
            epoch::write(bucket, &next, revision)?;
        }
        Err(error.at(format!("node {} leads", record.leader)))
    }

    /// Whether no node has had the leader's lease for so long that none is whole.
    pub fn nobody_leads(&mut self, config: &Config, bucket: &Bucket, now: Instant) -> bool {
        let patience = limits::EPOCH_PATIENCE.max(config.snapshot.leader_ttl);
        lease::leaders_revision(bucket).is_ok_and(|revision| self.lease.unchanged(revision, now) >= patience)
    }

    /// Says what is missing, unless it was said before.
    pub fn say(&mut self, why: &str) {
        self.said.warn(why);
    }
}

/// A node that may lead into an epoch.
#[derive(Clone, Copy)]
struct Candidate {
    id: u64,
    /// Others can compare themselves with it.
    may_lead: bool,
}

/// `unchanged`: for how long the record has been this one.
fn decide(record: &Record, come: &Come, node: Candidate, unchanged: Duration) -> Move {
    let mine = come.epoch;
    if record.epoch.number <= mine.number {
        let nodes = node.may_lead.then(|| (node.id, come.clone())).into_iter().collect();
        return Move::Write(Record { epoch: mine.after(record.epoch), leader: 0, nodes });
    }
    if record.leader != 0 {
        let is_as_leader = record.leader == node.id || record.is_as_leader(come);
        return if is_as_leader { Move::Adopt } else { Move::Compare };
    }
    let has_room = record.nodes.len() < limits::EPOCH_NODES;
    if node.may_lead && has_room && record.nodes.get(&node.id) != Some(come) {
        let mut record = record.clone();
        record.nodes.insert(node.id, come.clone());
        return Move::Write(record);
    }
    let farthest = record.farthest();
    if farthest == Some(node.id) && unchanged >= limits::EPOCH_GATHER {
        return Move::Lead(Record { leader: node.id, ..record.clone() });
    }
    // The one that had come farthest is not there any more.
    if let Some(gone) = farthest.filter(|_| unchanged >= limits::EPOCH_GATHER * 5 && node.may_lead) {
        let mut record = record.clone();
        record.nodes.remove(&gone);
        return Move::Write(record);
    }
    // Without any node that makes snapshots, nobody can be compared with.
    if record.nodes.is_empty() && !node.may_lead && unchanged >= limits::EPOCH_GATHER {
        return Move::Compare;
    }
    Move::Wait
}

fn come(epoch: Epoch, standing: &str) -> Come {
    let (sum, digest) = standing.split_once(' ').unwrap_or_default();
    Come { epoch, sum: sum.parse().unwrap_or(0), digest: digest.to_owned() }
}

fn adopt(tools: &mut Tools<'_>, epoch: Epoch) -> Result<Outcome, Error> {
    tools.database.adopt_epoch(epoch)?;
    Ok(Outcome::Adopted)
}

/// The look of a node that has nothing to compare.
fn look(mut tools: Tools<'_>, (revision, record): (u64, &Record), mine: Epoch) -> Result<Outcome, Error> {
    if record.epoch == mine {
        return Ok(Outcome::Nothing);
    }
    if !tools.follows {
        return adopt(&mut tools, record.epoch);
    }
    if record.epoch.number >= mine.number {
        return Ok(Outcome::Behind);
    }
    // The broker has lost the record, and nothing else, or has an older one.
    if tools.config.makes_snapshots() {
        let nodes = std::collections::BTreeMap::new();
        epoch::write(tools.bucket, &Record { epoch: mine, leader: tools.config.node_id, nodes }, revision)?;
    }
    Ok(Outcome::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Candidate = Candidate { id: 2, may_lead: true };
    const LONG: Duration = Duration::from_secs(100);

    fn at(number: u64) -> Epoch {
        Epoch { number, id: number }
    }

    fn stood(sum: u64) -> Come {
        come(at(3), &format!("{sum} d{sum}"))
    }

    fn record(number: u64, leader: u64, nodes: &[(u64, Come)]) -> Record {
        Record { epoch: at(number), leader, nodes: nodes.iter().cloned().collect() }
    }

    #[test]
    fn the_first_one_begins_an_epoch_and_an_old_record_is_none() {
        for known in [record(0, 0, &[]), record(3, 2, &[]), record(2, 1, &[(1, stood(9))])] {
            let Move::Write(begun) = decide(&known, &stood(5), WHO, LONG) else { panic!() };
            assert!(begun.epoch.number == 4 && begun.leader == 0);
            assert_eq!(begun.nodes, [(2, stood(5))].into());
        }
    }

    #[test]
    fn the_farthest_of_those_that_are_there_leads() {
        let known = record(4, 0, &[(1, stood(9))]);
        let Move::Write(told) = decide(&known, &stood(5), WHO, Duration::ZERO) else { panic!() };
        assert_eq!(told.nodes.len(), 2);
        assert_eq!(decide(&told, &stood(5), WHO, limits::EPOCH_GATHER), Move::Wait);
        let one = Candidate { id: 1, ..WHO };
        assert_eq!(decide(&told, &stood(9), one, Duration::ZERO), Move::Wait);
        let lead = decide(&told, &stood(9), one, limits::EPOCH_GATHER);
        assert_eq!(lead, Move::Lead(Record { leader: 1, ..told.clone() }));
        // It died before it led.
        let without = decide(&told, &stood(5), WHO, LONG);
        assert_eq!(without, Move::Write(record(4, 0, &[(2, stood(5))])));
    }

    #[test]
    fn who_had_the_same_needs_no_comparison() {
        let known = record(4, 1, &[(1, stood(9))]);
        assert_eq!(decide(&known, &stood(9), WHO, Duration::ZERO), Move::Adopt);
        assert_eq!(decide(&known, &stood(8), WHO, Duration::ZERO), Move::Compare);
        assert_eq!(decide(&record(4, 2, &[]), &stood(8), WHO, Duration::ZERO), Move::Adopt, "it leads");
    }

    #[test]
    fn a_node_that_makes_no_snapshots_does_not_lead() {
        let replica = Candidate { id: 2, may_lead: false };
        let Move::Write(begun) = decide(&record(0, 0, &[]), &stood(5), replica, LONG) else { panic!() };
        assert!(begun.nodes.is_empty());
        assert_eq!(decide(&record(4, 0, &[(1, stood(1))]), &stood(5), replica, LONG), Move::Wait);
        assert_eq!(decide(&record(4, 0, &[]), &stood(5), replica, LONG), Move::Compare);
    }

    #[test]
    fn a_revision_that_changes_counts_anew() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        assert_eq!(seen.unchanged(1, now), Duration::ZERO);
        assert_eq!(seen.unchanged(1, now + LONG), LONG);
        assert_eq!(seen.unchanged(2, now + LONG), Duration::ZERO);
    }
}
