//! A very small HTTP server for what operators look at: one thread, a few askers at once, one answer each.
//!
//! An asker has one deadline for all of its request and answer. A request that is there when its connection is taken is answered
//! at once. When too many wait at once, one of the address with the most of them is dropped: somebody who opens silent connections
//! takes the places of his own, not that of an orchestrator which asks from elsewhere.

use crate::base::error::Error;
use crate::base::{limits, stop::Stop};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Longest request that is read, in bytes.
const REQUEST_MAX: usize = 16 << 10;
/// Askers that are served at once.
const ASKERS: usize = 8;
/// Longest wait for something to do: stop is looked at after it.
const LOOK: Duration = Duration::from_millis(100);

/// An answer.
pub struct Reply {
    /// Such as `200 OK`.
    pub status: &'static str,
    /// `Content-Type`.
    pub kind: &'static str,
    pub body: String,
}

/// Listens on `bind`: `host:port`, or `:port` for all IPv4 addresses. `key` is the configuration's name for it.
pub fn listen(name: &str, key: &str, bind: &str) -> Result<TcpListener, Error> {
    let address = if bind.starts_with(':') { format!("0.0.0.0{bind}") } else { bind.to_owned() };
    let failed = |error: std::io::Error| Error::local(format!("{key} {bind}: {error}"));
    let listener = TcpListener::bind(&address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    log::info!("{name} on http://{}", listener.local_addr().map_err(failed)?);
    Ok(listener)
}

/// Answers until stop. `reply` is given the path.
pub fn answer_all(listener: &TcpListener, stop: &Stop, reply: impl Fn(&str) -> Reply) {
    let mut askers: Vec<Asker<TcpStream>> = vec![];
    while !stop.requested() {
        wait(listener, &askers);
        let now = Instant::now();
        // A bound, so that those who are here are served, and stop is looked at, however fast connections come.
        for _ in 0..ASKERS {
            match listener.accept() {
                Ok((stream, peer)) if stream.set_nonblocking(true).is_ok() => {
                    let mut asker = Asker::new(stream, peer.ip(), now);
                    if asker.serve(&reply) {
                        admit(&mut askers, asker);
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    // No file descriptors, say: the listener stays ready, and looking again at once would keep a processor busy.
                    stop.wait(LOOK);
                    break;
                }
            }
        }
        askers.retain_mut(|asker| !asker.is_late(now) && asker.serve(&reply));
    }
}

/// Adds an asker that waits; of the address with the most of them the one that has been here longest makes room for it.
fn admit<S>(askers: &mut Vec<Asker<S>>, asker: Asker<S>) {
    askers.push(asker);
    if askers.len() > ASKERS {
        let of_peer = |peer: IpAddr| askers.iter().filter(|asker| asker.peer == peer).count();
        let most = askers.iter().map(|asker| of_peer(asker.peer)).max();
        if let Some(at) = askers.iter().position(|asker| Some(of_peer(asker.peer)) == most) {
            askers.remove(at);
        }
    }
}

/// Waits until a socket is ready, at most [`LOOK`].
fn wait(listener: &TcpListener, askers: &[Asker<TcpStream>]) {
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(askers.iter().map(|asker| {
        PollFd::new(&asker.stream, if asker.answer.is_some() { PollFlags::OUT } else { PollFlags::IN })
    }));
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
    // Interrupted or failed: the sockets are tried all the same.
    let _ = rustix::event::poll(&mut fds, Some(&timeout));
}

/// A connection, its request as far as it has come, and the rest of its answer.
struct Asker<S> {
    stream: S,
    peer: IpAddr,
    since: Instant,
    request: Vec<u8>,
    answer: Option<Vec<u8>>,
}

impl<S> Asker<S> {
    fn new(stream: S, peer: IpAddr, now: Instant) -> Asker<S> {
        Asker { stream, peer, since: now, request: vec![], answer: None }
    }

    fn is_late(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > limits::HEALTH_ASKER
    }
}

impl<S: Read + Write> Asker<S> {
    /// Reads and writes as far as it goes; false when the connection has served its purpose or is of no use.
    fn serve(&mut self, reply: &impl Fn(&str) -> Reply) -> bool {
        self.progress(reply).unwrap_or_else(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn progress(&mut self, reply: &impl Fn(&str) -> Reply) -> std::io::Result<bool> {
        let mut buffer = [0; 4 << 10];
        while self.answer.is_none() {
            match self.stream.read(&mut buffer)? {
                0 => return Ok(false),
                count => self.request.extend_from_slice(&buffer[..count]),
            }
            match Request::parse(&self.request) {
                Some(request) => self.answer = Some(render(&request, &reply(&request.path))),
                None if self.request.len() > REQUEST_MAX => return Ok(false),
                None => {}
            }
        }
        let Some(answer) = &mut self.answer else { return Ok(false) };
        while !answer.is_empty() {
            let count = self.stream.write(answer)?;
            answer.drain(..count);
        }
        Ok(false)
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    path: String,
    /// `HEAD`: the answer has no body.
    head_only: bool,
}

impl Request {
    /// `None`: the request has not come as a whole.
    fn parse(bytes: &[u8]) -> Option<Request> {
        let ends = |end: &[u8]| bytes.windows(end.len()).any(|window| window == end);
        if !ends(b"\r\n\r\n") && !ends(b"\n\n") {
            return None;
        }
        let line = String::from_utf8_lossy(bytes.split(|byte| *byte == b'\n').next().unwrap_or_default())
            .into_owned();
        let target = line.split_ascii_whitespace().nth(1).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        Some(Request { path, head_only: line.starts_with("HEAD ") })
    }
}

fn render(request: &Request, reply: &Reply) -> Vec<u8> {
    let Reply { status, kind, body } = reply;
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
        body.len(),
        if request.head_only { "" } else { body }
    );
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A connection that gives its pieces one by one, and takes at most `room` bytes of the answer at a time.
    struct Peer {
        pieces: VecDeque<Vec<u8>>,
        room: usize,
        got: Vec<u8>,
    }

    impl Peer {
        fn sends(pieces: &[&str]) -> Peer {
            Peer {
                pieces: pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect(),
                room: 1 << 20,
                got: vec![],
            }
        }
    }

    impl Read for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let Some(piece) = self.pieces.pop_front() else { return Err(ErrorKind::WouldBlock.into()) };
            buffer[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.room == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(self.room);
            self.room -= count;
            self.got.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn reply(path: &str) -> Reply {
        Reply { status: "200 OK", kind: "text/plain", body: format!("you asked for {path}") }
    }

    /// The address of a machine.
    fn address(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    fn asker(peer: Peer) -> Asker<Peer> {
        Asker::new(peer, address(1), Instant::now())
    }

    #[test]
    fn requests_are_read() {
        let parse = |text: &str| Request::parse(text.as_bytes());
        let asked = |path: &str, head_only| Some(Request { path: path.to_owned(), head_only });
        assert_eq!(parse("GET /health HTTP/1.1\r\nHost: x\r\n\r\n"), asked("/health", false));
        assert_eq!(parse("HEAD /a?b=/c HTTP/1.0\n\n"), asked("/a", true));
        assert_eq!(parse("nonsense\r\n\r\n"), asked("", false));
        assert_eq!(parse("GET / HTTP/1.1\r\nHost: x\r\n"), None, "there is more to come");
        assert_eq!(Request::parse(b"GET /\xff\xfe HTTP/1.1\r\n\r\n").unwrap().path, "/\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_request_may_come_in_pieces() {
        let mut asker = asker(Peer::sends(&["GET /he"]));
        assert!(asker.serve(&reply), "it is not whole");
        asker.stream.pieces.push_back(b"alth HTTP/1.1\r\n\r\n".to_vec());
        assert!(!asker.serve(&reply), "it is answered");
        let answer = String::from_utf8(asker.stream.got).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("you asked for /health"),
            "{answer}"
        );
    }

    #[test]
    fn a_head_has_the_length_and_no_body() {
        let mut asker = asker(Peer::sends(&["HEAD /x HTTP/1.1\r\n\r\n"]));
        assert!(!asker.serve(&reply));
        let answer = String::from_utf8(asker.stream.got).unwrap();
        assert!(answer.contains("Content-Length: 16\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[test]
    fn an_answer_may_be_taken_in_pieces() {
        let mut asker = asker(Peer { room: 5, ..Peer::sends(&["GET /x HTTP/1.1\r\n\r\n"]) });
        assert!(asker.serve(&reply), "the asker takes no more now");
        asker.stream.room = 1 << 20;
        assert!(!asker.serve(&reply));
        assert!(String::from_utf8(asker.stream.got).unwrap().ends_with("you asked for /x"));
    }

    #[test]
    fn a_request_without_end_and_a_connection_without_request_end() {
        let long = "x".repeat(4 << 10);
        let mut endless = asker(Peer::sends(&[&long, &long, &long, &long, &long]));
        assert!(!endless.serve(&reply));
        let mut gone = asker(Peer::sends(&[""]));
        assert!(!gone.serve(&reply));
    }

    #[test]
    fn a_slow_asker_is_late_and_the_first_makes_room() {
        let start = Instant::now();
        let mut askers = vec![];
        for n in 0..u32::try_from(ASKERS).unwrap() + 3 {
            admit(&mut askers, Asker::new(n, address(1), start));
        }
        assert_eq!((askers.len(), askers[0].stream), (ASKERS, 3));
        assert!(!askers[0].is_late(start + limits::HEALTH_ASKER));
        assert!(askers[0].is_late(start + limits::HEALTH_ASKER * 2));
    }

    #[test]
    fn silent_connections_take_the_places_of_their_own_address() {
        let start = Instant::now();
        let mut askers = vec![];
        admit(&mut askers, Asker::new("asker", address(2), start));
        for _ in 0..1_000 {
            admit(&mut askers, Asker::new("silent", address(1), start));
        }
        admit(&mut askers, Asker::new("other", address(3), start));
        let kept: Vec<&str> = askers.iter().map(|asker| asker.stream).collect();
        assert_eq!((kept.len(), kept[0], kept[ASKERS - 1]), (ASKERS, "asker", "other"));
    }

    /// What waits in the kernel when the thread looks is served in its order, however much silence follows.
    #[test]
    fn a_request_that_is_there_is_answered_before_silent_connections_count() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut asker = connect();
        asker.write_all(b"GET /x HTTP/1.1\r\n\r\n").unwrap();
        let silent: Vec<TcpStream> = (0..ASKERS * 4).map(|_| connect()).collect();
        let (source, stop) = crate::base::stop::pair();
        std::thread::scope(|scope| {
            scope.spawn(|| answer_all(&listener, &stop, reply));
            asker.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut answer = String::new();
            let read = asker.read_to_string(&mut answer);
            source.stop();
            assert!(read.is_ok() && answer.ends_with("you asked for /x"), "{read:?} {answer}");
        });
        drop(silent);
    }
}
