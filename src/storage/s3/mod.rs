//! Snapshots in S3 and in servers that speak its protocol: a small client of our own.
//!
//! Requests are signed with the hash of their body, carry `Content-Length` and `Content-MD5`, and no checksum headers or
//! chunked encodings, which many servers refuse. A small file is one PUT with a condition, if the server was seen to honour
//! conditions. Other files are multipart uploads: a later uploader aborts them, so that they cannot be completed any more.

mod bucket;
mod credentials;
mod dialect;
mod multipart;
mod sigv4;

pub use credentials::find as find_keys;
pub use sigv4::{Signable, canonical_request, sign, string_to_sign};

use super::http::Response;
use super::options::{Keys, S3Options};
use super::pour::pour;
use super::urls::escape_path;
use super::{Backend, Error, Label, Stored, Upload, is_snapshot, is_upload_id};
use crate::base::limits;
use crate::base::retry::Tries;
use bucket::{Bucket, Call, Payload, Piece};
use dialect::{Refusal, items, root_text};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// Rows of a full page of a list.
const PAGE: usize = 1000;
/// Pages of unfinished uploads that are swept before an upload, at most.
const SWEEP_PAGES: usize = 20;

/// Names of the objects with which the server is tried: this prefix, and the id of an upload.
const PROBE: &str = "snapshot-probe-";

/// Pages of a list that may be empty, one after the other: some servers skip what was deleted so.
const EMPTY_PAGES: usize = 2;

/// Names of the headers that hold a label: this prefix, and the key of a pair.
const META: &str = "x-amz-meta-harmonylite-";

/// A store in a bucket.
pub struct S3 {
    bucket: Bucket,
    /// Whether the server honours conditions on a PUT; `None` before that was probed.
    conditions: Mutex<Option<bool>>,
}

/// Rows of a list, or the server's refusal.
type Listed = Result<Vec<Vec<String>>, Refusal>;

impl S3 {
    /// Nothing is asked of the server yet. The error: the CA file cannot be used.
    pub fn new(options: S3Options, keys: Option<Keys>) -> Result<S3, Error> {
        Ok(S3 { bucket: Bucket::new(options, keys)?, conditions: Mutex::new(None) })
    }

    /// An error if the bucket is missing: to a reader, no snapshot is not the same as no bucket.
    fn check_bucket(&self) -> Result<(), Error> {
        match self.bucket.call(&Call::new("HEAD", None))? {
            Ok(response) => {
                response.finish();
                Ok(())
            }
            Err(refusal) if refusal.status == 404 => {
                Err(Error::Permanent(format!("there is no bucket {}", self.bucket.options.bucket)))
            }
            // A key that may read objects need not be allowed to look at the bucket.
            Err(refusal) if refusal.status == 403 => Ok(()),
            Err(refusal) => Err(refusal.error()),
        }
    }

    fn head(&self, name: &str) -> Result<Option<Response>, Error> {
        let key = self.bucket.key(name);
        match self.bucket.call(&Call::new("HEAD", Some(&key)))? {
            Ok(response) => Ok(Some(response)),
            Err(refusal) if refusal.status == 404 => self.check_bucket().map(|()| None),
            Err(refusal) => Err(refusal.error()),
        }
    }

    /// The keys below our prefix, as rows of one text.
    fn objects(&self) -> Result<Vec<Vec<String>>, Error> {
        match self.pages(&[("list-type", "2")], "Contents", &["Key"])? {
            Ok(rows) => Ok(rows),
            Err(refusal) if refusal.status == 404 => self.check_bucket().map(|()| vec![]),
            Err(refusal) => Err(refusal.error()),
        }
    }

