//! Single faults, one at a time, of real daemons: health, `-status` and the page name each within two seconds, in words that say what
//! to do, and not any more two seconds after its end.

use crate::support::servers::rclone_at;
use crate::support::*;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)";
/// Seconds until a fault is named, and until it is not any more. On a machine that runs other tests too, all takes longer.
const SOON: u64 = 2;
const ON_A_BUSY_MACHINE: u64 = 4;

/// A node whose health and page are asked for.
pub struct Watched {
    pub node: Node,
    port: u16,
}

impl Watched {
    /// `extra`: top-level keys and sections; of `[health_check]` there is one already.
    pub fn new(dir: &Dir, id: u64, urls: &str, extra: &str) -> Watched {
        let port = free_port();
        let health = format!("health_check = {{ enable = true, bind = \"127.0.0.1:{port}\" }}\n{extra}");
        Watched { node: Node::with_schema(dir, id, urls, &health, SCHEMA), port }
    }

    pub fn started(dir: &Dir, id: u64, urls: &str, extra: &str) -> Watched {
        let mut watched = Watched::new(dir, id, urls, extra);
        watched.node.start_ready();
        watched.is_well();
        watched
    }

    /// What the three show.
    pub fn shown(&self) -> [String; 3] {
        let begun = Instant::now();
        let (_, health) = health(self.port);
        let took = begun.elapsed();
        assert!(took.as_millis() <= if is_measured() { 50 } else { 1_000 }, "health took {took:?}");
        let status = printed_whatever(&self.node.command(&["-status"]));
        let page = http_get(self.port, "/").map(|(_, body)| body).unwrap_or_default();
        let lines = |value: &serde_json::Value| {
            value.as_array().into_iter().flatten().map(ToString::to_string).collect()
        };
        let problems: String = lines(&health["problems"]);
        let others: String = lines(&health["others"]);
        [problems + &others, status, page]
    }

    pub fn is_well(&self) {
        wait_for("it is healthy", 30, || (health(self.port).1["status"] == "healthy").then_some(()));
    }

    /// Waits until all three name a fault that begins with `begin`, then until they do not any more after `end`.
    pub fn sees(&self, words: &str, begin: impl FnOnce(), end: impl FnOnce()) {
        self.shown();
        let begun = Instant::now();
        begin();
        let named = self.until(words, true, begun);
        end();
        let ended = Instant::now();
        let gone = self.until(words, false, ended);
        println!("{words:?}: named after {} ms, gone after {} ms", named.as_millis(), gone.as_millis());
        assert!(named <= soon(), "{words:?} is named after {named:?}");
        assert!(gone <= soon(), "{words:?} is gone after {gone:?}");
    }

    fn until(&self, words: &str, there: bool, since: Instant) -> Duration {
        wait_for(&format!("{words:?} is shown: {there}"), 30, || {
            let shown = self.shown();
            let asked = since.elapsed();
            let as_wanted = shown.iter().all(|text| text.contains(words) == there);
            if !as_wanted && asked > Duration::from_secs(8) {
                let seen: Vec<bool> = shown.iter().map(|text| text.contains(words)).collect();
                eprintln!("{words:?} at {asked:?}: {seen:?}\n{}\n{}", shown[0], shown[1]);
                pause(2_000);
            }
            as_wanted.then_some(asked)
        })
    }
}

/// Until a fault is named, and until it is not any more.
pub fn soon() -> Duration {
    Duration::from_secs(if is_measured() { SOON } else { ON_A_BUSY_MACHINE })
}

/// A person measures, and nothing else runs.
fn is_measured() -> bool {
    number_from_environment("HARMONYLITE_BENCH_MB").is_some()
}

