//! When a row differs between nodes, and when it is only on its way.
//!
//! Nodes stand at different places of the streams, and their applications write while they are compared. A node can be asked for a
//! [`Sight`] of a row: what the row is there, whether the node's change log holds it, and the node's checkpoints, all of one read
//! transaction. Whoever compares takes a sight from each node, *then* looks how far the streams reach, and reads which
//! rows the messages between the lowest checkpoint and that end speak of.
//!
//! The rule: a row differs if its sights are not the same, no node's log holds it, and none of those messages speaks of it.
//!
//! Why no row on its way is called different: a row that a node's log does not hold is what the stream makes of it up to a
//! place where that node has read. That place is not before the node's checkpoint (a checkpoint never lies after the first
//! part of a set that is still open), and not after the end that was looked up later. Between the two no message
//! speaks of the row, so the stream makes the same of it at all those places, and the nodes would have to show the same.
//!
//! Why each difference is found that is there from the beginning of the comparison to its end: the sights of such a row are never the
//! same, so it never counts as equal; and as soon as its last event has come everywhere, nothing excuses it. One whose application
//! goes on writing it is reported as unsettled; its next event makes it the same everywhere.
//!
//! "Speaks of" includes a row that has a UNIQUE value of a row that a message brings: that one is removed without being named.

/// A row, a set of rows, or their digest, as one number: equal rows have equal numbers on all nodes.
pub type Print = u128;

/// What one node says about one row, in one read transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// `None`: there is no such row.
    pub row: Option<Print>,
    /// The node's change log holds it.
    pub touched: bool,
    /// Events of it are set aside there.
    pub waits: bool,
}

/// What the sights of one row come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    Differs,
    /// It may be on its way: to be looked at again.
    Unsettled,
}

/// Judges one row. `spoken_of`: a message between the lowest checkpoint and an end of the streams that was looked up
/// after the sights speaks of it; or it is not known.
pub fn judge<'a>(sights: impl IntoIterator<Item = &'a Sight> + Clone, spoken_of: bool) -> Verdict {
    if is_same(sights.clone()) {
        Verdict::Same
    } else if spoken_of || sights.into_iter().any(|sight| sight.touched) {
        Verdict::Unsettled
    } else {
        Verdict::Differs
    }
}

/// Whether all nodes show the same.
pub fn is_same<'a>(sights: impl IntoIterator<Item = &'a Sight>) -> bool {
    let mut rows = sights.into_iter().map(|sight| sight.row);
    let first = rows.next();
    rows.all(|row| Some(row) == first)
}

#[cfg(test)]
#[path = "agree_tests.rs"]
mod tests;
