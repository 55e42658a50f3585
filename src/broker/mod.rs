//! The broker as the daemon and the commands use it: the connection, our own server if there is one, the store that may lie
//! in it.

mod blocks;
mod server;
mod settings;

use crate::base::stop::{self, Stop, StopSource};
use crate::base::{Error, limits, worker::Workers};
use crate::config::Config;
use crate::nats::{Auth, Connection, Options, Traffic, Url};
use crate::storage::{OpenStore, Seals, Store};
use server::Server;
pub use server::server_version;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time for the connection and our own server to end: the server is given four seconds.
const END_LIMIT: Duration = Duration::from_secs(6);

/// A connection to the broker, and our own server if we run it. It is stopped last, because all workers need it to drain.
pub struct Broker {
    /// The connection for changes and leases.
    pub connection: Connection,
    options: Options,
    server: Option<Server>,
    /// The threads of the connection and of our own server.
    pub workers: Workers,
    /// Dropping it stops the connection's thread.
    keep: StopSource,
    token: Stop,
}

impl Broker {
    /// Starts the server if the configuration names none, and the connection. `stop` ends the wait for the server.
    pub fn start(config: &Config, stop: &Stop) -> Result<Broker, Error> {
        let (keep, token) = stop::pair();
        let mut workers = Workers::default();
        let server =
            if config.nats.urls.is_empty() { Some(Server::start(config, stop, &mut workers)?) } else { None };
        let options = options(config, server.as_ref())?;
        let stops = (token.clone(), stop.clone());
        let connection = Connection::open_leaving(options.clone(), Arc::default(), stops, &mut workers)?;
        Ok(Broker { connection, options, server, workers, keep, token })
    }

    /// Opens the store. A store in NATS gets a connection of its own, closed with it, so that bulk data delays no change.
    pub fn store_opener(&self, config: &Config) -> OpenStore {
        let options = Options { quiet: true, ..self.options.clone() };
        let (config, token, traffic) = (config.clone(), self.token.clone(), self.connection.traffic());
        Box::new(move || open_apart(&config, &options, (&traffic, &token)))
    }

    /// Closes the connection, stops the server.
    pub fn stop(mut self) {
        drop(self.connection);
        self.keep.stop();
        // Held until the server is gone.
        let _lock = self.server.map(Server::stop);
        self.workers.wait(Instant::now() + END_LIMIT);
    }
}

/// How to reach the broker that the configuration names, or our own server.
fn options(config: &Config, server: Option<&Server>) -> Result<Options, Error> {
    let nats = &config.nats;
    let urls = match server {
        Some(server) => vec![server.url().clone()],
        None => nats.urls.iter().map(|url| Url::parse(url)).collect::<Result<_, _>>()?,
    };
    // Our own server has TLS only where the user's own settings give it some.
    let may_have_tls = server.is_none() || nats.server_config.is_some();
    let file = |path: &Option<PathBuf>| path.clone().filter(|_| may_have_tls);
    let auth = Auth {
        user: nats.user_name.clone(),
        password: nats.user_password.clone(),
        token: nats.token.clone(),
        seed_file: nats.seed_file.clone(),
        ca_file: file(&nats.ca_file),
        cert_file: file(&nats.cert_file),
        key_file: file(&nats.key_file),
        ..Auth::default()
    };
    let ignore_discovered = nats.ignore_discovered || server.is_some();
    Ok(Options { urls, name: config.node_name(), auth, ignore_discovered, quiet: false })
}

/// Opens the store that the configuration names. Only the NATS store uses the connection.
pub fn open_store(config: &Config, connection: Option<&Connection>, stop: &Stop) -> Result<Store, Error> {
    let snapshot = &config.snapshot;
    let seals = Seals::new(snapshot.packing.key.as_ref(), &config.nats.stream_prefix, snapshot.accept_plain);
    Ok(snapshot.store.open(snapshot.read_back, connection, stop)?.with_seals(seals))
}

/// Opens the store through a connection of its own, if it needs one.
fn open_apart(
    config: &Config,
    options: &Options,
    (traffic, stop): (&Arc<Traffic>, &Stop),
) -> Result<Store, Error> {
    if config.snapshot.store.is_apart_from_nats() {
        return open_store(config, None, stop);
    }
    // The connection's thread ends when the store is dropped. Its end is no news, so nothing receives it.
    let connection =
        Connection::open_counted(options.clone(), traffic.clone(), stop.clone(), &mut Workers::default())?;
    connection.wait_up(limits::CONNECT_TIMEOUT)?;
    open_store(config, Some(&connection), stop)
}
