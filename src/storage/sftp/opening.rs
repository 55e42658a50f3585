//! The beginning of a connection to an SSH server, in bounded time: libssh2 bounds each of its reads, and a server that
//! drips or never stops sending would hold it for ever.

use crate::base::{limits, stop, worker};
use crate::storage::Error;
use crossbeam_channel::{RecvTimeoutError, bounded};
use std::io;
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Bytes that a server may send before its banner is over (RFC 4253, 4.2, lets it greet first).
const GREETING: usize = 8 << 10;
/// Pause between two looks at what a server that is slow has sent.
const LOOK: Duration = Duration::from_millis(10);

pub type Stream = TcpStream;

/// How long a server may take.
#[derive(Clone, Copy)]
pub struct Patience {
    /// To say that it speaks SSH.
    pub banner: Duration,
    /// For all from then on to the SFTP session.
    pub whole: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { banner: limits::SSH_BANNER, whole: limits::SSH_OPENING }
    }
}

pub fn connect(host: &str, port: u16) -> Result<Stream, Error> {
    let failed = |error: io::Error| Error::Transient(format!("connect to {host}:{port}: {error}"));
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    for address in (host, port).to_socket_addrs().map_err(failed)? {
        match TcpStream::connect_timeout(&address, limits::CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(failed)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// Waits until the server has sent its banner, and leaves all that came where libssh2 reads it.
pub fn wait_for_banner(stream: &Stream, patience: Duration) -> Result<(), Error> {
    let failed = |error: io::Error| Error::Transient(format!("wait for the SSH banner: {error}"));
    let late = || Error::Transient(format!("no SSH banner within {} s", patience.as_secs_f32()));
    let until = Instant::now() + patience;
    let mut seen = vec![0; GREETING];
    let mut before = 0;
    // The waits between looks end by their bound alone.
    let (_source, never) = stop::pair();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        stream.set_read_timeout(Some(left)).map_err(failed)?;
        let count = match stream.peek(&mut seen) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(late());
            }
            Err(error) => return Err(failed(error)),
        };
        if has_banner(&seen[..count]) {
            return stream.set_read_timeout(None).map_err(failed);
        }
        match count {
            0 => return Err(Error::Transient("the server hung up before its SSH banner".to_owned())),
            GREETING => return Err(Error::Permanent("the server does not speak SSH".to_owned())),
            // A look returns at once while anything is there.
            _ if count == before => drop(never.wait(LOOK)),
            _ => {}
        }
        before = count;
    }
}

fn has_banner(bytes: &[u8]) -> bool {
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    // What follows the last line feed is no whole line.
    lines.pop();
    lines.iter().any(|line| line.starts_with(b"SSH-"))
}

/// Runs a step on a connection, and shuts the connection when the time is over.
pub fn within<R>(
    patience: Duration,
    stream: &Stream,
    step: impl FnOnce(Stream) -> Result<R, Error>,
) -> Result<R, Error> {
    let local = |error: io::Error| Error::Local(format!("SSH connection: {error}"));
    let mine = stream.try_clone().map_err(local)?;
    let is_over = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let (done, waiting) = bounded::<()>(0);
        let is_over = &is_over;
        let watch = move || {
            if waiting.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                is_over.store(true, SeqCst);
                // It fails when the connection is gone already.
                let _ = stream.shutdown(Shutdown::Both);
            }
        };
        worker::spawn_scoped(scope, "ssh-deadline", watch).map_err(local)?;
        let result = step(mine);
        drop(done);
        result
    });
    match result {
        Err(_) if is_over.load(SeqCst) => {
            Err(Error::Transient(format!("the SSH session was not open within {} s", patience.as_secs_f32())))
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "servers of tests have threads and pauses of their own")]
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A server program for one connection, and a client's connection to it.
    fn server(serve: impl FnOnce(TcpStream) + Send + 'static) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || serve(listener.accept().unwrap().0));
        connect("127.0.0.1", port).unwrap()
    }

    fn until_closed(mut stream: &TcpStream) {
        let _ = stream.read_to_end(&mut vec![]);
    }

    fn drip(mut stream: TcpStream, text: &[u8]) {
        for byte in text.iter().cycle() {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    const SHORT: Duration = Duration::from_millis(300);

    fn banner(serve: impl FnOnce(TcpStream) + Send + 'static) -> (Result<(), Error>, Duration) {
        let stream = server(serve);
        let begun = Instant::now();
        (wait_for_banner(&stream, SHORT), begun.elapsed())
    }

    #[test]
    fn a_banner_is_awaited_in_bounded_time_whatever_the_server_does() {
        let (silent, took) = banner(|stream| until_closed(&stream));
        assert_eq!(silent.unwrap_err().to_string(), "no SSH banner within 0.3 s");
        assert!(took >= SHORT && took < Duration::from_secs(5), "{took:?}");
        let (dripping, took) = banner(|stream| drip(stream, b"220 mail\r\n"));
        assert!(matches!(dripping, Err(Error::Transient(_))) && took < Duration::from_secs(5), "{took:?}");
        let (endless, took) = banner(|mut stream| while stream.write_all(&[b'x'; 4096]).is_ok() {});
        assert_eq!(endless.unwrap_err().to_string(), "the server does not speak SSH");
        assert!(took < Duration::from_secs(5), "{took:?}");
        let (gone, _) = banner(drop);
        assert!(matches!(gone, Err(Error::Transient(_))));
        let (greeting, _) = banner(|mut stream| {
            stream.write_all(b"hello\r\nSSH-2.0-x").unwrap();
            std::thread::sleep(Duration::from_millis(30));
            stream.write_all(b"\r\n").unwrap();
            until_closed(&stream);
        });
        greeting.unwrap();
    }

    #[test]
    fn what_was_seen_of_the_banner_is_still_there_to_be_read() {
        let mut stream = server(|mut stream| stream.write_all(b"SSH-2.0-x\r\nmore").unwrap());
        wait_for_banner(&stream, SHORT).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "SSH-2.0-x\r\nmore");
    }

    #[test]
    fn a_step_that_does_not_end_is_ended() {
        let stream = server(|stream| drip(stream, b"x"));
        let begun = Instant::now();
        let result = within(SHORT, &stream, |mut stream| {
            let read = stream.read_to_end(&mut vec![]);
            Err::<(), _>(Error::Transient(format!("{read:?}")))
        });
        assert_eq!(result.unwrap_err().to_string(), "the SSH session was not open within 0.3 s");
        assert!(begun.elapsed() < Duration::from_secs(5));
        // One that ends in time waits for nothing.
        let begun = Instant::now();
        within(Duration::from_secs(60), &stream, |_| Ok(())).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
