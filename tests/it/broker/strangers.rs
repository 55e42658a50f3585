//! Strangers at the ports of our own nats-server: for clients, for the cluster, for leaf nodes.

use crate::support::*;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";

/// Logins in our configuration, and what a route and a leaf connection say of themselves when they have them.
const LOGINS: [(&str, &str, &str); 2] = [
    (
        "nats.user_name = \"app\"\nnats.user_password = \"s3cret p@ss/?#%\"",
        r#""user":"app","pass":"s3cret p@ss/?#%","#,
        r#""user":"app","pass":"s3cret p@ss/?#%","#,
    ),
    ("nats.token = \"t0k@n:\"", r#""user":"token","pass":"t0k@n:","#, r#""auth_token":"t0k@n:","#),
];

/// A node with a server of its own, and what a user would not write: its address for clients.
fn own_server(dir: &Dir, id: u64, binary: &Path, extra: &str) -> Node {
    Node::with_schema(dir, id, "", &format!("nats.server_binary = {binary:?}\n{extra}"), SCHEMA)
}

/// Says that it is a server, with a login or without; returns the last thing that the other side said to it.
fn answer_to_a_server(port: u16, login: &str, more: &str) -> String {
    let mut stream = wait_for("the port", 20, || TcpStream::connect(("127.0.0.1", port)).ok());
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("INFO "), "{line}");
    let connect = format!(
        "CONNECT {{{login}\"echo\":true,\"verbose\":false,\"pedantic\":false,\"tls_required\":false,\"name\":\"stranger\",\
         \"cluster\":\"e-harmonylite\",\"headers\":true}}\r\n{more}PING\r\n"
    );
    stream.write_all(connect.as_bytes()).unwrap();
    let mut last = String::new();
    loop {
        line.clear();
        match reader.read_line(&mut line) {
            Ok(count) if count > 0 => last = line.trim().to_owned(),
            _ => return last,
        }
        if last == "PONG" || last.starts_with("-ERR") {
            return last;
        }
    }
}

fn answer_to_a_route(port: u16, login: &str) -> String {
    let info = "INFO {\"server_id\":\"NSTRANGER\",\"server_name\":\"stranger\",\"version\":\"2.9.10\",\"host\":\"127.0.0.1\",\
                \"port\":4248,\"headers\":true,\"max_payload\":1048576,\"proto\":1,\"cluster\":\"e-harmonylite\"}\r\n";
    answer_to_a_server(port, login, info)
}

