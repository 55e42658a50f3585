//! The convergence rules: what to do with one event, decided from facts about it. No database, no broker, no time.
//!
//! Invariant: after a node has folded a stream up to n, every row that is not touched equals S(n), the state made by
//! folding events 1..n in order. A touched row may hold anything, for its state will be published.

/// What is known about an event when it is to be folded.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The event's change-log id at its origin, and the highest id folded from that origin in this stream; `None` for
    /// events without origin (Go nodes), which are always folded.
    pub order: Option<Order>,
    /// Published by this node and this incarnation of its database.
    pub own: bool,
    /// The row is gone.
    pub tombstone: bool,
    /// The log holds the event's key.
    pub touched: bool,
    /// The log holds the event's key with an id not above the event's.
    pub unsettled: bool,
    /// For each row that collides with the image in a UNIQUE index (other than the key's): whether the log holds its key.
    pub collisions: Vec<bool>,
}

/// Where an event stands among those of its origin.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The event's id.
    pub id: i64,
    /// The highest id folded.
    pub folded: i64,
}

/// What happens to the event's own row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// Nothing: ours is later in the order and will win.
    Keep,
    /// The image is written.
    Write,
    /// The row is deleted.
    Delete,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The event counts as folded: its id becomes its origin's highest.
    pub fold: bool,
    /// Collisions that are not touched are deleted: S loses them too.
    pub delete_collisions: bool,
    /// The event's own row.
    pub row: Row,
    /// Log the event's key as touched, under a new id.
    pub touch: bool,
    /// Remove the log entries of the event's key up to its id.
    pub settle: bool,
}

const NOTHING: Plan =
    Plan { fold: false, delete_collisions: false, row: Row::Keep, touch: false, settle: false };

/// The rules.
pub fn decide(facts: &Facts) -> Plan {
    if facts.order.is_some_and(|order| order.id <= order.folded) {
        // A duplicate or a straggler of a broken connection: nobody folds it. If it is ours and was never settled, it
        // reached the stream out of order; its state must be published again under an id that rises.
        let lost = facts.own && facts.unsettled;
        return Plan { touch: lost, settle: lost, ..NOTHING };
    }
    let blocked = facts.collisions.contains(&true);
    let (row, touch) = match (facts.touched, blocked, facts.tombstone) {
        (true, _, _) => (Row::Keep, false),
        (false, true, _) => (Row::Delete, true),
        (false, false, true) => (Row::Delete, false),
        (false, false, false) => (Row::Write, false),
    };
    Plan { fold: true, delete_collisions: true, row, touch, settle: facts.own }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
