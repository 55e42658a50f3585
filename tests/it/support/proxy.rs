//! Between a client and a server: counts bytes and kills the client at one of them, or answers HTTP requests wrongly.

use super::pause;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// Listens until it is dropped.
struct Listener {
    port: u16,
    done: Arc<AtomicBool>,
}

impl Listener {
    fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Listener {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let done = Arc::new(AtomicBool::new(false));
        let (over, serve) = (done.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            while !over.load(SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        stream.set_nodelay(true).unwrap();
                        let serve = serve.clone();
                        std::thread::spawn(move || serve(stream));
                    }
                    Err(_) => pause(2),
                }
            }
        });
        Listener { port, done }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.done.store(true, SeqCst);
    }
}

#[derive(Default)]
struct Killing {
    sent: AtomicU64,
    limit: AtomicU64,
    victim: AtomicU32,
}

/// Forwards bytes, and counts those from the client to the server; at a number that was asked for it kills a process, or cuts one
/// connection.
pub struct Killer {
    listener: Listener,
    state: Arc<Killing>,
}

impl Killer {
    pub fn before(target: u16) -> Killer {
        let state = Arc::new(Killing { limit: AtomicU64::new(u64::MAX), ..Killing::default() });
        let shared = state.clone();
        let listener = Listener::start(move |client| {
            let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { return };
            server.set_nodelay(true).unwrap();
            let (back_from, back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || forward(back_from, back_to, |length| length));
            let state = shared.clone();
            forward(client, server, move |length| {
                let sent = state.sent.fetch_add(length as u64, SeqCst);
                let left = state.limit.load(SeqCst).saturating_sub(sent);
                if left <= length as u64 {
                    match state.victim.load(SeqCst) {
                        0 => state.limit.store(u64::MAX, SeqCst),
                        victim => {
                            let victim = victim.to_string();
                            let _ = std::process::Command::new("kill").args(["-9", &victim]).status();
                        }
                    }
                }
                length.min(usize::try_from(left).unwrap_or(usize::MAX))
            });
        });
        Killer { listener, state }
    }

    pub fn port(&self) -> u16 {
        self.listener.port
    }

    /// Counts anew; the process is killed when `limit` bytes were sent.
    pub fn arm(&self, victim: u32, limit: u64) {
        self.state.victim.store(victim, SeqCst);
        self.state.limit.store(limit, SeqCst);
    }

    /// Counts anew; the connection on which byte `limit` is sent is cut there, once.
    pub fn cut(&self, limit: u64) {
        self.reset();
        self.arm(0, limit);
    }

    /// Whether a cut that was asked for has not happened.
    pub fn is_armed(&self) -> bool {
        self.state.limit.load(SeqCst) != u64::MAX
    }

    pub fn reset(&self) {
        self.state.limit.store(u64::MAX, SeqCst);
        self.state.sent.store(0, SeqCst);
    }

    pub fn sent(&self) -> u64 {
        self.state.sent.load(SeqCst)
    }
}

