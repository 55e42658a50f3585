//! Events: the worked example, every value, lenience, garbage.

use super::*;
use crate::model::payload::Codec;

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.replace(' ', "").as_bytes()).unwrap()
}

fn sample(row: Vec<(&str, Value)>) -> Event {
    Event {
        node: 7,
        id: 1,
        kind: Kind::Insert,
        table: "Books".into(),
        row: row.into_iter().map(|(n, v)| (n.into(), v)).collect(),
        schema_hash: Some("abcd".into()),
    }
}

#[test]
fn worked_example() {
    let bytes = hex("a2 6a46726f6d4e6f64654964 07 675061796c6f6164 a5 624964 01 6454797065 66696e73657274 \
        695461626c654e616d65 65426f6f6b73 63526f77 a1 626964 05 627368 6461626364");
    let event = sample(vec![("id", Value::Integer(5))]);
    assert_eq!(event.encode(), bytes);
    assert_eq!(Event::decode(&bytes).unwrap(), event);
}

#[test]
fn every_value_survives_packed_and_plain() {
    let row = vec![
        ("null", Value::Null),
        ("max", Value::Integer(i64::MAX)),
        ("min", Value::Integer(i64::MIN)),
        ("small", Value::Integer(-70_000)),
        ("real", Value::Real(-0.0)),
        ("inf", Value::Real(f64::INFINITY)),
        ("empty", Value::text("")),
        ("raw", Value::Text(vec![0xff, 0xfe, 0])),
        ("blob", Value::Blob(vec![0; 300_000])),
        ("none", Value::Blob(vec![])),
        ("ünï \"c\"", Value::text("–")),
    ];
    for compress in [false, true] {
        let mut codec = Codec::new(compress).unwrap();
        let event = sample(row.clone());
        let payload = codec.pack(&event).unwrap();
        assert_eq!(payload.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]), compress);
        assert_eq!(codec.unpack(&payload).unwrap(), event);
    }
    let minus_zero = sample(vec![("r", Value::Real(-0.0))]).encode();
    let Value::Real(real) = Event::decode(&minus_zero).unwrap().row[0].1 else { panic!() };
    assert!(real.is_sign_negative());
}

#[test]
fn times_and_booleans_of_go_nodes() {
    let mut event = sample(vec![("x", Value::Integer(5))]).encode();
    let at = event.windows(3).position(|w| w == [0x61, b'x', 5]).unwrap() + 2;
    for (cbor, expected) in [
        ("d820a1011a67c2daa0", Value::text("2025-03-01 10:00:00+00:00")),
        ("d820a101f6", Value::Null),
        ("d820a0", Value::Null),
        ("f5", Value::Integer(1)),
        ("f4", Value::Integer(0)),
        ("f97c00", Value::Real(f64::INFINITY)),
        ("7f6161 6162ff", Value::text("ab")),
        ("1b0000000000000001", Value::Integer(1)),
    ] {
        let mut bytes = event.clone();
        bytes.splice(at..=at, hex(cbor));
        assert_eq!(Event::decode(&bytes).unwrap().row, vec![("x".into(), expected)], "{cbor}");
    }
    event.truncate(at);
    assert!(Event::decode(&event).is_err());
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let good = sample(vec![("a", Value::text("text")), ("b", Value::Blob(vec![1, 2, 3]))]);
    let mut codec = Codec::new(true).unwrap();
    let packed = codec.pack(&good).unwrap();
    let plain = good.encode();
    for bytes in [&plain, &packed] {
        for cut in 0..bytes.len() {
            let _ = codec.unpack(&bytes[..cut]);
        }
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                let _ = codec.unpack(&bad);
            }
        }
    }
    for bad in
        ["", "a0", "bfff", "ff", "9b7fffffffffffffff", "5b7fffffffffffffff00", "a16178bb7fffffffffffffff"]
    {
        assert!(codec.unpack(&hex(bad)).is_err(), "{bad}");
    }
    assert!(codec.unpack(&[0x81; 100_000]).is_err());
}

#[test]
fn a_tombstone_carries_its_kind_and_an_event_need_not_have_a_hash() {
    let event = Event { kind: Kind::Delete, schema_hash: None, ..sample(vec![("id", Value::Integer(5))]) };
    assert_eq!(Event::decode(&event.encode()).unwrap(), event);
    let update = Event { kind: Kind::Update, ..event };
    assert_eq!(Event::decode(&update.encode()).unwrap(), update);
}

#[test]
fn heads_are_the_shortest_ones() {
    for (number, expected) in [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (255, "18ff"),
        (256, "190100"),
        (65_536, "1a00010000"),
        (1 << 32, "1b0000000100000000"),
    ] {
        let mut out = vec![];
        integer(&mut out, number);
        assert_eq!(out, hex(expected), "{number}");
    }
    let mut out = vec![];
    integer(&mut out, -1);
    integer(&mut out, i64::MIN);
    assert_eq!(out, hex("20 3b7fffffffffffffff"));
}

#[test]
fn keys_in_any_case_and_order_and_unknown_ones_are_read() {
    // {"payload": {"row": {"a": 1}, "TABLENAME": "t", "new": [1, {}], "type": "insert"}, "extra": null}
    let bytes = hex("a2 677061796c6f6164 a4 63726f77 a1 6161 01 695441424c454e414d45 6174 636e6577 8201a0 \
        6474797065 66696e73657274 656578747261 f6");
    let event = Event::decode(&bytes).unwrap();
    assert_eq!((event.node, event.id, &*event.table, event.schema_hash), (0, 0, "t", None));
    assert_eq!(event.row, vec![("a".into(), Value::Integer(1))]);
}

