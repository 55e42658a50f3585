//! Hostile publishers and askers: whatever comes out of the stream or into the health port, the nodes go on, also after a
//! restart, and the application never waits for more than a second.

use crate::support::*;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE own(k TEXT PRIMARY KEY, v);
    CREATE TABLE typed(id INTEGER PRIMARY KEY, n INTEGER) STRICT;
    CREATE TABLE pairs(a TEXT, b INTEGER, PRIMARY KEY(a, b)) WITHOUT ROWID;
    CREATE TABLE free(v);
    CREATE TABLE ruled(id INTEGER PRIMARY KEY, v NOT NULL CHECK(v < 10), twice AS (v * 2) STORED);
    CREATE TABLE audited(id INTEGER PRIMARY KEY, v); CREATE TABLE audit(rowid, what UNIQUE);
    CREATE TRIGGER audits AFTER INSERT ON audited BEGIN SELECT RAISE(ROLLBACK, 'no') WHERE new.v = 'bad';
      INSERT INTO audit(what) VALUES(new.v); END;
    CREATE VIEW seen AS SELECT * FROM t; CREATE VIRTUAL TABLE words USING fts5(w);";
pub const SUBJECT: &str = "harmonylite-change-log-1";

fn head(out: &mut Vec<u8>, major: u8, number: usize) {
    out.push(major << 5 | 26);
    out.extend_from_slice(&u32::try_from(number).unwrap().to_be_bytes());
}

