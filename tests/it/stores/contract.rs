//! One contract for all stores, against real servers, with clients of others as witnesses.

use crate::support::servers::{self, KEY, PASSWORD, SECRET, Server, Ssh, USER, python, tool};
use crate::support::stores::*;
use crate::support::*;
use harmonylite::testing::storage::{Candidate, Error, Label, Upload};
use harmonylite::testing::{Retry, clock, stop};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

fn same(one: &Label, other: &Label) -> bool {
    Label { verified: true, ..one.clone() } == Label { verified: true, ..other.clone() }
}

/// What every store must do.
pub fn contract(dir: &Dir, place: &Place) {
    let name = &place.name;
    let begun = std::time::Instant::now();
    let store = open(dir, place);
    store.prepare().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(store.prepare().unwrap(), 0, "{name}");
    assert!(store.stat(NAME).unwrap().is_none() && store.list().unwrap().is_empty(), "{name}");

    // Uploads in one piece and in several; each replaces the one before.
    for (at, size) in [1000, 40_000_003, 65_536].into_iter().enumerate() {
        let made = file(dir, size, at as u64, 10 + at as u64);
        let sent = AtomicU64::new(0);
        let stored = store
            .save(
                Candidate { label: &made.1, path: &made.0 },
                1,
                &|bytes| sent.store(bytes, Relaxed),
                &|| Ok(()),
            )
            .unwrap_or_else(|error| panic!("{name}: {size} bytes: {error}"));
        assert!(same(&stored.label, &made.1), "{name}: {:?} {:?}", stored.label, made.1);
        assert_eq!(sent.load(Relaxed), size as u64, "{name}: progress");
        let bytes = std::fs::read(&made.0).unwrap();
        assert!(fetch(dir, &store, NAME) == bytes, "{name}: other bytes come back");
        assert!((place.witness)(NAME).unwrap() == bytes, "{name}: another client reads other bytes");
        // A fresh client sees the same.
        assert!(same(&open(dir, place).stat(NAME).unwrap().unwrap().label, &made.1), "{name}");
    }

    // An older snapshot does not replace a newer one. An upload whose lease is lost before the switch changes nothing and leaves
    // nothing.
    let before = fetch(dir, &store, NAME);
    let error = save(&store, &file(dir, 500, 90, 11), 1).unwrap_err();
    assert!(error.to_string().contains("newer snapshot"), "{name}: {error}");
    let made = file(dir, 20_000_000, 91, 20);
    let candidate = Candidate { label: &made.1, path: &made.0 };
    let lost = || Err(harmonylite::testing::Error::waiting("the lease was lost"));
    let error = store.save(candidate, 1, &|_| {}, &lost).unwrap_err();
    assert!(error.to_string().contains("the lease was lost"), "{name}: {error}");
    assert!(fetch(dir, &store, NAME) == before, "{name}");
    assert_eq!(store.prepare().unwrap(), 0, "{name}: something was left");

    fencing(dir, place);
    generations(dir, place);
    eprintln!("{name}: contract holds, {:.1} s", begun.elapsed().as_secs_f64());
}

