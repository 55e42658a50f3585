//! Every key with its default, unit and bounds: those of the Go program and those of this one.

use super::reader::Reader;
use super::{Config, Health, Join, Nats, Prometheus, ReplicationLog, Snapshot, stores};
use crate::base::secret::Secret;
use crate::base::{Error, files, limits, logger::Format};
use crate::db::JournalMode;
use crate::model::{lists::Lists, set};
use crate::nats::{Url, is_loopback};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest interval: 366 days in milliseconds.
const YEAR_MS: u64 = 366 * 86_400_000;

/// Keys of the Go program that have no effect here, and why.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("cleanup_interval", "a change-log row is removed as soon as its event has come back"),
    ("nats.connect_retries", "connecting is tried for ever"),
    ("nats.reconnect_wait_seconds", "pauses between tries grow by themselves"),
];

/// Reads a configuration file, or the defaults without one. `node_id` is that of the command line.
///
/// Returns the configuration and warnings, or all errors: one for each mistake, of [`crate::base::Kind::Usage`].
pub fn load(file: Option<&Path>, node_id: Option<u64>) -> Result<(Config, Vec<String>), Vec<Error>> {
    let name = file.map_or_else(|| "defaults".to_owned(), |path| path.display().to_string());
    let table = match file {
        None => toml::Table::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| vec![Error::usage(error.to_string()).at(&name)])?;
            text.parse::<toml::Table>()
                .map_err(|error| vec![Error::usage(syntax_error(&text, &error)).at(&name)])?
        }
    };
    let mut reader = Reader::new(name.clone(), table);
    let mut warnings = warn_without_effect(&mut reader, &name);
    let config = read(&mut reader, node_id);
    warnings.extend(reader.warnings());
    warnings.extend(config.as_ref().and_then(|config| warn_of_clear_text(&config.nats, &name)));
    let mistakes = reader.mistakes();
    match config {
        Some(config) if mistakes.is_empty() => Ok((config, warnings)),
        _ => Err(mistakes),
    }
}

fn syntax_error(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    format!("line {line}: not TOML: {}", error.message().replace('\n', ", "))
}

/// The lists of tables. What the Go program's documentation calls `sharding.ignore_tables` adds to `tables.exclude`.
fn tables(reader: &mut Reader) -> Lists {
    let (include, mut exclude) = (reader.list("tables.include"), reader.list("tables.exclude"));
    exclude.extend(reader.list("sharding.ignore_tables"));
    for (key, list) in [("tables.include", &include), ("tables.exclude", &exclude)] {
        if list.iter().any(|name| name.is_empty() || name.len() > limits::EVENT_NAME) {
            reader.wrong(
                key,
                "(a name is empty or too long)",
                "names of tables, * for any characters, ? for one",
            );
        }
        if list.len() > limits::LISTED_TABLES {
            reader.wrong(
                key,
                format!("({} names)", list.len()),
                &format!("up to {} names", limits::LISTED_TABLES),
            );
        }
    }
    Lists { include, exclude, in_snapshots: reader.boolean("tables.in_snapshots", true) }
}

fn warn_without_effect(reader: &mut Reader, name: &str) -> Vec<String> {
    let mut warnings = vec![];
    for (key, why) in WITHOUT_EFFECT {
        reader.integer(key, 0, 0, i64::MAX.cast_unsigned());
        if reader.is_set(key) {
            warnings.push(format!("{name}: {key} has no effect here: {why}"));
        }
    }
    warnings
}

fn journal_mode(reader: &mut Reader) -> JournalMode {
    match reader.text("journal_mode", "switch").as_str() {
        "switch" => JournalMode::Switch,
        "refuse" => JournalMode::Refuse,
        other => {
            reader.wrong("journal_mode", format!("{other:?}"), "\"switch\" (to WAL) or \"refuse\"");
            JournalMode::Refuse
        }
    }
}

fn settle_orphans(reader: &mut Reader) -> bool {
    let orphans = reader.text("orphans", "report");
    if !matches!(orphans.as_str(), "report" | "settle") {
        reader.wrong("orphans", format!("{orphans:?}"), "\"report\" or \"settle\" (as the foreign key says)");
    }
    orphans == "settle"
}

/// Whether changes of the schema travel, and how long what they took away is kept.
fn schema(reader: &mut Reader) -> (bool, Duration) {
    let schema = reader.text("schema", "travel");
    if !matches!(schema.as_str(), "travel" | "own") {
        reader.wrong(
            "schema",
            format!("{schema:?}"),
            "\"travel\" or \"own\" (each node is migrated by itself)",
        );
    }
    let days = reader.integer("schema_keep_days", 7, 0, 3_650);
    (schema == "travel", Duration::from_secs(days * 86_400))
}

