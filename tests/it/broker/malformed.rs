//! A broker that tells the truth but for one thing after the other: every message of the server, malformed in every field, in
//! pieces of any size, at a real daemon. It never ends, and goes on when the broker tells the truth again.

use super::hostile::server;
use crate::support::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// So long after its first lie a connection ends: what the lie holds up shall not hold up the test.
const LIE: Duration = Duration::from_millis(250);
/// A connection without a lie ends after this time, so that there is another one to lie on.
const TRUTH: Duration = Duration::from_secs(1);
/// Messages of which every field must have been malformed.
const ALL: [&str; 7] = [
    "INFO",
    "PONG",
    "ack",
    "delivery",
    "io.nats.jetstream.api.v1.stream_info_response",
    "io.nats.jetstream.api.v1.stream_msg_get_response",
    "io.nats.jetstream.api.v1.consumer_create_response",
];

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// One message of the server.
struct Frame {
    /// Of the control line. An INFO has two: the second is its JSON.
    words: Vec<Vec<u8>>,
    /// Headers and payload.
    body: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Field {
    Word(usize),
    MoreWords,
    FewerWords,
    /// A value in the JSON, by its pointer.
    Json(String),
    Headers,
    Cut,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Frame {
    /// The next message; `None`: the server has closed.
    fn read(reader: &mut impl BufRead) -> Option<Frame> {
        let mut line = vec![];
        reader.read_until(b'\n', &mut line).ok().filter(|count| *count > 0)?;
        let line = line.strip_suffix(b"\r\n")?;
        let many = line.starts_with(b"MSG ") || line.starts_with(b"HMSG ");
        let words: Vec<Vec<u8>> =
            line.splitn(if many { 9 } else { 2 }, |byte| *byte == b' ').map(<[u8]>::to_vec).collect();
        let body = if many {
            let mut body = vec![0; text(words.last()?).parse::<usize>().ok()? + 2];
            reader.read_exact(&mut body).ok()?;
            body.truncate(body.len() - 2);
            Some(body)
        } else {
            None
        };
        Some(Frame { words, body })
    }

    fn header_bytes(&self) -> usize {
        if self.words[0] == b"HMSG" { text(&self.words[self.words.len() - 2]).parse().unwrap() } else { 0 }
    }

    fn json(&self) -> Option<Value> {
        let bytes = match &self.body {
            Some(body) => &body[self.header_bytes()..],
            None => self.words.get(1)?,
        };
        serde_json::from_slice(bytes).ok().filter(Value::is_object)
    }

    /// What it is: the verb, or for what is published, what it answers.
    fn kind(&self) -> String {
        let is_delivery = self.words.iter().any(|word| word.starts_with(b"$JS.ACK"));
        let body = self.body.as_deref().unwrap_or_default();
        match self.json() {
            _ if self.body.is_none() => text(&self.words[0]),
            _ if is_delivery => "delivery".to_owned(),
            Some(json) if json["type"].is_string() => json["type"].as_str().unwrap().to_owned(),
            Some(json) if json["seq"].is_u64() => "ack".to_owned(),
            Some(_) => "json".to_owned(),
            None => text(&body[..body.len().min(13)]).split("\r\n").next().unwrap().to_owned(),
        }
    }

    fn fields(&self) -> Vec<Field> {
        let mut found: Vec<Field> = (0..self.words.len()).map(Field::Word).collect();
        found.extend([Field::MoreWords, Field::FewerWords]);
        if let Some(json) = self.json() {
            leaves(&json, "", &mut found);
        }
        if self.header_bytes() > 0 {
            found.push(Field::Headers);
        }
        if self.body.as_ref().is_some_and(|body| !body.is_empty()) {
            found.push(Field::Cut);
        }
        found
    }

    fn malform(&mut self, field: &Field, random: &mut Random) {
        match field {
            Field::Word(at) => self.words[*at] = odd_word(random),
            Field::MoreWords => self.words.push(odd_word(random)),
            Field::FewerWords => drop(self.words.pop()),
            Field::Json(pointer) => {
                let mut json = self.json().unwrap();
                *json.pointer_mut(pointer).unwrap() = odd_json(random);
                let bytes = json.to_string().into_bytes();
                let headers = self.header_bytes();
                match &mut self.body {
                    None => self.words[1] = bytes,
                    Some(body) => {
                        body.splice(headers.., bytes);
                        *self.words.last_mut().unwrap() = body.len().to_string().into_bytes();
                    }
                }
            }
            Field::Headers => {
                let headers = self.header_bytes();
                let noise = std::iter::repeat_with(|| b" :\r\nNATS/1.0\xff9"[random.below(14)]);
                self.body.as_mut().unwrap().splice(..headers, noise.take(headers).collect::<Vec<_>>());
            }
            Field::Cut => {
                let body = self.body.as_mut().unwrap();
                body.truncate(random.below(body.len()));
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.words.join(&b' ');
        bytes.extend_from_slice(b"\r\n");
        if let Some(body) = &self.body {
            bytes.extend_from_slice(body);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }
}

/// Everything in a JSON document that is no object, and the objects themselves.
fn leaves(json: &Value, at: &str, found: &mut Vec<Field>) {
    found.push(Field::Json(at.to_owned()));
    let inside: Vec<(String, &Value)> = match json {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => vec![],
    };
    for (key, value) in inside {
        leaves(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
    }
}

fn odd_word(random: &mut Random) -> Vec<u8> {
    let words: [&[u8]; 12] = [
        b"",
        b"0",
        b"-1",
        b"+5",
        b"1000000",
        b"18446744073709551615",
        b"99999999999999999999999",
        b"\xff\xfe",
        b"\0",
        b"*.>",
        b"$JS.ACK.x.x.1.18446744073709551615.1.18446744073709551615.18446744073709551615",
        b"\r\n\r\n",
    ];
    let at = random.below(words.len() + 1);
    words.get(at).map_or_else(|| vec![b'x'; 60_000], |word| word.to_vec())
}

fn odd_json(random: &mut Random) -> Value {
    let nested = (0..100).fold(json!(1), |inside, _| json!([inside]));
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("\u{1b}[2J\r\nx\0"),
        json!("x".repeat(50_000)),
        json!([]),
        json!({}),
        nested,
    ];
    odd[random.below(odd.len())].clone()
}

/// The liar: what it has lied about already.
struct Liar {
    port: u16,
    random: Mutex<Random>,
    /// Of each kind of message, how many fields it has, and how many were malformed.
    done: Mutex<BTreeMap<String, (usize, usize)>>,
    /// Whole messages that no server would send, put between the others.
    invented: Mutex<usize>,
}

impl Liar {
    fn draw(&self, n: usize) -> usize {
        self.random.lock().unwrap().below(n)
    }

    /// Malforms a message in the next field of its kind; false: all of them had their turn, or this one may pass.
    fn lie(&self, frame: &mut Frame) -> bool {
        let (kind, fields) = (frame.kind(), frame.fields());
        let field = {
            let mut done = self.done.lock().unwrap();
            let (count, next) = done.entry(kind).or_default();
            *count = fields.len();
            // A message that is always malformed lets nobody get to the next one.
            if *next >= *count || self.draw(3) == 0 {
                return false;
            }
            *next += 1;
            fields[*next - 1].clone()
        };
        frame.malform(&field, &mut self.random.lock().unwrap());
        true
    }

    fn is_through(&self) -> bool {
        let done = self.done.lock().unwrap();
        ALL.iter().all(|kind| done.get(*kind).is_some_and(|(count, next)| next >= count))
            && *self.invented.lock().unwrap() >= INVENTED
    }

    /// Sends bytes in pieces of any size.
    fn send(&self, to: &mut TcpStream, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = rest.len().min([3, 40, 8_000, 60_000][self.draw(4)]);
            let (piece, more) = rest.split_at(1 + self.draw(most));
            if to.write_all(piece).is_err() {
                return false;
            }
            rest = more;
        }
        true
    }

    /// The next invented message, to one of the client's subscriptions.
    fn invent(&self, subscriptions: &[(String, String)]) -> Vec<u8> {
        let number = {
            let mut invented = self.invented.lock().unwrap();
            *invented += 1;
            *invented
        };
        let Some((subject, sid)) = subscriptions.get(number % subscriptions.len().max(1)) else {
            return b"PING\r\n".to_vec();
        };
        let status =
            ["100", "404 x", "408", "409 Consumer Deleted", "503", "0", "99999", "\u{ff}"][number / 5 % 8];
        let headers = format!(
            "NATS/1.0 {status}\r\nNats-Last-Consumer: 18446744073709551615\r\nNats-Pending-Messages: -1\r\n\r\n"
        );
        let length = headers.len();
        match number % 5 {
            0 => format!("HMSG {subject} {sid} {length} {length}\r\n{headers}\r\n"),
            1 => format!("HMSG {subject} {sid} reply {length} {}\r\n{headers}{{\"id\":7}}\r\n", length + 8),
            2 => format!("MSG {subject} {sid} 7\r\ngarbage\r\n"),
            3 => format!(
                "PING x y\r\n+OK z\r\nPONG\r\nINFO {{}}\r\nINFO x\r\n-ERR 'Permissions Violation {status}'\r\n"
            ),
            _ => format!("-ERR {status}\r\n"),
        }
        .into_bytes()
    }

    /// Forwards a connection, with lies.
    fn serve(&self, mut client: TcpStream) {
        let Ok(to_server) = TcpStream::connect(("127.0.0.1", self.port)) else { return };
        let subscriptions: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let back = (client.try_clone().unwrap(), to_server.try_clone().unwrap());
        let noted = subscriptions.clone();
        std::thread::spawn(move || forward(back.0, back.1, &noted));
        let _ = client.set_nodelay(true);
        to_server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let until = (!self.is_through()).then(|| Instant::now() + TRUTH);
        let mut reader = BufReader::new(Patient(to_server.try_clone().unwrap(), until));
        while let Some(mut frame) = Frame::read(&mut reader) {
            let lied = self.lie(&mut frame);
            if !self.send(&mut client, &frame.bytes()) {
                break;
            }
            let known = subscriptions.lock().unwrap().clone();
            let invents = known.len() > 1 && *self.invented.lock().unwrap() < INVENTED && self.draw(4) == 0;
            if invents && !self.send(&mut client, &self.invent(&known)) {
                break;
            }
            if lied || invents {
                let until = &mut reader.get_mut().1;
                *until = until.map(|until| until.min(Instant::now() + LIE));
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = to_server.shutdown(Shutdown::Both);
    }
}

/// So many messages are invented.
const INVENTED: usize = 120;

/// Reads from the server until a moment, if there is one, and then says that it has closed.
struct Patient(TcpStream, Option<Instant>);

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if self.1.is_some_and(|until| Instant::now() > until) {
                return Ok(0);
            }
            match self.0.read(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

/// What the client says goes to the server as it is; its subscriptions are noted.
fn forward(client: TcpStream, mut server: TcpStream, subscriptions: &Mutex<Vec<(String, String)>>) {
    let mut reader = BufReader::new(client);
    let mut line = vec![];
    while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        if let ["SUB", subject, sid] = text(&line).split_whitespace().collect::<Vec<_>>()[..] {
            subscriptions.lock().unwrap().push((subject.replace('*', "1"), sid.to_owned()));
        }
        if server.write_all(&line).is_err() {
            break;
        }
        line.clear();
    }
    let _ = server.shutdown(Shutdown::Both);
}

#[test]
fn every_message_of_the_server_malformed_in_every_field_ends_no_daemon() {
    let seed = number_from_environment("HARMONYLITE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("HARMONYLITE_SEED={seed}");
    let dir = Dir::new("malformed");
    let nats = Nats::start(&dir);
    let random = Mutex::new(Random(seed));
    let liar = Arc::new(Liar { port: nats.port, random, done: Mutex::default(), invented: Mutex::default() });
    let url = {
        let liar = liar.clone();
        server(move |_, stream| liar.serve(stream))
    };
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    let mut honest = Node::with_schema(&dir, 1, &nats.url(), "snapshot.leader_ttl = 1000", schema);
    let mut node = Node::with_schema(&dir, 2, &url, "snapshot.leader_ttl = 1000", schema);
    honest.start_ready();
    node.start();
    let mut id = 0;
    let mut shown = Instant::now();
    wait_for("every field was malformed", 240, || {
        id += 2;
        honest.sql(&format!("INSERT INTO t VALUES({id}, 'from the other')"));
        node.sql(&format!("INSERT OR IGNORE INTO t VALUES({id} + 1, 'from here')"));
        node.assert_alive();
        if shown.elapsed() > Duration::from_secs(10) {
            shown = Instant::now();
            println!("{:?}", liar.done.lock().unwrap());
        }
        pause(100);
        liar.is_through().then_some(())
    });
    let (_, peak) = node.memory();
    println!("{id} rows, peak {peak} KiB, {:?}", liar.done.lock().unwrap());
    assert!(peak < 200_000, "{peak} KiB");
    // What else there is to lie about has had its turn: from here on, the broker tells the truth.
    liar.done.lock().unwrap().values_mut().for_each(|(_, next)| *next = usize::MAX);
    honest.sql("INSERT INTO t VALUES(-1, 'after the lies')");
    node.sql("INSERT INTO t VALUES(-2, 'after the lies')");
    let crossed = |node: &Node| value(node, "SELECT count(*) FROM t WHERE id < 0") == "Integer(2)";
    wait_for("rows cross in both directions", 120, || {
        node.assert_alive();
        (crossed(&honest) && crossed(&node)).then_some(())
    });
    assert!(node.memory().1 < 200_000);
    assert_eq!((node.stop(), honest.stop()), (0, 0));
}
