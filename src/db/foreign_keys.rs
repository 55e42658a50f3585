//! The foreign keys of the application's tables.

use crate::db::{error::Error, schema::Schema};
use rusqlite::Connection;
use std::sync::Arc;

/// Tables whose statement may have a foreign key.
const REFERRING: &str =
    "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND sql LIKE '%REFERENCES%' ORDER BY name";
const OF_TABLE: &str = "SELECT id, \"table\", \"from\", \"to\", on_delete FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq";

/// What happens to a row when the one that it refers to is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Cascade,
    SetNull,
    /// The deletion is refused where it happens; SET DEFAULT counts as this, too.
    None,
}

/// A foreign key between two tables that are replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    pub child: Arc<str>,
    pub parent: Arc<str>,
    /// Columns of the child and of the parent, in pairs.
    pub columns: Vec<(String, String)>,
    pub on_delete: Action,
}

impl ForeignKey {
    /// All of them.
    pub fn all(connection: &Connection, schema: &Schema) -> Result<Vec<ForeignKey>, Error> {
        let mut statement = connection.prepare(REFERRING)?;
        let names = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
        let mut found = vec![];
        for name in names {
            let Some(child) = schema.tables.get(&*name) else { continue };
            for (parent, columns, on_delete) in rows(connection, &name)? {
                let Some(parent) = schema.find(&parent) else { continue };
                // Without names it is the primary key.
                let columns = columns.into_iter().enumerate().map(|(at, (from, to))| {
                    Some((from, to.or_else(|| parent.key.get(at).map(|column| column.name.to_string()))?))
                });
                let Some(columns) = columns.collect::<Option<Vec<_>>>() else { continue };
                let (child, parent) = (child.name.clone(), parent.name.clone());
                found.push(ForeignKey { child, parent, columns, on_delete });
            }
        }
        Ok(found)
    }
}

/// The table that it refers to, its columns, and its action.
type Row = (String, Vec<(String, Option<String>)>, Action);

fn rows(connection: &Connection, table: &str) -> Result<Vec<Row>, Error> {
    let mut statement = connection.prepare_cached(OF_TABLE)?;
    let mut rows = statement.query([table])?;
    let (mut all, mut last): (Vec<Row>, Option<i64>) = (vec![], None);
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let pair = (row.get(2)?, row.get(3)?);
        match all.last_mut().filter(|_| last == Some(id)) {
            Some((_, columns, _)) => columns.push(pair),
            None => {
                let action = match row.get::<_, String>(4)?.as_str() {
                    "CASCADE" => Action::Cascade,
                    "SET NULL" => Action::SetNull,
                    _ => Action::None,
                };
                all.push((row.get(1)?, vec![pair], action));
            }
        }
        last = Some(id);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_form_are_read() {
        let connection = Connection::open_in_memory().unwrap();
        let sql = "CREATE TABLE p(id INTEGER PRIMARY KEY, u UNIQUE); CREATE TABLE q(a, b, PRIMARY KEY(a, b));
             CREATE TABLE c(id INTEGER PRIMARY KEY, x references P ON DELETE CASCADE, y REFERENCES p(u) ON DELETE SET NULL, z,
               FOREIGN KEY(y, z) REFERENCES q, FOREIGN KEY(z) REFERENCES missing(i));
             CREATE TABLE none(references_nothing TEXT)";
        connection.execute_batch(sql).unwrap();
        let schema = Schema::read(&connection).unwrap();
        let mut keys = ForeignKey::all(&connection, &schema).unwrap();
        keys.sort_by_key(|key| (key.columns.len(), key.columns.clone()));
        let told: Vec<_> = keys
            .iter()
            .map(|key| {
                let columns: Vec<String> =
                    key.columns.iter().map(|(from, to)| format!("{from}={to}")).collect();
                format!("{} {} {} {:?}", key.child, key.parent, columns.join(","), key.on_delete)
            })
            .collect();
        assert_eq!(told, ["c p x=id Cascade", "c p y=u SetNull", "c q y=a,z=b None"]);
    }
}
