//! KV buckets, as far as a lease and a registry need them: get, create, compare-and-set, delete.

use super::Error;
use super::jetstream::JetStream;
use serde_json::json;

/// One bucket: the stream `KV_<bucket>`.
#[derive(Clone)]
pub struct Kv {
    js: JetStream,
    bucket: String,
}

/// A value and the revision that a compare-and-set names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value; `None` when the key was deleted.
    pub value: Option<Vec<u8>>,
    /// Sequence of the message that wrote it.
    pub revision: u64,
}

impl Kv {
    /// Opens a bucket, created if missing (compat.md 1e): history 1, no age limit.
    pub fn open(js: &JetStream, bucket: &str, replicas: u64) -> Result<Kv, Error> {
        let config = json!({
            "name": format!("KV_{bucket}"), "subjects": [format!("$KV.{bucket}.>")], "retention": "limits",
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_msgs_per_subject": 1, "max_msg_size": -1,
            "max_age": 0, "discard": "new", "storage": "file", "num_replicas": replicas.max(1),
            "duplicate_window": 120_000_000_000u64, "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true,
        });
        js.ensure_stream(&config)?;
        Ok(Kv { js: js.clone(), bucket: bucket.to_owned() })
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.bucket)
    }

    /// Reads a key from the stream's leader; `None` when it was never written.
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

    /// Deletes a key if its revision is still `revision`.
    pub fn delete(&self, key: &str, revision: u64) -> Result<(), Error> {
        let expected = revision.to_string();
        let headers = [("KV-Operation", "DEL"), ("Nats-Expected-Last-Subject-Sequence", expected.as_str())];
        self.js.publish(&self.subject(key), &headers, &[]).map(drop)
    }
}