fn read(reader: &mut Reader, flag_node_id: Option<u64>) -> Option<Config> {
    let db_path = required_db_path(reader);
    let seq_map_path = reader.path("seq_map_path");
    let millis = Duration::from_millis;
    let node_id = node_id(reader, flag_node_id);
    let publish = reader.boolean("publish", true);
    let replicate = reader.boolean("replicate", true);
    if !publish && !replicate {
        reader.wrong(
            "publish",
            "false with replicate = false",
            "true for at least one of them: nothing is left to do",
        );
    }
    let scan_max_changes = reader.integer("scan_max_changes", limits::SCAN_MAX_CHANGES, 1, 65_536);
    let sleep_timeout = millis(reader.integer("sleep_timeout", 0, 0, YEAR_MS));
    let polling_interval = match reader.integer("polling_interval", 0, 0, 3_600_000) {
        0 => limits::POLL_INTERVAL,
        ms => millis(ms),
    };
    let (journal_mode, tables) = (journal_mode(reader), tables(reader));
    let join = join(reader);
    let compare_interval = millis(reader.integer("compare_interval", 0, 0, YEAR_MS));
    let forget_nodes_after = millis(reader.integer("forget_nodes_after", 604_800_000, 300_000, YEAR_MS));
    let settle_orphans = settle_orphans(reader);
    let automatic_keys = reader.boolean("automatic_keys", true);
    let (schema_travels, schema_keep) = schema(reader);
    let log_format = match reader.text("logging.format", "console").as_str() {
        "console" => Format::Console,
        "json" => Format::Json,
        other => {
            reader.wrong("logging.format", format!("{other:?}"), "\"console\" or \"json\"");
            Format::Console
        }
    };
    let verbose = reader.boolean("logging.verbose", false);
    let log = replication_log(reader);
    let nats = nats(reader);
    let seq_map_path =
        seq_map_path.or_else(|| db_path.as_deref().map(|path| files::parent(path).join("seq-map.cbor")));
    let snapshot = snapshot(reader, &nats.stream_prefix, seq_map_path.as_deref());
    let health = health(reader);
    let prometheus = prometheus(reader);
    let (db_path, seq_map_path) = (db_path?, seq_map_path?);
    Some(Config {
        seq_map_path,
        db_path: files::follow_links(&db_path),
        db_path_given: db_path,
        node_id,
        publish,
        replicate,
        scan_max_changes,
        sleep_timeout,
        polling_interval,
        tables,
        journal_mode,
        compare_interval,
        forget_nodes_after,
        join,
        automatic_keys,
        settle_orphans,
        schema_travels,
        schema_keep,
        log,
        snapshot,
        nats,
        health,
        prometheus,
        log_format,
        verbose,
    })
}

fn join(reader: &mut Reader) -> Join {
    match reader.text("join", "merge").as_str() {
        "merge" => Join::Merge,
        "replace" => Join::Replace,
        other => {
            reader.wrong("join", format!("{other:?}"), "\"merge\" or \"replace\"");
            Join::Merge
        }
    }
}

fn required_db_path(reader: &mut Reader) -> Option<PathBuf> {
    let path = reader.path("db_path");
    if path.is_none() && !reader.is_wrong("db_path") {
        reader.wrong("db_path", "(not set)", "the path of the application's SQLite database");
    }
    path.map(|path| std::path::absolute(&path).unwrap_or(path))
}

fn node_id(reader: &mut Reader, flag: Option<u64>) -> u64 {
    let configured = reader.is_set("node_id");
    let from_file = reader.integer("node_id", 0, 0, i64::MAX.cast_unsigned());
    match flag {
        Some(id) if id != 0 => id,
        _ if configured => from_file,
        _ => super::machine_node_id().unwrap_or_else(|| {
            reader.wrong(
                "node_id",
                "(not set)",
                "a number, as this machine has no /etc/machine-id to make one from",
            );
            0
        }),
    }
}

