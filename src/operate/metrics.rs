//! Metrics in the Prometheus text format 0.0.4: names `<namespace>[_<subsystem>]_<name>`, label `node_id` (formats, section
//! "Health and metrics").

use super::responder::{self, Reply};
use super::{Board, Signals, View};
use crate::base::{error::Error, stop::Stop, worker::Workers};
use crate::config::Config;
use crate::db::{ConflictKind, OfTable};
use std::fmt::Write;

/// Starts the thread that answers, if it is wanted. Every path gets the same answer.
pub fn start(view: &View, stop: &Stop, workers: &mut Workers) -> Result<(), Error> {
    if !view.config.prometheus.enable {
        return Ok(());
    }
    let listener = responder::listen("metrics", "prometheus.bind", &view.config.prometheus.bind)?;
    let (view, stop) = (view.clone(), stop.clone());
    workers.spawn("metrics", move || {
        let View { config, connection, board, signals, .. } = &view;
        responder::answer_all(&listener, &stop, |_| Reply {
            status: "200 OK",
            kind: "text/plain; version=0.0.4; charset=utf-8",
            body: text(config, connection.is_up(), board, signals),
        });
        Ok(())
    })
}

/// What is known of the schema, beside those of the others.
fn of_schemas(board: &Board) -> [(&'static str, &'static str, i64); 3] {
    let waiting = i64::try_from(board.waiting_events()).unwrap_or(i64::MAX);
    [
        ("schemas_equal", "1: all running nodes have this node's schema.", board.are_schemas_equal().into()),
        ("schema_waiting_events", "Events that wait for a table or column.", waiting),
        (
            "schema_cannot_follow",
            "1: a change of the schema could not be carried out here.",
            board.cannot_follow().into(),
        ),
    ]
}

