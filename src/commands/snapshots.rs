//! The commands that do one thing and end: what they print is here.

use crate::base::{clock, limits, stop::Stop};
use crate::broker::{Broker, open_store};
use crate::config::Config;
use crate::daemon;
use crate::db;
use crate::nats::JetStream;
use crate::snapshot::{self, Terms, show_positions};
use crate::storage::{Label, Store, Stored};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Show {
    /// One JSON document instead of text.
    pub json: bool,
    /// Nothing when all is well.
    pub quiet: bool,
}

impl Show {
    fn print(self, text: impl FnOnce() -> String, value: impl FnOnce() -> Value) {
        match self {
            Show { json: true, .. } => println!("{}", value()),
            Show { quiet: true, .. } => {}
            _ => println!("{}", text()),
        }
    }
}

/// `-cleanup`.
pub fn cleanup(config: &Config, show: Show) -> Result<(), String> {
    let path = config.db_path.display();
    if !config.db_path.exists() {
        return Err(format!("{path}: no such file"));
    }
    let _lock = daemon::lock_database(config)?;
    let removed = db::cleanup(&config.db_path).map_err(|error| format!("{path}: {error}"))?;
    show.print(
        || format!("{path}: removed {} triggers and tables of harmonylite", removed.len()),
        || json!({ "removed": removed }),
    );
    Ok(())
}

/// Runs something with the store, and with the broker where one of them needs it.
fn with_store(
    config: &Config,
    stop: &Stop,
    needs_broker: bool,
    step: impl FnOnce(&Store, Option<&JetStream>) -> Result<(), String>,
) -> Result<(), String> {
    let apart = !needs_broker && config.snapshot.store.is_apart_from_nats();
    // Where NATS only knows more about what is in the store, it is asked for a moment.
    let useful = !config.snapshot.verify_interval.is_zero() && !config.nats.urls.is_empty();
    if apart && !useful {
        return step(&open_store(config, None, stop)?, None);
    }
    let (exits, _ended) = crossbeam_channel::bounded(8);
    let broker = Broker::start(config, stop, &exits)?;
    let up = broker.connection.wait_up(if apart { limits::PROOF_LOOK } else { Duration::from_secs(15) });
    if apart && up.is_err() {
        broker.stop();
        return step(&open_store(config, None, stop)?, None);
    }
    let result = up
        .map_err(|error| error.to_string())
        .and_then(|()| open_store(config, Some(&broker.connection), stop))
        .and_then(|store| step(&store, Some(&JetStream::new(broker.connection.clone()))));
    broker.stop();
    result
}

/// `-save-snapshot`.
pub fn save(config: &Config, stop: &Stop, show: Show) -> Result<(), String> {
    if !config.snapshot.enabled {
        return Err("snapshot.enabled = false: no snapshot is made".to_owned());
    }
    if !config.replicate {
        return Err(
            "replicate = false: this database does not hold what other nodes wrote, so no snapshot is made of it: make it \
             on a node that replicates"
                .to_owned(),
        );
    }
    if !config.db_path.exists() {
        return Err(format!("{}: no such file", config.db_path.display()));
    }
    with_store(config, stop, true, |store, js| {
        let js = js.ok_or("no broker")?;
        let terms = Terms { patience: limits::SNAPSHOT_PATIENCE, leader: None, anew: false, status: None };
        let saved = snapshot::save(config, js, store, stop, terms)?;
        let seconds = saved.took.as_secs_f64();
        show.print(
            || {
                let Stored { name, size, label, .. } = &saved.stored;
                let verb = if saved.unchanged { "unchanged since it was stored:" } else { "stored" };
                format!(
                    "{verb} {name} in {}: {size} bytes, position {}, {}, {seconds:.2} s",
                    store.describe(),
                    show_positions(&label.positions),
                    label.digest
                )
            },
            || {
                let mut value = describe(&saved.stored);
                value["unchanged"] = saved.unchanged.into();
                value["seconds"] = seconds.into();
                value["store"] = store.describe().into();
                value
            },
        );
        Ok(())
    })
}

/// `-list-snapshots`.
pub fn list(config: &Config, stop: &Stop, show: Show) -> Result<(), String> {
    with_store(config, stop, false, |store, js| {
        let (found, proof) = snapshot::list_proven(config, js, store)?;
        let proven = |stored: &Stored| {
            let proof = proof.as_ref().filter(|proof| proof.digest == stored.label.digest);
            proof.map(|proof| proof.time_ms)
        };
        // Asked for a list, quiet or not, one gets the list.
        Show { quiet: false, ..show }.print(
            || {
                let last = proof.as_ref().map_or(String::new(), |proof| {
                    format!("\nlast restore on trial: {} ago", age(clock::unix_ms() - proof.time_ms))
                });
                table(store, &found, proven) + &last
            },
            || {
                let with_proof = |stored: &Stored| {
                    let mut value = describe(stored);
                    value["proven"] = proven(stored).map_or(Value::Null, |ms| clock::rfc3339(ms).into());
                    value
                };
                let last = proof.as_ref().map_or(Value::Null, |proof| clock::rfc3339(proof.time_ms).into());
                let snapshots: Vec<Value> = found.iter().map(with_proof).collect();
                json!({ "store": store.describe(), "snapshots": snapshots, "last_proven": last })
            },
        );
        Ok(())
    })
}

