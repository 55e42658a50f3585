//! `-verify` and `-repair`: whether all running nodes are equal, and making them so.

use super::Show;
use super::shown::{printable, value_json};
use super::snapshots::with_broker;
use crate::base::error::{Error, Kind};
use crate::base::stop::Stop;
use crate::config::Config;
use crate::equality::{self, Difference, Left, OfTable, Repaired, Report, Scope, Side};
use crate::model::value;
use serde_json::{Value, json};

/// Rows that `-verify` names.
const NAMED: usize = 100;
/// Rows that `-repair` takes at once.
const REPAIRED: usize = 10_000;

/// Compares all running nodes. An error of [`Kind::Unusable`] says that they are not equal.
pub fn compare(config: &Config, stop: &Stop, show: Show, table: Option<String>) -> Result<(), Error> {
    let broker = with_broker(config, stop)?;
    let compared = equality::compare(config, &broker.connection, stop, &Scope { table, rows: NAMED });
    broker.stop();
    let report = compared?;
    show.print(|| lines(&report).join("\n"), || document(&report));
    if report.is_equal() { Ok(()) } else { Err(Error::new(Kind::Unusable, report.summary())) }
}

/// Compares them, and makes equal what differs.
pub fn repair(
    config: &Config,
    stop: &Stop,
    show: Show,
    (table, side, dry_run): (Option<String>, Side, bool),
) -> Result<(), Error> {
    let broker = with_broker(config, stop)?;
    let scope = Scope { table, rows: REPAIRED };
    let repaired = equality::repair(config, &broker.connection, stop, (&scope, side, dry_run));
    broker.stop();
    let (report, done) = repaired?;
    let text = || {
        let lines = done.iter().map(|row| repaired_line(row, dry_run));
        std::iter::once(report.summary()).chain(lines).chain(notes(&report)).collect::<Vec<_>>().join("\n")
    };
    show.print(text, || {
        let rows: Vec<Value> = done.iter().map(|row| repaired_json(row, dry_run)).collect();
        json!({ "dry_run": dry_run, "rows": rows, "compared": document(&report) })
    });
    let left = done.iter().filter(|row| !row.why_not.is_empty()).count();
    let columns = report.tables.iter().filter(|table| !table.definitions.is_empty()).count();
    let more = report.tables.iter().any(|table| table.more);
    if left + columns == 0 && !more {
        return Ok(());
    }
    let rest = if more { "; there may be more: run it again" } else { "" };
    let text = format!("{left} rows and {columns} tables are not repaired{rest}");
    Err(Error::new(Kind::Unusable, text))
}

