//! `-sync`: waits until all that is captured here has arrived in the streams, and, if that is wanted, on every node.

use super::Show;
use super::status::of_daemon;
use crate::base::error::{Context, Error};
use crate::base::stop::Stop;
use crate::config::Config;
use crate::db;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Pause between two looks: at the database, and at what the nodes tell.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_AT_NODES: Duration = Duration::from_millis(300);

/// Waits. An error of [`crate::base::Kind::Waiting`]: it has not arrived within `limit`, or no daemon runs.
pub fn sync(
    config: &Config,
    stop: &Stop,
    show: Show,
    (everywhere, limit): (bool, Duration),
) -> Result<(), Error> {
    let begun = Instant::now();
    let until = begun + limit;
    let shown = config.db_path.display().to_string();
    // What is committed by now has an entry in the log by now: the triggers make it in the same transaction.
    let newest = db::newest_captured(&config.db_path).context(&shown)?;
    let mut status = status(config)?;
    if !config.publish {
        return Err(Error::usage("publish = false: nothing of this node is published"));
    }
    while db::holds_unsettled(&config.db_path, newest).context(&shown)? {
        wait(stop, LOOK, until, || {
            let broker = if status["node"]["connected"] == true { "" } else { ", and the broker is away" };
            format!("changes of this node are not in the stream yet{broker}")
        })?;
        status = self::status(config)?;
    }
    let mut nodes = vec![config.node_id];
    if everywhere {
        status = self::status(config)?;
        let ends = numbers(&status["streams"], "end");
        loop {
            let left = not_there(&status, &ends);
            if left.is_empty() {
                nodes.extend(alive(&status).filter_map(|node| node["node_id"].as_u64()));
                break;
            }
            wait(stop, LOOK_AT_NODES, until, || format!("not yet on node {}", left.join(", ")))?;
            status = self::status(config)?;
        }
    }
    let silent = others(&status)
        .filter(|node| node["presence"] == "silent")
        .filter_map(|node| node["node_id"].as_u64());
    let silent: Vec<u64> = silent.filter(|_| everywhere).collect();
    let seconds = begun.elapsed().as_secs_f64();
    show.print(
        || {
            let where_to =
                if everywhere { format!("on {} nodes", nodes.len()) } else { "in the stream".to_owned() };
            let rest = if silent.is_empty() {
                String::new()
            } else {
                format!("; silent, and not waited for: {silent:?}")
            };
            format!("arrived {where_to} after {seconds:.1} s{rest}")
        },
        || json!({ "arrived": true, "nodes": nodes, "silent": silent, "seconds": seconds }),
    );
    Ok(())
}

fn status(config: &Config) -> Result<Value, Error> {
    let none = || Error::waiting(format!("no daemon runs on {}", config.db_path.display()));
    of_daemon(config)?.ok_or_else(none)
}

fn wait(stop: &Stop, pause: Duration, until: Instant, why: impl FnOnce() -> String) -> Result<(), Error> {
    if stop.wait(pause) {
        return Err(Error::stopped());
    }
    if Instant::now() >= until { Err(Error::waiting(why())) } else { Ok(()) }
}

fn others(status: &Value) -> impl Iterator<Item = &Value> {
    status["nodes"].as_array().into_iter().flatten()
}

/// Nodes that are there and apply what others write.
fn alive(status: &Value) -> impl Iterator<Item = &Value> {
    others(status).filter(|node| node["presence"] == "alive" && node["replicate"] == true)
}

fn numbers(list: &Value, key: &str) -> Vec<u64> {
    list.as_array().into_iter().flatten().filter_map(|of| of[key].as_u64()).collect()
}

/// Nodes whose positions are before those ends.
fn not_there(status: &Value, ends: &[u64]) -> Vec<String> {
    let is_there = |positions: &[u64]| {
        positions.len() == ends.len() && positions.iter().zip(ends).all(|(position, end)| position >= end)
    };
    let positions = |node: &Value| -> Vec<u64> {
        node["positions"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
    };
    let mut left: Vec<String> = alive(status)
        .filter(|node| !is_there(&positions(node)))
        .map(|node| node["node_id"].to_string())
        .collect();
    if status["node"]["replicate"] == true && !is_there(&numbers(&status["streams"], "position")) {
        left.insert(0, status["node"]["node_id"].to_string());
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_live_node_counts_and_no_other() {
        let node = |id: u64, presence: &str, position: u64| json!({ "node_id": id, "presence": presence, "replicate": true, "positions": [position] });
        let status = |position: u64, nodes: Vec<Value>| json!({ "node": { "node_id": 1, "replicate": true }, "streams": [{ "position": position, "end": 9 }], "nodes": nodes });
        let nodes =
            vec![node(2, "alive", 9), node(3, "alive", 8), node(4, "silent", 1), node(5, "stopped", 1)];
        assert_eq!(not_there(&status(9, nodes.clone()), &[9]), ["3"]);
        assert_eq!(not_there(&status(8, nodes), &[9]), ["1", "3"]);
        assert!(not_there(&status(12, vec![node(2, "alive", 10)]), &[9]).is_empty());
    }
}
