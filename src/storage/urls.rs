//! Pieces of URLs: host and port, and what must be escaped.

/// Whether a text is `host`, `host:port`, or an address of version 6 in brackets and a port.
pub fn is_host_and_port(text: &str) -> bool {
    let after_host = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((_, after)) => after,
        None => &text[text.find(':').unwrap_or(text.len())..],
    };
    let port = after_host
        .strip_prefix(':')
        .map_or(after_host.is_empty().then_some(1), |port| port.parse::<u16>().ok());
    let plain = |c: char| c.is_alphanumeric() || "-._:[]".contains(c);
    after_host.len() < text.len() && text.chars().all(plain) && port.is_some_and(|port| port > 0)
}

/// Escapes one component of a path, or a name or value of a query: all but letters, digits and `-._~`.
pub fn escape(text: &str) -> String {
    escape_but(text, b"")
}

/// Escapes a path: as [`escape`], but for the slashes.
pub fn escape_path(text: &str) -> String {
    escape_but(text, b"/")
}

fn escape_but(text: &str, kept: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
    }
    out
}

/// Undoes [`escape`]; a lone `%` stays. `None`: the bytes are not UTF-8.
pub fn unescape(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| data_encoding::HEXUPPER_PERMISSIVE.decode(hex).ok());
        match escaped {
            Some(decoded) => {
                out.extend(decoded);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_is_undone() {
        assert_eq!(escape_path("a b/ü%~"), "a%20b/%C3%BC%25~");
        assert_eq!(escape("a/b"), "a%2Fb");
        for text in ["", "a b/ü%~", "100%", "%zz", "+&=?#"] {
            assert_eq!(unescape(&escape(text)).as_deref(), Some(text));
            assert_eq!(unescape(&escape_path(text)).as_deref(), Some(text));
        }
        assert_eq!(unescape("%zz%2").as_deref(), Some("%zz%2"));
        assert_eq!(unescape("%ff"), None);
    }

    #[test]
    fn hosts_with_and_without_ports() {
        for good in
            ["h", "a-b.example.com:443", "127.0.0.1:1", "[::1]", "[::1]:9000", "nas_1", "b\u{fc}cher.de"]
        {
            assert!(is_host_and_port(good), "{good}");
        }
        for bad in
            ["", ":1", "h:", "h:x", "h:0", "h:65536", "u@h", "a b", "a#b", "::1", "[::1]x", "a%20b", "h:1:2"]
        {
            assert!(!is_host_and_port(bad), "{bad}");
        }
    }
}
