//! More single faults of real daemons: a broker that is not trusted any more, or has no room; another key; damage; what somebody
//! removed; little memory. Named and forgotten as those in `faults.rs`.

use super::faults::{Watched, soon};
use crate::support::stores::file_store;
use crate::support::*;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Instant;

const NO_SNAPSHOTS: &str = "snapshot.enabled = false\n";
const ROWS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 800) \
                    INSERT INTO t SELECT i, hex(zeroblob(250)) FROM n";

#[test]
fn of_the_brokers_certificate() {
    let (dir, elsewhere) = (Dir::new("faults-tls"), Dir::new("faults-other-authority"));
    let (ours, other) = (Authority::new(&dir), Authority::new(&elsewhere));
    let here = "IP:127.0.0.1";
    let good = ours.certificate("good", here);
    let nats = RefCell::new(Nats::with(&dir, &nats_binaries()[0], &good.tls_block(false)));
    let url = nats.borrow().url().replace("nats://", "tls://");
    let one = Watched::started(&dir, 1, &url, &format!("nats.ca_file = {:?}\n{NO_SNAPSHOTS}", good.ca));
    let with = |extra: &str| {
        let mut nats = nats.borrow_mut();
        nats.extra = extra.to_owned();
        nats.restart();
    };
    let cases = [
        ("nats.ca_file must be the authority", other.certificate("untrusted", here).tls_block(false)),
        ("or set the clock of this machine", ours.certificate_of("-90d", "old", here).tls_block(false)),
        ("set the clock of this machine (NTP)", ours.certificate_of("+90d", "early", here).tls_block(false)),
        ("nats.urls must have a name", ours.certificate("name", "DNS:elsewhere").tls_block(false)),
        ("set nats.cert_file and nats.key_file", good.tls_block(true)),
        ("switch TLS on at the broker", String::new()),
    ];
    for (words, block) in cases {
        one.sees(words, || with(&block), || with(&good.tls_block(false)));
        one.is_well();
    }
}

#[test]
fn of_the_key_of_snapshots_in_a_directory() {
    let dir = Dir::new("faults-key");
    of_the_key(&dir, &file_store(&dir).1);
}

#[test]
fn of_the_key_of_snapshots_in_nats() {
    let dir = Dir::new("faults-key-nats");
    of_the_key(&dir, "[snapshot]\nstore = \"nats\"\nleader_ttl = 1000\n");
}

fn of_the_key(dir: &Dir, store: &str) {
    let nats = Nats::start(dir);
    let key = dir.0.join("key");
    let is_key = |digits: &str| {
        std::fs::write(&key, digits.repeat(32)).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    is_key("5a");
    let one = Watched::started(dir, 1, &nats.url(), &format!("{store}key_file = {key:?}\n"));
    one.node.sql("INSERT INTO t VALUES(1, 'x')");
    wait_for("it is settled", 20, || (one.node.unsettled() == 0).then_some(()));
    // The daemon has read its key at its start; a command reads it now.
    let save_with = |digits: &str| {
        is_key(digits);
        let saved = one.node.command(&["-save-snapshot"]);
        assert!(saved.status.success(), "{}", printed(&saved));
    };
    save_with("5a");
    let words = "give all nodes the same snapshot.key_file";
    one.sees(words, || save_with("6b"), || save_with("5a"));
    one.is_well();
    // The daemon has it in memory.
    std::fs::remove_file(&key).unwrap();
    one.shown();
    one.is_well();
}

fn spoil_rows(node: &Node) {
    node.checkpoint();
    spoil(&node.database, (root_page(node, "t") - 1) * 4096, 4096);
}

#[test]
fn of_damage_and_no_snapshot() {
    let dir = Dir::new("faults-damage");
    let nats = Nats::start(&dir);
    let one = Watched::started(&dir, 1, &nats.url(), NO_SNAPSHOTS);
    one.node.sql(ROWS);
    wait_for("it is settled", 20, || (one.node.unsettled() == 0).then_some(()));
    one.node.checkpoint();
    let good = one.node.dir.join("good");
    // The first check of a session comes after a pause.
    pause(2_500);
    std::fs::copy(&one.node.database, &good).unwrap();
    one.sees(
        "put a good copy in its place",
        || spoil_rows(&one.node),
        || {
            for suffix in ["-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{suffix}", one.node.database.display()));
            }
            std::fs::rename(&good, &one.node.database).unwrap();
        },
    );
    one.is_well();
    assert_eq!(value(&one.node, "SELECT count(*) FROM t"), "Integer(800)");
}