pub fn text(out: &mut Vec<u8>, text: &str) {
    head(out, 3, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// An insert into `t` as the Go program encodes it, with these columns: names and encoded values.
fn event(columns: impl ExactSizeIterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    event_of("t", columns)
}

pub fn event_of(table: &str, columns: impl ExactSizeIterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let mut out = vec![];
    head(&mut out, 5, 2);
    text(&mut out, "FromNodeId");
    out.push(9);
    text(&mut out, "Payload");
    head(&mut out, 5, 4);
    text(&mut out, "Id");
    out.push(1);
    text(&mut out, "Type");
    text(&mut out, "insert");
    text(&mut out, "TableName");
    text(&mut out, table);
    text(&mut out, "Row");
    head(&mut out, 5, columns.len());
    for (name, value) in columns {
        text(&mut out, &name);
        out.extend_from_slice(&value);
    }
    out
}

/// Rows that the schema does not allow, each in its own way, and names that are no table of the application's.
fn refused_by_the_schema() -> Vec<(&'static str, Vec<u8>)> {
    let of = |table: &str, columns: &[(&str, &[u8])]| {
        let columns: Vec<(String, Vec<u8>)> =
            columns.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
        event_of(table, columns.into_iter())
    };
    let (word, null, one): (&[u8], &[u8], &[u8]) = (&[0x61, b'x'], &[0xf6], &[1]);
    vec![
        ("NULL for an integer key", of("t", &[("id", null), ("v", one)])),
        ("text in a strict table", of("typed", &[("id", one), ("n", word)])),
        ("NULL in a key without rowid", of("pairs", &[("a", null), ("b", one)])),
        ("half a key", of("pairs", &[("b", one)])),
        ("text for a rowid", of("free", &[("rowid", word), ("v", one)])),
        ("NULL for a rowid", of("free", &[("rowid", null), ("v", one)])),
        ("NULL for NOT NULL", of("ruled", &[("id", one), ("v", null)])),
        ("a view", of("seen", &[("id", one), ("v", one)])),
        ("a virtual table", of("words", &[("rowid", one), ("w", word)])),
        ("a shadow table", of("words_data", &[("id", one), ("block", one)])),
        ("a table of another schema", of("main.t", &[("id", one)])),
        ("SQL for a name", of("t\"; DROP TABLE t; --", &[("id", one)])),
        ("SQL for a column", of("t", &[("id", &[0x18, 98]), ("v\"=1; DROP TABLE t; --", one)])),
        ("a zero byte in a name", of("t\0", &[("id", one)])),
        ("no name", of("", &[("id", one)])),
    ]
}

/// Times inside times, a million deep; as many columns as fit into a message; one column again and again; one column in
/// thousands of spellings; rows that SQLite refuses, tables and columns that are not there; no event at all.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let nested = [[0xd8, 0x20, 0xa1, 0x01].repeat(1_000_000), vec![5]].concat();
    let one = || vec![1];
    let spelling = |n: usize| -> String {
        let letter = |at: usize| if n >> at & 1 == 1 { 'V' } else { 'v' };
        (0..15).map(letter).collect()
    };
    let nested = event(vec![("v".to_owned(), nested)].into_iter());
    let half = [&[0xfb][..], &1.5_f64.to_be_bytes()].concat();
    let mut words = vec![];
    text(&mut words, "no number");
    let mut messages = refused_by_the_schema();
    messages.extend([
        ("nested times", zstd::bulk::compress(&nested, 1).unwrap()),
        ("70,000 columns", event((0..70_000).map(|n| (n.to_string(), one())))),
        ("one column 100,000 times", event((0..100_000).map(|_| ("v".to_owned(), one())))),
        ("one column in 33,000 spellings", event((0..33_000).map(|n| (spelling(n), one())))),
        (
            "text for an integer key",
            event(vec![("id".to_owned(), words.clone()), ("v".to_owned(), one())].into_iter()),
        ),
        ("a fraction for an integer key", event(vec![("id".to_owned(), half)].into_iter())),
        (
            "a column that nobody has",
            event(vec![("id".to_owned(), vec![0x18, 99]), ("new".to_owned(), one())].into_iter()),
        ),
        ("no key", event(vec![("v".to_owned(), one())].into_iter())),
        ("a table that nobody has", event_of("gone", vec![("id".to_owned(), one())].into_iter())),
        ("a table of ours", event_of("__harmonylite__log", vec![("id".to_owned(), one())].into_iter())),
        ("a table of SQLite", event_of("sqlite_master", vec![("name".to_owned(), words)].into_iter())),
        ("garbage", b"garbage".to_vec()),
        ("nothing", vec![]),
    ]);
    messages
}

/// What `-set-aside -json` shows.
fn listed(node: &Node) -> serde_json::Value {
    let shown = node.command(&["-set-aside", "-json"]);
    assert_eq!(shown.status.code(), Some(0), "{shown:?}");
    serde_json::from_slice(&shown.stdout).unwrap()
}

/// A person mends one table, and gives up the other row.
fn a_person_mends_and_gives_up(two: &Node, mended: &str, given_up: &str) {
    two.sql("DROP TABLE n; CREATE TABLE n(id INTEGER PRIMARY KEY, v)");
    let tried = two.command(&["-set-aside", "retry", mended, "-json"]);
    assert_eq!(tried.status.code(), Some(0), "{tried:?}");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&tried.stdout).unwrap()["applied"], 1);
    assert_eq!(value(two, "SELECT count(*) FROM n WHERE id = 1"), "Integer(1)");
    let shown = two.command(&["-set-aside", "show", given_up]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("datatype mismatch"), "{shown:?}");
    let dropped = two.command(&["-set-aside", "drop", "all"]);
    assert_eq!(dropped.status.code(), Some(0), "{dropped:?}");
    assert_eq!(String::from_utf8_lossy(&two.command(&["-set-aside"]).stdout), "nothing is set aside\n");
    assert_eq!(two.command(&["-set-aside", "show", "1"]).status.code(), Some(1));
    assert_eq!(two.command(&["-set-aside", "mend"]).status.code(), Some(2));
}

/// Health has nothing else to say.
fn only_the_tables_differ(port: u16) {
    wait_for("only that the tables differ is left", 5, || {
        let (_, body) = health(port);
        let problems = body["problems"].as_array()?;
        (problems.len() == 1 && problems[0].to_string().contains("another schema than this node (table k)"))
            .then_some(())
    });
}

