//! Metrics in the Prometheus text format 0.0.4: names `<namespace>[_<subsystem>]_<name>`, label `node_id` (formats, section
//! "Health and metrics"). `promtool check metrics` has nothing to say of them.

use super::histogram::Histogram;
use super::responder::{self, Reply};
use super::status::{bytes_written, state};
use super::{View, verdict::verdict};
use crate::base::{error::Error, stop::Stop, worker::Workers};
use crate::config::Config;
use crate::db::{ConflictKind, OfTable};
use std::fmt::Write;
use std::time::Instant;

/// Starts the thread that answers, if it is wanted. Every path gets the same answer.
pub fn start(view: &View, stop: &Stop, workers: &mut Workers) -> Result<(), Error> {
    if !view.config.prometheus.enable {
        return Ok(());
    }
    let listener = responder::listen("metrics", "prometheus.bind", &view.config.prometheus.bind)?;
    let (view, stop) = (view.clone(), stop.clone());
    workers.spawn("metrics", move || {
        responder::answer_all(&listener, &stop, |_| Reply {
            status: "200 OK",
            kind: "text/plain; version=0.0.4; charset=utf-8",
            body: text(&view),
        });
        Ok(())
    })
}

/// The labels of a metric besides the node's, and its value.
type Labelled = (String, i64);

/// What is written, metric by metric.
struct Sheet {
    prefix: String,
    node_id: u64,
    text: String,
}

