//! Which store the configuration means, and opening it.

use super::{
    Backend, Directory, Keys, NatsStore, Patience, S3, S3Options, Sftp, SftpOptions, Store, Webdav,
    WebdavOptions, find_keys,
};
use crate::base::stop::Stop;
use crate::nats::{Connection, JetStream};
use std::path::PathBuf;

/// Where snapshots are kept.
#[derive(Clone, Debug)]
pub enum Location {
    /// NATS Object Store.
    Nats {
        /// The bucket's name.
        bucket: String,
        /// Copies of the bucket in a NATS cluster.
        replicas: u64,
    },
    /// S3; the key of the configuration, if it has one.
    S3(S3Options, Option<Keys>),
    /// WebDAV.
    Webdav(WebdavOptions),
    /// SFTP.
    Sftp(SftpOptions),
    /// A local directory.
    File(PathBuf),
}

impl Location {
    /// Whether the store can be reached without NATS.
    pub fn is_apart_from_nats(&self) -> bool {
        !matches!(self, Location::Nats { .. })
    }

    /// Opens the store. Only the NATS store uses the connection.
    pub fn open(
        &self,
        read_back: bool,
        connection: Option<&Connection>,
        stop: &Stop,
    ) -> Result<Store, String> {
        let backend: Box<dyn Backend> = match self {
            Location::Nats { bucket, replicas } => {
                let connection = connection.ok_or("the store is in NATS, and there is no connection")?;
                Box::new(NatsStore::new(&JetStream::new(connection.clone()), bucket, *replicas))
            }
            Location::S3(options, keys) => {
                let keys = find_keys(keys.clone(), &|name| std::env::var(name).ok());
                Box::new(S3::new(options.clone(), keys)?)
            }
            Location::Webdav(options) => Box::new(Webdav::store(options.clone(), read_back)?),
            Location::Sftp(options) => Box::new(Sftp::store(options.clone(), read_back)),
            Location::File(path) => Box::new(Directory::store(path, read_back)),
        };
        Ok(Store::new(backend, Patience { stop: Some(stop.clone()), ..Patience::default() }))
    }
}

/// Opens the store; dropping the store closes what was opened for it.
pub type OpenStore = Box<dyn Fn() -> Result<Store, String> + Send>;
