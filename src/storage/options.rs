//! What the configuration says about each store. A build without a store reads its settings all the same, to refuse them by name.

use super::urls::{is_host_and_port, unescape};
use crate::base::{self, secret::Secret};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What the configuration says about S3.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// `host[:port]`, with or without scheme.
    pub endpoint: String,
    /// Whether an `endpoint` without scheme means https.
    pub use_ssl: bool,
    pub bucket: String,
    /// The part of the key before `/snapshot.db`.
    pub path: String,
    /// Empty: it is found out.
    pub region: String,
    /// Whether the bucket's name stands in the path (true) or in the host's name; `None`: as the endpoint wants it.
    pub force_path_style: Option<bool>,
    /// Certificate authorities beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Bytes of a part, at least.
    pub part_size: u64,
}

/// An access key of S3.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The id of the key. It is no secret, but is shown nowhere either.
    pub id: String,
    /// The secret part, which signs.
    pub secret: Secret,
    /// Session token of temporary credentials; empty when there is none.
    pub token: Secret,
}

/// What the configuration says about WebDAV.
#[derive(Clone, Debug, Default)]
pub struct WebdavOptions {
    /// `https://host/root`, without a trailing slash.
    pub root: String,
    /// The rest of the URL's query, which is sent with every request.
    pub query: String,
    /// Components of the directory below the root.
    pub dir: Vec<String>,
    pub user: String,
    pub password: Secret,
    /// Certificate authorities beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether the server has asked for Digest in this process; the clones of these options share it.
    pub had_digest: Arc<AtomicBool>,
}

impl WebdavOptions {
    /// Reads the URL form. The error shows no secret.
    pub fn parse(url: &str) -> Result<WebdavOptions, base::Error> {
        let (root, query) = url.split_once('?').unwrap_or((url, ""));
        let host = root.strip_prefix("https://").or_else(|| root.strip_prefix("http://"));
        let wrong = base::Error::usage;
        let host = host.ok_or_else(|| wrong("no http:// or https:// in front"))?;
        let host = host.split('/').next().unwrap_or_default();
        if root.contains('@') || !is_host_and_port(host) {
            return Err(wrong("no host[:port] after the scheme, or user and password before it"));
        }
        let mut options =
            WebdavOptions { root: root.trim_end_matches('/').to_owned(), ..WebdavOptions::default() };
        let (mut login, mut secret, mut rest) = (None, None, vec![]);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = || {
                unescape(&value.replace('+', "%20")).ok_or_else(|| base::Error::usage("not UTF-8").at(key))
            };
            match key {
                "dir" => {
                    let dir = decoded()?;
                    options.dir = dir.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
                    if options.dir.iter().any(|part| part == "." || part == "..") {
                        return Err(wrong("dir: . and .. are no directories"));
                    }
                }
                "login" => login = Some(decoded()?),
                "secret" => secret = Some(decoded()?),
                _ => rest.push(pair),
            }
        }
        options.query = rest.join("&");
        match (login, secret) {
            (Some(login), Some(secret)) => {
                (options.user, options.password) = (login, Secret::new(secret));
                Ok(options)
            }
            _ => Err(wrong("login and secret are missing")),
        }
    }
}

/// What the server's key is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A fingerprint: `SHA256:` and base64 without padding, as OpenSSH prints it.
    Fingerprint(String),
    /// A known_hosts file that this program only reads.
    KnownHosts(PathBuf),
    /// A file of this program, where the key of the first connection is remembered.
    FirstUse(PathBuf),
}

/// What the configuration says about SFTP.
#[derive(Clone, Debug)]
pub struct SftpOptions {
    /// Host name or address.
    pub host: String,
    pub port: u16,
    pub user: String,
    /// Empty when there is none.
    pub password: Secret,
    /// The absolute path of the directory.
    pub dir: String,
    /// The file with the private key.
    pub key_file: Option<PathBuf>,
    /// The passphrase of the key; empty when it has none.
    pub passphrase: Secret,
    /// What the server's key is compared with.
    pub trust: Trust,
}

