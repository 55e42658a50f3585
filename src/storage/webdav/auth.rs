//! HTTP authentication as servers ask for it: basic (RFC 7617) and digest (RFC 7616; MD5, SHA-256, their `-sess` forms).

use crate::base::secret::Secret;
use data_encoding::{BASE64, HEXLOWER};

/// The user that the requests are made for.
#[derive(Clone, Debug, Default)]
pub struct Login {
    pub user: String,
    pub password: Secret,
}

/// What a server asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// User and password in clear.
    Basic,
    /// A hash of user and password with the server's nonce.
    Digest(Digest),
}

/// A digest challenge, and the number of answers given to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    sha256: bool,
    session: bool,
    /// Whether the server offers `qop=auth`. Very old servers offer none.
    qop: bool,
    count: u32,
}

impl Challenge {
    /// The best challenge of a server's `WWW-Authenticate` headers among those that can be answered here.
    pub fn choose(headers: &[&str]) -> Option<Challenge> {
        let mut best = None;
        for (scheme, parameters) in headers.iter().flat_map(|header| challenges(header)) {
            let get = |name: &str| {
                parameters
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("basic") {
                best = best.or(Some(Challenge::Basic));
            } else if scheme.eq_ignore_ascii_case("digest") {
                let algorithm = get("algorithm").unwrap_or_else(|| "MD5".to_owned()).to_ascii_uppercase();
                let (name, session) = match algorithm.strip_suffix("-SESS") {
                    Some(name) => (name, true),
                    None => (algorithm.as_str(), false),
                };
                let qops = get("qop");
                let qop = qops.as_deref().is_some_and(|list| list.split(',').any(|q| q.trim() == "auth"));
                if !matches!(name, "MD5" | "SHA-256") || (qops.is_some() && !qop) {
                    continue;
                }
                let sha256 = name == "SHA-256";
                let better = match &best {
                    Some(Challenge::Digest(known)) => sha256 && !known.sha256,
                    _ => true,
                };
                if better {
                    best = Some(Challenge::Digest(Digest {
                        realm: get("realm").unwrap_or_default(),
                        nonce: get("nonce").unwrap_or_default(),
                        opaque: get("opaque"),
                        sha256,
                        session,
                        qop,
                        count: 0,
                    }));
                }
            }
        }
        best
    }

    /// The `Authorization` header for a request. `uri` is path and query as they are sent.
    pub fn answer(&mut self, login: &Login, method: &str, uri: &str) -> String {
        match self {
            Challenge::Basic => {
                let text = format!("{}:{}", login.user, login.password.expose());
                format!("Basic {}", BASE64.encode(text.as_bytes()))
            }
            Challenge::Digest(digest) => {
                digest.count += 1;
                digest.answer(login, method, uri, &crate::storage::upload_id())
            }
        }
    }
}

impl Digest {
    fn hash(&self, text: &str) -> String {
        if self.sha256 {
            crate::base::digest::hex_sha256(text.as_bytes())
        } else {
            HEXLOWER.encode(&crate::base::md5::md5(text.as_bytes()))
        }
    }

    fn answer(&self, login: &Login, method: &str, uri: &str, cnonce: &str) -> String {
        let mut secret = self.hash(&format!("{}:{}:{}", login.user, self.realm, login.password.expose()));
        if self.session {
            secret = self.hash(&format!("{secret}:{}:{cnonce}", self.nonce));
        }
        let request = self.hash(&format!("{method}:{uri}"));
        let response = if self.qop {
            self.hash(&format!("{secret}:{}:{:08x}:{cnonce}:auth:{request}", self.nonce, self.count))
        } else {
            self.hash(&format!("{secret}:{}:{request}", self.nonce))
        };
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let name = if self.sha256 { "SHA-256" } else { "MD5" };
        let session = if self.session { "-sess" } else { "" };
        let mut header = format!(
            "Digest username=\"{}\", realm=\"{}\", nonce=\"{}\", uri=\"{uri}\", response=\"{response}\", algorithm={name}{session}",
            quoted(&login.user),
            quoted(&self.realm),
            quoted(&self.nonce)
        );
        if self.qop {
            header.push_str(&format!(", qop=auth, nc={:08x}, cnonce=\"{cnonce}\"", self.count));
        }
        if let Some(opaque) = &self.opaque {
            header.push_str(&format!(", opaque=\"{}\"", quoted(opaque)));
        }
        header
    }
}

/// The challenges of one header: scheme and parameters of each.
fn challenges(header: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found: Vec<(String, Vec<(String, String)>)> = vec![];
    for part in split_outside_quotes(header) {
        let part = part.trim();
        let (scheme, rest) = match part.split_once(char::is_whitespace) {
            // `Digest realm="x"`: a word before the first parameter begins a challenge.
            Some((word, rest)) if !word.contains('=') => (Some(word), rest.trim()),
            None if !part.contains('=') && !part.is_empty() => (Some(part), ""),
            _ => (None, part),
        };
        if let Some(scheme) = scheme {
            found.push((scheme.to_owned(), vec![]));
        }
        if let (Some((_, parameters)), Some((key, value))) = (found.last_mut(), rest.split_once('=')) {
            let value = value.trim();
            let value = match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
                Some(quoted) => quoted.replace("\\\"", "\"").replace("\\\\", "\\"),
                None => value.to_owned(),
            };
            parameters.push((key.trim().to_owned(), value));
        }
    }
    found
}

fn split_outside_quotes(text: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut quoted, mut escaped) = (vec![], 0, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rfc(sha256: bool) -> Digest {
        // RFC 7616, 3.9.1.
        let header = "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm=SHA-256, \
                      nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"";
        let header = if sha256 { header.to_owned() } else { header.replace("SHA-256", "MD5") };
        match Challenge::choose(&[&header]) {
            Some(Challenge::Digest(digest)) => Digest { count: 1, ..digest },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_examples_of_the_standard() {
        let login = Login { user: "Mufasa".into(), password: Secret::new("Circle of Life") };
        let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        for (sha256, response) in [
            (true, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
            (false, "8ca523f5e9506fed4657c9700eebdbec"),
        ] {
            let header = rfc(sha256).answer(&login, "GET", "/dir/index.html", cnonce);
            assert!(header.contains(&format!("response=\"{response}\"")), "{header}");
        }
        let login = Login { user: "Aladdin".into(), password: Secret::new("open sesame") };
        let mut basic = Challenge::choose(&["Basic realm=\"x\""]).unwrap();
        assert_eq!(basic.answer(&login, "GET", "/"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }

    #[test]
    fn the_best_that_we_can_answer() {
        let digest = |header: &[&str]| match Challenge::choose(header) {
            Some(Challenge::Digest(digest)) => Some((digest.sha256, digest.realm)),
            _ => None,
        };
        let two = "Basic realm=\"a, b\", Digest realm=\"q\\\"r\", nonce=\"n\", qop=\"auth\", algorithm=MD5, Digest realm=s, nonce=n, qop=auth, algorithm=SHA-256";
        assert_eq!(digest(&[two]), Some((true, "s".to_owned())));
        assert_eq!(digest(&["Digest realm=\"q\\\"r\", nonce=n"]), Some((false, "q\"r".to_owned())));
        assert_eq!(Challenge::choose(&["Negotiate", "Bearer x=y"]), None);
        assert_eq!(Challenge::choose(&["Digest qop=auth-int, nonce=x", "Basic"]), Some(Challenge::Basic));
        assert_eq!(Challenge::choose(&[]), None);
    }
}
