//! Making the change streams, as the Go program makes them (formats, section "Change streams and messages").

use super::format::{description, format_of};
use crate::base::error;
use crate::config::Config;
use crate::model::set::Format;
use crate::nats::{Error, JetStream, StreamInfo};
use serde_json::{Value, json};

/// Makes sure that a shard's stream exists; with `update_existing` its limits are brought in line with the configuration.
pub fn ensure(js: &JetStream, config: &Config, shard: u64) -> Result<StreamInfo, Error> {
    let wanted = stream_config(config, shard);
    let name = config.stream(shard);
    let (info, created) =
        js.ensure_stream(&wanted).map_err(|error| hint(error, config).at(format!("stream {name}")))?;
    if created {
        log::info!("created stream {name}: the newest {} changes are kept", config.log.max_entries);
        return Ok(info);
    }
    if config.log.update_existing {
        let changes =
            [("max_msgs", wanted["max_msgs"].clone()), ("num_replicas", wanted["num_replicas"].clone())];
        if js.change_stream(&info, &changes).map_err(|error| error.at(format!("update stream {name}")))? {
            log::info!("stream {name}: limits updated");
        }
    }
    Ok(info)
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

/// Tells what to do about a stream of the other kind, which has the same subject.
fn hint(error: Error, config: &Config) -> Error {
    if !matches!(error, Error::Overlap(_)) {
        return error;
    }
    let other = !config.log.compress;
    error.at(format!(
        "another stream has the subject: nodes of this cluster use replication_log.compress = {other}"
    ))
}

fn stream_config(config: &Config, shard: u64) -> Value {
    let replicas = match config.log.replicas {
        // As the Go program counts them.
        0 => (config.log.shards / 2 + 1).min(5),
        replicas => replicas,
    };
    // A description that is empty is none: then the stream is made as the Go program makes it.
    json!({
        "description": description(config.log.format.unwrap_or(Format::Sets)), "name": config.stream(shard), "subjects": [config.subject(shard)], "retention": "limits", "discard": "old",
        "max_msgs": config.log.max_entries, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1,
        "max_msg_size": -1, "max_consumers": -1, "storage": "file", "num_replicas": replicas,
        "duplicate_window": 120_000_000_000u64, "deny_delete": true, "allow_direct": true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_made_as_configured() {
        let config =
            crate::config::tests::with("replication_log.shards = 2\nreplication_log.max_entries = 77");
        let made = stream_config(&config, 2);
        assert_eq!(made["name"], "harmonylite-changes-c-2");
        assert_eq!(made["subjects"], json!(["harmonylite-change-log-2"]));
        assert_eq!((made["max_msgs"].as_u64(), made["num_replicas"].as_u64()), (Some(77), Some(1)));
    }

    #[test]
    fn replicas_follow_the_shards_when_nobody_says_how_many() {
        for (shards, replicas) in [(1, 1), (2, 2), (4, 3), (64, 5)] {
            let settings = format!("replication_log.shards = {shards}\nreplication_log.replicas = 0");
            let made = stream_config(&crate::config::tests::with(&settings), 1);
            assert_eq!(made["num_replicas"].as_u64(), Some(replicas), "{shards} shards");
        }
    }

    #[test]
    fn a_stream_of_the_other_kind_is_named() {
        let config = crate::config::tests::with("");
        let told = hint(Error::Overlap("subjects overlap".into()), &config).to_string();
        assert!(told.contains("replication_log.compress = false"), "{told}");
        let other = Error::Transient("timeout".into());
        assert_eq!(hint(other.clone(), &config), other);
    }
}
