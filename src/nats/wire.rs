//! The bytes of the NATS protocol: an incremental parser and the lines that we send. Pure: no socket, no time.

use super::error::Error;
use super::queued::Queued;
use crate::base::limits;
use serde_json::Value;

/// A message that was delivered to a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Number of the subscription.
    pub sid: u64,
    /// Subject to which it was published.
    pub subject: String,
    /// Subject to which an answer goes. A message of a stream carries its numbers there.
    pub reply: Option<String>,
    /// Empty when it has none.
    pub headers: Headers,
    /// Its body.
    pub payload: Vec<u8>,
    /// Counts it while it waits in its subscription's queue.
    pub queued: Queued,
}

impl Message {
    /// Memory that it takes, about.
    pub fn size(&self) -> usize {
        let entries =
            self.headers.entries.iter().map(|(name, value)| name.len() + value.len() + HEADER_OVERHEAD);
        self.payload.len() + self.headers.description.len() + entries.sum::<usize>()
    }
}

/// What a header takes beside its texts.
const HEADER_OVERHEAD: usize = size_of::<(String, String)>();

/// Headers of a message, with the status line that the server uses for its own messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// 100, 404, 408, 409, 503; `None` for a message of a client.
    pub status: Option<u16>,
    /// The server's words after the status.
    pub description: String,
    entries: Vec<(String, String)>,
}

impl Headers {
    /// The first value of a header; the case of its name does not count.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// A header's first value as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Reads a header block; a malformed line is left out, the message itself stays.
    pub fn parse(block: &[u8]) -> Headers {
        let text = String::from_utf8_lossy(block);
        let mut lines = text.split("\r\n");
        let mut headers = Headers::default();
        if let Some(rest) = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")) {
            let rest = rest.trim();
            let (code, description) = rest.split_once(' ').unwrap_or((rest, ""));
            headers.status = code.parse().ok();
            description.trim().clone_into(&mut headers.description);
        }
        for line in lines {
            if let Some((name, value)) = line.split_once(':') {
                headers.entries.push((name.trim().to_owned(), value.trim().to_owned()));
            }
        }
        headers
    }
}

/// What a server says about itself in its greeting and whenever that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// `2.10.7`; `?` when the server does not tell.
    pub version: String,
    /// Bytes of the largest message, headers included; at most as many as we accept ourselves.
    pub max_payload: usize,
    /// Addresses of the cluster's servers, `host:port`.
    pub connect_urls: Vec<String>,
    pub tls_required: bool,
    pub tls_available: bool,
    /// To be signed by a client that logs in with an nkey.
    pub nonce: String,
}

impl ServerInfo {
    /// Reads the JSON of an INFO. What is missing, or of another type than expected, has a default.
    pub fn parse(json: &[u8]) -> Result<ServerInfo, Error> {
        let info: Value = serde_json::from_slice(json)
            .map_err(|error| Error::Transient(format!("the server's INFO: {error}")))?;
        let text = |name: &str| info[name].as_str().map(str::to_owned);
        let flag = |name: &str| info[name].as_bool().unwrap_or(false);
        let urls = info["connect_urls"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(ServerInfo {
            version: text("version").unwrap_or_else(|| "?".to_owned()),
            max_payload: info["max_payload"].as_u64().filter(|bytes| *bytes > 0).map_or(1 << 20, |bytes| {
                usize::try_from(bytes).unwrap_or(usize::MAX).min(limits::MESSAGE_BYTES)
            }),
            connect_urls: urls.iter().filter_map(|url| url.as_str().map(str::to_owned)).collect(),
            tls_required: flag("tls_required"),
            tls_available: flag("tls_available"),
            nonce: text("nonce").unwrap_or_default(),
        })
    }
}

/// One thing that the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// JSON for [`ServerInfo::parse`].
    Info(Vec<u8>),
    Message(Message),
    /// To be answered with a PONG.
    Ping,
    /// The answer to a PING of ours.
    Pong,
    /// Confirms a line in the protocol's verbose mode, which we do not ask for.
    Ok,
    /// An error in the server's words; after most of them it closes the connection.
    Err(String),
}

/// Bytes in, operations out. After an error the connection is useless: where the next operation begins is unknown.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were handed out.
    start: usize,
}

