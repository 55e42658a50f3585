//! Defaults, and one test for each message.

use super::*;
use crate::base::{Error, Kind, scratch::Scratch};
use std::path::Path;
fn try_load(text: &str) -> Result<(Config, Vec<String>), Vec<String>> {
    let scratch = Scratch::new("config");
    let path = scratch.path("config.toml");
    std::fs::write(&path, text).unwrap();
    let strip = |line: &str| line.replace(&path.display().to_string(), "FILE");
    match load(Some(&path), None) {
        Ok((config, warnings)) => Ok((config, warnings.iter().map(|line| strip(line)).collect())),
        Err(errors) => {
            assert!(errors.iter().all(|error| error.kind() == Kind::Usage), "{errors:?}");
            Err(errors.iter().map(|error| strip(&error.to_string())).collect())
        }
    }
}

const BASE: &str = "db_path = \"/data/app.db\"\nnode_id = 1\n";

/// For tests of other rooms: the defaults, and some settings.
pub fn with(text: &str) -> Config {
    try_load(&format!("{BASE}{text}")).unwrap().0
}

fn errors(text: &str) -> Vec<String> {
    try_load(&format!("{BASE}{text}")).map(|(config, _)| format!("{config:?}")).unwrap_err()
}

fn warnings(text: &str) -> Vec<String> {
    try_load(&format!("{BASE}{text}")).unwrap().1
}

#[test]
fn defaults() {
    let (config, warnings) = try_load(BASE).unwrap();
    assert!(warnings.is_empty());
    assert_eq!(config.seq_map_path, PathBuf::from("/data/seq-map.cbor"));
    assert!(config.publish && config.replicate && config.snapshot.enabled && config.log.compress);
    assert_eq!((config.log.shards, config.log.max_entries, config.log.replicas), (1, 1024, 1));
    assert_eq!(config.snapshot.leader_ttl, Duration::from_secs(30));
    assert_eq!(config.snapshot.interval, Duration::ZERO);
    assert!(
        matches!(&config.snapshot.store, Location::Nats { bucket, replicas: 1 } if bucket == "harmonylite-changes-snapshot-store")
    );
    assert_eq!(
        (config.stream(1), config.subject(1)),
        ("harmonylite-changes-c-1".into(), "harmonylite-change-log-1".into())
    );
    assert_eq!(config.nats.bind_address, "127.0.0.1:-1");
    assert_eq!(config.scan_max_changes, 512);
}

#[test]
fn our_own_server_listens_for_others_only_with_a_login_or_on_request() {
    for (text, address) in [
        ("user_name = \"u\"\nuser_password = \"p\"", ":-1"),
        ("token = \"t\"", ":-1"),
        ("user_name = \"u\"", "127.0.0.1:-1"),
        ("user_password = \"p\"", "127.0.0.1:-1"),
        ("user_name = \"u\"\ntoken = \"t\"", "127.0.0.1:-1"),
        ("bind_address = \":4222\"", ":4222"),
        ("token = \"t\"\nbind_address = \"127.0.0.1:-1\"", "127.0.0.1:-1"),
    ] {
        assert_eq!(with(&format!("[nats]\n{text}")).nats.bind_address, address, "{text}");
    }
}

#[test]
fn a_cluster_port_that_others_reach_needs_a_login() {
    let open = |address: &str, text: &str| {
        let mut nats = with(&format!("[nats]\n{text}")).nats;
        address.clone_into(&mut nats.cluster_addr);
        nats.cluster_is_open()
    };
    for address in [":4248", "0.0.0.0:4248", "[::]:4248", "10.0.0.1:4248", "host:4248"] {
        assert!(open(address, "") && open(address, "user_name = \"u\""), "{address}");
        assert!(
            !open(address, "user_name = \"u\"\nuser_password = \"p\"") && !open(address, "token = \"t\"")
        );
    }
    for address in ["127.0.0.1:4248", "localhost:4248", "[::1]:4248", ""] {
        assert!(!open(address, ""), "{address}");
    }
}

