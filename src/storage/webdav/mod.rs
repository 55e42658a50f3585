//! Snapshots on a WebDAV server: `https://host/root?dir=/d&login=u&secret=p`.
//!
//! Written for what servers have in common: `Content-Length` always, directories with a trailing slash, an absolute
//! `Destination`. Every upload has a name of its own and ends with a MOVE; conditions on requests are not relied on.

mod auth;

use super::http::{Body, Client, Request, Response};
use super::options::WebdavOptions;
use super::pour::pour;
use super::tree::{Entry, Files, Source, Tree};
use super::urls::{escape, unescape};
use super::{Error, is_snapshot};
use crate::base::limits;
use auth::{Challenge, Login};
use roxmltree::Document;
use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The directory on the server.
pub struct Webdav {
    client: Client,
    options: WebdavOptions,
    challenge: Mutex<Option<Challenge>>,
    /// Whether MOVE replaces a file; `None` before that was tried.
    replaces: Mutex<Option<bool>>,
}

impl Webdav {
    /// The store; nothing is asked of the server yet. The error: the CA file cannot be used.
    pub fn store(options: WebdavOptions, read_back: bool) -> Result<Files<Webdav>, Error> {
        let client = Client::new(&options.root, options.ca_file.as_deref())?;
        let tree = Webdav { client, options, challenge: Mutex::new(None), replaces: Mutex::new(None) };
        Ok(Files { tree, read_back })
    }

    /// The URL of the first `levels` directories, with a trailing slash.
    fn dir_url(&self, levels: usize) -> String {
        let dirs: String =
            self.options.dir[..levels].iter().map(|part| format!("{}/", escape(part))).collect();
        format!("{}/{dirs}", self.options.root)
    }

    fn url(&self, name: &str) -> String {
        format!("{}{}", self.dir_url(self.options.dir.len()), escape(name))
    }

    fn challenge(&self) -> MutexGuard<'_, Option<Challenge>> {
        self.challenge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether answering Basic would show a password that was kept hidden before.
    fn steps_down(&self) -> bool {
        self.options.had_digest.load(Relaxed) && self.options.root.starts_with("http://")
    }

    /// One request, authenticated as the server asks. A new challenge (the first one, or the successor of a stale nonce) is
    /// answered once.
    fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        source: Option<Source<'_>>,
    ) -> Result<Response, Error> {
        let mark = if self.options.query.is_empty() { "" } else { "?" };
        let url = format!("{url}{mark}{}", self.options.query);
        let after_scheme = url.find("://").map_or(0, |at| at + 3);
        let uri = url[after_scheme..].find('/').map_or("/", |at| &url[after_scheme + at..]);
        let login = Login { user: self.options.user.clone(), password: self.options.password.clone() };
        let mut tried = None;
        loop {
            let mut all: Vec<(String, String)> =
                headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let mut nonce = None;
            if let Some(challenge) = self.challenge().as_mut() {
                all.push(("authorization".to_owned(), challenge.answer(&login, method, uri)));
                nonce = Some(challenge.clone());
            }
            let mut stream;
            let body = match source {
                None => Body::Empty,
                Some(Source::Bytes(bytes)) => Body::Bytes(bytes),
                Some(source) => {
                    stream = source.open()?;
                    Body::Stream(&mut stream, source.length())
                }
            };
            let response = self.client.send(Request { method, url: &url, headers: all, body })?;
            if response.status != 401 {
                return Ok(response);
            }
            let offered = Challenge::choose(&response.header_all("www-authenticate"));
            response.finish();
            match offered {
                Some(Challenge::Basic) if self.steps_down() => {
                    return Err(Error::Permanent(
                        "http 401: the server asked for Digest before and asks for Basic now, over http: the password is not \
                         sent in the clear (use https; a restart of this program forgets what was asked before)"
                            .to_owned(),
                    ));
                }
                // A server that asks for the same again does not accept the password.
                Some(Challenge::Basic) if nonce == Some(Challenge::Basic) => return Err(refused()),
                // A fresh nonce may be the successor of a stale one, but only once.
                Some(_) if tried == Some(true) || (tried == Some(false) && nonce.is_none()) => {
                    return Err(refused());
                }
                Some(challenge) => {
                    if matches!(challenge, Challenge::Digest(_)) {
                        self.options.had_digest.store(true, Relaxed);
                    }
                    tried = Some(nonce.is_some());
                    *self.challenge() = Some(challenge);
                }
                None => {
                    return Err(Error::Permanent(
                        "http 401 with no challenge that can be answered".to_owned(),
                    ));
                }
            }
        }
    }

    /// Asks for the entries of a directory, or for one file.
    fn propfind(&self, url: &str, depth: &str) -> Result<Found, Error> {
        let body = b"<?xml version=\"1.0\"?><propfind xmlns=\"DAV:\"><prop><getcontentlength/><resourcetype/></prop></propfind>";
        let headers = [("depth", depth), ("content-type", "application/xml")];
        let response = self.send("PROPFIND", url, &headers, Some(Source::Bytes(body)))?;
        match response.status {
            200..=299 => entries(&response.text()?).map(Found::Entries),
            404 => Ok(Found::Nothing),
            405 => {
                response.finish();
                Ok(Found::NotOffered)
            }
            _ => Err(status(response)),
        }
    }

    /// A request that moves or copies a file.
    fn transfer(&self, method: &str, from: &str, to: &str) -> Result<(), Error> {
        let destination = self.url(to);
        let headers = [("destination", destination.as_str()), ("overwrite", "T")];
        let response = self.send(method, &self.url(from), &headers, None)?;
        match response.status {
            200..=299 => {
                response.finish();
                Ok(())
            }
            404 => Err(Error::NotFound),
            _ => Err(status(response)),
        }
    }
}

