//! Packing of stored files: zstd, and encryption with a key that only the nodes have. A packed file is recognised by its first
//! bytes. Packing and unpacking work on streams: memory does not grow with the file.
//!
//! Encrypted file: the 24 bytes `harmonylite-encrypted-1\n`, 32 random bytes of salt, then chunks. The file's key is
//! HKDF-SHA256 of the 32-byte key with that salt and the info text `harmonylite snapshot`. Each chunk is up to 65,536 bytes
//! under ChaCha20-Poly1305 (RFC 8439), so up to 65,552 bytes in the file; its nonce is its number, big-endian in 11 bytes,
//! and one byte: 1 for the last chunk, else 0. The construction is that of the payload of age files: no chunk can be left out,
//! moved or cut off unnoticed.

use super::Error;
use crate::base::{files, random::random_bytes};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Write};
use std::path::Path;
use zstd::stream::raw::{DParameter, Operation};

const MAGIC: &[u8; 24] = b"harmonylite-encrypted-1\n";
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const INFO: &[u8] = b"harmonylite snapshot";
/// For the seals on labels; the cluster's name follows.
const LABEL_INFO: &[u8] = b"harmonylite snapshot label\n";
const CHUNK: usize = 64 << 10;
const TAG: usize = 16;
/// What comes before the first chunk.
const HEAD: usize = MAGIC.len() + 32;
/// zstd's own default.
const LEVEL: i32 = 3;
/// A compressed file that wants more memory than 2 to this power is refused; at our level a file wants a quarter of that.
const WINDOW_LOG: u32 = 23;

/// The key that all nodes share.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Key {
    /// Reads a key file: 64 hex digits.
    pub fn read(path: &Path) -> io::Result<Key> {
        let text = std::fs::read_to_string(path)?;
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Key).ok_or_else(|| io::Error::other("not 64 hex digits"))
    }

    fn for_file(&self, salt: &[u8; 32]) -> LessSafeKey {
        let mut bytes = [0; 32];
        Salt::new(HKDF_SHA256, salt)
            .extract(&self.0)
            .expand(&[INFO], HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut bytes))
            .expect("32 bytes are what HKDF-SHA256 gives");
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("the key has 32 bytes"))
    }

    /// The key of the seals on a cluster's labels (`storage/seal.rs`).
    pub fn for_labels(&self, cluster: &str) -> hmac::Key {
        let info = [LABEL_INFO, cluster.as_bytes()];
        let key = Salt::new(HKDF_SHA256, &[]).extract(&self.0);
        let made = key.expand(&info, hmac::HMAC_SHA256).map(hmac::Key::from);
        made.expect("32 bytes are what HKDF-SHA256 gives")
    }
}

fn nonce(number: u64, last: bool) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[3..11].copy_from_slice(&number.to_be_bytes());
    bytes[11] = u8::from(last);
    Nonce::assume_unique_for_key(bytes)
}

/// How files are packed.
#[derive(Clone, Debug, Default)]
pub struct Packing {
    pub zstd: bool,
    /// With a key, files are encrypted.
    pub key: Option<Key>,
}

impl Packing {
    /// `zstd`, `encrypted`, `zstd+encrypted`, or empty.
    pub fn name(&self) -> String {
        let parts = [(self.zstd, "zstd"), (self.key.is_some(), "encrypted")];
        parts.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect::<Vec<_>>().join("+")
    }

    /// Whether a file stays as it is.
    pub fn is_none(&self) -> bool {
        !self.zstd && self.key.is_none()
    }

    /// Packs a file into a new one, which nobody else may read.
    pub fn pack(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut source = BufReader::with_capacity(CHUNK, File::open(from)?);
        let target = BufWriter::with_capacity(CHUNK, files::create_private(to)?);
        let sealed = match &self.key {
            Some(key) => Sealing::Sealed(Box::new(Seal::new(key, target)?)),
            None => Sealing::Plain(target),
        };
        let sealed = if self.zstd {
            let mut encoder = zstd::Encoder::new(sealed, LEVEL)?;
            encoder.include_checksum(true)?;
            io::copy(&mut source, &mut encoder)?;
            encoder.finish()?
        } else {
            let mut sealed = sealed;
            io::copy(&mut source, &mut sealed)?;
            sealed
        };
        let mut target = match sealed {
            Sealing::Plain(target) => target,
            Sealing::Sealed(seal) => seal.finish()?,
        };
        target.flush()
    }
}

