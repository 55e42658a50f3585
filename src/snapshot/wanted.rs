//! A node that found the stored snapshot too old asks for a fresh one: by a key beside the leases, which a leader sees even
//! if there is none at the moment.

use crate::clock;
use crate::lease;
use crate::nats::{Error, JetStream, Kv};
use crate::seqmap::SeqMap;
use crate::storage::Stored;
use serde_json::json;

/// The key. Its value: `{"node_id": 3, "positions": {"<stream>": 120}, "instead_of": "<identity>", "minute": 29925435}`: the
/// lowest positions that are of use, a snapshot that is not, and when it was asked, so that a later request is another one.
const KEY: &str = "snapshot-wanted";

/// What a node asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of the key: tells one request from the next.
    pub revision: u64,
    /// Who asked.
    pub node_id: u64,
    /// Positions from which the streams go on without a gap.
    pub positions: SeqMap,
    /// [`Stored::identity`] of a snapshot that is of no use; empty: any other reason.
    pub instead_of: String,
}

impl Wanted {
    /// Whether a snapshot serves.
    pub fn is_served_by(&self, stored: &Stored) -> bool {
        let reaches = |(stream, seq): (&String, &u64)| {
            stored.label.positions.get(stream).is_some_and(|have| have >= seq)
        };
        (self.instead_of.is_empty() || self.instead_of != stored.identity())
            && self.positions.iter().all(reaches)
    }
}

/// Asks; false when the same was asked within this minute.
pub fn ask(js: &JetStream, replicas: u64, wanted: &Wanted) -> Result<bool, Error> {
    let kv = Kv::open(js, lease::BUCKET, replicas)?;
    let value = json!({
        "node_id": wanted.node_id, "positions": wanted.positions, "instead_of": wanted.instead_of,
        "minute": clock::unix_ms() / 60_000,
    });
    let value = value.to_string().into_bytes();
    let entry = kv.get(KEY)?;
    if entry.as_ref().is_some_and(|entry| entry.value.as_deref() == Some(value.as_slice())) {
        return Ok(false);
    }
    match kv.update(KEY, &value, entry.map_or(0, |entry| entry.revision)) {
        Ok(_) => Ok(true),
        // Another node asked at the same moment: the next look asks again if that did not serve.
        Err(Error::Conflict(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What was asked last; an unreadable request asks for nothing.
pub fn asked(js: &JetStream, replicas: u64) -> Result<Option<Wanted>, Error> {
    let Some(entry) = Kv::open(js, lease::BUCKET, replicas)?.get(KEY)? else { return Ok(None) };
    let value: serde_json::Value =
        serde_json::from_slice(&entry.value.unwrap_or_default()).unwrap_or_default();
    let Some(positions) = value["positions"].as_object() else { return Ok(None) };
    let positions = positions.iter().filter_map(|(name, seq)| Some((name.clone(), seq.as_u64()?))).collect();
    Ok(Some(Wanted {
        revision: entry.revision,
        node_id: value["node_id"].as_u64().unwrap_or(0),
        positions,
        instead_of: value["instead_of"].as_str().unwrap_or_default().to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Label;

    #[test]
    fn what_serves() {
        let map =
            |pairs: &[(&str, u64)]| -> SeqMap { pairs.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect() };
        let label = |pairs: &[(&str, u64)]| Stored {
            name: "snapshot.db".into(),
            size: 1,
            version: "v".into(),
            label: Label { positions: map(pairs), digest: "x".into(), ..Label::default() },
            other_labels: vec![],
        };
        let wanted = Wanted { positions: map(&[("a", 5), ("b", 0)]), ..Wanted::default() };
        assert!(wanted.is_served_by(&label(&[("a", 5), ("b", 1)])));
        assert!(!wanted.is_served_by(&label(&[("a", 4), ("b", 1)])));
        assert!(!wanted.is_served_by(&label(&[("a", 9)])));
        assert!(!Wanted { instead_of: "x".into(), ..Wanted::default() }.is_served_by(&label(&[])));
        // A Go node's has no digest, and is told by its size.
        let theirs = Stored { label: Label::default(), ..label(&[]) };
        let instead = Wanted { instead_of: theirs.identity(), ..Wanted::default() };
        assert!(
            !instead.is_served_by(&theirs) && instead.is_served_by(&Stored { size: 2, ..theirs.clone() })
        );
    }
}