/// What a PROPFIND brought.
enum Found {
    Entries(Vec<Entry>),
    Nothing,
    /// The server does not know the request (nginx without its extension).
    NotOffered,
}

fn refused() -> Error {
    Error::Permanent("http 401: login or secret is wrong".to_owned())
}

/// The error that a status means.
fn status(response: Response) -> Error {
    let status = response.status;
    response.finish();
    error_of(status)
}

fn error_of(status: u16) -> Error {
    let text = match status {
        403 => "http 403: not allowed".to_owned(),
        409 => "http 409: the directory above is missing".to_owned(),
        423 => "http 423: locked".to_owned(),
        507 => "http 507: the server's disk is full".to_owned(),
        _ => format!("http {status}"),
    };
    match status {
        408 | 409 | 412 | 423 | 425 | 429 | 500 | 502..=504 => Error::Transient(text),
        _ => Error::Permanent(text),
    }
}

/// The files of a multistatus document.
fn entries(text: &str) -> Result<Vec<Entry>, Error> {
    let unreadable = |error: roxmltree::Error| Error::Transient(format!("unreadable list: {error}"));
    let document = Document::parse(text).map_err(unreadable)?;
    let dav = |name: &'static str| move |node: &roxmltree::Node<'_, '_>| node.has_tag_name(("DAV:", name));
    let mut found = vec![];
    for response in document.descendants().filter(dav("response")) {
        let href = response.descendants().find(dav("href")).and_then(|node| node.text()).unwrap_or_default();
        let collection = response.descendants().any(|node| dav("collection")(&node));
        let size = response.descendants().find(dav("getcontentlength")).and_then(|node| node.text());
        let last = href.trim().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if let (false, Some(name)) = (collection || href.trim().ends_with('/'), unescape(last)) {
            let size = size.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            found.push(Entry { name, size });
        }
    }
    Ok(found)
}

impl Tree for Webdav {
    fn describe(&self) -> String {
        format!("WebDAV {}", self.dir_url(self.options.dir.len()))
    }

