//! The rules of the house: layers, sizes, names, reasons. A file may use what stands below it, never above.

use std::path::{Path, PathBuf};

/// From the top down; what is not listed is a leaf.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["commands"],
    &["daemon"],
    &["replicator", "snapshot", "lease", "presence", "health"],
    &["storage"],
    &["db", "nats"],
    &["config"],
    &["fold", "event", "shard", "gotime", "seqmap", "status", "value"],
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

fn module(path: &Path) -> String {
    let relative = path.strip_prefix(root().join("src")).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").trim_end_matches("_tests").to_owned()
}

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|layer| layer.contains(&module)).unwrap_or(LAYERS.len())
}

/// The code of a file without its comments and its tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap().to_owned();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn nobody_reaches_up() {
    for path in sources(&root().join("src")) {
        let me = module(&path);
        if me == "lib" || path.ends_with("main.rs") {
            continue;
        }
        let text = code(&path);
        for (at, _) in text.match_indices("crate::") {
            let rest = &text[at + 7..];
            let names: Vec<String> = if let Some(list) = rest.strip_prefix('{') {
                list.split('}')
                    .next()
                    .unwrap()
                    .split(',')
                    .map(|n| n.trim().split("::").next().unwrap().to_owned())
                    .collect()
            } else {
                vec![rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned()]
            };
            for name in names.iter().filter(|name| **name != me && !name.is_empty()) {
                // Values may use each other; the configuration checks URLs with the parsers of those who use them.
                let allowed = layer(name) > layer(&me)
                    || layer(&me) >= LAYERS.len() - 1
                    || (me == "snapshot" && (name == "replicator" || name == "lease"))
                    || (me == "config" && (name == "nats" || name == "storage"));
                assert!(allowed, "{}: {me} uses {name}, which stands above or beside it", path.display());
            }
        }
    }
}

#[test]
fn knowledge_has_one_home() {
    for (word, homes) in [
        ("rusqlite", &["db"][..]),
        ("TcpStream", &["nats", "storage", "responder"]),
        ("rustls::", &["nats"]),
        ("ureq::", &["http"]),
        ("ssh2::", &["storage"]),
        ("roxmltree::", &["storage"]),
        ("ciborium::", &["seqmap", "lease"]),
        ("ciborium_ll", &["event"]),
        ("unsafe {", &["child"]),
        ("std::process::exit", &["cli"]),
    ] {
        for path in sources(&root().join("src")) {
            let me = module(&path);
            assert!(
                homes.contains(&me.as_str()) || !code(&path).contains(word),
                "{}: names {word}",
                path.display()
            );
        }
    }
}

#[test]
fn files_are_short_and_begin_with_their_purpose() {
    for path in sources(&root().join("src")).into_iter().chain(sources(&root().join("tests"))) {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{}: begins without its purpose", path.display());
        let lines = text.lines().count();
        assert!(lines <= 600, "{}: {lines} lines, 600 at most", path.display());
    }
}

#[test]
fn the_top_level_is_what_it_should_be() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "Makefile",
        "README.md",
        "clippy.toml",
        "fixtures",
        "rustfmt.toml",
        "src",
        "tests",
        "target",
        "build",
    ];
    for entry in std::fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.starts_with('.') || allowed.contains(&name.as_str()), "{name}: not at the top level");
    }
}

#[test]
fn each_dependency_has_its_reason() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut section = String::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.to_owned();
        } else if section.contains("dependencies") && line.contains('=') {
            assert!(line.split(" # ").nth(1).is_some_and(|reason| reason.len() > 8), "no reason: {line}");
        }
    }
}

#[test]
fn the_readme_names_every_key_and_flag() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let read = |name: &str| std::fs::read_to_string(root().join("src/config").join(name)).unwrap();
    let keys = read("keys.rs") + &read("stores.rs");
    for call in ["boolean(\"", "integer(\"", "text(\"", "path(\"", "list(\"", "secret(\""] {
        for part in keys.split(call).skip(1) {
            let key = part.split('"').next().unwrap();
            assert!(readme.contains(&format!("`{key}`")), "README: no word of {key}");
        }
    }
    for flag in [
        "-config",
        "-node-id",
        "-save-snapshot",
        "-list-snapshots",
        "-verify-snapshot",
        "-restore-snapshot",
        "-json",
        "-quiet",
        "-cleanup",
        "-cluster-addr",
        "-cluster-peers",
        "-leaf-servers",
        "-version",
    ] {
        assert!(readme.contains(&format!("`{flag}")), "README: no word of {flag}");
    }
}
