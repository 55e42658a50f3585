//! README and manual are true: each command in them is run, on nodes like those that they speak of; each configuration is one.

use crate::support::*;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

/// Commands that cannot be run here, by what they begin with, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("apt-get install", "packages of this machine are for `make setup` to install"),
    ("curl --proto", "installs Rust, which this test was built with"),
    (". \"$HOME/.cargo/env\"", "belongs to the installation of Rust"),
    ("make demo", "builds another time, and takes a minute: people and CI run it"),
    ("make test", "runs this test"),
    ("harmonylite -demo", "takes long, and is run by `first_steps`"),
];

/// Commands of the service manager: the test does to the daemon what they do.
const SERVICE: &[&str] = &[
    "systemctl daemon-reload && systemctl enable --now harmonylite",
    "systemctl start harmonylite",
    "systemctl stop harmonylite",
    "systemctl stop app harmonylite",
    "systemctl start app",
];

/// Commands that may end with another exit code than 0, by a part of them, and why.
const MAY_BE_1: &[(&str, &str)] = &[("-doctor", "it looks at this machine, too: its memory, its disk")];

const SCHEMA: &str = "PRAGMA journal_mode=WAL;
    CREATE TABLE customers(id INTEGER PRIMARY KEY, name TEXT, city TEXT);
    CREATE TABLE orders(id INTEGER PRIMARY KEY AUTOINCREMENT, customer INTEGER, what TEXT)";
const CUSTOMERS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
    INSERT OR REPLACE INTO customers(id, name, city) SELECT i, 'name ' || i, 'Ulm' FROM n";

/// A fenced block: where it begins, its language, its lines.
struct Block {
    place: String,
    language: String,
    lines: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README first, then the manual in the order in which the program lists its topics.
fn files() -> Vec<String> {
    let output = Command::new(PROGRAM).args(["-help", "topics"]).output().unwrap();
    let text = printed(&output);
    let names = text.lines().take_while(|line| !line.is_empty()).map(|line| line.split(' ').next().unwrap());
    let topics: Vec<String> = names.map(|name| format!("src/manual/{name}.md")).collect();
    let present = std::fs::read_dir(root().join("src/manual")).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(topics.len(), present.filter(|path| path.extension().is_some_and(|end| end == "md")).count());
    [vec!["README.md".to_owned()], topics].concat()
}

fn blocks(file: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(root().join(file)).unwrap();
    let mut lines = text.lines().enumerate();
    let mut found = vec![];
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.trim().strip_prefix("```") else { continue };
        let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
        let place = format!("{file}:{}", number + 1);
        found.push(Block { place, language: language.into(), lines: inside.map(str::to_owned).collect() });
    }
    found
}

/// The commands of a block: lines without what a `#` after two spaces says.
fn commands(block: &Block) -> Vec<&str> {
    let bare = |line: &'_ str| line.split("  #").next().unwrap().trim().len();
    block.lines.iter().map(|line| &line[..bare(line)]).filter(|line| !line.is_empty()).collect()
}

/// Two nodes, of which the first is the one that the texts speak of.
struct Stage {
    dir: Dir,
    nats: Nats,
    one: Node,
    two: Node,
    runs: bool,
    /// A moment at which all customers were there, and the streams' position then.
    moment: String,
    position: String,
}

