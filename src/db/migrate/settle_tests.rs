//! Changes that several nodes make at once: all come to the same schema, and keep what their rows held.

use super::*;
use crate::base::mutants::each_seed;
use crate::db::capture::install::{self, install};
use crate::db::migrate::random_changes::Random;
use crate::db::migrate::{self, Looker};
use crate::db::{schema::Schema, sql::quote, state};
use crate::model::change::Thing;
use crate::model::value::Value;

/// A node, as far as its schema goes.
struct Node {
    number: u64,
    connection: Connection,
    /// How many changes it has read.
    read: usize,
    /// What its application changed and nobody has got yet.
    unpublished: Vec<Change>,
    lost: Vec<String>,
    told_anew: BTreeSet<String>,
    /// Rows of its tables go to the others, which is not done here.
    sends_rows: bool,
}

/// Nodes, and the changes in their order.
struct Cluster {
    nodes: Vec<Node>,
    stream: Vec<Change>,
}

impl Node {
    fn new(number: u64, sql: &str) -> Node {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("PRAGMA foreign_keys=OFF; PRAGMA ignore_check_constraints=ON").unwrap();
        state::create(&connection).unwrap();
        connection.execute_batch(sql).unwrap();
        let (unpublished, lost) = (vec![], vec![]);
        let told_anew = BTreeSet::new();
        let mut node = Node { number, connection, read: 0, unpublished, lost, told_anew, sends_rows: false };
        node.look();
        node
    }

    fn look(&mut self) {
        let (schema, _) = install(&mut self.connection).unwrap();
        let looker = Looker { node: self.number, travels: true };
        self.unpublished.extend(migrate::look(&self.connection, &schema, looker).unwrap());
        self.sends_rows |= !state::rebuilt(&self.connection).unwrap().is_empty();
        let logged: i64 = self
            .connection
            .query_row("SELECT count(*) FROM __harmonylite__log", [], |row| row.get(0))
            .unwrap();
        self.sends_rows |= logged > 0;
        self.connection.execute_batch("DELETE FROM __harmonylite__log").unwrap();
    }

    fn cannot_follow(&self) -> bool {
        history::any_in_state(&self.connection, State::Failed).unwrap()
    }

    /// Other nodes do not get to know.
    fn delete_rows(&mut self) {
        for table in definitions::tables(&self.connection).unwrap() {
            self.connection.execute(&format!("DELETE FROM {}", quote(&table)), []).unwrap();
        }
        self.connection.execute_batch("DELETE FROM __harmonylite__log").unwrap();
        self.sends_rows = true;
    }

    /// Runs statements of its application; they need not succeed.
    fn run(&mut self, sql: &str) -> bool {
        self.connection.execute_batch("SAVEPOINT s").unwrap();
        let worked = self.connection.execute_batch(sql).is_ok();
        self.connection.execute_batch(if worked { "RELEASE s" } else { "ROLLBACK TO s; RELEASE s" }).unwrap();
        worked
    }

