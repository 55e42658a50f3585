//! HTTP requests with bounded silence: the only file that knows the HTTP library.
//!
//! A status is no error here. Without an answer (no connection, a reset, silence) a request may be tried again:
//! [`Error::Transient`]. Proxies come from the usual environment variables.

use super::Error;
use super::pour::Moving;
use crate::base::{limits, secret};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::http;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Connections to one or several servers, kept for later requests.
#[derive(Clone, Debug)]
pub struct Client {
    agent: ureq::Agent,
}

/// What is sent after the headers.
pub enum Body<'a> {
    /// Nothing, and no `Content-Length`.
    Empty,
    /// Bytes in memory.
    Bytes(&'a [u8]),
    /// A stream, and the number of bytes that it gives.
    Stream(&'a mut dyn Read, u64),
}

/// One request. The URL is sent as it is: the caller has escaped it.
pub struct Request<'a> {
    /// `GET`, `PROPFIND`, ...
    pub method: &'a str,
    /// The whole URL, without user and password.
    pub url: &'a str,
    /// Headers, beside `Host` and `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// What is sent after the headers.
    pub body: Body<'a>,
}

/// The head of an answer, and its body, which is still to be read.
pub struct Response {
    /// The HTTP status, such as 404.
    pub status: u16,
    headers: http::HeaderMap,
    body: ureq::Body,
    /// The time in which a text must be whole.
    text: Duration,
}

