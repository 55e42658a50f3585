//! Reaching one server: TCP, TLS, greeting, login. All within one deadline, and given up soon after nobody wants it any more.

use super::error::Error;
use super::login::{self, Auth};
use super::url::Url;
use super::wire::{Op, Parser, ServerInfo};
use crate::base::limits;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Longest time until a wait looks again whether the connection is still wanted.
const LOOK: Duration = Duration::from_millis(200);

/// The time that each address of a server gets to answer, at least, as long as there is any.
const LEAST_SHARE: Duration = Duration::from_secs(1);

/// A connection to a server that let us in. Its socket does not block.
pub struct Link {
    pub transport: Transport,
    /// Holds bytes that were read and are no whole operation yet.
    pub parser: Parser,
    /// The server about itself. On an encrypted connection it lists only servers that it announced after TLS had begun.
    pub info: ServerInfo,
}

/// A TCP connection, with or without TLS.
pub enum Transport {
    Plain(TcpStream),
    Tls(Box<rustls::ClientConnection>, TcpStream),
}

impl Transport {
    /// The socket, for poll.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Transport::Plain(socket) | Transport::Tls(_, socket) => socket,
        }
    }

    /// Reads; `Ok(0)` means that the server closed, `WouldBlock` that nothing is there now.
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

    /// Writes as much as the socket takes now.
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

/// One deadline for everything that is done through a blocking socket until the login.
#[derive(Clone, Copy)]
struct Deadline<'a> {
    until: Instant,
    /// How long that was from the start, for people.
    limit: Duration,
    /// Stands in front of errors: `login`.
    doing: &'static str,
    /// Whether the connection is still wanted.
    wanted: &'a dyn Fn() -> bool,
}

impl Deadline<'_> {
    /// How long to wait before the next look; an error when there is nothing to wait for any more.
    fn slice(&self, now: Instant) -> Result<Duration, Error> {
        let left = self.until.saturating_duration_since(now);
        if left.is_zero() {
            let seconds = (self.limit.as_secs_f64() * 10.0).round() / 10.0;
            return Err(Error::Transient(format!("{}: not done within {seconds} s", self.doing)));
        }
        if !(self.wanted)() {
            return Err(Error::Transient(format!("{}: no longer wanted", self.doing)));
        }
        Ok(left.min(LOOK))
    }

    /// The part of the time that is left which one of `addresses` addresses gets: one that swallows every packet must not use up
    /// all of it.
    fn share(&self, addresses: usize, now: Instant) -> Deadline<'_> {
        let left = self.until.saturating_duration_since(now);
        let limit = (left / u32::try_from(addresses).unwrap_or(u32::MAX).max(1)).max(LEAST_SHARE).min(left);
        if limit == left { *self } else { Deadline { until: now + limit, limit, ..*self } }
    }

    /// Lets the socket's next read or write end when it is time for another look.
    fn arm(&self, socket: &TcpStream) -> Result<(), Error> {
        let slice = Some(self.slice(Instant::now())?);
        let set = socket.set_read_timeout(slice).and_then(|()| socket.set_write_timeout(slice));
        set.map_err(|error| self.failed(&error))
    }

    /// What a read or write brought; `None`: nothing yet, and the caller tries again.
    fn brought(&self, result: io::Result<usize>) -> Result<Option<usize>, Error> {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        match result {
            Ok(count) => Ok(Some(count)),
            Err(error) if matches!(error.kind(), WouldBlock | TimedOut | Interrupted) => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &io::Error) -> Error {
        Error::Transient(format!("{}: {error}", self.doing))
    }
}

