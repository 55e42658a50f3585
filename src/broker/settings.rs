//! The configuration file of our own nats-server, written from our configuration at each start.

use super::blocks::settings_of;
use crate::base::{Error, Kind};
use crate::config;
use crate::nats::{is_loopback, percent_encode};
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
    /// Bytes that the streams may take on the disk.
    pub store_bytes: u64,
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
        let (store_dir, bytes) = (quoted(path_text(self.store_dir)?), self.store_bytes);
        line(format!("jetstream {{\n  store_dir: {store_dir}\n  max_file_store: {bytes}\n  {sync}\n}}"));
        [self.authorization(), self.cluster()?, self.leafnodes()?].into_iter().flatten().for_each(&mut line);
        if let Some(path) = &self.nats.server_config {
            // Last, because in this format the last setting of a name wins.
            let text = std::fs::read_to_string(path);
            line(text.map_err(|error| Error::local(format!("nats.server_config = {path:?}: {error}")))?);
        }
        Ok(out)
    }

    /// Why no other node can reach a server with these settings; `None`: another node can.
    pub fn keeps_others_out(&self) -> Option<String> {
        let (host, _) = self.bind_address();
        let alone = is_loopback(host) && !self.nats.has_login() && self.nats.server_config.is_none();
        alone.then(|| {
            format!(
                "our nats-server listens on {host} alone; to let other machines in, set nats.user_name and nats.user_password"
            )
        })
    }

    /// What people should know about a server with these settings.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![];
        let (host, _) = self.bind_address();
        let nats = self.nats;
        if !nats.has_login() && nats.server_config.is_none() && !is_loopback(host) {
            // A server that is told to listen on 0.0.0.0 listens on IPv6 too.
            let is_any = matches!(host, "0.0.0.0" | "[::]" | "::");
            let place = if is_any { "all addresses of this machine, IPv4 and IPv6," } else { host };
            warnings.push(format!(
                "our nats-server listens on {place} without a password: whoever reaches it can read and write; set \
                 nats.user_name and nats.user_password, or leave nats.bind_address out"
            ));
        }
        warnings.extend(self.warn_of_clear_text());
        warnings.extend(self.warn_of_open_ports());
        if self.version < SYNCS_ALWAYS {
            warnings.push(
                "this nats-server is older than 2.10: a power cut can lose what it stored in its last two minutes; a \
                 newer one syncs every message"
                    .to_owned(),
            );
        }
        warnings
    }

    /// Routes and leaf connections that carry a login and rows over a network without TLS.
    fn warn_of_clear_text(&self) -> Option<String> {
        let nats = self.nats;
        let peers = nats.cluster_peers.iter().filter(|_| !nats.cluster_addr.is_empty());
        let remotes: Vec<Remote> = peers.chain(&nats.leaf_servers).map(|url| Remote::parse(url)).collect();
        let is_clear = |remote: &&Remote| {
            let has_login = nats.has_login() || !remote.login.is_empty();
            has_login && matches!(remote.scheme, "nats" | "dns") && !is_loopback(remote.host())
        };
        let clear: Vec<&str> = remotes.iter().filter(is_clear).map(|remote| remote.address).collect();
        (!clear.is_empty() && nats.server_config.is_none()).then(|| {
            format!(
                "password or token, and all rows, go to {} in the clear: a network that others share needs TLS (nats.server_config), \
                 or a tunnel",
                clear.join(", ")
            )
        })
    }

    /// Ports for leaf nodes and routes that the user's own settings open: a cluster's asks for no login but its own, and so does that
    /// for leaf nodes of nats-server 2.9.
    fn warn_of_open_ports(&self) -> Vec<String> {
        const PORTS: [(&str, &[&str], &str); 2] = [
            (
                "leafnodes",
                &["leafnodes", "leaf"],
                "an older nats-server lets leaf nodes in without any login",
            ),
            ("cluster", &["cluster"], "nats-server lets other servers in without any login"),
        ];
        let Some(path) = &self.nats.server_config else { return vec![] };
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let is_open = |names: &[&str]| {
            let settings = settings_of(&text, names).unwrap_or_default();
            let has = |name: &str| settings.iter().any(|setting| setting == name);
            (has("listen") || has("port")) && !has("authorization")
        };
        let warning = |(block, _, what): &(&str, &[&str], &str)| {
            format!(
                "nats.server_config = {path:?}: {block} without an authorization: {what}; write authorization {{ user: ..., \
                 password: ... }} into that block"
            )
        };
        PORTS.iter().filter(|(_, names, _)| is_open(names)).map(warning).collect()
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
        let login = self.cluster_login();
        let authorization = login.as_ref().map_or(String::new(), |(user, password)| {
            format!("  authorization {{ user: {}, password: {} }}\n", quoted(user), quoted(password))
        });
        let login = login.map_or(String::new(), |(user, password)| {
            format!("{}:{}@", percent_encode(user), percent_encode(password))
        });
        let mut routes = vec![];
        for peer in &self.nats.cluster_peers {
            routes.extend(Remote::parse(peer).urls(&login)?.iter().map(|url| quoted(url)));
        }
        let routes = routes.join(", ");
        Ok(Some(format!(
            "cluster {{\n  name: e-harmonylite\n  listen: {listen}\n{authorization}  routes: [{routes}]\n}}"
        )))
    }

    /// The login of the cluster port, and of our routes to others: that of the clients. A route knows no token, so a token is
    /// its password.
    fn cluster_login(&self) -> Option<(&str, &str)> {
        let nats = self.nats;
        match (nats.has_login(), nats.user_name.is_empty()) {
            (false, _) => None,
            (true, true) => Some(("token", nats.token.expose())),
            (true, false) => Some((&nats.user_name, nats.user_password.expose())),
        }
    }

    /// The login with which our server joins others as a leaf, as it stands in a URL: that of the clients.
    fn leaf_login(&self) -> String {
        let nats = self.nats;
        match (nats.has_login(), nats.user_name.is_empty()) {
            (false, _) => String::new(),
            (true, true) => format!("{}@", percent_encode(nats.token.expose())),
            (true, false) => {
                let password = percent_encode(nats.user_password.expose());
                format!("{}:{password}@", percent_encode(&nats.user_name))
            }
        }
    }

    fn leafnodes(&self) -> Result<Option<String>, Error> {
        if self.nats.leaf_servers.is_empty() {
            return Ok(None);
        }
        let remotes = leaf_remotes(&self.nats.leaf_servers, &self.leaf_login())?;
        Ok(Some(format!("leafnodes {{\n  remotes: [{remotes}]\n}}")))
    }
}

