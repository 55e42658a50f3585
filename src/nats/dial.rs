//! Reaching one server: TCP, TLS, greeting, login. All within one deadline.

use super::url::Url;
use super::wire::{Op, Parser};
use crate::base::{limits, secret::Secret};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How we identify ourselves, and whom we trust.
#[derive(Clone, Debug, Default)]
pub struct Auth {
    /// User name; the URL's wins.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// Token.
    pub token: Secret,
    /// File with an nkey seed.
    pub seed_file: Option<PathBuf>,
    /// Certificate authorities instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate chain.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

/// A logged-in connection, non-blocking from here on.
pub struct Link {
    /// The bytes' way.
    pub transport: Transport,
    /// What was read and not yet understood.
    pub parser: Parser,
    /// The server's greeting.
    pub info: Value,
}

/// Plain or encrypted.
pub enum Transport {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<rustls::ClientConnection>, TcpStream),
}

impl Transport {
    /// The socket, to poll.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Transport::Plain(socket) | Transport::Tls(_, socket) => socket,
        }
    }

    /// Reads; `Ok(0)` is the end, `WouldBlock` nothing now.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (tls, socket) = match self {
            Transport::Plain(socket) => return socket.read(buffer),
            Transport::Tls(tls, socket) => (tls, socket),
        };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            tls.read_tls(socket)?;
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Writes what fits now.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (tls, socket) = match self {
            Transport::Plain(socket) => return socket.write(bytes),
            Transport::Tls(tls, socket) => (tls, socket),
        };
        if tls.wants_write() {
            flush_tls(tls, socket)?;
        }
        let taken = if tls.wants_write() { 0 } else { tls.writer().write(bytes)? };
        flush_tls(tls, socket)?;
        if taken == 0 && !bytes.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    /// Whether encrypted bytes wait for the socket.
    pub fn wants_write(&self) -> bool {
        matches!(self, Transport::Tls(tls, _) if tls.wants_write())
    }
}

fn flush_tls(tls: &mut rustls::ClientConnection, socket: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A socket in blocking mode with one deadline for everything done through it.
struct Deadline {
    until: Instant,
    doing: &'static str,
}

impl Deadline {
    fn arm(&self, socket: &TcpStream) -> Result<(), String> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("{}: no end within {} s", self.doing, limits::CONNECT_TIMEOUT.as_secs()));
        }
        let set = socket.set_read_timeout(Some(left)).and_then(|()| socket.set_write_timeout(Some(left)));
        set.map_err(|error| self.error(&error))
    }

    fn error(&self, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("{}: no answer within {} s", self.doing, limits::CONNECT_TIMEOUT.as_secs())
            }
            _ => format!("{}: {error}", self.doing),
        }
    }
}

/// Connects and logs in.
pub fn dial(url: &Url, auth: &Auth, name: &str) -> Result<Link, String> {
    let mut deadline = Deadline { until: Instant::now() + limits::CONNECT_TIMEOUT, doing: "connect" };
    let socket = tcp(url, &deadline)?;
    let mut transport = Transport::Plain(socket);
    let mut parser = Parser::default();
    deadline.doing = "greeting";
    let info = match next_op(&mut transport, &mut parser, &deadline)? {
        Op::Info(json) => serde_json::from_slice::<Value>(&json).map_err(|e| format!("greeting: {e}"))?,
        Op::Err(text) => return Err(format!("refused: {text}")),
        _ => return Err("greeting: not a NATS server".to_owned()),
    };
    let flag = |name: &str| info[name].as_bool().unwrap_or(false);
    let tls = url.tls || flag("tls_required") || (flag("tls_available") && auth.ca_file.is_some());
    if tls {
        if !flag("tls_required") && !flag("tls_available") {
            return Err("the server has no TLS, and the URL demands it".to_owned());
        }
        if !parser.is_empty() {
            return Err("greeting: bytes before TLS".to_owned());
        }
        deadline.doing = "TLS";
        transport = start_tls(transport, url, auth, &deadline)?;
    }
    deadline.doing = "login";
    let connect = connect_line(url, auth, name, &info, tls)?;
    write_all(&mut transport, format!("CONNECT {connect}\r\nPING\r\n").as_bytes(), &deadline)?;
    loop {
        match next_op(&mut transport, &mut parser, &deadline)? {
            Op::Pong => break,
            Op::Err(text) => return Err(format!("login: {text}")),
            Op::Ping => write_all(&mut transport, b"PONG\r\n", &deadline)?,
            _ => {}
        }
    }
    transport.socket().set_nonblocking(true).map_err(|e| deadline.error(&e))?;
    Ok(Link { transport, parser, info })
}

fn tcp(url: &Url, deadline: &Deadline) -> Result<TcpStream, String> {
    let addresses: Vec<_> = match (url.host.as_str(), url.port).to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => return Err(format!("resolve {}: {error}", url.host)),
    };
    let mut failure = format!("resolve {}: no address", url.host);
    for address in addresses {
        let left = deadline.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(socket) => {
                use rustix::net::sockopt;
                let options = socket
                    .set_nodelay(true)
                    .and_then(|()| Ok(sockopt::set_socket_keepalive(&socket, true)?))
                    .and_then(|()| Ok(sockopt::set_tcp_user_timeout(&socket, 30_000)?));
                options.map_err(|error| deadline.error(&error))?;
                return Ok(socket);
            }
            Err(error) => failure = deadline.error(&error),
        }
    }
    Err(failure)
}

fn next_op(transport: &mut Transport, parser: &mut Parser, deadline: &Deadline) -> Result<Op, String> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(op) = parser.next()? {
            return Ok(op);
        }
        deadline.arm(transport.socket())?;
        match transport.read(&mut buffer) {
            Ok(0) => return Err(format!("{}: closed by the server", deadline.doing)),
            Ok(count) => parser.push(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(deadline.error(&error)),
        }
    }
}