/// A publisher is paused after it was allowed to switch to its upload; meanwhile another one takes over and stores a newer
/// snapshot. The late switch must fail.
fn fencing(dir: &Dir, place: &Place) {
    let name = &place.name;
    for (round, size) in [30_000usize, 20_000_000].into_iter().enumerate() {
        let position = 100 + 10 * round as u64;
        let (late, newer) = (file(dir, size, 200, position), file(dir, size, 201, position + 5));
        let slept = AtomicBool::new(false);
        let sleeps = || {
            if !slept.swap(true, Relaxed) {
                let other = open(dir, place);
                other.prepare().unwrap();
                save(&other, &newer, 1).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
            Ok(())
        };
        // As a leader begins: a server that wants a login may end the connection of a large request without one before its body is sent.
        let store = open(dir, place);
        store.prepare().unwrap();
        let (_source, token) = stop::pair();
        let result = Retry::new(1, token).run("put", |tries| {
            let (label, path) = (&late.1, late.0.as_path());
            let upload = Upload { name: NAME, label, path, sent: &|_| {}, may_switch: &sleeps, tries };
            store.backend().put(&upload)
        });
        assert!(slept.load(Relaxed), "{name}: was not asked: {result:?}");
        assert!(result.is_err(), "{name}: the late one switched");
        let stored = store.stat(NAME).unwrap().unwrap();
        assert!(same(&stored.label, &newer.1), "{name}: {:?}", stored.label);
        assert!(fetch(dir, &store, NAME) == std::fs::read(&newer.0).unwrap(), "{name}");
        assert_eq!(store.prepare().unwrap(), 0, "{name}: something was left");
    }
}

fn generations(dir: &Dir, place: &Place) {
    let name = &place.name;
    let store = open(dir, place);
    let made: Vec<_> = (0..5).map(|n| file(dir, 3_000 + n as usize, 300 + n, 1000 + n)).collect();
    for one in &made {
        save(&store, one, 3).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let found = store.list().unwrap();
    let names: Vec<&str> = found.iter().map(|stored| stored.name.as_str()).collect();
    let dated = |n: usize| format!("snapshot-{}.db", clock::compact(made[n].1.time_ms));
    assert_eq!(names, [NAME, &dated(3), &dated(2)], "{name}");
    for (stored, made) in found.iter().zip([&made[4], &made[3], &made[2]]) {
        assert!(same(&stored.label, &made.1), "{name}: {}: {:?}", stored.name, stored.label);
        let bytes = std::fs::read(&made.0).unwrap();
        assert!(fetch(dir, &store, &stored.name) == bytes, "{name}: {}", stored.name);
        assert!((place.witness)(&stored.name).unwrap() == bytes, "{name}: {}", stored.name);
    }
    assert_eq!(store.prepare().unwrap(), 0, "{name}: a kept snapshot was taken for a leftover");
    save(&store, &file(dir, 100, 400, 2000), 1).unwrap();
    let names: Vec<String> = store.list().unwrap().into_iter().map(|stored| stored.name).collect();
    assert_eq!(names, [NAME], "{name}: older ones stay");
    store.backend().remove("snapshot-20000101T000000Z.db").unwrap();
}

fn rclone_s3(dir: &Dir) -> Server {
    servers::rclone(dir, "s3", &["--auth-key", &format!("{KEY},{SECRET}")])
}

#[test]
fn nats() {
    for binary in nats_binaries() {
        let dir = Dir::new("store-nats");
        let nats = Nats::with(&dir, &binary, "");
        let url = nats.url();
        let witness = Box::new(move |name: &str| {
            let store = nats::jetstream::new(nats::connect(&url).unwrap());
            let mut bytes = vec![];
            let bucket = store.object_store("harmonylite-changes-snapshot-store").unwrap();
            std::io::Read::read_to_end(&mut bucket.get(name).ok()?, &mut bytes).ok()?;
            Some(bytes)
        });
        let place = Place {
            nats: Some(nats.url()),
            ..Place::new(&format!("nats {}", binary.display()), String::new(), witness)
        };
        contract(&dir, &place);
    }
}

#[test]
fn directory() {
    let dir = Dir::new("store-file");
    let root = dir.0.join("a/b c");
    let read = root.clone();
    let config = format!(
        "[snapshot]\nstore = \"file\"\nfile.path = \"file://{}\"\n",
        root.display().to_string().replace(' ', "%20")
    );
    contract(&dir, &Place::new("file", config, Box::new(move |name| std::fs::read(read.join(name)).ok())));
}

#[test]
fn s3_rclone() {
    let dir = Dir::new("store-rclone");
    let server = rclone_s3(&dir);
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    // Without a scheme, as the Go program has it.
    let config = s3_config(&endpoint["http://".len()..], (KEY, SECRET), "backups", "cluster-1/x");
    let witness = boto(&dir, &endpoint, (KEY, SECRET), "backups", "cluster-1/x/");
    contract(&dir, &Place::new("s3 rclone", config, witness));
}

#[test]
fn s3_moto() {
    let dir = Dir::new("store-moto");
    let (server, id, secret) = servers::moto(&dir);
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let config = s3_config(&endpoint, (&id, &secret), "backups", "");
    let witness = boto(&dir, &endpoint, (&id, &secret), "backups", "");
    contract(&dir, &Place::new("s3 moto", config, witness));
}

#[test]
fn s3_ceph() {
    let dir = Dir::new("store-ceph");
    let server = servers::ceph(&dir);
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let config = s3_config(&endpoint, (KEY, SECRET), "backups", "snapshots/cluster 1");
    let witness = boto(&dir, &endpoint, (KEY, SECRET), "backups", "snapshots/cluster 1/");
    contract(&dir, &Place::new("s3 ceph", config, witness));
    // The bucket belongs to another user: the node says so, replicates, and recovers when that user gives the bucket up.
    let theirs = |verb: &str| {
        python(&format!(
            "import boto3\nboto3.client('s3', endpoint_url={endpoint:?}, region_name='us-east-1', aws_access_key_id={:?}, \
             aws_secret_access_key={:?}).{verb}_bucket(Bucket='theirs')",
            servers::OTHER_KEY,
            servers::OTHER_SECRET
        ))
    };
    theirs("create");
    let config = s3_config(&endpoint, (KEY, SECRET), "theirs", "x");
    super::mended::goes_on(&dir, 1, &config, "http 403 AccessDenied", || {
        theirs("delete");
    });
}

#[test]
fn webdav_apache() {
    let dir = Dir::new("store-apache");
    let dav = servers::apache(&dir);
    let local = |scheme: &str, port: u16| format!("{scheme}://127.0.0.1:{port}");
    for (name, root, ca) in [
        ("apache basic", local("http", dav.basic), false),
        ("apache digest", local("http", dav.digest), false),
        ("apache tls", local("https", dav.tls), true),
    ] {
        let below = format!("/{}/my%20snapshots", name.replace(' ', "-"));
        let mut config = webdav_config(&root, &below);
        let ca_file = dav.ca.display().to_string();
        let more: &[&str] = if ca { &["--cacert", &ca_file] } else { &[] };
        if ca {
            config.push_str(&format!("ca_file = {ca_file:?}\n"));
        }
        contract(&dir, &Place::new(name, config, curl(&dir, &format!("{root}{below}"), more)));
    }
}

#[test]
fn webdav_lighttpd() {
    let dir = Dir::new("store-lighttpd");
    let dav = servers::lighttpd(&dir);
    for (name, port) in [("lighttpd basic", dav.basic), ("lighttpd digest", dav.digest)] {
        let root = format!("http://127.0.0.1:{port}");
        let below = format!("/{}", name.replace(' ', "/"));
        contract(
            &dir,
            &Place::new(name, webdav_config(&root, &below), curl(&dir, &format!("{root}{below}"), &[])),
        );
    }
}

#[test]
fn webdav_nginx_rclone_and_wsgidav() {
    let dir = Dir::new("store-dav");
    let servers = [
        ("nginx", servers::nginx(&dir)),
        ("rclone webdav", servers::rclone(&dir, "webdav", &["--user", USER, "--pass", PASSWORD])),
        ("wsgidav", servers::wsgidav(&dir)),
    ];
    for (name, server) in &servers {
        let root = format!("http://127.0.0.1:{}", server.port);
        contract(
            &dir,
            &Place::new(name, webdav_config(&root, "/a/b"), curl(&dir, &format!("{root}/a/b"), &[])),
        );
    }
}

/// OpenSSH's `sftp` as the witness.
fn sftp_client(dir: &Dir, ssh: &Ssh, path: &str) -> Witness {
    let to = dir.0.join("sftp");
    let (key, port, login) = (ssh.key.clone(), ssh.server.port, format!("{}@127.0.0.1", ssh.user));
    let path = path.to_owned();
    Box::new(move |name| {
        let mut command = Command::new("sftp");
        command.args(["-q", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-P"]);
        command.arg(port.to_string()).arg("-i").arg(&key).arg(format!("{login}:{path}/{name}"));
        fetched(command.arg(&to), &to)
    })
}

#[test]
fn sftp_openssh() {
    let dir = Dir::new("store-openssh");
    let ssh = servers::openssh(&dir);
    let path = format!("{}/backups/harmonylite", ssh.root.display());
    let config = sftp_config(&ssh, &ssh.user, &path) + &format!("key_file = {:?}\n", ssh.key);
    contract(&dir, &Place::new("sftp openssh", config, sftp_client(&dir, &ssh, &path)));
}

#[test]
fn sftp_proftpd() {
    if !is_root() {
        return skip("ProFTPD becomes other users: as root only");
    }
    let dir = Dir::new("store-proftpd");
    let ssh = servers::proftpd(&dir);
    let config = sftp_config(&ssh, &format!("{USER}:{PASSWORD}"), "/backups/x");
    let read = ssh.root.join("backups/x");
    contract(
        &dir,
        &Place::new("sftp proftpd", config, Box::new(move |name| std::fs::read(read.join(name)).ok())),
    );
}

#[test]
fn sftp_asyncssh() {
    let dir = Dir::new("store-asyncssh");
    let ssh = servers::asyncssh(&dir);
    let config = sftp_config(&ssh, &format!("{USER}:{PASSWORD}"), "/backups/x");
    let read = ssh.root.join("backups/x");
    let witness = Box::new(move |name: &str| std::fs::read(read.join(name)).ok());
    contract(&dir, &Place::new("sftp asyncssh", config, witness));
    let wrong = sftp_config(&ssh, &format!("{USER}:wrong"), "/backups/x");
    let error = open(&dir, &Place::new("wrong", wrong, Box::new(|_| None))).stat(NAME).unwrap_err();
    assert!(matches!(error, Error::Permanent(_)), "{error}");
}

#[test]
fn sftp_rclone() {
    let dir = Dir::new("store-rclone-sftp");
    let server = servers::rclone(&dir, "sftp", &["--user", USER, "--pass", PASSWORD]);
    let ssh = Ssh {
        user: USER.into(),
        key: PathBuf::new(),
        root: dir.0.join("rclone"),
        fingerprints: vec![],
        server,
    };
    let config = sftp_config(&ssh, &format!("{USER}:{PASSWORD}"), "/backups");
    // rclone as the client, too.
    let (to, port) = (dir.0.join("copied"), ssh.server.port);
    let obscured = Command::new(tool("rclone")).args(["obscure", PASSWORD]).output().unwrap();
    let obscured = String::from_utf8(obscured.stdout).unwrap().trim().to_owned();
    let witness = Box::new(move |name: &str| {
        let mut command = Command::new(tool("rclone"));
        command.args(["--config", "/dev/null", "copyto"]);
        command.arg(format!(":sftp,host=127.0.0.1,port={port},user={USER},pass={obscured}:/backups/{name}"));
        fetched(command.arg(&to), &to)
    });
    contract(&dir, &Place::new("sftp rclone", config, witness));
}