/// Where our own clients reach a server that listens on `bind_address` with this port: `host:port`.
pub fn client_address(bind_address: &str, port: u16) -> String {
    let (host, _) = bind_address.rsplit_once(':').unwrap_or_default();
    // Literal addresses: a small machine may resolve nothing, not even localhost.
    let host = if matches!(host, "" | "0.0.0.0" | "[::]" | "::" | "localhost") { "127.0.0.1" } else { host };
    let bare = host.contains(':') && !host.starts_with('[');
    if bare { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The clients' port in the file that nats-server writes with `--ports_file_dir`: `{"nats": ["nats://127.0.0.1:4222"]}`.
pub fn port_in(ports_file: &[u8]) -> Option<u16> {
    let ports: serde_json::Value = serde_json::from_slice(ports_file).ok()?;
    let url = ports["nats"].as_array()?.first()?.as_str()?;
    url.rsplit(':').next()?.parse().ok()
}

/// A text in the quotes of the server's configuration format. Its escapes are fewer than those of JSON.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_ascii_control() => {
                // Writing into a String cannot fail.
                let _ = write!(out, "\\x{:02X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out + "\""
}

fn path_text(path: &Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| Error::local(format!("{path:?}: nats-server needs a path in UTF-8")))
}

/// A server to which ours connects by itself: `scheme://[login@]address[?query]`.
struct Remote<'a> {
    scheme: &'a str,
    /// With the `@`; empty: there is none in the URL.
    login: &'a str,
    /// `host:port`.
    address: &'a str,
    query: &'a str,
}

impl Remote<'_> {
    fn parse(url: &str) -> Remote<'_> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        // The last @ ends the login: a password may hold any character.
        let (login, rest) = rest.split_at(rest.rfind('@').map_or(0, |at| at + 1));
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        Remote { scheme, login, address: place.split('/').next().unwrap_or_default(), query }
    }

    fn host(&self) -> &str {
        self.address.rsplit_once(':').map_or(self.address, |(host, _)| host)
    }

    /// The URLs for the server's configuration, with `login` unless the URL has one. `dns://name:port` stands for all
    /// addresses of the name.
    fn urls(&self, login: &str) -> Result<Vec<String>, Error> {
        let login = if self.login.is_empty() { login.to_owned() } else { encoded(self.login) };
        let Remote { scheme, address, .. } = self;
        if *scheme != "dns" {
            return Ok(vec![format!("{scheme}://{login}{address}")]);
        }
        let addresses = address
            .to_socket_addrs()
            .map_err(|error| Error::new(Kind::Unreachable, format!("dns://{address}: {error}")))?;
        Ok(addresses.map(|address| format!("nats://{login}{address}")).collect())
    }
}

/// A login of a URL in which characters that no URL has are written as the server reads them: it would refuse the URL, and
/// show it with its password.
fn encoded(login: &str) -> String {
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || "\"'\\<>^`{|}".contains(c);
    let mut out = String::with_capacity(login.len());
    for c in login.chars() {
        if is_odd(c) {
            let mut bytes = [0; 4];
            c.encode_utf8(&mut bytes).bytes().for_each(|byte| out.push_str(&format!("%{byte:02X}")));
        } else {
            out.push(c);
        }
    }
    out
}

/// The list of the servers that ours joins as a leaf; `nats://host:port?hub=true` becomes an entry with `hub: true`.
fn leaf_remotes(servers: &[String], login: &str) -> Result<String, Error> {
    let mut remotes = vec![];
    for server in servers {
        let remote = Remote::parse(server);
        let hub = if remote.query.split('&').any(|part| part == "hub=true") { ", hub: true" } else { "" };
        for url in remote.urls(login)? {
            remotes.push(format!("{{ url: {}{hub} }}", quoted(&url)));
        }
    }
    Ok(remotes.join(", "))
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