/// Nodes whose tables differ: what one publishes, the other cannot use as it is, each row in another way.
#[test]
fn nodes_with_different_tables_go_on_and_show_what_they_cannot_use() {
    let dir = Dir::new("different-tables");
    let nats = Nats::start(&dir);
    let port = free_port();
    let extra = format!(
        "schema = \"own\"\nsnapshot.enabled = false\n[health_check]\nenable = true\nbind = \"127.0.0.1:{port}\"\n"
    );
    let common = "CREATE TABLE t(id INTEGER PRIMARY KEY, v);";
    let mut one = Node::with_schema(
        &dir,
        1,
        &nats.url(),
        "schema = \"own\"\nsnapshot.enabled = false",
        &format!(
            "{common} CREATE TABLE k(id TEXT PRIMARY KEY, v); CREATE TABLE n(id INTEGER PRIMARY KEY, v); \
             CREATE TABLE m(id INTEGER PRIMARY KEY, v, w); CREATE TABLE new(id INTEGER PRIMARY KEY, v)"
        ),
    );
    let mut two = Node::with_schema(
        &dir,
        2,
        &nats.url(),
        &extra,
        &format!(
            "{common} CREATE TABLE k(id INTEGER PRIMARY KEY, v); CREATE TABLE n(id INTEGER PRIMARY KEY, v NOT NULL); \
             CREATE TABLE m(id INTEGER PRIMARY KEY, v)"
        ),
    );
    one.start_ready();
    two.start_ready();
    one.sql("INSERT INTO k VALUES('text', 1), ('5', 2); INSERT INTO n VALUES(1, NULL), (2, 'x')");
    one.sql(
        "INSERT INTO m VALUES(1, 'a', 'w'); INSERT INTO new VALUES(1, 'n'); INSERT INTO t VALUES(1, 'x')",
    );
    two.sql("INSERT INTO t VALUES(2, 'y'); INSERT INTO m VALUES(2, 'b')");
    let held = wait_for("all is set aside", 20, || {
        let held = listed(&two);
        (held.as_array().unwrap().len() == 4).then_some(held)
    });
    let of =
        |table: &str| held.as_array().unwrap().iter().find(|held| held["table"] == table).unwrap().clone();
    assert_eq!((&of("k")["state"], &of("k")["row"]["id"]), (&"refused".into(), &"text".into()));
    assert_eq!((&of("n")["state"], &of("n")["row"]["v"]), (&"refused".into(), &serde_json::Value::Null));
    assert_eq!((&of("m")["state"], &of("m")["missing"][0]), (&"waiting".into(), &"w".into()));
    assert_eq!(of("new")["state"], "waiting");
    for (node, sql) in [(&two, "SELECT count(*) FROM t"), (&one, "SELECT count(*) FROM t")] {
        wait_for("rows cross", 10, || (value(node, sql) == "Integer(2)").then_some(()));
    }
    assert_eq!(value(&two, "SELECT v FROM k WHERE id = 5"), "Integer(2)");
    wait_for("health", 5, || {
        let (status, body) = health(port);
        (status == 200 && body["status"] == "degraded" && body["problems"].as_array()?.len() == 5)
            .then_some(())
    });
    // What waits makes nobody publish again.
    two.sql("UPDATE m SET v = 'c' WHERE id = 2");
    wait_for("the log is empty", 10, || (one.unsettled() + two.unsettled() == 0).then_some(()));
    let before = last_sequence(&nats.client());
    pause(6_000);
    assert_eq!(last_sequence(&nats.client()), before, "somebody publishes while nobody writes");
    // A restart changes nothing: the messages are not read again, and the node is as it was.
    assert_eq!(two.stop(), 0);
    two.start_ready();
    assert_eq!(listed(&two).as_array().unwrap().len(), 4);
    // The migration arrives; nothing else happens.
    two.sql("ALTER TABLE m ADD COLUMN w; CREATE TABLE new(id INTEGER PRIMARY KEY, v)");
    wait_for("what waited is applied", 10, || (listed(&two).as_array().unwrap().len() == 2).then_some(()));
    assert_eq!(value(&two, "SELECT count(*) FROM m WHERE id = 1 AND w = 'w'"), "Integer(1)");
    assert_eq!(value(&two, "SELECT count(*) FROM new WHERE v = 'n'"), "Integer(1)");
    a_person_mends_and_gives_up(&two, &of("n")["id"].to_string(), &of("k")["id"].to_string());
    only_the_tables_differ(port);
    one.assert_alive();
    two.assert_alive();
}

/// Writes one row after the other until `done`; returns how long the slowest took.
fn slowest_write(node: &Node, mut done: impl FnMut() -> bool) -> Duration {
    let app = node.open();
    let mut slowest = Duration::ZERO;
    let mut count: i64 = app.query_row("SELECT count(*) FROM own", [], |row| row.get(0)).unwrap();
    while !done() {
        count += 1;
        let begun = Instant::now();
        app.execute("INSERT INTO own VALUES(?1, 1)", [format!("{} {count}", node.database.display())])
            .unwrap();
        slowest = slowest.max(begun.elapsed());
        pause(5);
    }
    slowest
}