impl Client {
    /// A client for the server of a URL. If that is `https`, it trusts the system's authorities and those in `ca_file`.
    pub fn new(url: &str, ca_file: Option<&Path>) -> Result<Client, Error> {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .accept_encoding("identity")
            .user_agent(concat!("harmonylite/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(limits::CONNECT_TIMEOUT))
            .timeout_connect(Some(limits::CONNECT_TIMEOUT))
            .timeout_send_request(Some(limits::TRANSFER_STALL))
            .timeout_per_write(Some(limits::TRANSFER_STALL))
            .input_buffer_size(64 << 10)
            .output_buffer_size(64 << 10)
            .max_idle_age(limits::HTTP_IDLE);
        if url.starts_with("https://") {
            let roots = RootCerts::Specific(Arc::new(authorities(ca_file)?));
            let cryptography = crate::nats::cryptography();
            let tls = TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(cryptography);
            config = config.tls_config(tls.build());
        }
        Ok(Client { agent: config.build().new_agent() })
    }

    /// Sends a request and waits for the head of the answer.
    pub fn send(&self, request: Request<'_>) -> Result<Response, Error> {
        let mut head = http::Request::builder().method(request.method).uri(request.url);
        for (name, value) in &request.headers {
            head = head.header(name.as_str(), value.as_str());
        }
        let unfit = |error: http::Error| Error::Permanent(format!("{}: {error}", request.method));
        let length = match &request.body {
            Body::Empty => None,
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::Stream(_, length) => Some(*length),
        };
        if let Some(length) = length {
            head = head.header("content-length", length.to_string());
        }
        let waits = Waits::of(request.method, length.unwrap_or(0));
        let answer = match request.body {
            Body::Empty => self.run(head.body(()).map_err(unfit)?, waits),
            Body::Bytes(bytes) => self.run(head.body(bytes).map_err(unfit)?, waits),
            Body::Stream(source, _) => {
                let body = ureq::SendBody::from_reader(source);
                self.run(head.body(body).map_err(unfit)?, waits)
            }
        };
        let (head, body) = answer.map_err(|error| failure(request.method, &error))?.into_parts();
        Ok(Response { status: head.status.as_u16(), headers: head.headers, body, text: waits.text })
    }

    fn run<S: ureq::AsSendBody>(
        &self,
        request: http::Request<S>,
        waits: Waits,
    ) -> Result<http::Response<ureq::Body>, ureq::Error> {
        let request = self.agent.configure_request(request);
        let request = request.timeout_recv_response(Some(waits.head)).timeout_per_read(Some(waits.silence));
        self.agent.run(request.build())
    }
}

/// How long a server may take.
#[derive(Clone, Copy)]
struct Waits {
    /// From the end of the request to the head of the answer.
    head: Duration,
    /// Between two pieces of the answer. The wait for its first piece counts too.
    silence: Duration,
    /// From the head of the answer to the end of a text.
    text: Duration,
}

impl Waits {
    /// `length`: bytes of the request's body.
    fn of(method: &str, length: u64) -> Waits {
        match method {
            "GET" | "HEAD" | "PROPFIND" => {
                let (silence, text) = (limits::TRANSFER_STALL, limits::HTTP_LIST);
                Waits { head: limits::HTTP_LOOK, silence, text }
            }
            _ => {
                // The end of the body may still be on its way, in the buffers of this machine and of others.
                let on_its_way = length.min(limits::IN_BUFFERS) / limits::THIN_LINE;
                let all = limits::HTTP_ANSWER + Duration::from_secs(on_its_way);
                Waits { head: all, silence: all, text: limits::HTTP_ANSWER }
            }
        }
    }
}

fn failure(method: &str, error: &ureq::Error) -> Error {
    Error::Transient(match error {
        ureq::Error::Timeout(what) => format!("{method}: time is up ({what})"),
        // So rustls reports a certificate that it does not accept: a person must change something.
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Error::Permanent(format!("{method}: {error}"));
        }
        ureq::Error::Io(error) => format!("{method}: {error}"),
        ureq::Error::BadUri(_) => return Error::Permanent(format!("{method}: the URL cannot be used")),
        // Other errors may hold the URL, which may hold a secret.
        other => format!("{method}: {}", secret::redact(&other.to_string())),
    })
}

fn authorities(ca_file: Option<&Path>) -> Result<Vec<Certificate<'static>>, Error> {
    let mut found: Vec<Certificate<'static>> = rustls_native_certs::load_native_certs()
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate.as_ref()).to_owned())
        .collect();
    if let Some(path) = ca_file {
        let wrong = |why: String| Error::Local(format!("{}: {why}", path.display()));
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

    /// The values of a header that may come several times.
    pub fn header_all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
    }

    /// The headers whose names begin with `prefix`; their names without it.
    pub fn headers_after(&self, prefix: &str) -> Vec<(String, String)> {
        let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            Some((name.as_str().strip_prefix(prefix)?.to_owned(), value.to_str().ok()?.to_owned()))
        };
        self.headers.iter().filter_map(pair).collect()
    }

    /// The announced length of the body, in bytes. After a HEAD: of the body that a GET would bring.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// The body as text. A body longer than `limits::HTTP_TEXT` is an error. It may come slowly: S3 answers at once, and sends
    /// a blank now and then while it completes an upload.
    pub fn text(mut self) -> Result<String, Error> {
        let mut bytes = Vec::new();
        let until = Instant::now() + self.text;
        let text = InTime { text: self.body.as_reader(), until, within: self.text };
        let mut reader = text.take(limits::HTTP_TEXT + 1);
        reader.read_to_end(&mut bytes).map_err(|error| Error::Transient(format!("answer: {error}")))?;
        if bytes.len() as u64 > limits::HTTP_TEXT {
            return Err(Error::Transient(format!("answer: longer than {} bytes", limits::HTTP_TEXT)));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads the body and forgets it, so that the connection can be used again.
    pub fn finish(self) {
        let _ = self.text();
    }

    /// The body as a stream.
    pub fn reader(self) -> impl Read {
        Moving::new(self.body.into_reader())
    }
}

/// A text that must end in time: however slowly it comes, nobody waits for it longer.
struct InTime<R> {
    text: R,
    until: Instant,
    within: Duration,
}

impl<R> InTime<R> {
    /// Notes that bytes came (none: the end of the text). An error: the time is up.
    fn note(&self, count: usize, now: Instant) -> io::Result<()> {
        if count > 0 && now > self.until {
            let text = format!("not whole within {} s", self.within.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }
}

impl<R: Read> Read for InTime<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.text.read(buffer)?;
        self.note(count, Instant::now())?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;

    #[test]
    fn a_text_may_come_slowly_and_must_end_in_time() {
        let (begun, within) = (Instant::now(), limits::HTTP_LIST);
        let text = InTime { text: io::empty(), until: begun + within, within };
        text.note(1, begun + within).unwrap();
        let late = begun + within + Duration::from_secs(1);
        assert_eq!(text.note(1, late).unwrap_err().kind(), io::ErrorKind::TimedOut);
        // A text that ends late has ended all the same.
        text.note(0, late).unwrap();
    }

    #[test]
    fn the_end_of_an_upload_may_be_on_its_way_when_all_of_it_was_written() {
        let head = |method: &str, length: u64| Waits::of(method, length).head;
        assert_eq!(head("PUT", 5), limits::HTTP_ANSWER);
        assert_eq!(head("PUT", 4 << 20), limits::HTTP_ANSWER + Duration::from_secs(128));
        assert_eq!(head("PUT", u64::MAX), limits::HTTP_ANSWER + Duration::from_secs(256));
        assert_eq!(head("PROPFIND", 100), limits::HTTP_LOOK);
    }

    #[test]
    fn authorities_must_be_certificates() {
        let scratch = Scratch::new("authorities");
        let path = scratch.path("ca.pem");
        assert!(Client::new("http://h", Some(&path)).is_ok(), "not needed without TLS");
        assert!(matches!(Client::new("https://h", Some(&path)), Err(Error::Local(_))));
        std::fs::write(&path, "no certificate").unwrap();
        let error = Client::new("https://h", Some(&path)).map(drop).unwrap_err();
        assert!(error.to_string().ends_with("ca.pem: holds no certificate (PEM)"), "{error}");
    }

    #[test]
    fn nobody_there_is_worth_another_try_and_a_wrong_header_is_not() {
        let client = Client::new("http://h", None).unwrap();
        let send = |url: &str, header: &str| {
            let headers = vec![("x".to_owned(), header.to_owned())];
            client.send(Request { method: "GET", url, headers, body: Body::Empty }).map(drop).unwrap_err()
        };
        // Nothing listens on the discard port of this machine.
        assert!(matches!(send("http://127.0.0.1:9/", "y"), Error::Transient(_)));
        assert!(matches!(send("http://127.0.0.1:9/", "\n"), Error::Permanent(_)));
    }
}
