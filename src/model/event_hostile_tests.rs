//! Events by somebody who means harm: shapes that are costly to read, names without end, mutants.

use super::*;
use crate::base::mutants;
use crate::model::payload::Codec;
use std::time::{Duration, Instant};

/// Bytes of a hostile event, about.
const SIZE: usize = 1 << 20;

fn event(row: Vec<(Arc<str>, Value)>) -> Event {
    Event { node: 7, id: 1, kind: Kind::Insert, table: "t".into(), row, schema_hash: None }
}

/// An event with a column `x` that holds `value`, which is CBOR.
fn with_value(value: &[u8]) -> Vec<u8> {
    let mut bytes = event(vec![("x".into(), Value::Null)]).encode();
    assert_eq!(bytes.pop(), Some(0xf6));
    [&bytes, value].concat()
}

/// An event with a row whose CBOR is `row`.
fn with_row(row: &[u8]) -> Vec<u8> {
    let mut bytes = event(vec![]).encode();
    assert_eq!(bytes.pop(), Some(0xa0));
    [&bytes, row].concat()
}

/// An event with one more key in its outer map, of which the reader knows nothing.
fn with_unknown(value: &[u8]) -> Vec<u8> {
    let mut bytes = event(vec![("x".into(), Value::Null)]).encode();
    bytes[0] += 1;
    text(&mut bytes, "unknown");
    [&bytes, value].concat()
}

fn columns(count: usize, name: impl Fn(usize) -> String) -> Vec<u8> {
    let mut row = vec![];
    head(&mut row, 5, count as u64);
    for number in 0..count {
        text(&mut row, &name(number));
        row.push(0xf6);
    }
    with_row(&row)
}

/// Again and again up to `SIZE`.
fn filled(piece: &[u8]) -> Vec<u8> {
    piece.repeat(SIZE / piece.len())
}

/// Every shape of a megabyte that might cost more than it weighs.
fn shapes() -> Vec<(&'static str, Vec<u8>)> {
    let long = "n".repeat(limits::EVENT_NAME - 4);
    let many = |piece: &[u8]| [&[0x9f][..], &filled(piece), &[0xff]].concat();
    let row = |name: &str| [&[0xa1][..], &[0x61], name.as_bytes(), &[0xf6]].concat();
    let mut bodies = vec![0xbf];
    for _ in 0..SIZE / 8 {
        text(&mut bodies, "Row");
        bodies.extend_from_slice(&row("x"));
    }
    let mut payloads = vec![0xbf];
    for _ in 0..SIZE / 10 {
        text(&mut payloads, "Payload");
        payloads.extend_from_slice(&[0xa0, 0xf6][..1]);
    }
    let mut times = vec![0xbf];
    for _ in 0..SIZE / 8 {
        times.extend_from_slice(&[0x61, b'x', 0xd8, 0x20, 0xa1, 0x01, 0x18, 0x64]);
    }
    times.push(0xff);
    let segments = |major: u8, piece: &[u8]| [&[major | 31][..], &filled(piece), &[0xff]].concat();
    vec![
        ("deep arrays", with_unknown(&filled(&[0x81]))),
        ("deep maps", with_unknown(&filled(&[0xa1, 0x61, b'k']))),
        ("deep endless arrays", with_unknown(&filled(&[0x9f]))),
        ("nested tags", with_unknown(&filled(&[0xc1]))),
        ("nested tags in a column", with_value(&filled(&[0xd8, 0x20]))),
        ("nested times", with_value(&filled(&[0xd8, 0x20, 0xa1, 0x01]))),
        (
            "a time of a million seconds",
            with_value(&[&[0xd8, 0x20, 0xbf][..], &filled(&[1, 1]), &[0xff]].concat()),
        ),
        ("a column that is a time again and again", with_row(&times)),
        ("wide", columns(120_000, |number| format!("c{number}"))),
        ("as wide as is accepted", columns(2_000, |number| format!("{number:0500}"))),
        ("long names", columns(1_000, |number| format!("{long}{number:04}"))),
        ("long names that come again", columns(1_000, |number| format!("{long}{:04}", number % 24))),
        ("few long names in two spellings", columns(1_000, |number| format!("{}{long}", number % 24 + 10))),
        ("one name of a megabyte", columns(1, |_| "n".repeat(SIZE))),
        ("repeated keys", columns(200_000, |number| format!("{}", number % 24))),
        ("repeated keys among many", columns(100_000, |number| format!("c{}", number % 500))),
        ("repeated rows", with_row(&[&row("x")[..], &bodies[1..]].concat())),
        ("repeated payloads", payloads),
        ("bytes in empty segments", with_value(&segments(0x40, &[0x40]))),
        ("text in small segments", with_value(&segments(0x60, &[0x61, b'a']))),
        (
            "a name in small segments",
            with_row(&[&[0xa1][..], &segments(0x60, &[0x61, b'a']), &[0xf6]].concat()),
        ),
        ("a skipped name in segments", with_unknown(&segments(0x60, &[0x60]))),
        ("an array of small items", with_unknown(&many(&[0x01]))),
        ("an array of empty arrays", with_unknown(&many(&[0x80]))),
        ("an array of endless arrays", with_unknown(&many(&[0x9f, 0xff]))),
        ("an array of empty maps", with_unknown(&many(&[0xbf, 0xff]))),
        ("a huge announced array", with_unknown(&[&[0x9b, 0xff][..], &[0xff; 7], &filled(&[0x01])].concat())),
        (
            "a huge announced map",
            with_unknown(&[&[0xbb, 0x7f][..], &[0xff; 7], &filled(&[0x60, 0x01])].concat()),
        ),
        (
            "a huge announced row",
            with_row(&[&[0xbb, 0xff][..], &[0xff; 7], &filled(&[0x61, b'a', 0x01])].concat()),
        ),
        ("a huge announced text", with_value(&[&[0x7b, 0x7f][..], &[0xff; 7], &filled(b"a")].concat())),
        ("a huge announced blob", with_value(&[&[0x5b, 0xff][..], &[0xff; 7], &filled(b"a")].concat())),
        ("a type without end", filled(&event(vec![]).encode()[..40])),
    ]
}

