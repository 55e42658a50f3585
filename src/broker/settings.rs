//! The configuration file of our own nats-server, written from our configuration at each start.

use crate::base::{Error, Kind};
use crate::config;
use serde_json::json;
use std::fmt::Write as _;
use std::net::ToSocketAddrs;
use std::path::Path;

/// The first version of nats-server that can sync every message to the disk.
const SYNCS_ALWAYS: Version = Version(2, 10, 0);

/// A version of nats-server: `2.10.7` is `Version(2, 10, 7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32, u32, u32);

impl Version {
    /// Reads what `nats-server --version` prints: `nats-server: v2.9.10`.
    pub fn parse(text: &str) -> Option<Version> {
        let number = text.trim().rsplit('v').next()?;
        let mut parts = number.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
        Some(Version(parts.next()?, parts.next()?, parts.next().unwrap_or(0)))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What the file is made from.
pub struct Settings<'a> {
    pub nats: &'a config::Nats,
    /// The server's name in its cluster.
    pub name: &'a str,
    /// Where its log is written.
    pub log: &'a Path,
    /// Where JetStream keeps the streams.
    pub store_dir: &'a Path,
    /// Wins over the port of `nats.bind_address`.
    pub port: Option<u16>,
    pub version: Version,
}

impl Settings<'_> {
    /// The file's text. Reads `nats.server_config` and resolves the names of peers.
    pub fn text(&self) -> Result<String, Error> {
        let (host, port) = self.bind_address();
        let mut out = String::from("# Written by harmonylite at each start.\n");
        let mut line = |text: String| {
            // Writing into a String cannot fail.
            let _ = writeln!(out, "{text}");
        };
        line(format!("server_name: {}", quoted(self.name)));
        line(format!("host: {}\nport: {port}", quoted(host.trim_matches(['[', ']']))));
        line(format!(
            "log_file: {}\nlogfile_size_limit: 1MB\nmax_payload: 8MB",
            quoted(path_text(self.log)?)
        ));
        let sync = if self.version >= SYNCS_ALWAYS { "sync_interval: always" } else { "" };
        line(format!("jetstream {{\n  store_dir: {}\n  {sync}\n}}", quoted(path_text(self.store_dir)?)));
        [self.authorization(), self.cluster()?, self.leafnodes()?].into_iter().flatten().for_each(&mut line);
        if let Some(path) = &self.nats.server_config {
            // Last, because in this format the last setting of a name wins.
            let text = std::fs::read_to_string(path);
            line(text.map_err(|error| Error::local(format!("nats.server_config = {path:?}: {error}")))?);
        }
        Ok(out)
    }

    /// What people should know about a server with these settings.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![];
        let (host, _) = self.bind_address();
        let nats = self.nats;
        let open = nats.user_name.is_empty() && nats.token.is_empty() && nats.server_config.is_none();
        if open && !matches!(host, "127.0.0.1" | "localhost" | "[::1]" | "::1") {
            warnings.push(format!(
                "our nats-server listens on {host} without a password: whoever reaches it can read and write; set \
                 nats.user_name and nats.user_password, or nats.bind_address = \"127.0.0.1:-1\""
            ));
        }
        if self.version < SYNCS_ALWAYS {
            warnings.push(
                "this nats-server is older than 2.10: a power cut can lose what it stored in its last two minutes; a \
                 newer one syncs every message"
                    .to_owned(),
            );
        }
        warnings
    }

    /// Host and port to listen on; port -1 lets the server choose one.
    fn bind_address(&self) -> (&str, String) {
        let (host, port) = self.nats.bind_address.rsplit_once(':').unwrap_or(("", "-1"));
        let host = if host.is_empty() { "0.0.0.0" } else { host };
        (host, self.port.map_or_else(|| port.to_owned(), |port| port.to_string()))
    }

    fn authorization(&self) -> Option<String> {
        let nats = self.nats;
        if !nats.user_name.is_empty() {
            let (user, password) = (quoted(&nats.user_name), quoted(nats.user_password.expose()));
            return Some(format!("authorization {{ user: {user}, password: {password} }}"));
        }
        (!nats.token.is_empty())
            .then(|| format!("authorization {{ token: {} }}", quoted(nats.token.expose())))
    }

    fn cluster(&self) -> Result<Option<String>, Error> {
        if self.nats.cluster_addr.is_empty() {
            return Ok(None);
        }
        let listen = quoted(&self.nats.cluster_addr);
        let routes: Vec<String> =
            resolve_peers(&self.nats.cluster_peers)?.iter().map(|peer| quoted(peer)).collect();
        let routes = routes.join(", ");
        Ok(Some(format!("cluster {{\n  name: e-harmonylite\n  listen: {listen}\n  routes: [{routes}]\n}}")))
    }

    fn leafnodes(&self) -> Result<Option<String>, Error> {
        if self.nats.leaf_servers.is_empty() {
            return Ok(None);
        }
        let remotes = leaf_remotes(&self.nats.leaf_servers)?;
        Ok(Some(format!("leafnodes {{\n  remotes: [{remotes}]\n}}")))
    }
}

/// Where our own clients reach a server that listens on `bind_address` with this port: `host:port`.
pub fn client_address(bind_address: &str, port: u16) -> String {
    let (host, _) = bind_address.rsplit_once(':').unwrap_or_default();
    // Literal addresses: a small machine may resolve nothing, not even localhost.
    let host = if matches!(host, "" | "0.0.0.0" | "[::]" | "::" | "localhost") { "127.0.0.1" } else { host };
    format!("{host}:{port}")
}