fn list(nodes: &[u64]) -> String {
    nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn key_text(key: &[value::Value]) -> String {
    let values: Vec<String> = key.iter().map(|value| value_json(value).to_string()).collect();
    printable(&values.join(", "))
}

fn lines(report: &Report) -> Vec<String> {
    let mut lines = vec![];
    for table in &report.tables {
        lines.extend(table_lines(table));
    }
    lines.extend(notes(report));
    let (rows, tables) = (report.rows(), report.tables.len());
    lines.push(format!(
        "{}: {tables} tables, {rows} rows, {:.1} s, {} KB over the network",
        report.summary(),
        report.took.as_secs_f64(),
        report.bytes.div_ceil(1_000)
    ));
    lines
}

fn table_lines(table: &OfTable) -> Vec<String> {
    let name = printable(&table.name);
    let mut lines: Vec<String> = table
        .definitions
        .iter()
        .map(|(definition, nodes)| {
            format!("table {name}: on node {}: {}", list(nodes), printable(definition))
        })
        .collect();
    lines.extend(table.differences.iter().map(|row| format!("table {name}, {}", difference(row))));
    if table.more {
        lines.push(format!("table {name}: there may be more rows that differ"));
    }
    lines
}

fn difference(row: &Difference) -> String {
    let groups = row.groups();
    let word = |(place, (print, nodes)): (usize, &(Option<u128>, Vec<u64>))| match (place, print) {
        (_, None) => format!("node {} does not have it", list(nodes)),
        (0, Some(_)) => format!("node {} has it", list(nodes)),
        (_, Some(_)) => format!("node {} has it otherwise", list(nodes)),
    };
    let mut words: Vec<String> = groups.iter().enumerate().map(word).collect();
    if !row.waits_on().is_empty() {
        words.push(format!(
            "events of it are set aside on node {}: see -set-aside there",
            list(&row.waits_on())
        ));
    }
    format!("key {}: {}", key_text(&row.key), words.join("; "))
}

/// What is not about rows that differ.
fn notes(report: &Report) -> Vec<String> {
    let mut lines = vec![];
    for table in &report.tables {
        lines.extend(table.aside.iter().map(|(node, events)| {
            let name = printable(&table.name);
            format!("table {name}: {events} events are set aside on node {node}: see -set-aside there")
        }));
    }
    for Left { table, key, why } in &report.unsettled {
        lines.push(format!("table {}, key {}: on its way: {why}", printable(table), key_text(key)));
    }
    if report.more_unsettled > 0 {
        lines.push(format!(
            "{} more rows are on their way, or have keys too long to be told",
            report.more_unsettled
        ));
    }
    lines.extend(
        report.left_out.iter().map(|(node, why)| format!("node {node} is not compared: {}", printable(why))),
    );
    if !report.silent.is_empty() {
        lines.push(format!("node {} has published changes and does not answer now", list(&report.silent)));
    }
    lines
}

fn document(report: &Report) -> Value {
    json!({
        "equal": report.is_equal(),
        "nodes": report.nodes,
        "not_compared": report.left_out.iter().map(|(node, why)| json!({ "node": node, "why": why })).collect::<Value>(),
        "silent": report.silent,
        "tables": report.tables.iter().map(table_json).collect::<Value>(),
        "on_their_way": report.unsettled.iter().map(|Left { table, key, why }| {
            json!({ "table": table, "key": key_json(key), "why": why })
        }).collect::<Value>(),
        "more_on_their_way": report.more_unsettled,
        "milliseconds": u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
        "bytes": report.bytes,
    })
}

fn key_json(key: &[value::Value]) -> Value {
    key.iter().map(value_json).collect()
}

fn table_json(table: &OfTable) -> Value {
    let group = |(text, nodes): &(String, Vec<u64>)| json!({ "definition": text, "nodes": nodes });
    json!({
        "name": table.name,
        "rows": table.rows,
        "definitions": table.definitions.iter().map(group).collect::<Value>(),
        "set_aside": table.aside.iter().map(|(node, events)| json!({ "node": node, "events": events })).collect::<Value>(),
        "differences": table.differences.iter().map(difference_json).collect::<Value>(),
        "more": table.more,
    })
}

fn difference_json(row: &Difference) -> Value {
    let groups = row.groups();
    let group =
        |(print, nodes): &(Option<u128>, Vec<u64>)| json!({ "there": print.is_some(), "nodes": nodes });
    json!({
        "key": key_json(&row.key),
        "states": groups.iter().map(group).collect::<Value>(),
        "waits_on": row.waits_on(),
    })
}

fn repaired_line(row: &Repaired, dry_run: bool) -> String {
    let what = match (row.why_not.as_str(), row.by) {
        ("", Some(node)) if dry_run => format!("would become as on node {node}"),
        ("", Some(node)) => format!("is everywhere as on node {node} now"),
        (why, _) => format!("not repaired: {}", printable(why)),
    };
    format!("table {}, key {}: {what}", printable(&row.table), key_text(&row.key))
}

fn repaired_json(row: &Repaired, dry_run: bool) -> Value {
    let why = (!row.why_not.is_empty()).then_some(&row.why_not);
    json!({
        "table": row.table,
        "key": key_json(&row.key),
        "as_on_node": row.by,
        "repaired": why.is_none() && !dry_run,
        "why_not": why,
    })
}
