//! Packing of stored files: zstd, and encryption with a key that only the nodes have. Both are recognised by their first
//! bytes, and stream.
//!
//! Encrypted file: the 24 bytes `harmonylite-encrypted-1\n`, 32 random bytes of salt, then chunks. The file's key is
//! HKDF-SHA256 of the 32-byte key with that salt and the info text `harmonylite snapshot`. Each chunk is up to 65,536 bytes
//! under ChaCha20-Poly1305 (RFC 8439), so up to 65,552 bytes in the file; its nonce is its number, big-endian in 11 bytes,
//! and one byte: 1 for the last chunk, else 0. (The construction is that of age's payload: no chunk can be left out, moved
//! or cut off unnoticed.)

use crate::retry::random_bytes;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

const MAGIC: &[u8; 24] = b"harmonylite-encrypted-1\n";
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const INFO: &[u8] = b"harmonylite snapshot";
const CHUNK: usize = 64 << 10;
const TAG: usize = 16;
/// zstd's own default.
const LEVEL: i32 = 3;

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
    pub fn read(path: &Path) -> Result<Key, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Key).ok_or_else(|| "not 64 hex digits".to_owned())
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
    /// Compress.
    pub zstd: bool,
    /// Encrypt.
    pub key: Option<Key>,
}

impl Packing {
    /// `zstd`, `encrypted`, `zstd+encrypted`, or nothing.
    pub fn name(&self) -> String {
        let parts = [(self.zstd, "zstd"), (self.key.is_some(), "encrypted")];
        parts.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect::<Vec<_>>().join("+")
    }

    /// Whether a file stays as it is.
    pub fn is_none(&self) -> bool {
        !self.zstd && self.key.is_none()
    }