enum Sealing<W: Write> {
    Plain(W),
    Sealed(Box<Seal<W>>),
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sealing::Plain(target) => target.write(bytes),
            Sealing::Sealed(seal) => seal.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Encrypts what is written.
struct Seal<W> {
    target: W,
    key: LessSafeKey,
    number: u64,
    pending: Vec<u8>,
}

impl<W: Write> Seal<W> {
    fn new(key: &Key, mut target: W) -> io::Result<Seal<W>> {
        let salt = random_bytes::<32>();
        target.write_all(MAGIC)?;
        target.write_all(&salt)?;
        Ok(Seal { target, key: key.for_file(&salt), number: 0, pending: Vec::with_capacity(CHUNK + TAG) })
    }

    fn chunk(&mut self, last: bool) -> io::Result<()> {
        self.key
            .seal_in_place_append_tag(nonce(self.number, last), Aad::empty(), &mut self.pending)
            .map_err(|_| io::Error::other("encryption failed"))?;
        self.target.write_all(&self.pending)?;
        self.pending.clear();
        self.number += 1;
        Ok(())
    }

    fn finish(mut self) -> io::Result<W> {
        self.chunk(true)?;
        Ok(self.target)
    }
}

impl<W: Write> Write for Seal<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits for more: it may be the last one, which is marked.
        if self.pending.len() == CHUNK {
            self.chunk(false)?;
        }
        let count = bytes.len().min(CHUNK - self.pending.len());
        self.pending.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How much may come out of a packed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// As many bytes as its label announces.
    Announced(u64),
    /// As many bytes as this machine's disk has to give.
    Room(u64),
}

impl Bound {
    fn bytes(self) -> u64 {
        match self {
            Bound::Announced(bytes) | Bound::Room(bytes) => bytes,
        }
    }

    fn passed(self) -> io::Error {
        match self {
            Bound::Announced(bytes) => io::Error::other(format!(
                "it unpacks to more than the {bytes} bytes that its label announces"
            )),
            Bound::Room(_) => io::Error::new(
                ErrorKind::StorageFull,
                "it unpacks to more than there is room for: a tenth of the free space, 64 MB at least, stays free for \
                 the application",
            ),
        }
    }
}

/// What is unpacked, and how.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    pub key: Option<&'a Key>,
    /// Whether content that is not encrypted is refused.
    pub refuse_plain: bool,
    pub bound: Bound,
}

/// Unpacks what is written to it, after its first bytes have told how it is packed. What is not packed passes unchanged.
pub struct Unpack<W> {
    key: Option<Key>,
    refuse_plain: bool,
    /// The first bytes, while they are too few to tell whether the file is encrypted.
    head: Option<Vec<u8>>,
    unseal: Option<Unseal>,
    inflate: Inflate<Bounded<W>>,
    /// Why the content cannot be unpacked.
    fault: Option<Error>,
}

impl<W: Write> Unpack<W> {
    /// Unpacks into `target`.
    pub fn new(target: W, terms: Terms<'_>) -> Unpack<W> {
        let target = Bounded { target, bound: terms.bound, left: terms.bound.bytes() };
        Unpack {
            key: terms.key.cloned(),
            refuse_plain: terms.refuse_plain,
            head: Some(vec![]),
            unseal: None,
            inflate: Inflate { head: Some(vec![]), zstd: None, target },
            fault: None,
        }
    }

    /// Ends the content. [`Error::Unreadable`]: it cannot be unpacked; [`Error::Local`]: the target failed, or has no room.
    pub fn finish(mut self) -> Result<(), Error> {
        let ended = self.note(Unpack::end).and_then(|()| self.inflate.target.flush());
        ended.map_err(|error| Error::Local(format!("write: {error}")))?;
        self.fault.map_or(Ok(()), Err)
    }

