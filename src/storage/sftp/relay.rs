//! Between the network and libssh2. The library keeps what a server sends and nobody has asked for, and while more of it
//! comes, none of its calls ends. So what comes is counted here, and the connection ends when too much of it was of no use.

use crate::base::{limits, worker::Workers};
use crate::storage::Error;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Instant;

/// Bytes that are passed on at once.
const PIECE: usize = 64 << 10;

/// What the server may still send.
#[derive(Debug)]
struct Allowance {
    bytes: AtomicU64,
    is_exceeded: AtomicBool,
}

impl Allowance {
    /// Counts bytes that came; false: they are too many.
    fn take(&self, count: u64) -> bool {
        let left = self.bytes.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(count));
        self.is_exceeded.fetch_or(left.is_err(), SeqCst);
        left.is_ok()
    }

    fn give(&self, count: u64) {
        let most = |left: u64| Some(left.saturating_add(count).min(limits::SSH_UNASKED));
        let _ = self.bytes.fetch_update(SeqCst, SeqCst, most);
    }
}

/// Passes bytes on in both directions until it is dropped, or until one side is closed.
pub struct Relay {
    allowance: Arc<Allowance>,
    network: TcpStream,
    library: UnixStream,
    workers: Workers,
}

impl Relay {
    /// The relay, and the end of it that the library gets.
    pub fn start(network: &TcpStream) -> io::Result<(Relay, UnixStream)> {
        let (library, end) = UnixStream::pair()?;
        let allowance = Arc::new(Allowance {
            bytes: AtomicU64::new(limits::SSH_UNASKED),
            is_exceeded: AtomicBool::new(false),
        });
        let mut relay =
            Relay { allowance, network: network.try_clone()?, library, workers: Workers::default() };
        let (network, library) = (relay.network.try_clone()?, relay.library.try_clone()?);
        let (allowance, other) = (relay.allowance.clone(), io::Error::other);
        let inwards = move || {
            pass(&network, &library, |count| allowance.take(count));
            close(&network, &library);
            Ok(())
        };
        relay.workers.spawn("ssh-in", inwards).map_err(other)?;
        let (network, library) = (relay.network.try_clone()?, relay.library.try_clone()?);
        let outwards = move || {
            pass(&library, &network, |_| true);
            close(&network, &library);
            Ok(())
        };
        relay.workers.spawn("ssh-out", outwards).map_err(other)?;
        Ok((relay, end))
    }

    /// Bytes of the server's were of use: it may send as many again, with what the protocols put around them.
    pub fn used(&self, count: usize) {
        let count = count as u64;
        self.allowance.give(count + count / 8);
    }

    /// Bytes went to the server, which acknowledges them.
    pub fn sent(&self, count: usize) {
        self.allowance.give(count as u64 / 32);
    }

    /// The reason of an error, if it stands here.
    pub fn explain(&self, error: Error) -> Error {
        if !self.allowance.is_exceeded.load(SeqCst) {
            return error;
        }
        let megabytes = limits::SSH_UNASKED >> 20;
        Error::Transient(format!("the server sent more than {megabytes} MiB that nobody had asked for"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        close(&self.network, &self.library);
        self.workers.wait(Instant::now() + limits::DRAIN);
    }
}

/// Ends both directions; both workers see that at once. It fails where the other side was faster.
fn close(network: &TcpStream, library: &UnixStream) {
    let _ = (network.shutdown(Shutdown::Both), library.shutdown(Shutdown::Both));
}

/// Passes bytes on until either side is closed, or until `may` says no.
fn pass(mut from: impl Read, mut to: impl Write, may: impl Fn(u64) -> bool) {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) if may(count as u64) => {
                if to.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn ends() -> (TcpStream, Relay, UnixStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        let (relay, end) = Relay::start(&client).unwrap();
        (server, relay, end)
    }

    fn why(relay: &Relay) -> String {
        relay.explain(Error::Transient("x".into())).to_string()
    }

    #[test]
    fn bytes_go_both_ways_and_a_closed_side_closes_the_other() {
        let (mut server, relay, mut end) = ends();
        let mut buffer = [0; 3];
        end.write_all(b"abc").unwrap();
        server.read_exact(&mut buffer).unwrap();
        server.write_all(&buffer).unwrap();
        end.read_exact(&mut buffer).unwrap();
        assert_eq!((&buffer, why(&relay).as_str()), (b"abc", "x"));
        drop(server);
        assert_eq!(end.read(&mut buffer).unwrap(), 0);
        let (mut server, relay, _end) = ends();
        drop(relay);
        assert_eq!(server.read(&mut buffer).unwrap(), 0);
    }

    #[test]
    fn a_server_sends_as_much_as_is_used_and_not_much_more() {
        let (mut server, relay, mut end) = ends();
        let mut buffer = vec![0; 1 << 20];
        for _ in 0..20 {
            server.write_all(&buffer).unwrap();
            end.read_exact(&mut buffer).unwrap();
            relay.used(buffer.len());
        }
        assert_eq!(why(&relay), "x");
        // Nothing is used from here on, though all of it is taken.
        let (taken, told) = std::thread::scope(|scope| {
            scope.spawn(|| while server.write_all(&[0; 4096]).is_ok() {});
            let taken = io::copy(&mut end, &mut io::sink()).unwrap();
            let told = why(&relay);
            // A server that fills what nobody reads any more would wait for ever.
            drop(relay);
            (taken, told)
        });
        assert!(taken <= limits::SSH_UNASKED, "{taken}");
        assert_eq!(told, "the server sent more than 8 MiB that nobody had asked for");
    }
}
