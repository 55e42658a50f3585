//! What a node's HTTP endpoints answer.

use std::io::{Read, Write};
use std::net::TcpStream;

/// Status and body of an answer on the loopback interface; `None` while nothing answers there.
pub fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Status and document of `/health`; 0 and null while nothing answers.
pub fn health(port: u16) -> (u16, serde_json::Value) {
    let Some((status, body)) = http_get(port, "/health") else { return (0, serde_json::Value::Null) };
    (status, serde_json::from_str(&body).unwrap())
}
