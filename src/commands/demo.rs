//! `-demo`: what replication is, from this binary alone: two nodes, rows both ways, a snapshot, a third node from nothing. All of it
//! in a temporary directory, which goes at the end.

use super::Show;
use crate::base::error::{Context, Error};
use crate::base::stop::Stop;
use crate::base::{child, files, progress, random};
use crate::db;
use crate::operate::socket;
use serde_json::Value;
use std::fmt::Display;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks whether it is done.
const LOOK: Duration = Duration::from_millis(5);

const SCHEMA: &str = "PRAGMA journal_mode=WAL; CREATE TABLE books(id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT, author TEXT)";
const FIRST: &str =
    "INSERT INTO books(title, author) VALUES('Momo', 'Michael Ende'), ('Project Hail Mary', 'Andy Weir')";
const SECOND: &str = "INSERT INTO books(title, author) VALUES('The Dispossessed', 'Ursula K. Le Guin'); \
    UPDATE books SET title = upper(title) WHERE title = 'Momo'";
const THIRD: &str = "DELETE FROM books WHERE title = 'Project Hail Mary'";
const BOOKS: &str = "SELECT title || ' (' || author || ')' FROM books ORDER BY title";

/// Shows it.
pub fn demo(stop: &Stop, show: Show) -> Result<(), Error> {
    let mut stage = Stage::new(stop, show)?;
    let played = stage.play();
    let ended = stage.end();
    if played.is_err() {
        stage.tell_logs();
    }
    played.and(ended)
}