#[test]
fn a_login_in_the_clear_is_said_once() {
    let (file, login) = (
        "FILE: nats.urls: password or token, and all rows, go to",
        "user_name = \"u\"\nuser_password = \"hunter2\"",
    );
    let cert = "cert_file = \"/dev/null\"\nkey_file = \"/dev/null\"";
    for (urls, more, to) in [
        ("\"nats://u:hunter2@10.0.0.1\"", "", Some("10.0.0.1:4222")),
        ("\"nats://hunter2@h:1\", \"nats://x:y@127.0.0.1\", \"i\"", "", Some("h:1")),
        ("\"h\", \"i:7\"", login, Some("h:4222, i:7")),
        ("\"h\"", "token = \"hunter2\"", Some("h:4222")),
        ("\"h\"", "", None),
        ("\"tls://u:hunter2@h\"", "", None),
        ("\"nats://u:hunter2@localhost\", \"nats://u:hunter2@[::1]:3\"", login, None),
        ("\"nats://u:hunter2@h\"", "ca_file = \"/dev/null\"", None),
        ("\"nats://u:hunter2@h\"", cert, None),
        ("", login, None),
    ] {
        let found = warnings(&format!("[nats]\nurls = [{urls}]\n{more}"));
        assert_eq!(found.len(), usize::from(to.is_some()), "{urls} {more}: {found:?}");
        if let Some(to) = to {
            assert!(found[0].starts_with(&format!("{file} {to} in the clear unless")), "{found:?}");
            assert!(!found[0].contains("hunter2"), "{found:?}");
        }
    }
}

#[test]
fn all_errors_at_once_and_each_names_file_key_value_and_what_is_accepted() {
    let found = errors("publish = 3\nscan_max_changes = 0\n[replication_log]\nshards = \"x\"\n");
    assert_eq!(
        found,
        [
            "FILE: publish = 3: accepted is true or false",
            "FILE: scan_max_changes = 0: accepted is an integer from 1 to 65536",
            "FILE: replication_log.shards = \"x\": accepted is an integer from 1 to 64",
        ]
    );
}

