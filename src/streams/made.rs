//! Making the change streams, as the Go program makes them (formats, section "Change streams and messages").

use super::format::{description, format_of};
use crate::base::error;
use crate::config::Config;
use crate::model::{reach::Reach, set::Format};
use crate::nats::{Error, JetStream, NO_ROOM, StreamInfo};
use serde_json::{Value, json};

/// Makes sure that a shard's stream exists; with `update_existing` its limits are brought in line with the configuration.
pub fn ensure(js: &JetStream, config: &Config, shard: u64) -> Result<StreamInfo, Error> {
    let mut reach = match config.log.max_entries {
        Some(messages) => Reach::of_messages(messages),
        None => Reach::least(std::fs::metadata(&config.db_path).map_or(0, |meta| meta.len())),
    };
    let name = config.stream(shard);
    loop {
        match ensure_with(js, config, shard, reach) {
            // It need not be so much.
            Err(Error::NoRoom(why)) if reach.bytes != u64::MAX && reach.bytes > LEAST_BYTES => {
                let half = reach.bytes / 2;
                log::warn!(
                    "stream {name}: the server has no room for {} MiB ({why}): asking for {} MiB",
                    reach.bytes >> 20,
                    half >> 20
                );
                reach.bytes = half;
            }
            result => return result.map_err(|error| hint(error, config).at(format!("stream {name}"))),
        }
    }
}

/// A stream that may keep less than this is of little use.
const LEAST_BYTES: u64 = 2 << 20;

fn ensure_with(js: &JetStream, config: &Config, shard: u64, reach: Reach) -> Result<StreamInfo, Error> {
    let wanted = stream_config(config, shard, reach);
    let (info, created) = js.ensure_stream(&wanted)?;
    let name = config.stream(shard);
    if created {
        let kept = match reach {
            Reach { messages, bytes: u64::MAX } => format!("the newest {messages} messages are kept"),
            Reach { messages, bytes } => {
                format!("the newest {messages} messages or {} MiB are kept", bytes >> 20)
            }
        };
        log::info!("created stream {name}: {kept}");
        return Ok(info);
    }
    if config.log.update_existing {
        let changes = ["max_msgs", "max_bytes", "num_replicas"].map(|key| (key, wanted[key].clone()));
        if js.change_stream(&info, &changes)? {
            log::info!("stream {name}: limits updated");
        }
    }
    Ok(info)
}

/// How far a stream reaches back, as it was set.
pub fn reach_of(info: &StreamInfo) -> Reach {
    // Both are -1 where there is no bound; 0 counts as none, too.
    let bound = |key: &str| info.config[key].as_u64().filter(|bound| *bound > 0).unwrap_or(u64::MAX);
    Reach { messages: bound("max_msgs"), bytes: bound("max_bytes") }
}

/// Bytes of a message in the middle, as the server counts them.
pub fn size_of(info: &StreamInfo) -> u64 {
    info.state.bytes / info.state.messages.max(1)
}

/// Lets a stream reach back as far as a database of so many bytes asks for, unless somebody has said how far; returns how far it
/// reaches then.
pub fn widen(
    js: &JetStream,
    config: &Config,
    (shard, reach): (u64, Reach),
    database: u64,
) -> Result<Reach, Error> {
    // A stream of which bytes are not counted is a Go node's, or an earlier version's, or a person set its bounds.
    if config.log.max_entries.is_some() || reach.bytes == u64::MAX || reach.covers(Reach::least(database)) {
        return Ok(reach);
    }
    let name = config.stream(shard);
    let info = js.stream(&name)?.ok_or_else(|| Error::NotFound(format!("stream {name} is gone")))?;
    let (mut now, wanted) = (reach_of(&info), Reach::ample(database));
    if now.bytes != u64::MAX && !now.covers(Reach::least(database)) {
        now = Reach { messages: now.messages.max(wanted.messages), bytes: now.bytes.max(wanted.bytes) };
        let changes = [("max_msgs", json!(now.messages)), ("max_bytes", json!(now.bytes))];
        js.change_stream(&info, &changes).map_err(|error| match error {
            // The words for what to do come before those of the server: both may be cut where they are shown.
            Error::NoRoom(why) => Error::NoRoom(format!(
                "stream {name} keeps {} MiB, which is little for this database, and the broker has no room for {} MiB: {NO_ROOM}, or \
                 set replication_log.max_entries ({why})",
                reach.bytes >> 20,
                now.bytes >> 20
            )),
            error => error.at(format!("widen stream {name}")),
        })?;
        log::info!(
            "stream {name}: the newest {} messages or {} MiB are kept from now on",
            now.messages,
            now.bytes >> 20
        );
    }
    Ok(now)
}

/// [`ensure`] for all shards; returns the streams' forms.
pub fn ensure_all(js: &JetStream, config: &Config) -> Result<Vec<Format>, error::Error> {
    (1..=config.log.shards)
        .map(|shard| {
            let info = ensure(js, config, shard)?;
            format_of(&info).map_err(|error| error.at(format!("stream {}", config.stream(shard))))
        })
        .collect()
}

