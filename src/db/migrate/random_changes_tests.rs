//! Random changes of random schemas, for tests.

use crate::base::mutants::Mutator;
use crate::db::migrate::definitions::{self, sql_of};
use crate::db::migrate::statement;
use crate::db::sql::quote;
use crate::model::change::Thing;
use rusqlite::Connection;

/// A random change of a random schema.
pub struct Random<'a> {
    pub dice: &'a mut Mutator,
    /// How many names of a kind there are; 0: each one is given once.
    names: usize,
    made: usize,
}

impl Random<'_> {
    pub fn new(dice: &mut Mutator) -> Random<'_> {
        Random { dice, names: 0, made: 0 }
    }

    /// From now on names come again.
    pub fn with_few_names(&mut self, names: usize) {
        self.names = names;
    }

    fn name(&mut self, what: &str) -> String {
        self.made += 1;
        let number = if self.names == 0 { self.made } else { self.dice.below(self.names) };
        format!("{what}{number}")
    }

    fn pick(&mut self, connection: &Connection, kind: &str) -> Option<String> {
        let sql = "SELECT name FROM sqlite_schema WHERE type = ?1 AND sql IS NOT NULL AND name NOT LIKE '\\_\\_%' ESCAPE '\\' \
                   AND name NOT LIKE 'sqlite%' ORDER BY 1";
        let mut list = connection.prepare(sql).unwrap();
        let names: Vec<String> =
            list.query_map([kind], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        (!names.is_empty()).then(|| names[self.dice.below(names.len())].clone())
    }

    fn column(&mut self) -> String {
        let name = self.name("c");
        let kind =
            self.dice.pick(&["", " TEXT", " INTEGER DEFAULT 5", " TEXT NOT NULL DEFAULT 'd'", " REAL"]);
        format!("{name}{kind}")
    }

    /// Rows travel by other ways.
    fn empty_table(&mut self) -> String {
        self.table().split(';').next().unwrap_or_default().to_owned()
    }

    pub fn table(&mut self) -> String {
        let name = self.name("t");
        let key = *self.dice.pick(&[
            "INTEGER PRIMARY KEY",
            "INTEGER PRIMARY KEY AUTOINCREMENT",
            "TEXT PRIMARY KEY",
        ]);
        let columns: Vec<String> = (0..1 + self.dice.below(3)).map(|_| self.column()).collect();
        format!(
            "CREATE TABLE {name}(id {key}, {}); INSERT INTO {name}(id) VALUES(1), (2)",
            columns.join(", ")
        )
    }

    /// A statement, or several, of the application; it need not succeed.
    pub fn statement(&mut self, connection: &Connection) -> String {
        let Some(table) = self.pick(connection, "table") else { return self.empty_table() };
        let columns = definitions::columns_of(connection, &table).unwrap();
        let column = columns[self.dice.below(columns.len())].name.clone();
        let (new, other) = (self.column(), self.name("n"));
        match self.dice.below(13) {
            0 => self.empty_table(),
            1 | 2 => format!("ALTER TABLE {table} ADD COLUMN {new}"),
            3 | 4 => format!("ALTER TABLE {table} DROP COLUMN {column}"),
            5 | 6 => format!("ALTER TABLE {table} RENAME COLUMN {column} TO {other}"),
            7 => format!("ALTER TABLE {table} RENAME TO {other}"),
            8 => {
                let unique = if self.names > 0 { *self.dice.pick(&["", "UNIQUE"]) } else { "" };
                format!("CREATE {unique} INDEX i{other} ON {table}({column})")
            }
            9 => self.pick(connection, "index").map_or(String::new(), |index| format!("DROP INDEX {index}")),
            10 => format!(
                "CREATE TRIGGER r{other} AFTER UPDATE ON {table} BEGIN DELETE FROM {table} WHERE {column} IS 'no'; END"
            ),
            11 => format!("DROP TABLE {table}"),
            _ => {
                let kept: Vec<String> = columns.iter().map(|c| quote(&c.name)).collect();
                let declared: Vec<String> =
                    statement::columns(&sql_of(connection, Thing::Table, &table).unwrap().unwrap())
                        .into_iter()
                        .map(|(_, declared)| declared)
                        .collect();
                format!(
                    "CREATE TABLE new_({}, extra{other} TEXT NOT NULL); INSERT INTO new_ SELECT {}, 'e' FROM {table}; DROP TABLE {table}; \
                     ALTER TABLE new_ RENAME TO {table}",
                    declared.join(", "),
                    kept.join(", ")
                )
            }
        }
    }
}