    /// Packs a file into another.
    pub fn pack(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut source = BufReader::with_capacity(CHUNK, File::open(from)?);
        let target = BufWriter::with_capacity(CHUNK, File::create(to)?);
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
        // A full chunk waits: it may be the last.
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

/// Decrypts what is read.
struct Open<R> {
    source: R,
    key: LessSafeKey,
    number: u64,
    /// Ciphertext that was read, one byte further than a chunk if there is more.
    ahead: Vec<u8>,
    plain: Vec<u8>,
    at: usize,
    done: bool,
}

impl<R: Read> Open<R> {
    fn new(key: &Key, mut source: R) -> io::Result<Open<R>> {
        let mut head = [0; MAGIC.len() + 32];
        source.read_exact(&mut head)?;
        let mut salt = [0; 32];
        salt.copy_from_slice(&head[MAGIC.len()..]);
        let key = key.for_file(&salt);
        Ok(Open { source, key, number: 0, ahead: vec![], plain: vec![], at: 0, done: false })
    }

    fn chunk(&mut self) -> io::Result<()> {
        let wanted = (CHUNK + TAG + 1 - self.ahead.len()) as u64;
        self.source.by_ref().take(wanted).read_to_end(&mut self.ahead)?;
        let last = self.ahead.len() <= CHUNK + TAG;
        let next = if last { vec![] } else { self.ahead.split_off(CHUNK + TAG) };
        let damaged = |_| io::Error::other("it is encrypted with another key, or damaged");
        let plain = self
            .key
            .open_in_place(nonce(self.number, last), Aad::empty(), &mut self.ahead)
            .map_err(damaged)?
            .len();
        self.ahead.truncate(plain);
        self.plain = std::mem::replace(&mut self.ahead, next);
        self.at = 0;
        self.number += 1;
        self.done = last;
        Ok(())
    }
}

impl<R: Read> Read for Open<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.plain.len() {
            if self.done {
                return Ok(0);
            }
            self.chunk()?;
        }
        let count = buffer.len().min(self.plain.len() - self.at);
        buffer[..count].copy_from_slice(&self.plain[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn begins_with(source: &mut BufReader<impl Read>, magic: &[u8]) -> io::Result<bool> {
    use std::io::BufRead;
    Ok(source.fill_buf()?.starts_with(magic))
}

/// Unpacks a file into another, if it is packed; false: it is as it is, nothing was written.
pub fn unpack(from: &Path, to: &Path, key: Option<&Key>) -> Result<bool, String> {
    let failed = |error: io::Error| error.to_string();
    let mut source = BufReader::with_capacity(CHUNK, File::open(from).map_err(failed)?);
    let encrypted = begins_with(&mut source, MAGIC).map_err(failed)?;
    if !encrypted && !begins_with(&mut source, &ZSTD_MAGIC).map_err(failed)? {
        return Ok(false);
    }
    let opened: Box<dyn Read> = match (encrypted, key) {
        (false, _) => Box::new(source),
        (true, Some(key)) => Box::new(Open::new(key, source).map_err(failed)?),
        (true, None) => {
            return Err("it is encrypted, and this node has no key (snapshot.key_file)".to_owned());
        }
    };
    let mut opened = BufReader::with_capacity(CHUNK, opened);
    let mut target = BufWriter::with_capacity(CHUNK, File::create(to).map_err(failed)?);
    if begins_with(&mut opened, &ZSTD_MAGIC).map_err(failed)? {
        io::copy(&mut zstd::Decoder::with_buffer(opened).map_err(failed)?, &mut target)
    } else {
        io::copy(&mut opened, &mut target)
    }
    .and_then(|_| target.flush())
    .map_err(failed)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files(std::path::PathBuf);

    impl Files {
        fn path(&self, name: &str) -> std::path::PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn files(name: &str) -> Files {
        let dir = std::env::temp_dir().join(format!("harmonylite-pack-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Files(dir)
    }

    fn key(byte: u8) -> Key {
        Key([byte; 32])
    }

    #[test]
    fn there_and_back() {
        let files = files("back");
        let (plain, packed, back) = (files.path("plain"), files.path("packed"), files.path("back"));
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17] {
            let bytes: Vec<u8> = (0..size).map(|n| (n * n % 251) as u8).collect();
            std::fs::write(&plain, &bytes).unwrap();
            for (zstd, encrypt) in [(false, false), (true, false), (false, true), (true, true)] {
                let packing = Packing { zstd, key: encrypt.then(|| key(1)) };
                packing.pack(&plain, &packed).unwrap();
                let changed = unpack(&packed, &back, Some(&key(1))).unwrap();
                assert_eq!(changed, zstd || encrypt);
                let result = std::fs::read(if changed { &back } else { &packed }).unwrap();
                assert!(result == bytes, "{size} {}", packing.name());
            }
        }
    }

    #[test]
    fn no_key_another_key_and_damage() {
        let files = files("damage");
        let (plain, packed, back) = (files.path("plain"), files.path("packed"), files.path("back"));
        std::fs::write(&plain, vec![7; 2 * CHUNK + 5]).unwrap();
        Packing { zstd: false, key: Some(key(1)) }.pack(&plain, &packed).unwrap();
        assert!(unpack(&packed, &back, None).unwrap_err().contains("has no key"));
        assert!(unpack(&packed, &back, Some(&key(2))).unwrap_err().contains("another key"));
        let whole = std::fs::read(&packed).unwrap();
        let head = MAGIC.len() + 32;
        let second = head + CHUNK + TAG;
        // Cut off at and between chunks, a flipped bit, two chunks exchanged.
        let exchanged = [
            &whole[..head],
            &whole[second..second + CHUNK + TAG],
            &whole[head..second],
            &whole[second + CHUNK + TAG..],
        ];
        let mut flipped = whole.clone();
        flipped[second + 9] ^= 1;
        for damaged in [
            whole[..second].to_vec(),
            whole[..whole.len() - 1].to_vec(),
            whole[..head].to_vec(),
            flipped,
            exchanged.concat(),
        ] {
            std::fs::write(&packed, damaged).unwrap();
            assert!(unpack(&packed, &back, Some(&key(1))).is_err());
        }
    }

    #[test]
    fn key_files() {
        let files = files("keys");
        let path = files.path("key");
        std::fs::write(&path, "00".repeat(31) + "fF\n").unwrap();
        assert_eq!(Key::read(&path).unwrap().0[31], 255);
        for wrong in ["", "00", "zz"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(Key::read(&path).is_err());
        }
        assert_eq!(format!("{:?}", key(1)), "(hidden)");
    }
}