#[test]
fn names_in_segments_and_repeated_columns_are_read() {
    let event = sample(vec![("ab", Value::Integer(1)), ("ab", Value::Integer(2))]).encode();
    let at = event.windows(3).position(|w| w == [0x62, b'a', b'b']).unwrap();
    let mut bytes = event.clone();
    bytes.splice(at..at + 3, hex("7f 6161 6162 ff"));
    assert_eq!(Event::decode(&bytes).unwrap().row, vec![("ab".into(), Value::Integer(2))]);
}

#[test]
fn what_is_missing_or_too_large_is_named() {
    let text = |event: &Event| Event::decode(&event.encode()).unwrap_err().to_string();
    assert_eq!(text(&sample(vec![])), "table Books: empty Row");
    assert_eq!(text(&Event { table: "".into(), ..sample(vec![("a", Value::Null)]) }), "no TableName");
    assert_eq!(Event::decode(&hex("a0")).unwrap_err().to_string(), "no Payload");
    let mut bytes = sample(vec![("x", Value::Integer(5))]).encode();
    let at = bytes.windows(3).position(|w| w == [0x61, b'x', 5]).unwrap() + 2;
    bytes.splice(at..=at, hex("1bffffffffffffffff"));
    let error = Event::decode(&bytes).unwrap_err().to_string();
    assert_eq!(error, "integer 18446744073709551615 does not fit 64 signed bits");
}

#[test]
fn a_payload_much_larger_than_packed_is_unpacked() {
    let mut codec = Codec::new(true).unwrap();
    let event = sample(vec![("zeros", Value::Blob(vec![0; 3_000_000]))]);
    let payload = codec.pack(&event).unwrap();
    assert!(payload.len() < 10_000, "{}", payload.len());
    assert_eq!(codec.unpack(&payload).unwrap(), event);
}

/// `d8 20 a1 01` again and again: a time that holds a time that holds a time.
#[test]
fn times_do_not_nest() {
    let event = sample(vec![("x", Value::Integer(5))]).encode();
    let at = event.windows(3).position(|w| w == [0x61, b'x', 5]).unwrap() + 2;
    for levels in [2, 100, 1_000_000] {
        let nested = [&event[..at], &hex("d820a101").repeat(levels), &event[at..]].concat();
        assert!(Event::decode(&nested).is_err(), "{levels}");
        let mut codec = Codec::new(true).unwrap();
        let packed = zstd::bulk::compress(&nested, 1).unwrap();
        assert!(codec.unpack(&packed).is_err(), "{levels}");
    }
}

fn wide(columns: usize) -> Event {
    let row = (0..columns).map(|n| (format!("c{n}").as_str().into(), Value::Integer(1))).collect();
    Event { row, ..sample(vec![]) }
}

#[test]
fn as_many_columns_as_sqlite_takes_and_no_more() {
    let most = wide(limits::EVENT_COLUMNS);
    assert_eq!(Event::decode(&most.encode()).unwrap(), most);
    let why = Event::decode(&wide(limits::EVENT_COLUMNS + 1).encode()).unwrap_err();
    assert_eq!(why.to_string(), "more than 2000 columns");
}

#[test]
fn a_megabyte_of_columns_is_refused_at_once() {
    let bytes = wide(120_000).encode();
    let begun = std::time::Instant::now();
    assert!(Event::decode(&bytes).is_err());
    assert!(begun.elapsed().as_millis() < 200, "{:?}", begun.elapsed());
}

/// One name again and again is no more than one column, however often it comes; that takes no longer than reading it.
#[test]
fn a_name_that_comes_again_keeps_its_last_value() {
    for others in [0, 500] {
        let mut event = wide(others);
        let again = (0..100_000).map(|n| ("last".into(), Value::Integer(n)));
        event.row.extend(again);
        let begun = std::time::Instant::now();
        let read = Event::decode(&event.encode()).unwrap();
        assert!(begun.elapsed().as_millis() < 500, "{:?}", begun.elapsed());
        assert_eq!(read.row.len(), others + 1);
        assert_eq!(read.row[others], ("last".into(), Value::Integer(99_999)));
    }
}

#[test]
fn one_column_in_two_spellings_is_no_event() {
    for others in [0, 100] {
        let mut event = wide(others);
        event.row.extend([("Name".into(), Value::Null), ("nAME".into(), Value::Null)]);
        let why = Event::decode(&event.encode()).unwrap_err();
        assert_eq!(why.to_string(), "column nAME comes in two spellings");
    }
}

/// Each first byte, with every length of what follows: the short way reads what the library reads, or leaves it to the library.
#[test]
fn plain_heads_are_read_as_the_library_reads_them() {
    for first in 0..=255_u8 {
        for tail in [vec![0; 8], vec![0xff; 8], (1..=8).collect(), vec![0x7f, 1], vec![]] {
            for length in 0..=tail.len() {
                let bytes = [&[first], &tail[..length]].concat();
                let Some((header, rest)) = plain_head(&bytes) else { continue };
                let mut decoder = Decoder::from(bytes.as_slice());
                assert_eq!(decoder.pull().unwrap(), header, "{bytes:x?}");
                assert_eq!(rest, &bytes[decoder.offset()..]);
            }
        }
    }
    assert!(plain_head(&[0x19, 1]).is_none() && plain_head(&[]).is_none() && plain_head(&[0xf6]).is_none());
}