#[test]
fn a_route_needs_the_login_and_two_nodes_that_have_it_share_their_rows() {
    for binary in nats_binaries() {
        for (config, as_route, _) in LOGINS {
            let dir = Dir::new("routes");
            let ports = [free_port(), free_port()];
            let mut one = own_server(&dir, 1, &binary, config);
            let mut two = own_server(&dir, 2, &binary, config);
            for (node, mine, other) in [(&mut one, 0, 1), (&mut two, 1, 0)] {
                let address = format!("127.0.0.1:{}", ports[mine]);
                let peer = format!("nats://127.0.0.1:{}", ports[other]);
                node.start_with(&["-cluster-addr", &address, "-cluster-peers", &peer]);
            }
            for node in [&mut one, &mut two] {
                wait_for("the node has caught up", 60, || {
                    node.assert_alive();
                    (node.count("caught up with") > 0).then_some(())
                });
            }
            one.sql("INSERT INTO t VALUES(1, 'one')");
            two.sql("INSERT INTO t VALUES(2, 'two')");
            wait_equal(&mut [&mut one, &mut two], 30);
            let refused = answer_to_a_route(ports[0], "");
            assert!(refused.contains("Authorization Violation"), "{refused}");
            let refused = answer_to_a_route(ports[0], r#""user":"app","pass":"guess","#);
            assert!(refused.contains("Authorization Violation"), "{refused}");
            assert_eq!(answer_to_a_route(ports[0], as_route), "PONG");
            let shown = std::fs::read_to_string(format!("/proc/{}/cmdline", one.pid())).unwrap();
            assert!(!shown.contains("s3cret") && !shown.contains("t0k"), "{shown}");
            assert_eq!((two.stop(), one.stop()), (0, 0));
        }
    }
}

#[test]
fn a_leaf_node_needs_the_login_and_has_it_from_the_configuration() {
    // A token is for the clients' login alone, and Debian's server asks leaf nodes for none of those.
    let asks = ["authorization { user: app, password: \"s3cret p@ss/?#%\" }", ""];
    for (newest, binary) in [true, false].into_iter().zip(nats_binaries()) {
        for ((config, _, as_leaf), asks) in LOGINS.into_iter().zip(asks) {
            let (dir, port) = (Dir::new("leaf"), free_port());
            let hub_config = dir.0.join("leafs.conf");
            std::fs::write(&hub_config, format!("leafnodes {{ listen: \"127.0.0.1:{port}\", {asks} }}\n"))
                .unwrap();
            let mut hub =
                own_server(&dir, 1, &binary, &format!("{config}\nnats.server_config = {hub_config:?}"));
            hub.start_ready();
            assert_eq!(hub.count("lets leaf nodes in without any login"), usize::from(asks.is_empty()));
            let leafs = format!("nats.leaf_servers = [\"nats://127.0.0.1:{port}\"]");
            let mut leaf = own_server(&dir, 2, &binary, &format!("{config}\n{leafs}"));
            leaf.start_ready();
            let log = leaf.dir.join("nats/harmonylite-node-2/nats-server.log");
            wait_for("the leaf node is connected", 20, || {
                let log = std::fs::read_to_string(&log).unwrap();
                assert!(!log.contains("Authorization Violation"), "{log}");
                log.contains("Leafnode connection created").then_some(())
            });
            // A message crosses from one server to the other.
            let (here, there) = (client(&hub, 1, config), client(&leaf, 2, config));
            let heard = here.subscribe("crosses").unwrap();
            wait_for("a message crosses", 20, || {
                there.publish("crosses", "x").unwrap();
                heard.next_timeout(Duration::from_millis(100)).ok()
            });
            assert_eq!(answer_to_a_server(port, as_leaf, ""), "PONG");
            if newest || !asks.is_empty() {
                let refused = answer_to_a_server(port, "", "");
                assert!(refused.contains("Authorization Violation"), "{refused}");
            }
            let shown = std::fs::read_to_string(format!("/proc/{}/cmdline", leaf.pid())).unwrap();
            assert!(!shown.contains("s3cret") && !shown.contains("t0k"), "{shown}");
            assert_eq!((leaf.stop(), hub.stop()), (0, 0));
        }
    }
}

/// The independent client at a node's own server.
fn client(node: &Node, id: u64, config: &str) -> nats::Connection {
    let file = node.dir.join(format!("nats/harmonylite-node-{id}/address"));
    let url = std::fs::read_to_string(file).unwrap();
    let options = if config.contains("token") {
        nats::Options::with_token("t0k@n:")
    } else {
        nats::Options::with_user_pass("app", "s3cret p@ss/?#%")
    };
    options.connect(url).unwrap()
}

/// The addresses at which a process listens, as the kernel writes them.
fn listening(pid: u32) -> Vec<String> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let sockets: Vec<String> = links
        .filter_map(|link| std::fs::read_link(link.path()).ok())
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut found = vec![];
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[3] == "0A" && sockets.iter().any(|inode| inode == fields[9]) {
                found.push(fields[1].to_owned());
            }
        }
    }
    found
}

#[test]
fn without_a_login_our_server_listens_on_loopback_alone() {
    for binary in nats_binaries() {
        let dir = Dir::new("default-address");
        let mut node = own_server(&dir, 1, &binary, "");
        let text = std::fs::read_to_string(&node.config).unwrap();
        std::fs::write(&node.config, text.replace("nats.bind_address = \"127.0.0.1:-1\"\n", "")).unwrap();
        node.start_ready();
        let output =
            std::process::Command::new("pgrep").args(["-P", &node.pid().to_string()]).output().unwrap();
        let server: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        let addresses = listening(server);
        assert!(!addresses.is_empty());
        // 127.0.0.1 in the kernel's notation.
        assert!(addresses.iter().all(|address| address.starts_with("0100007F:")), "{addresses:?}");
        assert_eq!(node.count("without a password"), 0);
        assert_eq!(node.stop(), 0);
    }
}

#[test]
fn a_cluster_port_for_others_without_a_login_is_refused() {
    let dir = Dir::new("open-cluster");
    let node = own_server(&dir, 1, &nats_binaries()[0], "");
    let output = node.command(&["-cluster-addr", "0.0.0.0:4248"]);
    let told = printed(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("-cluster-addr 0.0.0.0:4248: refused without a login"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn a_login_on_the_command_line_is_warned_about_and_not_shown() {
    let dir = Dir::new("shown-login");
    let node = own_server(&dir, 1, Path::new("/no/such/nats-server"), "");
    let shown = |arguments: &[&str]| printed(&node.command(arguments));
    let told = shown(&["-leaf-servers", "nats://app:hunter2@127.0.0.1:7422", "-list-snapshots"]);
    assert!(told.contains("can be read by every user of this machine"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    let told = shown(&["-leaf-servers", "nats://127.0.0.1:7422", "-list-snapshots"]);
    assert!(!told.contains("can be read by every user"), "{told}");
}

#[test]
fn files_for_tls_do_not_keep_us_from_our_own_server() {
    let dir = Dir::new("own-without-tls");
    let certificate = Authority::new(&dir).certificate("server", "IP:127.0.0.1");
    let mut node = own_server(&dir, 1, &nats_binaries()[0], &format!("nats.ca_file = {:?}", certificate.ca));
    node.start_ready();
    assert_eq!(node.count("our nats-server listens on 127.0.0.1 alone"), 1);
    assert_eq!(node.stop(), 0);
}