/// The clients' port in the file that nats-server writes with `--ports_file_dir`: `{"nats": ["nats://127.0.0.1:4222"]}`.
pub fn port_in(ports_file: &[u8]) -> Option<u16> {
    let ports: serde_json::Value = serde_json::from_slice(ports_file).ok()?;
    let url = ports["nats"].as_array()?.first()?.as_str()?;
    url.rsplit(':').next()?.parse().ok()
}

/// A text in the quotes of the server's configuration format, which are those of JSON.
fn quoted(text: &str) -> String {
    json!(text).to_string()
}

fn path_text(path: &Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| Error::local(format!("{path:?}: nats-server needs a path in UTF-8")))
}

/// Peers as routes; `dns://name:port` stands for all addresses of the name.
fn resolve_peers(peers: &[String]) -> Result<Vec<String>, Error> {
    let mut routes = vec![];
    for peer in peers {
        match peer.strip_prefix("dns://") {
            None => routes.push(peer.clone()),
            Some(rest) => {
                let target = rest.split(['/', '?']).next().unwrap_or_default();
                let addresses = target.to_socket_addrs().map_err(|error| {
                    let host = target.rsplit('@').next().unwrap_or_default();
                    Error::new(Kind::Unreachable, format!("-cluster-peers dns://{host}: {error}"))
                })?;
                routes.extend(addresses.map(|address| format!("nats://{address}")));
            }
        }
    }
    Ok(routes)
}

/// The list of the servers that ours joins as a leaf; `nats://host:port?hub=true` becomes an entry with `hub: true`.
fn leaf_remotes(servers: &[String]) -> Result<String, Error> {
    let mut remotes = vec![];
    for server in servers {
        let (url, query) = server.split_once('?').unwrap_or((server, ""));
        let hub = if query.split('&').any(|part| part == "hub=true") { ", hub: true" } else { "" };
        for url in resolve_peers(&[url.to_owned()])? {
            remotes.push(format!("{{ url: {}{hub} }}", quoted(&url)));
        }
    }
    Ok(remotes.join(", "))
}

#[cfg(test)]
mod tests {
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
        Settings { nats, name: "node-1", log, store_dir, port: None, version: NEW }
    }

    fn text(nats: &config::Nats) -> String {
        settings(nats).text().unwrap()
    }

    const BARE: &str = "# Written by harmonylite at each start.\nserver_name: \"node-1\"\nhost: \"127.0.0.1\"\nport: -1\n\
        log_file: \"/d/log\"\nlogfile_size_limit: 1MB\nmax_payload: 8MB\njetstream {\n  store_dir: \"/d\"\n  \
        sync_interval: always\n}\n";

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
    fn combination(bits: u32) -> (config::Nats, Vec<&'static str>) {
        let mut nats = nats("127.0.0.1:-1");
        let mut parts = vec![];
        let (user, token) = (bits & 1 != 0, bits & 2 != 0);
        if user {
            nats.user_name = "app".into();
            nats.user_password = Secret::new("p\"w");
            parts.push("authorization { user: \"app\", password: \"p\\\"w\" }\n");
        }
        if token {
            nats.token = Secret::new("t0k");
        }
        if token && !user {
            parts.push("authorization { token: \"t0k\" }\n");
        }
        if bits & 4 != 0 {
            nats.cluster_addr = "0.0.0.0:4248".into();
            nats.cluster_peers = vec!["nats://a:4248".into(), "nats://b:4248".into()];
            parts.push(
                "cluster {\n  name: e-harmonylite\n  listen: \"0.0.0.0:4248\"\n  \
                 routes: [\"nats://a:4248\", \"nats://b:4248\"]\n}\n",
            );
        }
        if bits & 8 != 0 {
            nats.leaf_servers = vec!["nats://hub:7422?hub=true".into(), "nats://x:1".into()];
            parts.push(
                "leafnodes {\n  remotes: [{ url: \"nats://hub:7422\", hub: true }, { url: \"nats://x:1\" }]\n}\n",
            );
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
        let peers = ["nats://a:1", "dns://127.0.0.1:4248/?x"].map(str::to_owned);
        assert_eq!(resolve_peers(&peers).unwrap(), ["nats://a:1", "nats://127.0.0.1:4248"]);
        let error = resolve_peers(&["dns://no-port".to_owned()]).unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable);
        assert!(error.to_string().starts_with("-cluster-peers dns://no-port: "), "{error}");
    }

    #[test]
    fn leafs_may_be_dns_names_and_hubs() {
        let leafs = |server: &str| leaf_remotes(&[server.to_owned()]).unwrap();
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
    fn an_open_server_is_warned_about() {
        for bind in [":-1", "0.0.0.0:4222", "10.0.0.1:4222", "[::]:1"] {
            assert!(settings(&nats(bind)).warnings()[0].contains("without a password"), "{bind}");
        }
        for bind in ["127.0.0.1:-1", "localhost:1", "[::1]:1"] {
            assert!(settings(&nats(bind)).warnings().is_empty(), "{bind}");
        }
        let with_user = config::Nats { user_name: "app".into(), ..nats(":-1") };
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
            ("", "127.0.0.1:7"),
        ] {
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
}
