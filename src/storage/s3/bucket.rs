//! Signed requests to one bucket: its address, its region, and the server's clock.

use super::dialect::Refusal;
use super::sigv4::{self, Signable};
use crate::base::md5::{Md5, md5};
use crate::base::{clock, digest, limits};
use crate::storage::http::{Body, Client, Request, Response};
use crate::storage::options::{Keys, S3Options};
use crate::storage::urls::escape_path;
use crate::storage::{Error, Upload};
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Hex SHA-256 of no bytes.
const EMPTY_HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A bucket on a server.
pub struct Bucket {
    client: Client,
    pub options: S3Options,
    scheme: &'static str,
    host: String,
    prefix: String,
    keys: Option<Keys>,
    region: Mutex<String>,
    /// Whether the region was asked for by a request of its own.
    asked_region: AtomicBool,
    /// Seconds that the server's clock is ahead of this machine's, as far as the server has told.
    skew: AtomicI64,
}

/// What a request carries.
#[derive(Clone, Copy)]
pub enum Payload<'a> {
    Empty,
    Bytes(&'a [u8]),
    Piece(&'a Upload<'a>, &'a Piece),
}

/// A part of a file, with its hashes.
pub struct Piece {
    offset: u64,
    length: u64,
    sha256: String,
    md5: String,
}

impl Piece {
    pub fn of(upload: &Upload<'_>, offset: u64, length: u64) -> Result<Piece, Error> {
        let silent = Upload { sent: &|_| {}, ..*upload };
        let mut source = silent.piece(offset, length)?;
        let (mut sha256, mut md5) = (ring::digest::Context::new(&ring::digest::SHA256), Md5::new());
        let mut buffer = vec![0; limits::OBJECT_CHUNK];
        let mut left = length;
        while left > 0 {
            let count = source.read(&mut buffer).map_err(|error| Error::Local(format!("read: {error}")))?;
            if count == 0 {
                return Err(Error::Local(format!("{}: became shorter", upload.path.display())));
            }
            sha256.update(&buffer[..count]);
            md5.update(&buffer[..count]);
            left -= count as u64;
        }
        let sha256 = data_encoding::HEXLOWER.encode(sha256.finish().as_ref());
        Ok(Piece { offset, length, sha256, md5: data_encoding::BASE64.encode(&md5.finish()) })
    }
}

/// One request, still to be signed.
pub struct Call<'a> {
    method: &'a str,
    /// `None`: the bucket itself.
    key: Option<&'a str>,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    payload: Payload<'a>,
}

impl<'a> Call<'a> {
    pub fn new(method: &'a str, key: Option<&'a str>) -> Call<'a> {
        Call { method, key, query: vec![], headers: vec![], payload: Payload::Empty }
    }

    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn payload(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }
}

impl Bucket {
    /// Nothing is asked of the server yet. The error: the CA file cannot be used.
    pub fn new(options: S3Options, keys: Option<Keys>) -> Result<Bucket, Error> {
        let (scheme, host) = match options.endpoint.split_once("://") {
            Some(("https", host)) => ("https", host),
            Some((_, host)) => ("http", host),
            None if options.use_ssl => ("https", options.endpoint.as_str()),
            None => ("http", options.endpoint.as_str()),
        };
        let host = host.trim_end_matches('/').to_owned();
        let prefix = match options.path.trim_matches('/') {
            "" => String::new(),
            path => format!("{path}/"),
        };
        Ok(Bucket {
            client: Client::new(&format!("{scheme}://{host}"), options.ca_file.as_deref())?,
            region: Mutex::new(region_of(&options.region, &host)),
            scheme,
            host,
            prefix,
            keys,
            options,
            asked_region: AtomicBool::new(false),
            skew: AtomicI64::new(0),
        })
    }

    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Whether the bucket's name stands in the host's name.
    fn is_in_host_name(&self) -> bool {
        let host = self.host.split(':').next().unwrap_or_default();
        let wants = host.ends_with("amazonaws.com") || host.ends_with("googleapis.com");
        // The certificate of the host does not cover a bucket's name with a dot in it.
        let fits = !self.options.bucket.contains('.') || self.scheme == "http";
        !self.options.force_path_style.unwrap_or(!(wants && fits))
    }

    /// Host and escaped path of a key; without a key, of the bucket.
    fn address(&self, key: Option<&str>, region: &str) -> (String, String) {
        let mut host = self.host.clone();
        if host == "s3.amazonaws.com" && region != "us-east-1" {
            host = format!("s3.{region}.amazonaws.com");
        }
        let key = key.map_or(String::new(), escape_path);
        if self.is_in_host_name() {
            (format!("{}.{host}", self.options.bucket), format!("/{key}"))
        } else if key.is_empty() {
            (host, format!("/{}", self.options.bucket))
        } else {
            (host, format!("/{}/{key}", self.options.bucket))
        }
    }

