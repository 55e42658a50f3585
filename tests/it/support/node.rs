//! A node: the program as a process of its own, with its configuration and the database of an application.

use super::process::{PROGRAM, Process};
use super::{Dir, wait_for};
use rusqlite::Connection;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A node: directory, configuration, database, process.
pub struct Node {
    pub dir: PathBuf,
    pub config: PathBuf,
    pub database: PathBuf,
    /// Environment of its processes.
    pub variables: Vec<(String, String)>,
    child: Option<Process>,
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
            "db_path = {database:?}\nnode_id = {id}\nnats.urls = [{urls}]\nnats.bind_address = \"127.0.0.1:-1\"\n{extra}\n"
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

    /// Changes how many messages the streams keep; for a node that has not been started.
    pub fn keep_messages(&self, count: u64) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        // Before the first section. One message for each row, so that a test knows how far the streams reach.
        let now = format!("replication_log.max_entries = {count}\nreplication_log.format = \"rows\"\n{text}");
        std::fs::write(&self.config, now).unwrap();
    }

    /// Removes the database with its WAL and shared memory.
    pub fn remove_database(&self) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.database.display()));
        }
    }

    /// Brings everything from the WAL into the database file.
    pub fn checkpoint(&self) {
        self.sql("PRAGMA wal_checkpoint(TRUNCATE)");
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
        self.child = Some(Process::start(command.stdout(log.try_clone().unwrap()).stderr(log)));
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
        if let Some(status) = self.child.as_mut().and_then(Process::ended) {
            panic!("the node ended: {status}\n{}", self.log());
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: &str) {
        super::signal(self.pid(), signal);
    }

    /// SIGTERM, and the exit code.
    pub fn stop(&mut self) -> i32 {
        self.signal("TERM");
        self.wait_exit(10)
    }

    pub fn wait_exit(&mut self, seconds: u64) -> i32 {
        let child = self.child.as_mut().unwrap();
        let status = wait_for("the node ends", seconds, || child.ended());
        self.child = None;
        status.code().unwrap_or(-1)
    }

    pub fn kill9(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill();
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