    fn metadata<'a>(&self, mut call: Call<'a>, label: &Label) -> Call<'a> {
        for (key, value) in label.pairs() {
            call = call.header(&format!("{META}{key}"), value);
        }
        call.header("content-type", "application/vnd.sqlite3")
    }

    /// Whether the server honours conditions on a PUT, tried once: a second creation must fail, a right tag must pass, a wrong
    /// one must fail. Servers that ignore conditions answer 200 to all of them.
    fn conditions(&self) -> Result<bool, Error> {
        let known = *self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known {
            return Ok(known);
        }
        let key = self.bucket.key(&format!("{PROBE}{}", super::upload_id()));
        let put = |name: &str, value: &str| {
            let call = Call::new("PUT", Some(&key)).header(name, value).payload(Payload::Bytes(b"probe"));
            self.bucket.call(&call).map(|answer| match answer {
                Ok(response) => {
                    let tag = response.header("etag").unwrap_or_default().to_owned();
                    response.finish();
                    (200, tag)
                }
                Err(refusal) => (refusal.status, String::new()),
            })
        };
        let (first, tag) = put("if-none-match", "*")?;
        let mut honoured = first == 200 && !tag.is_empty();
        honoured = honoured && put("if-none-match", "*")?.0 == 412;
        honoured = honoured && put("if-match", &tag)?.0 == 200;
        honoured = honoured && put("if-match", "\"00000000000000000000000000000000\"")?.0 == 412;
        self.delete(&key)?;
        log::debug!(
            "{}: conditional requests are {}",
            self.describe(),
            if honoured { "honoured" } else { "not honoured" }
        );
        *self.conditions.lock().unwrap_or_else(PoisonError::into_inner) = Some(honoured);
        Ok(honoured)
    }

    fn delete(&self, key: &str) -> Result<(), Error> {
        match self.bucket.call(&Call::new("DELETE", Some(key)))? {
            Ok(response) => {
                response.finish();
                Ok(())
            }
            Err(refusal) if refusal.status == 404 => Ok(()),
            Err(refusal) => Err(refusal.error()),
        }
    }

    /// Aborts a page of unfinished uploads. Returns how many there were.
    fn abort_uploads(&self) -> Result<usize, Error> {
        let uploads = match self.pages(&[("uploads", "")], "Upload", &["Key", "UploadId"])? {
            Ok(uploads) => uploads,
            // Some servers cannot list uploads; to rclone it is an error that there is none.
            Err(refusal) if refusal.status == 501 || refusal.says(&["NoSuchUpload"]) => vec![],
            Err(refusal) => return Err(refusal.error()),
        };
        let mut aborted = 0;
        for row in uploads {
            if row[0].strip_prefix(self.bucket.prefix()).is_some_and(is_snapshot) {
                let abort = Call::new("DELETE", Some(&row[0])).query("uploadId", row[1].as_str());
                match self.bucket.call(&abort)? {
                    Ok(response) => response.finish(),
                    Err(refusal) if refusal.status == 404 => {}
                    Err(refusal) => return Err(refusal.error().at("abort an unfinished upload")),
                }
                aborted += 1;
            }
        }
        Ok(aborted)
    }

    /// The condition under which the present content, as it was when the upload began, may be replaced.
    fn condition(&self, name: &str) -> Result<(&'static str, String), Error> {
        Ok(match self.head(name)?.and_then(|head| head.header("etag").map(str::to_owned)) {
            Some(tag) => ("if-match", tag),
            None => ("if-none-match", "*".to_owned()),
        })
    }

    /// The elements named `item` of a list of what lies below our prefix, page by page.
    fn pages(&self, list: &[(&str, &str)], item: &str, fields: &[&str]) -> Result<Listed, Error> {
        let mut pages = Pages::default();
        loop {
            let mut call =
                Call::new("GET", None).query("prefix", format!("{}snapshot", self.bucket.prefix()));
            for (name, value) in list {
                call = call.query(name, *value);
            }
            if let Some(token) = pages.token() {
                call = call.query("continuation-token", token);
            }
            let text = match self.bucket.call(&call)? {
                Ok(response) => response.text()?,
                Err(refusal) => return Ok(Err(refusal)),
            };
            if pages.add(items(&text, item, fields)?, root_text(&text, "NextContinuationToken"))? {
                return Ok(Ok(pages.rows));
            }
        }
    }
}

/// The pages of a list. A server ends a list by giving no token for a next page; one that goes on without end is stopped.
#[derive(Default)]
struct Pages {
    rows: Vec<Vec<String>>,
    /// The tokens so far.
    tokens: Vec<String>,
    /// Pages without rows, one after the other.
    empty: usize,
}

impl Pages {
    /// What the next page is asked with.
    fn token(&self) -> Option<&str> {
        self.tokens.last().map(String::as_str)
    }

    /// Takes a page with the token of the next one. True: there is none.
    fn add(&mut self, rows: Vec<Vec<String>>, next: Option<String>) -> Result<bool, Error> {
        self.empty = if rows.is_empty() { self.empty + 1 } else { 0 };
        self.rows.extend(rows);
        let endless = |why: String| Err(Error::Permanent(format!("the server's list does not end: {why}")));
        if self.rows.len() > limits::S3_PAGES * PAGE {
            return endless(format!("more than {} rows", limits::S3_PAGES * PAGE));
        }
        let Some(next) = next.filter(|next| !next.is_empty()) else { return Ok(true) };
        if self.tokens.contains(&next) {
            return endless("it names the same next page again".to_owned());
        }
        if self.empty > EMPTY_PAGES {
            return endless(format!("{} empty pages one after the other", self.empty));
        }
        self.tokens.push(next);
        if self.tokens.len() >= limits::S3_PAGES {
            return endless(format!("more than {} pages", limits::S3_PAGES));
        }
        Ok(false)
    }
}

