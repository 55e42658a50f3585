//! The registry of schemas: each running daemon tells its schema in a bucket of NATS, where the Go program does so, too (formats,
//! section "Key-value buckets"). An entry goes by itself unless it is renewed. What each node has told last is also kept in the cluster's
//! own bucket, so that one that is down is still known, until it is forgotten.

use super::{Bucket, Key};
use crate::base::{clock, limits};
use crate::nats::Error;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The bucket's name, and its description; fixed in the Go program.
pub const BUCKET: &str = "harmonylite-schema-registry";
pub const WHAT: &str = "HarmonyLite schema registry for cluster-wide schema visibility";
/// The beginnings of the keys: in the registry, and in the cluster's own bucket.
const LIVE: &str = "node-";
const KEPT: &str = "schemas.node-";
/// Characters of a text of another node that are read.
const TEXT: usize = 1_000;
/// Tables and columns of another node that are read.
const MOST: usize = 4_096;

/// A table as a node tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableTold {
    /// A hash of its columns, as far as all nodes must agree on them.
    pub hash: String,
    /// The columns by name, each with its type and what else is in the hash; empty: not told, for want of room.
    pub columns: BTreeMap<String, String>,
}

/// What a node tells about its schema.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub node: u64,
    /// Schema hash.
    pub hash: String,
    /// The schema hash before; empty: there was none.
    pub previous: String,
    /// Of the program.
    pub version: String,
    /// When it was told, by the node's clock, Unix milliseconds; 0: not known.
    pub updated_ms: i64,
    /// The replicated tables; `None`: a Go node, which tells none.
    pub tables: Option<BTreeMap<String, TableTold>>,
    /// Number of tables that are not told, for want of room.
    pub left_out: u64,
    /// Tables that are there, and are not replicated because of the lists of tables; some of very many.
    pub excluded: Vec<String>,
    /// Tables that are replicated since a short time, and whose rows are not yet those of the cluster.
    pub included: Vec<String>,
    /// Events that wait for a table or column.
    pub waiting: u64,
    /// It publishes nothing.
    pub read_replica: bool,
}

impl Told {
    /// Whether the node replicates a table, as far as it has told.
    pub fn replicates(&self, table: &str) -> bool {
        let has =
            |tables: &BTreeMap<String, TableTold>| tables.keys().any(|name| name.eq_ignore_ascii_case(table));
        let lacks_rows = self.included.iter().any(|name| name.eq_ignore_ascii_case(table));
        self.tables.as_ref().is_none_or(has) && !lacks_rows
    }

    fn encode(&self) -> Vec<u8> {
        let mut entry = json!({
            "node_id": self.node,
            "schema_hash": self.hash,
            "harmonylite_version": self.version,
            "updated_at": clock::rfc3339(self.updated_ms),
            "waiting": self.waiting,
            "read_replica": self.read_replica,
            "excluded": self.excluded,
            "included": self.included,
        });
        if !self.previous.is_empty() {
            entry["previous_hash"] = json!(self.previous);
        }
        let Some(tables) = &self.tables else { return entry.to_string().into_bytes() };
        let mut told = Map::new();
        let (mut room, mut left_out) =
            (limits::REGISTRY_ENTRY.saturating_sub(entry.to_string().len()), self.left_out);
        for (name, table) in tables {
            let long = json!({ "hash": table.hash, "columns": table.columns });
            // Half of the room is for tables without columns.
            let short = json!({ "hash": table.hash });
            let size = |value: &Value| value.to_string().len() + json!(name).to_string().len() + 2;
            let value =
                if size(&long) < room.saturating_sub(limits::REGISTRY_ENTRY / 2) { long } else { short };
            match room.checked_sub(size(&value)) {
                Some(left) => {
                    room = left;
                    told.insert(name.clone(), value);
                }
                None => left_out += 1,
            }
        }
        entry["tables"] = Value::Object(told);
        entry["tables_left_out"] = json!(left_out);
        entry.to_string().into_bytes()
    }

    /// `None`: nothing that a node tells.
    fn decode(bytes: &[u8]) -> Option<Told> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let cut = |text: &str| text.chars().take(TEXT).collect::<String>();
        let text = |key: &str| value[key].as_str().map(cut).unwrap_or_default();
        let list = |key: &str| {
            let texts = value[key].as_array().into_iter().flatten().take(MOST);
            texts.filter_map(|text| text.as_str().map(cut)).collect()
        };
        let table = |told: &Value| TableTold {
            hash: told["hash"].as_str().map(cut).unwrap_or_default(),
            columns: told["columns"]
                .as_object()
                .into_iter()
                .flatten()
                .take(MOST)
                .filter_map(|(name, kind)| Some((cut(name), cut(kind.as_str()?))))
                .collect(),
        };
        let tables = value["tables"].as_object();
        Some(Told {
            node: value["node_id"].as_u64()?,
            hash: text("schema_hash"),
            previous: text("previous_hash"),
            version: text("harmonylite_version"),
            updated_ms: clock::parse(&text("updated_at")).unwrap_or(0),
            tables: tables
                .map(|all| all.iter().take(MOST).map(|(name, told)| (cut(name), table(told))).collect()),
            left_out: value["tables_left_out"].as_u64().unwrap_or(0),
            excluded: list("excluded"),
            included: list("included"),
            waiting: value["waiting"].as_u64().unwrap_or(0),
            read_replica: value["read_replica"].as_bool().unwrap_or(false),
        })
    }
}

