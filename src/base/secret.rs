//! Secrets that cannot be printed, and URLs without theirs.

use std::fmt;

/// A password, token or seed. Its text comes out only through [`Secret::expose`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret's text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A URL, list of URLs or text that may hold one, with everything between `://` and `@` hidden, and the values of
/// query parameters that name a secret.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let end = tail.find(|c: char| "/?#, \"'".contains(c) || c.is_whitespace()).unwrap_or(tail.len());
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
        assert_eq!(redact("a nats://t@h, tls://u:v@w"), "a nats://***@h, tls://***@w");
        assert_eq!(
            redact("https://n/x?dir=/a&login=me&secret=s3"),
            "https://n/x?dir=/a&login=***&secret=***"
        );
        assert_eq!(format!("{:?}", Secret::new("x")), "(hidden)");
    }
}
