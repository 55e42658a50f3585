//! Defaults, and one test for each message.

use super::*;
use crate::base::{Error, Kind, scratch::Scratch};
use std::path::Path;

fn try_load(text: &str) -> Result<(Config, Vec<String>), Vec<String>> {
    let scratch = Scratch::new("config");
    load_as(&scratch.path("config.toml"), text)
}

/// Writes a configuration to a file, and loads it.
fn load_as(path: &Path, text: &str) -> Result<(Config, Vec<String>), Vec<String>> {
    std::fs::write(path, text).unwrap();
    let strip = |line: &str| line.replace(&path.display().to_string(), "FILE");
    match load(Some(path), None) {
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

/// The same with a node id in the text.
pub fn only(text: &str) -> Config {
    try_load(&format!("db_path = \"/data/app.db\"\n{text}")).unwrap().0
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
    assert_eq!((config.log.shards, config.log.max_entries, config.log.replicas), (1, None, 1));
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
    assert_eq!(config.scan_max_changes, 16_384);
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
fn a_password_of_our_own_server_must_not_look_like_a_hash() {
    for mark in ["a", "b", "x", "y"] {
        let password = format!("[nats]\nuser_name = \"u\"\nuser_password = \"$2{mark}$10$hunter2\"");
        let token = format!("[nats]\ntoken = \"$2{mark}$10$hunter2\"");
        for text in [password, token] {
            let found = errors(&text);
            assert!(found.len() == 1 && found[0].contains("bcrypt"), "{found:?}");
            assert!(!found[0].contains("hunter2"), "{found:?}");
            // Another server's passwords are its own affair.
            assert!(warnings(&format!("{text}\nurls = [\"127.0.0.1\"]")).is_empty());
        }
    }
    assert!(warnings("[nats]\ntoken = \"$2c$ or a$2a$\"").is_empty());
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
fn rows_and_logins_in_the_clear_are_said_once() {
    let login = "user_name = \"u\"\nuser_password = \"hunter2\"";
    let (rows, seed) = ("all rows", "seed_file = \"/dev/null\"");
    let both = "password or token, and all rows,";
    let cert = "cert_file = \"/dev/null\"\nkey_file = \"/dev/null\"";
    for (urls, more, told) in [
        ("\"nats://u:hunter2@10.0.0.1\"", "", Some((both, "1"))),
        ("\"nats://hunter2@h:1\", \"nats://x:y@127.0.0.1\", \"i\"", "", Some((both, "1, 3"))),
        ("\"h\", \"i:7\"", login, Some((both, "1, 2"))),
        ("\"h\"", "token = \"hunter2\"", Some((both, "1"))),
        ("\"hunter2\"", "", Some((rows, "1"))),
        ("\"nats://x:y@127.0.0.1\", \"h\"", seed, Some((rows, "2"))),
        ("\"tls://h\", \"127.0.0.1\"", "", None),
        ("\"tls://u:hunter2@h\"", "", None),
        ("\"nats://u:hunter2@localhost\", \"nats://u:hunter2@[::1]:3\"", login, None),
        ("\"nats://u:hunter2@h\"", "ca_file = \"/dev/null\"", None),
        ("\"nats://u:hunter2@h\"", cert, None),
        ("", login, None),
    ] {
        let found = warnings(&format!("[nats]\nurls = [{urls}]\n{more}"));
        assert_eq!(found.len(), usize::from(told.is_some()), "{urls} {more}: {found:?}");
        if let Some((what, numbers)) = told {
            let line = format!("FILE: nats.urls: {what} go in the clear to number {numbers} of them unless");
            assert!(found[0].starts_with(&line), "{found:?}");
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
        "FILE: snapshot.s3.endpoint = (hidden: it may hold a login): accepted is host[:port]",
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
        "FILE: snapshot.file.path = (hidden: not an absolute path): accepted is an absolute path",
    ),
    ("[snapshot]\nkeep = 0", "FILE: snapshot.keep = 0: accepted is an integer from 1 to 1000"),
    (
        "[snapshot]\ncompression = \"gzip\"",
        "FILE: snapshot.compression = \"gzip\": accepted is \"none\" or \"zstd\"",
    ),
    (
        "[snapshot]\nkey_file = \"/dev/null\"",
        "FILE: snapshot.key_file = (hidden: not 64 hex digits): accepted is",
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
    ("[nats]\nurls = \"nats://a:b@c\"", "FILE: nats.urls = (hidden: a string): accepted is a list of texts"),
    (
        "[nats]\nurls = [\"ftp://a:b@c\"]",
        "FILE: nats.urls = (hidden: number 1: the scheme is neither nats nor tls): accepted is nats://",
    ),
    ("[nats]\nurls = [3]", "FILE: nats.urls = (not all are texts): accepted is a list of texts"),
    (
        "[nats]\nleaf_servers = \"nats://a:b@c\"",
        "FILE: nats.leaf_servers = (hidden: a string): accepted is a list of texts",
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
    ("nats = 3", "FILE: nats = (hidden: a value): accepted is a section [nats]"),
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
fn lists_of_tables_are_read_under_the_keys_of_the_go_documentation_too() {
    let tables =
        with("[tables]\ninclude = [\"a*\"]\nexclude = [\"ab\"]\n[sharding]\nignore_tables = [\"logs\"]")
            .tables;
    assert_eq!(
        (&tables.include[..], &tables.exclude[..]),
        (&["a*".to_owned()][..], &["ab".to_owned(), "logs".to_owned()][..])
    );
    assert!(tables.in_snapshots && !with("tables.in_snapshots = false").tables.in_snapshots);
    assert!(with("[tables]\ninclude = []").tables.name_nothing());
    assert!(errors("tables.exclude = [\"\"]")[0].contains("tables.exclude = (a name is empty or too long)"));
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

/// A secret as people have them: letters, and what ends or begins something in a URL, in TOML, in a path.
fn secret(mutator: &mut crate::base::mutants::Mutator) -> String {
    let parts = [
        "/", "#", "?", ",", "@", ":", "%", "&", "=", "+", " ", "'", ";", "[", "]", "{", "}", "~", "$", ".",
        "://",
    ];
    let mut text = String::new();
    for _ in 0..1 + mutator.below(3) {
        for _ in 0..5 {
            text.push(char::from(b'A' + mutator.below(26) as u8));
        }
        text.push_str(parts[mutator.below(parts.len())]);
    }
    text + "ZQJXK"
}

/// Whether a text shows a secret, or a piece of it that is long enough to be one.
fn shows(text: &str, secret: &str) -> bool {
    secret
        .split(|c: char| !c.is_ascii_uppercase())
        .filter(|piece| piece.len() >= 5)
        .any(|piece| text.contains(piece))
}

/// Keys that hold a URL with a login, a secret, or the path of a file with one, and the sections that such a URL may be
/// written into by mistake.
const SECRET_KEYS: &[&str] = &[
    "nats.urls",
    "nats.user_name",
    "nats.user_password",
    "nats.token",
    "nats.seed_file",
    "nats.key_file",
    "snapshot.key_file",
    "snapshot.s3.endpoint",
    "snapshot.s3.access_key",
    "snapshot.s3.secret",
    "snapshot.s3.session_token",
    "snapshot.webdav.url",
    "snapshot.sftp.url",
    "snapshot.sftp.key_file",
    "snapshot.sftp.key_passphrase",
    "snapshot.file.path",
    "nats",
    "snapshot",
    "snapshot.s3",
    "snapshot.webdav",
    "snapshot.sftp",
    "snapshot.file",
    "snapshot.nats",
];

/// Keys that hold no secret, where somebody may write a whole URL all the same.
const OTHER_KEYS: &[&str] = &[
    "snapshot.store",
    "snapshot.s3.bucket",
    "snapshot.nats.bucket",
    "nats.stream_prefix",
    "nats.subject_prefix",
    "nats.bind_address",
    "nats.ca_file",
    "nats.cert_file",
    "nats.server_config",
    "snapshot.webdav.ca_file",
    "health_check.bind",
    "health_check.path",
    "prometheus.bind",
    "prometheus.namespace",
    "logging.format",
    "join",
    "journal_mode",
    "publish",
    "node_id",
    "snapshot.keep",
    "snapshot.compression",
    "replication_log.shards",
    "nats.connect_retries",
    "nats.unknown",
    "tables.include",
];

/// A line that puts a secret into a key, in a right or wrong type and shape.
fn line_with(mutator: &mut crate::base::mutants::Mutator, key: &str, secret: &str) -> String {
    let urls = [
        "nats://u:S@h:4222",
        "nats://S@h",
        "tls://u:S@h",
        "S",
        "u:S@h",
        "nats://u:S",
        "//u:S@h",
        "nats:/u:S@h",
        "ftp://u:S@h",
        "sftp://u:S@h:22/d",
        "sftp://u:S@h",
        "sftp:u:S@h",
        "https://u:S@h/d",
        "https://h/?dir=/d&login=u&secret=S",
        "http://h?login=S",
        "https://h/d?token=S&login=a&secret=",
        "sftp://u:S@h:x/d",
        "nats://u:S@h:0",
        "file://u:S@h/d",
        "nats://u:S@[::1",
        "/S@h",
    ];
    let urls = if SECRET_KEYS.contains(&key) { &urls[..] } else { &urls[..3] };
    let shape = mutator.pick(urls);
    // Alone, what follows an @ is a right host's name, and words with dots are one or the name of a key: no secrets.
    let secret = if *shape == "S" { secret.replace(['@', '.'], "/") } else { secret.to_owned() };
    let text = shape.replace('S', &secret);
    let quoted = toml::Value::String(text.clone()).to_string();
    match mutator.below(10) {
        0..=4 => format!("{key} = {quoted}"),
        5 => format!("{key} = [{quoted}, {quoted}]"),
        6 => format!("{key} = [[{quoted}], 3]"),
        7 => format!("{key} = {{ url = {quoted}, {quoted} = 1 }}"),
        // Not TOML at all: without quotes, and with a quote that is not closed.
        8 => format!("{key} = {text}"),
        _ => format!("{key} = \"{text}"),
    }
}

#[test]
fn mutants_of_secrets_in_any_key_type_and_shape_are_shown_nowhere() {
    let kinds = ["nats", "s3", "webdav", "sftp", "file"];
    let scratch = Scratch::new("config-secrets");
    crate::base::mutants::each_seed("secrets in configurations", |mutator| {
        let secret = secret(mutator);
        let key = if mutator.below(3) > 0 { *mutator.pick(SECRET_KEYS) } else { *mutator.pick(OTHER_KEYS) };
        let line = line_with(mutator, key, &secret);
        let store = format!("snapshot.store = {:?}\nsnapshot.s3.bucket = \"b\"", mutator.pick(&kinds));
        // A section that is a value, or a key that is there twice, is a case of its own.
        let alone = mutator.below(3) == 0
            || ["snapshot.store", "snapshot.s3.bucket", "snapshot", "snapshot.s3"].contains(&key);
        let text = if alone { format!("{BASE}{line}\n") } else { format!("{BASE}{store}\n{line}\n") };
        let shown = match load_as(&scratch.path("config.toml"), &text) {
            Ok((config, warnings)) => warnings.join("\n") + &described(&config, &secret),
            Err(errors) => errors.join("\n"),
        };
        assert!(!shows(&shown, &secret), "{line}\n{shown}");
        let logged = crate::base::secret::redact(&shown);
        assert!(!shows(&logged, &secret), "{line}\n{logged}");
    });
}

/// What the log shows of a store whose password is the secret. (A secret that makes a right URL of another meaning, say a
/// host's name, is no login.)
fn described(config: &Config, secret: &str) -> String {
    let is_login = match &config.snapshot.store {
        Location::Sftp(options) => options.password.expose().contains(secret),
        // The system's authorities need not be read each time.
        Location::Webdav(options) => {
            options.password.expose().contains(secret) && options.root.starts_with("http:")
        }
        _ => false,
    };
    let (_source, token) = crate::base::stop::pair();
    let open = || config.snapshot.store.open(true, None, &token);
    if is_login {
        open().map_or_else(|error| error.to_string(), |store| store.describe())
    } else {
        String::new()
    }
}

#[test]
fn a_secret_that_others_may_read_and_requests_in_the_clear_are_warned_of_once() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new("config-modes");
    let path = scratch.path("key");
    std::fs::write(&path, "ab".repeat(32)).unwrap();
    let mode = |mode: u32| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        warnings(&format!("[snapshot]\nkey_file = {path:?}"))
    };
    assert_eq!(
        mode(0o640),
        ["FILE: snapshot.key_file: others than its owner may read or write this file (mode 640): chmod 600"]
    );
    assert_eq!((mode(0o604).len(), mode(0o600).len(), mode(0o400).len()), (1, 0, 0));
    let s3 = |more: &str| {
        warnings(&format!("[snapshot]\nstore = \"s3\"\ns3.bucket = \"b\"\ns3.endpoint = {more}"))
    };
    assert_eq!(
        s3("\"h:9000\""),
        [
            "FILE: snapshot.s3.endpoint: without TLS snapshots travel in the clear: set snapshot.s3.use_ssl = true"
        ]
    );
    assert_eq!(s3("\"http://10.0.0.1\"").len(), 1);
    for quiet in [
        "\"h\"\ns3.use_ssl = true",
        "\"https://h\"",
        "\"127.0.0.1:9000\"",
        "\"[::1]:9000\"",
        "\"http://localhost\"",
    ] {
        assert!(s3(quiet).is_empty(), "{quiet}");
    }
    let webdav = |root: &str| {
        warnings(&format!("[snapshot]\nstore = \"webdav\"\nwebdav.url = \"{root}?login=u&secret=p\""))
    };
    let said = webdav("http://nas/dav");
    assert!(said.len() == 1 && said[0].contains("the password too if the server asks for Basic"), "{said:?}");
    assert!(webdav("https://nas/dav").is_empty() && webdav("http://127.0.0.1/dav").is_empty());
    assert_eq!(warnings("[snapshot]\naccept_plain = true").len(), 1);
}
