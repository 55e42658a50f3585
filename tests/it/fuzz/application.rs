//! Applications: processes of their own, which write through the system's SQLite and report what each transaction has changed.

use super::history::Change;
use crate::support::servers::tool;
use crate::support::{Node, Process};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdout, Command, Stdio};

const PROGRAM: &str = include_str!("application.py");

/// Column to value. Values are texts that tell the type: `i5`, `n`, and the bytes of others in hex.
pub type Image = BTreeMap<String, String>;

/// What a transaction came to: for each statement the number of rows, or why it was refused.
#[derive(Deserialize)]
pub struct Done {
    pub done: Vec<Value>,
    pub changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Row {
    table: String,
    key: String,
    #[serde(default)]
    image: Image,
}

#[derive(Deserialize)]
struct Found {
    rows: Vec<Row>,
    orphans: Vec<Row>,
    check: Vec<String>,
}

/// A database as its application sees it.
#[derive(Default)]
pub struct State {
    /// By table and key.
    pub rows: BTreeMap<(String, String), Image>,
    pub orphans: Vec<(String, String)>,
}

pub struct Application {
    child: Process,
    answers: BufReader<ChildStdout>,
}

impl Application {
    pub fn start(node: &Node) -> Application {
        let mut command = Command::new(tool("python"));
        command.args(["-c", PROGRAM]).arg(&node.database);
        let mut child = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let answers = BufReader::new(child.stdout());
        let mut application = Application { child, answers };
        application.open();
        application
    }

    fn ask(&mut self, what: &str, statements: &[&str], commit: bool) -> Value {
        let order = json!({ "do": what, "statements": statements, "commit": commit });
        writeln!(self.child.stdin(), "{order}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert!(answer["error"].is_null(), "an application's {what} failed: {}", answer["error"]);
        answer
    }

    pub fn open(&mut self) {
        self.ask("open", &[], false);
    }

    pub fn close(&mut self) {
        self.ask("close", &[], false);
    }

    pub fn transaction(&mut self, statements: &[&str], commit: bool) -> Done {
        serde_json::from_value(self.ask("transaction", statements, commit)).unwrap()
    }

    /// A change of the schema; what is there already counts as done.
    pub fn migrate(&mut self, statements: &[String]) {
        let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
        self.ask("migrate", &statements, false);
    }

    /// Outside of a transaction.
    pub fn run(&mut self, statement: &str) {
        self.ask("run", &[statement], false);
    }

    /// All that it sees; SQLite must find nothing wrong.
    pub fn state(&mut self) -> State {
        let found: Found = serde_json::from_value(self.ask("state", &[], false)).unwrap();
        assert_eq!(found.check, ["ok"], "quick_check");
        State {
            rows: found.rows.into_iter().map(|row| ((row.table, row.key), row.image)).collect(),
            orphans: found.orphans.into_iter().map(|row| (row.table, row.key)).collect(),
        }
    }
}