#[test]
fn no_message_of_a_hostile_publisher_stops_a_node_or_its_application() {
    let dir = Dir::new("hostile-publisher");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = (
        Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA),
        Node::with_schema(&dir, 2, &nats.url(), "", SCHEMA),
    );
    one.start_ready();
    two.start_ready();
    let client = nats.client();
    for (name, message) in messages() {
        client.publish(SUBJECT, message).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert_quick_until_applied(&one, &two, &client);
    // What a CHECK of this node refuses, another node has allowed; a generated column is made here; a row that a trigger
    // does not like is written without it.
    let row = [("id".to_owned(), vec![3]), ("v".to_owned(), vec![0x18, 99]), ("twice".to_owned(), vec![1])];
    client.publish(SUBJECT, event_of("ruled", row.into_iter())).unwrap();
    one.sql("DROP TRIGGER audits; INSERT INTO audited VALUES(1, 'bad'), (2, 'x'), (3, 'x')");
    wait_for("the audited rows", 10, || {
        (value(&two, "SELECT count(*) FROM audited") == "Integer(3)").then_some(())
    });
    assert_eq!(value(&two, "SELECT count(*) FROM audit WHERE what = 'x'"), "Integer(1)");
    assert_eq!(value(&two, "SELECT twice FROM ruled WHERE id = 3"), "Integer(198)");
    two.sql("DELETE FROM audit");
    for round in 0..2 {
        one.sql(&format!("INSERT INTO t VALUES({round}, 'of one')"));
        two.sql(&format!("INSERT INTO t VALUES(1{round}, 'of two')"));
        wait_equal(&mut [&mut one, &mut two], 30);
        assert_eq!(
            value(&one, "SELECT count(*) FROM t WHERE v LIKE 'of%'"),
            format!("Integer({})", 2 * (round + 1))
        );
        for node in [&mut one, &mut two] {
            let held = listed(node);
            assert_eq!(held.as_array().unwrap().len(), messages().len(), "{held}");
            node.assert_alive();
            let (_, peak) = node.memory();
            assert!(peak < 200 << 10, "{peak} KiB");
            assert_eq!(node.stop(), 0);
            node.start_ready();
        }
    }
}

/// No write of the application beside `one` takes a second until `two` has come to the end of the stream.
pub fn assert_quick_until_applied(one: &Node, two: &Node, client: &::nats::jetstream::JetStream) {
    let all = last_sequence(client).cast_signed();
    let reader = two.open();
    let position = || -> i64 {
        let sql = "SELECT value FROM __harmonylite__state WHERE kind = 'seq'";
        reader.query_row(sql, [], |row| row.get(0)).unwrap_or(0)
    };
    let until = Instant::now() + Duration::from_secs(60);
    let slowest = slowest_write(one, || position() >= all || Instant::now() > until);
    assert!(position() >= all, "{} of {all} messages in a minute", position());
    assert!(slowest < Duration::from_secs(1), "a write took {slowest:?}");
}

/// The last sequence of the stream.
fn last_sequence(client: &::nats::jetstream::JetStream) -> u64 {
    client.stream_info("harmonylite-changes-c-1").unwrap().state.last_seq
}

#[test]
fn silent_and_slow_askers_keep_nobody_from_the_health_check() {
    let dir = Dir::new("slow-askers");
    let nats = Nats::start(&dir);
    let port = free_port();
    let config = format!("[health_check]\nenable = true\nbind = \"127.0.0.1:{port}\"\n");
    let mut node = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    node.start_ready();
    let mut silent: Vec<TcpStream> = vec![];
    for _ in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _ = stream.write_all(b"GET /hea");
        silent.push(stream);
    }
    let begun = Instant::now();
    assert_eq!(health(port).0, 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // One byte now and then prolongs nothing.
    let mut slow = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let begun = Instant::now();
    while slow.write_all(b"G").is_ok() && begun.elapsed() < Duration::from_secs(10) {
        pause(200);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "a slow asker was served for {:?}", begun.elapsed());
    node.assert_alive();
}