/// The directory and the nodes.
struct Stage<'a> {
    dir: PathBuf,
    program: PathBuf,
    nodes: Vec<Child>,
    stop: &'a Stop,
    show: Show,
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Stage<'_> {
    fn new(stop: &Stop, show: Show) -> Result<Stage<'_>, Error> {
        let dir = std::env::temp_dir().join(format!("harmonylite-demo-{:016x}", random::random_u64()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(|error| Error::local(format!("{}: {error}", dir.display())))?;
        let program =
            std::env::current_exe().map_err(|error| Error::local(format!("this program: {error}")))?;
        Ok(Stage { dir, program, nodes: vec![], stop, show })
    }

    fn say(&self, text: impl Display) {
        if !self.show.quiet && !self.show.json {
            println!("{text}");
        }
    }

    fn home(&self, node: usize) -> PathBuf {
        self.dir.join(format!("node{node}"))
    }

    fn database(&self, node: usize) -> PathBuf {
        self.home(node).join("app.db")
    }

    fn config(&self, node: usize) -> PathBuf {
        self.home(node).join("config.toml")
    }

    fn play(&mut self) -> Result<(), Error> {
        self.say("1. Two nodes, each with a database of its own. Node 1 runs a nats-server, too.");
        self.configure(1, "bind_address = \"127.0.0.1:-1\"")?;
        db::run_script(&self.database(1), SCHEMA).context("node 1")?;
        self.start(1)?;
        let url = self.broker()?;
        self.configure(2, &format!("urls = [\"{url}\"]"))?;
        db::run_script(&self.database(2), SCHEMA).context("node 2")?;
        self.start(2)?;
        self.say("2. An application writes two books on node 1.");
        db::run_script(&self.database(1), FIRST).context("node 1")?;
        self.arrives(2, 2, "node 2 shows them")?;
        self.say("3. Another one writes one on node 2, and changes one.");
        db::run_script(&self.database(2), SECOND).context("node 2")?;
        self.arrives(1, 3, "node 1 shows them")?;
        self.say("4. A snapshot.");
        self.save_snapshot()?;
        self.say("5. A third node without a database.");
        self.configure(3, &format!("urls = [\"{url}\"]"))?;
        self.start(3)?;
        self.arrives(3, 3, "restored, and level")?;
        self.say("6. A book is deleted on node 3.");
        db::run_script(&self.database(3), THIRD).context("node 3")?;
        self.arrives(1, 2, "node 1 has two books")?;
        self.arrives(2, 2, "node 2 has two books")?;
        let books = |node: usize| db::lines_of(&self.database(node), BOOKS).context(format!("node {node}"));
        let first = books(1)?;
        if books(2)? != first || books(3)? != first {
            return Err(Error::local("the nodes differ"));
        }
        self.say("   Three nodes, three equal databases:");
        first.iter().for_each(|book| self.say(format!("     {book}")));
        self.say("\nThe same for your application: harmonylite -init -db FILE -nats URL, then harmonylite -config FILE.");
        Ok(())
    }

    fn configure(&self, node: usize, nats: &str) -> Result<(), Error> {
        let home = self.home(node);
        let failed = |error: std::io::Error| Error::local(format!("{}: {error}", home.display()));
        std::fs::create_dir(&home).map_err(failed)?;
        let text = format!("db_path = {:?}\nnode_id = {node}\n[nats]\n{nats}\n", self.database(node));
        std::fs::write(self.config(node), text).map_err(failed)
    }

    fn start(&mut self, node: usize) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::local(format!("node {node}: {error}"));
        let log = files::create_private(&self.home(node).join("log")).map_err(failed)?;
        let mut command = Command::new(&self.program);
        command.arg("-config").arg(self.config(node)).stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
        child::die_with_parent(&mut command);
        self.nodes.push(command.spawn().map_err(failed)?);
        let socket = self.home(node).join("seq-map.cbor.sock");
        let ready = || {
            let status: Value = serde_json::from_str(&socket::ask(&socket).ok()?).ok()?;
            (status["node"]["whole"] == true && status["node"]["connected"] == true).then_some(())
        };
        let took = self.wait(&format!("node {node} is ready"), ready)?;
        self.say(format!("   node {node} is ready after {} ms", took.as_millis()));
        Ok(())
    }

    /// Where the nats-server of node 1 listens.
    fn broker(&mut self) -> Result<String, Error> {
        let path = self.home(1).join("nats/harmonylite-node-1/address");
        std::fs::read_to_string(&path).map_err(|error| Error::local(format!("{}: {error}", path.display())))
    }

    fn arrives(&mut self, node: usize, count: usize, what: &str) -> Result<(), Error> {
        let path = self.database(node);
        let there = || {
            let books = db::lines_of(&path, BOOKS).ok()?;
            (books.len() == count).then_some(())
        };
        let took = self.wait(what, there)?;
        self.say(format!("   {what} after {} ms", took.as_millis()));
        Ok(())
    }

    fn save_snapshot(&mut self) -> Result<(), Error> {
        let output = Command::new(&self.program)
            .arg("-config")
            .arg(self.config(1))
            .args(["-save-snapshot", "-json"])
            .output()
            .map_err(|error| Error::local(format!("-save-snapshot: {error}")))?;
        let saved: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::local(format!("-save-snapshot: {why}")));
        }
        self.say(format!("   {} bytes in the store", saved["size"]));
        Ok(())
    }

    /// Waits until something is there; returns how long that took.
    fn wait(&mut self, what: &str, mut is_done: impl FnMut() -> Option<()>) -> Result<Duration, Error> {
        let begun = Instant::now();
        let shown = progress::Line::default();
        while is_done().is_none() {
            for (number, node) in (1..).zip(&mut self.nodes) {
                if let Ok(Some(status)) = node.try_wait() {
                    let why = last_line(&self.dir.join(format!("node{number}/log")));
                    return Err(Error::local(format!("node {number} ended ({status}): {why}")));
                }
            }
            if self.stop.wait(LOOK) {
                return Err(Error::stopped());
            }
            shown.show(|| format!("   {what}? {} s", begun.elapsed().as_secs()));
            if begun.elapsed() > PATIENCE {
                return Err(Error::local(format!("waited {} s in vain: {what}", PATIENCE.as_secs())));
            }
        }
        Ok(begun.elapsed())
    }

    /// Asks all nodes to stop, the one with the broker last.
    fn end(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        for (at, mut node) in std::mem::take(&mut self.nodes).into_iter().enumerate().rev() {
            let number = at + 1;
            let pid = i32::try_from(node.id()).ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            match node.wait() {
                Ok(status) if status.success() => {}
                Ok(status) => result = Err(Error::local(format!("node {number} ended with {status}"))),
                Err(error) => result = Err(Error::local(format!("node {number}: {error}"))),
            }
        }
        result
    }

    fn tell_logs(&self) {
        for node in 1..=3 {
            let text = std::fs::read_to_string(self.home(node).join("log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(8).collect();
            for line in lines.iter().rev() {
                eprintln!("node {node}: {line}");
            }
        }
    }
}

fn last_line(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().last().unwrap_or("it said nothing").to_owned()
}
