//! The keys of the snapshot stores.

use super::reader::Reader;
use crate::base::secret::Secret;
use crate::base::{files, limits};
use crate::storage::pack::{Key, Packing};
use crate::storage::urls::is_host_and_port;
use crate::storage::{Keys, Location, S3Options, SftpOptions, Trust, WebdavOptions, directory_path, lacking};
use std::path::{Path, PathBuf};

/// The store that `snapshot.store` names. The keys of the other stores are read too, so that none of them is called unknown,
/// but they need not be complete.
pub fn store(reader: &mut Reader, stream_prefix: &str, seq_map_path: Option<&Path>) -> Location {
    let kind = reader.text("snapshot.store", "nats");
    let nats = nats(reader, stream_prefix);
    let s3 = s3(reader, kind == "s3");
    let webdav = webdav(reader, kind == "webdav");
    let sftp = sftp(reader, kind == "sftp", seq_map_path);
    let file = file(reader, kind == "file");
    let found = match kind.as_str() {
        built_without if lacking(built_without).is_some() => {
            let feature = lacking(built_without).unwrap_or_default();
            let accepted = format!(
                "a store that this binary was built with; it lacks this one (cargo feature {feature})"
            );
            reader.wrong("snapshot.store", format!("{built_without:?}"), &accepted);
            None
        }
        "nats" => Some(nats.clone()),
        "s3" => Some(s3),
        "webdav" => webdav,
        "sftp" => sftp,
        "file" => file,
        other => {
            let accepted = "\"nats\", \"s3\", \"webdav\", \"sftp\" or \"file\"";
            reader.wrong("snapshot.store", format!("{other:?}"), accepted);
            None
        }
    };
    // Without a store a mistake has been noted, and the configuration is refused.
    found.unwrap_or(nats)
}

fn nats(reader: &mut Reader, stream_prefix: &str) -> Location {
    let bucket = reader.text("snapshot.nats.bucket", "");
    let bucket = if bucket.is_empty() {
        format!("{stream_prefix}-snapshot-store")
    } else {
        reader.token("snapshot.nats.bucket", &bucket);
        bucket
    };
    Location::Nats { bucket, replicas: reader.integer("snapshot.nats.replicas", 1, 0, 5) }
}

/// A path whose file must be readable.
fn readable(reader: &mut Reader, key: &'static str) -> Option<PathBuf> {
    let path = reader.path(key);
    reader.readable(key, path.as_deref());
    path
}

fn s3(reader: &mut Reader, wanted: bool) -> Location {
    let endpoint = reader.secret("snapshot.s3.endpoint");
    let bucket = reader.text("snapshot.s3.bucket", "");
    let force_path_style = reader
        .is_set("snapshot.s3.force_path_style")
        .then(|| reader.boolean("snapshot.s3.force_path_style", true));
    let options = S3Options {
        use_ssl: reader.boolean("snapshot.s3.use_ssl", false),
        path: reader.text("snapshot.s3.path", ""),
        region: reader.text("snapshot.s3.region", ""),
        force_path_style,
        ca_file: readable(reader, "snapshot.s3.ca_file"),
        part_size: limits::S3_PART,
        endpoint,
        bucket,
    };
    let id = reader.secret("snapshot.s3.access_key");
    let secret_key = reader.secret("snapshot.s3.secret");
    let token = Secret::new(reader.secret("snapshot.s3.session_token"));
    if wanted {
        let host = options.endpoint.split_once("://").map_or(options.endpoint.as_str(), |(_, host)| host);
        let scheme = options.endpoint.split_once("://").map_or("http", |(scheme, _)| scheme);
        let host = host.trim_end_matches('/');
        if !is_host_and_port(host) || !matches!(scheme, "http" | "https") {
            let shown = if options.endpoint.is_empty() { "\"\"" } else { "(hidden: it may hold a login)" };
            let accepted = "host[:port], or http:// or https:// and that";
            reader.wrong("snapshot.s3.endpoint", shown, accepted);
        }
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if options.bucket.is_empty() || !options.bucket.bytes().all(valid) {
            let shown = format!("{:?}", options.bucket);
            reader.wrong("snapshot.s3.bucket", shown, "a bucket's name: letters, digits, - . and _");
        }
        if id.is_empty() != secret_key.is_empty() {
            reader.wrong(
                "snapshot.s3.access_key",
                "without snapshot.s3.secret, or the reverse",
                "both or none",
            );
        }
    }
    let keys = (!id.is_empty() && !secret_key.is_empty()).then(|| Keys {
        id,
        secret: Secret::new(secret_key),
        token,
    });
    Location::S3(options, keys)
}

