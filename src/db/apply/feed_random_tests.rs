//! Random changes of other nodes and of the application over all kinds of full-text indexes: no statement of the application
//! fails, and once the queue has run, each index is sound and finds what its table holds.

use crate::db::apply::{Applier, Ends, Incoming};
use crate::db::scratch::Scratch;
use crate::model::event::{Event, Kind};
use crate::model::origin::Origin;
use crate::model::value::Value;

/// A table `t` with an index `f`.
struct Sort {
    name: &'static str,
    /// The key column, and whether it is a number.
    key: (&'static str, bool),
    table: &'static str,
    index: &'static str,
    /// Bodies of the triggers in the order in which they are made: after the kind of change, a condition may follow.
    triggers: &'static [(&'static str, &'static str)],
    check: &'static str,
    /// True of rows that the index holds.
    held: &'static str,
    /// True of rows for which the triggers fail.
    excused: &'static str,
    /// What tells the rows of the table apart in the index.
    rowid: &'static str,
}

const NEW: &str = "INSERT INTO f(rowid, body) VALUES(new.id, new.body)";
const GONE: &str = "INSERT INTO f(f, rowid, body) VALUES('delete', old.id, old.body)";
const DELETED: &str = "DELETE FROM f WHERE rowid = old.id";
const FTS5_CHECK: &str = "INSERT INTO f(f) VALUES('integrity-check')";
const PLAIN: Sort = Sort {
    name: "external",
    key: ("id", true),
    table: "t(id INTEGER PRIMARY KEY, body, flag)",
    index: "fts5(body, content='t', content_rowid='id')",
    triggers: &[
        ("AFTER INSERT", NEW),
        ("AFTER DELETE", GONE),
        ("AFTER UPDATE", NEW),
        ("BEFORE UPDATE", GONE),
    ],
    check: "INSERT INTO f(f, rank) VALUES('integrity-check', 1)",
    held: "true",
    excused: "false",
    rowid: "id",
};

const SORTS: &[Sort] = &[
    PLAIN,
    Sort { name: "contentless", index: "fts5(body, content='')", check: FTS5_CHECK, ..PLAIN },
    Sort { name: "no-update", triggers: &[("AFTER INSERT", NEW), ("AFTER DELETE", GONE)], ..PLAIN },
    Sort {
        name: "own",
        index: "fts5(body)",
        triggers: &[
            ("AFTER INSERT", NEW),
            ("AFTER DELETE", DELETED),
            ("AFTER UPDATE", NEW),
            ("BEFORE UPDATE", DELETED),
        ],
        ..PLAIN
    },
    Sort {
        name: "own-no-update",
        index: "fts5(body)",
        triggers: &[("AFTER INSERT", NEW), ("AFTER DELETE", DELETED)],
        ..PLAIN
    },
    Sort {
        name: "fts4",
        index: "fts4(body, content='t')",
        triggers: &[
            ("AFTER INSERT", NEW),
            ("BEFORE DELETE", DELETED),
            ("BEFORE UPDATE", DELETED),
            ("AFTER UPDATE", NEW),
        ],
        check: FTS5_CHECK,
        ..PLAIN
    },
    Sort {
        name: "fts4-own",
        index: "fts4(body)",
        triggers: &[
            ("AFTER INSERT", NEW),
            ("AFTER DELETE", DELETED),
            ("AFTER UPDATE", NEW),
            ("BEFORE UPDATE", DELETED),
        ],
        check: FTS5_CHECK,
        ..PLAIN
    },
    Sort {
        name: "when",
        triggers: &[
            ("AFTER INSERT/WHEN new.flag = 1", NEW),
            ("AFTER DELETE/WHEN old.flag = 1", GONE),
            ("AFTER UPDATE/WHEN new.flag = 1", NEW),
            ("BEFORE UPDATE/WHEN old.flag = 1", GONE),
        ],
        check: FTS5_CHECK,
        held: "flag IS 1",
        ..PLAIN
    },
    Sort {
        name: "json",
        index: "fts5(body)",
        triggers: &[
            (
                "AFTER INSERT",
                "INSERT INTO f(rowid, body) VALUES(new.id, json_extract(new.flag, '$') || ' ' || new.body)",
            ),
            ("AFTER DELETE", DELETED),
            (
                "AFTER UPDATE",
                "INSERT INTO f(rowid, body) VALUES(new.id, json_extract(new.flag, '$') || ' ' || new.body)",
            ),
            ("BEFORE UPDATE", DELETED),
        ],
        check: FTS5_CHECK,
        excused: "NOT json_valid(flag)",
        ..PLAIN
    },
    Sort {
        name: "text-key",
        key: ("k", false),
        table: "t(k TEXT PRIMARY KEY, body, flag)",
        index: "fts5(body)",
        triggers: &[
            ("AFTER INSERT", "INSERT INTO f(rowid, body) VALUES(new.rowid, new.body)"),
            ("AFTER DELETE", "DELETE FROM f WHERE rowid = old.rowid"),
            ("AFTER UPDATE", "INSERT INTO f(rowid, body) VALUES(new.rowid, new.body)"),
            ("BEFORE UPDATE", "DELETE FROM f WHERE rowid = old.rowid"),
        ],
        rowid: "rowid",
        ..PLAIN
    },
    Sort {
        name: "without-rowid",
        key: ("k", false),
        table: "t(k TEXT PRIMARY KEY, body, flag) WITHOUT ROWID",
        index: "fts5(k UNINDEXED, body)",
        triggers: &[
            ("AFTER INSERT", "INSERT INTO f(k, body) VALUES(new.k, new.body)"),
            ("AFTER DELETE", "DELETE FROM f WHERE k = old.k"),
            ("AFTER UPDATE", "UPDATE f SET k = new.k, body = new.body WHERE k = old.k"),
        ],
        rowid: "k",
        ..PLAIN
    },
];

const WORDS: [&str; 4] = ["alpha", "beta", "gamma", "delta"];

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

struct Run<'a> {
    sort: &'a Sort,
    scratch: Scratch,
    applier: Applier,
    dice: Dice,
    seq: u64,
    /// What was done, for a person who looks for the fault.
    done: Vec<String>,
}