    /// Passes on an error of the target: it comes from the operating system and has a number. Other errors are the content's
    /// fault, and kept for the end: whether it came whole is known only then.
    fn note(&mut self, step: impl FnOnce(&mut Unpack<W>) -> io::Result<()>) -> io::Result<()> {
        if self.fault.is_none() {
            match step(self) {
                Err(error) if error.raw_os_error().is_some() => return Err(error),
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    self.fault = Some(Error::Local(error.to_string()));
                }
                Err(error) => self.fault = Some(Error::Unreadable(error.to_string())),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        match (&mut self.head, &mut self.unseal) {
            (Some(head), _) => {
                head.extend_from_slice(bytes);
                if head.len() >= HEAD { self.decide() } else { Ok(()) }
            }
            (None, Some(unseal)) => unseal.take(bytes, &mut self.inflate),
            (None, None) => self.inflate.take(bytes),
        }
    }

    fn decide(&mut self) -> io::Result<()> {
        let head = self.head.take().unwrap_or_default();
        if !head.starts_with(MAGIC) {
            if self.refuse_plain {
                return Err(io::Error::other(
                    "it is not encrypted, and this node has a key (snapshot.key_file): it is not taken, unless \
                     snapshot.accept_plain = true",
                ));
            }
            return self.inflate.take(&head);
        }
        let no_key = || io::Error::other("it is encrypted, and this node has no key (snapshot.key_file)");
        let key = self.key.as_ref().ok_or_else(no_key)?;
        let salt = head.get(MAGIC.len()..HEAD).and_then(|salt| salt.try_into().ok()).ok_or_else(cut_off)?;
        let mut unseal =
            Unseal { key: key.for_file(salt), number: 0, pending: Vec::with_capacity(CHUNK + TAG) };
        unseal.take(&head[HEAD..], &mut self.inflate)?;
        self.unseal = Some(unseal);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        if self.head.is_some() {
            self.decide()?;
        }
        if let Some(unseal) = &mut self.unseal {
            unseal.chunk(true, &mut self.inflate)?;
        }
        self.inflate.end()
    }
}

impl<W: Write> Write for Unpack<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.note(|unpack| unpack.take(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inflate.target.flush()
    }
}

fn cut_off() -> io::Error {
    io::Error::other("it is cut off")
}

/// Decrypts.
struct Unseal {
    key: LessSafeKey,
    number: u64,
    /// A full chunk waits here for more: it may be the last one, which is marked.
    pending: Vec<u8>,
}

impl Unseal {
    fn take<W: Write>(&mut self, mut bytes: &[u8], inflate: &mut Inflate<W>) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.pending.len() == CHUNK + TAG {
                self.chunk(false, inflate)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK + TAG - self.pending.len()));
            self.pending.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn chunk<W: Write>(&mut self, last: bool, inflate: &mut Inflate<W>) -> io::Result<()> {
        let damaged = |_| io::Error::other("it is encrypted with another key, or damaged");
        let plain = self
            .key
            .open_in_place(nonce(self.number, last), Aad::empty(), &mut self.pending)
            .map_err(damaged)?;
        inflate.take(plain)?;
        self.pending.clear();
        self.number += 1;
        Ok(())
    }
}

/// Passes on what stays within a bound.
struct Bounded<W> {
    target: W,
    bound: Bound,
    left: u64,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(self.bound.passed());
        }
        let count = self.target.write(bytes)?;
        self.left -= count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
}

/// Decompresses.
struct Inflate<W> {
    /// The first bytes, while they are too few to tell whether the file is compressed.
    head: Option<Vec<u8>>,
    zstd: Option<Frames>,
    target: W,
}

struct Frames {
    decoder: zstd::stream::raw::Decoder<'static>,
    output: Vec<u8>,
    /// Whether the last frame has come to its end.
    whole: bool,
}

impl<W: Write> Inflate<W> {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(head) = &mut self.head {
            head.extend_from_slice(bytes);
            return if head.len() >= ZSTD_MAGIC.len() { self.decide() } else { Ok(()) };
        }
        match &mut self.zstd {
            Some(frames) => frames.take(bytes, &mut self.target),
            None => self.target.write_all(bytes),
        }
    }

    fn decide(&mut self) -> io::Result<()> {
        let head = self.head.take().unwrap_or_default();
        if head.starts_with(&ZSTD_MAGIC) {
            let mut decoder = zstd::stream::raw::Decoder::new()?;
            decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
            self.zstd = Some(Frames { decoder, output: vec![0; 2 * CHUNK], whole: false });
        }
        self.take(&head)
    }

    fn end(&mut self) -> io::Result<()> {
        if self.head.is_some() {
            self.decide()?;
        }
        if self.zstd.as_ref().is_some_and(|frames| !frames.whole) { Err(cut_off()) } else { Ok(()) }
    }
}

impl Frames {
    fn take(&mut self, mut bytes: &[u8], target: &mut impl Write) -> io::Result<()> {
        let mut full = false;
        while !bytes.is_empty() || full {
            if self.whole {
                self.decoder.reinit()?;
            }
            let done = self.decoder.run_on_buffers(bytes, &mut self.output)?;
            target.write_all(&self.output[..done.bytes_written])?;
            bytes = &bytes[done.bytes_read..];
            full = done.bytes_written == self.output.len();
            self.whole = done.remaining == 0;
            full &= !self.whole;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
