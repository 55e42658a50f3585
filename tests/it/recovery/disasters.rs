//! What is left when much is gone: snapshots without streams, streams without snapshots, one node of all, a full disk.

use crate::support::proxy::Slow;
use crate::support::servers::{self, KEY, SECRET};
use crate::support::stores::{file_store, s3_config, sftp_config, webdav_config};
use crate::support::*;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, pad)";

fn fill(node: &Node, from: u64, count: u64) {
    node.sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {}) INSERT INTO t SELECT i, 'v' || i, hex(zeroblob(200)) FROM n",
        from + count - 1
    ));
}

fn rows(node: &Node) -> String {
    value(node, "SELECT count(*) FROM t")
}

/// The store holds two snapshots, of which the newer one is damaged: a node without a database says so and restores the older
/// one, and the leader makes another.
fn an_older_one_serves(dir: &Dir, config: &str, spoil: &dyn Fn(&Nats, &str)) {
    let nats = Nats::start(dir);
    let config = config.replace("[snapshot]\n", "[snapshot]\nkeep = 2\nleader_ttl = 1000\n");
    let mut one = Node::with_schema(dir, 1, &nats.url(), &config, SCHEMA);
    one.start_ready();
    fill(&one, 1, 300);
    wait_for("all came back", 20, || (one.unsettled() == 0).then_some(()));
    assert!(one.command(&["-save-snapshot", "-quiet"]).status.success());
    for way in ["flipped", "cut"] {
        fill(&one, if way == "cut" { 1_000 } else { 2_000 }, 50);
        wait_for("all came back", 20, || (one.unsettled() == 0).then_some(()));
        assert!(one.command(&["-save-snapshot", "-quiet"]).status.success());
        let state = contents(&one.database);
        one.stop();
        spoil(&nats, way);
        // The name of a kept snapshot has its time in seconds: the damaged one must not share it with the fresh one.
        pause(1_100);
        let other = Dir::new("older-too");
        let mut two = Node::new(&other, 2, &nats.url(), &config);
        two.start();
        wait_for("it is whole", 40, || {
            two.assert_alive();
            (two.count("caught up with") > 0).then_some(())
        });
        assert!(two.count("is damaged") >= 1 && two.count("; using snapshot-") == 1, "{way}: {}", two.log());
        assert_eq!(contents(&two.database), state, "{way}");
        // The restored node asked for another snapshot and makes it itself: it is the only one that runs.
        wait_for("a good one is there again", 40, || {
            let output = two.command(&["-verify-snapshot", "-quiet"]);
            output.status.success().then_some(())
        });
        two.stop();
        one.start_ready();
        wait_equal(&mut [&mut one], 20);
    }
}

/// Damages a file: "cut" removes its second half, any other way flips a bit.
fn spoil_file(path: &Path, way: &str) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    if way == "cut" {
        return file.set_len(length / 2).unwrap();
    }
    let mut byte = [0];
    file.read_exact_at(&mut byte, length / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 4], length / 2).unwrap();
}

/// The messages of an object in NATS cannot be changed: a damaged object is put in its place.
#[test]
fn an_older_one_serves_nats() {
    let dir = Dir::new("older-nats");
    an_older_one_serves(&dir, "[snapshot]\n", &|nats, way| {
        let store = nats.client().object_store("harmonylite-changes-snapshot-store").unwrap();
        let mut bytes = vec![];
        std::io::Read::read_to_end(&mut store.get("snapshot.db").unwrap(), &mut bytes).unwrap();
        if way == "cut" {
            bytes.truncate(bytes.len() / 2);
        } else {
            // A page's header: SQLite's check finds it.
            bytes[4096 * 3..4096 * 3 + 8].fill(0xff);
        }
        store.put("snapshot.db", &mut bytes.as_slice()).unwrap();
    });
}

