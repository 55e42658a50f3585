//! Which stream a row's events go to: FNV-1 64 over the table's name and the key, as the Go program computes it
//! (formats, section "Shards"), so that all nodes of a cluster agree.

use crate::model::gotime::{Hashed, hashed};
use crate::model::{event, value::Value};

/// Name, declared type and value of a key column.
pub type KeyColumn<'a> = (&'a str, &'a str, &'a Value);

/// The hash of a row; `key` may be in any order. With an empty key all rows of the table share one shard, which is needed where
/// two rows can collide in a UNIQUE index: the events of both must have one order.
pub fn hash(table: &str, key: &[KeyColumn]) -> u64 {
    let mut sorted: Vec<_> = key.to_vec();
    sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    let mut bytes = vec![0x9f];
    event::text(&mut bytes, table);
    for (name, declared_type, value) in sorted {
        bytes.push(0x82);
        event::text(&mut bytes, name);
        match hashed(value, declared_type) {
            Hashed::Bool(true) => bytes.push(0xf5),
            Hashed::Bool(false) => bytes.push(0xf4),
            Hashed::Same(value) => event::value(&mut bytes, value),
            Hashed::Seconds(seconds) => event::integer(&mut bytes, seconds),
            Hashed::Null => event::value(&mut bytes, &Value::Null),
        }
    }
    bytes.push(0xff);
    fnv1(&bytes)
}

/// The shard, from 1 to `shards`.
pub fn number(hash: u64, shards: u64) -> u64 {
    hash % shards.max(1) + 1
}

/// FNV-1 with 64 bits (multiply, then xor).
pub fn fnv1(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| hash.wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_the_go_program() {
        let text = Value::text;
        let integer = Value::Integer;
        type Case<'a> = (&'a str, Vec<(&'a str, &'a str, Value)>, u64, u64);
        let cases: [Case; 9] = [
            ("Books", vec![("id", "INTEGER", integer(42))], 0xc52d_1c08_9e3f_474f, 4),
            ("BooksN", vec![("id", "INTEGER", integer(-1))], 0x9df0_44bf_92f7_551a, 3),
            ("users", vec![("uid", "TEXT", text("alice"))], 0xcb72_1971_a4b1_692e, 3),
            ("blobs", vec![("k", "BLOB", Value::Blob(vec![0xde, 0xad]))], 0x2a8a_8401_1ba9_f21f, 4),
            ("reals", vec![("k", "REAL", Value::Real(1.5))], 0x4ad0_0151_d86b_dfc3, 4),
            (
                "orders_items",
                vec![("order_id", "TEXT", text("A1")), ("item_id", "INTEGER", integer(7))],
                0xd343_9909_fb5e_c5ac,
                1,
            ),
            ("nopk", vec![("rowid", "", integer(3))], 0x4845_e89f_c0c3_d8e2, 3),
            ("days", vec![("day", "DATE", text("2024-01-01"))], 0x2a98_d911_efd2_6a94, 1),
            ("flags", vec![("f", "BOOLEAN", integer(1))], 0x7d93_887b_d844_f52d, 2),
        ];
        for (table, key, expected, shard) in cases {
            let key: Vec<KeyColumn> = key.iter().map(|(name, kind, value)| (*name, *kind, value)).collect();
            let hash = hash(table, &key);
            assert_eq!(hash, expected, "{table}");
            assert_eq!(number(hash, 4), shard, "{table}");
            assert_eq!(number(hash, 1), 1);
        }
    }

    #[test]
    fn the_node_id_of_a_machine_id() {
        // The node id of this machine id, as the Go program computes it (formats, section "Node id").
        assert_eq!(fnv1(b"3d1219c7c4c5404aaa1f6d2a48adfda4"), 13_916_653_139_930_605_921);
        assert_eq!(fnv1(b""), 0xcbf2_9ce4_8422_2325);
    }

    #[test]
    fn the_order_of_key_columns_does_not_count_and_their_names_do() {
        let (one, two) = (Value::Integer(1), Value::Integer(2));
        let there = hash("t", &[("a", "INTEGER", &one), ("b", "INTEGER", &two)]);
        assert_eq!(there, hash("t", &[("b", "INTEGER", &two), ("a", "INTEGER", &one)]));
        assert_ne!(there, hash("t", &[("a", "INTEGER", &two), ("b", "INTEGER", &one)]));
        assert_ne!(there, hash("u", &[("a", "INTEGER", &one), ("b", "INTEGER", &two)]));
    }

    #[test]
    fn shards_are_counted_from_one() {
        assert_eq!([number(0, 4), number(3, 4), number(4, 4)], [1, 4, 1]);
        assert_eq!(number(u64::MAX, 0), 1);
    }
}
