//! TLS towards the broker: never taken away by whoever stands on the way, and no login for a server that such a one announces.

use super::hostile::{INFO, server};
use crate::support::*;
use harmonylite::testing::nats::{Auth, Connection, Options, Url};
use harmonylite::testing::{Secret, Workers, stop};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PASSWORD: &str = "hunter2-s3cret";

fn auth(ca: Option<&Certificate>) -> Auth {
    let ca_file = ca.map(|certificate| certificate.ca.clone());
    Auth { user: "app".into(), password: Secret::new(PASSWORD), ca_file, ..Auth::default() }
}

/// A connection that also uses announced servers.
fn discovering(url: &str, auth: Auth) -> Connection {
    let (source, token) = stop::pair();
    std::mem::forget(source);
    let urls = vec![Url::parse(url).unwrap()];
    let options = Options { urls, name: "test".into(), auth, ignore_discovered: false, quiet: false };
    Connection::open(options, token, &mut Workers::default()).unwrap()
}

/// Greets without TLS, and keeps what it is told.
fn greet_without_tls(mut stream: TcpStream, heard: &Mutex<Vec<u8>>) {
    let _ = stream.write_all(INFO);
    let mut buffer = [0; 4096];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            return;
        }
        heard.lock().unwrap().extend_from_slice(&buffer[..count]);
    }
}

fn is_secret_in(heard: &Mutex<Vec<u8>>) -> bool {
    String::from_utf8_lossy(&heard.lock().unwrap()).contains(PASSWORD)
}

/// Copies bytes both ways until one side closes.
fn pass_on(client: TcpStream, server: TcpStream) {
    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || copy(from, to));
    copy(server, client);
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[test]
fn whoever_names_an_authority_never_logs_in_without_tls() {
    let dir = Dir::new("stripped");
    let certificate = Authority::new(&dir).certificate("server", "IP:127.0.0.1");
    let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
    let url = {
        let heard = heard.clone();
        server(move |_, stream| greet_without_tls(stream, &heard))
    };
    let connection = connect_with(&url, auth(Some(&certificate)));
    let why = wait_for("a refusal", 10, || {
        assert!(!connection.is_up() && !is_secret_in(&heard), "logged in without TLS");
        Some(connection.last_error()).filter(|why| !why.is_empty())
    });
    assert!(why.contains("the server has no TLS"), "{why}");
    pause(1_000);
    assert!(!is_secret_in(&heard));
}

/// The same for a daemon, for each setting that says that there is TLS.
#[test]
fn a_daemon_with_an_authority_or_a_certificate_never_logs_in_without_tls() {
    let dir = Dir::new("stripped-daemon");
    let Certificate { cert, key, ca } = Authority::new(&dir).certificate("client", "DNS:client");
    let settings = [
        format!("nats.ca_file = {ca:?}"),
        format!("nats.cert_file = {cert:?}\nnats.key_file = {key:?}"),
        String::new(),
    ];
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY)";
    for (id, setting) in (1..).zip(settings) {
        let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
        let tries = Arc::new(AtomicUsize::new(0));
        let url = {
            let (heard, tries) = (heard.clone(), tries.clone());
            server(move |_, stream| {
                tries.fetch_add(1, Relaxed);
                greet_without_tls(stream, &heard);
            })
        };
        let scheme = if setting.is_empty() { "tls://" } else { "nats://" };
        let config = format!("nats.user_name = \"app\"\nnats.user_password = {PASSWORD:?}\n{setting}\n");
        let mut node = Node::with_schema(&dir, id, &url.replace("nats://", scheme), &config, schema);
        node.start();
        wait_for("several tries", 20, || (tries.load(Relaxed) >= 4).then_some(()));
        assert!(!is_secret_in(&heard), "{setting}: logged in without TLS");
        assert_eq!(node.count("the server has no TLS"), 1, "{}", node.log());
        assert_eq!(node.count("in the clear") + node.count(PASSWORD), 0, "{}", node.log());
        assert_eq!(node.stop(), 0);
    }
}