    fn make_dirs(&self) -> Result<(), Error> {
        let all = self.options.dir.len();
        let make = |levels: usize| {
            self.send("MKCOL", &self.dir_url(levels), &[], None).map(|answer| {
                let status = answer.status;
                answer.finish();
                status
            })
        };
        // 405 means that the directory is there; 409, and nginx's 500 or 404, that one above it is not.
        if all == 0 || matches!(make(all)?, 200..=299 | 405) {
            return Ok(());
        }
        let mut last = 0;
        for levels in 1..=all {
            last = make(levels)?;
        }
        match last {
            200..=299 | 405 => Ok(()),
            // Some servers say this when the directory is there: they are asked whether it is.
            301 | 403 if matches!(self.propfind(&self.dir_url(all), "0")?, Found::Entries(_)) => Ok(()),
            status => Err(Error::Permanent(format!(
                "create directory {}: http {status}",
                self.options.dir.join("/")
            ))),
        }
    }

    fn list(&self) -> Result<Vec<Entry>, Error> {
        match self.propfind(&self.dir_url(self.options.dir.len()), "1")? {
            Found::Entries(entries) => Ok(entries),
            Found::Nothing => Ok(vec![]),
            // Without lists, only what has the usual name can be found.
            Found::NotOffered => {
                let name = limits::SNAPSHOT_NAME;
                let size = self.size(name)?;
                Ok(size.map(|size| Entry { name: name.to_owned(), size }).into_iter().collect())
            }
        }
    }

    fn size(&self, name: &str) -> Result<Option<u64>, Error> {
        let response = self.send("HEAD", &self.url(name), &[], None)?;
        match (response.status, response.length()) {
            (200..=299, Some(length)) => Ok(Some(length)),
            (200..=299, None) => match self.propfind(&self.url(name), "0")? {
                Found::Entries(found) => Ok(found.first().map(|entry| entry.size)),
                Found::Nothing => Ok(None),
                Found::NotOffered => Err(error_of(405)),
            },
            (404, _) => Ok(None),
            _ => Err(status(response)),
        }
    }

    fn write(&self, name: &str, source: Source<'_>) -> Result<(), Error> {
        let kind = if is_snapshot(name) { "application/vnd.sqlite3" } else { "application/octet-stream" };
        // A challenge that comes after the body would cost sending the body twice: it is asked for before.
        if self.challenge().is_none() {
            self.size(name)?;
        }
        let response = self.send("PUT", &self.url(name), &[("content-type", kind)], Some(source))?;
        match response.status {
            200..=299 => {
                response.finish();
                Ok(())
            }
            _ => Err(status(response)),
        }
    }

    fn read(&self, name: &str, sink: &mut dyn Write) -> Result<(), Error> {
        let response = self.send("GET", &self.url(name), &[], None)?;
        match response.status {
            200..=299 => pour(&mut response.reader(), sink),
            404 => Err(Error::NotFound),
            _ => Err(status(response)),
        }
    }

