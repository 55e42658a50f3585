//! Snapshots on an SSH server: `sftp://user[:password]@host[:port]/directory`.

mod host_keys;
mod opening;
mod relay;
mod rename;

use super::Error;
use super::options::SftpOptions;
use super::pour::{Moving, pour};
use super::tree::{Entry, Files, Source, Tree};
use crate::base::{limits, secret::Secret};
use opening::Patience;
use relay::Relay;
use rename::Renamed;
use ssh2::{
    ErrorCode, FileStat, HashType, KeyboardInteractivePrompt, MethodType, OpenFlags, OpenType, Prompt,
    Session,
};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

/// Bytes handed to the library at once. It sends them as several requests, without waiting for an answer in between.
const BURST: usize = 256 << 10;
/// Milliseconds for each call on a connection that has failed.
const FAREWELL_MS: u32 = 500;
/// Status codes of SFTP (source: draft-ietf-secsh-filexfer-02, 7).
const NO_SUCH_FILE: i32 = 2;
const PERMISSION_DENIED: i32 = 3;
const UNSUPPORTED: i32 = 8;
/// Errors of libssh2 that mean a dead connection: cannot send, timeout, disconnect, cannot receive (source: libssh2.h).
const CONNECTION_LOST: [i32; 4] = [-7, -9, -13, -43];
/// With this error the crate says that a directory's list is over (LIBSSH2_ERROR_FILE; source: its own `readdir`).
const LIST_ENDS: i32 = -16;
/// What the names of all our files begin with.
const OURS: &str = "snapshot";
/// Bytes of a file's name on common file systems, at most.
const NAME_BYTES: usize = 255;
/// Bytes around a file's name in a list, at most: it stands there twice, the second time in a line as `ls -l` shows it.
const NAME_AROUND: usize = 256;
/// Errors of libssh2 that mean an unusable key file: cannot be read, cannot be decrypted (source: libssh2.h).
const KEY_UNUSABLE: [i32; 2] = [-16, -48];

/// The directory on the server. The connection is made at the first use, and anew after it broke.
pub struct Sftp {
    options: SftpOptions,
    patience: Patience,
    connection: Mutex<Option<Connection>>,
}

struct Connection {
    session: Session,
    sftp: ssh2::Sftp,
    /// Dropped last: the library says farewell over it.
    relay: Relay,
}

impl Connection {
    /// The connection is broken: closing a file and saying farewell may take this long, each, and no more. While a part of a
    /// message is still to be sent, the library waits without looking whether anybody is there.
    fn give_up(&self) {
        self.session.set_timeout(FAREWELL_MS);
    }
}

/// A stream of the library's that tells the relay of the bytes that were of use.
struct Used<'a, S>(S, &'a Connection);

impl<S: Read> Read for Used<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer).inspect_err(|_| self.1.give_up())?;
        self.1.relay.used(count);
        Ok(count)
    }
}

