//! The thread that owns the socket: it connects, moves bytes in both directions, and connects again, until it is told to
//! stop. It waits for the socket alone, never for another thread.

use super::dial::{self, Link, Transport};
use super::error::Error;
use super::login::Auth;
use super::shared::Shared;
use super::url::Url;
use crate::base::{fail, limits, once::Once, random, retry, stop::Stop};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How to reach the broker.
#[derive(Clone, Debug)]
pub struct Options {
    /// Servers to try.
    pub urls: Vec<Url>,
    /// Our name, shown by the server in its list of clients.
    pub name: String,
    /// Login and trust.
    pub auth: Auth,
    /// Use only `urls`, not the other servers of the cluster that a server announces.
    pub ignore_discovered: bool,
    /// Log connects at debug level, and failures not at all: another connection to the same servers reports them.
    pub quiet: bool,
}

/// Longest time until the thread looks again whether it should end.
const LOOK: Duration = Duration::from_secs(1);

/// A connection that ends sooner counts as a failed try: otherwise a server that cuts each at once would be asked without a pause.
const STEADY: Duration = Duration::from_millis(200);

/// Everything that the thread owns.
pub struct Keeper {
    shared: Arc<Shared>,
    options: Options,
    stop: Stop,
    /// The daemon was asked to stop: what happens to the connection is no news any more.
    leaving: Stop,
    /// The last warning about each address, so that a warning is logged once.
    said: HashMap<String, Once>,
    outage: Outage,
}

impl Keeper {
    pub fn new(shared: Arc<Shared>, options: Options, (stop, leaving): (Stop, Stop)) -> Keeper {
        Keeper { shared, options, stop, leaving, said: HashMap::new(), outage: Outage::new(Instant::now()) }
    }

    /// Keeps the connection up until stop, or until its last handle is dropped.
    pub fn run(&mut self) {
        let mut backoff = retry::Backoff::default();
        while !self.finished() {
            match self.connect() {
                Some(link) => {
                    let begun = Instant::now();
                    let why = self.serve(link);
                    let held = begun.elapsed() >= STEADY;
                    self.outage = Outage::new(Instant::now());
                    self.shared.lock().disconnected(&why);
                    self.shared.notify();
                    if !self.finished() && !self.is_quiet() {
                        log::warn!("lost the connection to NATS: {why}; reconnecting");
                    }
                    if held { backoff.reset() } else { self.pause(backoff.pause()) }
                }
                None => self.pause(backoff.pause()),
            }
        }
    }

    fn finished(&self) -> bool {
        self.stop.requested() || self.shared.lock().closed
    }

    fn is_quiet(&self) -> bool {
        self.options.quiet || self.leaving.requested()
    }

