//! A node for which the stored snapshot does not serve asks for another one: by a key that a leader sees even if there is no
//! leader at the moment.

use super::{Bucket, Entry, Key};
use crate::base::{clock, limits};
use crate::model::positions::SeqMap;
use crate::nats::Error;
use crate::storage::Stored;
use serde_json::{Value, json};

/// `{"node_id": 3, "positions": {"<stream>": 120}, "instead_of": "<identity>", "minute": 29925435}`: the lowest positions that
/// are of use, a snapshot that is not, and when it was asked, so that a later request is another one.
const WANTED: Key<'static, Wanted> = Key {
    name: "snapshot-wanted",
    encode: |wanted| {
        let value = json!({
            "node_id": wanted.node_id, "positions": wanted.positions, "instead_of": wanted.instead_of, "minute": wanted.minute,
        });
        value.to_string().into_bytes()
    },
    decode: |bytes| {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let positions = value["positions"].as_object()?;
        Some(Wanted {
            node_id: value["node_id"].as_u64().unwrap_or(0),
            positions: positions
                .iter()
                .filter_map(|(name, seq)| Some((name.clone(), seq.as_u64()?)))
                .take(limits::SHARDS)
                .collect(),
            instead_of: value["instead_of"].as_str().unwrap_or_default().chars().take(200).collect(),
            minute: value["minute"].as_i64().unwrap_or(0),
        })
    },
};

/// What a node asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The node that asked last.
    pub node_id: u64,
    /// Positions from which the streams go on without a gap.
    pub positions: SeqMap,
    /// [`Stored::identity`] of a snapshot that is of no use; empty: any other reason.
    pub instead_of: String,
    /// Unix minutes of the request.
    minute: i64,
}

impl Wanted {
    /// A request of this minute.
    pub fn new(node_id: u64, positions: SeqMap, instead_of: String) -> Wanted {
        Wanted { node_id, positions, instead_of, minute: clock::unix_ms() / 60_000 }
    }

    /// Both requests in one. It does no harm when the earlier one was served already: the snapshot that served it serves it
    /// still.
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

    /// Whether both ask for the same in the same minute, whoever asks.
    fn asks_the_same(&self, other: &Wanted) -> bool {
        (self.minute, &self.positions, &self.instead_of)
            == (other.minute, &other.positions, &other.instead_of)
    }

    /// The same request without positions for which `is_there` says that no snapshot can reach them.
    pub fn retain(
        &self,
        mut is_there: impl FnMut(&str, u64) -> Result<bool, Error>,
    ) -> Result<Wanted, Error> {
        let mut kept = SeqMap::new();
        for (stream, seq) in &self.positions {
            if is_there(stream, *seq)? {
                kept.insert(stream.clone(), *seq);
            }
        }
        Ok(Wanted { positions: kept, ..self.clone() })
    }

    /// Whether a snapshot serves.
    pub fn is_served_by(&self, stored: &Stored) -> bool {
        let reaches = |(stream, seq): (&String, &u64)| {
            stored.label.positions.get(stream).is_some_and(|have| have >= seq)
        };
        stored.refused().is_none()
            && (self.instead_of.is_empty() || self.instead_of != stored.identity())
            && self.positions.iter().all(reaches)
    }
}

/// Asks; false when the same was asked within this minute. There is one key, so requests are merged: what others asked for
/// stays asked for.
pub fn ask(bucket: &Bucket, wanted: &Wanted) -> Result<bool, Error> {
    bucket.change(&WANTED, |before| {
        let both = wanted.and(before.clone());
        let known = before.is_some_and(|before| before.asks_the_same(&both));
        (!known).then_some(both)
    })
}

/// What was asked last, and the revision that tells this request from the next; an unreadable request asks for nothing. The outer
/// `None`: the same as at the last look.
pub fn asked(bucket: &Bucket) -> Result<Option<Option<(u64, Wanted)>>, Error> {
    let Some(Entry { revision, value }) = bucket.look(&WANTED)? else { return Ok(None) };
    Ok(Some(value.map(|wanted| (revision, wanted))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Label, Seal};

    #[test]
    fn mutants_of_requests_ask_for_nothing_or_for_a_bounded_thing_that_is_read_the_same_again() {
        let positions = |count: u64| (0..count).map(|n| (format!("stream-{n}"), n)).collect();
        let valid = [(3, 2, "SHA-256=x"), (u64::MAX, 64, ""), (0, 0, "y")].map(|(node, count, instead)| {
            (WANTED.encode)(&Wanted::new(node, positions(count), instead.to_owned()))
        });
        crate::base::mutants::each("requests for snapshots", &valid, |mutant| {
            let Some(wanted) = (WANTED.decode)(mutant) else { return };
            assert!(wanted.positions.len() <= limits::SHARDS && wanted.instead_of.chars().count() <= 200);
            assert_eq!((WANTED.decode)(&(WANTED.encode)(&wanted)).as_ref(), Some(&wanted));
            assert!(wanted.and(Some(wanted.clone())).asks_the_same(&wanted));
        });
    }

    #[test]
    fn what_serves() {
        let map =
            |pairs: &[(&str, u64)]| -> SeqMap { pairs.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect() };
        let label = |pairs: &[(&str, u64)]| Stored {
            name: "snapshot.db".into(),
            size: 1,
            version: "v".into(),
            label: Label { positions: map(pairs), digest: "x".into(), ..Label::default() },
            ..Stored::default()
        };
        let wanted = Wanted { positions: map(&[("a", 5), ("b", 0)]), ..Wanted::default() };
        assert!(wanted.is_served_by(&label(&[("a", 5), ("b", 1)])));
        assert!(!wanted.is_served_by(&label(&[("a", 4), ("b", 1)])));
        assert!(!wanted.is_served_by(&label(&[("a", 9)])));
        assert!(!Wanted { instead_of: "x".into(), ..Wanted::default() }.is_served_by(&label(&[])));
        let refused = Stored { seal: Seal::Refused("forged".into()), ..label(&[("a", 5), ("b", 1)]) };
        assert!(!wanted.is_served_by(&refused) && !Wanted::default().is_served_by(&refused));
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
        assert_eq!((WANTED.decode)(&(WANTED.encode)(&both)), Some(both.clone()));
        // Two nodes that wait for the same do not take turns in asking for it.
        let again = Wanted { node_id: 9, ..both.clone() };
        assert!(again.and(Some(both.clone())).asks_the_same(&both));
        assert!(!Wanted { minute: 1, ..both.clone() }.asks_the_same(&both));
        // What no snapshot can reach is not waited for.
        let absurd =
            Wanted { positions: map(&[("a", 5), ("b", 1 << 63), ("other", 1)]), ..Wanted::default() };
        let possible = absurd.retain(|stream, seq| Ok(stream != "other" && seq < 100)).unwrap();
        assert_eq!(possible.positions, map(&[("a", 5)]));
        // A Go node's has no digest, and is told by its size.
        let theirs = Stored { label: Label::default(), ..label(&[]) };
        let instead = Wanted { instead_of: theirs.identity(), ..Wanted::default() };
        assert!(
            !instead.is_served_by(&theirs) && instead.is_served_by(&Stored { size: 2, ..theirs.clone() })
        );
    }
}
