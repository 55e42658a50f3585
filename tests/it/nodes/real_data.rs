//! Real databases, both ways. They lie beside the project, not in it; without them the test says so and passes.

use crate::support::*;
use std::path::Path;

fn both_ways(name: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if !source.is_file() {
        println!("skipped: {} is not there", source.display());
        return;
    }
    let dir = Dir::new("real");
    let nats = Nats::start(&dir);
    let mut one = Node::new(&dir, 1, &nats.url(), "");
    std::fs::copy(&source, &one.database).unwrap();
    // The second node has the schema and no rows.
    let mut two = Node::new(&dir, 2, &nats.url(), "");
    std::fs::copy(&source, &two.database).unwrap();
    let tables = tables(&two);
    let clear: String = tables.iter().map(|table| format!("DELETE FROM {table};")).collect();
    two.sql(&format!("PRAGMA foreign_keys=OFF; BEGIN; {clear} COMMIT;"));
    one.start_ready();
    two.start_ready();
    let expected = contents(&one.database);
    for table in &tables {
        let column: String = one
            .open()
            .query_row(
                "SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0 ORDER BY pk, cid LIMIT 1",
                [table.trim_matches('"')],
                |r| r.get(0),
            )
            .unwrap();
        one.sql(&format!("PRAGMA foreign_keys=OFF; UPDATE {table} SET \"{column}\" = \"{column}\""));
    }
    let text = wait_equal(&mut [&mut one, &mut two], 60);
    assert_eq!(text, expected, "{name}: rows changed on the way");
    // Back: the second node deletes every row of every table, and the first one follows.
    let half: String = tables.iter().map(|table| format!("DELETE FROM {table};")).collect();
    two.sql(&format!("PRAGMA foreign_keys=OFF; BEGIN; {half} COMMIT;"));
    let text = wait_equal(&mut [&mut one, &mut two], 60);
    assert!(
        !text.contains(" rows)\n") || text.matches("(0 rows)").count() == tables.len(),
        "{name}: rows stayed"
    );
}

fn tables(node: &Node) -> Vec<String> {
    let c = node.open();
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let mut statement = c.prepare(sql).unwrap();
    let names = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    names.map(|name| format!("\"{}\"", name.unwrap())).collect()
}

#[test]
fn chinook() {
    both_ways("chinook.db");
}

#[test]
fn northwind() {
    both_ways("northwind.db");
}
