//! Sets: what is encoded is decoded the same, in little room; whatever else comes is refused.

use super::*;
use crate::base::mutants::{self, Mutator};
use crate::model::value::Value;

fn row(table: &str, id: i64, kind: Kind, columns: &[(&str, Value)]) -> Event {
    let row = columns.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
    Event { node: 0, id, kind, table: table.into(), row, schema_hash: Some("0123456789abcdef".into()) }
}

fn random_value(random: &mut Mutator) -> Value {
    match random.below(7) {
        0 => Value::Null,
        1 => Value::Integer(random.next().cast_signed()),
        2 => Value::Integer(random.below(100) as i64 - 50),
        3 => Value::Real(random.below(1000) as f64 / 7.0),
        4 => Value::text(&"text".repeat(random.below(5))),
        5 => Value::Text(vec![0xff, random.below(256) as u8]),
        _ => Value::Blob(vec![random.below(256) as u8; random.below(300)]),
    }
}

/// Rows of several tables as an application touches them, ids rising.
fn random_rows(random: &mut Mutator) -> Vec<Event> {
    let mut id = random.below(1 << 40) as i64;
    (0..random.below(60))
        .map(|_| {
            id += 1 + random.below(5) as i64;
            let table = format!("table {}", random.below(3));
            let kind = if random.below(4) == 0 { Kind::Delete } else { Kind::Insert };
            // A change of the schema in the middle.
            let width = 1 + random.below(2) + usize::from(kind == Kind::Insert) * 3;
            let columns: Vec<(String, Value)> =
                (0..width).map(|at| (format!("column {at}"), random_value(random))).collect();
            let columns: Vec<(&str, Value)> =
                columns.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            row(&table, id, kind, &columns)
        })
        .collect()
}

/// The format, byte for byte: what stands in streams must be readable by every later version.
#[test]
fn worked_example() {
    let kept = |id: i64, title: &str, year: Value| {
        row(
            "Books",
            id,
            Kind::Insert,
            &[("id", Value::Integer(id * 10)), ("title", Value::text(title)), ("y", year)],
        )
    };
    let events = [
        kept(5, "Emma", Value::Integer(1815)),
        kept(6, "Faust", Value::Null),
        row("Books", 9, Kind::Delete, &[("id", Value::Integer(-1))]),
        kept(10, "", Value::Blob(vec![1, 2])),
    ];
    let hex = "83 01 480123456789abcdef 82 \
        85 65426f6f6b73 00 83 626964 657469746c65 6179 83 05 01 04 89 1832 183c 1864 64456d6d61 654661757374 60 190717 f6 420102 \
        85 65426f6f6b73 01 81 626964 81 09 81 20";
    let bytes = data_encoding::HEXLOWER.decode(hex.replace([' ', '\n'], "").as_bytes()).unwrap();
    assert_eq!(encode(&events), bytes);
    assert_eq!(decode(&bytes).unwrap(), events);
}

#[test]
fn what_is_encoded_is_decoded_in_the_order_of_the_ids() {
    let seed = crate::base::random::random_u64();
    let mut random = Mutator::new(seed);
    for _ in 0..500 {
        let rows = random_rows(&mut random);
        assert_eq!(decode(&encode(&rows)), Ok(rows), "seed {seed}");
    }
}

#[test]
fn the_ends_of_64_bits_and_no_rows_at_all() {
    assert_eq!(decode(&encode(&[])), Ok(vec![]));
    for id in [i64::MAX, i64::MIN, -1, 0] {
        let one = [row("t", id, Kind::Insert, &[("k", Value::Integer(id))])];
        assert_eq!(decode(&encode(&one)), Ok(one.to_vec()));
    }
}

#[test]
fn a_row_takes_little_more_than_its_values() {
    let one =
        |id: i64| row("notes", id, Kind::Insert, &[("id", Value::Integer(id)), ("v", Value::text("x"))]);
    let rows: Vec<Event> = (1..=1000).map(|n| one(100_000 + n)).collect();
    let bytes = encode(&rows).len();
    assert!(bytes < 1000 * 9, "{bytes}");
    let single = encode(&rows[..1]).len();
    assert!(single < 45, "{single}");
}

#[test]
fn sets_of_another_form_are_refused() {
    let good = encode(&[row("t", 1, Kind::Insert, &[("k", Value::Null)])]);
    assert_eq!(good[..2], [0x83, 1]);
    for (at, byte, said) in
        [(0, 0x84, "array of three"), (1, 2, "a set of format 2; this version knows format 1")]
    {
        let mut bad = good.clone();
        bad[at] = byte;
        assert!(decode(&bad).unwrap_err().to_string().contains(said), "{said}");
    }
    for length in 0..good.len() {
        assert!(decode(&good[..length]).is_err());
    }
    assert!(decode(&[good.as_slice(), &[0]].concat()).is_err());
    let twice = encode(&[row("t", 1, Kind::Insert, &[("k", Value::Null), ("K", Value::Null)])]);
    assert_eq!(decode(&twice).unwrap_err().to_string(), "column K comes twice");
}

#[test]
fn memory_is_bounded_before_it_is_taken() {
    // Announced, and not there.
    let mut huge = vec![0x83, 1, 0x40, 0x81, 0x85, 0x61, b't', 0, 0x81, 0x61, b'k', 0x9a];
    huge.extend_from_slice(&u32::MAX.to_be_bytes());
    assert!(decode(&huge).is_err());
    let many: Vec<Event> = (0..limits::SET_VALUES as i64 / 2 + 1)
        .map(|id| row("t", id, Kind::Insert, &[("a", Value::Null), ("b", Value::Null)]))
        .collect();
    assert!(decode(&encode(&many)).unwrap_err().to_string().starts_with("more than"));
    assert!(decode(&encode(&many[1..])).is_ok());
}

#[test]
fn mutants_of_sets_are_refused_or_come_back_the_same() {
    let mut random = Mutator::new(7);
    let valid: Vec<Vec<u8>> = (0..20).map(|_| encode(&random_rows(&mut random))).collect();
    let mut read = 0;
    mutants::each("sets", &valid, |mutant| {
        let Ok(events) = decode(mutant) else { return };
        read += 1;
        // Ids that are not in order, or there twice, come back in order.
        let mut again = decode(&encode(&events)).unwrap();
        let order = |events: &mut Vec<Event>| events.sort_by_key(|event| (event.id, format!("{event:?}")));
        let mut events = events;
        order(&mut events);
        order(&mut again);
        assert_eq!(again, events);
    });
    println!("{read} of them are sets");
}
