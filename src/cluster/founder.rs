//! The founder of a cluster: the first node that wrote the key `founder`. Its rows are the cluster's first state; every other
//! database that never followed the streams joins.

use super::{Bucket, Entry, Key};
use crate::nats::Error;
use serde_json::{Value, json};

/// The founder's node id, as `{"node_id": 3}`.
const FOUNDER: Key<'static, u64> = Key {
    name: "founder",
    encode: |node| json!({ "node_id": node }).to_string().into_bytes(),
    decode: |bytes| serde_json::from_slice::<Value>(bytes).ok()?["node_id"].as_u64(),
};

/// The founder; `None`: nobody has founded the cluster.
pub fn founder(bucket: &Bucket) -> Result<Option<u64>, Error> {
    Ok(bucket.get(&FOUNDER)?.value)
}

/// Makes sure that the cluster has a founder, this node if there is none yet; returns who it is. A member that claims it for
/// a cluster whose key was lost is as good as the first one.
pub fn claim(bucket: &Bucket, node: u64) -> Result<u64, Error> {
    let Entry { revision, value } = bucket.get(&FOUNDER)?;
    if let Some(founder) = value {
        return Ok(founder);
    }
    match bucket.update(&FOUNDER, &node, revision) {
        Ok(_) => Ok(node),
        Err(Error::Conflict(_)) => Ok(founder(bucket)?.unwrap_or(node)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutants_of_founders_name_nobody_or_the_same_again() {
        let valid = [0, 3, u64::MAX].map(|node| (FOUNDER.encode)(&node));
        crate::base::mutants::each("founders", &valid, |mutant| {
            if let Some(node) = (FOUNDER.decode)(mutant) {
                assert_eq!((FOUNDER.decode)(&(FOUNDER.encode)(&node)), Some(node));
            }
        });
    }

    #[test]
    fn the_value_names_the_node() {
        assert_eq!((FOUNDER.encode)(&3), br#"{"node_id":3}"#);
        assert_eq!((FOUNDER.decode)(br#"{"node_id":3,"since":"later versions may say more"}"#), Some(3));
        for other in [&b""[..], b"{}", b"[3]", b"3", br#"{"node_id":"3"}"#, b"\xff"] {
            assert_eq!((FOUNDER.decode)(other), None);
        }
    }
}
