//! The commands about snapshots: made now, listed, verified, restored.

use super::shown::{age, describe, table};
use super::{Show, escaped};
use crate::base::error::{Error, Kind};
use crate::base::{clock, limits, stop::Stop};
use crate::broker::{Broker, open_store};
use crate::cluster::Bucket;
use crate::config::Config;
use crate::nats::JetStream;
use crate::snapshot::{self, Terms, show_positions};
use crate::storage::{Label, Store, Stored};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// How long a command that needs the broker waits for the connection.
const BROKER_WAIT: Duration = Duration::from_secs(15);

/// What a command works with.
struct Places<'a> {
    config: &'a Config,
    store: Store,
    /// The cluster's bucket; `None`: without the broker.
    bucket: Option<Bucket>,
    stop: &'a Stop,
}

impl Places<'_> {
    /// For commands that cannot do without the broker.
    fn node(&self) -> Result<snapshot::Node<'_>, Error> {
        let bucket = self.bucket.as_ref().ok_or_else(|| Error::unreachable("not connected to NATS"))?;
        Ok(snapshot::Node { config: self.config, bucket, stop: self.stop })
    }
}

/// Whether a command can do without the broker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Broker,
    /// The store, wherever it is.
    Store,
}

/// Runs a command with the store, and with the broker where one of them needs it.
fn with_store(
    config: &Config,
    stop: &Stop,
    needs: Needs,
    command: impl FnOnce(&Places<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(broker) = broker_for(config, stop, needs)? else {
        let store = open_store(config, None, stop)?;
        return command(&Places { config, store, bucket: None, stop });
    };
    let store = open_store(config, Some(&broker.connection), stop);
    let result = store.and_then(|store| {
        let js = JetStream::new(broker.connection.clone());
        let bucket = Some(Bucket::new(&js, config.log.replicas));
        command(&Places { config, store, bucket, stop })
    });
    broker.stop();
    result
}

/// The connected broker; `None`: the command can do without it.
fn broker_for(config: &Config, stop: &Stop, needs: Needs) -> Result<Option<Broker>, Error> {
    let apart = needs == Needs::Store && config.snapshot.store.is_apart_from_nats();
    // Where NATS only knows more about what is in the store, it is asked for a moment.
    let useful = !config.snapshot.verify_interval.is_zero() && !config.nats.urls.is_empty();
    if apart && !useful {
        return Ok(None);
    }
    let broker = Broker::start(config, stop)?;
    match broker.connection.wait_up(if apart { limits::PROOF_LOOK } else { BROKER_WAIT }) {
        Ok(()) => Ok(Some(broker)),
        Err(error) => {
            broker.stop();
            if apart { Ok(None) } else { Err(error.into()) }
        }
    }
}

/// The broker, for a command that cannot do without it.
pub fn with_broker(config: &Config, stop: &Stop) -> Result<Broker, Error> {
    let broker = Broker::start(config, stop)?;
    match broker.connection.wait_up(BROKER_WAIT) {
        Ok(()) => Ok(broker),
        Err(error) => {
            broker.stop();
            Err(error.into())
        }
    }
}

/// `-save-snapshot`.
pub fn save(config: &Config, stop: &Stop, show: Show) -> Result<(), Error> {
    if !config.snapshot.enabled {
        return Err(Error::usage("snapshot.enabled = false: no snapshot is made"));
    }
    if !config.replicate {
        return Err(Error::usage(
            "replicate = false: this database does not hold what other nodes wrote, so no snapshot is made of it: make it \
             on a node that replicates",
        ));
    }
    if !config.db_path.exists() {
        return Err(Error::new(Kind::Missing, format!("{}: no such file", config.db_path.display())));
    }
    with_store(config, stop, Needs::Broker, |places| {
        let store = &places.store;
        let terms = Terms { patience: limits::SNAPSHOT_PATIENCE, leader: None, anew: false };
        let saved = snapshot::save(places.node()?, store, terms)?;
        snapshot::ping(&config.snapshot.ping_url);
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
pub fn list(config: &Config, stop: &Stop, show: Show) -> Result<(), Error> {
    with_store(config, stop, Needs::Store, |places| {
        let store = &places.store;
        let (found, proof) = snapshot::list_proven(places.bucket.as_ref(), store)?;
        let proven = |stored: &Stored| {
            let proof = proof.as_ref().filter(|proof| proof.digest == stored.label.digest);
            proof.map(|proof| proof.time_ms)
        };
        // Asked for a list, quiet or not, one gets the list.
        Show { quiet: false, ..show }.print(
            || {
                let last = proof.as_ref().map_or(String::new(), |proof| {
                    format!("\nlast restore on trial: {} ago", age(proof.time_ms))
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
pub fn verify(config: &Config, stop: &Stop, show: Show, name: &str) -> Result<(), Error> {
    with_store(config, stop, Needs::Store, |places| {
        let store = &places.store;
        let verdict = snapshot::verify(config, store, name)?;
        let mut value = describe(&verdict.stored);
        let inside = match verdict.inside {
            Ok(inside) => inside,
            Err(why) => {
                value["ok"] = false.into();
                value["problem"] = why.to_string().into();
                if show.json {
                    println!("{}", escaped(&value.to_string()));
                }
                return Err(Error::new(Kind::Unusable, format!("{name}: not good: {why}")));
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
pub fn restore(config: &Config, stop: &Stop, show: Show, name: &str, target: &Path) -> Result<(), Error> {
    with_store(config, stop, Needs::Store, |places| {
        let store = &places.store;
        let stored = snapshot::restore_to(store, name, target)?;
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

/// `-restore-at TIME|POSITION -everywhere`.
pub fn restore_everywhere(config: &Config, stop: &Stop, show: Show, when: &str) -> Result<(), Error> {
    let until = snapshot::parse_when(config, when)?;
    if !config.publish {
        return Err(Error::usage("publish = false: this node writes nothing for others; use another one"));
    }
    with_store(config, stop, Needs::Broker, |places| {
        let (restored, [deleted, written]) =
            snapshot::restore_everywhere(places.node()?, &places.store, &until)?;
        show.print(
            || {
                format!(
                    "{} is as of {when}: {deleted} rows deleted, {written} written (snapshot {} and {} messages after it, position {}). \
                     The daemon brings it to all other nodes, as it does with every write",
                    config.db_path.display(),
                    restored.from.name,
                    restored.messages,
                    show_positions(&restored.positions)
                )
            },
            || {
                json!({
                    "database": config.db_path.display().to_string(), "from": describe(&restored.from),
                    "messages": restored.messages, "position": restored.positions, "deleted": deleted, "written": written,
                })
            },
        );
        Ok(())
    })
}

/// `-restore-at TIME|POSITION -to FILE`.
pub fn restore_at(config: &Config, stop: &Stop, show: Show, when: &str, target: &Path) -> Result<(), Error> {
    let until = snapshot::parse_when(config, when)?;
    with_store(config, stop, Needs::Broker, |places| {
        let restored = snapshot::restore_at(places.node()?, &places.store, &until, target)?;
        show.print(
            || {
                format!(
                    "restored {} as of {when}: snapshot {} and {} messages after it, position {}",
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
