//! One connection to the broker, kept up for ever by a thread that owns the socket. Other threads hand it bytes through
//! a bounded buffer and get messages through bounded queues; it waits for nobody.

use super::dial::{self, Auth, Link};
use super::url::Url;
use super::wire::{self, Message, Op};
use super::{Error, nuid};
use crate::base::{limits, once::Once, retry::Backoff, stop::Stop, worker};
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fd::OwnedFd;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How to reach the broker.
#[derive(Clone, Debug)]
pub struct Options {
    /// Servers to try.
    pub urls: Vec<Url>,
    /// Our name, shown by the server.
    pub name: String,
    /// Login and trust.
    pub auth: Auth,
    /// Do not use servers that the broker announces.
    pub ignore_discovered: bool,
    /// Its coming and going is no news: another connection says the same.
    pub quiet: bool,
}

/// A handle on the connection; clones share it. When the last one is dropped, the connection is closed.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    #[allow(dead_code, reason = "dropping the last handle closes the connection")]
    close: Arc<CloseOnDrop>,
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.state_changed.notify_all();
        self.0.wake();
    }
}

struct Shared {
    state: Mutex<State>,
    state_changed: Condvar,
    wake: OwnedFd,
    inbox: String,
}

#[derive(Default)]
struct State {
    up: bool,
    closed: bool,
    /// Counts the connections made; changes with each.
    epoch: u64,
    max_payload: usize,
    server: String,
    announced: Vec<String>,
    out: Vec<u8>,
    next_id: u64,
    subscriptions: HashMap<u64, (String, Sender<Message>)>,
    replies: HashMap<u64, Sender<Message>>,
    watchers: Vec<Sender<()>>,
    last_error: String,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits until another thread says that something changed, or the time is up.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        let waited = self.state_changed.wait_timeout(state, at_most);
        waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    fn wake(&self) {
        // The counter of an eventfd overflows only after 2^64 wake-ups that nobody read.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn announce_change(&self, state: &mut State) {
        state.watchers.retain(|watcher| {
            !matches!(watcher.try_send(()), Err(crossbeam_channel::TrySendError::Disconnected(())))
        });
        self.state_changed.notify_all();
    }
}

/// A subscription; dropping it unsubscribes.
pub struct Subscription {
    connection: Connection,
    /// Number that its messages carry.
    pub sid: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.connection.shared.lock();
        state.subscriptions.remove(&self.sid);
        if state.up {
            let line = format!("UNSUB {}\r\n", self.sid);
            state.out.extend_from_slice(line.as_bytes());
            self.connection.shared.wake();
        }
    }
}

/// Sid of the inbox for replies.
const REPLIES: u64 = 1;