fn webdav(reader: &mut Reader, wanted: bool) -> Option<Location> {
    let url = reader.secret("snapshot.webdav.url");
    let ca_file = readable(reader, "snapshot.webdav.ca_file");
    if !wanted {
        return None;
    }
    match WebdavOptions::parse(&url) {
        Ok(options) => Some(Location::Webdav(WebdavOptions { ca_file, ..options })),
        Err(why) => {
            let accepted = "https://host/path?dir=/directory&login=user&secret=password, with %xx for what is special in it";
            reader.wrong("snapshot.webdav.url", format!("(hidden: {why})"), accepted);
            None
        }
    }
}

fn sftp(reader: &mut Reader, wanted: bool, seq_map_path: Option<&Path>) -> Option<Location> {
    let url = reader.secret("snapshot.sftp.url");
    let key_file = reader.secret_file("snapshot.sftp.key_file");
    let passphrase = Secret::new(reader.secret("snapshot.sftp.key_passphrase"));
    let known_hosts = readable(reader, "snapshot.sftp.known_hosts");
    let host_key = reader.text("snapshot.sftp.host_key", "");
    if !wanted {
        return None;
    }
    let trust = match (host_key.is_empty(), known_hosts) {
        (false, _) => Trust::Fingerprint(host_key),
        (true, Some(path)) => Trust::KnownHosts(path),
        (true, None) => Trust::FirstUse(files::parent(seq_map_path?).join(limits::SFTP_HOST_KEYS)),
    };
    match SftpOptions::parse(&url, trust) {
        Ok(options) => Some(Location::Sftp(SftpOptions { key_file, passphrase, ..options })),
        Err(why) => {
            let accepted = "sftp://user[:password]@host[:port]/directory, with %xx for what is special in it";
            reader.wrong("snapshot.sftp.url", format!("(hidden: {why})"), accepted);
            None
        }
    }
}

fn file(reader: &mut Reader, wanted: bool) -> Option<Location> {
    let path = reader.secret("snapshot.file.path");
    if !wanted {
        return None;
    }
    match directory_path(&path) {
        Ok(path) => Some(Location::File(path)),
        Err(why) => {
            let accepted = "an absolute path, or file:// and that";
            // It may be the URL of another store, with a login.
            reader.wrong("snapshot.file.path", format!("(hidden: {why})"), accepted);
            None
        }
    }
}

/// Warns, once for each start, of what a store's requests show to everybody on the way.
pub fn warn_of_clear_text(reader: &mut Reader, store: &Location, packing: &Packing) {
    let snapshots = match &packing.key {
        Some(_) => "the descriptions of snapshots",
        None => "snapshots",
    };
    match store {
        Location::S3(options, _) => {
            let default = if options.use_ssl { "https" } else { "http" };
            let (scheme, host) = options.endpoint.split_once("://").unwrap_or((default, &options.endpoint));
            if scheme == "http" && !is_loopback(host) {
                let text =
                    format!("without TLS {snapshots} travel in the clear: set snapshot.s3.use_ssl = true");
                reader.warn("snapshot.s3.endpoint", &text);
            }
        }
        Location::Webdav(options) => {
            if options.root.strip_prefix("http://").is_some_and(|host| !is_loopback(host)) {
                let text = format!(
                    "over http {snapshots} travel in the clear, and the password too if the server asks for Basic: use https"
                );
                reader.warn("snapshot.webdav.url", &text);
            }
        }
        Location::Nats { .. } | Location::Sftp(_) | Location::File(_) => {}
    }
}

/// Whether `host[:port][/path]` is this machine.
fn is_loopback(text: &str) -> bool {
    let authority = text.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// How stored files are packed. With a key they are encrypted. Reading needs only the key, and recognises the packing.
pub fn packing(reader: &mut Reader) -> Packing {
    let zstd = match reader.text("snapshot.compression", "none").as_str() {
        "none" => false,
        "zstd" => true,
        other => {
            reader.wrong("snapshot.compression", format!("{other:?}"), "\"none\" or \"zstd\"");
            false
        }
    };
    let key = reader.secret_file("snapshot.key_file").filter(|_| !reader.is_wrong("snapshot.key_file"));
    let key = key.and_then(|path| match Key::read(&path) {
        Ok(key) => Some(key),
        Err(why) => {
            let accepted = "a file with 64 hex digits, as \"openssl rand -hex 32\" makes it";
            reader.wrong("snapshot.key_file", format!("(hidden: {why})"), accepted);
            None
        }
    });
    Packing { zstd, key }
}
