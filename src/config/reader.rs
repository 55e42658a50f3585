//! A TOML table read key by key: every wrong value becomes one line, every key nobody asked for a warning.

use std::collections::BTreeSet;
use toml::{Table, Value};

/// Reads keys by their dotted path and gathers what is wrong.
pub struct Reader {
    file: String,
    table: Table,
    known: BTreeSet<&'static str>,
    /// One line for each mistake.
    pub errors: Vec<String>,
}

impl Reader {
    /// Reads from `table`, naming `file` in messages.
    pub fn new(file: String, table: Table) -> Reader {
        Reader { file, table, known: BTreeSet::new(), errors: Vec::new() }
    }

    /// The value at `key`; keys match without case, as in the Go program.
    fn find(&mut self, key: &'static str) -> Option<Value> {
        self.known.insert(key);
        let mut parts = key.split('.').peekable();
        let mut table = &self.table;
        let mut at = String::new();
        while let Some(part) = parts.next() {
            let value = table.iter().find(|(name, _)| name.eq_ignore_ascii_case(part)).map(|(_, v)| v)?;
            if parts.peek().is_none() {
                return Some(value.clone());
            }
            if !at.is_empty() {
                at.push('.');
            }
            at.push_str(part);
            let Value::Table(inner) = value else {
                let message = format!("{}: {at} = {value}: accepted is a section [{at}]", self.file);
                if !self.errors.contains(&message) {
                    self.errors.push(message);
                }
                return None;
            };
            table = inner;
        }
        None
    }

    /// Whether `key` is set.
    pub fn is_set(&mut self, key: &'static str) -> bool {
        self.find(key).is_some()
    }

    /// Whether `key`, a value or a section, holds anything but empty texts, empty lists and false.
    pub fn asks_for_something(&mut self, key: &'static str) -> bool {
        fn filled(value: &Value) -> bool {
            match value {
                Value::String(text) => !text.is_empty(),
                Value::Boolean(on) => *on,
                Value::Array(items) => !items.is_empty(),
                Value::Table(table) => table.values().any(filled),
                _ => true,
            }
        }
        self.find(key).is_some_and(|value| filled(&value))
    }

    /// Notes a mistake in `key`.
    pub fn wrong(&mut self, key: &str, value: impl std::fmt::Display, accepted: &str) {
        self.errors.push(format!("{}: {key} = {value}: accepted is {accepted}", self.file));
    }

    /// Notes a mistake unless `value` is a name that NATS takes as one token of a subject.
    pub fn token(&mut self, key: &str, value: &str) {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if value.is_empty() || !value.bytes().all(valid) {
            self.wrong(key, format!("{value:?}"), "letters, digits, - and _");
        }
    }

    /// A boolean.
    pub fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        match self.find(key) {
            None => default,
            Some(Value::Boolean(value)) => value,
            Some(other) => {
                self.wrong(key, other, "true or false");
                default
            }
        }
    }

    /// An integer between two bounds.
    pub fn integer(&mut self, key: &'static str, default: u64, min: u64, max: u64) -> u64 {
        let value = match self.find(key) {
            None => return default,
            Some(Value::Integer(value)) => value,
            Some(other) => {
                self.wrong(key, other, &format!("an integer from {min} to {max}"));
                return default;
            }
        };
        match u64::try_from(value) {
            Ok(number) if (min..=max).contains(&number) => number,
            _ => {
                self.wrong(key, value, &format!("an integer from {min} to {max}"));
                default
            }
        }
    }

    /// A text.
    pub fn text(&mut self, key: &'static str, default: &str) -> String {
        match self.find(key) {
            None => default.to_owned(),
            Some(Value::String(value)) => value,
            Some(other) => {
                self.wrong(key, other, "a text in quotes");
                default.to_owned()
            }
        }
    }

    /// A text whose value no message shows.
    pub fn secret(&mut self, key: &'static str) -> String {
        match self.find(key) {
            None => String::new(),
            Some(Value::String(value)) => value,
            Some(_) => {
                self.wrong(key, "(hidden)", "a text in quotes");
                String::new()
            }
        }
    }

    /// A text that names a path; empty counts as not set.
    pub fn path(&mut self, key: &'static str) -> Option<std::path::PathBuf> {
        let text = self.text(key, "");
        (!text.is_empty()).then(|| text.into())
    }

    /// A list of texts.
    pub fn list(&mut self, key: &'static str) -> Vec<String> {
        let accepted = "a list of texts, like [\"a\", \"b\"]";
        match self.find(key) {
            None => vec![],
            Some(Value::Array(values)) => {
                let texts: Option<Vec<String>> =
                    values.iter().map(|v| v.as_str().map(str::to_owned)).collect();
                texts.unwrap_or_else(|| {
                    self.wrong(key, "(not all are texts)", accepted);
                    vec![]
                })
            }
            Some(other) => {
                self.wrong(key, crate::base::secret::redact(&other.to_string()), accepted);
                vec![]
            }
        }
    }

    /// A warning for each key that nobody asked for, with the nearest that is known.
    pub fn unknown(&self) -> Vec<String> {
        let mut warnings = vec![];
        self.walk(&self.table, "", &mut warnings);
        warnings
    }

    fn walk(&self, table: &Table, prefix: &str, warnings: &mut Vec<String>) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let lower = key.to_ascii_lowercase();
            let section = format!("{lower}.");
            if self.known.contains(lower.as_str()) {
                continue;
            }
            match value {
                Value::Table(inner) if self.known.iter().any(|k| k.starts_with(&section)) => {
                    self.walk(inner, &key, warnings);
                }
                _ => {
                    let nearest =
                        self.known.iter().min_by_key(|k| distance(k, &lower)).copied().unwrap_or("");
                    warnings.push(format!(
                        "{}: unknown key {key}; the nearest known one is {nearest}",
                        self.file
                    ));
                }
            }
        }
    }
}

/// Edits (insert, delete, replace) that lead from one text to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
