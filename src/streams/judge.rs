//! The change streams: created as the Go program creates them, and judged against our checkpoint.

use crate::config::Config;
use crate::model::positions::Position;
use crate::nats::{Error, JetStream, StreamInfo};
use serde_json::{Value, json};

/// Makes sure that a shard's stream exists; with `update_existing` its limits are brought in line.
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

/// [`ensure`] for all shards.
pub fn ensure_all(js: &JetStream, config: &Config) -> Result<(), Error> {
    (1..=config.log.shards).try_for_each(|shard| ensure(js, config, shard).map(drop))
}

fn hint(error: Error, config: &Config) -> Error {
    let text = error.to_string();
    if text.contains("overlap") {
        let other = !config.log.compress;
        return error.at(format!(
            "another stream has the subject: nodes of this cluster use replication_log.compress = {other}"
        ));
    }
    error
}

fn stream_config(config: &Config, shard: u64) -> Value {
    let replicas = match config.log.replicas {
        0 => (config.log.shards / 2 + 1).min(5),
        replicas => replicas,
    };
    json!({
        "name": config.stream(shard), "subjects": [config.subject(shard)], "retention": "limits", "discard": "old",
        "max_msgs": config.log.max_entries, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1,
        "max_msg_size": -1, "max_consumers": -1, "storage": "file", "num_replicas": replicas,
        "duplicate_window": 120_000_000_000u64, "deny_delete": true, "allow_direct": true,
    })
}

/// How a stream relates to our checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Go on behind this position.
    Continue(Position),
    /// Another stream under the same name, or one that lost its tail: go on behind this position, which is in the
    /// stream as it is now, and publish again what has not come back.
    Changed(Position, String),
    /// The stream does not hold what comes next: these sequences are gone.
    Gap(u64, u64),
}

/// Judges a stream against a position.
pub fn judge(position: Option<&Position>, info: &StreamInfo) -> Judgement {
    let created = info.created.clone();
    let at = |seq: u64| Position { seq, created: created.clone() };
    let (seq, changed) = match position {
        None => (0, None),
        Some(position) if !position.created.is_empty() && position.created != created => {
            (0, Some(format!("was created anew at {created}")))
        }
        Some(position) if position.seq > info.state.last_seq => {
            let text =
                format!("ends at {}, this node had applied up to {}", info.state.last_seq, position.seq);
            (info.state.last_seq, Some(text))
        }
        Some(position) => (position.seq, None),
    };
    if info.state.first_seq > seq + 1 {
        return Judgement::Gap(seq + 1, info.state.first_seq - 1);
    }
    match changed {
        Some(why) => Judgement::Changed(at(seq), why),
        None => Judgement::Continue(at(seq)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::StreamState;

    fn info(created: &str, first_seq: u64, last_seq: u64) -> StreamInfo {
        let state = StreamState { messages: 0, first_seq, last_seq };
        StreamInfo { config: Value::Null, created: created.into(), state }
    }

    fn position(seq: u64, created: &str) -> Position {
        Position { seq, created: created.into() }
    }

    #[test]
    fn judgements() {
        let at = |seq, created: &str| Judgement::Continue(position(seq, created));
        assert_eq!(judge(None, &info("a", 0, 0)), at(0, "a"));
        assert_eq!(judge(None, &info("a", 1, 9)), at(0, "a"));
        assert_eq!(judge(None, &info("a", 2, 9)), Judgement::Gap(1, 1));
        assert_eq!(judge(Some(&position(5, "a")), &info("a", 1, 9)), at(5, "a"));
        // The last message before ours is the first one gone: nothing is missed.
        assert_eq!(judge(Some(&position(5, "a")), &info("a", 6, 9)), at(5, "a"));
        assert_eq!(judge(Some(&position(5, "a")), &info("a", 7, 9)), Judgement::Gap(6, 6));
        assert_eq!(judge(Some(&position(5, "")), &info("a", 1, 9)), at(5, "a"));
        let Judgement::Changed(now, _) = judge(Some(&position(5, "a")), &info("b", 1, 9)) else { panic!() };
        assert_eq!(now, position(0, "b"));
        let Judgement::Changed(now, _) = judge(Some(&position(9, "a")), &info("a", 1, 7)) else { panic!() };
        assert_eq!(now, position(7, "a"));
        assert_eq!(judge(Some(&position(5, "a")), &info("b", 4, 9)), Judgement::Gap(1, 3));
    }
}
