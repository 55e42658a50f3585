//! What was captured from the Go program: messages, files, a snapshot, a database in the middle of its work.

use crate::support::*;
use harmonylite::testing::event::{Event, Kind};
use harmonylite::testing::payload::Codec;
use harmonylite::testing::positions;
use harmonylite::testing::value::Value;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden").join(name)
}

fn json(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

/// Whether a decoded value is what the index says; the index shows bytes and times in its own way, checked by their kind.
fn matches(value: &Value, expected: &Json) -> bool {
    match (value, expected) {
        (Value::Null, Json::Null) => true,
        (Value::Integer(number), Json::Bool(b)) => *number == i64::from(*b),
        (Value::Integer(number), Json::Number(n)) => n.as_i64() == Some(*number),
        (Value::Real(real), Json::Number(n)) => n.as_f64() == Some(*real),
        (Value::Real(real), Json::Object(_) | Json::String(_)) => !real.is_finite() || *real == 0.0,
        (Value::Text(bytes), Json::String(text)) => bytes == text.as_bytes(),
        (Value::Text(bytes), Json::Object(_)) => bytes.ends_with(b"+00:00"),
        (Value::Blob(_), Json::Object(_)) => true,
        (Value::Null, Json::Object(wrapper)) => {
            wrapper.values().any(|v| v.is_null() || v.to_string().contains("null"))
        }
        _ => false,
    }
}

#[test]
fn every_message_says_what_its_index_says() {
    let mut checked = 0;
    for folder in ["events-zstd-1-shard", "events-plain-4-shards"] {
        let mut codec = Codec::new(folder.contains("zstd")).unwrap();
        for entry in json(&format!("{folder}/index.json")).as_array().unwrap() {
            let file = entry["file"].as_str().unwrap();
            let event = codec.unpack(&std::fs::read(golden(&format!("{folder}/{file}"))).unwrap()).unwrap();
            let from_hex =
                data_encoding::HEXLOWER.decode(entry["cbor_hex"].as_str().unwrap().as_bytes()).unwrap();
            assert_eq!(event, Event::decode(&from_hex).unwrap(), "{file}");
            let body = &entry["event"]["Payload"];
            let kind = match event.kind {
                Kind::Insert => "insert",
                Kind::Update => "update",
                Kind::Delete => "delete",
            };
            assert_eq!((event.node, kind), (7, body["Type"].as_str().unwrap()), "{file}");
            assert_eq!(Some(event.id), body["Id"].as_i64(), "{file}");
            assert_eq!(Some(&*event.table), body["TableName"].as_str(), "{file}");
            assert_eq!(event.schema_hash.as_deref(), body["sh"].as_str(), "{file}");
            let row = body["Row"].as_object().unwrap();
            assert_eq!(event.row.len(), row.len(), "{file}");
            for (name, value) in &event.row {
                assert!(
                    matches(value, &row[&**name]),
                    "{file}: {name} is {value:?}, the index says {}",
                    row[&**name]
                );
            }
            // What we encode decodes to the same.
            let ours = codec.pack(&event).unwrap();
            assert_eq!(codec.unpack(&ours).unwrap(), event);
            checked += 1;
        }
    }
    assert_eq!(checked, 42);
}

#[test]
fn sequence_maps() {
    let positions::Found::Map(map) = positions::read(&golden("seq-map.cbor")) else { panic!() };
    assert_eq!(map.into_iter().collect::<Vec<_>>(), [("harmonylite-changes-c-1".to_owned(), 21)]);
    let positions::Found::Map(map) = positions::read(&golden("seq-map-4-shards.cbor")) else { panic!() };
    assert_eq!(map.values().copied().collect::<Vec<_>>(), [7, 2, 7, 5]);
}

#[test]
fn the_lease_of_a_go_node() {
    let kv = json("kv.json");
    let bytes = data_encoding::HEXLOWER.decode(kv[0]["data_hex"].as_str().unwrap().as_bytes()).unwrap();
    let claim: harmonylite::testing::lease::Claim = ciborium::from_reader(bytes.as_slice()).unwrap();
    assert_eq!((claim.node_id, claim.timestamp), (7, 0x0000_01a2_05fc_3ea5));
}

fn sql_of(name: &str) -> String {
    std::fs::read_to_string(golden(name)).unwrap()
}

#[test]
fn schema_hash() {
    let dir = Dir::new("hash");
    let node = Node::with_schema(&dir, 1, "nats://127.0.0.1:1", "", &sql_of("schema.sql"));
    let schema = harmonylite::testing::schema_hash(&node.database).unwrap();
    assert_eq!(schema, "96d1562562063a0ddab98c0fb9b421e27c4edbe6ee95e4a288d6e1122bdd3566");
    let other = Node::with_schema(
        &dir,
        2,
        "nats://127.0.0.1:1",
        "",
        "CREATE TABLE a(x, y varchar(30), Z INT, w DECIMAL(10,2) NOT NULL, b boolean, d DATETIME, u \"unsigned big int\",
            g INT GENERATED ALWAYS AS (1) STORED, h TEXT AS ('x') VIRTUAL, PRIMARY KEY(y, Z));
         CREATE TABLE ipk(id INTEGER PRIMARY KEY NOT NULL, v any) STRICT; CREATE TABLE nopk(a, b);
         CREATE TABLE wr(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID;",
    );
    let schema = harmonylite::testing::schema_hash(&other.database).unwrap();
    assert_eq!(schema, "a9e1dadef0c50f320d65099103011adbcfd25460e2ed2ada384dc8422510cfe5");
}

/// Puts the captured messages into a stream of a real server and lets a node apply them.
#[test]
fn a_node_applies_the_captured_messages() {
    for (folder, compress, shards) in [("events-zstd-1-shard", true, 1), ("events-plain-4-shards", false, 4)]
    {
        let dir = Dir::new("replay");
        let nats = Nats::start(&dir);
        let extra = format!("replication_log.compress = {compress}\nreplication_log.shards = {shards}");
        let mut node = Node::with_schema(&dir, 1, &nats.url(), &extra, &sql_of("schema.sql"));
        node.start_ready();
        let client = nats.client();
        let entries = json(&format!("{folder}/index.json"));
        for entry in entries.as_array().unwrap() {
            let payload =
                std::fs::read(golden(&format!("{folder}/{}", entry["file"].as_str().unwrap()))).unwrap();
            client.publish(entry["subject"].as_str().unwrap(), payload).unwrap();
        }
        wait_for("the rows arrive", 10, || {
            let rows = value(&node, "SELECT count(*) FROM Books") == "Integer(3)";
            let gen_row = value(&node, "SELECT count(*) FROM gen") == "Integer(1)";
            let kinds = value(&node, "SELECT count(*) FROM kinds") == "Integer(7)";
            (rows && gen_row && kinds).then_some(())
        });
        assert_eq!(value(&node, "SELECT publication_year FROM Books WHERE id = 1"), "Integer(2022)");
        assert_eq!(value(&node, "SELECT c FROM gen"), "Integer(22)");
        assert_eq!(value(&node, "SELECT count(*) FROM nopk"), "Integer(1)");
        assert_eq!(value(&node, "SELECT count(*) FROM pair"), "Integer(0)");
        assert_eq!(node.unsettled(), 0, "what came from others is not captured");
        assert_eq!(node.count("a Go node publishes here"), usize::from(shards > 1));
    }
}

/// The stream as the Go node left it, from a message on.
fn go_stream(client: &nats::jetstream::JetStream, first: u64) {
    client
        .add_stream(nats::jetstream::StreamConfig {
            name: "harmonylite-changes-c-1".into(),
            subjects: vec!["harmonylite-change-log-1".into()],
            ..Default::default()
        })
        .unwrap();
    for number in first..=21 {
        let file = format!("events-zstd-1-shard/harmonylite-changes-c-1.{number}.bin");
        client.publish("harmonylite-change-log-1", std::fs::read(golden(&file)).unwrap()).unwrap();
    }
}

#[test]
fn a_database_of_a_go_node_is_taken_over() {
    let dir = Dir::new("takeover");
    let nats = Nats::start(&dir);
    let mut node = Node::new(&dir, 7, &nats.url(), "");
    std::fs::copy(golden("database-with-pending-changes.db"), &node.database).unwrap();
    std::fs::copy(golden("seq-map.cbor"), node.dir.join("seq-map.cbor")).unwrap();
    let client = nats.client();
    go_stream(&client, 1);
    let before = contents(&node.database);
    // A first start that does not reach the broker must not cost the positions.
    let config = std::fs::read_to_string(&node.config).unwrap();
    std::fs::write(&node.config, config.replace(&nats.url(), "nats://127.0.0.1:1")).unwrap();
    node.start();
    wait_for("it captures", 10, || (node.count("capturing") == 1).then_some(()));
    assert_eq!(node.stop(), 0);
    std::fs::write(&node.config, config).unwrap();
    node.start_ready();
    assert_eq!(node.count("taking over 1 positions"), 2);
    wait_for("both pending changes are published", 10, || {
        let info = client.stream_info("harmonylite-changes-c-1").unwrap();
        (info.state.messages == 23 && node.unsettled() == 0).then_some(())
    });
    assert_eq!(node.count("took over from a Go node: 2 captured changes"), 1);
    assert_eq!(contents(&node.database), before);
    let theirs = "SELECT count(*) FROM sqlite_schema WHERE name GLOB '__harmonylite__*_change_log*' OR name GLOB '*schema_version*'";
    assert_eq!(value(&node, theirs), "Integer(0)");
    // Another node with the same stream ends up with the same rows.
    let mut codec = Codec::new(true).unwrap();
    let events: Vec<Event> = [22, 23]
        .iter()
        .map(|seq| {
            let message = client.get_message("harmonylite-changes-c-1", *seq).unwrap();
            codec.unpack(&message.data).unwrap()
        })
        .collect();
    assert!(events.iter().all(|event| event.node == 7 && event.kind == Kind::Insert), "{events:?}");
    let output = {
        node.stop();
        node.command(&["-cleanup"])
    };
    assert!(output.status.success());
    assert_eq!(
        value(&node, "SELECT count(*) FROM sqlite_schema WHERE name GLOB '__harmonylite__*'"),
        "Integer(0)"
    );
    assert_eq!(contents(&node.database), before);
}

#[test]
fn cleanup_removes_what_a_go_node_left() {
    let dir = Dir::new("cleanup");
    let node = Node::new(&dir, 7, "nats://127.0.0.1:1", "");
    std::fs::copy(golden("database-with-pending-changes.db"), &node.database).unwrap();
    let before = contents(&node.database);
    let output = node.command(&["-cleanup"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("removed"));
    assert_eq!(
        value(&node, "SELECT count(*) FROM sqlite_schema WHERE name GLOB '__harmonylite__*'"),
        "Integer(0)"
    );
    assert_eq!(contents(&node.database), before);
}

/// The object store as a Go node filled it.
fn go_store(client: &nats::jetstream::JetStream) {
    let store = json("object-store.json");
    client
        .add_stream(nats::jetstream::StreamConfig {
            name: "OBJ_harmonylite-snapshots".into(),
            subjects: vec!["$O.harmonylite-snapshots.C.>".into(), "$O.harmonylite-snapshots.M.>".into()],
            ..Default::default()
        })
        .unwrap();
    for entry in store.as_array().unwrap().iter().filter(|entry| entry["file"].is_string()) {
        let payload = std::fs::read(golden(entry["file"].as_str().unwrap())).unwrap();
        client.publish(entry["subject"].as_str().unwrap(), payload).unwrap();
    }
}

/// Our client reads the object store as the Go node filled it.
#[test]
fn a_snapshot_of_a_go_node_is_restored() {
    let dir = Dir::new("gosnapshot");
    let nats = Nats::start(&dir);
    let client = nats.client();
    go_store(&client);
    go_stream(&client, 20);
    let mut node = Node::new(&dir, 9, &nats.url(), "snapshot.nats.bucket = \"harmonylite-snapshots\"");
    node.start_ready();
    wait_for("the restored rows are there", 10, || node.database.exists().then_some(()));
    let copy = dir.0.join("expected.db");
    std::fs::copy(golden("snapshot.db"), &copy).unwrap();
    assert_eq!(contents(&node.database), contents(&copy));
}

/// A database with rows of its own joins a cluster whose only snapshot was made by a Go node and has no position. The streams
/// still hold their first messages, so the snapshot serves.
#[test]
fn a_node_joins_by_a_go_nodes_snapshot() {
    let dir = Dir::new("gojoin");
    let nats = Nats::start(&dir);
    let client = nats.client();
    go_store(&client);
    go_stream(&client, 20);
    let mut node = Node::new(&dir, 9, &nats.url(), "snapshot.nats.bucket = \"harmonylite-snapshots\"");
    let schema = std::fs::read_to_string(golden("schema.sql")).unwrap();
    node.sql(&format!("{schema}; INSERT INTO Books VALUES(4000, 'only here', 'somebody', 2026)"));
    node.start_ready();
    assert_eq!(node.count("joined with snapshot"), 1, "{}", node.log());
    let copy = dir.0.join("expected.db");
    std::fs::copy(golden("snapshot.db"), &copy).unwrap();
    let expected = rusqlite::Connection::open(&copy).unwrap();
    expected.execute("INSERT INTO Books VALUES(4000, 'only here', 'somebody', 2026)", []).unwrap();
    assert_eq!(contents(&node.database), contents(&copy));
    wait_for("its own row is published", 20, || (node.unsettled() == 0).then_some(()));
    // Two of the Go node's, and ours, once.
    assert_eq!(client.stream_info("harmonylite-changes-c-1").unwrap().state.messages, 3);
}

/// The same after the streams lost their first messages: the node waits a minute for a snapshot with a position, then takes the
/// only one that there is and says what that means.
#[test]
fn a_go_nodes_snapshot_when_there_is_no_other() {
    let dir = Dir::new("gominute");
    let nats = Nats::start(&dir);
    let client = nats.client();
    go_store(&client);
    go_stream(&client, 10);
    let mut stream = client.stream_info("harmonylite-changes-c-1").unwrap().config;
    stream.max_msgs = 2;
    client.update_stream(&stream).unwrap();
    let mut node = Node::new(&dir, 9, &nats.url(), "snapshot.nats.bucket = \"harmonylite-snapshots\"");
    let schema = std::fs::read_to_string(golden("schema.sql")).unwrap();
    node.sql(&format!("{schema}; INSERT INTO Books VALUES(4000, 'only here', 'somebody', 2026)"));
    let begun = std::time::Instant::now();
    node.start();
    wait_for("it says what it waits for", 20, || {
        (node.count("waiting a minute for one that has") > 0).then_some(())
    });
    wait_for("it is whole", 90, || {
        node.assert_alive();
        (node.count("caught up with") > 0).then_some(())
    });
    assert!(begun.elapsed().as_secs() >= 59, "{:?}", begun.elapsed());
    assert_eq!(node.count("waiting a minute for one that has"), 1, "said once: {}", node.log());
    assert_eq!(node.count("there is no other: using it"), 1, "{}", node.log());
    let titles = "SELECT count(*) FROM Books WHERE id = 4000";
    assert_eq!(value(&node, titles), "Integer(1)");
    let copy = dir.0.join("expected.db");
    std::fs::copy(golden("snapshot.db"), &copy).unwrap();
    let expected = rusqlite::Connection::open(&copy).unwrap();
    expected.execute("INSERT INTO Books VALUES(4000, 'only here', 'somebody', 2026)", []).unwrap();
    assert_eq!(contents(&node.database), contents(&copy));
}

/// A Go node passes over rows without a word, and its positions say that it has them. What the streams still hold mends that.
#[test]
fn holes_that_a_go_node_left_are_mended_at_the_take_over() {
    let dir = Dir::new("holes");
    let nats = Nats::start(&dir);
    let mut node = Node::new(&dir, 7, &nats.url(), "");
    std::fs::copy(golden("database-with-pending-changes.db"), &node.database).unwrap();
    std::fs::copy(golden("seq-map.cbor"), node.dir.join("seq-map.cbor")).unwrap();
    let client = nats.client();
    go_stream(&client, 1);
    let whole = contents(&node.database);
    // Its triggers note all of it, but what it skipped it had never noted.
    node.sql(
        "DELETE FROM Books WHERE id = -70000; INSERT INTO Books VALUES(42, 'deleted elsewhere', 'x', 1);
         UPDATE kinds SET i = 99 WHERE k = 'plain'; DELETE FROM blobs; INSERT INTO nopk(rowid, a) VALUES(1, 'deleted');
         DELETE FROM __harmonylite__Books_change_log WHERE id > 8; DELETE FROM __harmonylite__kinds_change_log;
         DELETE FROM __harmonylite__blobs_change_log; DELETE FROM __harmonylite__nopk_change_log;
         DELETE FROM __harmonylite___change_log_global WHERE id > 23",
    );
    assert_ne!(contents(&node.database), whole);
    node.start_ready();
    wait_for("what was captured is published", 20, || {
        let info = client.stream_info("harmonylite-changes-c-1").unwrap();
        (info.state.messages == 23 && node.unsettled() == 0).then_some(())
    });
    assert_eq!(contents(&node.database), whole);
    assert_eq!(node.count("took over the database of a Go node"), 1, "{}", node.log());
    assert!(node.count("app.db.before-join-") == 1, "{}", node.log());
    // Nothing is to be taken over at the next start.
    assert_eq!(node.stop(), 0);
    node.start_ready();
    assert_eq!(node.count("took over the database of a Go node"), 1);
    assert_eq!(contents(&node.database), whole);
}

/// A user tries the Go program on a database of ours, and comes back, without `-cleanup`. What the Go node applied looks like writes of
/// the application to our triggers.
#[test]
fn what_a_go_node_applied_meanwhile_is_not_published() {
    let dir = Dir::new("visit");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, n)";
    let (mut node, mut other) = (
        Node::with_schema(&dir, 1, &nats.url(), "", schema),
        Node::with_schema(&dir, 2, &nats.url(), "", schema),
    );
    node.start_ready();
    other.start_ready();
    node.sql("INSERT INTO t VALUES(1, 'first', 1), (2, 'second', 2), (3, 'third', 3)");
    wait_equal(&mut [&mut node, &mut other], 20);
    assert_eq!(node.stop(), 0);
    let stream = "harmonylite-changes-c-1";
    let client = nats.client();
    let last = || client.stream_info(stream).unwrap().state.last_seq;
    let mut codec = Codec::new(true).unwrap();
    let mut publish = |kind, id: i64, v: &str| {
        let row =
            vec![("id".into(), Value::Integer(id)), ("v".into(), Value::text(v)), ("n".into(), Value::Null)];
        let event = Event { node: 9, id: last() as i64, kind, table: "t".into(), row, schema_hash: None };
        client.publish("harmonylite-change-log-1", codec.pack(&event).unwrap()).unwrap();
    };
    publish(Kind::Insert, 5, "of nine");
    publish(Kind::Update, 1, "of nine");
    publish(Kind::Delete, 2, "second");
    // As the Go program does it; the application writes too.
    node.sql(
        "CREATE TABLE __harmonylite__t_change_log(id INTEGER PRIMARY KEY AUTOINCREMENT, val_id INTEGER, val_v, val_n, type TEXT,
             created_at INTEGER, state INTEGER);
         INSERT OR REPLACE INTO t VALUES(5, 'of nine', NULL); INSERT OR REPLACE INTO t VALUES(1, 'of nine', NULL);
         DELETE FROM t WHERE id = 2; INSERT INTO t VALUES(6, 'own', 1);
         INSERT INTO __harmonylite__t_change_log VALUES(1, 6, 'own', 1, 'insert', 0, 0)",
    );
    positions::write(&node.dir.join("seq-map.cbor"), &[(stream.to_owned(), last())].into()).unwrap();
    // And the cluster goes on while nobody is here.
    other.sql("INSERT OR REPLACE INTO t VALUES(5, 'newer', 1), (1, 'newer', 2), (2, 'again', 3)");
    wait_for("it is published", 20, || (other.unsettled() == 0).then_some(()));
    node.start_ready();
    let equal = wait_equal(&mut [&mut node, &mut other], 20);
    assert_eq!(equal.matches("Integer(6)").count(), 1, "its own row arrives: {equal}");
    let texts = |node: &Node| -> String {
        let sql = "SELECT group_concat(id || v, ' ') FROM (SELECT id, v FROM t ORDER BY id)";
        node.open().query_row(sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(texts(&other), "1newer 2again 3third 5newer 6own");
    assert_eq!(node.count("a Go node has worked on this database since we did"), 1, "{}", node.log());
    assert_eq!(node.count("older copy"), 0, "{}", node.log());
    assert_eq!(node.stop(), 0);
    node.start_ready();
    assert_eq!(node.count("a Go node has worked on this database since we did"), 1);
}