    /// Waits, but ends soon after the connection is no longer wanted.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.finished() {
            let left = until.saturating_duration_since(Instant::now());
            let hurried = std::mem::take(&mut self.shared.lock().hurried);
            if left.is_zero() || hurried || self.stop.wait(left.min(Duration::from_millis(200))) {
                return;
            }
        }
    }

    /// Tries each server once, in random order.
    fn connect(&mut self) -> Option<Link> {
        let announced =
            if self.options.ignore_discovered { vec![] } else { self.shared.lock().announced.clone() };
        for url in candidates(&self.options.urls, &announced, random::random_u32) {
            if self.finished() {
                return None;
            }
            match dial::dial(&url, &self.options.auth, &self.options.name, &|| !self.finished()) {
                Ok(link) => {
                    self.connected(&link, &url);
                    return Some(link);
                }
                Err(_) if self.finished() => return None,
                Err(why) => {
                    self.outage.tries += 1;
                    let warning = format!("connect to NATS at {}: {why}", url.address());
                    self.shared.lock().last_error.clone_from(&warning);
                    if !self.is_quiet() && self.said.entry(url.address()).or_default().is_news(&warning) {
                        log::warn!("{warning}; trying for ever");
                    }
                }
            }
        }
        None
    }

    fn connected(&mut self, link: &Link, url: &Url) {
        self.shared.lock().connected(&link.info, url, &self.shared.inbox);
        self.shared.notify();
        self.said.clear();
        let level = if self.options.quiet { log::Level::Debug } else { log::Level::Info };
        let (address, version) = (url.address(), &link.info.version);
        let after = self.outage.end(Instant::now());
        log::log!(level, "connected to NATS at {address} (nats-server {version}){after}");
    }

    /// Moves bytes until the connection ends; returns why it did.
    fn serve(&self, mut link: Link) -> Error {
        let mut buffer = vec![0; 32 << 10];
        let mut writing = Writing::default();
        let mut pulse = Pulse::new(Instant::now());
        loop {
            if self.finished() && writing.is_done() && self.shared.lock().out.is_empty() {
                return Error::Transient("closed".to_owned());
            }
            match self.exchange(&mut link, &mut writing, &mut buffer, &pulse) {
                Ok(true) => pulse.heard(Instant::now()),
                Ok(false) => {}
                Err(why) => return why,
            }
            match pulse.look(Instant::now()) {
                Ok(true) => self.shared.lock().say("PING\r\n"),
                Ok(false) => {}
                Err(why) => return why,
            }
        }
    }

    /// Writes what can be written, waits until something can be done, and reads; true when something was read.
    fn exchange(
        &self,
        link: &mut Link,
        writing: &mut Writing,
        buffer: &mut [u8],
        pulse: &Pulse,
    ) -> Result<bool, Error> {
        if writing.is_done() {
            self.refill(writing);
        }
        if !writing.is_done() || link.transport.wants_write() {
            match link.transport.write(writing.rest()) {
                Ok(count) => {
                    writing.written += count;
                    self.shared.traffic.add_sent(count);
                    fail::point("bytes written to the broker");
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(lost(&error)),
            }
        }
        let want_write = !writing.is_done() || link.transport.wants_write();
        let timeout = pulse.until_next(Instant::now()).min(LOOK);
        if !self.poll(link, want_write, timeout)? {
            return Ok(false);
        }
        self.read(link, buffer)
    }

    fn refill(&self, writing: &mut Writing) {
        writing.bytes.clear();
        writing.written = 0;
        self.shared.lock().take_out(&mut writing.bytes);
        if !writing.bytes.is_empty() {
            // Senders may wait for room in the buffer that is empty now.
            self.shared.notify();
        }
    }

    /// Waits for the socket, a wake-up or the end of the time; true when there may be something to read.
    fn poll(&self, link: &Link, want_write: bool, at_most: Duration) -> Result<bool, Error> {
        let socket = link.transport.socket();
        let interest = if want_write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut fds = [PollFd::new(socket, interest), PollFd::new(&self.shared.wake, PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(lost(&errno)),
        }
        let readable = !fds[0].revents().is_empty();
        if !fds[1].revents().is_empty() {
            // Sets the eventfd back; how often it was written to does not matter.
            let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        }
        Ok(readable)
    }

    /// Reads what is there and hands it out; true when anything came.
    fn read(&self, link: &mut Link, buffer: &mut [u8]) -> Result<bool, Error> {
        let mut any = false;
        // A bound, so that a flood of messages does not keep us from writing.
        for _ in 0..16 {
            match link.transport.read(buffer) {
                Ok(0) => return Err(Error::Transient("closed by the server".to_owned())),
                Ok(count) => {
                    any = true;
                    self.shared.traffic.add_received(count);
                    link.parser.push(&buffer[..count]);
                    while let Some(op) = link.parser.next()? {
                        self.shared.lock().handle(op)?;
                    }
                    // The socket is empty. With TLS, decrypted bytes may be left that poll does not see.
                    if count < buffer.len() && matches!(link.transport, Transport::Plain(_)) {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(&error)),
            }
        }
        Ok(any)
    }
}

fn lost(error: &dyn std::fmt::Display) -> Error {
    Error::Transient(error.to_string())
}

/// The time without a connection, reported at its end.
struct Outage {
    since: Instant,
    /// How many tries to connect have failed.
    tries: u32,
}

impl Outage {
    fn new(now: Instant) -> Outage {
        Outage { since: now, tries: 0 }
    }

    /// What is added to the line on the new connection; empty when the first try was enough.
    fn end(&self, now: Instant) -> String {
        if self.tries == 0 {
            return String::new();
        }
        let seconds = now.saturating_duration_since(self.since).as_secs();
        format!(" after {} failed tries in {seconds} s", self.tries)
    }
}

/// Bytes that are being written to the socket.
#[derive(Default)]
struct Writing {
    bytes: Vec<u8>,
    /// How many of them the socket has taken.
    written: usize,
}

impl Writing {
    fn is_done(&self) -> bool {
        self.written == self.bytes.len()
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }
}

/// Whether the server is alive: after an interval of silence we send a ping, and another after each further one; after some
/// pings without an answer we give the connection up.
struct Pulse {
    /// When the next ping is due, or the end of the patience.
    next: Instant,
    /// Our pings since anything came from the server.
    pings: u32,
}

impl Pulse {
    fn new(now: Instant) -> Pulse {
        Pulse { next: now + limits::PING_INTERVAL, pings: 0 }
    }

    fn heard(&mut self, now: Instant) {
        *self = Pulse::new(now);
    }

    fn until_next(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// Whether to send a ping now; an error when the server counts as dead.
    fn look(&mut self, now: Instant) -> Result<bool, Error> {
        if now < self.next {
            return Ok(false);
        }
        if self.pings >= limits::PINGS_MISSED {
            return Err(Error::Transient(format!("no answer to {} pings", self.pings)));
        }
        self.pings += 1;
        // Counted from now: a process that was suspended must not count the time that it slept as missed pings.
        self.next = now + limits::PING_INTERVAL;
        Ok(true)
    }
}

/// The servers to try, in random order so that nodes spread over a cluster.
fn candidates(configured: &[Url], announced: &[Url], mut random: impl FnMut() -> u32) -> Vec<Url> {
    let mut urls = configured.to_vec();
    for url in announced {
        if !urls.iter().any(|known| known.host == url.host && known.port == url.port) {
            urls.push(url.clone());
        }
    }
    let mut keyed: Vec<_> = urls.into_iter().map(|url| (random(), url)).collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, url)| url).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(texts: &[&str]) -> Vec<Url> {
        texts.iter().map(|text| Url::parse(text).unwrap()).collect()
    }

    fn addresses(urls: &[Url]) -> Vec<String> {
        urls.iter().map(Url::address).collect()
    }

    #[test]
    fn servers_are_tried_in_the_order_of_chance() {
        let configured = urls(&["a", "b", "c"]);
        let mut keys = [3, 1, 2].into_iter();
        let found = candidates(&configured, &[], || keys.next().unwrap());
        assert_eq!(addresses(&found), ["b:4222", "c:4222", "a:4222"]);
    }

    #[test]
    fn a_server_is_tried_once_and_as_it_was_configured() {
        let configured = urls(&["a:1", "b:2"]);
        let found = candidates(&configured, &urls(&["u:p@a:1", "c:3", "c:3"]), || 0);
        assert_eq!(addresses(&found), ["a:1", "b:2", "c:3"]);
        assert_eq!(found[0].user, None);
    }

    #[test]
    fn silence_leads_to_pings_and_then_to_the_end() {
        let begin = Instant::now();
        let after = |intervals: u32| begin + limits::PING_INTERVAL * intervals;
        let mut pulse = Pulse::new(begin);
        assert_eq!(pulse.until_next(begin), limits::PING_INTERVAL);
        assert_eq!(pulse.look(after(1) - Duration::from_millis(1)), Ok(false));
        for ping in 1..=limits::PINGS_MISSED {
            assert_eq!(pulse.look(after(ping)), Ok(true));
            assert_eq!(pulse.look(after(ping)), Ok(false), "one ping an interval");
            assert_eq!(pulse.until_next(after(ping)), limits::PING_INTERVAL);
        }
        let error = pulse.look(after(limits::PINGS_MISSED + 1)).unwrap_err();
        assert_eq!(error, Error::Transient("no answer to 2 pings".into()));
    }

    #[test]
    fn any_sign_of_life_begins_anew() {
        let begin = Instant::now();
        let mut pulse = Pulse::new(begin);
        let late = begin + limits::PING_INTERVAL;
        assert_eq!(pulse.look(late), Ok(true));
        pulse.heard(late);
        assert_eq!((pulse.pings, pulse.until_next(late)), (0, limits::PING_INTERVAL));
        assert_eq!(pulse.look(late), Ok(false));
    }

    #[test]
    fn the_server_has_an_interval_for_its_answer_however_late_we_look() {
        let begin = Instant::now();
        let mut pulse = Pulse::new(begin);
        let late = begin + limits::PING_INTERVAL * 10;
        assert_eq!(pulse.until_next(late), Duration::ZERO);
        assert_eq!(pulse.look(late), Ok(true));
        assert_eq!(pulse.until_next(late), limits::PING_INTERVAL);
        assert_eq!(pulse.look(late + limits::PING_INTERVAL / 2), Ok(false));
    }

    #[test]
    fn the_end_of_an_outage_tells_how_long_it_was() {
        let begin = Instant::now();
        let mut outage = Outage::new(begin);
        let later = begin + Duration::from_millis(8_900);
        assert_eq!(outage.end(later), "");
        outage.tries = 3;
        assert_eq!(outage.end(later), " after 3 failed tries in 8 s");
    }

    #[test]
    fn bytes_are_written_in_pieces() {
        let mut writing = Writing::default();
        assert!(writing.is_done());
        writing.bytes = b"abc".to_vec();
        assert_eq!((writing.is_done(), writing.rest()), (false, &b"abc"[..]));
        writing.written = 2;
        assert_eq!(writing.rest(), b"c");
        writing.written = 3;
        assert!(writing.is_done() && writing.rest().is_empty());
    }
}