#[test]
fn where_there_was_tls_once_the_login_never_goes_without_it() {
    let dir = Dir::new("once-tls");
    let certificate = Authority::new(&dir).certificate("server", "IP:127.0.0.1");
    let login =
        format!("authorization {{ user: app, password: {PASSWORD:?} }}\n{}", certificate.tls_block(false));
    let nats = Nats::with(&dir, &nats_binaries()[0], &login);
    let (stripping, stripped, heard) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::<Mutex<Vec<u8>>>::default());
    let passed: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let url = {
        let (stripping, stripped, heard, passed) =
            (stripping.clone(), stripped.clone(), heard.clone(), passed.clone());
        let port = nats.port;
        server(move |_, stream| {
            if stripping.load(Relaxed) {
                stripped.fetch_add(1, Relaxed);
                return greet_without_tls(stream, &heard);
            }
            passed.lock().unwrap().push(stream.try_clone().unwrap());
            pass_on(stream, TcpStream::connect(("127.0.0.1", port)).unwrap());
        })
    };
    let url = url.replace("nats://", &format!("nats://app:{PASSWORD}@"));
    let mut node = Node::with_schema(&dir, 1, &url, "", "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    node.variables.push(("SSL_CERT_FILE".into(), certificate.ca.display().to_string()));
    node.start_ready();
    stripping.store(true, Relaxed);
    passed.lock().unwrap().iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    wait_for("several tries", 30, || (stripped.load(Relaxed) >= 3).then_some(()));
    pause(500);
    assert!(!is_secret_in(&heard), "logged in without TLS");
    assert!(node.count("the server has no TLS, and an earlier connection had it") >= 1);
    // Without the one on the way all is well again.
    stripping.store(false, Relaxed);
    wait_for("the node is back", 40, || (node.count("connected to NATS at") >= 2).then_some(()));
    assert_eq!(node.stop(), 0);
}

/// A broker with TLS, and somebody on the way to it who adds a server of his to the greeting, and cuts when he is told to.
struct Announced {
    dir: Dir,
    honest: Certificate,
    url: String,
    cut: Arc<AtomicBool>,
    tries: Arc<AtomicUsize>,
    passed: Arc<Mutex<Vec<TcpStream>>>,
    /// What his own server has logged.
    his: Dir,
    _servers: [Nats; 2],
}

fn announced() -> Announced {
    let dir = Dir::new("announced");
    let authority = Authority::new(&dir);
    let honest = authority.certificate("honest", "IP:127.0.0.1");
    let nats = Nats::with(
        &dir,
        &nats_binaries()[0],
        &format!("authorization {{ user: app, password: {PASSWORD:?} }}\n{}", honest.tls_block(false)),
    );
    // His certificate is good, for his own name, and by an authority that we trust.
    let his = Dir::new("announced-his");
    let certificate = authority.certificate("his", "DNS:localhost");
    let evil = Nats::with(&his, &nats_binaries()[0], &certificate.tls_block(false));
    let cut = Arc::new(AtomicBool::new(false));
    let tries = Arc::new(AtomicUsize::new(0));
    let passed: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let url = {
        let (cut, tries, passed) = (cut.clone(), tries.clone(), passed.clone());
        let (port, evil) = (nats.port, format!("localhost:{}", evil.port));
        server(move |_, mut stream| {
            if cut.load(Relaxed) {
                tries.fetch_add(1, Relaxed);
                return;
            }
            let mut server = BufReader::new(TcpStream::connect(("127.0.0.1", port)).unwrap());
            let mut greeting = String::new();
            server.read_line(&mut greeting).unwrap();
            let mut info: serde_json::Value =
                serde_json::from_str(greeting.trim().strip_prefix("INFO ").unwrap()).unwrap();
            info["connect_urls"] = serde_json::json!([evil]);
            stream.write_all(format!("INFO {info}\r\n").as_bytes()).unwrap();
            passed.lock().unwrap().push(stream.try_clone().unwrap());
            pass_on(stream, server.into_inner());
        })
    };
    let url = url.replace("nats://", "tls://");
    Announced { dir, honest, url, cut, tries, passed, his, _servers: [nats, evil] }
}

impl Announced {
    fn cut(&self) {
        self.cut.store(true, Relaxed);
        self.passed.lock().unwrap().iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }
}

#[test]
fn a_server_that_is_announced_before_tls_never_gets_a_login() {
    let way = announced();
    let connection = discovering(&way.url, auth(Some(&way.honest)));
    connection.wait_up(Duration::from_secs(10)).unwrap();
    way.cut();
    wait_for("several tries", 30, || {
        assert!(connection.epoch() == 1, "logged in at the server that somebody on the way announced");
        (way.tries.load(Relaxed) >= 5).then_some(())
    });
    assert_eq!(connection.epoch(), 1);
}