    fn follow(&mut self, change: &Change) {
        self.look();
        let schema = Schema::read(&self.connection).unwrap();
        history::create(&self.connection).unwrap();
        let known = history::state_of(&self.connection, &change.id).unwrap();
        let triggers = rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
        self.connection.set_db_config(triggers, false).unwrap();
        self.connection.execute_batch("BEGIN").unwrap();
        match settle(&self.connection, change, false) {
            Ok(Settled { carried, change: settled, told_anew }) => {
                install::install_inside(&self.connection, &schema).unwrap();
                let difference = migrate::difference(&self.connection).unwrap();
                migrate::remember(&self.connection, &difference).unwrap();
                let change = settled.unwrap_or_else(|| change.clone());
                history::put(&self.connection, &change, State::Done, (0, "")).unwrap();
                self.connection.execute_batch("COMMIT").unwrap();
                if known == Some(State::Waiting) {
                    self.lost.extend(carried.lost);
                }
                self.told_anew.extend(told_anew);
            }
            Err(Error::Mismatch(why) | Error::Other(why)) => {
                self.connection.execute_batch("ROLLBACK").unwrap();
                history::put(&self.connection, change, State::Failed, (0, &why)).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
        self.connection.set_db_config(triggers, true).unwrap();
        install(&mut self.connection).unwrap();
    }
}

impl Cluster {
    fn new(count: u64, sql: &str) -> Cluster {
        Cluster { nodes: (1..=count).map(|number| Node::new(number, sql)).collect(), stream: vec![] }
    }

    fn publish(&mut self, at: usize) {
        self.nodes[at].look();
        self.stream.append(&mut self.nodes[at].unpublished);
    }

    /// A node reads the next change, if there is one.
    fn read(&mut self, at: usize) -> bool {
        let node = &mut self.nodes[at];
        let Some(change) = self.stream.get(node.read).cloned() else { return false };
        node.read += 1;
        node.follow(&change);
        true
    }

    /// All is published and read, and what failed tried again. Returns how many changes that were.
    fn finish(&mut self) -> usize {
        let mut count = 0;
        for at in 0..self.nodes.len() {
            self.publish(at);
        }
        for at in 0..self.nodes.len() {
            while self.read(at) {}
            let failed = history::in_state(&self.nodes[at].connection, State::Failed).unwrap();
            if !failed.is_empty() {
                self.nodes[at].delete_rows();
            }
            for (_, change) in failed {
                count += 1;
                self.nodes[at].follow(&change);
            }
        }
        count
    }

    /// Each node runs its statements, which are published in this order.
    fn at_once(start: &str, all: &[&str]) -> Cluster {
        let mut cluster = Cluster::new(all.len() as u64, start);
        for (node, sql) in cluster.nodes.iter_mut().zip(all) {
            for statements in sql.split(";;") {
                assert!(node.run(statements), "{statements}");
                node.look();
            }
        }
        cluster.finish();
        cluster.is_equal().unwrap();
        cluster
    }

    fn is_equal(&self) -> Result<(), String> {
        let sends_rows = self.sends_rows();
        let all: Vec<Vec<String>> = self.nodes.iter().map(|node| node.content(!sends_rows)).collect();
        for (at, content) in all.iter().enumerate().skip(1) {
            if *content != all[0] {
                let only = |one: &[String], other: &[String]| -> Vec<String> {
                    one.iter().filter(|line| !other.contains(line)).cloned().collect()
                };
                return Err(format!(
                    "node 1 has {:#?}, node {} has {:#?}",
                    only(&all[0], content),
                    at + 1,
                    only(content, &all[0])
                ));
            }
        }
        Ok(())
    }

    fn sends_rows(&self) -> bool {
        self.nodes.iter().any(|node| node.sends_rows || !node.told_anew.is_empty())
    }

    /// Tables whose rows are published once more.
    fn told_anew(&self) -> BTreeSet<String> {
        self.nodes.iter().flat_map(|node| node.told_anew.iter().cloned()).collect()
    }
}

impl Node {
    /// Statements of all that the application has, and, if wanted, the rows of its tables.
    fn content(&self, rows: bool) -> Vec<String> {
        let mut found = vec![];
        for thing in definitions::of_application(&self.connection).unwrap() {
            let tokens = crate::db::indexes::tokens(&thing.sql);
            let words: Vec<String> =
                tokens.iter().map(|t| crate::db::migrate::statement::bare(&thing.sql[t.0..t.1])).collect();
            found.push(words.join(" "));
            if !rows || thing.kind != Thing::Table {
                continue;
            }
            let sql = format!("SELECT * FROM {} ORDER BY 1", quote(&thing.name));
            let mut rows = self.connection.prepare(&sql).unwrap();
            let width = rows.column_count();
            let rows = rows.query_map([], |row| {
                (0..width).map(|at| row.get::<_, Value>(at)).collect::<Result<Vec<_>, _>>()
            });
            found.extend(rows.unwrap().map(|row| format!("{}: {:?}", thing.name, row.unwrap())));
        }
        found.sort();
        found
    }

    fn columns(&self, table: &str) -> Vec<String> {
        let all = definitions::columns_of(&self.connection, table).unwrap().into_iter();
        all.map(|column| column.name + " " + &column.declared_type).collect()
    }

    fn text(&self, sql: &str) -> String {
        self.connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

#[test]
fn different_changes_of_one_table_come_together() {
    let start = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b TEXT); INSERT INTO t VALUES(1, 'x', 'y')";
    let cluster = Cluster::at_once(
        start,
        &[
            "ALTER TABLE t ADD COLUMN n TEXT; ALTER TABLE t RENAME COLUMN a TO z",
            "ALTER TABLE t ADD COLUMN m TEXT DEFAULT 'm'; CREATE INDEX i ON t(m)",
        ],
    );
    for node in &cluster.nodes {
        assert_eq!(node.columns("t"), ["id INTEGER", "z TEXT", "b TEXT", "n TEXT", "m TEXT"]);
        assert_eq!(node.text("SELECT id || z || b || m FROM t"), "1xym");
    }
}

#[test]
fn of_two_columns_of_one_name_the_first_one_stays() {
    let start = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE); INSERT INTO t VALUES(1, 'x')";
    let cluster = Cluster::at_once(
        start,
        &[
            "ALTER TABLE t ADD COLUMN n TEXT DEFAULT 'one'",
            "ALTER TABLE t ADD COLUMN n INTEGER DEFAULT 2; ALTER TABLE t ADD COLUMN m",
        ],
    );
    assert!(cluster.nodes[0].lost.is_empty());
    assert_eq!(cluster.nodes[1].lost, ["table t, column n: it was added otherwise before"]);
    assert_eq!(cluster.nodes[1].columns("t"), ["id INTEGER", "a TEXT", "n TEXT", "m "]);
    // What its rows held comes to the others as rows.
    assert_eq!(cluster.told_anew(), ["t".to_owned()].into());
}

/// ALTER TABLE does not drop a column with a UNIQUE rule, nor add one that must not be NULL.
#[test]
fn different_changes_come_together_where_alter_does_not_reach() {
    let start =
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b TEXT); INSERT INTO t VALUES(1, 'x', 'y')";
    let cluster = Cluster::at_once(
        start,
        &[
            "CREATE TABLE n(id INTEGER PRIMARY KEY, b TEXT, must INTEGER NOT NULL); INSERT INTO n SELECT id, b, 7 FROM t; \
             DROP TABLE t; ALTER TABLE n RENAME TO t",
            "ALTER TABLE t ADD COLUMN m TEXT DEFAULT 'two'",
        ],
    );
    for node in &cluster.nodes {
        assert_eq!(node.text("SELECT id || b || must || m FROM t"), "1y7two");
        assert_eq!(node.columns("t").len(), 4);
    }
}

#[test]
fn of_two_tables_of_one_name_the_first_one_stays() {
    let cluster = Cluster::at_once(
        "CREATE TABLE o(a)",
        &[
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT)",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, b TEXT); INSERT INTO t VALUES(1, 'x')",
        ],
    );
    assert_eq!(cluster.nodes[1].lost, ["table t: it was made otherwise before"]);
    assert_eq!(cluster.nodes[1].columns("t"), ["id INTEGER", "a TEXT"]);
    assert_eq!(cluster.told_anew(), ["t".to_owned()].into());
}