#[test]
fn an_older_one_serves_s3() {
    let dir = Dir::new("older-s3");
    let server = servers::rclone(&dir, "s3", &["--auth-key", &format!("{KEY},{SECRET}")]);
    let endpoint = format!("127.0.0.1:{}", server.port);
    let config = s3_config(&endpoint, (KEY, SECRET), "backups", "x");
    // The metadata stays the same, as if the server's disk had failed.
    an_older_one_serves(&dir, &config, &|_, way| {
        servers::python(&format!(
            "import boto3\nc = boto3.client('s3', endpoint_url='http://{endpoint}', region_name='us-east-1', aws_access_key_id='{KEY}', aws_secret_access_key='{SECRET}')\n\
             o = c.get_object(Bucket='backups', Key='x/snapshot.db')\nb = bytearray(o['Body'].read())\n\
             if '{way}' == 'cut': b = b[:len(b) // 2]\nelse: b[len(b) // 2] ^= 4\n\
             c.put_object(Bucket='backups', Key='x/snapshot.db', Body=bytes(b), Metadata=o['Metadata'])\n"
        ));
    });
}

#[test]
fn an_older_one_serves_webdav() {
    let dir = Dir::new("older-webdav");
    let dav = servers::apache(&dir);
    let config = webdav_config(&format!("http://127.0.0.1:{}", dav.basic), "/d");
    an_older_one_serves(&dir, &config, &|_, way| spoil_file(&dir.0.join("apache/www/d/snapshot.db"), way));
}

#[test]
fn an_older_one_serves_sftp() {
    let dir = Dir::new("older-sftp");
    let ssh = servers::openssh(&dir);
    let config = sftp_config(&ssh, &ssh.user, &format!("{}/d", ssh.root.display()))
        + &format!("key_file = {:?}\n", ssh.key);
    an_older_one_serves(&dir, &config, &|_, way| spoil_file(&ssh.root.join("d/snapshot.db"), way));
}

#[test]
fn an_older_one_serves_file() {
    let dir = Dir::new("older-file");
    let config = file_store(&dir).1.replace("leader_ttl = 1000\n", "");
    an_older_one_serves(&dir, &config, &|_, way| spoil_file(&dir.0.join("backups/snapshot.db"), way));
}

/// The broker lost everything and all nodes but one lost their databases. Those restore a snapshot, and the node that kept its
/// database publishes what the others lack.
#[test]
fn streams_gone_and_nodes_gone() {
    let dir = Dir::new("streams-gone");
    let mut nats = Nats::start(&dir);
    let (_, config) = file_store(&dir);
    let mut nodes: Vec<Node> =
        (1..=3).map(|id| Node::with_schema(&dir, id, &nats.url(), &config, SCHEMA)).collect();
    nodes.iter_mut().for_each(Node::start_ready);
    fill(&nodes[0], 1, 300);
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 20);
    assert!(nodes[0].command(&["-save-snapshot", "-quiet"]).status.success());
    nodes.iter_mut().for_each(|node| assert_eq!(node.stop(), 0));
    nats.kill();
    nats.wipe();
    nats.restart();
    for node in &nodes[1..] {
        node.remove_database();
    }
    // The nodes without a database start first: they have the snapshot alone.
    for node in &mut nodes[1..] {
        node.start_ready();
        assert_eq!(rows(node), "Integer(300)");
    }
    nodes[1].sql("INSERT INTO t VALUES(5000, 'new', 1)");
    nodes[0].sql("INSERT INTO t VALUES(6000, 'kept', 1)");
    nodes[0].start_ready();
    let text = wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    assert!(text.contains("== t (302 rows)"), "{text}");
}

/// The newest snapshot is damaged, and the streams do not go on from the older one: the leader is asked for a fresh one.
#[test]
fn the_newest_is_damaged_and_the_older_too_old() {
    let dir = Dir::new("damaged-and-old");
    let nats = Nats::start(&dir);
    let (root, config) = file_store(&dir);
    let mut one = Node::new(&dir, 1, &nats.url(), &format!("{config}keep = 2\n"));
    one.keep_messages(100000);
    one.sql(SCHEMA);
    one.start_ready();
    let save = |one: &Node, from: u64| {
        fill(one, from, 300);
        wait_for("all came back", 20, || (one.unsettled() == 0).then_some(()));
        assert!(one.command(&["-save-snapshot", "-quiet"]).status.success());
    };
    save(&one, 1);
    save(&one, 1_000);
    // The stream forgets what came right after the older snapshot.
    let client = nats.client();
    let mut stream = client.stream_info("harmonylite-changes-c-1").unwrap().config;
    stream.max_msgs = 100;
    client.update_stream(&stream).unwrap();
    spoil_file(&root.join("snapshot.db"), "flipped");
    let mut two = Node::new(&dir, 2, &nats.url(), &config);
    two.start_ready();
    assert!(two.count("is damaged") == 1 && one.count("(node 2 asked for one)") == 1, "{}", two.log());
    wait_equal(&mut [&mut one, &mut two], 20);
}

