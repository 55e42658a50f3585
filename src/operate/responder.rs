//! A very small HTTP server for what operators look at: one request at a time, one answer each.

use crate::base::{limits, stop::Stop, worker};
use crossbeam_channel::Sender;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Longest request that is read, in bytes.
const REQUEST_MAX: u64 = 16 << 10;

/// An answer.
pub struct Reply {
    /// Such as `200 OK`.
    pub status: &'static str,
    /// `Content-Type`.
    pub kind: &'static str,
    /// What follows.
    pub body: String,
}

/// Starts the thread `name`, which answers on `bind` (`host:port`, or `:port` for all addresses). `key` is the configuration's
/// name for the address. `reply` is given the path.
pub fn start(
    name: &'static str,
    key: &str,
    bind: &str,
    stop: &Stop,
    exits: &Sender<worker::Exit>,
    reply: impl Fn(&str) -> Reply + Send + 'static,
) -> Result<(), String> {
    let address = if bind.starts_with(':') { format!("0.0.0.0{bind}") } else { bind.to_owned() };
    let failed = |error: std::io::Error| format!("{key} {bind}: {error}");
    let listener = TcpListener::bind(&address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    log::info!("{name} on http://{}", listener.local_addr().map_err(failed)?);
    let stop = stop.clone();
    worker::spawn(name, exits, move || {
        loop {
            match listener.accept() {
                // One at a time: a slow asker delays others, and nothing else.
                Ok((stream, _)) => {
                    if let Err(error) = answer(&stream, &reply) {
                        log::debug!("{name}: {error}");
                    }
                }
                Err(_) if stop.wait(Duration::from_millis(50)) => return Ok(()),
                Err(_) => {}
            }
            if stop.requested() {
                return Ok(());
            }
        }
    })
    .map(drop)
}

fn answer(stream: &TcpStream, reply: &impl Fn(&str) -> Reply) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(limits::HEALTH_ASKER))?;
    stream.set_write_timeout(Some(limits::HEALTH_ASKER))?;
    let mut reader = BufReader::new(stream.take(REQUEST_MAX));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let target = line.split_ascii_whitespace().nth(1).unwrap_or_default();
    let Reply { status, kind, body } = reply(target.split('?').next().unwrap_or_default());
    let head_only = line.starts_with("HEAD ");
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
        body.len(),
        if head_only { "" } else { &body }
    )
}
