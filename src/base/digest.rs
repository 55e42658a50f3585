//! SHA-256 of what streams by, in the notation of the NATS Object Store: `SHA-256=` and padded url-safe base64.

use ring::digest::{Context, SHA256};
use std::io::{self, Read, Write};

/// SHA-256 in hex.
pub fn hex_sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(ring::digest::digest(&SHA256, bytes).as_ref())
}

/// Counts and hashes what is written through it.
pub struct Hashing<W> {
    inner: W,
    context: Context,
    /// Bytes so far.
    pub size: u64,
}

impl<W> Hashing<W> {
    /// In front of `inner`.
    pub fn new(inner: W) -> Self {
        Hashing { inner, context: Context::new(&SHA256), size: 0 }
    }

    /// What it was put in front of.
    pub fn into_inner(self) -> W {
        self.inner
    }

    /// The digest of all that was written.
    pub fn digest(&self) -> String {
        let hash = self.context.clone().finish();
        format!("SHA-256={}", data_encoding::BASE64URL.encode(hash.as_ref()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.context.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Size and digest of what a reader gives.
pub fn digest_of(source: &mut dyn Read) -> io::Result<(u64, String)> {
    let mut hashing = Hashing::new(io::sink());
    let mut buffer = vec![0; crate::base::limits::OBJECT_CHUNK];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok((hashing.size, hashing.digest())),
            Ok(count) => hashing.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether two digests are the same; some writers leave the padding away.
pub fn same_digest(one: &str, other: &str) -> bool {
    one.trim_end_matches('=') == other.trim_end_matches('=')
}
