//! The bytes of the NATS protocol: an incremental parser and the lines that we send. Pure: no socket, no time.

use crate::base::limits;

/// A delivered message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Number of the subscription that it came in by.
    pub sid: u64,
    /// Its subject.
    pub subject: String,
    /// Where an answer goes.
    pub reply: Option<String>,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub payload: Vec<u8>,
}

/// Headers of a message, with the status line that the server uses for its own messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// 100, 404, 408, 409, 503; `None` for a message of a client.
    pub status: Option<u16>,
    /// What follows the status.
    pub description: String,
    /// Names and values in order.
    pub entries: Vec<(String, String)>,
}

impl Headers {
    /// A header's first value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Reads a header block; what is malformed is left out, the message itself stays.
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

/// One thing that the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The server's description of itself, JSON.
    Info(Vec<u8>),
    /// A message.
    Message(Message),
    /// To be answered with a PONG.
    Ping,
    /// The answer to ours.
    Pong,
    /// Of verbose mode; means nothing.
    Ok,
    /// An error; most are followed by a close.
    Err(String),
}

/// Bytes in, operations out. After an error the connection is useless.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
    start: usize,
}

impl Parser {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        if self.buffer.is_empty() && self.buffer.capacity() > (256 << 10) {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }

    /// The next operation, or `None` until more bytes come.
    pub fn next(&mut self) -> Result<Option<Op>, String> {
        let bytes = &self.buffer[self.start..];
        let Some(end) = bytes.windows(2).take(limits::CONTROL_LINE).position(|pair| pair == b"\r\n") else {
            if bytes.len() > limits::CONTROL_LINE {
                return Err("control line too long".to_owned());
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
                if line.total > limits::MESSAGE_BYTES {
                    return Err(format!("message of {} bytes", line.total));
                }
                let end = body + line.total;
                let Some(content) = bytes.get(body..end + 2) else { return Ok(None) };
                let Some(content) = content.strip_suffix(b"\r\n") else {
                    return Err("message without its end".to_owned());
                };
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
                return Err(format!(
                    "unknown operation {:?}",
                    String::from_utf8_lossy(&line[..line.len().min(40)])
                ));
            }
        };
        self.start += used;
        Ok(Some(op))
    }
}

struct MessageLine {
    subject: String,
    sid: u64,
    reply: Option<String>,
    headers: usize,
    total: usize,
}

impl MessageLine {
    fn parse(arguments: &[u8], with_headers: bool) -> Result<MessageLine, String> {
        let text = String::from_utf8_lossy(arguments);
        let bad = || format!("bad message line {text:?}");
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        let numbers = if with_headers { 2 } else { 1 };
        if parts.len() != 2 + numbers && parts.len() != 3 + numbers {
            return Err(bad());
        }
        let number = |text: &str| text.parse::<usize>().map_err(|_| bad());
        let total = number(parts[parts.len() - 1])?;
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
        }
    }
}

/// A PUB or HPUB with its body. Subjects and headers must hold no line breaks, subjects no spaces.
pub fn publish_frame(
    subject: &str,
    reply: Option<&str>,
    headers: &[(&str, &str)],
    payload: &[u8],
) -> Result<Vec<u8>, String> {
    let token = |text: &str| {
        !text.is_empty() && !text.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control())
    };
    if !token(subject) || !reply.is_none_or(token) {
        return Err(format!("bad subject {subject:?}"));
    }
    let mut block = Vec::new();
    if !headers.is_empty() {
        block.extend_from_slice(b"NATS/1.0\r\n");
        for (name, value) in headers {
            if !token(name) || name.contains(':') || value.contains(['\r', '\n']) {
                return Err(format!("bad header {name:?}"));
            }
            block.extend_from_slice(name.as_bytes());
            block.extend_from_slice(b": ");
            block.extend_from_slice(value.as_bytes());
            block.extend_from_slice(b"\r\n");
        }
        block.extend_from_slice(b"\r\n");
    }
    let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
    let total = block.len() + payload.len();
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

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"INFO {\"a\":1}\r\nPING\r\nMSG s.x 7 3\r\nabc\r\n+OK\r\n\
        HMSG s 8 reply 27 32\r\nNATS/1.0 408 gone\r\nA: b\r\n\r\nhello\r\npong\r\n-ERR 'No way'\r\nMSG e 1 0\r\n\r\n";

    fn all(parser: &mut Parser) -> Vec<Op> {
        std::iter::from_fn(|| parser.next().unwrap()).collect()
    }

    #[test]
    fn split_anywhere_gives_the_same() {
        let mut whole = Parser::default();
        whole.push(STREAM);
        let expected = all(&mut whole);
        assert_eq!(expected.len(), 8);
        let Op::Message(message) = &expected[4] else { panic!() };
        assert_eq!(
            (message.sid, message.reply.as_deref(), message.payload.as_slice()),
            (8, Some("reply"), &b"hello"[..])
        );
        assert_eq!((message.headers.status, message.headers.description.as_str()), (Some(408), "gone"));
        assert_eq!(message.headers.get("a"), Some("b"));
        assert_eq!(expected[6], Op::Err("No way".into()));
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
    fn garbage_is_an_error() {
        for bad in [
            "HELLO\r\n",
            "MSG a\r\n",
            "MSG a 1 x\r\n",
            "MSG a 1 2\r\nabcd",
            "HMSG a 1 9 3\r\nabc\r\n",
            "MSG a 1 99999999999\r\n",
            "MSG a 1 -1\r\n",
        ] {
            let mut parser = Parser::default();
            parser.push(bad.as_bytes());
            assert!(parser.next().is_err(), "{bad}");
        }
        let mut parser = Parser::default();
        parser.push(&vec![b'x'; limits::CONTROL_LINE + 10]);
        assert!(parser.next().is_err());
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
    fn frames() {
        assert_eq!(publish_frame("a.b", None, &[], b"xy").unwrap(), b"PUB a.b 2\r\nxy\r\n");
        let with = publish_frame("a", Some("r"), &[("N", "v")], b"xy").unwrap();
        assert_eq!(with, b"HPUB a r 18 20\r\nNATS/1.0\r\nN: v\r\n\r\nxy\r\n");
        assert!(publish_frame("a b", None, &[], b"").is_err());
        assert!(publish_frame("a", None, &[("x", "1\r\nPUB y 0")], b"").is_err());
        assert!(publish_frame("a\r\n", None, &[], b"").is_err());
    }
}
