//! Metrics of a running daemon, as Prometheus' own tool judges them.

use crate::support::*;
use std::io::Write;
use std::process::{Command, Stdio};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)";

#[test]
fn promtool_has_nothing_to_say_of_them_and_what_happened_is_counted() {
    let dir = Dir::new("metrics");
    let nats = Nats::start(&dir);
    let port = free_port();
    let extra =
        format!("[prometheus]\nenable = true\nbind = \"127.0.0.1:{port}\"\n[snapshot]\nleader_ttl = 1000\n");
    let mut one = Node::with_schema(&dir, 1, &nats.url(), &extra, SCHEMA);
    let mut two = Node::with_schema(&dir, 2, &nats.url(), "", SCHEMA);
    one.start_ready();
    two.start_ready();
    one.sql("INSERT INTO t VALUES(1, 'x'), (2, 'y')");
    wait_equal(&mut [&mut one, &mut two], 30);
    two.sql("INSERT INTO t VALUES(3, 'z')");
    wait_equal(&mut [&mut one, &mut two], 30);
    let shown = || http_get(port, "/metrics").map(|(_, body)| body).unwrap_or_default();
    let text = wait_for("all of it is counted", 20, || {
        let text = shown();
        let has = |line: &str| text.contains(&format!("\nharmonylite_{line}\n"));
        let all = has("published_total{node_id=\"1\"} 2")
            && has("published{node_id=\"1\"} 2")
            && has("rows_applied_total{node_id=\"1\"} 1")
            && has("round_trip_seconds_count{node_id=\"1\"} 1")
            && has("snapshot_duration_seconds_count{node_id=\"1\"} 1")
            && has("other_nodes{node_id=\"1\",state=\"alive\"} 1")
            && has("behind_messages{node_id=\"1\"} 0")
            && has("problems{node_id=\"1\"} 0");
        all.then_some(text)
    });
    let number = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("harmonylite_{name}{{"))).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(number("sent_bytes_total") > 100.0 && number("snapshot_size_bytes") > 4_000.0, "{text}");
    assert!(number("round_trip_seconds_sum") < 20.0, "{text}");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    match promtool.spawn() {
        Ok(mut child) => {
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert_eq!((output.status.code(), printed(&output)), (Some(0), String::new()));
            let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/prometheus/alerts.yml");
            let output = Command::new("promtool").args(["check", "rules", rules]).output().unwrap();
            assert!(output.status.success(), "{}", printed(&output));
        }
        Err(error) => skip(&format!("promtool: {error}")),
    }
}
