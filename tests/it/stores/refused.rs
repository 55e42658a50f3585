//! What a person gets wrong, and what breaks: one clear line, no secret in it, and the node goes on replicating.

use crate::support::servers::{self, KEY, PASSWORD, SECRET, Ssh, USER, python};
use crate::support::stores::{Place, file, open, s3_config, save, sftp_config, webdav_config};
use crate::support::*;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY)";

/// `-save-snapshot` fails for good, with one line that says `why` and shows no secret.
fn refused(dir: &Dir, nats: &Nats, id: u64, config: &str, why: &str) {
    let code = not_saved(&Node::with_schema(dir, id, &nats.url(), config, SCHEMA), why);
    assert_eq!(code, Some(1), "{why}");
}

/// The exit code of a `-save-snapshot` that fails with one line that says `why` and shows no secret.
fn not_saved(node: &Node, why: &str) -> Option<i32> {
    let output = node.command(&["-save-snapshot", "-quiet"]);
    let text = printed(&output);
    let lines = text.lines().filter(|line| !line.contains("first connection; remembering")).count();
    assert!(text.contains(why) && lines == 1, "expected {why}: {text}");
    for secret in [SECRET, PASSWORD, "wRoNgSeCrEt"] {
        assert!(!text.contains(secret), "{text}");
    }
    output.status.code()
}

#[test]
fn wrong_secrets() {
    let dir = Dir::new("refused-secrets");
    let nats = Nats::start(&dir);
    let s3 = servers::rclone(&dir, "s3", &["--auth-key", &format!("{KEY},{SECRET}")]);
    let endpoint = format!("127.0.0.1:{}", s3.port);
    let wrong = s3_config(&endpoint, (KEY, "wRoNgSeCrEt"), "backups", "x");
    refused(&dir, &nats, 1, &wrong, "http 403 SignatureDoesNotMatch");
    let dav = servers::apache(&dir);
    for (id, port) in [(2, dav.basic), (3, dav.digest)] {
        let wrong = webdav_config(&format!("http://127.0.0.1:{port}"), "/d").replace(PASSWORD, "wRoNgSeCrEt");
        refused(&dir, &nats, id, &wrong, "http 401: login or secret is wrong");
    }
    let untrusted = webdav_config(&format!("https://127.0.0.1:{}", dav.tls), "/d");
    refused(&dir, &nats, 4, &untrusted, "certificate");
    let server = servers::rclone(&dir, "sftp", &["--user", USER, "--pass", PASSWORD]);
    let ssh =
        Ssh { user: USER.into(), key: PathBuf::new(), root: PathBuf::new(), fingerprints: vec![], server };
    refused(
        &dir,
        &nats,
        5,
        &sftp_config(&ssh, &format!("{USER}:wRoNgSeCrEt"), "/d"),
        "log in as app by password",
    );
    // Nothing listens on the port, which may change: the exit code says that a later try may succeed.
    let gone = s3_config(&format!("127.0.0.1:{}", free_port()), (KEY, SECRET), "backups", "x");
    let node = Node::with_schema(&dir, 6, &nats.url(), &gone, SCHEMA);
    assert_eq!(not_saved(&node, "Connection refused"), Some(75));
    // A directory that cannot be made.
    let config = format!("[snapshot]\nstore = \"file\"\nfile.path = {:?}\n", dir.0.join("node-1/app.db/x"));
    refused(&dir, &nats, 7, &config, "Not a directory");
}

