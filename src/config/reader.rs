//! Reads a TOML table key by key. Every wrong value is noted as a mistake, and every key that is never read as unknown.

use crate::base::{Error, secret};
use std::collections::BTreeSet;
use toml::{Table, Value};

/// Reads keys by their dotted path and gathers what is wrong.
pub struct Reader {
    /// The name of the file, for messages.
    file: String,
    table: Table,
    /// The keys that were read.
    known: BTreeSet<&'static str>,
    mistakes: Vec<Mistake>,
    warnings: Vec<String>,
}

struct Mistake {
    /// The key whose value is wrong, or the section that is none.
    key: String,
    error: Error,
}

impl Reader {
    /// Reads from `table`, naming `file` in messages.
    pub fn new(file: String, table: Table) -> Reader {
        Reader { file, table, known: BTreeSet::new(), mistakes: Vec::new(), warnings: Vec::new() }
    }

    /// One error for each mistake.
    pub fn mistakes(self) -> Vec<Error> {
        self.mistakes.into_iter().map(|mistake| mistake.error).collect()
    }

    /// Whether a mistake was noted in `key` itself.
    pub fn is_wrong(&self, key: &str) -> bool {
        self.mistakes.iter().any(|mistake| mistake.key == key)
    }

    /// The value at `key`. Keys match in upper and lower case, as in the Go program.
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
                // Each key of the section comes here: the mistake is one all the same.
                if !self.is_wrong(&at) {
                    // The value is not shown: it may be the URL that belongs into the section.
                    self.wrong(&at, "(hidden: a value)", &format!("a section [{at}]"));
                }
                return None;
            };
            table = inner;
        }
        None
    }

    pub fn is_set(&mut self, key: &'static str) -> bool {
        self.find(key).is_some()
    }

    /// Notes a mistake in `key`, which is shown with its value and what is accepted. A value that may be a URL with a login in
    /// it, in whatever key, is not shown: where a login ends in a wrong URL, nobody can tell.
    pub fn wrong(&mut self, key: &str, value: impl std::fmt::Display, accepted: &str) {
        let value = value.to_string();
        let value = if secret::may_hold_login(&value) { "(hidden: it may hold a login)" } else { &value };
        self.note(key, format!("{key} = {value}: accepted is {accepted}"));
    }

    /// Notes a mistake in `key` in words of its own.
    pub fn note(&mut self, key: &str, text: String) {
        self.mistakes.push(Mistake { key: key.to_owned(), error: Error::usage(text).at(&self.file) });
    }

    /// Warns of something in `key` that is not wrong.
    pub fn warn(&mut self, key: &str, text: &str) {
        self.warnings.push(format!("{}: {key}: {text}", self.file));
    }

    /// The path of a file that holds a secret. No message shows it: somebody may have written the secret itself here.
    /// Warns when others than the owner may read the file.
    pub fn secret_file(&mut self, key: &'static str) -> Option<std::path::PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let text = self.secret(key);
        let path: std::path::PathBuf = (!text.is_empty()).then(|| text.into())?;
        match std::fs::File::open(&path).and_then(|file| file.metadata()) {
            Err(error) => self.wrong(key, format!("(hidden: {error})"), "a file that can be read"),
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o077 != 0 => {
                let mode = meta.permissions().mode() & 0o777;
                self.warn(
                    key,
                    &format!("others than its owner may read or write this file (mode {mode:o}): chmod 600"),
                );
            }
            Ok(_) => {}
        }
        Some(path)
    }

    /// Notes a mistake unless the file at `key` can be read.
    pub fn readable(&mut self, key: &str, path: Option<&std::path::Path>) {
        if let Some(path) = path
            && let Err(error) = std::fs::File::open(path)
        {
            self.wrong(key, format!("{path:?} ({error})"), "a file that can be read");
        }
    }

    /// Notes a mistake unless `value`, that of `key`, can be one token of a NATS subject.
    pub fn token(&mut self, key: &str, value: &str) {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if value.is_empty() || !value.bytes().all(valid) {
            self.wrong(key, format!("{value:?}"), "letters, digits, - and _");
        }
    }

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

    /// An integer from `min` to `max`.
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

    /// A text that no message shows.
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

    /// A path; an empty text counts as not set.
    pub fn path(&mut self, key: &'static str) -> Option<std::path::PathBuf> {
        let text = self.text(key, "");
        (!text.is_empty()).then(|| text.into())
    }

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
                self.wrong(key, format!("(hidden: a {})", other.type_str()), accepted);
                vec![]
            }
        }
    }

    /// All warnings: also one for each key that was never read, with the nearest one that was.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.clone();
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
                    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
                    let key = if key.chars().all(plain) { &key } else { "(hidden: not a plain word)" };
                    warnings.push(format!(
                        "{}: unknown key {key}; the nearest known one is {nearest}",
                        self.file
                    ));
                }
            }
        }
    }
}

/// The number of edits (insert, delete, replace a character) that lead from one text to the other.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(text: &str) -> Reader {
        Reader::new("FILE".to_owned(), text.parse().unwrap())
    }

    fn texts(reader: Reader) -> Vec<String> {
        reader.mistakes().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn distances() {
        for (one, other, edits) in
            [("", "", 0), ("abc", "", 3), ("", "abc", 3), ("url", "urls", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(one, other), edits, "{one} {other}");
        }
    }

    #[test]
    fn a_value_where_a_section_belongs_is_one_mistake() {
        let mut reader = reader("nats = 3");
        assert_eq!((reader.list("nats.urls"), reader.text("nats.token", "x")), (vec![], "x".to_owned()));
        assert!(reader.is_wrong("nats") && !reader.is_wrong("nats.urls"));
        assert_eq!(texts(reader), ["FILE: nats = (hidden: a value): accepted is a section [nats]"]);
    }

    #[test]
    fn bounds_are_within() {
        let mut reader = reader("a = 1\nb = 5\nc = 6\nd = -1\ne = 1.5");
        for (key, read) in [("a", 1), ("b", 5), ("c", 3), ("d", 3), ("e", 3), ("f", 3)] {
            assert_eq!(reader.integer(key, 3, 1, 5), read, "{key}");
            assert_eq!(reader.is_wrong(key), matches!(key, "c" | "d" | "e"), "{key}");
        }
    }

    #[test]
    fn a_secret_of_the_wrong_kind_is_not_shown() {
        let mut reader = reader("token = 12345");
        assert_eq!(reader.secret("token"), "");
        assert_eq!(texts(reader), ["FILE: token = (hidden): accepted is a text in quotes"]);
    }
}