fn key(name: &str) -> Key<'_, Told> {
    Key { name, encode: Told::encode, decode: Told::decode }
}

/// A node, and whether it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub told: Told,
    pub runs: bool,
}

/// Both places where schemas are told.
#[derive(Clone)]
pub struct Registry {
    live: Bucket,
    kept: Bucket,
}

impl Registry {
    /// `bucket`: the cluster's own.
    pub fn new(bucket: &Bucket) -> Registry {
        Registry { live: Bucket::registry(bucket.js()), kept: bucket.clone() }
    }

    pub fn tell(&self, told: &Told) -> Result<(), Error> {
        self.live.put(&key(&format!("{LIVE}{}", told.node)), told)?;
        self.kept.put(&key(&format!("{KEPT}{}", told.node)), told)
    }

    /// The nodes that run, by their numbers.
    pub fn running(&self) -> Result<Vec<Told>, Error> {
        Ok(read(&self.live, LIVE)?.into_iter().map(|(_, _, told)| told).collect())
    }

    /// All nodes that are known. Those of which nothing was heard for longer than `forget_ms` are forgotten.
    pub fn all(&self, forget_ms: i64) -> Result<Vec<Known>, Error> {
        let mut all: BTreeMap<u64, Known> = BTreeMap::new();
        for (name, revision, told) in read(&self.kept, KEPT)? {
            if clock::unix_ms().saturating_sub(told.updated_ms) > forget_ms {
                // If it comes back in this moment, it stays.
                let _ = self.kept.delete(&name, revision);
            } else {
                all.insert(told.node, Known { told, runs: false });
            }
        }
        for told in self.running()? {
            all.insert(told.node, Known { told, runs: true });
        }
        Ok(all.into_values().collect())
    }
}

fn read(bucket: &Bucket, prefix: &str) -> Result<Vec<(String, u64, Told)>, Error> {
    let mut found = vec![];
    for name in bucket.names(prefix)? {
        let entry = bucket.get(&key(&name))?;
        // Whoever writes there may write anything: only the entry that is the node's own counts.
        let own = |told: &Told| name.strip_prefix(prefix) == Some(&*told.node.to_string());
        if let Some(told) = entry.value.filter(own) {
            found.push((name, entry.revision, told));
        }
    }
    found.sort_by_key(|(_, _, told)| told.node);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tables: usize) -> Told {
        let columns: BTreeMap<String, String> =
            (0..5).map(|n| (format!("column{n}"), "TEXT".to_owned())).collect();
        let table = TableTold { hash: "0123456789abcdef".to_owned(), columns };
        Told {
            node: 3,
            hash: "aa".repeat(32),
            version: "0.1".to_owned(),
            updated_ms: 1_795_526_100_000,
            tables: Some((0..tables).map(|n| (format!("table{n:05}"), table.clone())).collect()),
            waiting: 2,
            ..Told::default()
        }
    }

    #[test]
    fn an_entry_is_read_as_it_was_told_and_has_the_fields_of_the_go_program() {
        let some = Told { previous: "bb".repeat(32), excluded: vec!["x".to_owned()], ..told(2) };
        assert_eq!(Told::decode(&some.encode()).unwrap(), some);
        let value: Value = serde_json::from_slice(&some.encode()).unwrap();
        for field in ["node_id", "schema_hash", "previous_hash", "harmonylite_version", "updated_at"] {
            assert!(!value[field].is_null(), "{field}");
        }
        let first: Value = serde_json::from_slice(&told(0).encode()).unwrap();
        assert!(first.get("previous_hash").is_none(), "{first}");
    }

    #[test]
    fn thousands_of_tables_fit_as_far_as_there_is_room() {
        for count in [100, 300, 5_000] {
            let bytes = told(count).encode();
            assert!(bytes.len() <= limits::REGISTRY_ENTRY + 200, "{count}: {}", bytes.len());
            let read = Told::decode(&bytes).unwrap();
            assert_eq!(read.tables.unwrap().len() as u64 + read.left_out, count as u64);
        }
    }

    #[test]
    fn what_a_go_node_tells_is_read_and_nonsense_is_none() {
        let go = br#"{"node_id":7,"schema_hash":"ab","harmonylite_version":"dev","updated_at":"2026-11-24T15:00:00.123456789+02:00"}"#;
        let read = Told::decode(go).unwrap();
        assert_eq!((read.node, read.tables.clone(), read.updated_ms > 0), (7, None, true));
        assert!(read.replicates("anything"));
        for bytes in [&b"{}"[..], b"[", b"{\"node_id\":-1}", b""] {
            assert_eq!(Told::decode(bytes), None);
        }
    }

    #[test]
    fn mutants_of_entries_are_read_or_not() {
        crate::base::mutants::each("registry", &[told(3).encode()], |mutant| {
            if let Some(read) = Told::decode(mutant) {
                assert!(read.hash.chars().count() <= TEXT);
            }
        });
    }
}
