//! Multipart uploads: parts two at a time, each tried again on its own, aborted on failure.

use super::S3;
use super::bucket::{Call, Payload, Piece};
use super::dialect::{Refusal, root_text, xml_escape};
use crate::base::{limits, retry::Backoff};
use crate::storage::{Backend as _, Error, Upload};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

impl S3 {
    /// Uploads a file in parts; the old content stays until all of them are there.
    pub(super) fn put_multipart(
        &self,
        upload: &Upload<'_>,
        condition: Option<(&str, String)>,
    ) -> Result<(), Error> {
        let key = self.bucket.key(upload.name);
        let created = self
            .bucket
            .done(&self.metadata(Call::new("POST", Some(&key)).query("uploads", ""), upload.label))?;
        let id = root_text(&created.text()?, "UploadId")
            .ok_or_else(|| Error::Transient("the server gave no UploadId".to_owned()))?;
        let result = self.parts(upload, &key, &id).and_then(|tags| {
            upload.ask()?;
            self.complete(&key, &id, &tags, condition)
        });
        if result.is_err() {
            let abort = Call::new("DELETE", Some(&key)).query("uploadId", id.as_str());
            if let Err(error) = self.bucket.done(&abort) {
                log::debug!("{}: abort upload: {error}", self.describe());
            }
        }
        result
    }

    /// Uploads all parts, two at a time (Cloudflare R2 fails with more); returns their tags.
    fn parts(&self, upload: &Upload<'_>, key: &str, id: &str) -> Result<Vec<String>, Error> {
        let size = upload.label.size;
        let part = part_size(size, self.bucket.options.part_size);
        let count = size.div_ceil(part).max(1);
        let next = AtomicU64::new(0);
        let tags = Mutex::new(vec![String::new(); usize::try_from(count).unwrap_or(usize::MAX)]);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let lock = |failed: &Mutex<Option<Error>>| {
            failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
        };
        let work = || {
            while !lock(&failed) {
                let number = next.fetch_add(1, Relaxed);
                if number >= count {
                    return;
                }
                let length = part.min(size - number * part);
                let at = usize::try_from(number).unwrap_or(usize::MAX);
                match self.part(upload, key, id, number + 1, (number * part, length)) {
                    Ok(tag) => {
                        tags.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[at] = tag;
                    }
                    Err(error) => {
                        *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            if count > 1 {
                let second = std::thread::Builder::new().name("s3-part".to_owned()).spawn_scoped(scope, work);
                if let Err(error) = second {
                    log::debug!("one part at a time: {error}");
                }
            }
            work();
        });
        match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(tags.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)),
        }
    }

    /// One part, again and again while that may help.
    fn part(
        &self,
        upload: &Upload<'_>,
        key: &str,
        id: &str,
        number: u64,
        (offset, length): (u64, u64),
    ) -> Result<String, Error> {
        let piece = Piece::of(upload, offset, length)?;
        let mut backoff = Backoff::default();
        let mut tries = 1;
        loop {
            let call = Call::new("PUT", Some(key))
                .query("partNumber", number.to_string())
                .query("uploadId", id)
                .payload(Payload::Piece(upload, &piece));
            let result = self.bucket.call(&call).and_then(|answer| match answer {
                Ok(response) => {
                    let tag = response.header("etag").unwrap_or_default().to_owned();
                    response.finish();
                    Ok(tag)
                }
                // Aborted by a later uploader, or by the server: this upload is over.
                Err(refusal) if refusal.says(&["NoSuchUpload"]) || refusal.status == 404 => {
                    Err(Error::Permanent("the upload was aborted by somebody else".to_owned()))
                }
                Err(refusal) => Err(refusal.error()),
            });
            match result {
                Err(Error::Transient(why)) if tries < limits::STORE_TRIES => {
                    tries += 1;
                    log::debug!("{}: part {number}: {why}; trying again", self.describe());
                    crate::base::stop::pause(backoff.pause());
                }
                // The whole upload again would not do better.
                Err(Error::Transient(why)) => {
                    return Err(Error::Permanent(format!("part {number}: {why} (after {tries} tries)")));
                }
                Err(error) => return Err(error.at(format!("part {number}"))),
                Ok(tag) => return Ok(tag),
            }
        }
    }

    fn complete(
        &self,
        key: &str,
        id: &str,
        tags: &[String],
        condition: Option<(&str, String)>,
    ) -> Result<(), Error> {
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
        let mut call = Call::new("POST", Some(key))
            .query("uploadId", id)
            .header("content-type", "application/xml")
            .payload(Payload::Bytes(body.as_bytes()));
        if let Some((name, value)) = condition {
            call = call.header(name, value);
        }
        let answer = self.bucket.done(&call)?.text()?;
        // The status was sent before the work was done.
        match Refusal::parse(&answer) {
            Some(refusal) => Err(Refusal { status: 500, ..refusal }.error()),
            None => Ok(()),
        }
    }
}

/// Bytes of each part but the last: enough that 10,000 parts hold the file, in whole MiB.
fn part_size(size: u64, least: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    size.div_ceil(10_000).div_ceil(MIB).saturating_mul(MIB).max(least)
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_never_more_than_ten_thousand() {
        const MIB: u64 = 1 << 20;
        for size in [0, 1, 16 * MIB, 156_250 * MIB, 5_000_000 * MIB] {
            let part = part_size(size, 16 * MIB);
            assert!(
                part >= 16 * MIB && size.div_ceil(part) <= 10_000 && part.is_multiple_of(MIB),
                "{size}: {part}"
            );
        }
    }
}