impl Stage {
    fn new() -> Stage {
        let dir = Dir::new("manual");
        let nats = Nats::start(&dir);
        let one = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
        let two = Node::with_schema(&dir, 2, &nats.url(), "", SCHEMA);
        for name in
            ["bin", "work", "srv", "etc/systemd/system", "etc/init.d", "etc/bash_completion.d", "man1"]
        {
            std::fs::create_dir_all(dir.0.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(PROGRAM, dir.0.join("bin/harmonylite")).unwrap();
        // README begins without a configuration.
        std::fs::remove_file(&one.config).unwrap();
        let (moment, position) = Default::default();
        Stage { dir, nats, one, two, runs: false, moment, position }
    }

    /// A command with what is here in the place of what the texts call by other names.
    fn here(&self, command: &str) -> String {
        let path = |name: &str| self.dir.0.join(name).display().to_string();
        command
            .replace("/etc/harmonylite.toml", &self.one.config.display().to_string())
            .replace("/var/lib/app", &self.one.dir.display().to_string())
            .replace("/usr/local/share/man/man1", &path("man1"))
            .replace("/srv/", &format!("{}/", path("srv")))
            .replace("> /etc/", &format!("> {}/", path("etc")))
            .replace("10.0.0.1:4222", &format!("127.0.0.1:{}", self.nats.port))
            .replace("2026-11-24T15:00:00Z", &self.moment)
            .replace("-restore-at 1234", &format!("-restore-at {}", self.position))
    }

    /// Runs a command; gives its exit code and what it printed.
    fn shell(&self, command: &str) -> (Option<i32>, String) {
        let path = format!("{}:{}", self.dir.0.join("bin").display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash");
        shell.args(["-c", &self.here(command)]).current_dir(self.dir.0.join("work")).env("PATH", path);
        let output = shell.stdin(Stdio::null()).env_remove("PAGER").output().unwrap();
        (output.status.code(), printed(&output))
    }

    fn service(&mut self, command: &str) {
        let starts = command.ends_with("harmonylite") && !command.contains(" stop ");
        if starts && !self.runs {
            self.one.start_ready();
            self.runs = true;
        } else if command.contains(" stop ") && self.runs {
            assert_eq!(self.one.stop(), 0);
            self.runs = false;
        }
    }

    /// What a text takes for granted, before its first command.
    fn prepare(&mut self, file: &str) {
        for name in ["saved.db", "was.db", "was-1234.db", "present.db", "copy.db"] {
            let _ = std::fs::remove_file(self.one.dir.join(name));
        }
        for name in ["harmonylite.toml", "new.toml"] {
            let _ = std::fs::remove_file(self.dir.0.join("srv").join(name));
        }
        if file == "README.md" {
            return;
        }
        self.service("systemctl start harmonylite");
        self.healthy();
        match file {
            "src/manual/conflicts.md" => self.conflicts(),
            "src/manual/set-aside.md" => {
                let client = self.nats.client();
                client.publish("harmonylite-change-log-1", "no event").unwrap();
                self.wait_code("harmonylite -config /etc/harmonylite.toml -status", 1);
            }
            "src/manual/history.md" | "src/manual/recovery.md" => self.remember(),
            _ => {}
        }
        if file == "src/manual/recovery.md" {
            self.one.sql("DELETE FROM customers WHERE id > 20; UPDATE customers SET city = 'Bonn'");
            self.equal();
        }
    }

    fn wait_code(&self, command: &str, code: i32) {
        let mut last = String::new();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while std::time::Instant::now() < until {
            let (found, text) = self.shell(command);
            if found == Some(code) {
                return;
            }
            last = text;
            pause(100);
        }
        panic!("{command}: not {code}, but:\n{last}");
    }

    fn healthy(&self) {
        self.wait_code("harmonylite -config /etc/harmonylite.toml -status", 0);
    }

    fn equal(&mut self) {
        wait_equal(&mut [&mut self.one, &mut self.two], 30);
    }

    /// Four rows that node 2 wrote while node 1 was away, and that node 1 wrote, too: its writes come later, and win.
    fn conflicts(&mut self) {
        self.service("systemctl stop harmonylite");
        self.one.sql("UPDATE customers SET city = 'Kiel' WHERE id <= 4");
        self.two.sql("UPDATE customers SET city = 'Jena' WHERE id <= 4");
        let two = &self.two;
        wait_for("node 2 has published", 20, || (two.unsettled() == 0).then_some(()));
        self.service("systemctl start harmonylite");
        self.equal();
    }

    /// All customers, a snapshot of them, and a moment after it.
    fn remember(&mut self) {
        self.one.sql(CUSTOMERS);
        self.equal();
        let (code, text) = self.shell("harmonylite -config /etc/harmonylite.toml -save-snapshot");
        assert_eq!(code, Some(0), "{text}");
        let position = value(&self.two, "SELECT value FROM __harmonylite__state WHERE kind = 'seq'");
        self.position = position.trim_start_matches("Integer(").trim_end_matches(')').to_owned();
        // Times are told in whole seconds: the mistake must come in a later one than the snapshot.
        pause(1_100);
        let (_, now) = self.shell("date -u +%FT%TZ");
        self.moment = now.trim().to_owned();
        pause(1_100);
    }

    /// Runs a command of a text, and looks whether it did what the text says.
    fn run(&mut self, place: &str, command: &str) {
        if SERVICE.contains(&command) {
            return self.service(command);
        }
        if command.ends_with(" -status") && self.runs {
            return self.healthy();
        }
        let (code, text) = self.shell(command);
        let may_be_1 = MAY_BE_1.iter().any(|(part, _)| command.contains(part));
        assert!(code == Some(0) || (may_be_1 && code == Some(1)), "{place}: {command}\n{code:?}: {text}");
        if command.contains("-init") && !command.contains("-dry-run") && place.starts_with("README") {
            // The port that it chooses for health may be taken on a machine that runs tests.
            let config = std::fs::read_to_string(&self.one.config).unwrap();
            let config = config.replace("127.0.0.1:8090", &format!("127.0.0.1:{}", free_port()));
            std::fs::write(&self.one.config, config).unwrap();
        }
        if place.starts_with("src/manual/recovery.md") {
            self.after(command);
        }
    }

    /// After a mistake the rows are there again, as they were, on both nodes.
    fn after(&mut self, command: &str) {
        let what = match command {
            _ if command.contains("INSERT OR IGNORE") => "1",
            _ if command.contains("UPDATE customers") || command.contains("-everywhere") => "city = 'Ulm'",
            _ => return,
        };
        self.equal();
        let sql = format!("SELECT count(*) FROM customers WHERE {what}");
        assert_eq!(value(&self.two, &sql), "Integer(200)", "{command}");
    }
}

#[test]
fn every_command_of_the_readme_and_the_manual_is_run() {
    let mut stage = Stage::new();
    stage.two.start_ready();
    let (mut count, mut listed) = (0, BTreeSet::new());
    let mut all = files();
    // These number what they find from 1 on, or undo much: first and last.
    let late = |file: &String| ["recovery", "operating"].iter().position(|name| file.contains(name));
    all.sort_by_key(|file| (late(file), !file.contains("README"), !file.contains("conflicts")));
    for file in &all {
        stage.prepare(file);
        if file.contains("operating") {
            // It ends with the removal of all that is ours.
            stage.equal();
        }
        for block in blocks(file).iter().filter(|block| block.language == "sh") {
            for command in commands(block) {
                count += 1;
                match NOT_RUN.iter().position(|(start, _)| command.starts_with(start)) {
                    Some(place) => drop(listed.insert(place)),
                    None => {
                        let begun = std::time::Instant::now();
                        stage.run(&block.place, command);
                        println!("{:5} ms  {}: {command}", begun.elapsed().as_millis(), block.place);
                    }
                }
            }
        }
        if file == "README.md" {
            stage.one.sql(CUSTOMERS);
        }
    }
    assert!(count > 60, "{count} commands found");
    let stale: Vec<_> = NOT_RUN.iter().enumerate().filter(|(place, _)| !listed.contains(place)).collect();
    assert!(stale.is_empty(), "listed, and in no text: {stale:?}");
}

#[test]
fn every_block_has_a_language_and_every_configuration_is_one() {
    let dir = Dir::new("manual-toml");
    let path = dir.0.join("config.toml");
    let mut count = 0;
    for block in files().iter().flat_map(|file| blocks(file)) {
        let place = &block.place;
        assert!(["sh", "toml", "text"].contains(&block.language.as_str()), "{place}: ```{}", block.language);
        if block.language != "toml" {
            continue;
        }
        count += 1;
        let mut text = block.lines.join("\n");
        if !text.contains("db_path") {
            text = format!("db_path = \"/var/lib/app/app.db\"\nnode_id = 1\n{text}");
        }
        // A file with authorities must be there; what is in it is looked at when it is needed.
        std::fs::write(&path, text.replace("/etc/harmonylite/ca.pem", path.to_str().unwrap())).unwrap();
        match harmonylite::testing::config::load(Some(&path), None) {
            Ok((_, warnings)) => {
                let unknown: Vec<_> = warnings.iter().filter(|line| line.contains("unknown")).collect();
                assert!(unknown.is_empty(), "{place}: {unknown:?}");
            }
            Err(errors) => panic!("{place}: {errors:?}"),
        }
    }
    assert!(count > 4, "{count} configurations");
}

fn help(arguments: &[&str]) -> std::process::Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

#[test]
fn topics_are_listed_printed_and_named_when_one_is_wrong() {
    let list = printed(&help(&["-help", "topics"]));
    assert!(list.contains("recovery") && list.lines().count() > 10, "{list}");
    let text = printed(&help(&["-help", "recovery"]));
    assert!(text.starts_with("RECOVERY\n") && text.contains("By hand"), "{text}");
    let wrong = help(&["-help", "nonsense"]);
    let text = printed(&wrong);
    assert_eq!((wrong.status.code(), text.lines().count()), (Some(2), 1), "{text}");
    assert!(text.contains("recovery") && text.contains("troubleshooting"), "{text}");
    assert!(printed(&help(&["-help"])).contains("Topics (harmonylite -help TOPIC): "));
}

/// What the program prints when a terminal is its output, as long as this variable is set so.
fn on_a_terminal(arguments: &[&str], pager: Option<&str>) -> String {
    let script = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
    let mut command = Command::new(crate::support::servers::tool("python"));
    command.args(["-c", script, PROGRAM]).args(arguments).env("TERM", "xterm").env_remove("PAGER");
    if let Some(pager) = pager {
        command.env("PAGER", pager);
    }
    printed(&command.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn a_topic_is_paged_on_a_terminal_and_printed_where_there_is_no_pager() {
    let paged = on_a_terminal(&["-help", "recovery"], Some("sed 's/^/> /'"));
    assert!(paged.contains("> RECOVERY"), "{paged}");
    for pager in ["", "no-such-pager --here"] {
        let plain = on_a_terminal(&["-help", "recovery"], Some(pager));
        assert!(plain.contains("By hand: begin anew") && !plain.contains("> RECOVERY"), "{pager}: {plain}");
    }
    // To a file or a pipe it goes as it is.
    let piped =
        Command::new(PROGRAM).args(["-help", "recovery"]).env("PAGER", "sed 's/^/> /'").output().unwrap();
    assert!(printed(&piped).starts_with("RECOVERY\n"));
}

#[test]
fn the_page_for_man_is_one() {
    let dir = Dir::new("man");
    let page = dir.0.join("harmonylite.1");
    std::fs::write(&page, help(&["-man"]).stdout).unwrap();
    for (program, arguments) in
        [("groff", &["-ww", "-man", "-Tutf8", "-z"][..]), ("mandoc", &["-T", "lint", "-W", "error"])]
    {
        match Command::new(program).args(arguments).arg(&page).output() {
            Ok(output) => {
                assert_eq!((output.status.success(), printed(&output)), (true, String::new()), "{program}")
            }
            Err(error) => skip(&format!("{program}: {error}")),
        }
    }
    let text = std::fs::read_to_string(&page).unwrap();
    for part in [".TH HARMONYLITE 1", ".SH NAME", "\\-restore\\-at", "snapshot.keep", ".SH \"RECOVERY\""] {
        assert!(text.contains(part), "{part}");
    }
}

/// A transfer is drawn on a terminal, and nowhere else; colours go where somebody wants them.
#[test]
fn a_terminal_shows_how_far_a_transfer_is_and_colours_unless_told_otherwise() {
    let dir = Dir::new("progress");
    let nats = Nats::start(&dir);
    let node = Node::with_schema(&dir, 1, &nats.url(), "", SCHEMA);
    node.sql(CUSTOMERS);
    let config = node.config.to_str().unwrap();
    let saved = on_a_terminal(&["-config", config, "-save-snapshot"], None);
    assert!(saved.contains("uploading the snapshot [") && saved.contains("stored snapshot.db"), "{saved}");
    assert!(saved.contains("\u{1b}[32mINFO"), "{saved}");
    for quiet in ["-quiet", "-json"] {
        let saved = on_a_terminal(&["-config", config, "-save-snapshot", quiet], None);
        assert!(!saved.contains("uploading"), "{quiet}: {saved}");
    }
    let output = node.command(&["-verify-snapshot"]);
    let text = printed(&output);
    assert!(output.status.success() && !text.contains("downloading") && !text.contains('\u{1b}'), "{text}");
}
