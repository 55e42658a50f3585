//! Public is only what somebody outside uses.

use crate::source::{files_below, root, sources};

/// Names that are public in a file: functions, types, constants, and methods.
fn public_names(code: &str) -> Vec<String> {
    let mut found = vec![];
    for line in code.lines() {
        let Some(rest) = line.trim_start().strip_prefix("pub ") else { continue };
        let mut words =
            rest.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        let Some(kind) = words.find(|word| !matches!(*word, "const" | "unsafe") || !rest.contains("fn "))
        else {
            continue;
        };
        if matches!(kind, "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static")
            && let Some(name) = words.next()
        {
            found.push(name.to_owned());
        }
    }
    found
}

#[test]
fn nothing_is_public_that_nobody_outside_uses() {
    let all = sources();
    let mut everywhere: Vec<(String, String)> = files_below(&root().join("src"))
        .into_iter()
        .chain(files_below(&root().join("tests/it")))
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    everywhere.retain(|(path, _)| !path.contains("tests/house"));
    let words = |text: &str| -> std::collections::BTreeSet<String> {
        text.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned).collect()
    };
    let everywhere: Vec<_> = everywhere.into_iter().map(|(path, text)| (path, words(&text))).collect();
    let mut idle = vec![];
    for source in &all {
        for name in public_names(&source.code) {
            // A type that something public gives or takes is public with it.
            let named = source
                .code
                .lines()
                .filter(|line| line.contains("pub ") && words(line).contains(&name))
                .count()
                > 1;
            let used = named
                || everywhere.iter().any(|(path, words)| {
                    !path.ends_with(&format!("src/{}", source.file)) && words.contains(&name)
                });
            if !used {
                idle.push(format!("src/{}: {name}", source.file));
            }
        }
    }
    assert!(idle.is_empty(), "public, and used by nobody outside the file:\n{}", idle.join("\n"));
}