impl Sheet {
    fn new(config: &Config) -> Sheet {
        let namespace = [config.prometheus.namespace.as_str(), &config.prometheus.subsystem];
        let prefix =
            namespace.iter().filter(|part| !part.is_empty()).map(|part| format!("{part}_")).collect();
        Sheet { prefix, node_id: config.node_id, text: String::new() }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let Sheet { prefix, text, .. } = self;
        let _ = writeln!(text, "# HELP {prefix}{name} {help}\n# TYPE {prefix}{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let Sheet { prefix, node_id, text } = self;
        let _ = writeln!(text, "{prefix}{name}{{node_id=\"{node_id}\"{labels}}} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.line(name, "", value);
    }

    /// What only grows. Its name ends in `_total`.
    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.one(name, "counter", help, value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.one(name, "gauge", help, value);
    }

    fn flag(&mut self, name: &str, help: &str, on: bool) {
        self.gauge(name, help, on.into());
    }

    /// A time in Unix milliseconds, shown in seconds.
    fn time(&mut self, name: &str, help: &str, ms: i64) {
        self.one(name, "gauge", help, ms / 1000);
    }

    fn many(&mut self, (name, kind): (&str, &str), help: &str, values: &[Labelled]) {
        self.head(name, kind, help);
        for (labels, value) in values {
            self.line(name, labels, value);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let (counts, sum) = histogram.so_far();
        for (bound, count) in &counts {
            self.line(&format!("{name}_bucket"), &format!(",le=\"{bound}\""), count);
        }
        self.line(&format!("{name}_sum"), "", sum);
        self.line(&format!("{name}_count"), "", counts.last().map_or(0, |(_, count)| *count));
    }
}

/// All metrics.
fn text(view: &View) -> String {
    let mut sheet = Sheet::new(&view.config);
    of_node(&mut sheet, view);
    of_flow(&mut sheet, view);
    of_schemas(&mut sheet, view);
    of_set_aside(&mut sheet, view);
    of_conflicts(&mut sheet, view);
    of_snapshots(&mut sheet, view);
    of_others(&mut sheet, view);
    sheet.text
}

fn of_node(sheet: &mut Sheet, view: &View) {
    let View { connection, board, signals, .. } = view;
    let version = (format!(",version=\"{}\"", env!("CARGO_PKG_VERSION")), 1);
    sheet.many(("build_info", "gauge"), "1, with the version as a label.", &[version]);
    sheet.gauge("uptime_seconds", "Time since the start.", board.uptime().as_secs());
    sheet.flag("connected", "1: connected to NATS.", connection.is_up());
    sheet.flag("database_open", "1: the database is open.", board.is_open());
    sheet.flag("whole", "1: nothing is missing.", signals.is_whole());
    let (_, problems) = verdict(view);
    let help = "What a person should look at, as health and -status name it; 0: healthy.";
    sheet.gauge("problems", help, problems.len() as u64);
    sheet.gauge("tables", "Tables captured.", board.tables());
    let (sent, received) = connection.traffic().so_far();
    sheet.counter("sent_bytes_total", "Bytes sent to NATS, before TLS.", sent);
    sheet.counter("received_bytes_total", "Bytes received from NATS, after TLS.", received);
    if let Some(written) = bytes_written() {
        sheet.counter("written_bytes_total", "Bytes that this process wrote to disks.", written);
    }
}

fn of_flow(sheet: &mut Sheet, view: &View) {
    let View { config, board, signals, fleet, .. } = view;
    let totals = board.totals();
    sheet.counter("published_total", "Events published and acknowledged.", totals.published);
    // The Go program's name, for its dashboards. It is no counter by its type, because a counter's name ends in _total.
    sheet.one(
        "published",
        "untyped",
        "The same as published_total, under the Go program's name.",
        totals.published,
    );
    sheet.counter("consumed_total", "Events read from the streams, own ones included.", totals.consumed);
    sheet.counter("rows_applied_total", "Rows written or deleted for other nodes.", totals.rows);
    sheet.gauge("pending_publish", "Captured changes that have not come back.", board.pending());
    let applied: Vec<Labelled> = (1..=config.log.shards)
        .zip(0..)
        .map(|(shard, stream)| {
            (format!(",stream=\"{}\"", config.stream(shard)), number(signals.flow.applied_seq(stream)))
        })
        .collect();
    sheet.many(("applied_sequence", "gauge"), "Highest sequence applied of each stream.", &applied);
    let behind = fleet.behind(&state(view).positions, Instant::now());
    sheet.gauge("behind_messages", "Messages in the streams that are not applied here.", behind.messages);
    sheet.gauge("behind_seconds", "Time since this node was level with the streams.", behind.seconds);
    sheet.histogram(
        "round_trip_seconds",
        "From the acknowledgement of a message by the broker until it is read back here and applied; 0: it was read first.",
        signals.flow.round_trips(),
    );
}

fn of_schemas(sheet: &mut Sheet, view: &View) {
    let board = &view.board;
    let waiting = board.waiting_events();
    sheet.flag("schemas_equal", "1: all running nodes have this node's schema.", board.are_schemas_equal());
    sheet.gauge("schema_waiting_events", "Events that wait for a table or column.", waiting);
    sheet.flag(
        "schema_mismatch_paused",
        "1: events wait for a table or column (the Go program's name; here only these events wait).",
        waiting > 0,
    );
    let help = "1: a change of the schema could not be carried out here.";
    sheet.flag("schema_cannot_follow", help, board.cannot_follow());
}

fn of_set_aside(sheet: &mut Sheet, view: &View) {
    let aside = view.board.aside();
    let of_table = |of: &OfTable| {
        let state = if of.refused { "refused" } else { "waiting" };
        (format!(",table=\"{}\",state=\"{state}\"", label(&of.table)), number(of.events))
    };
    let tables: Vec<Labelled> = aside.tables.iter().map(of_table).collect();
    sheet.many(("set_aside_events", "gauge"), "Events that are set aside, by table and state.", &tables);
    let lost = [
        (",state=\"waiting\"".to_owned(), number(aside.lost_waiting)),
        (",state=\"refused\"".to_owned(), number(aside.lost_refused)),
    ];
    let help = "Events that were dropped because too many were set aside.";
    sheet.many(("set_aside_dropped_total", "counter"), help, &lost);
}

fn of_conflicts(sheet: &mut Sheet, view: &View) {
    let board = &view.board;
    let kept = board.conflicts();
    let of_kind = |kind: ConflictKind| {
        let count = kept.iter().find(|(known, _)| *known == kind).map_or(0, |(_, count)| *count);
        (format!(",kind=\"{}\"", kind.word()), number(count))
    };
    let kept = ConflictKind::ALL.map(of_kind);
    let help = "Writes of other nodes that lost to ours and are kept, by kind.";
    sheet.many(("conflicts", "gauge"), help, &kept);
    sheet.counter("conflicts_found_total", "Writes of other nodes that lost to ours.", board.lost());
}

fn of_snapshots(sheet: &mut Sheet, view: &View) {
    let board = &view.board;
    let snapshot = board.snapshot();
    sheet.flag("snapshot_leader", "1: makes the snapshots.", board.is_leader());
    let help = "When this node last stored a snapshot; 0: never.";
    sheet.time("snapshot_stored_timestamp_seconds", help, snapshot.stored_ms);
    sheet.flag("snapshot_failing", "1: the last snapshot failed.", !snapshot.failure.is_empty());
    let help = "Size of the last snapshot that this node stored, as it lies in the store; 0: none.";
    sheet.gauge("snapshot_size_bytes", help, snapshot.bytes);
    let help = "How long the snapshots took that this node stored.";
    sheet.histogram("snapshot_duration_seconds", help, board.snapshots_took());
    let help = "When a restore was last proven; 0: never.";
    sheet.time("restore_proven_timestamp_seconds", help, snapshot.proven_ms);
    sheet.flag("restore_unproven", "1: the last proof failed.", !snapshot.unproven.is_empty());
}

fn of_others(sheet: &mut Sheet, view: &View) {
    let View { connection, board, fleet, .. } = view;
    let nodes = fleet.nodes(connection.is_up(), Instant::now());
    let in_state = |word: &str| {
        let count = nodes.iter().filter(|node| node.presence.word() == word).count() as u64;
        (format!(",state=\"{word}\""), number(count))
    };
    let states = ["alive", "silent", "stopped", "unknown"].map(in_state);
    sheet.many(("other_nodes", "gauge"), "Other nodes that were heard of, by state.", &states);
    let compared = board.compared();
    let help = "When the nodes were last compared; 0: never.";
    sheet.time("compare_timestamp_seconds", help, compared.at_ms);
    sheet.gauge("compare_differences", "Rows and tables that differed then.", compared.differences);
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A text as the value of a label: <https://prometheus.io/docs/instrumenting/exposition_formats/>.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::view;
    use super::*;
    use crate::operate::Whole;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// The type of each metric, by its name.
    fn kinds(text: &str) -> BTreeMap<&str, &str> {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.filter_map(|line| line.split_once(' ')).collect()
    }

    #[test]
    fn every_metric_has_a_help_a_type_and_values() {
        let view = view("");
        view.board.count_published(3);
        view.signals.set_whole(Whole::Yes);
        view.signals.flow.checkpoint(0, 42);
        view.board.count_snapshot(Duration::from_millis(700), 4_096);
        let text = text(&view);
        let kinds = kinds(&text);
        let mut seen = std::collections::BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split('{').next().unwrap();
            let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|end| name.strip_suffix(end));
            let base = parts.into_iter().find(|base| kinds.get(base) == Some(&"histogram")).unwrap_or(name);
            assert!(kinds.contains_key(base) && text.contains(&format!("# HELP {base} ")), "{line}");
            seen.insert(base);
        }
        // What is set aside has no value as long as nothing is.
        let empty: Vec<&&str> = kinds.keys().filter(|name| !seen.contains(*name)).collect();
        assert_eq!(empty, [&"harmonylite_set_aside_events"]);
        for value in [
            "harmonylite_published_total{node_id=\"ID\"} 3\n",
            "harmonylite_published{node_id=\"ID\"} 3\n",
            "harmonylite_whole{node_id=\"ID\"} 1\n",
            "harmonylite_applied_sequence{node_id=\"ID\",stream=\"harmonylite-changes-c-1\"} 42\n",
            "harmonylite_snapshot_duration_seconds_bucket{node_id=\"ID\",le=\"0.5\"} 0\n",
            "harmonylite_snapshot_duration_seconds_bucket{node_id=\"ID\",le=\"1\"} 1\n",
            "harmonylite_snapshot_duration_seconds_sum{node_id=\"ID\"} 0.700000\n",
            "harmonylite_snapshot_size_bytes{node_id=\"ID\"} 4096\n",
            "harmonylite_problems{node_id=\"ID\"} 0\n",
        ] {
            let value = value.replace("ID", &view.config.node_id.to_string());
            assert!(text.contains(&value), "{value} in {text}");
        }
    }

    #[test]
    fn counters_are_called_total_and_nothing_else_is() {
        let text = text(&view(""));
        for (name, kind) in kinds(&text) {
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        }
    }

    #[test]
    fn dashboard_and_alerts_ask_for_metrics_that_there_are() {
        let text = text(&view(""));
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
                let base = metric.strip_suffix("_bucket").unwrap_or(metric);
                assert!(text.contains(&format!("# TYPE {base} ")), "{file}: there is no {metric}");
            }
        }
    }

    #[test]
    fn tables_are_labels_that_nobody_can_break_out_of() {
        let view = view("");
        let table = "a\"} 1\nb\\".to_owned();
        view.board.set_aside(crate::db::SetAside {
            tables: vec![OfTable { table, refused: true, events: 2 }],
            ..Default::default()
        });
        let text = text(&view);
        assert!(text.contains(r#",table="a\"} 1\nb\\",state="refused"} 2"#), "{text}");
    }

    #[test]
    fn a_subsystem_stands_in_every_name() {
        let mut view = view("");
        view.config.prometheus.subsystem = "edge".into();
        let text = text(&view);
        assert!(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .all(|line| line.starts_with("harmonylite_edge_"))
        );
    }
}