    /// Tried once. Some servers delete the target of a MOVE before they find that there is nothing to move.
    fn replaces(&self) -> Result<bool, Error> {
        let known = || self.replaces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(replaces) = *known() {
            return Ok(replaces);
        }
        let id = super::upload_id();
        let (probe, missing) =
            (format!("snapshot-probe.{id}.tmp"), format!("snapshot-probe.{id}-missing.tmp"));
        self.write(&probe, Source::Bytes(b"probe"))?;
        let moved = self.transfer("MOVE", &missing, &probe);
        let survives = self.size(&probe)?.is_some();
        self.remove(&probe)?;
        let careful = survives && moved.is_err();
        log::debug!("{}: MOVE {}", self.describe(), if careful { "replaces" } else { "deletes, then moves" });
        *known() = Some(careful);
        Ok(careful)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        self.transfer("MOVE", from, to)
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        self.transfer("COPY", from, to)
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let response = self.send("DELETE", &self.url(name), &[], None)?;
        match response.status {
            200..=299 | 404 => {
                response.finish();
                Ok(())
            }
            _ => Err(status(response)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "servers of tests have threads and pauses of their own")]
    use super::*;

    #[test]
    fn names_are_escaped_in_urls() {
        let dir = vec!["harmonylite".to_owned(), "my snapshots".to_owned()];
        let options = WebdavOptions { root: "http://h".into(), dir, ..WebdavOptions::default() };
        let store = Webdav::store(options, true).unwrap();
        assert_eq!(store.tree.url("a b"), "http://h/harmonylite/my%20snapshots/a%20b");
    }

    #[test]
    fn lists_of_several_servers() {
        let apache = "<?xml version=\"1.0\"?><D:multistatus xmlns:D=\"DAV:\"><D:response><D:href>/d/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop></D:propstat></D:response><D:response xmlns:lp1=\"DAV:\"><D:href>/d/a%20b</D:href><D:propstat><D:prop><lp1:getcontentlength>12</lp1:getcontentlength><lp1:resourcetype/></D:prop></D:propstat></D:response></D:multistatus>";
        assert_eq!(entries(apache).unwrap(), [Entry { name: "a b".into(), size: 12 }]);
        // A list without sizes, with an absolute URL and without a prefix.
        let other = "<multistatus xmlns=\"DAV:\"><response><href>http://h/d/</href></response><response><href> http://h/d/x </href></response></multistatus>";
        assert_eq!(entries(other).unwrap(), [Entry { name: "x".into(), size: 0 }]);
        assert!(entries("<multistatus xmlns=\"DAV:\"/>").unwrap().is_empty());
        assert!(matches!(entries("<html>"), Err(Error::Transient(_))));
    }

    #[test]
    fn statuses_that_pass_and_that_last() {
        for (code, passes) in [
            (401, false),
            (403, false),
            (405, false),
            (409, true),
            (412, true),
            (423, true),
            (503, true),
            (507, false),
        ] {
            assert_eq!(matches!(error_of(code), Error::Transient(_)), passes, "{code}");
        }
        assert_eq!(error_of(507).to_string(), "http 507: the server's disk is full");
    }

    /// A server that answers each connection with the next of some challenges; returns what it got.
    fn challenged(
        challenges: &[&str],
        options: &WebdavOptions,
        requests: usize,
    ) -> (Vec<Result<Option<u64>, String>>, String) {
        use std::io::Read;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let root = format!("http://{}", listener.local_addr().unwrap());
        let answers: Vec<String> = challenges.iter().map(|line| (*line).to_owned()).collect();
        let server = std::thread::spawn(move || {
            let mut got = String::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = vec![];
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                got.push_str(&String::from_utf8(head).unwrap());
                let status = if answer.is_empty() {
                    "200 OK".to_owned()
                } else {
                    format!("401 No\r\nwww-authenticate: {answer}")
                };
                write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    .unwrap();
            }
            got
        });
        // Opened anew for each request, as the daemon does.
        let results = (0..requests).map(|_| {
            let options = WebdavOptions { root: root.clone(), ..options.clone() };
            Webdav::store(options, true).unwrap().tree.size("x").map_err(|error| error.to_string())
        });
        (results.collect(), server.join().unwrap())
    }

    #[test]
    fn a_server_that_had_digest_gets_no_password_in_the_clear() {
        let options = WebdavOptions {
            user: "u".into(),
            password: crate::base::secret::Secret::new("hunter2"),
            ..WebdavOptions::default()
        };
        let digest = "Digest realm=r, nonce=n, qop=auth";
        let (results, got) = challenged(&[digest, "", "Basic realm=r"], &options, 2);
        assert_eq!(results[0], Ok(Some(0)));
        assert!(results[1].as_ref().unwrap_err().contains("asks for Basic now"), "{results:?}");
        assert!(got.contains("Digest username=") && !got.contains("Basic "), "{got}");
        // One that never had Digest is answered.
        let fresh = WebdavOptions { had_digest: Default::default(), ..options };
        let (results, got) = challenged(&["Basic realm=r", ""], &fresh, 1);
        assert!(results[0].is_ok() && got.contains("Basic "), "{results:?}");
    }
}