fn replication_log(reader: &mut Reader) -> ReplicationLog {
    let format = match reader.text("replication_log.format", "auto").as_str() {
        "auto" => None,
        "sets" => Some(set::Format::Sets),
        "rows" => Some(set::Format::Rows),
        other => {
            reader.wrong("replication_log.format", format!("{other:?}"), "\"auto\", \"sets\" or \"rows\"");
            None
        }
    };
    ReplicationLog {
        format,
        shards: reader.integer("replication_log.shards", 1, 1, limits::SHARDS as u64),
        max_entries: match reader.integer("replication_log.max_entries", 0, 0, i64::MAX.cast_unsigned()) {
            0 => None,
            count => Some(count),
        },
        replicas: reader.integer("replication_log.replicas", 1, 0, 5),
        compress: reader.boolean("replication_log.compress", true),
        update_existing: reader.boolean("replication_log.update_existing", false),
    }
}

fn snapshot(reader: &mut Reader, stream_prefix: &str, seq_map_path: Option<&Path>) -> Snapshot {
    let leader_ttl = match reader.integer("snapshot.leader_ttl", 0, 0, 86_400_000) {
        0 => 30_000,
        short if short < 1_000 => {
            reader.wrong("snapshot.leader_ttl", short, "0 (30000) or from 1000 milliseconds");
            30_000
        }
        ms => ms,
    };
    let packing = stores::packing(reader);
    let accept_plain = reader.boolean("snapshot.accept_plain", false);
    if accept_plain && packing.key.is_none() {
        reader.warn("snapshot.accept_plain", "has no effect without snapshot.key_file");
    }
    let store = stores::store(reader, stream_prefix, seq_map_path);
    stores::warn_of_clear_text(reader, &store, &packing);
    let ping_url = ping_url(reader);
    Snapshot {
        ping_url,
        enabled: reader.boolean("snapshot.enabled", true),
        store,
        interval: Duration::from_millis(reader.integer("snapshot.interval", 0, 0, YEAR_MS)),
        verify_interval: Duration::from_millis(reader.integer("snapshot.verify_interval", 0, 0, YEAR_MS)),
        leader_ttl: Duration::from_millis(leader_ttl),
        temp_dir: reader.path("snapshot.temp_dir"),
        keep: reader.integer("snapshot.keep", 1, 1, 1000),
        read_back: reader.boolean("snapshot.read_back", true),
        packing,
        accept_plain,
    }
}

fn ping_url(reader: &mut Reader) -> Secret {
    let url = reader.secret("snapshot.ping_url");
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    if !url.is_empty() && host.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
        reader.wrong("snapshot.ping_url", "(hidden)", "http://... or https://...");
    }
    if !url.is_empty() && !cfg!(feature = "http") {
        let accepted = "nothing: this binary was built without HTTP (cargo feature http)";
        reader.wrong("snapshot.ping_url", "(hidden)", accepted);
    }
    Secret::new(url)
}

fn health(reader: &mut Reader) -> Health {
    let health = Health {
        enable: reader.boolean("health_check.enable", false),
        bind: reader.text("health_check.bind", "0.0.0.0:8090"),
        path: reader.text("health_check.path", "/health"),
        detailed: reader.boolean("health_check.detailed", true),
    };
    listens(reader, "health_check.bind", &health.bind);
    if !health.path.starts_with('/') {
        reader.wrong("health_check.path", format!("{:?}", health.path), "a path that begins with /");
    }
    health
}

fn prometheus(reader: &mut Reader) -> Prometheus {
    let prometheus = Prometheus {
        enable: reader.boolean("prometheus.enable", false),
        bind: reader.text("prometheus.bind", ":3010"),
        namespace: reader.text("prometheus.namespace", "harmonylite"),
        subsystem: reader.text("prometheus.subsystem", ""),
    };
    listens(reader, "prometheus.bind", &prometheus.bind);
    for (key, part) in
        [("prometheus.namespace", &prometheus.namespace), ("prometheus.subsystem", &prometheus.subsystem)]
    {
        let valid = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !part.starts_with(|first: char| first.is_ascii_digit());
        if !valid {
            reader.wrong(key, format!("{part:?}"), "letters, digits and _, no digit first");
        }
    }
    prometheus
}

fn listens(reader: &mut Reader, key: &str, bind: &str) {
    if bind.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        reader.wrong(key, format!("{bind:?}"), "host:port");
    }
}

