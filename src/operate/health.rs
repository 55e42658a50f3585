//! The health check: `GET <path>` answers 200, or 503 when the node does not work (formats, section "Health and metrics").
//!
//! `status` is `healthy`; `degraded` (200) when it replicates but a person should look: no snapshot could be stored, the
//! node is not whole, events are set aside, a comparison found differences, another daemon has its `node_id` or another number of shards; `unhealthy` (503)
//! without a connection to NATS or without a database.

use super::responder::{self, Reply};
use super::verdict::{others, verdict};
use super::{Board, Looker, View, page, status};
use crate::base::{clock, error::Error, limits, stop::Stop, worker::Workers};
use serde_json::json;
use std::time::Instant;

/// Where a browser finds the status, unless health itself is there.
const PAGE: &str = "/";

/// Starts the thread that answers, if it is wanted.
pub fn start(view: &View, stop: &Stop, workers: &mut Workers) -> Result<(), Error> {
    let health = &view.config.health;
    if !health.enable {
        return Ok(());
    }
    let listener = responder::listen("health", "health_check.bind", &health.bind)?;
    let (view, stop) = (view.clone(), stop.clone());
    workers.spawn("health", move || {
        responder::answer_all(&listener, &stop, |path| reply(&view, path));
        Ok(())
    })
}

fn reply(view: &View, path: &str) -> Reply {
    let config = &view.config;
    if path == PAGE && path != config.health.path && config.health.detailed {
        view.fleet.look(Instant::now());
        view.lookout.look(Looker::Person, limits::LOOKOUT_HEALTH);
        let body = page::page(&status::document(view));
        return Reply { status: "200 OK", kind: "text/html; charset=utf-8", body };
    }
    let (status, body) = if path == config.health.path {
        view.fleet.glance(Instant::now());
        view.lookout.look(Looker::Program, limits::LOOKOUT_HEALTH);
        let report = report(view);
        (if report.works { "200 OK" } else { "503 Service Unavailable" }, report.body)
    } else {
        ("404 Not Found", String::new())
    };
    let body = if config.health.detailed { body } else { String::new() };
    Reply { status, kind: "application/json", body }
}

struct Report {
    works: bool,
    body: String,
}

/// Conflicts that are kept, by kind.
fn conflicts(board: &Board) -> serde_json::Map<String, serde_json::Value> {
    board.conflicts().into_iter().map(|(kind, count)| (kind.word().to_owned(), count.into())).collect()
}

/// Whether the node works, and the answer's body: one line of JSON.
fn report(view: &View) -> Report {
    let View { config, connection, board, .. } = view;
    let connected = connection.is_up();
    let (word, problems) = verdict(view);
    let works = connected && board.is_open();
    let time = |ms: i64| if ms == 0 { "0001-01-01T00:00:00Z".to_owned() } else { clock::rfc3339(ms) };
    let (published, consumed) = board.last_events();
    let (snapshot, compared) = (board.snapshot(), board.compared());
    let body = json!({
        "status": word,
        "node_id": config.node_id,
        "uptime_seconds": board.uptime().as_secs(),
        "db_connected": board.is_open(),
        "nats_connected": connected,
        "cdc_installed": config.publish,
        "tables_tracked": board.tables(),
        "last_replicated_event_timestamp": time(consumed),
        "last_published_event_timestamp": time(published),
        "version": env!("CARGO_PKG_VERSION"),
        "role": if config.publish { "node" } else { "read replica" },
        "schemas_equal": board.are_schemas_equal(),
        "events_waiting_for_schema": board.waiting_events(),
        "problems": problems,
        "others": others(view),
        "conflicts": conflicts(board),
        "last_compare_timestamp": time(compared.at_ms),
        "last_compare_differences": compared.differences,
        "snapshot_leader": board.is_leader(),
        "last_snapshot_timestamp": time(snapshot.stored_ms),
        "last_proven_restore_timestamp": time(snapshot.proven_ms),
    });
    Report { works, body: format!("{body}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{OfTable, SetAside};
    use crate::nats::Connection;
    use crate::operate::Whole;

    fn of(connected: bool, board: Board, whole: Whole) -> (bool, serde_json::Value) {
        let mut view = crate::operate::status::tests::view("");
        view.board = board.into();
        view.signals.set_whole(whole);
        if !connected {
            view.connection = Connection::offline();
        }
        let report = report(&view);
        (report.works, serde_json::from_str(&report.body).unwrap())
    }

    fn opened() -> Board {
        let board = Board::default();
        board.set_open(true);
        board
    }

    #[test]
    fn a_node_that_works_is_healthy() {
        let (works, body) = of(true, opened(), Whole::Yes);
        assert!(works);
        assert_eq!(
            (body["status"].as_str(), body["problems"].as_array().map(Vec::len)),
            (Some("healthy"), Some(0))
        );
        assert_eq!(body["last_snapshot_timestamp"], "0001-01-01T00:00:00Z");
    }

    #[test]
    fn without_a_broker_or_a_database_it_does_not_work() {
        let (works, body) = of(false, opened(), Whole::Yes);
        assert!(!works);
        assert_eq!(
            (body["status"].as_str(), body["problems"][0].as_str()),
            (Some("unhealthy"), Some("not connected to NATS: see whether it runs, and nats.urls names it"))
        );
        let (works, body) = of(true, Board::default(), Whole::Yes);
        assert!(!works);
        assert_eq!(body["problems"][0], "the database is not open");
    }

    #[test]
    fn what_a_person_should_look_at_degrades_it() {
        let board = opened();
        board.note_snapshot(Err("http 503"));
        board.note_proof(Err("2 rows differ"));
        board.set_namesake("on b: /x");
        board.set_disagreement("node 2 on b has 3");
        let (works, body) = of(true, board, Whole::Waiting("joining: nats://u:p@h".into()));
        assert!(works);
        assert_eq!(body["status"], "degraded");
        let problems: Vec<&str> =
            body["problems"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
        assert_eq!(
            problems,
            [
                "not whole: joining: nats://***@h",
                "no snapshot: http 503",
                "restore not proven: 2 rows differ",
                "another daemon has this node_id, on b: /x: give each node a node_id of its own",
                "another number of shards: node 2 on b has 3: set the same replication_log.shards everywhere"
            ]
        );
    }

    #[test]
    fn what_is_set_aside_degrades_it() {
        let board = opened();
        let of = |table: &str, refused| OfTable { table: table.into(), refused, events: 3 };
        let tables = vec![of("", true), of("t", false), of("t", true)];
        board.set_aside(SetAside { tables, lost_waiting: 7, lost_refused: 0 });
        let (works, body) = super::tests::of(true, board, Whole::Yes);
        assert!(works);
        assert_eq!(body["status"], "degraded");
        let problems = body["problems"].as_array().unwrap();
        assert_eq!(problems.len(), 4);
        assert_eq!(
            problems[1],
            "table t: 3 events wait for a table or column that is not here: see -set-aside"
        );
        assert_eq!(
            problems[3],
            "7 waiting events were dropped, the oldest first, because there were too many"
        );
    }

    #[test]
    fn a_broker_that_keeps_nothing_degrades_it() {
        let board = opened();
        board.set_in_memory(true);
        let (works, body) = of(true, board, Whole::Yes);
        assert!(works && body["status"] == "degraded");
        assert!(body["problems"][0].as_str().unwrap().contains("memory alone"), "{body}");
    }

    #[test]
    fn damage_is_named() {
        let (_, body) = of(true, opened(), Whole::Damaged("page 3".into()));
        assert_eq!(body["problems"][0], "not whole: damaged: page 3");
    }
}
