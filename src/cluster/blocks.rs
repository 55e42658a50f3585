//! Blocks of keys: one counter for each table of the cluster, moved by compare-and-set.

use super::{Bucket, Entry, Key};
use crate::base::{digest, limits};
use crate::model::blocks::{Block, Want, is_tight};
use crate::nats::Error;
use serde_json::{Value, json};

/// `{"table": "notes", "next": 1025}`: the first key that nobody has claimed.
struct Counter {
    table: String,
    next: i64,
}

/// The key `keys.` and the first half of the SHA-256 of the table's name.
fn key(name: &str) -> Key<'_, Counter> {
    Key {
        name,
        encode: |counter| json!({ "table": counter.table, "next": counter.next }).to_string().into_bytes(),
        decode: |bytes| {
            let value: Value = serde_json::from_slice(bytes).ok()?;
            let next = value["next"].as_i64().filter(|next| *next > 0)?;
            Some(Counter { table: value["table"].as_str()?.to_owned(), next })
        },
    }
}

/// Claims a block that lies above all that were claimed before. [`Error::Conflict`]: others claim all the time.
pub fn claim(bucket: &Bucket, want: &Want) -> Result<Block, Error> {
    let name = format!("keys.{}", &digest::hex_sha256(want.table.as_bytes())[..32]);
    let key = key(&name);
    let mut tries = 0;
    loop {
        let Entry { revision, value } = bucket.get(&key)?;
        let block = next(value.as_ref().map(|counter| counter.next), want)?;
        let counter = Counter { table: want.table.to_string(), next: block.last + 1 };
        tries += 1;
        match bucket.update(&key, &counter, revision) {
            Ok(_) => return Ok(block),
            Err(Error::Conflict(_)) if tries < limits::CLAIM_RIVALS => {}
            Err(error) => return Err(error),
        }
    }
}

fn next(counter: Option<i64>, want: &Want) -> Result<Block, Error> {
    // Others may be in blocks above ours of which nobody knows any more.
    let leap = if counter.is_none() && want.had_some { limits::BLOCK_MOST * 16 } else { 0 };
    let above = want.above.saturating_add(leap);
    let first = counter.unwrap_or(1).max(above.saturating_add(1));
    let size = if is_tight(first) { limits::BLOCK_LEAST } else { want.size };
    let last = first.checked_add(size).filter(|last| *last < i64::MAX).map(|last| last - 1);
    let last = last.ok_or_else(|| Error::Permanent(format!("table {}: no keys are left", want.table)))?;
    Ok(Block { first, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(above: i64, had_some: bool) -> Want {
        Want { table: "t".into(), above, size: 100, had_some }
    }

    #[test]
    fn blocks_lie_above_all_that_is_known() {
        let of = |counter, want| next(counter, &want).unwrap();
        assert_eq!(of(None, want(0, false)), Block { first: 1, last: 100 });
        assert_eq!(of(Some(101), want(0, true)), Block { first: 101, last: 200 });
        assert_eq!(of(Some(101), want(500, true)), Block { first: 501, last: 600 });
        assert!(of(None, want(500, true)).first > 10_000, "the counter was forgotten");
        assert_eq!(of(None, want(500, false)).first, 501, "there was none");
        let tight = of(Some(1 << 30), want(0, true));
        assert_eq!(tight.last - tight.first + 1, limits::BLOCK_LEAST);
        assert!(next(Some(i64::MAX - 5), &want(0, true)).is_err());
    }

    #[test]
    fn a_counter_is_read_as_it_was_written_and_nonsense_is_none() {
        let key = key("keys.x");
        let bytes = (key.encode)(&Counter { table: "a \"b\"".into(), next: 7 });
        let read = key.read(&bytes).unwrap();
        assert_eq!((read.table.as_str(), read.next), ("a \"b\"", 7));
        for bytes in [&b"{}"[..], b"{\"table\":\"t\",\"next\":-1}", b"[", b"{\"next\":1}"] {
            assert!(key.read(bytes).is_none());
        }
    }
}
