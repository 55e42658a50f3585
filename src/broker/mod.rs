//! The broker as the daemon and the commands use it: the connection, our own server if there is one, the store behind it.

mod server;

use crate::base::stop::{self, Stop, StopSource};
use crate::base::{limits, worker};
use crate::config::Config;
use crate::nats::{Auth, Connection, Options, Url};
use crate::storage::{OpenStore, Store};
use crossbeam_channel::{Sender, bounded};
use server::Server;

/// A connection to the broker, and our own server if we run it. Stopped last: everybody else needs it.
pub struct Broker {
    /// The connection for changes and leases.
    pub connection: Connection,
    options: Options,
    server: Option<Server>,
    keep: StopSource,
    token: Stop,
}

impl Broker {
    /// Starts the server if the configuration names none, and the connection.
    pub fn start(config: &Config, stop: &Stop, exits: &Sender<worker::Exit>) -> Result<Broker, String> {
        let (keep, token) = stop::pair();
        let server = if config.nats.urls.is_empty() {
            Some(Server::start(config, stop, exits).map_err(|error| error.to_string())?)
        } else {
            None
        };
        let urls = match &server {
            Some(server) => vec![server.url().clone()],
            None => config.nats.urls.iter().map(|url| Url::parse(url)).collect::<Result<_, _>>()?,
        };
        let nats = &config.nats;
        let auth = Auth {
            user: nats.user_name.clone(),
            password: nats.user_password.clone(),
            token: nats.token.clone(),
            seed_file: nats.seed_file.clone(),
            ca_file: nats.ca_file.clone(),
            cert_file: nats.cert_file.clone(),
            key_file: nats.key_file.clone(),
        };
        let ignore_discovered = nats.ignore_discovered || server.is_some();
        let options = Options { urls, name: config.node_name(), auth, ignore_discovered, quiet: false };
        let connection =
            Connection::open(options.clone(), token.clone(), exits).map_err(|error| error.to_string())?;
        Ok(Broker { connection, options, server, keep, token })
    }

    /// Opens the store; the one in NATS through a connection of its own, closed with it, so that bulk data delays no change.
    pub fn store_opener(&self, config: &Config) -> OpenStore {
        let options = Options { quiet: true, ..self.options.clone() };
        let (config, token) = (config.clone(), self.token.clone());
        Box::new(move || {
            if config.snapshot.store.is_apart_from_nats() {
                return open_store(&config, None, &token);
            }
            // It ends whenever the store is closed: nobody waits for that.
            let (exits, _) = bounded(1);
            let connection = Connection::open(options.clone(), token.clone(), &exits)
                .map_err(|error| error.to_string())?;
            connection.wait_up(limits::CONNECT_TIMEOUT).map_err(|error| error.to_string())?;
            open_store(&config, Some(&connection), &token)
        })
    }

    /// Closes the connection, stops the server.
    pub fn stop(self) {
        drop(self.connection);
        self.keep.stop();
        if let Some(server) = self.server {
            server.stop();
        }
    }
}

/// Opens the store that the configuration names. Only the NATS store uses the connection.
pub fn open_store(config: &Config, connection: Option<&Connection>, stop: &Stop) -> Result<Store, String> {
    config.snapshot.store.open(config.snapshot.read_back, connection, stop)
}
