//! A handle on one connection to the broker, which a thread of its own keeps up for ever. Threads hand over bytes through a
//! bounded buffer and get messages through bounded queues.

use super::error::Error;
use super::keeper::{Keeper, Options};
use super::shared::{Shared, State, Traffic};
use super::wire::{self, Message};
use crate::base::{limits, stop::Stop, worker::Workers};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

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
        self.0.notify();
        self.0.wake();
    }
}

/// A subscription; dropping it unsubscribes.
pub struct Subscription {
    connection: Connection,
    /// The number that its messages carry.
    pub sid: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.connection.shared.lock();
        state.unsubscribe(self.sid);
        self.connection.say(&mut state, &wire::unsubscribe_line(self.sid));
    }
}

impl Connection {
    /// Starts the connection's thread and returns at once; the thread connects, and reconnects, until `stop`.
    pub fn open(options: Options, stop: Stop, workers: &mut Workers) -> Result<Connection, Error> {
        Connection::open_counted(options, Arc::default(), stop, workers)
    }

    /// The same; its bytes count where those of other connections do.
    pub fn open_counted(
        options: Options,
        traffic: Arc<Traffic>,
        stop: Stop,
        workers: &mut Workers,
    ) -> Result<Connection, Error> {
        Connection::open_leaving(options, traffic, (stop.clone(), stop), workers)
    }

    /// The same. When a stop of the second kind was requested, that the connection ends is no news any more.
    pub fn open_leaving(
        options: Options,
        traffic: Arc<Traffic>,
        (stop, leaving): (Stop, Stop),
        workers: &mut Workers,
    ) -> Result<Connection, Error> {
        let connection = Connection::without_thread(traffic)?;
        let mut keeper = Keeper::new(connection.shared.clone(), options, (stop, leaving));
        workers
            .spawn("nats", move || {
                keeper.run();
                Ok(())
            })
            .map_err(|error| Error::Local(error.to_string()))?;
        Ok(connection)
    }

    fn without_thread(traffic: Arc<Traffic>) -> Result<Connection, Error> {
        let shared = Shared::new(traffic)?;
        Ok(Connection { close: Arc::new(CloseOnDrop(shared.clone())), shared })
    }

    /// Where its bytes are counted.
    pub fn traffic(&self) -> Arc<Traffic> {
        self.shared.traffic.clone()
    }

    /// Whether the broker is there now.
    pub fn is_up(&self) -> bool {
        self.shared.lock().up
    }

    /// Which connection this is: the number changes with every reconnect. 0 before the first.
    pub fn epoch(&self) -> u64 {
        self.shared.lock().epoch
    }

    /// Bytes of the largest message that the server takes; 0 before the first connect.
    pub fn max_payload(&self) -> usize {
        self.shared.lock().max_payload
    }

    /// Why the last try to connect failed; empty when none did.
    pub fn last_error(&self) -> String {
        self.shared.lock().last_error.clone()
    }

    /// While there is none: the next try is made at once.
    pub fn hurry(&self) {
        self.shared.lock().hurried = true;
    }

    /// A queue that gets a token whenever the connection comes or goes.
    pub fn watch(&self) -> Receiver<()> {
        let (sender, receiver) = bounded(1);
        self.shared.lock().add_watcher(sender);
        receiver
    }

