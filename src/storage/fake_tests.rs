//! A directory and a store in memory, with faults at chosen operations.

use super::tree::{Entry, Source, Tree};
use super::{Backend, Candidate, Error, Label, Stored, Upload};
use crate::base::digest::digest_of;
use crate::base::retry::{Retry, Tries};
use crate::base::scratch::Scratch;
use crate::base::stop;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// So often an endless content is given at most.
const ENDLESS: usize = 10_000;

/// Gives a content once, or again and again until nobody takes it any more.
fn give(text: &[u8], is_endless: &AtomicBool, sink: &mut dyn Write) -> Result<(), Error> {
    let times = if is_endless.load(Relaxed) { ENDLESS } else { 1 };
    for _ in 0..times {
        sink.write_all(text).map_err(|error| Error::Local(error.to_string()))?;
    }
    Ok(())
}

/// What goes wrong with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not done, for the moment.
    Fail,
    /// It is not done, for good.
    Refuse,
    /// It is done, and the answer is lost.
    LoseAnswer,
}

/// Labels and contents by their names.
type Objects = BTreeMap<String, (Label, Vec<u8>)>;

type Rule = Box<dyn FnMut(usize, &str) -> Option<Fault> + Send>;

/// Counts operations and lets those fail that a rule names.
pub struct Faults {
    operations: Mutex<Vec<String>>,
    rule: Mutex<Rule>,
}

impl Faults {
    fn none() -> Faults {
        Faults { operations: Mutex::default(), rule: Mutex::new(Box::new(|_, _| None)) }
    }

    /// Begins a new count, and asks `rule` about each operation: its number and its text, such as `write snapshot.db.1.tmp`.
    pub fn when(&self, rule: impl FnMut(usize, &str) -> Option<Fault> + Send + 'static) {
        self.operations.lock().unwrap().clear();
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// How many operations there were whose text begins so.
    pub fn count(&self, prefix: &str) -> usize {
        self.operations.lock().unwrap().iter().filter(|text| text.starts_with(prefix)).count()
    }

    fn run<R>(&self, text: String, work: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
        let mut operations = self.operations.lock().unwrap();
        let fault = (self.rule.lock().unwrap())(operations.len(), &text);
        operations.push(text.clone());
        drop(operations);
        match fault {
            None => work(),
            Some(Fault::Fail) => Err(Error::Transient(format!("{text}: fails"))),
            Some(Fault::Refuse) => Err(Error::Permanent(format!("{text}: refused"))),
            Some(Fault::LoseAnswer) => {
                let _ = work();
                Err(Error::Transient(format!("{text}: no answer")))
            }
        }
    }
}

/// A directory. All clones are the same one.
#[derive(Clone)]
pub struct MemoryTree {
    pub files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    pub faults: Arc<Faults>,
    /// Whether contents that are read have no end.
    pub is_endless: Arc<AtomicBool>,
    /// Whether a rename replaces; otherwise it deletes the target before it looks for the source.
    careful: bool,
}

impl MemoryTree {
    pub fn new(careful: bool) -> MemoryTree {
        MemoryTree {
            files: Arc::default(),
            faults: Arc::new(Faults::none()),
            is_endless: Arc::default(),
            careful,
        }
    }

    pub fn names(&self) -> Vec<String> {
        self.files.lock().unwrap().keys().cloned().collect()
    }

    fn found(&self, name: &str) -> Result<Vec<u8>, Error> {
        self.files.lock().unwrap().get(name).cloned().ok_or(Error::NotFound)
    }
}

impl Tree for MemoryTree {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn make_dirs(&self) -> Result<(), Error> {
        self.faults.run("make".to_owned(), || Ok(()))
    }

    fn list(&self) -> Result<Vec<Entry>, Error> {
        self.faults.run("list".to_owned(), || {
            let files = self.files.lock().unwrap();
            Ok(files
                .iter()
                .map(|(name, text)| Entry { name: name.clone(), size: text.len() as u64 })
                .collect())
        })
    }

    fn size(&self, name: &str) -> Result<Option<u64>, Error> {
        self.faults.run(format!("size {name}"), || Ok(self.found(name).ok().map(|text| text.len() as u64)))
    }

    fn write(&self, name: &str, source: Source<'_>) -> Result<(), Error> {
        self.faults.run(format!("write {name}"), || {
            let mut text = vec![];
            source.open()?.read_to_end(&mut text).unwrap();
            self.files.lock().unwrap().insert(name.to_owned(), text);
            Ok(())
        })
    }

    fn read(&self, name: &str, sink: &mut dyn Write) -> Result<(), Error> {
        self.faults.run(format!("read {name}"), || give(&self.found(name)?, &self.is_endless, sink))
    }