/// Connects and logs in. `name` is shown by the server in its list of clients. Gives up when `wanted` says no.
pub fn dial(url: &Url, auth: &Auth, name: &str, wanted: &dyn Fn() -> bool) -> Result<Link, Error> {
    let until = Instant::now() + limits::CONNECT_TIMEOUT;
    let mut deadline = Deadline { until, limit: limits::CONNECT_TIMEOUT, doing: "connect", wanted };
    let mut transport = Transport::Plain(tcp(url, &deadline)?);
    let mut parser = Parser::default();
    deadline.doing = "greeting";
    let mut info = match next_op(&mut transport, &mut parser, &deadline)? {
        Op::Info(json) => ServerInfo::parse(&json).map_err(|error| error.at("greeting"))?,
        Op::Err(text) => return Err(Error::Transient(format!("refused: {text}"))),
        _ => return Err(Error::Transient("greeting: not a NATS server".to_owned())),
    };
    let tls = wants_tls(url, auth, &info)?;
    if tls {
        if !parser.is_empty() {
            return Err(Error::Transient("greeting: bytes before TLS".to_owned()));
        }
        deadline.doing = "TLS";
        transport = start_tls(transport, url, auth, &deadline)?;
        auth.had_tls.store(true, Relaxed);
        // Whoever stands between us and the server may have written the greeting.
        info.connect_urls.clear();
    }
    deadline.doing = "login";
    let connect = login::connect_line(url, auth, name, &info, tls)?;
    write_all(&mut transport, format!("CONNECT {connect}\r\nPING\r\n").as_bytes(), &deadline)?;
    loop {
        match next_op(&mut transport, &mut parser, &deadline)? {
            Op::Pong => break,
            Op::Err(text) => return Err(Error::Permanent(format!("login: {text}"))),
            Op::Ping => write_all(&mut transport, b"PONG\r\n", &deadline)?,
            Op::Info(json) => info = ServerInfo::parse(&json).unwrap_or(info),
            _ => {}
        }
    }
    transport.socket().set_nonblocking(true).map_err(|error| deadline.failed(&error))?;
    Ok(Link { transport, parser, info })
}

/// Whether the connection is to be encrypted: we demand it, or the server does. A greeting without TLS may be forged, so it
/// takes nothing away from what we demand.
fn wants_tls(url: &Url, auth: &Auth, info: &ServerInfo) -> Result<bool, Error> {
    match auth.demands_tls(url) {
        Some(why) if !info.tls_required && !info.tls_available => {
            Err(Error::Permanent(format!("the server has no TLS, and {why}")))
        }
        demand => Ok(demand.is_some() || info.tls_required),
    }
}

/// Connects to the first address of the host that answers.
fn tcp(url: &Url, deadline: &Deadline<'_>) -> Result<TcpStream, Error> {
    let unresolved = |why: &str| Error::Transient(format!("resolve {}: {why}", url.host));
    let addresses =
        (url.host.as_str(), url.port).to_socket_addrs().map_err(|error| unresolved(&error.to_string()))?;
    let addresses: Vec<SocketAddr> = addresses.collect();
    first_to_answer(&addresses, deadline).unwrap_or_else(|| Err(unresolved("no address")))
}

/// Tries the addresses one after the other; `None`: there is none.
fn first_to_answer(addresses: &[SocketAddr], deadline: &Deadline<'_>) -> Option<Result<TcpStream, Error>> {
    let mut result = None;
    for (at, address) in addresses.iter().enumerate() {
        let connected = connect(*address, &deadline.share(addresses.len() - at, Instant::now()));
        if connected.is_ok() {
            return Some(connected);
        }
        result = Some(connected);
    }
    result
}

/// Connects without blocking, because the kernel may take minutes to give up and nothing could end the wait.
fn connect(address: SocketAddr, deadline: &Deadline<'_>) -> Result<TcpStream, Error> {
    let failed = |errno: Errno| deadline.failed(&errno.into());
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None).map_err(failed)?;
    match net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(errno) => return Err(failed(errno)),
    }
    loop {
        let slice = deadline.slice(Instant::now())?;
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(slice.subsec_nanos()) };
        match rustix::event::poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => break,
            Err(errno) => return Err(failed(errno)),
        }
    }
    sockopt::socket_error(&socket).and_then(|connected| connected).map_err(failed)?;
    let socket = TcpStream::from(socket);
    set_options(&socket).map_err(|error| deadline.failed(&error))?;
    Ok(socket)
}

/// Blocking until the login; small messages go out at once; the kernel notices within 30 s that a server vanished.
fn set_options(socket: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_user_timeout(socket, 30_000)?;
    Ok(())
}

fn next_op(transport: &mut Transport, parser: &mut Parser, deadline: &Deadline<'_>) -> Result<Op, Error> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(op) = parser.next()? {
            return Ok(op);
        }
        deadline.arm(transport.socket())?;
        match deadline.brought(transport.read(&mut buffer))? {
            Some(0) => return Err(Error::Transient(format!("{}: closed by the server", deadline.doing))),
            Some(count) => parser.push(&buffer[..count]),
            None => {}
        }
    }
}

fn write_all(transport: &mut Transport, mut bytes: &[u8], deadline: &Deadline<'_>) -> Result<(), Error> {
    while !bytes.is_empty() || transport.wants_write() {
        deadline.arm(transport.socket())?;
        let count = deadline.brought(transport.write(bytes))?.unwrap_or(0);
        bytes = &bytes[count..];
    }
    Ok(())
}

