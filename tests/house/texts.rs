//! Rules about texts: sizes, purposes, reasons, README and manual, errors that carry a kind.

use crate::source::{files_below, root, sources};

#[test]
fn files_are_short_and_begin_with_their_purpose() {
    for path in files_below(&root().join("src")).into_iter().chain(files_below(&root().join("tests"))) {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{}: begins without its purpose", path.display());
        let lines = text.lines().count();
        assert!(lines <= 600, "{}: {lines} lines, 600 at most", path.display());
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

/// The texts in quotes that follow a word in the code of files below `place`.
fn quoted_after(place: &str, word: &str) -> Vec<String> {
    let mut found = vec![];
    for source in sources().iter().filter(|source| source.name.starts_with(place)) {
        for part in source.code.split(word).skip(1) {
            found.extend(part.split('"').next().map(str::to_owned));
        }
    }
    found
}

/// README and manual: what a user reads.
fn manual() -> String {
    let mut text = std::fs::read_to_string(root().join("README.md")).unwrap();
    for entry in std::fs::read_dir(root().join("src/manual")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "md") {
            text += &std::fs::read_to_string(path).unwrap();
        }
    }
    text
}

#[test]
fn the_manual_names_every_key() {
    let manual = manual();
    let mut count = 0;
    for call in ["boolean(\"", "integer(\"", "text(\"", "path(\"", "list(\"", "secret(\""] {
        for key in quoted_after("config", call) {
            count += 1;
            assert!(manual.contains(&format!("`{key}`")), "README and manual: no word of {key}");
        }
    }
    assert!(count > 50, "{count} keys found: does this test still know how keys are read?");
}

#[test]
fn readme_and_documentation_name_every_topic_of_the_manual() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let read = |file: &str| std::fs::read_to_string(root().join("src").join(file)).unwrap();
    let (documented, printed) = (read("manual/mod.rs"), read("commands/manual/mod.rs"));
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("src/manual")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(topic) = name.strip_suffix(".md") else { continue };
        count += 1;
        assert!(readme.contains(&format!("[{topic}](src/manual/{name})")), "README: no word of {topic}");
        assert!(
            documented.contains(&format!("include_str!(\"{name}\")")),
            "{name}: not in the documentation"
        );
        assert!(printed.contains(&format!("(\"{topic}\", ")), "{name}: not printed by -help");
    }
    assert!(count > 9, "{count} topics found");
}

/// The flags that the parser takes, from its code: whatever stands in quotes inside `Arg::Long(...)`, and in the list `NAMES`.
fn flags() -> Vec<String> {
    let mut found = vec![];
    for source in sources().iter().filter(|source| source.name == "cli") {
        for part in source.code.split("Arg::Long(").skip(1) {
            let inside = part.split(')').next().unwrap();
            found.extend(inside.split('"').skip(1).step_by(2).map(str::to_owned));
        }
    }
    let operate = sources().into_iter().find(|source| source.name == "cli/operate").unwrap().code;
    let names = operate.split("const NAMES").nth(1).unwrap().split("];").next().unwrap();
    found.extend(names.split('"').skip(1).step_by(2).map(str::to_owned));
    found
}

#[test]
fn the_manual_and_the_help_name_every_flag() {
    let manual = manual();
    let help = quoted_after("cli", "const HELP: &str = \"").concat();
    let flags = flags();
    assert!(flags.len() > 40, "{flags:?}: does this test still know how flags are read?");
    // Accepted for the Go program's sake, or refused with a line of its own.
    let silent = ["leaf-server", "pprof"];
    for flag in flags.iter().filter(|flag| !silent.contains(&flag.as_str())) {
        assert!(manual.contains(&format!("`-{flag}")), "README and manual: no word of -{flag}");
        assert!(help.contains(&format!("-{flag}")), "-help: no word of -{flag}");
    }
}

#[test]
fn errors_carry_a_kind() {
    let allowed = ["cli", "commands"];
    for source in sources().iter().filter(|source| !allowed.contains(&source.room())) {
        let code: String = source.code.split_whitespace().collect::<Vec<_>>().join(" ");
        for (at, _) in code.match_indices("String>") {
            let before = &code[..at];
            let opening = before.rfind("Result<").map(|from| &before[from..]);
            let of_result = opening.is_some_and(|text| {
                text.matches('<').count() == text.matches('>').count() + 1
                    && text.ends_with(", ")
                    && !text.contains(['{', ';', '"'])
            });
            assert!(
                !of_result,
                "src/{}: an error that is a text alone: ...{}String>",
                source.file,
                opening.unwrap()
            );
        }
    }
}

#[test]
fn references_resolve_inside_the_repository() {
    for path in files_below(&root().join("src")).into_iter().chain(files_below(&root().join("tests"))) {
        let text = std::fs::read_to_string(&path).unwrap();
        let names = ["compat.md", "design.md", "platform.md", "architecture.md", "predecessor.md"];
        if path.ends_with("texts.rs") {
            continue;
        }
        for name in names {
            assert!(
                !text.contains(name),
                "{}: refers to {name}, which is not in this repository",
                path.display()
            );
        }
    }
}
