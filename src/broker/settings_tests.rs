//! What stands in the file of our own nats-server, and what people are told about it.

use super::*;
use crate::base::secret::Secret;
use std::os::unix::ffi::OsStrExt;

const NEW: Version = Version(2, 10, 0);
const OLD: Version = Version(2, 9, 25);

fn nats(bind_address: &str) -> config::Nats {
    config::Nats {
        urls: vec![],
        subject_prefix: "s".into(),
        stream_prefix: "s".into(),
        server_binary: None,
        server_config: None,
        bind_address: bind_address.into(),
        seed_file: None,
        user_name: String::new(),
        user_password: Secret::default(),
        token: Secret::default(),
        ca_file: None,
        cert_file: None,
        key_file: None,
        ignore_discovered: false,
        cluster_addr: String::new(),
        cluster_peers: vec![],
        leaf_servers: vec![],
    }
}

fn settings(nats: &config::Nats) -> Settings<'_> {
    let (log, store_dir) = (Path::new("/d/log"), Path::new("/d"));
    Settings { nats, name: "node-1", log, store_dir, store_bytes: 1_000_000, port: None, version: NEW }
}

fn text(nats: &config::Nats) -> String {
    settings(nats).text().unwrap()
}

const BARE: &str = "# Written by harmonylite at each start.\nserver_name: \"node-1\"\nhost: \"127.0.0.1\"\nport: -1\n\
    log_file: \"/d/log\"\nlogfile_size_limit: 1MB\nmax_payload: 8MB\njetstream {\n  store_dir: \"/d\"\n  \
    max_file_store: 1000000\n  sync_interval: always\n}\n";

#[test]
fn versions() {
    for (text, version) in [
        ("nats-server: v2.9.10\n", Some(Version(2, 9, 10))),
        ("nats-server: v2.11.0-RC.1", Some(Version(2, 11, 0))),
        ("nats-server: v2.10", Some(Version(2, 10, 0))),
        ("2.12.1+build", Some(Version(2, 12, 1))),
        ("nats-server: v2", None),
        ("nats-server: development", None),
        ("", None),
    ] {
        assert_eq!(Version::parse(text), version, "{text}");
    }
    assert!(Version(2, 9, 99) < NEW && Version(2, 10, 1) > NEW && Version(3, 0, 0) > NEW);
    assert_eq!(NEW.to_string(), "2.10.0");
}

#[test]
fn a_server_for_itself() {
    assert_eq!(text(&nats("127.0.0.1:-1")), BARE);
}

#[test]
fn addresses_to_listen_on() {
    for (bind, host, port) in [
        (":-1", "0.0.0.0", "-1"),
        ("[::1]:4222", "::1", "4222"),
        ("", "0.0.0.0", "-1"),
        ("10.0.0.1:5", "10.0.0.1", "5"),
    ] {
        assert!(text(&nats(bind)).contains(&format!("\nhost: \"{host}\"\nport: {port}\n")), "{bind}");
    }
}

#[test]
fn the_port_of_the_first_start_is_kept() {
    let nats = nats("127.0.0.1:-1");
    let again = Settings { port: Some(4321), ..settings(&nats) };
    assert!(again.text().unwrap().contains("\nport: 4321\n"));
}

#[test]
fn an_old_server_does_not_know_sync_interval() {
    let nats = nats("127.0.0.1:-1");
    let old = Settings { version: OLD, ..settings(&nats) };
    assert!(!old.text().unwrap().contains("sync_interval"));
    assert!(old.warnings()[0].contains("older than 2.10"));
    assert!(settings(&nats).warnings().is_empty());
}

/// Settings where each bit switches a part on, and the parts of the file that are expected for them.
fn combination(bits: u32) -> (config::Nats, Vec<String>) {
    let mut nats = nats("127.0.0.1:-1");
    let mut parts = vec![];
    let (user, token) = (bits & 1 != 0, bits & 2 != 0);
    if user {
        nats.user_name = "app".into();
        nats.user_password = Secret::new("p\"w");
        parts.push("authorization { user: \"app\", password: \"p\\\"w\" }\n".to_owned());
    }
    if token {
        nats.token = Secret::new("t0k");
    }
    if token && !user {
        parts.push("authorization { token: \"t0k\" }\n".to_owned());
    }
    let (cluster, route, leaf) = match (user, token) {
        (true, _) => {
            ("  authorization { user: \"app\", password: \"p\\\"w\" }\n", "app:p%22w@", "app:p%22w@")
        }
        (false, true) => ("  authorization { user: \"token\", password: \"t0k\" }\n", "token:t0k@", "t0k@"),
        (false, false) => ("", "", ""),
    };
    if bits & 4 != 0 {
        nats.cluster_addr = "0.0.0.0:4248".into();
        nats.cluster_peers = vec!["nats://a:4248".into(), "nats://x:y@b:4248".into()];
        parts.push(format!(
            "cluster {{\n  name: e-harmonylite\n  listen: \"0.0.0.0:4248\"\n{cluster}  \
             routes: [\"nats://{route}a:4248\", \"nats://x:y@b:4248\"]\n}}\n"
        ));
    }
    if bits & 8 != 0 {
        nats.leaf_servers = vec!["nats://hub:7422?hub=true".into(), "tls://m:n@x:1".into()];
        parts.push(format!(
            "leafnodes {{\n  remotes: [{{ url: \"nats://{leaf}hub:7422\", hub: true }}, {{ url: \"tls://m:n@x:1\" }}]\n}}\n"
        ));
    }
    (nats, parts)
}