fn write_all(transport: &mut Transport, mut bytes: &[u8], deadline: &Deadline) -> Result<(), String> {
    while !bytes.is_empty() || transport.wants_write() {
        deadline.arm(transport.socket())?;
        let count = transport.write(bytes).map_err(|error| deadline.error(&error))?;
        bytes = &bytes[count..];
    }
    Ok(())
}

fn start_tls(transport: Transport, url: &Url, auth: &Auth, deadline: &Deadline) -> Result<Transport, String> {
    let Transport::Plain(mut socket) = transport else { return Ok(transport) };
    let server_name = ServerName::try_from(url.host.clone()).map_err(|e| format!("TLS: {e}"))?;
    let config = tls_config(auth)?;
    let mut tls = rustls::ClientConnection::new(config, server_name).map_err(|e| format!("TLS: {e}"))?;
    while tls.is_handshaking() {
        deadline.arm(&socket)?;
        if tls.wants_write() {
            tls.write_tls(&mut socket).map_err(|e| deadline.error(&e))?;
            continue;
        }
        if tls.read_tls(&mut socket).map_err(|e| deadline.error(&e))? == 0 {
            return Err("TLS: closed by the server".to_owned());
        }
        tls.process_new_packets().map_err(|e| format!("TLS: {e}"))?;
    }
    Ok(Transport::Tls(Box::new(tls), socket))
}

fn tls_config(auth: &Auth) -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?
        .with_root_certificates(roots(auth)?);
    let config = match (&auth.cert_file, &auth.key_file) {
        (Some(cert), Some(key)) => {
            let bad = |path: &PathBuf| format!("{}: no PEM of the expected kind", path.display());
            let chain: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(cert).map_err(|_| bad(cert))?.collect();
            let key = PrivateKeyDer::from_pem_file(key).map_err(|_| bad(key))?;
            builder
                .with_client_auth_cert(chain.map_err(|_| bad(cert))?, key)
                .map_err(|e| format!("TLS: {e}"))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn roots(auth: &Auth) -> Result<rustls::RootCertStore, String> {
    static SYSTEM: OnceLock<rustls::RootCertStore> = OnceLock::new();
    let Some(path) = &auth.ca_file else {
        // Read only when TLS is used, so that a broken trust store hurts nobody else.
        let store = SYSTEM.get_or_init(|| {
            let mut store = rustls::RootCertStore::empty();
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            store
        });
        return Ok(store.clone());
    };
    let mut store = rustls::RootCertStore::empty();
    let bad = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| bad(&e))? {
        store.add(certificate.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
    }
    Ok(store)
}

fn connect_line(url: &Url, auth: &Auth, name: &str, info: &Value, tls: bool) -> Result<Value, String> {
    let mut line = json!({
        "verbose": false, "pedantic": false, "tls_required": tls, "name": name, "lang": "rust",
        "version": env!("CARGO_PKG_VERSION"), "protocol": 1, "headers": true, "no_responders": true,
    });
    match (&url.user, &url.password) {
        (Some(user), Some(password)) => {
            line["user"] = json!(user);
            line["pass"] = json!(password.expose());
        }
        (Some(token), None) => line["auth_token"] = json!(token),
        _ if !auth.user.is_empty() => {
            line["user"] = json!(auth.user);
            line["pass"] = json!(auth.password.expose());
        }
        _ if !auth.token.is_empty() => line["auth_token"] = json!(auth.token.expose()),
        _ => {}
    }
    if let Some(path) = &auth.seed_file {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let (public, key) = nkey(&text).map_err(|why| format!("{}: {why}", path.display()))?;
        let nonce = info["nonce"].as_str().unwrap_or_default();
        line["nkey"] = json!(public);
        line["sig"] = json!(data_encoding::BASE64URL_NOPAD.encode(key.sign(nonce.as_bytes()).as_ref()));
    }
    Ok(line)
}

/// The public key and the key pair of an nkey seed: the first line that begins with `S`.
///
/// A seed is base32 of: prefix bits of `S` and of the kind (`U`), 32 bytes, CRC-16.
fn nkey(text: &str) -> Result<(String, ring::signature::Ed25519KeyPair), String> {
    use ring::signature::KeyPair;
    let bad = || "not an nkey seed (SU...)".to_owned();
    let line = text.lines().map(str::trim).find(|line| line.starts_with('S')).ok_or_else(bad)?;
    let raw = data_encoding::BASE32_NOPAD.decode(line.as_bytes()).map_err(|_| bad())?;
    let (content, check) = raw.split_at_checked(34).ok_or_else(bad)?;
    if check != crc16(content).to_le_bytes() || content[0] & 0xf8 != 18 << 3 {
        return Err(bad());
    }
    let kind = (content[0] & 7) << 5 | content[1] >> 3;
    let key = ring::signature::Ed25519KeyPair::from_seed_unchecked(&content[2..]).map_err(|_| bad())?;
    let mut public = vec![kind];
    public.extend_from_slice(key.public_key().as_ref());
    public.extend_from_slice(&crc16(&public).to_le_bytes());
    Ok((data_encoding::BASE32_NOPAD.encode(&public), key))
}

/// CRC-16/XMODEM, as nkeys use it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(
            crc ^ u16::from(*byte) << 8,
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_nkey_seed_and_its_public_key() {
        // A pair published in the documentation of NATS.
        let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
        let public = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
        assert_eq!(nkey(&format!("# a comment\n{seed}\n")).unwrap().0, public);
        assert!(nkey("SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VX").is_err());
        assert!(nkey("").is_err());
        assert!(nkey("SU").is_err());
        assert!(nkey("Sü").is_err());
    }
}