/// Whether a name is that of a probe that was interrupted.
fn is_probe(name: &str) -> bool {
    name.strip_prefix(PROBE).is_some_and(is_upload_id)
}

/// The names of the snapshots among the keys of a list. Each of them costs a request, so there must not be too many.
fn snapshots(rows: Vec<Vec<String>>, prefix: &str) -> Result<Vec<String>, Error> {
    let names = rows.into_iter().filter_map(|row| row[0].strip_prefix(prefix).map(str::to_owned));
    let names: Vec<String> = names.filter(|name| is_snapshot(name)).collect();
    if names.len() > limits::SNAPSHOTS {
        let text = format!("the server lists more than {} snapshots", limits::SNAPSHOTS);
        return Err(Error::Permanent(text));
    }
    Ok(names)
}

fn stored(name: &str, response: &Response) -> Stored {
    let pairs = response.headers_after(META);
    Stored {
        name: name.to_owned(),
        size: response.length().unwrap_or(0),
        version: response.header("etag").unwrap_or_default().to_owned(),
        label: Label::from_pairs(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))),
        ..Stored::default()
    }
}

impl Backend for S3 {
    fn describe(&self) -> String {
        self.bucket.describe()
    }

    /// The server checks each request's hash, and nothing is read back.
    fn compares(&self) -> bool {
        false
    }

