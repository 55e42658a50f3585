//! Transactions that are made up.
//!
//! Each node has keys of its own, which it alone writes, and there are keys that all write. So it is known of each row whose last
//! write must be there.

use super::random::Random;
use super::tables::{Key, Table, Takes};

/// What every run must have had, each with an effect.
pub const STATEMENTS: &[&str] = &[
    "INSERT",
    "INSERT with a key by SQLite",
    "INSERT OR REPLACE",
    "INSERT OR IGNORE",
    "UPSERT",
    "UPDATE",
    "UPDATE OR REPLACE",
    "key UPDATE",
    "swap",
    "DELETE",
    "DELETE of many",
    "INSERT of many",
    "savepoint kept",
    "savepoint undone",
    "ROLLBACK",
];

pub struct Transaction {
    /// Each with what it counts as, if it has an effect.
    pub statements: Vec<(Option<&'static str>, String)>,
    pub commit: bool,
}

/// What makes them up for one node.
pub struct Writer {
    node: u64,
    random: Random,
    count: u64,
}

impl Writer {
    pub fn new(node: u64, random: Random) -> Writer {
        Writer { node, random, count: 0 }
    }

    /// The generator, for pauses.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    pub fn transaction(&mut self, tables: &[Table]) -> Transaction {
        let mut statements = vec![];
        let count = self.random.of(&[1, 1, 1, 1, 2, 3, 5]);
        let within = self.random.one_in(6);
        let undone = self.random.one_in(2);
        for number in 0..count {
            // The first statement of several stands outside of the savepoint.
            if within && number == count / 2 {
                statements.push((None, "SAVEPOINT a".to_owned()));
            }
            let table = &tables[self.random.place(tables.len())];
            self.statement(table, &mut statements);
        }
        if within && undone {
            statements.push((Some("savepoint undone"), "ROLLBACK TO a".to_owned()));
        }
        if within {
            statements.push(((!undone).then_some("savepoint kept"), "RELEASE a".to_owned()));
        }
        Transaction { statements, commit: !self.random.one_in(15) }
    }