/// All metrics.
fn text(config: &Config, connected: bool, board: &Board, signals: &Signals) -> String {
    let snapshot = board.snapshot();
    let totals = board.totals();
    let seconds = |ms: i64| ms / 1000;
    let namespace = [config.prometheus.namespace.as_str(), &config.prometheus.subsystem];
    let prefix: String =
        namespace.iter().filter(|part| !part.is_empty()).map(|part| format!("{part}_")).collect();
    let mut text = String::new();
    let mut put = |name: &str, kind: &str, help: &str, values: &[(String, i64)]| {
        let _ = writeln!(text, "# HELP {prefix}{name} {help}\n# TYPE {prefix}{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(text, "{prefix}{name}{{node_id=\"{}\"{labels}}} {value}", config.node_id);
        }
    };
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let plain = |value: i64| [(String::new(), value)];
    let count = |value: u64| plain(number(value));
    let flag = |on: bool| plain(on.into());
    let (counter, gauge) = ("counter", "gauge");
    put("published", counter, "Events published and acknowledged.", &count(totals.published));
    put("consumed", counter, "Events read from the streams, own ones included.", &count(totals.consumed));
    put("rows_applied", counter, "Rows written or deleted for other nodes.", &count(totals.rows));
    put("pending_publish", gauge, "Captured changes that have not come back.", &count(board.pending()));
    let applied: Vec<(String, i64)> = (1..=config.log.shards)
        .zip(0..)
        .map(|(shard, stream)| {
            (format!(",stream=\"{}\"", config.stream(shard)), number(signals.flow.applied_seq(stream)))
        })
        .collect();
    put("applied_sequence", gauge, "Highest sequence applied of each stream.", &applied);
    put("tables", gauge, "Tables captured.", &count(board.tables()));
    put("connected", gauge, "1: connected to NATS.", &flag(connected));
    put("database_open", gauge, "1: the database is open.", &flag(board.is_open()));
    put("whole", gauge, "1: nothing is missing.", &flag(signals.is_whole()));
    of_schemas(board).into_iter().for_each(|(name, help, value)| put(name, gauge, help, &plain(value)));
    let (tables, lost) = set_aside(board);
    put("set_aside_events", gauge, "Events that are set aside, by table and state.", &tables);
    put("set_aside_dropped", counter, "Events that were dropped because too many were set aside.", &lost);
    let kept = board.conflicts();
    let of_kind = |kind: ConflictKind| {
        let count = kept.iter().find(|(known, _)| *known == kind).map_or(0, |(_, count)| *count);
        (format!(",kind=\"{}\"", kind.word()), number(count))
    };
    let kept = ConflictKind::ALL.map(of_kind);
    put("conflicts", gauge, "Writes of other nodes that lost to ours and are kept, by kind.", &kept);
    put("conflicts_found", counter, "Writes of other nodes that lost to ours.", &count(board.lost()));
    let compared = board.compared();
    put(
        "compare_timestamp_seconds",
        gauge,
        "When the nodes were last compared; 0: never.",
        &plain(seconds(compared.at_ms)),
    );
    put("compare_differences", gauge, "Rows and tables that differed then.", &count(compared.differences));
    put("snapshot_leader", gauge, "1: makes the snapshots.", &flag(board.is_leader()));
    put(
        "snapshot_stored_timestamp_seconds",
        gauge,
        "When this node last stored a snapshot; 0: never.",
        &plain(seconds(snapshot.stored_ms)),
    );
    put("snapshot_failing", gauge, "1: the last snapshot failed.", &flag(!snapshot.failure.is_empty()));
    put(
        "restore_proven_timestamp_seconds",
        gauge,
        "When a restore was last proven; 0: never.",
        &plain(seconds(snapshot.proven_ms)),
    );
    put("restore_unproven", gauge, "1: the last proof failed.", &flag(!snapshot.unproven.is_empty()));
    put("uptime_seconds", gauge, "Time since the start.", &plain(number(board.uptime().as_secs())));
    text
}

/// The labels of a metric besides the node's, and its value.
type Labelled = (String, i64);

/// What is set aside, by table and state, and what of it was dropped.
fn set_aside(board: &Board) -> (Vec<Labelled>, [Labelled; 2]) {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let aside = board.aside();
    let of_table = |of: &OfTable| {
        let state = if of.refused { "refused" } else { "waiting" };
        (format!(",table=\"{}\",state=\"{state}\"", label(&of.table)), number(of.events))
    };
    let tables = aside.tables.iter().map(of_table).collect();
    let lost = [
        (",state=\"waiting\"".to_owned(), number(aside.lost_waiting)),
        (",state=\"refused\"".to_owned(), number(aside.lost_refused)),
    ];
    (tables, lost)
}

/// A text as the value of a label: <https://prometheus.io/docs/instrumenting/exposition_formats/>.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::reach::Reach;
    use crate::operate::Whole;

    #[test]
    fn every_metric_has_a_help_a_type_and_a_value() {
        let (board, signals) = (Board::default(), Signals::new(1, Reach::of_messages(1_024)));
        board.count_published(3);
        signals.set_whole(Whole::Yes);
        signals.flow.checkpoint(0, 42);
        let text = text(&crate::config::tests::with(""), true, &board, &signals);
        let values: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        // What is set aside has no value for want of tables, what was dropped has two, and conflicts seven.
        assert_eq!(text.matches("# HELP ").count() + 6, values.len());
        assert_eq!(text.matches("# TYPE ").count() + 6, values.len());
        for value in [
            "harmonylite_published{node_id=\"",
            "harmonylite_whole{node_id=\"",
            "harmonylite_connected{node_id=\"",
        ] {
            assert!(values.iter().any(|line| line.starts_with(value)), "{value} in {text}");
        }
        assert!(text.contains(",stream=\"harmonylite-changes-c-1\"} 42\n"), "{text}");
    }

    #[test]
    fn dashboard_and_alerts_ask_for_metrics_that_there_are() {
        let signals = Signals::new(1, Reach::of_messages(1_024));
        let text = text(&crate::config::tests::with(""), true, &Board::default(), &signals);
        for file in ["prometheus/alerts.yml", "grafana/harmonylite.json"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(file);
            let content = std::fs::read_to_string(path).unwrap();
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let asked: Vec<&str> = content
                .split(|c: char| !is_part(c))
                .filter(|word| word.starts_with("harmonylite_"))
                .collect();
            assert!(asked.len() > 8, "{file}: {asked:?}");
            for metric in asked {
                assert!(text.contains(&format!("# TYPE {metric} ")), "{file}: there is no {metric}");
            }
        }
    }

    #[test]
    fn tables_are_labels_that_nobody_can_break_out_of() {
        let board = Board::default();
        let table = "a\"} 1\nb\\".to_owned();
        board.set_aside(crate::db::SetAside {
            tables: vec![OfTable { table, refused: true, events: 2 }],
            ..Default::default()
        });
        let text =
            text(&crate::config::tests::with(""), true, &board, &Signals::new(1, Reach::of_messages(1_024)));
        assert!(text.contains(r#",table="a\"} 1\nb\\",state="refused"} 2"#), "{text}");
    }

    #[test]
    fn a_subsystem_stands_in_every_name() {
        let mut config = crate::config::tests::with("");
        config.prometheus.subsystem = "edge".into();
        let text = text(&config, false, &Board::default(), &Signals::new(1, Reach::of_messages(1_024)));
        assert!(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .all(|line| line.starts_with("harmonylite_edge_"))
        );
    }
}
