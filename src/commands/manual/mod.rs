//! `-help TOPIC` and `-man`: the manual, whose texts are those of the crate's documentation.

mod blocks;
mod plain;
mod roff;

use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};

/// A topic of the manual: its name, and its text in Markdown.
type Topic = (&'static str, &'static str);

const TOPICS: [Topic; 15] = [
    ("commands", include_str!("../../manual/commands.md")),
    ("configuration", include_str!("../../manual/configuration.md")),
    ("install", include_str!("../../manual/install.md")),
    ("operating", include_str!("../../manual/operating.md")),
    ("stores", include_str!("../../manual/stores.md")),
    ("recovery", include_str!("../../manual/recovery.md")),
    ("history", include_str!("../../manual/history.md")),
    ("conflicts", include_str!("../../manual/conflicts.md")),
    ("schema", include_str!("../../manual/schema.md")),
    ("set-aside", include_str!("../../manual/set-aside.md")),
    ("compare", include_str!("../../manual/compare.md")),
    ("promises", include_str!("../../manual/promises.md")),
    ("security", include_str!("../../manual/security.md")),
    ("upgrade", include_str!("../../manual/upgrade.md")),
    ("troubleshooting", include_str!("../../manual/troubleshooting.md")),
];

/// The names of all topics.
pub fn topics() -> Vec<&'static str> {
    TOPICS.iter().map(|(name, _)| *name).collect()
}

/// The title of a topic: its first line.
fn title(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_start_matches("# ")
}

/// Prints a topic, or with `topics` the list of them. `Err`: there is no such topic.
pub fn help(topic: &str) -> Result<(), String> {
    if topic == "topics" {
        let width = TOPICS.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        for (name, text) in TOPICS {
            println!("{name:width$}  {}", title(text));
        }
        println!("\nharmonylite -help TOPIC prints one.");
        return Ok(());
    }
    let found = TOPICS.iter().find(|(name, _)| *name == topic);
    let (_, text) = found
        .ok_or_else(|| format!("-help {topic}: there is no such topic; there is {}", topics().join(", ")))?;
    show(&plain::text(&blocks::parse(text)));
    Ok(())
}

/// Prints all of it as a page for `man`.
pub fn man() {
    let topics: Vec<_> = TOPICS.iter().map(|(_, text)| blocks::parse(text)).collect();
    put(&roff::page(&topics));
}

/// To a terminal through `$PAGER`, or `less`, where there is one; otherwise as it is.
fn show(text: &str) {
    if !std::io::stdout().is_terminal() || !paged(text) {
        put(text);
    }
}

/// A reader that ends early (`| head`) is no failure.
fn put(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Shows a text in a pager; false: there is none.
fn paged(text: &str) -> bool {
    let mut command = match std::env::var("PAGER") {
        Ok(pager) if pager.trim().is_empty() => return false,
        Ok(pager) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &pager]);
            shell
        }
        Err(_) => Command::new("less"),
    };
    // As git does: `less` prints what fits on the screen, and ends.
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", "FRX");
    }
    let Ok(mut pager) = command.stdin(Stdio::piped()).spawn() else { return false };
    if let Some(mut stdin) = pager.stdin.take() {
        let _ = stdin.write_all(text.as_bytes());
    }
    // What the shell says of a command that is not there, or cannot be run.
    const UNKNOWN: [Option<i32>; 2] = [Some(126), Some(127)];
    pager.wait().is_ok_and(|status| !UNKNOWN.contains(&status.code()))
}

#[cfg(test)]
#[path = "../manual_tests.rs"]
mod tests;
