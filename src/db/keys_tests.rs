//! Keys as SQLite compares them: every kind of declaration, values that are equal in one way and different in another, random
//! statements on two databases that are joined by the real capture and the real applier. `HARMONYLITE_SEED` and
//! `HARMONYLITE_KEY_SCHEDULES` repeat a run.

use super::*;
use crate::db::schema::Schema;
use crate::db::scratch::Scratch;
use crate::model::origin::Origin;
use crate::model::payload::Codec;
use crate::model::value::Value;
use rusqlite::{Connection, params_from_iter};

const TYPES: [&str; 7] = ["", "TEXT", "INTEGER", "REAL", "NUMERIC", "BLOB", "ANY"];
const COLLATIONS: [&str; 4] = ["", "COLLATE BINARY", "COLLATE NOCASE", "COLLATE RTRIM"];
const ENCODINGS: [&str; 3] = ["UTF-8", "UTF-16le", "UTF-16be"];

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % n as u64).unwrap()
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

fn nasty_values() -> Vec<Value> {
    let integers = [
        0,
        1,
        -1,
        1 << 53,
        (1 << 53) + 1,
        -(1 << 53) - 1,
        9_100_000_000_000_000_000,
        i64::MAX,
        i64::MIN,
        i64::MIN + 1,
    ];
    let reals = [
        0.0,
        -0.0,
        1.0,
        1.5,
        9_007_199_254_740_992.0,
        9.1e18,
        9_223_372_036_854_775_808.0,
        -9_223_372_036_854_775_808.0,
        1e300,
        5e-324,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    let texts = [
        "",
        " ",
        "a",
        "A",
        "a ",
        "A  ",
        " a",
        "a\0b",
        "a\0c",
        "A\0b",
        "a\0",
        "a\0 ",
        "\0",
        "\0\0",
        "ä",
        "Ä",
        "ä ",
        "ß",
        "1",
        "1.0",
        "9.1e18",
        "x'61'",
        "\u{1f600}",
        "[",
        "{",
        "@",
        "`",
    ];
    let blobs: [&[u8]; 6] = [b"", b"a", b"A", b"a\0b", b"a ", b"\0"];
    let mut all = vec![Value::Null, Value::Text(b"a\xff".to_vec())];
    all.extend(integers.map(Value::Integer));
    all.extend(reals.map(Value::Real));
    all.extend(texts.map(Value::text));
    all.extend(blobs.map(|bytes| Value::Blob(bytes.to_vec())));
    all
}

/// For every declaration and every two values: SQLite's index takes both or it does not, and our bytes of the key and our
/// search for the row say the same.
#[test]
fn keys_are_equal_exactly_where_the_index_says_so() {
    let mut pairs = 0;
    for (encoding, without_rowid) in [("UTF-8", ""), ("UTF-8", " WITHOUT ROWID"), ("UTF-16le", "")] {
        let kinds: &[&str] = match (encoding, without_rowid) {
            ("UTF-8", "") => &["", "TEXT", "INTEGER", "REAL", "NUMERIC"],
            _ => &["", "TEXT"],
        };
        for kind in kinds {
            for (column, key) in COLLATIONS.iter().flat_map(|column| COLLATIONS.map(|key| (column, key))) {
                let sql = format!(
                    "PRAGMA encoding='{encoding}'; CREATE TABLE t(k {kind} {column}, v, PRIMARY KEY(k {key})){without_rowid}"
                );
                pairs += compare_all_pairs(&sql);
            }
        }
    }
    assert!(pairs > 50_000, "{pairs}");
}

fn compare_all_pairs(sql: &str) -> usize {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(sql).unwrap();
    let table = Schema::read(&connection).unwrap().tables["t"].clone();
    let mut insert = connection.prepare("INSERT INTO t(k) VALUES(?1)").unwrap();
    let mut read = connection.prepare("SELECT k FROM t").unwrap();
    let mut exists = connection.prepare(&table.sql().exists).unwrap();
    let mut clear = connection.prepare("DELETE FROM t").unwrap();
    // As they are stored: an affinity may have changed them.
    let mut stored: Vec<Value> = vec![];
    for value in nasty_values() {
        if insert.execute([&value]).is_err() {
            continue;
        }
        let value: Value = read.query_row([], |row| row.get(0)).unwrap();
        clear.execute([]).unwrap();
        if value != Value::Null && !stored.iter().any(|known| format!("{known:?}") == format!("{value:?}")) {
            stored.push(value);
        }
    }
    let mut pairs = 0;
    for (at, one) in stored.iter().enumerate() {
        for other in &stored[at..] {
            insert.execute([one]).unwrap();
            let found = exists.exists([other]).unwrap();
            let equal = insert.execute([other]).is_err();
            assert_eq!(found, equal, "{other:?} as the key of a search for {one:?}: {sql}");
            let same_bytes = table.row_key([one]) == table.row_key([other]);
            assert_eq!(same_bytes, equal, "the bytes of {one:?} and {other:?}: {sql}");
            clear.execute([]).unwrap();
            pairs += 1;
        }
    }
    pairs
}

struct Declaration {
    sql: String,
    keys: Vec<String>,
    /// Rows with a NULL in their key are among the statements. They cannot be told apart.
    nulls: bool,
}

impl Declaration {
    /// The table in a database of any encoding.
    fn sql_for(&self, random: &mut Random) -> String {
        format!("PRAGMA encoding='{}'; {}", random.of(&ENCODINGS), self.sql)
    }

    /// One statement of the application, which may fail.
    fn write(&self, app: &Connection, random: &mut Random, values: &[Value]) {
        let keys = &self.keys;
        let places =
            |from: usize| -> Vec<String> { (from..from + keys.len()).map(|n| format!("?{n}")).collect() };
        let terms = |from: usize, word: &str, joined: &str| {
            let terms = keys.iter().zip(places(from)).map(|(key, place)| format!("{key} {word} {place}"));
            terms.collect::<Vec<_>>().join(joined)
        };
        let (names, count) = (keys.join(", "), keys.len());
        let or = random.of(&["OR REPLACE", "OR IGNORE", "OR ABORT"]);
        let v = random.below(8);
        let (sql, wanted) = match random.below(10) {
            0..3 => (format!("INSERT {or} INTO t({names}, v) VALUES({}, {v})", places(1).join(", ")), count),
            3..6 => {
                (format!("INSERT OR REPLACE INTO t({names}, v) VALUES({}, {v})", places(1).join(", ")), count)
            }
            6 => (format!("UPDATE {or} t SET v = {v} WHERE {}", terms(1, "IS", " AND ")), count),
            7 => {
                let (set, filter) = (terms(1, "=", ", "), terms(1 + count, "IS", " AND "));
                (format!("UPDATE {or} t SET {set} WHERE {filter}"), 2 * count)
            }
            8 => (format!("UPDATE {or} t SET {} WHERE v = {v}", terms(1, "=", ", ")), count),
            _ => (format!("DELETE FROM t WHERE {}", terms(1, "IS", " AND ")), count),
        };
        let parameters: Vec<&Value> = (0..wanted).map(|_| random.of(values)).collect();
        let done = app.execute(&sql, params_from_iter(parameters));
        if let Err(error) = done {
            let code = error.sqlite_error_code();
            let expected = [rusqlite::ErrorCode::ConstraintViolation, rusqlite::ErrorCode::TypeMismatch];
            assert!(code.is_some_and(|code| expected.contains(&code)), "{error}: {sql}");
        }
    }
}

fn declaration(random: &mut Random) -> Declaration {
    let count = 1 + random.below(2);
    let keys: Vec<String> = (1..=count).map(|n| format!("k{n}")).collect();
    let without_rowid = random.below(2) == 0;
    let unique = random.below(3) == 0;
    let columns: Vec<String> =
        keys.iter().map(|name| format!("{name} {} {}", random.of(&TYPES), random.of(&COLLATIONS))).collect();
    let mut key: Vec<String> = keys.iter().map(|name| format!("{name} {}", random.of(&COLLATIONS))).collect();
    if random.below(2) == 0 {
        key.reverse();
    }
    let sql = format!(
        "CREATE TABLE t({}, v{}, PRIMARY KEY({})){}",
        columns.join(", "),
        if unique { " UNIQUE" } else { "" },
        key.join(", "),
        if without_rowid { " WITHOUT ROWID" } else { "" }
    );
    Declaration { sql, keys, nulls: !unique && !without_rowid }
}

struct Node {
    scratch: Scratch,
    log: ChangeLog,
    applier: Applier,
    origin: Origin,
    at: usize,
}

/// What lies in the stream: the message's id and its body.
type Message = (Option<(Origin, i64)>, Vec<u8>);

impl Node {
    fn new(name: &str, id: u64, sql: &str) -> Node {
        let scratch = Scratch::with_first(name, sql);
        let (log, _) = ChangeLog::open(&scratch.path, id).unwrap();
        let applier = Applier::open(&scratch.path, id, &["s-1".to_owned()]).unwrap();
        let origin = log.origin().unwrap();
        Node { scratch, log, applier, origin, at: 0 }
    }

    fn send(&mut self, stream: &mut Vec<Message>) {
        let mut codec = Codec::new(false).unwrap();
        let origin = self.log.origin().unwrap();
        for change in self.log.read(100).unwrap().changes {
            stream.push((Some((origin, change.event.id)), codec.pack(&change.event).unwrap()));
        }
    }

    fn receive(&mut self, stream: &[Message]) {
        while self.at < stream.len() {
            let batch: Vec<Incoming> = (self.at..stream.len().min(self.at + 5))
                .map(|at| Incoming {
                    stream: 0,
                    seq: at as u64 + 1,
                    origin: stream[at].0,
                    time_ms: 0,
                    payload: stream[at].1.clone(),
                    ends: Some(Ends::at(at as u64 + 1)),
                })
                .collect();
            let applied = self.applier.apply(&batch).unwrap();
            assert!(!applied.new_incarnation, "took a new name");
            self.at += applied.events;
        }
    }

    fn unsettled(&self) -> i64 {
        let sql = "SELECT count(*) FROM __harmonylite__log WHERE t <> 0";
        self.scratch.app.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

/// The smallest integer is the one number that a column of INTEGER or NUMERIC keeps as an integer or as a real number. It is
/// one key, and no statement writes a key anew for that.
fn smallest(value: Value) -> Value {
    if value == Value::Real(-9_223_372_036_854_775_808.0) { Value::Integer(i64::MIN) } else { value }
}

/// All rows whose key has no NULL, with their storage classes.
fn rows(app: &Connection, keys: &[String]) -> Vec<String> {
    let filter: Vec<String> = keys.iter().map(|key| format!("{key} IS NOT NULL")).collect();
    let mut statement = app.prepare(&format!("SELECT * FROM t WHERE {}", filter.join(" AND "))).unwrap();
    let width = statement.column_count();
    let rows = statement.query_map([], |row| {
        (0..width).map(|at| row.get(at).map(smallest)).collect::<Result<Vec<Value>, _>>()
    });
    let mut found: Vec<String> = rows.unwrap().map(|row| format!("{:?}", row.unwrap())).collect();
    found.sort();
    found
}

/// A database that never followed the stream, with rows of its own, is brought to the state of a snapshot.
fn reconciled(seed: u64, random: &mut Random, declaration: &Declaration, values: &[Value], of: &Node) {
    let other = Scratch::with_first(&format!("keys-{seed}-3"), &declaration.sql_for(random));
    for _ in 0..20 {
        declaration.write(&other.app, random, values);
    }
    let dir = crate::base::files::parent(&of.scratch.path);
    let made = make_snapshot(&of.scratch.path, &dir, &Stamp::default()).unwrap();
    make_ready(made.file.path(), &Default::default()).unwrap();
    let comparison = compare(&other.path, made.file.path()).unwrap();
    let mut applier = Applier::open(&other.path, 3, &["s-1".to_owned()]).unwrap();
    applier.reconcile(&comparison, Extra::Remove).unwrap();
    assert_eq!(rows(&other.app, &declaration.keys), rows(&of.scratch.app, &declaration.keys));
    let after = compare(&other.path, made.file.path()).unwrap();
    let has_smallest = values.iter().any(|value| smallest(value.clone()) == Value::Integer(i64::MIN));
    if !declaration.nulls && !has_smallest {
        assert_eq!((after.extra, after.missing, after.changed), (0, 0, 0));
    }
}

fn schedule(seed: u64) {
    let mut random = Random(seed);
    let declaration = declaration(&mut random);
    println!("HARMONYLITE_KEY_SCHEDULES=1 HARMONYLITE_SEED={seed}: {}", declaration.sql);
    let mut all = nasty_values();
    // What is no UTF-8 cannot be written in every encoding.
    all.retain(|value| !matches!(value, Value::Text(bytes) if std::str::from_utf8(bytes).is_err()));
    // SQLite stores NULL for what is no number.
    let is_null =
        |value: &Value| *value == Value::Null || matches!(value, Value::Real(real) if real.is_nan());
    all.retain(|value| declaration.nulls || !is_null(value));
    // A few values, so that keys meet.
    let values: Vec<Value> = (0..8).map(|_| random.of(&all).clone()).collect();
    let mut nodes =
        [1, 2].map(|id| Node::new(&format!("keys-{seed}-{id}"), id, &declaration.sql_for(&mut random)));
    let mut stream = vec![];
    for _ in 0..60 {
        let node = &mut nodes[random.below(2)];
        match random.below(10) {
            0..7 => declaration.write(&node.scratch.app, &mut random, &values),
            7 => node.receive(&stream),
            _ => node.send(&mut stream),
        }
    }
    for round in 0.. {
        assert!(round < 20, "the stream does not fall silent");
        for node in &mut nodes {
            node.receive(&stream);
            node.applier.tidy().unwrap();
            node.send(&mut stream);
        }
        if nodes.iter().all(|node| node.at == stream.len() && node.unsettled() == 0) {
            break;
        }
    }
    for node in &nodes {
        assert_eq!(node.log.origin().unwrap(), node.origin);
    }
    let of = |node: &Node| rows(&node.scratch.app, &declaration.keys);
    assert_eq!(of(&nodes[0]), of(&nodes[1]));
    if seed.is_multiple_of(4) {
        reconciled(seed, &mut random, &declaration, &values, &nodes[0]);
    }
}

#[test]
fn keys_of_every_kind_converge_and_fall_silent() {
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let first: u64 = setting("HARMONYLITE_SEED").unwrap_or(now);
    for seed in first..first + setting("HARMONYLITE_KEY_SCHEDULES").unwrap_or(50) {
        schedule(seed);
    }
}
