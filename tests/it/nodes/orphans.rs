//! One node deletes a row and what refers to it while another one writes a row that refers to it.

use crate::support::*;

const SCHEMA: &str = "CREATE TABLE author(id INTEGER PRIMARY KEY, name);
     CREATE TABLE book(id INTEGER PRIMARY KEY AUTOINCREMENT, title, author INTEGER NOT NULL REFERENCES author ON DELETE CASCADE);
     INSERT INTO author VALUES(1, 'one'), (2, 'two'); INSERT INTO book VALUES(1, 'first', 1)";

/// Three nodes after it; the first row of each is the order in which the two are published.
fn after(dir: &Dir, nats: &mut Nats, config: &str) -> Vec<Node> {
    let mut nodes: Vec<Node> =
        (1..=3).map(|id| Node::with_schema(dir, id, &nats.url(), config, SCHEMA)).collect();
    nodes.iter_mut().for_each(Node::start_ready);
    for (deleter, writer) in [(0, 1), (1, 0)] {
        let author = deleter + 1;
        nats.kill();
        wait_for("the broker is away", 20, || {
            nodes.iter().all(|node| node.log().matches("trying for ever").count() > 0).then_some(())
        });
        nodes[deleter].sql(&format!("PRAGMA foreign_keys = ON; DELETE FROM author WHERE id = {author}"));
        nodes[writer].sql(&format!(
            "PRAGMA foreign_keys = ON; INSERT INTO book(title, author) VALUES('late', {author})"
        ));
        nats.restart();
        wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 60);
    }
    nodes
}

fn orphans(nodes: &mut [Node]) -> Vec<serde_json::Value> {
    let lists = nodes.iter().map(|node| json(&node.command(&["-conflicts", "-json"])));
    let all: Vec<serde_json::Value> = lists.flat_map(|list| list.as_array().unwrap().clone()).collect();
    all.into_iter().filter(|entry| entry["kind"] == "orphan").collect()
}

#[test]
fn it_is_on_the_list_of_one_node() {
    let dir = Dir::new("orphans");
    let mut nats = Nats::start(&dir);
    let mut nodes = after(&dir, &mut nats, "snapshot.enabled = false\n");
    let found = orphans(&mut nodes);
    assert_eq!(found.len(), 2, "{found:?}");
    for (entry, author) in found.iter().zip([1, 2]) {
        assert_eq!(
            (entry["table"].as_str(), entry["row"]["title"].as_str()),
            (Some("book"), Some("late")),
            "{entry}"
        );
        assert!([1, 2].contains(&entry["row"]["author"].as_i64().unwrap()), "{author} {entry}");
    }
    assert_eq!(value(&nodes[2], "SELECT count(*) FROM pragma_foreign_key_check"), "Integer(2)");
}

#[test]
fn it_is_settled_as_the_foreign_key_says_on_all_nodes() {
    let dir = Dir::new("orphans-settled");
    let mut nats = Nats::start(&dir);
    let mut nodes = after(&dir, &mut nats, "snapshot.enabled = false\norphans = \"settle\"\n");
    wait_for("no orphan is left", 30, || {
        let left = "SELECT count(*) FROM pragma_foreign_key_check";
        nodes.iter().all(|node| value(node, left) == "Integer(0)").then_some(())
    });
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 30);
    assert_eq!(orphans(&mut nodes).len(), 2, "what was deleted can be looked at");
    assert_eq!(value(&nodes[2], "SELECT count(*) FROM book"), "Integer(0)");
}
