//! Stores that do not work for a while: the nodes replicate, say what is missing, and go on by themselves when it is mended.

use crate::support::servers::{self, PASSWORD, SECRET, USER};
use crate::support::stores::{sftp_config, webdav_config};
use crate::support::*;

/// A store is down and comes up later: rows are replicated all the time, and health tells what is missing, later that nothing
/// is.
#[test]
fn an_unreachable_store_stops_nothing() {
    let dir = Dir::new("unreachable-store");
    let mut nats = Nats::start(&dir);
    let (store, port) = (free_port(), free_port());
    let config = webdav_config(&format!("http://127.0.0.1:{store}"), "/d");
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    let checked = format!(
        "health_check.enable = true\nhealth_check.bind = \"127.0.0.1:{port}\"\n{}",
        config.replace("[snapshot]\n", "[snapshot]\nleader_ttl = 1000\n")
    );
    let mut one = Node::with_schema(&dir, 1, &nats.url(), &checked, schema);
    let mut two = Node::with_schema(&dir, 2, &nats.url(), &format!("publish = true\n{config}"), schema);
    one.start_ready();
    two.start_ready();
    one.sql("INSERT INTO t VALUES(1, 'x')");
    wait_equal(&mut [&mut one, &mut two], 20);
    let (status, body) = wait_for("health says degraded", 20, || {
        let (status, body) = health(port);
        let has = body["problems"].to_string().contains("no snapshot");
        (body["status"] == "degraded" && has).then_some((status, body))
    });
    assert_eq!(status, 200);
    assert!(body["problems"].to_string().contains("Connection refused"), "{body}");
    assert!(!body.to_string().contains(PASSWORD));
    assert_eq!(http_get(port, "/other").unwrap().0, 404);
    let root = dir.0.join("dav");
    std::fs::create_dir_all(&root).unwrap();
    let _server = servers::rclone_at(&dir, "webdav", store, &["--user", USER, "--pass", PASSWORD]);
    wait_for("a snapshot is stored", 60, || (one.count("stored snapshot") > 0).then_some(()));
    wait_for("health says healthy", 10, || (health(port).1["status"] == "healthy").then_some(()));
    nats.kill();
    wait_for("health says unhealthy", 30, || (health(port).0 == 503).then_some(()));
    nats.restart();
    wait_for("health says healthy again", 30, || (health(port).0 == 200).then_some(()));
    assert_eq!(one.count(PASSWORD) + two.count(PASSWORD), 0);
    one.assert_alive();
    two.assert_alive();
}

/// A daemon whose store does not work for a reason that only a person can mend: it says why once, in its log and by health,
/// replicates all the same, and goes on by itself when it is mended.
pub fn goes_on(dir: &Dir, id: u64, config: &str, why: &str, mend: impl FnOnce()) {
    let (own, port) = (Dir::new("mended-nats"), free_port());
    let nats = Nats::start(&own);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, randomblob(3000000))";
    let stream = format!(
        "health_check.enable = true\nhealth_check.bind = \"127.0.0.1:{port}\"\n{}",
        config.replace("[snapshot]\n", "[snapshot]\nleader_ttl = 1000\n")
    );
    let mut one = Node::with_schema(dir, id, &nats.url(), &stream, schema);
    let quiet =
        stream.replace("enable = true", "enable = false").replace("leader_ttl = 1000", "enabled = false");
    let mut two =
        Node::with_schema(dir, id + 1, &nats.url(), &quiet, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    one.start_ready();
    two.start_ready();
    let problem = wait_for("health says degraded", 30, || {
        let (status, body) = health(port);
        let problems = body["problems"].to_string();
        (status == 200 && body["status"] == "degraded" && problems.contains("no snapshot"))
            .then_some(problems)
    });
    assert!(problem.contains(why), "{problem}");
    one.sql("INSERT INTO t VALUES(2, 'still here')");
    wait_for("it replicates", 20, || {
        (value(&two, "SELECT count(*) FROM t WHERE id = 2") == "Integer(1)").then_some(())
    });
    pause(3_000);
    assert!((1..=3).contains(&one.count(why)), "said again and again:\n{}", one.log());
    mend();
    wait_for("a snapshot is stored", 90, || (one.count("stored snapshot") > 0).then_some(()));
    wait_for("health says healthy", 10, || (health(port).1["status"] == "healthy").then_some(()));
    for secret in [SECRET, PASSWORD] {
        assert_eq!(one.count(secret), 0);
    }
}

#[test]
fn what_a_person_mends_while_it_runs() {
    let dir = Dir::new("mended");
    let ssh = servers::openssh(&dir);
    let known = dir.0.join("known");
    let base = ssh.root.parent().unwrap();
    let key_of = |name: &str| {
        let key = std::fs::read_to_string(base.join(name)).unwrap();
        std::fs::write(&known, format!("[127.0.0.1]:{} {key}", ssh.server.port)).unwrap();
    };
    key_of("other.pub");
    let config = sftp_config(&ssh, &ssh.user, &format!("{}/d", ssh.root.display()))
        + &format!("key_file = {:?}\nknown_hosts = {known:?}\n", ssh.key);
    goes_on(&dir, 1, &config, "not connecting", || key_of("host_ed25519.pub"));

    let Some(small) = Small::mount(dir.0.join("small"), "4m") else {
        return skip("no file system can be mounted");
    };
    let ballast = small.0.join("ballast");
    std::fs::write(&ballast, vec![0; 2_000_000]).unwrap();
    let config = format!("[snapshot]\nstore = \"file\"\nfile.path = {:?}\n", small.0.join("d"));
    goes_on(&dir, 3, &config, "No space left", || std::fs::remove_file(&ballast).unwrap());
    std::fs::remove_dir_all(small.0.join("d")).unwrap();
    std::fs::write(&ballast, vec![0; 2_000_000]).unwrap();
    let config = format!("[snapshot]\ntemp_dir = {:?}\n", small.0);
    goes_on(&dir, 5, &config, "a snapshot needs up to", || std::fs::remove_file(&ballast).unwrap());
}
