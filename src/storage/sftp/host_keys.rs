//! The check of an SSH server's host key: it is compared with a fingerprint, a known_hosts file, or the key that was remembered
//! at the first connection.

use crate::base::files;
use crate::storage::Error;
use crate::storage::options::Trust;
use data_encoding::{BASE64, BASE64_NOPAD};
use std::path::Path;

/// `SHA256:` and base64 of the hash of a public key.
fn fingerprint(key: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, key);
    format!("SHA256:{}", BASE64_NOPAD.encode(hash.as_ref()))
}

/// The kind of a public key: the first text in it, such as `ssh-ed25519`.
fn kind(key: &[u8]) -> Option<&str> {
    let length = u32::from_be_bytes(key.get(..4)?.try_into().ok()?) as usize;
    std::str::from_utf8(key.get(4..4 + length)?).ok()
}

/// The name of a server in known_hosts files.
fn host_name(host: &str, port: u16) -> String {
    if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") }
}

/// The keys that a known_hosts file (OpenSSH's format; also with hashed names) has for a server.
fn known(text: &str, host: &str, port: u16) -> Vec<Vec<u8>> {
    let name = host_name(host, port);
    let mut found = vec![];
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', '@'])) {
        let mut fields = line.split_ascii_whitespace();
        let (Some(names), Some(_), Some(key)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if names.split(',').any(|pattern| matches_name(pattern, &name))
            && let Ok(key) = BASE64.decode(key.as_bytes())
        {
            found.push(key);
        }
    }
    found
}

fn matches_name(pattern: &str, name: &str) -> bool {
    let Some(hashed) = pattern.strip_prefix("|1|") else { return pattern.eq_ignore_ascii_case(name) };
    let Some((salt, hash)) = hashed.split_once('|') else { return false };
    let (Ok(salt), Ok(hash)) = (BASE64.decode(salt.as_bytes()), BASE64.decode(hash.as_bytes())) else {
        return false;
    };
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    ring::hmac::verify(&key, name.as_bytes(), &hash).is_ok()
}

impl Trust {
    fn text(&self) -> Result<String, Error> {
        let (Trust::KnownHosts(path) | Trust::FirstUse(path)) = self else { return Ok(String::new()) };
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(text),
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound && matches!(self, Trust::FirstUse(_)) =>
            {
                Ok(String::new())
            }
            Err(error) => Err(Error::Local(format!("{}: {error}", path.display()))),
        }
    }

    /// The kinds of keys to ask the server for, so that it shows one that is known; none when any will do.
    pub fn kinds(&self, host: &str, port: u16) -> Result<Vec<String>, Error> {
        let keys = known(&self.text()?, host, port);
        Ok(keys.iter().filter_map(|key| kind(key)).map(str::to_owned).collect())
    }

    /// Whether `key` is the server's. The error names both fingerprints.
    pub fn check(&self, host: &str, port: u16, key: &[u8]) -> Result<(), Error> {
        let shown = fingerprint(key);
        if let Trust::Fingerprint(expected) = self {
            return if same_fingerprint(expected, &shown) {
                Ok(())
            } else {
                Err(changed(host, &shown, expected))
            };
        }
        let keys = known(&self.text()?, host, port);
        if keys.iter().any(|known| known == key) {
            return Ok(());
        }
        match (keys.first(), self) {
            (Some(known), _) => Err(changed(host, &shown, &fingerprint(known))),
            (None, Trust::FirstUse(path)) => remember(path, host, port, key),
            (None, _) => {
                Err(Error::Permanent(format!("host key {shown} of {host} is not in the known_hosts file")))
            }
        }
    }
}

/// A fingerprint may be given without its prefix, or padded.
fn same_fingerprint(given: &str, shown: &str) -> bool {
    let bare = |text: &str| text.trim().trim_start_matches("SHA256:").trim_end_matches('=').to_owned();
    bare(given) == bare(shown)
}

fn changed(host: &str, shown: &str, expected: &str) -> Error {
    Error::Permanent(format!("host key of {host} is {shown}, expected {expected}: not connecting"))
}

fn remember(path: &Path, host: &str, port: u16, key: &[u8]) -> Result<(), Error> {
    let name = host_name(host, port);
    let line = format!("{name} {} {}\n", kind(key).unwrap_or("unknown"), BASE64.encode(key));
    let mut text = std::fs::read_to_string(path).unwrap_or_default();
    text.push_str(&line);
    files::write_atomically(path, text.as_bytes())
        .map_err(|error| Error::Local(format!("{}: {error}", path.display())))?;
    log::warn!(
        "{name}: first connection; remembering its host key {} in {}",
        fingerprint(key),
        path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;

    fn key(kind: &str, byte: u8) -> Vec<u8> {
        let mut key = u32::try_from(kind.len()).unwrap().to_be_bytes().to_vec();
        key.extend(kind.as_bytes());
        key.extend([byte; 32]);
        key
    }

    #[test]
    fn first_use_is_remembered_and_a_change_refused() {
        let scratch = Scratch::new("hosts");
        let path = scratch.path("known-hosts");
        let trust = Trust::FirstUse(path.clone());
        let (old, new) = (key("ssh-ed25519", 1), key("ssh-rsa", 2));
        trust.check("h", 2222, &old).unwrap();
        trust.check("h", 2222, &old).unwrap();
        let why = trust.check("h", 2222, &new).unwrap_err().to_string();
        assert!(why.contains(&fingerprint(&old)) && why.contains(&fingerprint(&new)), "{why}");
        trust.check("h", 22, &new).unwrap();
        assert_eq!(trust.kinds("h", 2222).unwrap(), ["ssh-ed25519"]);
        let kept = Trust::KnownHosts(path.clone());
        kept.check("h", 22, &new).unwrap();
        let why = kept.check("other", 22, &new).unwrap_err().to_string();
        assert!(why.ends_with("of other is not in the known_hosts file"), "{why}");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(kept.check("h", 22, &new), Err(Error::Local(_))));
    }

    #[test]
    fn fingerprints_and_hashed_names() {
        let key = key("ssh-ed25519", 1);
        let shown = fingerprint(&key);
        Trust::Fingerprint(shown.clone()).check("h", 22, &key).unwrap();
        Trust::Fingerprint(shown.trim_start_matches("SHA256:").to_owned() + "=")
            .check("h", 22, &key)
            .unwrap();
        assert!(Trust::Fingerprint("SHA256:x".into()).check("h", 22, &key).is_err());
        let salt = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"salt");
        let hash = BASE64.encode(ring::hmac::sign(&salt, b"[h]:2222").as_ref());
        let line = format!("# x\n|1|{}|{hash} ssh-ed25519 {}", BASE64.encode(b"salt"), BASE64.encode(&key));
        assert_eq!(known(&line, "h", 2222), [key]);
        assert!(known(&line, "h", 22).is_empty());
    }
}
