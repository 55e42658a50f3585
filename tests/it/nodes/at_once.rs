//! Changes of the schema and of rows that the applications of three nodes make while no node hears of another one. Afterwards all have
//! the same schema, and the same rows.

use super::travel::{shape, three};
use crate::fuzz::random::Random;
use crate::support::*;

/// An application that knows nothing but its own database.
struct Application<'a> {
    node: &'a Node,
    id: usize,
    random: &'a mut Random,
    made: &'a mut u64,
    done: Vec<String>,
}

impl Application<'_> {
    fn list(&self, sql: &str) -> Vec<String> {
        let connection = self.node.open();
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    fn one_of(&mut self, list: &[String]) -> Option<String> {
        (!list.is_empty()).then(|| list[self.random.place(list.len())].clone())
    }

    /// Names come again, also on other nodes.
    fn name(&mut self, what: &str) -> String {
        format!("{what}{}", self.random.below(12))
    }

    fn columns(&self, table: &str) -> Vec<String> {
        self.list(&format!("SELECT name FROM pragma_table_info('{table}') WHERE pk = 0"))
    }

    fn statement(&mut self) -> Option<String> {
        let tables = self.list(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_\\_harmonylite%' ESCAPE '\\' AND name NOT LIKE 'sqlite%'",
        );
        let table = self.one_of(&tables)?;
        let columns = self.columns(&table);
        let column = self.one_of(&columns)?;
        let (new, other) = (self.name("c"), self.name("n"));
        *self.made += 1;
        let made = *self.made;
        let key = self.list(&format!("SELECT name FROM pragma_table_info('{table}') WHERE pk = 1"));
        let key = self.one_of(&key)?;
        Some(match self.random.below(16) {
            0..=3 => format!("INSERT INTO {table}({key}, {column}) VALUES('{}-{made}', {made})", self.id),
            4 | 5 => format!("UPDATE {table} SET {column} = 'u{made}'"),
            6 => format!("DELETE FROM {table} WHERE {key} LIKE '%{}'", made % 10),
            7 | 8 => format!("ALTER TABLE {table} ADD COLUMN {new} TEXT DEFAULT 'd{}'", made % 3),
            9 => format!("ALTER TABLE {table} DROP COLUMN {column}"),
            10 | 11 => format!("ALTER TABLE {table} RENAME COLUMN {column} TO {other}"),
            12 | 13 => format!("ALTER TABLE {table} RENAME TO t{other}"),
            14 => format!("CREATE INDEX i{made} ON {table}({column}, {key})"),
            _ => format!(
                "CREATE TABLE {new}x{made}(id TEXT PRIMARY KEY, {column}, {other}x TEXT); \
                          INSERT INTO {new}x{made}(id, {column}) VALUES('{}-{made}', 'first')",
                self.id
            ),
        })
    }

    fn run(&mut self, statements: u64) {
        let connection = self.node.open();
        for _ in 0..statements {
            let Some(sql) = self.statement() else { continue };
            if connection.execute_batch(&sql).is_ok() {
                self.done.push(sql);
            }
            if self.random.one_in(3) {
                // It is noticed as a change of its own.
                pause(150);
            }
        }
    }
}

fn rounds(seed: u64, count: u64) {
    let dir = Dir::new("at-once");
    let mut nats = Nats::start(&dir);
    let mut nodes = three(&dir, &nats, "");
    nodes[0]
        .sql("INSERT INTO t VALUES('first', 'a', 1), ('second', 'b', 2); INSERT INTO other VALUES(1, 'x')");
    let (mut random, mut made) = (Random::new(seed), 0);
    for round in 0..count {
        wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 60);
        nats.kill();
        let mut all = String::new();
        for (at, node) in nodes.iter().enumerate() {
            let (statements, id) = (1 + random.below(4), at + 1);
            let mut application =
                Application { node, id, random: &mut random, made: &mut made, done: vec![] };
            application.run(statements);
            all += &format!("node {id}: {:#?}\n", application.done);
        }
        if random.one_in(3) {
            let at = random.place(3);
            nodes[at].kill9();
            nodes[at].start();
        }
        pause(200);
        nats.restart();
        eprintln!("seed {seed}, round {round}: {all}");
        wait_for("the schemas are equal", 60, || {
            let first = shape(&nodes[0]);
            nodes.iter().all(|node| shape(node) == first).then_some(())
        });
    }
    wait_equal(&mut nodes.iter_mut().collect::<Vec<_>>(), 60);
    for node in &nodes {
        assert_eq!(value(node, "PRAGMA integrity_check"), "Text([111, 107])");
    }
}

#[test]
fn all_come_to_the_same() {
    let seed = number_from_environment("HARMONYLITE_SEED").unwrap_or(1);
    rounds(seed, number_from_environment("HARMONYLITE_ROUNDS").unwrap_or(4));
}