    pub fn region(&self) -> String {
        self.region.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends one signed request.
    fn send(&self, call: &Call<'_>) -> Result<Response, Error> {
        let region = self.region();
        let (host, path) = self.address(call.key, &region);
        let hash = match call.payload {
            Payload::Empty => EMPTY_HASH.to_owned(),
            Payload::Bytes(bytes) => digest::hex_sha256(bytes),
            Payload::Piece(_, piece) => piece.sha256.clone(),
        };
        let time = clock::compact(clock::unix_ms() + self.skew.load(Relaxed) * 1000);
        let mut headers = call.headers.clone();
        match call.payload {
            Payload::Piece(_, piece) => headers.push(("content-md5".to_owned(), piece.md5.clone())),
            Payload::Bytes(bytes) if !bytes.is_empty() => {
                headers.push(("content-md5".to_owned(), data_encoding::BASE64.encode(&md5(bytes))));
            }
            _ => {}
        }
        if let Some(keys) = &self.keys {
            headers.push(("x-amz-content-sha256".to_owned(), hash.clone()));
            headers.push(("x-amz-date".to_owned(), time.clone()));
            if !keys.token.is_empty() {
                headers.push(("x-amz-security-token".to_owned(), keys.token.expose().to_owned()));
            }
            let mut signed = headers.clone();
            signed.push(("host".to_owned(), host.clone()));
            let signable = Signable {
                method: call.method,
                path: &path,
                query: &call.query,
                headers: &signed,
                body_hash: &hash,
            };
            headers.push(("authorization".to_owned(), sigv4::sign(&signable, keys, &time, &region, "s3")));
        }
        let query = sigv4::query_text(&call.query);
        let mark = if query.is_empty() { "" } else { "?" };
        let url = format!("{}://{host}{path}{mark}{query}", self.scheme);
        let mut stream;
        let body = match call.payload {
            Payload::Empty if matches!(call.method, "PUT" | "POST") => Body::Bytes(&[]),
            Payload::Empty => Body::Empty,
            Payload::Bytes(bytes) => Body::Bytes(bytes),
            Payload::Piece(upload, piece) => {
                stream = upload.piece(piece.offset, piece.length)?;
                Body::Stream(&mut stream, piece.length)
            }
        };
        self.client.send(Request { method: call.method, url: &url, headers, body })
    }

    /// Sends a request that succeeds with a `2xx` status. If the server names another region or time, the request is signed
    /// with those and sent once more.
    pub fn call(&self, call: &Call<'_>) -> Result<Result<Response, Refusal>, Error> {
        for last in [false, false, true] {
            let response = self.send(call)?;
            if (200..300).contains(&response.status) {
                return Ok(Ok(response));
            }
            let refusal = Refusal::read(response);
            if last || !(self.learn(&refusal) || self.learn_by_asking(call, &refusal)?) {
                return Ok(Err(refusal));
            }
        }
        unreachable!("the last try returns")
    }

    /// Takes from a refusal what makes the next try a better one: the region, the server's time. False: it says nothing new.
    fn learn(&self, refusal: &Refusal) -> bool {
        if let Some(region) = &refusal.region
            && matches!(refusal.status, 301 | 307 | 400 | 403)
            && *region != self.region()
            && self.options.region.is_empty()
        {
            log::debug!("{}: the bucket's region is {region}", self.describe());
            region.clone_into(&mut self.region.lock().unwrap_or_else(PoisonError::into_inner));
            return true;
        }
        if let (400 | 403, Some(time)) = (refusal.status, refusal.time) {
            let skew = time - clock::unix_ms() / 1000;
            if (skew - self.skew.load(Relaxed)).abs() > 240 {
                log::warn!(
                    "{}: the server's clock differs from this machine's by {skew} s; signing with its time",
                    self.describe()
                );
                self.skew.store(skew, Relaxed);
                return true;
            }
        }
        false
    }

    /// The refusal of a HEAD has no body, so some servers (Garage) cannot tell the region in it. A GET asks for it, once.
    fn learn_by_asking(&self, call: &Call<'_>, refusal: &Refusal) -> Result<bool, Error> {
        if call.method != "HEAD"
            || !matches!(refusal.status, 301 | 400 | 403)
            || !self.options.region.is_empty()
            || self.asked_region.swap(true, Relaxed)
        {
            return Ok(false);
        }
        let response = self.send(&Call::new("GET", None).query("list-type", "2").query("max-keys", "1"))?;
        Ok(response.status >= 300 && self.learn(&Refusal::read(response)))
    }

    /// As [`Bucket::call`], with a refusal as an error.
    pub fn done(&self, call: &Call<'_>) -> Result<Response, Error> {
        self.call(call)?.map_err(|refusal| refusal.error())
    }

    /// What it is, for messages.
    pub fn describe(&self) -> String {
        format!("S3 bucket {} at {}", self.options.bucket, self.host)
    }

    /// The part of the keys of our objects before their names.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// The region to begin with: the configured one, the one in the endpoint's name, or the oldest of all.
fn region_of(configured: &str, host: &str) -> String {
    if !configured.is_empty() {
        return configured.to_owned();
    }
    let host = host.split(':').next().unwrap_or_default();
    let labels: Vec<&str> = host.split('.').collect();
    match labels.as_slice() {
        [.., "s3", region, "amazonaws", "com"] | ["s3", region, "backblazeb2", "com"] => (*region).to_owned(),
        [.., "r2", "cloudflarestorage", "com"] => "auto".to_owned(),
        [region, "digitaloceanspaces", "com"] => (*region).to_owned(),
        ["s3", region, "scw", "cloud"] | ["s3", region, "wasabisys", "com"] => (*region).to_owned(),
        [region, "your-objectstorage", "com"] => (*region).to_owned(),
        _ => "us-east-1".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_regions_and_styles() {
        let address = |endpoint: &str, bucket: &str, region: &str| {
            let options = S3Options {
                endpoint: endpoint.into(),
                bucket: bucket.into(),
                region: region.into(),
                ..S3Options::default()
            };
            let s3 = Bucket::new(options, None).unwrap();
            let (host, path) = s3.address(Some("a b/snapshot.db"), &s3.region());
            format!("{} {}://{host}{path}", s3.region(), s3.scheme)
        };
        for (endpoint, bucket, region, url) in [
            ("localhost:9000", "b", "", "us-east-1 http://localhost:9000/b/a%20b/snapshot.db"),
            ("http://h/", "b", "x", "x http://h/b/a%20b/snapshot.db"),
            ("s3.amazonaws.com", "b", "", "us-east-1 http://b.s3.amazonaws.com/a%20b/snapshot.db"),
            (
                "s3.amazonaws.com",
                "b",
                "eu-west-1",
                "eu-west-1 http://b.s3.eu-west-1.amazonaws.com/a%20b/snapshot.db",
            ),
            (
                "s3.eu-west-1.amazonaws.com",
                "b",
                "",
                "eu-west-1 http://b.s3.eu-west-1.amazonaws.com/a%20b/snapshot.db",
            ),
            (
                "x.r2.cloudflarestorage.com",
                "b",
                "",
                "auto http://x.r2.cloudflarestorage.com/b/a%20b/snapshot.db",
            ),
        ] {
            assert_eq!(address(endpoint, bucket, region), url);
        }
    }

    #[test]
    fn the_region_in_an_endpoints_name() {
        for (host, region) in [
            ("s3.eu-west-1.amazonaws.com", "eu-west-1"),
            ("bucket.s3.eu-west-1.amazonaws.com:443", "eu-west-1"),
            ("s3.us-west-004.backblazeb2.com", "us-west-004"),
            ("x.r2.cloudflarestorage.com", "auto"),
            ("ams3.digitaloceanspaces.com", "ams3"),
            ("s3.fr-par.scw.cloud", "fr-par"),
            ("s3.eu-central-2.wasabisys.com", "eu-central-2"),
            ("fsn1.your-objectstorage.com", "fsn1"),
            ("s3.amazonaws.com", "us-east-1"),
            ("localhost:9000", "us-east-1"),
        ] {
            assert_eq!(region_of("", host), region, "{host}");
            assert_eq!(region_of("mine", host), "mine");
        }
    }

    fn bucket(options: S3Options) -> Bucket {
        Bucket::new(S3Options { bucket: "b".into(), ..options }, None).unwrap()
    }

    #[test]
    fn a_refusal_teaches_region_and_time_once() {
        let s3 = bucket(S3Options { endpoint: "h".into(), ..S3Options::default() });
        let elsewhere = Refusal { status: 400, region: Some("eu-9".into()), ..Refusal::default() };
        assert!(s3.learn(&elsewhere) && s3.region() == "eu-9" && !s3.learn(&elsewhere));
        let late = Refusal { status: 403, time: Some(clock::unix_ms() / 1000 + 3600), ..Refusal::default() };
        assert!(s3.learn(&late) && !s3.learn(&late));
        assert!((s3.skew.load(Relaxed) - 3600).abs() < 60);
        assert!(!s3.learn(&Refusal { status: 404, region: Some("x".into()), ..Refusal::default() }));
    }

    #[test]
    fn a_configured_region_stays() {
        let s3 = bucket(S3Options { endpoint: "h".into(), region: "mine".into(), ..S3Options::default() });
        let elsewhere = Refusal { status: 400, region: Some("eu-9".into()), ..Refusal::default() };
        assert!(!s3.learn(&elsewhere) && s3.region() == "mine");
    }

    #[test]
    fn keys_have_one_slash_after_their_path() {
        for (path, key) in [("", "snapshot.db"), ("/", "snapshot.db"), ("/a/b/", "a/b/snapshot.db")] {
            let s3 = bucket(S3Options { endpoint: "h".into(), path: path.into(), ..S3Options::default() });
            assert_eq!(s3.key("snapshot.db"), key);
        }
    }
}