    /// Waits until the broker is there.
    pub fn wait_up(&self, timeout: Duration) -> Result<(), Error> {
        self.up_state(Instant::now() + timeout).map(drop)
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

    /// Adds a line for the server while there is a connection: the next login makes all subscriptions again anyway.
    fn say(&self, state: &mut State, line: &str) {
        if state.up {
            state.say(line);
            self.shared.wake();
        }
    }

    /// Bytes that publish a message. Fails only for a message that can never be sent.
    pub fn frame(
        &self,
        subject: &str,
        reply: Option<&str>,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> Result<Vec<u8>, Error> {
        wire::publish_frame(subject, reply, headers, payload, self.max_payload())
    }

    /// Hands over a frame; waits while the buffer is full, fails at once without a connection.
    pub fn send(&self, frame: &[u8]) -> Result<(), Error> {
        let until = Instant::now() + limits::API_TIMEOUT;
        let mut state = self.shared.lock();
        loop {
            if !state.up {
                return Err(Error::Transient("not connected".into()));
            }
            if state.has_room(frame) {
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
        // With bytes in the buffer the thread has been woken already.
        if asleep {
            self.shared.wake();
        }
        Ok(())
    }

    /// Publishes without an answer.
    pub fn publish(&self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> Result<(), Error> {
        self.send(&self.frame(subject, None, headers, payload)?)
    }

    /// Publishes and waits for one answer, at most `timeout`, the wait for a connection included.
    pub fn request(
        &self,
        subject: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Message, Error> {
        let until = Instant::now() + timeout;
        let (sender, receiver) = bounded(1);
        let token = self.up_state(until)?.expect_reply(sender);
        let reply = format!("{}.{token}", self.shared.inbox);
        let sent = self.frame(subject, Some(&reply), headers, payload).and_then(|frame| self.send(&frame));
        let answer = sent.and_then(|()| {
            receiver.recv_deadline(until).map_err(|error| match error {
                RecvTimeoutError::Timeout => {
                    Error::Transient(format!("{subject}: no answer within {} ms", timeout.as_millis()))
                }
                RecvTimeoutError::Disconnected => Error::Transient("connection lost".into()),
            })
        });
        self.shared.lock().forget_reply(token);
        match answer {
            // The server's own answer when the subject has no subscriber.
            Ok(message) if message.headers.status == Some(503) => {
                Err(Error::Transient(format!("{subject}: nobody answers (no JetStream?)")))
            }
            other => other,
        }
    }

    /// Subscribes; messages go to `queue`, and those that find it full are dropped.
    pub fn subscribe(&self, subject: &str, queue: Sender<Message>) -> Subscription {
        let mut state = self.shared.lock();
        let sid = state.subscribe(subject, queue);
        self.say(&mut state, &wire::subscribe_line(subject, sid));
        Subscription { connection: self.clone(), sid }
    }
}

/// A connection without a thread and a socket, for the tests of what stands on it.
#[cfg(test)]
impl Connection {
    /// Down, and no login yet.
    pub fn offline() -> Connection {
        Connection::without_thread(Arc::default()).unwrap()
    }

    /// As if the thread had logged in.
    pub fn come_up(&self) {
        let info = wire::ServerInfo::parse(br#"{"max_payload":1000}"#).unwrap();
        let server = super::url::Url::parse("h").unwrap();
        self.shared.lock().connected(&info, &server, &self.shared.inbox);
        self.shared.notify();
        self.said();
    }

    /// As if the thread had lost the connection.
    pub fn go_down(&self) {
        self.shared.lock().disconnected(&Error::Transient("pulled the plug".into()));
        self.shared.notify();
    }

    /// What the thread would have sent since the last call.
    pub fn said(&self) -> String {
        let mut bytes = Vec::new();
        self.shared.lock().take_out(&mut bytes);
        self.shared.notify();
        String::from_utf8(bytes).unwrap()
    }

    /// As if the thread had read these bytes.
    pub fn hear(&self, bytes: &[u8]) {
        let mut parser = wire::Parser::default();
        parser.push(bytes);
        while let Some(op) = parser.next().unwrap() {
            self.shared.lock().handle(op).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;
    const SOON: Duration = Duration::from_secs(5);

    /// Answers the next request with a message whose header block and payload are given.
    fn answer(connection: &Connection, headers: &str, payload: &str) {
        let asked = loop {
            let asked = connection.said();
            if !asked.is_empty() {
                break asked;
            }
            std::thread::yield_now();
        };
        let reply = asked.split(' ').nth(2).unwrap();
        let (head, total) = (headers.len(), headers.len() + payload.len());
        connection.hear(format!("HMSG {reply} 1 {head} {total}\r\n{headers}{payload}\r\n").as_bytes());
    }

    #[test]
    fn without_a_connection_calls_fail_with_the_reason() {
        let connection = Connection::offline();
        let not_connected = Error::Transient("not connected".into());
        assert_eq!(connection.wait_up(NOW), Err(not_connected.clone()));
        assert_eq!(connection.publish("s", &[], b"x"), Err(not_connected));
        connection.come_up();
        connection.go_down();
        assert_eq!(connection.request("s", &[], b"", NOW), Err(Error::Transient("pulled the plug".into())));
        assert_eq!(connection.last_error(), "pulled the plug");
    }

    #[test]
    fn subscriptions_come_and_go_with_their_handle() {
        let connection = Connection::offline();
        connection.come_up();
        let (queue, messages) = bounded(4);
        let subscription = connection.subscribe("s", queue);
        let sid = subscription.sid;
        assert_eq!(connection.said(), format!("SUB s {sid}\r\n"));
        connection.hear(format!("MSG s {sid} 2\r\nhi\r\n").as_bytes());
        assert_eq!(messages.try_recv().unwrap().payload, b"hi");
        drop(subscription);
        assert_eq!(connection.said(), format!("UNSUB {sid}\r\n"));
        connection.hear(format!("MSG s {sid} 2\r\nhi\r\n").as_bytes());
        assert!(messages.try_recv().is_err());
    }

    #[test]
    fn a_request_gets_its_answer() {
        let connection = Connection::offline();
        connection.come_up();
        std::thread::scope(|scope| {
            scope.spawn(|| answer(&connection, "NATS/1.0\r\nA: b\r\n\r\n", "yes"));
            let message = connection.request("s", &[], b"?", SOON).unwrap();
            assert_eq!((message.payload.as_slice(), message.headers.get("a")), (&b"yes"[..], Some("b")));
        });
    }

    #[test]
    fn nobody_there_to_answer_is_said_at_once() {
        let connection = Connection::offline();
        connection.come_up();
        std::thread::scope(|scope| {
            scope.spawn(|| answer(&connection, "NATS/1.0 503\r\n\r\n", ""));
            let error = connection.request("s", &[], b"?", SOON).unwrap_err();
            assert_eq!(error, Error::Transient("s: nobody answers (no JetStream?)".into()));
        });
    }

    #[test]
    fn a_lost_connection_ends_the_wait_for_an_answer() {
        let connection = Connection::offline();
        connection.come_up();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while connection.said().is_empty() {
                    std::thread::yield_now();
                }
                connection.go_down();
            });
            let error = connection.request("s", &[], b"?", SOON).unwrap_err();
            assert_eq!(error, Error::Transient("connection lost".into()));
        });
    }

    #[test]
    fn a_request_that_got_no_answer_leaves_nothing_behind() {
        let connection = Connection::offline();
        connection.come_up();
        let error = connection.request("s", &[], b"?", Duration::from_millis(1)).unwrap_err();
        assert_eq!(error, Error::Transient("s: no answer within 1 ms".into()));
        let asked = connection.said();
        let reply = asked.split(' ').nth(2).unwrap();
        connection.hear(format!("MSG {reply} 1 0\r\n\r\n").as_bytes());
        assert!(!connection.shared.lock().expects_replies());
    }

    #[test]
    fn a_message_that_is_too_large_is_never_sent() {
        let connection = Connection::offline();
        connection.come_up();
        assert!(connection.publish("s", &[], &[0; 1000]).is_ok());
        assert!(matches!(connection.publish("s", &[], &[0; 1001]), Err(Error::Permanent(_))));
        assert_eq!(connection.said().matches("PUB").count(), 1);
    }

    #[test]
    fn watchers_see_the_connection_come_and_go() {
        let connection = Connection::offline();
        let changes = connection.watch();
        connection.come_up();
        assert!(connection.is_up() && changes.try_recv().is_ok());
        connection.go_down();
        assert!(!connection.is_up() && changes.try_recv().is_ok());
        connection.come_up();
        assert_eq!(connection.epoch(), 2);
    }

    #[test]
    fn the_last_handle_closes() {
        let connection = Connection::offline();
        let shared = connection.shared.clone();
        let other = connection.clone();
        drop(connection);
        assert!(!shared.lock().closed);
        drop(other);
        assert!(shared.lock().closed);
    }
}