/// The snapshots are removed while the leader believes that they are there: a node without a database asks for one and gets it.
#[test]
fn snapshots_gone_and_streams_whole() {
    let dir = Dir::new("snapshots-gone");
    let nats = Nats::start(&dir);
    let (root, config) = file_store(&dir);
    let mut one = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    one.start_ready();
    fill(&one, 1, 300);
    wait_for("all came back", 20, || (one.unsettled() == 0).then_some(()));
    wait_for("a snapshot", 20, || root.join("snapshot.db").exists().then_some(()));
    std::fs::remove_dir_all(&root).unwrap();
    let mut two = Node::new(&dir, 2, &nats.url(), &config);
    two.start_ready();
    wait_equal(&mut [&mut one, &mut two], 20);
    assert_eq!(two.count("waiting for a snapshot"), 1, "said once: {}", two.log());
}

/// A disk of 6 MB for the second node, and a first node whose snapshot has 1.5 MB.
fn small_disk(dir: &Dir) -> Option<(Small, Nats, Node)> {
    let small = Small::mount(dir.0.join("node-2"), "7m")?;
    let nats = Nats::start(dir);
    let mut one = Node::with_schema(dir, 1, &nats.url(), "snapshot.leader_ttl = 1000\n", SCHEMA);
    one.sql("INSERT INTO t VALUES(1, 'x', randomblob(1500000))");
    one.start_ready();
    wait_for("a snapshot", 20, || (one.count("stored snapshot") > 0).then_some(()));
    Some((small, nats, one))
}

/// A compressed file of a few hundred kilobytes that unpacks to two gigabytes, on a disk of 100 MB, without a key: the node stops
/// while the application can still write, says so once, and does not try again and again.
#[test]
fn a_bomb_in_the_store_does_not_fill_the_disk() {
    let dir = Dir::new("bomb");
    let Some(small) = Small::mount(dir.0.join("node-1"), "100m") else {
        return skip("no file system can be mounted");
    };
    let nats = Nats::start(&dir);
    let (root, config) = file_store(&dir);
    std::fs::create_dir_all(&root).unwrap();
    let zeros = std::io::Read::take(std::io::repeat(0), 2 << 30);
    std::fs::write(root.join("snapshot.db"), zstd::encode_all(zeros, 3).unwrap()).unwrap();
    let mut node = Node::new(&dir, 1, &nats.url(), &config);
    let begun = free(&small.0);
    node.start();
    let mut least = begun;
    let said = "stays free for the application";
    wait_for("it says that it stops", 30, || {
        least = least.min(free(&small.0));
        (node.count(said) > 0).then_some(())
    });
    let looked = std::time::Instant::now();
    let (mut full, mut samples) = (0, 0);
    while looked.elapsed().as_secs() < 6 {
        least = least.min(free(&small.0));
        full += usize::from(free(&small.0) < begun / 10 * 9);
        samples += 1;
        // The application writes all the while.
        std::fs::write(small.0.join("of-the-application"), vec![1; 20_000_000]).unwrap();
        std::fs::remove_file(small.0.join("of-the-application")).unwrap();
        pause(20);
    }
    assert!(least > 25_000_000 && least < begun / 3 * 2, "{least} of {begun} bytes were free at the worst");
    assert_eq!(node.count(said), 1, "said once: {}", node.log());
    assert!(full < samples / 2, "it downloads without pause: {full} of {samples}");
    node.assert_alive();
}

