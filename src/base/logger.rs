//! Log lines: `console` for people, `json` for machines. If the environment variable `RUST_LOG` is set, it decides what is
//! logged.

use crate::base::{clock, progress, secret};
use log::{Level, LevelFilter, Record};
use std::io::{IsTerminal, Write};

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `2026-11-23 12:00:00 INFO  text`; the level is coloured on a terminal.
    Console,
    /// One JSON object a line: `time` (RFC 3339), `level`, `node_id`, `message`.
    Json,
}

/// Where lines go, and which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// All of a daemon's, to standard output.
    Daemon,
    /// All of a command's, to standard error: its result goes to standard output.
    Command,
    /// The same, and how far long work has come, if standard error is a terminal.
    Watched,
    /// Only warnings and errors, to standard error.
    Quiet,
    /// The same, and how far long work has come.
    WatchedQuiet,
}

/// Starts logging. In a process that logs already (a test), the first logger stays.
pub fn start(format: Format, verbose: bool, node_id: u64, output: Output) {
    let (terminal, target) = match output {
        Output::Daemon => (std::io::stdout().is_terminal(), env_logger::Target::Stdout),
        _ => (std::io::stderr().is_terminal(), env_logger::Target::Stderr),
    };
    let colour = terminal && is_colour_wanted(std::env::var_os("NO_COLOR"));
    let is_dumb = std::env::var_os("TERM").is_none_or(|name| name == "dumb");
    let draws = terminal && !is_dumb && matches!(output, Output::Watched | Output::WatchedQuiet);
    let level = match output {
        Output::Quiet | Output::WatchedQuiet => LevelFilter::Warn,
        _ if verbose => LevelFilter::Debug,
        _ => LevelFilter::Info,
    };
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level).filter_module("rustls", LevelFilter::Warn);
    if let Ok(filter) = std::env::var("RUST_LOG") {
        builder.parse_filters(&filter);
    }
    builder.filter_module(progress::TARGET, if draws { LevelFilter::Trace } else { LevelFilter::Off });
    builder.target(target).format(move |out, record| {
        if record.target() == progress::TARGET {
            return write!(out, "{OVER}{}", message(record));
        }
        if draws {
            write!(out, "{OVER}")?;
        }
        let now = clock::unix_ms();
        match format {
            Format::Console => writeln!(out, "{}", console_line(now, record, colour)),
            Format::Json => writeln!(out, "{}", json_line(now, record, node_id)),
        }
    });
    let _ = builder.try_init();
}

/// What removes the line that the cursor is in.
const OVER: &str = "\r\x1b[K";

/// <https://no-color.org>: any value but an empty one turns colours off.
fn is_colour_wanted(no_color: Option<std::ffi::OsString>) -> bool {
    no_color.is_none_or(|value| value.is_empty())
}

fn message(record: &Record) -> String {
    escape(&secret::redact(&record.args().to_string()).replace('\n', " | "))
}

/// Without control characters: what comes from outside (a table's name, say) must not write lines or move the cursor.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

fn console_line(now: i64, record: &Record, colour: bool) -> String {
    let (on, off) = match (colour, record.level()) {
        (false, _) => ("", ""),
        (_, Level::Error) => ("\x1b[31m", "\x1b[0m"),
        (_, Level::Warn) => ("\x1b[33m", "\x1b[0m"),
        (_, Level::Info) => ("\x1b[32m", "\x1b[0m"),
        _ => ("\x1b[90m", "\x1b[0m"),
    };
    format!("{} {on}{:<5}{off} {}", clock::console(now), record.level(), message(record))
}

fn json_line(now: i64, record: &Record, node_id: u64) -> String {
    serde_json::json!({
        "time": clock::rfc3339(now),
        "level": record.level().as_str().to_lowercase(),
        "node_id": node_id,
        "message": message(record),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_moves_the_cursor() {
        assert_eq!(escape("table \x1b[2Jx\r\u{9b}y\0 ü"), "table \\u{1b}[2Jx\\u{d}\\u{9b}y\\u{0} ü");
    }

    #[test]
    fn no_color_turns_colours_off_unless_it_is_empty() {
        assert!(is_colour_wanted(None) && is_colour_wanted(Some("".into())));
        assert!(!is_colour_wanted(Some("0".into())));
    }

    #[test]
    fn lines() {
        let args = format_args!("connect nats://u:p@h:1\nfailed");
        let record = Record::builder().args(args).level(Level::Warn).build();
        assert_eq!(
            console_line(0, &record, false),
            "1970-01-01 00:00:00 WARN  connect nats://***@h:1 | failed"
        );
        assert!(console_line(0, &record, true).contains("\x1b[33mWARN"));
        let json: serde_json::Value = serde_json::from_str(&json_line(1, &record, 7)).unwrap();
        assert_eq!(json["time"], "1970-01-01T00:00:00.001Z");
        assert_eq!((json["level"].as_str(), json["node_id"].as_u64()), (Some("warn"), Some(7)));
        assert_eq!(json["message"], "connect nats://***@h:1 | failed");
    }
}
