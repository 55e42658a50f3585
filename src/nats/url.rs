//! A server's address: `nats://[user:password@|token@]host[:port]`, or `tls://`.

use crate::base::secret::Secret;

/// Port of a NATS server unless the URL names one.
const DEFAULT_PORT: u16 = 4222;

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// TLS is demanded whatever the server says.
    pub tls: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name, or the token when there is no password.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
}

impl Url {
    /// Parses a URL; without a scheme it is `nats://`.
    pub fn parse(text: &str) -> Result<Url, String> {
        let (scheme, rest) = text.trim().split_once("://").unwrap_or(("nats", text.trim()));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "nats" => false,
            "tls" => true,
            other => return Err(format!("unknown scheme {other}")),
        };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let (userinfo, address) = match authority.rsplit_once('@') {
            Some((userinfo, address)) => (Some(userinfo), address),
            None => (None, authority),
        };
        let (user, password) = match userinfo.map(|u| u.split_once(':').unwrap_or((u, ""))) {
            None | Some(("", "")) => (None, None),
            Some((user, "")) => (Some(percent_decode(user)), None),
            Some((user, password)) => {
                (Some(percent_decode(user)), Some(Secret::new(percent_decode(password))))
            }
        };
        let (host, port) = split_address(address)?;
        Ok(Url { tls, host, port, user, password })
    }

    /// The address without anything secret.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

fn split_address(address: &str) -> Result<(String, u16), String> {
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("a [ without ]")?;
        (host, rest.strip_prefix(':'))
    } else {
        match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        }
    };
    let bad_host = host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control());
    if bad_host {
        return Err("no host".to_owned());
    }
    let port = match port {
        None | Some("") => DEFAULT_PORT,
        Some(text) => {
            text.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("bad port {text}"))?
        }
    };
    Ok((host.to_owned(), port))
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = Url::parse("tls://us%40er:p:w@[::1]:99/x").unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port), (true, "::1", 99));
        assert_eq!((url.user.as_deref(), url.password.as_ref().unwrap().expose()), (Some("us@er"), "p:w"));
        assert_eq!(url.address(), "[::1]:99");
        let url = Url::parse("host").unwrap();
        assert_eq!((url.tls, url.address().as_str(), url.user), (false, "host:4222", None));
        assert_eq!(Url::parse("nats://t0ken@h").unwrap().user.as_deref(), Some("t0ken"));
        for bad in ["", "nats://", "http://x", "nats://h:0", "nats://h:x", "nats://[::1", "nats://a b"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }
}