/// Copies until one side ends; `allow` says how many of the bytes at hand go on.
fn forward(mut from: TcpStream, mut to: TcpStream, allow: impl Fn(usize) -> usize) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 {
            break;
        }
        let allowed = allow(length);
        if to.write_all(&buffer[..allowed]).is_err() || allowed < length {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// A slow line: `rate` bytes a second in each direction of each connection.
pub struct Slow(Listener);

impl Slow {
    pub fn before(target: u16, rate: u64) -> Slow {
        Slow(Listener::start(move |client| {
            let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { return };
            let (back_from, back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            let late = move |length: usize| {
                pause(length as u64 * 1000 / rate);
                length
            };
            std::thread::spawn(move || forward(back_from, back_to, late));
            forward(client, server, late);
        }))
    }

    pub fn port(&self) -> u16 {
        self.0.port
    }
}

/// A line that can be cut, and mended: while it is cut, no connection is there and none can be made.
pub struct Line {
    listener: Listener,
    ends: Arc<Mutex<Option<Vec<TcpStream>>>>,
}

impl Line {
    pub fn before(target: u16) -> Line {
        let ends = Arc::new(Mutex::new(Some(vec![])));
        let known: Arc<Mutex<Option<Vec<TcpStream>>>> = ends.clone();
        let listener = Listener::start(move |client| {
            let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { return };
            let (back_from, back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            match &mut *known.lock().unwrap() {
                Some(ends) => ends.extend([server.try_clone().unwrap(), client.try_clone().unwrap()]),
                None => return,
            }
            std::thread::spawn(move || forward(back_from, back_to, |length| length));
            forward(client, server, |length| length);
        });
        Line { listener, ends }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.listener.port)
    }

    /// What was not delivered by now never is.
    pub fn cut(&self) {
        for end in self.ends.lock().unwrap().take().into_iter().flatten() {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        *self.ends.lock().unwrap() = Some(vec![]);
    }
}

/// What is done with an HTTP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Forward,
    /// Answered so, without asking the server.
    Status(u16),
    /// The connection is cut after this many hundredths of the body; the server sees none of it.
    CutBody(u64),
    /// The server does it, and the answer is lost.
    LoseAnswer,
    /// Half of the answer's body comes.
    HalfAnswer,
    /// A bit of the answer's body is wrong.
    FlipAnswer,
    /// The answer's length is said to be one more.
    LieLength,
    /// No answer for this many seconds, then the connection is closed.
    Hang(u64),
    /// The answer comes a byte a second.
    Drip,
    /// The answer's body does.
    DripBody,
    /// Before the answer's body a blank comes every two seconds, so many times: so S3 keeps a connection alive while it works.
    Blanks(u64),
    /// Refused as S3 refuses what is not signed for this region, with the region in a header too or in the body alone; else
    /// forwarded.
    OnlyRegion(&'static str, bool),
}

/// Decides on the Nth request: number, method, path.
type Judge = Box<dyn Fn(u64, &str, &str) -> Act + Send>;

struct Lying {
    count: AtomicU64,
    judge: Mutex<Judge>,
}

/// An HTTP server that passes requests on, unless told otherwise.
pub struct Liar {
    listener: Listener,
    state: Arc<Lying>,
}

impl Liar {
    pub fn before(target: u16) -> Liar {
        let state =
            Arc::new(Lying { count: AtomicU64::new(0), judge: Mutex::new(Box::new(|_, _, _| Act::Forward)) });
        let shared = state.clone();
        let listener = Listener::start(move |client| {
            let _ = serve(client, target, &shared);
        });
        Liar { listener, state }
    }

    pub fn port(&self) -> u16 {
        self.listener.port
    }

    /// From now on; requests are counted from 0.
    pub fn when(&self, judge: impl Fn(u64, &str, &str) -> Act + Send + 'static) {
        *self.state.judge.lock().unwrap() = Box::new(judge);
        self.state.count.store(0, SeqCst);
    }

    pub fn honest(&self) {
        self.when(|_, _, _| Act::Forward);
    }

    pub fn count(&self) -> u64 {
        self.state.count.load(SeqCst)
    }
}

/// A message's head, and what it says about the body.
struct Head {
    lines: String,
    length: u64,
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Head> {
    let mut head = Head { lines: String::new(), length: 0 };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            head.length = length.trim().parse().unwrap();
        }
        head.lines.push_str(&line);
        if line == "\r\n" {
            return Ok(head);
        }
    }
}

/// Requests of one connection; each goes to the server on a connection of its own.
fn serve(client: TcpStream, target: u16, state: &Lying) -> io::Result<()> {
    let mut writer = client.try_clone()?;
    let mut reader = BufReader::new(client);
    loop {
        let head = read_head(&mut reader)?;
        let mut words = head.lines.split(' ');
        let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let number = state.count.fetch_add(1, SeqCst);
        let act = (state.judge.lock().unwrap())(number, &method, &path);
        match act {
            Act::CutBody(percent) => {
                io::copy(&mut reader.by_ref().take(head.length * percent / 100), &mut io::sink())?;
                return writer.shutdown(Shutdown::Both);
            }
            Act::Hang(seconds) => {
                std::thread::sleep(std::time::Duration::from_secs(seconds));
                return writer.shutdown(Shutdown::Both);
            }
            Act::Status(status) => {
                io::copy(&mut reader.by_ref().take(head.length), &mut io::sink())?;
                write!(writer, "HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n")?;
                continue;
            }
            Act::OnlyRegion(region, in_header)
                if !head.lines.contains(&format!("/{region}/s3/aws4_request")) =>
            {
                io::copy(&mut reader.by_ref().take(head.length), &mut io::sink())?;
                let body = format!(
                    "<?xml version=\"1.0\"?><Error><Code>AuthorizationHeaderMalformed</Code><Region>{region}</Region></Error>"
                );
                let (length, body) = (body.len(), if method == "HEAD" { "" } else { &body });
                // AWS has the header on a HEAD too; Garage has none.
                let header =
                    if in_header { format!("x-amz-bucket-region: {region}\r\n") } else { String::new() };
                write!(writer, "HTTP/1.1 400 Bad Request\r\n{header}Content-Length: {length}\r\n\r\n{body}")?;
                continue;
            }
            _ => {}
        }
        let mut server = TcpStream::connect(("127.0.0.1", target))?;
        server.set_nodelay(true)?;
        let lines = head.lines.trim_end_matches("\r\n").to_owned() + "\r\nConnection: close\r\n\r\n";
        server.write_all(lines.as_bytes())?;
        // A server that answers early has said enough.
        let _ = io::copy(&mut reader.by_ref().take(head.length), &mut server);
        answer(&mut writer, server, &method, act)?;
    }
}

fn answer(client: &mut TcpStream, server: TcpStream, method: &str, act: Act) -> io::Result<()> {
    let mut reader = BufReader::new(server);
    let head = read_head(&mut reader)?;
    let mut body = vec![];
    if method != "HEAD" {
        reader.read_to_end(&mut body)?;
        if head.lines.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            body = unchunk(&body);
        }
    }
    let length = if method == "HEAD" { head.length } else { body.len() as u64 };
    let said = match act {
        Act::LieLength => length + 1,
        Act::Blanks(count) => length + count,
        _ => length,
    };
    let keep = |line: &&str| {
        let line = line.to_ascii_lowercase();
        !["content-length:", "transfer-encoding:", "connection:"].iter().any(|name| line.starts_with(name))
    };
    let mut lines: Vec<&str> = head.lines.trim_end().split("\r\n").filter(keep).collect();
    let said = format!("Content-Length: {said}");
    let has_length = length > 0 || method != "HEAD";
    if has_length {
        lines.push(&said);
    }
    match act {
        Act::LoseAnswer => return client.shutdown(Shutdown::Both),
        Act::HalfAnswer => body.truncate(body.len() / 2),
        Act::FlipAnswer if !body.is_empty() => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        _ => {}
    }
    let mut whole = (lines.join("\r\n") + "\r\n\r\n").into_bytes();
    if matches!(act, Act::DripBody | Act::Blanks(_)) {
        client.write_all(&whole)?;
        whole.clear();
    }
    if let Act::Blanks(count) = act {
        for _ in 0..count {
            pause(2_000);
            client.write_all(b" ")?;
        }
    }
    whole.append(&mut body);
    if matches!(act, Act::Drip | Act::DripBody) {
        for byte in whole {
            client.write_all(&[byte])?;
            pause(1_000);
        }
        return Ok(());
    }
    client.write_all(&whole)?;
    if matches!(act, Act::HalfAnswer | Act::LieLength) {
        client.shutdown(Shutdown::Both)?;
    }
    Ok(())
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    while let Some(end) = body.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap().trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        out.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
    }
    out
}
