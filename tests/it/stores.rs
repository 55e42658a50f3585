//! One contract for all stores, against real servers, with clients of others as witnesses.

use super::nats_client::connect_with;
use super::servers::{self, KEY, PASSWORD, SECRET, Server, Ssh, USER, python, tool};
use super::support::*;
use harmonylite::testing::config::{self, Config};
use harmonylite::testing::nats::Auth;
use harmonylite::testing::stop;
use harmonylite::testing::storage::{Error, Label, Store, Stored, Upload};
use harmonylite::testing::{digest, open_store};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

pub const NAME: &str = "snapshot.db";
pub const STREAM: &str = "harmonylite-changes-c-1";

/// Reads an object as another client does; `None` when it is not there.
pub type Witness = Box<dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync>;

/// A store on a server: the configuration that a user writes, and somebody else's view of it.
pub struct Place {
    pub name: String,
    pub config: String,
    pub nats: Option<String>,
    pub witness: Witness,
}

impl Place {
    pub fn new(name: &str, config: String, witness: Witness) -> Place {
        Place { name: name.to_owned(), config, nats: None, witness }
    }
}

/// What is in a configuration file, read by the program's own reader.
pub fn load(dir: &Dir, text: &str) -> Config {
    let path = dir.0.join("store.toml");
    std::fs::write(&path, format!("db_path = {:?}\nnode_id = 1\n{text}", dir.0.join("app.db"))).unwrap();
    config::load(Some(&path), None).unwrap().0
}

pub fn open(dir: &Dir, place: &Place) -> Store {
    let config = load(dir, &place.config);
    let (source, token) = stop::pair();
    std::mem::forget(source);
    let connection = place.nats.as_ref().map(|url| {
        let connection = connect_with(url, Auth::default());
        connection.wait_up(std::time::Duration::from_secs(10)).unwrap();
        connection
    });
    open_store(&config, connection.as_ref(), &token).unwrap()
}

/// A file of pseudo-random bytes, and its label.
pub fn file(dir: &Dir, size: usize, seed: u64, position: u64) -> (PathBuf, Label) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    let path = dir.0.join(format!("file-{seed}-{size}"));
    std::fs::write(&path, &bytes).unwrap();
    let (size, digest) = digest::digest_of(&mut bytes.as_slice()).unwrap();
    let label = Label {
        size,
        digest,
        content: format!("content-{seed}"),
        positions: [(STREAM.to_owned(), position)].into(),
        streams: "0123abcd".into(),
        schema: "ab".repeat(32),
        node: 7,
        time_ms: 1_795_526_100_000 + i64::try_from(position).unwrap() * 1000,
        revision: 12,
        ..Label::default()
    };
    (path, label)
}

pub fn save(store: &Store, (path, label): &(PathBuf, Label), keep: u64) -> Result<Stored, Error> {
    store.save(label, path, keep, &|_| {}, &|| Ok(()))
}

/// What the store gives back, checked by the store itself.
pub fn fetch(dir: &Dir, store: &Store, name: &str) -> Vec<u8> {
    let stored = store.stat(name).unwrap().unwrap_or_else(|| panic!("{name} is not there"));
    let path = dir.0.join("fetched");
    let got = store.fetch(&stored, &File::create(&path).unwrap(), None, &|_| {}).unwrap();
    assert_eq!(got.label.digest, stored.label.digest);
    std::fs::read(&path).unwrap()
}

fn same(one: &Label, other: &Label) -> bool {
    Label { verified: true, ..one.clone() } == Label { verified: true, ..other.clone() }
}