/// `-verify-snapshot`.
pub fn verify(config: &Config, stop: &Stop, show: Show, name: &str) -> Result<(), String> {
    with_store(config, stop, false, |store, _| {
        let verdict = snapshot::verify(config, store, name)?;
        let mut value = describe(&verdict.stored);
        let inside = match verdict.inside {
            Ok(inside) => inside,
            Err(why) => {
                value["ok"] = false.into();
                value["problem"] = why.clone().into();
                if show.json {
                    println!("{value}");
                }
                return Err(format!("{name}: not good: {why}"));
            }
        };
        let Label { digest, .. } = &verdict.stored.label;
        show.print(
            || {
                let checked = if digest.is_empty() { "no digest to compare with" } else { "digest right" };
                format!(
                    "{name}: good: {} bytes, {checked}, integrity_check ok, {} tables, position {}",
                    verdict.stored.size,
                    inside.tables,
                    show_positions(&inside.positions)
                )
            },
            || {
                value["ok"] = true.into();
                value["position"] = json!(inside.positions);
                value["schema"] = inside.schema.clone().into();
                value["tables"] = inside.tables.into();
                value
            },
        );
        Ok(())
    })
}

/// `-restore-snapshot NAME -to FILE`.
pub fn restore(config: &Config, stop: &Stop, show: Show, name: &str, target: &Path) -> Result<(), String> {
    with_store(config, stop, false, |store, _| {
        let stored = snapshot::restore_to(config, store, name, target)?;
        show.print(
            || {
                format!(
                    "restored {name} of {} to {}: {} bytes in the store",
                    store.describe(),
                    target.display(),
                    stored.size
                )
            },
            || {
                let mut value = describe(&stored);
                value["file"] = target.display().to_string().into();
                value
            },
        );
        Ok(())
    })
}

/// `-restore-at TIME|POSITION -to FILE`.
pub fn restore_at(config: &Config, stop: &Stop, show: Show, when: &str, target: &Path) -> Result<(), String> {
    let until = snapshot::parse_when(config, when)?;
    with_store(config, stop, true, |store, js| {
        let js = js.ok_or("no broker")?;
        let restored = snapshot::restore_at(config, js, store, &until, target, stop)?;
        show.print(
            || {
                format!(
                    "restored {} as of {when}: snapshot {} and {} messages behind it, position {}",
                    target.display(),
                    restored.from.name,
                    restored.messages,
                    show_positions(&restored.positions)
                )
            },
            || {
                json!({
                    "file": target.display().to_string(), "from": describe(&restored.from),
                    "messages": restored.messages, "position": restored.positions,
                })
            },
        );
        Ok(())
    })
}

/// A snapshot as JSON; what is not known is null.
fn describe(stored: &Stored) -> Value {
    let Label { digest, positions, schema, node, time_ms, encoding, verified, .. } = &stored.label;
    let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    let known = |known: bool, value: Value| if known { value } else { Value::Null };
    json!({
        "name": stored.name,
        "size": stored.size,
        "time": known(*time_ms > 0, clock::rfc3339(*time_ms).into()),
        "age_seconds": known(*time_ms > 0, ((clock::unix_ms() - time_ms) / 1000).into()),
        "position": known(!positions.is_empty(), json!(positions)),
        "schema": text(schema),
        "node": known(*node > 0, (*node).into()),
        "digest": text(digest),
        "encoding": text(encoding),
        "verified": verified,
    })
}

/// Columns as wide as their widest text.
fn table(store: &Store, found: &[Stored], proven: impl Fn(&Stored) -> Option<i64>) -> String {
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
            or_dash(*time_ms > 0, age(clock::unix_ms() - time_ms)),
            size(stored.size),
            or_dash(!positions.is_empty(), show_positions(positions)),
            or_dash(!schema.is_empty(), schema.chars().take(12).collect()),
            or_dash(*node > 0, node.to_string()),
            match (proven(stored), verified) {
                (Some(ms), _) => format!("restored on trial {} ago", age(clock::unix_ms() - ms)),
                (None, true) => "at upload".to_owned(),
                (None, false) => "no".to_owned(),
            },
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `5 s`, `7 min`, `3 h`, `12 d`.
fn age(ms: i64) -> String {
    match ms.max(0) / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// `512 B`, `1.5 MB`: powers of a thousand.
fn size(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let mut number = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if number < 999.95 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{number:.1} {unit}") };
        }
        number /= 1000.0;
    }
    format!("{number:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_for_people() {
        let ages: Vec<String> =
            [-5, 0, 119_000, 120_000, 7_199_000, 7_200_000, 172_800_000].map(age).to_vec();
        assert_eq!(ages, ["0 s", "0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
        let sizes: Vec<String> =
            [0, 999, 1_000, 1_550_000, 999_999_999, 5_000_000_000_000].map(size).to_vec();
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "1.6 MB", "1.0 GB", "5.0 TB"]);
    }
}