impl Connection {
    /// Starts the connection's thread and returns at once; the thread connects, and reconnects, until `stop`.
    pub fn open(options: Options, stop: Stop, exits: &Sender<worker::Exit>) -> Result<Connection, Error> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::Permanent(format!("eventfd: {error}")))?;
        let state = State { next_id: REPLIES + 1, ..State::default() };
        let inbox = format!("_INBOX.{}", nuid());
        let shared =
            Arc::new(Shared { state: Mutex::new(state), state_changed: Condvar::new(), wake, inbox });
        let close = Arc::new(CloseOnDrop(shared.clone()));
        let mut keeper = Keeper { shared: shared.clone(), options, stop, said: HashMap::new() };
        worker::spawn("nats", exits, move || {
            keeper.run();
            Ok(())
        })
        .map_err(Error::Permanent)?;
        Ok(Connection { shared, close })
    }

    /// Whether the broker is there now.
    pub fn is_up(&self) -> bool {
        self.shared.lock().up
    }

    /// Which connection this is: changes with every reconnect.
    pub fn epoch(&self) -> u64 {
        self.shared.lock().epoch
    }

    /// Largest message that the server takes.
    pub fn max_payload(&self) -> usize {
        self.shared.lock().max_payload
    }

    /// Why the last try failed; empty when none did.
    pub fn last_error(&self) -> String {
        self.shared.lock().last_error.clone()
    }

    /// A queue that gets a token whenever the connection comes or goes.
    pub fn watch(&self) -> Receiver<()> {
        let (sender, receiver) = bounded(1);
        self.shared.lock().watchers.push(sender);
        receiver
    }

    /// Waits until the broker is there.
    pub fn wait_up(&self, timeout: Duration) -> Result<(), Error> {
        let until = Instant::now() + timeout;
        drop(self.up_state(until)?);
        Ok(())
    }

    fn up_state(&self, until: Instant) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.shared.lock();
        while !state.up {
            let left = until.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                let why = if state.last_error.is_empty() { "not connected" } else { &state.last_error };
                return Err(Error::Transient(why.to_owned()));
            }
            state = self.shared.wait(state, left);
        }
        Ok(state)
    }

    /// Hands over a frame; waits while the buffer is full, fails at once without a connection.
    pub fn send(&self, frame: &[u8]) -> Result<(), Error> {
        let until = Instant::now() + limits::API_TIMEOUT;
        let mut state = self.shared.lock();
        loop {
            if !state.up {
                return Err(Error::Transient("not connected".into()));
            }
            if state.out.is_empty() || state.out.len() + frame.len() <= limits::OUT_BUFFER {
                break;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Transient("the broker takes nothing".into()));
            }
            state = self.shared.wait(state, left);
        }
        let asleep = state.out.is_empty();
        state.out.extend_from_slice(frame);
        drop(state);
        if asleep {
            self.shared.wake();
        }
        Ok(())
    }

    /// Publishes without an answer.
    pub fn publish(&self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> Result<(), Error> {
        let frame = wire::publish_frame(subject, None, headers, payload).map_err(Error::Permanent)?;
        self.check_size(&frame)?;
        self.send(&frame)
    }

    fn check_size(&self, frame: &[u8]) -> Result<(), Error> {
        let max = self.max_payload();
        // The line before the body counts little; the server is the judge at the margin.
        if max > 0 && frame.len() > max + 256 {
            return Err(Error::Permanent(format!(
                "{} bytes, the server takes {max} (its max_payload)",
                frame.len()
            )));
        }
        Ok(())
    }

    /// Publishes and waits for one answer.
    pub fn request(
        &self,
        subject: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Message, Error> {
        let until = Instant::now() + timeout;
        let (sender, receiver) = bounded(1);
        let token = {
            let mut state = self.up_state(until)?;
            state.next_id += 1;
            let token = state.next_id;
            state.replies.insert(token, sender);
            token
        };
        let forget = || drop(self.shared.lock().replies.remove(&token));
        let reply = format!("{}.{token}", self.shared.inbox);
        let sent = wire::publish_frame(subject, Some(&reply), headers, payload)
            .map_err(Error::Permanent)
            .and_then(|frame| self.check_size(&frame).and_then(|()| self.send(&frame)));
        if let Err(error) = sent {
            forget();
            return Err(error);
        }
        let answer = receiver.recv_deadline(until);
        forget();
        match answer {
            Ok(message) if message.headers.status == Some(503) => {
                Err(Error::Transient(format!("{subject}: nobody answers (no JetStream?)")))
            }
            Ok(message) => Ok(message),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
                Err(Error::Transient(format!("{subject}: no answer within {} ms", timeout.as_millis())))
            }
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
                Err(Error::Transient("connection lost".into()))
            }
        }
    }

    /// Subscribes; messages go to `queue`, and those that find it full are dropped (the reader waits for nobody).
    pub fn subscribe(&self, subject: &str, queue: Sender<Message>) -> Subscription {
        let mut state = self.shared.lock();
        state.next_id += 1;
        let sid = state.next_id;
        state.subscriptions.insert(sid, (subject.to_owned(), queue));
        if state.up {
            let line = format!("SUB {subject} {sid}\r\n");
            state.out.extend_from_slice(line.as_bytes());
            self.shared.wake();
        }
        Subscription { connection: self.clone(), sid }
    }
}

/// The thread that owns the socket.
struct Keeper {
    shared: Arc<Shared>,
    options: Options,
    stop: Stop,
    /// By address.
    said: HashMap<String, Once>,
}

