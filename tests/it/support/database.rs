//! What an application sees in a database, and waiting until several show the same.

use super::{Node, wait_for};
use rusqlite::Connection;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Everything that an application sees, as text: tables with all rows, values with their storage class.
pub fn contents(path: &Path) -> String {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_\\_harmonylite%' ESCAPE '\\' ORDER BY name";
    let mut tables = connection.prepare(sql).unwrap();
    let names: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut text = String::new();
    for name in names {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        let columns = connection.prepare(&format!("SELECT * FROM {quoted}")).unwrap().column_count();
        let order: Vec<String> = (1..=columns).map(|n| n.to_string()).collect();
        let mut rows =
            connection.prepare(&format!("SELECT * FROM {quoted} ORDER BY {}", order.join(", "))).unwrap();
        let mut rows = rows.query([]).unwrap();
        let mut all = vec![];
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<String> =
                (0..columns).map(|at| format!("{:?}", row.get_ref(at).unwrap())).collect();
            all.push(values.join(" | "));
        }
        all.sort();
        let _ = writeln!(text, "== {name} ({} rows)\n{}", all.len(), all.join("\n"));
    }
    text
}

/// Waits until all nodes hold the same and no log entry waits.
pub fn wait_equal(nodes: &mut [&mut Node], seconds: u64) -> String {
    wait_for("the nodes are equal", seconds, || {
        nodes.iter_mut().for_each(|node| node.assert_alive());
        if nodes.iter().any(|node| node.unsettled() > 0) {
            return None;
        }
        let first = contents(&nodes[0].database);
        nodes[1..].iter().all(|node| contents(&node.database) == first).then_some(first)
    })
}

/// One value of a query, as text.
pub fn value(node: &Node, sql: &str) -> String {
    node.open().query_row(sql, [], |row| row.get_ref(0).map(|v| format!("{v:?}"))).unwrap()
}

/// The page that the tree of a table or index begins on.
pub fn root_page(node: &Node, name: &str) -> u64 {
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    node.open().query_row(sql, [name], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs()
}