    fn prepare(&self) -> Result<(), Error> {
        let refusal = match self.bucket.call(&Call::new("HEAD", None))? {
            Ok(response) => {
                response.finish();
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        match refusal.status {
            404 => {}
            // A key that may not look at the bucket may yet be allowed to list and to write.
            403 if self.list().is_ok() => return Ok(()),
            403 => {
                // The answer to a HEAD has no body: a GET brings the reason.
                self.bucket
                    .done(&Call::new("GET", None).query("list-type", "2").query("max-keys", "1"))?
                    .finish();
                return Ok(());
            }
            _ => return Err(refusal.error()),
        }
        let region = self.bucket.region();
        let body = format!(
            "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
        );
        // The default region must not be named.
        let is_default =
            self.bucket.options.region.is_empty() && matches!(region.as_str(), "us-east-1" | "auto");
        let payload = if is_default { Payload::Empty } else { Payload::Bytes(body.as_bytes()) };
        match self.bucket.call(&Call::new("PUT", None).payload(payload))? {
            Ok(response) => {
                log::info!("{}: created the bucket", self.describe());
                response.finish();
                Ok(())
            }
            Err(refusal) if refusal.says(&["BucketAlreadyOwnedByYou", "BucketAlreadyExists"]) => Ok(()),
            Err(refusal) => Err(refusal.error().at(format!("create bucket {}", self.bucket.options.bucket))),
        }
    }

    fn stat(&self, name: &str) -> Result<Option<Stored>, Error> {
        Ok(self.head(name)?.map(|response| stored(name, &response)))
    }

    fn list(&self) -> Result<Vec<Stored>, Error> {
        let mut found = vec![];
        for name in snapshots(self.objects()?, self.bucket.prefix())? {
            found.extend(self.stat(&name)?);
        }
        Ok(found)
    }

    fn put(&self, upload: &Upload<'_>) -> Result<(), Error> {
        let conditions = self.conditions()?;
        let condition = if conditions { Some(self.condition(upload.name)?) } else { None };
        let Some((name, value)) =
            condition.clone().filter(|_| upload.label.size <= self.bucket.options.part_size)
        else {
            return self.put_multipart(upload, condition);
        };
        let piece = Piece::of(upload, 0, upload.label.size)?;
        (upload.may_switch)()?;
        let key = self.bucket.key(upload.name);
        let call = self.metadata(Call::new("PUT", Some(&key)), upload.label);
        self.bucket.done(&call.header(name, value).payload(Payload::Piece(upload, &piece)))?.finish();
        Ok(())
    }

    fn get(&self, stored: &Stored, sink: &mut dyn Write) -> Result<(), Error> {
        let key = self.bucket.key(&stored.name);
        let response = match self.bucket.call(&Call::new("GET", Some(&key)))? {
            Ok(response) => response,
            Err(refusal) if refusal.status == 404 => return self.check_bucket().and(Err(Error::NotFound)),
            Err(refusal) => return Err(refusal.error()),
        };
        pour(&mut response.reader(), sink)
    }

    fn copy(&self, stored: &Stored, name: &str, _tries: &Tries<'_>) -> Result<(), Error> {
        let source =
            format!("/{}/{}", self.bucket.options.bucket, escape_path(&self.bucket.key(&stored.name)));
        let key = self.bucket.key(name);
        let answer =
            self.bucket.done(&Call::new("PUT", Some(&key)).header("x-amz-copy-source", source))?.text()?;
        match Refusal::parse(&answer) {
            Some(refusal) => Err(Refusal { status: 500, ..refusal }.error()),
            None => Ok(()),
        }
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        self.delete(&self.bucket.key(name))
    }

    fn sweep(&self) -> Result<usize, Error> {
        let mut swept = 0;
        // After a full page there may be another one.
        for _ in 0..SWEEP_PAGES {
            let aborted = self.abort_uploads()?;
            swept += aborted;
            if aborted < PAGE {
                break;
            }
        }
        for row in self.objects()? {
            if row[0].strip_prefix(self.bucket.prefix()).is_some_and(is_probe) {
                self.delete(&row[0])?;
            }
        }
        Ok(swept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many pages are asked of a server that answers so, and what comes of it.
    fn asked(page: impl Fn(usize) -> (usize, Option<String>)) -> (usize, Result<usize, String>) {
        let mut pages = Pages::default();
        for number in 0..10_000 {
            let (rows, next) = page(number);
            match pages.add(vec![vec![number.to_string()]; rows], next) {
                Ok(true) => return (number + 1, Ok(pages.rows.len())),
                Ok(false) => assert!(pages.token().is_some()),
                Err(error) => {
                    assert!(matches!(error, Error::Permanent(_)));
                    return (number + 1, Err(error.to_string()));
                }
            }
        }
        panic!("without end");
    }

    #[test]
    fn a_list_ends_with_its_last_page() {
        let next = |number: usize, last: usize| (number < last).then(|| format!("t{number}"));
        assert_eq!(asked(|_| (0, None)), (1, Ok(0)));
        assert_eq!(asked(|number| (1000, next(number, 3))), (4, Ok(4000)));
        assert_eq!(
            asked(|number| (usize::from(number % 3 == 2), next(number, 8))),
            (9, Ok(3)),
            "a few are empty"
        );
        assert_eq!(asked(|_| (1, Some(String::new()))), (1, Ok(1)));
    }

    #[test]
    fn a_list_without_end_is_an_error() {
        let (count, error) = asked(|number| (1, Some(format!("t{number}"))));
        assert_eq!(
            (count, error.unwrap_err().as_str()),
            (100, "the server's list does not end: more than 100 pages")
        );
        let (count, error) = asked(|number| (0, Some(format!("t{number}"))));
        assert!(count == 3 && error.unwrap_err().contains("empty pages"));
        let (count, error) = asked(|number| (1, Some(format!("t{}", number % 2))));
        assert!(count == 3 && error.unwrap_err().contains("the same next page"));
    }

    #[test]
    fn a_list_has_as_many_rows_as_its_pages_have_with_s3() {
        assert_eq!(asked(|_| (1_001, None)), (1, Ok(1_001)), "some servers give more on a page");
        assert_eq!(asked(|_| (100_000, None)), (1, Ok(100_000)));
        let (count, error) = asked(|number| (8_000, Some(format!("t{number}"))));
        assert_eq!(
            (count, error.unwrap_err().as_str()),
            (13, "the server's list does not end: more than 100000 rows")
        );
    }

    #[test]
    fn probes_are_told_from_objects_of_others() {
        assert!(is_probe(&format!("{PROBE}{}", crate::storage::upload_id())));
        for name in
            ["snapshot-probe-of-mars", "snapshot-probe-", "snapshot.db", "snapshot-probe-0123456789ABCDEF"]
        {
            assert!(!is_probe(name), "{name}");
        }
    }

    #[test]
    fn no_more_snapshots_are_looked_at_than_are_ever_kept() {
        let rows = |count: usize| {
            let snapshots = vec![vec!["p/snapshot-20261124T131500Z.db".to_owned()]; count];
            snapshots.into_iter().chain([vec!["p/snapshot-probe-1".to_owned()], vec!["other".to_owned()]])
        };
        assert_eq!(snapshots(rows(limits::SNAPSHOTS).collect(), "p/").unwrap().len(), limits::SNAPSHOTS);
        let error = snapshots(rows(limits::SNAPSHOTS + 1).collect(), "p/").unwrap_err();
        assert_eq!(error.to_string(), "the server lists more than 4000 snapshots");
    }
}