fn free(path: &std::path::Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// No room for the database: the node says once how many bytes it needs, leaves nothing on the disk, and restores when there is
/// room.
#[test]
fn full_disk() {
    let dir = Dir::new("full-disk");
    let Some((small, nats, mut one)) = small_disk(&dir) else {
        return skip("no file system can be mounted");
    };
    let ballast = small.0.join("ballast");
    let squeeze = |bytes: usize| std::fs::write(&ballast, vec![1; bytes]).unwrap();
    squeeze(6_050_000);
    let mut two = Node::new(&dir, 2, &nats.url(), "");
    two.start();
    wait_for("it says what it needs", 20, || {
        (two.count("bytes, ") > 0 && two.count("are free") > 0).then_some(())
    });
    pause(3_000);
    assert_eq!(two.count("are free"), 1, "said once: {}", two.log());
    assert!(!two.database.exists());
    std::fs::remove_file(&ballast).unwrap();
    wait_for("it is whole", 30, || (two.count("caught up with") > 0).then_some(()));
    wait_equal(&mut [&mut one, &mut two], 20);
    // The database is damaged, and there is no room for a copy of it: it stays as it is.
    two.stop();
    two.checkpoint();
    spoil(&two.database, 0, 4096);
    let damaged = std::fs::read(&two.database).unwrap();
    squeeze(4_850_000);
    let before = two.count("are free");
    two.start();
    wait_for("it says what it needs", 20, || (two.count("are free") > before).then_some(()));
    pause(1_500);
    assert_eq!(two.count("are free"), before + 1, "{}", two.log());
    assert!(std::fs::read(&two.database).unwrap() == damaged);
    std::fs::remove_file(&ballast).unwrap();
    wait_for("it is recovered", 30, || (two.count("were carried over") > 0).then_some(()));
    wait_equal(&mut [&mut one, &mut two], 20);
    // No room to open the database: the daemon does not end, so that no service manager starts it again and again.
    assert_eq!(two.stop(), 0);
    let mut fill = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut fill, &[1; 4096]).is_ok() {}
    drop(fill);
    two.start();
    pause(2_500);
    two.assert_alive();
    let before = two.count("caught up with");
    std::fs::remove_file(&ballast).unwrap();
    wait_for("it goes on", 20, || (two.count("caught up with") > before).then_some(()));
    wait_equal(&mut [&mut one, &mut two], 20);
    drop(two);
}

/// No room for the snapshot that a join needs: the node waits however long it takes, and joins when there is room.
#[test]
fn a_join_waits_for_room() {
    let dir = Dir::new("join-full");
    let Some((small, nats, mut one)) = small_disk(&dir) else {
        return skip("no file system can be mounted");
    };
    let ballast = small.0.join("ballast");
    std::fs::write(&ballast, vec![1; 5_950_000]).unwrap();
    let mut two = Node::with_schema(&dir, 2, &nats.url(), "", SCHEMA);
    two.sql("INSERT INTO t VALUES(7, 'only here', 1)");
    two.start();
    wait_for("it says what it needs", 20, || (two.count("are free") > 0).then_some(()));
    pause(12_000);
    two.assert_alive();
    assert_eq!((two.count("are free"), two.count("going on without")), (1, 0), "{}", two.log());
    std::fs::remove_file(&ballast).unwrap();
    wait_for("it joins", 20, || (two.count("joined with snapshot") > 0).then_some(()));
    let text = wait_equal(&mut [&mut one, &mut two], 20);
    assert!(text.contains("== t (2 rows)"));
    drop(two);
}

/// Two nodes whose stream keeps a hundred messages; the second one shows its health on a port.
fn forgetful(dir: &Dir, nats: &Nats, config: &str, of_two: &str, port: u16) -> (Node, Node) {
    let node = |id: u64, more: &str, config: &str| {
        let config = config.replace("[snapshot]\n", "[snapshot]\nleader_ttl = 1000\n");
        let node = Node::new(dir, id, &nats.url(), &format!("{more}{config}"));
        node.keep_messages(100);
        node.sql(SCHEMA);
        node
    };
    let health = format!("health_check.enable = true\nhealth_check.bind = \"127.0.0.1:{port}\"\n");
    (node(1, "", config), node(2, &health, of_two))
}