impl<S: Write> Write for Used<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.0.write(bytes).inspect_err(|_| self.1.give_up())?;
        self.1.relay.sent(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl From<ssh2::Error> for Error {
    fn from(error: ssh2::Error) -> Error {
        let text = error.message().to_owned();
        match error.code() {
            ErrorCode::SFTP(NO_SUCH_FILE) => Error::NotFound,
            ErrorCode::SFTP(PERMISSION_DENIED) => Error::Permanent("permission denied".to_owned()),
            ErrorCode::SFTP(code) => Error::Permanent(format!("{text} (SFTP status {code})")),
            ErrorCode::Session(_) => Error::Transient(text),
        }
    }
}

impl Sftp {
    /// The store; nothing is asked of the server yet.
    pub fn store(options: SftpOptions, read_back: bool) -> Files<Sftp> {
        Files {
            tree: Sftp { options, patience: Patience::default(), connection: Mutex::new(None) },
            read_back,
        }
    }

    fn connect(&self) -> Result<Connection, Error> {
        let stream = opening::connect(&self.options.host, self.options.port)?;
        opening::wait_for_banner(&stream, self.patience.banner)?;
        let (relay, end) =
            Relay::start(&stream).map_err(|error| Error::Local(format!("SSH connection: {error}")))?;
        let opened = opening::within(self.patience.whole, &stream, |_| self.open(end));
        let (session, sftp) = opened.map_err(|error| relay.explain(error))?;
        Ok(Connection { session, sftp, relay })
    }

    /// From the connection to the session: encryption, the server's key, the login.
    fn open(&self, stream: UnixStream) -> Result<(Session, ssh2::Sftp), Error> {
        let SftpOptions { host, port, user, trust, .. } = &self.options;
        let mut session = Session::new()?;
        session.set_timeout(u32::try_from(limits::TRANSFER_STALL.as_millis()).unwrap_or(u32::MAX));
        let kinds = trust.kinds(host, *port)?;
        if !kinds.is_empty() {
            prefer(&session, &kinds)?;
        }
        session.set_tcp_stream(stream);
        session.handshake().map_err(|error| Error::from(error).at("handshake"))?;
        let key = session.host_key().map(|(key, _)| key.to_vec()).unwrap_or_default();
        debug_assert!(session.host_key_hash(HashType::Sha256).is_some());
        trust.check(host, *port, &key)?;
        self.authenticate(&session).map_err(|why| match why {
            Error::Transient(why) => Error::Transient(format!("log in as {user}: {why}")),
            other => other,
        })?;
        let sftp = session.sftp().map_err(|error| Error::from(error).at("start SFTP"))?;
        Ok((session, sftp))
    }

    fn authenticate(&self, session: &Session) -> Result<(), Error> {
        let SftpOptions { user, password, key_file, passphrase, .. } = &self.options;
        let (with, result) = if let Some(path) = key_file {
            let phrase = (!passphrase.is_empty()).then(|| passphrase.expose());
            std::fs::File::open(path)
                .map_err(|error| Error::Local(format!("{}: {error}", path.display())))?;
            (format!("key {}", path.display()), session.userauth_pubkey_file(user, None, path, phrase))
        } else if !password.is_empty() {
            ("password".to_owned(), by_password(session, user, password))
        } else {
            ("agent".to_owned(), session.userauth_agent(user))
        };
        match result {
            Ok(()) if session.authenticated() => Ok(()),
            Err(error) => Err(refused(user, &with, &error)),
            Ok(()) => {
                Err(Error::Permanent(format!("log in as {user} by {with}: the server wants more than that")))
            }
        }
    }

    /// Runs a step with the connection, and closes the connection if the step failed for the moment: it may be broken.
    fn with<R>(&self, step: impl FnOnce(&Connection) -> Result<R, Error>) -> Result<R, Error> {
        let mut held = self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let connection = match held.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        connection.relay.used(limits::SSH_ANSWER);
        let result = step(&connection).map_err(|error| connection.relay.explain(error));
        if matches!(result, Err(Error::Transient(_))) {
            connection.give_up();
        } else {
            *held = Some(connection);
        }
        result
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.options.dir).join(name)
    }

    /// A new channel to the SFTP server that is used without the library.
    fn bare_channel(connection: &Connection) -> Result<ssh2::Channel, Error> {
        let mut channel = connection.session.channel_session()?;
        channel.subsystem("sftp")?;
        Ok(channel)
    }
}

/// Why a login failed. A lost connection is no refusal.
fn refused(user: &str, with: &str, error: &ssh2::Error) -> Error {
    let is_one_of = |codes: &[i32]| matches!(error.code(), ErrorCode::Session(code) if codes.contains(&code));
    if is_one_of(&CONNECTION_LOST) {
        return Error::Transient(error.message().to_owned());
    }
    let hint = if is_one_of(&KEY_UNUSABLE) { " (is its passphrase right?)" } else { "" };
    Error::Permanent(format!("log in as {user} by {with}: {}{hint}", error.message()))
}

