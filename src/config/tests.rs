//! Defaults, and one test for each message.

use super::*;
use std::sync::atomic::{AtomicU32, Ordering};

fn try_load(text: &str) -> Result<(Config, Vec<String>), Vec<String>> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("harmonylite-config-{}-{number}.toml", std::process::id()));
    std::fs::write(&path, text).unwrap();
    let result = load(Some(&path), None);
    std::fs::remove_file(&path).unwrap();
    let strip = |lines: Vec<String>| -> Vec<String> {
        lines.into_iter().map(|line| line.replace(&path.display().to_string(), "FILE")).collect()
    };
    result.map(|(config, warnings)| (config, strip(warnings))).map_err(strip)
}

const BASE: &str = "db_path = \"/data/app.db\"\nnode_id = 1\n";

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
    assert_eq!(config.nats.bind_address, ":-1");
    assert_eq!(config.scan_max_changes, 512);
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
    assert_eq!(missing, ["/no/such.toml: No such file or directory (os error 2)"]);
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
    let path = std::env::temp_dir().join(format!("harmonylite-config-node-{}.toml", std::process::id()));
    std::fs::write(&path, BASE).unwrap();
    assert_eq!(load(Some(&path), Some(9)).unwrap().0.node_id, 9);
    assert_eq!(load(Some(&path), Some(0)).unwrap().0.node_id, 1);
    std::fs::remove_file(&path).unwrap();
}
