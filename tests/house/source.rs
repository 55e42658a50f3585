//! The sources as the rules see them: files, their code without comments and tests, and whom each imports.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All `.rs` files below a directory.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A file of `src/` that is not a test.
pub struct Source {
    /// Below `src/`, without `.rs` and `/mod`: `db/apply`, `db/apply/write`.
    pub name: String,
    /// Below `src/`.
    pub file: String,
    pub code: String,
    is_face: bool,
}

pub fn sources() -> Vec<Source> {
    let src = root().join("src");
    let all = files_below(&src).into_iter().filter_map(|path| {
        let file = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        let name = file.trim_end_matches(".rs");
        if name.ends_with("tests") || name == "lib" || name == "formats" || name == "manual/mod" {
            return None;
        }
        let is_face = name.ends_with("/mod");
        let name = name.trim_end_matches("/mod").to_owned();
        Some(Source { name, code: code(&std::fs::read_to_string(&path).unwrap()), file, is_face })
    });
    all.collect()
}

/// Text without its unit tests and comments.
pub fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let text = text.split("#[cfg(test)]\n#[path").next().unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{}\n", line.split(" // ").next().unwrap())).collect()
}

impl Source {
    /// The first part of its name.
    pub fn room(&self) -> &str {
        self.name.split('/').next().unwrap()
    }

    /// Names of the files that this one imports; a face (`mod.rs`) that hands on what its own files define imports nothing
    /// by that.
    pub fn imports(&self, all: &BTreeSet<String>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut rest = self.code.as_str();
        while let Some(at) = rest.find("use ").into_iter().chain(rest.find("crate::")).min() {
            let statement = rest[at..].starts_with("use ");
            let text = if statement { &rest[at + 4..] } else { &rest[at..] };
            let starts_line = rest[..at].trim_end_matches(' ').ends_with('\n') || at == 0;
            let hands_on = rest[..at].ends_with("pub ");
            let length = if statement && (starts_line || hands_on) {
                let text = &text[..text.find(';').unwrap_or(text.len())];
                if !(hands_on && self.is_face) {
                    for path in paths(text, "") {
                        found.extend(self.resolve(&path, all));
                    }
                }
                text.len() + 4
            } else if statement {
                4
            } else {
                let end =
                    text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len());
                found.extend(self.resolve(&text[..end], all));
                end
            };
            rest = &rest[at + length..];
        }
        found.remove(&self.name);
        found
    }

    /// The file that a path leads to; `None` for other crates.
    fn resolve(&self, path: &str, all: &BTreeSet<String>) -> Option<String> {
        let mut parts: Vec<&str> = path.split("::").map(str::trim).collect();
        let mut at: Vec<&str> = self.name.split('/').collect();
        match parts.first().copied() {
            Some("crate") => at.clear(),
            Some("self") => {}
            Some("super") => {
                at.pop();
            }
            Some(first) if self.is_face && all.contains(&format!("{}/{first}", self.name)) => {
                parts.insert(0, "self")
            }
            _ => return None,
        }
        for part in &parts[1..] {
            let deeper = [&at[..], &[*part]].concat().join("/");
            if *part == "super" {
                at.pop();
            } else if all.iter().any(|name| *name == deeper || name.starts_with(&format!("{deeper}/"))) {
                at.push(*part);
            } else {
                break;
            }
        }
        let name = at.join("/");
        all.contains(&name).then_some(name)
    }
}

/// The single paths of a `use` tree: `a::{b, c::d}` gives `a::b` and `a::c::d`.
fn paths(tree: &str, before: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        return vec![format!("{before}{}", tree.split(" as ").next().unwrap())];
    };
    let before = format!("{before}{}", head.trim());
    let inner = rest.trim_end().trim_end_matches('}');
    let (mut depth, mut from, mut found) = (0, 0, vec![]);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[from..at].trim().is_empty() {
                    found.extend(paths(&inner[from..at], &before));
                }
                from = at + 1;
            }
            _ => {}
        }
    }
    found
}

#[test]
fn use_trees_are_taken_apart() {
    assert_eq!(
        paths("crate::a::{b, c::{self, D}, e::f}", ""),
        ["crate::a::b", "crate::a::c::self", "crate::a::c::D", "crate::a::e::f"]
    );
    assert_eq!(paths("super::x as y", ""), ["super::x"]);
}
