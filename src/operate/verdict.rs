//! What a person should look at: the same for health, status and page.

use super::{Board, View, Whole};
use crate::base::secret;
use crate::db::{OfTable, SetAside};

/// How the node is, in a word, and what a person should look at, one line each.
pub fn verdict(view: &View) -> (&'static str, Vec<String>) {
    let View { connection, board, signals, .. } = view;
    let problems = problems(connection.is_up(), board, &signals.whole());
    (word(connection.is_up() && board.is_open(), &problems), problems)
}

pub fn word(works: bool, problems: &[String]) -> &'static str {
    match (works, problems.is_empty()) {
        (false, _) => "unhealthy",
        (true, false) => "degraded",
        (true, true) => "healthy",
    }
}

/// What a person should look at, one line each.
pub fn problems(connected: bool, board: &Board, whole: &Whole) -> Vec<String> {
    let snapshot = board.snapshot();
    let namesake = board.namesake();
    let mut problems = vec![];
    if !connected {
        problems.push("not connected to NATS".to_owned());
    }
    match whole {
        Whole::Yes if !board.is_open() => problems.push("the database is not open".to_owned()),
        Whole::Yes => {}
        Whole::Waiting(why) => problems.push(format!("not whole: {}", secret::redact(why))),
        Whole::Damaged(why) => problems.push(format!("not whole: damaged: {}", secret::redact(why))),
    }
    if !snapshot.failure.is_empty() {
        problems.push(format!("no snapshot: {}", secret::redact(&snapshot.failure)));
    }
    if !snapshot.unproven.is_empty() {
        problems.push(format!("restore not proven: {}", secret::redact(&snapshot.unproven)));
    }
    problems.extend(set_aside(&board.aside()));
    if board.cannot_follow() {
        problems.push(
            "a change of the schema cannot be carried out here, and is tried again: see -migrate-status"
                .to_owned(),
        );
    }
    let compared = board.compared();
    if compared.differences > 0 {
        problems.push(format!("not equal: {}: see -verify", compared.text));
    }
    if !namesake.is_empty() {
        problems.push(format!("another daemon has this node_id, {namesake}"));
    }
    let disagreement = board.disagreement();
    if !disagreement.is_empty() {
        problems.push(format!("another number of shards: {disagreement}"));
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