#[test]
fn every_combination_of_login_cluster_and_leaf() {
    for bits in 0..16 {
        let (nats, parts) = combination(bits);
        assert_eq!(text(&nats), BARE.to_owned() + &parts.concat(), "{bits:04b}");
    }
}

#[test]
fn peers_without_a_cluster_address_make_no_cluster() {
    let nats = config::Nats { cluster_peers: vec!["nats://a:1".into()], ..nats("127.0.0.1:-1") };
    assert_eq!(text(&nats), BARE);
}

#[test]
fn dns_peers_are_all_addresses_of_their_name() {
    let urls = |url: &str| Remote::parse(url).urls("u:p@").unwrap();
    assert_eq!(urls("nats://a:1"), ["nats://u:p@a:1"]);
    assert_eq!(urls("a:1"), ["nats://u:p@a:1"]);
    assert_eq!(urls("dns://127.0.0.1:4248/?x"), ["nats://u:p@127.0.0.1:4248"]);
    assert_eq!(urls("dns://x:y/z@w@127.0.0.1:4248"), ["nats://x:y/z@w@127.0.0.1:4248"]);
    let error = Remote::parse("dns://u:hunter2@no-port").urls("").unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().starts_with("dns://no-port: "), "{error}");
}

#[test]
fn routes_and_leafs_in_the_clear_are_warned_about_by_their_addresses_alone() {
    let with = |peers: &[&str], leafs: &[&str], user: &str| {
        let list = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect();
        let nats = config::Nats {
            cluster_addr: "127.0.0.1:1".into(),
            cluster_peers: list(peers),
            leaf_servers: list(leafs),
            user_name: user.into(),
            user_password: Secret::new(user),
            ..nats("127.0.0.1:-1")
        };
        settings(&nats).warnings().concat()
    };
    let told = with(&["nats://10.0.0.1:1", "nats://127.0.0.1:2", "dns://c:3"], &["nats://hunter2@h:4"], "u");
    assert!(told.contains(" go to 10.0.0.1:1, c:3, h:4 in the clear") && !told.contains("hunter2"), "{told}");
    assert!(with(&["nats://localhost:1"], &["tls://x:y@h:1"], "u").is_empty());
    assert!(with(&["nats://10.0.0.1:1"], &["nats://h:1"], "").is_empty(), "no login, nothing to give away");
}

#[test]
fn leafs_may_be_dns_names_and_hubs() {
    let leafs = |server: &str| leaf_remotes(&[server.to_owned()], "").unwrap();
    assert_eq!(leafs("dns://127.0.0.1:7?hub=true"), "{ url: \"nats://127.0.0.1:7\", hub: true }");
    assert_eq!(leafs("nats://a:1?x=y&hub=true"), "{ url: \"nats://a:1\", hub: true }");
    assert_eq!(leafs("nats://a:1?hub=false"), "{ url: \"nats://a:1\" }");
}

#[test]
fn settings_of_the_user_come_last_and_silence_the_warning_about_passwords() {
    let path = std::env::temp_dir().join(format!("harmonylite-settings-{}.conf", std::process::id()));
    std::fs::write(&path, "port: 9\n").unwrap();
    let nats = config::Nats { server_config: Some(path.clone()), ..nats("0.0.0.0:1") };
    let text = text(&nats);
    std::fs::remove_file(&path).unwrap();
    assert!(text.ends_with("}\nport: 9\n\n"), "{text}");
    assert!(settings(&nats).warnings().is_empty());
    let error = settings(&nats).text().unwrap_err();
    assert_eq!(error.kind(), Kind::Local);
    assert!(error.to_string().starts_with(&format!("nats.server_config = {path:?}: ")), "{error}");
}