/// The quickest of a few runs.
fn quickest(mut run: impl FnMut()) -> Duration {
    let time = |run: &mut dyn FnMut()| {
        let begun = Instant::now();
        run();
        begun.elapsed()
    };
    (0..4).map(|_| time(&mut run)).min().unwrap_or_default()
}

/// A plain event of the same size has 2000 columns of 500 bytes, which are little more than copied. A hostile one of a megabyte
/// may cost as much as so many of those: a million items of one byte cost about 60, a bomb that unpacks to 64 megabytes up to 200.
const TIMES: u32 = 400;

#[test]
fn a_hostile_megabyte_costs_no_more_than_some_plain_ones() {
    let row =
        (0..2_000).map(|n| (format!("column{n}").as_str().into(), Value::Text(vec![b'x'; 500]))).collect();
    let plain = event(row).encode();
    assert!((SIZE * 9 / 10..SIZE * 11 / 10).contains(&plain.len()));
    let mut codec = Codec::new(true).unwrap();
    let unit = quickest(|| drop(Event::decode(&plain).unwrap())).max(Duration::from_micros(200));
    for (name, bytes) in shapes() {
        assert!(bytes.len() > SIZE / 2 && bytes.len() < SIZE * 3, "{name}: {} bytes", bytes.len());
        let taken = quickest(|| drop(Event::decode(&bytes)));
        println!("{name}: {:.1}", taken.as_secs_f64() / unit.as_secs_f64());
        assert!(taken < unit * TIMES, "{name}: {taken:?}, a plain one {unit:?}");
        let packed = zstd::bulk::compress(&bytes, 1).unwrap();
        let taken = quickest(|| drop(codec.unpack(&packed)));
        assert!(taken < unit * TIMES, "{name}, packed: {taken:?}, a plain one {unit:?}");
        if let Ok(event) = Event::decode(&bytes) {
            assert_eq!(Event::decode(&event.encode()).as_ref(), Ok(&event), "{name}");
        }
    }
}

