//! The registry of schemas: what nodes tell, and what people are shown of it.

use crate::support::*;
use serde_json::Value as Json;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE VIRTUAL TABLE f USING fts5(x)";
const STREAM: &str = "KV_harmonylite-schema-registry";

fn node(dir: &Dir, nats: &Nats, id: u64) -> (Node, u16) {
    let port = free_port();
    let config =
        format!("schema = \"own\"\nhealth_check.enable = true\nhealth_check.bind = \"127.0.0.1:{port}\"\n");
    (Node::with_schema(dir, id, &nats.url(), &config, SCHEMA), port)
}

fn told(nats: &Nats, id: u64) -> Option<Json> {
    let message =
        nats.client().get_last_message(STREAM, &format!("$KV.harmonylite-schema-registry.node-{id}"));
    message.ok().map(|message| serde_json::from_slice(&message.data).unwrap())
}

fn of_node(status: &Json, id: u64) -> Json {
    let nodes = status["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["node_id"] == id).unwrap().clone()
}

#[test]
fn each_node_tells_its_schema_and_the_one_that_differs_is_named() {
    let dir = Dir::new("registry");
    let nats = Nats::start(&dir);
    let ((mut one, port), (mut two, _), (mut three, _)) =
        (node(&dir, &nats, 1), node(&dir, &nats, 2), node(&dir, &nats, 3));
    for node in [&mut one, &mut two, &mut three] {
        node.start_ready();
    }
    assert_eq!(
        one.count("because they are virtual tables, with what lies under them: f"),
        1,
        "{}",
        one.log()
    );
    let first = wait_for("all have told", 10, || {
        (1..=3).map(|id| told(&nats, id)).collect::<Option<Vec<Json>>>().map(|all| all[0].clone())
    });
    // What a Go node reads.
    assert_eq!((&first["node_id"], first.get("previous_hash")), (&Json::from(1), None));
    assert!(first["schema_hash"].as_str().unwrap().len() == 64 && first["updated_at"].is_string(), "{first}");
    assert!(first["harmonylite_version"].is_string());
    let info = nats.client().stream_info(STREAM).unwrap();
    assert_eq!(info.config.max_age.as_secs(), 300);
    let all = json(&one.command(&["-schema-status-cluster", "-json"]));
    assert_eq!((&all["equal"], all["nodes"].as_array().unwrap().len()), (&Json::from(true), 3), "{all}");

    one.sql("ALTER TABLE t ADD COLUMN w INTEGER");
    two.sql("ALTER TABLE t ADD COLUMN w INTEGER");
    one.sql("INSERT INTO t VALUES(1, 'a', 5)");
    let second = wait_for("it is told at once", 10, || {
        told(&nats, 1).filter(|told| told["schema_hash"] != first["schema_hash"])
    });
    assert_eq!(second["previous_hash"], first["schema_hash"]);
    let all = wait_for("it differs", 20, || {
        let all = json(&one.command(&["-schema-status-cluster", "-json"]));
        // Until node 2 has told, it is node 1 that differs.
        (of_node(&all, 2)["equal"] == true && of_node(&all, 3)["equal"] == false).then_some(all)
    });
    let lagging = of_node(&all, 3);
    assert_eq!(lagging["differences"], serde_json::json!(["table t: column w lacks"]), "{all}");
    assert!(lagging["verdict"].as_str().unwrap().starts_with("lags"), "{all}");
    let text = printed(&one.command(&["-schema-status-cluster"]));
    assert!(text.contains("node 3 lags") && text.contains("bring node 3 to the same schema"), "{text}");
    wait_for("health says it", 30, || (health(port).1["schemas_equal"] == false).then_some(()));
    assert_eq!(health(port).1["role"], "node");

    // What waits there is shown, with or without a daemon.
    wait_for("it waits", 20, || {
        let status = json(&three.command(&["-schema-status", "-json"]));
        (status["waiting"][0]["columns"] == serde_json::json!(["w"])).then_some(())
    });
    three.stop();
    let text = printed(&three.command(&["-schema-status"]));
    assert!(text.contains("table t: 1 events wait for w, the oldest for"), "{text}");
    assert!(text.contains("a virtual table"), "{text}");
    three.sql("ALTER TABLE t ADD COLUMN w INTEGER");
    let status = json(&three.command(&["-schema-status", "-json"]));
    assert_eq!(
        (&status["schema_hash"], &status["previous_hash"]),
        (&second["schema_hash"], &first["schema_hash"])
    );
    three.start_ready();
    wait_equal(&mut [&mut one, &mut two, &mut three], 30);
    wait_for("all are equal", 30, || (health(port).1["schemas_equal"] == true).then_some(()));
}

#[test]
fn a_go_node_and_nonsense_are_told_apart() {
    let dir = Dir::new("registry-go");
    let nats = Nats::start(&dir);
    let (mut one, port) = node(&dir, &nats, 1);
    one.start_ready();
    wait_for("it has told", 10, || told(&nats, 1));
    let put = |key: &str, value: &str| {
        nats.client().publish(&format!("$KV.harmonylite-schema-registry.{key}"), value).unwrap();
    };
    put(
        "node-9",
        r#"{"node_id":9,"schema_hash":"ab","harmonylite_version":"dev","updated_at":"2026-11-24T15:00:00.123456789+02:00"}"#,
    );
    put("node-8", r#"{"node_id":7,"schema_hash":"ab"}"#);
    put("node-x", "nonsense");
    let all = json(&one.command(&["-schema-status-cluster", "-json"]));
    assert_eq!(all["nodes"].as_array().unwrap().len(), 2, "{all}");
    assert_eq!(of_node(&all, 9)["differences"][0], "it is a Go node, which tells no tables");
    wait_for("health says it", 30, || (health(port).1["schemas_equal"] == false).then_some(()));
    // A node that is down is still known, by what the cluster's own bucket keeps.
    nats.client().purge_stream(STREAM).unwrap();
    one.stop();
    let all = json(&one.command(&["-schema-status-cluster", "-json"]));
    assert_eq!(
        (of_node(&all, 1)["runs"].clone(), all["nodes"].as_array().unwrap().len()),
        (Json::from(false), 1)
    );
}