/// What is wrong, and how its message begins.
const MISTAKES: &[(&str, &str)] = &[
    ("db_path = ", "FILE: line 3: not TOML: "),
    ("replicate = \"yes\"", "FILE: replicate = \"yes\": accepted is true or false"),
    ("publish = false\nreplicate = false", "FILE: publish = false with replicate = false: accepted is true"),
    ("sleep_timeout = -1", "FILE: sleep_timeout = -1: accepted is an integer from 0 to"),
    ("journal_mode = \"off\"", "FILE: journal_mode = \"off\": accepted is \"switch\" (to WAL) or \"refuse\""),
    ("[logging]\nformat = \"xml\"", "FILE: logging.format = \"xml\": accepted is \"console\" or \"json\""),
    (
        "[replication_log]\nreplicas = 6",
        "FILE: replication_log.replicas = 6: accepted is an integer from 0 to 5",
    ),
    (
        "[snapshot]\nstore = \"ftp\"",
        "FILE: snapshot.store = \"ftp\": accepted is \"nats\", \"s3\", \"webdav\", \"sftp\" or \"file\"",
    ),
    (
        "[snapshot]\nstore = \"s3\"\ns3.bucket = \"b\"",
        "FILE: snapshot.s3.endpoint = \"\": accepted is host[:port]",
    ),
    (
        "[snapshot]\nstore = \"s3\"\ns3.endpoint = \"https://k:s3cr3t@h\"\ns3.bucket = \"b\"",
        "FILE: snapshot.s3.endpoint = \"https://***@h\": accepted is host[:port]",
    ),
    (
        "[snapshot]\nstore = \"s3\"\ns3.endpoint = \"h\"\ns3.bucket = \"a/b\"",
        "FILE: snapshot.s3.bucket = \"a/b\": accepted is a bucket's name",
    ),
    (
        "[snapshot]\nstore = \"s3\"\ns3.endpoint = \"h\"\ns3.bucket = \"b\"\ns3.access_key = \"k\"",
        "FILE: snapshot.s3.access_key = without snapshot.s3.secret, or the reverse: accepted is both or none",
    ),
    (
        "[snapshot]\nstore = \"webdav\"\nwebdav.url = \"https://h/?login=a\"",
        "FILE: snapshot.webdav.url = (hidden: login and secret are missing): accepted is https://",
    ),
    (
        "[snapshot]\nstore = \"sftp\"\nsftp.url = \"sftp://h/\"",
        "FILE: snapshot.sftp.url = (hidden: no user): accepted is sftp://",
    ),
    (
        "[snapshot]\nstore = \"file\"\nfile.path = \"backups\"",
        "FILE: snapshot.file.path = \"backups\" (not an absolute path): accepted is an absolute path",
    ),
    ("[snapshot]\nkeep = 0", "FILE: snapshot.keep = 0: accepted is an integer from 1 to 1000"),
    (
        "[snapshot]\ncompression = \"gzip\"",
        "FILE: snapshot.compression = \"gzip\": accepted is \"none\" or \"zstd\"",
    ),
    (
        "[snapshot]\nkey_file = \"/dev/null\"",
        "FILE: snapshot.key_file = \"/dev/null\" (not 64 hex digits): accepted is",
    ),
    (
        "[snapshot]\nleader_ttl = 5",
        "FILE: snapshot.leader_ttl = 5: accepted is 0 (30000) or from 1000 milliseconds",
    ),
    (
        "[snapshot.nats]\nbucket = \"a b\"",
        "FILE: snapshot.nats.bucket = \"a b\": accepted is letters, digits, - and _",
    ),
    ("[prometheus]\nbind = \"x\"", "FILE: prometheus.bind = \"x\": accepted is host:port"),
    ("[prometheus]\nnamespace = \"a-b\"", "FILE: prometheus.namespace = \"a-b\": accepted is letters"),
    ("[health_check]\nbind = \"x\"", "FILE: health_check.bind = \"x\": accepted is host:port"),
    ("[nats]\nurls = \"nats://a:b@c\"", "FILE: nats.urls = \"nats://***@c\": accepted is a list of texts"),
    (
        "[nats]\nurls = [\"ftp://a:b@c\"]",
        "FILE: nats.urls = \"ftp://***@c\" (unknown scheme ftp): accepted is nats://",
    ),
    ("[nats]\nurls = [3]", "FILE: nats.urls = (not all are texts): accepted is a list of texts"),
    (
        "[nats]\nleaf_servers = \"nats://a:b@c\"",
        "FILE: nats.leaf_servers = \"nats://***@c\": accepted is a list of texts",
    ),
    ("[nats]\nuser_password = 3", "FILE: nats.user_password = (hidden): accepted is a text in quotes"),
    ("[nats]\nstream_prefix = \"a.b\"", "FILE: nats.stream_prefix = \"a.b\": accepted is letters"),
    ("[nats]\nsubject_prefix = \"a.>\"", "FILE: nats.subject_prefix = \"a.>\": accepted is a NATS subject"),
    ("[nats]\nbind_address = \"host\"", "FILE: nats.bind_address = \"host\": accepted is host:port"),
    (
        "[nats]\ncert_file = \"/dev/null\"",
        "FILE: nats.cert_file = without nats.key_file, or the reverse: accepted is both",
    ),
    (
        "[nats]\nca_file = \"/no/such\"",
        "FILE: nats.ca_file = \"/no/such\" (No such file or directory (os error 2)): accepted",
    ),
    ("nats = 3", "FILE: nats = 3: accepted is a section [nats]"),
];

#[test]
fn one_message_each() {
    for (text, message) in MISTAKES {
        let found = errors(text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].starts_with(message), "{text}: {found:?}");
    }
    assert_eq!(
        try_load("node_id = 1").unwrap_err(),
        ["FILE: db_path = (not set): accepted is the path of the application's SQLite database"]
    );
    let missing = load(Some(Path::new("/no/such.toml")), None).unwrap_err();
    let why = "/no/such.toml: No such file or directory (os error 2)";
    assert_eq!(missing, [Error::usage(why)]);
}

#[test]
fn empty_sections_of_a_sample_configuration_ask_for_nothing() {
    assert!(
        warnings("[snapshot.s3]\nendpoint = \"\"\nuse_ssl = false\n[snapshot.sftp]\nurl = \"\"").is_empty()
    );
}

#[test]
fn unknown_keys_and_keys_without_effect_are_named() {
    assert_eq!(
        warnings("replicat = true\n[nats]\nurl = []\n[snapshots]\nx = 1"),
        [
            "FILE: unknown key nats.url; the nearest known one is nats.urls",
            "FILE: unknown key replicat; the nearest known one is replicate",
            "FILE: unknown key snapshots; the nearest known one is snapshot.keep",
        ]
    );
    assert_eq!(
        warnings("cleanup_interval = 5000"),
        [
            "FILE: cleanup_interval has no effect here: a change-log row is removed as soon as its event has come back"
        ]
    );
}

