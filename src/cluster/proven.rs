//! The last restore that was proven to work, told to every node.

use super::{Bucket, Key};
use crate::base::clock;
use crate::nats::Error;
use serde_json::{Value, json};

/// `{"node_id": 3, "digest": "SHA-256=...", "time": "2026-11-24T15:00:00.000Z", "messages": 12}`.
const PROVEN: Key<'static, Proof> = Key {
    name: "snapshot-proven",
    encode: |proof| {
        let time = clock::rfc3339(proof.time_ms);
        let value = json!({ "node_id": proof.node, "digest": proof.digest, "time": time, "messages": proof.messages });
        value.to_string().into_bytes()
    },
    decode: |bytes| {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        Some(Proof {
            node: value["node_id"].as_u64().unwrap_or(0),
            digest: value["digest"].as_str().unwrap_or_default().to_owned(),
            time_ms: value["time"].as_str().and_then(clock::parse)?,
            messages: value["messages"].as_u64().unwrap_or(0),
        })
    },
};

/// A restore on trial whose result was the live database, row by row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// The node that did it.
    pub node: u64,
    /// Digest of the snapshot that was restored.
    pub digest: String,
    /// Unix milliseconds by that node's clock.
    pub time_ms: i64,
    /// Messages that were replayed after the snapshot's position.
    pub messages: u64,
}

/// Tells all nodes of a proof. When two nodes tell at the same moment, one of the two proofs stays: each is as good.
pub fn tell(bucket: &Bucket, proof: &Proof) -> Result<(), Error> {
    let revision = bucket.get(&PROVEN)?.revision;
    match bucket.update(&PROVEN, proof, revision) {
        Ok(_) | Err(Error::Conflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The last proof that anybody told of.
pub fn told(bucket: &Bucket) -> Result<Option<Proof>, Error> {
    Ok(bucket.get(&PROVEN)?.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutants_of_proofs_are_none_or_are_read_the_same_again() {
        let valid = [(3, 1_795_526_100_000), (u64::MAX, 0)].map(|(node, time_ms)| {
            (PROVEN.encode)(&Proof { node, digest: "SHA-256=x".into(), time_ms, messages: u64::MAX })
        });
        // Years of four digits: others are read and not written.
        let written = 0..253_402_300_800_000;
        crate::base::mutants::each("proofs", &valid, |mutant| {
            if let Some(proof) = (PROVEN.decode)(mutant).filter(|proof| written.contains(&proof.time_ms)) {
                assert_eq!((PROVEN.decode)(&(PROVEN.encode)(&proof)), Some(proof));
            }
        });
    }

    #[test]
    fn proofs_and_back() {
        let proof = Proof { node: 3, digest: "SHA-256=x".into(), time_ms: 1_795_526_100_000, messages: 7 };
        let bytes = (PROVEN.encode)(&proof);
        assert_eq!((PROVEN.decode)(&bytes), Some(proof));
        assert_eq!((PROVEN.decode)(br#"{"digest":"x"}"#), None, "a proof without a time is none");
        assert_eq!((PROVEN.decode)(b"rubbish"), None);
    }
}
