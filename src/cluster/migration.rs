//! Migrations that a person publishes: one at a time, and what became of each on the nodes.

use super::{Bucket, Entry, Key};
use crate::base::{clock, limits};
use crate::nats::Error;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Who publishes a migration now: `{"id": "00f1...", "name": "add.sql", "node": 1, "time": 1795526100000}`, or `null`.
const LOCK: Key<'static, Option<Lock>> = Key {
    name: "migration",
    encode: |lock| {
        let value = lock
            .as_ref()
            .map(|lock| json!({ "id": lock.id, "name": lock.name, "node": lock.node, "time": lock.time_ms }));
        value.unwrap_or(Value::Null).to_string().into_bytes()
    },
    decode: |bytes| {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let text = |name: &str| value[name].as_str().map(|text| text.chars().take(200).collect::<String>());
        let lock = || {
            let (node, time_ms) = (value["node"].as_u64()?, value["time"].as_i64()?);
            Some(Lock { id: text("id")?, name: text("name")?, node, time_ms })
        };
        Some(lock())
    },
};

/// A migration that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    pub id: String,
    /// Of its file.
    pub name: String,
    /// Whose daemon's configuration the command was given.
    pub node: u64,
    pub time_ms: i64,
}

/// What became of a migration, by node: an empty text where it is done, otherwise why it is not.
pub type States = BTreeMap<u64, String>;

/// `{"1": "", "2": "no such table: t"}`
fn states(name: &str) -> Key<'_, States> {
    Key {
        name,
        encode: |states| {
            let map: serde_json::Map<String, Value> =
                states.iter().map(|(node, why)| (node.to_string(), json!(why))).collect();
            Value::Object(map).to_string().into_bytes()
        },
        decode: |bytes| {
            let value: Value = serde_json::from_slice(bytes).ok()?;
            let state = |(node, why): (&String, &Value)| {
                Some((node.parse().ok()?, why.as_str()?.chars().take(200).collect()))
            };
            Some(value.as_object()?.iter().filter_map(state).take(limits::EPOCH_NODES).collect())
        },
    }
}

fn key_of(id: &str) -> String {
    format!("migration-{id}")
}

/// Takes the lock; returns its revision, or who holds it. One that was held for too long is free.
pub fn begin(bucket: &Bucket, lock: &Lock) -> Result<Result<u64, Lock>, Error> {
    let Entry { revision, value } = bucket.get(&LOCK)?;
    let is_fresh = |held: &Lock| clock::unix_ms() - held.time_ms < limits::MIGRATION_LIFE_MS;
    if let Some(held) = value.flatten().filter(is_fresh) {
        return Ok(Err(held));
    }
    match bucket.update(&LOCK, &Some(lock.clone()), revision) {
        Ok(revision) => Ok(Ok(revision)),
        Err(Error::Conflict(_)) => match bucket.get(&LOCK)?.value.flatten() {
            Some(held) => Ok(Err(held)),
            None => Err(Error::Transient("somebody else is publishing a migration".to_owned())),
        },
        Err(error) => Err(error),
    }
}

/// Gives the lock back.
pub fn end(bucket: &Bucket, revision: u64) -> Result<(), Error> {
    match bucket.update(&LOCK, &None, revision) {
        Ok(_) | Err(Error::Conflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Tells what became of a migration on a node.
pub fn report(bucket: &Bucket, id: &str, (node, why): (u64, &str)) -> Result<(), Error> {
    let name = key_of(id);
    let key = states(&name);
    loop {
        let Entry { revision, value } = bucket.get(&key)?;
        let mut all = value.unwrap_or_default();
        all.insert(node, why.chars().take(200).collect());
        match bucket.update(&key, &all, revision) {
            Ok(_) => return Ok(()),
            Err(Error::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
}

/// What became of a migration, as far as nodes have told.
pub fn told(bucket: &Bucket, id: &str) -> Result<States, Error> {
    Ok(bucket.get(&states(&key_of(id)))?.value.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutants_are_read_or_are_none() {
        let lock = Lock { id: "00ff".into(), name: "a.sql".into(), node: 7, time_ms: 5 };
        let valid = [(LOCK.encode)(&Some(lock.clone())), (LOCK.encode)(&None)];
        assert_eq!((LOCK.decode)(&valid[0]), Some(Some(lock)));
        assert_eq!((LOCK.decode)(&valid[1]), Some(None));
        crate::base::mutants::each("locks", &valid, |mutant| drop((LOCK.decode)(mutant)));
        let all: States = [(1, String::new()), (2, "no such table: t".to_owned())].into();
        let valid = (states("x").encode)(&all);
        assert_eq!((states("x").decode)(&valid), Some(all));
        crate::base::mutants::each("states", &[valid], |mutant| drop((states("x").decode)(mutant)));
    }
}
