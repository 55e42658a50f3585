//! What follows a flag: words, numbers, names, lists.

use crate::base::limits;
use crate::equality::Side;
use crate::model::set::Format;
use crate::storage;
use lexopt::{Parser, ValueExt};
use std::ffi::OsString;

/// A switch, which Go programs also take as `-flag=true`.
pub fn switch<T>(parser: &mut Parser, command: T) -> Result<Option<T>, String> {
    match parser.optional_value() {
        None => Ok(Some(command)),
        Some(value) if value == "true" => Ok(Some(command)),
        Some(value) if value == "false" => Ok(None),
        Some(value) => Err(format!("{}: accepted is true or false", value.to_string_lossy())),
    }
}

pub fn on(parser: &mut Parser) -> Result<bool, String> {
    Ok(switch(parser, ())?.is_some())
}

/// The word that follows a flag, unless another flag follows.
pub fn optional_word(parser: &mut Parser) -> Option<OsString> {
    parser.optional_value().or_else(|| {
        parser
            .try_raw_args()
            .and_then(|mut rest| rest.next_if(|argument| !argument.as_encoded_bytes().starts_with(b"-")))
    })
}

/// The number that follows `-node-id`.
pub fn node_id(parser: &mut Parser) -> Result<u64, String> {
    let text = value(parser, "node-id")?;
    text.parse().map_err(|_| format!("-node-id {}: accepted is a number", text.to_string_lossy()))
}

/// The form that follows `-stream-format`.
pub fn format(text: &str) -> Result<Format, String> {
    match text {
        "rows" => Ok(Format::Rows),
        "sets" => Ok(Format::Sets),
        other => Err(format!("-stream-format {other}: accepted is sets or rows")),
    }
}

/// Whose rows are right, as it follows `-from`.
pub fn side(text: &str) -> Result<Side, String> {
    match (text, text.parse()) {
        ("majority", _) => Ok(Side::Majority),
        ("leader", _) => Ok(Side::Leader),
        (_, Ok(node)) => Ok(Side::Node(node)),
        (other, Err(_)) => Err(format!("-from {other}: accepted is majority, leader or a node's number")),
    }
}

/// The verb that follows a flag, and what follows the verb.
pub fn verb<T: Default>(
    parser: &mut Parser,
    flag: &str,
    parse: impl Fn(&str, Option<&str>) -> Option<T>,
    accepted: &str,
) -> Result<T, String> {
    let Some(word) = optional_word(parser) else { return Ok(T::default()) };
    let word = word.to_string_lossy().into_owned();
    let object = if word == "list" { None } else { optional_word(parser) };
    let object = object.map(|object| object.to_string_lossy().into_owned());
    parse(&word, object.as_deref()).ok_or_else(|| {
        format!("-{flag} {}: {accepted}", object.map_or(word.clone(), |object| format!("{word} {object}")))
    })
}

/// The time that follows `-since`, Unix milliseconds.
pub fn since(parser: &mut Parser) -> Result<i64, String> {
    let text = text(parser, "since")?;
    crate::base::clock::parse(&text)
        .ok_or_else(|| format!("-since {text}: accepted is a time such as 2026-11-24T15:00:00Z"))
}

/// The name that follows a flag, unless another flag follows; then the current snapshot's name.
pub fn optional_name(parser: &mut Parser) -> Result<String, String> {
    match optional_word(parser) {
        None => Ok(limits::SNAPSHOT_NAME.to_owned()),
        Some(name) => snapshot_name(name.to_string_lossy().into_owned()),
    }
}

/// A name that a snapshot can have.
pub fn snapshot_name(name: String) -> Result<String, String> {
    if storage::is_snapshot(&name) {
        Ok(name)
    } else {
        Err(format!(
            "{name}: accepted is a name that -list-snapshots shows, such as {}",
            limits::SNAPSHOT_NAME
        ))
    }
}

pub fn value(parser: &mut Parser, flag: &str) -> Result<OsString, String> {
    parser.value().map_err(|_| format!("-{flag} needs a value; -h shows the flags"))
}

pub fn text(parser: &mut Parser, flag: &str) -> Result<String, String> {
    value(parser, flag)?.string().map_err(|_| format!("-{flag}: not UTF-8"))
}

pub fn list(parser: &mut Parser, flag: &str) -> Result<Vec<String>, String> {
    Ok(text(parser, flag)?
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect())
}
