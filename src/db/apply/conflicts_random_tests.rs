//! No write vanishes unseen: whatever three applications write, whatever is delayed, what each has left of a row is there in the end, or
//! another one has overwritten it knowingly, or a conflict names it. `HARMONYLITE_SEED` and `HARMONYLITE_DB_SCHEDULES` repeat a run.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

const SCHEMAS: [&str; 3] = [
    "CREATE TABLE t(k INTEGER PRIMARY KEY, u UNIQUE, v)",
    "CREATE TABLE t(k INTEGER PRIMARY KEY, u, v) ; CREATE UNIQUE INDEX tu ON t(lower(u))",
    "CREATE TABLE t(k INTEGER PRIMARY KEY, u, v, w AS (u || '/') UNIQUE)",
];
const CHILD: &str = "; CREATE TABLE c(k INTEGER PRIMARY KEY, p REFERENCES t ON DELETE CASCADE)";

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Rows by their keys, as text.
type Rows = BTreeMap<i64, String>;

fn rows(node: &Node) -> Rows {
    let mut statement = node.scratch.app.prepare("SELECT k, quote(u) || ' ' || quote(v) FROM t").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// The row that a conflict names, in the same form.
fn image(conflict: &Conflict) -> String {
    let event = Event::decode(&conflict.payload).unwrap();
    let value = |name: &str| match event.row.iter().find(|(known, _)| &**known == name) {
        Some((_, Value::Integer(number))) => number.to_string(),
        Some((_, Value::Text(text))) => format!("'{}'", String::from_utf8_lossy(text)),
        _ => "NULL".to_owned(),
    };
    format!("{} {}", value("u"), value("v"))
}

fn orphans(node: &Node) -> BTreeSet<i64> {
    let sql = "SELECT k FROM c WHERE p IS NOT NULL AND p NOT IN (SELECT k FROM t)";
    let mut statement = node.scratch.app.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// What a row of c refers to.
fn parent(node: &Node, row: i64) -> i64 {
    node.scratch.app.query_row("SELECT p FROM c WHERE k = ?1", [row], |row| row.get(0)).unwrap()
}

fn number(event: &Event, name: &str) -> Option<i64> {
    event.row.iter().find(|(known, _)| &**known == name).and_then(|(_, value)| match value {
        Value::Integer(number) => Some(*number),
        _ => None,
    })
}

/// Writes of rows that two nodes list.
fn twice(conflicts: &[Conflict]) -> Vec<String> {
    let mut count: BTreeMap<(u64, String), u64> = BTreeMap::new();
    let of_rows = conflicts.iter().filter(|c| c.kind != Kind::Orphan && c.lost_by != 0);
    of_rows.for_each(|c| *count.entry((c.seq, key(c))).or_default() += 1);
    let twice = count.into_iter().filter(|(_, count)| *count > 1);
    twice.map(|((seq, row), count)| format!("{row} of {seq} is listed {count} times")).collect()
}

/// A row before and after a transaction of a node.
struct Write {
    node: u64,
    key: i64,
    before: Option<String>,
    after: Option<String>,
}

struct Site {
    node: Node,
    /// Read out of the log, and not yet in the stream.
    sent: Stream,
}

struct Cluster {
    sql: String,
    sites: Vec<Site>,
    stream: Stream,
    writes: Vec<Write>,
    random: Random,
    token: u64,
    /// Orphans that an application has made: SQLite counts violations, and one that is solved makes room for another.
    made: BTreeSet<i64>,
    /// What happened, for whoever looks for the cause of a failure.
    story: Vec<String>,
}

impl Cluster {
    fn new(seed: u64) -> Cluster {
        let schema = SCHEMAS[usize::try_from(seed % 3).unwrap()];
        let begin = "; INSERT INTO t(k, u, v) VALUES(1, 'a', 0), (2, 'b', 0), (3, 'c', 0), (4, 'd', 0); INSERT INTO c VALUES(1, 1), (2, 2)";
        let sql = format!("{schema}{CHILD}{begin}");
        let site = |id| Site { node: Node::new(&format!("vanish-{seed}"), id, &sql), sent: vec![] };
        let sites: Vec<Site> = (1..=3).map(site).collect();
        for site in &sites {
            site.node.write("PRAGMA foreign_keys = ON");
        }
        Cluster {
            sql,
            sites,
            stream: vec![],
            writes: vec![],
            random: Random(seed * 977 + 1),
            token: 0,
            made: BTreeSet::new(),
            story: vec![],
        }
    }

    fn statement(&mut self, at: usize) -> String {
        self.token += 1;
        let (key, other, token) = (1 + self.random.below(6), 1 + self.random.below(6), self.token);
        let own = 100 + 10 * at as u64 + self.random.below(5);
        match self.random.below(11) {
            0 | 1 => format!("UPDATE t SET v = {token} WHERE k = {key}"),
            2 => format!("UPDATE OR IGNORE t SET u = 'n{}' WHERE k = {key}", self.random.below(4)),
            3 | 4 => format!(
                "CREATE TEMP TABLE h AS SELECT k, u FROM t WHERE k IN ({key}, {other}); \
                 UPDATE t SET u = 'held{token}' WHERE k = {key} AND (SELECT count(*) FROM h) = 2; \
                 UPDATE t SET u = (SELECT u FROM h WHERE k = {key}) WHERE k = {other} AND (SELECT count(*) FROM h) = 2; \
                 UPDATE t SET u = (SELECT u FROM h WHERE k = {other}) WHERE k = {key} AND (SELECT count(*) FROM h) = 2; DROP TABLE h"
            ),
            5 => format!("DELETE FROM t WHERE k = {key}"),
            6 => format!("INSERT OR IGNORE INTO t(k, u, v) VALUES({key}, 'i{token}', {token})"),
            7 => format!(
                "INSERT OR REPLACE INTO t(k, u, v) VALUES({key}, 'n{}', {token})",
                self.random.below(4)
            ),
            8 => format!("UPDATE OR IGNORE t SET k = {other}, v = {token} WHERE k = {key}"),
            9 => format!("INSERT OR IGNORE INTO c SELECT {own}, k FROM t WHERE k = {key}"),
            _ => format!("UPDATE c SET p = (SELECT k FROM t WHERE k = {key}) WHERE k = {own}"),
        }
    }

    fn write(&mut self, at: usize) {
        let (before, known) = (rows(&self.sites[at].node), orphans(&self.sites[at].node));
        let count = 1 + self.random.below(3);
        let statements: Vec<String> = (0..count).map(|_| self.statement(at)).collect();
        let node = &self.sites[at].node;
        // A foreign key may refuse it.
        if node.scratch.app.execute_batch(&format!("BEGIN; {}; COMMIT", statements.join("; "))).is_err() {
            node.write("ROLLBACK");
        }
        let after = rows(node);
        self.made.extend(orphans(node).difference(&known));
        let keys: BTreeSet<i64> = before.keys().chain(after.keys()).copied().collect();
        for key in keys.into_iter().filter(|key| before.get(key) != after.get(key)) {
            let (before, after) = (before.get(&key).cloned(), after.get(&key).cloned());
            self.writes.push(Write { node: node.id, key, before, after });
        }
    }

    fn send(&mut self, at: usize) {
        let site = &mut self.sites[at];
        site.node.publish(&mut site.sent);
    }

    fn deliver(&mut self, at: usize) {
        self.stream.append(&mut self.sites[at].sent);
    }

    fn step(&mut self) {
        let at = usize::try_from(self.random.below(3)).unwrap();
        let what = self.random.below(8);
        match what {
            0..=2 => self.write(at),
            3 | 4 => self.send(at),
            5 => self.deliver(at),
            _ => self.sites[at].node.follow(&self.stream),
        }
        let what = ["writes", "writes", "writes", "sends", "sends", "delivers", "follows", "follows"]
            [usize::try_from(what).unwrap()];
        let line =
            format!("node {} {what}: {:?}; stream {}", at + 1, rows(&self.sites[at].node), self.stream.len());
        self.story.push(line);
    }

    fn settle(&mut self) {
        for _ in 0..6 {
            for at in 0..3 {
                self.sites[at].node.follow(&self.stream);
                self.send(at);
                self.deliver(at);
            }
        }
    }

    /// What has become an orphan is listed, and by one node alone.
    fn orphan_faults<'a>(&self, of_row: &impl Fn(&str, i64) -> Vec<&'a Conflict>) -> Vec<String> {
        let mut faults = vec![];
        for row in orphans(&self.sites[0].node).difference(&self.made).copied() {
            let parent = parent(&self.sites[0].node, row);
            let listed = of_row("c", row).into_iter().filter(|c| {
                c.kind == Kind::Orphan && number(&Event::decode(&c.payload).unwrap(), "p") == Some(parent)
            });
            let by: Vec<String> =
                listed.map(|c| format!("{}: {} by {} at {}", c.id, c.lost_by, c.won_by, c.seq)).collect();
            if by.is_empty() || (by.len() > 1 && by.len() > self.times_an_orphan(row, parent)) {
                faults.push(format!("row {row} of c is an orphan, and listed so: {by:?}"));
            }
        }
        faults
    }

    /// How often the row has become an orphan in the order of the stream, or was written as one: what it refers to may have come back, and
    /// gone again, and who writes a row that is an orphan already need not know.
    fn times_an_orphan(&self, row: i64, parent_key: i64) -> usize {
        let (mut node, mut times, mut was) = (Node::new("vanish-replay", 4, &self.sql), 0, false);
        for end in 1..=self.stream.len() {
            node.follow(&self.stream[..end].to_vec());
            let is = orphans(&node).contains(&row) && parent(&node, row) == parent_key;
            let (_, _, event) = &self.stream[end - 1];
            let is_written = &*event.table == "c" && number(event, "k") == Some(row);
            times += usize::from(is && (!was || is_written));
            was = is;
        }
        times
    }

    fn faults(&self) -> Vec<String> {
        let now = rows(&self.sites[0].node);
        let mut faults = vec![];
        for site in &self.sites[1..] {
            assert_eq!(rows(&site.node), now);
            assert_eq!(orphans(&site.node), orphans(&self.sites[0].node));
        }
        let mut conflicts = vec![];
        for site in &self.sites {
            conflicts.extend(list(&site.node.scratch.path).unwrap());
        }
        let of_row = |table: &str, row: i64| -> Vec<&Conflict> {
            conflicts.iter().filter(|c| c.table == table && key(c) == one(row)).collect()
        };
        let keys: BTreeSet<i64> = self.writes.iter().map(|write| write.key).collect();
        for key in keys {
            let writes: Vec<&Write> = self.writes.iter().filter(|write| write.key == key).collect();
            let here = now.get(&key);
            for node in 1..=3 {
                let Some(last) = writes.iter().rev().find(|write| write.node == node) else { continue };
                let seen = writes.iter().any(|write| write.node != node && write.before == last.after);
                // Another node may have left the same, later in the order: then it is that node's write that is listed.
                let is_same = |c: &Conflict| match &last.after {
                    Some(after) => *after == image(c),
                    None => c.kind == Kind::Delete,
                };
                let kept = of_row("t", key)
                    .iter()
                    .any(|c| c.kind == Kind::Unique || c.lost_by == node || is_same(c));
                if last.after.as_ref() != here && !seen && !kept {
                    faults.push(format!("row {key} lacks node {node}'s {:?}: it is {here:?}", last.after));
                }
            }
        }
        faults.extend(self.orphan_faults(&of_row));
        faults.extend(twice(&conflicts));
        for row in [1, 2, 3, 4, 5, 6] {
            let found = of_row("t", row);
            let unknown = found.iter().filter(|c| c.lost_by == 0 || c.lost_by == c.won_by);
            faults.extend(unknown.map(|c| format!("conflict of row {row} lost by {}", c.lost_by)));
        }
        faults
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_write_vanishes_unseen() {
    let first = setting("HARMONYLITE_SEED", 1);
    for seed in first..first + setting("HARMONYLITE_DB_SCHEDULES", 60) {
        let mut cluster = Cluster::new(seed);
        for _ in 0..40 {
            cluster.step();
        }
        cluster.settle();
        let faults = cluster.faults();
        let told = || {
            let stream = cluster.stream.iter().enumerate();
            let stream = stream.map(|(at, (origin, id, event))| {
                let row: Vec<&Value> = event.row.iter().map(|(_, value)| value).collect();
                format!("{} node {} id {id} {} {:?} {row:?}\n", at + 1, origin.node, event.table, event.kind)
            });
            format!("{}\n{}", cluster.story.join("\n"), stream.collect::<String>())
        };
        assert!(faults.is_empty(), "seed {seed}: {faults:#?}\n{}", told());
    }
}