#[test]
fn a_daemon_does_not_go_to_a_server_that_is_announced_before_tls() {
    let way = announced();
    let config = format!(
        "nats.user_name = \"app\"\nnats.user_password = {PASSWORD:?}\nnats.ca_file = {:?}\n",
        way.honest.ca
    );
    let mut node =
        Node::with_schema(&way.dir, 1, &way.url, &config, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    node.start_ready();
    // The harness looked whether his server listens, too.
    let visits =
        || std::fs::read_to_string(way.his.0.join("broker/log")).unwrap().matches("handshake").count();
    let before = visits();
    way.cut();
    wait_for("several tries", 30, || (way.tries.load(Relaxed) >= 5).then_some(()));
    assert_eq!((node.count("connected to NATS at"), visits()), (1, before), "{}", node.log());
    way.cut.store(false, Relaxed);
    wait_for("the node is back", 30, || (node.count("connected to NATS at") == 2).then_some(()));
    assert_eq!(node.stop(), 0);
}

/// A server of a cluster of two.
fn member(dir: &Dir, name: &str, certificate: &Certificate, ports: (u16, u16)) -> Nats {
    let extra = format!(
        "server_name: {name}\n{}\nauthorization {{ user: app, password: {PASSWORD:?} }}\n\
         cluster {{ name: c, listen: \"127.0.0.1:{}\", routes: [\"nats://127.0.0.1:{}\"] }}",
        certificate.tls_block(false),
        ports.0,
        ports.1
    );
    Nats::with(dir, &nats_binaries()[0], &extra)
}

/// Connects to the first of two servers by the name `localhost`, lets the second one come, whose certificate has `names`, and
/// kills the first one.
fn move_to_the_second(names: &str, judge: impl Fn(&Connection, u16)) {
    let (dir, second) = (Dir::new("cluster-a"), Dir::new("cluster-b"));
    let authority = Authority::new(&dir);
    let ports = (free_port(), free_port());
    let certificate = authority.certificate("a", "DNS:localhost");
    let mut one = member(&dir, "a", &certificate, ports);
    let url = format!("tls://localhost:{}", one.port);
    let connection = discovering(&url, auth(Some(&certificate)));
    connection.wait_up(Duration::from_secs(10)).unwrap();
    let other = authority.certificate("b", names);
    let two = member(&second, "b", &other, (ports.1, ports.0));
    // The first server tells of the second one when their route stands.
    wait_for("the route", 20, || {
        let log = std::fs::read_to_string(dir.0.join("broker/log")).unwrap();
        log.contains("Route connection created").then_some(())
    });
    pause(1_500);
    one.kill();
    judge(&connection, two.port);
}

#[test]
fn a_server_that_is_announced_after_tls_is_used() {
    move_to_the_second("DNS:localhost", |connection, _| {
        wait_for("the other server", 30, || (connection.is_up() && connection.epoch() == 2).then_some(()));
    });
}

#[test]
fn an_announced_address_must_prove_itself_by_the_configured_name() {
    move_to_the_second("IP:127.0.0.1,DNS:elsewhere", |connection, port| {
        let name = format!("127.0.0.1:{port}: TLS: ");
        let why = wait_for("a refusal of the other server", 30, || {
            assert!(connection.epoch() == 1, "logged in at a server without the name");
            Some(connection.last_error()).filter(|why| why.contains(&name))
        });
        assert!(why.contains("certificate"), "{why}");
    });
}

#[test]
fn a_plain_server_may_announce_others() {
    let dir = Dir::new("plain");
    let two = Nats::with(&dir, &nats_binaries()[0], "");
    let other = format!("127.0.0.1:{}", two.port);
    let url = server(move |number, mut stream| {
        if number == 0 {
            let info =
                String::from_utf8_lossy(INFO).replace('}', &format!(",\"connect_urls\":[\"{other}\"]}}"));
            stream.write_all(info.as_bytes()).unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while !line.starts_with("PING") {
                line.clear();
                reader.read_line(&mut line).unwrap();
            }
            stream.write_all(b"PONG\r\n").unwrap();
            pause(300);
        }
    });
    let connection = discovering(&url, Auth::default());
    wait_for("the other server", 20, || (connection.is_up() && connection.epoch() == 2).then_some(()));
}
