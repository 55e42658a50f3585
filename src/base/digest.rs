//! SHA-256 of streams. A digest is written as the NATS Object Store does: `SHA-256=` and padded url-safe base64.

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
    /// Hashes what is written, and passes it on to `inner`.
    pub fn new(inner: W) -> Self {
        Hashing { inner, context: Context::new(&SHA256), size: 0 }
    }

    /// The writer that everything was passed on to.
    pub fn into_inner(self) -> W {
        self.inner
    }

    /// The digest of all that was written so far.
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

/// Size and digest of all that a reader gives.
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

/// Whether two digests are the same, with or without the padding of base64: some programs leave it away.
pub fn same_digest(one: &str, other: &str) -> bool {
    one.trim_end_matches('=') == other.trim_end_matches('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the three bytes `abc` (source: FIPS 180-2, appendix B.1).
    const ABC: &str = "SHA-256=ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0=";

    #[test]
    fn what_is_written_is_hashed_counted_and_passed_on() {
        let mut hashing = Hashing::new(vec![]);
        hashing.write_all(b"a").unwrap();
        hashing.write_all(b"bc").unwrap();
        assert_eq!((hashing.size, hashing.digest().as_str()), (3, ABC));
        assert_eq!(hashing.into_inner(), b"abc");
        assert_eq!(hex_sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_reader_that_is_interrupted_is_read_to_its_end() {
        struct Interrupted(Vec<io::Result<&'static [u8]>>);
        impl Read for Interrupted {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let bytes = self.0.pop().unwrap_or(Ok(b""))?;
                buffer[..bytes.len()].copy_from_slice(bytes);
                Ok(bytes.len())
            }
        }
        let interrupted = || Err(io::ErrorKind::Interrupted.into());
        let mut source = Interrupted(vec![Ok(b"bc"), interrupted(), Ok(b"a"), interrupted()]);
        assert_eq!(digest_of(&mut source).unwrap(), (3, ABC.to_owned()));
        let mut broken = Interrupted(vec![Err(io::ErrorKind::TimedOut.into()), Ok(b"a")]);
        assert_eq!(digest_of(&mut broken).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn padding_makes_no_difference() {
        assert!(same_digest(ABC, ABC.trim_end_matches('=')) && !same_digest(ABC, "SHA-256="));
    }
}
