//! A server's address: `nats://[user:password@|token@]host[:port]`, or `tls://`.

use super::error::Error;
use crate::base::secret::Secret;
use std::net::IpAddr;

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
    /// The name that the server's certificate must bear; `None`: that of the host.
    pub certificate: Option<String>,
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
        Ok(Url { tls, host, port, user, password, certificate: None })
    }

    /// A server that this one announces as `host:port`. It gets the same login and is reached with the same TLS. A bare address
    /// must prove itself by this server's name, for anybody can have a certificate for an address of his own. `None`: not an
    /// address.
    pub fn announced(&self, address: &str) -> Option<Url> {
        let Url { host, port, .. } = Url::parse(address).ok()?;
        let ours = self.certificate_name();
        let by_our_name = is_address(&host) && !is_address(ours);
        let certificate = by_our_name.then(|| ours.to_owned());
        Some(Url { host, port, certificate, ..self.clone() })
    }

    /// The name or address that the server's certificate must bear.
    pub fn certificate_name(&self) -> &str {
        self.certificate.as_deref().unwrap_or(&self.host)
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

fn is_address(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

/// Whether a host, in brackets or not, is this machine for sure: its bytes pass no network.
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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

/// A text as it stands in the login of a URL: `p@ss` becomes `p%40ss`.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
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
    fn an_encoded_login_is_read_back_as_it_was() {
        let text = "a:b@c/d?e#f%g h\"\u{e9}";
        let encoded = percent_encode(text);
        assert_eq!(encoded, "a%3Ab%40c%2Fd%3Fe%23f%25g%20h%22%C3%A9");
        assert_eq!(login(&format!("nats://{encoded}:{encoded}@h")), (Some(text.into()), Some(text.into())));
    }

    #[test]
    fn an_announced_server_is_reached_as_the_one_that_announces_it() {
        let url = Url::parse("tls://u:p@nats.example.com:1").unwrap();
        let of = |address: &str| url.announced(address).unwrap();
        let bare = of("10.0.0.2:4223");
        assert_eq!((bare.address().as_str(), bare.tls), ("10.0.0.2:4223", true));
        assert_eq!((&bare.user, &bare.password), (&url.user, &url.password));
        assert_eq!(bare.certificate_name(), "nats.example.com");
        assert_eq!(of("[2001:db8::1]:4223").certificate_name(), "nats.example.com");
        // A name speaks for itself: the announcement came over TLS.
        assert_eq!(of("other.example.com:1").certificate_name(), "other.example.com");
        // What an announced server announces is held to the same name.
        assert_eq!(bare.announced("10.0.0.3:1").unwrap().certificate_name(), "nats.example.com");
        // An announcement decides about neither TLS nor the login.
        let odd = of("nats://x:y@10.0.0.4:1");
        assert_eq!((odd.tls, &odd.user), (true, &url.user));
        assert!(
            url.announced("").is_none()
                && url.announced("x:y").is_none()
                && url.announced("http://z").is_none()
        );
        let by_address = Url::parse("tls://10.0.0.1").unwrap().announced("10.0.0.2:1").unwrap();
        assert_eq!(by_address.certificate_name(), "10.0.0.2");
    }

    #[test]
    fn this_machine() {
        for host in ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LocalHost"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "0.0.0.0", "[::]", "10.0.0.1", "localhost.example.com", "h"] {
            assert!(!is_loopback(host), "{host}");
        }
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
