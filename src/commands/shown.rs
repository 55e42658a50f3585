//! Snapshots as people and programs read them: a table, JSON, ages and sizes.

use crate::base::clock;
use crate::model::value as model;
use crate::operate::words::{self, size};
use crate::snapshot::show_positions;
use crate::storage::{Label, Store, Stored};
use serde_json::{Value, json};

/// A snapshot as JSON; what is not known is null.
pub fn describe(stored: &Stored) -> Value {
    let Label { digest, positions, schema, node, time_ms, encoding, verified, .. } = &stored.label;
    let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    let known = |known: bool, value: Value| if known { value } else { Value::Null };
    json!({
        "name": stored.name,
        "size": stored.size,
        "time": known(*time_ms > 0, clock::rfc3339(*time_ms).into()),
        "age_seconds": known(*time_ms > 0, (clock::unix_ms().saturating_sub(*time_ms) / 1000).into()),
        "position": known(!positions.is_empty(), json!(positions)),
        "schema": text(schema),
        "node": known(*node > 0, (*node).into()),
        "digest": text(digest),
        "encoding": text(encoding),
        "verified": verified,
        "refused": stored.refused(),
    })
}

/// A table of snapshots.
pub fn table(store: &Store, found: &[Stored], proven: impl Fn(&Stored) -> Option<i64>) -> String {
    if found.is_empty() {
        return format!("{}: no snapshots", store.describe());
    }
    let mut rows =
        vec![["NAME", "AGE", "SIZE", "POSITION", "SCHEMA", "NODE", "VERIFIED"].map(str::to_owned).to_vec()];
    rows.extend(found.iter().map(|stored| {
        let Label { positions, schema, node, time_ms, verified, .. } = &stored.label;
        let or_dash = |known: bool, text: String| if known { text } else { "-".to_owned() };
        vec![
            stored.name.clone(),
            or_dash(*time_ms > 0, age(*time_ms)),
            size(stored.size),
            or_dash(!positions.is_empty(), show_positions(positions)),
            or_dash(!schema.is_empty(), schema.chars().take(12).collect()),
            or_dash(*node > 0, node.to_string()),
            match (proven(stored), verified) {
                _ if stored.refused().is_some() => "refused".to_owned(),
                (Some(ms), _) => format!("restored on trial {} ago", age(ms)),
                (None, true) => "at upload".to_owned(),
                (None, false) => "no".to_owned(),
            },
        ]
    }));
    let refused = found.iter().filter_map(|stored| Some(format!("{}: {}", stored.name, stored.refused()?)));
    std::iter::once(columns(&rows)).chain(refused).collect::<Vec<_>>().join("\n")
}

/// Bytes that are no text become `{"hex": "..."}`.
pub fn value_json(value: &model::Value) -> Value {
    let hex = |bytes: &[u8]| json!({ "hex": data_encoding::HEXLOWER.encode(bytes) });
    match value {
        model::Value::Null => Value::Null,
        model::Value::Integer(number) => json!(number),
        model::Value::Real(real) if real.is_finite() => json!(real),
        model::Value::Real(real) => json!(real.to_string()),
        model::Value::Text(bytes) => {
            std::str::from_utf8(bytes).map_or_else(|_| hex(bytes), |text| json!(text))
        }
        model::Value::Blob(bytes) => hex(bytes),
    }
}

/// Names come from whoever publishes: a terminal must not obey them.
pub fn printable(text: &str) -> String {
    text.chars()
        .take(200)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

/// Texts in columns as wide as their widest text.
pub fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        // A line break in what somebody stored must not look like a row.
        cells.join("  ").trim_end().replace('\n', "\\n")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// How long ago a time was, in Unix milliseconds by anybody's clock: `5 s`, `7 min`, `3 h`, `12 d`.
pub fn age(then_ms: i64) -> String {
    duration(clock::unix_ms().saturating_sub(then_ms))
}

fn duration(ms: i64) -> String {
    words::duration(ms.max(0).unsigned_abs() / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_for_people() {
        let ages: Vec<String> =
            [-5, 0, 119_000, 120_000, 7_199_000, 7_200_000, 172_800_000].map(duration).to_vec();
        assert_eq!(ages, ["0 s", "0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
        let sizes: Vec<String> =
            [0, 999, 1_000, 1_550_000, 999_999_999, 5_000_000_000_000].map(size).to_vec();
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "1.6 MB", "1.0 GB", "5.0 TB"]);
    }

    #[test]
    fn a_line_break_in_a_cell_makes_no_row() {
        let cells = ["a\nb", "c"].map(str::to_owned).to_vec();
        assert_eq!(columns(&[cells.clone(), cells]), "a\\nb  c\na\\nb  c");
    }

    #[test]
    fn absurd_times_have_an_age() {
        assert_eq!((age(i64::MAX).as_str(), age(i64::MIN).as_str()), ("0 s", "106751991167 d"));
        let label = Label { time_ms: i64::MIN, ..Label::default() };
        let stored = Stored { label, ..Stored::default() };
        assert_eq!(describe(&stored)["age_seconds"], Value::Null);
        let stored = Stored { label: Label { time_ms: i64::MAX, ..Label::default() }, ..stored };
        assert!(describe(&stored)["age_seconds"].as_i64().unwrap() < 0, "its maker's clock is ahead of ours");
    }
}