fn start_tls(
    transport: Transport,
    url: &Url,
    auth: &Auth,
    deadline: &Deadline<'_>,
) -> Result<Transport, Error> {
    let Transport::Plain(mut socket) = transport else { return Ok(transport) };
    let server_name =
        ServerName::try_from(url.certificate_name().to_owned()).map_err(|error| tls_failed(&error))?;
    let config = tls_config(auth)?;
    let mut tls = rustls::ClientConnection::new(config, server_name).map_err(|error| tls_failed(&error))?;
    while tls.is_handshaking() {
        deadline.arm(&socket)?;
        if tls.wants_write() {
            deadline.brought(tls.write_tls(&mut socket))?;
            continue;
        }
        if deadline.brought(tls.read_tls(&mut socket))? == Some(0) {
            return Err(Error::Transient("TLS: closed by the server".to_owned()));
        }
        tls.process_new_packets().map_err(|error| tls_failed(&error))?;
    }
    Ok(Transport::Tls(Box::new(tls), socket))
}

/// A certificate that we do not trust, a name that does not fit, no common version.
fn tls_failed(error: &dyn std::fmt::Display) -> Error {
    Error::Permanent(format!("TLS: {error}"))
}

/// The cryptography of every TLS connection of ours.
pub fn cryptography() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn tls_config(auth: &Auth) -> Result<Arc<rustls::ClientConfig>, Error> {
    let builder = rustls::ClientConfig::builder_with_provider(cryptography())
        .with_safe_default_protocol_versions()
        .map_err(|error| tls_failed(&error))?
        .with_root_certificates(roots(auth)?);
    let config = match (&auth.cert_file, &auth.key_file) {
        (Some(cert), Some(key)) => {
            let bad = |path: &Path| Error::Local(format!("{}: no PEM of the expected kind", path.display()));
            let chain: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(cert).map_err(|_| bad(cert))?.collect();
            let key = PrivateKeyDer::from_pem_file(key).map_err(|_| bad(key))?;
            builder
                .with_client_auth_cert(chain.map_err(|_| bad(cert))?, key)
                .map_err(|error| tls_failed(&error))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// The certificate authorities that we trust: those of `auth.ca_file`, or else the system's.
fn roots(auth: &Auth) -> Result<rustls::RootCertStore, Error> {
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
    let bad = |why: &dyn std::fmt::Display| Error::Local(format!("{}: {why}", path.display()));
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(&error))? {
        store.add(certificate.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
    }
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(json: &str) -> ServerInfo {
        ServerInfo::parse(json.as_bytes()).unwrap()
    }

    fn tls(url: &str, ca_file: Option<&str>, server: &str) -> Result<bool, Error> {
        let auth = Auth { ca_file: ca_file.map(Into::into), ..Auth::default() };
        wants_tls(&Url::parse(url).unwrap(), &auth, &info(server))
    }

    #[test]
    fn the_server_may_demand_tls() {
        assert_eq!(tls("nats://h", None, r#"{"tls_required":true}"#), Ok(true));
        assert_eq!(tls("nats://h", None, "{}"), Ok(false));
    }

    #[test]
    fn whoever_names_an_authority_or_a_certificate_demands_tls() {
        let offered = r#"{"tls_available":true}"#;
        assert_eq!(tls("nats://h", None, offered), Ok(false));
        assert_eq!(tls("nats://h", Some("/ca"), offered), Ok(true));
        assert!(matches!(tls("nats://h", Some("/ca"), "{}"), Err(Error::Permanent(_))));
        let url = Url::parse("nats://h").unwrap();
        let auth = Auth { cert_file: Some("/c".into()), key_file: Some("/k".into()), ..Auth::default() };
        assert!(matches!(wants_tls(&url, &auth, &info("{}")), Err(Error::Permanent(_))));
    }

    #[test]
    fn after_one_encrypted_connection_none_is_plain() {
        let url = Url::parse("nats://h").unwrap();
        let auth = Auth::default();
        let other_connection = auth.clone();
        assert_eq!(wants_tls(&url, &other_connection, &info("{}")), Ok(false));
        auth.had_tls.store(true, Relaxed);
        assert!(matches!(wants_tls(&url, &other_connection, &info("{}")), Err(Error::Permanent(_))));
        assert_eq!(wants_tls(&url, &other_connection, &info(r#"{"tls_available":true}"#)), Ok(true));
    }

    #[test]
    fn a_url_that_demands_tls_never_goes_in_plain_text() {
        assert_eq!(tls("tls://h", None, r#"{"tls_available":true}"#), Ok(true));
        assert_eq!(tls("tls://h", None, r#"{"tls_required":true}"#), Ok(true));
        assert!(matches!(tls("tls://h", Some("/ca"), "{}"), Err(Error::Permanent(_))));
    }

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let missing = || Some("/no/such.pem".into());
        let auth = Auth { ca_file: missing(), ..Auth::default() };
        let error = roots(&auth).unwrap_err();
        assert!(matches!(&error, Error::Local(why) if why.starts_with("/no/such.pem: ")), "{error:?}");
        let auth = Auth { cert_file: missing(), key_file: missing(), ..Auth::default() };
        let error = tls_config(&auth).unwrap_err();
        assert_eq!(error, Error::Local("/no/such.pem: no PEM of the expected kind".into()));
    }

    fn deadline(doing: &'static str, until: Instant) -> Deadline<'static> {
        Deadline { until, limit: limits::CONNECT_TIMEOUT, doing, wanted: &|| true }
    }

    #[test]
    fn addresses_share_the_time_that_is_left() {
        let begin = Instant::now();
        let whole = deadline("connect", begin + limits::CONNECT_TIMEOUT);
        let share = |addresses| whole.share(addresses, begin).until - begin;
        assert_eq!([1, 2, 4, 9].map(|n| share(n).as_millis()), [5_000, 2_500, 1_250, 1_000]);
        let half = whole.share(2, begin);
        assert_eq!(half.slice(half.until), Err(Error::Transient("connect: not done within 2.5 s".into())));
        // At the end there is not even the least share.
        let late = begin + Duration::from_millis(4_900);
        assert_eq!(whole.share(3, late).until, whole.until);
    }

    /// A listener that takes no more connections: the kernel drops whatever asks for one, as a broken network would.
    fn silent() -> (std::os::fd::OwnedFd, SocketAddr, Vec<TcpStream>) {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        net::listen(&socket, 0).unwrap();
        let address = SocketAddr::try_from(net::getsockname(&socket).unwrap()).unwrap();
        let soon = Duration::from_millis(200);
        let fill = (0..20).map_while(|_| TcpStream::connect_timeout(&address, soon).ok()).collect();
        (socket, address, fill)
    }

    #[test]
    fn an_address_that_swallows_packets_does_not_hide_the_next() {
        let (_socket, swallows, _fill) = silent();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let answers = listener.local_addr().unwrap();
        let deadline = deadline("connect", Instant::now() + Duration::from_secs(2));
        let socket = first_to_answer(&[swallows, answers], &deadline).unwrap().unwrap();
        assert_eq!(socket.peer_addr().unwrap(), answers);
        assert!(first_to_answer(&[], &deadline).is_none());
        assert!(first_to_answer(&[swallows], &deadline).unwrap().is_err());
    }

    #[test]
    fn a_wait_ends_with_the_deadline_and_when_nobody_wants_it() {
        let begin = Instant::now();
        let until = begin + limits::CONNECT_TIMEOUT;
        let deadline = deadline("login", until);
        assert_eq!(deadline.slice(begin), Ok(LOOK));
        assert_eq!(deadline.slice(until - LOOK / 2), Ok(LOOK / 2));
        assert_eq!(deadline.slice(until), Err(Error::Transient("login: not done within 5 s".into())));
        let unwanted = Deadline { wanted: &|| false, ..deadline };
        assert_eq!(unwanted.slice(begin), Err(Error::Transient("login: no longer wanted".into())));
    }

    #[test]
    fn a_read_that_brought_nothing_yet_is_tried_again() {
        let deadline = deadline("greeting", Instant::now());
        assert_eq!(deadline.brought(Ok(3)), Ok(Some(3)));
        for kind in [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut, io::ErrorKind::Interrupted] {
            assert_eq!(deadline.brought(Err(kind.into())), Ok(None));
        }
        let reset = deadline.brought(Err(io::ErrorKind::ConnectionReset.into())).unwrap_err();
        assert_eq!(reset, Error::Transient("greeting: connection reset".into()));
    }

    #[test]
    fn connections_that_are_accepted_refused_and_unwanted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let until = Instant::now() + limits::CONNECT_TIMEOUT;
        let deadline = deadline("connect", until);
        let socket = connect(address, &deadline).unwrap();
        assert_eq!(listener.accept().unwrap().1, socket.local_addr().unwrap());
        let unwanted = Deadline { wanted: &|| false, ..deadline };
        assert_eq!(
            connect(address, &unwanted).unwrap_err(),
            Error::Transient("connect: no longer wanted".into())
        );
        drop(listener);
        let deadline = Deadline { wanted: &|| true, ..unwanted };
        let Err(Error::Transient(why)) = connect(address, &deadline) else { panic!() };
        assert!(why.starts_with("connect: Connection refused"), "{why}");
    }
}
