//! A very small HTTP server for what operators look at: one request at a time, one answer each.

use crate::base::{error::Error, limits, stop::Stop};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Longest request that is read, in bytes.
const REQUEST_MAX: u64 = 16 << 10;
/// Pause between two looks for somebody who asks.
const LOOK: Duration = Duration::from_millis(50);

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
pub fn answer_all(name: &str, listener: &TcpListener, stop: &Stop, reply: impl Fn(&str) -> Reply) {
    while !stop.requested() {
        match listener.accept() {
            // One at a time: a slow asker delays others, and nothing else.
            Ok((stream, _)) => {
                if let Err(error) = answer(&stream, &reply) {
                    log::debug!("{name}: {error}");
                }
            }
            Err(_) => {
                stop.wait(LOOK);
            }
        }
    }
}

fn answer(stream: &TcpStream, reply: &impl Fn(&str) -> Reply) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(limits::HEALTH_ASKER))?;
    stream.set_write_timeout(Some(limits::HEALTH_ASKER))?;
    let request = Request::read(BufReader::new(stream.take(REQUEST_MAX)))?;
    let mut stream = stream;
    stream.write_all(render(&request, &reply(&request.path)).as_bytes())
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    path: String,
    /// `HEAD`: the answer has no body.
    head_only: bool,
}

impl Request {
    fn read(mut reader: impl BufRead) -> std::io::Result<Request> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let target = line.split_ascii_whitespace().nth(1).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        Ok(Request { path, head_only: line.starts_with("HEAD ") })
    }
}

fn render(request: &Request, reply: &Reply) -> String {
    let Reply { status, kind, body } = reply;
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
        body.len(),
        if request.head_only { "" } else { body }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Request {
        Request::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn requests_are_read() {
        assert_eq!(
            read("GET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
            Request { path: "/health".into(), head_only: false }
        );
        assert_eq!(read("HEAD /a?b=/c HTTP/1.0\r\n\r\n"), Request { path: "/a".into(), head_only: true });
        assert_eq!(read(""), Request { path: String::new(), head_only: false });
        assert_eq!(read("nonsense"), Request { path: String::new(), head_only: false });
    }

    #[test]
    fn bytes_that_are_no_text_are_no_request() {
        assert!(Request::read(&b"GET /\xff\xfe HTTP/1.1\r\n\r\n"[..]).is_err());
    }

    #[test]
    fn a_head_has_the_length_and_no_body() {
        let reply = Reply { status: "200 OK", kind: "text/plain", body: "abc".into() };
        let get = render(&read("GET / HTTP/1.1\r\n\r\n"), &reply);
        assert!(get.starts_with("HTTP/1.1 200 OK\r\n") && get.ends_with("\r\n\r\nabc"));
        let head = render(&read("HEAD / HTTP/1.1\r\n\r\n"), &reply);
        assert!(head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n"));
    }
}
