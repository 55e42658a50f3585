//! Real servers for the stores: each on loopback, on free ports, in a directory of its test, ended by its own process id.

use super::{Dir, Process, free_port, is_root, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

mod s3;
mod sftp;
mod webdav;

pub use s3::{ceph, moto, moto_with};
pub use sftp::{HostileSftp, Ssh, asyncssh, fingerprint, hostile_sftp, openssh, proftpd};
pub use webdav::{apache, lighttpd, nginx, wsgidav};

pub const USER: &str = "app";
pub const PASSWORD: &str = "s3cr3t-pass";
pub const KEY: &str = "AKHARMONYLITE";
pub const SECRET: &str = "sEcReTsEcReTsEcReT";

/// The keys of another user, where a server has two.
pub const OTHER_KEY: &str = "AKSOMEBODYELSE";
pub const OTHER_SECRET: &str = "tHeIrStHeIrS";

/// Processes that end with it, the last started first.
pub struct Server {
    pub port: u16,
    children: Vec<Process>,
}

impl Drop for Server {
    fn drop(&mut self) {
        while let Some(child) = self.children.pop() {
            drop(child);
        }
    }
}

/// A tool of the test environment that `make setup` made.
pub fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/venv/bin").join(name);
    assert!(path.exists(), "no {name}: run `make setup`");
    path
}

/// A program of the system.
fn system(name: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/lib/openssh"];
    let found = places.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no {name}: run `make setup`"))
}

fn spawn(command: &mut Command, dir: &Path) -> Process {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("server.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Process::start(command)
}

fn listening(port: u16, seconds: u64) {
    wait_for("the server listens", seconds, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
}

fn directory(dir: &Dir, name: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.0.join(name);
    std::fs::create_dir_all(&path).unwrap();
    // Servers that give up root write here as another user.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    path
}

fn run(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let output = Command::new(program.as_ref()).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{:?} {arguments:?}: {}",
        program.as_ref(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// `rclone serve KIND`, with a login.
pub fn rclone(dir: &Dir, kind: &str, login: &[&str]) -> Server {
    rclone_at(dir, kind, free_port(), login)
}

/// The same on a given port.
pub fn rclone_at(dir: &Dir, kind: &str, port: u16, login: &[&str]) -> Server {
    let root = directory(dir, "rclone");
    let mut command = Command::new(tool("rclone"));
    command.args(["serve", kind, "--config", "/dev/null", "--addr", &format!("127.0.0.1:{port}")]);
    let child = spawn(command.args(login).arg(&root), &dir.0);
    listening(port, 20);
    Server { port, children: vec![child] }
}

/// A web proxy; the path of its log.
pub fn proxy(dir: &Dir) -> (Server, PathBuf) {
    let port = free_port();
    let (config, log) = (dir.0.join("tinyproxy.conf"), dir.0.join("tinyproxy.log"));
    let text = format!(
        "Port {port}\nListen 127.0.0.1\nTimeout 60\nLogFile \"{}\"\nLogLevel Connect\nMaxClients 20\nUser root\nGroup root\n",
        log.display()
    );
    let users = if is_root() { text } else { text.replace("User root\nGroup root\n", "") };
    std::fs::write(&config, users).unwrap();
    let child = spawn(Command::new(system("tinyproxy")).arg("-d").arg("-c").arg(&config), &dir.0);
    listening(port, 20);
    (Server { port, children: vec![child] }, log)
}

/// Runs a Python script with the test environment's packages.
pub fn python(script: &str) -> String {
    run(tool("python"), &["-c", script])
}
