//! Secrets that cannot be printed, and texts with the secrets of their URLs hidden.

use std::fmt;

/// A password, token or seed. Its text comes out only through [`Secret::expose`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text, which is shown by no message from then on.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the code that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether no secret was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// The same text, with the secrets of all URLs in it hidden: what stands between `://` and the last `@` before a space or quote
/// (a password may hold all other characters), and the values of query parameters that hold a login or a secret.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let end = tail.find(|c: char| "\"'".contains(c) || c.is_whitespace()).unwrap_or(tail.len());
        let authority = &tail[..end];
        match authority.rfind('@') {
            Some(sign) => {
                out.push_str("***");
                out.push_str(&authority[sign..]);
            }
            None => out.push_str(authority),
        }
        rest = &tail[end..];
    }
    out.push_str(rest);
    hide_parameters(&out)
}

/// Whether a text may be a URL, or a part of one, with a login in it.
pub fn may_hold_login(text: &str) -> bool {
    text.contains('@') || text.contains("://")
}

fn hide_parameters(text: &str) -> String {
    let mut out = text.to_owned();
    for name in ["secret=", "login=", "password=", "token="] {
        let mut from = 0;
        while let Some(at) = out[from..].find(name) {
            let start = from + at + name.len();
            let end = out[start..].find(['&', ' ', '"', '\'']).map_or(out.len(), |n| start + n);
            out.replace_range(start..end, "***");
            from = start + 3;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_their_secrets() {
        assert_eq!(redact("nats://user:p@ss@host:4222/x"), "nats://***@host:4222/x");
        assert_eq!(redact("no url here"), "no url here");
        assert_eq!(redact("nats://u:p/a?s#s,w@h: no route"), "nats://***@h: no route");
        assert_eq!(redact("a nats://t@h, tls://u:v@w"), "a nats://***@h, tls://***@w");
        assert_eq!(
            redact("https://n/x?dir=/a&login=me&secret=s3"),
            "https://n/x?dir=/a&login=***&secret=***"
        );
    }

    #[test]
    fn text_around_urls_stays() {
        assert_eq!(redact(""), "");
        assert_eq!(redact("http://h/a b@c is no login"), "http://h/a b@c is no login");
        assert_eq!(redact("(\"tls://u:p@h\") failed"), "(\"tls://***@h\") failed");
        assert_eq!(
            redact("at http://h/?password=x&y=1 and http://h/?token=z"),
            "at http://h/?password=***&y=1 and http://h/?token=***"
        );
    }

    #[test]
    fn a_secret_is_printed_nowhere() {
        let secret = Secret::new("x");
        assert_eq!(format!("{secret:?}"), "(hidden)");
        assert!(secret.expose() == "x" && !secret.is_empty() && Secret::default().is_empty());
    }
}