/// The contract.
pub fn contract(dir: &Dir, place: &Place) {
    let name = &place.name;
    let begun = std::time::Instant::now();
    let store = open(dir, place);
    store.prepare().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(store.prepare().unwrap(), 0, "{name}");
    assert!(store.stat(NAME).unwrap().is_none() && store.list().unwrap().is_empty(), "{name}");

    // One piece, then several; each replaces the one before.
    for (at, size) in [1000, 40_000_003, 65_536].into_iter().enumerate() {
        let made = file(dir, size, at as u64, 10 + at as u64);
        let sent = AtomicU64::new(0);
        let stored = store
            .save(&made.1, &made.0, 1, &|bytes| sent.store(bytes, Relaxed), &|| Ok(()))
            .unwrap_or_else(|error| panic!("{name}: {size} bytes: {error}"));
        assert!(same(&stored.label, &made.1), "{name}: {:?} {:?}", stored.label, made.1);
        assert_eq!(sent.load(Relaxed), size as u64, "{name}: progress");
        let bytes = std::fs::read(&made.0).unwrap();
        assert!(fetch(dir, &store, NAME) == bytes, "{name}: other bytes come back");
        assert!((place.witness)(NAME).unwrap() == bytes, "{name}: another client reads other bytes");
        // A fresh client sees the same.
        assert!(same(&open(dir, place).stat(NAME).unwrap().unwrap().label, &made.1), "{name}");
    }

    // An older one does not replace a newer one; who may not switch changes nothing and leaves nothing.
    let before = fetch(dir, &store, NAME);
    let error = save(&store, &file(dir, 500, 90, 11), 1).unwrap_err();
    assert!(error.to_string().contains("newer snapshot"), "{name}: {error}");
    let made = file(dir, 20_000_000, 91, 20);
    let error = store.save(&made.1, &made.0, 1, &|_| {}, &|| Err("the lease was lost".into())).unwrap_err();
    assert!(error.to_string().contains("the lease was lost"), "{name}: {error}");
    assert!(fetch(dir, &store, NAME) == before, "{name}");
    assert_eq!(store.prepare().unwrap(), 0, "{name}: something was left");

    fencing(dir, place);
    generations(dir, place);
    eprintln!("{name}: contract holds, {:.1} s", begun.elapsed().as_secs_f64());
}

/// One who was asked whether it may switch, said yes, and slept on it, until another one took over and stored a newer
/// snapshot: its switch must fail.
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
        let store = open(dir, place);
        let upload = Upload { name: NAME, label: &late.1, path: &late.0, sent: &|_| {}, may_switch: &sleeps };
        let result = store.backend().put(&upload);
        assert!(slept.load(Relaxed), "{name}: was not asked");
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
    let dated = |n: usize| format!("snapshot-{}.db", harmonylite::testing::clock::compact(made[n].1.time_ms));
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

/// Runs a client that writes an object to a file.
fn fetched(command: &mut Command, to: &Path) -> Option<Vec<u8>> {
    let _ = std::fs::remove_file(to);
    command.output().unwrap();
    std::fs::read(to).ok()
}

/// The AWS SDK for Python.
pub fn boto(dir: &Dir, endpoint: &str, keys: (&str, &str), bucket: &str, prefix: &str) -> Witness {
    let to = dir.0.join("boto");
    let (endpoint, bucket, prefix) = (endpoint.to_owned(), bucket.to_owned(), prefix.to_owned());
    let (id, secret) = (keys.0.to_owned(), keys.1.to_owned());
    Box::new(move |name| {
        let _ = std::fs::remove_file(&to);
        python(&format!(
            "import boto3\ns3 = boto3.client('s3', endpoint_url={endpoint:?}, region_name='us-east-1', \
             aws_access_key_id={id:?}, aws_secret_access_key={secret:?})\n\
             try: s3.download_file({bucket:?}, {:?}, {:?})\nexcept s3.exceptions.ClientError: pass",
            format!("{prefix}{name}"),
            to.display().to_string()
        ));
        std::fs::read(&to).ok()
    })
}

pub fn curl(dir: &Dir, url: &str, more: &[&str]) -> Witness {
    let to = dir.0.join("curl");
    let url = url.to_owned();
    let more: Vec<String> = more.iter().map(|text| (*text).to_owned()).collect();
    Box::new(move |name| {
        let mut command = Command::new("curl");
        command.args(["-s", "-f", "--anyauth", "-u", &format!("{USER}:{PASSWORD}"), "-o"]).arg(&to);
        fetched(command.args(&more).arg(format!("{url}/{name}")), &to)
    })
}

pub fn s3_config(endpoint: &str, keys: (&str, &str), bucket: &str, path: &str) -> String {
    format!(
        "[snapshot]\nstore = \"s3\"\n[snapshot.s3]\nendpoint = {endpoint:?}\nbucket = {bucket:?}\npath = {path:?}\n\
         access_key = {:?}\nsecret = {:?}\n",
        keys.0, keys.1
    )
}

pub fn webdav_config(root: &str, dir: &str) -> String {
    format!(
        "[snapshot]\nstore = \"webdav\"\n[snapshot.webdav]\nurl = \"{root}?dir={dir}&login={USER}&secret={PASSWORD}\"\n"
    )
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
    // Somebody else's bucket: said, the node goes on, and all is well when they give it up.
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
    super::stores_refused::goes_on(&dir, 1, &config, "http 403 AccessDenied", || {
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

pub fn sftp_config(ssh: &Ssh, login: &str, path: &str) -> String {
    format!(
        "[snapshot]\nstore = \"sftp\"\n[snapshot.sftp]\nurl = \"sftp://{login}@127.0.0.1:{}{path}\"\n",
        ssh.server.port
    )
}

/// OpenSSH's own client.
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
