//! A node that found the stored snapshot too old asks for a fresh one: by a key beside the leases, which a leader sees even
//! if there is none at the moment.

use crate::base::clock;
use crate::cluster::lease;
use crate::model::positions::SeqMap;
use crate::nats::{Error, JetStream, Kv};
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
    /// Both requests in one. That an earlier one was served does no harm: the snapshot that served it serves it still.
    fn and(&self, earlier: Option<Wanted>) -> Wanted {
        let Some(earlier) = earlier else { return self.clone() };
        let mut both = self.clone();
        for (stream, seq) in earlier.positions {
            let needed = both.positions.entry(stream).or_default();
            *needed = seq.max(*needed);
        }
        if both.instead_of.is_empty() {
            both.instead_of = earlier.instead_of;
        }
        both
    }

    fn encode(&self) -> Vec<u8> {
        let value = json!({
            "node_id": self.node_id, "positions": self.positions, "instead_of": self.instead_of,
            "minute": clock::unix_ms() / 60_000,
        });
        value.to_string().into_bytes()
    }

    /// Whether a snapshot serves.
    pub fn is_served_by(&self, stored: &Stored) -> bool {
        let reaches = |(stream, seq): (&String, &u64)| {
            stored.label.positions.get(stream).is_some_and(|have| have >= seq)
        };
        (self.instead_of.is_empty() || self.instead_of != stored.identity())
            && self.positions.iter().all(reaches)
    }
}

/// Asks; false when the same was asked within this minute. What others asked for stays asked for: there is one key.
pub fn ask(js: &JetStream, replicas: u64, wanted: &Wanted) -> Result<bool, Error> {
    let kv = Kv::open(js, lease::BUCKET, replicas)?;
    let mut tries = 0;
    loop {
        let entry = kv.get(KEY)?;
        let before = entry.as_ref().and_then(|entry| entry.value.as_deref());
        let value = wanted.and(before.and_then(decode)).encode();
        if before == Some(value.as_slice()) {
            return Ok(false);
        }
        tries += 1;
        match kv.update(KEY, &value, entry.as_ref().map_or(0, |entry| entry.revision)) {
            Ok(_) => return Ok(true),
            // Another node asked at the same moment.
            Err(Error::Conflict(_)) if tries < 5 => {}
            Err(error) => return Err(error),
        }
    }
}

/// What was asked last; an unreadable request asks for nothing.
pub fn asked(js: &JetStream, replicas: u64) -> Result<Option<Wanted>, Error> {
    let Some(entry) = Kv::open(js, lease::BUCKET, replicas)?.get(KEY)? else { return Ok(None) };
    let wanted = entry.value.as_deref().and_then(decode);
    Ok(wanted.map(|wanted| Wanted { revision: entry.revision, ..wanted }))
}

fn decode(value: &[u8]) -> Option<Wanted> {
    let value: serde_json::Value = serde_json::from_slice(value).ok()?;
    let positions = value["positions"].as_object()?;
    Some(Wanted {
        revision: 0,
        node_id: value["node_id"].as_u64().unwrap_or(0),
        positions: positions.iter().filter_map(|(name, seq)| Some((name.clone(), seq.as_u64()?))).collect(),
        instead_of: value["instead_of"].as_str().unwrap_or_default().to_owned(),
    })
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
        // A node finds it damaged, another one too old: one that is both fresh and another serves.
        let both = Wanted { positions: map(&[("a", 5)]), ..Wanted::default() }.and(Some(Wanted {
            instead_of: "x".into(),
            positions: map(&[("a", 3)]),
            ..Wanted::default()
        }));
        assert!(!both.is_served_by(&label(&[("a", 9)])));
        let fresh = |seq| Stored {
            label: Label { digest: "y".into(), positions: map(&[("a", seq)]), ..Label::default() },
            ..label(&[])
        };
        assert!(both.is_served_by(&fresh(5)) && !both.is_served_by(&fresh(4)));
        assert_eq!(decode(&both.encode()), Some(both));
        // A Go node's has no digest, and is told by its size.
        let theirs = Stored { label: Label::default(), ..label(&[]) };
        let instead = Wanted { instead_of: theirs.identity(), ..Wanted::default() };
        assert!(
            !instead.is_served_by(&theirs) && instead.is_served_by(&Stored { size: 2, ..theirs.clone() })
        );
    }
}
