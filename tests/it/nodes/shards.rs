//! Two nodes with different numbers of shards: each misses rows of the other, and both say so.

use crate::support::*;

#[test]
fn different_numbers_of_shards_are_said_on_both_nodes() {
    let dir = Dir::new("shards");
    let nats = Nats::start(&dir);
    let port = free_port();
    let health_check = format!("health_check.enable = true\nhealth_check.bind = \"127.0.0.1:{port}\"");
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    let mut one = Node::with_schema(&dir, 1, &nats.url(), &health_check, schema);
    let mut same = Node::with_schema(&dir, 2, &nats.url(), "", schema);
    one.start_ready();
    same.start_ready();
    pause(1_500);
    assert_eq!(one.count("replication_log.shards") + same.count("replication_log.shards"), 0);
    let mut other = Node::with_schema(&dir, 3, &nats.url(), "replication_log.shards = 3", schema);
    other.start_ready();
    for (node, here, there) in [(&one, 1, "node 3 on"), (&same, 1, "node 3 on"), (&other, 3, "node ")] {
        let told = format!("replication_log.shards = {here} here, and {there}");
        wait_for("the node says it", 10, || (node.count(&told) > 0).then_some(()));
    }
    let (_, shown) = health(port);
    assert_eq!(shown["status"], "degraded", "{shown}");
    let problem = shown["problems"][0].as_str().unwrap();
    assert!(
        problem.starts_with("another number of shards: node 3 on ")
            && problem.contains(" has 3: set the same "),
        "{shown}"
    );
    // Nobody is there any more who could speak: the streams tell.
    assert_eq!((other.stop(), same.stop(), one.stop()), (0, 0, 0));
    one.start_ready();
    wait_for("the stream is noticed", 10, || {
        (one.count("there is a stream harmonylite-changes-c-2, and replication_log.shards = 1 here") == 1)
            .then_some(())
    });
    one.stop();
}
