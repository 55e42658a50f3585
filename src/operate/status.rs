//! The status: all that an operator wants to know of this node and the others, as one JSON document. `-status` and the page
//! show it; nothing in it is a secret or a row.

use super::fleet::{Behind, Node, State};
use super::{
    View, Whole,
    verdict::{others, verdict},
};
use crate::base::{clock, secret};
use serde_json::{Map, Value, json};
use std::time::Instant;

/// This machine's name.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What this node tells the others about itself. What it knows of the streams is noted on the way.
pub fn state(view: &View) -> State {
    let View { config, board, signals, fleet, .. } = view;
    let flow = &signals.flow;
    let generation = signals.generation();
    for stream in 0..flow.streams() {
        fleet.note_end(&generation, stream, flow.known_end(stream));
    }
    let snapshot = board.snapshot();
    let (_, problems) = verdict(view);
    State {
        node: config.node_id,
        host: host(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        positions: (0..flow.streams()).map(|stream| flow.applied_seq(stream)).collect(),
        ends: (0..flow.streams()).map(|stream| flow.known_end(stream)).collect(),
        generation,
        pending: board.pending(),
        leader: board.is_leader(),
        publishes: config.publish,
        replicates: config.replicate,
        whole: signals.is_whole(),
        problems: problems.len() as u64,
        set_aside: board.aside().tables.iter().map(|of| of.events).sum(),
        conflicts: board.conflicts().iter().map(|(_, count)| count).sum(),
        stored_ms: snapshot.stored_ms,
        proven_ms: snapshot.proven_ms,
        leaves: false,
    }
}

/// The whole document.
pub fn document(view: &View) -> Value {
    let View { config, connection, board, fleet, signals, .. } = view;
    let now = Instant::now();
    let me = state(view);
    let connected = connection.is_up();
    let nodes = fleet.nodes(connected, now);
    let (word, problems) = verdict(view);
    let waits = match signals.whole() {
        Whole::Yes => Value::Null,
        Whole::Waiting(why) | Whole::Damaged(why) => secret::redact(&why).into(),
    };
    json!({
        "daemon": true,
        "time": clock::rfc3339(clock::unix_ms()),
        "node": {
            "node_id": config.node_id,
            "host": me.host,
            "version": me.version,
            "status": word,
            "problems": problems,
            "others": others(view),
            "uptime_seconds": board.uptime().as_secs(),
            "leader": me.leader,
            "publish": config.publish,
            "replicate": config.replicate,
            "database": config.db_path,
            "database_open": board.is_open(),
            "tables": board.tables(),
            "connected": connected,
            "last_error": if connected { Value::Null } else { secret::redact(&connection.last_error()).into() },
            "whole": signals.is_whole(),
            "waits_for": waits,
        },
        "streams": streams(view),
        "behind": if config.replicate { behind(Some(fleet.behind(&me.positions, now))) } else { Value::Null },
        "waiting": waiting(view),
        "conflicts": conflicts(view),
        "compared": compared(view),
        "snapshot": snapshot(view, &nodes),
        "traffic": traffic(view),
        "nodes": nodes.iter().map(node).collect::<Value>(),
    })
}

/// A time as it is shown; null: never.
fn time(ms: i64) -> Value {
    if ms > 0 { clock::rfc3339(ms).into() } else { Value::Null }
}

fn behind(behind: Option<Behind>) -> Value {
    behind.map_or(
        Value::Null,
        |Behind { messages, seconds }| json!({ "messages": messages, "seconds": seconds }),
    )
}

fn streams(view: &View) -> Value {
    let flow = &view.signals.flow;
    let stream = |(at, name): (usize, &String)| {
        let position = flow.applied_seq(at);
        json!({ "name": name, "position": position, "end": view.fleet.end(at).max(position) })
    };
    view.config.streams().iter().enumerate().map(stream).collect()
}

/// What has not gone its way to the end.
fn waiting(view: &View) -> Value {
    let aside = view.board.aside();
    let tables: Vec<Value> = aside
        .tables
        .iter()
        .map(|of| {
            let state = if of.refused { "refused" } else { "waiting" };
            json!({ "table": of.table, "state": state, "events": of.events })
        })
        .collect();
    json!({
        "not_confirmed": view.board.pending(),
        "set_aside": tables,
        "dropped": aside.lost_waiting + aside.lost_refused,
    })
}

fn conflicts(view: &View) -> Value {
    let kept = view.board.conflicts();
    let by_kind: Map<String, Value> =
        kept.iter().map(|(kind, count)| (kind.word().to_owned(), (*count).into())).collect();
    json!({ "kept": kept.iter().map(|(_, count)| count).sum::<u64>(), "by_kind": by_kind })
}

fn compared(view: &View) -> Value {
    let compared = view.board.compared();
    let equal = if compared.at_ms > 0 { Value::from(compared.differences == 0) } else { Value::Null };
    json!({
        "time": time(compared.at_ms),
        "equal": equal,
        "differences": compared.differences,
        "text": compared.text,
    })
}

/// The newest that any node has told of: only the leader makes snapshots.
fn snapshot(view: &View, nodes: &[Node]) -> Value {
    let ours = view.board.snapshot();
    let newest = |ours: i64, theirs: fn(&State) -> i64| {
        let all = nodes.iter().map(|node| (theirs(&node.state), node.state.node));
        all.chain([(ours, view.config.node_id)]).max().filter(|(ms, _)| *ms > 0)
    };
    let stored = newest(ours.stored_ms, |state| state.stored_ms);
    let proven = newest(ours.proven_ms, |state| state.proven_ms);
    let text = |text: &str| if text.is_empty() { Value::Null } else { secret::redact(text).into() };
    json!({
        "enabled": view.config.snapshot.enabled,
        "stored": time(stored.map_or(0, |(ms, _)| ms)),
        "stored_by": stored.map(|(_, node)| node),
        "proven": time(proven.map_or(0, |(ms, _)| ms)),
        "proven_by": proven.map(|(_, node)| node),
        "failure": text(&ours.failure),
        "unproven": text(&ours.unproven),
    })
}

/// Bytes over NATS and to the disk since the start.
fn traffic(view: &View) -> Value {
    let (sent, received) = view.connection.traffic().so_far();
    let replicated = view.signals.flow.bytes_read();
    let written = bytes_written();
    view.usage.count(view);
    let (today, month) = view.usage.shown();
    #[allow(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let a_byte = written
        .filter(|_| replicated > 0)
        .map(|written| (written as f64 * 10.0 / replicated as f64).round() / 10.0);
    json!({
        "since_seconds": view.board.uptime().as_secs(),
        "sent": sent,
        "received": received,
        "replicated": replicated,
        "written_to_disk": written,
        "written_a_replicated_byte": a_byte,
        "today": today,
        "this_month": month,
    })
}

/// What this process has caused to be written to disks since it started, as far as the kernel tells.
pub fn bytes_written() -> Option<u64> {
    std::fs::read_to_string("/proc/self/io").ok().and_then(|text| written(&text))
}

/// What a process has caused to be written, by the kernel's `/proc/PID/io`.
fn written(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

fn node(node: &Node) -> Value {
    let State { node: number, host, version, positions, pending, leader, .. } = &node.state;
    let state = &node.state;
    let age_ms = clock::unix_ms().saturating_sub(node.heard_ms).max(0);
    json!({
        "node_id": number,
        "host": host,
        "version": version,
        "presence": node.presence.word(),
        "heard": time(node.heard_ms),
        "heard_seconds_ago": age_ms / 1000,
        "positions": positions,
        "behind": behind(node.behind),
        "not_confirmed": pending,
        "leader": leader,
        "publish": state.publishes,
        "replicate": state.replicates,
        "whole": state.whole,
        "problems": state.problems,
        "set_aside": state.set_aside,
        "conflicts": state.conflicts,
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::model::reach::Reach;
    use crate::nats::Connection;
    use crate::operate::{Board, Fleet, Signals, Usage};
    use std::sync::Arc;

    /// A node that is connected and whole.
    pub fn view(config: &str) -> View {
        let connection = Connection::offline();
        connection.come_up();
        let signals = Signals::new(1, Reach::of_messages(1_024));
        signals.set_whole(Whole::Yes);
        let board = Board::default();
        board.set_open(true);
        View {
            config: crate::config::tests::with(config),
            connection,
            board: Arc::new(board),
            signals: Arc::new(signals),
            fleet: Arc::new(Fleet::default()),
            lookout: Arc::default(),
            usage: Usage::load(&crate::config::tests::with(config)).into(),
        }
    }

    #[test]
    fn a_node_and_its_neighbour() {
        let view = view("");
        view.signals.flow.checkpoint(0, 40);
        view.board.set_pending(3);
        view.board.note_compared(1_000, 0, "equal");
        let other = State {
            node: 2,
            positions: vec![30],
            ends: vec![50],
            replicates: true,
            stored_ms: 5_000,
            ..State::default()
        };
        state(&view);
        view.fleet.heard(other, Instant::now());
        let document = document(&view);
        assert_eq!(document["node"]["status"], "healthy");
        assert_eq!(document["streams"][0]["position"], 40);
        assert_eq!(document["streams"][0]["end"], 50);
        assert_eq!(document["behind"]["messages"], 10);
        assert_eq!(document["waiting"]["not_confirmed"], 3);
        assert_eq!(document["compared"]["equal"], true);
        assert_eq!(
            (document["snapshot"]["stored_by"].as_u64(), document["snapshot"]["proven"].as_str()),
            (Some(2), None)
        );
        let node = &document["nodes"][0];
        assert_eq!((node["node_id"].as_u64(), node["presence"].as_str()), (Some(2), Some("alive")));
        assert_eq!(
            (node["behind"]["messages"].as_u64(), node["replicate"].as_bool()),
            (Some(20), Some(true))
        );
    }

    #[test]
    fn no_secret_is_in_it() {
        let view = view("[nats]\nurls = [\"nats://u:hunter2@h\"]\nuser_password = \"hunter3\"");
        view.signals.set_whole(Whole::Waiting("nats://u:hunter2@h".into()));
        view.board.note_snapshot(Err("https://u:hunter2@h: 403"));
        assert!(!document(&view).to_string().contains("hunter"));
    }

    #[test]
    fn bytes_to_the_disk_are_the_kernels() {
        assert_eq!(
            written("rchar: 1\nread_bytes: 2\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n"),
            Some(4096)
        );
        assert_eq!(written("rchar: 1\n"), None);
    }
}