#[test]
fn ports_that_the_users_settings_open_without_a_login_are_warned_about() {
    let path = std::env::temp_dir().join(format!("harmonylite-ports-{}.conf", std::process::id()));
    let user = config::Nats { server_config: Some(path.clone()), ..nats("127.0.0.1:-1") };
    for (text, blocks) in [
        (
            "authorization { user: a, password: b }\nleafnodes { listen: \"0.0.0.0:7422\" }",
            &["leafnodes"][..],
        ),
        ("# authorization\nleaf { port: 7422 }\ncluster { port: 6222 }", &["leafnodes", "cluster"]),
        (
            "cluster { listen: h:1, authorization { user: a, password: b } }\nleafnodes { port: 1 }",
            &["leafnodes"],
        ),
        ("leafnodes { port: 1, authorization { user: a } }\ncluster { port: 2 }", &["cluster"]),
        ("leafnodes { remotes: [ { url: nats://h:7422 } ] }\ncluster { name: x }", &[]),
    ] {
        std::fs::write(&path, text).unwrap();
        let told = settings(&user).warnings();
        assert_eq!(told.len(), blocks.len(), "{text}: {told:?}");
        for (told, block) in told.iter().zip(blocks) {
            assert!(told.contains(&format!(": {block} without an authorization: ")), "{text}: {told}");
        }
    }
    std::fs::remove_file(&path).unwrap();
}

/// nats-server reads `\x`, `\t`, `\n`, `\r`, `\"` and `\\`, and no others.
#[test]
fn texts_in_quotes_have_the_escapes_that_the_server_knows() {
    let all: String = ('\0'..='\u{ff}').collect();
    let text = quoted(&all);
    let mut read = vec![];
    let mut rest = text[1..text.len() - 1].chars();
    while let Some(c) = rest.next() {
        assert!(c != '"' && !c.is_ascii_control(), "{c:?} stands there as it is");
        read.push(match (c, if c == '\\' { rest.next() } else { None }) {
            ('\\', Some('x')) => {
                let digits: String = rest.by_ref().take(2).collect();
                char::from(u8::from_str_radix(&digits, 16).unwrap())
            }
            ('\\', Some(c)) => {
                assert!(matches!(c, '"' | '\\'), "{c:?}");
                c
            }
            (c, _) => c,
        });
    }
    assert_eq!(read.into_iter().collect::<String>(), all);
}

#[test]
fn an_open_server_is_warned_about() {
    for bind in [":-1", "0.0.0.0:4222", "[::]:1"] {
        let told = settings(&nats(bind)).warnings().concat();
        let place = "listens on all addresses of this machine, IPv4 and IPv6, without a password";
        assert!(told.contains(place), "{bind}: {told}");
    }
    let told = settings(&nats("10.0.0.1:4222")).warnings().concat();
    assert!(told.contains("listens on 10.0.0.1 without a password"), "{told}");
    for bind in ["127.0.0.1:-1", "localhost:1", "[::1]:1"] {
        assert!(settings(&nats(bind)).warnings().is_empty(), "{bind}");
        assert!(settings(&nats(bind)).keeps_others_out().unwrap().contains("set nats.user_name"), "{bind}");
    }
    assert_eq!(settings(&nats(":-1")).keeps_others_out(), None);
    let user = config::Nats { user_name: "app".into(), ..nats(":-1") };
    assert_eq!(settings(&user).warnings().len(), 1, "a user without a password is no login");
    let with_user = config::Nats { user_password: Secret::new("p"), ..user };
    assert!(settings(&with_user).warnings().is_empty());
    let with_token = config::Nats { token: Secret::new("t"), ..nats(":-1") };
    assert!(settings(&with_token).warnings().is_empty());
}

#[test]
fn a_path_that_is_not_utf_8_is_refused() {
    let nats = nats("127.0.0.1:-1");
    let odd = Path::new(std::ffi::OsStr::from_bytes(b"/\xff"));
    let error = Settings { log: odd, ..settings(&nats) }.text().unwrap_err();
    assert_eq!(error.kind(), Kind::Local);
}

#[test]
fn clients_reach_the_server_by_a_literal_address() {
    for (bind, address) in [
        (":-1", "127.0.0.1:7"),
        ("0.0.0.0:5", "127.0.0.1:7"),
        ("[::]:5", "127.0.0.1:7"),
        ("localhost:5", "127.0.0.1:7"),
        ("10.0.0.1:5", "10.0.0.1:7"),
        ("[::1]:5", "[::1]:7"),
        ("::1:5", "[::1]:7"),
        ("fe80::1%eth0:5", "[fe80::1%eth0]:7"),
        ("", "127.0.0.1:7"),
    ] {
        assert!(crate::nats::Url::parse(address).is_ok(), "{bind}");
        assert_eq!(client_address(bind, 7), address, "{bind}");
    }
}

#[test]
fn ports_files() {
    for (text, port) in [
        (r#"{"nats":["nats://127.0.0.1:4222","nats://[::1]:4222"],"monitoring":[]}"#, Some(4222)),
        (r#"{"nats":["nats://[::1]:1"]}"#, Some(1)),
        (r#"{"nats":["nats://h:99999"]}"#, None),
        (r#"{"nats":[]}"#, None),
        (r#"{"nats":["#, None),
        ("{}", None),
        ("", None),
    ] {
        assert_eq!(port_in(text.as_bytes()), port, "{text}");
    }
}