/// Changes the form in which changes are published; returns the streams that had another.
pub fn change_format(js: &JetStream, config: &Config, format: Format) -> Result<Vec<String>, error::Error> {
    let mut changed = vec![];
    for shard in 1..=config.log.shards {
        let name = config.stream(shard);
        let at = |error: error::Error| error.at(format!("stream {name}"));
        let info = js.stream(&name).map_err(|error| at(error.into()))?;
        let missing =
            || at(error::Error::new(error::Kind::Missing, "there is no such stream yet: start a daemon"));
        let info = info.ok_or_else(missing)?;
        format_of(&info).map_err(at)?;
        let changes = [("description", json!(description(format)))];
        if js.change_stream(&info, &changes).map_err(|error| at(error.into()))? {
            changed.push(name);
        }
    }
    Ok(changed)
}

/// Warns of a stream beyond those of this node's shards. Other nodes use it, Go nodes perhaps, or have used it.
pub fn warn_of_more_shards(js: &JetStream, config: &Config) -> Result<(), Error> {
    let next = config.stream(config.log.shards + 1);
    if js.stream(&next)?.is_some() {
        log::warn!(
            "there is a stream {next}, and replication_log.shards = {} here: this node does not read what other nodes publish \
             there. Give all nodes the same number; if the stream is a remnant, delete it",
            config.log.shards
        );
    }
    Ok(())
}

/// Tells what to do about a broker that is full, and about a stream of the other kind, which has the same subject.
fn hint(error: Error, config: &Config) -> Error {
    match error {
        Error::Overlap(_) => {}
        Error::NoRoom(why) => return Error::NoRoom(format!("{NO_ROOM} ({why})")),
        error => return error,
    }
    let other = !config.log.compress;
    error.at(format!(
        "another stream has the subject: nodes of this cluster use replication_log.compress = {other}"
    ))
}

fn stream_config(config: &Config, shard: u64, reach: Reach) -> Value {
    let replicas = match config.log.replicas {
        // As the Go program counts them.
        0 => (config.log.shards / 2 + 1).min(5),
        replicas => replicas,
    };
    // A description that is empty is none: then the stream is made as the Go program makes it.
    json!({
        "description": description(config.log.format.unwrap_or(Format::Sets)), "name": config.stream(shard), "subjects": [config.subject(shard)], "retention": "limits", "discard": "old",
        "max_msgs": reach.messages, "max_bytes": i64::try_from(reach.bytes).unwrap_or(-1), "max_age": 0, "max_msgs_per_subject": -1,
        "max_msg_size": -1, "max_consumers": -1, "storage": "file", "num_replicas": replicas,
        "duplicate_window": 120_000_000_000u64, "deny_delete": true, "allow_direct": true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::StreamState;

    #[test]
    fn streams_are_made_as_configured() {
        let config =
            crate::config::tests::with("replication_log.shards = 2\nreplication_log.max_entries = 77");
        let made = stream_config(&config, 2, Reach::of_messages(77));
        assert_eq!(made["name"], "harmonylite-changes-c-2");
        assert_eq!(made["subjects"], json!(["harmonylite-change-log-2"]));
        assert_eq!((made["max_msgs"].as_u64(), made["num_replicas"].as_u64()), (Some(77), Some(1)));
        assert_eq!(made["max_bytes"], -1);
        let made = stream_config(&config, 1, Reach::least(0));
        assert_eq!((&made["max_msgs"], &made["max_bytes"]), (&json!(1 << 20), &json!(64 << 20)));
    }

    #[test]
    fn how_far_a_stream_reaches_is_read_from_its_limits() {
        let of = |config: Value| {
            reach_of(&StreamInfo {
                config,
                created: String::new(),
                state: StreamState::default(),
                ts: String::new(),
            })
        };
        assert_eq!(of(json!({ "max_msgs": 5, "max_bytes": -1 })), Reach::of_messages(5));
        assert_eq!(of(json!({ "max_msgs": -1, "max_bytes": 0 })), Reach::of_messages(u64::MAX));
        assert_eq!(of(json!({ "max_msgs": 5, "max_bytes": 7 })), Reach { messages: 5, bytes: 7 });
    }

    #[test]
    fn replicas_follow_the_shards_when_nobody_says_how_many() {
        for (shards, replicas) in [(1, 1), (2, 2), (4, 3), (64, 5)] {
            let settings = format!("replication_log.shards = {shards}\nreplication_log.replicas = 0");
            let made = stream_config(&crate::config::tests::with(&settings), 1, Reach::least(0));
            assert_eq!(made["num_replicas"].as_u64(), Some(replicas), "{shards} shards");
        }
    }

    #[test]
    fn a_stream_of_the_other_kind_is_named() {
        let config = crate::config::tests::with("");
        let told = hint(Error::Overlap("subjects overlap".into()), &config).to_string();
        assert!(told.contains("replication_log.compress = false"), "{told}");
        assert!(
            hint(Error::NoRoom("no storage".into()), &config)
                .to_string()
                .starts_with("make room on the broker")
        );
        let other = Error::Transient("timeout".into());
        assert_eq!(hint(other.clone(), &config), other);
    }
}
