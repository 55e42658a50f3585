//! Which column of a schema that changes came from which one before, whatever they are called.

use crate::db::migrate::definitions;
use crate::db::{error::Error, migrate::matching::match_columns};
use crate::model::change::{Column, Step, Thing};
use rusqlite::Connection;
use std::collections::HashMap;

/// The tables of a schema, and where they are from.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    /// By their names, in lower case.
    tables: HashMap<String, OfTable>,
}

/// Where a table and its columns are from.
#[derive(Clone, Debug)]
pub struct OfTable {
    pub name: String,
    /// Two tables of one id are the same one.
    pub id: String,
    pub columns: Vec<OfColumn>,
}

/// Where a column is from.
#[derive(Clone, Debug)]
pub struct OfColumn {
    pub name: String,
    pub id: String,
    pub declared_type: String,
    /// The value that all rows got when it was added, or those with NULL later.
    pub fill: Option<String>,
    /// What stands where nothing else can, as an SQL literal.
    pub nothing: Option<&'static str>,
}

impl Origins {
    /// Tables as they are, which come from nowhere else.
    pub fn read(connection: &Connection, tables: &[String]) -> Result<Origins, Error> {
        let mut found = Origins::default();
        for table in tables {
            found.add(connection, table, "")?;
        }
        Ok(found)
    }

    pub fn find(&self, table: &str) -> Option<&OfTable> {
        self.tables.get(&table.to_lowercase())
    }

    /// The tables by their ids.
    pub fn by_id(&self) -> HashMap<&str, &OfTable> {
        self.tables.values().map(|table| (table.id.as_str(), table)).collect()
    }

    fn find_mut(&mut self, table: &str) -> Option<&mut OfTable> {
        self.tables.get_mut(&table.to_lowercase())
    }

    /// Adds a table that is new with a change.
    fn add(&mut self, connection: &Connection, table: &str, change: &str) -> Result<(), Error> {
        let columns = definitions::columns_of(connection, table)?.into_iter();
        let columns = columns.filter(|column| !column.generated).map(|column| OfColumn {
            id: format!("{change}\n{table}\n{}", column.name),
            nothing: column.nothing(),
            name: column.name,
            declared_type: column.declared_type,
            fill: None,
        });
        let id = format!("{change}\n{table}");
        let of_table = OfTable { name: table.to_owned(), id, columns: columns.collect() };
        self.tables.insert(table.to_lowercase(), of_table);
        Ok(())
    }

    pub fn rename_table(&mut self, from: &str, to: &str) {
        if let Some(mut table) = self.tables.remove(&from.to_lowercase()) {
            to.clone_into(&mut table.name);
            self.tables.insert(to.to_lowercase(), table);
        }
    }

    pub fn rename_column(&mut self, table: &str, from: &str, to: &str) {
        let columns = self.find_mut(table).map(|table| table.columns.iter_mut());
        if let Some(column) = columns.and_then(|mut all| all.find(|c| c.name.eq_ignore_ascii_case(from))) {
            to.clone_into(&mut column.name);
        }
    }

    /// Follows a step of a change that was carried out; `exact`: just as it says.
    pub fn follow(
        &mut self,
        connection: &Connection,
        change: &str,
        step: &Step,
        exact: bool,
    ) -> Result<(), Error> {
        let is_there =
            |name: &str| definitions::sql_of(connection, Thing::Table, name).map(|sql| sql.is_some());
        match step {
            Step::RenameTable { from, to } if !is_there(from)? => self.rename_table(from, to),
            Step::DropTable { table } if !is_there(table)? => {
                self.tables.remove(&table.to_lowercase());
            }
            Step::Create { kind: Thing::Table, name, .. } if self.find(name).is_none() => {
                self.add(connection, name, change)?;
            }
            Step::AlterTable { table, columns, dropped, .. } if self.find(table).is_some() => {
                self.alter(connection, change, (table, columns, dropped), exact)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn alter(
        &mut self,
        connection: &Connection,
        change: &str,
        (table, columns, dropped): (&str, &[Column], &[String]),
        exact: bool,
    ) -> Result<(), Error> {
        let now = definitions::columns_of(connection, table)?;
        let Some(of_table) = self.find_mut(table) else { return Ok(()) };
        let before = std::mem::take(&mut of_table.columns);
        let find = |name: &str| before.iter().find(|column| column.name.eq_ignore_ascii_case(name));
        let stays = |name: &str| now.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        for column in now.iter().filter(|column| !column.generated) {
            let said = columns.iter().find(|said| said.name.eq_ignore_ascii_case(&column.name));
            let from = said.and_then(|said| said.from.as_deref());
            let renamed = from.and_then(find).filter(|old| exact || !stays(&old.name));
            let is_gone = dropped.iter().any(|gone| gone.eq_ignore_ascii_case(&column.name));
            let same = find(&column.name).filter(|_| !(said.is_some() && from.is_none() && is_gone));
            let old = renamed.or(same);
            of_table.columns.push(OfColumn {
                id: match old {
                    Some(old) => old.id.clone(),
                    None => format!("{change}\n{table}\n{}", column.name),
                },
                name: column.name.clone(),
                declared_type: column.declared_type.clone(),
                nothing: column.nothing(),
                fill: said
                    .filter(|_| old.is_none() || from.is_some())
                    .and_then(|said| said.fill.clone())
                    .or_else(|| old.and_then(|old| old.fill.clone())),
            });
        }
        Ok(())
    }

    /// Follows statements that nobody has told apart: columns of one name are the same, or of one place.
    pub fn follow_script(
        &mut self,
        connection: &Connection,
        change: &str,
        tables: &[String],
    ) -> Result<(), Error> {
        let before = std::mem::take(&mut self.tables);
        for table in tables {
            self.add(connection, table, change)?;
            let (Some(now), Some(old)) = (self.find_mut(table), before.get(&table.to_lowercase())) else {
                continue;
            };
            now.id.clone_from(&old.id);
            let declared = |table: &OfTable| -> Vec<definitions::Declared> {
                let columns = table.columns.iter().map(|column| definitions::Declared {
                    name: column.name.clone(),
                    declared_type: column.declared_type.clone(),
                });
                columns.collect()
            };
            let from = match_columns(&declared(old), &declared(now), false).from;
            for (column, from) in now.columns.iter_mut().zip(from) {
                if let Some(from) = from.map(|at| &old.columns[at]) {
                    column.id.clone_from(&from.id);
                }
            }
        }
        Ok(())
    }

    /// Tables as they are, which are the same as others of their names.
    pub fn named(connection: &Connection, tables: &[String], others: &Origins) -> Result<Origins, Error> {
        let mut found = Origins::read(connection, tables)?;
        for table in found.tables.values_mut() {
            table.id.insert(0, '\n');
            let Some(other) = others.find(&table.name) else { continue };
            table.id.clone_from(&other.id);
            for column in &mut table.columns {
                column.id.insert(0, '\n');
                let same = other.columns.iter().find(|o| o.name.eq_ignore_ascii_case(&column.name));
                if let Some(same) = same {
                    column.id.clone_from(&same.id);
                }
            }
        }
        Ok(found)
    }
}