/// Rows, and perhaps a login, that go over a network without TLS, unless the server happens to demand it. Of the seed of an nkey
/// nothing is sent. URLs are told by their numbers: what somebody wrote for a host may be a token.
fn warn_of_clear_text(nats: &Nats, name: &str) -> Option<String> {
    let parsed = |(number, url): (usize, &String)| Some((number, Url::parse(url).ok()?));
    let is_clear = |url: &Url| !url.tls && !nats.demands_tls() && !is_loopback(&url.host);
    let urls = (1..).zip(&nats.urls).filter_map(parsed);
    let clear: Vec<(usize, Url)> = urls.filter(|(_, url)| is_clear(url)).collect();
    let has_login = !nats.user_name.is_empty() || !nats.token.is_empty();
    let what = if has_login || clear.iter().any(|(_, url)| url.user.is_some()) {
        "password or token, and all rows,"
    } else {
        "all rows"
    };
    let numbers: Vec<String> = clear.iter().map(|(number, _)| number.to_string()).collect();
    (!clear.is_empty()).then(|| {
        format!(
            "{name}: nats.urls: {what} go in the clear to number {} of them unless that server demands TLS: write tls:// in the URL, \
             or set nats.ca_file",
            numbers.join(", ")
        )
    })
}

/// Our own server takes a password that looks like a bcrypt hash for one, and lets in whoever knows what it is the hash of.
fn refuse_hashes(reader: &mut Reader, nats: &Nats) {
    for (key, secret) in [("nats.user_password", &nats.user_password), ("nats.token", &nats.token)] {
        let is_hash = ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|mark| secret.expose().starts_with(mark));
        if nats.urls.is_empty() && is_hash {
            reader.wrong(key, "(hidden)", "a text that does not begin as a bcrypt hash does ($2a$)");
        }
    }
}

fn nats(reader: &mut Reader) -> Nats {
    let urls = reader.list("nats.urls");
    for (at, url) in urls.iter().enumerate() {
        if let Err(why) = Url::parse(url) {
            reader.wrong(
                "nats.urls",
                format!("(hidden: number {}: {why})", at + 1),
                "nats://[user:password@]host[:port] or tls://...",
            );
        }
    }
    let mut nats = Nats {
        urls,
        subject_prefix: reader.text("nats.subject_prefix", "harmonylite-change-log"),
        stream_prefix: reader.text("nats.stream_prefix", "harmonylite-changes"),
        server_binary: reader.path("nats.server_binary"),
        server_config: reader.path("nats.server_config"),
        bind_address: reader.text("nats.bind_address", ""),
        seed_file: reader.secret_file("nats.seed_file"),
        user_name: reader.secret("nats.user_name"),
        user_password: Secret::new(reader.secret("nats.user_password")),
        token: Secret::new(reader.secret("nats.token")),
        ca_file: reader.path("nats.ca_file").or(reader.path("nats.tls_ca_file")),
        cert_file: reader.path("nats.cert_file").or(reader.path("nats.tls_cert_file")),
        key_file: reader.secret_file("nats.key_file").or(reader.secret_file("nats.tls_key_file")),
        ignore_discovered: reader.boolean("nats.ignore_discovered_servers", false),
        cluster_addr: String::new(),
        cluster_peers: vec![],
        leaf_servers: reader.list("nats.leaf_servers"),
    };
    if !reader.is_set("nats.bind_address") {
        // Nobody from elsewhere gets in without a login, unless a person says so.
        (if nats.has_login() { ":-1" } else { "127.0.0.1:-1" }).clone_into(&mut nats.bind_address);
    }
    refuse_hashes(reader, &nats);
    reader.token("nats.stream_prefix", &nats.stream_prefix);
    let subject = &nats.subject_prefix;
    if subject.is_empty()
        || subject.split('.').any(str::is_empty)
        || subject.contains(['*', '>', ' ', '\t', '\r', '\n'])
    {
        reader.wrong(
            "nats.subject_prefix",
            format!("{subject:?}"),
            "a NATS subject without wildcards and spaces",
        );
    }
    if nats.cert_file.is_some() != nats.key_file.is_some() {
        reader.wrong("nats.cert_file", "without nats.key_file, or the reverse", "both or none");
    }
    let port = nats.bind_address.rsplit_once(':').and_then(|(_, port)| port.parse::<i32>().ok());
    if !port.is_some_and(|port| (-1..=65_535).contains(&port)) {
        reader.wrong(
            "nats.bind_address",
            format!("{:?}", nats.bind_address),
            "host:port, with port -1 for any free one",
        );
    }
    for (key, path) in [
        ("nats.server_config", &nats.server_config),
        ("nats.ca_file", &nats.ca_file),
        ("nats.cert_file", &nats.cert_file),
    ] {
        reader.readable(key, path.as_deref());
    }
    nats
}
