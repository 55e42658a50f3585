//! Stores as the program sees them: the configuration that leads to one, files to keep there, and clients of others as
//! witnesses.

use super::servers::{PASSWORD, Ssh, USER, python};
use super::{Dir, connect_with};
use harmonylite::testing::config::{self, Config};
use harmonylite::testing::nats::Auth;
use harmonylite::testing::stop;
use harmonylite::testing::storage::{Candidate, Error, Label, Store, Stored};
use harmonylite::testing::{digest, open_store};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const NAME: &str = "snapshot.db";
pub const STREAM: &str = "harmonylite-changes-c-1";

/// Reads an object as another client does; `None` when it is not there.
pub type Witness = Box<dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync>;

/// A store on a server: the configuration that a user writes, and the witness.
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
    store.save(Candidate { label, path }, keep, &|_| {}, &|| Ok(()))
}

/// What the store gives back, checked by the store itself.
pub fn fetch(dir: &Dir, store: &Store, name: &str) -> Vec<u8> {
    let stored = store.stat(name).unwrap().unwrap_or_else(|| panic!("{name} is not there"));
    let path = dir.0.join("fetched");
    let got = store.fetch(&stored, &File::create(&path).unwrap(), u64::MAX, &|_| {}).unwrap();
    assert_eq!(got.label.digest, stored.label.digest);
    std::fs::read(&path).unwrap()
}

pub fn sftp_config(ssh: &Ssh, login: &str, path: &str) -> String {
    format!(
        "[snapshot]\nstore = \"sftp\"\n[snapshot.sftp]\nurl = \"sftp://{login}@127.0.0.1:{}{path}\"\n",
        ssh.server.port
    )
}

/// Runs a client that writes an object to a file.
pub fn fetched(command: &mut Command, to: &Path) -> Option<Vec<u8>> {
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

/// A directory as the store of a leader that is replaced after a second: the directory and the configuration.
pub fn file_store(dir: &Dir) -> (PathBuf, String) {
    let root = dir.0.join("backups");
    let config = format!("[snapshot]\nstore = \"file\"\nfile.path = {root:?}\nleader_ttl = 1000\n");
    (root, config)
}