#[test]
fn keys_match_without_case_and_secrets_stay_hidden() {
    let (config, _) =
        try_load(&format!("{BASE}[NATS]\nUser_Password = \"hunter2\"\nToken = \"t0ken\"")).unwrap();
    assert_eq!(config.nats.user_password.expose(), "hunter2");
    let debug = format!("{config:?}");
    assert!(!debug.contains("hunter2") && !debug.contains("t0ken"));
}

#[test]
fn node_id_of_the_command_line_wins() {
    let scratch = Scratch::new("config-node");
    let path = scratch.path("config.toml");
    std::fs::write(&path, BASE).unwrap();
    assert_eq!(load(Some(&path), Some(9)).unwrap().0.node_id, 9);
    assert_eq!(load(Some(&path), Some(0)).unwrap().0.node_id, 1);
}

#[test]
fn capabilities_of_the_go_program_that_are_not_here_are_refused() {
    for (text, key) in [
        ("[tables]\ninclude = [\"a\"]", "tables.include"),
        ("[tables]\nexclude = [\"a\"]", "tables.exclude"),
        ("[sharding]\nignore_tables = [\"a\"]", "sharding.ignore_tables"),
    ] {
        assert_eq!(errors(text), [format!("FILE: {}", not_yet(key))]);
    }
    assert!(warnings("[tables]\ninclude = []").is_empty());
}

#[test]
fn a_wrong_database_path_is_one_mistake() {
    assert_eq!(
        try_load("db_path = 3\nnode_id = 1").unwrap_err(),
        ["FILE: db_path = 3: accepted is a text in quotes"]
    );
}

#[test]
fn names_that_follow_from_the_configuration() {
    let (config, _) = try_load(&format!("{BASE}[replication_log]\ncompress = false")).unwrap();
    assert_eq!(config.stream(2), "harmonylite-changes-2");
    assert_eq!(config.node_name(), "harmonylite-node-1");
    assert_eq!(config.lock_path(), PathBuf::from("/data/app.db.harmonylite.lock"));
    assert_eq!(config.temp_dir(), PathBuf::from("/data"));
    let (config, _) = try_load(&format!("{BASE}[snapshot]\ntemp_dir = \"/tmp\"")).unwrap();
    assert_eq!(config.temp_dir(), PathBuf::from("/tmp"));
}

#[test]
fn a_node_makes_snapshots_only_if_it_publishes_and_applies() {
    let makes = |text: &str| try_load(&format!("{BASE}{text}")).unwrap().0.makes_snapshots();
    assert!(makes(""));
    for text in ["publish = false", "replicate = false", "[snapshot]\nenabled = false"] {
        assert!(!makes(text), "{text}");
    }
}

#[test]
fn the_store_that_is_named_is_the_one() {
    let store = |text: &str| try_load(&format!("{BASE}[snapshot]\n{text}")).unwrap().0.snapshot.store;
    assert!(
        matches!(store("store = \"file\"\nfile.path = \"/b\""), Location::File(path) if path == Path::new("/b"))
    );
    let s3 = store(
        "store = \"s3\"\ns3.endpoint = \"h\"\ns3.bucket = \"b\"\ns3.access_key = \"k\"\ns3.secret = \"s\"",
    );
    assert!(
        matches!(&s3, Location::S3(options, Some(_)) if options.bucket == "b" && options.force_path_style.is_none())
    );
    assert!(!format!("{s3:?}").contains("\"s\""), "{s3:?}");
    let webdav = store("store = \"webdav\"\nwebdav.url = \"https://h/?login=u&secret=hunter2\"");
    assert!(matches!(&webdav, Location::Webdav(options) if options.user == "u"));
    assert!(webdav.is_apart_from_nats() && !format!("{webdav:?}").contains("hunter2"));
    let sftp = store("store = \"sftp\"\nsftp.url = \"sftp://u:hunter2@h/d\"");
    let Location::Sftp(options) = &sftp else { panic!("{sftp:?}") };
    let beside = crate::storage::Trust::FirstUse("/data/sftp-known-hosts".into());
    assert_eq!((options.dir.as_str(), &options.trust), ("/d", &beside));
    assert!(!format!("{sftp:?}").contains("hunter2"));
}