#[test]
fn a_bucket_that_is_not_there_is_no_empty_bucket() {
    let dir = Dir::new("refused-bucket");
    let server = servers::rclone(&dir, "s3", &["--auth-key", &format!("{KEY},{SECRET}")]);
    let config = s3_config(&format!("127.0.0.1:{}", server.port), (KEY, SECRET), "misspelt", "x");
    let node = Node::with_schema(&dir, 1, "", &config, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    for command in [&["-list-snapshots"][..], &["-verify-snapshot"]] {
        let output = node.command(command);
        assert!(printed(&output).contains("there is no bucket misspelt"), "{}", printed(&output));
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn keys_from_the_environment_and_the_credentials_file() {
    let dir = Dir::new("keys");
    let server = servers::rclone(&dir, "s3", &["--auth-key", &format!("{KEY},{SECRET}")]);
    let config = s3_config(&format!("127.0.0.1:{}", server.port), ("", ""), "backups", "");
    let nats = Nats::start(&dir);
    let node = Node::with_schema(&dir, 1, &nats.url(), &config, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let credentials = dir.0.join("credentials");
    let profile = format!("[edge]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n");
    std::fs::write(&credentials, profile).unwrap();
    let run = |variables: &[(&str, &str)]| {
        let mut command = Command::new(PROGRAM);
        command.env_remove("HOME").envs(variables.iter().copied());
        command.args(["-save-snapshot", "-config"]).arg(&node.config).output().unwrap()
    };
    assert_eq!(run(&[]).status.code(), Some(1), "without a key");
    let output = run(&[("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)]);
    assert!(output.status.success(), "{}", printed(&output));
    let path = credentials.to_str().unwrap();
    let output = run(&[("AWS_SHARED_CREDENTIALS_FILE", path), ("AWS_PROFILE", "edge")]);
    assert!(output.status.success(), "{}", printed(&output));
}

#[test]
fn proxies_from_the_environment() {
    let dir = Dir::new("proxies");
    let nats = Nats::start(&dir);
    let server = servers::rclone(&dir, "s3", &["--auth-key", &format!("{KEY},{SECRET}")]);
    let (proxy, log) = servers::proxy(&dir);
    let config = s3_config(&format!("http://127.0.0.1:{}", server.port), (KEY, SECRET), "backups", "");
    let mut node = Node::with_schema(&dir, 1, &nats.url(), &config, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let passed =
        || std::fs::read_to_string(&log).unwrap_or_default().matches("Request (file descriptor").count();
    let before = passed();
    let proxy_url = format!("http://127.0.0.1:{}", proxy.port);
    node.variables = vec![("HTTP_PROXY".into(), proxy_url.clone())];
    let output = node.command(&["-save-snapshot"]);
    assert!(output.status.success(), "{}", printed(&output));
    let through = passed();
    assert!(through > before, "nothing went through the proxy");
    node.variables.push(("NO_PROXY".into(), "127.0.0.1".into()));
    let output = node.command(&["-verify-snapshot"]);
    assert!(output.status.success(), "{}", printed(&output));
    assert_eq!(passed(), through, "NO_PROXY was not heeded");
    drop(proxy);
    node.variables = vec![("HTTP_PROXY".into(), proxy_url)];
    let output = node.command(&["-list-snapshots"]);
    assert!(!output.status.success(), "without its proxy: {}", printed(&output));
}

/// Temporary keys with a session token; moto checks tokens.
#[test]
fn temporary_credentials() {
    let dir = Dir::new("tokens");
    let (server, id, secret) = servers::moto_with(&dir, 6);
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let keys = python(&format!(
        "import boto3, json\nk = dict(endpoint_url={endpoint:?}, region_name='us-east-1', aws_access_key_id={id:?}, \
         aws_secret_access_key={secret:?})\niam = boto3.client('iam', **k)\n\
         allow = lambda **more: json.dumps(dict(Version='2012-10-17', Statement=[dict(Effect='Allow', **more)]))\n\
         iam.create_role(RoleName='r', AssumeRolePolicyDocument=allow(Principal='*', Action='sts:AssumeRole'))\n\
         iam.put_role_policy(RoleName='r', PolicyName='p', PolicyDocument=allow(Action='*', Resource='*'))\n\
         c = boto3.client('sts', **k).assume_role(RoleArn='arn:aws:iam::123456789012:role/r', RoleSessionName='edge')['Credentials']\n\
         print(c['AccessKeyId'], c['SecretAccessKey'], c['SessionToken'])"
    ));
    let keys: Vec<&str> = keys.split_whitespace().collect();
    let place = |token: &str| {
        let config = s3_config(&endpoint, (keys[0], keys[1]), "backups", "x");
        Place::new("tokens", format!("{config}session_token = {token:?}\n"), Box::new(|_| None))
    };
    let store = open(&dir, &place(keys[2]));
    store.prepare().unwrap();
    save(&store, &file(&dir, 1000, 1, 1), 1).unwrap();
    let error = open(&dir, &place("bogus")).stat("snapshot.db").unwrap_err().to_string();
    assert!(error.contains("http 400") || error.contains("http 403"), "{error}");
}

fn agent(dir: &Dir, key: &Path) -> (Process, PathBuf) {
    let socket = dir.0.join("agent");
    let mut command = Command::new("ssh-agent");
    command.arg("-D").arg("-a").arg(&socket).stdout(std::process::Stdio::null());
    let child = Process::start(&mut command);
    wait_for("the agent listens", 10, || socket.exists().then_some(()));
    let added = Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &socket).status().unwrap();
    assert!(added.success());
    (child, socket)
}

#[test]
fn host_keys_and_ways_to_log_in() {
    let dir = Dir::new("sftp-keys");
    let nats = Nats::start(&dir);
    let ssh = servers::openssh(&dir);
    let base = ssh.root.parent().unwrap().to_owned();
    let path = format!("{}/d", ssh.root.display());
    let config = |more: &str| sftp_config(&ssh, &ssh.user, &path) + more;
    let with_key = |more: &str| config(&format!("key_file = {:?}\n{more}", ssh.key));
    let good = |id: u64, config: &str, variables: &[(&str, &Path)]| {
        let node = Node::with_schema(&dir, id, &nats.url(), config, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
        let output = Command::new(PROGRAM)
            .envs(variables.iter().copied())
            .args(["-save-snapshot", "-config"])
            .arg(&node.config)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", printed(&output));
        node
    };
    // The key that the server shows first is remembered beside the sequence map, in a form that OpenSSH reads.
    let node = good(1, &with_key(""), &[]);
    let hosts = node.dir.join("sftp-known-hosts");
    let remembered = servers::fingerprint(&hosts);
    assert!(ssh.fingerprints.contains(&remembered), "{remembered}");
    // Each of the server's keys may be the one that is known.
    for (id, fingerprint) in (2..).zip(&ssh.fingerprints) {
        if *fingerprint == remembered {
            good(id, &with_key(&format!("host_key = {fingerprint:?}\n")), &[]);
        }
    }
    for (id, kind) in [(4, "host_ed25519.pub"), (5, "host_rsa.pub")] {
        let key = std::fs::read_to_string(base.join(kind)).unwrap();
        let known = dir.0.join(format!("known-{kind}"));
        std::fs::write(&known, format!("[127.0.0.1]:{} {key}", ssh.server.port)).unwrap();
        if kind == "host_rsa.pub" {
            assert!(
                Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&known).status().unwrap().success()
            );
        }
        good(id, &with_key(&format!("known_hosts = {known:?}\n")), &[]);
    }
    let other = servers::fingerprint(&base.join("other.pub"));
    let why = format!("{remembered}, expected {other}: not connecting");
    refused(&dir, &nats, 6, &with_key(&format!("host_key = {other:?}\n")), &why);
    let empty = dir.0.join("known-none");
    std::fs::write(&empty, "").unwrap();
    refused(
        &dir,
        &nats,
        7,
        &with_key(&format!("known_hosts = {empty:?}\n")),
        "is not in the known_hosts file",
    );
    // The server's key changed since the first use.
    let text = std::fs::read_to_string(&hosts).unwrap();
    let public = std::fs::read_to_string(base.join("other.pub")).unwrap();
    let changed = format!("{} {}", text.split(' ').next().unwrap(), public);
    std::fs::write(&hosts, changed).unwrap();
    let output = node.command(&["-list-snapshots"]);
    let said = printed(&output);
    assert!(!output.status.success() && said.contains(&why), "{said}");
    // Keys with a passphrase, the agent, a key that the server does not know.
    let phrase = base.join("id_phrase");
    good(8, &config(&format!("key_file = {phrase:?}\nkey_passphrase = \"open sesame\"\n")), &[]);
    let wrong = config(&format!("key_file = {phrase:?}\nkey_passphrase = \"wRoNgSeCrEt\"\n"));
    refused(&dir, &nats, 9, &wrong, "log in as");
    let stranger = base.join("other");
    refused(&dir, &nats, 10, &config(&format!("key_file = {stranger:?}\n")), "log in as");
    let (agent, socket) = agent(&dir, &ssh.key);
    good(11, &config(""), &[("SSH_AUTH_SOCK", &socket)]);
    drop(agent);
}

#[test]
fn full_disks() {
    let dir = Dir::new("full");
    let Some(small) = Small::mount(dir.0.join("small"), "1m") else {
        return eprintln!("skipped: no file system can be mounted here");
    };
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, randomblob(3000000))";
    let save = |id: u64, config: &str, code: i32| {
        let node = Node::with_schema(&dir, id, &nats.url(), config, schema);
        let output = node.command(&["-save-snapshot", "-quiet"]);
        assert_eq!(output.status.code(), Some(code), "{}", printed(&output));
        (printed(&output), node)
    };
    // The disk for temporary copies is full.
    let (said, _) = save(1, &format!("snapshot.temp_dir = {:?}\n", small.0), 1);
    assert!(said.contains("a snapshot needs up to"), "{said}");
    // The disk of the store is full: nothing stays there.
    let (said, _) =
        save(2, &format!("[snapshot]\nstore = \"file\"\nfile.path = {:?}\n", small.0.join("d")), 1);
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(std::fs::read_dir(small.0.join("d")).unwrap().count(), 0);
    let ssh = servers::openssh(&dir);
    let config = sftp_config(&ssh, &ssh.user, &format!("{}/s", small.0.display()));
    // SFTP has no code for a full disk: it may be anything, and pass.
    let (said, _) = save(3, &(config + &format!("key_file = {:?}\n", ssh.key)), 75);
    assert!(said.contains("store snapshot in SFTP"), "{said}");
    assert_eq!(std::fs::read_dir(small.0.join("s")).unwrap().count(), 0);
}