/// Nobody touches the damaged page: who looks brings the recovery about.
#[test]
fn of_damage_that_is_recovered() {
    let dir = Dir::new("faults-recovered");
    let nats = Nats::start(&dir);
    let one = Watched::started(&dir, 1, &nats.url(), &file_store(&dir).1);
    one.node.sql(ROWS);
    wait_for("it is settled", 20, || (one.node.unsettled() == 0).then_some(()));
    assert!(one.node.command(&["-save-snapshot"]).status.success());
    one.node.sql("INSERT INTO t VALUES(5000, 'after the snapshot')");
    wait_for("it is settled", 20, || (one.node.unsettled() == 0).then_some(()));
    spoil_rows(&one.node);
    let begun = Instant::now();
    wait_for("it is recovered", 30, || {
        one.shown();
        (one.node.count("of the damaged one were carried over") > 0).then_some(())
    });
    one.is_well();
    let took = begun.elapsed();
    println!("recovered after {} ms", took.as_millis());
    assert!(took <= soon() * 2, "{took:?}");
    wait_for("nothing is lost", 20, || {
        (value(&one.node, "SELECT count(*) FROM t") == "Integer(801)").then_some(())
    });
}

/// Put back at once, and what was written meanwhile is found: nothing to be said by health.
#[test]
fn of_triggers_that_somebody_drops() {
    let dir = Dir::new("faults-triggers");
    let nats = Nats::start(&dir);
    let one = Watched::started(&dir, 1, &nats.url(), NO_SNAPSHOTS);
    let two = Watched::started(&dir, 2, &nats.url(), NO_SNAPSHOTS);
    let names = || {
        let app = one.node.open();
        let mut statement = app
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name GLOB '__harmonylite__*' ORDER BY name")
            .unwrap();
        statement
            .query_map([], |row| row.get::<_, String>(0))
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    };
    let before = names();
    assert!(before.len() > 2, "{before:?}");
    let drops: String = before.iter().map(|name| format!("DROP TRIGGER {name};")).collect();
    one.node.sql(&format!("BEGIN IMMEDIATE; {drops} INSERT INTO t VALUES(1, 'unseen'); COMMIT"));
    let begun = Instant::now();
    wait_for("they are back", 20, || (names() == before).then_some(()));
    println!("back after {} ms", begun.elapsed().as_millis());
    assert!(begun.elapsed() <= soon(), "{:?}", begun.elapsed());
    one.node.sql("INSERT INTO t VALUES(2, 'seen')");
    wait_for("nothing is lost", 20, || {
        (value(&two.node, "SELECT count(*) FROM t") == "Integer(2)").then_some(())
    });
    assert_eq!(one.node.count("was built anew"), 2, "{}", one.node.log());
    one.is_well();
}

/// Changes a stream's configuration, as a person does.
fn change_stream(nats: &Nats, name: &str, changes: &[(&str, Value)]) {
    let client = nats::connect(nats.url()).unwrap();
    let ask = |what: &str, body: &str| -> Value {
        let answer = client.request(&format!("$JS.API.STREAM.{what}.{name}"), body).unwrap();
        serde_json::from_slice(&answer.data).unwrap()
    };
    let mut config = ask("INFO", "")["config"].clone();
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    let answer = ask("UPDATE", &config.to_string());
    assert!(answer["error"].is_null(), "{answer}");
}

