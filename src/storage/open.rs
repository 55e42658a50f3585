//! Which store the configuration means, and opening it.

use super::directory::Directory;
use super::nats::NatsStore;
use super::options::{Keys, S3Options, SftpOptions, WebdavOptions};
#[cfg(feature = "store-s3")]
use super::s3::{S3, find_keys};
#[cfg(feature = "store-sftp")]
use super::sftp::Sftp;
#[cfg(feature = "store-webdav")]
use super::webdav::Webdav;
use super::{Backend, Error, Store};
use crate::base::{self, limits, retry::Retry, stop::Stop};
use crate::nats::{Connection, JetStream};
use std::path::PathBuf;

/// Where snapshots are kept.
#[derive(Clone, Debug)]
pub enum Location {
    /// In the NATS Object Store.
    Nats {
        bucket: String,
        /// Copies of the bucket in a NATS cluster.
        replicas: u64,
    },
    /// In S3; with the key of the configuration, if it has one.
    S3(S3Options, Option<Keys>),
    Webdav(WebdavOptions),
    Sftp(SftpOptions),
    /// In a directory of this machine.
    File(PathBuf),
}

impl Location {
    /// Whether the store can be reached without NATS.
    pub fn is_apart_from_nats(&self) -> bool {
        !matches!(self, Location::Nats { .. })
    }

    /// Opens the store. Only the NATS store uses the connection. A stop ends the pauses between the store's tries.
    pub fn open(
        &self,
        read_back: bool,
        connection: Option<&Connection>,
        stop: &Stop,
    ) -> Result<Store, Error> {
        let backend: Box<dyn Backend> = match self {
            Location::Nats { bucket, replicas } => {
                let missing =
                    || Error::Permanent("the store is in NATS, and there is no connection".to_owned());
                let js = JetStream::new(connection.ok_or_else(missing)?.clone());
                Box::new(NatsStore::new(&js, bucket, *replicas))
            }
            #[cfg(feature = "store-s3")]
            Location::S3(options, keys) => {
                let keys = find_keys(keys.clone(), &|name| std::env::var(name).ok());
                Box::new(S3::new(options.clone(), keys)?)
            }
            #[cfg(feature = "store-webdav")]
            Location::Webdav(options) => Box::new(Webdav::store(options.clone(), read_back)?),
            #[cfg(feature = "store-sftp")]
            Location::Sftp(options) => Box::new(Sftp::store(options.clone(), read_back)),
            Location::File(path) => Box::new(Directory::store(path, read_back)),
            // The configuration was refused before, with the name of the feature.
            #[cfg(not(all(feature = "store-s3", feature = "store-webdav", feature = "store-sftp")))]
            _ => return Err(Error::Permanent("this binary was built without this store".to_owned())),
        };
        Ok(Store::new(backend, Retry::new(limits::STORE_TRIES, stop.clone())))
    }
}

/// The cargo feature without which this binary was built, and which the store `kind` of a configuration needs.
pub fn lacking(kind: &str) -> Option<&'static str> {
    match kind {
        "s3" if !cfg!(feature = "store-s3") => Some("store-s3"),
        "webdav" if !cfg!(feature = "store-webdav") => Some("store-webdav"),
        "sftp" if !cfg!(feature = "store-sftp") => Some("store-sftp"),
        _ => None,
    }
}

/// Opens the store; dropping the store closes what was opened for it.
pub type OpenStore = Box<dyn Fn() -> Result<Store, base::Error> + Send>;
