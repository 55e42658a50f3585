//! Which tables with a plain `INTEGER PRIMARY KEY`, or without any, are written on more than one node: SQLite gives the same keys on
//! all of them, and nobody can steer it. Said once.

use crate::db::{
    error::Error,
    state,
    table::{Keyed, Table},
};
use rusqlite::Connection;
use std::collections::HashMap;
use std::sync::Arc;

const OURS: i64 = 1;
const OTHERS: i64 = 2;

#[derive(Debug, Default)]
pub struct Writers {
    /// Who has written a table, as far as this process knows.
    known: HashMap<Arc<str>, i64>,
}

impl Writers {
    /// A row of a table was inserted or changed, by this node or by another one.
    pub fn note(&mut self, connection: &Connection, table: &Table, own: bool) -> Result<(), Error> {
        if !gets_same_keys(table) {
            return Ok(());
        }
        let who = if own { OURS } else { OTHERS };
        let known = match self.known.get(&table.name) {
            Some(known) => *known,
            None => state::writers(connection, &table.name)?,
        };
        if known & who == 0 {
            state::set_writers(connection, &table.name, known | who)?;
            if known != 0 {
                log::warn!("{}", warning(table));
            }
        }
        if self.known.get(&table.name).is_none_or(|known| known & who == 0) {
            self.known.insert(table.name.clone(), known | who);
        }
        Ok(())
    }

    /// The database has gone back to where it was.
    pub fn forget(&mut self) {
        self.known.clear();
    }
}

/// Warnings about tables of the database, for its opening.
pub fn warnings<'a>(
    connection: &Connection,
    tables: impl Iterator<Item = &'a Arc<Table>>,
) -> Result<Vec<String>, Error> {
    let mut found = vec![];
    for table in tables.filter(|table| gets_same_keys(table)) {
        if state::writers(connection, &table.name)? == OURS | OTHERS {
            found.push(warning(table));
        }
    }
    Ok(found)
}

/// Whether SQLite gives keys by itself, and the same ones on every node.
fn gets_same_keys(table: &Table) -> bool {
    matches!(table.keyed, Keyed::RowidAlias | Keyed::Rowid) && !table.autoincrement
}

fn warning(table: &Table) -> String {
    let name = &table.name;
    let lost = "rows that two nodes insert at the same time get the same key, and one of them is lost (-conflicts shows it)";
    match table.keyed {
        Keyed::Rowid => format!(
            "table {name} is written on more than one node, and it has no primary key, so its rowids are its key: {lost}. Write it on \
             one node, or give it an INTEGER PRIMARY KEY AUTOINCREMENT"
        ),
        _ => format!(
            "table {name} is written on more than one node, and its key is a plain INTEGER PRIMARY KEY: {lost}. -autoincrement {name} \
             lets every node insert"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::schema::Schema;

    #[test]
    fn tables_that_two_nodes_write_are_remembered() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE plain(id INTEGER PRIMARY KEY); CREATE TABLE one(id INTEGER PRIMARY KEY); \
                 CREATE TABLE steered(id INTEGER PRIMARY KEY AUTOINCREMENT); CREATE TABLE text(id TEXT PRIMARY KEY); CREATE TABLE none(v)",
            )
            .unwrap();
        state::create(&connection).unwrap();
        let schema = Schema::read(&connection).unwrap();
        let mut writers = Writers::default();
        for name in ["plain", "none", "steered", "text"] {
            for own in [true, false, true] {
                writers.note(&connection, &schema.tables[name], own).unwrap();
            }
        }
        writers.note(&connection, &schema.tables["one"], false).unwrap();
        writers.forget();
        writers.note(&connection, &schema.tables["one"], false).unwrap();
        let mut found = warnings(&connection, schema.tables.values()).unwrap();
        found.sort();
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("table none is written on more than one node"), "{found:?}");
        assert!(found[0].ends_with("give it an INTEGER PRIMARY KEY AUTOINCREMENT"), "{found:?}");
        assert!(found[1].starts_with("table plain is written on more than one node"), "{found:?}");
    }
}
