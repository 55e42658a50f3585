//! What a person should look at: the same for health, status and page.

use super::fleet::{Node, Presence};
use super::{Board, View, Whole};
use crate::base::{limits, secret};
use crate::db::{OfTable, SetAside};
use std::time::Instant;

/// How the node is, in a word, and what a person should look at, one line each.
pub fn verdict(view: &View) -> (&'static str, Vec<String>) {
    let View { connection, board, signals, .. } = view;
    let connected = connection.is_up();
    let mut problems = vec![];
    if !connected {
        problems.push(not_connected(&connection.last_error()));
    }
    match &signals.whole() {
        Whole::Yes if !board.is_open() => problems.push("the database is not open".to_owned()),
        Whole::Yes => {}
        Whole::Waiting(why) => problems.push(format!("not whole: {}", secret::redact(why))),
        Whole::Damaged(why) => problems.push(format!("not whole: damaged: {}", secret::redact(why))),
    }
    problems.extend(board.troubles().iter().map(|trouble| secret::redact(trouble)));
    problems.extend(behind(view));
    problems.extend(of_snapshots(board));
    problems.extend(set_aside(&board.aside()));
    problems.extend(of_others(board));
    let word = match (connected && board.is_open(), problems.is_empty()) {
        (false, _) => "unhealthy",
        (true, false) => "degraded",
        (true, true) => "healthy",
    };
    (word, problems)
}

/// Other nodes that a person may want to look at. They make this node no worse.
pub fn others(view: &View) -> Vec<String> {
    let nodes = view.fleet.nodes(view.connection.is_up(), Instant::now());
    let line = |node: &Node| match (node.presence, node.behind) {
        (Presence::Silent, _) => Some(format!("node {} does not answer", node.state.node)),
        (Presence::Alive, Some(behind)) if behind.seconds >= limits::BEHIND => Some(format!(
            "node {} is behind by {} messages for {} s",
            node.state.node, behind.messages, behind.seconds
        )),
        (Presence::Alive, _) if node.state.problems > 0 => {
            Some(format!("node {} has {} problems of its own", node.state.node, node.state.problems))
        }
        _ => None,
    };
    nodes.iter().filter_map(line).collect()
}

/// `why`: what the last try ended with.
fn not_connected(why: &str) -> String {
    let words_of_it = why.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| words_of_it.contains(word));
    let what = if has(&["unknownissuer", "selfsigned", "self-signed", "badsignature"]) {
        "nats.ca_file must be the authority that signed the broker's certificate"
    } else if has(&["expired"]) {
        "renew the broker's certificate, or set the clock of this machine"
    } else if has(&["notvalidyet", "not valid yet"]) {
        "set the clock of this machine (NTP), or the broker's certificate is for later"
    } else if has(&["not valid for name", "notvalidforname"]) {
        "nats.urls must have a name that is in the broker's certificate"
    } else if has(&["certificaterequired"]) {
        "set nats.cert_file and nats.key_file: the broker wants a certificate of ours"
    } else if has(&["has no tls"]) {
        "switch TLS on at the broker, or see -help security"
    } else if has(&["authorization", "authentication", "permissions"]) {
        "correct nats.user_name and nats.user_password (or token, seed_file)"
    } else if has(&["tls", "certificate"]) {
        "see TLS in -help security"
    } else {
        "see whether it runs, and nats.urls names it"
    };
    let why = if why.is_empty() { String::new() } else { format!(" ({})", secret::redact(why)) };
    // Where it is cut, what to do is not.
    format!("not connected to NATS: {what}{why}")
}

fn behind(view: &View) -> Option<String> {
    let flow = &view.signals.flow;
    let positions: Vec<u64> = (0..flow.streams()).map(|stream| flow.applied_seq(stream)).collect();
    let behind = view.fleet.behind(&positions, Instant::now());
    let lags = view.config.replicate && view.signals.is_whole() && behind.seconds >= limits::BEHIND;
    lags.then(|| {
        format!(
            "behind by {} messages for {} s: wait, or see why it applies no faster",
            behind.messages, behind.seconds
        )
    })
}

fn of_snapshots(board: &Board) -> Vec<String> {
    let snapshot = board.snapshot();
    let line = |what: &str, why: &str| (!why.is_empty()).then(|| format!("{what}: {}", secret::redact(why)));
    [line("no snapshot", &snapshot.failure), line("restore not proven", &snapshot.unproven)]
        .into_iter()
        .flatten()
        .collect()
}

/// What concerns this node and others.
fn of_others(board: &Board) -> Vec<String> {
    let mut problems = vec![];
    if board.cannot_follow() {
        problems.push(
            "a change of the schema cannot be carried out here, and is tried again: see -migrate-status"
                .to_owned(),
        );
    }
    let schema = board.other_schema();
    if !schema.is_empty() {
        problems.push(format!("{schema}: see -schema-status-cluster"));
    }
    let compared = board.compared();
    if compared.differences > 0 {
        problems.push(format!("not equal: {}: see -verify", compared.text));
    }
    let namesake = board.namesake();
    if !namesake.is_empty() {
        problems.push(format!(
            "another daemon has this node_id, {namesake}: give each node a node_id of its own"
        ));
    }
    let disagreement = board.disagreement();
    if !disagreement.is_empty() {
        problems.push(format!(
            "another number of shards: {disagreement}: set the same replication_log.shards everywhere"
        ));
    }
    if board.is_in_memory() {
        problems.push("the broker keeps changes in memory alone, and loses them when it restarts".to_owned());
    }
    problems
}

/// What is set aside, one line for each table, and what was lost.
fn set_aside(aside: &SetAside) -> Vec<String> {
    let of_table = |of: &OfTable| match (of.refused, of.table.as_str()) {
        (true, "") => format!("{} messages that are no events are set aside: see -set-aside", of.events),
        (true, table) => {
            format!(
                "table {table}: {} events that the database refused are set aside: see -set-aside",
                of.events
            )
        }
        (false, table) => {
            format!(
                "table {table}: {} events wait for a table or column that is not here: see -set-aside",
                of.events
            )
        }
    };
    let mut lines: Vec<String> = aside.tables.iter().map(of_table).collect();
    for (lost, what) in [(aside.lost_waiting, "waiting"), (aside.lost_refused, "refused")] {
        if lost > 0 {
            lines.push(format!(
                "{lost} {what} events were dropped, the oldest first, because there were too many"
            ));
        }
    }
    lines
}