impl Parser {
    /// Adds bytes from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        // A large message made the buffer grow: give the memory back.
        if self.buffer.is_empty() && self.buffer.capacity() > (256 << 10) {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether every byte was handed out as part of an operation.
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }

    /// The next operation, or `None` until more bytes come.
    pub fn next(&mut self) -> Result<Option<Op>, Error> {
        let bytes = &self.buffer[self.start..];
        let Some(end) = bytes.windows(2).take(limits::CONTROL_LINE).position(|pair| pair == b"\r\n") else {
            if bytes.len() > limits::CONTROL_LINE {
                return Err(malformed("control line too long"));
            }
            return Ok(None);
        };
        let line = &bytes[..end];
        let verb_end = line.iter().position(|b| *b == b' ' || *b == b'\t').unwrap_or(line.len());
        let (verb, rest) = line.split_at(verb_end);
        let body = end + 2;
        let (op, used) = match verb.to_ascii_uppercase().as_slice() {
            b"MSG" | b"HMSG" => {
                let with_headers = verb.len() == 4;
                let line = MessageLine::parse(rest, with_headers)?;
                let end = body + line.total;
                let Some(content) = bytes.get(body..end + 2) else { return Ok(None) };
                let content =
                    content.strip_suffix(b"\r\n").ok_or_else(|| malformed("message without its end"))?;
                (Op::Message(line.message(content)), end + 2)
            }
            b"INFO" => (Op::Info(rest.trim_ascii().to_vec()), body),
            b"PING" => (Op::Ping, body),
            b"PONG" => (Op::Pong, body),
            b"+OK" => (Op::Ok, body),
            b"-ERR" => {
                let text = String::from_utf8_lossy(rest).trim().trim_matches('\'').to_owned();
                (Op::Err(text), body)
            }
            _ => {
                let shown = String::from_utf8_lossy(&line[..line.len().min(40)]);
                return Err(malformed(&format!("unknown operation {shown:?}")));
            }
        };
        self.start += used;
        Ok(Some(op))
    }
}

/// Bytes that are no NATS protocol. A new connection may bring better ones.
fn malformed(what: &str) -> Error {
    Error::Transient(what.to_owned())
}

/// The line of a MSG (`subject sid [reply] bytes`) or an HMSG (`subject sid [reply] header-bytes bytes`).
struct MessageLine {
    subject: String,
    sid: u64,
    reply: Option<String>,
    headers: usize,
    /// Bytes of headers and payload together.
    total: usize,
}

impl MessageLine {
    fn parse(arguments: &[u8], with_headers: bool) -> Result<MessageLine, Error> {
        let text = String::from_utf8_lossy(arguments);
        let bad = || malformed(&format!("bad message line {text:?}"));
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        let numbers = if with_headers { 2 } else { 1 };
        if parts.len() != 2 + numbers && parts.len() != 3 + numbers {
            return Err(bad());
        }
        let number = |text: &str| text.parse::<usize>().map_err(|_| bad());
        let total = number(parts[parts.len() - 1])?;
        if total > limits::MESSAGE_BYTES {
            return Err(malformed(&format!("message of {total} bytes")));
        }
        let headers = if with_headers { number(parts[parts.len() - 2])? } else { 0 };
        if headers > total {
            return Err(bad());
        }
        Ok(MessageLine {
            subject: parts[0].to_owned(),
            sid: parts[1].parse().map_err(|_| bad())?,
            reply: (parts.len() == 3 + numbers).then(|| parts[2].to_owned()),
            headers,
            total,
        })
    }

    fn message(self, content: &[u8]) -> Message {
        let (block, payload) = content.split_at(self.headers);
        let headers = if block.is_empty() { Headers::default() } else { Headers::parse(block) };
        Message {
            sid: self.sid,
            subject: self.subject,
            reply: self.reply,
            headers,
            payload: payload.to_vec(),
            queued: Queued::default(),
        }
    }
}

/// The line that asks for the messages of a subject.
pub fn subscribe_line(subject: &str, sid: u64) -> String {
    format!("SUB {subject} {sid}\r\n")
}

/// The line that ends a subscription.
pub fn unsubscribe_line(sid: u64) -> String {
    format!("UNSUB {sid}\r\n")
}