#[test]
fn names_that_others_have_changed_meanwhile() {
    let start = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b TEXT); CREATE INDEX i ON t(a); INSERT INTO t VALUES(1, 'x', 'y'); \
                 CREATE TABLE u(t REFERENCES t)";
    for (one, two, statement, lost) in [
        ("ALTER TABLE t RENAME TO s", "ALTER TABLE t RENAME TO r", "SELECT a || b FROM r", 0),
        (
            "ALTER TABLE t RENAME TO s",
            "ALTER TABLE t ADD COLUMN c DEFAULT 'z'",
            "SELECT a || b FROM s WHERE c = 'z'",
            0,
        ),
        (
            "ALTER TABLE t RENAME TO s",
            "CREATE TRIGGER tr AFTER DELETE ON t BEGIN DELETE FROM u WHERE t = OLD.id; END; \
          CREATE VIEW v AS SELECT a || b FROM t",
            "SELECT * FROM v",
            0,
        ),
        (
            "ALTER TABLE t RENAME COLUMN a TO c",
            "ALTER TABLE t RENAME COLUMN a TO d",
            "SELECT d || b FROM t",
            0,
        ),
        ("ALTER TABLE t RENAME COLUMN b TO c", "ALTER TABLE t DROP COLUMN b", "SELECT a || 'y' FROM t", 0),
        ("CREATE INDEX j ON t(b)", "ALTER TABLE t DROP COLUMN b", "SELECT a || 'y' FROM t", 0),
        ("ALTER TABLE t DROP COLUMN b", "ALTER TABLE t RENAME COLUMN b TO c", "SELECT a || 'y' FROM t", 1),
        (
            "ALTER TABLE t RENAME COLUMN b TO c; ALTER TABLE t RENAME TO s",
            "CREATE UNIQUE INDEX j ON t(b)",
            "SELECT a || c FROM s",
            0,
        ),
        (
            "ALTER TABLE t RENAME TO s",
            "CREATE TABLE n(id INTEGER PRIMARY KEY, b TEXT, a TEXT NOT NULL CHECK(a <> '')); \
          INSERT INTO n SELECT id, b, a FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t; CREATE INDEX i ON t(a)",
            "SELECT a || b FROM s",
            0,
        ),
        ("ALTER TABLE t RENAME TO s", "CREATE TABLE s(x)", "SELECT a || b FROM s", 1),
        (
            "ALTER TABLE t RENAME TO s;; CREATE TABLE t(x)",
            "ALTER TABLE u RENAME TO w",
            "SELECT a || b FROM s",
            0,
        ),
        (
            "ALTER TABLE t RENAME TO m;; ALTER TABLE u RENAME TO t;; ALTER TABLE m RENAME TO u",
            "ALTER TABLE t RENAME COLUMN a TO c",
            "SELECT c || b FROM u",
            0,
        ),
    ] {
        let cluster = Cluster::at_once(start, &[one, two]);
        let other_way = Cluster::at_once(start, &[two, one]);
        assert_eq!(cluster.nodes[1].lost.len(), lost, "{one} / {two}: {:?}", cluster.nodes[1].lost);
        for node in &cluster.nodes {
            assert_eq!(node.text(statement), "xy", "{one} / {two}");
        }
        drop(other_way);
    }
}

