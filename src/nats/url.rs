//! A server's address: `nats://[user:password@|token@]host[:port]`, or `tls://`.

use super::error::Error;
use crate::base::secret::Secret;

/// Port of a NATS server unless the URL names one.
const DEFAULT_PORT: u16 = 4222;

/// The address of one server, with the login that the URL carries.
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
    /// `None` when the URL holds no colon before its `@`, or nothing after it.
    pub password: Option<Secret>,
}

impl Url {
    /// Parses a URL; without a scheme it is `nats://`. Path and query are ignored. The error shows nothing of the text.
    pub fn parse(text: &str) -> Result<Url, Error> {
        let (scheme, rest) = text.trim().split_once("://").unwrap_or(("nats", text.trim()));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "nats" => false,
            "tls" => true,
            _ => return Err(Error::Permanent("the scheme is neither nats nor tls".to_owned())),
        };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if rest[authority.len()..].contains('@') {
            let why = "an @ after the first / or ?: in user and password write %2F for / and %3F for ?";
            return Err(Error::Permanent(why.to_owned()));
        }
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

    /// `host:port`, without anything secret.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

fn split_address(address: &str) -> Result<(String, u16), Error> {
    let bad = |why: &str| Error::Permanent(why.to_owned());
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(|| bad("a [ without ]"))?;
        (host, rest.strip_prefix(':'))
    } else {
        match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        }
    };
    if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(bad("no host"));
    }
    let port = match port {
        None | Some("") => DEFAULT_PORT,
        Some(text) => {
            let port = text.parse().ok().filter(|port| *port != 0);
            port.ok_or_else(|| bad("the port is no number from 1 to 65535"))?
        }
    };
    Ok((host.to_owned(), port))
}

/// Replaces `%40` and the like; a percent sign without two hex digits stays as it is.
fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = text.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let hex = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
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

    fn login(text: &str) -> (Option<String>, Option<String>) {
        let url = Url::parse(text).unwrap();
        (url.user, url.password.map(|password| password.expose().to_owned()))
    }

    #[test]
    fn everything_that_a_url_can_hold() {
        let url = Url::parse("tls://us%40er:p:w@[::1]:99/x").unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port), (true, "::1", 99));
        assert_eq!((url.user.as_deref(), url.password.as_ref().unwrap().expose()), (Some("us@er"), "p:w"));
        assert_eq!(url.address(), "[::1]:99");
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let url = Url::parse(" host ").unwrap();
        assert_eq!((url.tls, url.address().as_str(), url.user), (false, "host:4222", None));
        assert_eq!(Url::parse("host:").unwrap().port, 4222);
        assert_eq!(Url::parse("NATS://[::1]").unwrap().address(), "[::1]:4222");
        assert_eq!(Url::parse("nats://h:1?x=y").unwrap().address(), "h:1");
    }

    #[test]
    fn logins_in_urls() {
        assert_eq!(login("nats://h"), (None, None));
        assert_eq!(login("nats://@h"), (None, None));
        assert_eq!(login("nats://t0ken@h"), (Some("t0ken".into()), None));
        assert_eq!(login("nats://u:@h"), (Some("u".into()), None));
        assert_eq!(login("nats://u:a%2Fb@h"), (Some("u".into()), Some("a/b".into())));
        assert_eq!(login("nats://u:100%@h"), (Some("u".into()), Some("100%".into())));
        assert_eq!(login("nats://u:%+1@h"), (Some("u".into()), Some("%+1".into())));
        // The last @ ends the login: a password may hold one.
        assert_eq!(login("nats://u:p@ss@h"), (Some("u".into()), Some("p@ss".into())));
    }

    #[test]
    fn a_wrong_url_is_refused_for_good() {
        for bad in [
            "",
            "nats://",
            "http://x",
            "nats://h:0",
            "nats://h:x",
            "nats://[::1",
            "nats://a b",
            "h:99999",
            "nats://u:p/w@h",
            "nats://t?n@h",
        ] {
            assert!(matches!(Url::parse(bad), Err(Error::Permanent(_))), "{bad}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let url = Url::parse("nats://u:hunter2@h").unwrap();
        assert!(!format!("{url:?}{}", url.address()).contains("hunter2"));
    }
}
