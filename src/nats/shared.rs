//! What the handles of a connection and the thread that owns its socket share: the bytes to send, the subscriptions, the
//! replies that callers wait for. No socket is touched here.

use super::error::Error;
use super::nuid;
use super::queued::Queued;
use super::url::Url;
use super::wire::{Message, Op, ServerInfo, subscribe_line};
use crate::base::limits;
use crossbeam_channel::{Sender, TrySendError};
use rustix::event::EventfdFlags;
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Announced servers that are remembered at most: a list without end would keep us from the configured ones.
const ANNOUNCED: usize = 100;
/// Pulls of one subscription whose messages may wait in its queue: a new one is made when half of one has been taken.
const PULLS: usize = 3;
/// Number of the subscription to the inbox where all replies arrive.
const REPLIES: u64 = 1;

/// The state under its lock, and two ways to say that it changed: one for threads that wait for the state, one for the
/// thread that waits for the socket.
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// An eventfd that the socket's thread polls together with the socket.
    pub wake: OwnedFd,
    /// Replies go to subjects below this one.
    pub inbox: String,
    pub traffic: Arc<Traffic>,
}

/// Bytes that connections have sent and received, before TLS.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    pub fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes sent and received since the start.
    pub fn so_far(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }
}

impl Shared {
    pub fn new(traffic: Arc<Traffic>) -> Result<Arc<Shared>, Error> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::Local(format!("eventfd: {error}")))?;
        let state = Mutex::new(State { last_id: REPLIES, ..State::default() });
        let inbox = format!("_INBOX.{}", nuid());
        Ok(Arc::new(Shared { state, changed: Condvar::new(), wake, inbox, traffic }))
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up the lock until another thread says that something changed, or the time is up.
    pub fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Tells the threads that wait for the state to look again.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Lets the socket's thread look for bytes to send, and whether it should end.
    pub fn wake(&self) {
        // It fails only when the counter is full, and then the thread has been woken already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// What the threads share. Everything here is bounded: `out` by [`limits::OUT_BUFFER`], the maps by what callers hold.
#[derive(Default)]
pub struct State {
    /// Logged in at a server.
    pub up: bool,
    /// The last handle is gone.
    pub closed: bool,
    /// Counts the logins: another number means another connection.
    pub epoch: u64,
    /// Bytes of the largest message that the server takes; 0 before the first login.
    pub max_payload: usize,
    /// Servers of the cluster, as the last server that told of any announced them.
    pub announced: Vec<Url>,
    /// The server of this connection, or of the last one.
    server: Option<Url>,
    /// Bytes for the server that the socket's thread has not taken yet.
    pub out: Vec<u8>,
    /// `out` holds the answer to a PING.
    pong_waits: bool,
    /// Why the last try to connect failed, or the connection ended; empty while all is well.
    pub last_error: String,
    /// Somebody waits for a connection: the next try is made at once.
    pub hurried: bool,
    /// The last number given to a subscription or a request.
    last_id: u64,
    subscriptions: HashMap<u64, Subscriber>,
    replies: HashMap<u64, Sender<Message>>,
    watchers: Vec<Sender<()>>,
}

/// Who gets the messages of a subject.
struct Subscriber {
    subject: String,
    queue: Sender<Message>,
    /// Bytes of the messages of this subscription that wait in the queue.
    queued: Arc<AtomicUsize>,
}

impl Subscriber {
    /// A message that finds no room is dropped: the socket's thread waits for nobody, and subscribers notice by the numbers in the
    /// messages. A queue has room for so many messages, and for so many bytes, because a broker need not keep to what a pull
    /// asks for.
    fn offer(&self, mut message: Message, bytes: usize) {
        if let Some(queued) = Queued::take(&self.queued, message.size(), bytes) {
            message.queued = queued;
            let _ = self.queue.try_send(message);
        }
    }
}

impl State {
    /// A connection begins: nothing of the one before is sent on it, and all subscriptions are made again.
    pub fn connected(&mut self, info: &ServerInfo, server: &Url, inbox: &str) {
        self.server = Some(server.clone());
        self.note(info);
        self.up = true;
        self.epoch += 1;
        self.last_error.clear();
        self.out.clear();
        self.pong_waits = false;
        self.say(&subscribe_line(&format!("{inbox}.*"), REPLIES));
        let lines: Vec<String> =
            self.subscriptions.iter().map(|(sid, to)| subscribe_line(&to.subject, *sid)).collect();
        self.say(&lines.concat());
        self.tell_watchers();
    }

    /// A connection has ended: callers that wait for a reply on it are told so by the disconnection of their queue.
    pub fn disconnected(&mut self, why: &Error) {
        self.up = false;
        self.last_error = why.to_string();
        self.out = Vec::new();
        self.replies.clear();
        self.tell_watchers();
    }

    fn note(&mut self, info: &ServerInfo) {
        self.max_payload = info.max_payload;
        if let Some(server) = &self.server
            && !info.connect_urls.is_empty()
        {
            let urls = info.connect_urls.iter().filter_map(|address| server.announced(address));
            self.announced = urls.take(ANNOUNCED).collect();
        }
    }

    fn tell_watchers(&mut self) {
        // A watcher whose place is taken already will look again anyway.
        self.watchers.retain(|watcher| !matches!(watcher.try_send(()), Err(TrySendError::Disconnected(()))));
    }

    pub fn add_watcher(&mut self, watcher: Sender<()>) {
        self.watchers.push(watcher);
    }

    /// Adds a line for the server.
    pub fn say(&mut self, line: &str) {
        self.out.extend_from_slice(line.as_bytes());
    }

    /// Whether a frame may be added. One is always let through, however large.
    pub fn has_room(&self, frame: &[u8]) -> bool {
        self.out.is_empty() || self.out.len() + frame.len() <= limits::OUT_BUFFER
    }

    /// Hands out all bytes for the server in exchange for an empty buffer.
    pub fn take_out(&mut self, empty: &mut Vec<u8>) {
        std::mem::swap(&mut self.out, empty);
        self.pong_waits = false;
        if self.out.capacity() > limits::OUT_BUFFER {
            self.out = Vec::new();
        }
    }

    /// Notes who gets the messages of a subject; returns the subscription's number.
    pub fn subscribe(&mut self, subject: &str, queue: Sender<Message>) -> u64 {
        self.last_id += 1;
        let subscriber = Subscriber { subject: subject.to_owned(), queue, queued: Arc::default() };
        self.subscriptions.insert(self.last_id, subscriber);
        self.last_id
    }

    pub fn unsubscribe(&mut self, sid: u64) {
        self.subscriptions.remove(&sid);
    }

    /// Notes who waits for a reply; returns the last token of the reply's subject.
    pub fn expect_reply(&mut self, queue: Sender<Message>) -> u64 {
        self.last_id += 1;
        self.replies.insert(self.last_id, queue);
        self.last_id
    }

    pub fn forget_reply(&mut self, token: u64) {
        self.replies.remove(&token);
    }

    #[cfg(test)]
    pub fn expects_replies(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Does what the server asks for. An error ends the connection.
    pub fn handle(&mut self, op: Op) -> Result<(), Error> {
        match op {
            Op::Message(message) if message.sid == REPLIES => {
                let token = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
                if let Some(queue) = token.and_then(|token: u64| self.replies.remove(&token)) {
                    // One reply finds room; without a receiver nobody waits any more.
                    let _ = queue.try_send(message);
                }
            }
            Op::Message(message) => {
                if let Some(subscriber) = self.subscriptions.get(&message.sid) {
                    subscriber.offer(message, PULLS * limits::pull_bytes(self.max_payload));
                }
            }
            // One answer serves all PINGs that came before it is sent: a server that reads nothing fills no memory.
            Op::Ping if self.pong_waits => {}
            Op::Ping => {
                self.pong_waits = true;
                self.say("PONG\r\n");
            }
            Op::Info(json) => {
                if let Ok(info) = ServerInfo::parse(&json) {
                    self.note(&info);
                }
            }
            Op::Err(text) if leaves_the_connection(&text) => log::warn!("NATS says: {text}"),
            Op::Err(text) => return Err(Error::Transient(format!("the server says: {text}"))),
            Op::Pong | Op::Ok => {}
        }
        Ok(())
    }
}

/// Whether the connection lives on after an error of the server. The protocol has only words here: its documentation (Client
/// Protocol, section "-ERR") lists the errors, and says of these two alone that the connection stays open.
fn leaves_the_connection(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.starts_with("permissions violation") || text.starts_with("invalid subject")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    fn message(sid: u64, subject: &str, body: &str) -> Op {
        let payload = body.as_bytes().to_vec();
        Op::Message(Message {
            sid,
            subject: subject.into(),
            reply: None,
            headers: Default::default(),
            payload,
            queued: Queued::default(),
        })
    }

    fn info(json: &str) -> ServerInfo {
        ServerInfo::parse(json.as_bytes()).unwrap()
    }

    fn state() -> State {
        State { last_id: REPLIES, ..State::default() }
    }

    fn server() -> Url {
        Url::parse("nats://u:p@h").unwrap()
    }

    fn announced(state: &State) -> Vec<String> {
        state.announced.iter().map(Url::address).collect()
    }

    fn said(state: &mut State) -> String {
        String::from_utf8(std::mem::take(&mut state.out)).unwrap()
    }

    #[test]
    fn a_reply_goes_to_the_caller_with_its_token() {
        let mut state = state();
        let (first, replies_first) = bounded(1);
        let (second, replies_second) = bounded(1);
        let (one, two) = (state.expect_reply(first), state.expect_reply(second));
        assert!(one != two && one > REPLIES);
        state.handle(message(REPLIES, &format!("_INBOX.x.{two}"), "b")).unwrap();
        state.handle(message(REPLIES, &format!("_INBOX.x.{one}"), "a")).unwrap();
        assert_eq!(replies_first.try_recv().unwrap().payload, b"a");
        assert_eq!(replies_second.try_recv().unwrap().payload, b"b");
        // A second reply, one that is late, and one to nobody: ignored.
        for token in [one.to_string(), "77".into(), "x".into()] {
            state.handle(message(REPLIES, &format!("_INBOX.x.{token}"), "c")).unwrap();
        }
        assert!(replies_first.try_recv().is_err());
    }

    #[test]
    fn a_full_queue_drops_and_blocks_nothing() {
        let mut state = state();
        let (queue, messages) = bounded(1);
        let sid = state.subscribe("s", queue);
        for body in ["1", "2"] {
            state.handle(message(sid, "s", body)).unwrap();
        }
        assert_eq!(messages.try_iter().map(|m| m.payload).collect::<Vec<_>>(), [b"1"]);
        state.unsubscribe(sid);
        state.handle(message(sid, "s", "3")).unwrap();
        assert!(messages.try_recv().is_err());
    }

    /// A broker that sends more than was asked for.
    #[test]
    fn a_queue_is_bounded_in_bytes_and_has_room_again_when_they_are_taken() {
        let mut state = State { max_payload: 1 << 20, ..state() };
        let max = PULLS * limits::pull_bytes(state.max_payload);
        let (queue, messages) = bounded(2_048);
        let (sid, other) = (state.subscribe("s", queue.clone()), state.subscribe("other", queue));
        let body = "x".repeat(1 << 20);
        for round in 0..3 {
            for _ in 0..200 {
                state.handle(message(sid, "s", &body)).unwrap();
            }
            assert_eq!(messages.len(), max >> 20, "{round}");
            // Another subscription's messages are counted apart.
            state.handle(message(other, "other", "small")).unwrap();
            assert_eq!(messages.try_iter().count(), (max >> 20) + 1);
        }
        // One larger message passes alone.
        state.handle(message(sid, "s", &"x".repeat(max * 2))).unwrap();
        state.handle(message(sid, "s", "small")).unwrap();
        assert_eq!(messages.try_iter().count(), 1);
        // So do headers without a body count.
        let headers = format!("NATS/1.0\r\n{}\r\n", "a:\r\n".repeat(100_000));
        for _ in 0..200 {
            let Op::Message(mut message) = message(sid, "s", "") else { panic!() };
            message.headers = crate::nats::wire::Headers::parse(headers.as_bytes());
            state.handle(Op::Message(message)).unwrap();
        }
        assert_eq!(messages.try_iter().count(), 1);
    }

    #[test]
    fn a_new_connection_sends_nothing_old_and_subscribes_again() {
        let mut state = state();
        let (queue, _messages) = bounded(1);
        let sid = state.subscribe("s", queue);
        state.say("PUB old 0\r\n\r\n");
        state.connected(&info(r#"{"max_payload":99,"connect_urls":["a:1"]}"#), &server(), "_INBOX.x");
        assert_eq!(said(&mut state), format!("SUB _INBOX.x.* 1\r\nSUB s {sid}\r\n"));
        assert_eq!((state.up, state.epoch, state.max_payload), (true, 1, 99));
        assert_eq!(announced(&state), ["a:1"]);
        assert_eq!(state.announced[0].user.as_deref(), Some("u"));
        // A greeting that tells of none (that of an encrypted connection tells nothing) leaves them known.
        state.connected(&info("{}"), &server(), "_INBOX.x");
        assert_eq!(announced(&state), ["a:1"]);
    }

    #[test]
    fn a_list_of_servers_without_end_is_cut() {
        let mut state = state();
        let urls: Vec<String> = (1..=1_000).map(|port| format!("\"h:{port}\"")).collect();
        let json = format!("{{\"connect_urls\":[{}]}}", urls.join(","));
        state.connected(&info(&json), &server(), "_INBOX.x");
        assert_eq!(state.announced.len(), ANNOUNCED);
    }

    #[test]
    fn a_flood_of_pings_fills_no_memory() {
        let mut state = state();
        state.connected(&info("{}"), &server(), "_INBOX.x");
        let before = state.out.len();
        for _ in 0..1_000_000 {
            state.handle(Op::Ping).unwrap();
        }
        assert_eq!(state.out.len() - before, "PONG\r\n".len());
        // Once that answer was taken, the next PING gets one of its own.
        state.take_out(&mut Vec::new());
        state.handle(Op::Ping).unwrap();
        assert_eq!(said(&mut state), "PONG\r\n");
    }

    #[test]
    fn a_lost_connection_is_told_to_callers_and_watchers() {
        let mut state = state();
        state.connected(&info("{}"), &server(), "_INBOX.x");
        let (queue, replies) = bounded(1);
        state.expect_reply(queue);
        let (watcher, changes) = bounded(1);
        state.add_watcher(watcher);
        state.disconnected(&Error::Transient("gone".into()));
        assert!(matches!(replies.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected)));
        assert!(changes.try_recv().is_ok());
        assert_eq!((state.up, state.last_error.as_str(), state.out.len()), (false, "gone", 0));
        state.connected(&info("{}"), &server(), "_INBOX.x");
        assert_eq!((state.epoch, state.last_error.as_str()), (2, ""));
    }

    #[test]
    fn a_watcher_that_is_gone_is_forgotten_and_one_that_is_full_stays() {
        let mut state = state();
        let (gone, receiver) = bounded(1);
        let (full, changes) = bounded(1);
        drop(receiver);
        state.add_watcher(gone);
        state.add_watcher(full);
        state.tell_watchers();
        state.tell_watchers();
        assert_eq!((state.watchers.len(), changes.try_iter().count()), (1, 1));
    }

    #[test]
    fn pings_are_answered_and_news_of_the_server_noted() {
        let mut state = State { server: Some(server()), ..state() };
        state.handle(Op::Ping).unwrap();
        state.handle(Op::Pong).unwrap();
        state.handle(Op::Ok).unwrap();
        assert_eq!(said(&mut state), "PONG\r\n");
        state.handle(Op::Info(br#"{"max_payload":7,"connect_urls":["b:2"]}"#.to_vec())).unwrap();
        assert_eq!((state.max_payload, announced(&state)), (7, vec!["b:2".to_owned()]));
        state.handle(Op::Info(b"garbage".to_vec())).unwrap();
        assert_eq!(state.max_payload, 7);
    }

    #[test]
    fn only_two_errors_leave_the_connection() {
        let mut state = state();
        for text in ["Permissions Violation for Publish to \"x\"", "Invalid Subject"] {
            assert_eq!(state.handle(Op::Err(text.into())), Ok(()), "{text}");
        }
        for text in ["Stale Connection", "Authorization Violation", "Maximum Payload Violation", ""] {
            let error = state.handle(Op::Err(text.into())).unwrap_err();
            assert_eq!(error, Error::Transient(format!("the server says: {text}")));
        }
    }

    #[test]
    fn the_buffer_is_bounded_but_for_one_large_frame() {
        let mut state = state();
        let large = vec![0; limits::OUT_BUFFER + 1];
        assert!(state.has_room(&large));
        state.say("x");
        assert!(!state.has_room(&large) && state.has_room(b"y"));
        assert!(!state.has_room(&large[..limits::OUT_BUFFER]));
        assert!(state.has_room(&large[..limits::OUT_BUFFER - 1]));
        let mut taken = Vec::new();
        state.take_out(&mut taken);
        assert!(taken == b"x" && state.out.is_empty());
        // A buffer that a large frame has grown is not kept.
        state.take_out(&mut Vec::with_capacity(limits::OUT_BUFFER + 1));
        assert!(state.out.capacity() <= limits::OUT_BUFFER);
    }
}