/// Whatever nodes make of their schemas at once, and whenever they get what the others made: all end with the same.
#[test]
fn mutants_of_a_schema_on_several_nodes_come_together() {
    let (mut rounds, mut beside, mut with_rows, mut failed) = (0, 0, 0, 0);
    each_seed("changes at once", |dice| {
        if dice.below(60) != 0 {
            return;
        }
        let mut random = Random::new(dice);
        let start: Vec<String> = (0..3).map(|_| random.table()).collect();
        random.with_few_names(12);
        let mut cluster = Cluster::new(3, &start.join("; "));
        let mut log = vec![];
        if random.dice.below(3) == 0 {
            // What it can do the others cannot do at first.
            cluster.nodes[0].delete_rows();
            log.push("node 1 has no rows, and UNIQUE rules".to_owned());
            for table in definitions::tables(&cluster.nodes[0].connection).unwrap() {
                let columns = definitions::columns_of(&cluster.nodes[0].connection, &table).unwrap();
                let name = &columns[random.dice.below(columns.len())].name;
                assert!(
                    cluster.nodes[0].run(&format!("CREATE UNIQUE INDEX first_{table} ON {table}({name})"))
                );
            }
        }
        for _ in 0..40 {
            let at = random.dice.below(3);
            match random.dice.below(7) {
                0 | 1 => {
                    let sql = random.statement(&cluster.nodes[at].connection);
                    if cluster.nodes[at].run(&sql) {
                        log.push(format!("node {}: {sql}", at + 1));
                    }
                }
                2 | 3 => {
                    cluster.publish(at);
                    log.push(format!("node {} publishes", at + 1));
                }
                _ => {
                    let waits = !cluster.nodes[at].unpublished.is_empty();
                    if cluster.read(at) {
                        beside += usize::from(waits);
                        failed += usize::from(cluster.nodes[at].cannot_follow());
                        log.push(format!("node {} reads", at + 1));
                    }
                }
            }
        }
        failed += cluster.finish();
        for node in &cluster.nodes {
            let failed = history::all(&node.connection)
                .unwrap()
                .into_iter()
                .filter(|past| past.state == State::Failed);
            let why: Vec<String> = failed.map(|past| format!("{} {:?}", past.why, past.change)).collect();
            assert!(why.is_empty(), "{log:#?} {why:?}");
        }
        if let Err(why) = cluster.is_equal() {
            panic!("{:#?}\n{why}", log);
        }
        (rounds, with_rows) = (rounds + 1, with_rows + usize::from(!cluster.sends_rows()));
    });
    assert!(failed > 0, "none had to wait");
    assert!(rounds > 20 && beside > rounds / 4 && with_rows > rounds / 8, "{rounds} {beside} {with_rows}");
}