/// Gives the password as the server wants it: as such, or as the answer to its question.
fn by_password(session: &Session, user: &str, password: &Secret) -> Result<(), ssh2::Error> {
    struct Answer<'a>(&'a str);
    impl KeyboardInteractivePrompt for Answer<'_> {
        fn prompt<'a>(&mut self, _: &str, _: &str, prompts: &[Prompt<'a>]) -> Vec<String> {
            prompts.iter().map(|prompt| if prompt.echo { "" } else { self.0 }.to_owned()).collect()
        }
    }
    let methods = session.auth_methods(user).unwrap_or_default().to_owned();
    let offered = |method: &str| methods.split(',').any(|offered| offered == method);
    if !offered("password") && offered("keyboard-interactive") {
        return session.userauth_keyboard_interactive(user, &mut Answer(password.expose()));
    }
    session.userauth_password(user, password.expose())
}

/// Asks the server for the kinds of host keys that are known here. A server without them may show another, which is refused.
fn prefer(session: &Session, kinds: &[String]) -> Result<(), Error> {
    let mut names: Vec<&str> = vec![];
    for kind in kinds {
        if kind == "ssh-rsa" {
            names.extend(["rsa-sha2-512", "rsa-sha2-256"]);
        }
        names.push(kind);
    }
    let supported = session.supported_algs(MethodType::HostKey)?;
    names.retain(|name| supported.contains(name));
    if names.is_empty() {
        return Ok(());
    }
    Ok(session.method_pref(MethodType::HostKey, &names.join(","))?)
}