#[test]
fn names_have_a_bound_and_what_is_said_of_a_longer_one_is_short() {
    let most = "n".repeat(limits::EVENT_NAME);
    let more = "n".repeat(limits::EVENT_NAME + 1);
    let named = |table: &str, column: &str, hash: &str| {
        let row = vec![(column.into(), Value::Null)];
        Event { table: table.into(), schema_hash: Some(hash.into()), ..event(row) }
    };
    let longest = named(&most, &most, &most);
    assert_eq!(Event::decode(&longest.encode()), Ok(longest));
    for bad in [named(&more, "c", "h"), named("t", &more, "h"), named("t", "c", &more)] {
        let why = Event::decode(&bad.encode()).unwrap_err().to_string();
        assert_eq!(why, "a name of 1001 bytes; 1000 at most are accepted");
    }
    // A name in segments, which does not announce its length, and a Type that is no name at all.
    let mut segments = vec![0xa1, 0x7f];
    (0..=limits::EVENT_NAME).for_each(|_| segments.extend_from_slice(&[0x61, b'n']));
    segments.extend_from_slice(&[0xff, 0xf6]);
    let mut typed = named("t", "c", "h").encode();
    let at = typed.windows(7).position(|w| w == b"\x66insert").unwrap();
    let mut text_of_type = vec![];
    text(&mut text_of_type, &"x".repeat(1 << 20));
    typed.splice(at..at + 7, text_of_type);
    for bad in [with_row(&segments), typed] {
        let why = Event::decode(&bad).unwrap_err().to_string();
        assert!(why.starts_with("a name of") && why.len() < 100, "{why}");
    }
}

#[test]
fn what_unpacks_to_more_than_a_message_is_refused_however_large_it_comes() {
    let mut codec = Codec::new(true).unwrap();
    // Does not compress: the packed event alone is more than a quarter of what an event may be.
    let mut random = mutants::Mutator::new(1);
    let noise: Vec<u8> = (0..limits::MESSAGE_BYTES / 32).flat_map(|_| random.next().to_le_bytes()).collect();
    let zeros = vec![0; limits::MESSAGE_BYTES - noise.len()];
    let large = event(vec![("a".into(), Value::Blob(noise)), ("b".into(), Value::Blob(zeros))]);
    let packed = codec.pack(&large).unwrap();
    assert!(packed.len() * 4 > limits::MESSAGE_BYTES && packed.len() < limits::MESSAGE_BYTES);
    assert!(codec.unpack(&packed).unwrap_err().to_string().starts_with("zstd: "));
}

/// Payloads of the Go program, plain and zstd, and of this one.
fn payloads() -> Vec<Vec<u8>> {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden");
    let mut found = vec![];
    for folder in ["events-plain-4-shards", "events-zstd-1-shard"] {
        let files = std::fs::read_dir(golden.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "bin")).collect();
        files.sort();
        found.extend(files.iter().map(|path| std::fs::read(path).unwrap()));
    }
    assert!(found.len() > 30, "{}", found.len());
    let row = [
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Real(0.1),
        Value::text("text"),
        Value::Text(vec![0xff, 0]),
        Value::Blob(vec![0; 3_000]),
    ];
    let named = (0..).map(|number| format!("column{number}").as_str().into());
    let ours = Event { schema_hash: Some("ab".repeat(32).into()), ..event(named.zip(row).collect()) };
    for event in [Event { kind: Kind::Delete, ..ours.clone() }, ours] {
        found.extend([false, true].map(|compress| Codec::new(compress).unwrap().pack(&event).unwrap()));
    }
    found
}

#[test]
fn mutants_of_events_are_refused_or_come_back_the_same() {
    let mut codec = Codec::new(true).unwrap();
    let mut read = 0;
    mutants::each("events", &payloads(), |mutant| {
        let Ok(event) = codec.unpack(mutant) else { return };
        read += 1;
        let bytes = event.encode();
        assert_eq!(Event::decode(&bytes).as_ref(), Ok(&event));
        assert_eq!(codec.pack(&event).map(|packed| codec.unpack(&packed)).unwrap(), Ok(event));
    });
    println!("{read} of them are events");
}