    fn replaces(&self) -> Result<bool, Error> {
        self.faults.run("replaces".to_owned(), || Ok(self.careful))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        self.faults.run(format!("rename {from} to {to}"), || {
            let mut files = self.files.lock().unwrap();
            if !self.careful {
                files.remove(to);
            }
            let text = files.remove(from).ok_or(Error::NotFound)?;
            files.insert(to.to_owned(), text);
            Ok(())
        })
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        self.faults.run(format!("copy {from}"), || {
            let text = self.found(from)?;
            self.files.lock().unwrap().insert(to.to_owned(), text);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        self.faults.run(format!("remove {name}"), || {
            self.files.lock().unwrap().remove(name);
            Ok(())
        })
    }
}

/// A store whose `put` is one operation. All clones are the same one.
#[derive(Clone)]
pub struct MemoryStore {
    pub objects: Arc<Mutex<Objects>>,
    pub faults: Arc<Faults>,
    /// Whether contents that are read have no end.
    pub is_endless: Arc<AtomicBool>,
}

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore { objects: Arc::default(), faults: Arc::new(Faults::none()), is_endless: Arc::default() }
    }

    fn found(&self, name: &str) -> Option<(Label, Vec<u8>)> {
        self.objects.lock().unwrap().get(name).cloned()
    }
}

fn stored(name: &str, (label, text): &(Label, Vec<u8>)) -> Stored {
    Stored {
        name: name.to_owned(),
        size: text.len() as u64,
        version: "1".to_owned(),
        label: label.clone(),
        ..Stored::default()
    }
}

impl Backend for MemoryStore {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn compares(&self) -> bool {
        false
    }

    fn prepare(&self) -> Result<(), Error> {
        self.faults.run("prepare".to_owned(), || Ok(()))
    }

    fn stat(&self, name: &str) -> Result<Option<Stored>, Error> {
        self.faults.run(format!("stat {name}"), || Ok(self.found(name).map(|found| stored(name, &found))))
    }

    fn list(&self) -> Result<Vec<Stored>, Error> {
        self.faults.run("list".to_owned(), || {
            Ok(self.objects.lock().unwrap().iter().map(|(name, found)| stored(name, found)).collect())
        })
    }

    fn put(&self, upload: &Upload<'_>) -> Result<(), Error> {
        (upload.may_switch)()?;
        self.faults.run(format!("put {}", upload.name), || {
            let mut text = vec![];
            upload.piece(0, upload.label.size)?.read_to_end(&mut text).unwrap();
            self.objects.lock().unwrap().insert(upload.name.to_owned(), (upload.label.clone(), text));
            Ok(())
        })
    }

    fn get(&self, stored: &Stored, sink: &mut dyn Write) -> Result<(), Error> {
        self.faults.run(format!("get {}", stored.name), || {
            let (_, text) = self.found(&stored.name).ok_or(Error::NotFound)?;
            give(&text, &self.is_endless, sink)
        })
    }

    fn copy(&self, stored: &Stored, name: &str, _tries: &Tries<'_>) -> Result<(), Error> {
        self.faults.run(format!("copy to {name}"), || {
            let found = self.found(&stored.name).ok_or(Error::NotFound)?;
            self.objects.lock().unwrap().insert(name.to_owned(), found);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        self.faults.run(format!("remove {name}"), || {
            self.objects.lock().unwrap().remove(name);
            Ok(())
        })
    }

    fn sweep(&self) -> Result<usize, Error> {
        self.faults.run("sweep".to_owned(), || Ok(0))
    }
}

/// A snapshot to be stored: bytes in a file, and their label.
pub struct Made {
    _scratch: Scratch,
    pub path: PathBuf,
    pub label: Label,
}

impl Made {
    /// A snapshot at a position of the one stream; all have the same size.
    pub fn at(position: u64) -> Made {
        let scratch = Scratch::new("made");
        let path = scratch.path("file");
        let text = format!("content at {position:09}");
        std::fs::write(&path, &text).unwrap();
        let (size, digest) = digest_of(&mut text.as_bytes()).unwrap();
        let label = Label {
            size,
            digest,
            positions: [("stream-1".to_owned(), position)].into(),
            node: 7,
            time_ms: 1_795_526_100_000 + i64::try_from(position).unwrap() * 1000,
            ..Label::default()
        };
        Made { _scratch: scratch, path, label }
    }

    pub fn candidate(&self) -> Candidate<'_> {
        Candidate { label: &self.label, path: &self.path }
    }
}

/// Retries without pauses, until the source is dropped.
pub fn quick(tries: u32) -> (stop::StopSource, Retry) {
    let (source, token) = stop::pair();
    (source, Retry::with_pauses(tries, Duration::ZERO, Duration::ZERO, token))
}