/// Makes a written file durable, where the server can, and closes it.
fn sync(mut file: ssh2::File) -> Result<(), Error> {
    match file.fsync() {
        Ok(()) => {}
        Err(error) if matches!(error.code(), ErrorCode::SFTP(UNSUPPORTED) | ErrorCode::Session(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(file.close()?)
}

/// The error of a stream of the library.
fn stream_error(error: &io::Error) -> Error {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    if full { Error::Permanent(error.to_string()) } else { Error::Transient(error.to_string()) }
}

/// Those of a directory's files that may be ours. The server says when its list ends: one that goes on for ever is an error.
fn gather(
    until: Instant,
    mut next: impl FnMut() -> Result<Option<(PathBuf, FileStat)>, Error>,
) -> Result<Vec<Entry>, Error> {
    let mut found = vec![];
    for _ in 0..limits::SFTP_NAMES {
        let Some((path, stat)) = next()? else { return Ok(found) };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !stat.is_dir() && name.starts_with(OURS) && name.len() <= NAME_BYTES {
            found.push(Entry { name: name.to_owned(), size: stat.size.unwrap_or(0) });
        }
        if Instant::now() > until {
            let seconds = limits::SFTP_LIST.as_secs();
            return Err(Error::Transient(format!(
                "the list of the directory did not end within {seconds} s"
            )));
        }
    }
    Err(Error::Permanent(format!("the directory holds more than {} files", limits::SFTP_NAMES)))
}

impl Tree for Sftp {
    fn describe(&self) -> String {
        let SftpOptions { host, port, dir, .. } = &self.options;
        format!("SFTP {host}:{port}{dir}")
    }

    fn make_dirs(&self) -> Result<(), Error> {
        self.with(|connection| {
            let dir = Path::new(&self.options.dir);
            let mut levels: Vec<&Path> = dir.ancestors().filter(|path| path.parent().is_some()).collect();
            levels.reverse();
            for level in levels {
                // Servers answer differently when the directory is there already, so its presence decides.
                let made = connection.sftp.mkdir(level, 0o755).map_err(Error::from);
                match connection.sftp.stat(level).map_err(Error::from) {
                    Ok(_) => {}
                    Err(Error::NotFound | Error::Permanent(_)) => {
                        made.map_err(|error| error.at(format!("create directory {}", level.display())))?;
                    }
                    Err(error) => return Err(error),
                }
            }
            connection.sftp.stat(dir).map(drop).map_err(|error| Error::from(error).at(dir.display()))
        })
    }

    fn list(&self) -> Result<Vec<Entry>, Error> {
        self.with(|connection| {
            let mut dir = match connection.sftp.opendir(Path::new(&self.options.dir)).map_err(Error::from) {
                Ok(dir) => dir,
                Err(Error::NotFound) => return Ok(vec![]),
                Err(error) => return Err(error),
            };
            gather(Instant::now() + limits::SFTP_LIST, || match dir.readdir() {
                Ok(found) => {
                    connection.relay.used(NAME_AROUND + 2 * found.0.as_os_str().len());
                    Ok(Some(found))
                }
                Err(error) if error.code() == ErrorCode::Session(LIST_ENDS) => Ok(None),
                Err(error) => Err(error.into()),
            })
        })
    }

    fn size(&self, name: &str) -> Result<Option<u64>, Error> {
        self.with(|connection| match connection.sftp.stat(&self.path(name)).map_err(Error::from) {
            Ok(stat) => Ok(Some(stat.size.unwrap_or(0))),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        })
    }

    fn write(&self, name: &str, source: Source<'_>) -> Result<(), Error> {
        self.with(|connection| {
            let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE;
            let path = self.path(name);
            let file = connection.sftp.open_mode(&path, flags, 0o600, OpenType::File);
            let file = Used(file.map_err(|error| Error::from(error).at(name))?, connection);
            let mut file = BufWriter::with_capacity(BURST, file);
            let mut source = BufReader::with_capacity(BURST, source.open()?);
            io::copy(&mut source, &mut file).map_err(|error| stream_error(&error))?;
            file.flush().map_err(|error| stream_error(&error))?;
            sync(file.into_inner().map_err(|error| stream_error(error.error()))?.0)
        })
    }

    fn read(&self, name: &str, sink: &mut dyn Write) -> Result<(), Error> {
        self.with(|connection| {
            let file = Used(connection.sftp.open(self.path(name))?, connection);
            pour(&mut Moving::new(BufReader::with_capacity(BURST, file)), sink)
        })
    }

    fn replaces(&self) -> Result<bool, Error> {
        self.with(|connection| {
            let mut channel = Sftp::bare_channel(connection)?;
            let offers = rename::is_offered(&mut channel);
            let _ = channel.close();
            offers.map_err(|error| Error::Transient(format!("start SFTP: {error}")))
        })
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        self.with(|connection| {
            let text = |name: &str| self.path(name).to_string_lossy().into_owned();
            let mut channel = Sftp::bare_channel(connection)?;
            let renamed = rename::posix_rename(&mut channel, &text(from), &text(to))
                .map_err(|error| Error::Transient(format!("posix-rename: {error}")))?;
            let _ = channel.close();
            match renamed {
                Renamed::Yes => Ok(()),
                Renamed::Missing => Err(Error::NotFound),
                Renamed::Unknown => Ok(connection.sftp.rename(&self.path(from), &self.path(to), None)?),
                Renamed::Refused(code) => {
                    connection.sftp.lstat(&self.path(from))?;
                    Err(Error::Permanent(format!("posix-rename: SFTP status {code}")))
                }
            }
        })
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        self.with(|connection| {
            let source = Used(connection.sftp.open(self.path(from))?, connection);
            let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE;
            let target = connection.sftp.open_mode(self.path(to), flags, 0o600, OpenType::File)?;
            let mut target = BufWriter::with_capacity(BURST, Used(target, connection));
            let copied = io::copy(&mut Moving::new(BufReader::with_capacity(BURST, source)), &mut target);
            copied.and_then(|_| target.flush()).map_err(|error| stream_error(&error))?;
            sync(target.into_inner().map_err(|error| stream_error(error.error()))?.0)
        })
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        self.with(|connection| match connection.sftp.unlink(&self.path(name)).map_err(Error::from) {
            Err(Error::NotFound) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "servers of tests have threads and pauses of their own")]
    use super::*;

    #[test]
    fn a_list_without_end_is_an_error_and_files_of_others_take_no_memory() {
        let stat = |perm| FileStat { size: Some(3), uid: None, gid: None, perm, atime: None, mtime: None };
        let later = || Instant::now() + limits::SFTP_LIST;
        let long = format!("snapshot{}", "x".repeat(256));
        let names = ["..", "snapshot.db", "others", long.as_str(), "snapshot-dir"];
        let mut left = names.iter();
        let found = gather(later(), || {
            let name = left.next();
            Ok(name.map(|name| (PathBuf::from(name), stat((*name == "snapshot-dir").then_some(0o40_755)))))
        });
        assert_eq!(found.unwrap(), [Entry { name: "snapshot.db".into(), size: 3 }]);
        let mut count = 0;
        let error = gather(later(), || {
            count += 1;
            Ok(Some((PathBuf::from("snapshot.db"), stat(None))))
        });
        assert!(matches!(error, Err(Error::Permanent(_))) && count == limits::SFTP_NAMES);
        let past = Instant::now().checked_sub(std::time::Duration::from_secs(1)).unwrap();
        let error = gather(past, || Ok(Some((PathBuf::from("x"), stat(None)))));
        assert!(matches!(error, Err(Error::Transient(_))), "it drips");
    }

    #[test]
    fn errors_are_told_apart_by_their_codes() {
        let error = |code: i32| ssh2::Error::new(ErrorCode::SFTP(code), "x");
        assert!(matches!(Error::from(error(NO_SUCH_FILE)), Error::NotFound));
        assert_eq!(Error::from(error(4)).to_string(), "x (SFTP status 4)");
        let session = |code: i32| ssh2::Error::new(ErrorCode::Session(code), "x");
        assert!(matches!(Error::from(session(-13)), Error::Transient(_)));
        assert!(matches!(refused("u", "password", &session(-13)), Error::Transient(_)));
        let why = refused("u", "key /k", &session(-16)).to_string();
        assert_eq!(why, "log in as u by key /k: x (is its passphrase right?)");
        assert_eq!(refused("u", "password", &session(-18)).to_string(), "log in as u by password: x");
        for (kind, passes) in [(io::ErrorKind::StorageFull, false), (io::ErrorKind::BrokenPipe, true)] {
            assert_eq!(matches!(stream_error(&kind.into()), Error::Transient(_)), passes);
        }
    }

    /// The whole client against servers that are none.
    #[test]
    fn a_server_that_is_no_ssh_server_holds_nobody_up() {
        let serve: [fn(std::net::TcpStream); 4] = [
            // Silent; bytes without end; a banner and then silence; a banner and then bytes without end, slowly.
            |mut stream| drop(io::Read::read_to_end(&mut stream, &mut vec![])),
            |mut stream| while stream.write_all(&[b'x'; 4096]).is_ok() {},
            |mut stream| {
                let _ = stream.write_all(b"SSH-2.0-x\r\n");
                let _ = io::Read::read_to_end(&mut stream, &mut vec![]);
            },
            |mut stream| {
                let _ = stream.write_all(b"SSH-2.0-x\r\n");
                while stream.write_all(&[0]).is_ok() {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            },
        ];
        for (at, serve) in serve.into_iter().enumerate() {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("sftp://u:p@127.0.0.1:{}/d", listener.local_addr().unwrap().port());
            std::thread::spawn(move || serve(listener.accept().unwrap().0));
            let options =
                SftpOptions::parse(&url, crate::storage::Trust::Fingerprint("SHA256:x".into())).unwrap();
            let short = std::time::Duration::from_millis(500);
            let patience = Patience { banner: short, whole: short };
            let sftp = Sftp { options, patience, connection: Mutex::new(None) };
            let begun = std::time::Instant::now();
            assert!(sftp.size("snapshot.db").is_err(), "server {at}");
            assert!(begun.elapsed().as_secs() < 5, "server {at}: {:?}", begun.elapsed());
        }
    }
}
