//! HTTP requests with bounded silence: the only file that knows the HTTP library.
//!
//! A status is no error here. What cannot be answered (no connection, a reset, silence) is a [`Failure`], and worth
//! another try. Proxies come from the usual environment variables.

use crate::base::limits;
use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use ureq::http;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Connections to one or several servers, kept for later requests.
#[derive(Clone, Debug)]
pub struct Client {
    agent: ureq::Agent,
}

/// What is sent after the headers.
pub enum Body<'a> {
    /// Nothing.
    Empty,
    /// Bytes at hand.
    Bytes(&'a [u8]),
    /// A stream of so many bytes.
    Stream(&'a mut dyn Read, u64),
}

/// One request. The URL is sent as it is: whoever builds it has escaped it.
pub struct Request<'a> {
    /// `GET`, `PROPFIND`, ...
    pub method: &'a str,
    /// The whole URL, without user and password.
    pub url: &'a str,
    /// Headers, beside `Host` and `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// What follows them.
    pub body: Body<'a>,
}

/// An answer.
pub struct Response {
    /// 200, 404, ...
    pub status: u16,
    headers: http::HeaderMap,
    body: ureq::Body,
}

/// No answer, or half of one.
#[derive(Debug)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Client {
    /// A client that trusts the system's authorities, and those in `ca_file`.
    pub fn new(https: bool, ca_file: Option<&Path>) -> Result<Client, String> {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .accept_encoding("identity")
            .user_agent(concat!("harmonylite/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(limits::CONNECT_TIMEOUT))
            .timeout_connect(Some(limits::CONNECT_TIMEOUT))
            .timeout_send_request(Some(limits::TRANSFER_STALL))
            .timeout_per_read(Some(limits::TRANSFER_STALL))
            .timeout_per_write(Some(limits::TRANSFER_STALL))
            .timeout_recv_response(Some(limits::HTTP_ANSWER))
            .input_buffer_size(64 << 10)
            .output_buffer_size(64 << 10)
            .max_idle_age(limits::HTTP_IDLE);
        if https {
            let roots = RootCerts::Specific(Arc::new(authorities(ca_file)?));
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Client { agent: config.build().new_agent() })
    }

    /// Sends a request and waits for the head of the answer.
    pub fn send(&self, request: Request<'_>) -> Result<Response, Failure> {
        let mut head = http::Request::builder().method(request.method).uri(request.url);
        for (name, value) in &request.headers {
            head = head.header(name.as_str(), value.as_str());
        }
        let unfit = |error: http::Error| Failure(format!("{}: {error}", request.method));
        let length = match &request.body {
            Body::Empty => None,
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::Stream(_, length) => Some(*length),
        };
        if let Some(length) = length {
            head = head.header("content-length", length.to_string());
        }
        let answer = match request.body {
            Body::Empty => self.agent.run(head.body(()).map_err(unfit)?),
            Body::Bytes(bytes) => self.agent.run(head.body(bytes).map_err(unfit)?),
            Body::Stream(source, _) => {
                let body = ureq::SendBody::from_reader(source);
                self.agent.run(head.body(body).map_err(unfit)?)
            }
        };
        let (head, body) = answer.map_err(|error| failure(request.method, &error))?.into_parts();
        Ok(Response { status: head.status.as_u16(), headers: head.headers, body })
    }
}

fn failure(method: &str, error: &ureq::Error) -> Failure {
    Failure(match error {
        ureq::Error::Timeout(what) => format!("{method}: time is up ({what})"),
        ureq::Error::Io(error) => format!("{method}: {error}"),
        // Others may hold the URL, and with it what nobody should read.
        other => format!("{method}: {}", crate::base::secret::redact(&other.to_string())),
    })
}

fn authorities(ca_file: Option<&Path>) -> Result<Vec<Certificate<'static>>, String> {
    let mut found: Vec<Certificate<'static>> = rustls_native_certs::load_native_certs()
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate.as_ref()).to_owned())
        .collect();
    if let Some(path) = ca_file {
        let wrong = |why: String| format!("{}: {why}", path.display());
        let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let before = found.len();
        for item in ureq::tls::parse_pem(&pem) {
            if let Ok(ureq::tls::PemItem::Certificate(certificate)) = item {
                found.push(certificate);
            }
        }
        if found.len() == before {
            return Err(wrong("holds no certificate (PEM)".to_owned()));
        }
    }
    Ok(found)
}

impl Response {
    /// A header's text; `None` when it is missing or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All values of a header.
    pub fn header_all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
    }

    /// The headers whose names begin with `prefix`, without it.
    pub fn headers_after(&self, prefix: &str) -> Vec<(String, String)> {
        let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            Some((name.as_str().strip_prefix(prefix)?.to_owned(), value.to_str().ok()?.to_owned()))
        };
        self.headers.iter().filter_map(pair).collect()
    }

    /// The announced length of the body (of a HEAD: of the body that a GET would bring).
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// A short body as text; what is beyond a megabyte is an error.
    pub fn text(mut self) -> Result<String, Failure> {
        let mut bytes = Vec::new();
        let mut reader = Moving::new(self.body.as_reader()).take(limits::HTTP_TEXT + 1);
        reader.read_to_end(&mut bytes).map_err(|error| Failure(format!("answer: {error}")))?;
        if bytes.len() as u64 > limits::HTTP_TEXT {
            return Err(Failure(format!("answer: longer than {} bytes", limits::HTTP_TEXT)));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads what is left, so that the connection can be used again.
    pub fn finish(self) {
        let _ = self.text();
    }

    /// The body as a stream.
    pub fn reader(self) -> impl Read {
        Moving::new(self.body.into_reader())
    }
}

/// A body that must go on coming: a byte now and then keeps a connection from being silent, and a transfer from ending.
struct Moving<R> {
    body: R,
    since: Instant,
    bytes: u64,
}

impl<R> Moving<R> {
    fn new(body: R) -> Moving<R> {
        Moving { body, since: Instant::now(), bytes: 0 }
    }
}

impl<R: Read> Read for Moving<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buffer)?;
        self.bytes += count as u64;
        if self.since.elapsed() > limits::TRANSFER_STALL {
            if self.bytes < limits::TRANSFER_LEAST && count > 0 {
                let text = format!("only {} bytes in {} s", self.bytes, limits::TRANSFER_STALL.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            (self.since, self.bytes) = (Instant::now(), 0);
        }
        Ok(count)
    }
}

/// Escapes what must be escaped in a path or (with `slash`) in one component of it: all but letters, digits and `-._~`.
pub fn escape(text: &str, slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            b'/' if !slash => out.push('/'),
            _ => {
                out.push('%');
                out.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
            }
        }
    }
    out
}

/// Undoes [`escape`]; a lone `%` stays. The error: what comes out is not UTF-8.
pub fn unescape(text: &str) -> Result<String, String> {
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
    String::from_utf8(out).map_err(|_| "not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_is_undone() {
        assert_eq!(escape("a b/ü%~", false), "a%20b/%C3%BC%25~");
        assert_eq!(escape("a/b", true), "a%2Fb");
        for text in ["", "a b/ü%~", "100%", "%zz", "+&=?#"] {
            assert_eq!(unescape(&escape(text, true)).unwrap(), text);
        }
        assert_eq!(unescape("%zz%2").unwrap(), "%zz%2");
        assert!(unescape("%ff").is_err());
    }
}