    fn statement(&mut self, table: &Table, out: &mut Vec<(Option<&'static str>, String)>) {
        let name = &table.name;
        let (what, sql) = match self.random.below(15) {
            0..=2 if table.key == Key::Automatic => {
                self.keep_small(table, out);
                ("INSERT with a key by SQLite", self.insert("INSERT", table, None))
            }
            0..=2 => ("INSERT", self.insert_keyed("INSERT", table)),
            3 => ("INSERT OR REPLACE", self.insert_keyed("INSERT OR REPLACE", table)),
            4 => ("INSERT OR IGNORE", self.insert_keyed("INSERT OR IGNORE", table)),
            5 => {
                let target = if table.key.is_pair() { "k1, k2" } else { "k" };
                let insert = self.insert_keyed("INSERT", table);
                let column = &table.columns[0].0;
                (
                    "UPSERT",
                    format!(
                        "{insert} ON CONFLICT({target}) DO UPDATE SET w = excluded.w, {column} = excluded.{column}"
                    ),
                )
            }
            6..=8 => {
                let (column, takes) = table.columns[self.random.place(table.columns.len())].clone();
                let (value, row) = (self.value(takes), self.row(table));
                ("UPDATE", format!("UPDATE {name} SET {column} = {value}, w = {} WHERE {row}", self.node))
            }
            9 => {
                let (value, row) = (self.unique(), self.row(table));
                (
                    "UPDATE OR REPLACE",
                    format!("UPDATE OR REPLACE {name} SET u = {value}, w = {} WHERE {row}", self.node),
                )
            }
            10 if table.key != Key::Automatic => {
                let own = self.random.one_in(2);
                let (from, to) = (self.key(table, own), self.key(table, own));
                let columns = if table.key.is_pair() { "(k1, k2)" } else { "k" };
                (
                    "key UPDATE",
                    format!("UPDATE {name} SET {columns} = {to}, w = {} WHERE {columns} = {from}", self.node),
                )
            }
            11 => return self.swap(table, out),
            12 => {
                let row = self.row(table);
                ("DELETE", format!("DELETE FROM {name} WHERE {row}"))
            }
            13 => self.delete_many(table),
            _ => self.insert_many(table, out),
        };
        out.push((Some(what), sql));
    }

    /// Rows under keys by SQLite are not found again by their keys: the oldest ones go.
    fn keep_small(&mut self, table: &Table, out: &mut Vec<(Option<&'static str>, String)>) {
        let name = &table.name;
        out.push((
            Some("DELETE of many"),
            format!(
                "DELETE FROM {name} WHERE (SELECT count(*) FROM {name}) > 120 AND k IN \
                 (SELECT k FROM {name} WHERE w = {} ORDER BY k LIMIT 20)",
                self.node
            ),
        ));
    }

    fn delete_many(&mut self, table: &Table) -> (&'static str, String) {
        let (column, digit) = (if table.key.is_pair() { "k2" } else { "k" }, self.random.below(10));
        let sql = format!(
            "DELETE FROM {} WHERE w = {} AND substr(hex({column}), -1) IN ('{digit}', '{}')",
            table.name,
            self.node,
            self.random.below(10)
        );
        ("DELETE of many", sql)
    }

    fn insert_many(
        &mut self,
        table: &Table,
        out: &mut Vec<(Option<&'static str>, String)>,
    ) -> (&'static str, String) {
        let by_sqlite = table.key == Key::Automatic;
        if by_sqlite {
            self.keep_small(table, out);
        }
        let columns = self.some_columns(table);
        let verb = if by_sqlite { "INSERT" } else { "INSERT OR IGNORE" };
        let rows: Vec<String> = (0..2 + self.random.below(6))
            .map(|_| {
                let key = (!by_sqlite).then(|| self.key_for_insert(table));
                self.values(table, key.as_deref(), &columns)
            })
            .collect();
        let sql = format!("{} VALUES {}", head(verb, table, !by_sqlite, &columns), rows.join(", "));
        ("INSERT of many", sql)
    }

    /// Two rows exchange their UNIQUE values.
    fn swap(&mut self, table: &Table, out: &mut Vec<(Option<&'static str>, String)>) {
        let name = &table.name;
        let (one, two) = (self.row(table), self.row(table));
        self.count += 1;
        let mut say = |what, sql: String| out.push((what, sql));
        say(None, "DELETE FROM temp.held".to_owned());
        for (number, row) in [(1, &one), (2, &two)] {
            say(None, format!("INSERT INTO temp.held SELECT {number}, u FROM {name} WHERE {row} LIMIT 1"));
        }
        let both = "(SELECT count(*) FROM temp.held) = 2";
        say(
            None,
            format!("UPDATE {name} SET u = 'held {}-{}' WHERE {both} AND {one}", self.node, self.count),
        );
        let held = |number: u64| format!("(SELECT v FROM temp.held WHERE n = {number})");
        say(None, format!("UPDATE {name} SET u = {} WHERE {both} AND {two}", held(1)));
        say(Some("swap"), format!("UPDATE {name} SET u = {} WHERE {both} AND {one}", held(2)));
    }

    fn insert_keyed(&mut self, verb: &str, table: &Table) -> String {
        let key = self.key_for_insert(table);
        self.insert(verb, table, Some(&key))
    }

    fn key_for_insert(&mut self, table: &Table) -> String {
        let own = !self.random.one_in(3) && table.key != Key::Automatic;
        self.key(table, own)
    }

    fn insert(&mut self, verb: &str, table: &Table, key: Option<&str>) -> String {
        let columns = self.some_columns(table);
        format!("{} VALUES {}", head(verb, table, key.is_some(), &columns), self.values(table, key, &columns))
    }

    /// Most of the columns without a rule.
    fn some_columns(&mut self, table: &Table) -> Vec<(String, Takes)> {
        table.columns.iter().filter(|_| !self.random.one_in(5)).cloned().collect()
    }

    fn values(&mut self, table: &Table, key: Option<&str>, columns: &[(String, Takes)]) -> String {
        let mut values = vec![self.node.to_string(), self.unique()];
        values.extend(key.map(|key| key.trim_matches(['(', ')']).to_owned()));
        if let Some(parent) = &table.parent {
            let none = self.random.one_in(5);
            values.push(if none { "NULL".to_owned() } else { self.some_key(parent) });
        }
        values.extend(columns.iter().map(|(_, takes)| self.value(*takes)));
        format!("({})", values.join(", "))
    }

    /// One of the keys that a table has.
    fn some_key(&mut self, table: &str) -> String {
        let number = self.random.below(1000);
        format!(
            "(SELECT k FROM {table} ORDER BY k LIMIT 1 OFFSET {number} % max(1, (SELECT count(*) FROM {table})))"
        )
    }

    /// A condition that names one row: by a key, or by its place among those that this node or anybody has written.
    fn row(&mut self, table: &Table) -> String {
        if table.key == Key::Automatic {
            let name = &table.name;
            let whose = if self.random.one_in(4) { "1".to_owned() } else { format!("w = {}", self.node) };
            let number = self.random.below(1000);
            return format!(
                "k = (SELECT k FROM {name} WHERE {whose} ORDER BY k LIMIT 1 OFFSET {number} % \
                 max(1, (SELECT count(*) FROM {name} WHERE {whose})))"
            );
        }
        let own = !self.random.one_in(3);
        let key = self.key(table, own);
        format!("{} = {key}", if table.key.is_pair() { "(k1, k2)" } else { "k" })
    }

    /// A key of this node's own, or one that all use.
    fn key(&mut self, table: &Table, own: bool) -> String {
        let whose = if own { self.node } else { 0 };
        let number = self.random.below(if own { 20 } else { 6 });
        match table.key {
            Key::Integer | Key::Automatic | Key::StrictInteger => (whose * 1_000_000 + number).to_string(),
            Key::Text | Key::BareText | Key::StrictText => format!("'n{whose}-{number}'"),
            Key::Blob => format!("x'0{whose}00{number:02}'"),
            Key::Pair | Key::BarePair => format!("({whose}, 'b{number}')"),
        }
    }

    /// A value that nobody else has, or one that others may have, too.
    fn unique(&mut self) -> String {
        self.count += 1;
        match self.random.below(6) {
            0 => "NULL".to_owned(),
            1 => format!("'{}{}'", self.random.of(&["s", "S"]), self.random.below(20)),
            _ => format!("'u{}-{}'", self.node, self.count),
        }
    }

    fn value(&mut self, takes: Takes) -> String {
        let kind = match takes {
            Takes::Anything => self.random.below(10),
            Takes::Integer => self.random.below(2),
            Takes::Real => 2,
            Takes::Text => 3 + self.random.below(3),
            Takes::Blob => 6,
        };
        match kind {
            0 => self.random.below(100).to_string(),
            1 => self
                .random
                .of(&["0", "-1", "9223372036854775807", "-9223372036854775807 - 1", "1 << 40"])
                .to_owned(),
            2 => self
                .random
                .of(&["0.1", "-0.0", "3.0", "1e308", "9e999", "-9e999", "5e-324", "6054332696.25"])
                .to_owned(),
            3 => self
                .random
                .of(&[
                    "''",
                    "'a'",
                    "'A'",
                    "'1'",
                    "'1.0'",
                    "'it''s'",
                    "char(0x2603)",
                    "'a' || char(0) || 'b'",
                    "CAST(x'fffe' AS TEXT)",
                ])
                .to_owned(),
            4 => format!("'{}'", "long ".repeat(self.random.place(300))),
            5 => format!("'text {}'", self.random.below(1_000_000)),
            6 => format!("x'{:016x}'", self.random.below(u64::MAX)),
            7 => format!("zeroblob({})", self.random.below(3_000)),
            8 => "NULL".to_owned(),
            _ => self
                .random
                .of(&["'2026-11-28'", "TRUE", "'{\"a\": 1}'", "date('2026-01-01', '+1 day')"])
                .to_owned(),
        }
    }
}

/// What stands before the values.
fn head(verb: &str, table: &Table, keyed: bool, columns: &[(String, Takes)]) -> String {
    let mut names = vec!["w", "u"];
    if keyed {
        names.extend(if table.key.is_pair() { &["k1", "k2"][..] } else { &["k"] });
    }
    names.extend(table.parent.as_ref().map(|_| "p"));
    names.extend(columns.iter().map(|(name, _)| name.as_str()));
    format!("{verb} INTO {}({})", table.name, names.join(", "))
}