/// A PUB or HPUB with its body. `max` is the server's limit for headers and payload together, in bytes; 0: unknown.
pub fn publish_frame(
    subject: &str,
    reply: Option<&str>,
    headers: &[(&str, &str)],
    payload: &[u8],
    max: usize,
) -> Result<Vec<u8>, Error> {
    if !is_token(subject) || !reply.is_none_or(is_token) {
        return Err(Error::Permanent(format!("bad subject {subject:?}")));
    }
    let block = header_block(headers)?;
    let total = block.len() + payload.len();
    if max > 0 && total > max {
        return Err(too_large(total, max));
    }
    let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
    let line = if block.is_empty() {
        format!("PUB {subject} {reply}{total}\r\n")
    } else {
        format!("HPUB {subject} {reply}{} {total}\r\n", block.len())
    };
    let mut frame = Vec::with_capacity(line.len() + total + 2);
    frame.extend_from_slice(line.as_bytes());
    frame.extend_from_slice(&block);
    frame.extend_from_slice(payload);
    frame.extend_from_slice(b"\r\n");
    Ok(frame)
}

/// Headers and payload of a frame of [`publish_frame`] together, in bytes: what a server's limit counts.
pub fn body_bytes(frame: &[u8]) -> usize {
    let line = frame.windows(2).position(|pair| pair == b"\r\n").unwrap_or(0);
    frame.len().saturating_sub(line + 4)
}

/// A body that is larger than the server takes.
pub fn too_large(bytes: usize, max: usize) -> Error {
    Error::Permanent(format!("{bytes} bytes, the server takes {max} (its max_payload)"))
}

