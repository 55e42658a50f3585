//! The epoch of the streams, as the nodes agree on it. When the broker has lost what nodes had read, the first one that notices begins
//! another epoch. Each tells how far it had come; the one that had come farthest leads: its rows are what the others compare
//! themselves with.

use super::{Bucket, Entry, Key};
use crate::base::limits;
use crate::model::epoch::Epoch;
use crate::nats::Error;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `{"epoch": "3-00000000000000ff", "leader": 0, "nodes": {"2": ["2-00000000000000aa", 1200, "digest"]}}`
const EPOCH: Key<'static, Record> = Key {
    name: "epoch",
    encode: |record| {
        let nodes: serde_json::Map<String, Value> = record
            .nodes
            .iter()
            .map(|(node, come)| (node.to_string(), json!([come.epoch.to_string(), come.sum, come.digest])))
            .collect();
        let value = json!({ "epoch": record.epoch.to_string(), "leader": record.leader, "nodes": nodes });
        value.to_string().into_bytes()
    },
    decode: |bytes| {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let node = |(node, come): (&String, &Value)| {
            let epoch = Epoch::parse(come[0].as_str()?)?;
            let digest = come[2].as_str()?.chars().take(64).collect();
            Some((node.parse().ok()?, Come { epoch, sum: come[1].as_u64()?, digest }))
        };
        Some(Record {
            epoch: Epoch::parse(value["epoch"].as_str()?)?,
            leader: value["leader"].as_u64().unwrap_or(0),
            nodes: value["nodes"].as_object()?.iter().filter_map(node).take(limits::EPOCH_NODES).collect(),
        })
    },
};

/// An epoch, and who leads into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub epoch: Epoch,
    /// The node with whose rows the others compare themselves; 0: it is not known yet.
    pub leader: u64,
    /// How far each node had come that was there in time.
    pub nodes: BTreeMap<u64, Come>,
}

/// How far a node had come before the streams changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Come {
    /// The epoch that it was in.
    pub epoch: Epoch,
    /// How many messages it had read that are lost.
    pub sum: u64,
    /// Equal where the rows are, but for those on their way.
    pub digest: String,
}

impl Record {
    /// The node that had come farthest; of equal ones, the lowest.
    pub fn farthest(&self) -> Option<u64> {
        let order = |(node, come): &(&u64, &Come)| (come.epoch, come.sum, std::cmp::Reverse(**node));
        self.nodes.iter().max_by_key(order).map(|(node, _)| *node)
    }

    /// Whether the leader had the very same rows as a node, but for those on their way.
    pub fn is_as_leader(&self, come: &Come) -> bool {
        self.nodes.get(&self.leader).is_some_and(|leader| leader == come)
    }
}

/// The record, and the revision for a change; epoch 0 as long as nothing was ever lost.
pub fn read(bucket: &Bucket) -> Result<(u64, Record), Error> {
    let Entry { revision, value } = bucket.get(&EPOCH)?;
    Ok((revision, value.unwrap_or_default()))
}

/// The same; `None`: nobody has written it since the last look.
pub fn look(bucket: &Bucket) -> Result<Option<(u64, Record)>, Error> {
    let entry = bucket.look(&EPOCH)?;
    Ok(entry.map(|Entry { revision, value }| (revision, value.unwrap_or_default())))
}

/// Writes the record if it is still the one of this revision; false: somebody else was faster.
pub fn write(bucket: &Bucket, record: &Record, revision: u64) -> Result<bool, Error> {
    match bucket.update(&EPOCH, record, revision) {
        Ok(_) => Ok(true),
        Err(Error::Conflict(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn come(number: u64, sum: u64, digest: &str) -> Come {
        Come { epoch: Epoch { number, id: 7 }, sum, digest: digest.to_owned() }
    }

    #[test]
    fn a_record_and_back() {
        let record = Record {
            epoch: Epoch { number: 3, id: 255 },
            leader: 2,
            nodes: [(2, come(2, 10, "ab")), (u64::MAX, come(2, u64::MAX, ""))].into(),
        };
        assert_eq!((EPOCH.decode)(&(EPOCH.encode)(&record)), Some(record));
        for bad in ["", "{}", "[]", "{\"epoch\":\"x\",\"nodes\":{}}", "{\"epoch\":\"1-1\"}"] {
            assert_eq!((EPOCH.decode)(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn the_farthest_of_the_newest_epoch_leads() {
        let of = |nodes: &[(u64, Come)]| {
            Record { nodes: nodes.iter().cloned().collect(), ..Record::default() }.farthest()
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(1, come(1, 5, "")), (2, come(1, 9, "")), (3, come(1, 9, ""))]), Some(2));
        assert_eq!(of(&[(1, come(2, 5, "")), (2, come(1, 9, ""))]), Some(1));
    }

    #[test]
    fn equal_rows_need_no_comparison() {
        let record = Record { leader: 1, nodes: [(1, come(1, 5, "x"))].into(), ..Record::default() };
        assert!(record.is_as_leader(&come(1, 5, "x")));
        assert!(!record.is_as_leader(&come(1, 5, "y")) && !record.is_as_leader(&come(1, 4, "x")));
        assert!(!Record { leader: 2, ..record }.is_as_leader(&come(1, 5, "x")));
    }
}
