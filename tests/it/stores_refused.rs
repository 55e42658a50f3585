//! What a person gets wrong, and what breaks: one clear line, no secret in it, and the node goes on replicating.

use super::servers::{self, KEY, PASSWORD, SECRET, Ssh, USER, python};
use super::stores::{Place, file, open, s3_config, save, sftp_config, webdav_config};
use super::support::*;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a command printed, both streams.
fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

/// `-save-snapshot` fails with one line that says `why`, and shows no secret.
fn refused(dir: &Dir, nats: &Nats, id: u64, config: &str, why: &str) {
    let node = Node::with_schema(dir, id, &nats.url(), config, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let output = node.command(&["-save-snapshot", "-quiet"]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let lines = text.lines().filter(|line| !line.contains("first connection; remembering")).count();
    assert!(text.contains(why) && lines == 1, "expected {why}: {text}");
    for secret in [SECRET, PASSWORD, "wRoNgSeCrEt"] {
        assert!(!text.contains(secret), "{text}");
    }
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
    // Nobody there.
    let gone = s3_config(&format!("127.0.0.1:{}", free_port()), (KEY, SECRET), "backups", "x");
    refused(&dir, &nats, 6, &gone, "Connection refused");
    // A place that cannot be made.
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
        assert!(text(&output).contains("there is no bucket misspelt"), "{}", text(&output));
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
    assert!(output.status.success(), "{}", text(&output));
    let path = credentials.to_str().unwrap();
    let output = run(&[("AWS_SHARED_CREDENTIALS_FILE", path), ("AWS_PROFILE", "edge")]);
    assert!(output.status.success(), "{}", text(&output));
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
    assert!(output.status.success(), "{}", text(&output));
    let through = passed();
    assert!(through > before, "nothing went through the proxy");
    node.variables.push(("NO_PROXY".into(), "127.0.0.1".into()));
    let output = node.command(&["-verify-snapshot"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(passed(), through, "NO_PROXY was not heeded");
    drop(proxy);
    node.variables = vec![("HTTP_PROXY".into(), proxy_url)];
    let output = node.command(&["-list-snapshots"]);
    assert!(!output.status.success(), "without its proxy: {}", text(&output));
}

/// moto checks session tokens.
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

fn agent(dir: &Dir, key: &Path) -> (std::process::Child, PathBuf) {
    let socket = dir.0.join("agent");
    let mut command = Command::new("ssh-agent");
    command.arg("-D").arg("-a").arg(&socket).stdout(std::process::Stdio::null());
    let child = command.spawn().unwrap();
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
        assert!(output.status.success(), "{}", text(&output));
        node
    };
    // First use is remembered beside the sequence map, in a form that OpenSSH reads.
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
    let said = self::text(&output);
    assert!(!output.status.success() && said.contains(&why), "{said}");
    // Keys with a passphrase, the agent, a key that the server does not know.
    let phrase = base.join("id_phrase");
    good(8, &config(&format!("key_file = {phrase:?}\nkey_passphrase = \"open sesame\"\n")), &[]);
    let wrong = config(&format!("key_file = {phrase:?}\nkey_passphrase = \"wRoNgSeCrEt\"\n"));
    refused(&dir, &nats, 9, &wrong, "log in as");
    let stranger = base.join("other");
    refused(&dir, &nats, 10, &config(&format!("key_file = {stranger:?}\n")), "log in as");
    let (mut child, socket) = agent(&dir, &ssh.key);
    good(11, &config(""), &[("SSH_AUTH_SOCK", &socket)]);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A small file system in memory; gone with it.
pub struct Small(pub PathBuf);

impl Small {
    pub fn mount(path: PathBuf, size: &str) -> Option<Small> {
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={size},mode=777");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Small(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn full_disks() {
    let dir = Dir::new("full");
    let Some(small) = Small::mount(dir.0.join("small"), "1m") else {
        return eprintln!("skipped: no file system can be mounted here");
    };
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, randomblob(3000000))";
    let save = |id: u64, config: &str| {
        let node = Node::with_schema(&dir, id, &nats.url(), config, schema);
        let output = node.command(&["-save-snapshot", "-quiet"]);
        assert_eq!(output.status.code(), Some(1));
        (text(&output), node)
    };
    // Ours.
    let (said, _) = save(1, &format!("snapshot.temp_dir = {:?}\n", small.0));
    assert!(said.contains("a snapshot needs up to"), "{said}");
    // The store's: nothing is left there.
    let (said, _) = save(2, &format!("[snapshot]\nstore = \"file\"\nfile.path = {:?}\n", small.0.join("d")));
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(std::fs::read_dir(small.0.join("d")).unwrap().count(), 0);
    let ssh = servers::openssh(&dir);
    let config = sftp_config(&ssh, &ssh.user, &format!("{}/s", small.0.display()));
    let (said, _) = save(3, &(config + &format!("key_file = {:?}\n", ssh.key)));
    assert!(said.contains("store snapshot in SFTP"), "{said}");
    assert_eq!(std::fs::read_dir(small.0.join("s")).unwrap().count(), 0);
}

fn http_get(port: u16, path: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn health(port: u16) -> (u16, serde_json::Value) {
    let (status, body) = http_get(port, "/health");
    (status, serde_json::from_str(&body).unwrap())
}

/// A store that is down, then comes up: rows arrive all the time, health says what is missing, and then that all is well.
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
        (body["status"] == "degraded").then_some((status, body))
    });
    assert_eq!(status, 200);
    let problem = body["problems"][0].as_str().unwrap().to_owned();
    assert!(problem.contains("no snapshot") && problem.contains("Connection refused"), "{body}");
    assert!(!body.to_string().contains(PASSWORD));
    assert_eq!(http_get(port, "/other").0, 404);
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
        (status == 200 && body["status"] == "degraded").then(|| body["problems"][0].to_string())
    });
    assert!(problem.contains("no snapshot") && problem.contains(why), "{problem}");
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

#[test]
fn namesakes_are_told() {
    let dir = Dir::new("namesakes");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    let other = Dir::new("namesakes-too");
    let mut one = Node::with_schema(&dir, 7, &nats.url(), "", schema);
    one.start_ready();
    let mut two = Node::with_schema(&other, 7, &nats.url(), "", schema);
    two.start_ready();
    for node in [&one, &two] {
        wait_for("it is told", 20, || (node.count("another daemon runs with node_id 7") == 1).then_some(()));
    }
    // A restart of its own is no namesake.
    two.stop();
    let before = one.count("another daemon runs");
    one.stop();
    one.start_ready();
    pause(1_500);
    assert_eq!(one.count("another daemon runs"), before);
}