/// Headers as they stand before a payload; empty when there are none. A line break in one would let the rest pass for a
/// line of the protocol.
fn header_block(headers: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
    let mut block = Vec::new();
    if headers.is_empty() {
        return Ok(block);
    }
    block.extend_from_slice(b"NATS/1.0\r\n");
    for (name, value) in headers {
        if !is_token(name) || name.contains(':') || value.contains(['\r', '\n']) {
            return Err(Error::Permanent(format!("bad header {name:?}")));
        }
        block.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    block.extend_from_slice(b"\r\n");
    Ok(block)
}

/// Whether a text can stand between the spaces of a protocol line.
fn is_token(text: &str) -> bool {
    !text.is_empty() && !text.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"INFO {\"a\":1}\r\nPING\r\nMSG s.x 7 3\r\nabc\r\n+OK\r\n\
        HMSG s 8 reply 27 32\r\nNATS/1.0 408 gone\r\nA: b\r\n\r\nhello\r\npong\r\n-ERR 'No way'\r\nMSG e 1 0\r\n\r\n";

    fn all(parser: &mut Parser) -> Vec<Op> {
        std::iter::from_fn(|| parser.next().unwrap()).collect()
    }

    fn parse(bytes: &[u8]) -> Vec<Op> {
        let mut parser = Parser::default();
        parser.push(bytes);
        all(&mut parser)
    }

    fn only_message(bytes: &[u8]) -> Message {
        match parse(bytes).as_slice() {
            [Op::Message(message)] => message.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_kind_of_operation() {
        let found = parse(STREAM);
        assert_eq!(found.len(), 8);
        assert_eq!(found[0], Op::Info(b"{\"a\":1}".to_vec()));
        let Op::Message(message) = &found[4] else { panic!() };
        assert_eq!(
            (message.sid, message.reply.as_deref(), message.payload.as_slice()),
            (8, Some("reply"), &b"hello"[..])
        );
        assert_eq!((message.headers.status, message.headers.description.as_str()), (Some(408), "gone"));
        assert_eq!(message.headers.get("a"), Some("b"));
        assert_eq!(found[6], Op::Err("No way".into()));
    }

    #[test]
    fn pieces_of_any_size_give_the_same() {
        let expected = parse(STREAM);
        for size in 1..20 {
            let mut parser = Parser::default();
            let mut found = vec![];
            for piece in STREAM.chunks(size) {
                parser.push(piece);
                found.extend(all(&mut parser));
            }
            assert_eq!(found, expected);
            assert!(parser.is_empty());
        }
    }

    #[test]
    fn a_split_at_every_byte_gives_the_same() {
        let expected = parse(STREAM);
        for at in 0..=STREAM.len() {
            let mut parser = Parser::default();
            parser.push(&STREAM[..at]);
            let mut found = all(&mut parser);
            parser.push(&STREAM[at..]);
            found.extend(all(&mut parser));
            assert_eq!(found, expected, "split at {at}");
        }
    }

    #[test]
    fn a_message_waits_for_its_last_byte() {
        let mut parser = Parser::default();
        parser.push(b"MSG a 1 2\r\nxy\r");
        assert_eq!(parser.next(), Ok(None));
        assert!(!parser.is_empty());
        parser.push(b"\n");
        assert!(matches!(parser.next(), Ok(Some(Op::Message(_)))));
        assert!(parser.is_empty());
    }

    #[test]
    fn a_payload_may_look_like_the_protocol() {
        let message = only_message(b"MSG a 1 10\r\n\r\nPING\r\n\r\n\r\n");
        assert_eq!(message.payload, b"\r\nPING\r\n\r\n");
    }

    #[test]
    fn verbs_in_any_case_and_words_apart_by_any_space() {
        assert_eq!(parse(b"ping\r\nPong\r\n"), [Op::Ping, Op::Pong]);
        let message = only_message(b"msg\ta  1 \t re 1\r\nx\r\n");
        assert_eq!((message.subject.as_str(), message.reply.as_deref()), ("a", Some("re")));
    }

    #[test]
    fn garbage_is_an_error_that_another_connection_may_not_bring() {
        for bad in [
            "HELLO\r\n",
            "\r\n",
            "MSG a\r\n",
            "MSG a 1 x\r\n",
            "MSG a b 1\r\n",
            "MSG a 1 re 1 1\r\n",
            "MSG a 1 2\r\nabcd",
            "HMSG a 1 9 3\r\nabc\r\n",
            "HMSG a 1 3\r\nabc\r\n",
            "MSG a 1 99999999999\r\n",
            "MSG a 1 99999999999999999999999\r\n",
            "MSG a 1 -1\r\n",
        ] {
            let mut parser = Parser::default();
            parser.push(bad.as_bytes());
            assert!(matches!(parser.next(), Err(Error::Transient(_))), "{bad}");
        }
    }

    #[test]
    fn a_control_line_has_a_bound() {
        let mut parser = Parser::default();
        parser.push(&vec![b'x'; limits::CONTROL_LINE]);
        assert_eq!(parser.next(), Ok(None));
        parser.push(b"x");
        assert!(parser.next().is_err());
    }

    #[test]
    fn a_large_message_leaves_no_large_buffer() {
        let mut parser = Parser::default();
        parser.push(format!("MSG a 1 {}\r\n", 1 << 20).as_bytes());
        parser.push(&vec![b'x'; 1 << 20]);
        parser.push(b"\r\n");
        assert_eq!(all(&mut parser).len(), 1);
        parser.push(b"PING\r\n");
        assert!(parser.buffer.capacity() < 1 << 20);
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let mut parser = Parser::default();
            let mut bytes = STREAM.to_vec();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (seed >> 33) as usize % bytes.len();
                bytes[at] = (seed >> 20) as u8;
            }
            parser.push(&bytes);
            while let Ok(Some(_)) = parser.next() {}
        }
    }

    #[test]
    fn headers_with_and_without_a_status() {
        let headers =
            Headers::parse(b"NATS/1.0\r\nNats-Msg-Id: a:b\r\nempty:\r\nno colon\r\nnats-msg-id: 2\r\n\r\n");
        assert_eq!((headers.status, headers.description.as_str()), (None, ""));
        assert_eq!((headers.get("NATS-MSG-ID"), headers.get("Empty")), (Some("a:b"), Some("")));
        assert_eq!(headers.get("no colon"), None);
        let headers = Headers::parse(b"NATS/1.0 409 Consumer Deleted\r\nN: 7\r\nX: y\r\n\r\n");
        assert_eq!((headers.status, headers.description.as_str()), (Some(409), "Consumer Deleted"));
        assert_eq!((headers.number("n"), headers.number("X"), headers.number("none")), (Some(7), None, None));
        assert_eq!(Headers::parse(b"NATS/1.0 503").status, Some(503));
        assert_eq!(Headers::parse(b"\xff\xfe"), Headers::default());
    }

    #[test]
    fn the_server_about_itself() {
        let info = ServerInfo::parse(
            br#"{"version":"2.10.7","max_payload":5,"connect_urls":["a:1",7,"b:2"],"tls_required":true,"nonce":"n"}"#,
        )
        .unwrap();
        assert_eq!((info.version.as_str(), info.max_payload, info.nonce.as_str()), ("2.10.7", 5, "n"));
        assert_eq!(info.connect_urls, ["a:1", "b:2"]);
        assert!(info.tls_required && !info.tls_available);
    }

    #[test]
    fn an_odd_server_is_read_with_defaults() {
        for odd in ["{}", "[]", r#"{"version":1,"max_payload":-1,"connect_urls":null,"tls_required":"yes"}"#]
        {
            let info = ServerInfo::parse(odd.as_bytes()).unwrap();
            assert_eq!((info.version.as_str(), info.max_payload), ("?", 1 << 20));
            assert!(info.connect_urls.is_empty() && !info.tls_required);
        }
        assert!(matches!(ServerInfo::parse(b"not json"), Err(Error::Transient(_))));
        for (said, taken) in [
            ("18446744073709551615", limits::MESSAGE_BYTES),
            ("99999999999999999999999", 1 << 20),
            ("0", 1 << 20),
        ] {
            let info = ServerInfo::parse(format!("{{\"max_payload\":{said}}}").as_bytes()).unwrap();
            assert_eq!(info.max_payload, taken, "{said}");
        }
    }

    #[test]
    fn frames() {
        assert_eq!(publish_frame("a.b", None, &[], b"xy", 0).unwrap(), b"PUB a.b 2\r\nxy\r\n");
        assert_eq!(publish_frame("a.b", Some("r"), &[], b"", 0).unwrap(), b"PUB a.b r 0\r\n\r\n");
        let with = publish_frame("a", Some("r"), &[("N", "v")], b"xy", 0).unwrap();
        assert_eq!(with, b"HPUB a r 18 20\r\nNATS/1.0\r\nN: v\r\n\r\nxy\r\n");
    }

    #[test]
    fn nothing_smuggles_a_line_into_the_protocol() {
        let refused = |subject: &str, reply: Option<&str>, headers: &[(&str, &str)]| {
            matches!(publish_frame(subject, reply, headers, b"", 0), Err(Error::Permanent(_)))
        };
        assert!(refused("a b", None, &[]) && refused("a\r\n", None, &[]) && refused("", None, &[]));
        assert!(refused("a", Some("r r"), &[]) && refused("a", Some(""), &[]));
        assert!(refused("a", None, &[("x", "1\r\nPUB y 0")]) && refused("a", None, &[("x", "1\n")]));
        assert!(refused("a", None, &[("x:y", "1")]) && refused("a", None, &[("x\r", "1")]));
    }

    #[test]
    fn the_servers_limit_counts_headers_and_payload() {
        assert!(publish_frame("a", None, &[], b"12345", 5).is_ok());
        let error = publish_frame("a", None, &[], b"123456", 5).unwrap_err();
        assert_eq!(error, Error::Permanent("6 bytes, the server takes 5 (its max_payload)".into()));
        // NATS/1.0, N: v and the empty line are 18 bytes.
        assert!(publish_frame("a", None, &[("N", "v")], b"xy", 20).is_ok());
        assert!(publish_frame("a", None, &[("N", "v")], b"xy", 19).is_err());
    }

    #[test]
    fn what_we_send_we_can_read() {
        let frame = publish_frame("a.b", Some("r"), &[("N", "v"), ("M", "")], b"\r\nbody", 0).unwrap();
        // A server turns a HPUB into a HMSG with the subscription's number.
        let text = String::from_utf8(frame).unwrap().replacen("HPUB a.b r", "HMSG a.b 9 r", 1);
        let message = only_message(text.as_bytes());
        assert_eq!(
            (message.sid, message.headers.get("N"), message.headers.get("M")),
            (9, Some("v"), Some(""))
        );
        assert_eq!(message.payload, b"\r\nbody");
    }
}