/// A node was away longer than the stream remembers, and the store is down when it comes back. It says so in its log and by
/// health, goes on capturing, and recovers when the store is back.
#[test]
fn the_store_is_down_when_it_is_needed() {
    let dir = Dir::new("store-down");
    let nats = Nats::start(&dir);
    let (store, port) = (free_port(), free_port());
    let login = ["--user", servers::USER, "--pass", servers::PASSWORD];
    let mut server = Some(servers::rclone_at(&dir, "webdav", store, &login));
    let config = webdav_config(&format!("http://127.0.0.1:{store}"), "/d");
    let (mut one, mut two) = forgetful(&dir, &nats, &config, &config, port);
    one.start_ready();
    two.start_ready();
    fill(&one, 1, 50);
    wait_equal(&mut [&mut one, &mut two], 20);
    two.stop();
    fill(&one, 1_000, 900);
    wait_for("all is published", 20, || (one.unsettled() == 0).then_some(()));
    drop(server.take());
    two.start();
    fill(&two, 50_000, 40);
    let health = || health(port).1;
    let shown = wait_for("health tells", 30, || {
        let shown = health();
        let problems = shown["problems"].to_string();
        (problems.contains("Connection refused") && problems.contains("no longer holds messages"))
            .then_some(shown)
    });
    assert_eq!(shown["status"], "degraded", "{shown}");
    pause(3_000);
    assert!(two.count("no longer holds messages") <= 2, "{}", two.log());
    fill(&two, 60_000, 40);
    server = Some(servers::rclone_at(&dir, "webdav", store, &login));
    wait_for("it is whole", 40, || (two.count("brought the database to the state of") > 0).then_some(()));
    let text = wait_equal(&mut [&mut one, &mut two], 40);
    assert!(text.contains("== t (1030 rows)"), "{}", text.lines().next().unwrap());
    wait_for("health is well", 20, || (health()["status"] == "healthy").then_some(()));
    drop(server);
}

/// The store is reached over a slow line. While a node that was away too long downloads a snapshot, its application writes on
/// and health tells what is missing; in the end all rows are on both nodes.
#[test]
fn the_store_is_slow() {
    let dir = Dir::new("store-slow");
    let nats = Nats::start(&dir);
    let port = free_port();
    let login = ["--user", servers::USER, "--pass", servers::PASSWORD];
    let server = servers::rclone(&dir, "webdav", &login);
    let slow = Slow::before(server.port, 300_000);
    let config = |port: u16| webdav_config(&format!("http://127.0.0.1:{port}"), "/d");
    let (mut one, mut two) = forgetful(&dir, &nats, &config(server.port), &config(slow.port()), port);
    one.start_ready();
    two.start_ready();
    one.sql("INSERT INTO t VALUES(1, 'a', randomblob(500000)), (2, 'b', randomblob(500000)), (3, 'c', randomblob(500000))");
    wait_equal(&mut [&mut one, &mut two], 20);
    // The node that makes the snapshots reaches the store directly.
    two.stop();
    fill(&one, 1_000, 900);
    wait_for("all is published", 20, || (one.unsettled() == 0).then_some(()));
    assert!(one.command(&["-save-snapshot", "-quiet"]).status.success());
    two.start();
    let begun = std::time::Instant::now();
    wait_for("health tells", 20, || (health(port).1["status"] == "degraded").then_some(()));
    let mut written = 0;
    while two.count("brought the database to the state of") == 0 {
        fill(&two, 50_000 + written, 1);
        written += 1;
        pause(50);
        assert!(begun.elapsed().as_secs() < 60, "{}", two.log());
    }
    assert!(begun.elapsed().as_secs() >= 4 && written >= 40, "{written} in {:?}", begun.elapsed());
    let text = wait_equal(&mut [&mut one, &mut two], 40);
    assert!(text.contains(&format!("== t ({} rows)", 903 + written)), "{}", text.lines().next().unwrap());
    wait_for("health is well", 20, || (health(port).1["status"] == "healthy").then_some(()));
}