impl SftpOptions {
    /// Reads the URL form. The error shows no secret.
    pub fn parse(url: &str, trust: Trust) -> Result<SftpOptions, base::Error> {
        let wrong = |why: &'static str| move || base::Error::usage(why);
        let rest = url.strip_prefix("sftp://").ok_or_else(wrong("no sftp:// in front"))?;
        let (authority, dir) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, address) = authority.rsplit_once('@').ok_or_else(wrong("no user"))?;
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = match address.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').unwrap_or("")),
            None => address.split_once(':').unwrap_or((address, "")),
        };
        let port = if port.is_empty() { "22" } else { port };
        let port = port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(wrong("the port is no number from 1 to 65535"))?;
        if user.is_empty() || host.is_empty() {
            return Err(wrong("no user, or no host")());
        }
        if login.contains(':') && dir.contains('@') {
            return Err(wrong(
                "an @ after the first /: in the password write %2F for /, in the directory %40 for @",
            )());
        }
        let decoded = |text: &str| unescape(text).ok_or_else(wrong("not UTF-8"));
        let dir = format!("/{}", decoded(dir)?.trim_end_matches('/'));
        Ok(SftpOptions {
            host: host.to_owned(),
            port,
            user: decoded(user)?,
            password: Secret::new(decoded(password)?),
            dir,
            key_file: None,
            passphrase: Secret::default(),
            trust,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_form_of_webdav() {
        let options = WebdavOptions::parse(
            "https://nas.example.com/webdav?dir=/harmonylite/my%20snapshots&login=us%40er&secret=p%26w&x=1",
        );
        let options = options.unwrap();
        assert_eq!(options.root, "https://nas.example.com/webdav");
        assert_eq!(options.dir, ["harmonylite", "my snapshots"]);
        assert_eq!((options.user.as_str(), options.password.expose()), ("us@er", "p&w"));
        assert_eq!(options.query, "x=1");
        assert_eq!(WebdavOptions::parse("http://h/?login=a&secret=b").unwrap().dir, Vec::<String>::new());
        for wrong in [
            "",
            "ftp://h?login=a&secret=b",
            "https://?login=a&secret=b",
            "https://u:a/x@h/?login=a&secret=b",
            "https://u:a?login=a&secret=b",
            "https://a/b@h?login=a&secret=b",
            "https://h?login=a",
            "https://h?dir=..&login=a&secret=b",
        ] {
            let why = WebdavOptions::parse(wrong).unwrap_err().to_string();
            assert!(!why.is_empty() && !why.contains("=a"), "{wrong}: {why}");
        }
    }

    #[test]
    fn the_url_form_of_sftp() {
        let trust = Trust::FirstUse("/x".into());
        let parse = |url: &str| SftpOptions::parse(url, trust.clone());
        let options =
            parse("sftp://backup-user:p%40ss:w@backup.example.com:2222/var/backups/harmony%20lite/").unwrap();
        assert_eq!((options.host.as_str(), options.port), ("backup.example.com", 2222));
        assert_eq!((options.user.as_str(), options.password.expose()), ("backup-user", "p@ss:w"));
        assert_eq!(options.dir, "/var/backups/harmony lite");
        let options = parse("sftp://u@[::1]").unwrap();
        assert_eq!((options.host.as_str(), options.port, options.dir.as_str()), ("::1", 22, "/"));
        for wrong in [
            "",
            "ssh://u@h/",
            "sftp://h/d",
            "sftp://u:secret@h:0/d",
            "sftp://u:secret@h:x/d",
            "sftp://:secret@h/d",
            "sftp://u:p@x/secret@h/d",
        ] {
            let why = parse(wrong).unwrap_err().to_string();
            assert!(!why.contains("secret"), "{wrong}: {why}");
        }
        assert_eq!(
            parse("sftp://u@h:99999/").unwrap_err().to_string(),
            "the port is no number from 1 to 65535"
        );
        assert_eq!(parse("sftp://u@h/%ff").unwrap_err().to_string(), "not UTF-8");
    }
}
