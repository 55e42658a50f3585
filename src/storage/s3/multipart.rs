//! Multipart uploads: parts two at a time, each tried again alone, all of them aborted on failure.

use super::S3;
use super::bucket::{Call, Payload, Piece};
use super::dialect::{Refusal, root_text, xml_escape};
use crate::base::worker;
use crate::storage::{Backend as _, Error, Upload};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// The condition under which a completed upload may replace the old content: name and value of a header.
type Condition<'a> = Option<(&'a str, String)>;

impl S3 {
    /// Uploads a file in parts; the old content stays until all of them are there.
    pub(super) fn put_multipart(&self, upload: &Upload<'_>, condition: Condition<'_>) -> Result<(), Error> {
        let key = self.bucket.key(upload.name);
        let created = self
            .bucket
            .done(&self.metadata(Call::new("POST", Some(&key)).query("uploads", ""), upload.label))?;
        let id = root_text(&created.text()?, "UploadId")
            .ok_or_else(|| Error::Transient("the server gave no UploadId".to_owned()))?;
        let parts = Parts::new(upload.label.size, self.bucket.options.part_size);
        let multipart = Multipart { s3: self, upload, key, id, parts };
        let result = multipart.send().and_then(|tags| {
            (upload.may_switch)()?;
            upload.tries.step("complete the upload", |_| multipart.complete(&tags, condition.as_ref()))?
        });
        if result.is_err() {
            multipart.abort();
        }
        result
    }
}

/// How a file is cut into parts.
struct Parts {
    /// Bytes of the file.
    size: u64,
    /// Bytes of each part but the last.
    part: u64,
    count: u64,
}

impl Parts {
    fn new(size: u64, least: u64) -> Parts {
        let part = part_size(size, least);
        // An empty file has one part, which is empty.
        Parts { size, part, count: size.div_ceil(part).max(1) }
    }

    /// Offset and length of a part; the first one is number 0.
    fn place(&self, number: u64) -> (u64, u64) {
        let offset = number * self.part;
        (offset, self.part.min(self.size - offset))
    }
}

/// Bytes of each part but the last: whole MiB, at least `least`, and as many as 10,000 parts need to hold the file.
fn part_size(size: u64, least: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    size.div_ceil(10_000).div_ceil(MIB).saturating_mul(MIB).max(least)
}

/// An upload that has begun on the server.
struct Multipart<'a> {
    s3: &'a S3,
    upload: &'a Upload<'a>,
    key: String,
    /// The server's name for the upload.
    id: String,
    parts: Parts,
}

impl Multipart<'_> {
    /// Uploads all parts, two at a time: Cloudflare R2 fails with more. Returns their tags.
    fn send(&self) -> Result<Vec<String>, Error> {
        let count = self.parts.count;
        let next = AtomicU64::new(0);
        let tags = Mutex::new(vec![String::new(); usize::try_from(count).unwrap_or(usize::MAX)]);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let work = || {
            while failed.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
                let number = next.fetch_add(1, Relaxed);
                if number >= count {
                    return;
                }
                let at = usize::try_from(number).unwrap_or(usize::MAX);
                match self.send_part(number) {
                    Ok(tag) => tags.lock().unwrap_or_else(PoisonError::into_inner)[at] = tag,
                    Err(error) => *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
                }
            }
        };
        std::thread::scope(|scope| {
            if count > 1
                && let Err(error) = worker::spawn_scoped(scope, "s3-part", work)
            {
                log::debug!("{}: one part at a time: start thread s3-part: {error}", self.s3.describe());
            }
            work();
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(tags.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Uploads one part, and this part alone again while that may help. Returns its tag.
    fn send_part(&self, number: u64) -> Result<String, Error> {
        let (offset, length) = self.parts.place(number);
        let piece = Piece::of(self.upload, offset, length)?;
        let what = format!("part {} of {}", number + 1, self.parts.count);
        let sent = self.upload.tries.step(&what, |_| {
            let call = Call::new("PUT", Some(&self.key))
                .query("partNumber", (number + 1).to_string())
                .query("uploadId", self.id.as_str())
                .payload(Payload::Piece(self.upload, &piece));
            match self.s3.bucket.call(&call)? {
                Ok(response) => {
                    let tag = response.header("etag").unwrap_or_default().to_owned();
                    response.finish();
                    Ok(tag)
                }
                // A later uploader or the server has aborted it: this upload is over.
                Err(refusal) if refusal.says(&["NoSuchUpload"]) || refusal.status == 404 => {
                    Err(Error::Permanent("the upload was aborted by somebody else".to_owned()))
                }
                Err(refusal) => Err(refusal.error()),
            }
        });
        sent.map_err(|error| error.at(what))
    }

    /// Makes one file of the parts. The outer error is one after which the same request may be made again; after the inner one
    /// only a look at what has the name helps: the request may have been carried out already, and its answer lost.
    fn complete(
        &self,
        tags: &[String],
        condition: Option<&(&str, String)>,
    ) -> Result<Result<(), Error>, Error> {
        let parts: String = tags
            .iter()
            .enumerate()
            .map(|(at, tag)| {
                format!("<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>", at + 1, xml_escape(tag))
            })
            .collect();
        let body = format!(
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{parts}</CompleteMultipartUpload>"
        );
        let mut call = Call::new("POST", Some(&self.key))
            .query("uploadId", self.id.as_str())
            .header("content-type", "application/xml")
            .payload(Payload::Bytes(body.as_bytes()));
        if let Some((name, value)) = condition {
            call = call.header(name, value.as_str());
        }
        match self.s3.bucket.call(&call)? {
            // The status was sent before the work was done: the text says what came of it.
            Ok(response) => match Refusal::parse(&response.text()?) {
                Some(refusal) => Err(Refusal { status: 500, ..refusal }.error()),
                None => Ok(Ok(())),
            },
            Err(refusal) if matches!(refusal.status, 408 | 429 | 500..) => Err(refusal.error()),
            Err(refusal) => Ok(Err(refusal.error())),
        }
    }

    fn abort(&self) {
        let abort = Call::new("DELETE", Some(&self.key)).query("uploadId", self.id.as_str());
        if let Err(error) = self.s3.bucket.done(&abort) {
            log::debug!("{}: abort upload: {error}", self.s3.describe());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn parts_are_never_more_than_ten_thousand() {
        for size in [0, 1, 16 * MIB, 156_250 * MIB, 5_000_000 * MIB] {
            let part = part_size(size, 16 * MIB);
            assert!(
                part >= 16 * MIB && size.div_ceil(part) <= 10_000 && part.is_multiple_of(MIB),
                "{size}: {part}"
            );
        }
    }

    #[test]
    fn parts_cover_the_file_without_gap() {
        for size in [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 3] {
            let parts = Parts::new(size, MIB);
            let mut end = 0;
            for number in 0..parts.count {
                let (offset, length) = parts.place(number);
                assert!(offset == end && (length > 0 || size == 0), "{size}: part {number}");
                end += length;
            }
            assert_eq!(end, size);
        }
    }
}
