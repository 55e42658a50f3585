//! Key-value buckets, as far as leases and registries need them: get, compare-and-set, delete.

use super::error::Error;
use super::jetstream::JetStream;
use crate::base::limits;
use serde_json::{Value, json};
use std::time::Duration;

/// One bucket: the stream `KV_<bucket>`.
#[derive(Clone)]
pub struct Kv {
    js: JetStream,
    bucket: String,
}

/// A value and the revision that a compare-and-set names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `None` when the key was deleted.
    pub value: Option<Vec<u8>>,
    /// Sequence of the message that wrote or deleted it.
    pub revision: u64,
}

impl Kv {
    /// Opens a bucket, created if missing (formats, section "Key-value buckets").
    pub fn open(js: &JetStream, bucket: &str, replicas: u64) -> Result<Kv, Error> {
        js.ensure_stream(&bucket_config(bucket, replicas))?;
        Ok(Kv { js: js.clone(), bucket: bucket.to_owned() })
    }

    /// Opens a bucket whose values go by themselves after a time, created if missing.
    pub fn open_aging(js: &JetStream, bucket: &str, age: Duration, what: &str) -> Result<Kv, Error> {
        js.ensure_stream(&aging_config(bucket, age, what))?;
        Ok(Kv { js: js.clone(), bucket: bucket.to_owned() })
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.bucket)
    }

    /// Reads a key from the stream's leader, never from a copy that may be older; `None` when it was never written.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let Some(stored) = self.js.last_message(&format!("KV_{}", self.bucket), &self.subject(key))? else {
            return Ok(None);
        };
        let deleted = stored.headers().get("KV-Operation").is_some();
        let value = if deleted { None } else { Some(stored.data()?) };
        Ok(Some(Entry { value, revision: stored.seq }))
    }

    /// Writes a key if its revision is still `revision` (0: never written); returns the new revision.
    pub fn update(&self, key: &str, value: &[u8], revision: u64) -> Result<u64, Error> {
        let expected = revision.to_string();
        let headers = [("Nats-Expected-Last-Subject-Sequence", expected.as_str())];
        Ok(self.js.publish(&self.subject(key), &headers, value)?.seq)
    }

    /// Writes a key, whatever it held.
    pub fn put(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        self.js.publish(&self.subject(key), &[], value).map(drop)
    }

    /// The keys that begin with a prefix, some of a bucket that holds very many. Among them may be deleted ones.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let filter = self.subject(">");
        let operation = format!("STREAM.INFO.KV_{}", self.bucket);
        let info: Value = self.js.api(&operation, &json!({ "subjects_filter": filter }))?;
        let subjects = info["state"]["subjects"].as_object().into_iter().flatten();
        let before = self.subject("");
        let keys = subjects.filter_map(|(subject, _)| subject.strip_prefix(&before));
        Ok(keys.filter(|key| key.starts_with(prefix)).take(limits::KEYS).map(str::to_owned).collect())
    }

    /// Deletes a key if its revision is still `revision`.
    pub fn delete(&self, key: &str, revision: u64) -> Result<(), Error> {
        let expected = revision.to_string();
        let headers = [("KV-Operation", "DEL"), ("Nats-Expected-Last-Subject-Sequence", expected.as_str())];
        self.js.publish(&self.subject(key), &headers, &[]).map(drop)
    }
}

/// The stream of a bucket: the last value of each key, kept for ever.
fn bucket_config(bucket: &str, replicas: u64) -> Value {
    json!({
        "name": format!("KV_{bucket}"), "subjects": [format!("$KV.{bucket}.>")], "retention": "limits",
        "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_msgs_per_subject": 1, "max_msg_size": -1,
        "max_age": 0, "discard": "new", "storage": "file", "num_replicas": replicas.max(1),
        "duplicate_window": 120_000_000_000u64, "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true,
    })
}

/// The same of a bucket that forgets, as the Go program makes its own.
fn aging_config(bucket: &str, age: Duration, what: &str) -> Value {
    let mut config = bucket_config(bucket, 1);
    config["max_age"] = json!(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
    config["description"] = json!(what);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_keeps_one_value_of_each_key_without_an_age() {
        let config = bucket_config("leases", 3);
        assert_eq!((&config["name"], &config["subjects"]), (&json!("KV_leases"), &json!(["$KV.leases.>"])));
        assert_eq!((&config["max_msgs_per_subject"], &config["max_age"]), (&json!(1), &json!(0)));
        assert_eq!(config["num_replicas"], json!(3));
        let aging = aging_config("registry", Duration::from_secs(300), "what");
        assert_eq!((&aging["max_age"], &aging["num_replicas"]), (&json!(300_000_000_000_u64), &json!(1)));
        assert_eq!(bucket_config("leases", 0)["num_replicas"], json!(1));
    }
}