impl Run<'_> {
    fn new(sort: &Sort, seed: u64) -> Run<'_> {
        let mut sql = format!("CREATE TABLE {}; CREATE VIRTUAL TABLE f USING {};", sort.table, sort.index);
        for (at, (when, body)) in sort.triggers.iter().enumerate() {
            let (when, condition) = when.split_once('/').unwrap_or((when, ""));
            sql += &format!("CREATE TRIGGER tr{at} {when} ON t {condition} BEGIN {body}; END;");
        }
        let scratch = Scratch::new(&format!("feed-random-{}", sort.name), &sql);
        scratch.app.execute_batch("PRAGMA recursive_triggers=ON").unwrap();
        let applier = Applier::open(&scratch.path, 7, &["s".to_owned()]).unwrap();
        Run { sort, scratch, applier, dice: Dice(seed * 7919 + 1), seq: 0, done: vec![] }
    }

    fn key(&mut self) -> (Value, String) {
        let n = self.dice.roll(9) + 1;
        match self.sort.key.1 {
            true => (Value::Integer(n.cast_signed()), n.to_string()),
            false => (Value::text(&format!("key{n}")), format!("'key{n}'")),
        }
    }

    fn body(&mut self) -> String {
        format!("{} {}", WORDS[self.dice.roll(4) as usize], WORDS[self.dice.roll(4) as usize])
    }

    fn event(&mut self) -> Incoming {
        self.seq += 1;
        let (key, shown) = self.key();
        let mut row = vec![(self.sort.key.0.into(), key)];
        let kind = [Kind::Insert, Kind::Update, Kind::Delete][self.dice.roll(3) as usize];
        if kind != Kind::Delete {
            let flag = self.dice.roll(3).cast_signed();
            let flag = if flag == 2 { Value::text("no json {") } else { Value::Integer(flag) };
            row.push(("body".into(), Value::text(&self.body())));
            row.push(("flag".into(), flag));
        }
        self.done.push(format!("remote {kind:?} {shown} {:?}", &row[1..]));
        let id = self.seq.cast_signed();
        let event = Event { node: 9, id, kind, table: "t".into(), row, schema_hash: None };
        let origin = Some((Origin { node: 9, incarnation: 1 }, id));
        Incoming {
            stream: 0,
            seq: self.seq,
            origin,
            time_ms: 0,
            payload: event.encode(),
            ends: Some(Ends::at(self.seq)),
        }
    }

    fn app(&mut self, sql: &str) {
        self.done.push(sql.to_owned());
        if let Err(why) = self.scratch.app.execute_batch(sql) {
            panic!("{}: {why}\n{}", self.sort.name, self.done.join("\n"));
        }
    }

    fn write(&mut self) {
        let ((_, key), (_, other)) = (self.key(), self.key());
        let (body, flag, name) = (self.body(), self.dice.roll(2), self.sort.key.0);
        let sql = match self.dice.roll(8) {
            0 => format!("INSERT OR IGNORE INTO t VALUES({key}, '{body}', {flag})"),
            1 => format!("INSERT OR REPLACE INTO t VALUES({key}, '{body}', {flag})"),
            2 => format!(
                "INSERT INTO t VALUES({key}, '{body}', {flag}) ON CONFLICT DO UPDATE SET body = excluded.body, flag = {flag}"
            ),
            3 => format!("UPDATE t SET body = '{body}', flag = {flag} WHERE {name} = {key}"),
            4 => format!("DELETE FROM t WHERE {name} = {key}"),
            5 if self.sort.key.1 => format!("INSERT INTO t(body, flag) VALUES('{body}', {flag})"),
            6 => format!("UPDATE OR REPLACE t SET {name} = {other}, flag = {flag} WHERE {name} = {key}"),
            _ => format!("INSERT OR IGNORE INTO t({name}, body, flag) VALUES({key}, '{body}', {flag})"),
        };
        // Without a trigger for UPDATE, an update of the application's own is no business of the index.
        if self.sort.name.ends_with("no-update") && sql.contains("UPDATE") {
            return;
        }
        self.app(&sql);
    }

    fn step(&mut self) {
        match self.dice.roll(8) {
            0..=3 => {
                let events: Vec<Incoming> = (0..=self.dice.roll(3)).map(|_| self.event()).collect();
                let mut done = 0;
                while done < events.len() {
                    done += self.applier.apply(&events[done..]).unwrap().events;
                }
                let set_aside = self.scratch.value("SELECT count(*) FROM __harmonylite__set_aside");
                assert_eq!(set_aside, "0", "{}:\n{}", self.sort.name, self.done.join("\n"));
            }
            4..=6 => self.write(),
            _ => {
                self.applier.look().unwrap();
                while self.applier.has_more() {
                    self.applier.apply(&[]).unwrap();
                }
            }
        }
    }

    fn check(&mut self) {
        self.app("DELETE FROM __harmonylite__feed_t");
        let check = self.sort.check;
        self.app(check);
        let Sort { rowid, held, excused, .. } = self.sort;
        for word in WORDS {
            let row = if *rowid == "k" { "k" } else { "rowid" };
            let found = self.scratch.value(&format!(
                "SELECT group_concat(r) FROM (SELECT {row} AS r FROM f WHERE f MATCH '{word}' AND {row} NOT IN \
                 (SELECT {rowid} FROM t WHERE {excused}) ORDER BY 1)"
            ));
            let there = self.scratch.value(&format!(
                "SELECT group_concat(r) FROM (SELECT {rowid} AS r FROM t WHERE {held} AND NOT ({excused}) AND body LIKE '%{word}%' ORDER BY 1)"
            ));
            assert_eq!(found, there, "{}: {word}\n{}", self.sort.name, self.done.join("\n"));
        }
    }
}

#[test]
fn whatever_happens_the_application_can_write_and_its_index_is_right() {
    for sort in SORTS {
        for seed in 0..3 {
            let mut run = Run::new(sort, seed);
            for step in 0..80 {
                run.step();
                if step % 20 == 19 {
                    run.check();
                }
            }
        }
    }
}