impl Keeper {
    fn run(&mut self) {
        let mut backoff = Backoff::default();
        while !self.finished() {
            match self.connect() {
                Some(link) => {
                    backoff.reset();
                    let why = self.serve(link);
                    self.down(&why);
                    if !self.finished() && !self.options.quiet {
                        log::warn!("lost the connection to NATS: {why}; reconnecting");
                    }
                }
                None => self.pause(backoff.pause()),
            }
        }
    }

    fn finished(&self) -> bool {
        self.stop.requested() || self.shared.lock().closed
    }

    /// Waits, but not longer than the connection is wanted.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.finished() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stop.wait(left.min(Duration::from_millis(200))) {
                return;
            }
        }
    }

    fn candidates(&self) -> Vec<Url> {
        let mut urls = self.options.urls.clone();
        let announced =
            if self.options.ignore_discovered { vec![] } else { self.shared.lock().announced.clone() };
        for address in announced {
            if let (Ok(url), Some(first)) = (Url::parse(&address), self.options.urls.first())
                && !urls.iter().any(|known| known.host == url.host && known.port == url.port)
            {
                urls.push(Url {
                    tls: first.tls,
                    user: first.user.clone(),
                    password: first.password.clone(),
                    ..url
                });
            }
        }
        let mut keyed: Vec<_> = urls.into_iter().map(|url| (crate::base::retry::random_u32(), url)).collect();
        keyed.sort_by_key(|(key, _)| *key);
        keyed.into_iter().map(|(_, url)| url).collect()
    }

    fn connect(&mut self) -> Option<Link> {
        for url in self.candidates() {
            if self.finished() {
                return None;
            }
            match dial::dial(&url, &self.options.auth, &self.options.name) {
                Ok(link) => {
                    self.up(&link, &url);
                    return Some(link);
                }
                Err(why) => {
                    let warning = format!("connect to NATS at {}: {why}", url.address());
                    self.shared.lock().last_error.clone_from(&warning);
                    if !self.options.quiet && self.said.entry(url.address()).or_default().is_news(&warning) {
                        log::warn!("{warning}; trying for ever");
                    }
                }
            }
        }
        None
    }

    fn up(&mut self, link: &Link, url: &Url) {
        let mut state = self.shared.lock();
        read_info(&mut state, &link.info);
        state.up = true;
        state.epoch += 1;
        state.last_error.clear();
        state.server = url.address();
        state.out.clear();
        let inbox = format!("SUB {}.* {REPLIES}\r\n", self.shared.inbox);
        state.out.extend_from_slice(inbox.as_bytes());
        let lines: Vec<String> = state
            .subscriptions
            .iter()
            .map(|(sid, (subject, _))| format!("SUB {subject} {sid}\r\n"))
            .collect();
        state.out.extend_from_slice(lines.concat().as_bytes());
        self.shared.announce_change(&mut state);
        drop(state);
        self.said.clear();
        let version = link.info["version"].as_str().unwrap_or("?");
        let level = if self.options.quiet { log::Level::Debug } else { log::Level::Info };
        log::log!(level, "connected to NATS at {} (nats-server {version})", url.address());
    }

    fn down(&self, why: &str) {
        let mut state = self.shared.lock();
        state.up = false;
        why.clone_into(&mut state.last_error);
        state.out = Vec::new();
        state.replies.clear();
        self.shared.announce_change(&mut state);
    }

    /// Moves bytes until the connection ends; says why it did.
    fn serve(&self, mut link: Link) -> String {
        let mut buffer = vec![0; 32 << 10];
        let mut writing: Vec<u8> = Vec::new();
        let mut written = 0;
        let mut heard = Instant::now();
        let mut pings = 0;
        loop {
            if self.finished() && written == writing.len() && self.shared.lock().out.is_empty() {
                return "closed".to_owned();
            }
            if written == writing.len() {
                writing.clear();
                written = 0;
                self.refill(&mut writing);
            }
            if written < writing.len() || link.transport.wants_write() {
                match link.transport.write(&writing[written..]) {
                    Ok(count) => written += count,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return error.to_string(),
                }
            }
            let want_write = written < writing.len() || link.transport.wants_write();
            let ready = match self.poll(&link, want_write, heard) {
                Ok(ready) => ready,
                Err(why) => return why,
            };
            if ready {
                match self.read(&mut link, &mut buffer) {
                    Ok(true) => {
                        heard = Instant::now();
                        pings = 0;
                    }
                    Ok(false) => {}
                    Err(why) => return why,
                }
            }
            if heard.elapsed() > limits::PING_INTERVAL * (pings + 1) {
                if pings >= limits::PINGS_MISSED {
                    return format!("no answer to {pings} pings");
                }
                pings += 1;
                self.shared.lock().out.extend_from_slice(b"PING\r\n");
            }
        }
    }

    fn refill(&self, writing: &mut Vec<u8>) {
        let mut state = self.shared.lock();
        std::mem::swap(&mut state.out, writing);
        if state.out.capacity() > limits::OUT_BUFFER {
            state.out = Vec::new();
        }
        drop(state);
        if !writing.is_empty() {
            self.shared.state_changed.notify_all();
        }
    }

    /// Waits for the socket, a wake-up or the next ping; true when there may be something to read.
    fn poll(&self, link: &Link, want_write: bool, heard: Instant) -> Result<bool, String> {
        let socket = link.transport.socket();
        let interest = if want_write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut fds = [PollFd::new(socket, interest), PollFd::new(&self.shared.wake, PollFlags::IN)];
        let since = heard.elapsed();
        let interval = limits::PING_INTERVAL;
        // Up to the next multiple of the ping interval since something was heard; stop is looked at once a second.
        let rest = interval.as_millis() - since.as_millis() % interval.as_millis();
        let timeout = Duration::from_millis(u64::try_from(rest).unwrap_or(1_000)).min(Duration::from_secs(1));
        let timeout = rustix::event::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.to_string()),
        }
        let readable = !fds[0].revents().is_empty();
        if !fds[1].revents().is_empty() {
            let mut counter = [0; 8];
            let _ = rustix::io::read(&self.shared.wake, &mut counter);
        }
        Ok(readable)
    }

    /// Reads what is there and hands it out; true when anything came.
    fn read(&self, link: &mut Link, buffer: &mut [u8]) -> Result<bool, String> {
        let mut any = false;
        // A bound, so that a flood of messages does not keep us from writing.
        for _ in 0..16 {
            match link.transport.read(buffer) {
                Ok(0) => return Err("closed by the server".to_owned()),
                Ok(count) => {
                    any = true;
                    link.parser.push(&buffer[..count]);
                    while let Some(op) = link.parser.next()? {
                        self.handle(op)?;
                    }
                    if count < buffer.len() && matches!(link.transport, dial::Transport::Plain(_)) {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(any)
    }

    fn handle(&self, op: Op) -> Result<(), String> {
        let mut state = self.shared.lock();
        match op {
            Op::Message(message) if message.sid == REPLIES => {
                let token = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
                if let Some(waiting) = token.and_then(|token: u64| state.replies.remove(&token)) {
                    let _ = waiting.try_send(message);
                }
            }
            Op::Message(message) => {
                // A full queue drops the message: who subscribes notices by its own numbers, the reader waits for nobody.
                if let Some((_, queue)) = state.subscriptions.get(&message.sid) {
                    let _ = queue.try_send(message);
                }
            }
            Op::Ping => state.out.extend_from_slice(b"PONG\r\n"),
            Op::Info(json) => {
                if let Ok(info) = serde_json::from_slice(&json) {
                    read_info(&mut state, &info);
                }
            }
            Op::Err(text) => {
                let lower = text.to_ascii_lowercase();
                if !lower.starts_with("permissions violation") && !lower.starts_with("invalid subject") {
                    return Err(format!("the server says: {text}"));
                }
                log::warn!("NATS says: {text}");
            }
            Op::Pong | Op::Ok => {}
        }
        Ok(())
    }
}

fn read_info(state: &mut State, info: &Value) {
    state.max_payload = info["max_payload"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(1 << 20);
    state.announced = info["connect_urls"]
        .as_array()
        .map(|urls| urls.iter().filter_map(|url| url.as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
}
