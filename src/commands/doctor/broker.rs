//! The broker: reachable, JetStream, payload, the streams' storage, copies and reach, its clock against ours.

use super::Report;
use crate::base::clock;
use crate::base::stop::Stop;
use crate::broker::{Broker, server_version};
use crate::config::Config;
use crate::nats::{Connection, Error, JetStream};
use crate::operate::words::{age, bytes};
use serde_json::Value;
use std::time::Duration;

/// How long a connection is waited for.
const WAIT: Duration = Duration::from_secs(6);
/// A stream that reaches back less far makes a node that was away fetch a snapshot.
const HOURS: u64 = 24;
/// A clock that differs more than this shows wrong ages.
const CLOCK_MS: u64 = 30_000;
/// Less than this makes many pieces of ordinary rows.
const PAYLOAD: usize = 256 << 10;

/// Looks at it; gives the connection to whoever needs it next.
pub fn look(config: &Config, report: &mut Report, stop: &Stop) -> Option<Broker> {
    if config.nats.urls.is_empty() {
        match server_version(config) {
            Ok(text) => report.good("nats-server", format!("our own: {text}")),
            Err(error) => {
                let advice = "apt-get install nats-server, or set nats.urls";
                report.broken("nats-server", error.to_string(), advice);
                return None;
            }
        }
        if !super::super::status::runs(config) {
            report.good("broker", "runs with the daemon, which does not run now");
            return None;
        }
    }
    let connected = Broker::start(config, stop).and_then(|broker| match broker.connection.wait_up(WAIT) {
        Ok(()) => Ok(broker),
        Err(error) => {
            broker.stop();
            Err(error.into())
        }
    });
    match connected {
        Ok(broker) => {
            connection(&broker.connection, report);
            streams(config, &broker.connection, report);
            Some(broker)
        }
        Err(error) => {
            let advice = "is it started, does it listen for this machine, is the login right?";
            report.broken("broker", error.to_string(), advice);
            None
        }
    }
}

fn connection(connection: &Connection, report: &mut Report) {
    let payload = connection.max_payload();
    if payload < PAYLOAD {
        let text = format!("connected; messages of at most {payload} bytes");
        report.look("broker", text, "max_payload: 1MB in the server's configuration is usual");
    } else {
        report.good("broker", format!("connected; messages of up to {}", bytes(&payload.into())));
    }
}

fn streams(config: &Config, connection: &Connection, report: &mut Report) {
    let js = JetStream::new(connection.clone());
    if let Err(error) = js.api::<Value>("INFO", &Value::Null) {
        let advice =
            "switch it on in the server: jetstream { store_dir: \"/var/lib/nats\" } (nats-server -js)";
        return report.broken("JetStream", error.to_string(), advice);
    }
    report.good(
        "JetStream",
        "on; how often the server writes to its disk cannot be seen from here: sync_interval: always loses nothing at a power cut",
    );
    for name in config.streams() {
        match js.api::<Value>(&format!("STREAM.INFO.{name}"), &Value::Null) {
            Ok(info) => stream(config, report, (&name, &info)),
            Err(Error::NotFound(_)) => report.good("stream", format!("{name}: the first daemon makes it")),
            Err(error) => {
                let advice = "does the NATS user have permission for $JS.API.>?";
                report.broken("stream", format!("{name}: {error}"), advice);
            }
        }
    }
}

fn stream(config: &Config, report: &mut Report, (name, info): (&str, &Value)) {
    let (settings, state) = (&info["config"], &info["state"]);
    if settings["storage"] == "memory" {
        let advice =
            "remove it, or change its storage to file: all changes in it are lost when the server restarts";
        report.look("stream", format!("{name}: is kept in memory"), advice);
    }
    let replicas = settings["num_replicas"].as_u64().unwrap_or(1);
    if replicas < config.log.replicas {
        let text =
            format!("{name}: {replicas} copies, and replication_log.replicas = {}", config.log.replicas);
        report.look("stream", text, "set replication_log.update_existing = true once");
    }
    let time = |value: &Value| value.as_str().and_then(clock::parse);
    match reach(state, settings, time(&state["first_ts"]).zip(time(&state["last_ts"]))) {
        Some(seconds) if seconds < HOURS * 3_600 => report.look(
            "stream",
            format!("{name}: at the present rate it reaches back {}", age(&seconds.into())),
            "a node that is away for longer fetches a snapshot: raise replication_log.max_entries if that is dear",
        ),
        Some(seconds) => {
            let text = format!("{name}: at the present rate it reaches back {}", age(&seconds.into()));
            report.good("stream", text);
        }
        None => report.good("stream", format!("{name}: {} messages", state["messages"])),
    }
    if let Some(theirs) = time(&info["ts"]) {
        let apart = clock::unix_ms().abs_diff(theirs);
        if apart > CLOCK_MS {
            let text = format!("{} apart from the broker's", age(&(apart / 1_000).into()));
            report.look("clock", text, "set both (NTP): ages of snapshots are shown wrong");
        }
    }
}

/// For how many seconds a stream holds what is written; `None`: too little was written to say.
fn reach(state: &Value, settings: &Value, times: Option<(i64, i64)>) -> Option<u64> {
    let (first, last) = times?;
    let span = u64::try_from(last.saturating_sub(first)).ok()? / 1_000;
    let part = |now: &Value, most: &Value| {
        let (now, most) = (now.as_u64()?, most.as_u64().filter(|most| *most > 0)?);
        Some((now.max(1), most))
    };
    let of_messages = part(&state["messages"], &settings["max_msgs"]);
    let of_bytes = part(&state["bytes"], &settings["max_bytes"]);
    // So few messages or so short a time say nothing about a rate.
    if state["messages"].as_u64()? < 100 || span < 60 {
        return None;
    }
    let seconds = of_messages.into_iter().chain(of_bytes).map(|(now, most)| {
        u64::try_from(u128::from(span) * u128::from(most) / u128::from(now)).unwrap_or(u64::MAX)
    });
    seconds.min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stream_reaches_as_far_as_its_tighter_bound() {
        let state = json!({ "messages": 1_000, "bytes": 100_000 });
        let settings = json!({ "max_msgs": 2_000, "max_bytes": 1_000_000 });
        let hour = Some((0, 3_600_000));
        assert_eq!(reach(&state, &settings, hour), Some(7_200));
        let full = json!({ "messages": 1_000, "bytes": 1_000_000 });
        assert_eq!(reach(&full, &settings, hour), Some(3_600));
        assert_eq!(reach(&state, &json!({ "max_msgs": -1, "max_bytes": -1 }), hour), None);
        assert_eq!(reach(&json!({ "messages": 3, "bytes": 3 }), &settings, hour), None, "nobody can say");
        assert_eq!(reach(&state, &settings, Some((0, 5_000))), None);
    }
}