#[test]
fn of_a_broker_without_room() {
    let dir = Dir::new("faults-room");
    let account = |bytes: &str| {
        format!(
            "accounts {{ A {{ jetstream: {{ max_file: {bytes} }}, users: [{{ user: a, password: b }}] }} }}"
        )
    };
    let nats = RefCell::new(Nats::with(&dir, &nats_binaries()[0], &account("500MB")));
    let url = nats.borrow().url().replace("nats://", "nats://a:b@");
    let one = Watched::started(&dir, 1, &url, NO_SNAPSHOTS);
    let with = |extra: &str| {
        let mut nats = nats.borrow_mut();
        nats.extra = extra.to_owned();
        nats.restart();
    };
    let write = || (0..3).for_each(|_| one.node.sql("INSERT INTO t(v) VALUES(hex(randomblob(200000)))"));
    one.sees(
        "make room on the broker",
        || {
            with(&account("64KB"));
            write();
        },
        || with(&account("500MB")),
    );
    one.is_well();
    assert_eq!(one.node.count("is refused by its stream"), 0, "{}", one.node.log());
    wait_for("all is there", 20, || (one.node.unsettled() == 0).then_some(()));
}

#[test]
fn of_a_stream_without_room() {
    let dir = Dir::new("faults-full-stream");
    let nats = Nats::start(&dir);
    let one = Watched::started(&dir, 1, &nats.url(), NO_SNAPSHOTS);
    let change = |discard: &str, bytes: u64| {
        let changes = [("discard", json!(discard)), ("max_bytes", json!(bytes))];
        change_stream(&nats, "harmonylite-changes-c-1", &changes);
    };
    one.sees(
        "make room on the broker",
        || {
            change("new", 10_000);
            one.node.sql("INSERT INTO t(v) VALUES(hex(randomblob(200000)))");
        },
        || change("old", 64 << 20),
    );
    one.is_well();
    wait_for("all is there", 20, || (one.node.unsettled() == 0).then_some(()));
}

/// The stream can be made, and reaches back less far than the database asks for.
#[test]
fn of_a_broker_with_little_room() {
    let dir = Dir::new("faults-little-room");
    let js = dir.0.join("broker/js");
    let little = format!("jetstream {{ store_dir: {js:?}, max_file_store: 20MB }}");
    let nats = RefCell::new(Nats::with(&dir, &nats_binaries()[0], &little));
    let url = nats.borrow().url();
    let one = Watched::started(&dir, 1, &url, NO_SNAPSHOTS);
    one.sees(
        "has no room for",
        || one.node.sql("INSERT INTO t VALUES(1, 'x')"),
        || {
            let mut nats = nats.borrow_mut();
            nats.extra = String::new();
            nats.restart();
        },
    );
    one.is_well();
}

/// A control group of a test, in the version that this machine has.
struct Group(PathBuf);

impl Group {
    fn new(bytes: u64) -> Option<Group> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let first = groups.lines().find_map(|line| line.split_once(":memory:"));
        let (root, bound) = match first {
            Some((_, path)) => (format!("/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes"),
            None => ("/sys/fs/cgroup".to_owned(), "memory.max"),
        };
        let group = Group(PathBuf::from(root).join(format!("harmonylite-it-{}", std::process::id())));
        std::fs::create_dir(&group.0).ok()?;
        std::fs::write(group.0.join(bound), bytes.to_string()).is_ok().then_some(group)
    }

    fn procs(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn of_memory() {
    let dir = Dir::new("faults-memory");
    let nats = Nats::start(&dir);
    let (Some(group), Some(disk)) = (Group::new(64 << 20), Small::mount(dir.0.join("files"), "100m")) else {
        return skip("only root may make control groups");
    };
    let mut one = Watched::started(&dir, 1, &nats.url(), NO_SNAPSHOTS);
    std::fs::write(group.procs(), one.node.pid().to_string()).unwrap();
    // Files in memory count for the group of the process that writes them.
    let file = disk.0.join("file");
    let script = format!("echo $$ > {:?}; head -c 58M /dev/zero > {file:?}", group.procs());
    one.sees(
        "control group of this daemon",
        || assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success()),
        || std::fs::remove_file(&file).unwrap(),
    );
    one.is_well();
    assert_eq!(one.node.stop(), 0);
}
