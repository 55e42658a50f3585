//! What a person and a cron job do with snapshots, and packed ones.

use crate::support::servers::python;
use crate::support::stores::file_store;
use crate::support::*;
use std::process::Output;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";

fn settled(node: &mut Node, sql: &str) {
    node.sql(sql);
    wait_for("what was written came back", 20, || (node.unsettled() == 0).then_some(()));
}

#[test]
fn list_verify_restore() {
    let dir = Dir::new("commands");
    let nats = Nats::start(&dir);
    let (root, config) = file_store(&dir);
    let config = config + "keep = 3\n";
    let mut node = Node::with_schema(&dir, 5, &nats.url(), &config, SCHEMA);
    let empty = node.command(&["-list-snapshots"]);
    assert!(empty.status.success() && printed(&empty).contains("no snapshots"), "{}", printed(&empty));
    node.start_ready();
    wait_for("the leader's first snapshot", 20, || (node.count("stored snapshot") > 0).then_some(()));
    for number in 1..=3 {
        settled(&mut node, &format!("INSERT INTO t VALUES({number}, 'x')"));
        // The name of a kept snapshot has its time in seconds: two in one second would have the same.
        pause(1_100);
        let output = node.command(&["-save-snapshot", "-json"]);
        let saved = json(&output);
        assert_eq!((saved["unchanged"].clone(), saved["node"].clone()), (false.into(), 5.into()), "{saved}");
        assert_eq!(saved["position"]["harmonylite-changes-c-1"], number, "{saved}");
    }
    // Nothing changed: nothing is uploaded, and with -quiet nothing is printed.
    let before = std::fs::metadata(root.join("snapshot.db")).unwrap().modified().unwrap();
    let output = node.command(&["-save-snapshot", "-quiet"]);
    assert!(output.status.success() && printed(&output).is_empty(), "{}", printed(&output));
    assert_eq!(json(&node.command(&["-save-snapshot", "-json"]))["unchanged"], true);
    assert_eq!(std::fs::metadata(root.join("snapshot.db")).unwrap().modified().unwrap(), before);

    let listed = json(&node.command(&["-list-snapshots", "-json"]));
    let snapshots = listed["snapshots"].as_array().unwrap();
    assert_eq!(snapshots.len(), 3, "{listed}");
    assert_eq!(snapshots[0]["name"], "snapshot.db");
    for one in snapshots {
        assert!(one["verified"] == true && one["age_seconds"].as_i64().unwrap() < 60, "{one}");
        assert_eq!(one["schema"].as_str().unwrap().len(), 64);
    }
    let table = printed(&node.command(&["-list-snapshots"]));
    let head = "NAME                          AGE";
    assert!(table.starts_with(head) && table.contains("at upload") && table.lines().count() == 4, "{table}");

    let oldest = snapshots[2]["name"].as_str().unwrap();
    let verified = node.command(&["-verify-snapshot", oldest]);
    assert!(verified.status.success() && printed(&verified).contains("good: "), "{}", printed(&verified));
    let target = dir.0.join("restored.db");
    let to = target.to_str().unwrap();
    let output = node.command(&["-restore-snapshot", oldest, "-to", to]);
    assert!(output.status.success(), "{}", printed(&output));
    let restored = rusqlite::Connection::open(&target).unwrap();
    let query = "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM sqlite_schema WHERE name LIKE '%harmonylite%')";
    let counts: (i64, i64) = restored.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(counts, (1, 0));
    let again = node.command(&["-restore-snapshot", oldest, "-to", to]);
    assert!(!again.status.success() && printed(&again).contains("exists already"), "{}", printed(&again));
    let none = node.command(&["-verify-snapshot", "snapshot-20000101T000000Z.db"]);
    assert!(!none.status.success() && printed(&none).contains("there is no snapshot"), "{}", printed(&none));

    // A bit that is flipped in the store is found.
    let mut bytes = std::fs::read(root.join(oldest)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(root.join(oldest), bytes).unwrap();
    let bad = node.command(&["-verify-snapshot", oldest, "-json"]);
    assert_eq!((bad.status.code(), json(&bad)["ok"].clone()), (Some(1), false.into()), "{}", printed(&bad));
}

#[test]
fn two_at_once_wait_for_each_other() {
    let dir = Dir::new("overlap");
    let nats = Nats::start(&dir);
    let (_, config) = file_store(&dir);
    let node = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    node.sql("INSERT INTO t VALUES(1, randomblob(20000000))");
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let runs: Vec<_> =
            (0..3).map(|_| scope.spawn(|| node.command(&["-save-snapshot", "-json"]))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let fresh = outputs.iter().filter(|output| json(output)["unchanged"] == false).count();
    assert_eq!(fresh, 1, "one makes it, the others find that nothing changed");
}

/// A node that finds the snapshot damaged asks for another, and the leader makes it although nothing changed.
#[test]
fn the_leader_is_asked_for_a_fresh_one() {
    let dir = Dir::new("asked");
    let nats = Nats::start(&dir);
    let (root, config) = file_store(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    one.start_ready();
    settled(&mut one, "INSERT INTO t VALUES(1, 'x')");
    assert!(one.command(&["-save-snapshot"]).status.success());
    let path = root.join("snapshot.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let mut two = Node::new(&dir, 2, &nats.url(), &config);
    two.start();
    wait_for("it says what is wrong", 10, || (two.count("is damaged") > 0).then_some(()));
    wait_for("the leader heard", 20, || (one.count("(node 2 asked for one)") == 1).then_some(()));
    wait_for("it is whole", 20, || (two.count("caught up") == 1).then_some(()));
    wait_equal(&mut [&mut one, &mut two], 10);
}

/// Reads the format of an encrypted snapshot with Python's `cryptography`.
const UNPACK: &str = "
import sys
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.hashes import SHA256
data = open(SOURCE, 'rb').read()
assert data[:24] == b'harmonylite-encrypted-1\\n'
key = HKDF(SHA256(), 32, data[24:56], b'harmonylite snapshot').derive(bytes.fromhex(KEY))
out, at, number = b'', 56, 0
while at < len(data):
    chunk = data[at:at + 65552]
    at += 65552
    nonce = number.to_bytes(11, 'big') + (b'\\1' if at >= len(data) else b'\\0')
    out += ChaCha20Poly1305(key).decrypt(nonce, chunk, None)
    number += 1
open(TARGET, 'wb').write(out)
";

#[test]
fn packed_snapshots() {
    let dir = Dir::new("packed");
    let nats = Nats::start(&dir);
    let key = dir.0.join("key");
    std::fs::write(&key, "5a".repeat(32) + "\n").unwrap();
    let (root, plain) = file_store(&dir);
    let encrypted = format!("{plain}key_file = {key:?}\n");
    let mut one =
        Node::with_schema(&dir, 1, &nats.url(), &format!("{encrypted}compression = \"zstd\"\n"), SCHEMA);
    one.start_ready();
    settled(&mut one, "INSERT INTO t VALUES(1, 'a secret of the application'), (2, zeroblob(3000000))");
    let output = one.command(&["-save-snapshot", "-json"]);
    assert_eq!(json(&output)["encoding"], "zstd+encrypted", "{}", printed(&output));
    let stored = std::fs::read(root.join("snapshot.db")).unwrap();
    assert!(stored.len() < 1_000_000 && stored.starts_with(b"harmonylite-encrypted-1\n"));
    assert!(!stored.windows(8).any(|window| window == b"a secret"));
    // Python decrypts it; what comes out is a zstd frame.
    let opened = dir.0.join("opened");
    let script = UNPACK
        .replace("SOURCE", &format!("{:?}", root.join("snapshot.db")))
        .replace("TARGET", &format!("{opened:?}"))
        .replace("KEY", &format!("{:?}", "5a".repeat(32)));
    python(&script);
    let packed = std::fs::read(&opened).unwrap();
    assert!(zstd::decode_all(packed.as_slice()).unwrap().starts_with(b"SQLite format 3\0"));
    // A node with the key restores it, whatever compression its own configuration names. A node without the key says so.
    let mut two = Node::new(&dir, 2, &nats.url(), &encrypted);
    two.start_ready();
    wait_equal(&mut [&mut one, &mut two], 20);
    let mut three = Node::new(&dir, 3, &nats.url(), &plain);
    three.start();
    wait_for("it says that it has no key", 20, || {
        (three.count("this node has no key (snapshot.key_file)") > 0).then_some(())
    });
    let output = three.command(&["-verify-snapshot"]);
    assert!(!output.status.success() && printed(&output).contains("has no key"), "{}", printed(&output));
    // A fresh snapshot would be encrypted too: the leader is not asked for one.
    pause(6_000);
    assert_eq!(one.count("(node 3 asked for one)"), 0, "{}", one.log());
    assert_eq!(three.count("this node has no key"), 1, "said once: {}", three.log());
}

/// What a crash left beside the database is gone at the next start.
#[test]
fn leftovers_beside_the_database_go() {
    let dir = Dir::new("leftovers");
    let nats = Nats::start(&dir);
    let mut node = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    for name in ["snapshot", "snapshot-packed", "snapshot-stored", "download", "download-plain", "verify"] {
        std::fs::write(node.dir.join(format!("app.db.harmonylite-{name}")), b"left").unwrap();
    }
    std::fs::write(node.dir.join("app.db.harmonylite"), b"not ours").unwrap();
    node.start_ready();
    // The node may be making a snapshot by now, with files of the same names: only those with the old content count.
    let entries = std::fs::read_dir(&node.dir).unwrap().map(|entry| entry.unwrap().path());
    let left: Vec<_> =
        entries.filter(|path| std::fs::read(path).is_ok_and(|content| content == b"left")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(node.dir.join("app.db.harmonylite").exists());
}
