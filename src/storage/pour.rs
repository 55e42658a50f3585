//! Bytes on their way from a store to this machine: they must keep coming, and no more of them than were announced.

use super::Error;
use crate::base::{limits, stop::Stop};
use std::io::{self, Read, Write};
use std::time::Instant;

/// Copies a stream from a store to `sink`. A failure of the store may pass; one of the sink, on this machine, does not.
pub fn pour(source: &mut dyn Read, sink: &mut dyn Write) -> Result<(), Error> {
    let mut buffer = vec![0; limits::OBJECT_CHUNK];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                sink.write_all(&buffer[..count]).map_err(|error| Error::Local(format!("write: {error}")))?
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Transient(format!("read: {error}"))),
        }
    }
}

/// A content that must keep coming: a byte now and then would keep the connection from being silent, and the transfer from
/// ending.
pub struct Moving<R> {
    content: R,
    /// When the bytes were last judged.
    since: Instant,
    /// Bytes that came since then.
    bytes: u64,
}

impl<R> Moving<R> {
    pub fn new(content: R) -> Moving<R> {
        Moving { content, since: Instant::now(), bytes: 0 }
    }

    /// Notes that bytes came (none: the end of the content). An error: they are too few for the time that has passed.
    fn note(&mut self, count: usize, now: Instant) -> io::Result<()> {
        self.bytes += count as u64;
        if now.saturating_duration_since(self.since) <= limits::TRANSFER_STALL {
            return Ok(());
        }
        if self.bytes < limits::TRANSFER_LEAST && count > 0 {
            let text = format!("only {} bytes in {} s", self.bytes, limits::TRANSFER_STALL.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        (self.since, self.bytes) = (now, 0);
        Ok(())
    }
}

impl<R: Read> Read for Moving<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.note(count, Instant::now())?;
        Ok(count)
    }
}

/// What takes a content from a store: it ends the transfer when more comes than was announced, and when a stop is requested.
pub struct Intake<'a, W> {
    inner: W,
    /// Bytes that were announced.
    announced: u64,
    /// Bytes so far.
    count: u64,
    stop: &'a Stop,
    /// Is told of the bytes so far.
    progress: &'a dyn Fn(u64),
    /// Why the transfer was ended from here.
    end: Option<Error>,
}

impl<'a, W> Intake<'a, W> {
    pub fn new(inner: W, announced: u64, stop: &'a Stop, progress: &'a dyn Fn(u64)) -> Intake<'a, W> {
        Intake { inner, announced, count: 0, stop, progress, end: None }
    }

    /// The writer that took the bytes, after a transfer with this result. A transfer that was ended from here failed for the
    /// reason that stands here: the store sees only that nobody takes its bytes any more.
    pub fn finish(self, result: Result<(), Error>) -> Result<W, Error> {
        match self.end {
            Some(end) => Err(end),
            None => result.map(|()| self.inner),
        }
    }
}

impl<W: Write> Write for Intake<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_too_much = bytes.len() as u64 > self.announced.saturating_sub(self.count);
        if self.stop.requested() || is_too_much {
            let more =
                || Error::Transient(format!("more than the {} bytes came that are there", self.announced));
            self.end = Some(if is_too_much { more() } else { Error::Stopped });
            return Err(io::Error::other("the transfer was ended"));
        }
        let count = self.inner.write(bytes)?;
        self.count += count as u64;
        (self.progress)(self.count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_copy_tells_whose_fault_it_is() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let mut to = vec![];
        pour(&mut &b"abc"[..], &mut to).unwrap();
        assert_eq!(to, b"abc");
        assert!(matches!(pour(&mut Broken, &mut to), Err(Error::Transient(_))));
        let mut full: &mut [u8] = &mut [0; 2];
        assert!(matches!(pour(&mut &b"abc"[..], &mut full), Err(Error::Local(_))));
    }

    #[test]
    fn a_body_that_drips_ends_and_one_that_moves_does_not() {
        let begun = Instant::now();
        let moving = || Moving { content: io::empty(), since: begun, bytes: 0 };
        let late = begun + limits::TRANSFER_STALL + Duration::from_secs(1);
        let mut drips = moving();
        drips.note(1, begun + limits::TRANSFER_STALL).unwrap();
        assert_eq!(drips.note(1, late).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut moves = moving();
        moves.note(1024, late).unwrap();
        // The count begins anew: what came before does not excuse what comes now.
        assert!(moves.note(1, late + limits::TRANSFER_STALL * 2).is_err());
        // A short body that ends late has ended all the same.
        moving().note(0, late).unwrap();
    }

    #[test]
    fn an_intake_takes_what_was_announced_and_nothing_after_that() {
        let (_source, stop) = crate::base::stop::pair();
        let take = |announced: u64, content: &[u8]| {
            let mut intake = Intake::new(vec![], announced, &stop, &|_| {});
            let poured = pour(&mut &content[..], &mut intake);
            intake.finish(poured)
        };
        assert_eq!(take(3, b"abc").unwrap(), b"abc");
        assert_eq!(take(4, b"abc").unwrap(), b"abc", "that it is short, the digest tells");
        assert!(matches!(take(2, b"abc"), Err(Error::Transient(_))));
        let mut full: &mut [u8] = &mut [0; 2];
        let mut intake = Intake::new(&mut full, 3, &stop, &|_| {});
        let poured = pour(&mut &b"abc"[..], &mut intake);
        assert!(matches!(intake.finish(poured), Err(Error::Local(_))), "a full disk is one");
    }
}