fn printed_whatever(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn of_the_broker() {
    let dir = Dir::new("faults-broker");
    let nats = std::cell::RefCell::new(Nats::start(&dir));
    let url = nats.borrow().url();
    // One message for each row: sets are cut where a message is too large.
    let extra = "snapshot.enabled = false\nreplication_log.format = \"rows\"\n";
    let one = Watched::started(&dir, 1, &url, extra);
    let with = |extra: &str| {
        let mut nats = nats.borrow_mut();
        nats.extra = extra.to_owned();
        nats.restart();
    };
    one.sees("see whether it runs", || nats.borrow_mut().kill(), || with(""));
    one.sees("JetStream does not answer", || nats.borrow().signal("STOP"), || nats.borrow().signal("CONT"));
    one.sees("correct nats.user_name", || with("authorization { user: a, password: b }"), || with(""));
    one.sees("see whether its JetStream is on", || with("jetstream: false"), || with(""));
    one.is_well();
    // A row that no message may hold.
    one.sees(
        "(its max_payload)",
        || {
            with("max_payload: 2000");
            one.node.sql("INSERT INTO t VALUES(1, hex(randomblob(5000)))");
        },
        || with(""),
    );
    one.is_well();
}

#[test]
fn of_the_streams() {
    let dir = Dir::new("faults-streams");
    let nats = Nats::start(&dir);
    let one = Watched::started(&dir, 1, &nats.url(), "snapshot.enabled = false\n");
    one.node.sql("INSERT INTO t VALUES(1, 'x')");
    wait_for("it is settled", 20, || (one.node.unsettled() == 0).then_some(()));
    // It is made anew soon, and the node goes on by itself.
    let client = nats.client();
    one.sees(
        "stream harmonylite-changes-c-1",
        || assert!(client.delete_stream("harmonylite-changes-c-1").unwrap()),
        || wait_for("it goes on", 20, || (one.node.count("in step with the others") > 0).then_some(())),
    );
    one.is_well();
    one.sees(
        "set aside: see -set-aside",
        || drop(client.publish("harmonylite-change-log-1", b"not an event").map(drop)),
        || drop(one.node.command(&["-set-aside", "drop", "all"])),
    );
}

#[test]
fn of_the_disk() {
    let dir = Dir::new("faults-disk");
    let nats = Nats::start(&dir);
    let (Some(disk), Some(temporary)) =
        (Small::mount(dir.0.join("node-1"), "12m"), Small::mount(dir.0.join("temporary"), "2m"))
    else {
        return skip("only root may mount");
    };
    let extra = format!("snapshot.temp_dir = {:?}\n", temporary.0);
    let one = Watched::started(&dir, 1, &nats.url(), &extra);
    let filler = disk.0.join("filler");
    let fill = |path: &PathBuf| {
        let mut file = std::fs::File::create(path).unwrap();
        while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
    };
    one.sees("the disk is full", || fill(&filler), || std::fs::remove_file(&filler).unwrap());
    let mount = |how: &str| {
        let status =
            std::process::Command::new("mount").args(["-o", how]).arg(&temporary.0).status().unwrap();
        assert!(status.success());
    };
    one.sees("mounted read-only", || mount("remount,ro"), || mount("remount,rw"));
    one.is_well();
}

#[test]
fn of_the_database() {
    let dir = Dir::new("faults-database");
    let nats = Nats::start(&dir);
    let one = Watched::started(&dir, 1, &nats.url(), "snapshot.enabled = false\n");
    let two = Watched::started(&dir, 2, &nats.url(), "snapshot.enabled = false\n");
    // The daemon's own process holds no lock for so long; the one of this test does.
    let app = one.node.open();
    let locked = || app.execute_batch("BEGIN IMMEDIATE").unwrap();
    one.sees("write lock", locked, || app.execute_batch("ROLLBACK").unwrap());
    one.sees(
        "behind by",
        || {
            locked();
            two.node.sql("INSERT INTO t VALUES(1, 'x')");
        },
        || app.execute_batch("ROLLBACK").unwrap(),
    );
    one.is_well();
    let away = one.node.dir.join("away.db");
    drop(app);
    one.sees(
        "no such file",
        || std::fs::rename(&one.node.database, &away).unwrap(),
        || std::fs::rename(&away, &one.node.database).unwrap(),
    );
}

#[test]
fn of_the_clock() {
    let dir = Dir::new("faults-clock");
    let nats = Nats::start(&dir);
    let mut one = Watched::new(&dir, 1, &nats.url(), "snapshot.enabled = false\n");
    let offset = dir.0.join("offset");
    std::fs::write(&offset, "+0").unwrap();
    let variables = [
        ("LD_PRELOAD", faketime().display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", offset.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        // Clocks that only go on are left alone: pauses would end, or never.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    one.node.variables.extend(variables.map(|(name, value)| (name.to_owned(), value)));
    one.node.start_ready();
    one.is_well();
    one.sees(
        "set both (NTP)",
        || std::fs::write(&offset, "+3600").unwrap(),
        || std::fs::write(&offset, "+0").unwrap(),
    );
}

#[test]
fn of_the_store() {
    let dir = Dir::new("faults-store");
    let nats = Nats::start(&dir);
    let port = free_port();
    let start = |password: &str| Some(rclone_at(&dir, "webdav", port, &["--user", "u", "--pass", password]));
    let server = std::cell::RefCell::new(start("p"));
    let store = format!(
        "[snapshot]\nenable = true\nstore = \"webdav\"\nwebdav.url = \"http://127.0.0.1:{port}/?dir=/snapshots&login=u&secret=p\"\n"
    );
    let one = Watched::started(&dir, 1, &nats.url(), &store);
    one.sees("store: ", || drop(server.take()), || drop(server.replace(start("p"))));
    one.is_well();
    one.sees(
        "401",
        || {
            drop(server.take());
            server.replace(start("another"));
        },
        || {
            drop(server.take());
            server.replace(start("p"));
        },
    );
    one.is_well();
}

#[test]
fn of_others() {
    let dir = Dir::new("faults-others");
    let nats = Nats::start(&dir);
    let extra = "schema = \"own\"\nsnapshot.enabled = false\n";
    let one = Watched::started(&dir, 1, &nats.url(), extra);
    let two = std::cell::RefCell::new(Watched::started(&dir, 2, &nats.url(), extra));
    wait_for("both know each other", 20, || one.shown()[1].contains("alive").then_some(()));
    let column = |node: &Node| node.sql("ALTER TABLE t ADD COLUMN w");
    one.sees("another schema than this node (table t)", || column(&two.borrow().node), || column(&one.node));
    one.is_well();
    // All that is there waits for a column that is not here.
    one.sees(
        "wait for a table or column",
        || two.borrow().node.sql("ALTER TABLE t ADD COLUMN x; INSERT INTO t VALUES(7, 'v', 'w', 'x')"),
        || one.node.sql("ALTER TABLE t ADD COLUMN x"),
    );
    one.is_well();
    let node = |id: u64, name: &str, more: &str| {
        let dir = Dir::new(name);
        let node = Watched::new(&dir, id, &nats.url(), &format!("{more}{extra}"));
        node.node.sql("ALTER TABLE t ADD COLUMN w; ALTER TABLE t ADD COLUMN x");
        (dir, node)
    };
    for ends_in_order in [false, true] {
        let (_dir, namesake) = node(1, "faults-namesake", "");
        let namesake = std::cell::RefCell::new(namesake);
        let end = || {
            let node = &mut namesake.borrow_mut().node;
            if ends_in_order {
                assert_eq!(node.stop(), 0);
            } else {
                node.kill9();
            }
        };
        one.sees("another daemon has this node_id", || namesake.borrow_mut().node.start(), end);
    }
    let (_dir, other) = node(3, "faults-shards", "replication_log.shards = 2\n");
    let other = std::cell::RefCell::new(other);
    let end = || assert_eq!(other.borrow_mut().node.stop(), 0);
    one.sees("another number of shards", || other.borrow_mut().node.start(), end);
    one.sees(
        "node 2 does not answer",
        || two.borrow().node.signal("STOP"),
        || two.borrow().node.signal("CONT"),
    );
}
