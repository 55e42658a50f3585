//! The convergence rules: what to do with one event, decided from facts about it. This is the only place that decides. It
//! knows no database, no broker and no time.
//!
//! The invariant that the rules keep: after a node has folded a stream up to message n, every row that is not touched equals
//! S(n), the state that results from folding messages 1 to n in order. A touched row may hold anything, because its state
//! will be published.

use std::fmt;

/// What is known about an event before it is folded. `Default` describes an event of somebody else, without origin, that
/// writes a row which nothing stands against.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `None` for an event without origin (published by the Go program): it is always folded.
    pub order: Option<Order>,
    /// This database published the event, under its present incarnation.
    pub own: bool,
    /// The event is own and the change log holds nothing that it can come from: the database is an older copy.
    pub unlogged: bool,
    /// The event says that the row is gone.
    pub tombstone: bool,
    /// The change log holds the event's key.
    pub touched: bool,
    /// The change log holds the event's key with an id not above the event's.
    pub unsettled: bool,
    /// One item for each local row that has a value of the image in a UNIQUE index (the primary key's aside) and another
    /// key: whether the change log holds that row's key.
    pub collisions: Vec<bool>,
}

/// Where an event stands among those of its origin.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The event's change-log id at its origin.
    pub id: i64,
    /// The highest id that was folded from this origin in this stream.
    pub folded: i64,
}

impl Order {
    /// The event is a duplicate, or a straggler of a broken connection that was overtaken by a later event.
    pub fn is_passed(self) -> bool {
        self.id <= self.folded
    }
}

impl Facts {
    /// Whether [`Facts::collisions`] can change the plan. Whoever gathers facts need not look for collisions otherwise.
    pub fn need_collisions(&self) -> bool {
        !self.tombstone && !self.is_passed()
    }

    fn is_passed(&self) -> bool {
        self.order.is_some_and(Order::is_passed)
    }
}

/// What happens to the event's own row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// It stays as it is.
    Keep,
    /// It gets the event's image.
    Write,
    /// It is deleted.
    Delete,
}

/// Why the plan is what it is: what is kept or lost, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The row is as the event says.
    Folded,
    /// The same, and local rows that had the image's UNIQUE values are deleted.
    Displaced,
    /// An event of ours came back. The row holds it already, or something later.
    Echo,
    /// The application has written this row since. Its write is later in the order and wins.
    OursIsLater,
    /// A row that the application has written holds a UNIQUE value of the image. The event's row is given up, and that is
    /// published.
    Blocked,
    /// The event was folded before, or overtaken by a later one of its origin.
    Duplicate,
    /// The same with an event of ours that nobody folded: its row is logged again, to be published under a new id.
    OwnStraggler,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Folded => "folded",
            Reason::Displaced => "folded, and the rows that held its unique values are deleted",
            Reason::Echo => "our own event came back",
            Reason::OursIsLater => "the application has written the row since, and its write wins",
            Reason::Blocked => {
                "given up: a row that the application has written holds one of its unique values"
            }
            Reason::Duplicate => "left out: a duplicate, or overtaken by a later event of its origin",
            Reason::OwnStraggler => {
                "left out: overtaken by a later event of ours; its row is published again"
            }
        })
    }
}

/// What to do with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The event counts as folded: its id becomes the highest of its origin.
    pub fold: bool,
    /// Indexes into [`Facts::collisions`] of the rows that are deleted.
    pub displace: Vec<usize>,
    /// What happens to the event's own row.
    pub row: Row,
    /// The event's key is logged as touched, under a new id.
    pub touch: bool,
    /// The log entries of the event's key up to the event's id are removed.
    pub settle: bool,
    /// The database publishes under a new incarnation from now on.
    pub new_incarnation: bool,
    /// Why.
    pub reason: Reason,
}

/// The rules.
pub fn decide(facts: &Facts) -> Plan {
    if facts.is_passed() {
        // Every node has folded something later of this origin, so no node may fold this event. If it is ours and was never
        // settled, nobody has seen its row: the row must be published again under an id that rises.
        let lost = facts.own && facts.unsettled;
        let reason = if lost { Reason::OwnStraggler } else { Reason::Duplicate };
        return Plan {
            fold: false,
            displace: vec![],
            row: Row::Keep,
            touch: lost,
            settle: lost,
            new_incarnation: false,
            reason,
        };
    }
    // An older copy of the database gives ids again that others have folded. Under a new incarnation its ids begin anew, and
    // what it had published before is for it an event of somebody else.
    let new_incarnation = facts.own && facts.unlogged;
    let own = facts.own && !new_incarnation;
    // S loses every row that collides with the image. Only a touched one stays, because its state is published later.
    let displace: Vec<usize> = (0..facts.collisions.len()).filter(|at| !facts.collisions[*at]).collect();
    let blocked = displace.len() < facts.collisions.len();
    let (row, touch, reason) = match (facts.touched, blocked, facts.tombstone) {
        // Ours is later in the order, or is this very event.
        (true, _, _) => (Row::Keep, false, if own { Reason::Echo } else { Reason::OursIsLater }),
        // Both rows cannot be. The touched one will be published and win; that this one is gone must be published too, for
        // other nodes have folded it.
        (false, true, _) => (Row::Delete, true, Reason::Blocked),
        (false, false, true) => (Row::Delete, false, Reason::Folded),
        (false, false, false) if displace.is_empty() => (Row::Write, false, Reason::Folded),
        (false, false, false) => (Row::Write, false, Reason::Displaced),
    };
    Plan { fold: true, displace, row, touch, settle: own, new_incarnation, reason }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
